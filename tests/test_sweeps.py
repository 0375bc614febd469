"""What is varied, and that nothing else is."""

from types import SimpleNamespace

import numpy as np
import pytest
from dummy_study import DummyStudy, make_split

from diffcore import sweeps
from diffcore.methods import METHODS
from diffcore.methods.pixel_share import PIXEL_CONDITIONS, pixel_share
from diffcore.params import change_params, load_params
from diffcore.prompts.prompt_set import load_prompt_set
from diffcore.sweeps import plan_main, plan_methods, plan_sweep


@pytest.fixture(scope="module")
def params():
    few = {"share": 1.0, "changes": {"training.methods.added.probability": 0.2}}
    changes = {"data.train_images_per_class": 2, "generation.generated_share": 3.0}
    return load_params("smoke", changes | {"runs.shares": [few]})


@pytest.fixture
def study(params):
    return DummyStudy(params)


def name_of(run):
    return run.method.name


# ----------------------------------------------------------------------------------- the main table
def test_the_studys_table_has_every_method_from_every_seed(study):
    runs = plan_methods(study)
    assert [(name_of(run), run.seed) for run in runs] == [(m, s) for m in METHODS for s in (0, 1)]
    assert all(run.tests is study.tests and run.keep_weights for run in runs)
    three = plan_methods(study, ["mixup"], seeds=3)
    assert [(name_of(run), run.seed) for run in three] == [("mixup", seed) for seed in range(3)]


def test_images_are_restyled_at_the_strength_of_the_share(study):
    few = {"share": 1.0, "changes": {"mixing.edit_strength": 0.5}}
    study.params = change_params(study.params, {"runs.shares": [few], "runs.replicates": 1})
    plan_main(study)
    assert study.restyled == [0.5, study.params.mixing.edit_strength]


def test_every_share_is_the_same_for_all_that_use_images(study):
    for run in plan_main(study):
        expected = 0 if run.method.sees == "real" else round(6 * run.columns["dose"])
        assert len(run.pairs.generated) == expected


def test_fewer_images_are_part_of_more_and_have_their_settings(study):
    runs = {run.columns["dose"]: run for run in plan_main(study) if name_of(run) == "added"}
    few, all_ = (set(runs[share].pairs.generated[:, 0, 0, 0].tolist()) for share in (1.0, 3.0))
    assert few < all_
    assert runs[3.0].pairs.digest == study.pairs.digest  # so that runs are shared
    assert (runs[1.0].method.probability, runs[3.0].method.probability) == (0.2, 0.6)


def test_replicates_have_seeds_apart_and_weights_are_kept_of_the_first_alone(study):
    runs = [run for run in plan_main(study) if name_of(run) == "vanilla"]
    columns = [(run.columns["replicate"], run.columns["dose"]) for run in runs]
    assert columns == [(0, 1.0), (0, 1.0), (0, 3.0), (0, 3.0), (1, 1.0), (1, 3.0)]
    assert [run.seed for run in runs] == [0, 1, 0, 1, 1000, 1000]
    assert [run.keep_weights for run in runs] == [False, False, True, True, False, False]


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
    assert len(whole) == study.params.runs.ablation_images  # of 18
    for changed, column in ((contextless, "context"), (unsteered, "negative_prompt")):
        assert changed["sample_id"].tolist() == whole["sample_id"].tolist()
        assert (changed[column] == "").all()
    assert (unsteered["prompt"] == whole["prompt"]).all()
    first = {run.columns["part"]: run for run in reversed(runs)}
    assert list(reversed(first)) == [
        "full method", "no context", "no negatives", "no filter", "pixel only", "patch only",
    ]  # fmt: skip
    shares = {part: run.method.patch_share for part, run in first.items()}
    assert (shares["pixel only"], shares["patch only"]) == (0, 1)
    assert len(first["no filter"].pairs.generated) == 12
    assert first["pixel only"].pairs is first["full method"].pairs


def test_conditions_are_every_combination_and_filtered_anew(study, monkeypatch):
    loaded = []

    def load(params, split, **changes):
        loaded.append((split, changes))
        return make_split(changes.get("train_images_per_class", 2), "train")

    monkeypatch.setattr(sweeps, "load_split", load)
    conditions = {"style": [0.0, 0.6], "bias": [0.5, 1.0], "train_images_per_class": [2, 3]}
    study.params = change_params(study.params, {"runs.conditions": conditions})
    runs = plan_sweep(study, "conditions")
    cells = {(r.columns["style"], r.columns["bias"], r.columns["point"]) for r in runs}
    assert cells == {(s, b, n) for s in (0.0, 0.6) for b in (0.5, 1.0) for n in (2, 3)}
    assert sorted(split for split, _ in loaded) == sorted(
        ["train", "test_matched", "test_shifted"] * len(cells)
    )
    for generated, train in study.filtered:  # dealt anew: to images of the same class alone
        owners = train.metadata.set_index("source_id")["class_name"]
        dealt = generated.metadata
        assert owners[dealt["source_id"]].tolist() == dealt["class_name"].tolist()
    assert all(run.tests is not study.tests for run in runs)
    assert {len(run.pairs.generated) for run in runs if name_of(run) == "added"} == {15}


