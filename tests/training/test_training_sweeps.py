"""What is varied, and that nothing else is."""

import numpy as np
import pandas as pd
import pytest
from dummy_study import DummyStudy

from diffcore.mixing.methods import GENERATIVE, METHODS, REQUIRED, study_methods
from diffcore.params import ParamsError, change_params, load_params
from diffcore.prompts.book import load_prompt_book
from diffcore.training import sweeps
from diffcore.training.sweeps import plan_curves, plan_main, plan_sweep


@pytest.fixture(scope="module")
def params():
    return load_params("smoke", {"data.train_images_per_class": 2})


@pytest.fixture
def study(params):
    return DummyStudy(params)


def runs_of(runs, method):
    """Point -> pairs of a method's runs."""
    return {run.columns["point"]: run.pairs for run in runs if run.method == method}


# ------------------------------------------------------------------------- the table and its curves
def test_the_main_table_has_every_method_from_every_seed(study):
    runs = plan_main(study)
    assert [(run.method, run.seed) for run in runs] == [(m, s) for m in METHODS for s in (0, 1)]
    assert {run.method for run in plan_main(study, ["mixup"])} == {"mixup"}
    assert len(plan_main(study, ["mixup"], seeds=3)) == 3
    assert all(run.tests is study.tests for run in runs)


@pytest.mark.parametrize("plan", [plan_main, plan_curves])
def test_each_method_trains_on_its_own_images(study, plan):
    """DiffuseMix on its edits, also where its learning curve is drawn."""
    for run in plan(study, METHODS):
        expected = 18 if run.method in GENERATIVE else 0
        assert len(run.pairs.generated) == (6 if run.method == "diffusemix" else expected)


def test_curves_are_runs_of_their_own_from_the_first_seed(study):
    (run,) = plan_curves(study, ["diffusemix"])
    assert (run.seed, run.curve_points) == (0, study.params.runs.curve_points)
    assert run.pairs.digest == study.pair(study.edits).digest


# --------------------------------------------------------------------------------------- the sweeps
def test_the_ablation_takes_one_part_away(study, monkeypatch):
    study.book, drawn = load_prompt_book("birds"), []
    study.plan = study.generated.metadata.assign(
        context="garden", prompt="a jay, a bird, garden", negative_prompt="tree"
    )

    def draw(plan):
        drawn.append(plan)
        return study.generated.take(np.arange(len(plan)))

    monkeypatch.setattr(study, "draw", draw, raising=False)
    runs = plan_sweep(study, "ablation")
    whole, contextless, unsteered = drawn
    assert len(whole) == study.params.measure.ablation_images  # of 18
    for changed, column in ((contextless, "context"), (unsteered, "negative_prompt")):
        assert changed["sample_id"].tolist() == whole["sample_id"].tolist()
        assert (changed[column] == "").all()
    assert (unsteered["prompt"] == whole["prompt"]).all()
    first = {run.columns["part"]: run for run in reversed(runs)}
    assert list(reversed(first)) == [
        "full method", "no context", "no negatives", "no filter", "pixel only", "patch only",
    ]  # fmt: skip
    shares = {part: run.settings["patch_share"] for part, run in first.items()}
    assert (shares["pixel only"], shares["patch only"]) == (0, 1)
    assert len(first["no filter"].pairs.generated) == 12
    assert first["pixel only"].pairs is first["full method"].pairs


def test_styles_are_filtered_anew_and_tested_in_their_own_style(study, monkeypatch):
    seen = []
    judge = study.judge_similarity
    monkeypatch.setattr(study, "judge_similarity", lambda g, t: seen.append(t) or judge(g, t))
    runs = plan_sweep(study, "style of the real images")
    points = sorted({run.columns["point"] for run in runs})
    assert points == [0.0, 0.6]  # that of smoke, and its own
    splits = ("train", "test_matched", "test_shifted")
    assert study.loaded == [(split, {"style": style}) for style in points for split in splits]
    assert [train.name for train in seen] == ["train", "train"]
    assert all(list(run.tests) == ["matched", "shifted"] for run in runs)
    assert all(run.tests is not study.tests for run in runs)
    assert {len(run.pairs.generated) for run in runs if run.method == "added"} == {15}


