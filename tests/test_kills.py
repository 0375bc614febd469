"""Kills at random moments, and two at once: the same images, decisions and results in the end."""

import json
import multiprocessing
import random
import signal
import subprocess
import sys
import time

import nbformat
import numpy as np
import pandas as pd
import psutil
import pytest
from conftest import make_study
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from diffcore.data.generated import read_generated

pytestmark = pytest.mark.slow

SETTINGS = {
    "generation.generated_share": 2.0, "filtering.max_attempts": 2, "training.steps": 40,
}  # fmt: skip
STAGES = ("generated", "edits", "decisions", "training")  # drawing, editing, embedding, training
KILLS = 4  # of each, at most; on a machine that has become faster a stage ends before


def work(folder, stage):
    """Open the study and do one stage of it; leave a file when that begins."""
    import contextlib
    import os

    import torch

    from diffcore.study import Study
    from diffcore.sweeps import plan_methods
    from diffcore.training import train

    os.chdir(folder)
    os.environ["LOKY_MAX_CPU_COUNT"] = "1"
    train._CHECKPOINT_EVERY = 4  # steps
    torch.set_num_threads(1)
    log = (folder / "log").open("w")
    with log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        study = Study.open("04_training", "smoke", SETTINGS)
        (folder / f"begun-{os.getpid()}").touch()
        if stage == "training":
            methods = ["vanilla", "diffusemix", "diffcoremix"]
            study.train_classifiers(plan_methods(study, methods, seeds=2))
        elif stage == "edits":
            study.restyle()
        else:
            getattr(study, stage)


@pytest.fixture(scope="module")
def start():
    """Start a stage in a process that has imported everything before, and run nothing of it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["diffcore.study", "paperbirds.dataset"])

    def begin(folder, stage):
        process = context.Process(target=work, args=(folder, stage))
        process.start()
        while not (folder / f"begun-{process.pid}").exists() and process.exitcode is None:
            time.sleep(0.01)
        return process

    return begin


def finish(start, folder, stage):
    """Do a stage to its end; return its seconds."""
    process, begun = start(folder, stage), time.perf_counter()
    process.join()
    assert process.exitcode == 0, (folder / "log").read_text()
    return time.perf_counter() - begun


@pytest.fixture(scope="module")
def undisturbed(start, tmp_path_factory):
    """What an undisturbed run leaves, and the seconds of its stages."""
    with pytest.MonkeyPatch.context() as patch:
        folder = make_study(tmp_path_factory.mktemp("whole"), patch)
    seconds = {stage: finish(start, folder, stage) for stage in STAGES}
    return results(folder), seconds


def results(folder):
    """All that a run keeps: images by sample, decisions, accuracies and weights by key."""
    home = folder / "runs" / "smoke"
    images = {}
    for kind in ("generation", "edits"):
        found = read_generated(home / kind)
        table = found.metadata[["sample_id", "prompt", "model_hash"]].itertuples(index=False)
        images |= {tuple(row): image for row, image in zip(table, found.images, strict=True)}
    decisions = {path.name: pd.read_parquet(path) for path in home.glob("decisions/[!.]*")}
    trained = {}
    for path in home.glob("training/*.json"):
        weights = path.with_suffix(".safetensors").read_bytes()
        trained[path.stem] = (json.loads(path.read_text())["hits"], weights)
    return images, decisions, trained


def assert_equal(found, expected):
    for one, other in zip(found[:2], expected[:2], strict=True):
        assert one.keys() == other.keys()
    assert all(np.array_equal(found[0][key], image) for key, image in expected[0].items())
    for name, table in expected[1].items():
        pd.testing.assert_frame_equal(found[1][name], table)
    assert found[2] == expected[2]
    assert len(expected[2]) == 6


def test_kills_change_nothing(start, undisturbed, tmp_path, monkeypatch):
    folder, rng, hit = make_study(tmp_path, monkeypatch), random.Random(0), []
    expected, seconds = undisturbed
    for stage in STAGES:
        for _ in range(KILLS):  # in the time of one run all together, so that each finds work
            process = start(folder, stage)
            process.join(rng.uniform(0, 0.25 * seconds[stage]))
            hit.append(process.exitcode is None)
            process.kill()
            process.join()
        finish(start, folder, stage)
    assert sum(hit) >= 12, hit
    assert_equal(results(folder), expected)


def test_two_at_once_make_what_one_makes(start, undisturbed, tmp_path, monkeypatch):
    folder = make_study(tmp_path, monkeypatch)
    for stage in STAGES:
        both = [start(folder, stage) for _ in range(2)]
        for process in both:
            process.join()
        assert [process.exitcode for process in both] == [0, 0], (folder / "log").read_text()
    assert_equal(results(folder), undisturbed[0])


@pytest.mark.skipif(sys.platform == "win32", reason="processes end otherwise there")
def test_nothing_is_at_work_ten_seconds_after_the_command_was_killed(study_folder):
    train = """from diffcore.data.pairs import PairedDataset
from diffcore.methods import method_of
from diffcore.study import Study
from diffcore.training.runs import Run
study = Study.open("01_toy", "smoke", {"training.steps": 10**6})
pairs, vanilla = PairedDataset(study.train), method_of("vanilla", study.params)
study.train_classifiers([
    Run(vanilla, seed, pairs, study.tests, study.params.training) for seed in (0, 1)
])"""
    cells = [new_markdown_cell("# A toy"), new_code_cell(train)]
    nbformat.write(new_notebook(cells=cells), study_folder / "notebooks" / "01_toy.ipynb")
    command = [sys.executable, "-m", "diffcore", "study", "--profile=smoke", "--notebook=01_toy"]
    command.append("--set=notebooks={}")  # those of others
    process = psutil.Process(subprocess.Popen(command, stderr=subprocess.DEVNULL).pid)
    deadline = time.time() + 300
    while not list(study_folder.glob("runs/smoke/training/*/checkpoint.pt")):
        assert time.time() < deadline
        time.sleep(0.2)
    started = process.children(recursive=True)
    assert len(started) >= 3  # the kernel and its workers
    process.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs([process, *started], timeout=10)
    assert not alive