def test_longer_trainings_take_their_own_schedule(study):
    runs = plan_sweep(study, "steps")
    assert {(run.columns["point"], run.training.steps) for run in runs} == {(3, 3), (4, 4)}


def test_all_conditions_show_the_same_share_of_generated_pixels(study):
    runs = plan_sweep(study, "generated pixels")
    for run in runs:
        assert pixel_share(run.method) == pytest.approx(run.columns["point"])
    plain = {(r.columns["replicate"], r.columns["part"]) for r in runs if r.columns["alpha"] == 1}
    assert plain == {(number, name) for number in (0, 1) for name in PIXEL_CONDITIONS}
    assert {r.columns["alpha"] for r in runs if r.columns["part"] == "pixel"} == {0.2, 1.0, 4.0}


def test_retrieved_images_take_the_place_of_drawn_ones(study, monkeypatch):
    study.prompt_set = load_prompt_set("birds")
    reverse = SimpleNamespace(retrieve=lambda wanted, seed: study.accepted.images[::-1].copy())
    monkeypatch.setattr(sweeps, "find_dataset", lambda name: reverse)
    runs = plan_sweep(study, "source of the images")
    pools = {r.columns["part"]: r.pairs for r in runs if name_of(r) in ("added", "vanilla")}
    drawn, retrieved = pools["drawn"], pools["retrieved"]
    assert drawn.source.tolist() == retrieved.source.tolist()
    assert drawn.generated[0].tolist() == retrieved.generated[-1].tolist()
    assert not len(pools["none"].generated)
    named = "garden" in study.prompt_set.contexts[::2]
    assert len(pools["drawn, half the contexts"].generated) == 18 * named


@pytest.mark.parametrize("wanted", [None, ("no filter", "the oracle")])
def test_ways_of_filtering_keep_their_images_of_the_same_ones(study, wanted, monkeypatch):
    light = study.generated.images[:, 0, 0, 0]
    wrong = (light > 109) & (light % 2 == 0)
    kept = {"no filter": light > 0, "source": light < 115, "the oracle": ~wrong}
    monkeypatch.setattr(sweeps, "filter_conditions", lambda *_: (kept, wrong))
    changes = {"runs.filter_conditions": wanted, "runs.filter_seeds": 3}
    study.params = change_params(study.params, changes)
    runs = plan_sweep(study, "way of filtering")
    planned = [(name, seed) for name in wanted or kept for seed in range(3)]
    assert [(run.columns["part"], run.seed) for run in runs] == planned
    assert {name_of(run) for run in runs} == {"diffcoremix"}
    for run in runs:
        mask = kept[run.columns["part"]]
        assert run.pairs.digest == study.pair(study.generated.take(mask)).digest
        assert run.columns["kept"] == mask.mean()
        assert run.columns["wrong"] == wrong[mask].mean()


def test_injected_noise_is_images_of_another_class(study):
    names = study.accepted.metadata["class_name"].to_numpy()
    noisy = sweeps.inject_noise(study.accepted, 0.5, seed=0)
    places = [16, 1, 12, 15, 8, 16, 6, 1, 8, 9, 0, 11, 8, 13, 14, 15, 0, 17]
    assert (noisy.images[:, 0, 0, 0] - 100).tolist() == places  # as drawn for the reports
    moved = names[places] != names
    assert moved.sum() == 9
    for column in ("source_id", "class_name"):
        assert noisy.metadata[column].tolist() == study.accepted.metadata[column].tolist()
    assert (noisy.metadata["sample_id"] != study.accepted.metadata["sample_id"])[moved].all()


def test_without_noise_the_pairs_are_those_of_the_main_table(study):
    runs = plan_sweep(study, "share of wrong counterparts")
    clean = next(r for r in runs if name_of(r) == "added" and r.columns["point"] == 0)
    assert clean.pairs.digest == study.pairs.digest


def test_axes_are_those_that_a_study_can_run(study, monkeypatch):
    missing = {"conditions", "source of the images"}
    assert set(sweeps.AXES) - set(sweeps.axes(study)) == missing
    monkeypatch.setattr(study, "has", lambda capability: capability != "sweeps", raising=False)
    assert sweeps.axes(study) == []
    with pytest.raises(ValueError, match="no axis 'colour'; there are ablation, generated"):
        plan_sweep(study, "colour")
