"""Numbers with intervals: dots in rows, lines over settings, and the paper's Figure 4."""

from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import ticker, transforms

from diffcore.figures import style
from diffcore.figures.style import PerPanel

_MARKERS = "os^DvPX<>*"
_ROW = 0.6  # of the height of a row, for the dots in it
_APART = 2.5  # points between the whiskers of two lines


def interval_dots(
    table: pd.DataFrame, *, row: str, panel: str | None = None, hue: str | None = None,
    xlabel: PerPanel = "", baseline: str | None = None, zero: bool = False,
    marks: Mapping[str, float] | None = None, hollow: str | None = None, percent: bool = True,
    log: bool = False,
) -> plt.Figure:  # fmt: skip
    """Draw dots with intervals: a row for each value of a column, a panel for each of another.

    Takes columns value, low, high and those named here. Methods keep their label and colour in
    rows; markers, and colours in other rows, tell the values of `hue` apart. The value of the row
    `baseline` is a dashed line in each panel, as `marks` (label -> place) are. Values are shares
    (`percent`), numbers, or with `log` overheads. With `zero` they are differences: a dot is hollow
    where its interval holds 0 or, instead, where the column `hollow` is true: unclear after Holm.
    """
    ends, marks = table[["value", "low", "high"]], marks or {}
    if log:
        table = table.assign(**ends.clip(lower=0))
    holds_zero = zero & (table["low"] <= 0) & (table["high"] >= 0)
    table = table.assign(row=table[row], hue=table[hue] if hue else "_")
    table["open"] = table[hollow] if hollow else holds_zero
    rows, hues = style.in_order(table["row"]), style.colours(table["hue"])
    size = 2.5 if panel else 5.2, len(rows) * (0.24 + 0.08 * max(len(hues), 1)) + 0.9
    margin = 0.075 * max((len(style.label_of(name)) for name in rows), default=0)
    panels = style.lay_panels(table, panel, size, 3, xlabel, "")
    first = panels[0][0]
    first.figure.set_figwidth(margin + first.figure.get_figwidth())
    for ax, _, points in panels:
        _draw_rows(ax, points, rows, hues)
        for value in points.loc[points["row"] == baseline, "value"]:
            ax.axvline(value, zorder=0, label=style.label_of(baseline), **style.DASHED)
        for label, value in marks.items():
            ax.axvline(value, zorder=0, label=label, **style.DASHED)
        if zero:
            ax.axvline(0, zorder=0, color="0.3", lw=1.0)
        if log:
            _scale_overheads(ax, ends, marks.values())
        elif percent and zero:
            style.as_percent(ax.xaxis, sign="")
        elif percent:
            style.as_shares(ax.xaxis, points["value"])
    first.set_yticks(range(len(rows)), map(style.label_of, rows))
    first.set_ylim(max(len(rows), 1) - 0.5, -0.5)
    grey = "0.35" if set(rows) <= style.METHODS.keys() else None
    for (name, colour), marker in zip(hues.items(), _MARKERS, strict=False):
        first.plot([], [], marker, color=grey or colour, label=style.label_of(name))
    if table["open"].any():
        label = "not clear of zero after Holm" if hollow else "interval holds zero"
        first.plot([], [], "o", color="0.35", mfc="white", label=label)
    return style.put_legend(first)


def _draw_rows(ax: plt.Axes, points: pd.DataFrame, rows: list[str], hues: dict[str, str]) -> None:
    """Draw each point in its row, the values of `hue` one below the other, lines between rows."""
    if len(hues) > 1:
        ax.grid(visible=False, axis="y")
        for between in range(1, len(rows)):
            ax.axhline(between - 0.5, zorder=0, color=plt.rcParams["grid.color"], lw=0.8)
    for point in points.to_dict("records"):
        name, place = point["row"], list(hues).index(point["hue"])
        y = rows.index(name) + (place - (len(hues) - 1) / 2) * _ROW / max(len(hues), 3)
        colour = style.METHODS.get(name, ("", hues[point["hue"]]))[1]
        look = {"ms": 5.5, "lw": 1.3, "mfc": "white" if point["open"] else colour}
        marker = _MARKERS[place % len(_MARKERS)]
        ax.errorbar(point["value"], y, xerr=_reach(point), fmt=marker, color=colour, **look)


def _reach(rows: pd.DataFrame | Mapping[str, float]) -> np.ndarray:
    """Return distances (2, N) from each value to its lower and its upper bound."""
    value, low, high = (np.atleast_1d(rows[name]) for name in ("value", "low", "high"))
    return np.stack([value - low, high - value]).clip(min=0)  # rounding may leave -1e-17


