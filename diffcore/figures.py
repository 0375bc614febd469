"""Every figure of the study: one function each, from tidy tables and image arrays.

One style for all: seaborn, a palette that colour-blind readers can tell apart, text readable at
column width. A measure keeps its colour in every figure (`COLOURS`).
"""

import textwrap
from collections.abc import Iterable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

_PALETTE = sns.color_palette("colorblind")
#: measure -> (label, colour)
MEASURES: dict[str, tuple[str, tuple[float, ...]]] = {
    "species_right": ("species right", _PALETTE[0]),
    "context_right": ("context right", _PALETTE[2]),
    "wellformed": ("well-formed", _PALETTE[1]),
    "wrong": ("wrong species or malformed", _PALETTE[3]),
    "uninvited": ("uninvited distractor", _PALETTE[4]),
}


def use_style() -> None:
    """Set the style of all figures; called once at the top of a notebook."""
    sns.set_theme("paper", "whitegrid", "colorblind", font_scale=1.15)
    plt.rcParams |= {
        "figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False,
        "savefig.facecolor": "white", "svg.fonttype": "none", "axes.titlesize": "medium",
    }  # fmt: skip


def image_grid(
    images: Sequence[Sequence[np.ndarray | None]],
    *,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    captions: Sequence[Sequence[str]] = (),
    cell: float = 0.95,
) -> Figure:
    """Images (H, W, 3) uint8 in rows and columns, None for an empty place.

    Args:
        images: one sequence a row.
        rows: labels to the left.
        columns: labels above.
        captions: text below each image, one sequence a row.
        cell: inches an image is wide.
    """
    count = max(len(row) for row in images)
    tall = cell * (1.45 if captions else 1.08)
    fig, axes = plt.subplots(
        len(images), count, figsize=(cell * 1.08 * count, tall * len(images)), squeeze=False
    )
    for r, row in enumerate(axes):
        for c, ax in enumerate(row):
            _show(ax, images[r][c] if c < len(images[r]) else None)
            if captions and c < len(captions[r]):
                ax.set_xlabel(captions[r][c], fontsize=7, labelpad=3)
            if columns and r == 0:
                ax.set_title(columns[c], fontsize=min(8, 9 * cell))
        if rows:
            row[0].set_ylabel(rows[r], rotation=0, ha="right", va="center", fontsize=8, labelpad=6)
    fig.subplots_adjust(wspace=0.06, hspace=0.5 if captions else 0.06)
    return fig


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
        ax.errorbar(rows["rate"], y, xerr=_errors(rows), fmt="o", capsize=3, label=condition,
                    color=_PALETTE[(3, 0, 2)[i]])  # fmt: skip
    ax.set_yticks(np.arange(len(things)), things)
    ax.invert_yaxis()
    ax.set(xlabel=label)
    ax.set_xlim(left=-0.01)
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _legend_on_top(fig, ax, len(conditions))
    return fig


def lam_histograms(table: pd.DataFrame) -> Figure:
    """How λ is distributed, one panel an α: as drawn, and after boxes were cut off at the border.

    Args:
        table: tidy, columns alpha, level ("pixel" or "patch"), lam in [0, 1].
    """
    labels = {"pixel": "pixel level: as drawn", "patch": "patch level: after the border"}
    alphas = sorted(table["alpha"].unique())
    fig, axes = plt.subplots(1, len(alphas), figsize=(3.0 * len(alphas), 2.7), sharey=True)
    for ax, alpha in zip(np.atleast_1d(axes), alphas, strict=True):
        for i, (level, label) in enumerate(labels.items()):
            lam = table.loc[(table["alpha"] == alpha) & (table["level"] == level), "lam"]
            ax.hist(lam, bins=np.linspace(0, 1, 26), density=True, histtype="step", lw=1.6,
                    color=_PALETTE[(0, 3)[i]], label=label)  # fmt: skip
        ax.set(title=f"α = {alpha:g}", xlabel="λ, share of the real image", xlim=(0, 1))
    np.atleast_1d(axes)[0].set_ylabel("density")
    _legend_above(fig, np.atleast_1d(axes)[0], 1.1)
    return fig