@pytest.mark.parametrize("arms", [None, ("no filter", "the oracle")])
def test_ways_of_filtering_keep_their_images_of_the_same_ones(study, arms):
    study.params = change_params(study.params, {"runs.filter_arms": arms, "runs.filter_seeds": 3})
    runs = plan_sweep(study, "way of filtering")
    kept, wrong = study.filter_by_all(study.generated)
    assert [(run.columns["part"], run.seed) for run in runs] == [
        (arm, seed) for arm in arms or kept for seed in range(3)
    ]
    assert {run.method for run in runs} == {"diffcoremix"}
    for run in runs:
        mask = kept[run.columns["part"]]
        assert run.pairs.digest == study.pair(study.generated.take(mask)).digest
        assert run.columns["kept"] == mask.mean()
        assert run.columns["wrong"] == wrong[mask].mean()
    assert runs[-1].columns["wrong"] == 0
    assert sweeps.own_point(study, "way of filtering") == "source"


def test_planted_errors_are_seen_by_every_way_of_filtering(study):
    seen, own = [], study.filter_by_all
    study.filter_by_all = lambda generated: seen.append(generated) or own(generated)
    study.has = lambda capability: True
    study.params = change_params(study.params, {"runs.planted_shares": [0.5]})
    runs = plan_sweep(study, "share of planted errors")
    assert "share of planted errors" in sweeps.axes(study)
    clean, planted = seen
    assert np.array_equal(clean.images[:], study.generated.images)
    noisy = sweeps.inject_noise(study.generated, 0.5, study.params.seed)
    assert np.array_equal(planted.images[:], noisy.images)
    arms = ["no filter", "at random", "source", "the oracle"]
    seeds = study.params.runs.filter_seeds
    assert [(run.columns["point"], run.columns["part"]) for run in runs] == [
        (point, arm) for point in (0.0, 0.5) for arm in arms for _ in range(seeds)
    ]


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_injected_noise_is_images_of_another_class(study, share):
    names = study.accepted.metadata["class_name"].to_numpy()
    noisy = sweeps.inject_noise(study.accepted, share, seed=0)
    shown = names[noisy.images[:, 0, 0, 0] - 100]
    assert (shown != names).sum() == 18 * share
    for column in ("source_id", "class_name"):
        assert noisy.metadata[column].tolist() == study.accepted.metadata[column].tolist()
    moved = shown != names
    assert (noisy.metadata["sample_id"] != study.accepted.metadata["sample_id"])[moved].all()


def test_injected_noise_is_drawn_as_it_was_when_the_reports_were_made(study):
    noisy = sweeps.inject_noise(study.accepted, 0.5, seed=0)
    assert (noisy.images[:, 0, 0, 0] - 100).tolist() == [
        16,
        1,
        12,
        15,
        8,
        16,
        6,
        1,
        8,
        9,
        0,
        11,
        8,
        13,
        14,
        15,
        0,
        17,
    ]


def test_without_noise_the_runs_are_those_of_the_main_table(study):
    clean = runs_of(plan_sweep(study, "share of wrong counterparts"), "added")[0.0]
    assert clean.digest == study.pairs.digest


def test_other_numbers_of_real_images_keep_all_counterparts(study):
    pairs = runs_of(plan_sweep(study, "real images per class"), "diffcoremix")
    assert study.loaded == [("train", {"train_images_per_class": 1})]  # two are the study's own
    assert {point: len(each) for point, each in pairs.items()} == {1: 3, 2: 6}
    assert all(len(each.generated) == 18 for each in pairs.values())
    # The image called train-1 is of another class there: its name must not attract counterparts.
    assert pairs[1].source.tolist() == [0] * 6 + [1] * 6 + [2] * 6


