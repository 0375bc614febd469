"""Trials: each is trained once, however it is asked for, and a kill loses no finished one."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from diffcore import trials
from diffcore.data import Images
from diffcore.params import load_params
from diffcore.training import TrainingData, load_classifier, predict
from diffcore.trials import Corpus, Trial, read_curves, run_trials, trial_key

K = 3


@pytest.fixture(scope="module")
def params():
    return load_params("smoke", {"training.steps": 4})


@pytest.fixture(scope="module")
def corpus():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(K), 4)
    pixels = rng.integers(0, 255, (12, 32, 32, 3)).astype(np.uint8)
    test = Images(pixels[:6], labels[:6], None, np.arange(6).astype(str))
    data = TrainingData(pixels, labels, pixels[:4] // 2, np.array([0, 1, 5, 7]))
    return Corpus(data, {"matched": test, "shifted": test.take([0, 5])}, K)


def trial(corpus, method="vanilla", seed=0, **options):
    settings = {"probability": 0.5} if method == "added" else {}
    return Trial(method, settings, seed, corpus, **options)


def test_results_are_tabled_with_their_facts(params, corpus, tmp_path):
    wanted = [trial(corpus, seed=s, facts={"value": 0.5}) for s in (0, 1)]
    table = run_trials(wanted, params.training, tmp_path, processes=1)
    assert table["seed"].tolist() == [0, 1]
    assert (table["value"] == 0.5).all()
    assert table["key"].is_unique
    for row in table.itertuples():
        classifier = load_classifier(row.weights, params.training, K)
        found = predict(classifier, corpus.tests["matched"].pixels).argmax(1).numpy()
        assert row.matched == (found == corpus.tests["matched"].labels).mean()
    assert not list(tmp_path.glob("*.part"))


def test_a_trial_is_trained_once(params, corpus, tmp_path, monkeypatch):
    first = run_trials([trial(corpus)] * 2, params.training, tmp_path, processes=1)
    assert len(first) == 2
    assert len(list(tmp_path.glob("*.json"))) == 1

    def refuse(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(trials, "_run", refuse)
    again = run_trials([trial(corpus)], params.training, tmp_path, processes=1)
    assert again["matched"][0] == first["matched"][0]


def test_a_kill_loses_no_finished_trial(params, corpus, tmp_path, monkeypatch):
    run, done = trials._run, []

    def die_at_the_second(*arguments):
        if done:
            raise KeyboardInterrupt
        done.append(run(*arguments))

    monkeypatch.setattr(trials, "_run", die_at_the_second)
    wanted = [trial(corpus, seed=s) for s in range(3)]
    with pytest.raises(KeyboardInterrupt):
        run_trials(wanted, params.training, tmp_path, processes=1)
    assert len(list(tmp_path.glob("*.json"))) == 1
    monkeypatch.setattr(trials, "_run", run)
    assert len(run_trials(wanted, params.training, tmp_path, processes=1)) == 3


def test_processes_change_nothing(params, corpus, tmp_path):
    wanted = [trial(corpus, "added", seed=s) for s in (0, 1)]
    alone = run_trials(wanted, params.training, tmp_path / "one", processes=1)
    beside = run_trials(wanted, params.training, tmp_path / "two", processes=2)
    for one, two in zip(alone["weights"], beside["weights"], strict=True):
        assert one.read_bytes() == two.read_bytes()


def test_a_key_names_all_that_matters_and_nothing_else(params, corpus):
    training = params.training
    base = trial_key(trial(corpus), training)
    assert trial_key(trial(corpus, facts={"value": 3}), training) == base
    speed = {"loader_workers": 3, "checkpoint_every": 7}
    assert trial_key(trial(corpus), training.model_copy(update=speed)) == base
    pixels = corpus.data.real.copy()
    pixels[0, 0, 0, 0] ^= 1
    data = dataclasses.replace(corpus.data, real=pixels)
    others = [
        (trial(corpus, seed=1), training),
        (trial(corpus, "mixup"), training),
        (dataclasses.replace(trial(corpus), settings={"alpha": 1.0}), training),
        (trial(corpus, curve_points=2), training),
        (trial(corpus), training.model_copy(update={"lr": 0.5})),
        (trial(dataclasses.replace(corpus, data=data)), training),
        (trial(corpus.without_generated()), training),
    ]
    keys = [trial_key(*other) for other in others]
    assert len({base, *keys}) == len(others) + 1


def test_methods_without_generated_images_share_their_trials(params, corpus):
    pixels = corpus.data.generated + 1
    other = dataclasses.replace(corpus, data=dataclasses.replace(corpus.data, generated=pixels))
    assert corpus.digest != other.digest
    assert corpus.without_generated().digest == other.without_generated().digest


def test_the_code_is_known_by_what_it_does(monkeypatch, tmp_path):
    source = 'def f():\n    """Say what."""\n    return 1  # why\n'
    hashes = []
    for text in (source, source.replace("what", "more"), source.replace("why", "or not"),
                 source.replace("return 1", "return 2")):  # fmt: skip
        for name in trials._CODE:
            (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.setattr(trials, "__file__", str(tmp_path / "trials.py"))
        hashes.append(trials._code.__wrapped__())
    assert hashes[0] == hashes[1] == hashes[2] != hashes[3]


def test_curves_end_where_the_training_does(params, corpus, tmp_path):
    table = run_trials([trial(corpus, curve_points=2)], params.training, tmp_path, processes=1)
    curves = read_curves(table, tmp_path)
    assert curves["step"].tolist() == [2, 2, 4, 4]
    last = curves[curves["step"] == 4].set_index("test")["top1"]
    assert last["matched"] == table["matched"][0]


def test_a_gpu_is_shared_by_none(params, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    anywhere = params.training.model_copy(update={"device": "auto"})
    assert trials.side_by_side(anywhere, 4) == 1
    assert trials.side_by_side(params.training, 4) == 4  # which says: cpu


def test_results_are_plain_text(params, corpus, tmp_path):
    table = run_trials([trial(corpus)], params.training, tmp_path, processes=1)
    found = json.loads((tmp_path / f"{table['key'][0]}.json").read_text())
    assert set(found) == {"top1", "seconds", "curve"}
