"""Choose the settings of every method with the same effort, on the training images alone.

    diffcore tune --profile demo        (or: make tune)

Every candidate is trained on all folds of the training images but one and tested on that one. Each
method has four; all share one recipe, chosen before for plain training. The winners are copied into
the profile by hand, so that a study never tunes in passing; a test holds the two together. Our
choice: of candidates whose accuracies do not differ, the first, which is the mildest.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedKFold

from diffcore.mixing.methods import GENERATIVE, METHODS, method_settings, study_methods
from diffcore.params import change_params, project_root
from diffcore.store import write_text
from diffcore.training.runs import Run, train_runs
from diffcore.training.sweeps import Study


def candidates(method: str) -> list[dict[str, float]]:
    """Four settings of a method, as changes of parameters.

    >>> candidates("added")[0]
    {'training.methods.added.probability': 0.2}
    """
    own = "mixing" if method == "diffcoremix" else f"training.methods.{method}"
    if method == "vanilla":  # the recipe that all methods share
        grid = {"training.lr": (0.005, 0.01), "training.crop_scale": (0.7, 0.4)}
    elif method in {"mixup", "cutmix", "saliencymix", "diffcoremix"}:
        grid = {f"{own}.probability": (0.5, 1.0), f"{own}.alpha": (0.2, 1.0)}
    elif method in {"added", "mixed_added"}:
        # A batch of generated images alone would not be "added" to anything.
        grid = {f"{own}.probability": (0.2, 0.4, 0.6, 0.8)}
    else:
        grid = {f"{own}.probability": (0.25, 0.5, 0.75, 1.0)}
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


def folds(study: Study, method: str) -> list[Run]:
    """Plan a run of a method on each fold: tested on it, trained on the others' pairs."""
    train, params = study.train, study.params
    generated = study.edits if method == "diffusemix" else study.accepted
    splitter = StratifiedKFold(params.runs.folds, shuffle=True, random_state=params.seed)
    runs = []
    for kept, held in splitter.split(np.zeros(len(train)), train.labels):
        part = train.take(kept)
        own = generated.metadata["source_id"].isin(part.metadata["source_id"])
        pairs = study.pair(generated.take(np.flatnonzero(own)), part)
        pairs = pairs if method in GENERATIVE else pairs.without_generated()
        runs.append(Run(method, {}, params.seed, pairs, {"validation": train.take(held)}))
    return runs


def tune(study: Study, methods: Sequence[str]) -> pd.DataFrame:
    """Train every candidate of some methods on every fold: a row a candidate.

    `accuracy` on held-out images is the mean over folds, `sem` its error; `chosen` marks the best.
    """
    rows = []
    for method in methods:
        planned = folds(study, method)
        for changes in candidates(method):
            params = change_params(study.params, changes)
            runs = [replace(run, settings=method_settings(method, params)) for run in planned]
            text = ", ".join(f"{key}={value:g}" for key, value in changes.items())
            options = study.run_dir / "tuning", params.runs.processes, f"{method} {text}"
            scores = train_runs(runs, params.training, *options)["validation"]
            rows.append((method, text, scores.mean(), scores.sem()))
    table = pd.DataFrame(rows, columns=["method", "candidate", "accuracy", "sem"])
    # Rounded, so that two means of the same hits are equal, whatever the order of their folds.
    best = table["accuracy"].round(6).groupby(table["method"], sort=False).idxmax()
    return table.assign(chosen=table.index.isin(best))


def main(arguments: list[str] | None = None) -> None:
    """Tune all methods of a profile, and write and print the table."""
    from diffcore.study import Study  # stands above this room; the command alone needs it

    parser = argparse.ArgumentParser(prog="diffcore tune", description=__doc__)
    parser.add_argument("--profile", default="demo", help="file in params/, or path of one")
    parser.add_argument("--methods", nargs="*", choices=METHODS, metavar="NAME")
    options = parser.parse_args(arguments)
    study = Study.open("tuning", options.profile)
    table = tune(study, options.methods or study_methods(study.params))
    profile = study.params.profile
    path = project_root() / "params" / "tuning" / f"{profile}.csv"
    if path.exists():  # methods that were not asked for keep what was found
        before = pd.read_csv(path)
        table = pd.concat([before[~before["method"].isin(table["method"])], table])
        table = table.sort_values("method", key=lambda m: m.map(METHODS.index), kind="stable")
    write_text(path, table.to_csv(index=False, float_format="%.4f"))
    print(table.to_string(index=False, float_format="{:.3f}".format))
    print(f"\nWritten to {path}; copy what is chosen into params/{profile}.yaml.")
