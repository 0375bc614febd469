"""Figures of the fifth notebook: what stands in them, not how it looks; that is for eyes."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from diffcore.figures import METHODS
from diffcore.figures import saliency as plots


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def tidy(by, measures, value=0.4):
    """A table with a row for each combination, its values all different."""
    rows = pd.MultiIndex.from_product([*by.values(), measures], names=[*by, "measure"])
    table = rows.to_frame(index=False)
    table["value"] = value + 0.01 * np.arange(len(table))
    return table.assign(low=table["value"] - 0.1, high=table["value"] + 0.2)


def intervals(ax):
    """Position, and both ends of the bar, of all dots of a panel."""
    dots = [c.lines[0].get_xdata()[0] for c in ax.containers]
    bars = [c.lines[2][0].get_segments()[0][:, 0] for c in ax.containers]
    return [(dot, *bar) for dot, bar in zip(dots, bars, strict=True)]


def names(legend):
    return [text.get_text() for text in legend.get_texts()]


def test_an_overlay_is_darkened_grey_without_saliency_and_bright_with_it():
    pixels = np.full((1, 2, 2, 3), (200, 100, 0), np.uint8)
    maps = np.array([[[0.0, 0.5], [0.75, 1.0]]])
    laid = plots.overlay(pixels, maps)
    assert laid.shape == pixels.shape
    assert laid.dtype == np.uint8
    assert laid[0, 0, 0].tolist() == [65, 65, 65]  # 0.65 of the mean, 100
    red = laid[0, :, :, 0].ravel().astype(int)
    assert np.all(np.diff(red) > 0)
    assert plots.overlay(pixels, maps, opacity=0.0)[0, 1, 1].tolist() == [65, 65, 65]


def test_a_row_is_an_image_a_column_a_method_and_each_has_the_outline():
    pixels = np.stack([np.full((8, 8, 3), value, np.uint8) for value in (50, 90)])
    masks = np.zeros((2, 8, 8), bool)
    masks[:, 2:5, 3:6] = True
    maps = {"vanilla": np.zeros((2, 8, 8)), "diffcoremix": np.ones((2, 8, 8))}
    fig = plots.saliency_grid(pixels, masks, maps, [["1 % ✓", "2 % ✗"], ["3 % ✓", "4 % ✓"]])
    assert [ax.get_title() for ax in fig.axes[:3]] == ["image", "vanilla", "DiffCoRe-Mix"]
    below = [ax.get_xlabel() for ax in fig.axes]
    assert below == ["", "1 % ✓", "2 % ✗", "", "3 % ✓", "4 % ✓"]
    shown = [ax.images[0].get_array() for ax in fig.axes]
    assert [shown[i][0, 0].tolist() for i in (0, 3)] == [[50] * 3, [90] * 3]
    assert np.array_equal(shown[4], plots.overlay(pixels, maps["vanilla"])[1])
    for ax in fig.axes:
        (contour,) = ax.collections
        corners = contour.get_paths()[0].get_extents()
        assert (corners.x0, corners.y0, corners.x1, corners.y1) == (2.5, 1.5, 5.5, 4.5)


def test_methods_have_a_row_measures_and_splits_a_panel():
    table = tidy({"split": ["matched", "shifted"], "method": ["vanilla", "cutmix"]},
                 ["energy", "hit", "elsewhere"])  # fmt: skip
    fig = plots.saliency_dots(table, chance=0.12)
    assert [ax.get_title() for ax in fig.axes[:2]] == ["matched test set", "shifted test set"]
    assert [label.get_text() for label in fig.axes[0].get_yticklabels()] == ["vanilla", "CutMix"]
    assert fig.axes[2].get_xlabel() == "maximum in the mask"
    chosen = table.query("split == 'shifted' and measure == 'hit'")[["value", "low", "high"]]
    assert np.allclose(intervals(fig.axes[3]), chosen.to_numpy())
    colours = [container.lines[0].get_color() for container in fig.axes[0].containers]
    assert colours == [METHODS[name][1] for name in ("vanilla", "cutmix")]
    assert names(fig.legends[0]) == ["chance: the mask's share, 12%"]
    assert all(0.12 in line.get_xdata() for ax in fig.axes for line in ax.lines[-1:])


def test_gains_name_what_they_are_over_and_mark_zero():
    table = tidy({"split": ["matched"], "method": ["diffcoremix"]}, ["energy", "hit"])
    fig = plots.saliency_dots(table, over="vanilla")
    assert fig.axes[0].get_xlabel() == "energy in the object's mask,\ngain over vanilla"
    assert [ax.lines[-1].get_xdata() for ax in fig.axes] == [[0.0, 0.0]] * 2


def test_techniques_have_a_row_and_rivals_a_colour():
    table = tidy(
        {"technique": ["a", "b"], "split": ["matched", "shifted"], "over": ["vanilla", "cutmix"]},
        ["energy"],
    )
    fig = plots.technique_dots(table)
    assert [label.get_text() for label in fig.axes[0].get_yticklabels()] == ["a", "b"]
    assert names(fig.legends[0]) == ["over vanilla", "over CutMix"]
    cutmix = table.query("split == 'shifted' and over == 'cutmix'")["value"]
    found = fig.axes[1].containers[1].lines[0]
    assert found.get_xdata().tolist() == cutmix.tolist()
    assert found.get_ydata().tolist() == pytest.approx([0.12, 1.12])


def test_a_method_without_mistakes_leaves_its_place_empty():
    about = list(plots._ABOUT)
    table = tidy(
        {"split": ["matched"], "method": ["vanilla", "cutmix"], "about": about}, ["energy"]
    )
    table = table[(table["method"] == "cutmix") | (table["about"] == about[0])]
    (ax,) = plots.mistake_dots(table, chance=0.1).axes
    places = [container.lines[0].get_ydata().tolist() for container in ax.containers]
    assert places == [pytest.approx([-0.2, 0.8]), [1.0], [1.2]]
    assert ax.lines[-1].get_xdata() == [0.1, 0.1]


def test_a_cascade_runs_in_order_beside_the_other_seed_and_chance():
    parts = ["as trained", "other seed", "fc", "conv1"]
    table = tidy({"part": parts}, ["correlation", "energy"])
    left, right = plots.cascade_curves(table, chance=0.1).axes
    assert [label.get_text() for label in left.get_xticklabels()] == ["as trained", "fc", "conv1"]
    other = table.query("part == 'other seed' and measure == 'correlation'")["value"].item()
    assert left.lines[-1].get_ydata() == [other, other]
    assert right.lines[-1].get_ydata() == [0.1, 0.1]
    energy = table.query("measure == 'energy' and part != 'other seed'")["value"]
    assert right.containers[0].lines[0].get_ydata().tolist() == energy.tolist()
