"""Open a split of a set of photographs; tell what is missing, and what there is.

Nothing is decoded before it is asked for, and nothing is kept: a split of ImageNet is as light as
one of ten images.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffcore.params import DataParams
from diffcore.photos.catalogue import Catalogue, PhotosError, choose
from diffcore.photos.decoding import Box, decode, size_of
from diffcore.photos.known import PUBLISHED
from diffcore.photos.layouts import read_catalogue
from diffcore.photos.names import readable_names
from diffcore.pictures import chosen_places


def open_photos(settings: DataParams, split: str, seed: int = 0) -> "PhotoSet":
    """Open a split of a set of photographs.

    Args:
        settings: of the data.
        split: "train", "test", or "spare": images of the training part (or of a folder without
            test images of its own) that limits leave out of both; there may be none.
        seed: of the draws that limits and `test_share` ask for.

    Raises:
        PhotosError: a ValueError, for photographs that are missing or damaged.
        ValueError: for an unknown split, or sizes that differ where `image_size` is null.
    """
    catalogue = read_catalogue(settings)
    rows = choose(catalogue.table, settings, split, seed)
    names = readable_names(settings.dataset, catalogue.folders, catalogue.home)
    published = PUBLISHED.get(settings.dataset)
    known_side = published.side if published else None
    return PhotoSet(catalogue, names, rows, settings.image_size, known_side)


def find_missing(settings: DataParams) -> list[str]:
    """Say what is missing of a set, where it comes from and where to put it; [] if it is whole.

    A smaller set in the same layout is whole: `describe` tells it from the complete one.
    """
    try:
        read_catalogue(settings)
    except PhotosError as error:
        return list(error.problems)
    return []


def describe(settings: DataParams) -> str:
    """Say in a line how much of a set there is: ``cub200: 10 of 200 classes, ...``.

    Raises:
        PhotosError: for photographs that are missing.
    """
    catalogue = read_catalogue(settings)
    classes, images = len(catalogue.folders), len(catalogue.table)
    published = PUBLISHED.get(settings.dataset)
    if published is None:
        return f"{settings.dataset}: {classes:,} classes, {images:,} images"
    if (classes, images) == (published.classes, published.images):
        return f"{settings.dataset}: {classes:,} classes, {images:,} images (the whole set)"
    return (
        f"{settings.dataset}: {classes:,} of {published.classes:,} classes, {images:,} of "
        f"{published.images:,} images (a part of the set)"
    )


class PhotoSet:
    """A split of a set of photographs: a data set of items, as `diffcore.data.ImageSet` wants it.

    Attributes:
        classes: readable, distinct names in the order of the labels.
        folders: what the set itself calls them.
        facts: a row an image: id, label, class_name, folder.
        images: of the items, (N, H, W, 3) uint8, decoded whenever they are asked for.
        size: width and height of the images; None if there is no image and no `image_size`.
        has_boxes: whether the place of an object is known in any image.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        classes: Sequence[str],
        rows: pd.DataFrame,
        side: int | None,
        known_side: int | None = None,
    ) -> None:
        self.classes, self.folders = tuple(classes), catalogue.folders
        self.facts = pd.DataFrame({
            "id": rows["id"],
            "label": rows["label"].astype(int),
            "class_name": [self.classes[label] for label in rows["label"]],
            "folder": [self.folders[label] for label in rows["label"]],
        })  # fmt: skip
        self.has_boxes = bool(rows["box"].notna().any())
        self._home, self._side = catalogue.home, side
        # Lists, as a row of a table takes longer to reach than a small picture to decode.
        self._files, self._places = rows["file"].tolist(), rows["place"].tolist()
        self._boxes, self._labels = rows["box"].tolist(), self.facts["label"].tolist()
        self._ids = self.facts["id"].tolist()
        self.size = (side, side) if side else None
        if self.size is None and self._ids:
            self._check_sizes(known_side)
        self.images = Photographs(self)

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One item: image (H, W, 3) uint8, label, class_name, id; mask (H, W) if there is a box.

        Raises:
            ValueError: naming a damaged file, or one of another size where sizes are not changed.
        """
        pixels, mask = self.decode(index, with_mask=True)
        label = self._labels[index]
        item = {
            "image": pixels,
            "label": label,
            "class_name": self.classes[label],
            "id": self._ids[index],
        }
        return item if mask is None else item | {"mask": mask}

    def decode(self, index: int, *, with_mask: bool) -> tuple[np.ndarray, np.ndarray | None]:
        """Picture (H, W, 3) uint8 of an image, and mask (H, W) bool if asked for and known."""
        box = self._box(index) if with_mask else None
        pixels, mask = decode(self._path(index), self._places[index], self._side, box)
        if pixels.shape[1::-1] != self.size:
            raise self._differs(index, pixels.shape[1::-1])
        return pixels, mask

    def _path(self, index: int) -> Path:
        return self._home / self._files[index]

    def _box(self, index: int) -> Box | None:
        """Box of an image; Caltech-101 has a file for each, which is read when it is needed."""
        box = self._boxes[index]
        return _read_box(self._home / box) if isinstance(box, str) else box

    def _check_sizes(self, known_side: int | None) -> None:
        """Find the size of all images by the first; ValueError naming the first that differs."""
        self.size = size_of(self._path(0), self._places[0])
        if self.size != (known_side, known_side):
            for index in range(1, len(self)):
                size = size_of(self._path(index), self._places[index])
                if size != self.size:
                    raise self._differs(index, size)

    def _differs(self, index: int, size: tuple[int, int]) -> ValueError:
        first, other = ("{} x {}".format(*pair) for pair in (self.size, size))
        return ValueError(
            f"images are of different sizes: {self._path(0)} of {first}, {self._path(index)} of "
            f"{other} pixels; set data.image_size to the side of the square to bring them to"
        )


class Photographs(Sequence):
    """Images of a split as a sequence that decodes what is asked for, and keeps nothing.

    ``images[3]`` is (H, W, 3) uint8; ``images[2:5]``, ``images[[4, 0]]`` and ``images[mask]`` are
    (n, H, W, 3).
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, photos: PhotoSet) -> None:
        self._photos = photos

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of all images: (N, H, W, 3)."""
        width, height = self._photos.size or (0, 0)
        return len(self), height, width, 3

    def __len__(self) -> int:
        return len(self._photos)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[place] for place in range(len(self)))

    def __getitem__(self, places: Any) -> np.ndarray:
        if np.ndim(places) == 0 and not isinstance(places, slice):
            return self._photos.decode(places, with_mask=False)[0]
        chosen = chosen_places(places, len(self))
        pixels = np.empty((len(chosen), *self.shape[1:]), np.uint8)
        for row, place in enumerate(chosen):
            pixels[row] = self[place]
        return pixels

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Decode all; so that ``np.asarray(images)`` is an array of pixels."""
        return self[:].astype(dtype or self.dtype, copy=False)


def _read_box(path: Path) -> Box:
    """Read a box of Caltech-101: first and last row, first and last column, counted from 1."""
    from scipy.io import loadmat

    try:
        y0, y1, x0, x1 = map(float, loadmat(path)["box_coord"].ravel())
    except (KeyError, ValueError, TypeError, NotImplementedError, OSError) as error:
        raise ValueError(f"{path} is no MATLAB file with a box ({error})") from None
    return x0 - 1, y0 - 1, x1, y1
