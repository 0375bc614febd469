"""Distance and variety of images by their embeddings, against closed forms."""

import numpy as np
import pandas as pd
import pytest

from diffcore.measure.embeddings import diversity, frechet_distance, spread_within


def test_the_frechet_distance_of_gaussians_is_the_closed_form():
    rng = np.random.default_rng(0)
    left = rng.normal(size=(60_000, 3)) * [1, 2, 3]
    right = rng.normal(size=(60_000, 3)) * [2, 2, 1] + [1, 0, -2]
    expected = 1 + 4 + (1 - 2) ** 2 + 0 + (3 - 1) ** 2  # axes that do not depend on each other
    assert frechet_distance(left, right) == pytest.approx(expected, rel=0.03)
    assert frechet_distance(left, left) == pytest.approx(0, abs=1e-6)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turned = frechet_distance(left @ turn, right @ turn)
    assert turned == pytest.approx(frechet_distance(left, right))


def test_spread_is_the_mean_distance_of_all_pairs_of_a_group():
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(7, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = spread_within(vectors, ["a", "b", "a", "c", "b", "b", "b"])
    pairs = [(1, 4), (1, 5), (1, 6), (4, 5), (4, 6), (5, 6)]
    expected = {"a": 1 - vectors[0] @ vectors[2],
                "b": np.mean([1 - vectors[i] @ vectors[j] for i, j in pairs])}  # fmt: skip
    assert found.to_dict() == pytest.approx(expected)  # one image has no spread
    labels = pd.Series(list("abacbbb"), index=range(90, 97))  # some rows of a longer table
    assert spread_within(vectors, labels).to_dict() == pytest.approx(expected)


def test_diversity_is_a_ratio_of_means_over_the_prompts_of_both():
    generated = pd.Series({"a": 0.1, "b": 0.3, "only here": 9.0})
    world = pd.Series({"b": 0.5, "a": 0.3, "only there": 9.0})
    found = diversity(generated, world, 0.95, seed=0)
    assert found["value"] == pytest.approx(0.5)
    assert found["n"] == 2
    assert found["low"] <= found["value"] <= found["high"]
    nothing = diversity(generated[:0], world, 0.95, seed=0)
    assert nothing == {"value": 0.0, "low": 0.0, "high": 1.0, "n": 0}
