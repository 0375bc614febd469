"""Figures: what stands in them, not how it looks; that is for eyes."""

import io
import itertools
import json
import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from diffcore import figures
from diffcore.figures import METHODS


@pytest.fixture(autouse=True)
def _style():
    with plt.rc_context():
        figures.use_style()
        yield
    plt.close("all")


def tidy(value=0.4, **columns):
    """A row for each combination, its values all different."""
    table = pd.MultiIndex.from_product(columns.values(), names=columns).to_frame(index=False)
    table["value"] = value + 0.01 * np.arange(len(table))
    return table.assign(low=table["value"] - 0.1, high=table["value"] + 0.2)


def legend(fig):
    return [text.get_text() for text in fig.legends[0].get_texts()] if fig.legends else []


def dots(ax):
    """Place, row, and both ends of the interval of each dot."""
    found = []
    for container in ax.containers:
        (x,), (y,) = container.lines[0].get_data()
        found.append((x, y, *container.lines[2][0].get_segments()[0][:, 0]))
    return np.array(found)


def lines_at(ax):
    return [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == "--"]


def rows_of(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


# -------------------------------------------------------------------------------------------- grids
def test_a_grid_shows_every_image_where_it_belongs():
    image = [np.full((4, 4, 3), value, np.uint8) for value in range(4)]
    fig = figures.image_grid(
        [image[1:3], [image[3], None]],
        rows=["a", "b"], columns=["x", "y"], captions=[["p", "q"], ["r"]],
    )  # fmt: skip
    shown = [ax.images[0].get_array()[0, 0, 0] if ax.images else None for ax in fig.axes]
    assert shown == [1, 2, 3, None]
    assert [ax.get_title() for ax in fig.axes] == ["x", "y", "", ""]
    assert [ax.get_xlabel() for ax in fig.axes[:3]] == ["p", "q", "r"]
    assert [fig.axes[i].get_ylabel() for i in (0, 2)] == ["a", "b"]


def test_an_overlay_is_darkened_grey_without_saliency_and_bright_with_it():
    pixels = np.full((1, 2, 2, 3), (200, 100, 0), np.uint8)
    maps = np.array([[[0.0, 0.5], [0.75, 1.0]]])
    laid = figures.overlay(pixels, maps)
    assert laid.dtype == np.uint8
    assert laid[0, 0, 0].tolist() == [65, 65, 65]  # 0.65 of the mean, 100
    assert np.all(np.diff(laid[0, :, :, 0].ravel().astype(int)) > 0)
    assert figures.overlay(pixels, maps, opacity=0.0)[0, 1, 1].tolist() == [65, 65, 65]


def test_a_saliency_grid_has_a_column_a_method_and_the_outlines():
    pixels = np.stack([np.full((8, 8, 3), value, np.uint8) for value in (50, 90)])
    masks = np.zeros((2, 8, 8), bool)
    masks[:, 2:5, 3:6] = True
    maps = {"vanilla": np.zeros((2, 8, 8)), "diffcoremix": np.ones((2, 8, 8))}
    captions = [["1 ✓", "2 ✗\nwren"], ["3 ✓", "4 ✓"]]
    fig = figures.saliency_grid(pixels, masks, maps, captions, ["blue jay", "gull"])
    *axes, bar = fig.axes
    assert [ax.get_title() for ax in axes[:3]] == ["image", "vanilla", "DiffCoRe-Mix"]
    assert [ax.get_xlabel() for ax in axes] == ["", *captions[0], "", *captions[1]]
    assert [ax.get_ylabel() for ax in axes] == ["blue jay", "", "", "gull", "", ""]
    colours = [ax.xaxis.label.get_color() for ax in axes if ax.get_xlabel()]
    assert [colour == colours[1] for colour in colours] == [False, True, False, False]
    assert bar.get_ylim() == (0, 1)
    assert np.array_equal(axes[4].images[0].get_array(),
                          figures.overlay(pixels, maps["vanilla"])[1])  # fmt: skip
    for ax in axes:
        corners = ax.collections[0].get_paths()[0].get_extents()
        assert (corners.x0, corners.y0, corners.x1, corners.y1) == (2.5, 1.5, 5.5, 4.5)


# --------------------------------------------------------------------------------------- schematic
def test_a_schematic_shows_all_its_images_texts_and_arrows():
    image = [np.full((4, 4, 3), value, np.uint8) for value in range(4)]
    lanes = {
        "ours": {
            "training image": [(image[0], "a wren")],
            "prompt": [(None, "a wren, garden"), (None, "a wren, desert")],
            "drawn": [(image[1], "garden"), (image[2], "desert")],
            "mixed": [(image[3], "λ = 0.5"), None],
            "label": [(None, "stays")],
        },
        "other": {"real": [(image[0], "")], "edit": [(image[1], "")]},
    }
    fig = figures.pipeline_diagram(lanes, ["mixed"])
    (canvas,) = fig.axes
    assert [shown.get_array()[0, 0, 0] for shown in canvas.images] == [0, 1, 2, 3, 0, 1]
    texts = {text.get_text().replace("\n", " ") for text in canvas.texts}
    named = {text for lane in lanes.values() for cells in lane.values()
             for text in (cell[1] for cell in cells if cell)}  # fmt: skip
    assert texts >= named | set(lanes) | {stage for lane in lanes.values() for stage in lane}
    arrows = [patch for patch in canvas.patches if isinstance(patch, FancyArrowPatch)]
    # 2 to prompts, 2 to drawn, 1 to mixed, 1 to the label, the training image to mixed; 1 edit.
    assert len(arrows) == 8
    assert sum(isinstance(patch, FancyBboxPatch) for patch in canvas.patches) == 3


def test_a_text_of_a_schematic_stays_in_its_box():
    words = "negative: " + ", ".join(["train, car, newspaper, sunlight, people, human, tree"] * 3)
    fig = figures.pipeline_diagram({"ours": {"prompt": [(None, words)]}}, [])
    fig.canvas.draw()
    box, text = fig.axes[0].patches[0].get_window_extent(), fig.axes[0].texts[-1]
    inside = text.get_window_extent()
    assert box.x0 <= inside.x0 < inside.x1 <= box.x1
    assert box.y0 <= inside.y0 < inside.y1 <= box.y1


# ---------------------------------------------------------------------------------------- intervals
def test_dots_have_a_row_a_method_a_panel_a_test_set_and_mark_the_baseline():
    table = tidy(test=["matched", "shifted"], method=["diffcoremix", "vanilla"])
    fig = figures.interval_dots(table, row="method", panel="test", baseline="vanilla", xlabel="top")
    assert [ax.get_title() for ax in fig.axes] == ["matched test set", "shifted test set"]
    assert rows_of(fig.axes[0]) == ["vanilla", "DiffCoRe-Mix"]  # in the order of METHODS
    for ax, (ours, vanilla) in zip(fig.axes, ((0.40, 0.41), (0.42, 0.43)), strict=True):
        expected = [(ours, 1, ours - 0.1, ours + 0.2), (vanilla, 0, vanilla - 0.1, vanilla + 0.2)]
        np.testing.assert_allclose(dots(ax), expected)
        assert lines_at(ax) == pytest.approx([vanilla])
        assert legend(fig) == ["vanilla"]
        assert ax.containers[0].lines[0].get_color() == METHODS["diffcoremix"][1]
    assert legend(fig) == ["vanilla"]  # what the dashed line is


def test_differences_are_marked_at_zero_and_hollow_where_they_hold_it():
    table = tidy(effect=["a", "b", "c"]).assign(low=[0.3, -0.1, -0.2], high=[0.5, 0.6, -0.1])
    table["p"] = [False, False, True]
    for hollow, expected, says in (
        (None, [False, True, False], "interval holds zero"),
        ("p", [False, False, True], "not clear of zero after Holm"),
    ):
        fig = figures.interval_dots(table, row="effect", zero=True, hollow=hollow)
        faces = [c.lines[0].get_markerfacecolor() == "white" for c in fig.axes[0].containers]
        assert faces == expected
        assert [line.get_xdata()[0] for line in fig.axes[0].lines if line.get_zorder() == 0] == [0]
        assert legend(fig) == [says]


def test_nothing_is_said_of_hollow_dots_where_none_is_hollow():
    table = tidy(effect=["a", "b"]).assign(low=0.1)
    assert legend(figures.interval_dots(table, row="effect", zero=True)) == []


def test_markers_tell_hues_apart_and_a_missing_dot_leaves_its_place_empty():
    table = tidy(about=["right answer", "wrong answer"], method=["vanilla", "cutmix"]).drop(index=3)
    fig = figures.interval_dots(table, row="method", hue="about", marks={"chance": 0.1})
    np.testing.assert_allclose(dots(fig.axes[0])[:, 1], [-0.1, 0.9, 0.1])
    found = [container.lines[0] for container in fig.axes[0].containers]
    assert [dot.get_color() for dot in found] == [METHODS[m][1] for m in table["method"]]
    assert [dot.get_marker() for dot in found] == ["o", "o", "s"]
    assert legend(fig) == ["right answer", "wrong answer", "chance"]
    assert lines_at(fig.axes[0]) == [0.1]
    between = [line.get_ydata()[0] for line in fig.axes[0].lines if line.get_zorder() == 0][:1]
    assert between == [0.5]  # between the dots of the two rows


def shown_ticks(ax):
    """Label -> place of the ticks within the axis."""
    low, high = ax.get_xlim()
    ticks = zip(ax.get_xticks(), ax.get_xticklabels(), strict=True)
    return {text.get_text(): place for place, text in ticks if low <= place <= high}


def test_overheads_stand_on_a_logarithmic_axis_from_the_least_that_was_measured():
    table = tidy(setting=["small", "large"], method=["cutmix", "augmix"])
    table[["value", "low", "high"]] = [
        [0.0, -0.01, 0.001], [0.6, 0.5, 1.3], [0.02, 0.01, 0.03], [0.05, 0.04, 0.06],
    ]  # fmt: skip
    fig = figures.interval_dots(table, row="method", panel="setting", marks={"5%": 0.05}, log=True)
    small, large = fig.axes
    assert {ax.get_xscale() for ax in fig.axes} == {"log"}
    # What is not above 0 stands left of all that is, under a tick that says so.
    none = shown_ticks(small)["none\nmeasurable"]
    assert dots(small)[0] == pytest.approx((none, 0, none, 0.001))
    assert none < 0.001
    assert list(shown_ticks(small))[:-1] == ["0.1%", "1%", "10%", "100%"]
    assert shown_ticks(large) == pytest.approx({"1%": 0.01, "2%": 0.02, "5%": 0.05})
    assert large.get_xlim()[0] > 0.001  # the room is that of the numbers
    nothing = table.assign(value=0.0, low=0.0, high=0.0)
    (ax,) = figures.interval_dots(nothing, row="method", hue="setting", log=True).axes
    assert len(np.unique(dots(ax)[:, [0, 2, 3]])) == 1


def test_lines_run_from_left_to_right_with_their_marks():
    table = tidy(setting=["guidance", "steps"], point=[5.0, 1.0], measure=["wrong", "wellformed"])
    table.loc[table["setting"] == "steps", "point"] *= [100, 100, 1, 1]
    fig = figures.interval_lines(
        table, x="point", hue="measure", panel="setting", marks={"guidance": 3, "steps": 4},
        xlabel={"guidance": "guidance scale", "steps": "denoising steps"},
    )  # fmt: skip
    assert [ax.get_xlabel() for ax in fig.axes] == ["guidance scale", "denoising steps"]
    assert [ax.get_xscale() for ax in fig.axes] == ["linear", "log"]
    first = fig.axes[0].containers[0].lines[0]
    assert first.get_xdata().tolist() == [1.0, 5.0]
    assert first.get_ydata().tolist() == pytest.approx([0.42, 0.40])
    assert [lines_at(ax) for ax in fig.axes] == [[3], [4]]
    assert legend(fig) == ["wrong", "well-formed", "setting in use"]


@pytest.mark.parametrize(("points", "ticked"), [([0, 1, 3, 5], True), ([0, 1, 20], False)])
def test_points_have_ticks_of_their_own_where_there_is_room(points, ticked):
    (ax,) = figures.interval_lines(tidy(severity=points), x="severity").axes
    assert (ax.get_xticks().tolist() == points) == ticked


def test_lines_without_intervals_and_over_names():
    table = tidy(part=["as trained", "fc", "conv1"])[["part", "value"]]
    (ax,) = figures.interval_lines(table, x="part", ylabel="points").axes
    assert [label.get_text() for label in ax.get_xticklabels()] == ["as trained", "fc", "conv1"]
    assert not legend(ax.figure)


def test_each_method_stands_at_its_overhead_and_accuracy():
    table = tidy(test=["matched", "shifted"], method=["vanilla", "diffcoremix"])
    fig = figures.overhead_accuracy(table.assign(overhead=[0, 0.02] * 2, with_images=[0, 3.0] * 2))
    for ax, top1 in zip(fig.axes, ((0.40, 0.41), (0.42, 0.43)), strict=True):
        points = [tuple(np.ravel(bar.lines[0].get_xydata())) for bar in ax.containers]
        none = shown_ticks(ax)["none\nmeasurable"]
        np.testing.assert_allclose(points, [(none, top1[0]), (0.02, top1[1])])
        assert [0.02, 3.0] in [list(line.get_xdata()) for line in ax.lines]
    assert set(legend(fig)) == {"vanilla", "DiffCoRe-Mix", "with the making of its images"}


# ---------------------------------------------------------------------------- spreads and tables
def test_histograms_have_a_panel_a_space_and_exact_copies_a_bar():
    values = {"x": np.array([0.0, 0.2, 0.4]), "y": np.array([0.1, 0.2, 0.3])}
    fig = figures.histograms(
        {"a": values, "b": values}, threshold={"a": 0.1, "b": 0.15}, log=True, density=False
    )
    assert [len(ax.patches) for ax in fig.axes] == [2, 2]
    assert [lines_at(ax) for ax in fig.axes] == [[0.1], [0.15]]
    heights = fig.axes[0].patches[0].get_xy()[:, 1]  # up and down again at each edge
    assert heights[1 : len(heights) // 2 : 2].sum() == pytest.approx(1)


def test_a_narrow_logarithmic_axis_has_plain_numbers():
    values = {"a": np.geomspace(0.06, 0.56, 40)}
    (ax,) = figures.histograms(values, log=True, density=False).axes
    ax.figure.canvas.draw()
    low, high = ax.get_xlim()
    labels = ax.get_xticklabels() + ax.get_xticklabels(minor=True)
    shown = {text.get_text() for text in labels if low <= text.get_position()[0] <= high}
    assert shown == {"0.1", "0.2", "0.5"}


def test_a_threshold_says_what_it_makes_of_right_and_wrong():
    fig = figures.threshold_view(np.array([0.1, 0.2, 0.3, 0.4]), np.array([1, 0, 1, 0], bool), 0.25)
    assert fig.axes[0].get_title() == (
        "rejected: 50.0% of all, 50.0% of the wrong; wrong among the kept: 50.0% (before: 50.0%)"
    )


def test_objects_and_what_they_lose_have_a_panel_each():
    table = pd.DataFrame({"method": ["MixUp", "CutMix"], "own": [0.2, 0.1], "other": [0.1, 0.3],
                          "label_error": [0.02, 0.18], "lost": [0.0, 0.01]})  # fmt: skip
    bars, error, lost = figures.object_bars(table).axes
    assert [bar.get_x() + bar.get_width() for bar in bars.patches] == pytest.approx(
        [0.2, 0.1, 0.3, 0.4]
    )
    assert error.lines[0].get_xdata().tolist() == [0.02, 0.18]
    assert lost.lines[0].get_xdata().tolist() == [0.0, 0.01]
    error.figure.canvas.draw()
    texts = [[label.get_text() for label in ax.get_xticklabels()] for ax in (error, lost)]
    assert "10" in texts[0]  # an error of a weight is a difference: points
    assert all(text.endswith("%") for text in texts[1])


def test_a_colour_bar_says_that_shares_lie_above_it():
    shares = pd.DataFrame([[0.7, 0.3]], index=["cutmix"], columns=["forest", "street"])
    for vmax, label in ((0.6, "share (arrow: above)"), (0.8, "share")):
        fig = figures.heat_maps({"a": shares}, label="share", vmax=vmax)
        assert fig.axes[-1].get_ylabel() == label


def test_heat_maps_share_one_scale_and_name_methods():
    shares = pd.DataFrame([[0.7, 0.3]], index=["cutmix"], columns=["forest", "street"])
    fig = figures.heat_maps({"a": shares, "b": shares / 2}, label="share", annotate=True)
    first, second, bar = fig.axes
    assert first.collections[0].get_clim() == second.collections[0].get_clim() == (0.15, 0.7)
    assert [text.get_text() for text in first.texts] == ["70", "30"]
    assert (rows_of(first), bar.get_ylabel()) == (["CutMix"], "share")


def test_bars_stack_to_the_whole_time():
    table = pd.DataFrame(
        [("a step", "vanilla", "forward", 3.0), ("a step", "vanilla", "backward", 5.0),
         ("a step", "cutmix", "counterparts", 1.0), ("a step", "cutmix", "forward", 3.0)],
        columns=["group", "row", "part", "ms"],
    )  # fmt: skip
    table = pd.concat([table, table.assign(group="an image")])  # numbered twice
    ax, _ = figures.stacked_bars(table, [("a step", "a step"), ("an image", "an image")]).axes
    ends = [max(b.get_x() + b.get_width() for b in row) for row in zip(*ax.containers, strict=True)]
    assert dict(zip(rows_of(ax), ends, strict=True)) == {"vanilla": 8.0, "CutMix": 4.0}


def test_a_dollar_in_the_name_of_a_class_is_no_mathematics():
    table = tidy(thing=["a $5 note", "a $6 \\note_ $"])
    fig = figures.interval_dots(table, row="thing", xlabel="$ and $")
    fig.savefig(drawn := io.StringIO(), format="svg")
    assert "a $6 \\note_ $" in drawn.getvalue()


def test_a_slider_brings_scores_thresholds_and_faults_and_asks_no_other_host():
    scores = {"source": np.array([0.1234567, 0.5]), "margin": np.array([-0.2, 0.9])}
    faults = ["</script>", ""]
    text = figures.threshold_slider(scores, {"source": 0.3, "margin": 0.0}, faults, "margin").data
    data = json.loads(re.search(r"previousElementSibling, (\{.*\})\);", text)[1])
    assert data["rules"] == [
        {"name": "source", "limit": 0.3, "scores": [0.12346, 0.5]},
        {"name": "margin", "limit": 0.0, "scores": [-0.2, 0.9]},
    ]
    assert (data["kinds"], data["faults"]) == (["right", "</script>"], [1, 0])
    assert data["rule"] == "margin"
    assert text.count("</script>") == 1  # a name cannot end the script
    assert not re.findall(r"(?:src|href)=|https?://(?!www\.w3\.org/2000/svg)", text)


def test_counterparts_stand_beside_their_real_image_and_empty_groups_are_left_out():
    def plain(level):
        return lambda at: np.full((4, 4, 3), level + at, np.uint8)

    groups = {"kept": [0, 2], "lost": [], "right": [1]}
    fig = figures.counterparts(groups, plain(10), plain(100), ["a", "b", "c"])
    levels = [int(ax.images[0].get_array()[0, 0, 0]) if ax.images else None for ax in fig.axes]
    assert levels == [10, 100, 12, 102, 11, 101, None, None]
    assert [ax.get_title() for ax in fig.axes[:4]] == ["real", "generated"] * 2
    assert [ax.get_xlabel() for ax in fig.axes] == ["", "a", "", "c", "", "b", "", ""]
    fig.canvas.draw()
    boxes = [ax.get_window_extent() for ax in fig.axes[:4]]
    gaps = [right.x0 - left.x1 for left, right in itertools.pairwise(boxes)]
    assert gaps[1] > 2 * max(gaps[0], gaps[2])  # pairs stand apart
    middle = fig.axes[1].xaxis.label.get_window_extent()
    assert (middle.x0 + middle.x1) / 2 == pytest.approx((boxes[0].x0 + boxes[1].x1) / 2, abs=2)
    assert [fig.axes[place].get_ylabel() for place in (0, 4)] == ["kept", "right"]


def test_panels_of_shares_share_an_axis_that_holds_them_all():
    rows = [("a", 1, 0.01), ("a", 2, 0.02), ("b", 1, 0.3), ("b", 2, 0.4)]
    table = pd.DataFrame(rows, columns=["kind", "x", "value"])
    drawn = figures.interval_lines(table, x="x", panel="kind")
    for ax in drawn.axes:
        assert ax.get_ylim()[0] <= 0.01
        assert ax.get_ylim()[1] >= 0.4


def test_an_axis_of_shares_ends_at_0_and_1_though_an_interval_does_not():
    table = pd.DataFrame({"x": [0.0, 1.0], "value": [0.1, 0.9], "low": [-0.6, 0.5],
                          "high": [0.6, 1.4]})  # fmt: skip
    (ax,) = figures.interval_lines(table, x="x").axes
    assert ax.get_ylim() == pytest.approx((0, 1))
    (dots,) = figures.interval_dots(table.assign(row=["a", "b"]), row="row").axes
    assert dots.get_xlim() == pytest.approx((0, 1))
    drawn = dots.containers[0].lines  # the dot is whole, and its whiskers end with the axis
    assert (drawn[0].get_clip_on(), drawn[2][0].get_clip_on()) == (False, True)
    differences = figures.interval_dots(table.assign(row=["a", "b"]), row="row", zero=True)
    assert differences.axes[0].get_xlim()[0] < -0.6  # these know no bounds


def test_whiskers_of_lines_at_one_place_stand_apart():
    table = pd.DataFrame({"x": [1.0, 2.0] * 2, "hue": ["a", "a", "b", "b"], "value": 0.5,
                          "low": 0.4, "high": 0.6})  # fmt: skip
    (ax,) = figures.interval_lines(table, x="x", hue="hue").axes
    ax.figure.canvas.draw()
    first, second = (c.lines[0].get_transform().transform((1.0, 0.5)) for c in ax.containers)
    assert second[0] - first[0] == pytest.approx(2.5 / 72 * ax.figure.dpi)
    assert second[1] == first[1]
    low, high = ax.get_xlim()
    assert low < 1 < 2 < high
