"""Intervals and tests, against scipy, by hand, and by simulation."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from diffcore import stats

SCORES = {"a": [0.5, 0.6, 0.7, 0.6], "b": [0.55, 0.68, 0.74, 0.63], "c": [0.5, 0.61, 0.65, 0.6]}


@pytest.fixture
def runs():
    rows = [
        {"method": name, "seed": seed, "matched": value, "shifted": value / 2}
        for name, values in SCORES.items()
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=0)  # the order must not matter


def ends(row):
    return row["low"], row["high"]


# ------------------------------------------------------------------------------------- over images
@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_a_proportion_has_wilsons_interval(drawn):
    n, hits = drawn
    row = stats.proportion([True] * hits + [False] * (n - hits))
    z, p = 1.959963984540054, hits / n
    centre, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    expected = np.array([centre - half, centre + half]) / (1 + z**2 / n)
    assert ends(row) == pytest.approx(expected, abs=1e-9)
    assert (row["value"], row["n"]) == (p, n)
    assert stats.proportion([]) == {"value": 0.0, "low": 0.0, "high": 1.0, "n": 0}


def test_the_bootstrap_is_scipys_by_percentiles():
    """Of a dozen skewed values, so that another method gives other ends."""
    values = np.random.default_rng(1).exponential(size=12)
    intervals = [ends(stats.bootstrap(np.mean, values, seed)) for seed in range(5)]

    def away(method):
        expected = scipy_stats.bootstrap((values,), np.mean, method=method, rng=1)
        return np.abs(np.mean(intervals, axis=0) - expected.confidence_interval).max()

    assert away("percentile") < 0.03
    assert min(away("basic"), away("BCa")) > 0.1
    assert len(set(intervals)) == 5  # a seed decides, and repeats
    assert ends(stats.bootstrap(np.mean, values, 4)) == intervals[4]
    assert stats.bootstrap(np.mean, values)["value"] == values.mean()


def test_a_reduction_has_the_exact_ends_of_the_odds():
    """At each end, what was seen or more would be seen in 2.5 % of studies."""
    row = stats.reduction(np.arange(40) < 20, np.arange(40) < 5)
    assert (row["value"], row["n"]) == (4, 40)
    low, high = (ratio / (1 + ratio) for ratio in ends(row))  # of 25 events, those without
    assert scipy_stats.binom.sf(19, 25, low) == pytest.approx(0.025)
    assert scipy_stats.binom.cdf(20, 25, high) == pytest.approx(0.025)


def test_a_reduction_to_nothing_has_no_upper_end():
    row = stats.reduction(np.arange(240) < 66, np.zeros(240, bool))
    # All 66 events fell on one side: at odds of `low`, that happens in 2.5 % of studies.
    assert (row["low"] / (1 + row["low"])) ** 66 == pytest.approx(0.025)
    assert (row["value"], row["high"]) == (row["low"], np.inf)  # "at least"
    nothing = stats.reduction([False] * 9, [False] * 9)
    assert nothing == {"value": 0, "low": 0, "high": np.inf, "n": 9}


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1))
def test_a_reduction_turned_round_is_its_reciprocal(pairs):
    without, with_ = np.array(pairs).T
    there, back = stats.reduction(without, with_), stats.reduction(with_, without)
    assert there["low"] <= there["value"] <= there["high"]
    if back["low"] > 0:
        assert there["high"] == pytest.approx(1 / back["low"])
    if without.any() and with_.any():
        assert there["value"] == pytest.approx(1 / back["value"])


def test_the_interval_of_a_reduction_covers_it():
    """Also where pairs have the event both times, which can make it too wide, not too narrow."""
    rng, chances, hits = np.random.default_rng(0), [0.02, 0.2, 0.03], []
    for _ in range(300):
        kind = rng.choice(4, 120, p=[*chances, 1 - sum(chances)])
        low, high = ends(stats.reduction(kind < 2, (kind == 0) | (kind == 2)))
        hits.append(low <= 0.22 / 0.05 <= high)
    assert np.mean(hits) >= 0.93


@given(st.lists(st.sampled_from("abcd"), min_size=1))
def test_an_entropy_is_that_of_its_shares_with_millers_term_up_to_that_of_equal_ones(names):
    value = stats.entropy_within(names, [0] * len(names))["value"]
    counts = np.unique(names, return_counts=True)[1]
    missing = (len(counts) - 1) / (2 * len(names) * np.log(2))
    plain = scipy_stats.entropy(counts, base=2)
    assert value == pytest.approx(min(plain + missing, np.log2(len(counts))), abs=1e-9)


def test_entropies_and_intervals_of_groups_join_by_size():
    names, groups = [*"aabbcccc", *"ddde"], [0] * 8 + [1] * 4
    one, two = (stats.entropy_within(part, [0] * len(part)) for part in (names[:8], names[8:]))
    # The entropy of the shares, and Miller's term, as five names leave room for it.
    plain = 1.5 + 2 / (16 * np.log(2)), scipy_stats.entropy([3, 1], base=2) + 1 / (8 * np.log(2))
    both, value = stats.entropy_within(names, groups), 2 / 3 * plain[0] + 1 / 3 * plain[1]
    reach = np.hypot(2 / 3 * (one["high"] - one["value"]), (two["high"] - two["value"]) / 3)
    assert (both["value"], *ends(both)) == pytest.approx((value, value - reach, value + reach))
    assert stats.entropy_within([*"ddddddde"], [0] * 8)["low"] == 0  # it would lie below


def test_the_interval_of_an_entropy_covers_it():
    rng, truth = np.random.default_rng(1), scipy_stats.entropy([0.5, 0.3, 0.2], base=2)
    hits = []
    for _ in range(300):
        low, high = ends(stats.entropy_within(rng.choice(3, 400, p=[0.5, 0.3, 0.2]), [0] * 400))
        hits.append(low < truth < high)
    assert np.mean(hits) == pytest.approx(0.95, abs=0.04)


# --------------------------------------------------------------------------------------- over seeds
def test_a_mean_has_students_interval():
    row, values = stats.mean(SCORES["a"]), np.array(SCORES["a"])
    reach = 3.1824463053 * values.std(ddof=1) / 2  # t of three degrees of freedom, by a table
    assert ends(row) == pytest.approx((0.6 - reach, 0.6 + reach))
    assert row["n"] == 4


def test_one_value_has_no_interval(runs):
    for alone in (
        lambda: stats.mean([0.5]),
        lambda: stats.crossed([0.5, 0.6], [1, 1]),
        lambda: stats.paired(runs[runs["seed"] == 0], "b", "a", "matched"),
    ):
        with pytest.raises(ValueError, match="at least two seeds or two images"):
            alone()


def test_a_difference_is_paired(runs):
    row = stats.paired(runs, "b", "a", "matched")
    test = scipy_stats.ttest_rel(SCORES["b"], SCORES["a"])
    interval = test.confidence_interval(0.95)
    assert (*ends(row), row["p"]) == pytest.approx((interval.low, interval.high, test.pvalue))
    assert row["value"] == pytest.approx(0.05)
    assert stats.paired(runs, "a", "b", "matched")["value"] == pytest.approx(-0.05)
    itself = {"value": 0.0, "low": 0.0, "high": 0.0, "n": 4, "p": 1.0, "interval over": "4 seeds"}
    assert stats.paired(runs, "a", "a", "matched") == itself
    equal = stats.paired(runs.assign(matched=1.0 * (runs["method"] == "b")), "b", "a", "matched")
    assert equal == itself | {"value": 1, "low": 1, "high": 1, "p": 0}


def test_p_values_are_corrected_after_holm_on_each_test_set(runs, monkeypatch):
    p = {"matched": {"b": 0.03, "c": 0.01, "d": 0.04}, "shifted": {"b": 0.6, "c": 0.2, "d": 0.9}}
    monkeypatch.setattr(stats, "paired", lambda _, name, baseline, column: {"p": p[column][name]})
    more = pd.concat([runs, runs[runs["method"] == "a"].assign(method="d")])
    rows = stats.gains(more, "a", ["matched", "shifted"])
    assert rows["test"].tolist() == ["matched"] * 3 + ["shifted"] * 3
    held = rows.set_index(["test", "method"])["p_holm"]
    # Smallest first: 3 x 0.01, 2 x 0.03, then 1 x 0.04, which must not be below the one before.
    assert held["matched"][["c", "b", "d"]].tolist() == pytest.approx([0.03, 0.06, 0.06])
    # 3 x 0.2; 2 x 0.6, which is cut to 1; and 1 x 0.9, which must not be below that.
    assert held["shifted"][["c", "b", "d"]].tolist() == pytest.approx([0.6, 1.0, 1.0])


SEEDS, IMAGES = np.divmod(np.arange(200), 40)  # a table of 5 seeds x 40 images


def draw_table(rng, seed, image, rest):
    """Values around 0, with these standard deviations of seeds, images and what is left."""
    seeds, images = seed * rng.normal(size=5)[SEEDS], image * rng.normal(size=40)[IMAGES]
    return seeds + images + rest * rng.normal(size=200)


@pytest.mark.parametrize(
    ("spread", "expected"), [((1, 0, 0), 0.95), ((1, 2, 1), 0.955), ((0, 0, 1), 0.993)]
)
def test_a_crossed_interval_covers_as_often_as_theory_says(spread, expected):
    """Never too rarely; too often where the rest alone varies, which counts twice."""
    rng = np.random.default_rng(0)
    rows = [stats.crossed(draw_table(rng, *spread), SEEDS, IMAGES) for _ in range(500)]
    covered = np.mean([low < 0 < high for low, high in map(ends, rows)])
    assert covered == pytest.approx(expected, abs=0.02)


def test_a_crossed_interval_adds_the_variance_of_images_to_that_of_seeds():
    values = draw_table(np.random.default_rng(0), 1, 2, 1)
    table, low_high = values.reshape(5, 40), ends(stats.crossed(values, SEEDS, IMAGES))
    errors = [scipy_stats.sem(table.mean(axis=axis)) for axis in (0, 1)]
    weights = np.square(errors) / np.square(errors).sum()
    degrees = 1 / (weights**2 / [39, 4]).sum()
    reach = scipy_stats.t.ppf(0.975, degrees) * np.hypot(*errors)
    assert low_high == pytest.approx((values.mean() - reach, values.mean() + reach))
    one = stats.crossed(SCORES["a"], range(4), [0] * 4)
    assert ends(one) == pytest.approx(ends(stats.mean(SCORES["a"])))


# -------------------------------------------------------------------------------- turns and tables
@given(st.integers(6, 40))
def test_a_ratio_has_the_order_statistics_of_scipys_test_of_a_quantile(count):
    rng = np.random.default_rng(count)
    ratios, below = rng.gamma(9.0, size=count), rng.uniform(1, 10, count)  # a machine slow at times
    expected = scipy_stats.quantile_test(ratios).confidence_interval(0.95)
    row = stats.median_ratio(ratios * below, below)
    assert ends(row) == pytest.approx((expected.low, expected.high))


def test_few_repeats_have_their_range_which_holds_the_median_less_often():
    drawn = np.random.default_rng(0).lognormal(size=(1000, 3))
    rows = [stats.median_ratio(each, np.ones(3)) for each in drawn]
    assert ends(rows[0]) == (drawn[0].min(), drawn[0].max())
    assert np.mean([row["low"] <= 1 <= row["high"] for row in rows]) == pytest.approx(
        0.75, abs=0.03
    )
    for above, few in (([1.0], [1.0]), ([1.0, 2.0], [1.0])):
        with pytest.raises(ValueError, match="as many repeats of each, two or more: got"):
            stats.median_ratio(above, few)


def test_groups_keep_apart(runs):
    table = stats.tabulate(runs, "method", ["matched", "shifted"], name="test")
    row = table.set_index(["method", "test"]).loc["b", "shifted"]
    assert row["value"] == pytest.approx(np.mean(SCORES["b"]) / 2)


# ----------------------------------------------------------------------- runs, hits and replicates
def some_runs(replicates, seeds, images=50, seed=0):
    """Runs of two methods that say which images they got right, `b` more often than `a`."""
    rng, rows = np.random.default_rng(seed), []
    cells = product(range(replicates), range(seeds), (("a", 0.4), ("b", 0.6)))
    for replicate, turn, (method, rate) in cells:
        hits = (rng.random(images) < rate).astype(np.int8)
        run = {"method": method, "replicate": replicate, "seed": 1000 * replicate + turn}
        rows.append(run | {"top1": hits.mean(), "top1 hits": hits})
    return pd.DataFrame(rows)


def test_within_one_replicate_the_interval_is_over_seeds_and_images():
    runs = some_runs(1, 5)
    row = stats.paired(runs, "b", "a", "top1")
    assert row["interval over"] == "5 seeds and 50 images"
    one, other = (np.stack(list(rows["top1 hits"])) for _, rows in runs.groupby("method"))
    seeds, images = np.indices(one.shape)
    expected = stats.crossed((other.astype(float) - one).ravel(), seeds.ravel(), images.ravel())
    assert ends(row) == pytest.approx(ends(expected))
    assert row["value"] == pytest.approx(other.mean() - one.mean())


def test_of_several_replicates_each_counts_once_whatever_its_seeds():
    runs = some_runs(4, 3)
    runs = runs[(runs["replicate"] > 0) | (runs["seed"] == 0)]  # of the first, one seed alone
    row = stats.paired(runs, "b", "a", "top1")
    means = runs.pivot_table(index="replicate", columns="method", values="top1")
    test = scipy_stats.ttest_rel(means["b"], means["a"])
    interval = test.confidence_interval(0.95)
    assert row["interval over"] == "4 replicates"
    assert (*ends(row), row["p"]) == pytest.approx((interval.low, interval.high, test.pvalue))
    table = stats.accuracies(runs, "method", ["top1"]).set_index("method")
    assert table["value"].to_dict() == pytest.approx(means.mean().to_dict())
    assert "p" not in table
    rows = [("a", 0, 0.9)] * 3 + [("a", 1, 0.1), ("b", 0, 0.6), ("b", 1, 0.6)]
    few = pd.DataFrame(rows, columns=["method", "replicate", "top1"])
    assert stats.best_method(few, ["a", "b"], "top1") == "b"
    assert stats.best_method(few.drop(columns="replicate"), ["a", "b"], "top1") == "a"


@given(st.integers(0, 10**6))
def test_a_p_falls_below_its_level_as_the_interval_leaves_zero(seed):
    row = stats.paired(some_runs(1, 3, 20, seed=seed), "b", "a", "top1")
    assert (row["low"] > 0 or row["high"] < 0) == (row["p"] < 0.05)


def test_a_sweep_is_averaged_over_its_points():
    runs = pd.concat(some_runs(2, 2, seed=n).assign(point=n) for n in (0, 1))
    mean = stats.over_points(runs, ["top1"])
    assert len(mean) == len(runs) / 2
    row = mean.iloc[0]
    same = runs[(runs["method"] == row["method"]) & (runs["seed"] == row["seed"])]
    assert row["top1"] == pytest.approx(same["top1"].mean())
    assert row["top1 hits"].tolist() == np.mean(list(same["top1 hits"]), axis=0).tolist()


def test_fitted_gains_are_those_that_were_put_in():
    """A gain of 10 points, more by 4 from the first bias to the last, and less by 6 with size."""
    rows = []
    for bias, size, seed in product((0.0, 0.5, 1.0), (1, 2, 3), (0, 1)):
        gain = 0.10 + 0.04 * (bias - 0.5) - 0.06 * (size - 2) / 2 + 0.02 * (bias - 0.5) * (size - 2)
        for method, top1 in (("vanilla", 0.5), ("ours", 0.5 + gain)):
            rows.append({"bias": bias, "size": size, "seed": seed, "method": method, "top1": top1})
    effects = stats.fit_gains(pd.DataFrame(rows), ["bias", "size"], "top1")
    values = effects.set_index("factor")["value"].to_dict()
    assert values == pytest.approx({"bias": 0.04, "size": -0.06, "bias × size": 0.04})
    assert effects["r2"].iloc[0] == pytest.approx(1)
