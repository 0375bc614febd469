"""Run many trainings, each once: from a list of what to train to a table of what came of it.

A trial's results and weights lie under a key that follows from all that they depend on: method and
its settings, recipe, seed, images, and the code that trains. So a killed study goes on where it
was, two comparisons that share a trial train it once, and figures are drawn again without training.
On a CPU the trials run side by side, one thread each, which makes them the same on every number of
cores; on a GPU one after the other.
"""

import ast
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from diffcore.data import Images
from diffcore.methods import make_method
from diffcore.params import TrainingParams
from diffcore.training import (
    Classifier,
    TrainingData,
    build_classifier,
    device_of,
    predict,
    save_classifier,
    total_steps,
    train,
)
from diffcore.weights import weights_digest

_HASHED_TOGETHER = 1024
#: Modules whose code decides what a training does.
_CODE = (
    *("augmentation", "backbones", "baselines", "diffusemix", "methods", "mixing", "saliencymix"),
    *("training", "weights"),
)
#: Settings of a training that change its speed, but not its result.
_NEUTRAL = {"methods", "loader_workers", "checkpoint_every"}


@dataclass(frozen=True)
class Corpus:
    """What a classifier is trained on, and the sets of images that it is then tested on.

    Attributes:
        data: pairs to train on.
        tests: name -> images.
        num_classes: number of classes.
    """

    data: TrainingData
    tests: Mapping[str, Images]
    num_classes: int

    @cached_property
    def digest(self) -> str:
        """Hash of all images and labels."""
        arrays = [self.data.real, self.data.labels, self.data.generated, self.data.source]
        for images in self.tests.values():
            arrays += [images.pixels, images.labels]
        parts = (part for array in arrays for part in _bytes(array))
        return _hash(*parts, *(name.encode() for name in self.tests))

    def without_generated(self) -> "Corpus":
        """Return the same without generated images, for methods that see none."""
        data = self.data
        bare = TrainingData(data.real, data.labels, data.generated[:0], data.source[:0])
        return replace(self, data=bare)


@dataclass(frozen=True)
class Trial:
    """One training.

    Attributes:
        method: one of `diffcore.methods.METHODS`.
        settings: of the method.
        seed: of the weights and of all draws.
        corpus: the images.
        facts: what the table of results says of this trial, besides method and seed.
        curve_points: how often it is tested on the way.
    """

    method: str
    settings: Mapping[str, float]
    seed: int
    corpus: Corpus
    facts: Mapping[str, Any] = field(default_factory=dict)
    curve_points: int = 0


def trial_key(trial: Trial, training: TrainingParams) -> str:
    """Name all that the result of a trial depends on."""
    recipe = training.model_dump(mode="json", exclude=_NEUTRAL)
    if training.weights:
        recipe["weights"] = weights_digest(training.weights)  # their content, wherever they lie
    settings = {"method": trial.method, **trial.settings, "curve_points": trial.curve_points}
    text = json.dumps([settings, trial.seed, recipe], sort_keys=True)
    return _hash(text.encode(), trial.corpus.digest.encode(), _code().encode())[:24]


def run_trials(
    trials: Sequence[Trial],
    training: TrainingParams,
    folder: Path,
    processes: int | None = None,
    describe: str = "trainings",
) -> pd.DataFrame:
    """Train what has not been trained before, and tabulate everything.

    Args:
        trials: what to train; those that are alike are trained once.
        training: recipe.
        folder: of results and weights.
        processes: trainings at a time on a CPU; None for one a core.
        describe: name of the progress bar.

    Returns:
        One row a trial: its facts, method, seed, key, weights (path of the file), one column of
        top-1 accuracy for each test set, and seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    keys = [trial_key(trial, training) for trial in trials]
    missing = {
        key: trial
        for key, trial in zip(keys, trials, strict=True)
        if not _results(folder, key).exists()
    }
    single = device_of(training) == "cpu"
    jobs = (
        joblib.delayed(_run_alone if single else _run)(key, trial, training, folder)
        for key, trial in missing.items()
    )
    with joblib.parallel_config("loky", inner_max_num_threads=1):
        parallel = joblib.Parallel(
            side_by_side(training, processes), return_as="generator_unordered"
        )
        done = parallel(jobs) if missing else ()
        bar = tqdm(done, describe, len(keys), initial=len(keys) - len(missing), unit="training")
        for _ in bar:
            pass
    return pd.DataFrame(_row(trial, key, folder) for trial, key in zip(trials, keys, strict=True))


def side_by_side(training: TrainingParams, wanted: int | None) -> int:
    """How many classifiers are at work at a time: on a CPU as many as wanted, on a GPU one."""
    return (wanted or joblib.cpu_count()) if device_of(training) == "cpu" else 1


def read_curves(table: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Read the learning curves of trials that were tested on the way.

    Args:
        table: rows of `run_trials`.
        folder: of the results.

    Returns:
        Tidy table: method, seed, step, test, top1; after the last step, the final accuracy.
    """
    rows = []
    for row in table.itertuples():
        curve = json.loads(_results(folder, row.key).read_text())["curve"]
        rows += [{"method": row.method, "seed": row.seed, **point} for point in curve]
    return pd.DataFrame(rows, columns=["method", "seed", "step", "test", "top1"])


