"""External images, imported or substitute photographs, in the place of drawn ones.

Imported images come from ComfyUI, a service or the authors' script as a tree,
``<class>/image.png``, which is read only. Our choice: which training image one is the counterpart
of, as the tree does not say. They are dealt out evenly in an order drawn by the seed, each of a
class before any a second time.
"""

import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffcore.data.generated import GeneratedSet
from diffcore.data.images import SUFFIXES, find_images, fit, hash_tree, read_image
from diffcore.data.splits import Split
from diffcore.generation import substitutes
from diffcore.generation.draw import fill_shards
from diffcore.params import GenerationParams, StudyParams
from diffcore.prompts.plan import PLAN_COLUMNS
from diffcore.prompts.prompt_set import clean_class_name
from diffcore.store import digest


@dataclass(frozen=True)
class ExternalImages:
    """Counterparts that need no text-to-image model."""

    plan: pd.DataFrame  # N rows with `PLAN_COLUMNS`
    made_by: dict[str, str]  # model; model_hash, which differs for the same plan of other pixels
    # Reads (H, W, 3) uint8, of any size, by place in the plan.
    image_of: Callable[[int], np.ndarray]
    truth: pd.DataFrame | None = None  # which are wrong, if it is known, by ``sample_id``

    def bring_in(
        self, out_dir: Path, settings: GenerationParams, encoder: Callable[[], Any] | None = None
    ) -> GeneratedSet:
        """Fit all images to the size in use and put them into shards, where they are not yet."""
        size = {"height": settings.image_size, "width": settings.image_size}
        wanted = self.plan.assign(**size, **self.made_by, num_inference_steps=0, guidance_scale=0.0)

        def fit_rows(rows: pd.DataFrame) -> Iterator[np.ndarray]:
            return (fit(self.image_of(place), **size) for place in rows.index)

        return fill_shards(wanted, fit_rows, out_dir, settings.shard_size, "bring in", encoder)

    def judge(self, metadata: pd.DataFrame) -> pd.DataFrame:
        """Return which of these images are wrong: one row per image, in order."""
        return self.truth.set_index("sample_id").loc[metadata["sample_id"]].reset_index()


def plan_external(
    params: StudyParams, sources: pd.DataFrame, spare: Split | None = None
) -> ExternalImages:
    """Plan what stands in for drawn images: imports, or substitutes out of spare photographs."""
    generation, columns = params.generation, list(PLAN_COLUMNS)
    if generation.pipeline.kind == "import":
        root = Path(generation.pipeline.location)
        plan = plan_import(root, sources, params.seed)
        files = plan["file"].tolist()
        made_by = {"model": "imported", "model_hash": hash_tree(root, files)}
        return ExternalImages(plan[columns], made_by, lambda place: read_image(root / files[place]))
    share = generation.generated_share
    plan = substitutes.plan_substitutes(sources, spare, generated_share=share, seed=params.seed)
    places = pd.Index(spare.metadata["source_id"]).get_indexer(plan["photograph"])
    seeds, truth = plan["seed"].tolist(), substitutes.judge_substitutes(plan)
    made_of = digest(substitutes.TRANSFORM_HASH, spare.digest)
    made_by = {"model": "substitute photographs", "model_hash": made_of}

    def image_of(place: int) -> np.ndarray:
        return substitutes.transform(spare.images[int(places[place])], seeds[place])

    return ExternalImages(plan[columns], made_by, image_of, truth)


def plan_import(folder: str | Path, sources: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Make the plan of a tree of images: one row each, class by class, in order of their paths.

    Args:
        folder: holds a folder for each class, with images at any depth. It is named as the data
            set names the class or in readable words; case, underscores and a leading number do not
            matter. A text file of the same name beside an image is its prompt.
        sources: training images, columns ``source_id`` (distinct), ``class_name`` and, if the
            data set's own names of its classes differ, ``folder``; the seed decides about them.

    Returns `PLAN_COLUMNS` and ``file`` (path below the folder). FileNotFoundError for a folder
    without images, ValueError for an image outside a class folder, or that fits no class or two.
    """
    root = Path(folder)
    files = _find(root)
    classes = _match(sorted({file.parts[0] for file in files}), sources, root)
    plan = pd.DataFrame({"file": [file.as_posix() for file in files]})
    plan = plan.assign(source_id="", context="", negative_prompt="", seed=0)
    plan["class_name"] = [classes[file.parts[0]] for file in files]
    plan["prompt"] = [_caption(root / file) for file in files]
    plan["sample_id"] = "imported/" + plan["file"]
    plan = plan.sort_values("class_name", kind="stable", ignore_index=True)
    owners = sources["source_id"].astype(str).groupby(sources["class_name"].astype(str))
    for name, places in plan.groupby("class_name").indices.items():
        ids = owners.get_group(name).sort_values().to_numpy()
        # Each class has its random numbers, so that images of others do not change its pairs.
        order = np.random.default_rng([seed, *str(name).encode()]).permutation(len(ids))
        plan.loc[places, "source_id"] = ids[order[np.arange(len(places)) % len(ids)]]
    return plan[[*PLAN_COLUMNS, "file"]]


def _find(root: Path) -> list[Path]:
    """Find all images, as relative paths in order; raises for a tree of another layout."""
    layout = f"expected is {root}/<class>/image.png (or {', '.join(SUFFIXES)})"
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is no folder; set generation.pipeline.location; {layout}")
    files = [Path(file) for file in find_images(root)]
    if not files:
        raise FileNotFoundError(f"{root} holds no image; {layout}")
    if loose := [file for file in files if len(file.parts) == 1]:
        raise ValueError(f"{len(loose)} images lie in no folder, such as {loose[0]}; {layout}")
    return files


def _caption(image: Path) -> str:
    """Read the prompt of an image as one line; raises ValueError for a file that is no text."""
    path = image.with_suffix(".txt")
    try:
        return " ".join(path.read_text("utf-8-sig").split()) if path.is_file() else ""
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text; save it as such, or remove it") from error


def _match(folders: Sequence[str], sources: pd.DataFrame, root: Path) -> dict[str, str]:
    """Find the class that each folder stands for; raises ValueError if there is none, or two."""
    columns = [name for name in ("class_name", "folder") if name in sources]
    names = sources[columns].astype(str).drop_duplicates(ignore_index=True)
    words, matched = names.map(_words), {}
    for folder in folders:
        exact, alike = (names == folder).any(axis=1), (words == _words(folder)).any(axis=1)
        classes = sorted(names.loc[exact if exact.any() else alike, "class_name"].unique())
        if not classes:
            near = difflib.get_close_matches(_words(folder), words.stack(), n=1, cutoff=0.0)[0]
            raise ValueError(
                f"the folder {root / folder} fits none of the {names['class_name'].nunique()} "
                f"classes of the data set; the nearest is {near!r}. Rename it, or take it away"
            )
        if len(classes) > 1:
            raise ValueError(
                f"the folder {root / folder} may stand for {' or '.join(map(repr, classes))}; name "
                "it as the data set does"
            )
        matched[folder] = classes[0]
    return matched


def _words(name: str) -> str:
    """Reduce a name to its words; one without words stays."""
    try:
        return clean_class_name(name)
    except ValueError:
        return name
