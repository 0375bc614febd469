"""The filter measured: injected errors, AUC by counting pairs, what a threshold does."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from diffcore.filtering import rules
from diffcore.filtering.rules import RULES
from diffcore.measure import filter as measured
from diffcore.prompts.prompt_set import load_prompt_set

RNG = np.random.default_rng(1)


def make_images(class_names, source_ids):
    vectors = RNG.normal(size=(len(class_names), 5)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    columns = {"class_name": list(class_names), "source_id": list(source_ids)}
    return pd.DataFrame(columns | {"embedding": list(vectors)})


REAL, GENERATED = make_images("abcabcab", "01234567"), make_images("aaacbc", "300572")
TEXTS = {name: np.eye(5)[place] for place, name in enumerate("abc")}


def test_mismatched_images_claim_a_source_of_another_class_at_random_or_the_most_alike():
    claims = measured.mismatched(REAL, REAL, copies=20, seed=0)
    assert (claims["class_name"].to_numpy() != np.tile(REAL["class_name"], 20)).all()
    owners = REAL.set_index("source_id")["class_name"]
    assert claims["class_name"].tolist() == owners[claims["source_id"]].tolist()
    assert claims["embedding"].iloc[9] is REAL["embedding"].iloc[1]
    assert set(claims["source_id"]) == set(REAL["source_id"])
    angles = np.array([0.0, 0.1, 0.3, 1.5, 0.3, 0.3])
    real = pd.DataFrame({"class_name": list("abcdcc"), "source_id": list("012345")})
    real["embedding"] = list(np.stack([np.cos(angles), np.sin(angles)], 1))
    claims = measured.mismatched(real, real, seed=0, alike=True)
    assert claims["class_name"].tolist() == ["b", "a", "b", "c", "b", "b"]
    with pytest.raises(ValueError, match="the nearest other class, and there is none"):
        measured.mismatched(REAL, REAL[REAL["class_name"] == "a"], seed=0)


def test_text_similarity_is_to_the_plain_prompt_of_the_class():
    scores = measured.similarities(GENERATED, REAL, TEXTS)
    assert list(scores) == [*RULES, "text"]
    rows = zip(GENERATED["class_name"], GENERATED["embedding"], strict=True)
    np.testing.assert_allclose(scores["text"], [e["abc".index(c)] for c, e in rows], atol=1e-6)
    expected = rules.cosine_to_reference(GENERATED, REAL, "class_mean")
    np.testing.assert_array_equal(scores["class_mean"], expected)
    assert list(measured.similarities(GENERATED, REAL, {})) == [*RULES]
    birds, names = load_prompt_set("birds"), ["blue jay", "american crow"]
    reader = SimpleNamespace(reads_texts=True, embed_texts=list)
    prompts = ["a blue jay, a bird", "an american crow, a bird"]
    assert measured.class_texts(reader, birds, names) == dict(zip(names, prompts, strict=True))
    assert measured.class_texts(SimpleNamespace(reads_texts=False), birds, names) == {}


def test_an_encoder_is_as_accurate_as_its_probe_and_its_texts():
    # Classes lie on axes, so that the probe separates all; the texts of a and b are exchanged.
    vectors = np.eye(3)[np.tile([0, 1, 2], 4)] + np.random.default_rng(0).normal(0, 0.05, (12, 3))
    images = pd.DataFrame({"class_name": list("abc") * 4, "embedding": list(vectors)})
    texts = {"a": np.eye(3)[1], "b": np.eye(3)[0], "c": np.eye(3)[2]}
    table = measured.encoder_accuracy(images, {"test": images}, texts).set_index("by")
    assert table["value"].to_dict() == pytest.approx({"linear probe": 1, "zero-shot": 1 / 3})
    assert len(measured.encoder_accuracy(images, {"test": images}, {})) == 1


def test_pairs_leave_out_an_image_and_what_was_drawn_for_it():
    real, generated = REAL.assign(context=list("xxyyxxyy")), GENERATED.assign(context=[*"xyxyxy"])
    pairs = measured.pair_cosines(generated, real)
    expected = [
        (2 * (g.class_name != r.class_name) + (g.context != r.context), g.embedding @ r.embedding)
        for g in generated.itertuples()
        for r in real.itertuples()
        if g.source_id != r.source_id
    ]
    assert pairs["shared"].cat.codes.tolist() == [code for code, _ in expected]
    np.testing.assert_allclose(pairs["cosine"], [cosine for _, cosine in expected], atol=1e-6)
    for nothing in (real.head(0), real), (real, real.head(0)):
        empty = measured.pair_cosines(*nothing)
        assert empty.empty
        assert empty["shared"].dtype == pairs["shared"].dtype


def test_the_gallery_shows_both_sides_of_the_threshold_or_what_the_filter_does_rightly():
    similarity = np.array([0.9, 0.1, 0.5, 0.7, 0.4, 0.2])
    judged = pd.DataFrame({"class_name": ["jay"] * 6})
    groups = measured.gallery(similarity, 0.5, judged, count=2)
    assert [places.tolist() for places in groups.values()] == [[1, 5], [5, 4], [2, 3], [3, 0]]
    judged["wrong"] = [False, True, True, False, False, True]
    groups = measured.gallery(similarity, 0.5, judged, count=2)
    assert {name: places.tolist() for name, places in groups.items()} == {
        "rejected and wrong": [1, 5],
        "rejected though right": [4],
        "accepted though wrong": [2],
        "accepted and right, least similar": [3, 0],
        "accepted, most similar": [3, 0],
    }


def test_captions_say_what_the_prompt_names_and_what_is_wrong_where_that_is_known():
    judged = pd.DataFrame({"class_name": ["jay", "wren", "crow"], "context": ["garden", "", "sea"]})
    values = np.array([0.9, 0.456, -0.1])
    plain = [
        "prompt: jay, garden\nsimilarity 0.900: accepted",
        "prompt: wren\nsimilarity 0.456: accepted",
        "prompt: crow, sea\nsimilarity -0.100: rejected",
    ]
    assert measured.captions(values, 0.456, judged) == plain
    judged["seen_species"], judged["wrong"] = ["jay", "jay", "crow"], [False, True, True]
    judged["fault"] = ["", "another species", "malformed"]
    faults = ["", "\nwrong: jay", "\nwrong: malformed"]
    expected = [text + fault for text, fault in zip(plain, faults, strict=True)]
    assert measured.captions(values, 0.456, judged) == expected


def test_each_rule_gets_the_threshold_that_real_images_set_for_it():
    limits = measured.thresholds(REAL, TEXTS, 0.3)
    assert list(limits) == [*RULES, "text"]
    alike = rules.real_similarities(REAL, "margin")
    assert limits["margin"] == rules.calibrate_threshold(alike, 0.3)
    texts = [row.embedding @ TEXTS[row.class_name] for row in REAL.itertuples()]
    assert limits["text"] == pytest.approx(sorted(texts)[2], abs=1e-6)  # place 0.3 of 0 to 7
    assert "text" not in measured.thresholds(REAL, {}, 0.3)


def test_conditions_reject_by_their_rule_or_blindly_as_many_or_what_is_wrong():
    rng = np.random.default_rng(0)
    scores = {"source": rng.random(200), "margin": rng.random(200)}
    wrong, limits = rng.random(200) < 0.1, {"source": 0.3, "margin": 0.1}
    kept = measured.conditions(scores, limits, "source", wrong, seed=0)
    assert list(kept) == ["no filter", "at random", "source", "margin", "the oracle"]
    assert kept["no filter"].all()
    for rule, limit in limits.items():
        assert kept[rule].tolist() == (scores[rule] >= limit).tolist()
    assert kept["the oracle"].tolist() == (~wrong).tolist()
    assert kept["at random"].sum() == kept["source"].sum()
    assert (kept["at random"] != kept["source"]).any()


@settings(max_examples=50)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=30))
def test_auc_counts_pairs(images):
    wrong, similarity = (np.array(values) for values in zip(*images, strict=True))
    pairs = [(w, r) for w in similarity[wrong] for r in similarity[~wrong]]
    expected = np.mean([(w < r) + 0.5 * (w == r) for w, r in pairs]) if pairs else 0.5
    assert measured.auc(wrong, similarity) == pytest.approx(expected)
    if pairs:
        assert roc_auc_score(wrong, -similarity) == pytest.approx(expected)


def test_intervals_of_auc_hold_it_and_are_wide_where_nothing_is_known():
    rng = np.random.default_rng(0)
    wrong = rng.random(200) < 0.3
    values = {"good": rng.normal(size=200) - 2 * wrong, "blind": rng.normal(size=200)}
    table = measured.auc_table(values, wrong, seed=0).set_index("rule")
    assert table["value"].between(table["low"], table["high"]).all()
    assert table.loc["good", "low"] > table.loc["blind", "high"]
    (row,) = measured.auc_table({"a": np.arange(4)}, np.ones(4, bool), 0).to_dict("records")
    assert row == {"rule": "a", "value": 0.5, "low": 0, "high": 1, "n": 4, "wrong": 4}


def test_images_of_one_source_are_resampled_together():
    # Fifty copies of four images hold no more than the four.
    wrong = np.repeat([True, False, False, True], 50)
    values, sources = np.repeat([0.1, 0.2, 0.3, 0.25], 50), np.repeat(list("abcd"), 50)
    (alone,) = measured.auc_table({"a": values}, wrong, 0).to_dict("records")
    (together,) = measured.auc_table({"a": values}, wrong, 0, sources).to_dict("records")
    assert alone["value"] == together["value"] == 0.75
    assert alone["n"] == together["n"] == 200
    assert together["high"] - together["low"] > 3 * (alone["high"] - alone["low"])


def test_causes_are_compared_with_right_images_alone():
    judged = pd.DataFrame({"fault": ["", "", "another species", "malformed", "another species"]})
    judged["wrong"] = judged["fault"] != ""
    scores = {"rule": np.array([0.8, 0.9, 0.1, 0.95, 0.85])}
    table = measured.auc_by_cause(scores, judged, 0, list("abcde")).set_index("cause")
    assert table["value"].to_dict() == {"another species": 0.75, "malformed": 0.0}
    assert table["wrong"].tolist() == [2, 1]
    none = judged.assign(fault="", wrong=False)
    assert measured.auc_by_cause(scores, none, 0, list("abcde")).empty
    right, injected = {"source": np.array([0.8, 0.9, 0.3])}, {"source": np.array([0.5, 0.1])}
    (row,) = measured.auc_injected(right, injected, seed=0).to_dict("records")
    assert (row["value"], row["wrong"], row["n"]) == (pytest.approx(5 / 6), 2, 5)


def test_roc_points_have_the_area():
    rng = np.random.default_rng(1)
    wrong = rng.random(200) < 0.4
    values = {"a": rng.normal(size=200) - wrong, "b": rng.normal(size=200)}
    for rule, curve in measured.roc_table(values, wrong).groupby("rule"):
        area = np.trapezoid(curve["caught"], curve["false_alarms"])
        assert area == pytest.approx(measured.auc(wrong, values[rule]))
    assert measured.roc_table(values, np.zeros(200, bool)).empty


def test_detection_counts_what_the_filter_does():
    wrong = np.arange(8) < 3
    accepted = np.array([False, False, True, False, True, True, True, True])
    rates = {name: row["value"] for name, row in measured.detection(wrong, accepted).items()}
    expected = {"rejection_rate": 3 / 8, "precision": 2 / 3, "recall": 2 / 3, "wrong_rate": 3 / 8}
    assert rates == pytest.approx(expected | {"wrong_rate_kept": 1 / 5})
    nothing = measured.detection(np.zeros(4, bool), np.ones(4, bool))
    assert nothing["precision"] == nothing["recall"] == {"value": 0, "low": 0, "high": 1, "n": 0}
