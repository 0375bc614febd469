"""How values are spread, what a threshold makes of them, and whether confidence can be trusted."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffcore.figures import style

_BINS = 40
_WIDE = (6.8, 3.4)  # inches


def histograms(
    values: Mapping[str, np.ndarray] | Mapping[str, Mapping[str, np.ndarray]], *, xlabel: str = "",
    threshold: float | Mapping[str, float] | None = None, log: bool = False, density: bool = True,
) -> Figure:  # fmt: skip
    """Histograms of several kinds of values (kind -> values, or panel -> kind -> values).

    `threshold` is a dashed line, in all panels or by panel. With `log`, zeros are counted at the
    left end of the axis. Each outline has area 1, and panels share their bins and axes; without
    `density` outlines are shares of their values, and each panel has bins of its own.
    """
    several = isinstance(next(iter(values.values())), Mapping)
    nested = values if several else {"": values}
    fig, panels = style.lay_panels(
        pd.DataFrame({"panel": list(nested)}), "panel", (3.8, 2.9) if several else _WIDE, 3,
        xlabel=xlabel, ylabel="density" if density else "share of images", sharey=density,
    )  # fmt: skip
    pooled = {name: np.concatenate(list(kinds.values())) for name, kinds in nested.items()}
    for ax, name, _ in panels:
        at = threshold.get(name) if isinstance(threshold, Mapping) else threshold
        edges = _edges(np.concatenate([*pooled.values()]) if density else pooled[name], at, log)
        for kind, colour in style.colours(nested[name]).items():
            each = np.clip(nested[name][kind], edges[0], None)
            ax.hist(each, edges, density=density, weights=np.full(len(each), 1 / len(each)),
                    histtype="stepfilled", lw=1.6, facecolor=(*colour, 0.15), edgecolor=colour,
                    label=kind if several else f"{kind} (n = {len(each):,})")  # fmt: skip
        _mark_threshold(ax, at, exact=not several)
        if log:
            style.scale_log(ax)
        if not density:
            style.as_percent(ax.yaxis)
    style.put_legend(panels[0][0])
    return fig


def _edges(values: np.ndarray, threshold: float | None, log: bool) -> np.ndarray:
    """Edges of bins over all values; 0 has no place on a logarithmic axis."""
    if not log:
        return np.linspace(values.min(), values.max(), _BINS + 1)
    floor = values[values > 0].min() if threshold is None else threshold / 30
    return np.geomspace(max(values.min(), floor), values.max(), _BINS + 1)


def _mark_threshold(ax: Axes, at: float | None, *, exact: bool = True) -> None:
    if at is not None:
        ax.axvline(at, label=f"threshold {at:.3f}" if exact else "threshold", **style.DASHED)


def threshold_view(similarity: np.ndarray, wrong: np.ndarray, threshold: float) -> Figure:
    """Show right and wrong images (N,) over their cosines, and what a threshold makes of them."""
    fig, ax = plt.subplots(figsize=_WIDE, layout="constrained")
    labels = [f"right (n = {(~wrong).sum():,})", f"wrong (n = {wrong.sum():,})"]
    ax.hist([similarity[~wrong], similarity[wrong]], _edges(similarity, None, False), stacked=True,
            label=labels, color=[style.PALETTE[0], style.PALETTE[3]])  # fmt: skip
    _mark_threshold(ax, threshold)
    rejected = similarity < threshold
    title = (
        f"rejected: {rejected.mean():.1%} of all, {_share(rejected[wrong])} of the wrong; "
        f"wrong among the kept: {_share(wrong[~rejected])} (before: {wrong.mean():.1%})"
    )
    ax.set_title(title, fontsize="small")
    ax.set(xlabel="similarity to the reference", ylabel="generated images")
    style.put_legend(ax)
    return fig


def _share(hits: np.ndarray) -> str:
    return f"{hits.mean():.1%}" if len(hits) else "none"


def boxes(table: pd.DataFrame, *, x: str, y: str, hue: str, xlabel: str = "") -> Figure:
    """Boxes that hold the middle half of the values of `x`, a row for each value of `y`.

    Whiskers reach the 5th and the 95th percentile, as the axis says.
    """
    fig, ax = plt.subplots(figsize=(6.8, 0.6 * table[y].nunique() + 1.0), layout="constrained")
    sns.boxplot(table, x=x, y=y, hue=hue, ax=ax, whis=(5, 95), fliersize=0,
                palette=style.colours(table[hue]), width=0.6, linewidth=0.9)  # fmt: skip
    said = "box: middle half and median, whiskers: 5th to 95th percentile"
    ax.set(xlabel=f"{xlabel}\n{said}", ylabel="")
    ax.get_legend().remove()
    style.put_legend(ax)
    return fig


def curves(
    table: pd.DataFrame, *, x: str, y: str, hue: str, xlabel: str, ylabel: str,
    threshold: float | None = None, expected: float | None = None, diagonal: bool = False,
    labels: Mapping[str, str] | None = None, marked: tuple[float, float] | None = None,
) -> Figure:  # fmt: skip
    """Curves of shares over a threshold, or, with the `diagonal` of guessing, over shares (ROC).

    The table is tidy, in the order of the points. The threshold in use is a vertical line or a
    `marked` point, the share `expected` from the paper a horizontal line. Each value of `hue` may
    have a text of its own in the legend, by `labels`.
    """
    fig, ax = plt.subplots(figsize=(7.4, 4.0) if diagonal else _WIDE, layout="constrained")
    for name, colour in style.colours(table[hue]).items():
        rows, label = table[table[hue] == name], (labels or {}).get(name, style.label_of(name))
        ax.plot(rows[x], rows[y], color=colour, lw=1.7, label=label)
    if diagonal:
        ax.plot([0, 1], [0, 1], color="0.7", lw=1, ls=":", label="guessing")
        ax.set_aspect("equal")
    if expected is not None:
        ax.axhline(expected, color="0.4", ls=":", lw=1.2)
        ax.annotate(f"the paper: about {expected:.0%}", (0.99, expected), ha="right", va="bottom",
                    xycoords=("axes fraction", "data"), fontsize=8)  # fmt: skip
    _mark_threshold(ax, threshold)
    if marked is not None:
        ax.plot(*marked, "o", ms=8, mfc="none", mec="0.15", mew=1.6, label="threshold in use")
    style.as_percent(*[ax.yaxis, ax.xaxis][: 1 + diagonal])
    ax.set(xlabel=xlabel, ylabel=ylabel, ylim=(-0.02, 1.02))
    style.put_legend(ax, where="right upper" if diagonal else "upper center")
    return fig


def reliability_diagrams(bins: pd.DataFrame, errors_of: Mapping[str, float]) -> Figure:
    """Accuracy over confidence, a panel a method; on the diagonal confidence can be trusted.

    Takes columns method, confidence, top1, count, and each method's expected calibration error.
    """
    labels = {"xlabel": "confidence", "ylabel": "accuracy"}
    fig, panels = style.lay_panels(bins, "method", (2.5, 2.6), 4, **labels)
    for ax, method, rows in panels:
        colour, sizes = style.METHODS[method][1], 150 * rows["count"] / rows["count"].max() + 4
        ax.plot([0, 1], [0, 1], color="0.6", ls=":", lw=1.2, label="accuracy = confidence")
        ax.plot(rows["confidence"], rows["top1"], color=colour, lw=1.2)
        ax.scatter(rows["confidence"], rows["top1"], sizes, color=colour)
        ax.set(xlim=(0, 1.03), ylim=(0, 1.03))
        ax.text(0.05, 0.9, f"ECE {100 * errors_of[method]:.1f} points", fontsize=9)
        style.as_percent(ax.xaxis, ax.yaxis)
    style.put_legend(panels[0][0])
    return fig
