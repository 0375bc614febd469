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
    found = stats.proportion([True] * hits + [False] * (n - hits))
    z, p = 1.959963984540054, hits / n
    centre, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    expected = np.array([centre - half, centre + half]) / (1 + z**2 / n)
    assert ends(found) == pytest.approx(expected, abs=1e-9)
    assert (found["value"], found["n"]) == (p, n)


def test_a_proportion_of_nothing_is_anything():
    assert stats.proportion([]) == {"value": 0.0, "low": 0.0, "high": 1.0, "n": 0}


def test_the_bootstrap_is_scipys_by_percentiles():
    """Of a dozen skewed values, so that another method or confidence gives other ends."""
    values = np.random.default_rng(1).exponential(size=12)
    found = [ends(stats.bootstrap(np.mean, values, 0.9, seed)) for seed in range(5)]

    def away(method, confidence):
        interval = scipy_stats.bootstrap(
            (values,), np.mean, confidence_level=confidence, method=method, rng=1
        ).confidence_interval
        return np.abs(np.mean(found, axis=0) - interval).max()

    assert away("percentile", 0.9) < 0.03
    assert min(away("percentile", 0.95), away("basic", 0.9), away("BCa", 0.9)) > 0.1
    assert len(set(found)) == 5  # a seed decides
    assert stats.bootstrap(np.mean, values)["value"] == values.mean()


def test_a_reduction_has_the_exact_ends_of_the_odds():
    """At each end, what was seen or more would be found in 2.5 % of studies."""
    found = stats.reduction(np.arange(40) < 20, np.arange(40) < 5)
    assert (found["value"], found["n"]) == (4, 40)
    low, high = (ratio / (1 + ratio) for ratio in ends(found))  # of 25 events, those without
    assert scipy_stats.binom.sf(19, 25, low) == pytest.approx(0.025)
    assert scipy_stats.binom.cdf(20, 25, high) == pytest.approx(0.025)


def test_a_reduction_to_nothing_has_no_upper_end():
    found = stats.reduction(np.arange(240) < 66, np.zeros(240, bool))
    assert found["high"] == np.inf
    # All 66 events fell on one side: at odds of `low`, that happens in 2.5 % of studies.
    assert (found["low"] / (1 + found["low"])) ** 66 == pytest.approx(0.025)
    assert found["value"] == found["low"]  # "at least"
    assert stats.reduction([False] * 9, [False] * 9) == {
        "value": 0, "low": 0, "high": np.inf, "n": 9,
    }  # fmt: skip


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1))
def test_a_reduction_turned_round_is_its_reciprocal(pairs):
    without, with_ = np.array(pairs).T
    there, back = stats.reduction(without, with_), stats.reduction(with_, without)
    assert there["low"] <= there["value"] <= there["high"]
    if back["low"] > 0:
        assert there["high"] == pytest.approx(1 / back["low"])
    if without.any() and with_.any():
        assert there["value"] == pytest.approx(1 / back["value"])


@pytest.mark.parametrize("both", [0.0, 0.02, 0.1])
def test_the_interval_of_a_reduction_covers_it(both):
    """Pairs that have the event both times can make it too wide, and not too narrow."""
    rng, chances, n = np.random.default_rng(0), [both, 0.2, 0.03], 120
    truth = (both + 0.2) / (both + 0.03)
    hits = []
    for _ in range(500):
        kind = rng.choice(4, n, p=[*chances, 1 - sum(chances)])
        low, high = ends(stats.reduction(kind < 2, (kind == 0) | (kind == 2)))
        hits.append(low <= truth <= high)
    assert np.mean(hits) >= 0.93


def test_the_entropy_within_groups_is_weighted_by_their_sizes():
    names, groups = [*list("aabbcccc"), "d", "e"], [1] * 8 + [2] * 2
    found = stats.entropy_within(names, groups)
    # The entropy of the shares, and Miller's (K - 1) / (2 n ln 2).
    three, two = 1.5 + 2 / (16 * np.log(2)), 1.0 + 1 / (4 * np.log(2))
    assert found["value"] == pytest.approx(0.8 * three + 0.2 * two)


@given(st.lists(st.sampled_from("abcd"), min_size=1))
def test_an_entropy_lies_between_that_of_its_shares_and_that_of_equal_ones(names):
    found = stats.entropy_within(names, [0] * len(names))["value"]
    counts = np.unique(names, return_counts=True)[1]
    plain = scipy_stats.entropy(counts, base=2)
    assert plain - 1e-9 <= found <= np.log2(len(counts)) + 1e-9
    assert found <= plain + (len(counts) - 1) / (2 * len(names) * np.log(2)) + 1e-9


