"""How near to renders, and how varied, generated images are: embeddings in, numbers out.

No oracle is asked: these are what a setting of the sampler may be chosen by.
"""

from collections.abc import Hashable, Sequence

import numpy as np
import pandas as pd
from scipy.linalg import sqrtm

from diffcore import stats


def frechet_distance(left: np.ndarray, right: np.ndarray) -> float:
    """Fréchet distance of two sets of embeddings, (N, D) and (M, D), as if each were Gaussian.

    In squared units of the embedding. It needs more images than dimensions. Source: Heusel et al.,
    GANs Trained by a Two Time-Scale Update Rule, 2017; there with Inception's features.
    """
    apart = left.mean(axis=0) - right.mean(axis=0)
    spread, other = np.cov(left, rowvar=False), np.cov(right, rowvar=False)
    joint = np.trace(sqrtm(spread @ other)).real
    return float(apart @ apart + np.trace(spread) + np.trace(other) - 2 * joint)


def spread_within(embeddings: np.ndarray, groups: Sequence[Hashable]) -> pd.Series:
    """Mean cosine distance of the images of each group to each other; groups of one are left out.

    >>> spread_within(np.eye(3)[[0, 0, 1, 2]], ["a", "a", "b", "b"]).to_dict()
    {'a': 0.0, 'b': 1.0}
    """
    found = {}
    for name, places in pd.Series(list(groups)).groupby(list(groups)).indices.items():
        if (count := len(places)) > 1:
            inner = embeddings[places] @ embeddings[places].T
            found[name] = float(1 - (inner.sum() - np.trace(inner)) / (count * (count - 1)))
    return pd.Series(found)


def diversity(
    generated: pd.Series, reference: pd.Series, confidence: float, seed: int
) -> stats.Row:
    """Spread within a prompt as a share of the reference's: the ratio of means over prompts.

    Takes two of `spread_within`; the interval is a bootstrap over the prompts that both have. Where
    there are none, nothing is known: 0 in [0, 1].
    """
    pairs = pd.concat([generated, reference], axis=1, join="inner").to_numpy()
    if not len(pairs):
        return {"value": 0.0, "low": 0.0, "high": 1.0, "n": 0}
    return stats.bootstrap(lambda p: p[:, 0].mean() / p[:, 1].mean(), pairs, confidence, seed)
