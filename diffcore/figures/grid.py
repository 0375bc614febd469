"""Images in grids, saliency maps over them, and pipelines: Figures 1, 2 and 5 of the paper."""

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise, product, zip_longest
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import cm, colors, patches, path

from diffcore.figures import style

Texts = Sequence[str]
Grid = Sequence[Sequence[np.ndarray | str | None]]  # rows of images, or of their captions
Maps = Mapping[str, np.ndarray]  # name -> arrays (N, H, W)
Pick = Callable[[int], np.ndarray]  # place -> image

#: An image (H, W, 3) uint8 and the text below it, or None and a text for a box; None: nothing.
Cell = tuple[np.ndarray | None, str] | None
#: A method: stage -> its cells, one below the other. Stages stand side by side.
Lane = Mapping[str, Sequence[Cell]]
_Place = tuple[float, float, float]  # inches: left and right end of a cell, its middle from above

_WRONG = "#b00020"  # of the captions of wrong answers
_SMALL = 100  # pixels; larger images are shrunk smoothly, smaller ones show every pixel
_OPACITY = 0.75  # of a map where it is 1

_WIDTH, _ROW = 11.6, 1.55  # inches: of all, and from one row of cells to the next
_HEAD, _FOOT = 0.8, 0.3  # inches above and below a lane's rows
_IMAGE, _BOX = (1.0, 1.0), (1.4, 1.25)  # inches: of an image, of a box of text
_LETTERS = 26  # of a line of text
_ROUND = {"boxstyle": "round,pad=0,rounding_size=0.08", "fc": "0.96", "ec": "0.6"}
_ARROW = {"arrowstyle": "-|>", "mutation_scale": 11, "color": "0.35", "lw": 1.1}


def image_grid(
    images: Grid, rows: Texts = (), columns: Texts = (), captions: Grid = (), cell: float = 0.95
) -> plt.Figure:
    """Draw images (H, W, 3) uint8 in rows and columns, `cell` inches wide; None: an empty place.

    Labels of rows stand to the left, of columns above, and each image's caption below it.
    """
    count = max(map(len, images))
    lines = max((text.count("\n") + 1 for row in captions for text in row), default=0)
    below = 0.13 * lines + 0.14 * (lines > 0)  # inches that captions take
    size = cell * 1.08 * count, (cell * 1.08 + below) * len(images)
    fig, axes = plt.subplots(len(images), count, figsize=size, squeeze=False)
    plt.setp(axes, xticks=[], yticks=[], frame_on=False)
    for places, row, texts in zip_longest(axes, images, captions, fillvalue=()):
        for ax, image in zip(places, row, strict=False):
            show_image(ax, image)
        for ax, text in zip(places, texts, strict=False):
            ax.set_xlabel(text, fontsize=7, labelpad=3)
    for ax, text in zip(axes[0], columns, strict=False):
        ax.set_title(text, fontsize=min(8, 9 * cell))
    for ax, text in zip(axes[:, 0], rows, strict=False):
        ax.set_ylabel(text, rotation=0, ha="right", va="center", fontsize=8, labelpad=6)
    fig.subplots_adjust(wspace=0.06, hspace=0.06 + below / cell)
    return fig


def show_image(ax: plt.Axes, image: np.ndarray | None, **options: Any) -> None:
    """Show an image (H, W, 3), if there is one."""
    if image is not None:
        smooth = max(image.shape[:2]) > _SMALL
        ax.imshow(image, interpolation="antialiased" if smooth else "nearest", **options)


