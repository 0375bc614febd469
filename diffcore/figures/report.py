"""The overview of the last notebook."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from diffcore.figures.style import METHODS, PALETTE


def effect_dots(table: pd.DataFrame) -> Figure:
    """Every difference that the study is about, a row each; above 0 speaks for DiffCoRe-Mix.

    Args:
        table: columns effect, gain, low and high, all shares.
    """
    fig, ax = plt.subplots(figsize=(7.4, 0.38 * len(table) + 1.0))
    for y, row in enumerate(table.itertuples()):
        clear = row.low > 0 or row.high < 0
        colour = METHODS["diffcoremix"][1] if row.gain > 0 else PALETTE[0]
        ax.errorbar(row.gain, y, xerr=[[row.gain - row.low], [row.high - row.gain]], fmt="o", ms=6,
                    capsize=3, color=colour, mfc=colour if clear else "white")  # fmt: skip
    ax.axvline(0, color="0.4", lw=1, ls="--", zorder=0)
    ax.set_yticks(range(len(table)), table["effect"])
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.set(xlabel="points for DiffCoRe-Mix (hollow: the interval holds zero)")
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
    fig.tight_layout()
    return fig