def object_bars(table: pd.DataFrame) -> Figure:
    """What share of a mixed image is object, and how well its label says so: a row a method.

    Args:
        table: columns method, own, other, lost and label_error, all shares.
    """
    places = np.arange(len(table))
    fig, (left, right) = plt.subplots(
        1, 2, figsize=(8.2, 0.42 * len(table) + 1.3), sharey=True, width_ratios=(1.3, 1)
    )
    left.barh(places, table["own"], color=_PALETTE[0], label="of the label's class")
    left.barh(places, table["other"], left=table["own"], color=_PALETTE[3],
              label="of another class")  # fmt: skip
    left.set(xlabel="share of the image that is object")
    right.plot(table["label_error"], places, "o", color=_PALETTE[1], label="error of the label")
    right.plot(table["lost"], places, "D", color="0.35", label="object half lost")
    right.set(xlabel="weight of the label, or share of images")
    right.set_xlim(left=-0.01)
    left.set_yticks(places, table["method"])
    left.invert_yaxis()
    for ax in (left, right):
        ax.xaxis.set_major_formatter(PercentFormatter(1))
        ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=2, fontsize=8)
    fig.tight_layout()
    return fig


def label_curves(table: pd.DataFrame) -> Figure:
    """How often the class of the label is seen in mixed images over λ, one panel a level.

    Args:
        table: tidy, columns partner, level, lam, rate, low, high.
    """
    levels, partners = table["level"].unique(), table["partner"].unique()
    fig, axes = plt.subplots(1, len(levels), figsize=(4.0 * len(levels), 3.2), sharey=True)
    for ax, level in zip(np.atleast_1d(axes), levels, strict=True):
        for i, partner in enumerate(partners):
            chosen = (table["level"] == level) & (table["partner"] == partner)
            points = table[chosen].sort_values("lam")
            ax.errorbar(points["lam"], points["rate"], yerr=_errors(points), fmt="o-", ms=4, lw=1.4,
                        capsize=2, color=_PALETTE[(0, 3)[i]], label=partner)  # fmt: skip
        ax.set(title=f"{level} level", xlabel="λ, share of the real image", ylim=(-0.02, 1.02))
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    np.atleast_1d(axes)[0].set_ylabel("class of the label seen")
    _legend_above(fig, np.atleast_1d(axes)[0], 1.08)
    return fig


def wrap(text: str, width: int = 12) -> str:
    """Break a label into lines of at most `width` letters, at spaces."""
    return "\n".join(textwrap.wrap(text, width))