def test_a_small_samples_entropy_is_biased_less():
    """Of twenty names from six, the shares alone miss a sixth of a bit."""
    chances = [0.3, 0.2, 0.2, 0.1, 0.1, 0.1]
    names = np.random.default_rng(0).choice(6, (200, 20), p=chances)
    plain = np.mean([scipy_stats.entropy(np.bincount(each), base=2) for each in names])
    found = stats.entropy_within(names.ravel(), np.repeat(np.arange(200), 20))["value"]
    truth = scipy_stats.entropy(chances, base=2)
    assert plain < truth - 0.15
    assert found == pytest.approx(truth, abs=0.06)


def test_the_intervals_of_two_groups_entropies_join_by_their_squares():
    names, groups = [*"aabbcccc", *"ddde"], [0] * 8 + [1] * 4
    one, two = (stats.entropy_within(part, [0] * len(part)) for part in (names[:8], names[8:]))
    expected = np.hypot(2 / 3 * (one["high"] - one["value"]), (two["high"] - two["value"]) / 3)
    both = stats.entropy_within(names, groups)
    assert ends(both) == pytest.approx((both["value"] - expected, both["value"] + expected))
    narrow = stats.entropy_within(names, groups, confidence=0.6826894921)
    assert narrow["high"] - narrow["value"] == pytest.approx(expected / 1.959964)
    assert stats.entropy_within([*"ddddddde"], [0] * 8)["low"] == 0  # it would lie below


def test_the_interval_of_an_entropy_covers_it():
    rng, truth = np.random.default_rng(0), scipy_stats.entropy([0.5, 0.3, 0.2], base=2)
    hits = []
    for _ in range(500):
        low, high = ends(stats.entropy_within(rng.choice(3, 400, p=[0.5, 0.3, 0.2]), [0] * 400))
        hits.append(low < truth < high)
    assert np.mean(hits) == pytest.approx(0.95, abs=0.04)


# --------------------------------------------------------------------------------------- over seeds
def test_a_mean_has_students_interval():
    found, values = stats.mean(SCORES["a"], 0.9), np.array(SCORES["a"])
    reach = 2.3533634348 * values.std(ddof=1) / 2  # t of three degrees of freedom, by a table
    assert ends(found) == pytest.approx((0.6 - reach, 0.6 + reach))
    assert found["n"] == 4


def test_one_value_has_no_interval(runs):
    with pytest.raises(ValueError, match="at least two seeds"):
        stats.mean([0.5])
    with pytest.raises(ValueError, match="at least two seeds"):
        stats.paired(runs[runs["seed"] == 0], "b", "a", "matched")


def test_a_difference_is_paired(runs):
    found = stats.paired(runs, "b", "a", "matched")
    test = scipy_stats.ttest_rel(SCORES["b"], SCORES["a"])
    interval = test.confidence_interval(0.95)
    assert (*ends(found), found["p"]) == pytest.approx((interval.low, interval.high, test.pvalue))
    assert found["value"] == pytest.approx(0.05)
    assert stats.paired(runs, "a", "b", "matched")["value"] == pytest.approx(-0.05)
    itself = stats.paired(runs, "a", "a", "matched")
    assert itself == {"value": 0.0, "low": 0.0, "high": 0.0, "n": 4, "p": 1.0, "covers": "4 seeds"}


def test_equal_differences_are_no_reason_to_divide_by_zero():
    rows = [{"method": m, "seed": s, "top1": v} for m, v in (("a", 0), ("b", 1)) for s in (0, 1)]
    found = stats.paired(pd.DataFrame(rows), "b", "a", "top1")
    assert found == {"value": 1, "low": 1, "high": 1, "n": 2, "p": 0, "covers": "2 seeds"}


def test_gains_have_the_confidence_that_is_asked_for(runs):
    often, seldom = (stats.gains(runs, "a", ["matched"], share) for share in (0.95, 0.5))
    assert (seldom["high"] < often["high"]).all()


