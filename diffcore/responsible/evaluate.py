"""Measure what else "responsible" asks of generated images: no leak of the test set, and balance.

Beyond the paper, whose public text names prompts, negative prompts and a filter, and no check of
this kind. Renders that stand beside generated images, as the measure of a leak, can be drawn for
Paperbirds alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import adjusted_mutual_info_score

from diffcore import stats
from diffcore.paperbirds.contexts import CONTEXTS
from diffcore.paperbirds.pretrain.stages import PLAN
from diffcore.paperbirds.render import render
from diffcore.responsible.copies import Vectors, as_vectors, nearest

_FRESH = 72  # sets the seeds of these renders apart from those of every split


def leakage(
    train: pd.DataFrame, generated: pd.DataFrame, vectors: Mapping[str, Vectors], encoder: Any,
    *, confidence: float, seed: int,
) -> pd.DataFrame:  # fmt: skip
    """Which of equally large sets are nearer to test images than the training set is.

    One generated image a training image, and a fresh render of the same class and context in the
    generator's style, which cannot know the test set: what both have in common is no leak.

    Takes metadata, that of generated images numbered from 0, and vectors of the sets "training",
    "generated" and, by names that begin so, "test"; adds the test to `closer_shares`.
    """
    rows = generated.drop_duplicates("source_id")
    renders = [
        render(row.class_name, row.context or CONTEXTS[0], (seed, _FRESH, place)).image
        for place, row in enumerate(rows.itertuples())
    ]
    used = train["source_id"].isin(rows["source_id"]).to_numpy()
    training = {space: each[used] for space, each in vectors["training"].items()}
    others = {
        "generated": {space: each[rows.index] for space, each in vectors["generated"].items()},
        "fresh renders": as_vectors(np.stack(renders), encoder, mirrored=True),
    }
    tests = [name for name in vectors if name.startswith("test")]
    tables = [closer_shares(vectors[t], training, others, confidence).assign(test=t) for t in tests]
    return pd.concat(tables, ignore_index=True)


def closer_shares(
    tests: Vectors, training: Vectors, others: Mapping[str, Vectors], confidence: float
) -> pd.DataFrame:
    """How often a test image is nearer to another set than to the training set.

    Generated images that had seen the test set would lie closer to it than they should. Sets are
    compared that are equally large, as the nearest of more images is nearer; others raise
    ValueError. A set as near as the training set has 1/2: images, space, value, low, high, n.
    """
    base, rows = nearest(tests, training), []
    for name, vectors in others.items():
        if any(len(vectors[space]) != len(training[space]) for space in vectors):
            raise ValueError(f"{name} must hold as many images as the training set")
        closer = base.assign(closer=nearest(tests, vectors)["distance"] < base["distance"])
        rows += [
            {"images": name, "space": space, **stats.proportion(hits, confidence)}
            for space, hits in closer.groupby("space", sort=False)["closer"]
        ]
    return pd.DataFrame(rows)


def nearness_to_seen(
    generated: pd.DataFrame, images: np.ndarray, encoder: Any, *, most: int, seed: int
) -> pd.DataFrame:
    """How near images are to what their generator was trained on, beside renders that cannot copy.

    The shipped model's own training images of the same species and context, at most so many,
    are rendered again; a fresh render of the same pair stands for what is near by chance. Pairs
    that the model never saw are left out.

    Takes metadata and images (N, 64, 64, 3) uint8. Returns a row an image and space: images
    ("generated" or "fresh renders"), query, space, distance, reference (the nearest image), seen
    (the number compared with).
    """
    seen, tables = _seen_by_generator(generated, most), []
    for place, row in enumerate(generated.itertuples()):
        posts = seen.get((row.class_name, row.context), [])
        if not posts:
            continue
        shown = np.stack([PLAN.studio.image(index) for index in posts])
        fresh = render(row.class_name, row.context, (seed, _FRESH, 1, place)).image
        pair = as_vectors(np.stack([images[place], fresh]), encoder)
        found = nearest(pair, as_vectors(shown, encoder))
        names = found["query"].map({0: "generated", 1: "fresh renders"})
        nearby = [shown[index] for index in found["reference"]]
        tables.append(found.assign(images=names, query=place, reference=nearby, seen=len(posts)))
    return pd.concat(tables, ignore_index=True)


def _seen_by_generator(generated: pd.DataFrame, most: int) -> dict[tuple[str, str], list[int]]:
    """Numbers of the text-to-image model's training images by (species, context) of some pairs."""
    wanted = set(zip(generated["class_name"], generated["context"], strict=True))
    seen: dict[tuple[str, str], list[int]] = {}
    for index in range(PLAN.studio.count):
        scene = PLAN.studio.scene(index)
        pair = scene.species, scene.context
        if pair in wanted and scene.malformation is None and len(seen.get(pair, [])) < most:
            seen.setdefault(pair, []).append(index)
    return seen


def balance(
    sets: Mapping[str, pd.DataFrame], contexts: Sequence[str], confidence: float
) -> pd.DataFrame:
    """How evenly sets cover classes and the contexts that there could be, a row a set.

    Entropies are in bits, that of contexts within a class; smallest_class is a share; pairs is the
    share of all pairs of class and context that occur; tie, how much a context tells of the class,
    is the adjusted mutual information of both: 0 as by chance, 1 if each determines the other.
    """
    rows = []
    for name, table in sets.items():
        classes, scenes = table["class_name"], table["context"]
        within = stats.entropy_within(scenes, classes, confidence)
        overall = stats.entropy_within(classes, np.zeros(len(classes)))
        rows.append({
            "set": name, "images": len(table), "class_entropy": overall["value"],
            "smallest_class": float(classes.value_counts(normalize=True).min()),
            "context_entropy": within["value"], "context_low": within["low"],
            "context_high": within["high"],
            "pairs": scenes.groupby(classes).nunique().sum() / (classes.nunique() * len(contexts)),
            "tie": float(adjusted_mutual_info_score(classes, scenes)),
        })  # fmt: skip
    return pd.DataFrame(rows)
