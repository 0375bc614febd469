"""Measure what else "responsible" asks of generated images: no leak of the test set, and balance.

Beyond the paper, whose public text names prompts, negative prompts and a filter, and no check of
this kind. Renders that stand beside generated images, as the measure of a leak, can be drawn for
Paperbirds alone.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from sklearn.metrics import adjusted_mutual_info_score

from diffcore import stats
from diffcore.measure.near_copies import Vectors, nearest


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
