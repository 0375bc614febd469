"""Splits of a data set behind one face: images, labels, class names and ids, perhaps masks.

Our choice: which photographs make up a split is drawn by a hash of the seed and their id, never by
their place in a list. So a smaller draw is part of a larger one, and an image that joins or leaves
a folder without a test part of its own moves no other one (but where a class would lack one part).
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffcore.data.images import Images, Lazy, View, common_size, read_image, read_mask
from diffcore.data.layouts import read_box, read_catalogue
from diffcore.data.names import readable_names
from diffcore.data.published import PUBLISHED
from diffcore.params import DataParams, StudyParams
from diffcore.store import digest, keep_array
from paperbirds.dataset import Paperbirds

_PAPERBIRDS_PER_CLASS = 30  # where parameters set no number, as there is no end of them


@dataclass(frozen=True, eq=False)
class Split:
    """N labelled images."""

    name: str
    classes: tuple[str, ...]  # in the order of the labels
    metadata: pd.DataFrame  # source_id, label, class_name, and context or folder if known
    images: Images  # (N, H, W, 3) uint8
    masks: Images | None = None  # (N, H, W) bool, False all over where an object's is not known

    def __len__(self) -> int:
        return len(self.metadata)

    def __getitem__(self, place: int) -> dict[str, Any]:
        """One item: image (H, W, 3), label, class_name, source_id, and mask (H, W) if known."""
        row = self.metadata.iloc[place][["label", "class_name", "source_id"]]
        item = {"image": self.images[place], **row}
        mask = np.array(False) if self.masks is None else self.masks[place]
        return item | {"mask": mask} if mask.any() else item

    @cached_property
    def labels(self) -> np.ndarray:
        """(N,) int64."""
        return self.metadata["label"].to_numpy(np.int64)

    @cached_property
    def digest(self) -> str:
        """Hash of all pixels and labels."""
        return digest(self.labels, *chunks(self.images))

    def take(self, places: Any) -> "Split":
        """Return the images at these places, or where a mask is True, in that order."""
        places = np.arange(len(self))[places]
        metadata = self.metadata.iloc[places].reset_index(drop=True)
        masks = None if self.masks is None else View(self.masks, places)
        return Split(self.name, self.classes, metadata, View(self.images, places), masks)


def chunks(images: Images) -> Iterator[np.ndarray]:
    """Yield all images, some at a time, as they may exceed memory."""
    for start in range(0, len(images), 1024):
        yield images[start : start + 1024]


def test_splits(params: StudyParams) -> dict[str, str]:
    """Test splits of the study's data set, by the names that results go by; the hardest last."""
    if params.data.dataset == "paperbirds":
        return {"matched": "test_matched", "shifted": "test_shifted"}
    return {"test": "test"}


def load_split(
    params: StudyParams, split: str, run_dir: Path | None = None, **changes: float
) -> Split:
    """Load "train", one of the `test_splits`, or "spare": photographs that limits leave over.

    `run_dir` keeps decoded photographs. Changes are of ``params.data``, like ``style=1.0``.
    ValueError for an unknown split, and for photographs that are missing, damaged, or of two sizes.
    """
    settings = params.data.model_copy(update=changes)
    if settings.dataset != "paperbirds":
        return _open_photographs(settings, split, params.seed, run_dir)
    train, test = settings.train_images_per_class, settings.test_images_per_class
    count = (train if split == "train" else test) or _PAPERBIRDS_PER_CLASS
    birds = Paperbirds(
        split, style=settings.style, images_per_class=count, seed=params.seed, bias=settings.bias
    )
    masks = np.stack([birds.rendering(place).mask for place in range(len(birds))])
    return Split(split, tuple(birds.classes), birds.metadata, birds.images, masks)


def _open_photographs(settings: DataParams, split: str, seed: int, run_dir: Path | None) -> Split:
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
    `test_share` makes of it. Spare ones are the rest, but of a test part of the set's own.
    """
    labels, part, own_parts = table["label"], table["part"], bool((table["part"] != "").all())
    # A number in [0, 1) for each id, from it and the seed alone.
    texts = (f"{seed}/{name}".encode() for name in table["source_id"])
    hashes = b"".join(hashlib.blake2b(text, digest_size=8).digest() for text in texts)
    draws = pd.Series(np.frombuffer(hashes, ">u8") / 2**64)
    if not own_parts:  # of each class at least one image to each
        in_class = draws.groupby(labels)
        test = (draws < settings.test_share) | (draws == in_class.transform("min"))
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
