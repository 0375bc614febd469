"""Choose the settings of every method with the same effort, on the training images alone.

    diffcore tune --profile demo        (or: make tune)

Every candidate is trained on all folds of the training images but one and tested on that one, from
several seeds. First the recipe that all methods share, by plain training; then six candidates of
each method, of those with generated images at every dose. A table says what was best, and whether
it lies at the edge of its grid, beyond which none was tried. The winners are copied into the
profile by hand, so that a study never tunes in passing; a test holds the two together.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedKFold

from diffcore.methods.registry import GENERATIVE, METHODS, method_settings, study_methods
from diffcore.params import DoseParams, StudyParams, change_params, project_root
from diffcore.store import write_text
from diffcore.sweeps import Study, dosed_pairs, doses, own_dose
from diffcore.training.runs import Run, train_runs


def grid(method: str) -> dict[str, tuple[float, ...]]:
    """Settings of a method that are tried, as parameters by dotted keys.

    >>> grid("added")["training.methods.added.probability"]
    (0.1, 0.2, 0.4, 0.6, 0.8, 0.9)
    """
    own = "mixing" if method == "diffcoremix" else f"training.methods.{method}"
    if method == "vanilla":  # the recipe that all methods share
        return {
            "training.lr": (0.005, 0.01, 0.02, 0.04),
            "training.crop_scale": (0.15, 0.25, 0.4, 0.7),
        }
    if method in {"mixup", "cutmix", "saliencymix", "diffcoremix"}:
        return {f"{own}.probability": (0.5, 1.0), f"{own}.alpha": (0.2, 1.0, 4.0)}
    if method == "diffusemix":
        return {f"{own}.probability": (0.25, 0.75), "mixing.edit_strength": (0.4, 0.6, 0.8)}
    if method in {"added", "mixed_added"}:
        return {f"{own}.probability": (0.1, 0.2, 0.4, 0.6, 0.8, 0.9)}
    return {f"{own}.probability": (0.1, 0.25, 0.4, 0.6, 0.8, 1.0)}


def candidates(method: str) -> list[dict[str, float]]:
    """All combinations of a method's grid, as changes of parameters."""
    tried = grid(method)
    return [dict(zip(tried, values, strict=True)) for values in product(*tried.values())]


def at_edge(method: str, changes: Mapping[str, float]) -> bool:
    """Whether a setting is the first or last that was tried; 1 is no edge of a probability."""
    return any(
        value == tried[0] or (value == tried[-1] and value != 1.0)
        for (key, tried), value in zip(grid(method).items(), changes.values(), strict=True)
    )


def folds(study: Study, method: str, dose: DoseParams) -> list[Run]:
    """Plan a run of a method on each fold: tested on it, trained on the others' pairs."""
    train, params = study.train, change_params(study.params, dose.changes)
    pairs = dosed_pairs(study, dose, method)
    splitter = StratifiedKFold(params.runs.folds, shuffle=True, random_state=params.seed)
    runs = []
    for kept, held in splitter.split(np.zeros(len(train)), train.labels):
        part = pairs.take_real(kept)
        part = part if method in GENERATIVE else part.without_generated()
        tests = {"validation": train.take(held)}
        runs.append(
            Run(method, method_settings(method, params), params.seed, part, tests, params.training)
        )
    return runs


def tune(study: Study, methods: Sequence[str]) -> pd.DataFrame:
    """Train every candidate of some methods on every fold: a row a candidate.

    `accuracy` on held-out images is the mean over folds and seeds, `sem` its error over these;
    `chosen` marks the best. The recipe comes first, and mixing before "mixed_added", which has it.
    """
    own, tables = own_dose(study).share, []
    chosen = {dose.share: {} for dose in doses(study)}  # at each dose
    for stage in (["vanilla"], [m for m in METHODS if m != "mixed_added"][1:], ["mixed_added"]):
        asked = [
            (method, DoseParams(share=share, changes=chosen[share]))
            for method in stage if method in methods
            for share in (chosen if method in GENERATIVE else [own])
        ]  # fmt: skip
        found = _tune_all(study, asked) if asked else []
        for (method, dose), table in zip(asked, found, strict=True):
            for share in chosen if method == "vanilla" else [dose.share]:
                if method in ("vanilla", "diffcoremix"):
                    chosen[share] |= candidates(method)[int(table["chosen"].to_numpy().argmax())]
        tables += found
    return pd.concat(tables, ignore_index=True)


def _tune_all(study: Study, asked: Sequence[tuple[str, DoseParams]]) -> list[pd.DataFrame]:
    """Train all candidates of methods, each at a dose, side by side: a table each."""
    planned = [
        replace(run, seed=run.seed + seed)
        for method, dose in asked
        for changes in candidates(method)
        for run in folds(
            study, method, DoseParams(share=dose.share, changes=dose.changes | changes)
        )
        for seed in range(study.params.runs.tuning_seeds)
    ]
    folder, processes = study.run_dir / "tuning", study.params.runs.processes
    scores = train_runs(planned, folder, processes, "candidates")["validation"].to_numpy()
    tables = []
    for method, dose in asked:
        count = len(candidates(method)) * study.params.runs.folds * study.params.runs.tuning_seeds
        tables.append(_judge(method, dose, scores[:count]))
        scores = scores[count:]
    return tables


def _judge(method: str, dose: DoseParams, scores: np.ndarray) -> pd.DataFrame:
    """Tabulate the candidates of a method by their scores, those of one candidate side by side."""
    tried = candidates(method)
    scores = scores.reshape(len(tried), -1)
    table = pd.DataFrame({
        "method": method,
        "dose": dose.share if method in GENERATIVE else np.nan,
        "candidate": [_spell(changes) for changes in tried],
        "accuracy": scores.mean(axis=1),
        "sem": scores.std(axis=1, ddof=1) / np.sqrt(scores.shape[1]),
        "edge": [at_edge(method, changes) for changes in tried],
    })  # fmt: skip
    # Rounded, so that two means of the same hits are equal, whatever the order of their folds.
    return table.assign(chosen=table.index == table["accuracy"].round(6).idxmax())


def _spell(changes: Mapping[str, float]) -> str:
    return ", ".join(f"{key}={value:g}" for key, value in changes.items())


def read_chosen(params: StudyParams) -> pd.DataFrame:
    """What was chosen for a study, and whether at an edge; empty if nothing was tuned for it."""
    if params.runs.tuning is None:
        return pd.DataFrame({"method": [], "edge": []})
    table = pd.read_csv(project_root() / "params" / "tuning" / f"{params.runs.tuning}.csv")
    return table[table["chosen"]].drop(columns="chosen")


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