def test_p_values_are_corrected_after_holm_on_each_test_set(runs, monkeypatch):
    p = {"matched": {"b": 0.03, "c": 0.01, "d": 0.04}, "shifted": {"b": 0.6, "c": 0.2, "d": 0.9}}
    monkeypatch.setattr(
        stats, "paired", lambda _, name, baseline, column, *rest: {"p": p[column][name]}
    )
    more = pd.concat([runs, runs[runs["method"] == "a"].assign(method="d")])
    found = stats.gains(more, "a", ["matched", "shifted"])
    assert found["test"].tolist() == ["matched"] * 3 + ["shifted"] * 3
    held = found.set_index(["test", "method"])["p_holm"]
    # Smallest first: 3 x 0.01, 2 x 0.03, then 1 x 0.04, which must not be below the one before.
    assert held["matched"][["c", "b", "d"]].tolist() == pytest.approx([0.03, 0.06, 0.06])
    # 3 x 0.2; 2 x 0.6, which is cut to 1; and 1 x 0.9, which must not be below that.
    assert held["shifted"][["c", "b", "d"]].tolist() == pytest.approx([0.6, 1.0, 1.0])


SEEDS, IMAGES = np.divmod(np.arange(200), 40)  # a table of 5 seeds x 40 images


def draw_table(rng, seed, image, rest):
    """Values around 0, with these standard deviations of seeds, images and what is left."""
    return (
        seed * rng.normal(size=5)[SEEDS] + image * rng.normal(size=40)[IMAGES]
        + rest * rng.normal(size=200)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("spread", "expected"),
    [((1, 0, 0), 0.95), ((1, 2, 1), 0.955), ((0, 1, 0), 0.95), ((0, 0, 1), 0.993)],
)
def test_a_crossed_interval_covers_as_often_as_theory_says(spread, expected):
    """Never too rarely; too often where the rest alone varies, which counts twice.

    Satterthwaite's degrees of freedom are near those of the factor with the largest variance, so
    that the t is that of 4 degrees where seeds vary, and of 39 where images do.
    """
    rng = np.random.default_rng(0)
    found = [stats.crossed(draw_table(rng, *spread), SEEDS, IMAGES) for _ in range(800)]
    covered = np.mean([low < 0 < high for low, high in map(ends, found)])
    assert covered == pytest.approx(expected, abs=0.013)


def test_a_crossed_interval_adds_the_variance_of_images_to_that_of_seeds():
    values = draw_table(np.random.default_rng(0), 1, 2, 1)
    table, low_high = values.reshape(5, 40), ends(stats.crossed(values, SEEDS, IMAGES))
    errors = [scipy_stats.sem(table.mean(axis=axis)) for axis in (0, 1)]
    weights = np.square(errors) / np.square(errors).sum()
    degrees = 1 / (weights**2 / [39, 4]).sum()
    reach = scipy_stats.t.ppf(0.975, degrees) * np.hypot(*errors)
    assert low_high == pytest.approx((values.mean() - reach, values.mean() + reach))


def test_an_interval_over_one_factor_covers_too_rarely_where_both_vary():
    rng, seeds, images = np.random.default_rng(0), [], []
    for _ in range(300):
        values = draw_table(rng, 1, 3, 1)
        seeds.append(ends(stats.mean(values.reshape(5, 40).mean(axis=1))))
        images.append(ends(stats.crossed(values, IMAGES)))
    for found in (seeds, images):
        assert np.mean([low < 0 < high for low, high in found]) < 0.9


def test_a_crossed_interval_of_one_factor_is_students():
    one = stats.crossed(SCORES["a"], range(4), [0] * 4)
    assert ends(one) == pytest.approx(ends(stats.mean(SCORES["a"])))
    with pytest.raises(ValueError, match="at least two seeds or two images"):
        stats.crossed([0.5, 0.6], [1, 1])


# -------------------------------------------------------------------------------- turns and tables
def test_a_ratio_keeps_the_two_times_of_a_repeat_together():
    below = np.random.default_rng(0).uniform(1, 10, 20)  # a machine that is slow for a while
    found = stats.median_ratio(2 * below, below)
    assert (found["value"], *ends(found)) == pytest.approx((2, 2, 2))
    for above, few in (([1.0], [1.0]), ([1.0, 2.0], [1.0])):
        with pytest.raises(ValueError, match="as many repeats of each, two or more: got"):
            stats.median_ratio(above, few)


@given(st.integers(6, 40), st.sampled_from([0.8, 0.9, 0.95]))
def test_a_ratio_has_the_order_statistics_of_scipys_test_of_a_quantile(count, confidence):
    ratios = np.random.default_rng(count).gamma(9.0, size=count)
    expected = scipy_stats.quantile_test(ratios).confidence_interval(confidence)
    assert ends(stats.median_ratio(3 * ratios, [3.0] * count, confidence)) == pytest.approx(
        (expected.low, expected.high)
    )


