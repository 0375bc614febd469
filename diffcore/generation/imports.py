"""Importing: generated images that another tool drew take the place of those drawn here.

Images from ComfyUI, a service or the authors' script come as a tree, ``<class>/image.png``, which
is read only. Our choice: which training image one is the counterpart of, as the tree does not say.
They are dealt out evenly in an order drawn by the seed, each of a class before any a second time.
"""

import difflib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from diffcore.data.images import SUFFIXES, find_images
from diffcore.prompts.plan import PLAN_COLUMNS
from diffcore.prompts.prompt_set import clean_class_name


def plan_import(folder: str | Path, sources: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Make the plan of a tree of images: one row each, class by class, in order of their paths.

    Args:
        folder: holds a folder for each class, with images at any depth. It is named as the data
            set names the class or in readable words; case, underscores and a leading number do not
            matter. Hidden files and folders without images are passed over. A text file of the
            same name beside an image is its prompt.
        sources: training images, columns ``source_id`` (distinct), ``class_name`` and, if the
            data set's own names of its classes differ, ``folder``; the seed decides about them.

    Returns `PLAN_COLUMNS` and ``file`` (path relative to the folder). ``sample_id`` is
    ``imported/<file>``, ``context`` and ``negative_prompt`` are empty, ``seed`` is 0.

    Raises FileNotFoundError if the folder does not exist or holds no image, and ValueError for an
    image outside a class folder, or a folder that fits no class or two.
    """
    root = Path(folder)
    files = _find(root)
    classes = _match(sorted({file.parts[0] for file in files}), sources, root)
    plan = pd.DataFrame({
        "file": [file.as_posix() for file in files],
        "class_name": [classes[file.parts[0]] for file in files],
        "prompt": [_caption(root / file) for file in files],
        "source_id": "", "context": "", "negative_prompt": "", "seed": 0,
    }).sort_values("class_name", kind="stable", ignore_index=True)  # fmt: skip
    plan["sample_id"] = "imported/" + plan["file"]
    owners = sources["source_id"].astype(str).groupby(sources["class_name"].astype(str))
    for name, places in plan.groupby("class_name").indices.items():
        own = owners.get_group(name).sort_values().to_numpy()
        # A class has random numbers of its own, so that images of others do not change its pairs.
        order = np.random.default_rng([seed, *str(name).encode()]).permutation(len(own))
        plan.loc[places, "source_id"] = own[order[np.arange(len(places)) % len(own)]]
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
        found = sorted(names.loc[exact if exact.any() else alike, "class_name"].unique())
        if not found:
            near = difflib.get_close_matches(_words(folder), words.stack(), n=1, cutoff=0.0)[0]
            raise ValueError(
                f"the folder {root / folder} fits none of the {names['class_name'].nunique()} "
                f"classes of the data set; the nearest is {near!r}. Rename it, or take it away"
            )
        if len(found) > 1:
            raise ValueError(
                f"the folder {root / folder} may stand for {' or '.join(map(repr, found))}; name "
                "it as the data set does"
            )
        matched[folder] = found[0]
    return matched


def _words(name: str) -> str:
    """Reduce a name to its words; one without words stays."""
    try:
        return clean_class_name(name)
    except ValueError:
        return name
