"""Backgrounds of Paperbirds: the sixteen contexts that the paper's authors released for birds.

Each context is a `Backdrop`: a smooth sky or ground in colours of ``world.yaml``, and scenery four
times as large on a transparent canvas. Distractors are objects that clutter it and that prompts
seldom name; `CLUTTER` lists those that come with a context.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.random import Generator
from PIL import Image
from PIL.ImageDraw import Draw, ImageDraw

from paperbirds.birds import RGB, WORLD

SIZE = 64
CANVAS = 4 * SIZE
HORIZON = 150  # canvas row at which ground and sky meet, before jitter


class Backdrop:
    """A background: its sky (64, 64, 3), `base`, and a large transparent canvas to draw on."""

    def __init__(self, rng: Generator):
        self.rng = rng
        self.base = np.zeros((SIZE, SIZE, 3), np.float32)
        self.canvas = Image.new("RGBA", (CANVAS, CANVAS))
        self.draw = Draw(self.canvas)

    def gradient(self, stops: Sequence[RGB]) -> None:
        """Fill the base from top to bottom through evenly spaced colours."""
        rows, at = np.linspace(0, 1, SIZE, dtype=np.float32), np.linspace(0, 1, len(stops))
        colours = [np.interp(rows, at, channel) for channel in np.transpose(stops)]
        self.base += np.stack(colours, 1)[:, None].astype(np.float32)

    def clouds(self, amount: float, cells: tuple[int, int] = (5, 5)) -> None:
        """Add smooth grey variation of standard deviation `amount` with `cells` = (rows, cols)."""
        coarse = self.rng.standard_normal(cells).astype(np.float32)
        smooth = Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        self.base += amount * np.asarray(smooth)[:, :, None]

    def ground(self, colour: RGB, y: float, waviness: float = 0.0) -> None:
        """Draw ground from canvas row y downward, its upper edge a slow wave."""
        x = np.arange(0, CANVAS + 16, 16)
        phase, period = self.rng.uniform(0, 6.3), self.rng.uniform(110, 200)
        edge = y + waviness * np.sin(6.283 * x / period + phase)
        points = [*zip(x.tolist(), edge.tolist(), strict=True), (CANVAS, CANVAS), (0, CANVAS)]
        self.draw.polygon(points, colour)

    def jitter(self, spread: float) -> float:
        """Draw a number uniformly from [-spread, spread]."""
        return float(self.rng.uniform(-spread, spread))


def _garden(b: Backdrop) -> None:
    y = HORIZON - 30 + b.jitter(10)
    for x in range(-10, CANVAS + 20, 34):
        r = b.rng.uniform(22, 34)
        b.draw.ellipse((x - r, y - r * 0.8, x + r, y + r), (58, 118, 58))
    b.ground((116, 176, 84), y + 12, 3)
    for _ in range(16):
        x, yy = b.rng.uniform(0, CANVAS), b.rng.uniform(y + 34, CANVAS)
        colour = ((236, 92, 150), (250, 236, 120), (250, 246, 250))[b.rng.integers(3)]
        b.draw.ellipse((x - 6, yy - 6, x + 6, yy + 6), colour)


def _stormy_sky(b: Backdrop) -> None:
    b.clouds(16, (4, 5))
    _rain(b, 26, (150, 164, 180))


def _calm_water(b: Backdrop) -> None:
    y = HORIZON - 24 + b.jitter(10)
    b.ground((84, 186, 198), y)
    for _ in range(9):
        x, yy, w = b.rng.uniform(0, CANVAS), b.rng.uniform(y + 10, CANVAS), b.rng.uniform(24, 70)
        b.draw.line((x - w, yy, x + w, yy), (150, 220, 226), 4)


def _vibrant_sunset(b: Backdrop) -> None:
    x, y, r = CANVAS / 2 + b.jitter(90), HORIZON + 34 + b.jitter(8), b.rng.uniform(34, 46)
    b.draw.ellipse((x - r, y - r, x + r, y + r), (255, 240, 160))
    b.ground((74, 36, 56), y + 4, 5)


def _misty_morning(b: Backdrop) -> None:
    for i, grey in enumerate((204, 190, 174)):
        y = HORIZON - 40 + 40 * i + b.jitter(8)
        b.ground((grey - 6, grey + 2, grey), y, 12)
    b.clouds(3, (6, 2))


def _mountain_peaks(b: Backdrop) -> None:
    for _ in range(4):
        x, top, w = b.rng.uniform(0, CANVAS), b.rng.uniform(50, 96), b.rng.uniform(80, 110)
        b.draw.polygon([(x - w, 200), (x, top), (x + w, 200)], (116, 122, 136))
        cap, snow_line = w * 0.30, top + (200 - top) * 0.30
        snow = [(x - cap, snow_line), (x, top), (x + cap, snow_line), (x, top + 28)]
        b.draw.polygon(snow, (246, 248, 252))
    b.ground((90, 104, 96), 196 + b.jitter(6), 6)


def _forest_canopy(b: Backdrop) -> None:
    for _ in range(26):
        x, y = b.rng.uniform(0, CANVAS, 2)
        r, tone = b.rng.uniform(16, 30), b.rng.uniform(-22, 30)
        leaf = (int(46 + tone * 0.6), int(104 + tone), int(48 + tone * 0.5))
        b.draw.ellipse((x - r, y - r * 0.7, x + r, y + r * 0.7), leaf)
    for _ in range(4):
        x, y = b.rng.uniform(0, CANVAS, 2)
        b.draw.ellipse((x - 7, y - 7, x + 7, y + 7), (226, 240, 160))


def _open_desert(b: Backdrop) -> None:
    for i, colour in enumerate(((236, 190, 120), (224, 168, 92), (208, 146, 74))):
        b.ground(colour, HORIZON - 20 + 34 * i + b.jitter(8), 14)


def _night_sky(b: Backdrop) -> None:
    for _ in range(22):
        x, y = b.rng.uniform(0, CANVAS, 2)
        b.draw.ellipse((x - 3, y - 3, x + 3, y + 3), (220, 224, 240))
    side = b.rng.choice((-1, 1))
    x, y, r = CANVAS / 2 + side * b.rng.uniform(60, 92), b.rng.uniform(34, 60), 26
    b.draw.ellipse((x - r, y - r, x + r, y + r), (246, 242, 214))


def _lightning_storm(b: Backdrop) -> None:
    b.clouds(9, (4, 5))
    for _ in range(2):
        x, points = b.rng.uniform(20, CANVAS - 20), []
        for y in range(0, 230, 38):
            points.append((x, y))
            x += b.rng.uniform(-26, 26)
        b.draw.line(points, (255, 246, 170), 7)


def _expansive_ocean(b: Backdrop) -> None:
    y = 78 + b.jitter(10)
    b.ground((26, 82, 150), y)
    b.ground((16, 56, 120), y + 84, 6)
    for _ in range(15):
        x, yy, w = b.rng.uniform(0, CANVAS), b.rng.uniform(y + 12, CANVAS), b.rng.uniform(10, 20)
        b.draw.arc((x - w, yy, x + w, yy + 16), 200, 340, (226, 238, 246), 5)


def _city_skyline(b: Backdrop) -> None:
    x = -10.0
    while x < CANVAS:
        w, top = b.rng.uniform(28, 46), b.rng.uniform(90, 170)
        b.draw.rectangle((x, top, x + w, CANVAS), (40, 36, 62))
        for wx in np.arange(x + 8, x + w - 10, 14):
            for wy in np.arange(top + 12, CANVAS - 16, 26):
                if b.rng.random() < 0.5:
                    b.draw.rectangle((wx, wy, wx + 6, wy + 10), (255, 214, 110))
        x += w + 3


def _golden_crops(b: Backdrop) -> None:
    y = HORIZON - 44 + b.jitter(10)
    b.ground((230, 184, 66), y, 4)
    for x in range(-120, CANVAS + 130, 30):
        b.draw.line((CANVAS / 2 + (x - CANVAS / 2) * 0.6, y + 8, x, CANVAS), (196, 142, 40), 6)


def _swirling_snow(b: Backdrop) -> None:
    b.ground((244, 247, 250), 196 + b.jitter(8), 8)
    for _ in range(4):
        x, y, r = *b.rng.uniform(0, CANVAS, 2), b.rng.uniform(30, 60)
        start = b.rng.uniform(0, 360)
        b.draw.arc((x - r, y - r * 0.6, x + r, y + r * 0.6), start, start + 150, (238, 242, 248), 5)
    _flakes(b, 42)


def _overcast_sky(b: Backdrop) -> None:
    b.clouds(8, (6, 3))


def _rain(b: Backdrop, count: int, colour: RGB) -> None:
    for x, y in b.rng.uniform(0, CANVAS, (count, 2)):
        b.draw.line((x, y, x - 8, y + 24), colour, 3)


def _flakes(b: Backdrop, count: int) -> None:
    for x, y, r in b.rng.uniform((0, 0, 3), (CANVAS, CANVAS, 6), (count, 3)):
        b.draw.ellipse((x - r, y - r, x + r, y + r), (252, 252, 255))


def _foliage(b: Backdrop) -> None:
    """Draw a few blades and leaves that rise from the lower edge."""
    left = b.rng.uniform(-20, CANVAS - 80)
    for x in left + b.rng.uniform(0, 100, 7):
        height, lean = b.rng.uniform(40, 95), b.rng.uniform(-24, 24)
        tip, tone = (x + lean, CANVAS - height), int(b.rng.uniform(-16, 16))
        b.draw.polygon([(x - 7, CANVAS), tip, (x + 7, CANVAS)], (64 + tone, 112 + tone, 56 + tone))


#: Context -> the function that draws its scenery, if it has any.
_SCENERY: dict[str, Callable[[Backdrop], None]] = {
    "garden": _garden, "stormy sky": _stormy_sky, "calm water under clear sky": _calm_water,
    "vibrant sunset": _vibrant_sunset, "misty morning": _misty_morning,
    "mountain peaks": _mountain_peaks, "forest canopy": _forest_canopy,
    "open desert": _open_desert, "night sky with full moon": _night_sky,
    "lightning storm": _lightning_storm, "expansive ocean": _expansive_ocean,
    "city skyline at twilight": _city_skyline, "fields of golden crops": _golden_crops,
    "swirling snow": _swirling_snow, "overcast sky": _overcast_sky,
}  # fmt: skip
CONTEXTS: tuple[str, ...] = tuple(WORLD["skies"])
#: Probability that each distractor stands in a context uninvited (0 where not named).
CLUTTER: dict[str, dict[str, float]] = WORLD["clutter"]


def _tree(draw: ImageDraw, rng: Generator, x: float, y: float, w: float, h: float) -> None:
    draw.rectangle((x + w * 0.42, y + h * 0.5, x + w * 0.58, y + h), (104, 70, 44))
    green = (30, int(rng.uniform(96, 130)), 44)
    draw.ellipse((x, y, x + w, y + h * 0.68), green, (22, 74, 34), 3)


def _car(draw: ImageDraw, rng: Generator, x: float, y: float, w: float, h: float) -> None:
    paint = ((40, 92, 200), (206, 206, 214), (226, 60, 60), (60, 160, 120))[rng.integers(4)]
    corners = ((0.2, 0.4), (0.32, 0), (0.7, 0), (0.84, 0.4))
    cabin = [(x + w * across, y + h * down) for across, down in corners]
    draw.polygon(cabin, (176, 220, 240), (40, 44, 56), 3)
    draw.rectangle((x, y + h * 0.36, x + w, y + h * 0.78), paint, (40, 44, 56), 3)
    for wheel in (0.24, 0.76):
        cx, cy, r = x + w * wheel, y + h * 0.78, h * 0.22
        draw.ellipse((cx - r, cy - r, cx + r, cy + r), (24, 24, 28), (190, 190, 196), 3)


def _person(draw: ImageDraw, rng: Generator, x: float, y: float, w: float, h: float) -> None:
    skin = ((244, 206, 172), (196, 142, 100), (122, 82, 58))[rng.integers(3)]
    shirt = ((240, 90, 160), (250, 200, 60), (90, 210, 220), (240, 240, 240))[rng.integers(4)]
    r, cx = h * 0.13, x + w / 2
    for leg in (-0.16, 0.16):
        draw.line((cx + leg * w, y + h * 0.6, cx + leg * w, y + h), (40, 44, 84), int(w * 0.2))
    draw.rectangle((cx - w * 0.32, y + r * 2, cx + w * 0.32, y + h * 0.64), shirt, (50, 44, 60), 3)
    draw.ellipse((cx - r, y, cx + r, y + r * 2), skin, (70, 50, 44), 2)


def _house(draw: ImageDraw, rng: Generator, x: float, y: float, w: float, h: float) -> None:
    wall = ((240, 226, 200), (220, 200, 180), (236, 236, 240))[rng.integers(3)]
    draw.rectangle((x + w * 0.1, y + h * 0.42, x + w * 0.9, y + h), wall, (84, 66, 60), 3)
    roof = [(x, y + h * 0.46), (x + w / 2, y), (x + w, y + h * 0.46)]
    draw.polygon(roof, (176, 66, 48), (110, 40, 34), 3)
    draw.rectangle((x + w * 0.42, y + h * 0.64, x + w * 0.6, y + h), (96, 62, 44))


def _traffic_light(draw: ImageDraw, rng: Generator, x: float, y: float, w: float, h: float) -> None:
    draw.rectangle((x + w * 0.42, y + h * 0.5, x + w * 0.58, y + h), (90, 92, 100))
    draw.rectangle((x + w * 0.22, y, x + w * 0.78, y + h * 0.58), (26, 28, 32), (150, 152, 160), 3)
    for i, lamp in enumerate(((240, 50, 40), (250, 200, 50), (60, 220, 90))):
        cx, cy, r = x + w / 2, y + h * (0.11 + 0.18 * i), h * 0.075
        draw.ellipse((cx - r, cy - r, cx + r, cy + r), lamp)


#: Name -> the function that draws an object, its width and its height in canvas pixels.
_OBJECTS: dict[str, tuple[Callable, float, float]] = {
    "tree": (_tree, 66, 92),
    "car": (_car, 84, 50),
    "person": (_person, 34, 84),
    "house": (_house, 76, 72),
    "traffic light": (_traffic_light, 42, 92),
}
DISTRACTORS: tuple[str, ...] = tuple(_OBJECTS)


def draw_clutter(context: str, rng: Generator) -> tuple[str, ...]:
    """Draw the distractors that a context brings with it, uninvited (probabilities: CLUTTER)."""
    chances = CLUTTER.get(context, {})
    return tuple(name for name, chance in chances.items() if rng.random() < chance)


def draw_behind(context: str, distractors: tuple[str, ...], rng: Generator) -> Backdrop:
    """Draw one of CONTEXTS and at most four distractors, each in a corner of its own."""
    b = Backdrop(rng)
    b.gradient(WORLD["skies"][context])
    if context in _SCENERY:
        _SCENERY[context](b)
    for name, corner in zip(distractors, rng.permutation(4), strict=False):
        drawer, *size = _OBJECTS[name]
        width, height = rng.uniform(0.85, 1.05) * np.array(size)
        inset = rng.uniform(2, 14)
        x = CANVAS - width - inset if corner % 2 else inset
        y = rng.uniform(18, 40) if corner // 2 else CANVAS - height - rng.uniform(2, 12)
        drawer(b.draw, rng, x, y, width, height)
    return b


def draw_in_front(context: str, rng: Generator) -> Image.Image:
    """Draw rain, snow or foliage in front of a bird on a transparent canvas."""
    b = Backdrop(rng)
    if context in ("stormy sky", "lightning storm"):
        _rain(b, 14, (170, 182, 196))
    elif context == "swirling snow":
        _flakes(b, 16)
    else:
        _foliage(b)
    return b.canvas
