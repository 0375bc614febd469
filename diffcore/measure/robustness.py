"""Measure trained classifiers under corruption and attack, and how far to trust their confidence.

Beyond the paper, whose public text reports none of it. Calibration: the expected calibration error
of Guo et al. (arXiv 1706.04599), by torchmetrics.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torchmetrics.functional.classification import binary_calibration_error

from diffcore import stats
from diffcore.data.images import as_batch
from diffcore.data.splits import Split
from diffcore.measure.perturbations import CORRUPTIONS, attack, corrupt
from diffcore.training.networks import predict

Loader = Callable[..., nn.Module]  # weights of a table of runs -> classifier in eval mode
#: Classifier -> variants of N images: values of some columns -> images (N, 3, H, W) in [0, 1].
Variants = Callable[[nn.Module], Mapping[tuple, Tensor]]

_BINS = 15  # of confidence, of equal width, as in Guo et al.


def top1(
    runs: pd.DataFrame, load: Loader, variants: Variants, labels: np.ndarray, *columns: str
) -> pd.DataFrame:
    """Accuracy of every classifier on the variants of N images: method, seed, `columns`, top1."""
    rows = []
    for run in runs.itertuples():
        classifier = load(run.weights)
        for key, images in variants(classifier).items():
            right = predict(classifier, images).argmax(1).numpy() == labels
            rows.append([run.method, run.seed, *key, right.mean()])
    return pd.DataFrame(rows, columns=["method", "seed", *columns, "top1"])


def under_corruption(
    runs: pd.DataFrame, load: Loader, split: Split, severities: Sequence[int], seed: int
) -> pd.DataFrame:
    """Top-1 under every corruption: method, seed, corruption ("none" too), severity, top1."""
    batch = as_batch(split.images[:])
    kinds = list(product(CORRUPTIONS, severities))
    variants = {("none", 0): batch} | {kind: corrupt(batch, *kind, seed) for kind in kinds}
    return top1(runs, load, lambda _: variants, split.labels, "corruption", "severity")


def gains_by(table: pd.DataFrame, column: str, baseline: str) -> pd.DataFrame:
    """Compare methods with a baseline under each value of a column: `stats.gains`, one family."""
    kinds = list(table[column].unique())
    wide = table.pivot(index=["method", "seed"], columns=column, values="top1").reset_index()
    return stats.with_holm(stats.gains(wide, baseline, kinds).rename(columns={"test": column}))


def under_attack(
    runs: pd.DataFrame, load: Loader, split: Split, eps: Sequence[float], steps: int, seed: int
) -> pd.DataFrame:
    """Top-1 under attacks: method, seed, attack ("none" too), eps, top1, condition (their name)."""
    batch, labels = as_batch(split.images[:]), torch.tensor(split.labels)
    attacked = partial(attack, images=batch, labels=labels, eps=eps, steps=steps, seed=seed)
    table = top1(runs, load, attacked, split.labels, "attack", "eps")
    named = table["attack"] + ", ε = " + (255 * table["eps"]).map("{:g}/255".format)
    return table.assign(condition=named.where(table["eps"] > 0, "clean images"))


def answers(runs: pd.DataFrame, load: Loader, split: Split) -> pd.DataFrame:
    """Return every classifier's answer to every image: method, seed, confidence, right."""
    tables = []
    for run in runs.itertuples():
        confidence, answer = predict(load(run.weights), split.images).softmax(1).max(1)
        facts = {"confidence": confidence.numpy(), "right": answer.numpy() == split.labels}
        tables.append(pd.DataFrame({"method": run.method, "seed": run.seed, **facts}))
    return pd.concat(tables, ignore_index=True)


def calibration(answered: pd.DataFrame) -> pd.DataFrame:
    """Compare confidence with accuracy in the table of `answers`: one row per method and seed.

    Columns: top1; ECE, the mean distance of both over bins of confidence; and "confidence less
    accuracy" over all answers, negative for a modest classifier.
    """
    rows = []
    for (method, seed), table in answered.groupby(["method", "seed"], sort=False):
        confidence, right = table["confidence"].to_numpy(np.float32), table["right"].to_numpy()
        # Of answers to many classes only these two count, which makes it the binary case.
        pair = torch.tensor(confidence), torch.tensor(right, dtype=torch.int64)
        error = float(binary_calibration_error(*pair, n_bins=_BINS))
        rows.append([method, seed, right.mean(), error, float(confidence.mean() - right.mean())])
    columns = ["method", "seed", "top1", "ECE", "confidence less accuracy"]
    return pd.DataFrame(rows, columns=columns)


def reliability_bins(answered: pd.DataFrame) -> pd.DataFrame:
    """Bin the table of `answers`: method, mean confidence and top1 of a bin, count."""
    confidence = torch.tensor(answered["confidence"].to_numpy(np.float32))
    place = torch.bucketize(confidence, torch.linspace(0, 1, _BINS + 1), right=True).numpy()
    bins = answered.assign(top1=answered["right"], count=1).groupby(["method", place])
    means = bins.agg({"confidence": "mean", "top1": "mean", "count": "sum"})
    return means.droplevel(1).reset_index()
