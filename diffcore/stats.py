"""Every interval and test of the study: a row of ``value, low, high, n`` and, of tests, ``p``.

What an interval covers is in its function's name and docstring: images (`proportion`), seeds of
training (`mean`), several such factors at once (`crossed`), repeats (`median_ratio`). Those of
trained classifiers (`over_runs`, `paired`) say it in a column, ``covers``: other worlds, which have
other training, generated and test images; or other seeds and other test images of one world.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.multitest import multipletests
from statsmodels.tools import add_constant

#: value, low, high, n and perhaps p, by name.
Row = dict[str, float]

_RESAMPLES = 2000


# -------------------------------------------------------------------------------------- over images
def proportion(hits: Sequence[bool] | np.ndarray, confidence: float = 0.95) -> Row:
    """Share of True among N observations with its Wilson interval; of nothing, 0 in [0, 1].

    >>> {key: round(value, 3) for key, value in proportion([True] * 9 + [False]).items()}
    {'value': 0.9, 'low': 0.596, 'high': 0.982, 'n': 10}
    """
    values = np.asarray(hits, bool)
    if not len(values):
        return _row(0.0, 0.0, 1.0, 0)
    test = stats.binomtest(int(values.sum()), len(values))
    return _row(values.mean(), *test.proportion_ci(confidence, method="wilson"), len(values))


def bootstrap(
    statistic: Callable[[np.ndarray], float],
    values: Sequence | np.ndarray,
    confidence: float = 0.95,
    seed: int = 0,
) -> Row:
    """Statistic of N values with its percentile bootstrap over them."""
    values, rng = np.asarray(values), np.random.default_rng(seed)
    resampled = [statistic(rng.choice(values, len(values))) for _ in range(_RESAMPLES)]
    ends = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    return _row(statistic(values), *ends, len(values))


def reduction(without: np.ndarray, with_: np.ndarray, confidence: float = 0.95) -> Row:
    """How many times rarer an event becomes over N pairs, with an exact conditional interval.

    Both say of the same pairs, (N,) bool, whether it happened. Of x events without and y with, x is
    binomial given x + y, its odds being the ratio: Clopper and Pearson's interval of the share
    x / (x + y), turned into odds. Where no pair has the event both times, x and y are McNemar's
    discordant counts, and it is exact; pairs that have it both times make it wider than need be.
    With y = 0 `value` is the lower end, to be read "at least", and `high` is infinite.

    Source: Clopper & Pearson, The use of confidence or fiducial limits, 1934; McNemar, Note on the
    sampling error of the difference between correlated proportions, 1947.

    >>> found = reduction([True] * 66, [False] * 66)
    >>> {key: round(value, 1) for key, value in found.items()}
    {'value': 17.4, 'low': 17.4, 'high': inf, 'n': 66}
    """
    before, after = (int(np.sum(np.asarray(hits, bool))) for hits in (without, with_))
    if not before + after:  # nothing happened, and nothing is known
        return _row(0.0, 0.0, np.inf, len(without))
    ends = stats.binomtest(before, before + after).proportion_ci(confidence, method="exact")
    low, high = (share / (1 - share) if share < 1 else np.inf for share in ends)
    return _row(before / after if after else low, low, high, len(without))


def entropy_within(
    names: Sequence[str] | np.ndarray, groups: Sequence[str] | np.ndarray, confidence: float = 0.95
) -> Row:
    """Entropy of the names within a group in bits, averaged over groups by size.

    A sample is less varied than what it was drawn from, by about (K - 1) / (2 n ln 2) bits for K
    names among n: this is added to each group. Our choice: up to log2 of all names that occur in
    any group, and no further. The interval is the normal one of the plug-in estimate; a bootstrap
    would be off, as resampled names are less varied than the sample.

    Source: Miller, Note on the bias of information estimates, 1955; of the variance, Basharin, On a
    statistical estimate for the entropy of a sequence of independent random variables, 1959.

    >>> names, groups = ["snow", "rain", "snow", "snow"], ["jay", "jay", "wren", "wren"]
    >>> entropy_within(names, groups)["value"]
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
    reach = stats.norm.ppf((1 + confidence) / 2) * spread
    return _row(value, max(0.0, value - reach), value + reach, len(names))


