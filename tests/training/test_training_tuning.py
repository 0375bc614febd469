"""Tuning: equal effort for all, on training images alone, and the profile holds what won."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dummy_study import DummyStudy

from diffcore.methods.registry import METHODS
from diffcore.params import DoseParams, change_params, load_params
from diffcore.training import tuning
from diffcore.sweeps import study_methods

PROFILES = Path(__file__).parents[2] / "params"


@pytest.fixture
def study():
    dose = {"share": 1.0, "changes": {}}
    changes = {"generation.generated_share": 3.0, "runs.doses": [dose]}
    return DummyStudy(load_params("smoke", changes))


OWN = DoseParams(share=3.0)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_six_legal_candidates(method):
    demo = load_params("demo")
    changed = [repr(change_params(demo, changes)) for changes in tuning.candidates(method)]
    assert len(set(changed)) == len(changed) == (16 if method == "vanilla" else 6)


def test_an_edge_is_said_to_be_one():
    at = {
        value: tuning.at_edge("added", {"training.methods.added.probability": value})
        for value in (0.1, 0.2, 0.8, 0.9)
    }
    assert at == {0.1: True, 0.2: False, 0.8: False, 0.9: True}
    whole = {"training.methods.augmix.probability": 1.0}  # nothing lies beyond
    assert not tuning.at_edge("augmix", whole)
    assert tuning.at_edge("diffcoremix", {"mixing.probability": 1.0, "mixing.alpha": 0.2})


def test_folds_hold_out_images_with_their_counterparts(study):
    runs = tuning.folds(study, "added", OWN)
    place = {name: at for at, name in enumerate(study.train.metadata["source_id"])}
    assert len(runs) == 2
    held = [list(run.tests["validation"].metadata["source_id"]) for run in runs]
    assert sorted(held[0] + held[1]) == sorted(place)
    for run, out in zip(runs, held, strict=True):
        assert list(run.tests) == ["validation"]
        assert np.bincount(run.tests["validation"].labels).tolist() == [1, 1, 1]
        assert (len(run.pairs), len(run.pairs.source)) == (3, 9)  # three for each that is left
        shown = set((run.pairs.generated[:, 0, 0, 0] - 100) // 3)
        assert not shown & {place[name] for name in out}


@pytest.mark.parametrize(("method", "count"), [("vanilla", 0), ("diffusemix", 18)])
def test_each_method_is_tuned_on_its_own_images(study, method, count):
    assert sum(len(run.pairs.source) for run in tuning.folds(study, method, OWN)) == count


def test_candidates_are_tried_at_the_dose_and_after_what_they_take(study, monkeypatch):
    """The best of each is marked; the recipe is passed on to all, the mixing to "mixed_added"."""
    asked = []

    def train_runs(runs, *options):
        asked.append(runs)
        best = [r.training.lr == 0.02 and r.settings.get("alpha", 4.0) == 4.0 for r in runs]
        return pd.DataFrame({"validation": np.where(best, 0.9, 0.5)})

    monkeypatch.setattr(tuning, "train_runs", train_runs)
    table = tuning.tune(study, ["vanilla", "mixup", "diffcoremix", "mixed_added"])
    chosen = table[table["chosen"]].set_index(["method", "dose"])["candidate"]
    assert chosen["vanilla"].iloc[0] == "training.lr=0.02, training.crop_scale=0.15"
    assert set(chosen["diffcoremix"]) == {"mixing.probability=0.5, mixing.alpha=4"}
    assert chosen["diffcoremix"].index.tolist() == [1.0, 3.0]  # at each dose
    recipes, methods, last = asked
    assert len(recipes) == 16 * 2  # on two folds, from one seed
    assert {run.training.lr for run in methods + last} == {0.02}
    assert {run.method for run in last} == {"mixed_added"}
    assert {run.settings["alpha"] for run in last} == {4.0}
    assert {len(run.pairs.generated) for run in last} < {2, 3, 4, 9}
    assert table.loc[table["method"] == "mixup", "sem"].tolist() == [0.0] * 6


def test_the_command_writes_the_table_beside_the_profiles(study, study_folder, monkeypatch, capsys):
    row, asked = {"method": "mixup", "accuracy": 0.123456, "sem": 0.01, "chosen": True}, []
    monkeypatch.setattr("diffcore.study.Study.open", lambda *of: asked.append(of) or study)
    monkeypatch.setattr(tuning, "tune", lambda *of: asked.append(of) or pd.DataFrame([row]))
    tuning.main(["--profile", "smoke", "--methods", "mixup"])
    path = study_folder / "params" / "tuning" / "smoke.csv"
    assert path.read_text() == "method,accuracy,sem,chosen\nmixup,0.1235,0.0100,True\n"
    assert f"Written to {path}" in capsys.readouterr().out
    row |= {"method": "vanilla", "accuracy": 0.5}
    tuning.main(["--profile", "smoke", "--methods", "vanilla"])  # the others keep what was found
    assert pd.read_csv(path)["method"].tolist() == ["vanilla", "mixup"]
    asked[2:] = []
    tuning.main([])
    every = study_methods(study.params)
    assert asked == [("tuning", "smoke"), (study, ["mixup"]), ("tuning", "demo"), (study, every)]


@pytest.mark.parametrize("profile", ["demo", "birds"])
def test_a_profile_uses_what_was_chosen_for_it(profile):
    params = load_params(profile)
    table = tuning.read_chosen(params)
    assert set(table["method"]) == set(METHODS)
    doses = {dose.share: dose for dose in params.runs.doses}
    for row in table.itertuples():
        changes = {key: float(at) for key, at in (c.split("=") for c in row.candidate.split(", "))}
        if row.dose in doses:
            assert changes.items() <= doses[row.dose].changes.items(), row
        elif np.isnan(row.dose) or row.dose == params.generation.generated_share:
            assert change_params(params, changes) == params, row
        assert row.edge == tuning.at_edge(row.method, changes), row
