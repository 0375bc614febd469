"""Numbers with intervals: dots in rows, lines over settings, and the paper's Figure 4."""

from collections.abc import Iterable, Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from diffcore.figures import style

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
_ONE = {"": style.METHODS["diffcoremix"][1]}  # the colour where nothing is told apart
_ROW = 0.6  # of the height of a row, for the dots in it
_APART = 2.5  # points between the whiskers of two lines


def interval_dots(
    table: pd.DataFrame, *, row: str, panel: str | None = None, hue: str | None = None,
    xlabel: style.PerPanel = "", baseline: str | None = None, zero: bool = False,
    marks: Mapping[str, float] | None = None, hollow: str | None = None, percent: bool = True,
    log: bool = False,
) -> Figure:  # fmt: skip
    """Draw dots with intervals: a row for each value of a column, a panel for each of another.

    Methods in rows take their label and colour, and markers tell the values of `hue` apart. In
    other rows markers and colours do. The legend names dashed lines and explains hollow dots.

    Args:
        table: value, low, high and the columns named here; a combination may be missing.
        xlabel: for all panels, or by panel, in place of titles.
        baseline: row whose value is a dashed line in each panel, as `marks` (label -> place) are.
        zero: for differences: a line at 0, an axis in points, and dots hollow whose interval
            holds 0.
        hollow: column of differences that Holm's correction leaves unclear; then these are hollow.
        percent: whether values are shares.
        log: whether they are overheads, on a logarithmic axis (see `_scale_overheads`).
    """
    rows, hues = style.in_order(table[row]), style.colours(table[hue]) if hue else _ONE
    overheads = table[["value", "low", "high"]]
    if log:
        table = table.assign(**overheads.clip(lower=_place_of_none(overheads.to_numpy())))
    open_ = table[hollow] if hollow else zero & (table["low"] <= 0) & (table["high"] >= 0)
    table = table.assign(row=table[row], hue=table[hue] if hue else "", open=open_)
    size = 2.5 if panel else 5.2, len(rows) * (0.24 + 0.08 * len(hues)) + 0.9
    margin = 0.075 * max((len(style.label_of(name)) for name in rows), default=0)
    panels = style.lay_panels(table, panel, size, 3, xlabel, margin=margin)
    for ax, _, points in panels:
        _draw_rows(ax, points, rows, hues)
        lines = [
            (style.label_of(baseline), x) for x in points.loc[points["row"] == baseline, "value"]
        ]
        for label, x in lines + list((marks or {}).items()):
            ax.axvline(x, zorder=0, label=label, **style.DASHED)
        if zero:
            ax.axvline(0, zorder=0, color="0.3", lw=1.0)
        if log:
            _scale_overheads(ax, overheads.to_numpy(), (marks or {}).values())
        elif percent and zero:
            style.as_percent(ax.xaxis, sign="")
        elif percent:
            style.as_shares(ax.xaxis, points["value"])
    ax = panels[0][0]
    ax.set_yticks(range(len(rows)), map(style.label_of, rows))
    ax.set_ylim(max(len(rows), 1) - 0.5, -0.5)
    grey = "0.35" if set(rows) <= style.METHODS.keys() else None
    for (name, colour), marker in zip(hues.items() if hue else (), _MARKERS, strict=False):
        ax.plot([], [], marker, color=grey or colour, label=style.label_of(name))
    if table["open"].any():
        label = "not clear of zero after Holm" if hollow else "interval holds zero"
        ax.plot([], [], "o", color="0.35", mfc="white", label=label)
    return style.put_legend(ax)


def _draw_rows(ax: Axes, points: pd.DataFrame, rows: list[str], hues: Mapping[str, str]) -> None:
    """Draw each point in its row, the values of `hue` one below the other, lines between rows."""
    if len(hues) > 1:
        ax.grid(visible=False, axis="y")
        for between in range(1, len(rows)):
            ax.axhline(between - 0.5, zorder=0, color=plt.rcParams["grid.color"], lw=0.8)
    for point in points.to_dict("records"):
        name, place = point["row"], list(hues).index(point["hue"])
        y = rows.index(name) + (place - (len(hues) - 1) / 2) * _ROW / max(len(hues), 3)
        colour = style.METHODS.get(name, ("", hues[point["hue"]]))[1]
        look = {"color": colour, "mfc": "white" if point["open"] else colour, "ms": 5.5, "lw": 1.3}
        marker, ends = _MARKERS[place % len(_MARKERS)], style.reach(point)
        ax.errorbar(point["value"], y, xerr=ends, fmt=marker, capsize=2.5, **look)


def _place_of_none(overheads: np.ndarray) -> float:
    """Return the place of what is not above 0 on a logarithmic axis: left of all that is."""
    least = overheads[overheads > 0].min(initial=1.0)
    return least / max(3.0, (overheads.max() / least) ** 0.25)


