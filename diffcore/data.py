"""Data sets behind one face: items of image, label, class name and id, perhaps with a mask.

A split has ``classes`` (names in the order of the labels) and ``facts`` (a table, one row an image,
with at least id, label and class_name). Paperbirds is one by itself; `diffcore.photos` makes them
of photographs. Trained on are arrays: photographs are decoded once, into a file that later
notebooks and trainings read where they need it, so that a set need not fit into memory.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from diffcore.paperbirds import Paperbirds
from diffcore.params import StudyParams
from diffcore.photos import open_photos
from diffcore.pictures import LazyImages, chosen_places, fit_array

_PAPERBIRDS_PER_CLASS = 30  # where parameters set no number, as there is no end of them
_TOGETHER = 256  # images decoded before they are written


class ImageSet(Protocol):
    """What every data set offers.

    Attributes:
        classes: names, in the order of the labels.
        images: all of them, (N, H, W, 3) uint8: an array, or fetched by places like one.
    """

    classes: Sequence[str]
    images: LazyImages

    @property
    def facts(self) -> pd.DataFrame:
        """One row an image: id, label, class_name, and whatever else is known."""

    def __len__(self) -> int:
        """Return the number of images."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One item: image (H, W, 3) uint8, label, class_name, id, and mask (H, W) if known."""


@dataclass(frozen=True)
class Images:
    """A split as arrays.

    Attributes:
        pixels: (N, H, W, 3) uint8.
        labels: (N,) int64.
        masks: of the objects, (N, H, W) bool; None where they are not known.
        ids: (N,) texts.
    """

    pixels: np.ndarray
    labels: np.ndarray
    masks: np.ndarray | None
    ids: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, places: Sequence[int] | np.ndarray) -> "Images":
        """Return the images at these places (or where a mask is True), in that order."""
        masks = None if self.masks is None else self.masks[places]
        return Images(self.pixels[places], self.labels[places], masks, self.ids[places])


class View:
    """Some images of others, brought to a size; read when they are asked for."""

    def __init__(
        self,
        images: LazyImages,
        places: Sequence[int] | np.ndarray | None = None,
        size: tuple[int, int] | None = None,
    ):
        """Take the places that are seen (None: all), and (height, width) (None: as they are)."""
        self.images = images
        self.places = np.arange(len(images)) if places is None else np.asarray(places, int)
        self.size = size

    def __len__(self) -> int:
        return len(self.places)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W, 3)."""
        return (len(self), *(self.size or self.images.shape[1:3]), 3)

    def __getitem__(self, places: Any) -> np.ndarray:
        """Read one image, or those of a slice, list or array of places."""
        if isinstance(places, int | np.integer):
            image = self.images[int(self.places[places])]
            return fit_array(image, *self.size) if self.size else image
        chosen = self.places[chosen_places(places, len(self))]
        if not len(chosen):
            return np.empty((0, *self.shape[1:]), np.uint8)
        images = self.images[chosen]
        return np.stack([fit_array(image, *self.size) for image in images]) if self.size else images


def as_batch(images: np.ndarray | Sequence[np.ndarray]) -> Tensor:
    """Turn (N, H, W, 3) uint8 into (N, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255


def as_pixels(batch: Tensor) -> np.ndarray:
    """Turn (N, 3, H, W) in [0, 1] into (N, H, W, 3) uint8; the inverse of `as_batch`."""
    return (batch * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def test_splits(params: StudyParams) -> dict[str, str]:
    """Test splits of the study's data set, by the names that results go by; the hardest last."""
    if params.data.dataset == "paperbirds":
        return {"matched": "test_matched", "shifted": "test_shifted"}
    return {"test": "test"}


def load_split(params: StudyParams, split: str, **changes: float) -> ImageSet:
    """Load a split of the study's data set.

    Args:
        params: of the study.
        split: "train", one of the `test_splits`, or, of photographs, "spare".
        changes: of ``params.data``, like ``style=1.0``, for an experiment.

    Raises:
        ValueError: for an unknown split.
    """
    settings = params.data.model_copy(update=changes)
    if settings.dataset != "paperbirds":
        return open_photos(settings, split, params.seed)
    train, test = settings.train_images_per_class, settings.test_images_per_class
    count = (train if split == "train" else test) or _PAPERBIRDS_PER_CLASS
    return Paperbirds(split, style=settings.style, images_per_class=count, seed=params.seed)


def fetch(dataset: ImageSet, places: Sequence[int] | np.ndarray) -> Images:
    """Read some images of a split, with their masks; these must be of one size."""
    items = [dataset[int(place)] for place in places]
    masks = [item["mask"] for item in items if item.get("mask") is not None]
    return Images(
        pixels=np.stack([item["image"] for item in items]),
        labels=np.array([item["label"] for item in items], np.int64),
        masks=np.stack(masks) if len(masks) == len(items) else None,
        ids=np.array([item["id"] for item in items]),
    )


def in_memory(dataset: ImageSet) -> Images:
    """Read a whole split, with its masks."""
    return fetch(dataset, range(len(dataset)))


def load_images(params: StudyParams, split: str, run_dir: Path, **changes: float) -> Images:
    """Read a whole split: in memory, or photographs, without masks, from a file of the run.

    Args:
        params: of the study.
        split: as of `load_split`.
        run_dir: where photographs are kept once they are decoded.
        changes: of ``params.data``.
    """
    dataset = load_split(params, split, **changes)
    if params.data.dataset == "paperbirds":
        return in_memory(dataset)
    settings = params.data.model_copy(update=changes).model_dump()
    facts = dataset.facts
    pixels = keep_pixels(dataset.images, run_dir, settings, split, params.seed, list(facts["id"]))
    return Images(pixels, facts["label"].to_numpy(np.int64), None, facts["id"].to_numpy(str))


def keep_pixels(images: LazyImages, run_dir: Path, *facts: Any) -> np.ndarray:
    """Decode images once into a file, and return it as an array that is read where it is used.

    Args:
        images: of one size.
        run_dir: the file lies in its folder ``pixels``.
        facts: all that tells these images from others, as JSON takes it.

    Returns:
        (N, H, W, 3) uint8, read-only.
    """
    name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]
    path = run_dir / "pixels" / f"{name}.npy"
    if not len(images):
        return np.empty((0, 0, 0, 3), np.uint8)
    if not path.exists():
        _write_pixels(images, path)
    return np.load(path, mmap_mode="r")


def _write_pixels(images: LazyImages, path: Path) -> None:
    """Write the file of `keep_pixels`, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    shape = (len(images), *images[0].shape)
    array = np.lib.format.open_memmap(aside, "w+", np.uint8, shape)
    with tqdm(total=len(images), desc="read images", unit="image") as bar:
        for start in range(0, len(images), _TOGETHER):
            chunk = images[start : start + _TOGETHER]
            array[start : start + len(chunk)] = chunk
            bar.update(len(chunk))
    array.flush()
    del array
    aside.replace(path)


def spread(total: int, count: int) -> np.ndarray:
    """Places of at most `count` things, spread evenly over all of them."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int))


def some_of_each_class(labels: np.ndarray, count: int, seed: int | None = None) -> np.ndarray:
    """Places of at most `count` images of each class, in their order.

    Args:
        labels: (N,).
        count: of each class.
        seed: of a random choice; None takes the first of each.
    """
    order = np.arange(len(labels))
    if seed is not None:
        order = np.random.default_rng(seed).permutation(len(labels))
    rank = pd.Series(labels[order]).groupby(labels[order]).cumcount().to_numpy()
    return np.sort(order[rank < count])
