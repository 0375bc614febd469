"""Figures of the third notebook: λ, objects and labels of mixed images."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from diffcore.figures.style import PALETTE, errors, legend_above


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
                    color=PALETTE[(0, 3)[i]], label=label)  # fmt: skip
        ax.set(title=f"α = {alpha:g}", xlabel="λ, share of the real image", xlim=(0, 1))
    np.atleast_1d(axes)[0].set_ylabel("density")
    legend_above(fig, np.atleast_1d(axes)[0], 1.1)
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
    left.barh(places, table["own"], color=PALETTE[0], label="of the label's class")
    left.barh(places, table["other"], left=table["own"], color=PALETTE[3],
              label="of another class")  # fmt: skip
    left.set(xlabel="share of the image that is object")
    right.plot(table["label_error"], places, "o", color=PALETTE[1], label="error of the label")
    right.plot(table["lost"], places, "D", color="0.35", label="object half lost")
    right.set(xlabel="weight of the label, or share of images")
    right.set_xlim(left=-0.01)
    left.set_yticks(places, table["method"])
    left.invert_yaxis()
    for ax in (left, right):
        ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
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
            ax.errorbar(points["lam"], points["rate"], yerr=errors(points), fmt="o-", ms=4, lw=1.4,
                        capsize=2, color=PALETTE[(0, 3)[i]], label=partner)  # fmt: skip
        ax.set(title=f"{level} level", xlabel="λ, share of the real image", ylim=(-0.02, 1.02))
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    np.atleast_1d(axes)[0].set_ylabel("class of the label seen")
    legend_above(fig, np.atleast_1d(axes)[0], 1.08)
    return fig
