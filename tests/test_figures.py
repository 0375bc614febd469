"""Figures: what stands in them, not how it looks; that is for eyes."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from diffcore import figures


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def picture(value):
    return np.full((4, 4, 3), value, np.uint8)


def test_a_grid_shows_every_image_where_it_belongs():
    fig = figures.image_grid(
        [[picture(1), picture(2)], [picture(3), None]],
        rows=["a", "b"], columns=["x", "y"], captions=[["p", "q"], ["r"]],
    )  # fmt: skip
    shown = [ax.images[0].get_array()[0, 0, 0] if ax.images else None for ax in fig.axes]
    assert shown == [1, 2, 3, None]
    assert [ax.get_title() for ax in fig.axes] == ["x", "y", "", ""]
    assert [ax.get_xlabel() for ax in fig.axes[:3]] == ["p", "q", "r"]
    assert [fig.axes[i].get_ylabel() for i in (0, 2)] == ["a", "b"]


def sweep_table():
    rows = [
        {"setting": s, "value": v, "measure": m, "rate": r, "low": r - 0.1, "high": r + 0.1}
        for s in ("guidance_scale", "num_inference_steps")
        for v in (5.0, 1.0)
        for m, r in (("species_right", 0.5), ("wrong", 0.2))
    ]
    return pd.DataFrame(rows)


def test_curves_run_from_left_to_right_with_their_marks():
    labels = {"guidance_scale": "guidance", "num_inference_steps": "steps"}
    fig = figures.rates_over(sweep_table(), labels, {"guidance_scale": 3, "num_inference_steps": 4})
    left, right = fig.axes
    assert [ax.get_xlabel() for ax in fig.axes] == ["guidance", "steps"]
    assert left.containers[0].lines[0].get_xdata().tolist() == [1.0, 5.0]
    assert [ax.lines[-1].get_xdata()[0] for ax in (left, right)] == [3, 4]
    assert [text.get_text() for text in fig.legends[0].get_texts()] == [
        figures.MEASURES[name][0] for name in ("species_right", "wrong")
    ]


def test_each_condition_of_a_pair_has_its_dot_and_interval():
    table = pd.DataFrame(
        [("tree", "without", 0.5, 0.4, 0.6), ("tree", "with", 0.1, 0.0, 0.2),
         ("car", "without", 0.3, 0.2, 0.4), ("car", "with", 0.0, 0.0, 0.1)],
        columns=["thing", "condition", "rate", "low", "high"],
    )  # fmt: skip
    (ax,) = figures.paired_rates(table, "share").axes
    dots = [container.lines[0].get_xdata().tolist() for container in ax.containers]
    assert dots == [[0.5, 0.3], [0.1, 0.0]]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["tree", "car"]


def test_context_maps_share_one_scale():
    shares = pd.DataFrame([[0.7, 0.3]], index=["jay"], columns=["forest", "street"])
    fig = figures.context_maps({"a": shares, "b": shares})
    first, second, bar = fig.axes
    assert [first.get_title(), second.get_title()] == ["a", "b"]
    assert first.collections[0].get_clim() == second.collections[0].get_clim()
    assert bar.get_ylabel() == "share of the class's images"


def test_the_measures_have_colours_of_their_own():
    colours = [colour for _, colour in figures.MEASURES.values()]
    assert len(set(colours)) == len(colours)


def test_lams_have_a_panel_an_alpha_and_a_line_a_level():
    table = pd.DataFrame(
        {
            "alpha": [0.2] * 4 + [5.0] * 4,
            "level": ["pixel", "patch"] * 4,
            "lam": np.linspace(0, 1, 8),
        }
    )
    fig = figures.lam_histograms(table)
    assert [ax.get_title() for ax in fig.axes] == ["α = 0.2", "α = 5"]
    assert [len(ax.patches) for ax in fig.axes] == [2, 2]
    assert [text.get_text() for text in fig.legends[0].get_texts()] == [
        "pixel level: as drawn", "patch level: after the border",
    ]  # fmt: skip


def test_objects_stand_end_to_end_and_methods_are_named():
    table = pd.DataFrame(
        [("a", 0.2, 0.0, 0.1, 0.0), ("b", 0.1, 0.05, 0.0, 0.3)],
        columns=["method", "own", "other", "lost", "label_error"],
    )
    left, right = figures.object_bars(table).axes
    own, other = left.containers
    assert [bar.get_width() for bar in own] == [0.2, 0.1]
    assert [bar.get_x() for bar in other] == [0.2, 0.1]
    assert [bar.get_width() for bar in other] == pytest.approx([0.0, 0.05])
    assert [label.get_text() for label in left.get_yticklabels()] == ["a", "b"]
    assert [line.get_xdata().tolist() for line in right.lines] == [[0.0, 0.3], [0.1, 0.0]]


def test_labels_have_a_panel_a_level_and_a_curve_a_partner():
    rows = [
        {"partner": p, "level": level, "lam": lam, "rate": r, "low": r - 0.1, "high": r + 0.1}
        for level in ("pixel", "patch")
        for p, r in (("same", 0.9), ("other", 0.4))
        for lam in (1.0, 0.0)
    ]
    fig = figures.label_curves(pd.DataFrame(rows))
    assert [ax.get_title() for ax in fig.axes] == ["pixel level", "patch level"]
    for ax in fig.axes:
        assert [c.lines[0].get_xdata().tolist() for c in ax.containers] == [[0.0, 1.0]] * 2
        assert [c.lines[0].get_ydata()[0] for c in ax.containers] == [0.9, 0.4]


def accuracy_table(**facts):
    rows = [
        {"method": m, "test": t, "mean": v, "low": v - 0.1, "high": v + 0.1, **facts}
        for t in ("matched", "shifted")
        for m, v in (("vanilla", 0.4), ("diffcoremix", 0.7))
    ]
    return pd.DataFrame(rows)


def test_accuracies_have_a_row_a_method_and_mark_the_baseline():
    fig = figures.accuracy_dots(accuracy_table(), "method", "vanilla")
    assert [ax.get_title() for ax in fig.axes] == ["matched test set", "shifted test set"]
    for ax in fig.axes:
        assert [c.lines[0].get_xdata()[0] for c in ax.containers] == [0.4, 0.7]
        assert ax.lines[-1].get_xdata()[0] == 0.4
    labels = [tick.get_text() for tick in fig.axes[0].get_yticklabels()]
    assert labels == ["vanilla", "DiffCoRe-Mix"]


def test_a_gain_that_is_not_clear_of_zero_is_hollow():
    table = accuracy_table().rename(columns={"mean": "gain"})
    table["p_holm"] = table["method"].map({"vanilla": 0.2, "diffcoremix": 0.01})
    (ax, _) = figures.gain_dots(table, "MixUp").axes
    hollow, full = (c.lines[0].get_markerfacecolor() for c in ax.containers)
    assert hollow == "white"
    assert full == figures.METHODS["diffcoremix"][1]


def test_conditions_have_a_panel_each_on_one_axis():
    tables = {"style": accuracy_table(value=0.1), "images": accuracy_table(value=1)}
    tables["images"] = pd.concat([tables["images"], accuracy_table(value=100)])
    fig = figures.accuracy_over(tables, {"style": 0.1, "images": 10})
    assert [ax.get_xlabel() for ax in fig.axes] == ["style", "images"]
    assert [ax.get_xscale() for ax in fig.axes] == ["linear", "log"]
    labels = [text.get_text() for text in fig.legends[0].get_texts()]
    assert labels == ["vanilla", "DiffCoRe-Mix"]


def test_differences_over_conditions_show_zero():
    table = pd.DataFrame({"value": [2, 1], "gain": [0.1, -0.2], "low": [0, -0.3], "high": [0.2, 0]})
    (ax,) = figures.gains_over({"share": table}, {"share": 1}, "points").axes
    assert ax.containers[0].lines[0].get_ydata().tolist() == [-0.2, 0.1]  # from left to right
    low, high = ax.get_ylim()
    assert low < 0 < high


def test_learning_curves_have_a_line_a_method():
    rows = [
        {"method": m, "step": s, "test": t, "top1": s / 10}
        for m in ("vanilla", "added")
        for t in ("matched", "shifted")
        for s in (1, 2)
    ]
    fig = figures.learning_curves(pd.DataFrame(rows))
    assert [line.get_ydata().tolist() for line in fig.axes[1].lines] == [[0.1, 0.2]] * 2
    colours = {line.get_color() for line in fig.axes[0].lines}
    assert colours == {figures.METHODS[name][1] for name in ("vanilla", "added")}


def test_effects_are_hollow_if_their_interval_holds_zero():
    table = pd.DataFrame(
        [("a", 0.1, 0.05, 0.15), ("b", 0.1, -0.05, 0.25), ("c", -0.1, -0.2, -0.01)],
        columns=["effect", "gain", "low", "high"],
    )
    (ax,) = figures.effect_dots(table).axes
    faces = [container.lines[0].get_markerfacecolor() for container in ax.containers]
    assert [face == "white" for face in faces] == [False, True, False]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a", "b", "c"]


def test_methods_can_be_told_apart():
    colours = [str(colour) for _, colour in figures.METHODS.values()]
    assert len(set(colours)) == len(colours)
