"""Near-copies, leakage, balance and the data card."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twin import make_twin

from diffcore import responsibility
from diffcore import responsibility_study as images_study
from diffcore.data import in_memory
from diffcore.filtering import save_decisions
from diffcore.paperbirds import CONTEXTS, Paperbirds
from diffcore.params import load_params
from diffcore.responsibility import DataCard


class Corner:
    """An encoder that sees the mean colour of the upper left quarter alone."""

    def embed_images(self, images):
        corner = images[:, : images.shape[1] // 2, : images.shape[2] // 2].mean((1, 2)) + 1.0
        return corner / np.linalg.norm(corner, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def images():
    return in_memory(Paperbirds("train", style=0.6, images_per_class=3)).pixels


@pytest.fixture(scope="module")
def vectors(images):
    return responsibility.as_vectors(images, Corner(), mirrored=True)


def spaces(values):
    """The same points on a line in both spaces, for distances that can be seen."""
    points = np.array(values, float)[:, None, None]
    angle = np.concatenate([np.cos(points), np.sin(points)], axis=2)
    return {"CLIP embedding": angle, "pixels": points}


# -------------------------------------------------------------------------------------- near-copies
def test_vectors_hold_the_image_and_its_mirror_image(images):
    both = responsibility.as_vectors(images, Corner(), mirrored=True)
    turned = responsibility.as_vectors(images[:, :, ::-1].copy(), Corner())
    for space in responsibility.SPACES:
        assert both[space].shape[:2] == (len(images), 2)
        np.testing.assert_allclose(both[space][:, 1], turned[space][:, 0], atol=1e-6)


def test_exposure_does_not_matter_to_pixels():
    dark = np.random.default_rng(0).integers(10, 100, (2, 64, 64, 3), dtype=np.uint8)
    found = responsibility.nearest(
        responsibility.as_vectors(2 * dark, Corner()), responsibility.as_vectors(dark, Corner())
    )
    pixels = found[found["space"] == "pixels"]
    assert pixels["reference"].tolist() == [0, 1]
    assert pixels["distance"].tolist() == pytest.approx([0, 0], abs=1e-6)


def test_a_black_image_has_a_place_too():
    black = responsibility.as_vectors(np.zeros((1, 64, 64, 3), np.uint8), Corner())
    assert np.isfinite(black["pixels"]).all()


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=8),
    st.lists(st.floats(0, 1), min_size=1, max_size=8),
)
def test_the_nearest_is_the_nearest(queries, references):
    found = responsibility.nearest(spaces(queries), spaces(references))
    pixels = found[found["space"] == "pixels"]
    expected = [min(abs(q - r) for r in references) for q in queries]
    assert pixels["distance"].tolist() == pytest.approx(expected)
    assert [abs(queries[q] - references[r])
            for q, r in zip(pixels["query"], pixels["reference"], strict=True)
           ] == pytest.approx(expected)  # fmt: skip
    assert (found["distance"] >= 0).all()


def test_no_image_is_near_to_itself():
    found = responsibility.nearest(spaces([0.0, 0.1, 0.5]))
    pixels = found[found["space"] == "pixels"]
    assert pixels["reference"].tolist() == [1, 0, 1]
    assert pixels["distance"].tolist() == pytest.approx([0.1, 0.1, 0.4])


def test_one_image_has_nothing_to_be_compared_with():
    with pytest.raises(ValueError, match="no reference image"):
        responsibility.nearest(spaces([0.0]))


def test_copies_are_found_mirrored_or_not(images, vectors):
    for copies in (images, images[:, :, ::-1].copy()):
        found = responsibility.nearest(responsibility.as_vectors(copies, Corner()), vectors)
        assert (found["reference"] == found["query"]).all()
        np.testing.assert_allclose(found["distance"], 0, atol=1e-6)


def test_the_stated_share_of_new_real_images_lies_below_the_threshold():
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(60):
        training, new = rng.normal(size=(2, 200, 1, 2))
        thresholds = responsibility.copy_thresholds({"pixels": training}, share=0.1)
        found = responsibility.nearest({"pixels": new}, {"pixels": training})
        hits.append(responsibility.flag_copies(found, thresholds)["pixels"].mean())
    assert np.mean(hits) == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("share", [0, 1, -0.1])
def test_a_share_of_none_or_all_is_no_threshold(share):
    with pytest.raises(ValueError, match="between 0 and 1"):
        responsibility.copy_thresholds(spaces([0, 1]), share)


def test_near_in_one_space_is_near():
    found = pd.DataFrame(
        {
            "query": [0, 1, 2] * 2,
            "reference": 0,
            "space": ["CLIP embedding"] * 3 + ["pixels"] * 3,
            "distance": [0.0, 0.5, 0.5, 0.9, 0.1, 0.9],
        }
    )
    flags = responsibility.flag_copies(found, {"CLIP embedding": 0.1, "pixels": 0.2})
    assert flags.to_numpy().tolist() == [
        [True, False, True], [False, True, True], [False, False, False],
    ]  # fmt: skip
    rates = responsibility.copy_rates({"x": flags}, 0.95).set_index("space")
    assert rates["count"].to_dict() == {"CLIP embedding": 1, "pixels": 1, "either": 2}
    assert rates.loc["either", "rate"] == pytest.approx(2 / 3)


def test_planted_copies_differ_from_their_images_and_keep_their_kind(images):
    for kind, copies in responsibility.planted_copies(images).items():
        assert copies.shape == images.shape, kind
        assert copies.dtype == np.uint8
        change = np.abs(copies.astype(int) - images).mean((1, 2, 3))
        assert (change > 0.2).all(), kind
    mirrored = responsibility.planted_copies(images)["mirrored"]
    np.testing.assert_array_equal(mirrored, images[:, :, ::-1])


def test_the_closest_pairs_come_first():
    found = responsibility.nearest(spaces([0.0, 0.3, 0.9]), spaces([0.05, 0.9]))
    pairs = responsibility.closest_pairs(found, "pixels", 2)
    assert pairs["query"].tolist() == [2, 0]
    assert pairs["reference"].tolist() == [1, 0]


# ------------------------------------------------------------------------------------------ leakage
def test_a_set_that_knows_the_test_is_nearer_to_it():
    tests, training = spaces([0.1, 0.5, 0.9, 0.3]), spaces([0.0, 0.2, 0.4, 0.8])
    shares = responsibility.closer_shares(
        tests, training, {"leaked": tests, "far": spaces([7.0] * 4)}, 0.95
    )
    rates = shares[shares["space"] == "pixels"].set_index("images")["rate"]
    assert rates.to_dict() == {"leaked": 1.0, "far": 0.0}


def test_sets_of_one_kind_are_equally_near():
    rng = np.random.default_rng(0)
    draws = [{"pixels": rng.normal(size=(400, 1, 3))} for _ in range(3)]
    found = responsibility.closer_shares(draws[0], draws[1], {"other": draws[2]}, 0.99).iloc[0]
    assert found["low"] < 0.5 < found["high"]


def test_sets_must_be_equally_large():
    with pytest.raises(ValueError, match="more must hold as many"):
        responsibility.closer_shares(spaces([0]), spaces([0]), {"more": spaces([0, 1])}, 0.95)


# ------------------------------------------------------------------------------------------ balance
def test_balance_tells_even_from_tied():
    tied = pd.DataFrame({"class_name": ["a", "b"] * 20, "context": ["x", "y"] * 20})
    even = pd.DataFrame({"class_name": ["a", "b"] * 20, "context": ["x", "x", "y", "y"] * 10})
    found = responsibility.balance({"tied": tied, "even": even}, "xy", 0.95).set_index("set")
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
        ties.append(responsibility.balance({"": table}, "uvwxyz", 0.95)["tie"][0])
    assert np.mean(ties) == pytest.approx(0, abs=0.02)


# ---------------------------------------------------------------------------------------- data card
CARD = DataCard(
    title="birds", model="tiny", model_hash="abc", sampler={"guidance scale": 12.0, "steps": 4},
    template="a {class_name}, {context}", contexts=("garden", "snow"), negatives=("car",),
    plan_seed=7, seeds=[1, 2, 2], counts={"jay": 2, "wren | king": 1},
    filtered={"threshold": 0.41123}, copies={"generated": "0 of 3"}, limits=("It is small.",),
    intended_use="Training.", licence="MIT",
)  # fmt: skip


def test_a_card_says_all_that_it_must():
    text = responsibility.write_card(CARD)
    for part in (
        "# Data card: birds", "3 images of 2 classes", "`abc`", "`a {class_name}, {context}`",
        "garden, snow", "| guidance scale | 12 |", "| seed of the plan | 7 |", "2 different ones",
        "| jay | 2 |", r"| wren \| king | 1 |", "| threshold | 0.4112 |",
        "| generated | 0 of 3 |", "- It is small.", "Training.", "MIT",
    ):  # fmt: skip
        assert part in text
    assert "$" not in text


@pytest.mark.parametrize("name", ["limits", "intended_use", "licence"])
def test_a_card_that_hides_the_most_is_not_written(name):
    with pytest.raises(ValueError, match=f"must state {name}"):
        responsibility.write_card(replace(CARD, **{name: ()}))


def test_a_card_without_a_filter_says_so():
    text = responsibility.write_card(replace(CARD, filtered={}, copies={}))
    assert "No filter was used." in text
    assert "Not searched for." in text


# --------------------------------------------------------------------------------------- the whole
@pytest.fixture(scope="module")
def params():
    return load_params("smoke", {"data.train_images_per_class": 2})


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def synthetic(params, run_dir):
    return images_study.load_synthetic(params, make_twin(), run_dir)


@pytest.fixture(scope="module")
def searched(params, synthetic):
    vectors = images_study.real_and_generated(params, synthetic, Corner())
    return vectors, *images_study.search_copies(synthetic, vectors, Corner(), 0.95)


def test_generated_images_come_with_their_facts(synthetic):
    assert synthetic.decisions is None
    assert len(synthetic.images) == len(synthetic.table) > 0
    sources = synthetic.table["source_id"].iloc[synthetic.first]
    assert sources.is_unique
    assert set(sources) == set(synthetic.table["source_id"])


def test_only_accepted_images_count_once_the_filter_has_decided(params, synthetic, tmp_path):
    decided = synthetic.table.assign(
        attempt=0, accepted=[False] + [True] * (len(synthetic.table) - 1), rule="source",
        threshold=0.5,
    )  # fmt: skip
    save_decisions(decided, tmp_path / "filtering")
    kept = images_study.load_synthetic(params, make_twin(), tmp_path)
    assert kept.table["sample_id"].tolist() == synthetic.table["sample_id"].tolist()[1:]
    card = images_study.describe(params, kept, some_rates())
    assert card.filtered["rejected of these"] == f"{1 / len(decided):.1%}"
    assert card.filtered["accepted in all"] == len(decided) - 1


def some_rates():
    hits = pd.DataFrame({"pixels": [True, False], "either": [True, False]})
    return responsibility.copy_rates({"generated": hits, "planted: cropped": hits}, 0.95)


def test_the_search_looks_at_all_sets_and_knows_itself(searched):
    _, found, thresholds, rates = searched
    assert set(thresholds) == set(responsibility.SPACES)
    assert {"generated", "test, matched", "test, shifted", "planted: mirrored"} <= set(found)
    either = rates[rates["space"] == "either"].set_index("images")["rate"]
    # Mirror images are references too, so that those planted are found as what they are.
    assert either["planted: mirrored"] == 1
    assert list(rates) == ["images", "space", "rate", "low", "high", "n", "count"]


def test_leakage_compares_sets_of_one_size(params, synthetic, searched):
    found = images_study.leakage(synthetic, searched[0], Corner(), confidence=0.95, seed=0)
    assert len(found) == 2 * 2 * 2
    assert found["images"].unique().tolist() == ["generated", "fresh renders"]
    assert (found["n"] == 24).all()


def test_the_closest_are_shown_above_what_they_are_near_to(synthetic, searched):
    pairs = responsibility.closest_pairs(searched[1]["generated"], "pixels", 3)
    (above, below), (names, distances) = images_study.closest_gallery(synthetic, pairs)
    np.testing.assert_array_equal(above[0], synthetic.images[pairs["query"][0]])
    np.testing.assert_array_equal(below[0], synthetic.train[pairs["reference"][0]]["image"])
    assert len(names) == len(distances) == 3


def test_before_and_after_share_the_training_set(synthetic):
    sets = images_study.before_and_after(synthetic)
    assert [len(table) for table in sets.values()] == [24, 24 + len(synthetic.table)]
    assert len(responsibility.balance(sets, CONTEXTS, 0.95)) == 2


def test_the_card_is_written_from_what_was_drawn(params, synthetic, searched):
    card = images_study.describe(params, synthetic, searched[-1])
    text = responsibility.write_card(card)
    assert sum(card.counts.values()) == len(synthetic.table)
    assert synthetic.table["model_hash"][0] in text
    assert "No filter was used." in text
    assert "MIT" in card.licence
    assert not any(name.startswith("planted") for name in card.copies)


def test_other_models_have_other_terms(params, synthetic):
    pipeline = params.generation.pipeline.model_copy(
        update={"kind": "hub", "location": "somebody/cosxl"}
    )
    changed = params.model_copy(
        update={"generation": params.generation.model_copy(update={"pipeline": pipeline})}
    )
    card = images_study.describe(changed, synthetic, some_rates())
    assert "somebody/cosxl" in card.licence
