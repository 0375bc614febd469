"""Near-copies: distances that can be seen, copies that must be found, and the stated share."""

import numpy as np
import pandas as pd
import pytest
from corner import Corner, spaces
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from paperbirds import Paperbirds
from diffcore.measure import near_copies as copies
from diffcore.measure.near_copies import as_vectors, copy_thresholds, nearest


@pytest.fixture(scope="module")
def images():
    return Paperbirds("train", style=0.6, images_per_class=3).images


@pytest.fixture(scope="module")
def vectors(images):
    return as_vectors(images, Corner(), mirrored=True)


def in_pixels(found):
    return found[found["space"] == "pixels"]


def test_vectors_hold_the_image_and_its_mirror_image(images, vectors, monkeypatch):
    monkeypatch.setattr(copies, "_TOGETHER", 5)
    turned = as_vectors(images[:, :, ::-1].copy(), Corner())
    for space in copies.SPACES:
        assert vectors[space].shape[:2] == (len(images), 2)
        np.testing.assert_allclose(vectors[space][:, 1], turned[space][:, 0], atol=1e-6)


def test_exposure_does_not_matter_to_pixels_and_black_has_a_place_too():
    dark = np.random.default_rng(0).integers(10, 100, (2, 64, 64, 3), dtype=np.uint8)
    found = in_pixels(nearest(as_vectors(2 * dark, Corner()), as_vectors(dark, Corner())))
    assert found["reference"].tolist() == [0, 1]
    assert found["distance"].tolist() == pytest.approx([0, 0], abs=1e-6)
    assert np.isfinite(as_vectors(0 * dark, Corner())["pixels"]).all()


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=8),
    st.lists(st.floats(0, 1), min_size=1, max_size=8),
)
def test_the_nearest_is_the_nearest(queries, references):
    found = in_pixels(nearest(spaces(queries), spaces(references)))
    expected = [min(abs(q - r) for r in references) for q in queries]
    assert found["distance"].tolist() == pytest.approx(expected, abs=1e-7)
    pairs = zip(found["query"], found["reference"], strict=True)
    assert [abs(queries[q] - references[r]) for q, r in pairs] == pytest.approx(expected, abs=1e-7)


def test_the_nearest_is_that_of_all_distances_in_any_view(vectors):
    for queries in (vectors, None):
        found = nearest(vectors) if queries is None else nearest(vectors, queries)
        for space, metric in copies.SPACES.items():
            each = vectors[space]
            apart = np.min([cdist(each[:, 0], each[:, v], metric) for v in (0, 1)], axis=0)
            if queries is None:
                np.fill_diagonal(apart, np.inf)
            rows = found[found["space"] == space]
            np.testing.assert_allclose(rows["distance"], apart.min(axis=1), atol=1e-7)
            assert rows["reference"].tolist() == apart.argmin(axis=1).tolist()


def test_no_image_is_near_to_itself():
    found = in_pixels(nearest(spaces([0.0, 0.1, 0.5])))
    assert found["reference"].tolist() == [1, 0, 1]
    assert found["distance"].tolist() == pytest.approx([0.1, 0.1, 0.4])
    with pytest.raises(ValueError, match="no reference image"):
        nearest(spaces([0.0]))


def test_the_stated_share_of_new_real_images_lies_below_the_threshold():
    rng, hits = np.random.default_rng(0), []
    for _ in range(60):
        training, new = ({"pixels": rng.normal(size=(200, 1, 2))} for _ in range(2))
        found = {"new": nearest(new, training)}
        rates = copies.copy_rates(found, copy_thresholds(training, share=0.1), 0.95)
        hits.append(rates["value"][0])
    assert np.mean(hits) == pytest.approx(0.1, abs=0.02)


def test_near_in_one_space_is_near():
    found = pd.DataFrame(
        {"query": [0, 1, 2] * 2, "reference": 0, "space": np.repeat(["embedding", "pixels"], 3),
         "distance": [0.0, 0.5, 0.5, 0.9, 0.1, 0.9]}
    )  # fmt: skip
    rates = copies.copy_rates({"x": found}, {"embedding": 0.1, "pixels": 0.2}, 0.95)
    assert list(rates) == ["images", "space", "value", "low", "high", "n", "count"]
    assert rates.set_index("space")["count"].to_dict() == {"embedding": 1, "pixels": 1, "either": 2}
    assert rates["value"].iloc[-1] == pytest.approx(2 / 3)


def test_known_copies_differ_and_are_found_for_what_they_are(images, vectors):
    made = copies.known_copies(images)
    for kind, changed in made.items():
        assert changed.shape == images.shape, kind
        change = np.abs(changed.astype(int) - images).mean((1, 2, 3))
        assert (change > 0.2).all(), kind
    np.testing.assert_array_equal(made["mirrored"], images[:, :, ::-1])
    for kind in ("mirrored", "brightened"):
        found = in_pixels(nearest(as_vectors(made[kind], Corner()), vectors))
        assert (found["reference"] == found["query"]).all(), kind
