"""Decode one photograph: RGB, upright, brought to a square, and its box as a mask.

Pictures are brought to a square as everywhere in the study (`diffcore.pictures`). Our choices: what
is transparent becomes white; of 16-bit greys the upper 8 bits count; a mask is True in the box to
the nearest pixel, but in one pixel at least, and there is none if the square leaves out the box.
"""

from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from diffcore.photos.layouts import CIFAR_RECORD
from diffcore.pictures import kept_box

Box = tuple[float, float, float, float]

# What Pillow raises for files that it cannot read.
_DAMAGE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)

# How to turn a stored picture upright, by its EXIF orientation; 1 is upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(
    path: Path, place: int, side: int | None, box: Box | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Read a picture, and its mask if there is a box.

    Args:
        path: of the file.
        place: -1, or the picture's number in a file of CIFAR records.
        side: of the square in pixels; None leaves the picture's size as it is.
        box: x0, y0, x1, y1 in pixels of the picture as it is stored.

    Returns:
        (H, W, 3) uint8 RGB, and (H, W) bool or None.

    Raises:
        ValueError: naming a file that is damaged or no picture.
    """
    try:
        with _open(path, place) as picture:
            stored = picture.size
            size = stored if side is None else (side, side)
            turn = _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
            pixels = _to_size(picture, size)
    except _DAMAGE as error:
        raise ValueError(f"{path} is damaged or no picture: {error}") from None
    mask = None if box is None else _mask(box, stored, size)
    return _turned(pixels, turn), None if mask is None else _turned(Image.fromarray(mask), turn)


def size_of(path: Path, place: int) -> tuple[int, int]:
    """Width and height of a picture when it is upright, from the head of its file.

    Raises:
        ValueError: naming a file that is damaged or no picture.
    """
    try:
        with _open(path, place) as picture:
            turn = picture.getexif().get(ExifTags.Base.Orientation, 1)
            return picture.size[::-1] if turn in (5, 6, 7, 8) else picture.size
    except _DAMAGE as error:
        raise ValueError(f"{path} is damaged or no picture: {error}") from None


def _open(path: Path, place: int) -> Image.Image:
    """Open a picture file, or the record of a CIFAR file, without decoding it yet."""
    if place < 0:
        return Image.open(path)
    with path.open("rb") as file:
        file.seek(place * CIFAR_RECORD + 2)
        pixels = np.frombuffer(file.read(CIFAR_RECORD - 2), np.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels.reshape(3, 32, 32).transpose(1, 2, 0)))


def _to_rgb(picture: Image.Image) -> Image.Image:
    """Decode a picture of any mode to RGB."""
    if picture.mode.startswith("I"):
        deep = np.asarray(picture).astype(np.int64)
        return Image.fromarray((deep >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        paper = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(paper, picture.convert("RGBA")).convert("RGB")
    return picture.convert("RGB")


def _to_size(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Decode a picture to RGB of a size (width, height), as `diffcore.pictures.fit` does."""
    full, reduced = picture.size, None
    if size != full:  # a JPEG is decoded no larger than is needed
        reduced = picture.draft(None, (2 * size[0], 2 * size[1]))
    # Its rounded size is up to a pixel more than the picture, which would shift what is kept.
    width, height = reduced[1][2:] if reduced else full
    rgb = _to_rgb(picture)
    if rgb.size == size:
        return rgb
    kept = kept_box(height, width, size[1], size[0])
    return rgb.resize(size, Image.Resampling.BICUBIC, kept)


def _turned(picture: Image.Image, turn: Image.Transpose | None) -> np.ndarray:
    """Turn a picture upright, as an array."""
    return np.array(picture if turn is None else picture.transpose(turn))


def _mask(box: np.ndarray, size: tuple[int, int], new_size: tuple[int, int]) -> np.ndarray | None:
    """Mask of a box once its picture is fitted: (H, W) bool; None if nothing of the box is left.

    Sizes are (width, height).
    """
    left, top, right, bottom = kept_box(size[1], size[0], new_size[1], new_size[0])
    scale = np.divide(new_size, (right - left, bottom - top))
    ends = (np.reshape(box, (2, 2)) - (left, top)) * scale
    (x0, y0), (x1, y1) = ends.clip(0, new_size)
    if x0 >= x1 or y0 >= y1:
        return None
    mask = np.zeros(new_size[::-1], bool)
    mask[_span(y0, y1, new_size[1]), _span(x0, x1, new_size[0])] = True
    return mask


def _span(first: float, last: float, total: int) -> slice:
    """Nearest whole pixels between two ends, but one pixel at least."""
    start = min(round(first), total - 1)
    return slice(start, max(round(last), start + 1))
