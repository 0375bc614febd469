"""How images flow through a method, drawn with images of the study: the paper's Figures 1 and 2."""

from collections.abc import Collection, Mapping, Sequence
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path

from diffcore.figures import style
from diffcore.figures.grids import interpolation

#: An image (H, W, 3) uint8 and the text below it, or None and a text for a box; None: nothing.
Cell = tuple[np.ndarray | None, str] | None
#: What goes on side by side: stage -> its cells, one below the other.
Lane = Mapping[str, Sequence[Cell]]
_Place = tuple[float, float]

_WIDTH, _ROW = 11.6, 1.55  # inches: of all, and from one row of cells to the next
_HEAD, _FOOT = 0.8, 0.3  # inches above and below a lane's rows
_IMAGE, _BOX = (1.0, 1.0), (1.4, 1.25)  # inches: of an image, of a box of text
_LETTERS = 26  # of a line of text
_ARROW = {"arrowstyle": "-|>", "mutation_scale": 11, "color": "0.35", "lw": 1.1, "shrinkA": 0,
          "shrinkB": 0}  # fmt: skip


def pipeline_diagram(lanes: Mapping[str, Lane], joined: Collection[str]) -> Figure:
    """Draw methods one below the other, their stages from left to right, with arrows between.

    A stage with as many cells as the one before takes one from each; any other all from all. From
    its first cell, the training image, a lane leads an arrow to its stage of those in `joined` too.
    """
    rows = [max(map(len, lane.values())) for lane in lanes.values()]
    heights = [_HEAD + count * _ROW + _FOOT for count in rows]
    fig = plt.figure(figsize=(_WIDTH, sum(heights)))
    canvas = fig.add_axes((0, 0, 1, 1), xlim=(0, _WIDTH), ylim=(sum(heights), 0))
    canvas.autoscale(enable=False)
    canvas.axis("off")
    for number, (name, lane) in enumerate(lanes.items()):
        top = sum(heights[:number])
        canvas.text(0.15, top + 0.2, name, fontsize=11, weight="bold", va="center")
        _draw_lane(canvas, lane, top + _HEAD, rows[number], joined)
    return fig


def _draw_lane(canvas: Axes, lane: Lane, top: float, rows: int, joined: Collection[str]) -> None:
    """Draw a method below `top`, all its stages equally wide and in the middle of its rows."""
    pitch, placed = _WIDTH / len(lane), []
    for number, (stage, cells) in enumerate(lane.items()):
        x, first = (number + 0.5) * pitch, top + (rows - len(cells)) * _ROW / 2
        title = style.wrap(stage, _LETTERS)
        canvas.text(x, top - 0.1, title, fontsize=9, ha="center", va="bottom")
        places = [(x, first + row * _ROW + _BOX[1] / 2) for row in range(len(cells))]
        placed.append(list(zip(cells, places, strict=True)))
        for cell, place in placed[-1]:
            _draw_cell(canvas, cell, place)
        if number:
            _link(canvas, placed[-2], placed[-1])
        if stage in joined:
            _join(canvas, placed[0][0][1], placed[-1], top + rows * _ROW + _FOOT / 2)


def _draw_cell(canvas: Axes, cell: Cell, place: _Place) -> None:
    """Draw an image with its text below, or a box with its text inside, around a place."""
    if cell is None:
        return
    (image, text), (x, y) = cell, place
    (wide, tall), said = _size(cell), style.wrap(text, _LETTERS)
    if image is None:
        round_box = {"boxstyle": "round,pad=0,rounding_size=0.08", "fc": "0.96", "ec": "0.6"}
        canvas.add_patch(FancyBboxPatch((x - wide / 2, y - tall / 2), wide, tall, **round_box))
        canvas.text(x, y, said, fontsize=7, ha="center", va="center")
        return
    ends = (x - wide / 2, x + wide / 2, y + tall / 2, y - tall / 2)
    canvas.imshow(image, extent=ends, aspect="auto", interpolation=interpolation(image))
    canvas.text(x, y + tall / 2 + 0.05, said, fontsize=7, ha="center", va="top")


def _size(cell: Cell) -> tuple[float, float]:
    return _BOX if cell[0] is None else _IMAGE


def _link(
    canvas: Axes, before: Sequence[tuple[Cell, _Place]], after: Sequence[tuple[Cell, _Place]]
) -> None:
    """Draw arrows from the cells of one stage to those of the next."""
    pairs = product(before, after) if len(before) != len(after) else zip(before, after, strict=True)
    for (source, (left, down)), (target, (right, up)) in pairs:
        if source is not None and target is not None:
            start, end = left + _size(source)[0] / 2 + 0.04, right - _size(target)[0] / 2 - 0.04
            canvas.add_patch(FancyArrowPatch((start, down), (end, up), **_ARROW))


def _join(canvas: Axes, place: _Place, stage: Sequence[tuple[Cell, _Place]], foot: float) -> None:
    """Lead an arrow from a lane's first image, round below at `foot`, to a stage's last cell."""
    last = [(x, y) for cell, (x, y) in stage if cell is not None]
    if not last:
        return
    (x, y), (end, above) = place, last[-1]
    edge, below = x - _IMAGE[0] / 2, above + _IMAGE[1] * 0.85  # two lines of text are above it
    corners = [(edge, y), (edge - 0.12, y), (edge - 0.12, foot), (end, foot), (end, below)]
    canvas.add_patch(FancyArrowPatch(path=Path(corners), **_ARROW))
