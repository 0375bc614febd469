"""Measure where trained classifiers look, in one long table: a row an image and a classifier.

Whatever is compared is compared in pairs, on the same image and from the same seed. Intervals
(`stats.crossed`) cover both, as the next study would train anew and take other photographs.
"""

from collections.abc import Callable, Mapping, Sequence

import joblib
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from diffcore import stats
from diffcore.data.images import as_batch
from diffcore.data.splits import Split
from diffcore.measure import saliency_maps as maps
from diffcore.training.networks import predict

Technique = Callable[[nn.Module, Tensor, Tensor], Tensor]  # such as `maps.grad_cam`
Loader = Callable[..., nn.Module]  # weights of a table of runs -> classifier in eval mode

#: Share of the energy in the mask, that minus its centre-bias baseline, whether the maximum is in.
MEASURES = ("energy", "beyond", "hit")


def survey(
    runs: pd.DataFrame, load: Loader, tests: Mapping[str, Split], technique: Technique,
    about: str = "true", processes: int | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Explain test images with masks to every classifier, and place the maps on the objects.

    Explained is the "true" class of all images, or, of those answered wrong, the class "answered".
    `processes` classifiers at a time are at work on a CPU, one thread each; None: one a core.
    A row is an image and a classifier: the columns of `measure`, split, method, seed.
    """

    def explain(classifier: nn.Module, **run: str | int) -> pd.DataFrame:
        tables = (measure(classifier, split, technique, about) for split in tests.values())
        return pd.concat(t.assign(split=name, **run) for t, name in zip(tables, tests, strict=True))

    # Loaded here, one after another, as whatever loads them need not travel to other processes.
    table = runs[["weights", "method", "seed"]].to_dict("records")
    jobs = (joblib.delayed(explain)(load(run.pop("weights")), **run) for run in table)
    workers = 1 if torch.cuda.is_available() else processes or joblib.cpu_count()
    with joblib.parallel_config("loky", inner_max_num_threads=1):
        return pd.concat(joblib.Parallel(workers)(jobs), ignore_index=True)


def measure(
    classifier: nn.Module, split: Split, technique: Technique, about: str = "true"
) -> pd.DataFrame:
    """Place one classifier's maps on the objects of N images; raise ValueError without masks.

    A row is an image: source_id, correct, about, energy (in the mask), hit (of the pointing game),
    share (of the image that is mask: chance), elsewhere (energy in another image's mask: the
    centre-bias baseline), beyond (energy minus elsewhere), empty (no energy).
    """
    if split.masks is None:
        raise ValueError("no masks: without them, or boxes in their place, no energy can be placed")
    split = split.take(split.masks[:].any(axis=(1, 2)))  # an object may have been cut off
    answers = predict(classifier, split.images[:]).argmax(dim=1).numpy()
    if about == "answered":
        wrong = answers != split.labels
        split, answers = split.take(wrong), answers[wrong]
    if not len(split):
        return pd.DataFrame(columns=["source_id"])
    targets = torch.tensor(answers if about == "answered" else split.labels)
    cams = technique(classifier, as_batch(split.images[:]), targets)
    # A copy, as arrays that processes share are read-only, of which torch would warn.
    masks, correct = np.array(split.masks[:]), answers == split.labels
    found = {
        "source_id": split.metadata["source_id"].to_numpy(),
        "correct": correct,
        "about": [f"{'right' if ok else 'wrong'} answer, {about} class" for ok in correct],
        "energy": maps.energy_in_mask(cams, masks),
        "hit": maps.pointing_game(cams, masks),
        "share": masks.mean(axis=(1, 2)),
        "elsewhere": maps.energy_in_mask(cams, np.roll(masks, len(masks) // 2, axis=0)),
        "empty": (cams == 0).flatten(1).all(dim=1),
    }
    return pd.DataFrame(found).eval("beyond = energy - elsewhere")


def examples(
    runs: pd.DataFrame, load: Loader, split: Split, technique: Technique
) -> tuple[dict[str, Tensor], list[list[str]]]:
    """Make the maps of a few images by one classifier a method: method -> maps (N, H, W).

    And a caption for each image and method: the energy in the mask, if known, and ✓ if the answer
    is right, or ✗ and the class that was answered.
    """
    found, captions = {}, []
    for method, weights in zip(runs["method"], runs["weights"], strict=True):
        classifier, pixels, shares = load(weights), split.images[:], [""] * len(split)
        found[method] = technique(classifier, as_batch(pixels), torch.tensor(split.labels))
        answers = predict(classifier, pixels).argmax(dim=1).numpy()
        if split.masks is not None and split.masks[:].any(axis=(1, 2)).all():
            shares = [f"{e:.0%} " for e in maps.energy_in_mask(found[method], split.masks[:])]
        marks = [
            "✓" if answer == label else f"✗\n{split.classes[answer]}"
            for answer, label in zip(answers, split.labels, strict=True)
        ]
        captions.append([share + mark for share, mark in zip(shares, marks, strict=True)])
    return found, [list(column) for column in zip(*captions, strict=True)]


def levels(
    table: pd.DataFrame, confidence: float, by: Sequence[str] = ("split", "method"),
    columns: Sequence[str] = ("energy", "elsewhere", "hit", "empty"),
) -> pd.DataFrame:  # fmt: skip
    """Mean columns of the long table within groups: `by`, measure, value, low, high, n.

    No row for a group of one image, of which no interval can be told.
    """
    return _means(table, confidence, by, columns).drop(columns="p")


def _means(
    table: pd.DataFrame, confidence: float, by: Sequence[str], columns: Sequence[str]
) -> pd.DataFrame:
    """As `levels`, with the p of a mean being 0."""
    found = [
        dict(zip([*by, "measure"], [*group, name], strict=True))
        | stats.crossed(rows[name], rows["seed"], rows["source_id"], confidence=confidence)
        for group, rows in table.groupby(list(by), sort=False)
        for name in (columns if len(rows) > 1 else ())
    ]
    return pd.DataFrame(found, columns=[*by, "measure", "value", "low", "high", "n", "p"])


def gains(table: pd.DataFrame, baselines: Sequence[str], confidence: float) -> pd.DataFrame:
    """Gain of each method over each baseline, paired by seed and image: `levels`, p, over.

    Rows without a partner do not count: of right answers, only images that both got right do.
    """
    keys, found = ["split", "seed", "source_id"], []
    for over in baselines:
        base = table.loc[table["method"] == over, [*keys, *MEASURES]]
        pairs = table[table["method"] != over].merge(base, on=keys, suffixes=("", "_base"))
        for name in MEASURES:
            pairs[name] -= pairs[f"{name}_base"]
        found.append(_means(pairs, confidence, ("split", "method"), MEASURES).assign(over=over))
    return pd.concat(found, ignore_index=True)


def randomise(
    runs: pd.DataFrame, load: Loader, split: Split, technique: Technique, seed: int
) -> pd.DataFrame:
    """Compare maps of classifiers with those after their weights were shuffled, part by part.

    A row is an image, a classifier and a part: seed, source_id, part ("as trained", "other seed" or
    what was shuffled last), energy, correlation (of ranks, with the map as trained).
    """
    batch, targets, masks = as_batch(split.images[:]), torch.tensor(split.labels), split.masks[:]
    classifiers, rows = [load(weights) for weights in runs["weights"]], []
    cams = [technique(classifier, batch, targets) for classifier in classifiers]
    for place, (own, classifier) in enumerate(zip(runs["seed"], classifiers, strict=True)):
        compared = {"as trained": cams[place], "other seed": cams[place - 1]}
        for part, shuffled in maps.randomised_cascade(classifier, seed):
            compared[part] = technique(shuffled, batch, targets)
        for part, cam in compared.items():
            row = {"seed": own, "source_id": split.metadata["source_id"].to_numpy(), "part": part}
            row["energy"] = maps.energy_in_mask(cam, masks)
            row["correlation"] = maps.rank_correlation(cam, cams[place])
            rows.append(pd.DataFrame(row))
    return pd.concat(rows, ignore_index=True)


def sanity_check(table: pd.DataFrame, confidence: float) -> dict[str, float | bool]:
    """Judge whether maps show what was learned, from the table of `randomise` for several seeds.

    With all weights shuffled, less energy must lie on the object, and maps must be less like their
    own than those of another seed (our choice): ``passes`` if the intervals of ``energy_drop`` and
    ``correlation_drop``, from ``_low`` to ``_high``, are above zero.
    """
    shuffled, found = table["part"].unique()[-1], {}
    for column, part in (("energy", "as trained"), ("correlation", "other seed")):
        wide = table.pivot(index=["seed", "source_id"], columns="part", values=column)
        drop = (wide[part] - wide[shuffled]).reset_index(name="drop")
        row = stats.crossed(drop["drop"], drop["seed"], drop["source_id"], confidence=confidence)
        found |= stats.flatten(f"{column}_drop", row)
    return found | {"passes": found["energy_drop_low"] > 0 and found["correlation_drop_low"] > 0}
