"""Figures of the sixth notebook: overhead against accuracy, where time goes, cost over epochs."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter

from diffcore.figures.style import METHODS, PALETTE, test_title, wrap

_LINEAR = 0.001  # below this an axis of overheads is linear, so that 0 has a place
#: Colour of each part of a step or an image; parts of a method's own stand out.
_PARTS = {
    "real images": "0.8", "counterparts": PALETTE[4], "method": PALETTE[3],
    "forward": PALETTE[9], "backward": PALETTE[0], "update": "0.45",
    "UNet": PALETTE[0], "autoencoder": PALETTE[9], "text and files": "0.8",
    "filter": PALETTE[2], "drawn for the rejected": PALETTE[3],
}  # fmt: skip


def overhead_accuracy(table: pd.DataFrame) -> Figure:
    """Overhead of training against accuracy, one panel a test set; upper left is better.

    Args:
        table: one row a method and test set: method, test, mean, low, high (top-1), overhead, own
            step alone, and with_images, what is paid before training included; all fractions.
    """
    tests = table["test"].unique()
    fig, axes = plt.subplots(
        1, len(tests), figsize=(4.4 * len(tests), 4.0), sharey=True, squeeze=False
    )
    for ax, test in zip(axes[0], tests, strict=True):
        for row in table[table["test"] == test].itertuples():
            _accuracy_point(ax, row)
        _overhead_axis(ax, max(table["with_images"].max(), 0.1))
        ax.set(title=test_title(test), xlabel="overhead of training")
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes[0, 0].set_ylabel("top-1 accuracy")
    fig.tight_layout()
    handles, labels = axes[0, 0].get_legend_handles_labels()
    handles.append(Line2D([], [], marker="o", ls="-", lw=0.8, color="0.3", mfc="white"))
    fig.legend(handles, [*labels, wrap("with the making of its images", 18)], frameon=False,
               loc="center left", bbox_to_anchor=(1.0, 0.55), fontsize=9)  # fmt: skip
    return fig


def _accuracy_point(ax: Axes, row: tuple) -> None:
    """Draw a method's own step, and in white, joined to it, the same with its images."""
    label, colour = METHODS[row.method]
    reach = [[max(row.mean - row.low, 0)], [max(row.high - row.mean, 0)]]
    ax.errorbar(row.overhead, row.mean, yerr=reach, fmt="o", ms=6, capsize=2, lw=1.2,
                color=colour, label=label)  # fmt: skip
    if row.with_images > row.overhead:
        ends = [row.overhead, row.with_images]
        ax.plot(ends, [row.mean] * 2, "o-", ms=6, lw=0.8, color=colour, mfc="white", zorder=1)


def _overhead_axis(ax: Axes, top: float) -> None:
    """Scale the x axis by powers of ten from 0 to at least `top`, in per cent."""
    ax.set_xscale("symlog", linthresh=_LINEAR, linscale=0.5)
    powers = 10.0 ** np.arange(-3, np.ceil(np.log10(1.2 * top)) + 1)
    ax.set_xticks([0, *powers])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:,.10g} %"))
    ax.tick_params(axis="x", rotation=45)
    ax.set_xlim(-_LINEAR / 4, powers[-1])


def step_overheads(table: pd.DataFrame, limit: float) -> Figure:
    """Overhead of every method's own step with intervals: a row a method, a panel a setting.

    Args:
        table: setting, method, overhead, low, high, as fractions; "vanilla" is left out.
        limit: where a line is drawn, a fraction.
    """
    table = table[table["method"] != "vanilla"]
    settings, methods = table["setting"].unique(), table["method"].unique()
    fig, axes = plt.subplots(
        1, len(settings), figsize=(4.3 * len(settings), 0.32 * len(methods) + 1.3), sharey=True,
        squeeze=False,
    )  # fmt: skip
    for ax, setting in zip(axes[0], settings, strict=True):
        rows = table[table["setting"] == setting].set_index("method").loc[methods]
        for place, (method, row) in enumerate(rows.iterrows()):
            reach = [[row["overhead"] - row["low"]], [row["high"] - row["overhead"]]]
            ax.errorbar(row["overhead"], place, xerr=np.maximum(reach, 0), fmt="o", capsize=2,
                        color=METHODS[method][1])  # fmt: skip
        ax.axvline(limit, color="0.3", ls="--", lw=1)
        _overhead_axis(ax, max(table["high"].max(), 2 * limit))
        ax.set(title=wrap(setting, 40), xlabel="overhead of its own step")
    axes[0, 0].set_yticks(range(len(methods)), [METHODS[name][0] for name in methods])
    axes[0, 0].invert_yaxis()
    fig.tight_layout()
    return fig


def time_bars(table: pd.DataFrame, groups: list[tuple[str, str]]) -> Figure:
    """Where time goes: a panel a group, a stacked bar a row, each panel in its own milliseconds.

    Args:
        table: group, row, part, ms.
        groups: (group, what the milliseconds are for), in the order of the panels.
    """
    counts = [table.loc[table["group"] == group, "row"].nunique() for group, _ in groups]
    fig, axes = plt.subplots(
        len(groups), 1, figsize=(7.6, 0.55 * sum(counts) + 1.05 * len(groups)), squeeze=False,
        height_ratios=[count + 0.4 for count in counts],
    )  # fmt: skip
    for ax, (group, unit) in zip(axes[:, 0], groups, strict=True):
        _stack(ax, table[table["group"] == group])
        ax.set(title=group, xlabel=f"milliseconds {unit}")
    fig.tight_layout()
    return fig


def _stack(ax: Axes, table: pd.DataFrame) -> None:
    """Draw one stacked bar a row, with the names of the parts beside them."""
    wide = table.pivot(index="row", columns="part", values="ms").fillna(0.0)
    rows, parts = table["row"].unique(), [name for name in _PARTS if name in wide]
    left = np.zeros(len(rows))
    for part in parts:
        widths = wide.loc[rows, part].to_numpy()
        ax.barh(rows, widths, left=left, color=_PARTS[part], label=part, height=0.65)
        left += widths
    ax.invert_yaxis()
    ax.grid(visible=False, axis="y")
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)


def amortised_curves(table: pd.DataFrame, epochs: float) -> Figure:
    """Overhead over the epochs that share what is paid once; a line marks those of the study.

    Args:
        table: tidy: method, epochs, overhead (a fraction); "vanilla" is left out.
        epochs: of one training of the study.
    """
    fig, ax = plt.subplots(figsize=(6.4, 3.8))
    for method, rows in table[table["method"] != "vanilla"].groupby("method", sort=False):
        label, colour = METHODS[method]
        falls = rows["overhead"].max() > 1.001 * rows["overhead"].min()
        ax.plot(rows["epochs"], rows["overhead"], color=colour, label=label,
                lw=2.0 if falls else 1.2, ls="-" if falls else "--")  # fmt: skip
    ax.axvline(epochs, color="0.3", ls=":", lw=1.2)
    ax.annotate("this study", (epochs, 1), xycoords=("data", "axes fraction"), fontsize=8,
                xytext=(3, -10), textcoords="offset points", color="0.3")  # fmt: skip
    ax.set(xscale="log", yscale="log", xlabel="epochs", ylabel="overhead of training")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:,.10g} %"))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)
    fig.tight_layout()
    return fig