# --------------------------------------------------------------------------------------- over seeds
def mean(values: Sequence[float] | np.ndarray, confidence: float = 0.95) -> Row:
    """Mean of N values with Student's interval; ValueError for fewer than two.

    >>> {key: round(value, 2) for key, value in mean([0.8, 0.9, 1.0]).items()}
    {'value': 0.9, 'low': 0.65, 'high': 1.15, 'n': 3}
    """
    return without_p(crossed(values, range(len(values)), confidence=confidence))


def crossed(
    values: Sequence[float] | np.ndarray, *factors: Sequence, confidence: float = 0.95
) -> Row:
    """Mean of values with Student's interval over several crossed factors at once.

    The variances of the factors are added (Cameron, Gelbach & Miller, Robust inference with
    multiway clustering, 2011). Our choice: what they share is not taken off again, which makes the
    interval, if anything, too wide.

    A factor says what each of N observations belongs to, such as its seed or its image. One with a
    single level is left out: its variance is not known. ValueError if none has two.
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
    return _student(values, np.sqrt(variances.sum()), degrees, confidence)


def without_p(row: Row) -> Row:
    """Leave out the p of a row: that a share is 0 is no question."""
    return {name: value for name, value in row.items() if name != "p"}


def over_runs(runs: pd.DataFrame, column: str, confidence: float = 0.95) -> Row:
    """Mean over runs of one setting, with the p of its being 0 and what the interval ``covers``.

    Of several worlds (a column) each counts once, whatever its number of seeds: Student's interval
    over worlds. Of one world it is over its seeds and, where the runs say which images they got
    right (a column `column` + " hits", of (N,) each), over these too (`crossed`).
    """
    values = np.stack(list(runs.get(f"{column} hits", runs[[column]].to_numpy()))).astype(float)
    worlds = runs["world"].to_numpy() if "world" in runs else np.zeros(len(runs))
    if len(np.unique(worlds)) > 1:
        means = pd.Series(values.mean(axis=1)).groupby(worlds).mean().to_numpy()
        found = crossed(means, range(len(means)), confidence=confidence)
        return found | {"covers": f"{len(means)} worlds"}
    seeds, images = np.indices(values.shape)
    found = crossed(values.ravel(), seeds.ravel(), images.ravel(), confidence=confidence)
    also = f" and {values.shape[1]} images" if values.shape[1] > 1 else ""
    return found | {"covers": f"{len(values)} seeds{also}"}


def paired(
    runs: pd.DataFrame, method: str, baseline: str, column: str, confidence: float = 0.95
) -> Row:
    """Difference of two methods from the same seeds and worlds: interval and p as `over_runs`.

    From one seed they share initial weights, order of images and crops, so that their differences
    vary less than they do themselves. p is 1 where the two do not differ at all. Takes a row a
    method and seed; ValueError if the two do not share two seeds or more.
    """
    by = [name for name in ("world", "seed") if name in runs]
    columns = [name for name in (column, f"{column} hits") if name in runs]
    tables = runs.set_index(by).groupby("method")[columns]
    one, other = (tables.get_group(name) for name in (method, baseline))
    shared = one.index.intersection(other.index)
    difference = one.loc[shared] - other.loc[shared]
    return over_runs(difference.reset_index(), column, confidence)


def gains(
    runs: pd.DataFrame, baseline: str, columns: Sequence[str], confidence: float = 0.95
) -> pd.DataFrame:
    """Every method against one baseline, tidy: method, test, value, low, high, n, p, p_holm.

    ``p_holm`` is corrected after Holm for the number of methods, on each test set apart.
    """
    methods = [name for name in runs["method"].unique() if name != baseline]
    tables = []
    for column in columns:
        rows = pd.DataFrame(
            {"method": name, "test": column} | paired(runs, name, baseline, column, confidence)
            for name in methods
        )
        tables.append(with_holm(rows))
    return pd.concat(tables, ignore_index=True)


def with_holm(rows: pd.DataFrame) -> pd.DataFrame:
    """Add p_holm: the p of all rows, one family, corrected after Holm."""
    return rows.assign(p_holm=multipletests(rows["p"], method="holm")[1])


def over_points(runs: pd.DataFrame, tests: Sequence[str]) -> pd.DataFrame:
    """Average the runs of a sweep over its points: a row a method, world and seed."""
    columns = [name for test in tests for name in (test, f"{test} hits") if name in runs]
    by = [name for name in ("method", "world", "seed") if name in runs]
    rows = [
        dict(zip(by, group, strict=True)) | {name: np.mean(list(rows[name]), 0) for name in columns}
        for group, rows in runs.groupby(by, sort=False)
    ]
    return pd.DataFrame(rows)


def fit_gains(
    runs: pd.DataFrame, factors: Sequence[str], test: str, confidence: float = 0.95
) -> pd.DataFrame:
    """Fit gains over vanilla by factors and their products of two, each scaled to [-1/2, 1/2].

    Ordinary least squares over cells, each the mean of its seeds. An effect is the change of the
    gain from a factor's first to its last value, the others half way between theirs; that of a
    product is how much one factor's effect changes over the other's range.

    Returns a row a method and factor: method, factor, value, low, high, n, p, r2.
    """
    keys = [*factors, "seed"]
    wide = runs.pivot(index=keys, columns="method", values=test)
    gains = wide.drop(columns="vanilla").sub(wide["vanilla"], axis=0)
    cells = gains.groupby(list(factors), as_index=False).mean()
    factors = [name for name in factors if cells[name].nunique() > 1]
    scaled = cells[factors].apply(lambda x: (x - x.min()) / np.ptp(x) - 0.5)
    terms = scaled.assign(**{
        f"{a} × {b}": scaled[a] * scaled[b] for a, b in combinations(factors, 2)
    })  # fmt: skip
    effects = []
    for method in gains.columns:
        fit = OLS(cells[method], add_constant(terms)).fit()
        ends = fit.conf_int(1 - confidence)
        for name in terms:
            row = _row(fit.params[name], *ends.loc[name], len(cells)) | {"p": fit.pvalues[name]}
            effects.append({"method": method, "factor": name, **row, "r2": fit.rsquared})
    return pd.DataFrame(effects)


def best_method(runs: pd.DataFrame, among: Sequence[str], column: str) -> str:
    """The method with the highest mean, each world counting once.

    Being chosen as the best, it looks better than it is.
    """
    some = runs[runs["method"].isin(among)]
    by = ["method", *(["world"] if "world" in runs else [])]
    means = some.groupby(by, sort=False)[column].mean().groupby("method", sort=False).mean()
    return str(means.idxmax())


# ------------------------------------------------------------------------------------- over repeats
def median_ratio(
    above: Sequence[float] | np.ndarray, below: Sequence[float] | np.ndarray,
    confidence: float = 0.95,
) -> Row:  # fmt: skip
    """Median over repeats of the ratio of two times, with the interval of order statistics.

    A repeat's two times stay together: what slows the machine down for a while slows both. The
    interval asks for no distribution: the k-th smallest to the k-th largest of N ratios miss the
    median as seldom as a fair coin falls on one side less than k times. Of fewer than six repeats
    no two ratios reach 95 %: then it is their range, which holds the median in 1 - 2^(1 - N) of
    all cases, 75 % with three; a percentile bootstrap gives that very range, and calls it 95 %.

    Source: Conover, Practical Nonparametric Statistics, 1999, on confidence intervals of quantiles.

    ValueError if the repeats differ in number, or are fewer than two.

    >>> median_ratio([1.0, 1.0, 9.0], [4.0, 4.0, 4.0])
    {'value': 0.25, 'low': 0.25, 'high': 2.25, 'n': 3}
    """
    above, below = np.asarray(above, float), np.asarray(below, float)
    if above.shape != below.shape or len(above) < 2:
        raise ValueError(f"as many repeats of each, two or more: got {len(above)}, {len(below)}")
    ratios = np.sort(above / below)
    k = max(1, int(stats.binom.ppf((1 - confidence) / 2, len(ratios), 0.5)))
    return _row(np.median(ratios), ratios[k - 1], ratios[-k], len(ratios))


# ------------------------------------------------------------------------------------------- tables
def tabulate(
    table: pd.DataFrame,
    by: str | Sequence[str],
    columns: Iterable[str],
    statistic: Callable[[pd.Series, float], Row] = mean,
    confidence: float = 0.95,
    name: str = "measure",
) -> pd.DataFrame:
    """A statistic of columns within groups, tidy: the columns of `by`, `name`, value, low, high, n.

    The groups keep the table's order; `statistic` is `mean` or `proportion`, and `name` what the
    column is called that holds the names of `columns`.

    >>> runs = pd.DataFrame({"method": list("aabb"), "matched": [0.4, 0.6, 0.7, 0.9]})
    >>> tabulate(runs, "method", ["matched"], name="test")[["method", "test", "value", "n"]]
      method     test  value  n
    0      a  matched    0.5  2
    1      b  matched    0.8  2
    """
    by = [by] if isinstance(by, str) else list(by)
    return pd.DataFrame(
        {**dict(zip(by, group, strict=True)), name: column} | statistic(rows[column], confidence)
        for group, rows in table.groupby(by, sort=False)
        for column in columns
    )


def accuracies(
    runs: pd.DataFrame, by: str | Sequence[str], tests: Iterable[str], confidence: float = 0.95
) -> pd.DataFrame:
    """Mean accuracy of runs within groups, tidy: the columns of `by`, test, and of `over_runs`."""
    by = [by] if isinstance(by, str) else list(by)
    return pd.DataFrame(
        {**dict(zip(by, group, strict=True)), "test": test}
        | without_p(over_runs(rows, test, confidence))
        for group, rows in runs.groupby(by, sort=False)
        for test in tests
    )


def gain_over(
    runs: pd.DataFrame, method: str, baseline: str, column: str, confidence: float = 0.95
) -> pd.DataFrame:
    """A paired difference at each point of a sweep, tidy: point, value, low, high, n, p."""
    return pd.DataFrame(
        {"point": point, **paired(rows, method, baseline, column, confidence)}
        for point, rows in runs.groupby("point")
    )


def flatten(name: str, row: Mapping[str, float]) -> dict[str, float]:
    """Spell a row as numbers for a report: `name`, and `name` with ``_low``, ``_high``, ``_p``.

    >>> flatten("drop", {"value": 0.2, "low": 0.1, "high": 0.3, "n": 9})
    {'drop': 0.2, 'drop_low': 0.1, 'drop_high': 0.3}
    """
    ends = {f"{name}_{key}": row[key] for key in ("low", "high", "p") if key in row}
    return {name: row["value"], **ends}


def _student(values: np.ndarray, error: float, degrees: int, confidence: float) -> Row:
    """Student's interval around the mean of N values, from its standard error; p of its being 0."""
    value, reach = values.mean(), stats.t.ppf((1 + confidence) / 2, degrees) * error
    small = error <= 1e-12  # all alike but for rounding
    p = float(abs(value) <= 1e-12) if small else 2 * stats.t.sf(abs(value) / error, degrees)
    return _row(value, value - reach, value + reach, len(values)) | {"p": float(p)}


def _row(value: float, low: float, high: float, n: int) -> Row:
    return {"value": float(value), "low": float(low), "high": float(high), "n": n}
