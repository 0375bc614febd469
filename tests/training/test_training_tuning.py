"""Tuning: equal effort for all, on training images alone, and the profile holds what won."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dummy_study import DummyStudy

from diffcore.mixing.methods import METHODS, method_settings
from diffcore.params import change_params, load_params
from diffcore.training import tuning
from diffcore.training.sweeps import study_methods

PROFILES = Path(__file__).parents[2] / "params"


@pytest.fixture
def study():
    return DummyStudy(load_params("smoke"))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_four_legal_candidates(method):
    demo = load_params("demo")
    changed = [repr(change_params(demo, changes)) for changes in tuning.candidates(method)]
    assert len(set(changed)) == len(changed) == 4


def test_folds_hold_out_images_with_their_counterparts(study):
    runs = tuning.folds(study, "added")
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


@pytest.mark.parametrize(("method", "count"), [("vanilla", 0), ("diffusemix", 6)])
def test_each_method_is_tuned_on_its_own_images(study, method, count):
    assert sum(len(run.pairs.source) for run in tuning.folds(study, method)) == count


def test_the_best_candidate_is_marked(study, monkeypatch):
    scores, asked = iter([[0.5, 0.7], [0.8, 0.6], [0.9, 0.5], [0.1, 0.1]]), []

    def train_runs(runs, training, *options):
        asked.append(runs[0].settings)
        return pd.DataFrame({"validation": next(scores)})

    monkeypatch.setattr(tuning, "train_runs", train_runs)
    table = tuning.tune(study, ["mixup"])
    assert table["accuracy"].tolist() == pytest.approx([0.6, 0.7, 0.7, 0.1])
    assert table["chosen"].tolist() == [False, True, False, False]  # of two, the first
    assert table["sem"][0] == pytest.approx(0.1)
    expected = [change_params(study.params, changes) for changes in tuning.candidates("mixup")]
    assert asked == [method_settings("mixup", params) for params in expected]


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


def test_the_demo_uses_what_was_chosen():
    table = pd.read_csv(PROFILES / "tuning" / "demo.csv")
    assert set(table["method"]) == set(METHODS)
    demo = load_params("demo")
    for text in table.loc[table["chosen"], "candidate"]:
        changes = {key: float(value) for key, value in (c.split("=") for c in text.split(", "))}
        assert change_params(demo, changes) == demo, text
