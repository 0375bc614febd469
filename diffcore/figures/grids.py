"""Images in rows and columns, and saliency maps laid over them: the paper's Figures 2 and 5."""

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from diffcore.figures import style

_WRONG = "#b00020"  # of the captions of wrong answers
_LEGEND = (
    "Evidence for the true class, named to the left. White: the object's outline, where it is "
    "known. Below: share of the\nenergy inside it; ✓ the answer is right; ✗ it is wrong, and what "
    "was answered."
)
_SMALL = 100  # pixels; every one of them is shown, while larger images are shrunk smoothly


def image_grid(
    images: Sequence[Sequence[np.ndarray | None]], *, rows: Sequence[str] = (),
    columns: Sequence[str] = (), captions: Sequence[Sequence[str]] = (), cell: float = 0.95,
) -> Figure:  # fmt: skip
    """Images (H, W, 3) uint8 in rows and columns, `cell` inches wide; None for an empty place.

    Labels of rows stand to the left, of columns above, and each image's caption below it.
    """
    count = max(len(row) for row in images)
    lines = max((text.count("\n") + 1 for row in captions for text in row), default=0)
    below = 0.13 * lines + 0.14 * (lines > 0)  # inches that captions take
    size = cell * 1.08 * count, (cell * 1.08 + below) * len(images)
    fig, axes = plt.subplots(len(images), count, figsize=size, squeeze=False)
    for r, row in enumerate(axes):
        for c, ax in enumerate(row):
            _show(ax, images[r][c] if c < len(images[r]) else None)
            if len(captions) and c < len(captions[r]):
                ax.set_xlabel(captions[r][c], fontsize=7, labelpad=3)
            if len(columns) and r == 0:
                ax.set_title(columns[c], fontsize=min(8, 9 * cell))
        if len(rows):
            row[0].set_ylabel(rows[r], rotation=0, ha="right", va="center", fontsize=8, labelpad=6)
    fig.subplots_adjust(wspace=0.06, hspace=0.06 + below / cell)
    return fig


def _show(ax: Axes, image: np.ndarray | None) -> None:
    ax.set(xticks=[], yticks=[], frame_on=False)
    if image is not None:
        ax.imshow(image, interpolation=interpolation(image))


def interpolation(image: np.ndarray) -> str:
    """Tell how to enlarge or shrink an image (H, W, 3)."""
    return "nearest" if max(image.shape[:2]) <= _SMALL else "antialiased"


def overlay(pixels: np.ndarray, maps: np.ndarray, opacity: float = 0.75) -> np.ndarray:
    """Lay maps (N, H, W) in [0, 1] over images (N, H, W, 3) uint8, made grey and darker.

    Opaque in proportion to the map, so that nothing hides where no saliency is.
    """
    maps = np.asarray(maps)
    grey = 0.65 * np.repeat(pixels.mean(axis=3, keepdims=True) / 255, 3, axis=3)
    weight = opacity * maps[..., None]
    colours = plt.get_cmap("inferno")(0.25 + 0.75 * maps)[..., :3]
    return (255 * ((1 - weight) * grey + weight * colours)).round().astype(np.uint8)


def saliency_grid(
    pixels: np.ndarray, masks: np.ndarray | None, maps: Mapping[str, np.ndarray],
    captions: Sequence[Sequence[str]], rows: Sequence[str] = (),
) -> Figure:  # fmt: skip
    """Images in rows, methods in columns: the paper's Figure 5, with the outlines of the objects.

    Takes images (N, H, W, 3) uint8, masks (N, H, W) bool if they are known, maps (N, H, W) in
    [0, 1] by method (a key of METHODS), for each image a text a method, of which those with a ✗ are
    red, and the names of the images' classes.
    """
    laid = [overlay(pixels, each) for each in maps.values()]
    images = [[image, *(each[i] for each in laid)] for i, image in enumerate(pixels)]
    names = ["image", *(style.wrap(style.METHODS[method][0], 14) for method in maps)]
    lines = [["", *map(style.wrap, row)] for row in captions]
    rows = [style.wrap(name, 12) for name in rows]
    cell = min(1.1, 10.5 / len(names))
    fig = image_grid(images, rows=rows, columns=names, captions=lines, cell=cell)
    for place, ax in enumerate(fig.axes):
        if masks is not None:
            ax.contour(masks[place // len(names)], [0.5], colors="white", linewidths=0.8)
        ax.title.set_fontsize(6.5)
        ax.xaxis.label.set_color(_WRONG if "✗" in ax.get_xlabel() else "0.15")
    _add_colour_bar(fig)
    low = fig.subplotpars.bottom - 0.6 / fig.get_figheight()  # below the last captions
    fig.text(0.5, low, _LEGEND, ha="center", va="top", fontsize=7.5)
    return fig


def _add_colour_bar(fig: Figure) -> None:
    """Show what an `overlay` makes of saliencies on a mid-grey pixel, right of all images."""
    ramp = overlay(np.full((1, 1, 256, 3), 128, np.uint8), np.linspace(0, 1, 256)[None, None])
    place = fig.add_axes((0.915, 0.3, 0.012, 0.4))
    bar = fig.colorbar(ScalarMappable(cmap=ListedColormap(ramp[0, 0] / 255)), cax=place)
    bar.set_label("saliency, share of the map's greatest", fontsize=7)
    bar.ax.tick_params(labelsize=7)


def counterparts(
    groups: Mapping[str, Sequence[int]], real: Callable[[int], np.ndarray],
    generated: Callable[[int], np.ndarray], captions: Sequence[str],
) -> Figure:  # fmt: skip
    """Generated images, each close to the right of its real counterpart, a row a group.

    Takes group -> places; what shows the real and the generated image of a place; and a caption for
    each place, which stands below its pair and may be as wide as both (about 30 letters).
    """
    groups = {name: places for name, places in groups.items() if len(places)}
    images, texts = [], []
    for places in groups.values():
        images.append([show(at) for at in places for show in (real, generated)])
        texts.append([text for at in places for text in ("", captions[at])])
    titles = ["real", "generated"] * max(map(len, groups.values()))
    fig = image_grid(images, rows=[*map(style.wrap, groups)], columns=titles, captions=texts)
    fig.set_figwidth(1.25 * fig.get_figwidth())  # room that the anchors put between pairs
    for place, ax in enumerate(fig.axes):
        ax.set_anchor("EW"[place % 2])
        ax.xaxis.label.set_x(-0.03)  # the middle of the pair
    return fig
