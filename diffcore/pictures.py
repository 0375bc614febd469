"""Pictures of one size, and many of them: fitting, and the face of images that lie on a disk.

To fit a picture, its shorter side is resized and the middle is cut out. Our choice, for photographs
and generated images alike: proportions stay as they are, which matters where species differ in
them, and what is lost lies at the two far ends.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageOps


class LazyImages(Protocol):
    """Images that are read when they are asked for, by one place or by several."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W, 3), where all are of one size."""

    def __len__(self) -> int:
        """Return how many there are."""

    def __getitem__(self, places: Any) -> np.ndarray:
        """Read one image (H, W, 3), or those of a slice, list or array of places (n, H, W, 3)."""


def fit(picture: Image.Image, height: int, width: int) -> Image.Image:
    """Resize a picture until it just covers (height, width), and cut out the middle.

    Bicubic, with antialiasing where it shrinks.
    """
    return ImageOps.fit(picture, (width, height), Image.Resampling.BICUBIC)


def kept_box(
    height: int, width: int, new_height: int, new_width: int
) -> tuple[float, float, float, float]:
    """What `fit` keeps of a picture, in its pixels: x0, y0, x1, y1.

    >>> kept_box(300, 400, 64, 64)
    (50.0, 0.0, 350.0, 300.0)
    """
    scale = max(new_height / height, new_width / width)
    kept_height, kept_width = min(new_height / scale, height), min(new_width / scale, width)
    left, top = (width - kept_width) / 2, (height - kept_height) / 2
    return left, top, left + kept_width, top + kept_height


def fit_array(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Do what `fit` does with an array (H, W, 3) uint8."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(fit(Image.fromarray(image), height, width))


def chosen_places(places: Any, total: int) -> Sequence[int]:
    """Spell a slice, a list, an array of places or a mask as places from 0 up.

    Raises:
        IndexError: for a place outside, or a mask of another length.

    >>> list(chosen_places(slice(-2, None), 5)), list(chosen_places([True, False, True], 3))
    ([3, 4], [0, 2])
    """
    if isinstance(places, slice):
        return range(total)[places]
    return np.arange(total)[np.asarray(places, dtype=None if len(places) else int)].tolist()