def test_a_smaller_number_of_generated_images_is_part_of_a_larger(study):
    pairs = runs_of(plan_sweep(study, "generated per training image"), "added")
    assert {point: len(each.source) for point, each in pairs.items()} == {0.5: 3, 3.0: 18}
    few, all_ = (set(pairs[point].generated[:, 0, 0, 0].tolist()) for point in (0.5, 3.0))
    assert few < all_
    assert pairs[3.0].digest == study.pairs.digest  # so that it shares the runs of the main table


def test_shares_of_a_batch_are_of_the_methods_that_add(study):
    runs = plan_sweep(study, "generated share of a batch")
    for run in runs:
        if run.method != "diffcoremix":
            assert run.settings["probability"] == run.columns["point"]
    ours = [run.settings for run in runs if run.method == "diffcoremix"]
    assert all(settings == ours[0] for settings in ours)


def test_thresholds_reject_more_and_more(study):
    runs = plan_sweep(study, "share rejected")
    pairs = runs_of(runs, "added")
    kept = {run.columns["threshold"]: run.columns["point"] for run in runs}
    assert kept[-1.0] == 0
    assert kept[0.8855] == pytest.approx(3 / 18)
    for point, each in pairs.items():
        assert len(each.source) == pytest.approx(18 * (1 - point))
        assert each.generated[:, 0, 0, 0].max() < 118 - 18 * point + 1  # the least similar went
    assert sweeps.own_point(study, "share rejected") == pytest.approx(3 / 18)


def test_axes_are_those_that_a_study_can_run(study, monkeypatch):
    left = {"style of the real images", "share of planted errors"}
    assert set(sweeps.AXES) - set(sweeps.axes(study)) == left
    monkeypatch.setattr(study, "has", lambda capability: capability != "sweeps")
    assert sweeps.axes(study) == []
    with pytest.raises(ValueError, match="no axis 'colour'; there are ablation, style of"):
        plan_sweep(study, "colour")


def test_the_studys_own_setting_is_a_point_of_every_sweep(study, monkeypatch):
    named = {"ablation": "full method", "way of filtering": "source"}
    for axis, own in named.items():
        assert sweeps.own_point(study, axis) == own
    for axis in sweeps.AXES.keys() - named:
        points = pd.Series([run.columns["point"] for run in plan_sweep(study, axis)])
        assert np.isclose(points, sweeps.own_point(study, axis)).any(), axis


# ---------------------------------------------------------------------------------- the methods
def with_methods(params, *names, kind="paperbirds"):
    return change_params(params, {"runs.methods": list(names), "generation.pipeline.kind": kind})


def test_all_methods_are_compared_for_which_there_are_images(params):
    assert study_methods(params) == list(METHODS)
    without = study_methods(change_params(params, {"generation.pipeline.kind": "surrogate"}))
    assert set(METHODS) - set(without) == {"diffusemix"}
    assert study_methods(with_methods(params, *reversed(REQUIRED))) == list(REQUIRED)


@pytest.mark.parametrize(
    ("names", "kind", "message"),
    [
        ((*REQUIRED, "mixup2"), "paperbirds", "'mixup2' is no method; there are vanilla, mixup"),
        ((*REQUIRED, "diffusemix"), "surrogate", "'diffusemix' needs a pipeline that can edit"),
        (("mixup", *REQUIRED[2:]), "import", "'vanilla', 'cutmix' must be there"),
        (("x", *REQUIRED[1:]), "import", "'x' is no method; 'vanilla' must be there"),
    ],
)
def test_methods_that_cannot_be_compared_are_named_at_once(params, names, kind, message):
    with pytest.raises(ParamsError, match=message):
        study_methods(with_methods(params, *names, kind=kind))