def _scale_overheads(ax: Axes, overheads: np.ndarray, marks: Iterable[float] = ()) -> None:
    """Make the horizontal axis logarithmic, from the least overhead above 0 on, in per cent.

    A logarithm has no place for 0: what is not above it stands at the left end and is named there.
    """
    none, least = _place_of_none(overheads), overheads[overheads > 0].min(initial=1.0)
    top = 1.5 * max(overheads.max(), 0.01, *marks)
    powers = 10.0 ** np.arange(np.floor(np.log10(none)), np.ceil(np.log10(top)) + 1)
    ticks = np.outer(powers, (1, 2, 5) if top < 100 * least else 1).ravel()
    labels = {tick: f"{100 * tick:,.6g}%" for tick in ticks if np.sqrt(none * least) < tick <= top}
    if (overheads <= 0).any():
        labels[none] = "none\nmeasurable"
    ax.set_xscale("log")
    ax.set_xticks(list(labels), list(labels.values()))
    ax.set_xticks([], minor=True)
    ax.set_xlim((none if none in labels else least) / 1.3, top)


def interval_lines(
    table: pd.DataFrame, *, x: str, hue: str | None = None, panel: str | None = None,
    xlabel: style.PerPanel = "", ylabel: str = "", marks: style.PerPanel = None, log: bool = False,
    percent: bool = True, ylim: tuple[float, float] | None = None,
) -> Figure:  # fmt: skip
    """Draw lines over a column of numbers, a panel for each value of another column.

    A few points over a factor of ten or more stand on a logarithmic axis.

    Args:
        table: value, perhaps low and high, and the columns named here.
        xlabel: for all panels, or by panel, in place of titles.
        marks: settings in use, for all panels or by panel: dashed lines.
        log: whether both axes are logarithmic.
        percent: whether values are shares. Panels share the vertical axis.
    """
    hues = style.colours(table[hue]) if hue else _ONE
    count = table[panel].nunique() if panel else 1
    size = (6.0, 3.4) if count == 1 else (3.3, 3.0) if count < 5 else (2.1, 2.3)
    panels = style.lay_panels(table, panel, size, 4 if count < 5 else 5, xlabel, ylabel)
    for ax, name, points in panels:
        for place, (value, colour) in enumerate(hues.items()):
            rows = points[points[hue] == value] if hue else points
            aside = _APART * (place - (len(hues) - 1) / 2)
            _draw_line(ax, rows.sort_values(x), x, aside, color=colour, label=style.label_of(value))
        if (mark := style.in_panel(marks, name)) is not None:
            ax.axvline(mark, zorder=0, label="setting in use", **style.DASHED)
        _scale(ax, np.unique(points[x]), log)
    for ax, *_ in panels:  # once all are drawn, as they share their axis
        if percent:
            style.as_shares(ax.yaxis, table["value"])
        if ylim:
            ax.set_ylim(ylim)
    return style.put_legend(panels[0][0])


def _draw_line(ax: Axes, rows: pd.DataFrame, x: str, aside: float, **options: str) -> None:
    """Draw one line, `aside` points to the right, so that whiskers at one place stand apart."""
    ends = style.reach(rows) if {"low", "high"} <= set(rows) else None
    look = {"fmt": "o-" if len(rows) < 26 else "-", "ms": 4, "lw": 1.5, "elinewidth": 1}
    drawn = ax.errorbar(rows[x], rows["value"], yerr=ends, capsize=2, **look, **options)
    moved = ax.transData + ScaledTranslation(aside / 72, 0, ax.figure.dpi_scale_trans)
    for artist in drawn.get_children():  # once they are in the limits of the axes
        artist.set_transform(moved)


def _scale(ax: Axes, points: np.ndarray, log: bool) -> None:
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


def overhead_accuracy(table: pd.DataFrame) -> Figure:
    """Draw the overhead of training against accuracy, a panel per test set: upper left is better.

    Takes shares by method and test: value, low, high (top-1), overhead (of the method's step alone)
    and with_images (of what is paid before training too).
    """
    columns = ["overhead", "with_images"]
    overheads = table[columns].to_numpy()
    table = table.assign(**table[columns].clip(_place_of_none(overheads)))
    labels = "overhead of training", "top-1 accuracy"
    panels = style.lay_panels(table, "test", (4.0, 3.6), 3, *labels)
    for ax, _, points in panels:
        for point in points.to_dict("records"):
            label, colour = style.METHODS[point["method"]]
            x, y, further = point["overhead"], point["value"], point["with_images"]
            look = {"fmt": "o", "capsize": 2, "color": colour, "label": label}
            ax.errorbar(x, y, yerr=style.reach(point), **look)
            if further > x:  # in white, joined to it
                ax.plot([x, further], [y, y], "o-", lw=0.8, color=colour, mfc="white", zorder=1)
        _scale_overheads(ax, overheads)
    for ax, *_ in panels:
        style.as_shares(ax.yaxis, table["value"])
    label = "with the generation of its images"
    panels[0][0].plot([], [], "o-", color="0.3", mfc="white", label=label)
    return style.put_legend(panels[0][0])
