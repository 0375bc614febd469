"""Statistics of trainings that were repeated from several seeds.

Two methods are compared seed by seed: from one seed they share initial weights, order of images and
crops, so their differences vary less than they do themselves. Intervals and p-values are those of
Student's t over the seeds. They speak of other seeds on these very images; how the result would
vary with other images they do not know.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests


def mean_interval(values: Sequence[float] | np.ndarray, confidence: float = 0.95) -> dict:
    """Mean of N values with its t-interval: mean, low, high, and n.

    >>> {key: round(value, 2) for key, value in mean_interval([0.8, 0.9, 1.0]).items()}
    {'mean': 0.9, 'low': 0.65, 'high': 1.15, 'n': 3}

    Raises:
        ValueError: for fewer than two values.
    """
    values = np.asarray(values, float)
    if len(values) < 2:
        raise ValueError(f"an interval over seeds needs two values or more, got {len(values)}")
    reach = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1) * stats.sem(values))
    mean = float(values.mean())
    return {"mean": mean, "low": mean - reach, "high": mean + reach, "n": len(values)}


def crossed_interval(
    values: Sequence[float] | np.ndarray, *factors: Sequence, confidence: float = 0.95
) -> dict[str, float]:
    """Mean of values with a t-interval over several crossed factors at once: value, low, high, n.

    Args:
        values: observations, (N,).
        factors: what each observation belongs to, such as its seed and its image, (N,) each. A
            factor with one level is left out: its variance is not known.
        confidence: coverage.

    Raises:
        ValueError: if no factor has two levels.
    """
    values = np.asarray(values, float)
    codes = [pd.factorize(np.asarray(factor))[0] for factor in factors]
    codes = [code for code in codes if len(code) and code.max() > 0]
    if not codes:
        raise ValueError("an interval needs at least two seeds or two images")
    sizes = np.array([code.max() + 1 for code in codes])
    apart = (values - values.mean()) / len(values)
    sums = [(np.bincount(code, apart) ** 2).sum() for code in codes]
    variance = (sizes / (sizes - 1) * sums).sum()
    reach = float(stats.t.ppf((1 + confidence) / 2, sizes.min() - 1) * np.sqrt(variance))
    mean = float(values.mean())
    return {"value": mean, "low": mean - reach, "high": mean + reach, "n": len(values)}


def summarise(
    table: pd.DataFrame, by: Sequence[str], columns: Sequence[str], confidence: float = 0.95
) -> pd.DataFrame:
    """Means over seeds within groups, tidy: the columns of `by`, test, mean, low, high, n."""
    return pd.DataFrame(
        {**dict(zip(by, group, strict=True)), "test": column}
        | mean_interval(rows[column], confidence)
        for group, rows in table.groupby(list(by), sort=False)
        for column in columns
    )


def paired_gain(
    table: pd.DataFrame, method: str, other: str, column: str, confidence: float = 0.95
) -> dict[str, float]:
    """By how much one method is above another, paired over seeds: gain, low, high, p, n.

    Args:
        table: rows with method, seed and `column`; one row a method and seed.
        method: name of the one.
        other: name of the other.
        column: what is compared.
        confidence: coverage of the interval.

    Returns:
        The difference of means with its interval, and the two-sided p-value of a paired t-test; p
        is 1 where the two do not differ at all.

    Raises:
        ValueError: if the two do not share two seeds or more.
    """
    wide = table.pivot(index="seed", columns="method", values=column)
    pairs = wide[[method, other]].dropna()
    if method == other:
        return {"gain": 0.0, "low": 0.0, "high": 0.0, "p": 1.0, "n": len(pairs)}
    difference = (pairs[method] - pairs[other]).to_numpy()
    found = mean_interval(difference, confidence)
    constant = np.ptp(difference) == 0
    p = float(difference[0] == 0) if constant else float(stats.ttest_1samp(difference, 0).pvalue)
    return {"gain": found["mean"], "low": found["low"], "high": found["high"], "p": p,
            "n": len(pairs)}  # fmt: skip


def gains(
    table: pd.DataFrame, other: str, columns: Sequence[str], confidence: float = 0.95
) -> pd.DataFrame:
    """Every method against one other, tidy: method, test, gain, low, high, p, n, p_holm.

    ``p_holm`` is corrected after Holm for the number of methods, on each test set apart.
    """
    methods = [name for name in table["method"].unique() if name != other]
    tables = []
    for column in columns:
        rows = [
            {"method": name, "test": column} | paired_gain(table, name, other, column, confidence)
            for name in methods
        ]
        rows = pd.DataFrame(rows)
        tables.append(rows.assign(p_holm=multipletests(rows["p"], method="holm")[1]))
    return pd.concat(tables, ignore_index=True)


def gain_over(
    table: pd.DataFrame, method: str, other: str, column: str, confidence: float = 0.95
) -> pd.DataFrame:
    """A paired gain at each value of a condition, tidy: value, gain, low, high, p, n."""
    return pd.DataFrame(
        {"value": value, **paired_gain(rows, method, other, column, confidence)}
        for value, rows in table.groupby("value")
    )


def best_method(table: pd.DataFrame, among: Sequence[str], column: str) -> str:
    """The method with the highest mean; being chosen as the best, it looks better than it is."""
    means = table[table["method"].isin(among)].groupby("method", sort=False)[column].mean()
    return str(means.idxmax())


def flatten(name: str, found: Mapping[str, float]) -> dict[str, float]:
    """Spell a gain or an interval as metrics: `name`, and `name` with ``_low``, ``_high``, ``_p``.

    >>> flatten("drop", {"value": 0.2, "low": 0.1, "high": 0.3, "n": 9})
    {'drop': 0.2, 'drop_low': 0.1, 'drop_high': 0.3}
    """
    value = found["gain"] if "gain" in found else found["value"]
    ends = {f"{name}_{key}": found[key] for key in ("low", "high", "p") if key in found}
    return {name: value, **ends}
