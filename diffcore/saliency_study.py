"""What the fifth notebook measures: between trained classifiers, test images and maps of saliency.

One long table, a row for each image that a classifier was shown, holds all; whatever is compared
is compared in pairs, on the same image and from the same seed. Intervals cover both, as the next
study would train anew and take other photographs: the variances between seeds and between images
are added (Cameron, Gelbach & Miller, Robust inference with multiway clustering, 2011). Our choice:
what both share is not taken off again, which makes the interval, if anything, too wide.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from diffcore.comparison import crossed_interval, flatten
from diffcore.data import Images, ImageSet, as_batch, fetch, some_of_each_class
from diffcore.saliency import (
    energy_in_mask,
    mask_share,
    pointing_game,
    randomised_cascade,
    rank_correlation,
)
from diffcore.training import predict

#: (model, images (N, 3, H, W) in [0, 1], targets (N,)) -> maps (N, H, W).
Technique = Callable[[nn.Module, Tensor, Tensor], Tensor]
#: Path of weights -> classifier in eval mode.
Loader = Callable[[str | Path], nn.Module]

#: In the mask: share of the energy, whether the maximum is there, energy beyond what place alone
#: is worth.
MEASURES = ("energy", "hit", "beyond")
TRAINED, RETRAINED = "as trained", "other seed"
_PAIR = ["split", "seed", "id"]


# -------------------------------------------------------------------------------------- the images
def choose(dataset: ImageSet, count: int, seed: int) -> Images:
    """Draw at most `count` images of each class of a split, with their masks if these are known."""
    labels = dataset.facts["label"].to_numpy()
    return fetch(dataset, some_of_each_class(labels, count, seed))


# ---------------------------------------------------------------------------------- the long table
def survey(
    trained: pd.DataFrame,
    load: Loader,
    sets: Mapping[str, Images],
    technique: Technique,
    about: str = "label",
    processes: int | None = 1,
) -> pd.DataFrame:
    """Explain images to all classifiers of a table, and place the maps on the objects.

    Args:
        trained: rows with method, seed and weights (a path).
        load: loads these weights.
        sets: name of the split -> images with masks.
        technique: makes the maps.
        about: "label" asks about the true class, of all images; "mistake" about the class that was
            answered, of those images alone that were answered wrong.
        processes: classifiers at a time, one thread each; None for one a core. 1 stays in this
            process.

    Returns:
        One row an image and classifier: method, seed, split, and the columns of `measure`.
    """

    def explain(weights: str | Path) -> pd.DataFrame:
        classifier, tables = load(weights), []
        for split, images in sets.items():
            # A copy: arrays that processes share are read-only, of which torch would warn.
            own = images.take(np.arange(len(images)))
            tables.append(measure(classifier, own, technique, about).assign(split=split))
        return pd.concat(tables)

    jobs = (joblib.delayed(explain)(weights) for weights in trained["weights"])
    with joblib.parallel_config("loky", inner_max_num_threads=1):
        tables = joblib.Parallel(processes or joblib.cpu_count())(jobs)
    facts = zip(trained["method"], trained["seed"], tables, strict=True)
    named = [table.assign(method=method, seed=seed) for method, seed, table in facts]
    return pd.concat(named, ignore_index=True)


def measure(
    classifier: nn.Module, images: Images, technique: Technique, about: str = "label"
) -> pd.DataFrame:
    """Place one classifier's maps on the objects of N images.

    Returns:
        One row an image: id, correct, energy (in the mask), hit (of the pointing game), share (of
        the image that is mask: chance), elsewhere (energy in the mask of another image: what place
        alone, such as the middle, is worth), beyond (energy less elsewhere), empty (no energy).

    Raises:
        ValueError: if there are no masks.
    """
    if images.masks is None:
        raise ValueError("no masks: without them, or boxes in their place, no energy can be placed")
    answers = predict(classifier, images.pixels).argmax(dim=1).numpy()
    if about == "mistake":
        wrong = answers != images.labels
        images, answers = images.take(wrong), answers[wrong]
    if not len(images):
        return pd.DataFrame(columns=["id"])
    targets = torch.from_numpy(answers if about == "mistake" else images.labels)
    maps = technique(classifier, as_batch(images.pixels), targets)
    others = np.roll(images.masks, len(images) // 2, axis=0)
    found = {
        "energy": energy_in_mask(maps, images.masks),
        "hit": pointing_game(maps, images.masks),
        "share": mask_share(images.masks),
        "elsewhere": energy_in_mask(maps, others),
        "empty": (maps == 0).flatten(1).all(dim=1),
    }
    facts = {"id": images.ids, "correct": answers == images.labels}
    return pd.DataFrame(facts | found).eval("beyond = energy - elsewhere")


def look(
    trained: pd.DataFrame, load: Loader, images: Images, technique: Technique
) -> tuple[dict[str, Tensor], list[list[str]]]:
    """Make the maps of a few images for one classifier a method, for a gallery.

    Returns:
        Method -> maps (N, H, W) of the true class; and for each image a caption a method: the
        energy in the mask, if there are masks, and whether the answer was right.
    """
    maps, captions = {}, []
    for row in trained.itertuples():
        classifier = load(row.weights)
        maps[row.method] = technique(
            classifier, as_batch(images.pixels), torch.tensor(images.labels)
        )
        right = predict(classifier, images.pixels).argmax(dim=1).numpy() == images.labels
        shares = [""] * len(images)
        if images.masks is not None:
            shares = [f"{e:.0%} " for e in energy_in_mask(maps[row.method], images.masks)]
        captions.append([s + "✗✓"[int(ok)] for s, ok in zip(shares, right, strict=True)])
    return maps, [list(column) for column in zip(*captions, strict=True)]


# --------------------------------------------------------------------------------------- intervals
def levels(
    table: pd.DataFrame,
    confidence: float,
    by: Sequence[str] = ("split", "method"),
    columns: Sequence[str] = ("energy", "hit", "elsewhere", "empty"),
) -> pd.DataFrame:
    """Means of columns of the long table within groups, tidy.

    Returns:
        The columns of `by`, measure, value, low, high, n; no row for a group of one image, of which
        no interval can be told.
    """
    found = [
        dict(zip(by, group, strict=True))
        | {"measure": column}
        | crossed_interval(rows[column], rows["seed"], rows["id"], confidence=confidence)
        for group, rows in table.groupby(list(by), sort=False)
        for column in (columns if len(rows) > 1 else ())
    ]
    return pd.DataFrame(found, columns=[*by, "measure", "value", "low", "high", "n"])


def gains(table: pd.DataFrame, over: str, confidence: float) -> pd.DataFrame:
    """What each method gains over one of them, paired by seed and image, tidy.

    Rows without a partner are left out, so that of a table of right answers those images count
    that both methods answered right.

    Returns:
        split, method, measure, value, low, high, n, over.
    """
    base = table.loc[table["method"] == over, [*_PAIR, *MEASURES]]
    pairs = table[table["method"] != over].merge(base, on=_PAIR, suffixes=("", "_base"))
    for name in MEASURES:
        pairs[name] -= pairs[f"{name}_base"]
    return levels(pairs, confidence, columns=MEASURES).assign(over=over)


def compare_techniques(
    tables: Mapping[str, pd.DataFrame], method: str, others: Sequence[str], confidence: float
) -> pd.DataFrame:
    """What one method gains over others in several long tables: `gains`, with their names.

    Args:
        tables: technique -> long table.
        method: the one.
        others: that it is compared with.
        confidence: coverage of the intervals.
    """
    found = [
        gains(table[table["method"].isin([method, other])], other, confidence).assign(
            technique=name
        )
        for name, table in tables.items()
        for other in others
    ]
    return pd.concat(found, ignore_index=True)


def compare_answers(table: pd.DataFrame, mistakes: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """Energy in the mask by whether the answer was right, and by which class was asked about.

    Args:
        table: of `survey` about the label.
        mistakes: of `survey` about mistakes, by the same classifiers on the same images.
        confidence: coverage of the intervals.

    Returns:
        split, method, about, measure, value, low, high, n; no row where no answer was of that kind.
    """
    correct = table["correct"].astype(bool)
    kinds = {
        "right answer, true class": table[correct],
        "wrong answer, true class": table[~correct],
        "wrong answer, answered class": mistakes,
    }
    named = pd.concat([rows.assign(about=about) for about, rows in kinds.items()])
    return levels(named, confidence, by=["split", "method", "about"], columns=["energy"])


# ------------------------------------------------------------------------------ randomised weights
def randomise(
    trained: pd.DataFrame, load: Loader, images: Images, technique: Technique, seed: int
) -> pd.DataFrame:
    """Compare maps of classifiers with those after their weights were shuffled, part by part.

    Returns:
        One row an image, classifier and part: seed, id, part, energy, hit, correlation. The part is
        "as trained", "other seed" (the map of a classifier from another seed, if there is one) or
        the name of what was shuffled last, from the output down. The correlation, of ranks, is with
        the map as trained.
    """
    batch, targets = as_batch(images.pixels), torch.from_numpy(images.labels)
    classifiers = [load(weights) for weights in trained["weights"]]
    maps = [technique(classifier, batch, targets) for classifier in classifiers]
    tables = []
    for place, own in enumerate(trained["seed"]):
        compared = {TRAINED: maps[place], RETRAINED: maps[place - 1]}
        if len(maps) == 1:
            del compared[RETRAINED]
        for part, shuffled in randomised_cascade(classifiers[place], seed):
            compared[part] = technique(shuffled, batch, targets)
        rows = _rows_of_maps(compared, maps[place], images)
        tables += [row.assign(seed=own, id=images.ids) for row in rows]
    return pd.concat(tables, ignore_index=True)


def _rows_of_maps(
    compared: Mapping[str, Tensor], own: Tensor, images: Images
) -> Iterator[pd.DataFrame]:
    """Measure each set of maps (N, H, W), and compare it with a classifier's own."""
    for part, maps in compared.items():
        yield pd.DataFrame(
            {
                "part": part,
                "energy": energy_in_mask(maps, images.masks),
                "hit": pointing_game(maps, images.masks),
                "correlation": rank_correlation(maps, own),
            }
        )