def _scale_overheads(ax: plt.Axes, overheads: pd.DataFrame, marks: Iterable[float] = ()) -> None:
    """Make the horizontal axis logarithmic, in per cent, and linear between 0 and the least above.

    So what is not above 0 has a place, and a tick that names it.
    """
    values = overheads.to_numpy()
    least, top = values[values > 0].min(initial=1.0), 1.5 * max(values.max(), 0.01, *marks)
    ax.set_xscale("symlog", linthresh=least, linscale=0.9)
    steps = (1, 2, 5) if top < 100 * least else (1,)
    ax.xaxis.set_major_locator(ticker.SymmetricalLogLocator(base=10, linthresh=least, subs=steps))
    numbers = {True: "{:,.6g}%", False: ""}  # below the least, beside "none", there is no room
    ax.xaxis.set_major_formatter(
        lambda x, _: numbers[x >= least].format(100 * x) if x else "none\nmeasurable"
    )
    ax.set_xlim(least / 1.3 if (values > 0).all() else -0.4 * least, top)


def interval_lines(
    table: pd.DataFrame,
    *,
    x: str,
    hue: str | None = None,
    panel: str | None = None,
    xlabel: PerPanel = "",
    ylabel: str = "",
    marks: PerPanel = None,
    log: bool = False,
    percent: bool = True,
    ylim: tuple[float, float] | None = None,
) -> plt.Figure:
    """Draw lines over a column of numbers, a panel for each value of another column.

    Takes columns value, those named here, and perhaps low and high. `marks` are the settings in
    use: dashed lines. Few points over a factor of ten, and with `log` both axes, are logarithmic.
    Values are shares (`percent`) or numbers; panels share their axis.
    """
    table = table.assign(hue=table[hue] if hue else "_")
    hues, count = style.colours(table["hue"]), table[panel].nunique() if panel else 1
    size = (6.0, 3.4) if count == 1 else (3.3, 3.0) if count < 5 else (2.1, 2.3)
    panels = style.lay_panels(table, panel, size, 4 if count < 5 else 5, xlabel, ylabel)
    for ax, name, points in panels:
        for place, (value, colour) in enumerate(hues.items()):
            aside = _APART * (place - (len(hues) - 1) / 2)
            rows = points[points["hue"] == value].sort_values(x)
            _draw_line(ax, rows, x, aside, color=colour, label=style.label_of(value))
        if (mark := style.in_panel(marks, name)) is not None:
            ax.axvline(mark, zorder=0, label="setting in use", **style.DASHED)
        _scale(ax, np.unique(points[x]), log)
    first = panels[0][0]  # whose vertical axis all panels share
    if percent:
        style.as_shares(first.yaxis, table["value"])
    if ylim:
        first.set_ylim(ylim)
    return style.put_legend(first)


def _draw_line(ax: plt.Axes, rows: pd.DataFrame, x: str, aside: float, **options: Any) -> None:
    """Draw one line, `aside` points to the right, so that whiskers at one place stand apart."""
    ends = _reach(rows) if {"low", "high"} <= set(rows) else None
    look = {"fmt": "o-" if len(rows) < 26 else "-", "ms": 4, "lw": 1.5, "elinewidth": 1}
    drawn = ax.errorbar(rows[x], rows["value"], yerr=ends, **look, **options)
    moved = ax.transData + transforms.ScaledTranslation(aside / 72, 0, ax.figure.dpi_scale_trans)
    for artist in drawn.get_children():  # once they are in the limits of the axes
        artist.set_transform(moved)


def _scale(ax: plt.Axes, points: np.ndarray, log: bool) -> None:
    """Make a wide range logarithmic, and give each of a few points a tick, if there is room."""
    few = len(points) <= 8
    wide = log or (few and points[0] > 0 and points[-1] >= 10 * points[0])
    if wide:
        style.scale_log(ax)
    if few and (wide or (np.diff(points) >= np.ptp(points) / 8).all()):
        ax.set_xticks(points, [f"{float(f'{point:.3g}'):,.9g}" for point in points])
        ax.set_xticks([], minor=True)
    if log:
        ax.set_yscale("log")


def overhead_accuracy(table: pd.DataFrame) -> plt.Figure:
    """Draw the overhead of training against accuracy, a panel per test set: upper left is better.

    Takes shares by method and test: value, low, high (top-1), overhead (of the method's step alone)
    and with_images (of what is paid before training too).
    """
    overheads = table[["overhead", "with_images"]]
    table = table.assign(**overheads.clip(lower=0))
    size, labels = (4.0, 3.6), ("overhead of training", "top-1 accuracy")
    panels = style.lay_panels(table, "test", size, 3, *labels)
    for ax, _, points in panels:
        for point in points.to_dict("records"):
            label, colour = style.METHODS[point["method"]]
            ends, y = (point["overhead"], point["with_images"]), point["value"]
            ax.plot(ends, [y, y], "o-", lw=0.8, color=colour, mfc="white", zorder=1)
            ax.errorbar(ends[0], y, yerr=_reach(point), fmt="o", color=colour, label=label)
        _scale_overheads(ax, overheads)
    first, label = panels[0][0], "plus generating its images"
    style.as_shares(first.yaxis, table["value"])
    first.plot([], [], "o-", color="0.3", mfc="white", label=label)
    return style.put_legend(first)
