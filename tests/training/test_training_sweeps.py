"""What is varied, and that nothing else is."""

import numpy as np
import pandas as pd
import pytest
from dummy_study import DummyStudy

from diffcore.methods.pixel_share import mass_of
from diffcore.methods.registry import GENERATIVE, METHODS, REQUIRED, study_methods
from diffcore.params import ParamsError, change_params, load_params
from diffcore.prompts.prompt_set import load_prompt_set
from diffcore import sweeps
from diffcore.sweeps import plan_doses, plan_main, plan_sweep


@pytest.fixture(scope="module")
def params():
    dose = {"share": 1.0, "changes": {"training.methods.added.probability": 0.2}}
    changes = {"data.train_images_per_class": 2, "generation.generated_share": 3.0}
    return load_params("smoke", changes | {"runs.doses": [dose]})


@pytest.fixture
def study(params):
    return DummyStudy(params)


def runs_of(runs, method):
    """Point -> pairs of a method's runs."""
    return {run.columns["point"]: run.pairs for run in runs if run.method == method}


# ----------------------------------------------------------------------------------- the main table
def test_the_main_table_has_every_method_from_every_seed(study):
    runs = plan_main(study)
    assert [(run.method, run.seed) for run in runs] == [(m, s) for m in METHODS for s in (0, 1)]
    assert {run.method for run in plan_main(study, ["mixup"])} == {"mixup"}
    assert len(plan_main(study, ["mixup"], seeds=3)) == 3
    assert all(run.tests is study.tests and run.keep_weights for run in runs)


def test_every_dose_is_the_same_for_all_that_use_images(study):
    for run in plan_doses(study):
        expected = round(6 * run.columns["dose"]) if run.method in GENERATIVE else 0
        assert len(run.pairs.generated) == expected


def test_a_smaller_dose_is_part_of_a_larger_and_has_settings_of_its_own(study):
    runs = {run.columns["dose"]: run for run in plan_doses(study) if run.method == "added"}
    few, all_ = (set(runs[dose].pairs.generated[:, 0, 0, 0].tolist()) for dose in (1.0, 3.0))
    assert few < all_
    assert runs[3.0].pairs.digest == study.pairs.digest  # so that it shares the runs of `plan_main`
    assert (runs[1.0].settings["probability"], runs[3.0].settings["probability"]) == (0.2, 0.5)


def test_edits_are_made_at_the_strength_of_the_dose(study):
    dose = {"share": 1.0, "changes": {"mixing.edit_strength": 0.4}}
    study.params = change_params(study.params, {"runs.doses": [dose], "runs.worlds": 1})
    plan_doses(study)
    assert study.edited == [0.4, study.params.mixing.edit_strength]


def test_worlds_have_seeds_apart_and_weights_are_kept_of_the_first_alone(study):
    runs = [run for run in plan_doses(study) if run.method == "vanilla"]
    found = [
        (run.columns["world"], run.columns["dose"], run.seed, run.keep_weights) for run in runs
    ]
    assert found == [
        (0, 1.0, 0, False), (0, 1.0, 1, False), (0, 3.0, 0, True), (0, 3.0, 1, True),
        (1, 1.0, 1000, False), (1, 3.0, 1000, False),
    ]  # fmt: skip


# --------------------------------------------------------------------------------------- the sweeps
def test_the_ablation_takes_one_part_away(study, monkeypatch):
    study.prompt_set, drawn = load_prompt_set("birds"), []
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


def test_conditions_are_all_with_all_and_filtered_anew(study, monkeypatch):
    seen, judge = [], study.judge_similarity
    monkeypatch.setattr(study, "judge_similarity", lambda g, t: seen.append((g, t)) or judge(g, t))
    changes = {"runs.styles": [0.0], "runs.biases": [0.5], "runs.images_per_class": [3]}
    study.params = change_params(study.params, changes)
    runs = plan_sweep(study, "conditions")
    cells = {(r.columns["style"], r.columns["bias"], r.columns["point"]) for r in runs}
    assert cells == {(s, b, n) for s in (0.0, 0.6) for b in (0.5, 1.0) for n in (2, 3)}
    splits = [split for split, _ in study.loaded]
    assert splits == ["train", "test_matched", "test_shifted"] * len(cells)
    for generated, train in seen:  # dealt anew: to images of its own class alone
        owners = train.metadata.set_index("source_id")["class_name"]
        dealt = generated.metadata
        assert owners[dealt["source_id"]].tolist() == dealt["class_name"].tolist()
    assert all(run.tests is not study.tests for run in runs)
    assert {len(run.pairs.generated) for run in runs if run.method == "added"} == {15}


def test_all_ways_show_the_same_mass(study):
    runs = plan_sweep(study, "generated pixels")
    for run in runs:
        assert mass_of(run.method, run.settings) == pytest.approx(run.columns["point"])
    plain = {(r.columns["world"], r.columns["part"]) for r in runs if r.columns["alpha"] == 1}
    assert {world for world, _ in plain} == {0, 1}
    assert {part for _, part in plain} == {
        "added", "pixel", "patch", "both levels", "mixed and added"
    }  # fmt: skip
    alphas = {r.columns["alpha"]: r.settings["alpha"] for r in runs if r.columns["part"] == "pixel"}
    assert alphas == {0.2: 0.2, 1.0: 1.0, 4.0: 4.0}


def test_longer_trainings_take_their_own_schedule(study):
    runs = plan_sweep(study, "steps")
    assert {(run.columns["point"], run.training.steps) for run in runs} == {(3, 3), (4, 4)}


def test_retrieved_images_take_the_place_of_drawn_ones(study):
    study.prompt_set = load_prompt_set("birds")
    runs = plan_sweep(study, "source of the images")
    pools = {r.columns["part"]: r.pairs for r in reversed(runs) if r.method in ("added", "vanilla")}
    drawn, retrieved = pools["drawn"], pools["retrieved"]
    assert drawn.source.tolist() == retrieved.source.tolist()
    assert drawn.generated[0].tolist() == retrieved.generated[-1].tolist()
    assert not len(pools["none"].generated)
    named = "garden" in study.prompt_set.contexts[::2]
    assert len(pools["drawn, half the contexts"].generated) == 18 * named


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


def test_axes_are_those_that_a_study_can_run(study, monkeypatch):
    left = {"conditions", "source of the images", "share of planted errors"}
    assert set(sweeps.AXES) - set(sweeps.axes(study)) == left
    monkeypatch.setattr(study, "has", lambda capability: capability != "sweeps")
    assert sweeps.axes(study) == []
    with pytest.raises(ValueError, match="no axis 'colour'; there are ablation, generated"):
        plan_sweep(study, "colour")


def test_the_studys_own_setting_is_a_point_of_every_sweep(study, monkeypatch):
    named = {"ablation": "full method", "way of filtering": "source"}
    for axis, own in named.items():
        assert sweeps.own_point(study, axis) == own
    for axis in ("steps", "share of wrong counterparts", "share of planted errors"):
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
