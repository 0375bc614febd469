"""Numbers with intervals: dots in rows, lines over settings, and the paper's Figure 4."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from diffcore.figures import style

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
_GREY, _OURS = "0.35", style.METHODS["diffcoremix"][1]
_ROW = 0.6  # of the height of a row, for the dots in it
_APART = 2.5  # points between the whiskers of two lines


def interval_dots(
    table: pd.DataFrame, *, row: str, panel: str | None = None, hue: str | None = None,
    xlabel: str | Mapping[str, str] = "", baseline: str | None = None, zero: bool = False,
    marks: Mapping[str, float] | None = None, hollow: str | None = None, percent: bool = True,
    log: bool = False,
) -> Figure:  # fmt: skip
    """Dots with intervals: a row for each value of a column, a panel for each of another.

    Rows that are methods take their label and colour, and markers tell the values of `hue` apart;
    in other rows markers and colours do. Dots of one row stand between two lines. Every dashed
    line, and what a hollow dot says, is in the legend.

    Args:
        table: tidy: value, low, high and the columns named here; a combination may be missing.
        xlabel: of all panels, or by panel, in place of titles.
        baseline: row whose value is a dashed line in each panel, as `marks` (label -> place) are;
            the legend names them.
        zero: for differences: a line at 0, an axis in points, and intervals that hold 0 hollow.
        hollow: column of differences that Holm's correction leaves unclear; then these are hollow.
        percent: whether values are shares.
        log: whether they are overheads on a logarithmic axis (see `_scale_overheads`).
    """
    rows, hues = style.in_order(table[row]), style.colours(table[hue]) if hue else {"": _OURS}
    holds_zero = zero & (table["low"] <= 0) & (table["high"] >= 0)
    table = table.assign(open=table[hollow] if hollow else holds_zero)
    says = "not clear of zero after Holm" if hollow else "interval holds zero"
    size = 2.5 if panel else 5.2, len(rows) * (0.24 + 0.08 * len(hues)) + 0.9
    margin = 0.075 * max((len(style.label_of(name)) for name in rows), default=0)
    fig, panels = style.lay_panels(table, panel, size, 3, xlabel=xlabel, margin=margin)
    lines = [(label or "_", x) for label, x in (marks or {}).items()]
    for ax, _, points in panels:
        ends = points[["value", "low", "high"]]
        if log:
            points = points.assign(**ends.clip(lower=_place_of_none(ends.to_numpy())))
        _draw_rows(ax, points, row, rows, hue, hues)
        own = [(style.label_of(baseline), x) for x in points.loc[points[row] == baseline, "value"]]
        for label, x in lines + own:
            ax.axvline(x, zorder=0, label=label, **style.DASHED)
        if zero:
            ax.axvline(0, zorder=0, **style.ZERO)
        if log:
            _scale_overheads(ax, ends.to_numpy(), [x for _, x in lines])
        elif percent:
            style.as_percent(ax.xaxis, sign="" if zero else "%")
            if not zero:
                style.keep_to_shares([ax], "x", points["value"])
    panels[0][0].set_yticks(range(len(rows)), map(style.label_of, rows))
    panels[0][0].set_ylim(max(len(rows), 1) - 0.5, -0.5)
    says = says if table["open"].any() else ""
    style.put_legend(panels[0][0], _explain(rows, hues if hue else {}, says))
    return fig


def _draw_rows(
    ax: Axes, points: pd.DataFrame, row: str, rows: list, hue: str | None, hues: Mapping
) -> None:
    """Draw each point in its row, the values of `hue` one below the other, rows parted by lines."""
    if len(hues) > 1:
        ax.grid(visible=False, axis="y")
        for between in range(1, len(rows)):
            ax.axhline(between - 0.5, zorder=0, color=plt.rcParams["grid.color"], lw=0.8)
    for point in points.to_dict("records"):
        name = point[hue] if hue else ""
        place = list(hues).index(name) % len(_MARKERS)
        y = rows.index(point[row]) + (place - (len(hues) - 1) / 2) * _ROW / max(len(hues), 3)
        colour = style.METHODS.get(point[row], ("", hues[name]))[1]
        face = "white" if point["open"] else colour
        ax.errorbar(point["value"], y, xerr=style.reach(point), fmt=_MARKERS[place], ms=5.5, lw=1.3,
                    capsize=2.5, color=colour, mfc=face)  # fmt: skip


def _explain(rows: list, hues: Mapping[str, style.Colour], says: str) -> list[Line2D]:
    """Make handles: of markers, grey where rows have colours, and of what a hollow one `says`."""
    grey = _GREY if set(rows) <= style.METHODS.keys() else None
    dots = [
        Line2D([], [], ls="", marker=marker, color=grey or colour, label=style.label_of(name))
        for (name, colour), marker in zip(hues.items(), _MARKERS, strict=False)
    ]
    white = Line2D([], [], ls="", marker="o", color=_GREY, mfc="white", label=says)
    return [*dots, white] if says else dots


def _place_of_none(overheads: np.ndarray) -> float:
    """Where what is not above 0 stands on a logarithmic axis: a fifth of it left of what is."""
    least = overheads[overheads > 0].min(initial=1.0)
    return least / max(3.0, (overheads.max() / least) ** 0.25)


def _scale_overheads(ax: Axes, overheads: np.ndarray, marks: Sequence[float] = ()) -> None:
    """Make the horizontal axis logarithmic, from the least overhead above 0 on, in per cent.

    No logarithm has a place for 0: what is not above it stands at the left end, and is named there.
    """
    none, top = _place_of_none(overheads), 1.5 * max(overheads.max(), 0.01, *marks)
    least = overheads[overheads > 0].min(initial=1.0)
    powers = 10.0 ** np.arange(np.floor(np.log10(none)), np.ceil(np.log10(top)) + 1)
    steps = (1, 2, 5) if top < 100 * least else (1,)
    ticks = [step * power for power in powers for step in steps]
    labels = {tick: f"{100 * tick:,.6g}%" for tick in ticks if np.sqrt(none * least) < tick <= top}
    any_none = (overheads <= 0).any()
    labels |= {none: "none\nmeasurable"} if any_none else {}
    ax.set_xscale("log")
    ax.set_xticks(list(labels), list(labels.values()))
    ax.set_xticks([], minor=True)
    ax.set_xlim((none if any_none else least) / 1.3, top)


def interval_lines(
    table: pd.DataFrame, *, x: str, hue: str | None = None, panel: str | None = None,
    xlabel: str | Mapping[str, str] = "", ylabel: str = "",
    marks: Mapping[str, float] | float | None = None, log: bool = False, percent: bool = True,
    ylim: tuple[float, float] | None = None,
) -> Figure:  # fmt: skip
    """Lines over a column, with intervals if there are any, a panel for each value of another.

    The few points of a sweep over a factor of ten or more stand on a logarithmic axis unasked.

    Args:
        table: tidy: value, perhaps low and high, and the columns named here.
        x: column of numbers, or of names, which keep the table's order.
        xlabel: of all panels, or by panel, in place of titles; `marks`, the settings in use, are
            dashed lines, likewise.
        log: whether both axes are logarithmic.
        percent: whether values are shares. Whatever they are, panels share the vertical axis.
    """
    count = table[panel].nunique() if panel else 1
    size = (6.0, 3.4) if count == 1 else (3.3, 3.0) if count < 5 else (2.1, 2.3)
    fig, panels = style.lay_panels(
        table, panel, size, 4 if count < 5 else 5, xlabel=xlabel, ylabel=ylabel
    )
    for ax, name, points in panels:
        hues = style.colours(table[hue]) if hue else {"_": _OURS}
        for place, (value, colour) in enumerate(hues.items()):
            rows = points[points[hue] == value] if hue else points
            aside = _APART * (place - (len(hues) - 1) / 2)
            _draw_line(ax, rows, x, colour, value, aside)
        if (mark := marks.get(name) if isinstance(marks, Mapping) else marks) is not None:
            ax.axvline(mark, zorder=0, label="setting in use", **style.DASHED)
        _scale(ax, points[x], log)
        if percent:
            style.as_percent(ax.yaxis)
        if ylim:
            ax.set_ylim(ylim)
    if percent and not ylim:  # once all panels are drawn, as they share their axis
        style.keep_to_shares([ax for ax, *_ in panels], "y", table["value"])
    style.put_legend(panels[0][0])
    return fig


def _draw_line(
    ax: Axes, rows: pd.DataFrame, x: str, colour: style.Colour, name: str, aside: float
) -> None:
    """Draw one line, `aside` points to the right, so that whiskers at one place stand apart."""
    rows = rows.sort_values(x) if pd.api.types.is_numeric_dtype(rows[x]) else rows
    ends = style.reach(rows) if {"low", "high"} <= set(rows) else None
    drawn = ax.errorbar(rows[x], rows["value"], yerr=ends, fmt="o-" if len(rows) < 26 else "-",
                        ms=4, lw=1.5, elinewidth=1, capsize=2, color=colour,
                        label=style.label_of(name))  # fmt: skip
    moved = ax.transData + ScaledTranslation(aside / 72, 0, ax.figure.dpi_scale_trans)
    for artist in drawn.get_children():  # once they are in the limits of the axes
        artist.set_transform(moved)


def _scale(ax: Axes, values: pd.Series, log: bool) -> None:
    """Give a few points a tick each, and a wide range a logarithmic axis."""
    if not pd.api.types.is_numeric_dtype(values):
        plt.setp(ax.get_xticklabels(), rotation=35, ha="right", rotation_mode="anchor")
        return
    points = np.unique(values)
    few = len(points) <= 8  # each has a tick of its own, if there is room
    wide = log or (few and points[0] > 0 and points[-1] >= 10 * points[0])
    if wide:
        style.scale_log(ax)
    if few and (wide or (np.diff(points) >= np.ptp(points) / 8).all()):
        ax.set_xticks(points, [f"{float(f'{point:.3g}'):,.9g}" for point in points])
        ax.set_xticks([], minor=True)
    if log:
        ax.set_yscale("log")


def overhead_accuracy(table: pd.DataFrame) -> Figure:
    """Overhead of training against accuracy, a panel a test set; upper left is better.

    Takes shares by method and test: value, low, high (top-1), overhead (of the method's own step
    alone) and with_images (of what is paid before training too).
    """
    overheads = table[["overhead", "with_images"]].to_numpy()
    table = table.assign(**table[["overhead", "with_images"]].clip(_place_of_none(overheads)))
    labels = {"xlabel": "overhead of training", "ylabel": "top-1 accuracy"}
    fig, panels = style.lay_panels(table, "test", (4.0, 3.6), 3, **labels)
    for ax, _, points in panels:
        for row in points.to_dict("records"):
            label, colour = style.METHODS[row["method"]]
            ax.errorbar(row["overhead"], row["value"], yerr=style.reach(row), fmt="o", capsize=2,
                        color=colour, label=label)  # fmt: skip
            if row["with_images"] > row["overhead"]:  # in white, joined to it
                ends = [row["overhead"], row["with_images"]]
                ax.plot(ends, [row["value"]] * 2, "o-", lw=0.8, color=colour, mfc="white", zorder=1)
        _scale_overheads(ax, overheads)
        style.as_percent(ax.yaxis)
    style.keep_to_shares([ax for ax, *_ in panels], "y", table["value"])
    panels[0][0].plot([], [], "o-", color="0.3", mfc="white", label="with the making of its images")
    style.put_legend(panels[0][0])
    return fig
