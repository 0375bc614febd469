"""Distributions, curves over a threshold, tables as colours, and shares or times as bars."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffcore.figures import style

_BINS = 40
_WIDE = (6.8, 3.4)  # inches
_DIAGONAL = {"color": "0.65", "ls": ":", "lw": 1.1}


def histograms(
    values: Mapping[str, np.ndarray] | Mapping[str, Mapping[str, np.ndarray]],
    *,
    xlabel: str,
    threshold: style.PerPanel = None,
    log: bool = False,
    density: bool = True,
) -> Figure:
    """Draw histograms of several kinds of values (kind -> values, or panel -> kind -> values).

    `threshold` is a dashed line. With `log`, zeros are counted at the left end of the axis. Each
    outline has area 1, and panels share their bins and axes. Without `density` outlines are shares
    of their values, and each panel has bins of its own.
    """
    several = isinstance(next(iter(values.values())), Mapping)
    nested = values if several else {"": values}
    table = pd.concat(
        pd.DataFrame({"panel": panel, "kind": kind, "value": np.asarray(each)})
        for panel, kinds in nested.items()
        for kind, each in kinds.items()
    )
    size, ylabel = (3.8, 2.9) if several else _WIDE, "density" if density else "share of images"
    panels = style.lay_panels(table, "panel", size, 3, xlabel, ylabel, sharey=density)
    for ax, name, rows in panels:
        at = style.in_panel(threshold, name)
        edges = _edges(table["value"] if density else rows["value"], at, log)
        for kind, colour in style.colours(rows["kind"]).items():
            each = rows.loc[rows["kind"] == kind, "value"].clip(lower=edges[0])
            label = kind if several else f"{kind} (n = {len(each):,})"
            look = {"facecolor": (colour, 0.15), "edgecolor": colour, "lw": 1.6, "label": label}
            counted = {"density": density, "weights": np.full(len(each), 1 / len(each))}
            ax.hist(each, edges, histtype="stepfilled", **counted, **look)
        _mark_threshold(ax, at, exact=not several)
        if log:
            style.scale_log(ax)
        if not density:
            style.as_percent(ax.yaxis)
    return style.put_legend(panels[0][0])


def _edges(values: np.ndarray, threshold: float | None, log: bool) -> np.ndarray:
    """Return the edges of bins over all values; 0 has no place on a logarithmic axis."""
    if not log:
        return np.linspace(values.min(), values.max(), _BINS + 1)
    floor = values[values > 0].min() if threshold is None else threshold / 30
    return np.geomspace(max(values.min(), floor), values.max(), _BINS + 1)


def _mark_threshold(ax: Axes, at: float | None, exact: bool = True) -> None:
    if at is not None:
        ax.axvline(at, label=f"threshold {at:.3f}" if exact else "threshold", **style.DASHED)


def threshold_view(similarity: np.ndarray, wrong: np.ndarray, threshold: float) -> Figure:
    """Draw similarities of right and wrong images (N,), and state what a threshold rejects."""
    fig, ax = plt.subplots(figsize=_WIDE, layout="constrained")
    labels = [f"right (n = {(~wrong).sum():,})", f"wrong (n = {wrong.sum():,})"]
    parts = [similarity[~wrong], similarity[wrong]]
    ax.hist(
        parts, _edges(similarity, None, False), stacked=True, label=labels, color=style.OTHERS[:2]
    )
    _mark_threshold(ax, threshold)
    rejected = similarity < threshold
    title = (
        f"rejected: {rejected.mean():.1%} of all, {_share(rejected[wrong])} of the wrong; "
        f"wrong among the kept: {_share(wrong[~rejected])} (before: {wrong.mean():.1%})"
    )
    ax.set_title(title, fontsize="small")
    ax.set(xlabel="similarity to the reference", ylabel="generated images")
    return style.put_legend(ax)


def _share(hits: np.ndarray) -> str:
    return f"{hits.mean():.1%}" if len(hits) else "none"


def boxes(table: pd.DataFrame, *, x: str, y: str, hue: str, xlabel: str) -> Figure:
    """Draw boxes that hold the middle half of the values of `x`, a row for each value of `y`."""
    fig, ax = plt.subplots(figsize=(6.8, 0.6 * table[y].nunique() + 1.0), layout="constrained")
    look = {"width": 0.6, "linewidth": 0.9, "palette": style.colours(table[hue])}
    sns.boxplot(table, x=x, y=y, hue=hue, ax=ax, whis=(5, 95), fliersize=0, **look)
    note = "box: middle half and median, whiskers: 5th to 95th percentile"
    ax.set(xlabel=f"{xlabel}\n{note}", ylabel="")
    ax.get_legend().remove()
    return style.put_legend(ax)


def curves(
    table: pd.DataFrame, *, x: str, y: str, hue: str, xlabel: str, ylabel: str,
    threshold: float | None = None, expected: float | None = None, diagonal: bool = False,
    labels: Mapping[str, str] | None = None, marked: tuple[float, float] | None = None,
) -> Figure:  # fmt: skip
    """Draw curves of shares over a threshold or, with the `diagonal` of chance, over shares (ROC).

    The table holds the points in order. The threshold in use is a vertical line or a `marked`
    point, the share `expected` from the paper a horizontal line. `labels` replace values of `hue`.
    """
    fig, ax = plt.subplots(figsize=(7.4, 4.0) if diagonal else _WIDE, layout="constrained")
    for name, colour in style.colours(table[hue]).items():
        rows, label = table[table[hue] == name], (labels or {}).get(name, style.label_of(name))
        ax.plot(rows[x], rows[y], color=colour, lw=1.7, label=label)
    if expected is not None:
        ax.axhline(expected, color="0.4", ls=":", lw=1.2)
        place = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom"}
        text = f"the paper: about {expected:.0%}"
        ax.annotate(text, (0.99, expected), fontsize=8, **place)
    _mark_threshold(ax, threshold)
    if diagonal:
        ax.plot([0, 1], [0, 1], label="chance", **_DIAGONAL)
        ax.set_aspect("equal")
        style.as_percent(ax.xaxis)
    if marked is not None:
        ax.plot(*marked, "o", ms=8, mfc="none", mec="0.15", mew=1.6, label="threshold in use")
    style.as_percent(ax.yaxis)
    ax.set(xlabel=xlabel, ylabel=ylabel, ylim=(-0.02, 1.02))
    return style.put_legend(ax, where="right upper" if diagonal else "upper center")


def reliability_diagrams(bins: pd.DataFrame, errors_of: Mapping[str, float]) -> Figure:
    """Draw accuracy over confidence, a panel per method; confidence is right on the diagonal.

    Takes columns method, confidence, top1, count, and each method's expected calibration error.
    """
    panels = style.lay_panels(bins, "method", (2.5, 2.6), 4, "confidence", "accuracy")
    for ax, method, rows in panels:
        colour, sizes = style.METHODS[method][1], 150 * rows["count"] / rows["count"].max() + 4
        ax.plot([0, 1], [0, 1], label="accuracy = confidence", **_DIAGONAL)
        ax.plot(rows["confidence"], rows["top1"], color=colour, lw=1.2)
        ax.scatter(rows["confidence"], rows["top1"], sizes, color=colour)
        ax.set(xlim=(0, 1.03), ylim=(0, 1.03))
        ax.text(0.05, 0.9, f"ECE {100 * errors_of[method]:.1f} points", fontsize=9)
        style.as_percent(ax.xaxis)
        style.as_percent(ax.yaxis)
    return style.put_legend(panels[0][0])


def heat_maps(
    maps: Mapping[str, pd.DataFrame],
    *,
    label: str,
    annotate: bool = False,
    vmax: float | None = None,
) -> Figure:
    """Draw wide tables of shares, title -> table, as heat maps of the same rows on one scale.

    `annotate` writes each share in per cent. The colours span 0 to `vmax`, or least to greatest; if
    some shares lie above, the colour bar says so. Where there is no share, a cell is white.
    """
    tables = [table.rename(index=style.label_of, columns=style.label_of) for table in maps.values()]
    wide, tall = (0.5, 0.34) if annotate else (0.24, 0.27)
    size = sum(wide * table.shape[1] for table in tables) + 2.6, tall * len(tables[0]) + 1.7
    options = {"sharey": True, "squeeze": False, "layout": "constrained"}
    fig, axes = plt.subplots(1, len(maps), figsize=size, **options)
    least, greatest = np.nanmin(pd.concat(tables)), np.nanmax(pd.concat(tables))
    low, high = (0.0, vmax) if vmax else (least, greatest)
    look = {"vmin": low, "vmax": high, "cmap": "rocket_r", "linewidths": 0.4, "cbar": False}
    look |= {"fmt": ".0f", "annot_kws": {"size": 8}, "xticklabels": True, "yticklabels": True}
    for ax, title, table in zip(axes[0], maps, tables, strict=True):
        sns.heatmap(table, ax=ax, annot=100 * table if annotate else None, **look)
        ax.set(title=title, xlabel="", ylabel="")
        ax.grid(visible=False)
        ax.tick_params(axis="y", rotation=0, labelsize=8.5)
        ax.tick_params(axis="x", rotation=90, labelsize=8.5)
    label, extend = (f"{label} (arrow: above)", "max") if greatest > high else (label, "neither")
    bar = fig.colorbar(axes[0, -1].collections[0], ax=axes, shrink=0.8, pad=0.02, extend=extend)
    bar.set_label(style.wrap(label, 32))
    style.as_percent(bar.ax.yaxis)
    return fig


def stacked_bars(table: pd.DataFrame, groups: Sequence[tuple[str, str]]) -> Figure:
    """Draw times: a panel per group, a stacked bar per row, each panel in its own milliseconds.

    Takes columns group, row, part, ms, and pairs of a group and what its milliseconds are for.
    """
    counts = [table.loc[table["group"] == group, "row"].nunique() for group, _ in groups]
    options = {"height_ratios": np.add(counts, 0.4), "squeeze": False, "layout": "constrained"}
    size = 7.6, 0.4 * sum(counts) + 1.05 * len(groups)
    fig, axes = plt.subplots(len(groups), 1, figsize=size, **options)
    for ax, (group, unit) in zip(axes[:, 0], groups, strict=True):
        rows = table[table["group"] == group]
        rows = rows.assign(row=rows["row"].map(style.label_of))
        wide = rows.pivot(index="row", columns="part", values="ms")
        wide = wide.loc[rows["row"].unique()[::-1], rows["part"].unique()]
        wide.plot.barh(stacked=True, ax=ax, color=style.colours(table["part"]), width=0.65)
        ax.set(title=group, xlabel=f"milliseconds {unit}", ylabel="")
        ax.grid(visible=False, axis="y")
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
    return fig


def object_bars(table: pd.DataFrame) -> Figure:
    """Draw what is object in mixed images, and what labels and objects lose, a row per method.

    Takes columns method; own and other, shares of an image; label_error; lost, a share of images.
    """
    size = 9.6, 0.4 * len(table) + 1.3
    fig, axes = plt.subplots(1, 3, figsize=size, sharey=True, layout="constrained")
    places, blue, red = np.arange(len(table)), *style.OTHERS[:2]
    axes[0].barh(places, table["own"], color=blue, label="object of the label's class")
    axes[0].barh(
        places, table["other"], left=table["own"], color=red, label="object of another class"
    )
    axes[1].plot(table["label_error"], places, "o", color="0.3")
    axes[2].plot(table["lost"], places, "o", color="0.3")
    axes[0].set_yticks(places, map(style.label_of, table["method"]))
    axes[0].invert_yaxis()
    labels = {
        "object, share of the image": "%",
        "label's weight misses its object, points": "",
        "images that lose over half of their object": "%",
    }
    for ax, (label, sign) in zip(axes, labels.items(), strict=True):
        ax.set_xlabel(style.wrap(label, 26))
        ax.set_xlim(-0.01 * (ax is not axes[0]), max(1.05 * ax.dataLim.x1, 0.05))
        style.as_percent(ax.xaxis, sign)
    return style.put_legend(axes[0])
