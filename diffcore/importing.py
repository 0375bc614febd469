"""Importing: generated images that another tool drew take the place of those drawn here.

Filtering, mixing and training need records (`diffcore.generation.GENERATED_COLUMNS`), not a
pipeline. Images from ComfyUI, from a service or from the authors' script come as a tree with a
folder for each class, ``<folder>/<class>/image.png``; here each of them gets a source, a training
image of its class, and a place in a shard. The tree itself is read only.

Our choice: which training image an imported one is the counterpart of, since the tree does not say.
They are dealt out evenly in an order drawn by the seed, every training image of a class before any
a second time. Contexts are unknown and stay empty; a text file of the same name beside an image is
its prompt.
"""

import difflib
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from diffcore.generation import read_generated, store
from diffcore.pictures import fit
from diffcore.prompts import PLAN_COLUMNS, clean_class_name

#: What counts as an image, by the end of its name in lower case.
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_HASHED_END = 16384  # bytes


# ----------------------------------------------------------------------------------------- the plan
def plan_import(folder: str | Path, sources: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Make the plan of a tree of images: one row each, class by class, in order of their paths.

    Args:
        folder: holds a folder for each class, with images at any depth. A class folder is named
            as the data set names it or in readable words; case, underscores and a leading number
            do not matter. Hidden files and folders without images are passed over.
        sources: training images, columns ``source_id`` (distinct), ``class_name`` and, if the
            data set's own names of its classes differ, ``folder``.
        seed: of the study; decides about sources.

    Returns:
        Table with `PLAN_COLUMNS` and ``file`` (path relative to the folder). ``sample_id`` is
        ``imported/<file>``, ``context`` and ``negative_prompt`` are empty, ``seed`` is 0.

    Raises:
        FileNotFoundError: if the folder does not exist or holds no image.
        ValueError: for an image outside a class folder, or a folder that fits no class or two.
    """
    tree = _checked_tree(Path(folder))
    classes = _match(sorted({file.parts[0] for file in tree}), sources, Path(folder))
    rows = [
        (f"imported/{file.as_posix()}", classes[file.parts[0]], prompt, file.as_posix())
        for file, prompt in tree.items()
    ]
    plan = pd.DataFrame(rows, columns=["sample_id", "class_name", "prompt", "file"])
    plan = plan.sort_values("class_name", kind="stable", ignore_index=True)
    plan = plan.assign(source_id="", context="", negative_prompt="", seed=0)
    owners = sources["source_id"].astype(str).groupby(sources["class_name"].astype(str))
    for name, places in plan.groupby("class_name").indices.items():
        plan.loc[places, "source_id"] = _deal(owners.get_group(name), len(places), seed, str(name))
    return plan[[*PLAN_COLUMNS, "file"]]


def coverage(plan: pd.DataFrame, classes: Iterable[str]) -> pd.DataFrame:
    """Count the images of each class: class_name, images (0 for those that a plan lacks)."""
    counts, names = Counter(plan["class_name"]), list(classes)
    return pd.DataFrame({"class_name": names, "images": [counts[name] for name in names]})


def _checked_tree(folder: Path) -> dict[Path, str]:
    """Find all images, as relative paths in order, with their prompts."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is no folder; set generation.pipeline.location to a folder of generated "
            "images, with a folder for each class in it"
        )
    tree = dict(sorted(_walk(folder)))
    layout = f"expected is {folder}/<class>/image.png (or .jpg, .jpeg, .webp)"
    if not tree:
        raise FileNotFoundError(f"{folder} holds no image; {layout}")
    if loose := [file for file in tree if len(file.parts) == 1]:
        raise ValueError(
            f"{len(loose)} images lie in {folder} itself, outside a folder of a class, such as "
            f"{loose[0]}; {layout}"
        )
    return tree


def _walk(folder: Path) -> Iterable[tuple[Path, str]]:
    """Yield every image below a folder, relative to it, with its prompt."""
    for place, inner, names in os.walk(folder, followlinks=True):
        inner[:] = [name for name in inner if not name.startswith(".")]
        texts = {name for name in names if name.endswith(".txt")}
        for name in names:
            stem, suffix = os.path.splitext(name)  # noqa: PTH122 - a Path each is slow
            if suffix.lower() in SUFFIXES and not name.startswith("."):
                path = Path(place, name)
                caption = path.with_name(f"{stem}.txt") if f"{stem}.txt" in texts else None
                yield path.relative_to(folder), "" if caption is None else _read_caption(caption)


def _read_caption(path: Path) -> str:
    """Read a prompt as one line; raises ValueError for a file that is no text."""
    try:
        return " ".join(path.read_text("utf-8-sig").split())
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text; save it as such, or remove it") from error


