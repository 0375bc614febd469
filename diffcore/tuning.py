"""Choose the settings of every method with the same effort, on the training images alone.

    python -m diffcore.tuning --profile demo        (or: make tune)

The training images are split into folds, and every candidate is trained on all folds but one and
tested on that one. Each method has four candidates, a small grid over what it has to set, and all
share one recipe, which is chosen before, for plain training. The winners are copied into the
profile by hand, so that a study never tunes in passing; a test holds the two together.

Our choice: of candidates whose accuracies do not differ, the first, which is the mildest.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedKFold

from diffcore.experiments import load_generator
from diffcore.methods import GENERATIVE, METHODS, method_settings
from diffcore.params import StudyParams, change_params, load_params, project_root
from diffcore.training_study import Materials, Pool, load_materials, make_corpus
from diffcore.trials import Corpus, Trial, run_trials

_MIXED = [(probability, alpha) for probability in (0.5, 1.0) for alpha in (0.2, 1.0)]
_CHANCES = (0.25, 0.5, 0.75, 1.0)


def candidates(method: str) -> list[dict[str, float]]:
    """Four settings of a method, as changes of parameters.

    >>> candidates("added")[0]
    {'training.methods.added.probability': 0.2}
    """
    own = f"training.methods.{method}"
    if method == "vanilla":  # the recipe that all methods share
        return [
            {"training.lr": lr, "training.crop_scale": scale}
            for lr in (0.005, 0.01)
            for scale in (0.7, 0.4)
        ]
    if method == "diffcoremix":
        return [{"mixing.probability": p, "mixing.alpha": alpha} for p, alpha in _MIXED]
    if method in {"mixup", "cutmix", "saliencymix"}:
        return [{f"{own}.probability": p, f"{own}.alpha": alpha} for p, alpha in _MIXED]
    # A batch of generated images alone would not be "added" to anything.
    chances = (0.2, 0.4, 0.6, 0.8) if method in {"added", "mixed_added"} else _CHANCES
    return [{f"{own}.probability": chance} for chance in chances]


def folds(materials: Materials, pool: Pool) -> list[Corpus]:
    """Split the training images, each part with its own counterparts; held-out ones are tested."""
    train, params = materials.train, materials.params
    splitter = StratifiedKFold(params.trials.folds, shuffle=True, random_state=params.seed)
    corpora = []
    for kept, held in splitter.split(np.zeros(len(train)), train.labels):
        part = train.take(kept)
        own = pool.take(pool.table["source_id"].isin(part.ids).to_numpy())
        corpora.append(make_corpus(materials, own, part, validation=train.take(held)))
    return corpora


def tune(
    materials: Materials,
    methods: Sequence[str],
    run_dir: Path,
    grid: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Train every candidate on every fold.

    Args:
        materials: of the study.
        methods: names.
        run_dir: where trials are kept.
        grid: method -> candidates, in place of `candidates`.

    Returns:
        One row a candidate: method, candidate (text), accuracy on held-out training images (mean
        over folds), sem (its standard error) and chosen.
    """
    rows = []
    for method in methods:
        pool = materials.edits if method == "diffusemix" else materials.accepted
        corpora = folds(materials, pool)
        for changes in (grid or {}).get(method) or candidates(method):
            scores = _score(method, changes, corpora, materials.params, run_dir)
            text = ", ".join(f"{key}={value:g}" for key, value in changes.items())
            rows.append({"method": method, "candidate": text, "accuracy": scores.mean(),
                         "sem": scores.std(ddof=1) / len(scores) ** 0.5})  # fmt: skip
    table = pd.DataFrame(rows)
    # Rounded, so that two means of the same hits are equal, whatever the order of their folds.
    best = table["accuracy"].round(6).groupby(table["method"], sort=False).idxmax()
    return table.assign(chosen=table.index.isin(best))


def _score(
    method: str,
    changes: Mapping[str, float],
    corpora: Sequence[Corpus],
    params: StudyParams,
    run_dir: Path,
) -> np.ndarray:
    """Accuracy of one candidate on each held-out fold."""
    changed = change_params(params, changes)
    settings = method_settings(method, changed)
    trials = [
        Trial(method, settings, params.seed, c if method in GENERATIVE else c.without_generated())
        for c in corpora
    ]
    describe = f"{method} {' '.join(f'{value:g}' for value in changes.values())}"
    processes = params.trials.processes
    table = run_trials(trials, changed.training, run_dir / "tuning", processes, describe)
    return table["validation"].to_numpy()


def main(arguments: list[str] | None = None) -> None:
    """Tune all methods of a profile, and write and print the table."""
    parser = argparse.ArgumentParser(prog="python -m diffcore.tuning", description=__doc__)
    parser.add_argument("--profile", default="demo", help="file in params/, or path of one")
    parser.add_argument("--methods", nargs="*", default=METHODS, choices=METHODS, metavar="NAME")
    options = parser.parse_args(arguments)
    params = load_params(options.profile)
    run_dir = project_root() / "runs" / params.profile
    materials = load_materials(params, load_generator(params), run_dir)
    table = tune(materials, options.methods, run_dir)
    path = project_root() / "params" / "tuning" / f"{params.profile}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False, float_format="%.4f")
    print(table.to_string(index=False, float_format="{:.3f}".format))
    print(f"\nWritten to {path}; copy what is chosen into params/{params.profile}.yaml.")


if __name__ == "__main__":
    main()
