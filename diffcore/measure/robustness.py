"""Measure trained classifiers under corruption, attack and other backgrounds, and their confidence.

Beyond the paper, whose public text reports accuracy, overhead and saliency alone. Test images are
changed once and shown to every classifier. Backgrounds: an object pasted into other scenes, drawn
for Paperbirds alone (Xiao et al., arXiv 2006.09994). Calibration: the expected calibration error of
Guo et al. (arXiv 1706.04599), by torchmetrics.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torchmetrics.functional.classification import binary_calibration_error

from diffcore import stats
from diffcore.data.images import as_batch
from diffcore.data.splits import Split
from diffcore.measure.attacks import attack
from diffcore.measure.corruptions import CORRUPTIONS, corrupt
from diffcore.training.networks import predict

Loader = Callable[..., nn.Module]  # weights of a table of runs -> classifier in eval mode
Variants = Mapping[tuple, Tensor]

_BINS = 15  # of confidence, of equal width, as in Guo et al.


def top1(
    runs: pd.DataFrame, load: Loader, variants: Variants | Callable[[nn.Module], Variants],
    labels: np.ndarray, *columns: str,
) -> pd.DataFrame:  # fmt: skip
    """Accuracy of every classifier on variants of the same images: method, seed, `columns`, top1.

    The variants are (N, 3, H, W) in [0, 1] by what tells them apart, a value a column; or a
    function that makes them for a classifier.
    """
    rows = []
    for run in runs.itertuples():
        classifier, named = load(run.weights), {"method": run.method, "seed": run.seed}
        for key, images in (variants(classifier) if callable(variants) else variants).items():
            right = predict(classifier, images).argmax(1).numpy() == labels
            rows.append(named | dict(zip(columns, key, strict=True)) | {"top1": right.mean()})
    return pd.DataFrame(rows)


def under_corruption(
    runs: pd.DataFrame, load: Loader, split: Split, severities: Sequence[int], seed: int
) -> pd.DataFrame:
    """Top-1 under every corruption: method, seed, corruption ("none" too), severity, top1."""
    batch = as_batch(split.images[:])
    tried = [(name, severity) for name in CORRUPTIONS for severity in severities]
    variants = {("none", 0): batch} | {each: corrupt(batch, *each, seed) for each in tried}
    return top1(runs, load, variants, split.labels, "corruption", "severity")


def clean_and_corrupted(table: pd.DataFrame) -> pd.DataFrame:
    """Top-1 on clean images, and the mean over corruptions, a column each beside method, seed."""
    kind = np.where(table["corruption"] == "none", "clean images", "mean over corruptions")
    keys = [table["method"], table["seed"], kind]
    return table.groupby(keys, sort=False)["top1"].mean().unstack().reset_index()


def gains_by(table: pd.DataFrame, column: str, baseline: str, confidence: float) -> pd.DataFrame:
    """Every method against one baseline under each value of a column, as `stats.gains`.

    Here ``p_holm`` is corrected after Holm for all rows of the table, which are one family.
    """
    kinds = list(table[column].unique())
    wide = table.pivot(index=["method", "seed"], columns=column, values="top1").reset_index()
    found = stats.gains(wide, baseline, kinds, confidence).rename(columns={"test": column})
    return stats.with_holm(found)


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
    """What every classifier answers to every image: method, seed, confidence, right."""
    tables = []
    for run in runs.itertuples():
        confidence, found = predict(load(run.weights), split.images).softmax(1).max(1)
        told = {"confidence": confidence.numpy(), "right": found.numpy() == split.labels}
        tables.append(pd.DataFrame({"method": run.method, "seed": run.seed, **told}))
    return pd.concat(tables, ignore_index=True)


def calibration(given: pd.DataFrame) -> pd.DataFrame:
    """How far the confidence of `answers` can be trusted: a row a method and seed.

    ECE is the mean distance of confidence and accuracy in a bin of confidence; "confidence less
    accuracy", of all answers together, is negative for a modest classifier.
    """
    rows = []
    for (method, seed), table in given.groupby(["method", "seed"], sort=False):
        confidence, right = table["confidence"].to_numpy(np.float32), table["right"].to_numpy()
        # Of answers to many classes only these two count, which makes it the binary case.
        pair = torch.tensor(confidence), torch.tensor(right, dtype=torch.int64)
        rows.append({
            "method": method, "seed": seed, "top1": right.mean(),
            "ECE": float(binary_calibration_error(*pair, n_bins=_BINS)),
            "confidence less accuracy": float(confidence.mean() - right.mean()),
        })  # fmt: skip
    return pd.DataFrame(rows)


def reliability_bins(given: pd.DataFrame) -> pd.DataFrame:
    """What stands in reliability diagrams: method, confidence and top1 (means in a bin), count."""
    confidence = torch.tensor(given["confidence"].to_numpy(np.float32))
    place = torch.bucketize(confidence, torch.linspace(0, 1, _BINS + 1), right=True).numpy()
    bins = given.assign(top1=given["right"], count=1).groupby(["method", place])
    found = bins.agg({"confidence": "mean", "top1": "mean", "count": "sum"})
    return found.droplevel(1).reset_index()
