"""What the seventh notebook measures, between classifiers, test images and generated images.

Test images are corrupted once and shown to every classifier, so that methods and seeds are compared
on the very same pixels; `diffcore.comparison` has the statistics. Other backgrounds can be drawn
for Paperbirds alone. The generated images themselves are `diffcore.responsibility_study`'s.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Generator, Tensor

from diffcore.data import Images, as_batch, as_pixels, spread
from diffcore.paperbirds import CONTEXTS, SPECIES, draw_clutter, render
from diffcore.params import StudyParams
from diffcore.robustness import (
    CORRUPTIONS,
    attack,
    calibration_error,
    corrupt,
    fgsm,
    paste,
    pgd,
    reliability,
)
from diffcore.training import Classifier, load_classifier, predict

#: (method, seed) -> classifier
Classifiers = Mapping[tuple[str, int], Classifier]

_UNCHANGED = "none"
_BACKGROUNDS = 71  # sets the seeds of these renders apart from those of every split


# ----------------------------------------------------------------------------------- what is tested
def load_classifiers(
    results: pd.DataFrame, params: StudyParams, num_classes: int, methods: Sequence[str] = ()
) -> dict[tuple[str, int], Classifier]:
    """Load trained classifiers, without gradients of their own: attacks need those of images.

    Args:
        results: columns method, seed and weights (path), as from the fourth notebook.
        params: of the study.
        num_classes: number of classes.
        methods: to load; none for all.
    """
    wanted = results[results["method"].isin(methods)] if methods else results
    return {
        (row.method, row.seed): load_classifier(
            Path(row.weights), params.training, num_classes
        ).requires_grad_(False)
        for row in wanted.itertuples()
    }


def each_classifier(
    measure: Callable[[Classifier], pd.DataFrame], classifiers: Classifiers
) -> pd.DataFrame:
    """Put each classifier through a measurement: all its rows, with method and seed before them."""
    tables = [
        measure(classifier).assign(method=method, seed=seed)
        for (method, seed), classifier in classifiers.items()
    ]
    joined = pd.concat(tables, ignore_index=True)
    return joined[["method", "seed", *joined.columns.drop(["method", "seed"])]]


def accuracy(
    classifier: Classifier,
    variants: Mapping[tuple, Tensor],
    labels: np.ndarray,
    columns: Sequence[str],
) -> pd.DataFrame:
    """Top-1 of a classifier on every variant of the same images.

    Args:
        classifier: to be tested.
        variants: values of `columns` -> (N, 3, H, W) in [0, 1].
        labels: (N,).
        columns: what tells the variants apart.

    Returns:
        Tidy table: the columns, top1.
    """
    rows = []
    for key, images in variants.items():
        right = predict(classifier, images).argmax(1).numpy() == labels
        rows.append({**dict(zip(columns, key, strict=True)), "top1": right.mean()})
    return pd.DataFrame(rows)


# -------------------------------------------------------------------------------------- corruptions
def under_corruption(
    classifiers: Classifiers, images: Images, severities: Sequence[int], seed: int
) -> pd.DataFrame:
    """Top-1 under every corruption: method, seed, corruption ("none" too), severity, top1."""
    batch = as_batch(images.pixels)
    variants = {(_UNCHANGED, 0): batch} | {
        (name, severity): corrupt(batch, name, severity, seed)
        for name in CORRUPTIONS
        for severity in severities
    }
    columns = ("corruption", "severity")
    measure = partial(accuracy, variants=variants, labels=images.labels, columns=columns)
    return each_classifier(measure, classifiers)


def clean_and_corrupted(table: pd.DataFrame) -> pd.DataFrame:
    """Top-1 on clean images, and the mean over corruptions, a column each beside method, seed."""
    kind = np.where(table["corruption"] == _UNCHANGED, "clean images", "mean over corruptions")
    keys = [table["method"], table["seed"], kind]
    return table.groupby(keys, sort=False)["top1"].mean().unstack().reset_index()


def all_severities(one: pd.DataFrame, others: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Join what was measured at one severity with the others, for some methods, each row once."""
    joined = pd.concat([one[one["method"].isin(methods)], others], ignore_index=True)
    return joined.drop_duplicates(["method", "seed", "corruption", "severity"], ignore_index=True)


