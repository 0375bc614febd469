"""Statistics over seeds, against scipy and by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from diffcore import comparison

SCORES = {"a": [0.5, 0.6, 0.7, 0.6], "b": [0.55, 0.68, 0.74, 0.63], "c": [0.5, 0.61, 0.65, 0.6]}


@pytest.fixture
def table():
    rows = [
        {"method": name, "seed": seed, "matched": value, "shifted": value / 2}
        for name, values in SCORES.items()
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=0)  # the order must not matter


def test_an_interval_is_students():
    found = comparison.mean_interval(SCORES["a"], 0.9)
    low, high = stats.t.interval(0.9, 3, np.mean(SCORES["a"]), stats.sem(SCORES["a"]))
    assert (found["mean"], found["low"], found["high"]) == pytest.approx((0.6, low, high))
    assert found["n"] == 4


def test_one_value_has_no_interval():
    with pytest.raises(ValueError, match="two values"):
        comparison.mean_interval([0.5])


def test_a_gain_is_paired(table):
    found = comparison.paired_gain(table, "b", "a", "matched")
    test = stats.ttest_rel(SCORES["b"], SCORES["a"])
    assert found["p"] == pytest.approx(test.pvalue)
    interval = test.confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx((interval.low, interval.high))
    assert found["gain"] == pytest.approx(0.05)
    other_way = comparison.paired_gain(table, "a", "b", "matched")
    assert other_way["gain"] == pytest.approx(-found["gain"])


def test_a_method_gains_nothing_over_itself(table):
    found = comparison.paired_gain(table, "a", "a", "matched")
    assert (found["gain"], found["p"], found["n"]) == (0, 1, 4)


def test_equal_differences_are_no_reason_to_divide_by_zero():
    rows = [{"method": m, "seed": s, "top1": v} for m, v in (("a", 0), ("b", 1)) for s in (0, 1)]
    found = comparison.paired_gain(pd.DataFrame(rows), "b", "a", "top1")
    assert (found["gain"], found["low"], found["high"], found["p"]) == (1, 1, 1, 0)


def test_p_values_are_corrected_on_each_test_set(table):
    found = comparison.gains(table, "a", ["matched", "shifted"])
    assert found["method"].tolist() == [m for m in table["method"].unique() if m != "a"] * 2
    for _, rows in found.groupby("test"):
        smallest = rows["p"].idxmin()
        assert rows.loc[smallest, "p_holm"] == pytest.approx(2 * rows["p"].min())
        assert (rows["p_holm"] >= rows["p"]).all()


def test_groups_are_summed_up_apart(table):
    found = comparison.summarise(table, ["method"], ["matched", "shifted"])
    row = found[(found["method"] == "b") & (found["test"] == "shifted")].iloc[0]
    assert row["mean"] == pytest.approx(np.mean(SCORES["b"]) / 2)
    assert len(found) == 6


def test_gains_at_each_value(table):
    both = pd.concat([table.assign(value=0.1), table.assign(value=0.2, matched=0.5)])
    found = comparison.gain_over(both, "b", "a", "matched")
    assert found["value"].tolist() == [0.1, 0.2]
    assert found["gain"].tolist() == pytest.approx([0.05, 0.0])


def test_the_best_is_the_highest_mean_among_those_asked_for(table):
    assert comparison.best_method(table, ["a", "c"], "matched") == "a"
    assert comparison.best_method(table, ["a", "b", "c"], "matched") == "b"


def test_a_gain_becomes_metrics():
    gain = {"gain": 0.1, "low": 0.0, "high": 0.2, "p": 0.04, "n": 5}
    assert comparison.flatten("x", gain) == {"x": 0.1, "x_low": 0.0, "x_high": 0.2, "x_p": 0.04}
