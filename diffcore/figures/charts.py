"""How values are spread, what a threshold makes of them, and whether confidence is right."""

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


def threshold_view(similarity: np.ndarray, wrong: np.ndarray, threshold: float) -> plt.Figure:
    """Draw similarities of right and wrong images (N,), and state what a threshold rejects."""
    _, ax = plt.subplots(figsize=_WIDE, layout="constrained")
    labels = [f"right (n = {(~wrong).sum():,})", f"wrong (n = {wrong.sum():,})"]
    parts = [similarity[~wrong], similarity[wrong]]
    ax.hist(parts, _BINS, stacked=True, label=labels, color=style.OTHERS[:2])
    ax.axvline(threshold, label=f"threshold {threshold:.3f}", **style.DASHED)
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


def boxes(table: pd.DataFrame, x: str, y: str, hue: str, xlabel: str) -> plt.Figure:
    """Draw boxes that hold the middle half of the values of `x`, a row for each value of `y`."""
    _, ax = plt.subplots(figsize=(6.8, 0.6 * table[y].nunique() + 1.0), layout="constrained")
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
) -> plt.Figure:  # fmt: skip
    """Draw curves of shares over a threshold or, with the `diagonal` of chance, over shares (ROC).

    The table holds the points in order. The threshold in use is a vertical line or a `marked`
    point, the share `expected` from the paper a horizontal line. `labels` replace values of `hue`.
    """
    _, ax = plt.subplots(figsize=(7.4, 4.0) if diagonal else _WIDE, layout="constrained")
    for name, colour in style.colours(table[hue]).items():
        rows, label = table[table[hue] == name], (labels or {}).get(name, name)
        ax.plot(rows[x], rows[y], color=colour, lw=1.7, label=label)
    if diagonal:
        ax.plot([0, 1], [0, 1], label="chance", **_DOTTED)
        ax.set_aspect("equal")
        style.as_percent(ax.xaxis)
    if expected is not None:
        ax.axhline(expected, label=f"the paper: about {expected:.0%}", **_DOTTED)
    if threshold is not None:
        ax.axvline(threshold, label=f"threshold {threshold:.3f}", **style.DASHED)
    if marked is not None:
        ax.plot(*marked, "o", ms=8, mfc="none", mec="0.15", mew=1.6, label="threshold in use")
    style.as_percent(ax.yaxis)
    ax.set(xlabel=xlabel, ylabel=ylabel, ylim=(-0.02, 1.02))
    return style.put_legend(ax)


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