# ----------------------------------------------------------------------------------- one training
def _run_alone(*arguments: Any) -> None:
    """Run a trial on one thread, also where it has a process to itself: sums then add up alike."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _run(*arguments)
    finally:
        torch.set_num_threads(threads)


def _run(key: str, trial: Trial, training: TrainingParams, folder: Path) -> None:
    """Train and test; weights come first, as the results say that all is there."""
    started = time.perf_counter()
    classifier = build_classifier(training, trial.corpus.num_classes, trial.seed)
    curve = _train_and_watch(classifier, trial, training, folder / key)
    seconds = time.perf_counter() - started
    top1 = _test(classifier, trial.corpus.tests)
    save_classifier(classifier, _weights(folder, key))
    results = {"top1": top1, "seconds": seconds, "curve": curve}
    aside = _results(folder, key).with_suffix(".part")
    aside.write_text(json.dumps(results))
    aside.replace(_results(folder, key))


def _train_and_watch(
    classifier: Classifier, trial: Trial, training: TrainingParams, checkpoints: Path
) -> list[dict]:
    """Train a classifier; return its learning curve."""
    corpus, steps = trial.corpus, total_steps(training, len(trial.corpus.data))
    method = make_method(trial.method, trial.settings, corpus.num_classes)
    stops = set(np.linspace(0, steps, trial.curve_points + 1).round().astype(int)[1:].tolist())
    curve = []
    for step, _ in train(classifier, corpus.data, method, training, trial.seed, checkpoints):
        if step in stops:
            found = _test(classifier, corpus.tests)
            curve += [{"step": step, "test": name, "top1": value} for name, value in found.items()]
    return curve


def _test(classifier: Classifier, tests: Mapping[str, Images]) -> dict[str, float]:
    """Top-1 accuracy on each set."""
    return {
        name: float((predict(classifier, images.pixels).argmax(1).numpy() == images.labels).mean())
        for name, images in tests.items()
    }


# ------------------------------------------------------------------------------------------ helpers
def _row(trial: Trial, key: str, folder: Path) -> dict[str, Any]:
    found = json.loads(_results(folder, key).read_text())
    return {
        **trial.facts, "method": trial.method, "seed": trial.seed, "key": key,
        "weights": _weights(folder, key), **found["top1"], "seconds": found["seconds"],
    }  # fmt: skip


def _results(folder: Path, key: str) -> Path:
    return folder / f"{key}.json"


def _weights(folder: Path, key: str) -> Path:
    return folder / f"{key}.safetensors"


def _bytes(array: np.ndarray) -> Iterator[bytes]:
    """Yield shape and content of an array, a part at a time: it may be larger than the memory."""
    yield str(array.shape).encode()
    for start in range(0, len(array), _HASHED_TOGETHER):
        yield array[start : start + _HASHED_TOGETHER].tobytes()


@cache
def _code() -> str:
    """Hash what the code does: its syntax without comments, layout and docstrings."""
    trees = []
    for name in _CODE:
        tree = ast.parse(Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                node.body = [part for part in node.body if not _is_text(part)]
        trees.append(ast.dump(tree).encode())
    return _hash(*trees)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _hash(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()
