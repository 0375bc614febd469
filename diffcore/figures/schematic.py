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
from diffcore.figures.grids import show_image

#: An image (H, W, 3) uint8 and the text below it, or None and a text for a box; None: nothing.
Cell = tuple[np.ndarray | None, str] | None
#: A method: stage -> its cells, one below the other. Stages stand side by side.
Lane = Mapping[str, Sequence[Cell]]
_Place = tuple[float, float, float]  # inches: left and right end of a cell, its middle from above


_WIDTH, _ROW = 11.6, 1.55  # inches: of all, and from one row of cells to the next
_HEAD, _FOOT = 0.8, 0.3  # inches above and below a lane's rows
_IMAGE, _BOX = (1.0, 1.0), (1.4, 1.25)  # inches: of an image, of a box of text
_LETTERS = 26  # of a line of text
_ROUND = {"boxstyle": "round,pad=0,rounding_size=0.08", "fc": "0.96", "ec": "0.6"}
_ARROW = {"arrowstyle": "-|>", "mutation_scale": 11, "color": "0.35", "lw": 1.1}


def pipeline_diagram(lanes: Mapping[str, Lane], joined: Collection[str]) -> Figure:
    """Draw methods one below the other, their stages from left to right, with arrows between.

    A stage with as many cells as the one before takes one from each; any other takes all from all.
    From a lane's first cell, the training image, an arrow also leads to the stages in `joined`.
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
    first, before, foot = None, [], top + rows * _ROW + _FOOT / 2
    for number, (stage, cells) in enumerate(lane.items()):
        x, y = (number + 0.5) * _WIDTH / len(lane), top + (rows - len(cells)) * _ROW / 2
        title = style.wrap(stage, _LETTERS)
        canvas.text(x, top - 0.1, title, fontsize=9, ha="center", va="bottom")
        y += _BOX[1] / 2
        boxes = [_draw_cell(canvas, cell, x, y + row * _ROW) for row, cell in enumerate(cells)]
        alike = len(before) == len(boxes)
        for source, target in zip(before, boxes, strict=True) if alike else product(before, boxes):
            if source and target:
                _draw_arrow(canvas, (source[1] + 0.04, source[2]), (target[0] - 0.04, target[2]))
        first, before, present = first or boxes[0], boxes, [box for box in boxes if box]
        if stage in joined and present:  # round below, to the last cell, whose text has two lines
            left, _, middle = first
            start = (left, middle), (left - 0.12, middle), (left - 0.12, foot)
            _draw_arrow(canvas, *start, (x, foot), (x, present[-1][2] + 0.85 * _IMAGE[1]))


def _draw_cell(canvas: Axes, cell: Cell, x: float, y: float) -> _Place | None:
    """Draw an image with its text below, or a box with its text inside, around a place."""
    if cell is None:
        return None
    image, text = cell
    text, align = style.wrap(text, _LETTERS), {"fontsize": 7, "ha": "center"}
    wide, tall = _BOX if image is None else _IMAGE
    left, right, top, bottom = x - wide / 2, x + wide / 2, y - tall / 2, y + tall / 2
    if image is None:
        canvas.add_patch(FancyBboxPatch((left, top), wide, tall, **_ROUND))
        canvas.text(x, y, text, va="center", **align)
    else:
        show_image(canvas, image, extent=(left, right, bottom, top), aspect="auto")
        canvas.text(x, bottom + 0.05, text, va="top", **align)
    return left, right, y


def _draw_arrow(canvas: Axes, *corners: tuple[float, float]) -> None:
    canvas.add_patch(FancyArrowPatch(path=Path(corners), **_ARROW))
