"""Labels given by hand, against which the oracle is checked on the very images that it judges.

    python -m paperbirds label --profile demo    contact sheets, and a table to fill in

The images are a random part of a study's; the sheets show neither prompt nor oracle. A row of the
table has the species that a person recognises (empty: no bird) and whether it is one whole bird (1
or 0). The tables in ``params/labels/`` count only for the images of one model and setting.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from diffcore import stats
from diffcore.figures import image_grid, wrap
from diffcore.params import UserError, project_root
from diffcore.store import write_text, written_whole
from diffcore.study import Study
from paperbirds import SPECIES, render

_COLUMNS = 10  # of a contact sheet
#: What identifies an image of one model and setting.
_KEYS = ["sample_id", "model_hash", "guidance_scale", "num_inference_steps"]


class LabelsError(UserError, ValueError):
    """Labels that are not legal; the message names the line."""


def labels_path(profile: str) -> Path:
    """Return the file of a profile's labels."""
    return project_root() / "params" / "labels" / f"{profile}.csv"


def contact_sheet(images: np.ndarray, names: Sequence[str]) -> Figure:
    """Lay images (N, H, W, 3) uint8 out above their names, ten per row."""
    rows = [slice(start, start + _COLUMNS) for start in range(0, len(images), _COLUMNS)]
    return image_grid([images[row] for row in rows], captions=[names[row] for row in rows])


def read_labels(profile: str, metadata: pd.DataFrame) -> pd.DataFrame:
    """Return the labels of a study's images: place in the metadata, species, whole (bool).

    Empty if the images are of another model or setting. LabelsError for what is no label.
    """
    path, images = labels_path(profile), metadata.reset_index(names="place")[["place", *_KEYS]]
    if not path.exists():
        return pd.DataFrame({"place": [], "species": [], "whole": []}).astype({"whole": bool})
    table = pd.read_csv(path, dtype={"sample_id": str, "species": str}).fillna({"species": ""})
    legal = table["species"].isin(["", *SPECIES]) & table["whole"].isin([0, 1])
    if not legal.all():
        raise LabelsError(
            f"{path}, line {legal.idxmin() + 2}: species must be one of {', '.join(SPECIES)}, or "
            "empty for no bird, and whole 1 or 0"
        )
    labels = table.merge(images, on=_KEYS)[["place", "species", "whole"]]
    return labels.astype({"whole": bool})


def agreement(labels: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """Return how often the oracle agrees with labels by hand, by question and kind of image.

    Takes `read_labels` and the study's truth. Columns: question, seen, value, low, high, n. The
    species counts for images that are labelled as a bird.
    """
    judged = truth.iloc[labels["place"]].reset_index(drop=True)
    bird = (labels["species"] != "").to_numpy()
    species = (labels["species"] == judged["seen_species"]).to_numpy() | ~bird
    form = (labels["whole"] == judged["wellformed"]).to_numpy()
    right = (labels["species"] == judged["class_name"]).to_numpy()
    whole = labels["whole"].to_numpy()
    kinds = {
        "all": np.ones(len(labels), bool),
        "the bird that was asked for": right & whole,
        "another species": bird & ~right,
        "malformed": right & ~whole,
        "no bird": ~bird,
    }
    hits = [("species", "a bird", species[bird]), ("one whole bird", "all", form)]
    hits += [("both", kind, (species & form)[chosen]) for kind, chosen in kinds.items()]
    return pd.DataFrame([{"question": q, "seen": s, **stats.proportion(h)} for q, s, h in hits])


def run(profile: str, count: int) -> None:
    """Write contact sheets of so many of a study's images, and the table to fill in."""
    study = Study.open("label", profile)
    generated, folder = study.generated, study.run_dir / "labels"
    places = np.random.default_rng(study.params.seed).permutation(len(generated))[:count]
    numbers = [str(number) for number in range(1, len(places) + 1)]
    plates = np.stack([render(name, "overcast sky", 1).image for name in SPECIES])
    sheets = {"species": contact_sheet(plates, [*map(wrap, SPECIES)])}
    sheets["images"] = contact_sheet(generated.images[places], numbers)
    for name, sheet in sheets.items():
        with written_whole(folder / f"{name}.png") as aside:
            sheet.savefig(aside, format="png", bbox_inches="tight", dpi=150)
    blank = generated.metadata.iloc[places][_KEYS].assign(species="", whole="")
    blank.insert(0, "number", numbers)
    write_text(folder / "labels.csv", blank.to_csv(index=False))
    target = labels_path(study.params.profile)
    print(
        f"Two contact sheets and labels.csv are in {folder}; fill it in, and copy it to {target}."
    )
