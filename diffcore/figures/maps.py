"""Tables as colours, and shares or times as bars."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from diffcore.figures import style


def heat_maps(
    maps: Mapping[str, pd.DataFrame], *, label: str, annotate: bool = False,
    vmax: float | None = None,
) -> Figure:  # fmt: skip
    """Wide tables of shares, title -> table, as heat maps of the same rows on one scale.

    `annotate` writes each share in per cent. The colours span 0 to `vmax`, or least to greatest;
    where some shares lie above, their bar says so. Where there is no share, it is white.
    """
    tables = [table.rename(index=style.label_of, columns=style.label_of) for table in maps.values()]
    wide, tall = (0.5, 0.34) if annotate else (0.24, 0.27)
    size = sum(wide * table.shape[1] for table in tables) + 2.6, tall * len(tables[0]) + 1.7
    fig, axes = plt.subplots(1, len(maps), figsize=size, sharey=True, **style.LAID_OUT)
    low = 0.0 if vmax else min(np.nanmin(table) for table in tables)
    high = vmax or max(np.nanmax(table) for table in tables)
    for ax, title, table in zip(axes[0], maps, tables, strict=True):
        sns.heatmap(table, ax=ax, vmin=low, vmax=high, cmap="rocket_r", linewidths=0.4, cbar=False,
                    annot=100 * table if annotate else None, fmt=".0f", annot_kws={"size": 8},
                    xticklabels=True, yticklabels=True)  # fmt: skip
        ax.set(title=title, xlabel="", ylabel="")
        ax.grid(visible=False)
        ax.tick_params(axis="y", rotation=0, labelsize=8.5)
        ax.tick_params(axis="x", rotation=90, labelsize=8.5)
    above = max(np.nanmax(table) for table in tables) > high
    label, extend = (f"{label} (arrow: above)", "max") if above else (label, "neither")
    bar = fig.colorbar(axes[0, -1].collections[0], ax=axes, shrink=0.8, pad=0.02, extend=extend)
    bar.set_label(style.wrap(label, 32))
    style.as_percent(bar.ax.yaxis)
    return fig


def stacked_bars(table: pd.DataFrame, groups: Sequence[tuple[str, str]]) -> Figure:
    """Where time goes: a panel a group, a stacked bar a row, each panel in its own milliseconds.

    Takes columns group, row, part, ms, and pairs of a group and what its milliseconds are for.
    """
    counts = [table.loc[table["group"] == group, "row"].nunique() for group, _ in groups]
    size = 7.6, 0.4 * sum(counts) + 1.05 * len(groups)
    options = {"figsize": size, "height_ratios": np.add(counts, 0.4)} | style.LAID_OUT
    fig, axes = plt.subplots(len(groups), 1, **options)
    for ax, (group, unit) in zip(axes[:, 0], groups, strict=True):
        rows = table[table["group"] == group]
        rows = rows.assign(row=rows["row"].map(style.label_of))
        wide = rows.pivot(index="row", columns="part", values="ms")
        wide = wide.loc[rows["row"].unique()[::-1], rows["part"].unique()]
        wide.plot.barh(stacked=True, ax=ax, color=style.colours(table["part"]), width=0.65)
        ax.set(title=group, xlabel=f"milliseconds {unit}", ylabel="")
        ax.grid(visible=False, axis="y")
        ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
    return fig


def object_bars(table: pd.DataFrame) -> Figure:
    """Show what is object in mixed images, and what labels and objects lose, a row a method.

    Takes columns method; own and other, shares of an image; label_error; lost, a share of images.
    """
    places, size = np.arange(len(table)), (9.6, 0.4 * len(table) + 1.3)
    fig, axes = plt.subplots(1, 3, figsize=size, sharey=True, layout="constrained")
    axes[0].barh(places, table["own"], color=style.PALETTE[0], label="object of the label's class")
    axes[0].barh(places, table["other"], left=table["own"], color=style.PALETTE[3],
                 label="object of another class")  # fmt: skip
    for ax, name in zip(axes[1:], ("label_error", "lost"), strict=True):
        ax.plot(table[name], places, "o", color="0.3")
    axes[0].set_yticks(places, map(style.label_of, table["method"]))
    axes[0].invert_yaxis()
    labels = ("object, share of the image", "label's weight misses its object, points",
              "images that lose over half of their object")  # fmt: skip
    for ax, label, sign in zip(axes, labels, ("%", "", "%"), strict=True):
        ax.set_xlabel(style.wrap(label, 26))
        ax.set_xlim(-0.01 * (ax is not axes[0]), max(1.05 * ax.dataLim.x1, 0.05))
        style.as_percent(ax.xaxis, sign=sign)
    style.put_legend(axes[0])
    return fig
