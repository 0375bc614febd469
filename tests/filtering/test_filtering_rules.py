"""Filtration: rules against their definition, thresholds, drawing again."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffcore.filtering import cosine_to_reference, hard_filter, rules
from diffcore.filtering.rules import RULES
from diffcore.params import FilteringParams
from diffcore.prompts import load_prompt_set, plan_generation

RULE = {"rule": "source", "threshold": 0.6}


def make_images(class_names, source_ids, seed):
    vectors = np.random.default_rng(seed).normal(size=(len(class_names), 5)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    columns = {"class_name": list(class_names), "source_id": list(source_ids)}
    return pd.DataFrame(columns | {"embedding": list(vectors)})


@pytest.fixture
def real():
    return make_images("abcabcab", "01234567", seed=1)


@pytest.fixture
def generated():
    return make_images("aaacbc", "300572", seed=2)


def test_a_table_holds_the_embeddings_beside_what_is_compared():
    metadata = pd.DataFrame({"source_id": ["1", "0"], "seed": 7, "class_name": ["a", "b"]})
    encoder = SimpleNamespace(embed_images=lambda images: np.stack(images).mean(axis=(1, 2)))
    images = [np.full((2, 2, 3), level) for level in (4, 9)]
    table = rules.embed(metadata, images, encoder)
    assert [*table] == ["class_name", "source_id", "embedding"]
    assert table["source_id"].tolist() == ["1", "0"]
    np.testing.assert_array_equal(rules.stack(table), [[4] * 3, [9] * 3])
    assert "context" in rules.embed(metadata.assign(context="garden"), images, encoder)


def plainly(row, real, rule):
    """One similarity in the most literal way."""
    own = [e for e, s in zip(real["embedding"], real["source_id"], strict=True) if s == row[1]]
    same = [e for e, c in zip(real["embedding"], real["class_name"], strict=True) if c == row[0]]
    if rule == "margin":
        others = [
            plainly((name, *row[1:]), real, "class_mean")
            for name in set(real["class_name"]) - {row[0]}
        ]
        return plainly(row, real, "class_mean") - max(others)
    if rule == "class_mean":
        mean = sum(same) / len(same)
        return row[2] @ mean / (mean @ mean) ** 0.5
    if rule == "source":
        return row[2] @ own[0]
    return row[2] @ same[0] if rule == "class_first" else max(row[2] @ e for e in same)


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_agrees_with_its_definition_in_any_order(generated, real, rule):
    expected = np.array([plainly(row, real, rule) for row in generated.itertuples(index=False)])
    for rows in (generated, generated.sample(frac=1, random_state=0)):
        found = cosine_to_reference(rows, real, rule)
        np.testing.assert_allclose(found, expected[rows.index], atol=1e-6)


def test_what_cannot_be_compared_is_named(generated, real):
    with pytest.raises(ValueError, match="no class has two real images"):
        rules.real_similarities(real.drop_duplicates("class_name"), "source")
    with pytest.raises(ValueError, match="must be in the range"):
        rules.calibrate_threshold(np.ones(3), 1.1)
    with pytest.raises(ValueError, match="unknown rule 'nearest'; known: source, class_mean"):
        cosine_to_reference(generated, real, "nearest")
    with pytest.raises(ValueError, match="the reference has no source_id '5'"):
        cosine_to_reference(generated, real[real["source_id"] != "5"], "source")
    one = real["class_name"] == "a"
    with pytest.raises(ValueError, match="margin compares with the nearest other class"):
        cosine_to_reference(generated[generated["class_name"] == "a"], real[one], "margin")
    with pytest.raises(ValueError, match="the reference has no class_name 'c'"):
        cosine_to_reference(generated, real[real["class_name"] != "c"], "class_mean")


@pytest.mark.parametrize("rule", RULES)
def test_real_images_are_compared_with_the_others_of_their_class(real, rule):
    expected = []
    for _, members in real.groupby("class_name"):
        for place, row in enumerate(members.itertuples(index=False)):
            others = members.drop(members.index[place])
            others = members if rule == "class_first" else others
            others = real.drop(members.index[place]) if rule == "margin" else others
            if rule == "source":
                expected += [row[2] @ other for other in others["embedding"]]
            elif rule != "class_first" or place > 0:
                expected.append(plainly(row, others, rule))
    found = rules.real_similarities(real, rule)
    np.testing.assert_allclose(sorted(found), sorted(expected), atol=1e-6)


def test_of_a_large_class_the_first_images_are_compared(monkeypatch):
    real = make_images(["a"] * 9 + ["b"] * 4, [str(place) for place in range(13)], seed=3)
    monkeypatch.setattr(rules, "MOST_COMPARED", 5)
    few = pd.concat([real[:5], real[9:]])
    for rule, count in (("source", 20 + 12), ("class_first", 4 + 3), ("class_mean", 5 + 4)):
        found = rules.real_similarities(real, rule)
        assert len(found) == count
        np.testing.assert_array_equal(found, rules.real_similarities(few, rule))


@settings(max_examples=50)
@given(
    st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=50, unique=True),
    st.floats(0.01, 0.99),
)
def test_a_calibrated_threshold_rejects_the_stated_share_of_real_images(values, quantile):
    real = np.array(values, np.float32)
    rejected = ~hard_filter(real, rules.calibrate_threshold(real, quantile))
    assert quantile - 2 / len(real) < rejected.mean() <= quantile


def test_a_stated_threshold_is_used_and_an_absent_one_calibrated_on_real_images(real):
    assert rules.choose_threshold(FilteringParams(threshold=0.6), real) == 0.6
    found = rules.choose_threshold(FilteringParams(threshold=None, quantile=0.3), real)
    assert found == rules.calibrate_threshold(rules.real_similarities(real, "source"), 0.3)


def test_nan_is_neither_kept_nor_rejected():
    with pytest.raises(ValueError, match="similarity 1 is NaN"):
        hard_filter(np.array([0.7, np.nan]), 0.6)


@pytest.fixture
def resampled():
    """Resample a plan whose samples pass at the attempt that `passes` gives for source and copy."""
    sources = pd.DataFrame({"source_id": ["train-0", "train-1"], "class_name": ["jay", "puffin"]})

    def run(passes, max_attempts):
        drawn = []

        def replan(attempt):
            birds = load_prompt_set("birds")
            return plan_generation(sources, birds, generated_share=2, seed=0, attempt=attempt)

        def draw_and_score(plan):
            drawn.extend(plan["sample_id"])
            parts = plan["sample_id"].str.rsplit("-", n=1)
            good = [passes.get(place, 0) == int(attempt) for place, attempt in parts]
            scores = dict.fromkeys((f"cosine_{rule}" for rule in RULES), 0.0)
            return pd.DataFrame(scores | {"cosine_source": np.where(good, 0.9, 0.1)})

        attempts = {"max_attempts": max_attempts}
        decisions = rules.resample(replan(0), replan, draw_and_score, **RULE, **attempts)
        assert decisions["sample_id"].tolist() == drawn
        return decisions

    return run


def test_only_what_was_rejected_is_drawn_again_from_new_seeds(resampled):
    decisions = resampled({"train-0-1": 2, "train-1-0": 1}, max_attempts=5)
    drawn = decisions["sample_id"].tolist()
    assert drawn[:4] == ["train-0-0-0", "train-0-1-0", "train-1-0-0", "train-1-1-0"]
    assert drawn[4:] == ["train-0-1-1", "train-1-0-1", "train-0-1-2"]
    assert decisions["attempt"].tolist() == [0, 0, 0, 0, 1, 1, 2]
    assert decisions["accepted"].tolist() == [True, False, False, True, False, True, True]
    assert decisions["seed"].nunique() == len(decisions)
    assert rules.never_passed(decisions).empty


def test_what_never_passes_is_reported(resampled):
    decisions = resampled({"train-1-1": 9, "train-0-0": 1}, max_attempts=2)
    (row,) = rules.never_passed(decisions).to_dict("records")
    assert [*row.values()] == ["train-1-1-0", "puffin", "train-1", 3, 0.1]
    assert [*row] == ["sample_id", "class_name", "source_id", "tries", "best"]


def test_nothing_is_drawn_again_without_attempts_or_without_replacements(resampled):
    decisions = resampled({"train-1-1": 1}, max_attempts=0)
    assert rules.never_passed(decisions)["sample_id"].tolist() == ["train-1-1-0"]
    ids = ["imported/a/x-1", "imported/a/x-2"]  # which have no attempt
    plan = pd.DataFrame({"sample_id": ids, "class_name": "a", "source_id": "0"})
    scored = [pd.DataFrame({"cosine_source": [0.1, 0.2]})]
    replan, score = lambda attempt: plan.head(0), lambda rows: scored.pop()
    decisions = rules.resample(plan, replan, score, **RULE, max_attempts=3)
    assert rules.never_passed(decisions)["sample_id"].tolist() == plan["sample_id"].tolist()
