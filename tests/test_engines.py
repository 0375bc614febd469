"""Engines: parts and workers make what one process makes, each unit once, whatever is killed."""

import json
import random
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import pandas as pd
import psutil
import pytest
from conftest import make_study

from diffcore import engines
from diffcore.cli import main
from diffcore.data.generated import read_generated

pytestmark = pytest.mark.slow

SETTINGS = ("runs.sweep_seeds=null", "generation.shard_size=8", "filtering.max_attempts=2",
            "generation.generated_share=1.0", "filtering.quantile=0.6", "runs.replicates=1",
            "runs.methods=[vanilla,cutmix,diffusemix,added,diffcoremix,mixed_added]")  # fmt: skip
GIVEN = ["--profile=smoke", *(f"--set={setting}" for setting in SETTINGS)]


def results(folder):
    """Images by sample and settings, and which test images every run got right."""
    images, home = {}, folder / "runs" / "smoke"
    for kind in ("generation", "edits"):
        found = read_generated(home / kind)
        table = found.metadata[["sample_id", "seed", "model_hash"]].itertuples(index=False)
        images |= {tuple(row): image for row, image in zip(table, found.images, strict=True)}
    return images, {path.name: json.loads(path.read_text())["hits"]
                    for path in home.glob("training/*.json")}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What one process makes as a study does, without units that go round."""
    with pytest.MonkeyPatch.context() as patch:
        folder = make_study(tmp_path_factory.mktemp("whole"), patch)
        study = engines.open_study("smoke", SETTINGS)
        assert len(study.decisions) > len(study.plan)  # some were drawn again
        study.train_classifiers(engines.sweeps.plan_main(study))
        return results(folder)


def assert_same(found, expected):
    (images, hits), (wanted, trained) = found, expected
    assert images.keys() == wanted.keys()
    for key, image in wanted.items():
        assert np.abs(images[key].astype(int) - image).max() <= 1, key
    assert hits == trained


def assert_each_once(folder):
    for kind in ("generation", "edits"):
        shards = (folder / "runs" / "smoke" / kind).glob("*.parquet")
        rows = pd.concat(pd.read_parquet(shard).drop(columns="image") for shard in shards)
        assert not rows.drop(columns="embedding").duplicated().any()


def assert_nothing_left_to_draw(monkeypatch):
    """What `make study` does next finds every image and every decision's embedding."""
    from diffcore.filtering.encoders import Encoder
    from diffcore.generation import draw

    study = engines.open_study("smoke", SETTINGS)
    reference = study.image_filter.reference
    with monkeypatch.context() as patch:
        patch.setattr(draw, "_draw", None)
        patch.setattr(Encoder, "_see", None)
        assert len(study.decisions) > len(study.plan)
        assert len(study.restyle())
        assert len(reference)


# --------------------------------------------------------------------------------------- in parts
def test_parts_make_what_one_makes_and_each_unit_once(whole, tmp_path, monkeypatch):
    folder = make_study(tmp_path, monkeypatch)
    for task in ("draw", "train"):
        for part in (2, 3, 1):
            assert main([task, *GIVEN, f"--part={part}/3"]) == 0
        if task == "draw":
            assert_each_once(folder)
            assert_nothing_left_to_draw(monkeypatch)
    assert_same(results(folder), whole)


# --------------------------------------------------------------------------------------- failures
def test_a_unit_that_fails_is_tried_three_times_and_the_others_are_done(
    study_folder, monkeypatch, capsys
):
    from diffcore.generation import draw

    tried, whole = [], draw._draw

    def fail(pipeline, seeds, *arguments, **settings):
        tried.append(len(seeds))
        if seeds[0] == bad:
            raise MemoryError("CUDA out of memory")
        return whole(pipeline, seeds, *arguments, **settings)

    study = engines.open_study("smoke", SETTINGS)
    batch, bad = study.params.generation.batch_size, int(study.plan["seed"][8])  # of the second
    with monkeypatch.context() as patch:
        patch.setattr(draw, "_draw", fail)
        assert main(["draw", *GIVEN]) == 1
    message = capsys.readouterr().err
    assert "1 units failed 3 times" in message
    assert "MemoryError: CUDA out of memory" in message
    assert "generation.batch_size" in message
    assert tried.count(batch) >= 3 + len(study.plan) // batch - 2  # none was made smaller
    (record,) = (study.run_dir / "failures").iterdir()
    text = record.read_text()
    assert [text.count(f"== try {number}, ") for number in (1, 2, 3, 4)] == [1, 1, 1, 0]
    assert text.count("Traceback") == 3
    drawn = read_generated(study.run_dir / "generation").metadata["seed"]  # of another world too
    assert set(study.plan["seed"]) - set(drawn) == set(study.plan["seed"][8:16])
    assert main(["draw", *GIVEN]) == 0
    assert not record.exists()
    assert_nothing_left_to_draw(monkeypatch)


def test_a_try_that_takes_its_process_along_counts(tmp_path):
    record, done = tmp_path / "failures" / "draw-000001.txt", []

    def die():
        done.append(1)
        raise KeyboardInterrupt  # as a kill, it is no failure of the unit's own

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            engines.attempt(die, record)
    assert engines.attempt(die, record).startswith("draw-000001: == try 3, process")
    assert len(done) == 3


@pytest.mark.parametrize("part", ["0/2", "3/2", "2", "a/b", "-1/2"])
def test_a_part_that_is_none_is_refused(part, capsys):
    with pytest.raises(SystemExit):
        main(["draw", f"--part={part}"])
    assert "write 3/64 for the third of 64" in capsys.readouterr().err


def test_parts_are_not_for_ray(study_folder, capsys):
    assert main(["draw", *GIVEN, "--engine=ray", "--part=1/2"]) == 1
    assert "Ray deals the units out by itself" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------- on Ray
def workers_of(driver):
    """Processes that a command has Ray start, and that are at work on units."""
    with suppress(psutil.NoSuchProcess):
        started = psutil.Process(driver.pid).children(recursive=True)
        return [p for p in started if "MapWorker" in p.name() and p.status() != "zombie"]
    return []


def test_ray_makes_what_one_makes_though_its_workers_are_killed(whole, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    folder, rng, killed = make_study(tmp_path, monkeypatch), random.Random(0), 0
    for task in ("draw", "train"):
        command = [sys.executable, "-m", "diffcore", task, *GIVEN, "--engine=ray"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        driver, to_kill = subprocess.Popen(command, **quiet), 1
        deadline = time.time() + 300
        while driver.poll() is None:
            assert time.time() < deadline
            time.sleep(rng.uniform(0.2, 1))
            at_work = workers_of(driver)
            if at_work and to_kill:
                rng.choice(at_work).kill()
                to_kill, killed = 0, killed + 1
        assert driver.returncode == 0, task
    assert killed == 2
    assert_each_once(folder)
    assert_nothing_left_to_draw(monkeypatch)
    assert_same(results(folder), whole)
