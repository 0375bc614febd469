"""The filter measured: injected errors, AUC by counting pairs, what a threshold does."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from embedded import GENERATED, REAL
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from diffcore.filtering import cosine_to_reference, hard_filter, rules

from diffcore.measure import filter as evaluate
from diffcore.filtering.rules import RULES
from diffcore.prompts import load_prompt_book


@pytest.fixture
def real():
    return REAL.copy()


@pytest.fixture
def generated():
    return GENERATED.copy()


# ---------------------------------------------------------------------------------- what it can see
def test_mismatched_images_claim_a_random_source_of_another_class(real):
    found = evaluate.mismatched(real, real, copies=20, seed=0)
    true = np.tile(real["class_name"], 20)
    assert (found["class_name"].to_numpy() != true).all()
    owners = real.set_index("source_id")["class_name"]
    assert found["class_name"].tolist() == owners[found["source_id"]].tolist()
    assert found["embedding"].iloc[9] is real["embedding"].iloc[1]
    assert set(found["source_id"]) == set(real["source_id"])
    with pytest.raises(ValueError, match="two classes"):
        evaluate.mismatched(real, real[real["class_name"] == "a"], seed=0)


def test_mismatched_images_may_claim_the_class_that_is_most_alike():
    angles = np.array([0.0, 0.1, 0.3, 1.5, 0.3, 0.3])
    embedding = list(np.stack([np.cos(angles), np.sin(angles)], 1))
    real = pd.DataFrame({"class_name": list("abcdcc"), "source_id": list("012345")})
    real["embedding"] = embedding
    found = evaluate.mismatched(real, real, seed=0, alike=True)
    assert found["class_name"].tolist() == ["b", "a", "b", "c", "b", "b"]


def test_text_similarity_is_to_the_text_of_the_class(generated, real):
    texts = {name: np.eye(5)[place] for place, name in enumerate("abc")}
    found = evaluate.similarities(generated, real, texts)
    assert list(found) == [*RULES, "text"]
    rows = zip(generated["class_name"], generated["embedding"], strict=True)
    np.testing.assert_allclose(found["text"], [e["abc".index(c)] for c, e in rows], atol=1e-6)
    expected = cosine_to_reference(generated, real, "class_mean")
    np.testing.assert_array_equal(found["class_mean"], expected)
    assert list(evaluate.similarities(generated, real, {})) == [*RULES]


def test_the_text_of_a_class_is_its_plain_prompt():
    book, names = load_prompt_book("birds"), ["blue jay", "american crow"]
    reader = SimpleNamespace(reads_texts=True, embed_texts=list)
    prompts = ["a blue jay, a bird", "an american crow, a bird"]
    assert evaluate.class_texts(reader, book, names) == dict(zip(names, prompts, strict=True))
    assert evaluate.class_texts(SimpleNamespace(reads_texts=False), book, names) == {}


def test_pairs_leave_out_an_image_and_its_own_counterparts(generated, real):
    real["context"], generated["context"] = list("xxyyxxyy"), list("xyxyxy")
    pairs = evaluate.pair_cosines(generated, real)
    expected = [
        ({(1, 1): 0, (1, 0): 1, (0, 1): 2, (0, 0): 3}[g[0] == r[0], g[3] == r[3]], g[2] @ r[2])
        for g in generated.itertuples(index=False)
        for r in real.itertuples(index=False)
        if g[1] != r[1]
    ]
    assert pairs["shared"].cat.codes.tolist() == [code for code, _ in expected]
    np.testing.assert_allclose(pairs["cosine"], [cosine for _, cosine in expected], atol=1e-6)
    for nothing in (real.head(0), real), (real, real.head(0)):
        empty = evaluate.pair_cosines(*nothing)
        assert empty.empty
        assert [*empty] == [*pairs]
        assert empty["shared"].dtype == pairs["shared"].dtype


def test_rejection_over_thresholds_counts_what_is_below():
    values, thresholds = {"all": np.array([0.3, 0.1, 0.2, 0.2])}, np.array([0.1, 0.2, 0.25, 1.0])
    found = evaluate.rejection_over(values, thresholds)["rate"].tolist()
    assert (
        found == [(~hard_filter(values["all"], t)).mean() for t in thresholds] == [0, 0.25, 0.75, 1]
    )


def test_the_gallery_starts_at_both_sides_of_the_threshold():
    similarity = np.array([0.9, 0.1, 0.5, 0.7, 0.4, 0.2])
    found = evaluate.gallery(similarity, 0.5, pd.DataFrame({"class_name": ["jay"] * 6}), count=2)
    assert {name: places.tolist() for name, places in found.items()} == {
        "rejected, least similar": [1, 5], "rejected, just below": [5, 4],
        "accepted, just above": [2, 3], "accepted, most similar": [3, 0],
    }  # fmt: skip


def test_where_the_truth_is_known_the_gallery_shows_what_the_filter_does_rightly_and_wrongly():
    similarity = np.array([0.9, 0.1, 0.5, 0.7, 0.4, 0.2])
    judged = pd.DataFrame({"wrong": [False, True, True, False, False, True]})
    found = evaluate.gallery(similarity, 0.5, judged, count=2)
    assert {name: places.tolist() for name, places in found.items()} == {
        "rejected and wrong": [1, 5], "rejected though right": [4],
        "accepted though wrong": [2], "accepted and right, least similar": [3, 0],
        "accepted, most similar": [3, 0],
    }  # fmt: skip


def test_captions_say_what_was_asked_for_and_what_is_wrong_where_that_is_known():
    judged = pd.DataFrame({
        "class_name": ["jay", "wren", "crow", "crow"], "context": ["garden", "", "garden", ""],
    })  # fmt: skip
    values = np.array([0.9, 0.456, -0.1, 0.2])
    plain = [
        "asked: jay, garden\nsimilarity 0.900: accepted",
        "asked: wren\nsimilarity 0.456: accepted",
        "asked: crow, garden\nsimilarity -0.100: rejected",
        "asked: crow\nsimilarity 0.200: rejected",
    ]
    assert evaluate.captions(values, 0.456, judged) == plain
    truth = {"seen_species": ["jay", "jay", "crow", "wren"],
             "fault": ["", "another species", "malformed", "no bird"],
             "wrong": [False, True, True, True]}  # fmt: skip
    faults = ["", "\nwrong: jay", "\nwrong: malformed", "\nwrong: no bird"]
    told = [text + fault for text, fault in zip(plain, faults, strict=True)]
    assert evaluate.captions(values, 0.456, judged.assign(**truth)) == told


# ---------------------------------------------------------------------------- the ways of filtering
def test_each_rule_gets_the_threshold_that_real_images_set_for_it(real):
    texts = {name: np.eye(5)[place] for place, name in enumerate("abc")}
    found = evaluate.thresholds(real, texts, 0.3)
    assert list(found) == [*RULES, "text"]
    for rule in RULES:
        alike = rules.real_similarities(real, rule)
        assert found[rule] == rules.calibrate_threshold(alike, 0.3)
    own = [row.embedding @ texts[row.class_name] for row in real.itertuples()]
    assert found["text"] == pytest.approx(sorted(own)[2], abs=1e-6)  # place 0.3 of 0 to 7
    assert "text" not in evaluate.thresholds(real, {}, 0.3)


def test_arms_reject_by_their_rule_or_blindly_as_many_or_what_is_wrong():
    rng = np.random.default_rng(0)
    scores = {"source": rng.random(200), "margin": rng.random(200)}
    wrong = rng.random(200) < 0.1
    limits = {"source": 0.3, "margin": 0.1}
    kept = evaluate.arms(scores, limits, "source", wrong, seed=0)
    assert list(kept) == ["no filter", "at random", "source", "margin", "the oracle"]
    assert kept["no filter"].all()
    assert kept["source"].tolist() == (scores["source"] >= 0.3).tolist()
    assert kept["margin"].tolist() == (scores["margin"] >= 0.1).tolist()
    assert kept["the oracle"].tolist() == (~wrong).tolist()
    assert kept["at random"].sum() == kept["source"].sum()
    assert (kept["at random"] != kept["source"]).any()
    again = evaluate.arms(scores, limits, "source", wrong, seed=0)
    assert kept["at random"].tolist() == again["at random"].tolist()


# ------------------------------------------------------------------------- the filter as a detector
@settings(max_examples=50)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=30))
def test_auc_counts_pairs(images):
    wrong, similarity = (np.array(values) for values in zip(*images, strict=True))
    pairs = [(w, r) for w in similarity[wrong] for r in similarity[~wrong]]
    expected = np.mean([(w < r) + 0.5 * (w == r) for w, r in pairs]) if pairs else 0.5
    assert evaluate.auc(wrong, similarity) == pytest.approx(expected)
    if pairs:
        assert roc_auc_score(wrong, -similarity) == pytest.approx(expected)


def test_intervals_of_auc_hold_it_and_shrink_with_more_images():
    rng = np.random.default_rng(0)
    widths = []
    for count in (60, 600):
        wrong = rng.random(count) < 0.3
        values = {"good": rng.normal(size=count) - 2 * wrong, "blind": rng.normal(size=count)}
        table = evaluate.auc_table(values, wrong, 0.95, seed=0).set_index("rule")
        assert table["value"].between(table["low"], table["high"]).all()
        assert table.loc["good", "low"] > table.loc["blind", "high"]
        widths.append(table.loc["good", "high"] - table.loc["good", "low"])
    assert widths[1] < widths[0] / 2
    (row,) = evaluate.auc_table({"a": np.arange(4)}, np.ones(4, bool), 0.95, 0).to_dict("records")
    assert row == {"rule": "a", "value": 0.5, "low": 0, "high": 1, "n": 4, "wrong": 4}


def test_images_of_one_source_are_resampled_together():
    # A hundred copies of four images say no more than the four.
    wrong = np.repeat([True, False, False, True], 100)
    values, sources = np.repeat([0.1, 0.2, 0.3, 0.25], 100), np.repeat(list("abcd"), 100)
    (alone,) = evaluate.auc_table({"a": values}, wrong, 0.95, 0).to_dict("records")
    (together,) = evaluate.auc_table({"a": values}, wrong, 0.95, 0, sources).to_dict("records")
    assert alone["value"] == together["value"] == 0.75
    assert alone["n"] == together["n"] == 400
    assert together["high"] - together["low"] > 3 * (alone["high"] - alone["low"])


def test_causes_are_told_apart_against_right_images():
    judged = pd.DataFrame({"fault": ["", "", "another species", "malformed", "another species"]})
    judged["wrong"] = judged["fault"] != ""
    scores = {"rule": np.array([0.8, 0.9, 0.1, 0.95, 0.85])}
    sources = list("abcde")
    found = evaluate.auc_by_cause(scores, judged, 0.95, 0, sources).set_index("cause")
    assert found["value"].to_dict() == {"another species": 0.75, "malformed": 0.0}
    assert found["wrong"].tolist() == [2, 1]
    none = evaluate.auc_by_cause(scores, judged.assign(fault="", wrong=False), 0.95, 0, sources)
    assert none.empty


def test_injected_errors_are_the_wrong_ones_beside_right_images():
    right = {"a": np.array([0.8, 0.9, 0.3]), "b": np.zeros(3)}
    injected = {"a": np.array([0.5, 0.1]), "b": np.ones(2)}
    found = evaluate.auc_injected(right, injected, 0.95, seed=0)
    assert found["rule"].tolist() == ["a", "b"]
    assert found["value"].tolist() == pytest.approx([5 / 6, 0])
    assert (found[["wrong", "n"]] == [2, 5]).all(axis=None)
    both = {rule: np.concatenate([injected[rule], right[rule]]) for rule in right}
    wrong = np.array([True, True, False, False, False])
    pd.testing.assert_frame_equal(found, evaluate.auc_table(both, wrong, 0.95, seed=0))


def test_roc_points_have_the_area():
    rng = np.random.default_rng(1)
    wrong = rng.random(200) < 0.4
    values = {"a": rng.normal(size=200) - wrong, "b": rng.normal(size=200)}
    for rule, curve in evaluate.roc_table(values, wrong).groupby("rule"):
        area = np.trapezoid(curve["caught"], curve["false_alarms"])
        assert area == pytest.approx(evaluate.auc(wrong, values[rule]))
    assert evaluate.roc_table(values, np.zeros(200, bool)).empty


def test_detection_counts_what_the_filter_does():
    wrong = np.array([True, True, True, False, False, False, False, False])
    accepted = np.array([False, False, True, False, True, True, True, True])
    found = evaluate.detection(wrong, accepted, 0.95)
    assert {name: row["value"] for name, row in found.items()} == pytest.approx({
        "rejection_rate": 3 / 8, "precision": 2 / 3, "recall": 2 / 3, "wrong_rate": 3 / 8,
        "wrong_rate_kept": 1 / 5,
    })  # fmt: skip
    nothing = evaluate.detection(np.zeros(4, bool), np.ones(4, bool), 0.95)
    assert nothing["precision"] == nothing["recall"] == {"value": 0, "low": 0, "high": 1, "n": 0}
