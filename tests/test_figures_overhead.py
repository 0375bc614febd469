"""Figures of the sixth notebook: what stands in them, not how it looks; that is for eyes."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from diffcore.figures import METHODS, overhead


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def legend(fig):
    return [text.get_text() for text in fig.legends[0].get_texts()]


def test_each_method_stands_at_its_overhead_and_accuracy():
    table = pd.DataFrame(
        [("vanilla", "matched", 0.7, 0.0, 0.0), ("diffcoremix", "matched", 0.8, 0.02, 3.0),
         ("vanilla", "shifted", 0.5, 0.0, 0.0), ("diffcoremix", "shifted", 0.6, 0.02, 3.0)],
        columns=["method", "test", "mean", "overhead", "with_images"],
    ).assign(low=lambda t: t["mean"] - 0.1, high=lambda t: t["mean"] + 0.05)  # fmt: skip
    fig = overhead.overhead_accuracy(table)
    for ax, (vanilla, ours) in zip(fig.axes, ((0.7, 0.8), (0.5, 0.6)), strict=True):
        points = [tuple(np.ravel(bar.lines[0].get_xydata())) for bar in ax.containers]
        assert points == [(0.0, vanilla), (0.02, ours)]
        joined = [
            line for line in ax.lines if line.get_linestyle() == "-" and len(line.get_xdata()) == 2
        ]
        assert [list(line.get_xdata()) for line in joined] == [[0.02, 3.0]]
        assert ax.get_xlim()[0] < 0 < 3.0 < ax.get_xlim()[1]
    assert legend(fig) == ["vanilla", "DiffCoRe-Mix", "with the making of\nits images"]


def test_overheads_stand_in_rows_beside_the_limit():
    table = pd.DataFrame(
        [(setting, method, value, value / 2, value * 2)
         for setting in ("small", "large")
         for method, value in (("vanilla", 0.0), ("cutmix", 0.01), ("augmix", 0.6))],
        columns=["setting", "method", "overhead", "low", "high"],
    )  # fmt: skip
    fig = overhead.step_overheads(table, limit=0.05)
    assert [ax.get_title() for ax in fig.axes] == ["small", "large"]
    names = [label.get_text() for label in fig.axes[0].get_yticklabels()]
    assert names == [METHODS[name][0] for name in ("cutmix", "augmix")]
    for ax in fig.axes:
        points = [tuple(np.ravel(bar.lines[0].get_xydata())) for bar in ax.containers]
        assert points == [(0.01, 0), (0.6, 1)]
        assert 0.05 in [line.get_xdata()[0] for line in ax.lines]
        assert ax.get_xlim()[1] > 1.2


def test_bars_stack_to_the_whole_time():
    table = pd.DataFrame(
        [("a step", "vanilla", "forward", 3.0), ("a step", "vanilla", "backward", 5.0),
         ("a step", "ours", "counterparts", 1.0), ("a step", "ours", "forward", 3.0),
         ("an image", "edit", "UNet", 7.0)],
        columns=["group", "row", "part", "ms"],
    )  # fmt: skip
    fig = overhead.time_bars(table, [("a step", "a step"), ("an image", "an image")])
    ends = [[max(bar.get_x() + bar.get_width() for bar in row)
             for row in zip(*ax.containers, strict=True)] for ax in fig.axes]  # fmt: skip
    assert ends == [[8.0, 4.0], [7.0]]
    assert [ax.get_xlabel() for ax in fig.axes] == ["milliseconds a step", "milliseconds an image"]
    names = [text.get_text() for text in fig.axes[0].get_legend().get_texts()]
    assert names == ["counterparts", "forward", "backward"]


def test_what_falls_over_the_epochs_is_drawn_through():
    table = pd.DataFrame(
        [("vanilla", 1, 0.0), ("vanilla", 10, 0.0), ("augmix", 1, 0.6), ("augmix", 10, 0.6),
         ("diffcoremix", 1, 5.0), ("diffcoremix", 10, 0.5)],
        columns=["method", "epochs", "overhead"],
    )  # fmt: skip
    (ax,) = overhead.amortised_curves(table, epochs=4).axes
    styles = {line.get_label(): line.get_linestyle() for line in ax.lines[:2]}
    assert styles == {"AugMix": "--", "DiffCoRe-Mix": "-"}
    assert ax.lines[1].get_ydata().tolist() == [5.0, 0.5]
    assert ax.lines[2].get_xdata()[0] == 4
