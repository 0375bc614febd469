"""Filtration: rules; thresholds; drawing again; the filter as a detector."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from diffcore import bench, figures, filtering
from diffcore.filtering import RULES, cosine_to_reference, hard_filter, load_encoder
from diffcore.paperbirds import MALFORMATIONS
from diffcore.params import FilteringParams, load_params
from diffcore.prompts import load_prompt_book, plan_generation


def test_the_defaults_are_the_released_settings():
    released = FilteringParams()
    assert (released.encoder.model_name, released.encoder.pretrained) == ("ViT-B-32", "openai")
    assert (released.threshold, released.max_attempts) == (0.6, 0)


# ----------------------------------------------------------------------------------- the similarity
def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def make_images(class_names, source_ids, seed):
    vectors = unit(np.random.default_rng(seed).normal(size=(len(class_names), 5)))
    return pd.DataFrame({
        "class_name": class_names, "source_id": source_ids,
        "embedding": list(vectors.astype(np.float32)),
    })  # fmt: skip


@pytest.fixture
def real():
    return make_images(list("abcabcab"), list("01234567"), seed=1)


@pytest.fixture
def generated(real):
    rows = real.iloc[[3, 0, 0, 5, 7, 2]]
    return make_images(rows["class_name"].tolist(), rows["source_id"].tolist(), seed=2)


def plainly(row, real, rule):
    """One similarity in the most literal way."""
    own = [e for e, s in zip(real["embedding"], real["source_id"], strict=True) if s == row[1]]
    same = [e for e, c in zip(real["embedding"], real["class_name"], strict=True) if c == row[0]]
    if rule == "class_mean":
        mean = sum(same) / len(same)
        return row[2] @ mean / (mean @ mean) ** 0.5
    if rule == "source":
        return row[2] @ own[0]
    return row[2] @ same[0] if rule == "class_first" else max(row[2] @ e for e in same)


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_agrees_with_its_definition(generated, real, rule):
    expected = [plainly(row, real, rule) for row in generated.itertuples(index=False)]
    found = cosine_to_reference(generated, real, rule)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_a_score_depends_on_no_other_image(generated, real, rule):
    shuffled = generated.sample(frac=1, random_state=0)
    np.testing.assert_allclose(
        cosine_to_reference(shuffled, real, rule),
        cosine_to_reference(generated, real, rule)[shuffled.index],
        atol=1e-6,
    )


def test_only_class_first_depends_on_the_order_of_the_reference(generated, real):
    turned = real.iloc[::-1]
    for rule in RULES:
        same = np.allclose(
            cosine_to_reference(generated, real, rule),
            cosine_to_reference(generated, turned, rule),
            atol=1e-6,
        )
        assert same == (rule != "class_first")


def test_a_copy_of_its_source_is_as_similar_as_can_be(real):
    for rule in ("source", "class_nearest"):
        np.testing.assert_allclose(cosine_to_reference(real, real, rule), 1, atol=1e-6)


def test_what_cannot_be_compared_is_named(generated, real):
    with pytest.raises(ValueError, match="unknown rule 'nearest'; known: source, class_mean"):
        cosine_to_reference(generated, real, "nearest")
    with pytest.raises(ValueError, match="the reference has no source_id '5'"):
        cosine_to_reference(generated, real[real["source_id"] != "5"], "source")
    with pytest.raises(ValueError, match="the reference has no class_name 'c'"):
        cosine_to_reference(generated, real[real["class_name"] != "c"], "class_mean")


@pytest.mark.parametrize("rule", RULES)
def test_real_images_are_compared_with_the_others_of_their_class(real, rule):
    expected = []
    for _, members in real.groupby("class_name"):
        for place, row in enumerate(members.itertuples(index=False)):
            others = members.drop(members.index[place])
            others = members if rule == "class_first" else others
            if rule == "source":
                expected += [row[2] @ other for other in others["embedding"]]
            elif rule != "class_first" or place > 0:
                expected.append(plainly(row, others, rule))
    found = filtering.real_similarities(real, rule)
    np.testing.assert_allclose(sorted(found), sorted(expected), atol=1e-6)


def test_of_a_large_class_the_first_images_are_compared(monkeypatch):
    names = ["a"] * 9 + ["b"] * 4
    real = make_images(names, [str(place) for place in range(13)], seed=3)
    monkeypatch.setattr(filtering, "MOST_COMPARED", 5)
    few = pd.concat([real[:5], real[9:]])
    for rule, count in (("source", 20 + 12), ("class_first", 4 + 3), ("class_mean", 5 + 4)):
        found = filtering.real_similarities(real, rule)
        assert len(found) == count
        np.testing.assert_array_equal(found, filtering.real_similarities(few, rule))


def test_a_class_of_one_compares_nothing(real):
    with pytest.raises(ValueError, match="no class has two real images"):
        filtering.real_similarities(real.drop_duplicates("class_name"), "source")


def test_impostors_claim_a_random_source_of_another_class(real):
    found = filtering.impostors(real, real, copies=20, seed=0)
    true = np.tile(real["class_name"], 20)
    assert (found["class_name"].to_numpy() != true).all()
    assert found["class_name"].tolist() == [
        real.set_index("source_id")["class_name"][s] for s in found["source_id"]
    ]
    assert found["embedding"].iloc[9] is real["embedding"].iloc[1]
    assert set(found["source_id"]) == set(real["source_id"])
    with pytest.raises(ValueError, match="two classes"):
        filtering.impostors(real, real[real["class_name"] == "a"], seed=0)


def test_impostors_may_claim_the_class_that_is_most_alike():
    angles = np.array([0.0, 0.1, 0.3, 1.5])
    real = pd.DataFrame({
        "class_name": list("abcd"), "source_id": list("0123"),
        "embedding": list(np.stack([np.cos(angles), np.sin(angles)], 1)),
    })  # fmt: skip
    found = filtering.impostors(real, real, seed=0, alike=True)
    assert found["class_name"].tolist() == ["b", "a", "b", "c"]


def test_text_similarity_is_to_the_text_of_the_class(generated, real):
    texts = {name: unit(np.arange(5.0) + place) for place, name in enumerate("abc")}
    found = filtering.similarities(generated, real, texts)
    assert list(found) == [*RULES, "text"]
    expected = [
        e @ texts[c] for c, e in zip(generated["class_name"], generated["embedding"], strict=True)
    ]
    np.testing.assert_allclose(found["text"], expected, atol=1e-6)
    np.testing.assert_array_equal(
        found["class_mean"], cosine_to_reference(generated, real, "class_mean")
    )


def test_without_texts_there_is_no_similarity_to_them(generated, real):
    assert list(filtering.similarities(generated, real, {})) == [*RULES]


def test_pairs_leave_out_an_image_and_its_own_counterparts(generated, real):
    real["context"], generated["context"] = list("xxyyxxyy"), list("xyxyxy")
    pairs = filtering.pair_cosines(generated, real)
    assert len(pairs) == len(generated) * len(real) - len(generated)
    expected = sum(
        g["class_name"] == r["class_name"] and g["context"] == r["context"]
        for _, g in generated.iterrows()
        for _, r in real.iterrows()
        if g["source_id"] != r["source_id"]
    )
    assert (pairs["shared"] == "class and context").sum() == expected
    alike = filtering.pair_cosines(real, real)
    counts = alike["shared"].value_counts()
    same_class = real["class_name"].to_numpy()[:, None] == real["class_name"].to_numpy()
    assert counts["class and context"] + counts["class only"] == same_class.sum() - len(real)
    assert filtering.pair_cosines(real.head(0), real).empty
    assert pairs["cosine"].iloc[0] == pytest.approx(
        generated["embedding"][0] @ real["embedding"][0]
    )


# ------------------------------------------------------------------------------------- the decision
@settings(max_examples=50)
@given(
    st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=50, unique=True),
    st.floats(0.01, 0.99),
)
def test_a_calibrated_threshold_rejects_the_stated_share_of_real_images(values, quantile):
    real = np.array(values, np.float32)
    rejected = ~hard_filter(real, filtering.calibrate_threshold(real, quantile))
    assert quantile - 2 / len(real) < rejected.mean() <= quantile


@pytest.mark.parametrize("quantile", [0, 1, -0.1])
def test_a_quantile_lies_between_nothing_and_all(quantile):
    with pytest.raises(ValueError, match="must be between 0 and 1"):
        filtering.calibrate_threshold(np.ones(3), quantile)


def test_rules_are_compared_each_at_its_own_threshold():
    values = {"a": np.array([0.1, 0.9]), "b": np.array([0.5, 0.6])}
    foreign = {"a": np.array([0.1, 0.2, 0.3, 0.8]), "b": np.ones(3)}
    found = filtering.compare_rules({"a": 0.5, "b": 0.7}, values, foreign)
    assert found["generated_rejected"].tolist() == [0.5, 1.0]
    assert found["impostors_rejected"].tolist() == [0.75, 0.0]


def test_a_stated_threshold_is_used_and_an_absent_one_calibrated_on_real_images(real):
    assert filtering.study_threshold(FilteringParams(threshold=0.6), real) == 0.6
    found = filtering.study_threshold(FilteringParams(threshold=None, quantile=0.3), real)
    assert found == filtering.calibrate_threshold(filtering.real_similarities(real, "source"), 0.3)


def test_a_similarity_at_the_threshold_passes():
    below = np.nextafter(0.6, 0)
    assert hard_filter(np.array([below, 0.6, 0.7]), 0.6).tolist() == [False, True, True]
    assert hard_filter(np.array([-1.0, 1.0]), -1).all()


@pytest.fixture
def sources():
    return pd.DataFrame({"source_id": ["train-0", "train-1"], "class_name": ["jay", "puffin"]})


@pytest.fixture
def filled(sources):
    """Fill a plan whose samples pass at the attempt that `passes` gives for their slot."""

    def fill(passes, max_attempts):
        drawn = []

        def replan(attempt):
            book = load_prompt_book("birds")
            return plan_generation(sources, book, generated_share=2, seed=0, attempt=attempt)

        def draw_and_score(plan):
            drawn.extend(plan["sample_id"])
            slots = plan["sample_id"].str[:-2]
            attempts = plan["sample_id"].str[-1].astype(int)
            good = [passes.get(s, 0) == a for s, a in zip(slots, attempts, strict=True)]
            scores = dict.fromkeys((f"cosine_{rule}" for rule in RULES), 0.0)
            return pd.DataFrame(scores | {"cosine_source": np.where(good, 0.9, 0.1)})

        decisions = filtering.refill(
            replan(0), replan, draw_and_score,
            rule="source", threshold=0.6, max_attempts=max_attempts,
        )  # fmt: skip
        assert decisions["sample_id"].tolist() == drawn
        return decisions

    return fill


def test_only_what_was_rejected_is_drawn_again_from_new_seeds(filled):
    decisions = filled({"train-0-1": 2, "train-1-0": 1}, max_attempts=5)
    drawn = decisions["sample_id"].tolist()
    assert drawn[:4] == ["train-0-0-0", "train-0-1-0", "train-1-0-0", "train-1-1-0"]
    assert drawn[4:] == ["train-0-1-1", "train-1-0-1", "train-0-1-2"]
    assert decisions["attempt"].tolist() == [0, 0, 0, 0, 1, 1, 2]
    assert decisions["accepted"].tolist() == [True, False, False, True, False, True, True]
    assert decisions["seed"].nunique() == len(decisions)
    assert filtering.never_passed(decisions).empty


def test_what_never_passes_is_reported(filled):
    decisions = filled({"train-1-1": 9}, max_attempts=2)
    (row,) = filtering.never_passed(decisions).to_dict("records")
    assert row == {
        "slot": "train-1-1", "class_name": "puffin", "source_id": "train-1", "tries": 3,
        "best": 0.1,
    }  # fmt: skip


def test_nothing_is_drawn_again_without_attempts(filled):
    decisions = filled({"train-1-1": 1}, max_attempts=0)
    assert len(decisions) == 4
    assert filtering.never_passed(decisions)["slot"].tolist() == ["train-1-1"]


def test_decisions_can_be_read_back(filled, tmp_path):
    folder = tmp_path / "new" / "filtering"
    with pytest.raises(FileNotFoundError, match=r"decisions\.parquet .* 02_filtering"):
        filtering.read_decisions(folder)
    decisions = filled({"train-0-1": 1}, max_attempts=1)
    filtering.save_decisions(decisions, folder)
    pd.testing.assert_frame_equal(filtering.read_decisions(folder), decisions)
    accepted = filtering.read_decisions(folder, accepted=True)
    assert accepted["slot"].is_unique
    assert len(accepted) == 4
    assert [path.name for path in folder.iterdir()] == [filtering.DECISIONS]


# ------------------------------------------------------------------------- the filter as a detector
@settings(max_examples=50)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=30))
def test_auc_counts_pairs(images):
    wrong, similarity = (np.array(values) for values in zip(*images, strict=True))
    pairs = [(w, r) for w in similarity[wrong] for r in similarity[~wrong]]
    expected = np.mean([(w < r) + 0.5 * (w == r) for w, r in pairs]) if pairs else 0.5
    assert filtering.auc(wrong, similarity) == pytest.approx(expected)
    if pairs:
        assert roc_auc_score(wrong, -similarity) == pytest.approx(expected)


def test_intervals_of_auc_hold_it_and_shrink_with_more_images():
    rng = np.random.default_rng(0)
    widths = []
    for count in (60, 600):
        wrong = rng.random(count) < 0.3
        values = {"good": rng.normal(size=count) - 2 * wrong, "blind": rng.normal(size=count)}
        table = filtering.auc_table(values, wrong, 0.95, seed=0).set_index("rule")
        assert (table["low"] <= table["auc"]).all()
        assert (table["auc"] <= table["high"]).all()
        assert table.loc["good", "low"] > table.loc["blind", "high"]
        widths.append(table.loc["good", "high"] - table.loc["good", "low"])
    (row,) = filtering.auc_table({"a": np.arange(4)}, np.ones(4, bool), 0.95, 0).to_dict("records")
    assert (row["auc"], row["low"], row["high"]) == (0.5, 0, 1)
    assert widths[1] < widths[0] / 2


def test_causes_are_told_apart_against_right_images():
    judged = pd.DataFrame({
        "species_right": [True, True, False, True, False],
        "wellformed": [True, True, True, False, False],
    })  # fmt: skip
    judged["wrong"] = ~(judged["species_right"] & judged["wellformed"])
    scores = {"rule": np.array([0.8, 0.9, 0.1, 0.95, 0.85])}
    found = filtering.auc_by_cause(scores, judged, 0.95, seed=0).set_index("cause")
    assert found["auc"].to_dict() == {"wrong species": 0.75, "malformed, species right": 0.0}
    assert found["wrong"].tolist() == [2, 1]


def test_planted_errors_are_set_against_right_images():
    found = filtering.auc_planted(
        {"a": np.array([0.8, 0.9, 0.5])}, {"a": np.array([0.6, 0.1])}, 0.95, seed=0
    )
    assert found.to_dict("records")[0] | {"low": 0, "high": 1} == {
        "rule": "a", "auc": pytest.approx(5 / 6), "low": 0, "high": 1, "wrong": 2, "n": 5,
    }  # fmt: skip


def test_roc_points_have_the_area():
    rng = np.random.default_rng(1)
    wrong = rng.random(200) < 0.4
    values = {"a": rng.normal(size=200) - wrong, "b": rng.normal(size=200)}
    points = filtering.roc_table(values, wrong)
    for rule, curve in points.groupby("rule"):
        area = np.trapezoid(curve["caught"], curve["false_alarms"])
        assert area == pytest.approx(filtering.auc(wrong, values[rule]))
    assert filtering.roc_table(values, np.zeros(200, bool)).empty


def test_detection_counts_what_the_filter_does():
    wrong = np.array([True, True, True, False, False, False, False, False])
    accepted = np.array([False, False, True, False, True, True, True, True])
    found = filtering.detection(wrong, accepted, 0.95)
    rates = {name: value["rate"] for name, value in found.items()}
    assert rates == pytest.approx({
        "rejection_rate": 3 / 8, "precision": 2 / 3, "recall": 2 / 3, "wrong_rate": 3 / 8,
        "wrong_rate_kept": 1 / 5,
    })  # fmt: skip
    assert all(value["low"] <= value["rate"] <= value["high"] for value in found.values())


def test_a_share_of_nothing_is_said_to_be_one():
    found = filtering.detection(np.zeros(4, bool), np.ones(4, bool), 0.95)
    assert found["precision"] == found["recall"] == {"rate": 0.0, "low": 0.0, "high": 1.0, "n": 0}


def test_rejection_over_thresholds_counts_what_is_below():
    values, thresholds = {"all": np.array([0.3, 0.1, 0.2, 0.2])}, np.array([0.1, 0.2, 0.25, 1.0])
    found = filtering.rejection_over(values, thresholds)
    assert found["rate"].tolist() == [0, 0.25, 0.75, 1]
    expected = [(~hard_filter(values["all"], t)).mean() for t in thresholds]
    assert found["rate"].tolist() == expected


def test_the_gallery_starts_at_both_sides_of_the_threshold():
    similarity = np.array([0.9, 0.1, 0.5, 0.7, 0.4, 0.2])
    found = filtering.gallery(similarity, threshold=0.5, count=2)
    assert {name: places.tolist() for name, places in found.items()} == {
        "accepted, most similar": [0, 3], "accepted, just above": [3, 2],
        "rejected, just below": [4, 5], "rejected, least similar": [1, 5],
    }  # fmt: skip


def test_a_caption_says_what_is_wrong():
    judged = pd.DataFrame({
        "class_name": ["jay", "jay", "wren"], "seen_species": ["jay", "wren", "wren"],
        "wellformed": [True, True, False], "wrong": [False, True, True],
    })  # fmt: skip
    assert filtering.captions(np.array([0.9, 0.512, 0.3]), judged) == [
        "0.90 jay", "0.51 jay but wren", "0.30 wren but malformed",
    ]  # fmt: skip


def test_rendered_pairs_differ_in_the_bird_alone():
    plan = pd.DataFrame({
        "class_name": ["blue jay"] * 4, "context": ["open desert", "open desert", "", ""],
    })  # fmt: skip
    whole, malformed = filtering.render_pairs(plan, MALFORMATIONS, seed=0)
    assert whole.shape == malformed.shape == (4, 64, 64, 3)
    differing = (whole != malformed).any(axis=3)
    assert differing.any(axis=(1, 2)).all()
    assert not differing[:, 0, :].any()  # the sky


def test_the_slider_s_figure_counts_what_a_threshold_does():
    fig = figures.threshold_view(
        np.array([0.1, 0.2, 0.6, 0.9]), np.array([True, False, True, False]), 0.5
    )
    assert fig.axes[0].get_title() == (
        "rejected: 50.0% of all, 50.0% of the wrong; wrong among the kept: 50.0% (before: 50.0%)"
    )
    nothing_wrong = figures.threshold_view(np.array([0.1, 0.9]), np.zeros(2, bool), 1.0)
    assert "none of the wrong; wrong among the kept: none" in nothing_wrong.axes[0].get_title()
    plt.close("all")


def test_the_benchmark_s_two_ways_find_the_same():
    spec = load_params("smoke").filtering.encoder
    encoder = load_encoder(spec)
    real, drawn = bench._stand_ins(15)
    assert len(drawn) == 15
    at_once = bench._filter_at_once(encoder, drawn, real)
    one_by_one = bench._filter_one_by_one(encoder, drawn, real)
    np.testing.assert_allclose(at_once, one_by_one, atol=1e-5)
    measured = bench.bench_filtering(spec, images=15, turns=1)
    assert measured["filter_speedup_again"] > 1
    assert measured["filtered_images"] == 15
