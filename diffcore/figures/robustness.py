"""Figures of the seventh notebook: corruptions, attacks, backgrounds, calibration, near-copies."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator, PercentFormatter

from diffcore.figures.style import METHODS, PALETTE, errors, legend_above

_MARKERS = ("o", "s", "^", "D", "v")


def corruption_map(table: pd.DataFrame) -> Figure:
    """Top-1 of each method under each corruption as a heat map, the mean over corruptions last.

    Args:
        table: tidy, columns method, corruption ("none" for clean images), mean.
    """
    wide = table.pivot(index="method", columns="corruption", values="mean")
    wide = wide.loc[_in_order(table["method"]), list(table["corruption"].unique())]
    wide["mean of these"] = wide.drop(columns="none", errors="ignore").mean(axis=1)
    fig, ax = plt.subplots(figsize=(0.62 * wide.shape[1] + 2.2, 0.36 * len(wide) + 1.5))
    sns.heatmap(100 * wide, ax=ax, annot=True, fmt=".0f", cmap="rocket", linewidths=0.5,
                annot_kws={"size": 8}, cbar_kws={"label": "top-1 (%)"})  # fmt: skip
    ax.set(xlabel="", ylabel="")
    ax.set_yticklabels([_label(name) for name in wide.index], rotation=0)
    ax.set_xticklabels(wide.columns, rotation=40, ha="right", rotation_mode="anchor")
    ax.axvline(wide.shape[1] - 1, color="white", lw=4)
    fig.tight_layout()
    return fig


def severity_curves(table: pd.DataFrame) -> Figure:
    """Top-1 over severity, one panel a corruption, one line a method.

    Args:
        table: tidy, columns method, corruption, severity, mean, low, high; the corruption "none" of
            severity 0 begins every line.
    """
    clean = table[table["corruption"] == "none"]
    names = [name for name in table["corruption"].unique() if name != "none"]
    rows = -(-len(names) // 5)
    fig, axes = plt.subplots(
        rows, 5, figsize=(10.2, 2.3 * rows), sharex=True, sharey=True, squeeze=False
    )
    for ax, name in zip(axes.flat, names, strict=False):
        points = pd.concat([clean, table[table["corruption"] == name]])
        for method in _in_order(table["method"]):
            _line(ax, points[points["method"] == method], "severity", method)
        ax.set(title=name, xticks=range(6))
    for ax in axes.flat[len(names) :]:
        ax.set_visible(False)
    for ax in axes[-1]:
        ax.set_xlabel("severity")
    for ax in axes[:, 0]:
        ax.set_ylabel("top-1")
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    legend_above(fig, axes.flat[0], 1.05)
    return fig


def robustness_dots(
    table: pd.DataFrame, label: str, condition: str | None = None, zero: bool = False
) -> Figure:
    """A number with its interval for each method: a row a method, a marker a condition.

    Args:
        table: tidy, columns method, mean, low, high, and the one named by `condition`.
        label: of the horizontal axis.
        condition: column that tells the markers apart; None if there is one number a method.
        zero: whether to mark 0, for differences.
    """
    methods = _in_order(table["method"])
    conditions = [None] if condition is None else list(table[condition].unique())
    fig, ax = plt.subplots(figsize=(7.0, 0.42 * len(methods) + 1.1))
    for i, value in enumerate(conditions):
        rows = table if value is None else table[table[condition] == value]
        _dots(ax, rows, methods, 0.14 * (i - (len(conditions) - 1) / 2), _MARKERS[i])
    if zero:
        ax.axvline(0, color="0.5", ls=":", lw=1.2)
    ax.set_yticks(range(len(methods)), [_label(name) for name in methods])
    ax.invert_yaxis()
    ax.set(xlabel=label)
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    fig.tight_layout()
    if condition is not None:
        _marker_legend(fig, conditions)
    return fig


def reliability_diagrams(bins: pd.DataFrame, errors_of: Mapping[str, float]) -> Figure:
    """Accuracy over confidence, one panel a method; on the diagonal confidence can be trusted.

    Args:
        bins: tidy, columns method, confidence, top1, count.
        errors_of: method -> its expected calibration error, written in its panel.
    """
    methods = _in_order(bins["method"])
    fig, axes = plt.subplots(1, len(methods), figsize=(2.6 * len(methods) + 0.4, 2.9), sharey=True)
    for ax, method in zip(np.atleast_1d(axes), methods, strict=True):
        rows = bins[bins["method"] == method]
        ax.plot([0, 1], [0, 1], color="0.6", ls=":", lw=1.2)
        ax.plot(rows["confidence"], rows["top1"], color=METHODS[method][1], lw=1.2)
        # Area, not width: the eye compares areas.
        ax.scatter(rows["confidence"], rows["top1"], 150 * rows["count"] / rows["count"].max() + 4,
                   color=METHODS[method][1])  # fmt: skip
        ax.set(title=_label(method), xlabel="confidence", xlim=(0, 1.03), ylim=(0, 1.03))
        ax.text(0.05, 0.9, f"ECE {errors_of[method]:.1%}", fontsize=9)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter(PercentFormatter(1, decimals=0))
    np.atleast_1d(axes)[0].set_ylabel("accuracy")
    fig.tight_layout()
    return fig


def nearest_histograms(
    found: Mapping[str, pd.DataFrame], thresholds: Mapping[str, float]
) -> Figure:
    """How far images are from the nearest training image, one panel a space.

    Args:
        found: name of a set of images -> columns space, distance.
        thresholds: space -> distance below which an image is a near-copy, marked by a dashed line.
    """
    fig, axes = plt.subplots(1, len(thresholds), figsize=(4.2 * len(thresholds), 3.0))
    for ax, (space, threshold) in zip(np.atleast_1d(axes), thresholds.items(), strict=True):
        values = {name: t.loc[t["space"] == space, "distance"] for name, t in found.items()}
        least = max(min(each.min() for each in values.values()), threshold / 30)
        top = max(each.max() for each in values.values())
        bins = np.geomspace(least, top, 36)
        for colour, (name, each) in zip((3, 0, 2, 1), values.items(), strict=False):
            # A copy is at distance 0, which a logarithmic axis lacks.
            ax.hist(each.clip(lower=least), bins, weights=np.full(len(each), 1 / len(each)),
                    histtype="step", lw=1.6, color=PALETTE[colour], label=name)  # fmt: skip
        ax.axvline(threshold, color="0.15", ls="--", lw=1.2, label="near-copies to the left")
        ax.set(xscale="log", title=space, xlabel="distance to the nearest training image")
        subs = (1,) if top / least > 30 else (1, 2, 5)
        ax.xaxis.set_major_locator(LogLocator(subs=subs, numticks=20))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    np.atleast_1d(axes)[0].set_ylabel("share of the set")
    legend_above(fig, np.atleast_1d(axes)[0], 1.08)
    return fig


def _in_order(methods: pd.Series) -> list[str]:
    """Methods in the order of METHODS, the same in every figure."""
    present = set(methods)
    return [name for name in METHODS if name in present]


def _label(method: str) -> str:
    return METHODS[method][0]


def _reach(rows: pd.DataFrame) -> np.ndarray:
    return errors(rows.rename(columns={"mean": "rate"}))


def _line(ax: Axes, rows: pd.DataFrame, over: str, method: str) -> None:
    label, colour = METHODS[method]
    points = rows.sort_values(over)
    ax.errorbar(points[over], points["mean"], yerr=_reach(points), fmt="o-", ms=3, lw=1.3,
                capsize=1.5, elinewidth=0.8, color=colour, label=label)  # fmt: skip


def _dots(ax: Axes, rows: pd.DataFrame, methods: Sequence[str], shift: float, marker: str) -> None:
    for row in rows.itertuples():
        reach = [[max(row.mean - row.low, 0)], [max(row.high - row.mean, 0)]]
        ax.errorbar(row.mean, methods.index(row.method) + shift, xerr=reach, fmt=marker, ms=5,
                    capsize=2, lw=1.2, color=METHODS[row.method][1])  # fmt: skip


def _marker_legend(fig: Figure, conditions: Sequence[str]) -> None:
    """Explain the markers in grey, as the colours belong to the methods."""
    handles = [
        Line2D([], [], color="0.3", marker=marker, ls="", ms=5, label=str(value))
        for marker, value in zip(_MARKERS, conditions, strict=False)
    ]
    fig.legend(handles=handles, loc="lower center", ncol=3 if len(handles) > 4 else 4,
               frameon=False, bbox_to_anchor=(0.55, 1.0))  # fmt: skip
