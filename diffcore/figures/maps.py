"""Tables as colours, and shares or times as bars."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from diffcore.figures import style


def heat_maps(
    maps: Mapping[str, pd.DataFrame], label: str, annotate: bool = False, vmax: float | None = None
) -> plt.Figure:
    """Draw wide tables of shares, title -> table, as heat maps of the same rows on one scale.

    `annotate` writes each share in per cent. The colours span 0 to `vmax`, or least to greatest; if
    some shares lie above, the colour bar says so. Where there is no share, a cell is white.
    """
    tables = [table.rename(index=style.label_of, columns=style.label_of) for table in maps.values()]
    wide, tall = (0.5, 0.34) if annotate else (0.24, 0.27)
    size = sum(wide * table.shape[1] for table in tables) + 2.6, tall * len(tables[0]) + 1.7
    fig, axes = plt.subplots(1, len(maps), figsize=size, sharey=True, **style.LAID_OUT)
    least, greatest = np.nanmin(pd.concat(tables)), np.nanmax(pd.concat(tables))
    look = {"vmin": 0.0 if vmax else least, "vmax": vmax or greatest, "cmap": "rocket_r"}
    look |= {"linewidths": 0.4, "cbar": False, "xticklabels": True, "yticklabels": True}
    for ax, title, table in zip(axes[0], maps, tables, strict=True):
        texts = {"annot": 100 * table if annotate else None, "fmt": ".0f", "annot_kws": {"size": 8}}
        sns.heatmap(table, ax=ax, **texts, **look)
        ax.set(title=title, xlabel="", ylabel="")
        ax.grid(visible=False)
        ax.tick_params(axis="y", rotation=0, labelsize=8.5)
        ax.tick_params(axis="x", rotation=90, labelsize=8.5)
    above = greatest > look["vmax"]
    cells, extend = axes[0, -1].collections[0], "max" if above else "neither"
    bar = fig.colorbar(cells, ax=axes, shrink=0.8, pad=0.02, extend=extend)
    bar.set_label(style.wrap(f"{label} (arrow: above)" if above else label, 32))
    style.as_percent(bar.ax.yaxis)
    return fig


def stacked_bars(table: pd.DataFrame, groups: Sequence[tuple[str, str]]) -> plt.Figure:
    """Draw times: a panel per group, a stacked bar per row, each panel in its own milliseconds.

    Takes columns group, row, part, ms, and pairs of a group and what its milliseconds are for.
    """
    table = table.assign(row=table["row"].map(style.label_of))
    counts = [table.loc[table["group"] == group, "row"].nunique() for group, _ in groups]
    size, heights = (7.6, 0.4 * sum(counts) + 1.05 * len(groups)), np.add(counts, 0.4)
    grid = {"figsize": size, "height_ratios": heights} | style.LAID_OUT
    fig, axes = plt.subplots(len(groups), 1, **grid)
    for ax, (group, unit) in zip(axes[:, 0], groups, strict=True):
        rows = table[table["group"] == group]
        wide = rows.pivot(index="row", columns="part", values="ms")
        wide = wide.loc[rows["row"].unique()[::-1], rows["part"].unique()]
        wide.plot.barh(stacked=True, ax=ax, color=style.colours(table["part"]), width=0.65)
        ax.set(title=group, xlabel=f"milliseconds {unit}", ylabel="")
        ax.grid(visible=False, axis="y")
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
    return fig


def object_bars(table: pd.DataFrame) -> plt.Figure:
    """Draw what is object in mixed images, and what labels and objects lose, a row per method.

    Takes columns method; own and other, shares of an image; label_error; lost, a share of images.
    """
    bars = table.set_index(table["method"].map(style.label_of))[["own", "other"]]
    bars = bars.set_axis(style.NAMES["objects"]["bars"], axis=1)
    size = 9.6, 0.4 * len(table) + 1.3
    _, axes = plt.subplots(1, 3, figsize=size, sharey=True, layout="constrained")
    bars.plot.barh(stacked=True, ax=axes[0], color=style.OTHERS, width=0.8, legend=False)
    axes[0].set_ylabel("")
    axes[0].invert_yaxis()
    axes[1].plot(table["label_error"], range(len(table)), "o", color="0.3")
    axes[2].plot(table["lost"], range(len(table)), "o", color="0.3")
    for ax, (label, sign) in zip(axes, style.NAMES["objects"]["axes"].items(), strict=True):
        ax.set_xlabel(style.wrap(label, 26))
        ax.set_xlim(-0.01 * (ax is not axes[0]), max(1.05 * ax.dataLim.x1, 0.05))
        style.as_percent(ax.xaxis, sign)
    return style.put_legend(axes[0])