def corruption_gallery(pixels: np.ndarray, severity: int, seed: int) -> list[list[np.ndarray]]:
    """Each image (H, W, 3) as it is and under every corruption: rows for `image_grid`."""
    batch = as_batch(pixels)
    shown = [batch, *(corrupt(batch, name, severity, seed) for name in CORRUPTIONS)]
    return [list(row) for row in zip(*map(as_pixels, shown), strict=True)]


# ------------------------------------------------------------------------------------------ attacks
def attackers(
    eps: Sequence[float], steps: int, seed: int
) -> dict[tuple[str, float], Callable[[Classifier, Tensor, Tensor], Tensor]]:
    """FGSM and PGD at each size: (attack, eps) -> (model, images, labels) -> images."""
    found = {}
    for size in eps:
        # A generator of its own for each attack, so that one does not change another.
        generator = Generator().manual_seed(seed)
        found["FGSM", size] = partial(fgsm, eps=size)
        found["PGD", size] = partial(pgd, eps=size, steps=steps, generator=generator)
    return found


def under_attack(
    classifiers: Classifiers, images: Images, eps: Sequence[float], steps: int, seed: int
) -> pd.DataFrame:
    """Top-1 under attacks on each classifier: method, seed, attack ("none" too), eps, top1."""
    measure = partial(_attacked, images=images, eps=eps, steps=steps, seed=seed)
    return each_classifier(measure, classifiers)


def _attacked(
    classifier: Classifier, images: Images, eps: Sequence[float], steps: int, seed: int
) -> pd.DataFrame:
    device = next(classifier.parameters()).device
    batch = as_batch(images.pixels).to(device, memory_format=torch.channels_last)
    variants, labels = {(_UNCHANGED, 0.0): batch}, torch.tensor(images.labels, device=device)
    for name, attacker in attackers(eps, steps, seed).items():
        variants[name] = attack(attacker, classifier, batch, labels)
    return accuracy(classifier, variants, images.labels, ("attack", "eps"))


def name_attacks(table: pd.DataFrame) -> pd.Series:
    """Name each row of `under_attack` for people: the attack and its size in 255ths."""
    size = (255 * table["eps"]).map("{:g}/255".format)
    return (table["attack"] + ", ε = " + size).where(table["eps"] > 0, "clean images")


def compare_attacks(table: pd.DataFrame) -> pd.Series:
    """Whether PGD leaves no more right than FGSM, for each method, seed and eps of a table."""
    wide = table.pivot(index=["method", "seed", "eps"], columns="attack", values="top1").dropna(
        subset=["FGSM", "PGD"]
    )
    return wide["PGD"] <= wide["FGSM"]


def attack_gallery(
    classifier: Classifier, images: Images, eps: float, steps: int, seed: int
) -> dict[str, np.ndarray]:
    """Images, what PGD changes in them (enlarged to full range about grey) and what comes out."""
    device = next(classifier.parameters()).device
    batch, labels = as_batch(images.pixels).to(device), torch.tensor(images.labels, device=device)
    moved = attackers([eps], steps, seed)["PGD", eps](classifier, batch, labels)
    change = 0.5 + (moved - batch) / (2 * eps)
    shown = {"image": batch, "change, enlarged": change.clamp(0, 1), "attacked": moved}
    return {name: as_pixels(each) for name, each in shown.items()}


# -------------------------------------------------------------------------------------- backgrounds
def bare_scenes(contexts: Sequence[str], style: float, seed: int) -> np.ndarray:
    """Fresh scenes without a bird, one a context: (N, 64, 64, 3) uint8."""
    scenes = []
    for place, context in enumerate(contexts):
        own = (seed, _BACKGROUNDS, place)
        clutter = draw_clutter(context, np.random.default_rng(own))
        scene = render(SPECIES[0], context, own, clutter, style=style, malformation="no bird")
        scenes.append(scene.image)
    return np.stack(scenes)