def overlay(pixels: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Lay maps (N, H, W) in [0, 1] over images (N, H, W, 3) uint8, made grey and darker.

    A map is opaque in proportion to its value, so that it hides nothing where no saliency is.
    """
    grey = 0.65 * np.repeat(pixels.mean(axis=3, keepdims=True) / 255, 3, axis=3)
    weight = _OPACITY * np.asarray(maps)[..., None]
    colours = plt.get_cmap("inferno")(0.25 + 0.75 * np.asarray(maps))[..., :3]
    return (255 * ((1 - weight) * grey + weight * colours)).round().astype(np.uint8)


def saliency_grid(
    pixels: np.ndarray, masks: np.ndarray | None, maps: Maps, captions: Grid, rows: Texts
) -> plt.Figure:
    """Draw images in rows, methods in columns, and outlines of the objects: the paper's Figure 5.

    Takes images (N, H, W, 3) uint8, masks (N, H, W) bool if they are known, maps (N, H, W) in
    [0, 1] by method, a caption for each image and method (red if it holds a ✗), and class names.
    """
    shown = zip(pixels, *(overlay(pixels, each) for each in maps.values()), strict=True)
    names = ["image", *(style.wrap(style.label_of(method), 14) for method in maps)]
    captions = [["", *map(style.wrap, row)] for row in captions]
    cell = min(1.1, 10.5 / len(names))
    fig = image_grid([*shown], [*map(style.wrap, rows)], names, captions, cell)
    for place, ax in enumerate(fig.axes):
        if masks is not None:
            ax.contour(masks[place // len(names)], [0.5], colors="white", linewidths=0.8)
        ax.title.set_fontsize(6.5)
        ax.xaxis.label.set_color(_WRONG if "✗" in ax.get_xlabel() else "0.15")
    low = fig.subplotpars.bottom - 0.6 / fig.get_figheight()  # below the last captions
    fig.text(0.5, low, style.NAMES["saliency"], ha="center", va="top", fontsize=7.5)
    _add_colour_bar(fig)
    return fig


def _add_colour_bar(fig: plt.Figure) -> None:
    """Show, right of all images, the colours that `overlay` gives to a mid-grey pixel."""
    ramp = overlay(np.full((1, 1, 256, 3), 128, np.uint8), np.linspace(0, 1, 256)[None, None])
    place = fig.add_axes((0.915, 0.3, 0.012, 0.4))
    bar = fig.colorbar(cm.ScalarMappable(cmap=colors.ListedColormap(ramp[0, 0] / 255)), cax=place)
    bar.set_label("saliency, share of the map's greatest", fontsize=7)
    bar.ax.tick_params(labelsize=7)


def counterparts(
    groups: Mapping[str, Sequence[int]], real: Pick, generated: Pick, captions: Texts
) -> plt.Figure:
    """Draw generated images, each close to the right of its real counterpart, a row per group.

    Takes the places of each group, functions that return the real and the generated image of a
    place, and a caption for each place: below its pair, of about 30 letters a line.
    """
    groups = {style.wrap(name): places for name, places in groups.items() if len(places)}
    images = [[show(i) for i in places for show in (real, generated)] for places in groups.values()]
    texts = [[text for i in places for text in ("", captions[i])] for places in groups.values()]
    titles = ["real", "generated"] * max(map(len, groups.values()))
    fig = image_grid(images, list(groups), titles, texts)
    fig.set_figwidth(1.25 * fig.get_figwidth())  # room that the anchors put between pairs
    for place, ax in enumerate(fig.axes):
        ax.set_anchor("EW"[place % 2])
        ax.xaxis.label.set_x(-0.03)  # the middle of the pair
    return fig


def pipeline_diagram(lanes: Mapping[str, Lane], joined: Collection[str]) -> plt.Figure:
    """Draw methods one below the other, their stages from left to right, with arrows between.

    A stage with as many cells as the one before takes one from each; any other takes all from all.
    From a lane's first cell, the training image, an arrow also leads to the stages in `joined`.
    """
    rows = [max(map(len, lane.values())) for lane in lanes.values()]
    heights = [_HEAD + count * _ROW + _FOOT for count in rows]
    fig = plt.figure(figsize=(_WIDTH, sum(heights)))
    ax = fig.add_axes((0, 0, 1, 1), xlim=(0, _WIDTH), ylim=(sum(heights), 0))
    ax.autoscale(enable=False)
    ax.axis("off")
    for number, (name, lane) in enumerate(lanes.items()):
        top = sum(heights[:number])
        ax.text(0.15, top + 0.2, name, fontsize=11, weight="bold", va="center")
        _draw_lane(ax, lane, top + _HEAD, rows[number], joined)
    return fig


def _draw_lane(ax: plt.Axes, lane: Lane, top: float, rows: int, joined: Collection[str]) -> None:
    """Draw a method below `top`, all its stages equally wide and in the middle of its rows."""
    placed = {}
    for number, (stage, cells) in enumerate(lane.items()):
        x = (number + 0.5) * _WIDTH / len(lane)
        y = top + (rows - len(cells)) * _ROW / 2 + _BOX[1] / 2
        title = style.wrap(stage, _LETTERS)
        ax.text(x, top - 0.1, title, fontsize=9, ha="center", va="bottom")
        placed[stage] = [_draw_cell(ax, cell, x, y + i * _ROW) for i, cell in enumerate(cells)]
    for before, after in pairwise(placed.values()):
        alike = len(before) == len(after)
        for source, target in zip(before, after, strict=True) if alike else product(before, after):
            if source and target:
                (_, start, y), (end, _, level) = source, target
                _draw_arrow(ax, (start + 0.04, y), (end - 0.04, level))
    (left, _, y), foot = next(iter(placed.values()))[0], top + rows * _ROW + _FOOT / 2
    for stage in joined:
        if present := [place for place in placed.get(stage, ()) if place]:
            x, below = sum(present[-1][:2]) / 2, present[-1][2] + 0.85 * _IMAGE[1]
            around = (left, y), (left - 0.12, y), (left - 0.12, foot), (x, foot)
            _draw_arrow(ax, *around, (x, below))  # to below two lines of text


def _draw_cell(ax: plt.Axes, cell: Cell, x: float, y: float) -> _Place | None:
    """Draw an image with its text below, or a box with its text inside, around a place."""
    if cell is None:
        return None
    image, text = cell
    text, align = style.wrap(text, _LETTERS), {"fontsize": 7, "ha": "center"}
    wide, tall = _BOX if image is None else _IMAGE
    left, right, top, bottom = x - wide / 2, x + wide / 2, y - tall / 2, y + tall / 2
    if image is None:
        ax.add_patch(patches.FancyBboxPatch((left, top), wide, tall, **_ROUND))
        ax.text(x, y, text, va="center", **align)
    else:
        show_image(ax, image, extent=(left, right, bottom, top), aspect="auto")
        ax.text(x, bottom + 0.05, text, va="top", **align)
    return left, right, y


def _draw_arrow(ax: plt.Axes, *corners: tuple[float, float]) -> None:
    ax.add_patch(patches.FancyArrowPatch(path=path.Path(corners), **_ARROW))
