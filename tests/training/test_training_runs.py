"""Runs: each is trained once, however it is asked for, and a kill loses no finished one."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from dummy_study import gaussian_classes, make_generated, make_split

from diffcore.data.pairs import PairedDataset
from diffcore.params import load_params, resolve_device, resolve_precision
from diffcore.training import runs as room
from diffcore.training.networks import load_classifier, predict
from diffcore.training.runs import Run, hits_of, in_parts, run_key, train_runs


@pytest.fixture(scope="module")
def real():
    return make_split(4, "train", gaussian_classes(np.repeat(np.arange(3), 4), 0))


@pytest.fixture(scope="module")
def pairs(real):
    return pair(real, real.images[:4] // 2)


def pair(real, pixels):
    return PairedDataset(real, make_generated(real, [0, 1, 5, 7], pixels))


SMOKE = load_params("smoke", {"training.steps": 4}).training


def a_run(pairs, method="vanilla", seed=0, training=SMOKE, **options):
    settings = {"probability": 0.5} if method == "added" else {}
    tests = {"matched": pairs.split.take(np.arange(6)), "shifted": pairs.split.take([0, 5])}
    return Run(method, settings, seed, pairs, tests, training, **options)


def test_results_are_tabled_with_their_columns(pairs, tmp_path):
    wanted = [a_run(pairs, seed=seed, columns={"point": 0.5}, keep_weights=True) for seed in (0, 1)]
    table = train_runs(wanted, tmp_path, processes=1)
    assert table["seed"].tolist() == [0, 1]
    assert (table["point"] == 0.5).all()
    assert table["key"].is_unique
    test = wanted[0].tests["matched"]
    for row in table.to_dict("records"):
        classifier = load_classifier(row["weights"], SMOKE, 3)
        hits = predict(classifier, test.images).argmax(1).numpy() == test.labels
        assert row[hits_of("matched")].tolist() == hits.tolist()
        assert row["matched"] == hits.mean()
        held = json.loads((tmp_path / f"{row['key']}.json").read_text())
        assert set(held) == {"hits", "seconds"}
        log = pd.read_csv(tmp_path / f"{row['key']}.csv")
        assert log["step"].tolist() == [1, 2, 3, 4]
        assert log["loss"].notna().all()


def test_weights_are_kept_for_whoever_asks(pairs, tmp_path):
    train_runs([a_run(pairs)], tmp_path, processes=1)
    assert not list(tmp_path.glob("*.safetensors"))
    asked = [a_run(pairs, keep_weights=True), a_run(pairs)]  # alike: trained once, with weights
    table = train_runs(asked, tmp_path, processes=1)
    assert [path.exists() for path in table["weights"]] == [True, True]
    assert table["key"].nunique() == len(list(tmp_path.glob("*.safetensors"))) == 1


def test_parts_of_a_test_set_are_looked_at_like_one():
    hits = [np.array([1, 0, 1, 1], np.int8), np.array([0, 0, 0, 1], np.int8)]
    runs = pd.DataFrame({"seed": [0, 1], "shifted": [0.75, 0.25], hits_of("shifted"): hits})
    parts = in_parts(runs, "shifted", {"first": [0, 1], "rest": np.array([0, 0, 1, 1], bool)})
    assert parts["first"].tolist() == [0.5, 0.0]
    assert parts["rest"].tolist() == [1.0, 0.5]
    assert [each.tolist() for each in parts[hits_of("rest")]] == [[1, 1], [0, 1]]
    assert parts["shifted"].tolist() == [0.75, 0.25]


def test_a_run_is_trained_once(pairs, tmp_path, monkeypatch):
    first = train_runs([a_run(pairs)] * 2, tmp_path, processes=1)
    assert len(first) == 2
    assert len(list(tmp_path.glob("*.json"))) == 1

    def refuse(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(room, "do_run", refuse)
    again = train_runs([a_run(pairs)], tmp_path, processes=1)
    assert again["matched"][0] == first["matched"][0]


def test_a_kill_loses_no_finished_run(pairs, tmp_path, monkeypatch):
    run, done = room.do_run, []

    def die_at_the_second(*arguments):
        if done:
            raise KeyboardInterrupt
        done.append(run(*arguments))

    monkeypatch.setattr(room, "do_run", die_at_the_second)
    wanted = [a_run(pairs, seed=seed) for seed in range(3)]
    with pytest.raises(KeyboardInterrupt):
        train_runs(wanted, tmp_path, processes=1)
    assert len(list(tmp_path.glob("*.json"))) == 1
    monkeypatch.setattr(room, "do_run", run)
    assert len(train_runs(wanted, tmp_path, processes=1)) == 3


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_what_is_damaged_or_missing_of_a_run_is_made_again(suffix, pairs, tmp_path, capsys):
    run = a_run(pairs, keep_weights=True)
    row = train_runs([run], tmp_path, processes=1).loc[0]
    weights, file = row.weights.read_bytes(), row.weights.with_suffix(suffix)
    for damage in (lambda: file.write_bytes(file.read_bytes()[:9]), file.unlink):
        damage()
        again = train_runs([run], tmp_path, processes=1).loc[0]
        assert (again.matched, again.weights.read_bytes()) == (row.matched, weights)
    assert capsys.readouterr().out.count(f"{row.key}{suffix} is damaged") == 1


def test_a_killed_run_goes_on_from_its_checkpoint(pairs, tmp_path, monkeypatch):
    run = a_run(pairs, training=SMOKE.model_copy(update={"checkpoint_every": 2}))
    train, lengths = room.train, []

    def die_after_three(*arguments):
        for log in train(*arguments):
            lengths.append(len(log))
            yield log
            if lengths == [1, 2, 3]:
                raise KeyboardInterrupt

    monkeypatch.setattr(room, "train", die_after_three)
    with pytest.raises(KeyboardInterrupt):
        train_runs([run], tmp_path, processes=1)
    train_runs([run], tmp_path, processes=1)
    assert lengths == [1, 2, 3, 3, 4]  # the checkpoint holds two steps


@pytest.mark.slow
def test_processes_change_nothing(pairs, tmp_path):
    wanted = [a_run(pairs, "added", seed, keep_weights=True) for seed in (0, 1)]
    alone = train_runs(wanted, tmp_path / "one", processes=1)
    beside = train_runs(wanted, tmp_path / "two", processes=2)
    for one, two in zip(alone["weights"], beside["weights"], strict=True):
        assert one.read_bytes() == two.read_bytes()


def test_a_run_that_another_process_has_finished_is_not_done_again(pairs, tmp_path, monkeypatch):
    run = a_run(pairs)
    ((path, same),) = room.unique_runs([run, replace(run, columns={"point": 1})], tmp_path).items()
    room.ensure_run(same, path)
    monkeypatch.setattr(room, "do_run", None)
    room.ensure_run(same, path)


def test_a_key_names_all_that_matters_and_nothing_else(real, pairs):
    base = run_key(a_run(pairs))
    assert run_key(a_run(pairs, columns={"point": 3}, keep_weights=True)) == base
    speed = {"loader_workers": 3, "checkpoint_every": 7, "log_with": "wandb"}
    assert run_key(a_run(pairs, training=SMOKE.model_copy(update=speed))) == base
    pixels = real.images.copy()
    pixels[0, 0, 0, 0] ^= 1
    other_pairs = pair(replace(real, images=pixels), pixels[:4] // 2)
    other_test = {"matched": real, "shifted": a_run(pairs).tests["shifted"]}
    others = [
        a_run(pairs, seed=1),
        a_run(pairs, "mixup"),
        replace(a_run(pairs), settings={"alpha": 1.0}),
        a_run(pairs, training=SMOKE.model_copy(update={"lr": 0.5})),
        replace(a_run(pairs), pairs=other_pairs),
        replace(a_run(pairs), pairs=pairs.without_generated()),
        replace(a_run(pairs), tests=other_test),
    ]
    assert len({base, *map(run_key, others)}) == len(others) + 1


def test_a_key_names_the_precision_that_is_used(pairs):
    keys = {
        name: run_key(a_run(pairs, training=SMOKE.model_copy(update={"precision": name})))
        for name in ("auto", "bfloat16", "float32")
    }
    device = resolve_device(SMOKE.device, "training.device")
    assert keys["auto"] == keys[resolve_precision("auto", device)]
    assert keys["bfloat16"] != keys["float32"]


def test_weights_to_start_from_are_known_by_their_content(pairs, tmp_path):
    keys = []
    for name, content in (("a.pt", b"1"), ("b.pt", b"1"), ("c.pt", b"2")):
        (tmp_path / name).write_bytes(content)
        start = SMOKE.model_copy(update={"weights": str(tmp_path / name)})
        keys.append(run_key(a_run(pairs, training=start)))
    assert keys[0] == keys[1] != keys[2]


def test_methods_without_generated_images_share_their_runs(real, pairs):
    other = pair(real, real.images[:4] // 3)
    keys = [run_key(a_run(each)) for each in (pairs, other)]
    bare = [run_key(a_run(each.without_generated())) for each in (pairs, other)]
    assert keys[0] != keys[1]
    assert bare[0] == bare[1]


def test_the_code_is_known_by_what_it_does(monkeypatch, tmp_path):
    source = 'def f():\n    """Say what."""\n    return 1  # why\n'
    found = []
    monkeypatch.setattr(room, "_PACKAGE", tmp_path)
    for text in (source, source.replace("what", "more"), source.replace("why", "or not"),
                 source.replace("return 1", "return 2")):  # fmt: skip
        for name in room._CODE:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
        found.append(room._code_digest.__wrapped__())
    assert found[0] == found[1] == found[2] != found[3]
