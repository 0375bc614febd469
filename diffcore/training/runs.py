"""Train many classifiers, each once: from a list of runs to a table of results.

Results and weights of a run lie under a key of all that decides them, so that a killed study goes
on where it was, and comparisons share runs. Runs go side by side, as of `diffcore.processes`.
"""

import ast
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from operator import attrgetter
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from safetensors import safe_open
from tqdm.auto import tqdm

from diffcore.data.pairs import PairedDataset
from diffcore.data.splits import Split
from diffcore.data.weights import find_weights
from diffcore.params import TrainingParams, resolve_device, resolve_precision
from diffcore.processes import side_by_side
from diffcore.store import digest, file_digest, read_kept, write_text
from diffcore.training.networks import Classifier, build_classifier, predict, save_classifier
from diffcore.training.train import Augment, train

_PACKAGE = Path(__file__).parents[1]
#: Files whose code decides the result of a run.
_CODE = (
    *("mixing/mix.py", "methods/base.py", "methods/baselines.py", "methods/diffusemix.py"),
    *("methods/generated.py", "methods/pixel_share.py", "data/pairs.py", "data/weights.py"),
    *("training/networks.py", "training/train.py"),
)
#: Settings of a training that do not change its result, or are those of other methods.
_NEUTRAL = {"methods", "loader_workers"}


class Method(Protocol):
    """What a run needs of a method: a dataclass of its settings, as in `diffcore.methods`."""

    name: str

    def step(self, num_classes: int) -> Augment:
        """Return the function that augments a batch."""


@dataclass(frozen=True)
class Run:
    """One classifier to train and test; `columns` are for the table of results."""

    method: Method
    seed: int  # of the weights and of all draws
    pairs: PairedDataset
    tests: Mapping[str, Split]
    training: TrainingParams
    columns: Mapping[str, Any] = field(default_factory=dict)
    keep_weights: bool = False  # for measures that need the classifier


def run_key(run: Run) -> str:
    """Hash all that the result of a run depends on: 24 hexadecimal digits."""
    training = run.training
    recipe = training.model_dump(mode="json", exclude=_NEUTRAL)
    device = recipe["device"] = _device_of(run)  # as it is used, as is the precision
    recipe["precision"] = resolve_precision(training.precision, device)
    if training.weights:
        recipe["weights"] = file_digest(find_weights(training.weights))  # wherever they lie
    tests = [(name, split.digest) for name, split in run.tests.items()]
    images = [run.pairs.digest, len(run.pairs.classes), tests]
    method = [run.method.name, asdict(run.method), run.seed]
    return digest(method, recipe, images, _code_digest())


def _device_of(run: Run) -> str:
    return resolve_device(run.training.device, "training.device")


@cache
def _code_digest() -> str:
    """Hash what the code does: without comments, layout and docstrings."""
    trees = [ast.parse((_PACKAGE / name).read_text(encoding="utf-8")) for name in _CODE]
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = None
    return digest(*map(ast.unparse, trees))  # a dump differs between versions of Python


def train_runs(runs: Sequence[Run], folder: Path, describe: str = "runs") -> pd.DataFrame:
    """Train what is not in the folder yet, runs that are alike once, and tabulate everything.

    One row per run: its columns, method, seed, key, weights (path), seconds and, under each test's
    name, top-1 accuracy and `hits`: which images were classified right, (N,) 0 or 1.
    """
    wanted = unique_runs(runs, folder)
    jobs = [partial(do_run, run, path) for path, run in wanted.items() if not is_done(run, path)]
    done = side_by_side(jobs, _device_of(runs[0])) if jobs else ()
    for _ in tqdm(done, describe, len(runs), initial=len(runs) - len(jobs), unit="run"):
        pass
    results = {path: _read(path) for path in wanted}
    paths = [_result_of(run, folder) for run in runs]
    return pd.DataFrame(
        _row(run, path, results[path]) for run, path in zip(runs, paths, strict=True)
    )


def unique_runs(runs: Sequence[Run], folder: Path) -> dict[Path, Run]:
    """Name the file of each result: path -> run; of runs that are alike one, with its weights."""
    in_order = sorted(runs, key=attrgetter("keep_weights"))  # the last is taken
    return {_result_of(run, folder): run for run in in_order}


def _result_of(run: Run, folder: Path) -> Path:
    return folder / f"{run_key(run)}.json"


def is_done(run: Run, path: Path) -> bool:
    """Whether the result of a run is there and whole, and its weights if they are to be kept."""
    if read_kept(path, _read) is None:
        return False
    weights = path.with_suffix(".safetensors")
    return (
        not run.keep_weights or read_kept(weights, partial(safe_open, framework="pt")) is not None
    )


def _read(path: Path) -> dict[str, Any]:
    """Read the result of a run; raise if it is not whole."""
    result = json.loads(path.read_text(encoding="utf-8"))
    for test, marks in result["hits"].items():
        result["hits"][test] = (np.array(list(marks)) == "1").astype(np.int8)
    return {"hits": result["hits"], "seconds": result["seconds"]}


def _row(run: Run, path: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    names = {"method": run.method.name, "seed": run.seed, "key": path.stem}
    names["weights"] = path.with_suffix(".safetensors")
    top1 = {test: hits.mean() for test, hits in result["hits"].items()}
    hits = {hits_of(test): hits for test, hits in result["hits"].items()}
    return {**run.columns, **names, **top1, **hits, "seconds": result["seconds"]}


def hits_of(test: str) -> str:
    """Name the column that says which images of a test set were classified right."""
    return f"{test} hits"


def in_parts(runs: pd.DataFrame, test: str, parts: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Add parts of a test set, name -> places or mask, as test sets of their own."""
    hits, columns = runs[hits_of(test)], {}
    for name, places in parts.items():
        columns[hits_of(name)] = [whole[places] for whole in hits]
        columns[name] = [whole[places].mean() for whole in hits]
    return runs.assign(**columns)


def do_run(run: Run, path: Path) -> None:
    """Train and test; the results are written last, beside the loss of each step."""
    started, num_classes = time.perf_counter(), len(run.pairs.classes)
    classifier = build_classifier(run.training, num_classes, run.seed)
    method = run.method.step(num_classes)
    steps = train(classifier, run.pairs, method, run.training, run.seed, path.with_suffix(""))
    try:
        *_, log = steps
    except FloatingPointError as error:
        raise FloatingPointError(f"{run.method.name}, seed {run.seed}: {error}") from None
    hits = {name: _test(classifier, split) for name, split in run.tests.items()}
    seconds = time.perf_counter() - started
    counted = pd.RangeIndex(1, len(log) + 1, name="step")
    if run.keep_weights:
        save_classifier(classifier, path.with_suffix(".safetensors"))
    write_text(path.with_suffix(".csv"), pd.DataFrame(log, counted).to_csv())
    write_text(path, json.dumps({"hits": hits, "seconds": seconds}))


def _test(classifier: Classifier, split: Split) -> str:
    """Mark each image of a test set: 1 where it is classified right, 0 where not."""
    right = predict(classifier, split.images).argmax(1).numpy() == split.labels
    return "".join(right.astype(int).astype(str))
