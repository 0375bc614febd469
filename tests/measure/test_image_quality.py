"""What the first notebook measures: compared from the same noise; embeddings by closed forms."""

import numpy as np
import pandas as pd
import pytest

from diffcore.measure import image_quality as quality
from diffcore.prompts.plan import PLAN_COLUMNS, plan_generation
from diffcore.prompts.prompt_set import load_prompt_set

BIRDS = load_prompt_set("birds")


def make_plan(count):
    names = ["blue jay", "house wren", "tree swallow"]
    facts = {"source_id": np.arange(count).astype(str), "class_name": np.resize(names, count)}
    return plan_generation(pd.DataFrame(facts), BIRDS, generated_share=1, seed=0)


def test_ablations_differ_in_their_prompts_alone():
    plan = make_plan(30)
    plain, context, both = (parts := quality.ablations(plan, BIRDS, count=12, seed=0)).values()
    assert list(parts) == ["plain prompt", "with context", "context and negatives"]
    assert both.merge(plan).shape == (12, len(PLAN_COLUMNS))
    contextless = quality.without_context(both, BIRDS)
    for column in ("sample_id", "class_name", "source_id", "seed"):
        for other in (plain, context, contextless):
            assert other[column].tolist() == both[column].tolist()
    assert (plain[["context", "negative_prompt"]] == "").all(axis=None)
    assert (plain["prompt"] == contextless["prompt"]).all()
    assert plain["prompt"][0] == f"a {plain['class_name'][0]}, a bird"
    assert (context["prompt"] == both["prompt"]).all()
    assert (context["negative_prompt"] == "").all()
    # What a class is named after is not steered away from.
    swallow = contextless["class_name"] == "tree swallow"
    others = [name for name in BIRDS.negatives if name not in ("tree", "trees")]
    assert set(contextless.loc[swallow, "negative_prompt"]) == {", ".join(others)}
    assert set(contextless.loc[~swallow, "negative_prompt"]) == {", ".join(BIRDS.negatives)}


def test_contexts_are_as_varied_as_they_are_and_new_pairs_are_counted():
    training = pd.DataFrame({"class_name": ["jay", "jay"], "context": ["forest", "forest"]})
    drawn = pd.DataFrame({"class_name": ["jay", "jay"], "seen_context": ["forest", "street"]})
    table = quality.context_statistics({"drawn": drawn}, training)
    assert table[["condition", "measure", "value"]].to_numpy().tolist() == [
        ["training set", "entropy", 0.0],
        ["training set", "new_pairs", 0.0],
        ["drawn", "entropy", 1.0],
        ["drawn", "new_pairs", 0.5],
    ]


def test_the_frechet_distance_of_gaussians_is_the_closed_form():
    rng = np.random.default_rng(0)
    left = rng.normal(size=(60_000, 3)) * [1, 2, 3]
    right = rng.normal(size=(60_000, 3)) * [2, 2, 1] + [1, 0, -2]
    expected = 1 + 4 + (1 - 2) ** 2 + 0 + (3 - 1) ** 2  # axes that do not depend on each other
    assert quality.frechet_distance(left, right) == pytest.approx(expected, rel=0.03)
    assert quality.frechet_distance(left, left) == pytest.approx(0, abs=1e-6)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turned = quality.frechet_distance(left @ turn, right @ turn)
    assert turned == pytest.approx(quality.frechet_distance(left, right))


def test_spread_is_the_mean_distance_of_all_pairs_of_a_group():
    vectors = np.random.default_rng(1).normal(size=(7, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = [(1, 4), (1, 5), (1, 6), (4, 5), (4, 6), (5, 6)]
    b = np.mean([1 - vectors[i] @ vectors[j] for i, j in pairs])
    expected = {"a": 1 - vectors[0] @ vectors[2], "b": b}  # one image has no spread
    groups = pd.Series(list("abacbbb"), index=range(90, 97))  # some rows of a longer table
    assert quality.spread_within(vectors, groups).to_dict() == pytest.approx(expected)


def test_diversity_is_a_ratio_of_means_over_the_prompts_of_both():
    generated = pd.Series({"a": 0.1, "b": 0.3, "only here": 9.0})
    reference = pd.Series({"b": 0.5, "a": 0.3, "only there": 9.0})
    row = quality.diversity(generated, reference, seed=0)
    assert (row["value"], row["n"]) == (pytest.approx(0.5), 2)
    assert row["low"] <= row["value"] <= row["high"]
    nothing = quality.diversity(generated[:0], reference, seed=0)
    assert nothing == {"value": 0.0, "low": 0.0, "high": 1.0, "n": 0}
