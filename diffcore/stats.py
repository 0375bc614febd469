"""Every interval and test of the study: a row of ``value, low, high, n`` and, of tests, ``p``.

All intervals are 95 %. A docstring says what an interval is over; for trained classifiers the
column ``interval over`` does. A replicate is a training set with its own generated and test images.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.multitest import multipletests
from statsmodels.tools import add_constant

#: value, low, high, n and perhaps p, by name.
Row = dict[str, float]
Values = Sequence[float] | np.ndarray

CONFIDENCE = 0.95
_TAILS = (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2
_RESAMPLES = 2000


def proportion(hits: Values) -> Row:
    """Share of True among N observations with its Wilson interval; of nothing, 0 in [0, 1].

    >>> {key: round(value, 3) for key, value in proportion([True] * 9 + [False]).items()}
    {'value': 0.9, 'low': 0.596, 'high': 0.982, 'n': 10}
    """
    values = np.asarray(hits, bool)
    if not len(values):
        return _row(0.0, 0.0, 1.0, 0)
    test = stats.binomtest(int(values.sum()), len(values))
    return _row(values.mean(), *test.proportion_ci(CONFIDENCE, method="wilson"), len(values))


def bootstrap(statistic: Callable[[np.ndarray], float], values: Values, seed: int = 0) -> Row:
    """Statistic of N values with its percentile bootstrap over them."""
    values, rng = np.asarray(values), np.random.default_rng(seed)
    resampled = [statistic(rng.choice(values, len(values))) for _ in range(_RESAMPLES)]
    return _row(statistic(values), *np.quantile(resampled, _TAILS), len(values))


def reduction(without: Values, with_: Values) -> Row:
    """How many times rarer an event becomes over N pairs, with an exact conditional interval.

    Both say for the same pairs, (N,) bool, whether the event happened. Of x events without and y
    with, x is binomial given x + y: the interval is Clopper and Pearson's (1934) for x / (x + y),
    turned into odds. It is too wide where a pair has the event both times (McNemar, 1947). With
    y = 0 `value` is the lower end, to be read "at least", and `high` is infinite.

    >>> {key: round(value, 1) for key, value in reduction([True] * 66, [False] * 66).items()}
    {'value': 17.4, 'low': 17.4, 'high': inf, 'n': 66}
    """
    before, after = (int(np.sum(np.asarray(hits, bool))) for hits in (without, with_))
    if not before + after:
        return _row(0.0, 0.0, np.inf, len(without))
    ends = stats.binomtest(before, before + after).proportion_ci(CONFIDENCE, method="exact")
    low, high = (share / (1 - share) if share < 1 else np.inf for share in ends)
    return _row(before / after if after else low, low, high, len(without))


def entropy_within(names: Sequence[str] | np.ndarray, groups: Sequence | np.ndarray) -> Row:
    """Entropy of the names within a group in bits, averaged over groups by size.

    Each group gets Miller's correction (1955), (K - 1) / (2 n ln 2) bits for K names among n; our
    choice: up to log2 of the number of all names. The interval is the normal one of the plug-in
    estimate (Basharin, 1959), as resampled names would be less varied than the sample.

    >>> entropy_within(["snow", "rain", "snow", "snow"], ["jay", "jay", "wren", "wren"])["value"]
    0.5
    """
    table = pd.crosstab(np.asarray(groups), np.asarray(names)).to_numpy()
    sizes = table.sum(axis=1)
    shares = table / sizes[:, None]
    surprise = -np.log2(np.where(shares > 0, shares, 1.0))
    entropies = (shares * surprise).sum(axis=1)
    variances = ((shares * surprise**2).sum(axis=1) - entropies**2) / sizes
    missing = ((table > 0).sum(axis=1) - 1) / (2 * sizes * np.log(2))
    entropies = (entropies + missing).clip(max=np.log2(table.shape[1]))
    weights = sizes / sizes.sum()
    value, spread = weights @ entropies, np.sqrt(weights**2 @ variances.clip(min=0))
    reach = stats.norm.ppf(_TAILS[1]) * spread
    return _row(value, max(0.0, value - reach), value + reach, len(names))


def mean(values: Values) -> Row:
    """Mean of N values with Student's interval; ValueError for fewer than two.

    >>> {key: round(value, 2) for key, value in mean([0.8, 0.9, 1.0]).items()}
    {'value': 0.9, 'low': 0.65, 'high': 1.15, 'n': 3}
    """
    row = crossed(values, range(len(values)))
    return {name: row[name] for name in ("value", "low", "high", "n")}


def crossed(values: Values, *factors: Sequence | np.ndarray) -> Row:
    """Mean of N values with Student's interval over several crossed factors; p is of its being 0.

    A factor says what each value belongs to, such as its seed or its image. The variances of the
    factors are added (Cameron, Gelbach & Miller, Robust inference with multiway clustering, 2011).
    Our choice: what they share is not subtracted, so that the interval is rather too wide.
    ValueError if no factor has two levels.
    """
    values = np.asarray(values, float)
    codes = [pd.factorize(np.asarray(factor))[0] for factor in factors]
    codes = [code for code in codes if len(code) and code.max() > 0]
    if not codes:
        raise ValueError("an interval needs at least two seeds or two images")
    sizes = np.array([code.max() + 1 for code in codes])
    apart = (values - values.mean()) / len(values)
    sums = np.array([(np.bincount(code, apart) ** 2).sum() for code in codes])
    variances = sizes / (sizes - 1) * sums
    # Satterthwaite's degrees of freedom: near those of the factor with the largest variance.
    shares = variances / max(variances.sum(), np.finfo(float).tiny)
    degrees = 1 / max((shares**2 / (sizes - 1)).sum(), 1 / (sizes.max() - 1))
    value, error = values.mean(), np.sqrt(variances.sum())
    reach = stats.t.ppf(_TAILS[1], degrees) * error
    alike = error <= 1e-12  # but for rounding
    p = abs(value) <= 1e-12 if alike else 2 * stats.t.sf(abs(value) / error, degrees)
    return _row(value, value - reach, value + reach, len(values)) | {"p": float(p)}


def over_runs(runs: pd.DataFrame, column: str) -> Row:
    """Mean over runs of one setting, its p, and in ``interval over`` what its interval is over.

    It is over replicates, each counting once, if the column "replicate" has several. Else it is
    over seeds and, with a column `column` + " hits" ((N,) each), over test images too (`crossed`).
    """
    values = np.stack(list(runs.get(f"{column} hits", runs[[column]].to_numpy()))).astype(float)
    replicates = runs["replicate"].to_numpy() if "replicate" in runs else np.zeros(len(runs))
    if len(np.unique(replicates)) > 1:
        means = pd.Series(values.mean(axis=1)).groupby(replicates).mean().to_numpy()
        return crossed(means, range(len(means))) | {"interval over": f"{len(means)} replicates"}
    seeds, images = np.indices(values.shape)
    row = crossed(values.ravel(), seeds.ravel(), images.ravel())
    also = f" and {values.shape[1]} images" if values.shape[1] > 1 else ""
    return row | {"interval over": f"{len(values)} seeds{also}"}


def paired(runs: pd.DataFrame, method: str, baseline: str, column: str) -> Row:
    """Difference of two methods over the seeds and replicates that both have, as `over_runs`.

    From one seed they share initial weights, order of images and crops. Takes one row per method
    and seed; ValueError if the two do not share two seeds or more.
    """
    by = [name for name in ("replicate", "seed") if name in runs]
    columns = [name for name in (column, f"{column} hits") if name in runs]
    tables = runs.set_index(by).groupby("method")[columns]
    one, other = (tables.get_group(name) for name in (method, baseline))
    shared = one.index.intersection(other.index)
    difference = one.loc[shared] - other.loc[shared]
    return over_runs(difference.reset_index(), column)


def gains(runs: pd.DataFrame, baseline: str, columns: Sequence[str]) -> pd.DataFrame:
    """Every method against one baseline: method, test, columns of `paired`, p_holm per test."""
    methods = [name for name in runs["method"].unique() if name != baseline]
    tables = []
    for column in columns:
        rows = pd.DataFrame(
            {"method": name, "test": column} | paired(runs, name, baseline, column)
            for name in methods
        )
        tables.append(with_holm(rows))
    return pd.concat(tables, ignore_index=True)


def with_holm(rows: pd.DataFrame) -> pd.DataFrame:
    """Add p_holm: the p of all rows, one family, corrected after Holm."""
    return rows.assign(p_holm=multipletests(rows["p"], method="holm")[1])


def over_points(runs: pd.DataFrame, tests: Sequence[str]) -> pd.DataFrame:
    """Average the runs of a sweep over its points: one row per method, replicate and seed."""
    columns = [name for test in tests for name in (test, f"{test} hits") if name in runs]
    by = [name for name in ("method", "replicate", "seed") if name in runs]
    return pd.DataFrame(
        group | {name: np.mean(list(points[name]), axis=0) for name in columns}
        for group, points in _groups(runs, by)
    )


def fit_gains(runs: pd.DataFrame, factors: Sequence[str], test: str) -> pd.DataFrame:
    """Fit gains over vanilla by factors and their products of two, each scaled to [-1/2, 1/2].

    Least squares over cells, each the mean of its seeds. A factor's effect is the change of the
    gain over its range, with the others half way; that of a product is how much one factor's effect
    changes over the other's range. One row per method and factor, with p and r2.
    """
    wide = runs.pivot(index=[*factors, "seed"], columns="method", values=test)
    gains = wide.drop(columns="vanilla").sub(wide["vanilla"], axis=0)
    cells = gains.groupby(list(factors), as_index=False).mean()
    varied = [name for name in factors if cells[name].nunique() > 1]
    terms = cells[varied].apply(lambda x: (x - x.min()) / np.ptp(x) - 0.5)
    for a, b in combinations(varied, 2):
        terms[f"{a} × {b}"] = terms[a] * terms[b]
    effects = []
    for method in gains.columns:
        fit = OLS(cells[method], add_constant(terms)).fit()
        ends = fit.conf_int(1 - CONFIDENCE)
        for name in terms:
            row = _row(fit.params[name], *ends.loc[name], len(cells)) | {"p": fit.pvalues[name]}
            effects.append({"method": method, "factor": name, **row, "r2": fit.rsquared})
    return pd.DataFrame(effects)


def best_method(runs: pd.DataFrame, among: Sequence[str], column: str) -> str:
    """Name the method with the highest mean, where each replicate counts once."""
    some = runs[runs["method"].isin(among)]
    by = [name for name in ("method", "replicate") if name in runs]
    means = some.groupby(by, sort=False)[column].mean().groupby("method", sort=False).mean()
    return str(means.idxmax())


def median_ratio(above: Values, below: Values) -> Row:
    """Median over repeats of the ratio of two times, with the interval of order statistics.

    A repeat's two times stay together, as what slows the machine down slows both. The interval
    assumes no distribution (Conover, Practical Nonparametric Statistics, 1999). With fewer than six
    repeats it is their range, which holds the median in 1 - 2^(1 - N) of all cases, 75 % with
    three. ValueError if the repeats differ in number, or are fewer than two.

    >>> median_ratio([1.0, 1.0, 9.0], [4.0, 4.0, 4.0])
    {'value': 0.25, 'low': 0.25, 'high': 2.25, 'n': 3}
    """
    above, below = np.asarray(above, float), np.asarray(below, float)
    if above.shape != below.shape or len(above) < 2:
        raise ValueError(f"as many repeats of each, two or more: got {len(above)}, {len(below)}")
    ratios = np.sort(above / below)
    k = max(1, int(stats.binom.ppf(_TAILS[0], len(ratios), 0.5)))
    return _row(np.median(ratios), ratios[k - 1], ratios[-k], len(ratios))


def tabulate(
    table: pd.DataFrame,
    by: str | Sequence[str],
    columns: Iterable[str],
    statistic: Callable[[pd.Series], Row] = mean,
    name: str = "measure",
) -> pd.DataFrame:
    """Compute a statistic within groups: columns of `by`, `name` (a column's), and of a row."""
    return pd.DataFrame(
        {**group, name: column} | statistic(rows[column])
        for group, rows in _groups(table, by)
        for column in columns
    )


def accuracies(runs: pd.DataFrame, by: str | Sequence[str], tests: Iterable[str]) -> pd.DataFrame:
    """Mean accuracy of runs within groups, tidy: the columns of `by`, test, and of `over_runs`."""
    rows = [
        {**group, "test": test} | over_runs(table, test)
        for group, table in _groups(runs, by)
        for test in tests
    ]
    return pd.DataFrame(rows).drop(columns="p")


def _groups(table: pd.DataFrame, by: str | Sequence[str]) -> Iterator[tuple[dict, pd.DataFrame]]:
    """Yield the values of the columns `by` and the rows of each group, in the table's order."""
    by = [by] if isinstance(by, str) else list(by)
    for group, rows in table.groupby(by, sort=False):
        yield dict(zip(by, group, strict=True)), rows


def flatten(name: str, row: Row) -> dict[str, float]:
    """Spell a row as numbers for a report: `name`, and `name` with ``_low``, ``_high``, ``_p``.

    >>> flatten("drop", {"value": 0.2, "low": 0.1, "high": 0.3, "n": 9})
    {'drop': 0.2, 'drop_low': 0.1, 'drop_high': 0.3}
    """
    ends = {f"{name}_{key}": row[key] for key in ("low", "high", "p") if key in row}
    return {name: row["value"], **ends}


def _row(value: float, low: float, high: float, n: int) -> Row:
    return {"value": float(value), "low": float(low), "high": float(high), "n": n}
