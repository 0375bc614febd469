"""Numbers of the study, each with an interval: rates, ratios of paired rates, entropies.

What generated images show is read by an oracle or a classifier and laid beside what their prompts
asked for (`judge`); everything after that takes plain tables.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import norm
from statsmodels.stats.proportion import proportion_confint

_RESAMPLES = 2000


# ----------------------------------------------------------------------------------- what was drawn
def judge(
    generated: pd.DataFrame,
    *,
    species: np.ndarray,
    context: np.ndarray,
    wellformed: np.ndarray,
    distractors: np.ndarray,
    distractor_names: Sequence[str],
    steered_away: Mapping[str, Sequence[str]],
) -> pd.DataFrame:
    """Compare what an oracle sees in N images with what their prompts asked for.

    Args:
        generated: rows with ``sample_id``, ``class_name``, ``context``; the context may be empty.
        species: name seen, (N,).
        context: name seen, (N,).
        wellformed: whether one whole object is seen, (N,) bool.
        distractors: whether each distractor is seen, (N, D) bool.
        distractor_names: names of the D columns.
        steered_away: context -> distractors that a negative prompt names there. Only these count
            as uninvited; a tree is no clutter in a forest. Key "" stands for no context.

    Returns:
        One row an image: ``sample_id``, ``class_name``, ``context``, ``seen_species``,
        ``seen_context`` and the booleans ``species_right``, ``context_right`` (True where no
        context was asked for), ``wellformed``, ``wrong`` (wrong species or malformed) and
        ``uninvited`` (at least one distractor), besides one ``uninvited: <name>`` each.
    """
    judged = generated[["sample_id", "class_name", "context"]].reset_index(drop=True)
    asked = judged["context"].to_numpy()
    judged["seen_species"], judged["seen_context"] = species, context
    judged["species_right"] = judged["class_name"].to_numpy() == species
    judged["context_right"] = (asked == context) | (asked == "")
    judged["wellformed"] = wellformed
    judged["wrong"] = ~(judged["species_right"] & judged["wellformed"])
    counted = np.array([[n in steered_away[c] for n in distractor_names] for c in asked])
    uninvited = distractors & counted
    judged["uninvited"] = uninvited.any(axis=1)
    for column, name in enumerate(distractor_names):
        judged[f"uninvited: {name}"] = uninvited[:, column]
    return judged


# ------------------------------------------------------------------------------------- intervals
def rate(hits: Sequence[bool] | np.ndarray, confidence: float = 0.95) -> dict[str, float]:
    """A proportion with its Wilson interval: rate, low, high in [0, 1], and n.

    >>> {key: round(value, 3) for key, value in rate([True] * 9 + [False]).items()}
    {'rate': 0.9, 'low': 0.596, 'high': 0.982, 'n': 10}

    Raises:
        ValueError: for no observation at all.
    """
    values = np.asarray(hits, bool)
    if not len(values):
        raise ValueError("a rate needs at least one observation")
    low, high = proportion_confint(values.sum(), len(values), 1 - confidence, method="wilson")
    return {"rate": float(values.mean()), "low": float(low), "high": float(high), "n": len(values)}


def rates(table: pd.DataFrame, columns: Sequence[str], by: str, confidence: float) -> pd.DataFrame:
    """Rates of boolean columns within groups, tidy: `by`, measure, rate, low, high, n."""
    return pd.DataFrame(
        {by: group, "measure": column, **rate(rows[column], confidence)}
        for group, rows in table.groupby(by, sort=False)
        for column in columns
    )


def summary(
    table: pd.DataFrame, columns: Sequence[str], confidence: float
) -> dict[str, dict[str, float]]:
    """Rates of boolean columns: measure -> rate, low, high, n."""
    return {column: rate(table[column], confidence) for column in columns}


def tabulate(
    tables: Mapping[str, pd.DataFrame], columns: Sequence[str], confidence: float
) -> pd.DataFrame:
    """Rates of the same columns in several tables, tidy: setting, measure, rate, low, high, n."""
    named = [table.assign(setting=name) for name, table in tables.items()]
    return rates(pd.concat(named), columns, "setting", confidence)


def compare_clutter(
    judged: Mapping[str, pd.DataFrame], names: Sequence[str], confidence: float
) -> pd.DataFrame:
    """Rates of uninvited distractors, tidy: thing, condition, rate, low, high, n."""
    labels = {"uninvited": "any of them", **{f"uninvited: {name}": name for name in names}}
    table = tabulate(judged, list(labels), confidence)
    table["thing"] = table["measure"].map(labels)
    return table.rename(columns={"setting": "condition"}).drop(columns="measure")


def reduction(
    without: np.ndarray, with_: np.ndarray, confidence: float = 0.95, seed: int = 0
) -> dict[str, float]:
    """How many times rarer an event becomes, over N pairs: ratio, low, high, two rates and n.

    Half an event is added to both counts, so that the ratio exists where none is left (it then
    errs on the small side). The interval is a percentile bootstrap over the pairs.

    Args:
        without: whether it happened without the treatment, (N,) bool.
        with_: whether it happened with the treatment, same pairs, (N,) bool.
    """
    pairs = np.stack([np.asarray(without, bool), np.asarray(with_, bool)], axis=1)

    def ratio(counts: np.ndarray) -> np.ndarray:
        return (counts[..., 0] + 0.5) / (counts[..., 1] + 0.5)

    chosen = np.random.default_rng(seed).integers(len(pairs), size=(_RESAMPLES, len(pairs)))
    low, high = _percentiles(ratio(pairs[chosen].sum(axis=1)), confidence)
    return {
        "ratio": float(ratio(pairs.sum(axis=0))), "low": low, "high": high,
        "rate_without": float(pairs[:, 0].mean()), "rate_with": float(pairs[:, 1].mean()),
        "n": len(pairs),
    }  # fmt: skip


def entropy_bits(names: Sequence[str] | np.ndarray) -> float:
    """Shannon entropy of the names' frequencies in bits; 0 for one name, log2(K) for K equal ones.

    >>> entropy_bits(["snow", "rain", "snow", "rain"])
    1.0
    """
    _, counts = np.unique(np.asarray(names), return_counts=True)
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum() + 0.0)


def entropy_within(
    names: Sequence[str] | np.ndarray, groups: Sequence[str] | np.ndarray, confidence: float = 0.95
) -> dict[str, float]:
    """Entropy of the names within a group in bits, averaged over groups by size: value, low, high.

    The interval is the normal one of the plug-in estimate; a bootstrap would be off, as resampled
    names are less varied than the sample. Source: Basharin, On a statistical estimate for the
    entropy of a sequence of independent random variables, 1959.

    >>> entropy_within(["snow", "rain", "snow", "snow"], ["jay", "jay", "wren", "wren"])["value"]
    0.5
    """
    table = pd.crosstab(np.asarray(groups), np.asarray(names)).to_numpy()
    sizes = table.sum(axis=1)
    shares = table / sizes[:, None]
    surprise = -np.log2(np.where(shares > 0, shares, 1.0))
    entropies = (shares * surprise).sum(axis=1)
    variances = ((shares * surprise**2).sum(axis=1) - entropies**2) / sizes
    weights = sizes / sizes.sum()
    value = float(weights @ entropies)
    reach = float(norm.ppf((1 + confidence) / 2) * np.sqrt(weights**2 @ variances.clip(min=0)))
    return {"value": value, "low": max(0.0, value - reach), "high": value + reach}


def bootstrap(
    statistic: Callable[[np.ndarray], float],
    values: Sequence[str] | np.ndarray,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, float]:
    """A statistic of N values with a percentile-bootstrap interval: value, low, high, n."""
    values, rng = np.asarray(values), np.random.default_rng(seed)
    resampled = [statistic(rng.choice(values, len(values))) for _ in range(_RESAMPLES)]
    low, high = _percentiles(np.array(resampled), confidence)
    return {"value": float(statistic(values)), "low": low, "high": high, "n": len(values)}


def _percentiles(values: np.ndarray, confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


# ---------------------------------------------------------------------------------- the contexts
def unseen_share(generated: pd.DataFrame, training: pd.DataFrame, context: str) -> np.ndarray:
    """Whether each generated image shows its class in a context that the training set lacks.

    Args:
        generated: rows with ``class_name`` and the column named by `context`.
        training: rows with ``class_name`` and ``context``.

    Returns:
        (N,) bool; its mean is the share of new combinations of class and context.
    """
    known = set(zip(training["class_name"], training["context"], strict=True))
    drawn = zip(generated["class_name"], generated[context], strict=True)
    return np.array([pair not in known for pair in drawn])
