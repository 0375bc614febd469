"""Figures: what stands in them. How they look is for a person to judge."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import FancyArrowPatch

from diffcore import figures
from diffcore.figures import METHODS


@pytest.fixture(autouse=True)
def _style():
    with plt.rc_context():
        figures.use_style()
        yield
    plt.close("all")


def tidy(**columns):
    """Return a row for each combination, their values all different."""
    table = pd.MultiIndex.from_product(columns.values(), names=columns).to_frame(index=False)
    table["value"] = 0.4 + 0.01 * np.arange(len(table))
    return table.assign(low=table["value"] - 0.1, high=table["value"] + 0.2)


def legend(fig):
    return [text.get_text() for text in fig.legends[0].get_texts()] if fig.legends else []


def dots(ax):
    """Return the place, the row, and both ends of the interval of each dot."""
    points = [container.lines[0].get_xydata()[0] for container in ax.containers]
    ends = [container.lines[2][0].get_segments()[0][:, 0] for container in ax.containers]
    return np.hstack([points, ends])


def dashed(ax):
    return [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == "--"]


def rows_of(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


# -------------------------------------------------------------------------------------------- grids
def test_a_grid_shows_every_image_where_it_belongs():
    image = [np.full((4, 4, 3), value, np.uint8) for value in range(4)]
    labels = {"rows": ["a", "b"], "columns": ["x", "y"], "captions": [["p", "q"], ["r"]]}
    fig = figures.image_grid([image[1:3], [image[3], None]], **labels)
    shown = [ax.images[0].get_array()[0, 0, 0] if ax.images else None for ax in fig.axes]
    assert shown == [1, 2, 3, None]
    assert [ax.get_title() for ax in fig.axes] == ["x", "y", "", ""]
    assert [ax.get_xlabel() for ax in fig.axes] == ["p", "q", "r", ""]
    assert [fig.axes[i].get_ylabel() for i in (0, 2)] == ["a", "b"]


def test_an_overlay_is_darkened_grey_without_saliency_and_bright_with_it():
    pixels = np.full((1, 2, 2, 3), (200, 100, 0), np.uint8)
    laid = figures.overlay(pixels, np.array([[[0.0, 0.5], [0.75, 1.0]]]))
    assert laid[0, 0, 0].tolist() == [65, 65, 65]  # 0.65 of the mean, 100
    assert np.all(np.diff(laid[0, :, :, 0].ravel().astype(int)) > 0)


def test_a_saliency_grid_has_a_column_per_method_and_the_outlines():
    pixels = np.stack([np.full((8, 8, 3), value, np.uint8) for value in (50, 90)])
    masks = np.zeros((2, 8, 8), bool)
    masks[:, 2:5, 3:6] = True
    maps = {"vanilla": np.zeros((2, 8, 8)), "diffcoremix": np.ones((2, 8, 8))}
    captions = [["1 ✓", "2 ✗\nwren"], ["3 ✓", "4 ✓"]]
    *axes, _ = figures.saliency_grid(pixels, masks, maps, captions, ["blue jay", "gull"]).axes
    assert [ax.get_title() for ax in axes[:3]] == ["image", "vanilla", "DiffCoRe-Mix"]
    assert [ax.get_xlabel() for ax in axes] == ["", *captions[0], "", *captions[1]]
    assert [ax.get_ylabel() for ax in axes] == ["blue jay", "", "", "gull", "", ""]
    colours = [ax.xaxis.label.get_color() for ax in axes if ax.get_xlabel()]
    assert [colour == colours[1] for colour in colours] == [False, True, False, False]
    second = figures.overlay(pixels, maps["vanilla"])[1]
    np.testing.assert_array_equal(axes[4].images[0].get_array(), second)
    for ax in axes:
        outline = ax.collections[0].get_paths()[0].get_extents()
        assert outline.extents.tolist() == [2.5, 1.5, 5.5, 4.5]


def test_counterparts_stand_beside_their_real_image_and_empty_groups_are_left_out():
    image = [np.full((4, 4, 3), level, np.uint8) for level in range(110)]
    groups = {"kept": [0, 2], "lost": [], "right": [1]}
    fig = figures.counterparts(groups, image[10:].__getitem__, image[100:].__getitem__, "abc")
    levels = [int(ax.images[0].get_array()[0, 0, 0]) if ax.images else None for ax in fig.axes]
    assert levels == [10, 100, 12, 102, 11, 101, None, None]
    assert [ax.get_title() for ax in fig.axes[:4]] == ["real", "generated"] * 2
    assert [ax.get_xlabel() for ax in fig.axes] == ["", "a", "", "c", "", "b", "", ""]
    assert [fig.axes[place].get_ylabel() for place in (0, 4)] == ["kept", "right"]


def test_a_pipeline_shows_all_its_images_texts_and_arrows():
    image = [np.full((4, 4, 3), value, np.uint8) for value in range(4)]
    ours = {
        "training image": [(image[0], "a wren")],
        "prompt": [(None, "a wren, garden"), (None, "train, car, newspaper, people, tree")],
        "drawn": [(image[1], "garden"), (image[2], "desert")],
        "mixed": [(image[3], "λ = 0.5"), None],
        "label": [(None, "stays")],
    }
    lanes = {"ours": ours, "other": {"real": [(image[0], "")], "restyled": [(image[1], "")]}}
    fig = figures.pipeline_diagram(lanes, ["mixed"])
    (canvas,) = fig.axes
    assert [shown.get_array()[0, 0, 0] for shown in canvas.images] == [0, 1, 2, 3, 0, 1]
    cells = [cell for lane in lanes.values() for cells in lane.values() for cell in cells if cell]
    expected = {text.strip() for _, text in cells} | {*lanes, *ours, *lanes["other"]}
    assert {text.get_text().replace("\n", " ") for text in canvas.texts} == expected
    # 2 to prompts, 2 to drawn, 1 to mixed, 1 to the label, the training image to mixed; 1 restyled.
    assert sum(isinstance(patch, FancyArrowPatch) for patch in canvas.patches) == 8


# ---------------------------------------------------------------------------------------- intervals
def test_dots_have_a_row_per_method_a_panel_per_test_set_and_mark_the_baseline():
    table = tidy(test=["matched", "shifted"], method=["diffcoremix", "vanilla"])
    fig = figures.interval_dots(table, row="method", panel="test", baseline="vanilla", xlabel="top")
    assert [ax.get_title() for ax in fig.axes] == ["matched test set", "shifted test set"]
    assert rows_of(fig.axes[0]) == ["vanilla", "DiffCoRe-Mix"]  # in the order of METHODS
    for ax, (ours, vanilla) in zip(fig.axes, ((0.40, 0.41), (0.42, 0.43)), strict=True):
        expected = [(ours, 1, ours - 0.1, ours + 0.2), (vanilla, 0, vanilla - 0.1, vanilla + 0.2)]
        np.testing.assert_allclose(dots(ax), expected)
        assert dashed(ax) == pytest.approx([vanilla])
        assert ax.containers[0].lines[0].get_color() == METHODS["diffcoremix"][1]
    assert legend(fig) == ["vanilla"]  # what the dashed line is


def test_differences_are_marked_at_zero_and_hollow_where_they_hold_it():
    table = tidy(effect=["a", "b", "c"]).assign(low=[0.3, -0.1, -0.2], high=[0.5, 0.6, -0.1])
    table["p"] = [False, False, True]
    for rows, hollow, faces, texts in (
        (table, None, [False, True, False], ["interval holds zero"]),
        (table, "p", [False, False, True], ["not clear of zero after Holm"]),
        (table.drop(index=1), None, [False, False], []),
    ):
        fig = figures.interval_dots(rows, row="effect", zero=True, hollow=hollow)
        (ax,) = fig.axes
        assert [c.lines[0].get_markerfacecolor() == "white" for c in ax.containers] == faces
        assert [line.get_xdata()[0] for line in ax.lines if line.get_zorder() == 0] == [0]
        assert legend(fig) == texts


def test_markers_tell_hues_apart_and_a_missing_dot_leaves_its_place_empty():
    table = tidy(about=["right answer", "wrong answer"], method=["vanilla", "cutmix"]).drop(index=3)
    fig = figures.interval_dots(table, row="method", hue="about", marks={"chance": 0.1})
    np.testing.assert_allclose(dots(fig.axes[0])[:, 1], [-0.1, 0.9, 0.1])
    shown = [container.lines[0] for container in fig.axes[0].containers]
    assert [dot.get_color() for dot in shown] == [METHODS[m][1] for m in table["method"]]
    assert [dot.get_marker() for dot in shown] == ["o", "o", "s"]
    assert legend(fig) == ["right answer", "wrong answer", "chance"]
    assert dashed(fig.axes[0]) == [0.1]


def test_overheads_stand_on_a_logarithmic_axis_with_a_place_for_none():
    table = tidy(method=["cutmix", "augmix"])
    table[["value", "low", "high"]] = [[0.0, -0.01, 0.001], [0.6, 0.5, 1.3]]
    (ax,) = figures.interval_dots(table, row="method", marks={"5%": 0.05}, log=True).axes
    ax.figure.canvas.draw()
    low, high = ax.get_xlim()
    inside = [text for text in ax.get_xticklabels() if low <= text.get_position()[0] <= high]
    texts = [text.get_text() for text in inside]
    assert texts == ["none\nmeasurable", "0.1%", "1%", "10%", "100%"]
    np.testing.assert_allclose(dots(ax), [(0, 0, 0, 0.001), (0.6, 1, 0.5, 1.3)])


def test_each_method_stands_at_its_overhead_and_accuracy():
    table = tidy(test=["matched", "shifted"], method=["vanilla", "diffcoremix"])
    fig = figures.overhead_accuracy(table.assign(overhead=[0, 0.02] * 2, with_images=[0, 3.0] * 2))
    for ax, top1 in zip(fig.axes, ((0.40, 0.41), (0.42, 0.43)), strict=True):
        points = [bar.lines[0].get_xydata()[0] for bar in ax.containers]
        np.testing.assert_allclose(points, [(0, top1[0]), (0.02, top1[1])])
        assert [0.02, 3.0] in [list(line.get_xdata()) for line in ax.lines]
    assert set(legend(fig)) == {"vanilla", "DiffCoRe-Mix", "plus generating its images"}


def test_lines_run_from_left_to_right_with_their_marks():
    table = tidy(setting=["guidance", "steps"], point=[5.0, 1.0], measure=["wrong", "wellformed"])
    table.loc[table["setting"] == "steps", "point"] *= [100, 100, 1, 1]
    options = {"marks": {"guidance": 3, "steps": 4}, "xlabel": {"guidance": "a", "steps": "b"}}
    fig = figures.interval_lines(table, x="point", hue="measure", panel="setting", **options)
    assert [ax.get_xlabel() for ax in fig.axes] == ["a", "b"]
    assert [ax.get_xscale() for ax in fig.axes] == ["linear", "log"]
    first = fig.axes[0].containers[0].lines[0]
    np.testing.assert_allclose(first.get_xydata(), [(1.0, 0.42), (5.0, 0.40)])
    assert [dashed(ax) for ax in fig.axes] == [[3], [4]]
    assert legend(fig) == ["wrong", "well-formed", "setting in use"]


def test_axes_of_shares_are_shared_and_end_near_0_and_1_though_intervals_do_not():
    table = tidy(kind=["a", "b"], x=[0.0, 1.0]).assign(value=[0.01, 0.9] * 2, low=-0.6, high=1.4)
    for ax in figures.interval_lines(table, x="x", panel="kind").axes:
        assert ax.get_ylim() == pytest.approx((-0.02, 1.02))
    (ax,) = figures.interval_dots(table, row="x", hue="kind").axes
    assert ax.get_xlim() == pytest.approx((-0.02, 1.02))
    (ax,) = figures.interval_dots(table, row="x", hue="kind", zero=True).axes
    assert ax.get_xlim()[0] < -0.6  # differences know no bounds


# ----------------------------------------------------------------------------- charts and tables
def test_histograms_have_a_panel_per_space_and_count_exact_copies():
    values = {"x": np.array([0.0, 0.2, 0.4]), "y": np.array([0.1, 0.2, 0.3])}
    options = {"threshold": {"a": 0.1, "b": 0.15}, "log": True, "density": False}
    fig = figures.histograms(dict.fromkeys("ab", values), "distance", **options)
    assert [len(ax.patches) for ax in fig.axes] == [2, 2]
    assert [dashed(ax) for ax in fig.axes] == [[0.1], [0.15]]
    heights = fig.axes[0].patches[0].get_xy()[:, 1]  # up and down again at each edge
    assert heights[1 : len(heights) // 2 : 2].sum() == pytest.approx(1)


def test_heat_maps_share_one_scale_name_methods_and_say_what_lies_above():
    shares = pd.DataFrame([[0.7, 0.3]], index=["cutmix"], columns=["forest", "street"])
    fig = figures.heat_maps({"a": shares, "b": shares / 2}, "share", annotate=True)
    first, second, bar = fig.axes
    assert first.collections[0].get_clim() == second.collections[0].get_clim() == (0.15, 0.7)
    assert [text.get_text() for text in first.texts] == ["70", "30"]
    assert (rows_of(first), bar.get_ylabel()) == (["CutMix"], "share")
    *_, bar = figures.heat_maps({"": shares}, "share", vmax=0.6).axes
    assert bar.get_ylabel() == "share (arrow: above)"


def test_a_dollar_in_the_name_of_a_class_is_no_mathematics():
    fig = figures.interval_dots(tidy(thing=["a $5 note", "a $6 \\note_ $"]), row="thing")
    fig.savefig(drawn := io.StringIO(), format="svg")
    assert "a $6 \\note_ $" in drawn.getvalue()