def sanity_check(table: pd.DataFrame, confidence: float) -> dict[str, float | bool]:
    """Judge whether maps show what was learned, from the table of `randomise`.

    Once all weights are shuffled, less energy must lie on the object, and the maps must be less
    like their own than those of a classifier that was trained from another seed. Adebayo et al. set
    no threshold; another seed is the likeness that training itself leaves open (our choice).

    Returns:
        ``energy_drop`` and ``correlation_drop`` with ``_low`` and ``_high``, and ``passes``: both
        intervals are above zero.

    Raises:
        ValueError: if there was one classifier alone, with no other seed.
    """
    if RETRAINED not in set(table["part"]):
        raise ValueError("the check needs two classifiers, from two seeds")
    shuffled = table["part"].unique()[-1]
    found: dict[str, float | bool] = {}
    for column, part in (("energy", TRAINED), ("correlation", RETRAINED)):
        wide = table.pivot(index=["seed", "id"], columns="part", values=column)
        drop = (wide[part] - wide[shuffled]).reset_index(name="drop")
        interval = crossed_interval(drop["drop"], drop["seed"], drop["id"], confidence=confidence)
        found |= flatten(f"{column}_drop", interval)
    found["passes"] = bool(found["energy_drop_low"] > 0 and found["correlation_drop_low"] > 0)
    return found
