"""The twelve birds of Paperbirds: cut paper that differs in parts and colours, whole or malformed.

``world.yaml`` describes the species. Some differ in one part alone, as in CUB-Birds. In local
coordinates the origin is the centre of the body, x points to the beak, y down, and the unit is half
the body's length. `Pose.place` maps them to canvas pixels. Colours are sRGB, 0 to 255.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import yaml
from numpy.typing import ArrayLike
from PIL import ImageDraw

RGB = tuple[int, int, int]
WORLD = yaml.safe_load(Path(__file__).with_name("world.yaml").read_text(encoding="utf-8"))


def _plumage(fields: dict) -> SimpleNamespace:
    """Return colours and shape of one species, over the defaults of ``world.yaml``."""
    values = WORLD["plumage"] | fields
    colours = {key: tuple(v) for key, v in values.items() if isinstance(v, list)}
    return SimpleNamespace(**values | colours)


PLUMAGES = {name: _plumage(fields) for name, fields in WORLD["species"].items()}
SPECIES: tuple[str, ...] = tuple(PLUMAGES)
MALFORMATIONS: tuple[str, ...] = tuple(WORLD["malformations"])
#: Malformations that show half of a whole bird.
CUT: tuple[str, ...] = ("cropped", "half hidden")

_CIRCLE = np.stack([f(np.linspace(0, 2 * np.pi, 22, endpoint=False)) for f in (np.cos, np.sin)], 1)


@dataclass(frozen=True)
class Pose:
    """Where a bird stands: centre (canvas pixels), scale (pixels per unit), tilt, facing."""

    centre: tuple[float, float]
    scale: float
    tilt: float = 0.0  # radians, positive lifts the beak
    facing: int = 1  # 1 = beak to the right, -1 = to the left
    nod: float = 0.0  # radians, tilt of the head against the body
    wing: float = 0.0  # radians, positive lifts the tip of the wing

    def place(self, points: np.ndarray) -> list[float]:
        """Map local points (N, 2) to a flat list of canvas pixels, as ImageDraw takes them."""
        x, y = _rotate(points, -self.tilt).T
        canvas = np.stack([x * self.facing, y], 1) * self.scale + self.centre
        return canvas.ravel().tolist()


class _Pen:
    """Draws local shapes in a pose, each with a thin darker rim, like cut paper."""

    def __init__(self, draw: ImageDraw.ImageDraw, pose: Pose):
        self.draw, self.pose = draw, pose
        self.rim = max(2, round(pose.scale * 0.045))

    def polygon(self, points: np.ndarray, colour: RGB, rim: bool = True) -> None:
        edge = _shade(colour) if rim else None
        self.draw.polygon(self.pose.place(points), colour, edge, self.rim if rim else 0)

    def ellipse(self, centre: ArrayLike, radii: ArrayLike, colour: RGB, rim: bool = True) -> None:
        shape = _rotate(_CIRCLE * np.asarray(radii), -0.10) + np.asarray(centre)
        self.polygon(shape, colour, rim)

    def line(self, points: ArrayLike, colour: RGB, width: float) -> None:
        pixels = self.pose.place(np.asarray(points, float))
        self.draw.line(pixels, colour, max(1, round(width * self.pose.scale)))


def draw_bird(
    draw: ImageDraw.ImageDraw, species: str, pose: Pose, malformation: str | None = None
) -> None:
    """Draw `species` in `pose`; `malformation` is one of MALFORMATIONS or None.

    A bird that is `CUT` is drawn whole: `render` moves it out of the frame or covers it.
    """
    if malformation == "no bird":
        return
    plumage, pen = PLUMAGES[species], _Pen(draw, pose)
    _draw_legs(pen, plumage)
    _draw_tail(pen, plumage)
    if malformation == "two heads":
        _draw_head(pen, plumage, _second_head_map(plumage, pose))
    _draw_body(pen, plumage)
    if malformation != "no head":
        _draw_head(pen, plumage, _head_map(plumage, pose.nod))
    if malformation != "missing wing":
        _draw_wing(pen, plumage, pose.wing)


def _draw_legs(pen: _Pen, p: SimpleNamespace) -> None:
    for hip, foot in ((-0.08, -0.02), (0.14, 0.22)):
        low = p.slimness + 0.42
        pen.line([(hip, p.slimness * 0.8), (foot, low), (foot + 0.16, low + 0.02)], p.legs, 0.075)


def _draw_tail(pen: _Pen, p: SimpleNamespace) -> None:
    end = -0.75 - p.tail_length
    notch = end + (0.26 if p.forked else 0.04)
    points = [(-0.55, -0.26), (end, -0.14), (notch, 0.06), (end, 0.28), (-0.55, 0.26)]
    pen.polygon(np.array(points), p.tail)


def _draw_body(pen: _Pen, p: SimpleNamespace) -> None:
    pen.ellipse((0, 0), (1.0, p.slimness), p.body)
    pen.ellipse((0.14, p.slimness * 0.38), (0.66, p.slimness * 0.50), p.belly, rim=False)
    if "streaks" in p.marks:
        for x in (0.10, 0.30, 0.50):
            pen.line([(x, p.slimness * 0.30), (x - 0.06, p.slimness * 0.80)], p.mark, 0.075)


def _head_map(p: SimpleNamespace, nod: float) -> Callable[[np.ndarray], np.ndarray]:
    """Return the map from head coordinates (unit: the head's radius) to local ones."""
    centre = np.array([0.80 + p.neck, -p.slimness * 0.62 - 0.16 - 0.5 * p.neck])
    return lambda points: _rotate(np.asarray(points, float) * p.head_size, -nod) + centre


def _second_head_map(p: SimpleNamespace, pose: Pose) -> Callable[[np.ndarray], np.ndarray]:
    """Place a second head over the tail or beside the first; the pose's nod decides."""
    first = _head_map(p, pose.nod)
    if pose.nod > 0:
        return lambda points: first(points) * [-1.0, 1.0]
    return lambda points: first(points) - [0.72, 0.12 + 0.5 * p.head_size]


def _draw_head(pen: _Pen, p: SimpleNamespace, to_local: Callable[[np.ndarray], np.ndarray]) -> None:
    if p.crest:
        pen.polygon(to_local([(-0.95, -0.35), (-0.75, -1.75), (0.55, -0.75)]), p.head)
    # The neck joins head and body without a seam.
    neck = np.stack([to_local([(-0.9, 0.25), (0.75, 0.55)])[i] for i in (0, 1)])
    pen.polygon(np.array([neck[0], neck[1], (0.78, 0.08), (0.20, -0.30)]), p.head, rim=False)
    _draw_beak(pen, p, to_local)
    pen.polygon(to_local(_CIRCLE), p.head)
    _draw_face(pen, p, to_local)
    eye_size = 0.30 if "pale eye" in p.marks else 0.20
    pen.polygon(to_local(_CIRCLE * eye_size + [0.30, -0.18]), p.eye, rim=False)
    if "pale eye" in p.marks:
        pen.polygon(to_local(_CIRCLE * 0.11 + [0.32, -0.18]), (16, 16, 20), rim=False)
    else:
        pen.polygon(to_local(_CIRCLE * 0.07 + [0.36, -0.24]), (255, 255, 255), rim=False)


def _draw_beak(pen: _Pen, p: SimpleNamespace, to_local: Callable[[np.ndarray], np.ndarray]) -> None:
    tip, half = 0.85 + p.beak_length / p.head_size, p.beak_depth / p.head_size
    drop = 0.30 if p.hooked else 0.0
    points = [(0.72, -half), (tip - drop, -half * 0.45), (tip, 0.12 + drop), (0.72, half)]
    pen.polygon(to_local(points), p.beak)


def _draw_face(pen: _Pen, p: SimpleNamespace, to_local: Callable[[np.ndarray], np.ndarray]) -> None:
    if "mask" in p.marks:
        pen.polygon(to_local(_CIRCLE * [0.42, 0.55] + [0.66, 0.18]), p.mark, rim=False)
    if "face" in p.marks:
        pen.polygon(to_local(_CIRCLE * [0.50, 0.58] + [0.42, 0.12]), p.mark, rim=False)
    if "cap" in p.marks:
        pen.polygon(to_local([(-0.45, -0.85), (0.2, -1.02), (0.8, -0.55), (0.1, -0.45)]), p.mark)
    if "brow" in p.marks:
        pen.polygon(to_local(_CIRCLE * [0.42, 0.24] + [0.32, -0.20]), p.mark, rim=False)
    if "collar" in p.marks:
        pen.line(to_local([(-0.75, 0.45), (0.0, 1.02), (0.70, 0.80)]), p.mark, 0.10)


def _draw_wing(pen: _Pen, p: SimpleNamespace, lift: float) -> None:
    reach, shoulder = p.wing_length, np.array([0.46, -0.12])
    edge = [(-0.30, 0.40), (-0.95, 0.42), (-1.30, 0.22), (-0.75, -0.06), (-0.30, -0.26)]

    def to_local(points: ArrayLike) -> np.ndarray:
        stretched = np.asarray(points, float) * [reach, 1.0]
        return _rotate(stretched, lift) + shoulder

    pen.polygon(to_local([(0.10, -0.18), (0.14, 0.10), *edge]), p.wing)
    for y in (0.08, 0.22):
        pen.line(to_local([(-0.35, y), (-1.02, y + 0.08)]), _shade(p.wing), 0.05)
    if "wing bars" in p.marks:
        pen.line(to_local([(-0.22, -0.16), (-0.36, 0.34)]), (248, 248, 248), 0.10)
        pen.line(to_local([(-0.58, -0.08), (-0.68, 0.36)]), (248, 248, 248), 0.08)
    if "shoulder" in p.marks:
        pen.polygon(to_local(_CIRCLE * [0.26, 0.17] + [-0.12, -0.04]), p.mark, rim=False)
        pen.line(to_local([(-0.34, 0.12), (0.04, 0.15)]), (250, 206, 60), 0.08)


def _rotate(points: np.ndarray, angle: float) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.asarray(points, float) @ np.array([[cos, sin], [-sin, cos]])


def _shade(colour: RGB) -> RGB:
    """Return a darker rim, or a lighter one on near-black paper, where it shows the parts."""
    factor, lift = (0.62, 0) if max(colour) > 90 else (1.0, 34)
    return tuple(int(c * factor) + lift for c in colour)
