"""Figures of the fourth notebook: what augmentation is worth to a classifier."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from diffcore.figures.style import METHODS, PALETTE, errors, legend_above, test_title


def accuracy_dots(table: pd.DataFrame, column: str, baseline: str) -> Figure:
    """Top-1 accuracy with its interval, a row a method or part, a panel a test set.

    Args:
        table: tidy, the named column, test, mean, low, high.
        column: what the rows are; methods take their label and colour.
        baseline: row whose accuracy is marked by a dashed line.
    """
    rows, tests = list(table[column].unique()), list(table["test"].unique())
    fig, axes = plt.subplots(
        1, len(tests), figsize=(3.4 * len(tests) + 1.6, 0.33 * len(rows) + 1.1), sharey=True
    )
    for ax, test in zip(np.atleast_1d(axes), tests, strict=True):
        points = table[table["test"] == test].set_index(column).loc[rows]
        for y, (name, point) in enumerate(points.iterrows()):
            _dot(ax, point, y, METHODS.get(name, (name, PALETTE[3]))[1])
        ax.axvline(points.loc[baseline, "mean"], color="0.5", ls="--", lw=1, zorder=0)
        ax.set(title=test_title(test), xlabel="top-1 accuracy")
        ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    first = np.atleast_1d(axes)[0]
    first.set_yticks(range(len(rows)), [METHODS.get(name, (name,))[0] for name in rows])
    first.invert_yaxis()
    fig.tight_layout()
    return fig


def gain_dots(table: pd.DataFrame, against: str) -> Figure:
    """Paired differences to one method, a row a method, a panel a test set; hollow: not clear of 0.

    Args:
        table: tidy, method, test, gain, low, high, p_holm.
        against: label of the method that is subtracted.
    """
    methods, tests = list(table["method"].unique()), list(table["test"].unique())
    fig, axes = plt.subplots(
        1, len(tests), figsize=(3.4 * len(tests) + 1.6, 0.33 * len(methods) + 1.1), sharey=True
    )
    for ax, test in zip(np.atleast_1d(axes), tests, strict=True):
        points = table[table["test"] == test].set_index("method").loc[methods]
        for y, (name, row) in enumerate(points.iterrows()):
            point = row.rename({"gain": "mean"})
            _dot(ax, point, y, METHODS[name][1], hollow=row["p_holm"] > 0.05)
        ax.axvline(0, color="0.5", ls="--", lw=1, zorder=0)
        ax.set(title=test_title(test), xlabel=f"top-1, points above {against}")
        ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
    first = np.atleast_1d(axes)[0]
    first.set_yticks(range(len(methods)), [METHODS[name][0] for name in methods])
    first.invert_yaxis()
    fig.tight_layout()
    return fig


def accuracy_over(panels: Mapping[str, pd.DataFrame], marks: Mapping[str, float]) -> Figure:
    """Top-1 accuracy over conditions, one line a method, one panel a condition.

    Args:
        panels: label of the axis -> tidy table: value, method, mean, low, high.
        marks: label of the axis -> value in use, marked by a dashed line.
    """
    fig, axes = _panels(panels, marks)
    for ax, table in zip(axes, panels.values(), strict=True):
        for method, points in table.groupby("method", sort=False):
            label, colour = METHODS[method]
            _line(ax, points.sort_values("value"), label, colour)
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes[0].set_ylabel("top-1 accuracy")
    legend_above(fig, axes[0], 1.08)
    return fig


def gains_over(
    panels: Mapping[str, pd.DataFrame], marks: Mapping[str, float], label: str
) -> Figure:
    """A paired difference over conditions, one panel a condition, shaded where it is above 0.

    Args:
        panels: label of the axis -> tidy table: value, gain, low, high.
        marks: label of the axis -> value in use, marked by a dashed line.
        label: of the vertical axis.
    """
    fig, axes = _panels(panels, marks)
    for ax, table in zip(axes, panels.values(), strict=True):
        _line(
            ax,
            table.rename(columns={"gain": "mean"}).sort_values("value"),
            "",
            METHODS["diffcoremix"][1],
        )
        ax.axhline(0, color="0.3", lw=1)
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
    low, high = axes[0].get_ylim()
    for ax in axes:
        ax.axhspan(0, max(high, 0.01), color=METHODS["diffcoremix"][1], alpha=0.06, zorder=0)
        ax.axhspan(min(low, -0.01), 0, color=METHODS["added"][1], alpha=0.06, zorder=0)
        ax.set_ylim(min(low, -0.01), max(high, 0.01))
    axes[0].set_ylabel(label)
    fig.tight_layout()
    return fig


def learning_curves(table: pd.DataFrame) -> Figure:
    """Top-1 accuracy over the steps of a training, one line a method, one panel a test set.

    Args:
        table: tidy, method, step, test, top1.
    """
    tests = list(table["test"].unique())
    fig, axes = plt.subplots(1, len(tests), figsize=(4.2 * len(tests), 3.3), sharey=True)
    for ax, test in zip(np.atleast_1d(axes), tests, strict=True):
        for method, points in table[table["test"] == test].groupby("method", sort=False):
            label, colour = METHODS[method]
            ax.plot(points["step"], points["top1"], "o-", ms=3.5, lw=1.6, color=colour, label=label)
        ax.set(title=test_title(test), xlabel="optimiser steps", ylim=(0, 1.02))
        ax.set_xlim(left=0)
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    np.atleast_1d(axes)[0].set_ylabel("top-1 accuracy")
    fig.tight_layout()
    handles, labels = np.atleast_1d(axes)[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return fig


def _panels(
    panels: Mapping[str, pd.DataFrame], marks: Mapping[str, float]
) -> tuple[Figure, np.ndarray]:
    """Lay out one panel a condition, all on one vertical axis, and mark the values in use."""
    fig, axes = plt.subplots(
        1, len(panels), figsize=(3.3 * len(panels) + 0.6, 3.3), sharey=True, squeeze=False
    )
    for ax, (label, table) in zip(axes[0], panels.items(), strict=True):
        values = np.unique(table["value"])
        if values.min() > 0 and values.max() / values.min() >= 10:
            ax.set_xscale("log")
            ax.set_xticks(
                values, [f"{value:.2g}" if value < 10 else f"{value:.0f}" for value in values]
            )
            ax.minorticks_off()
        ax.axvline(marks[label], color="0.5", ls="--", lw=1, zorder=0)
        ax.set_xlabel(label)
    return fig, axes[0]


def _dot(
    ax: Axes, point: pd.Series, y: float, colour: str | tuple[float, ...], *, hollow: bool = False
) -> None:
    reach = [[point["mean"] - point["low"]], [point["high"] - point["mean"]]]
    ax.errorbar(point["mean"], y, xerr=reach, fmt="o", ms=6, capsize=3, color=colour,
                mfc="white" if hollow else colour)  # fmt: skip


def _line(ax: Axes, points: pd.DataFrame, label: str, colour: str | tuple[float, ...]) -> None:
    reach = errors(points.rename(columns={"mean": "rate"}))
    ax.errorbar(points["value"], points["mean"], yerr=reach, fmt="o-", ms=4, lw=1.6, capsize=2,
                color=colour, label=label)  # fmt: skip
