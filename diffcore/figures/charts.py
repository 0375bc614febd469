"""How values are spread, whether confidence is right, and tables as colours."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from diffcore.figures import style
from diffcore.figures.style import PerPanel

Values = Mapping[str, np.ndarray] | Mapping[str, Mapping[str, np.ndarray]]

_BINS = 40
_WIDE = (6.8, 3.4)  # inches
_DOTTED = {"color": "0.5", "ls": ":", "lw": 1.1}


def histograms(
    values: Values, xlabel: str, threshold: PerPanel = None, log: bool = False, density: bool = True
) -> plt.Figure:
    """Draw histograms of several kinds of values (kind -> values, or panel -> kind -> values).

    `threshold` is a dashed line. With `log`, values below a thirtieth of it are counted there. Each
    outline has area 1, and panels share their bins; without `density` outlines are shares of their
    values, and each panel has bins of its own.
    """
    several = isinstance(next(iter(values.values())), Mapping)
    nested = values if several else {"": values}
    each = {(name, kind): pd.Series(x) for name, part in nested.items() for kind, x in part.items()}
    table = pd.concat(each, names=["panel", "kind"]).reset_index(name="value")
    size, ylabel = (3.8, 2.9) if several else _WIDE, "density" if density else "share of images"
    panels = style.lay_panels(table, "panel", size, 3, xlabel, ylabel)
    for ax, name, rows in panels:
        at, span = style.in_panel(threshold, name), (table if density else rows)["value"]
        edges = np.linspace(span.min(), span.max(), _BINS + 1)
        if log:
            edges = np.geomspace(max(span.min(), at / 30), span.max(), _BINS + 1)
            style.scale_log(ax)
        for kind, colour in style.colours(rows["kind"]).items():
            x = rows.loc[rows["kind"] == kind, "value"].clip(lower=edges[0])
            label = kind if several else f"{kind} (n = {len(x):,})"
            look = {"facecolor": (colour, 0.15), "edgecolor": colour, "lw": 1.6, "label": label}
            weights = np.full(len(x), 1 / len(x))
            ax.hist(x, edges, weights=weights, density=density, histtype="stepfilled", **look)
        if at is not None:
            label = "threshold" if several else f"threshold {at:.3f}"
            ax.axvline(at, label=label, **style.DASHED)
        if not density:
            style.as_percent(ax.yaxis)
    return style.put_legend(panels[0][0])


def reliability_diagrams(bins: pd.DataFrame, errors_of: Mapping[str, float]) -> plt.Figure:
    """Draw accuracy over confidence, a panel per method; confidence is right on the diagonal.

    Takes columns method, confidence, top1, count, and each method's expected calibration error.
    """
    panels = style.lay_panels(bins, "method", (2.5, 2.6), 4, "confidence", "accuracy")
    for ax, method, rows in panels:
        colour, sizes = style.METHODS[method][1], 150 * rows["count"] / rows["count"].max() + 4
        ax.plot([0, 1], [0, 1], label="accuracy = confidence", **_DOTTED)
        ax.plot(rows["confidence"], rows["top1"], color=colour, lw=1.2)
        ax.scatter(rows["confidence"], rows["top1"], sizes, color=colour)
        ax.set(xlim=(0, 1.03), ylim=(0, 1.03))
        ax.text(0.05, 0.9, f"ECE {100 * errors_of[method]:.1f} points", fontsize=9)
        style.as_percent(ax.xaxis)
        style.as_percent(ax.yaxis)
    return style.put_legend(panels[0][0])


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