@pytest.mark.parametrize("count", [2, 3, 5])
def test_few_repeats_have_their_range_which_holds_the_median_less_often(count):
    drawn = np.random.default_rng(0).lognormal(size=(2000, count))
    rows = [stats.median_ratio(each, np.ones(count)) for each in drawn]
    assert ends(rows[0]) == (drawn[0].min(), drawn[0].max())
    held = np.mean([row["low"] <= 1 <= row["high"] for row in rows])
    assert held == pytest.approx(1 - 2.0 ** (1 - count), abs=0.03)


def test_a_seed_decides_what_the_bootstrap_draws_anew():
    values = np.random.default_rng(0).random(50)
    first, again, other = (stats.bootstrap(np.mean, values, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert ends(first) != ends(other)


def test_groups_and_points_keep_apart(runs):
    table = stats.tabulate(runs, "method", ["matched", "shifted"], name="test")
    row = table.set_index(["method", "test"]).loc["b", "shifted"]
    assert row["value"] == pytest.approx(np.mean(SCORES["b"]) / 2)
    both = pd.concat([runs.assign(point=0.2, matched=0.5), runs.assign(point=0.1)])
    found = stats.gain_over(both, "b", "a", "matched")
    assert found["point"].tolist() == [0.1, 0.2]
    assert found["value"].tolist() == pytest.approx([0.05, 0.0])
    assert stats.best_method(runs, ["a", "c"], "matched") == "a"


# ----------------------------------------------------------------------- runs, hits and worlds
def some_runs(worlds, seeds, images=50, gain=0.2, seed=0):
    """Runs of two methods that say which images they got right, `b` more often than `a`."""
    rng, rows = np.random.default_rng(seed), []
    for world, turn, (method, rate) in product(
        range(worlds), range(seeds), (("a", 0.4), ("b", 0.4 + gain))
    ):
        hits = (rng.random(images) < rate).astype(np.int8)
        told = {"method": method, "world": world, "seed": 1000 * world + turn}
        rows.append(told | {"top1": hits.mean(), "top1 hits": hits})
    return pd.DataFrame(rows)


def test_of_one_world_the_interval_is_over_seeds_and_images():
    runs = some_runs(1, 5)
    found = stats.paired(runs, "b", "a", "top1")
    assert found["covers"] == "5 seeds and 50 images"
    one, other = (np.stack(list(rows["top1 hits"])) for _, rows in runs.groupby("method"))
    seeds, images = np.indices(one.shape)
    expected = stats.crossed((other.astype(float) - one).ravel(), seeds.ravel(), images.ravel())
    assert ends(found) == pytest.approx(ends(expected))
    assert found["value"] == pytest.approx(other.mean() - one.mean())


def test_of_several_worlds_each_counts_once_whatever_its_seeds():
    runs = some_runs(4, 3)
    runs = runs[(runs["world"] > 0) | (runs["seed"] == 0)]  # of the first, one seed alone
    found = stats.paired(runs, "b", "a", "top1")
    means = runs.pivot_table(index="world", columns="method", values="top1")
    test = scipy_stats.ttest_rel(means["b"], means["a"])
    interval = test.confidence_interval(0.95)
    assert found["covers"] == "4 worlds"
    assert (*ends(found), found["p"]) == pytest.approx((interval.low, interval.high, test.pvalue))
    table = stats.accuracies(runs, "method", ["top1"]).set_index("method")
    assert table["value"].to_dict() == pytest.approx(means.mean().to_dict())
    assert "p" not in table


@given(st.integers(0, 10**6))
def test_a_p_falls_below_its_level_as_the_interval_leaves_zero(seed):
    found = stats.paired(some_runs(1, 3, 20, seed=seed), "b", "a", "top1")
    assert (found["low"] > 0 or found["high"] < 0) == (found["p"] < 0.05)


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
    found = effects.set_index("factor")["value"].to_dict()
    assert found == pytest.approx({"bias": 0.04, "size": -0.06, "bias × size": 0.04})
    assert effects["r2"].iloc[0] == pytest.approx(1)


def test_the_best_method_is_so_over_worlds_not_over_runs():
    rows = [("a", 0, 0.9)] * 3 + [("a", 1, 0.1), ("b", 0, 0.6), ("b", 1, 0.6)]
    runs = pd.DataFrame(rows, columns=["method", "world", "top1"])
    assert stats.best_method(runs, ["a", "b"], "top1") == "b"
    assert stats.best_method(runs.drop(columns="world"), ["a", "b"], "top1") == "a"
