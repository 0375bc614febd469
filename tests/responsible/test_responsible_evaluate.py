"""Leakage and balance, in cases of which the answer is known."""

import numpy as np
import pandas as pd
import pytest
from corner import spaces

from diffcore.measure.balance import balance, closer_shares


def test_a_set_that_knows_the_test_is_nearer_to_it():
    tests, training = spaces([0.1, 0.5, 0.9, 0.3]), spaces([0.0, 0.2, 0.4, 0.8])
    shares = closer_shares(tests, training, {"leaked": tests, "far": spaces([7.0] * 4)}, 0.95)
    values = shares[shares["space"] == "pixels"].set_index("images")["value"]
    assert values.to_dict() == {"leaked": 1.0, "far": 0.0}
    with pytest.raises(ValueError, match="more must hold as many"):
        closer_shares(tests, training, {"more": spaces([0.0] * 5)}, 0.95)


def test_sets_of_one_kind_are_equally_near():
    rng = np.random.default_rng(0)
    draws = [{"pixels": rng.normal(size=(400, 1, 3))} for _ in range(3)]
    found = closer_shares(draws[0], draws[1], {"other": draws[2]}, 0.99).iloc[0]
    assert found["low"] < 0.5 < found["high"]


def test_balance_tells_even_from_tied():
    tied = pd.DataFrame({"class_name": ["a", "b"] * 20, "context": ["x", "y"] * 20})
    even = pd.DataFrame({"class_name": ["a", "b"] * 20, "context": ["x", "x", "y", "y"] * 10})
    found = balance({"tied": tied, "even": even}, "xy", 0.95).set_index("set")
    assert found["class_entropy"].tolist() == [1, 1]
    assert found["context_entropy"].tolist() == pytest.approx([0, 1])
    assert found["pairs"].tolist() == [0.5, 1]
    assert found["tie"].tolist() == pytest.approx([1, 0], abs=0.05)
    assert found["smallest_class"].tolist() == [0.5, 0.5]


def test_the_tie_of_chance_is_none_however_few_there_are():
    rng, ties = np.random.default_rng(0), []
    for _ in range(40):
        table = pd.DataFrame(
            {"class_name": np.repeat(list("abcdef"), 8), "context": rng.choice(list("uvwxyz"), 48)}
        )
        ties.append(balance({"": table}, "uvwxyz", 0.95)["tie"][0])
    assert np.mean(ties) == pytest.approx(0, abs=0.02)