def _show(ax: Axes, image: np.ndarray | None) -> None:
    if image is None:
        ax.axis("off")
        return
    ax.imshow(image, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    sns.despine(ax=ax, left=True, bottom=True)


def _rate_line(ax: Axes, points: pd.DataFrame, measure: str) -> None:
    label, colour = MEASURES[measure]
    ax.errorbar(points["value"], points["rate"], yerr=_errors(points), fmt="o-", ms=4, lw=1.4,
                capsize=2, color=colour, label=label)  # fmt: skip


def _errors(rows: pd.DataFrame) -> np.ndarray:
    """Distances (2, N) from each rate down to its lower and up to its upper bound."""
    distances = np.stack([rows["rate"] - rows["low"], rows["high"] - rows["rate"]])
    return distances.clip(min=0)  # at 0 and 1 rounding leaves -1e-17


# ------------------------------------------------------------------------------------ the filter
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
    for (kind, similarity), colour in zip(values.items(), _PALETTE, strict=False):
        ax.hist(similarity, bins, density=True, histtype="stepfilled", color=(*colour, 0.18),
                edgecolor=colour, lw=1.6, label=f"{kind} (n = {len(similarity):,})")  # fmt: skip
    _mark_threshold(ax, threshold)
    ax.set(xlabel=label, ylabel="density")
    _legend_on_top(fig, ax, 2)
    return fig


def rejection_curves(table: pd.DataFrame, threshold: float, expected: float) -> Figure:
    """Share that a threshold rejects, one line a kind of pair.

    Args:
        table: tidy, columns kind, threshold, rate.
        threshold: in use, marked by a vertical line.
        expected: rate that the paper reports, marked by a horizontal line.
    """
    fig, ax = plt.subplots(figsize=(6.8, 3.4))
    for (kind, points), colour in zip(table.groupby("kind", sort=False), _PALETTE, strict=False):
        ax.plot(points["threshold"], points["rate"], color=colour, lw=1.8, label=kind)
    ax.axhline(expected, color="0.4", ls=":", lw=1.2)
    ax.annotate(f"the paper: about {expected:.0%}", (0.99, expected), ha="right", va="bottom",
                xycoords=("axes fraction", "data"), fontsize=8, color="0.3")  # fmt: skip
    _mark_threshold(ax, threshold)
    ax.set(xlabel="threshold on the cosine", ylabel="share rejected", ylim=(-0.02, 1.02))
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _legend_on_top(fig, ax, 2)
    return fig


def roc_curves(points: pd.DataFrame, areas: pd.DataFrame, marked: tuple[float, float]) -> Figure:
    """ROC curves of the filter as a detector of wrong images.

    Args:
        points: tidy, columns rule, false_alarms, caught.
        areas: columns rule, auc, low, high; its order is the legend's.
        marked: false alarms and caught share at the threshold in use.
    """
    fig, ax = plt.subplots(figsize=(7.2, 4.2))
    for row, colour in zip(areas.itertuples(), _PALETTE, strict=False):
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
            color=[_PALETTE[0], _PALETTE[3]], edgecolor="white", lw=0.3)  # fmt: skip
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
                palette=_PALETTE[:2], width=0.6, linewidth=0.9)  # fmt: skip
    _mark_threshold(ax, threshold)
    ax.set(xlabel="cosine of a pair of images", ylabel="")
    ax.get_legend().remove()
    _legend_on_top(fig, ax, 2)
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
        errors = _errors(rows.rename(columns={"auc": "rate"}))
        ax.errorbar(rows["auc"], y, xerr=errors, fmt="o", ms=5, capsize=2,
                    color=_PALETTE[(3, 0, 2, 1, 4)[i]],
                    label=f"{cause} (n = {rows['wrong'].iloc[0]:,})")  # fmt: skip
    ax.axvline(0.5, color="0.6", ls=":", lw=1.2)
    ax.set_yticks(range(len(rules)), rules)
    ax.invert_yaxis()
    ax.set(xlabel="AUC (0.5 is guessing)", xlim=(None, 1.01))
    _legend_on_top(fig, ax, 2)
    return fig


def _mark_threshold(ax: Axes, threshold: float) -> None:
    ax.axvline(threshold, color="0.15", ls="--", lw=1.2, label=f"threshold {threshold:.3f}")


def _legend_on_top(fig: Figure, ax: Axes, columns: int) -> None:
    fig.tight_layout()
    fig.legend(*ax.get_legend_handles_labels(), loc="lower center", ncol=columns, frameon=False,
               bbox_to_anchor=(0.5, 1.0))  # fmt: skip


def _span(values: Iterable[np.ndarray]) -> tuple[float, float]:
    """Least and greatest of all values."""
    joined = np.concatenate(list(values))
    return float(joined.min()), float(joined.max())


def _share(hits: np.ndarray) -> str:
    return f"{hits.mean():.1%}" if len(hits) else "none"


def _legend_above(fig: Figure, ax: Axes, height: float) -> None:
    """Put one panel's legend above all of them, and tighten the rest."""
    handles, labels = ax.get_legend_handles_labels()
    fig.legend(handles, labels, loc="upper center", ncol=len(labels), frameon=False,
               bbox_to_anchor=(0.5, height))  # fmt: skip
    fig.tight_layout()
