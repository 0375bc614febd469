"""A split of a data set: images, labels, class names and ids, perhaps masks."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from diffcore.data.images import Images, View
from diffcore.store import digest


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
    return (images[start : start + 1024] for start in range(0, len(images), 1024))
