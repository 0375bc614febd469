"""What generated images show beside what their prompts name, and how varied they are.

Whatever judges the images, here are only tables of its judgements; nothing filters or trains by
them. Distance and diversity need embeddings alone, so that a sampler's setting may rest on them.
"""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.linalg import sqrtm

from diffcore import stats
from diffcore.prompts.prompt_set import PromptSet, negatives_for, write_prompt


def ablations(
    plan: pd.DataFrame, prompt_set: PromptSet, count: int, seed: int
) -> dict[str, pd.DataFrame]:
    """Take `count` random samples of a plan, each from the same noise under three prompts."""
    chosen = plan.sample(min(count, len(plan)), random_state=seed).sort_index(ignore_index=True)
    return {
        "plain prompt": without_context(chosen, prompt_set).assign(negative_prompt=""),
        "with context": chosen.assign(negative_prompt=""),
        "context and negatives": chosen,
    }


def without_context(plan: pd.DataFrame, prompt_set: PromptSet) -> pd.DataFrame:
    """Return the same samples from the same noise, with negatives but without a context."""
    names = plan["class_name"]
    return plan.assign(
        context="",
        prompt=[write_prompt(prompt_set, name) for name in names],
        negative_prompt=[", ".join(negatives_for(prompt_set, "", name)) for name in names],
    )


def context_statistics(judged: Mapping[str, pd.DataFrame], training: pd.DataFrame) -> pd.DataFrame:
    """How varied contexts are, and how many pairs of class and context the training set lacks.

    Tidy: condition ("training set" and those of `judged`), measure ("entropy" of the contexts
    within a class in bits, or "new_pairs", a share), value, low, high, n.
    """
    tables = {"training set": training.assign(seen_context=training["context"]), **judged}
    known, rows = set(zip(training["class_name"], training["context"], strict=True)), []
    for name, table in tables.items():
        classes, contexts = table["class_name"], table["seen_context"]
        new = [pair not in known for pair in zip(classes, contexts, strict=True)]
        entropy, share = stats.entropy_within(contexts, classes), stats.proportion(new)
        rows.append({"condition": name, "measure": "entropy", **entropy})
        rows.append({"condition": name, "measure": "new_pairs", **share})
    return pd.DataFrame(rows)


def frechet_distance(left: np.ndarray, right: np.ndarray) -> float:
    """Fréchet distance of two sets of embeddings, (N, D) and (M, D), as if each were Gaussian.

    In squared units of the embedding; it needs more images than dimensions (Heusel et al., GANs
    Trained by a Two Time-Scale Update Rule, 2017; there with Inception's features).
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
    spreads = {}
    for name, places in pd.Series(list(groups)).groupby(list(groups)).indices.items():
        if (count := len(places)) > 1:
            inner = embeddings[places] @ embeddings[places].T
            spreads[name] = float(1 - (inner.sum() - np.trace(inner)) / (count * (count - 1)))
    return pd.Series(spreads)


def diversity(generated: pd.Series, reference: pd.Series, seed: int) -> stats.Row:
    """Spread within a prompt as a share of the reference's: the ratio of means over prompts.

    Takes two of `spread_within`; the interval is a bootstrap over the prompts that both have.
    Without any, it is 0 in [0, 1].
    """
    pairs = pd.concat([generated, reference], axis=1, join="inner").to_numpy()
    if not len(pairs):
        return {"value": 0.0, "low": 0.0, "high": 1.0, "n": 0}
    return stats.bootstrap(lambda p: p[:, 0].mean() / p[:, 1].mean(), pairs, seed)
