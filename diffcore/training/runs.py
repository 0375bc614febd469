"""Train many classifiers, each once: from a list of runs to a table of results.

Results and weights of a run lie under a key of all that decides them, so that a killed study goes
on where it was and comparisons share runs. On a CPU runs go side by side, one thread each, which
makes them the same on every number of cores; on a GPU one after the other.
"""

import ast
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from tqdm.auto import tqdm

from diffcore.data.pairs import PairedDataset
from diffcore.data.splits import Split
from diffcore.data.weights import find_weights
from diffcore.mixing.methods import make_method
from diffcore.params import TrainingParams, resolve_device, resolve_precision
from diffcore.processes import end_with
from diffcore.store import digest, file_digest, read_kept, write_text
from diffcore.training.networks import Classifier, build_classifier, predict, save_classifier
from diffcore.training.train import total_steps, train

_PACKAGE = Path(__file__).parents[1]
#: Files whose code decides the result of a run.
_CODE = (
    *("mixing/mix.py", "mixing/baselines.py", "mixing/diffusemix.py", "mixing/methods.py"),
    *("data/pairs.py", "data/weights.py", "training/networks.py", "training/train.py"),
)
#: Settings of a training that change its speed, but not its result.
_NEUTRAL = {"methods", "loader_workers", "checkpoint_every", "log_with"}


@dataclass(frozen=True)
class Run:
    """One classifier to train and test; `columns` are for the table of results."""

    method: str  # one of `diffcore.mixing.methods.METHODS`
    settings: Mapping[str, float]  # of the method, from `diffcore.mixing.methods.method_settings`
    seed: int  # of the weights and of all draws
    pairs: PairedDataset
    tests: Mapping[str, Split]
    columns: Mapping[str, Any] = field(default_factory=dict)
    curve_points: int = 0  # how often it is tested on the way


def run_key(run: Run, training: TrainingParams) -> str:
    """Hash all that the result of a run depends on: 24 hexadecimal digits."""
    recipe = training.model_dump(mode="json", exclude=_NEUTRAL)
    device = resolve_device(training.device, "training.device")
    recipe["device"] = device  # as it is used, as is the precision
    recipe["precision"] = resolve_precision(training.precision, device)
    if training.weights:
        recipe["weights"] = file_digest(find_weights(training.weights))  # wherever they lie
    tests = [(name, split.digest) for name, split in run.tests.items()]
    images = [run.pairs.digest, len(run.pairs.classes), tests]
    method = [run.method, dict(run.settings), run.seed, run.curve_points]
    return digest(method, recipe, images, _code_digest())


@cache
def _code_digest() -> str:
    """Hash what the code does: its syntax without comments, layout and docstrings."""
    trees = [ast.parse((_PACKAGE / name).read_text(encoding="utf-8")) for name in _CODE]
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = None
    return digest(*map(ast.dump, trees))


def train_runs(
    runs: Sequence[Run],
    training: TrainingParams,
    folder: Path,
    processes: int | None = None,
    describe: str = "runs",
) -> pd.DataFrame:
    """Train what is not in the folder yet, runs that are alike once, and tabulate everything.

    On a CPU so many processes train at a time, None for one a core. A row a run: its columns,
    method, seed, key, weights (path), top-1 accuracy on each test set by its name, and seconds.
    """
    paths = [folder / f"{run_key(run, training)}.json" for run in runs]
    found = {path: read_kept(path, _read) for path in paths}
    missing = {path: run for path, run in zip(paths, runs, strict=True) if found[path] is None}
    on_cpu = resolve_device(training.device, "training.device") == "cpu"
    with joblib.parallel_config("loky", inner_max_num_threads=1):
        job = joblib.delayed(partial(_run_on_one_thread, os.getpid()) if on_cpu else _run)
        jobs = (job(run, training, path) for path, run in missing.items())
        count = (processes or joblib.cpu_count()) if on_cpu else 1
        done = joblib.Parallel(count, return_as="generator_unordered")(jobs) if missing else ()
        for _ in tqdm(done, describe, len(runs), initial=len(runs) - len(missing), unit="run"):
            pass
    return pd.DataFrame(
        _row(run, path, found[path] or _read(path)) for run, path in zip(runs, paths, strict=True)
    )


def _read(path: Path) -> dict[str, Any]:
    """Read the result of a run; raise if that, its log or its weights are not whole."""
    found = json.loads(path.read_text(encoding="utf-8"))
    with safe_open(path.with_suffix(".safetensors"), "pt"):
        last = _read_log(path).iloc[-1]
    if any(not math.isclose(last[test], top1) for test, top1 in found["top1"].items()):
        raise ValueError("its log does not end with it")
    return found


def _read_log(path: Path) -> pd.DataFrame:
    return pd.read_csv(path.with_suffix(".csv"))


def _row(run: Run, path: Path, found: Mapping[str, Any]) -> dict[str, Any]:
    weights = path.with_suffix(".safetensors")
    names = {"method": run.method, "seed": run.seed, "key": path.stem, "weights": weights}
    return {**run.columns, **names, **found["top1"], "seconds": found["seconds"]}


def read_curves(table: pd.DataFrame) -> pd.DataFrame:
    """Read the learning curves of a table of `train_runs`, tidy: method, seed, step, test, top1."""
    curves = []
    for row in table.itertuples():
        log = _read_log(row.weights).drop(columns="loss")
        points = log.melt("step", var_name="test", value_name="top1").dropna()
        curves.append(points.assign(method=row.method, seed=row.seed).sort_values("step"))
    return pd.concat(curves, ignore_index=True)[["method", "seed", "step", "test", "top1"]]


def _run_on_one_thread(starter: int, *arguments: Any) -> None:
    """Run on one thread, also where a run has a process to itself: sums then add up alike."""
    end_with(starter)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _run(*arguments)
    finally:
        torch.set_num_threads(threads)


def _run(run: Run, training: TrainingParams, path: Path) -> None:
    """Train and test; the results are written last, as they say that all is there.

    The log beside them has the loss of each step and, where it was tested, the accuracies.
    """
    started, num_classes = time.perf_counter(), len(run.pairs.classes)
    classifier = build_classifier(training, num_classes, run.seed)
    method = make_method(run.method, run.settings, num_classes)
    steps = total_steps(training, len(run.pairs))
    stops = {*np.linspace(0, steps, run.curve_points + 1).round()[1:], steps}
    folder = path.with_suffix("")
    try:
        for log in train(classifier, run.pairs, method, training, run.seed, folder):
            if len(log) in stops:
                log[-1] |= (found := _test(classifier, run.tests))
    except FloatingPointError as error:
        raise FloatingPointError(f"{run.method}, seed {run.seed}: {error}") from None
    seconds = time.perf_counter() - started
    table = pd.DataFrame(log, pd.RangeIndex(1, steps + 1, name="step"))
    save_classifier(classifier, path.with_suffix(".safetensors"))
    write_text(path.with_suffix(".csv"), table.to_csv())
    write_text(path, json.dumps({"top1": found, "seconds": seconds}))


def _test(classifier: Classifier, tests: Mapping[str, Split]) -> dict[str, float]:
    """Top-1 accuracy on each set."""
    return {
        name: float((predict(classifier, split.images).argmax(1).numpy() == split.labels).mean())
        for name, split in tests.items()
    }
