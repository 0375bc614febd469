"""Rates and their intervals, against scipy and by their definitions."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, entropy

from diffcore import metrics


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.sampled_from([0.8, 0.95, 0.99]))
def test_a_rate_has_wilsons_interval(hits, confidence):
    found = metrics.rate(hits, confidence)
    expected = binomtest(sum(hits), len(hits)).proportion_ci(confidence, method="wilson")
    assert found["rate"] == pytest.approx(np.mean(hits))
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_a_rate_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="at least one observation"):
        metrics.rate([])


def test_rates_are_tidy_and_keep_the_order_of_groups():
    table = pd.DataFrame({"w": [3, 3, 1], "a": [True, False, True], "b": [False, False, False]})
    found = metrics.rates(table, ["a", "b"], "w", 0.95)
    assert found[["w", "measure", "rate", "n"]].to_numpy().tolist() == [
        [3, "a", 0.5, 2], [3, "b", 0.0, 2], [1, "a", 1.0, 1], [1, "b", 0.0, 1],
    ]  # fmt: skip


def test_a_reduction_counts_pairs():
    without = np.array([True] * 60 + [False] * 40)
    with_ = np.array([True] * 10 + [False] * 90)
    found = metrics.reduction(without, with_)
    assert found["ratio"] == pytest.approx(60.5 / 10.5)
    assert found["low"] < found["ratio"] < found["high"]
    assert (found["rate_without"], found["rate_with"], found["n"]) == (0.6, 0.1, 100)


def test_a_reduction_to_nothing_is_finite_and_no_change_is_one():
    some = np.array([True, False] * 50)
    assert np.isfinite(metrics.reduction(some, np.zeros(100, bool))["high"])
    same = metrics.reduction(some, some)
    assert same["ratio"] == same["low"] == same["high"] == 1.0


def test_intervals_from_resampling_repeat_and_narrow():
    rng = np.random.default_rng(0)
    names = rng.choice(["a", "b", "c"], 400, p=[0.6, 0.3, 0.1])
    few, many = (metrics.bootstrap(metrics.entropy_bits, names[:n]) for n in (40, 400))
    assert metrics.bootstrap(metrics.entropy_bits, names[:40]) == few
    assert many["high"] - many["low"] < few["high"] - few["low"]


@given(st.lists(st.sampled_from("abcdef"), min_size=1))
def test_entropy_is_shannons(names):
    counts = pd.Series(names).value_counts()
    assert metrics.entropy_bits(names) == pytest.approx(entropy(counts, base=2), abs=1e-9)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1))
def test_entropy_within_groups_is_the_mean_over_groups(pairs):
    table = pd.DataFrame(pairs, columns=["name", "group"])
    expected = sum(
        len(rows) / len(table) * metrics.entropy_bits(rows["name"])
        for _, rows in table.groupby("group")
    )
    found = metrics.entropy_within(table["name"], table["group"])
    assert found["value"] == pytest.approx(expected, abs=1e-9)
    assert 0 <= found["low"] <= found["value"] <= found["high"]


def test_the_interval_of_an_entropy_covers_as_often_as_it_says():
    rng, shares = np.random.default_rng(0), [0.6, 0.3, 0.1]
    truth = entropy(shares, base=2)
    hits = []
    for _ in range(300):
        found = metrics.entropy_within(rng.choice(3, 400, p=shares), np.zeros(400))
        hits.append(found["low"] <= truth <= found["high"])
    assert 0.91 <= np.mean(hits) <= 0.99


GENERATED = pd.DataFrame(
    {
        "sample_id": ["1", "2", "3", "4"],
        "class_name": ["jay", "jay", "wren", "wren"],
        "context": ["forest", "street", "forest", ""],
    }
)


def judged():
    return metrics.judge(
        GENERATED,
        species=np.array(["jay", "wren", "wren", "wren"]),
        context=np.array(["forest", "street", "street", "forest"]),
        wellformed=np.array([True, True, False, True]),
        distractors=np.array([[True, False], [True, False], [False, True], [False, False]]),
        distractor_names=("tree", "car"),
        steered_away={"forest": ["car"], "street": ["tree", "car"], "": ["tree", "car"]},
    )


def test_an_image_is_judged_by_what_its_prompt_asked_for():
    table = judged()
    assert table["species_right"].tolist() == [True, False, True, True]
    assert table["context_right"].tolist() == [True, True, False, True]  # none asked for: right
    assert table["wrong"].tolist() == [False, True, True, False]


def test_only_what_is_steered_away_from_is_uninvited():
    table = judged()
    assert table["uninvited: tree"].tolist() == [False, True, False, False]  # no clutter in forests
    assert table["uninvited: car"].tolist() == [False, False, True, False]
    assert table["uninvited"].tolist() == [False, True, True, False]


def test_clutter_is_compared_by_thing_and_condition():
    found = metrics.compare_clutter({"a": judged(), "b": judged()}, ("tree", "car"), 0.95)
    assert found["thing"].tolist() == ["any of them", "tree", "car"] * 2
    assert found["condition"].tolist() == ["a"] * 3 + ["b"] * 3
    assert found["rate"].tolist() == [0.5, 0.25, 0.25] * 2


def test_a_pair_is_new_if_the_training_set_lacks_it():
    training = pd.DataFrame({"class_name": ["jay", "wren"], "context": ["forest", "street"]})
    new = metrics.unseen_share(GENERATED, training, "context")
    assert new.tolist() == [False, True, True, True]
