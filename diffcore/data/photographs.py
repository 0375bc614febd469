"""Photographs as a data set: the paper's seven sets, and any tree of class folders.

Our choice: which photographs make up a split is drawn by a hash of the seed and their id, never by
their place in a list. So a smaller draw is part of a larger one, and an image that joins or leaves
a folder without test images moves no other one (except where a class would lack one part).
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from diffcore.data.images import Lazy, View, common_size, read_image, read_mask
from diffcore.data.layouts import LAYOUTS, find_missing, read_box, read_catalogue
from diffcore.data.published import PUBLISHED, readable_names
from diffcore.data.splits import Split
from diffcore.params import DataParams
from diffcore.store import digest, keep_array

#: Names of ``data.dataset`` that stand for photographs.
NAMES = tuple(LAYOUTS)
_BOXED = frozenset({"cub200", "cars", "caltech101", "tiny_imagenet"})
_TEST_SHARE = 0.3  # of a class, where a set has no test images


@dataclass(frozen=True)
class Photographs:
    """One of `NAMES`, with the members of `diffcore.data.datasets.Dataset`."""

    name: str
    tests: ClassVar[Mapping[str, str]] = {"test": "test"}
    has_renders: ClassVar[bool] = False
    keeps_images: ClassVar[bool] = False

    @property
    def has_masks(self) -> bool:
        """Whether the set comes with boxes of its objects."""
        return self.name in _BOXED

    def missing(self, settings: DataParams) -> list[str]:
        """Return one message per thing that is missing, with its source and its place."""
        if settings.options:
            return [f"data.options: {self.name} has none, but there are {sorted(settings.options)}"]
        if settings.root is None:
            return [f"data.root must name the folder of {self.name}"]
        return find_missing(settings)

    def load(
        self, settings: DataParams, split: str, seed: int, run_dir: Path | None = None
    ) -> Split:
        """Load "train", "test" or "spare": photographs that limits leave over.

        `run_dir` keeps decoded photographs. ValueError for an unknown split, and for photographs
        that are missing, damaged, or of two sizes.
        """
        catalogue, published = read_catalogue(settings), PUBLISHED.get(settings.dataset)
        side = settings.image_size or (published.side if published else None)
        names = readable_names(settings.dataset, catalogue.folders, catalogue.home)
        rows = choose(catalogue.table, settings, split, seed)
        metadata = rows[["source_id", "label"]].reset_index(drop=True)
        for column, called in (("class_name", names), ("folder", catalogue.folders)):
            metadata[column] = [called[label] for label in metadata["label"]]
        paths, masks = [f"{catalogue.home}/{file}" for file in rows["file"]], None
        size = (side, side) if side else None
        if catalogue.pixels is not None:
            size = size or catalogue.pixels[0].shape[:2]
            images = View(catalogue.pixels, rows.index, size)
        else:
            size = size or common_size(paths)
            images = Lazy(paths, partial(read_image, side=side), (*size, 3))
            boxes = [(path, read_box(box)) for path, box in zip(paths, rows["box"], strict=True)]
            if any(box is not None for _, box in boxes):
                masks = Lazy(boxes, partial(read_mask, side=side), size, bool)
        if run_dir is not None:
            states = [(s.st_size, s.st_mtime_ns) for s in map(os.stat, dict.fromkeys(paths))]
            key = digest(settings.model_dump(), split, seed, metadata["source_id"].tolist(), states)
            images = keep_array(images, run_dir / "pixels" / f"{key}.npy")
        return Split(split, names, metadata, images, masks)


def choose(table: pd.DataFrame, settings: DataParams, split: str, seed: int) -> pd.DataFrame:
    """Choose the rows of a split of photographs, by label and then in the set's own order.

    A class trains and is tested on the first by their draw in the set's own part, or else in what
    `_TEST_SHARE` makes of it. Spare ones are the rest, but of a test part of the set's own.
    """
    labels, part, own_parts = table["label"], table["part"], bool((table["part"] != "").all())
    # A number in [0, 1) for each id, from it and the seed alone.
    texts = (f"{seed}/{name}".encode() for name in table["source_id"])
    hashes = b"".join(hashlib.blake2b(text, digest_size=8).digest() for text in texts)
    draws = pd.Series(np.frombuffer(hashes, ">u8") / 2**64)
    if not own_parts:  # of each class at least one image to each
        in_class = draws.groupby(labels)
        test = (draws < _TEST_SHARE) | (draws == in_class.transform("min"))
        test &= draws != in_class.transform("max")
        part = test.map({True: "test", False: "train"})

    limits = {"train": settings.train_images_per_class, "test": settings.test_images_per_class}
    limit = part.map({name: np.inf if most is None else most for name, most in limits.items()})
    within = draws.groupby([part, labels]).rank(method="first") <= limit
    taken = {name: within & (part == name) for name in limits}
    taken["spare"] = ~within & (part == "train") if own_parts else ~within
    if split not in taken:
        raise ValueError(f"no split {split!r} of photographs; there are {', '.join(taken)}")
    return table[taken[split]].sort_values("label", kind="stable")
