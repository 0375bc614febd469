"""Figures of the fifth notebook: where classifiers look, and how much of that is the object."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from diffcore.figures.images import image_grid
from diffcore.figures.style import METHODS, PALETTE, test_title, wrap

_PANELS = {"energy": "energy in the object's mask", "hit": "maximum in the mask"}
#: What the maps of wrong answers are about -> (marker, colour).
_ABOUT = {
    "right answer, true class": ("o", PALETTE[0]),
    "wrong answer, true class": ("D", PALETTE[1]),
    "wrong answer, answered class": ("s", PALETTE[3]),
}


def overlay(pixels: np.ndarray, maps: np.ndarray, opacity: float = 0.75) -> np.ndarray:
    """Lay maps (N, H, W) in [0, 1] over images (N, H, W, 3) uint8, made grey and darker.

    Opaque in proportion to the map, so that nothing hides where no saliency is.

    Returns:
        Like the images.
    """
    maps = np.asarray(maps)
    grey = 0.65 * np.repeat(pixels.mean(axis=3, keepdims=True) / 255, 3, axis=3)
    weight = opacity * maps[..., None]
    colours = plt.get_cmap("inferno")(0.25 + 0.75 * maps)[..., :3]
    return (255 * ((1 - weight) * grey + weight * colours)).round().astype(np.uint8)


def saliency_grid(
    pixels: np.ndarray,
    masks: np.ndarray | None,
    maps: Mapping[str, np.ndarray],
    captions: Sequence[Sequence[str]],
) -> Figure:
    """Images in rows, methods in columns: the paper's Figure 5, with the outlines of the objects.

    Args:
        pixels: (N, H, W, 3) uint8, shown in the first column.
        masks: of the objects, (N, H, W) bool; None if they are not known.
        maps: method (a key of METHODS) -> (N, H, W) in [0, 1].
        captions: for each image, a text a method.
    """
    laid = [overlay(pixels, each) for each in maps.values()]
    rows = [[image, *(each[i] for each in laid)] for i, image in enumerate(pixels)]
    names = ["image", *(wrap(METHODS[method][0], 14) for method in maps)]
    below = [["", *row] for row in captions]
    fig = image_grid(rows, columns=names, captions=below, cell=min(1.1, 10.5 / len(names)))
    fig.subplots_adjust(hspace=0.28)
    for place, ax in enumerate(fig.axes):
        if masks is not None:
            ax.contour(masks[place // len(names)], [0.5], colors="white", linewidths=0.8)
        ax.title.set_fontsize(6.5)
    return fig


def saliency_dots(table: pd.DataFrame, *, chance: float = 0.0, over: str | None = None) -> Figure:
    """Means with intervals: a row a method, a panel for each measure and split.

    Args:
        table: tidy, columns split, method (a key of METHODS), measure, value, low, high.
        chance: level of a uniform map, marked in all panels.
        over: the method that the values are gains over; then zero is marked.
    """
    label = f",\ngain over {METHODS[over][0]}" if over else ""
    mark = (0.0,) if over else (chance, f"chance: the mask's share, {chance:.0%}")
    splits, methods = table["split"].unique(), list(table["method"].unique())
    size = 7.6, 2 * (0.24 * len(methods) + 0.75)
    fig, axes = plt.subplots(2, len(splits), figsize=size, sharey=True, sharex="row", squeeze=False)
    for row, measure in zip(axes, _PANELS, strict=True):
        for ax, split in zip(row, splits, strict=True):
            points = table[(table["split"] == split) & (table["measure"] == measure)]
            _dots(ax, points.set_index("method").loc[methods])
            _mark(ax, *mark)
            ax.set(xlabel=_PANELS[measure] + label)
    for ax, split in zip(axes[0], splits, strict=True):
        ax.set_title(test_title(split))
    _name_rows(axes[0, 0], methods)
    fig.tight_layout()
    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="lower center", frameon=False, bbox_to_anchor=(0.5, 1.0))
    return fig


def technique_dots(table: pd.DataFrame) -> Figure:
    """What one method gains over others by each technique: a panel a split.

    Args:
        table: tidy, columns technique, split, over (a key of METHODS), value, low, high.
    """
    splits, techniques = table["split"].unique(), list(table["technique"].unique())
    others = table["over"].unique()
    size = 7.6, 0.55 * len(techniques) + 1.1
    fig, axes = plt.subplots(1, len(splits), figsize=size, sharey=True, sharex=True, squeeze=False)
    for ax, split in zip(axes[0], splits, strict=True):
        for i, over in enumerate(others):
            points = table[(table["split"] == split) & (table["over"] == over)]
            label, colour = METHODS[over]
            y = np.arange(len(techniques)) + 0.24 * (i - (len(others) - 1) / 2)
            _interval(ax, points.set_index("technique").loc[techniques], y, "o", colour,
                      f"over {label}")  # fmt: skip
        _mark(ax, 0.0)
        ax.set(title=test_title(split), xlabel="gain in the mask's energy")
    axes[0, 0].set_yticks(np.arange(len(techniques)), techniques)
    axes[0, 0].set_ylim(len(techniques) - 0.5, -0.5)
    _legend_above(fig, axes[0, 0])
    return fig


def mistake_dots(table: pd.DataFrame, chance: float) -> Figure:
    """Energy in the mask for right and wrong answers: a row a method, a panel a split.

    Args:
        table: tidy, columns split, method, about (see `_ABOUT`), value, low, high.
        chance: share of the images that is mask.
    """
    splits, methods = table["split"].unique(), list(table["method"].unique())
    size = 7.6, 0.55 * len(methods) + 1.1
    fig, axes = plt.subplots(1, len(splits), figsize=size, sharey=True, sharex=True, squeeze=False)
    for ax, split in zip(axes[0], splits, strict=True):
        for i, (about, (marker, colour)) in enumerate(_ABOUT.items()):
            points = table[(table["split"] == split) & (table["about"] == about)]
            # A method without a mistake has no row.
            y = [methods.index(method) + 0.2 * (i - 1) for method in points["method"]]
            _interval(ax, points, np.array(y), marker, colour, about)
        _mark(ax, chance)
        ax.set(title=test_title(split), xlabel=_PANELS["energy"])
    _name_rows(axes[0, 0], methods)
    _legend_above(fig, axes[0, 0])
    return fig


def cascade_curves(table: pd.DataFrame, chance: float) -> Figure:
    """What is left of maps while weights are shuffled from the output down: two panels.

    Args:
        table: tidy, columns part (in order), measure ("correlation", "energy"), value, low, high.
            A part "other seed" becomes a line across.
        chance: energy of a uniform map.
    """
    fig, axes = plt.subplots(1, 2, figsize=(7.6, 3.3))
    labels = {"correlation": "rank correlation with own map", "energy": _PANELS["energy"]}
    for ax, (measure, label) in zip(axes, labels.items(), strict=True):
        rows = table[table["measure"] == measure]
        points = rows[rows["part"] != "other seed"]
        ax.errorbar(points["part"], points["value"], yerr=_reach(points), fmt="o-", ms=4, lw=1.2,
                    capsize=2, color=METHODS["diffcoremix"][1])  # fmt: skip
        ax.set(ylabel=label, xlabel="shuffled so far, from the output down to …")
        plt.setp(ax.get_xticklabels(), rotation=35, ha="right", rotation_mode="anchor")
    for value in table.query("part == 'other seed' and measure == 'correlation'")["value"]:
        axes[0].axhline(value, color="0.4", ls=":", label="trained from another seed")
        axes[0].legend(frameon=False)
    axes[1].axhline(chance, color="0.4", ls="--", label="chance: the mask's share")
    axes[1].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes[1].legend(frameon=False)
    fig.tight_layout()
    return fig


# ------------------------------------------------------------------------------------------- parts
def _dots(ax: Axes, points: pd.DataFrame) -> None:
    """One dot with its interval a method, each in its colour."""
    for place, method in enumerate(points.index):
        _interval(ax, points.loc[[method]], np.array([place]), "o", METHODS[method][1], "_")


def _interval(
    ax: Axes,
    points: pd.DataFrame,
    y: np.ndarray,
    marker: str,
    colour: str | tuple[float, ...],
    label: str,
) -> None:
    ax.errorbar(points["value"], y, xerr=_reach(points), fmt=marker, ms=5, capsize=2,
                lw=1.4, color=colour, label=label)  # fmt: skip
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def _reach(points: pd.DataFrame) -> np.ndarray:
    """Distances (2, N) from each value down to its lower and up to its upper bound."""
    value, low, high = (points[name].to_numpy(float) for name in ("value", "low", "high"))
    return np.stack([value - low, high - value])


def _mark(ax: Axes, value: float, label: str = "_") -> None:
    ax.axvline(value, color="0.4", ls="--", lw=1, zorder=0, label=label)


def _name_rows(ax: Axes, methods: Sequence[str]) -> None:
    ax.set_yticks(np.arange(len(methods)), [METHODS[method][0] for method in methods])
    ax.set_ylim(len(methods) - 0.5, -0.5)


def _legend_above(fig: Figure, ax: Axes) -> None:
    """Put the legend of one panel above all."""
    fig.tight_layout()
    handles, labels = ax.get_legend_handles_labels()
    fig.legend(handles, labels, loc="lower center", ncol=len(labels), frameon=False,
               bbox_to_anchor=(0.5, 1.0))  # fmt: skip
