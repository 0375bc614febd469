"""Distractors of Paperbirds: objects that clutter a background and that prompts seldom name."""

from collections.abc import Callable

import numpy as np
from PIL import ImageDraw

from diffcore.paperbirds.contexts import CANVAS

_Box = tuple[float, float, float, float]  # left, top, width, height in canvas pixels


def _tree(draw: ImageDraw.ImageDraw, box: _Box, rng: np.random.Generator) -> None:
    x, y, w, h = box
    draw.rectangle((x + w * 0.42, y + h * 0.5, x + w * 0.58, y + h), (104, 70, 44))
    green = (30, int(rng.uniform(96, 130)), 44)
    draw.ellipse((x, y, x + w, y + h * 0.68), green, (22, 74, 34), 3)


def _car(draw: ImageDraw.ImageDraw, box: _Box, rng: np.random.Generator) -> None:
    x, y, w, h = box
    paint = ((40, 92, 200), (206, 206, 214), (226, 60, 60), (60, 160, 120))[rng.integers(4)]
    cabin = [
        (x + w * at, y + h * down) for at, down in ((0.2, 0.4), (0.32, 0), (0.7, 0), (0.84, 0.4))
    ]
    draw.polygon(cabin, (176, 220, 240), (40, 44, 56), 3)
    draw.rectangle((x, y + h * 0.36, x + w, y + h * 0.78), paint, (40, 44, 56), 3)
    for wheel in (0.24, 0.76):
        cx, cy, r = x + w * wheel, y + h * 0.78, h * 0.22
        draw.ellipse((cx - r, cy - r, cx + r, cy + r), (24, 24, 28), (190, 190, 196), 3)


def _person(draw: ImageDraw.ImageDraw, box: _Box, rng: np.random.Generator) -> None:
    x, y, w, h = box
    skin = ((244, 206, 172), (196, 142, 100), (122, 82, 58))[rng.integers(3)]
    shirt = ((240, 90, 160), (250, 200, 60), (90, 210, 220), (240, 240, 240))[rng.integers(4)]
    r, cx = h * 0.13, x + w / 2
    for leg in (-0.16, 0.16):
        draw.line((cx + leg * w, y + h * 0.6, cx + leg * w, y + h), (40, 44, 84), int(w * 0.2))
    draw.rectangle((cx - w * 0.32, y + r * 2, cx + w * 0.32, y + h * 0.64), shirt, (50, 44, 60), 3)
    draw.ellipse((cx - r, y, cx + r, y + r * 2), skin, (70, 50, 44), 2)


def _house(draw: ImageDraw.ImageDraw, box: _Box, rng: np.random.Generator) -> None:
    x, y, w, h = box
    wall = ((240, 226, 200), (220, 200, 180), (236, 236, 240))[rng.integers(3)]
    draw.rectangle((x + w * 0.1, y + h * 0.42, x + w * 0.9, y + h), wall, (84, 66, 60), 3)
    roof = [(x, y + h * 0.46), (x + w / 2, y), (x + w, y + h * 0.46)]
    draw.polygon(roof, (176, 66, 48), (110, 40, 34), 3)
    draw.rectangle((x + w * 0.42, y + h * 0.64, x + w * 0.6, y + h), (96, 62, 44))


def _traffic_light(draw: ImageDraw.ImageDraw, box: _Box, rng: np.random.Generator) -> None:
    x, y, w, h = box
    draw.rectangle((x + w * 0.42, y + h * 0.5, x + w * 0.58, y + h), (90, 92, 100))
    draw.rectangle((x + w * 0.22, y, x + w * 0.78, y + h * 0.58), (26, 28, 32), (150, 152, 160), 3)
    for i, lamp in enumerate(((240, 50, 40), (250, 200, 50), (60, 220, 90))):
        cx, cy, r = x + w / 2, y + h * (0.11 + 0.18 * i), h * 0.075
        draw.ellipse((cx - r, cy - r, cx + r, cy + r), lamp)


#: name -> (drawing function, width, height in canvas pixels)
_DRAWERS: dict[str, tuple[Callable, float, float]] = {
    "tree": (_tree, 66, 92),
    "car": (_car, 84, 50),
    "person": (_person, 34, 84),
    "house": (_house, 76, 72),
    "traffic light": (_traffic_light, 42, 92),
}

DISTRACTORS: tuple[str, ...] = tuple(_DRAWERS)


def draw_distractors(
    draw: ImageDraw.ImageDraw, names: tuple[str, ...], rng: np.random.Generator
) -> None:
    """Draw each named distractor in a corner of its own, all four corners being free at first."""
    corners = rng.permutation(4)
    for name, corner in zip(names, corners, strict=False):
        drawer, width, height = _DRAWERS[name]
        scale = rng.uniform(0.85, 1.05)
        drawer(draw, _corner_box(int(corner), width * scale, height * scale, rng), rng)


def _corner_box(corner: int, width: float, height: float, rng: np.random.Generator) -> _Box:
    right, upper = corner % 2, corner // 2
    inset = rng.uniform(2, 14)
    x = CANVAS - width - inset if right else inset
    y = rng.uniform(18, 40) if upper else CANVAS - height - rng.uniform(2, 12)
    return (float(x), float(y), width, height)