def exchange_backgrounds(
    images: Images, facts: pd.DataFrame, style: float, seed: int
) -> dict[tuple[str], Tensor]:
    """Birds before other backgrounds, and backgrounds without a bird.

    Args:
        images: N, with masks.
        facts: with the id and context of each of them.
        style: of the backgrounds.
        seed: of backgrounds and of the contexts that are drawn for them.

    Returns:
        (condition,) -> (N, 3, H, W): as it is; "same context" on a fresh scene of the same context,
        which shows what the cut itself costs; "another context" on one of any other; and "no bird",
        the scene of the same context alone.
    """
    context = facts.set_index("id").loc[images.ids, "context"].tolist()
    rng = np.random.default_rng((seed, _BACKGROUNDS))
    others = [str(rng.choice([c for c in CONTEXTS if c != own])) for own in context]
    same, other = (as_batch(bare_scenes(each, style, seed)) for each in (context, others))
    batch, masks = as_batch(images.pixels), torch.from_numpy(images.masks)
    shown = {
        "as it is": batch,
        "same context": paste(batch, masks, same),
        "another context": paste(batch, masks, other),
        "no bird": same,
    }
    return {(condition,): each for condition, each in shown.items()}


def background_gallery(
    variants: Mapping[tuple[str], Tensor], count: int
) -> dict[str, list[np.ndarray]]:
    """Spread `count` images evenly over those of `exchange_backgrounds`: condition -> images."""
    places = spread(len(next(iter(variants.values()))), count)
    return {name: list(as_pixels(images[places])) for (name,), images in variants.items()}


def on_backgrounds(
    classifiers: Classifiers, variants: Mapping[tuple[str], Tensor], labels: np.ndarray
) -> pd.DataFrame:
    """Top-1 on what `exchange_backgrounds` makes: method, seed, condition, top1."""
    measure = partial(accuracy, variants=variants, labels=labels, columns=("condition",))
    return each_classifier(measure, classifiers)


def background_drop(table: pd.DataFrame) -> pd.DataFrame:
    """Top-1 lost with the context, beyond what the cut costs: method, seed, drop."""
    wide = table.pivot(index=["method", "seed"], columns="condition", values="top1")
    drop = (wide["same context"] - wide["another context"]).rename("drop")
    return drop.reset_index()


# -------------------------------------------------------------------------------------- calibration
def answers(classifiers: Classifiers, images: Images) -> pd.DataFrame:
    """What every classifier answers to every image: method, seed, confidence, right."""
    return each_classifier(partial(_answers, images=images), classifiers)


def _answers(classifier: Classifier, images: Images) -> pd.DataFrame:
    confidence, answer = predict(classifier, images.pixels).softmax(1).max(1)
    return pd.DataFrame(
        {"confidence": confidence.numpy(), "right": answer.numpy() == images.labels}
    )


def calibration(given: pd.DataFrame) -> pd.DataFrame:
    """How far the confidence of `answers` can be trusted.

    Returns:
        Tidy table: method, seed, top1, ECE, and "confidence less accuracy", of all answers
        together: negative for a classifier that is too modest.
    """
    rows = []
    for (method, seed), table in given.groupby(["method", "seed"], sort=False):
        confidence, right = table["confidence"].to_numpy(), table["right"].to_numpy()
        rows.append({
            "method": method, "seed": seed, "top1": right.mean(),
            "ECE": calibration_error(confidence, right),
            "confidence less accuracy": float(confidence.mean() - right.mean()),
        })  # fmt: skip
    return pd.DataFrame(rows)


def reliability_bins(given: pd.DataFrame) -> pd.DataFrame:
    """What stands in reliability diagrams, the seeds of a method together, with a column method."""
    tables = [
        reliability(table["confidence"].to_numpy(), table["right"].to_numpy()).assign(method=method)
        for method, table in given.groupby("method", sort=False)
    ]
    return pd.concat(tables, ignore_index=True)
