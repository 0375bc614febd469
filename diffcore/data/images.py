"""Images as arrays: read any image file, fit it to a size, fetch some of many.

Our choices: to fit an image, the middle is cut out, as species differ in their proportions, which
stay; what is transparent becomes white; of deeper greys the upper 8 bits count.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from diffcore.store import digest

#: x0, y0, x1, y1 in pixels of a file as it is stored; x1 and y1 lie just outside.
Box = tuple[float, float, float, float]
#: (N, H, W, 3) uint8: an array, or what is read when asked for by place, slice, list or mask.
Images = Any

#: What is taken for an image among the files of a folder.
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff")
_BITS_PER_SAMPLE = 258  # a tag of TIFF

# As Pillow, and what else reads the files of a set, raises it.
_DAMAGE = (OSError, SyntaxError, ValueError, TypeError, LookupError, RuntimeError)
_DAMAGE += (Image.DecompressionBombError,)


@contextmanager
def as_value_error(problem: str, kind: type[ValueError] = ValueError) -> Iterator[None]:
    """Turn what libraries raise over a file into a ValueError that states the problem."""
    try:
        yield
    except _DAMAGE as error:
        raise kind(f"{problem} ({error})") from None


def find_images(top: str | Path) -> list[str]:
    """List the images below a folder, at any depth, folder by folder: paths relative to it.

    What is hidden is left out, and a folder counts once however many links lead to it. ValueError
    names a folder that cannot be read, and a name that is not UTF-8.
    """

    def refuse(error: OSError) -> None:
        raise ValueError(f"{error.filename} cannot be read: {error.strerror}") from None

    files, seen = [], {*map(str, Path(top).resolve().parents)}
    for place, folders, names in os.walk(top, onerror=refuse, followlinks=True):
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        folders.sort(key=lambda name: Path(place, name).is_symlink())  # what links lead to is first
        images = [n for n in names if n.lower().endswith(SUFFIXES) and not n.startswith(".")]
        files += [os.path.relpath(f"{place}/{name}", top) for name in images]
    return sorted(in_utf8(files, top), key=lambda file: file.split("/"))


def in_utf8(names: list[str], folder: str | Path) -> list[str]:
    """Return the names; ValueError for one that cannot be written down, as all that is kept is."""
    for name in names:
        if any("\udc80" <= letter <= "\udcff" for letter in name):
            raise ValueError(f"{folder} holds {name!a}, which is no name in UTF-8; rename it")
    return names


def hash_tree(folder: str | Path, files: Iterable[str]) -> str:
    """Hash names, sizes and times of files: a changed file changes it, another place does not."""
    states = ((name, Path(folder, name).stat()) for name in sorted(files))
    return digest([(name, state.st_size, state.st_mtime_ns) for name, state in states])


def read_image(path: str | Path, side: int | None = None) -> np.ndarray:
    """Read an image file of any mode: (H, W, 3) uint8 RGB, upright; ValueError names a damaged one.

    A side in pixels fits it to a square; a JPEG is then decoded no larger than is needed.
    """
    with as_value_error(f"{path} is damaged or no image"), Image.open(path) as image:
        return to_pixels(image, side)


def to_pixels(image: Image.Image, side: int | None = None) -> np.ndarray:
    """Turn an image of any mode, fitted to a square if asked for, into (H, W, 3) uint8, upright."""
    turn = image.getexif().get(ExifTags.Base.Orientation, 1)
    return _upright(_to_square(image, side) if side else _to_rgb(image), turn)


def read_head(path: str | Path) -> tuple[tuple[int, int], int]:
    """Read width and height as an image is stored, and its EXIF orientation; decode nothing."""
    with as_value_error(f"{path} is damaged or no image"), Image.open(path) as image:
        return image.size, image.getexif().get(ExifTags.Base.Orientation, 1)


def _upright(image: Image.Image, turn: int) -> np.ndarray:
    """Turn an image by an EXIF orientation, 1 to 8."""
    image.info.clear()  # the rest of its EXIF may be malformed
    image.getexif()[ExifTags.Base.Orientation] = turn
    return np.array(ImageOps.exif_transpose(image))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode[0] in "IF":
        return Image.fromarray(_to_8_bits(image)).convert("RGB")
    if image.has_transparency_data:
        paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(paper, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(image: Image.Image) -> np.ndarray:
    """Scale greys of 9 to 16 bits, and floats up to 1 or 255; ValueError for any other scale."""
    values, bits = np.asarray(image), getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))[0]
    top = (1 if values.max() <= 1 else 255) if image.mode == "F" else 2 ** min(bits, 16) - 1
    if not (values.min() >= 0 and values.max() <= top and (bits <= 16 or image.mode == "F")):
        scale = f"{values.min()} to {values.max()} in {bits} bits"
        raise ValueError(f"its greys, {scale}, are on no known scale; save it with 8 or 16 bits")
    if image.mode == "F":
        return (values * (255 / top)).round().astype(np.uint8)
    return (values.astype(np.int64) * 256 // (top + 1)).astype(np.uint8)


def _to_square(image: Image.Image, side: int) -> Image.Image:
    """Decode to a square, as `fit` would, from a JPEG's own reduction where there is one."""
    if image.size == (side, side):
        return _to_rgb(image)
    reduced = image.draft(None, (2 * side, 2 * side))
    # Its rounded size is up to a pixel more than the image, which would shift what is kept.
    width, height = reduced[1][2:] if reduced else image.size
    box = kept_box(height, width, side, side)
    return _to_rgb(image).resize((side, side), Image.Resampling.BICUBIC, box)


