"""What all figures share: one style, a label and a colour for each name, panels and legends."""

import textwrap
from collections.abc import Iterable, Mapping
from itertools import cycle
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
import yaml
from matplotlib import ticker
from matplotlib.axis import Axis

NAMES = yaml.safe_load(Path(__file__).with_name("names.yaml").read_text("utf-8"))
#: name -> (label, colour), in the order of figures
METHODS: dict[str, tuple[str, str]] = NAMES["methods"]
_LABELLED = METHODS | NAMES["measures"]
OTHERS: list[str] = NAMES["others"]  # colours of all other names
LAID_OUT = {"squeeze": False, "layout": "constrained"}
DASHED = {"color": "0.3", "ls": "--", "lw": 1.1}
Size = tuple[float, float]
PerPanel = str | float | Mapping[str, str | float] | None  # for all panels, or panel -> its own


def use_style() -> None:
    """Set the style of all figures; call it once, before the first figure."""
    sns.set_theme("paper", "whitegrid", "colorblind", font_scale=1.15)
    plt.rcParams |= NAMES["settings"]


def wrap(text: str, width: int = 12) -> str:
    """Break a label into lines of at most `width` letters; its line breaks stay."""
    return "\n".join(textwrap.fill(line, width) for line in text.splitlines())


def label_of(name: str) -> str:
    """Return the label of a method or measure, and any other name as it is."""
    return _LABELLED.get(name, (str(name),))[0]


def in_order(names: Iterable[str]) -> list[str]:
    """Return each name once: methods in the order of METHODS, other names in their own order."""
    unique = list(dict.fromkeys(names))
    return sorted(unique, key=list(METHODS).index) if set(unique) <= METHODS.keys() else unique


def colours(names: Iterable[str]) -> dict[str, str]:
    """Return a colour for each name: from names.yaml, or else the next of OTHERS."""
    spare = cycle(OTHERS)
    return {n: _LABELLED[n][1] if n in _LABELLED else next(spare) for n in in_order(names)}


def as_percent(axis: Axis, sign: str = "%") -> None:
    """Label an axis of shares in per cent; differences, in points, have no sign."""
    axis.set_major_formatter(lambda value, _: f"{100 * value:,.6g}{sign}")


def as_shares(axis: Axis, values: pd.Series) -> None:
    """Label an axis in per cent; it ends near 0 and 1 even where an interval reaches further."""
    as_percent(axis)
    if values.between(0, 1).all():
        low, high = axis.get_view_interval()
        axis.axes.set(**{f"{axis.axis_name}lim": (max(low, -0.02), min(high, 1.02))})


def scale_log(ax: plt.Axes) -> None:
    """Make the horizontal axis logarithmic, with plain numbers, on a short axis with more."""
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:,.6g}")
    ax.xaxis.set_minor_formatter(ticker.LogFormatter(minor_thresholds=(1.5, 0.8)))


def in_panel(values: PerPanel, panel: str) -> str | float | None:
    """Return what holds in a panel."""
    return values.get(panel) if isinstance(values, Mapping) else values


def lay_panels(
    table: pd.DataFrame, panel: str | None, size: Size, across: int, xlabel: PerPanel, ylabel: str
) -> list[tuple[plt.Axes, str, pd.DataFrame]]:
    """Return for each value of a column its panel, the value and its rows; one panel if None.

    `size` is a panel's, in inches; `across` is the most panels side by side. Labels by panel take
    the place of titles.
    """
    names = in_order(table[panel]) if panel else [""]
    across = 2 if len(names) == 4 > across else min(len(names), across)
    down = -(-len(names) // across)
    inches = size[0] * across, size[1] * down
    fig, axes = plt.subplots(down, across, sharey=True, figsize=inches, squeeze=False)
    fig.set_layout_engine("constrained", wspace=0.05, hspace=0.05)
    panels = []
    for ax, name in zip(axes.flat, names, strict=False):
        title = f"{name} test set".removeprefix("test ") if panel in ("test", "split") else name
        if not isinstance(xlabel, Mapping):
            ax.set_title(wrap(label_of(title), round(10 * size[0])))
        ax.set_xlabel(wrap(in_panel(xlabel, name), round(11 * size[0])))
        panels.append((ax, name, table[table[panel] == name] if panel else table))
    plt.setp(axes[:, 0], ylabel=ylabel)
    for spare in axes.flat[len(names) :]:
        spare.remove()
    return panels


def put_legend(ax: plt.Axes) -> plt.Figure:
    """Put the legend of a panel above all panels, dashed lines last, and return the figure.

    The figure grows by the legend, so that the panels keep their height.
    """
    fig, handles = ax.figure, ax.get_legend_handles_labels()[0]
    handles.sort(key=lambda item: isinstance(item, plt.Line2D) and item.get_linestyle() == "--")
    longest = max((len(handle.get_label()) for handle in handles), default=0)
    columns = max(1, int(fig.get_figwidth() / (0.5 + 0.07 * longest)))
    fig.set_figheight(fig.get_figheight() + 0.22 * -(-len(handles) // columns))
    if handles:
        fig.legend(handles=handles, loc="outside upper center", ncol=columns)
    return fig
