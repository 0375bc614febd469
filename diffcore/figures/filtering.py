"""Figures of the second notebook: what the filter sees, rejects and finds."""

from collections.abc import Iterable, Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from diffcore.figures.style import PALETTE, errors, legend_on_top


def similarity_distributions(
    values: Mapping[str, np.ndarray], threshold: float, label: str
) -> Figure:
    """Histograms of similarities, one outline a kind, each of area 1, and the threshold.

    Args:
        values: kind -> similarities.
        threshold: marked by a dashed line.
        label: of the horizontal axis.
    """
    fig, ax = plt.subplots(figsize=(6.8, 3.4))
    bins = np.linspace(*_span(values.values()), 41)
    for (kind, similarity), colour in zip(values.items(), PALETTE, strict=False):
        ax.hist(similarity, bins, density=True, histtype="stepfilled", color=(*colour, 0.18),
                edgecolor=colour, lw=1.6, label=f"{kind} (n = {len(similarity):,})")  # fmt: skip
    _mark_threshold(ax, threshold)
    ax.set(xlabel=label, ylabel="density")
    legend_on_top(fig, ax, 2)
    return fig


def rejection_curves(table: pd.DataFrame, threshold: float, expected: float) -> Figure:
    """Share that a threshold rejects, one line a kind of pair.

    Args:
        table: tidy, columns kind, threshold, rate.
        threshold: in use, marked by a vertical line.
        expected: rate that the paper reports, marked by a horizontal line.
    """
    fig, ax = plt.subplots(figsize=(6.8, 3.4))
    for (kind, points), colour in zip(table.groupby("kind", sort=False), PALETTE, strict=False):
        ax.plot(points["threshold"], points["rate"], color=colour, lw=1.8, label=kind)
    ax.axhline(expected, color="0.4", ls=":", lw=1.2)
    ax.annotate(f"the paper: about {expected:.0%}", (0.99, expected), ha="right", va="bottom",
                xycoords=("axes fraction", "data"), fontsize=8, color="0.3")  # fmt: skip
    _mark_threshold(ax, threshold)
    ax.set(xlabel="threshold on the cosine", ylabel="share rejected", ylim=(-0.02, 1.02))
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    legend_on_top(fig, ax, 2)
    return fig


def roc_curves(points: pd.DataFrame, areas: pd.DataFrame, marked: tuple[float, float]) -> Figure:
    """ROC curves of the filter as a detector of wrong images.

    Args:
        points: tidy, columns rule, false_alarms, caught.
        areas: columns rule, auc, low, high; its order is the legend's.
        marked: false alarms and caught share at the threshold in use.
    """
    fig, ax = plt.subplots(figsize=(7.2, 4.2))
    for row, colour in zip(areas.itertuples(), PALETTE, strict=False):
        curve = points[points["rule"] == row.rule]
        label = f"{row.rule}: {row.auc:.2f} [{row.low:.2f}, {row.high:.2f}]"
        ax.plot(curve["false_alarms"], curve["caught"], color=colour, lw=1.6, label=label)
    ax.plot([0, 1], [0, 1], color="0.7", lw=1, ls=":")
    ax.plot(*marked, "o", ms=8, mfc="none", mec="0.15", mew=1.6, label="threshold in use")
    ax.set(xlabel="right images rejected", ylabel="wrong images rejected", aspect="equal")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.legend(title="AUC [95 % interval]", frameon=False, loc="center left",
              bbox_to_anchor=(1.02, 0.5))  # fmt: skip
    fig.tight_layout()
    return fig


def threshold_view(similarity: np.ndarray, wrong: np.ndarray, threshold: float) -> Figure:
    """Right and wrong images over their similarity, and what a threshold makes of them."""
    fig, ax = plt.subplots(figsize=(6.8, 3.2))
    bins = np.linspace(*_span([similarity]), 41)
    labels = [f"right (n = {(~wrong).sum():,})", f"wrong (n = {wrong.sum():,})"]
    ax.hist([similarity[~wrong], similarity[wrong]], bins, stacked=True, label=labels,
            color=[PALETTE[0], PALETTE[3]], edgecolor="white", lw=0.3)  # fmt: skip
    _mark_threshold(ax, threshold)
    rejected = similarity < threshold
    ax.set_title(
        f"rejected: {rejected.mean():.1%} of all, {_share(rejected[wrong])} of the wrong; "
        f"wrong among the kept: {_share(wrong[~rejected])} (before: {wrong.mean():.1%})"
    )
    ax.set(xlabel="cosine to the reference", ylabel="generated images")
    ax.legend(frameon=False, loc="upper right")
    fig.tight_layout()
    return fig


def pair_boxes(pairs: pd.DataFrame, threshold: float) -> Figure:
    """Similarity of pairs that share class, context, both or neither.

    Boxes hold the middle half, whiskers reach the 5th and the 95th percentile.

    Args:
        pairs: tidy, columns cosine, shared (by the pair) and kind (of images).
        threshold: marked by a dashed line.
    """
    fig, ax = plt.subplots(figsize=(6.8, 3.4))
    sns.boxplot(pairs, x="cosine", y="shared", hue="kind", ax=ax, whis=(5, 95), fliersize=0,
                palette=PALETTE[:2], width=0.6, linewidth=0.9)  # fmt: skip
    _mark_threshold(ax, threshold)
    ax.set(xlabel="cosine of a pair of images", ylabel="")
    ax.get_legend().remove()
    legend_on_top(fig, ax, 2)
    return fig


def auc_dots(table: pd.DataFrame) -> Figure:
    """AUC of each rule with its interval, one colour a kind of error.

    Args:
        table: tidy, columns rule, cause, auc, low, high, wrong.
    """
    rules = list(table["rule"].unique())
    causes = list(table.groupby("cause", sort=False))
    fig, ax = plt.subplots(figsize=(6.8, 0.62 * len(rules) + 1.0))
    for i, (cause, rows) in enumerate(causes):
        y = np.array([rules.index(rule) for rule in rows["rule"]])
        y = y + 0.18 * (i - (len(causes) - 1) / 2)
        reach = errors(rows.rename(columns={"auc": "rate"}))
        ax.errorbar(rows["auc"], y, xerr=reach, fmt="o", ms=5, capsize=2,
                    color=PALETTE[(3, 0, 2, 1, 4)[i]],
                    label=f"{cause} (n = {rows['wrong'].iloc[0]:,})")  # fmt: skip
    ax.axvline(0.5, color="0.6", ls=":", lw=1.2)
    ax.set_yticks(range(len(rules)), rules)
    ax.invert_yaxis()
    ax.set(xlabel="AUC (0.5 is guessing)", xlim=(None, 1.01))
    legend_on_top(fig, ax, 2)
    return fig


def _mark_threshold(ax: Axes, threshold: float) -> None:
    ax.axvline(threshold, color="0.15", ls="--", lw=1.2, label=f"threshold {threshold:.3f}")


def _span(values: Iterable[np.ndarray]) -> tuple[float, float]:
    """Least and greatest of all values."""
    joined = np.concatenate(list(values))
    return float(joined.min()), float(joined.max())


def _share(hits: np.ndarray) -> str:
    return f"{hits.mean():.1%}" if len(hits) else "none"
