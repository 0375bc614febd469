"""Figures of the seventh notebook: what stands in them, not how it looks; that is for eyes."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from diffcore.figures import robustness as figures
from diffcore.figures.style import METHODS


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def measured(**columns):
    table = pd.DataFrame(columns)
    return table.assign(low=table["mean"] - 0.1, high=table["mean"] + 0.1)


def test_the_map_is_in_the_order_of_the_methods_and_ends_with_the_mean_of_the_corrupted():
    table = pd.DataFrame(
        {"method": ["diffcoremix"] * 3 + ["vanilla"] * 3, "corruption": ["none", "fog", "JPEG"] * 2,
         "mean": [0.9, 0.6, 0.4, 0.8, 0.2, 0.4]}
    )  # fmt: skip
    ax = figures.corruption_map(table).axes[0]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["vanilla", "DiffCoRe-Mix"]
    assert [text.get_text() for text in ax.get_xticklabels()] == [
        "none", "fog", "JPEG", "mean of these",
    ]  # fmt: skip
    shown = ax.collections[0].get_array().reshape(2, 4)
    np.testing.assert_allclose(shown, [[80, 20, 40, 30], [90, 60, 40, 50]])


def test_severity_has_a_panel_a_corruption_and_begins_with_the_clean_images():
    rows = [("none", 0, 0.9), ("fog", 1, 0.8), ("fog", 3, 0.5), ("JPEG", 1, 0.7), ("JPEG", 3, 0.4)]
    corruption, severity, mean = zip(*rows * 2, strict=True)
    table = measured(
        method=["added"] * 5 + ["vanilla"] * 5, corruption=corruption, severity=severity, mean=mean
    )
    fig = figures.severity_curves(table)
    shown = [ax for ax in fig.axes if ax.containers]
    assert [ax.get_title() for ax in shown] == ["fog", "JPEG"]
    assert [ax.get_visible() for ax in fig.axes] == [True, True, False, False, False]
    curve = shown[0].containers[0].lines[0]
    assert curve.get_xdata().tolist() == [0, 1, 3]
    assert curve.get_ydata().tolist() == [0.9, 0.8, 0.5]
    assert [t.get_text() for t in fig.legends[0].get_texts()] == ["vanilla", "generated, added"]


def test_each_method_has_its_colour_and_each_condition_its_marker():
    table = measured(
        method=["vanilla", "cutmix"] * 2, attack=["FGSM"] * 2 + ["PGD"] * 2,
        mean=[0.5, 0.4, 0.3, 0.2],
    )  # fmt: skip
    fig = figures.robustness_dots(table, "top-1", "attack")
    lines = [container.lines[0] for container in fig.axes[0].containers]
    assert [line.get_color() for line in lines] == [METHODS[m][1] for m in table["method"]]
    assert [line.get_marker() for line in lines] == ["o", "o", "s", "s"]
    assert [line.get_xdata()[0] for line in lines] == [0.5, 0.4, 0.3, 0.2]
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["FGSM", "PGD"]


def test_differences_are_marked_at_zero():
    table = measured(method=["cutmix", "added"], mean=[0.1, -0.1])
    ax = figures.robustness_dots(table, "difference", zero=True).axes[0]
    assert ax.lines[-1].get_xdata()[0] == 0
    assert not ax.figure.legends


def test_reliability_has_a_panel_a_method():
    bins = pd.DataFrame(
        {"method": ["vanilla", "vanilla", "added"], "confidence": [0.5, 0.9, 0.7],
         "top1": [0.4, 0.8, 0.9], "count": [10, 30, 40]}
    )  # fmt: skip
    fig = figures.reliability_diagrams(bins, {"vanilla": 0.1, "added": 0.2})
    assert [ax.get_title() for ax in fig.axes] == ["vanilla", "generated, added"]
    assert fig.axes[0].lines[1].get_xdata().tolist() == [0.5, 0.9]
    assert fig.axes[1].texts[0].get_text() == "ECE 20.0%"


def test_distances_have_a_panel_a_space_and_exact_copies_a_bar():
    table = pd.DataFrame({"space": ["a"] * 3 + ["b"] * 3, "distance": [0.0, 0.2, 0.4, 1, 2, 4]})
    fig = figures.nearest_histograms({"x": table, "y": table}, {"a": 0.1, "b": 1.5})
    assert len(fig.axes) == 2
    assert [len(ax.patches) for ax in fig.axes] == [2, 2]
    assert [ax.lines[0].get_xdata()[0] for ax in fig.axes] == [0.1, 1.5]
    # Every image is in a bar, an exact copy too.
    heights = fig.axes[0].patches[0].get_xy()[:, 1]
    assert heights[1:-1:2].sum() == pytest.approx(1)
