"""Labels given by eye, against which the oracle is checked on the very images that it judges.

    diffcore label --profile demo               contact sheets, and a table to fill in

Drawn by chance from the images of a study; neither prompt nor oracle is on the sheets. A row of the
table says which species is seen (nothing: no bird) and whether it is one whole bird (1 or 0). The
labels of a profile lie in ``params/eye/`` and count for the images of one model and setting alone.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from diffcore import stats
from diffcore.figures import image_grid, wrap
from diffcore.params import UserError, project_root
from diffcore.store import write_text, written_whole
from paperbirds.birds import SPECIES
from paperbirds.render import render

_ACROSS, _DOWN = 10, 6  # of a sheet
#: What tells an image of one model and setting.
_KEYS = ["sample_id", "model_hash", "guidance_scale", "num_inference_steps"]
_GIVEN = ["species", "whole"]


class LabelsError(UserError, ValueError):
    """Labels that are not legal, told by their row."""


def labels_path(profile: str) -> Path:
    """Where the labels of a profile lie."""
    return project_root() / "params" / "eye" / f"{profile}.csv"


def contact_sheets(images: np.ndarray, names: Sequence[str]) -> list[Figure]:
    """Lay images (N, H, W, 3) uint8 out above their names, sixty to a sheet."""
    lines = [slice(start, start + _ACROSS) for start in range(0, len(images), _ACROSS)]
    return [
        image_grid([images[line] for line in sheet], captions=[names[line] for line in sheet])
        for sheet in (lines[start : start + _DOWN] for start in range(0, len(lines), _DOWN))
    ]


def read_labels(profile: str, metadata: pd.DataFrame) -> pd.DataFrame:
    """Labels of those of a study's images that have some: a row an image, with its ``place``.

    Columns: place (in the metadata), species ("" where no bird is seen), whole (bool). Empty where
    the images are of another model or setting. Raises LabelsError for what is no label.
    """
    path, own = labels_path(profile), metadata.reset_index(names="place")[["place", *_KEYS]]
    if not path.exists():
        return own.head(0).assign(species="", whole=False)[["place", *_GIVEN]]
    table = pd.read_csv(path, dtype={"sample_id": str, "species": str}).fillna({"species": ""})
    legal = table["species"].isin(["", *SPECIES]) & table["whole"].isin([0, 1])
    if not legal.all():
        row = int(np.flatnonzero(~legal)[0])
        raise LabelsError(
            f"{path}, line {row + 2}: species must be one of {', '.join(SPECIES)}, or empty for no "
            "bird, and whole 1 or 0"
        )
    found = table.merge(own, on=_KEYS)
    return found.assign(whole=found["whole"] == 1)[["place", *_GIVEN]]


def agreement(labels: pd.DataFrame, truth: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """How often the oracle says what the eye says: by question, and over both by what the eye sees.

    Takes `read_labels` and the study's truth. Returns a tidy table: question, seen, value, low,
    high, n. The species counts where the eye sees a bird.
    """
    judged = truth.iloc[labels["place"]].reset_index(drop=True)
    bird = (labels["species"] != "").to_numpy()
    species = (labels["species"] == judged["seen_species"]).to_numpy() | ~bird
    form = (labels["whole"] == judged["wellformed"]).to_numpy()
    right = (labels["species"] == judged["class_name"]).to_numpy()
    whole = labels["whole"].to_numpy()
    kinds = {
        "the bird that was asked for": right & whole,
        "another species": bird & ~right,
        "malformed": right & ~whole,
        "no bird": ~bird,
    }
    hits = [("species", "a bird", species[bird]), ("one whole bird", "all", form)]
    hits += [("both", "all", species & form)]
    hits += [("both", kind, (species & form)[chosen]) for kind, chosen in kinds.items()]
    rows = [{"question": q, "seen": s, **stats.proportion(h, confidence)} for q, s, h in hits]
    return pd.DataFrame(rows)


def main(arguments: list[str] | None = None) -> None:
    """Write contact sheets of a study's images, and the table to fill in if there is none."""
    from diffcore.study import Study  # stands above this room; the command alone needs it

    parser = argparse.ArgumentParser(prog="diffcore label", description=__doc__)
    parser.add_argument("--profile", default="demo", help="file in params/, or path of one")
    parser.add_argument("--count", type=int, default=300, help="images to label")
    options = parser.parse_args(arguments)
    study = Study.open("label", options.profile)
    places = np.random.default_rng(study.seed).permutation(len(study.generated))[: options.count]
    folder, numbers = study.run_dir / "eye", [str(i + 1) for i in range(len(places))]
    plates = np.stack([render(name, "overcast sky", 1).image for name in SPECIES])
    sheets = contact_sheets(study.generated.images[places], numbers)
    _save(contact_sheets(plates, [*map(wrap, SPECIES)]), folder, "species")
    _save(sheets, folder, "images")
    blank = study.generated.metadata.iloc[places][_KEYS].assign(species="", whole="")
    blank.insert(0, "number", numbers)
    write_text(folder / "labels.csv", blank.to_csv(index=False))
    target = labels_path(study.params.profile)
    print(f"{len(sheets)} sheets and labels.csv in {folder}; fill it in, and copy it to {target}.")


def _save(sheets: list[Figure], folder: Path, name: str) -> None:
    for number, sheet in enumerate(sheets, start=1):
        with written_whole(folder / f"{name}_{number}.png") as aside:
            sheet.savefig(aside, format="png", bbox_inches="tight", dpi=150)
