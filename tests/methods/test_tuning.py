"""Tuning: equal effort for all, on training images alone, and the profile holds what won."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from diffcore.data.pairs import PairedDataset
from diffcore.data.splits import Split
from diffcore.methods import METHODS, method_of, tuning
from diffcore.params import ShareParams, change_params, load_params

FULL = ShareParams(share=3.0)


@pytest.fixture
def study():
    """Three training images of each of two classes, and as many counterparts of each as asked."""
    shares = [{"share": 1.0, "changes": {}}]
    changes = {"generation.generated_share": 3.0, "runs.shares": shares}
    labels, names = np.repeat([0, 1], 3), [f"real-{place}" for place in range(6)]
    table = pd.DataFrame({"source_id": names, "label": labels, "class_name": [*"aaabbb"]})
    train = Split("train", ("a", "b"), table, np.zeros((6, 4, 4, 3), np.uint8))

    def pairs_at(at, method):
        source = np.repeat(np.arange(6), int(at.share))
        light = source.astype(np.uint8)[:, None, None, None]
        pixels = np.broadcast_to(light, (len(source), 4, 4, 3))
        metadata = table.iloc[source].reset_index(drop=True)
        return PairedDataset(train, SimpleNamespace(metadata=metadata, images=pixels))

    params = load_params("smoke", changes)
    return SimpleNamespace(params=params, train=train, run_dir=Path("none"), pairs_at=pairs_at)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_six_legal_candidates(method):
    params = [change_params(load_params("demo"), each) for each in tuning.candidates(method)]
    assert len({repr(each) for each in params}) == len(params) == (16 if method == "vanilla" else 6)
    for each in params:
        method_of(method, each)


def test_an_edge_is_said_to_be_one():
    key = "training.methods.{}.probability"
    at = {value: tuning.at_edge("added", {key.format("added"): value}) for value in (0.1, 0.2, 0.9)}
    assert at == {0.1: True, 0.2: False, 0.9: True}
    assert not tuning.at_edge("augmix", {key.format("augmix"): 1.0})  # nothing lies beyond
    assert tuning.at_edge("diffcoremix", {"mixing.probability": 1.0, "mixing.alpha": 0.2})


@pytest.mark.parametrize(("method", "each"), [("added", 3), ("vanilla", 0)])
def test_folds_hold_out_images_with_their_counterparts(study, method, each):
    runs = tuning.plan_folds(study, method, FULL, study.pairs_at(FULL, method))
    assert [run.seed for run in runs] == [0, 1] * 3
    held = [list(run.tests["validation"].metadata["source_id"]) for run in runs]
    assert sorted(np.concatenate(held[::2])) == list(study.train.metadata["source_id"])
    for run, names in zip(runs, held, strict=True):
        assert list(run.tests) == ["validation"]
        assert run.tests["validation"].labels.tolist() == [0, 1]
        assert (len(run.pairs), len(run.pairs.source)) == (4, 4 * each)
        shown = {f"real-{light}" for light in run.pairs.generated[:, 0, 0, 0]}
        assert not shown & {*names}


def test_candidates_are_tried_at_each_share_and_after_what_they_take(study, monkeypatch):
    """The best of each is marked; the recipe is passed on to all, the mixing to "mixed_added"."""
    planned = {}

    def is_best(run):
        return run.training.lr == 0.02 and getattr(run.method, "alpha", 4.0) == 4.0

    def train_runs(runs, *_):
        planned.setdefault(runs[0].method.name, []).extend(runs)
        return pd.DataFrame({"validation": np.where([is_best(run) for run in runs], 0.9, 0.5)})

    monkeypatch.setattr(tuning, "train_runs", train_runs)
    methods = ["mixed_added", "vanilla", "mixup", "diffcoremix"]
    table = tuning.tune_profile(study, methods, study.pairs_at)
    assert table["method"].unique().tolist() == ["vanilla", "mixup", "diffcoremix", "mixed_added"]
    chosen = table[table["chosen"]].set_index(["method", "dose"])["candidate"]
    assert chosen["vanilla"].iloc[0] == "training.lr=0.02, training.crop_scale=0.15"
    assert set(chosen["diffcoremix"]) == {"mixing.probability=0.5, mixing.alpha=4"}
    assert chosen["diffcoremix"].index.tolist() == [1.0, 3.0]  # at each share
    assert {method: len(runs) for method, runs in planned.items()} == {
        "vanilla": 16 * 6, "mixup": 6 * 6, "diffcoremix": 2 * 6 * 6, "mixed_added": 2 * 6 * 6,
    }  # fmt: skip
    last = planned["mixed_added"]
    assert {run.training.lr for run in planned["mixup"] + last} == {0.02}
    assert {run.method.mixing.alpha for run in last} == {4.0}
    assert {len(run.pairs.generated) for run in last} == {4, 12}
    assert table.loc[table["method"] == "mixup", "sem"].tolist() == [0.0] * 6


def test_the_table_lies_beside_the_profiles_and_keeps_other_methods(study_folder):
    row = {"method": "mixup", "accuracy": 0.123456, "sem": 0.01, "chosen": True}
    path = tuning.write_choice(pd.DataFrame([row]), "smoke")
    assert path == study_folder / "params" / "tuning" / "smoke.csv"
    assert path.read_text() == "method,accuracy,sem,chosen\nmixup,0.1235,0.0100,True\n"
    for accuracy in (0.4, 0.5):
        row |= {"method": "vanilla", "accuracy": accuracy}
        tuning.write_choice(pd.DataFrame([row]), "smoke")
    assert pd.read_csv(path)["accuracy"].tolist() == [0.5, 0.1235]


@pytest.mark.parametrize("profile", ["demo", "birds"])
def test_a_profile_uses_what_was_chosen_for_it(profile):
    params = load_params(profile)
    table = tuning.read_chosen(params)
    assert set(table["method"]) == set(METHODS)
    shares = {at.share: at for at in params.runs.shares}
    for row in table.itertuples():
        changes = {key: float(at) for key, at in (c.split("=") for c in row.candidate.split(", "))}
        if row.dose in shares:
            assert changes.items() <= shares[row.dose].changes.items(), row
        elif np.isnan(row.dose) or row.dose == params.generation.generated_share:
            assert change_params(params, changes) == params, row
        assert row.edge == tuning.at_edge(row.method, changes), row
