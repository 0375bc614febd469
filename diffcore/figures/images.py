"""Galleries: images in rows and columns."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_SMALL = 100  # pixels; every one of them is shown, while larger images are shrunk smoothly


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


def _show(ax: Axes, image: np.ndarray | None) -> None:
    if image is None:
        ax.axis("off")
        return
    small = max(image.shape[:2]) <= _SMALL
    ax.imshow(image, interpolation="nearest" if small else "antialiased")
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    sns.despine(ax=ax, left=True, bottom=True)
