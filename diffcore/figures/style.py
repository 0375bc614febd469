"""What all figures share: one style, a colour for each method and measure, panels and legends.

seaborn, a palette that colour-blind readers can tell apart, text readable at column width.
"""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import yaml
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

Colour = str | tuple[float, ...]

PALETTE = sns.color_palette("colorblind")


def _read_names(kind: str) -> dict[str, tuple[str, Colour]]:
    """Read names.yaml, and look up the colours of the palette."""
    names = yaml.safe_load(Path(__file__).with_name("names.yaml").read_text("utf-8"))[kind]
    return {
        name: (label, PALETTE[colour] if isinstance(colour, int) else colour)
        for name, (label, colour) in names.items()
    }


#: name -> (label, colour); the same in every figure
MEASURES, METHODS = _read_names("measures"), _read_names("methods")
LAID_OUT = {"squeeze": False, "layout": "constrained"}
DASHED = {"color": "0.3", "ls": "--", "lw": 1.1}
ZERO = {"color": "0.3", "lw": 1.0}  # solid: a tick says what it is
_OTHERS = (0, 3, 2, 1, 4, 9, 7, 5, 8, 6)  # of the palette, for names without a colour of their own


def use_style() -> None:
    """Set the style of all figures; called once, before the first."""
    sns.set_theme("paper", "whitegrid", "colorblind", font_scale=1.15)
    plt.rcParams |= {
        "figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False,
        "savefig.facecolor": "white", "svg.fonttype": "none", "axes.titlesize": "medium",
        "text.parse_math": False,  # a $ in the name of a class is a $
    }  # fmt: skip


def wrap(text: str, width: int = 12) -> str:
    """Break a label into lines of at most `width` letters, at spaces and where it is broken."""
    return "\n".join(textwrap.fill(line, width) for line in text.splitlines())


def label_of(name: str) -> str:
    """Return the label of a method or measure; other names are their own."""
    return (METHODS | MEASURES).get(name, (str(name),))[0]


def in_order(names: Iterable[str]) -> list[str]:
    """Return each name once: methods in the order of METHODS, anything else as it comes.

    >>> in_order(["mixup", "vanilla", "mixup"]), in_order(["tree", "car"])
    (['vanilla', 'mixup'], ['tree', 'car'])
    """
    found = list(dict.fromkeys(names))
    return sorted(found, key=list(METHODS).index) if set(found) <= METHODS.keys() else found


def colours(names: Iterable[str]) -> dict[str, Colour]:
    """Give each name its own colour, or the next of the palette."""
    known, spare = METHODS | MEASURES, (PALETTE[i] for i in _OTHERS * 9)
    return {name: known[name][1] if name in known else next(spare) for name in in_order(names)}


def reach(rows: pd.DataFrame | Mapping[str, float]) -> np.ndarray:
    """Distances (2, N) from each value down to its lower and up to its upper bound."""
    value, low, high = (np.atleast_1d(rows[name]) for name in ("value", "low", "high"))
    return np.stack([value - low, high - value]).clip(min=0)  # rounding may leave -1e-17


def as_percent(*axes: Axis, sign: str = "%") -> None:
    """Label axes of shares in per cent; differences, in points, have no sign."""
    for axis in axes:
        axis.set_major_formatter(lambda value, _: f"{100 * value:,.6g}{sign}")


def keep_to_shares(axes: Iterable[Axes], which: str, values: pd.Series) -> None:
    """Let axes ("x" or "y") of shares end at 0 and 1, though an interval may know no bounds.

    Whiskers are cut off there; a dot on the end is drawn whole.
    """
    if not values.between(0, 1).all():
        return
    for ax in axes:
        low, high = getattr(ax, f"get_{which}lim")()
        ax.set(**{f"{which}lim": (max(low, 0.0), min(high, 1.0))})
        for container in ax.containers:
            container.lines[0].set_clip_on(False)


def scale_log(ax: Axes, which: str = "x") -> None:
    """Make an axis ("x" or "y") of what is drawn logarithmic, with as many numbers as it needs."""
    ax.set(**{f"{which}scale": "log"})
    axis, (low, high) = getattr(ax, f"{which}axis"), getattr(ax, f"get_{which}lim")()
    axis.set_major_formatter("{x:,.6g}")
    axis.set_minor_locator(LogLocator(subs=(2, 5) if high > 4 * low else (2, 3, 4, 6, 8)))
    axis.set_minor_formatter("{x:,.6g}" if high < 60 * low else "")


def lay_panels(
    table: pd.DataFrame, panel: str | None, size: tuple[float, float], across: int, *,
    xlabel: str | Mapping[str, str] = "", ylabel: str = "", margin: float = 0, sharey: bool = True,
) -> tuple[Figure, list[tuple[Axes, str, pd.DataFrame]]]:  # fmt: skip
    """Lay out a panel for each value of a column, or one for all: its axes, the value, its rows.

    `size` is of a panel in inches, `across` the most side by side, `margin` what labels of rows
    take to the left. Labels of the horizontal axes that differ stand for titles.
    """
    names = [""] if panel is None else in_order(table[panel])
    across = 2 if len(names) == 4 > across else min(len(names), across)
    shape = -(-len(names) // across), across
    inches = margin + size[0] * across, size[1] * shape[0]
    fig, axes = plt.subplots(*shape, sharey=sharey, figsize=inches, **LAID_OUT)
    fig.get_layout_engine().set(wspace=0.05, hspace=0.05)
    for spare in axes.flat[len(names) :]:
        spare.remove()
    for ax, name in zip(axes.flat, names, strict=False):
        own, split = not isinstance(xlabel, str), panel in ("test", "split")
        title = f"{name} test set".removeprefix("test ") if split else label_of(name)
        ax.set_title("" if own else wrap(title, round(10 * size[0])))
        ax.set_xlabel(wrap(xlabel[name] if own else xlabel, round(11 * size[0])))
        ax.set_ylabel(ylabel if ax.get_subplotspec().is_first_col() else "")
    parts = (table if panel is None else table[table[panel] == name] for name in names)
    return fig, list(zip(axes.flat, names, parts, strict=False))


def put_legend(ax: Axes, first: Sequence[Artist] = (), where: str = "upper center") -> None:
    """Put the legend of a panel, after what comes `first`, above all panels or where it is said."""
    handles, fig = [*first, *ax.get_legend_handles_labels()[0]], ax.figure
    handles.sort(key=lambda handle: getattr(handle, "get_linestyle", str)() == "--")  # lines last
    longest = max((len(handle.get_label()) for handle in handles), default=0)
    columns = max(1, int(fig.get_figwidth() / (0.5 + 0.07 * longest))) if "center" in where else 1
    if handles and "center" in where:  # the legend is not to take the height of the panels
        fig.set_figheight(fig.get_figheight() + 0.22 * -(-len(handles) // columns))
    if handles:
        fig.legend(handles=handles, loc=f"outside {where}", ncol=columns, frameon=False)
