"""Choose the settings of every method with the same effort, on the training images alone.

Every candidate is trained on all folds of the training images but one and tested on that one, from
several seeds. First comes the recipe that all methods share, by plain training. Then come six
candidates of each method; methods with generated images have them at every number of images. The
winners are copied into the profile by hand, and a test compares the two: no study tunes in passing.
"""

from collections.abc import Callable, Collection, Mapping
from itertools import product
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
from ruamel.yaml import YAML
from sklearn.model_selection import StratifiedKFold

from diffcore.data.pairs import PairedDataset
from diffcore.data.splits import Split
from diffcore.methods import METHODS, method_of
from diffcore.params import ShareParams, StudyParams, change_params, project_root
from diffcore.store import write_text
from diffcore.training.runs import Run, train_runs

FOLDS, SEEDS = 3, 2
#: Method -> parameter, by its dotted key -> values that are tried.
GRID = YAML(typ="safe", pure=True).load(Path(__file__).with_name("grid.yaml"))


#: Returns the training images with so many counterparts as a method needs.
PairsAt = Callable[[ShareParams, str], PairedDataset]


class Tunable(Protocol):
    """What tuning needs of a study."""

    params: StudyParams
    train: Split
    run_dir: Path


def candidates(method: str) -> list[dict[str, float]]:
    """Return all combinations of a method's grid, as changes of parameters by dotted keys.

    >>> candidates("added")[0]
    {'training.methods.added.probability': 0.1}
    """
    return [
        dict(zip(GRID[method], values, strict=True)) for values in product(*GRID[method].values())
    ]


def at_edge(method: str, changes: Mapping[str, float]) -> bool:
    """Whether a setting is the first or last that was tried; 1 is no edge of a probability."""
    edges = {key: {tried[0], tried[-1]} - {1.0} for key, tried in GRID[method].items()}
    return any(value in edges[key] for key, value in changes.items())


def plan_folds(study: Tunable, method: str, at: ShareParams, pairs: PairedDataset) -> list[Run]:
    """Plan a method's runs on each fold: tested on it, trained on the pairs of the others."""
    params, train = change_params(study.params, at.changes), study.train
    splitter = StratifiedKFold(FOLDS, shuffle=True, random_state=params.seed)
    runs = []
    for kept, held in splitter.split(np.zeros(len(train)), train.labels):
        part, tests = pairs.take_real(kept), {"validation": train.take(held)}
        part = part.without_generated() if METHODS[method].sees == "real" else part
        for seed in range(params.seed, params.seed + SEEDS):
            runs.append(Run(method_of(method, params), seed, part, tests, params.training))
    return runs


def tune_profile(study: Tunable, methods: Collection[str], pairs_at: PairsAt) -> pd.DataFrame:
    """Train every candidate of some methods on every fold: one row per candidate.

    `accuracy` on held-out images is the mean over folds and seeds, `sem` its standard error;
    `chosen` marks the best, and `edge` a candidate at the edge of its grid. The recipe comes first,
    and mixing before "mixed_added", which takes it over.
    """
    most, tables = study.params.generation.generated_share, []
    chosen = {share: {} for share in sorted([*(at.share for at in study.params.runs.shares), most])}
    for method in filter(methods.__contains__, METHODS):
        for share in chosen if METHODS[method].sees != "real" else [most]:
            at = ShareParams(share=share, changes=chosen[share])
            table = _try(study, method, at, pairs_at)
            best = candidates(method)[int(table["chosen"].to_numpy().argmax())]
            takers = {"vanilla": [*chosen], "diffcoremix": [share]}.get(method, [])
            for taker in takers:
                chosen[taker] |= best
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _try(study: Tunable, method: str, at: ShareParams, pairs_at: PairsAt) -> pd.DataFrame:
    """Train all candidates of a method at a share: one row each."""
    tried, planned = candidates(method), []
    for changes in tried:
        changed = ShareParams(share=at.share, changes=at.changes | changes)
        planned += plan_folds(study, method, changed, pairs_at(changed, method))
    results = train_runs(planned, study.run_dir / "tuning", f"candidates of {method}")
    scores = results["validation"].to_numpy().reshape(len(tried), FOLDS * SEEDS)
    spelled = [", ".join(f"{key}={value:g}" for key, value in each.items()) for each in tried]
    share = at.share if METHODS[method].sees != "real" else np.nan
    table = pd.DataFrame({"method": method, "dose": share, "candidate": spelled})
    table["accuracy"] = scores.mean(axis=1)
    table["sem"] = scores.std(axis=1, ddof=1) / np.sqrt(FOLDS * SEEDS)
    table["edge"] = [at_edge(method, changes) for changes in tried]
    # Rounded, so that two means of the same hits are equal, whatever the order of their folds.
    return table.assign(chosen=table.index == table["accuracy"].round(6).idxmax())


def read_chosen(params: StudyParams) -> pd.DataFrame:
    """Return what was chosen for a study, and whether at an edge; empty if nothing was tuned."""
    if params.runs.tuning is None:
        return pd.DataFrame({"method": [], "edge": []})
    table = pd.read_csv(_table_of(params.runs.tuning))
    return table[table["chosen"]].drop(columns="chosen")


def write_choice(table: pd.DataFrame, profile: str) -> Path:
    """Write a profile's table, which keeps its rows of other methods; return its path."""
    path = _table_of(profile)
    if path.exists():
        before = pd.read_csv(path)
        table = pd.concat([before[~before["method"].isin(table["method"])], table])
        table = table.sort_values("method", key=lambda m: m.map([*METHODS].index), kind="stable")
    return write_text(path, table.to_csv(index=False, float_format="%.4f"))


def _table_of(profile: str) -> Path:
    return project_root() / "params" / "tuning" / f"{profile}.csv"