def _match(folders: Sequence[str], sources: pd.DataFrame, root: Path) -> dict[str, str]:
    """Find the class that each folder stands for; raises ValueError if there is none, or two."""
    exact, cleaned = _class_keys(sources)
    matched, unknown = {}, []
    for name in folders:
        found = exact.get(name) or cleaned.get(_cleaned(name), set())
        if len(found) > 1:
            raise ValueError(
                f"the folder {root / name} may stand for {' or '.join(map(repr, sorted(found)))}; "
                "name it as the data set does"
            )
        if found:
            matched[name] = next(iter(found))
        else:
            unknown.append(name)
    if unknown:
        raise ValueError(_unknown_text(unknown, root, cleaned, sources["class_name"].nunique()))
    return matched


def _class_keys(sources: pd.DataFrame) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Map what a folder may be called to the classes it may stand for: as it is, and cleaned."""
    columns = [name for name in ("class_name", "folder") if name in sources]
    exact: dict[str, set[str]] = {}
    cleaned: dict[str, set[str]] = {}
    for row in sources[columns].astype(str).drop_duplicates().itertuples(index=False):
        for name in row:
            exact.setdefault(name, set()).add(row.class_name)
            cleaned.setdefault(_cleaned(name), set()).add(row.class_name)
    return exact, cleaned


def _cleaned(name: str) -> str:
    """Reduce a name to its words; one without words stays."""
    try:
        return clean_class_name(name)
    except ValueError:
        return name


def _unknown_text(
    unknown: Sequence[str], root: Path, known: Mapping[str, set[str]], classes: int
) -> str:
    """Say which folder fits no class, and which class is nearest."""
    nearest = difflib.get_close_matches(_cleaned(unknown[0]), known, n=1, cutoff=0.0)[0]
    more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
    return (
        f"the folder {root / unknown[0]}{more} fits none of the {classes} classes of the data set; "
        f"the nearest is {nearest!r}. Rename the folder, or take it away"
    )


def _deal(owners: pd.Series, count: int, seed: int, class_name: str) -> np.ndarray:
    """Deal the training images of one class out to `count` images, each before any twice."""
    # A class has random numbers of its own, so that images of others do not change its pairs.
    order = np.random.default_rng([seed, *class_name.encode()]).permutation(len(owners))
    return owners.sort_values().to_numpy()[order[np.arange(count) % len(owners)]]


# --------------------------------------------------------------------------------------- the images
def import_images(
    folder: str | Path,
    plan: pd.DataFrame,
    out_dir: str | Path,
    *,
    height: int,
    width: int,
    shard_size: int = 256,
    progress: bool = True,
) -> pd.DataFrame:
    """Store the images of a plan in shards; what is stored already is not read again.

    An image of another size is cut to the right proportions about its centre and resized. As
    ``model_hash`` serves a hash of the tree (`hash_tree`), so a tree in which anything has
    changed is stored anew, and the old images stay as those of another model do.

    Args:
        folder: of the images.
        plan: from `plan_import`.
        out_dir: folder of the shards; made if needed.
        height: pixels.
        width: pixels.
        shard_size: images per Parquet file.
        progress: show a bar with images per second.

    Returns:
        What `diffcore.generation.read_generated` returns for the plan, without images.

    Raises:
        FileNotFoundError: for an image that has gone since the plan was made.
        ValueError: for a damaged image.
    """
    root = Path(folder)
    files = [root / file for file in plan["file"]]
    table = plan[list(PLAN_COLUMNS)].assign(
        model="imported", model_hash=hash_tree(root, plan["file"]),
        num_inference_steps=0, guidance_scale=0.0, height=height, width=width,
    )  # fmt: skip

    def image_of(place: int) -> np.ndarray:
        return np.asarray(fit(_open(files[place]).convert("RGB"), height, width))

    store(table, image_of, out_dir, shard_size=shard_size, progress=progress)
    return read_generated(out_dir, table, images=False)


def hash_tree(folder: str | Path, files: Iterable[str]) -> str:
    """Hash names, sizes and ends of files; their order does not enter.

    Of each file the first and the last 16 KiB are read: enough to tell two images apart, since a
    PNG ends with check sums of all before, and little where there are many. Returns 16
    hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name in sorted(files):
        with Path(folder, name).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest.update(f"{len(name)} {name} {size}".encode())
            digest.update(file.read(_HASHED_END))
            file.seek(max(_HASHED_END, size - _HASHED_END))
            digest.update(file.read())
    return digest.hexdigest()[:16]


def _open(path: Path) -> Image.Image:
    """Read a picture, upright; raises ValueError for one that is damaged."""
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(
            f"{path} is no image that can be read ({error}); replace it, or take it away"
        ) from error