def fit(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize (H, W, 3) uint8, bicubic and antialiased, until it just covers; cut out the middle."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(ImageOps.fit(Image.fromarray(image), (width, height)))


def kept_box(height: int, width: int, new_height: int, new_width: int) -> Box:
    """What `fit` keeps of an image, in its pixels: of 400 x 300 for a square, (50, 0, 350, 300)."""
    scale = max(new_height / height, new_width / width)
    kept_height, kept_width = min(new_height / scale, height), min(new_width / scale, width)
    left, top = (width - kept_width) / 2, (height - kept_height) / 2
    return left, top, left + kept_width, top + kept_height


def read_mask(boxed: tuple[str | Path, Box | None], side: int | None = None) -> np.ndarray:
    """Mask of a path's box in the image that `read_image` gives: (H, W) bool.

    False all over if there is no box, or the square leaves it out; else True in one pixel at least.
    """
    path, box = boxed
    stored, turn = read_head(path)
    size = (side, side) if side else stored
    mask = np.zeros(size[::-1], bool)
    if box is not None:
        left, top, right, bottom = kept_box(stored[1], stored[0], size[1], size[0])
        scale = np.divide(size, (right - left, bottom - top))
        first, last = ((np.reshape(box, (2, 2)) - (left, top)) * scale).clip(0, size)
        if (first < last).all():
            x0, y0 = first = np.minimum(first.round(), np.subtract(size, 1)).astype(int)
            x1, y1 = np.maximum(last.round().astype(int), first + 1)
            mask[y0:y1, x0:x1] = True
    return _upright(Image.fromarray(mask), turn)


class Lazy:
    """What is read one by one, and fetched like an array: by place, slice, list or mask."""

    def __init__(self, items: Any, read: Callable[[Any], Any], size: Any = (), dtype: Any = "u1"):
        self.items, self.read, self.dtype = items, read, np.dtype(dtype)
        self.shape = (len(items), *size)  # without a size where they differ

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: Any) -> np.ndarray:
        if isinstance(key, int | np.integer):
            return self.read(self.items[range(len(self))[key]])
        places = np.arange(len(self))[key]
        if not len(places):
            return np.empty((0, *self.shape[1:]), self.dtype)
        return np.stack([self.read(self.items[place]) for place in places.tolist()])


def common_size(paths: Sequence[str]) -> tuple[int, int]:
    """Height and width of image files; (0, 0) of none; ValueError for files of two sizes."""
    sizes = {}
    for path in paths:
        (width, height), turn = read_head(path)
        sizes.setdefault((width, height) if turn in (5, 6, 7, 8) else (height, width), path)
        if len(sizes) > 1:
            raise ValueError(f"images differ in size: {sizes}; set data.image_size to fit them")
    return next(iter(sizes), (0, 0))


class View(Lazy):
    """Some of other images or masks, or images fitted to (height, width)."""

    def __init__(self, images: Images, places: Any = None, size: tuple[int, int] | None = None):
        self.images, self.size = images, size
        chosen = np.arange(len(images))[slice(None) if places is None else places].tolist()
        shape = (*size, 3) if size else getattr(images, "shape", ())[1:]  # some differ in size
        super().__init__(chosen, self._fetch, shape, getattr(images, "dtype", np.uint8))

    def _fetch(self, place: int) -> np.ndarray:
        image = self.images[place]
        return fit(image, *self.size) if self.size else image


def as_batch(images: np.ndarray | Sequence[np.ndarray]) -> Tensor:
    """Turn (N, H, W, 3) uint8 into (N, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255


def as_pixels(batch: Tensor) -> np.ndarray:
    """Turn (N, 3, H, W) in [0, 1] into (N, H, W, 3) uint8; the inverse of `as_batch`."""
    return (batch * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def spread(total: int, count: int) -> np.ndarray:
    """Places of at most `count` things, spread evenly over all of them."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int))


def some_of_each_class(labels: np.ndarray, count: int, seed: int | None = None) -> np.ndarray:
    """Places of at most `count` of N images a class, in order: the first, or drawn by a seed."""
    order = np.arange(len(labels))
    if seed is not None:
        order = np.random.default_rng(seed).permutation(len(labels))
    rank = pd.Series(labels[order]).groupby(labels[order]).cumcount().to_numpy()
    return np.sort(order[rank < count])
