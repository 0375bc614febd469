"""Figures of the first notebook: what a prompt does, and how often it fails."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from diffcore.figures.style import MEASURES, PALETTE, errors, legend_on_top


def rates_over(table: pd.DataFrame, axes_labels: dict[str, str], marks: dict[str, float]) -> Figure:
    """Rates with intervals over the settings of a sampler, one panel a setting.

    Args:
        table: tidy, columns setting, value, measure (a key of MEASURES), rate, low, high.
        axes_labels: setting -> label of its axis.
        marks: setting -> value in use, marked by a dashed line.
    """
    fig, axes = plt.subplots(
        1, len(axes_labels), figsize=(4.3 * len(axes_labels), 3.4), sharey=True
    )
    for ax, (setting, label) in zip(np.atleast_1d(axes), axes_labels.items(), strict=True):
        for measure, points in table[table["setting"] == setting].groupby("measure", sort=False):
            _rate_line(ax, points.sort_values("value"), measure)
        ax.axvline(marks[setting], color="0.4", ls="--", lw=1, zorder=0)
        ax.set(xlabel=label, ylim=(-0.02, 1.02))
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    np.atleast_1d(axes)[0].set_ylabel("share of images")
    handles, labels = np.atleast_1d(axes)[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="upper center", ncol=len(labels), frameon=False,
               bbox_to_anchor=(0.5, 1.08))  # fmt: skip
    fig.tight_layout()
    return fig


def context_maps(maps: dict[str, pd.DataFrame]) -> Figure:
    """Share of each context within each class, one heat map a set of images; NaN-free shares."""
    fig, axes = plt.subplots(
        1, len(maps), figsize=(4.2 * len(maps) + 1.2, 4.6), sharey=True, layout="constrained"
    )
    for ax, (title, shares) in zip(np.atleast_1d(axes), maps.items(), strict=True):
        sns.heatmap(shares, ax=ax, vmin=0, vmax=0.6, cmap="rocket_r", linewidths=0.4, cbar=False)
        ax.set(title=title, xlabel="", ylabel="")
        ax.tick_params(axis="x", rotation=90, labelsize=8)
        ax.tick_params(axis="y", labelsize=8)
    bar = fig.colorbar(np.atleast_1d(axes)[-1].collections[0], ax=axes, shrink=0.7, pad=0.01)
    bar.set_label("share of the class's images")
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return fig


def paired_rates(table: pd.DataFrame, label: str) -> Figure:
    """Rates of several things under two or more conditions: dots with intervals.

    Args:
        table: tidy, columns thing, condition, rate, low, high.
        label: of the horizontal axis.
    """
    things, conditions = table["thing"].unique(), table["condition"].unique()
    fig, ax = plt.subplots(figsize=(6.4, 0.5 * len(things) + 1.3))
    for i, condition in enumerate(conditions):
        rows = table[table["condition"] == condition].set_index("thing").loc[things]
        y = np.arange(len(things)) + 0.18 * (i - (len(conditions) - 1) / 2)
        ax.errorbar(rows["rate"], y, xerr=errors(rows), fmt="o", capsize=3, label=condition,
                    color=PALETTE[(3, 0, 2)[i]])  # fmt: skip
    ax.set_yticks(np.arange(len(things)), things)
    ax.invert_yaxis()
    ax.set(xlabel=label)
    ax.set_xlim(left=-0.01)
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    legend_on_top(fig, ax, len(conditions))
    return fig


def _rate_line(ax: Axes, points: pd.DataFrame, measure: str) -> None:
    label, colour = MEASURES[measure]
    ax.errorbar(points["value"], points["rate"], yerr=errors(points), fmt="o-", ms=4, lw=1.4,
                capsize=2, color=colour, label=label)  # fmt: skip
