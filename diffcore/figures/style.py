"""What all figures share: one style, a colour for each measure and method, legends.

seaborn, a palette that colour-blind readers can tell apart, text readable at column width.
"""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PALETTE = sns.color_palette("colorblind")
#: measure -> (label, colour)
MEASURES: dict[str, tuple[str, tuple[float, ...]]] = {
    "species_right": ("species right", PALETTE[0]),
    "context_right": ("context right", PALETTE[2]),
    "wellformed": ("well-formed", PALETTE[1]),
    "wrong": ("wrong species or malformed", PALETTE[3]),
    "uninvited": ("uninvited distractor", PALETTE[4]),
}
#: method -> (label, colour); the same in every figure. Ours and what it is asked about stand out.
METHODS: dict[str, tuple[str, str | tuple[float, ...]]] = {
    "vanilla": ("vanilla", "0.45"),
    "mixup": ("MixUp", PALETTE[1]),
    "cutmix": ("CutMix", PALETTE[5]),
    "saliencymix": ("SaliencyMix", PALETTE[8]),
    "randaugment": ("RandAugment", PALETTE[9]),
    "trivialaugment": ("TrivialAugment", PALETTE[6]),
    "augmix": ("AugMix", "#00636b"),
    "diffusemix": ("DiffuseMix", PALETTE[2]),
    "added": ("generated, added", PALETTE[0]),
    "diffcoremix": ("DiffCoRe-Mix", PALETTE[3]),
    "mixed_added": ("DiffCoRe-Mix, added", PALETTE[4]),
}


def use_style() -> None:
    """Set the style of all figures; called once at the top of a notebook."""
    sns.set_theme("paper", "whitegrid", "colorblind", font_scale=1.15)
    plt.rcParams |= {
        "figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False,
        "savefig.facecolor": "white", "svg.fonttype": "none", "axes.titlesize": "medium",
    }  # fmt: skip


def wrap(text: str, width: int = 12) -> str:
    """Break a label into lines of at most `width` letters, at spaces."""
    return "\n".join(textwrap.wrap(text, width))


def test_title(test: str) -> str:
    """Name a test set above a panel.

    >>> test_title("shifted"), test_title("test")
    ('shifted test set', 'test set')
    """
    return f"{test} test set".removeprefix("test ")


def errors(rows: pd.DataFrame) -> np.ndarray:
    """Distances (2, N) from each rate down to its lower and up to its upper bound."""
    distances = np.stack([rows["rate"] - rows["low"], rows["high"] - rows["rate"]])
    return distances.clip(min=0)  # at 0 and 1 rounding leaves -1e-17


def legend_on_top(fig: Figure, ax: Axes, columns: int) -> None:
    """Tighten a figure of one panel, and put its legend above it."""
    fig.tight_layout()
    fig.legend(*ax.get_legend_handles_labels(), loc="lower center", ncol=columns, frameon=False,
               bbox_to_anchor=(0.5, 1.0))  # fmt: skip


def legend_above(fig: Figure, ax: Axes, height: float) -> None:
    """Put one panel's legend above all of them, and tighten the rest."""
    handles, labels = ax.get_legend_handles_labels()
    fig.legend(handles, labels, loc="upper center", ncol=len(labels), frameon=False,
               bbox_to_anchor=(0.5, height))  # fmt: skip
    fig.tight_layout()
