"""Data sets behind one face: items of image, label, class name and id, perhaps with a mask.

A split is a `torch.utils.data.Dataset` with ``classes`` (names in the order of the labels) and
``facts`` (a table, one row an image, with at least id, label and class_name). Paperbirds is one by
itself. `in_memory` turns a split into arrays, which is how small sets are trained on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from diffcore.paperbirds import Paperbirds
from diffcore.params import StudyParams

#: Names of the splits. The two test splits of Paperbirds differ in their contexts.
SPLITS = ("train", "test_matched", "test_shifted")


class ImageSet(Protocol):
    """What every data set offers."""

    classes: Sequence[str]

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


def as_batch(images: np.ndarray | Sequence[np.ndarray]) -> Tensor:
    """Turn (N, H, W, 3) uint8 into (N, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255


def as_pixels(batch: Tensor) -> np.ndarray:
    """Turn (N, 3, H, W) in [0, 1] into (N, H, W, 3) uint8; the inverse of `as_batch`."""
    return (batch * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def load_split(params: StudyParams, split: str, **changes: float) -> ImageSet:
    """Load a split of the study's data set.

    Args:
        params: of the study.
        split: one of `SPLITS`.
        changes: of ``params.data``, like ``style=1.0``, for an experiment.

    Raises:
        ValueError: for an unknown split.
    """
    settings = params.data.model_copy(update=changes)
    counts = {"train": settings.train_images_per_class}
    count = counts.get(split, settings.test_images_per_class)
    return Paperbirds(split, style=settings.style, images_per_class=count, seed=params.seed)


def in_memory(dataset: ImageSet) -> Images:
    """Read a whole split into arrays; its images must be of one size."""
    items = [dataset[place] for place in range(len(dataset))]
    masks = [item["mask"] for item in items if item.get("mask") is not None]
    return Images(
        pixels=np.stack([item["image"] for item in items]),
        labels=np.array([item["label"] for item in items], np.int64),
        masks=np.stack(masks) if len(masks) == len(items) else None,
        ids=np.array([item["id"] for item in items]),
    )
