"""Runs: each is trained once, in however many processes, and a kill loses no finished one."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from dummy_study import gaussian_classes, make_generated, make_split

from diffcore.data.pairs import PairedDataset
from diffcore.methods import METHODS
from diffcore.params import load_params, resolve_device, resolve_precision
from diffcore.training import runs as module
from diffcore.training.networks import load_classifier, predict
from diffcore.training.runs import Run, hits_of, in_parts, run_key, train_runs

SMOKE = load_params("smoke", {"training.steps": 4}).training
REAL = make_split(4, "train", gaussian_classes(np.repeat(np.arange(3), 4), 0))


def pair(pixels, real=REAL):
    return PairedDataset(real, make_generated(real, [0, 1, 5, 7], pixels))


PAIRS = pair(REAL.images[:4] // 2)
TESTS = {"matched": REAL.take(np.arange(6)), "shifted": REAL.take([0, 5])}


def a_run(name="vanilla", seed=0, pairs=PAIRS, **training):
    training = SMOKE.model_copy(update=training)
    return Run(METHODS[name](), seed, pairs, TESTS, training)


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")


def test_results_are_tabled_with_their_columns(tmp_path):
    wanted = [replace(a_run(), seed=s, columns={"point": 0.5}, keep_weights=True) for s in (0, 1)]
    table = train_runs(wanted, tmp_path)
    rows = table[["method", "seed", "point"]].to_numpy().tolist()
    assert rows == [["vanilla", 0, 0.5], ["vanilla", 1, 0.5]]
    for row in table.to_dict("records"):
        classifier = load_classifier(row["weights"], SMOKE, 3)
        predicted = predict(classifier, TESTS["matched"].images).argmax(1).numpy()
        hits = predicted == TESTS["matched"].labels
        assert row[hits_of("matched")].tolist() == hits.tolist()
        assert row["matched"] == hits.mean()
        assert set(json.loads((tmp_path / f"{row['key']}.json").read_text())) == {"hits", "seconds"}
        log = pd.read_csv(tmp_path / f"{row['key']}.csv")
        assert log["step"].tolist() == [1, 2, 3, 4]
        assert log["loss"].notna().all()


def test_a_run_is_trained_once_and_again_only_for_its_weights(tmp_path, monkeypatch):
    first = train_runs([a_run()] * 2, tmp_path)
    assert (len(first), len(list(tmp_path.glob("*.json")))) == (2, 1)
    assert not list(tmp_path.glob("*.safetensors"))
    table = train_runs([replace(a_run(), keep_weights=True), a_run()], tmp_path)
    assert [path.exists() for path in table["weights"]] == [True, True]
    monkeypatch.setattr(module, "build_classifier", None)  # nothing is trained any more
    assert train_runs([a_run()], tmp_path)["matched"][0] == first["matched"][0]
    assert module.is_done(a_run(), tmp_path / f"{first['key'][0]}.json")  # nor by another process


def test_parts_of_a_test_set_are_tabled_like_one():
    hits = [np.array([1, 0, 1, 1], np.int8), np.array([0, 0, 0, 1], np.int8)]
    runs = pd.DataFrame({"seed": [0, 1], "shifted": [0.75, 0.25], hits_of("shifted"): hits})
    parts = in_parts(runs, "shifted", {"first": [0, 1], "rest": np.array([0, 0, 1, 1], bool)})
    assert parts[["first", "rest"]].to_numpy().tolist() == [[0.5, 1.0], [0.0, 0.5]]
    assert [each.tolist() for each in parts[hits_of("rest")]] == [[1, 1], [0, 1]]
    assert parts["shifted"].tolist() == [0.75, 0.25]


def test_a_kill_loses_no_finished_run_and_no_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr("diffcore.training.train._CHECKPOINT_EVERY", 2)
    train, lengths = module.train, []

    def die_in_the_second_run(*arguments):
        for log in train(*arguments):
            lengths.append(len(log))
            yield log
            if len(lengths) == 7:
                raise KeyboardInterrupt

    monkeypatch.setattr(module, "train", die_in_the_second_run)
    wanted = [a_run(seed=seed) for seed in range(2)]
    with pytest.raises(KeyboardInterrupt):
        train_runs(wanted, tmp_path)
    assert len(list(tmp_path.glob("*.json"))) == 1
    assert len(train_runs(wanted, tmp_path)) == 2
    assert lengths == [1, 2, 3, 4, 1, 2, 3, 3, 4]  # the checkpoint holds two steps


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_what_is_damaged_or_missing_of_a_run_is_made_again(suffix, tmp_path, capsys):
    run = replace(a_run(), keep_weights=True)
    row = train_runs([run], tmp_path).loc[0]
    weights, file = row.weights.read_bytes(), row.weights.with_suffix(suffix)
    for damage in (lambda: file.write_bytes(file.read_bytes()[:9]), file.unlink):
        damage()
        again = train_runs([run], tmp_path).loc[0]
        assert (again.matched, again.weights.read_bytes()) == (row.matched, weights)
    assert capsys.readouterr().out.count(f"{row.key}{suffix} is damaged") == 1


@pytest.mark.slow
def test_processes_change_nothing(tmp_path, monkeypatch):
    wanted = [replace(a_run("added", seed), keep_weights=True) for seed in (0, 1)]
    alone = train_runs(wanted, tmp_path / "one")
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "2")
    beside = train_runs(wanted, tmp_path / "two")
    for one, two in zip(alone["weights"], beside["weights"], strict=True):
        assert one.read_bytes() == two.read_bytes()


# ----------------------------------------------------------------------------------------- the keys
def test_a_key_names_all_that_matters_and_nothing_else(tmp_path):
    base = a_run()
    same = [
        replace(base, columns={"point": 3}, keep_weights=True),
        a_run(loader_workers=3, methods={"added": {"probability": 0.1}}),
        a_run(device=resolve_device(SMOKE.device, "training.device")),
    ]
    pixels = REAL.images.copy()
    pixels[0, 0, 0, 0] ^= 1
    starts = []
    for name, content in (("a.pt", b"1"), ("b.pt", b"1"), ("c.pt", b"2")):
        (tmp_path / name).write_bytes(content)
        starts.append(a_run(weights=str(tmp_path / name)))
    others = [
        a_run(seed=1),
        a_run("mixup"),
        replace(base, method=METHODS["mixup"](alpha=0.5)),
        a_run(lr=0.5),
        a_run(pairs=pair(pixels[:4] // 2, replace(REAL, images=pixels))),
        a_run(pairs=PAIRS.without_generated()),
        replace(base, tests=TESTS | {"matched": REAL}),
        *starts[1:],
    ]
    assert {run_key(run) for run in same} == {run_key(base)}
    assert run_key(starts[0]) == run_key(starts[1])  # weights are known by their content
    assert len({run_key(run) for run in (base, *others)}) == len(others) + 1
    bare = a_run(pairs=pair(REAL.images[:4] // 3).without_generated())
    assert run_key(bare) == run_key(others[5])  # shared by all sets of generated images


def test_a_key_names_the_precision_that_is_used():
    keys = {name: run_key(a_run(precision=name)) for name in ("auto", "bfloat16", "float32")}
    device = resolve_device(SMOKE.device, "training.device")
    assert keys["auto"] == keys[resolve_precision("auto", device)]
    assert keys["bfloat16"] != keys["float32"]


def test_the_code_is_known_by_what_it_does(monkeypatch, tmp_path):
    source, digests = 'def f():\n    """Say what."""\n    return 1  # why\n', []
    monkeypatch.setattr(module, "_PACKAGE", tmp_path)
    for old, new in (("", ""), ("what", "more"), ("why", "or not"), ("return 1", "return 2")):
        for name in module._CODE:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(source.replace(old, new))
        digests.append(module._code_digest.__wrapped__())
    assert digests[0] == digests[1] == digests[2] != digests[3]
