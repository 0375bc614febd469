"""Near-copies, leakage and balance in cases of which the answer is known; what the card says."""

import numpy as np
import pandas as pd
import pytest
from huggingface_hub import DatasetCard
from scipy.spatial.distance import cdist

from diffcore.measure import near_copies
from diffcore.measure.near_copies import as_vectors, nearest
from diffcore.params import load_params
from diffcore.prompts.prompt_set import load_prompt_set


class Corner:
    """An encoder of the upper left quarter's mean colour."""

    def embed_images(self, images):
        corner = images[:, : images.shape[1] // 2, : images.shape[2] // 2].mean((1, 2)) + 1.0
        return corner / np.linalg.norm(corner, axis=1, keepdims=True)


def spaces(values):
    """The same points on a line in both spaces, for distances that can be computed by hand."""
    points = np.array(values, float)[:, None, None]
    angle = np.concatenate([np.cos(points), np.sin(points)], axis=2)
    return {"embedding": angle, "pixels": points}


@pytest.fixture(scope="module")
def images():
    """Pictures of 8 x 8 patches."""
    patches = np.random.default_rng(0).integers(20, 200, (24, 8, 8, 3), dtype=np.uint8)
    return patches.repeat(8, axis=1).repeat(8, axis=2)


@pytest.fixture(scope="module")
def vectors(images):
    return as_vectors(images, Corner(), mirrored=True)


def in_pixels(table):
    return table[table["space"] == "pixels"]


def test_vectors_hold_the_image_and_its_mirror_image(images, vectors, monkeypatch):
    monkeypatch.setattr(near_copies, "_TOGETHER", 5)
    turned = as_vectors(images[:, :, ::-1].copy(), Corner())
    for space in near_copies.SPACES:
        np.testing.assert_allclose(vectors[space][:, 1:], turned[space], atol=1e-6)


def test_exposure_does_not_matter_to_pixels_and_black_has_a_place_too(images):
    dark = images[:2] // 2
    pairs = in_pixels(nearest(as_vectors(2 * dark, Corner()), as_vectors(dark, Corner())))
    assert pairs["reference"].tolist() == [0, 1]
    assert pairs["distance"].tolist() == pytest.approx([0, 0], abs=1e-6)
    assert np.isfinite(as_vectors(0 * dark, Corner())["pixels"]).all()


def test_the_nearest_is_that_of_all_distances_in_any_view_and_never_the_image_itself(vectors):
    for references in (vectors, None):
        table = nearest(vectors, references)
        for space, metric in near_copies.SPACES.items():
            each = vectors[space]
            apart = np.min([cdist(each[:, 0], each[:, v], metric) for v in (0, 1)], axis=0)
            if references is None:
                np.fill_diagonal(apart, np.inf)
            rows = table[table["space"] == space]
            np.testing.assert_allclose(rows["distance"], apart.min(axis=1), atol=1e-7)
            assert rows["reference"].tolist() == apart.argmin(axis=1).tolist()
    with pytest.raises(ValueError, match="no reference image"):
        nearest(spaces([0.0]))


def test_the_stated_share_of_new_real_images_lies_below_the_threshold():
    rng = np.random.default_rng(0)
    training, new = ({"pixels": rng.normal(size=(2000, 1, 2))} for _ in range(2))
    thresholds = near_copies.copy_thresholds(training, share=0.1)
    rates = near_copies.copy_rates({"": nearest(new, training)}, thresholds)
    assert rates["value"][0] == pytest.approx(0.1, abs=0.02)


def test_near_in_one_space_is_near():
    table = pd.DataFrame({"query": [0, 1, 2] * 2, "space": np.repeat(["embedding", "pixels"], 3)})
    table["distance"] = [0.0, 0.5, 0.5, 0.9, 0.1, 0.9]
    rates = near_copies.copy_rates({"x": table}, {"embedding": 0.1, "pixels": 0.2})
    assert list(rates) == ["images", "space", "value", "low", "high", "n", "count"]
    assert rates.set_index("space")["count"].to_dict() == {"embedding": 1, "pixels": 1, "either": 2}
    assert rates["value"].iloc[-1] == pytest.approx(2 / 3)


def test_known_copies_differ_and_are_matched_with_their_originals(images, vectors):
    copies = near_copies.known_copies(images)
    for kind, changed in copies.items():
        change = np.abs(changed.astype(int) - images).mean((1, 2, 3))
        assert (change > 0.2).all(), kind
    np.testing.assert_array_equal(copies["mirrored"], images[:, :, ::-1])
    for kind in ("mirrored", "brightened"):
        pairs = in_pixels(nearest(as_vectors(copies[kind], Corner()), vectors))
        assert (pairs["reference"] == pairs["query"]).all(), kind


def test_a_set_that_knows_the_test_is_nearer_to_it():
    tests, training = spaces([0.1, 0.5, 0.9, 0.3]), spaces([0.0, 0.2, 0.4, 0.8])
    others = {"leaked": tests, "far": spaces([7.0] * 4)}
    shares = near_copies.closer_shares(tests, training, others)
    assert list(shares) == ["images", "space", "value", "low", "high", "n"]
    assert in_pixels(shares).set_index("images")["value"].to_dict() == {"leaked": 1.0, "far": 0.0}
    with pytest.raises(ValueError, match="more must hold as many"):
        near_copies.closer_shares(tests, training, {"more": spaces([0.0] * 5)})


def test_balance_tells_even_from_tied():
    tied = pd.DataFrame({"class_name": ["a", "b"] * 20, "context": ["x", "y"] * 20})
    even = pd.DataFrame({"class_name": ["a", "b"] * 20, "context": ["x", "x", "y", "y"] * 10})
    table = near_copies.balance({"tied": tied, "even": even}, "xy").set_index("set")
    assert table["class_entropy"].tolist() == [1, 1]
    assert table["context_entropy"].tolist() == pytest.approx([0, 1])
    assert (table["context_low"] <= table["context_entropy"]).all()
    assert table["pairs"].tolist() == [0.5, 1]
    assert table["tie"].tolist() == pytest.approx([1, 0], abs=0.05)
    assert table["smallest_class"].tolist() == [0.5, 0.5]


GENERATED = pd.DataFrame({"class_name": ["jay", "jay", "wren | king"], "seed": [1, 2, 2]}).assign(
    model="tiny", model_hash="abc", width=64, height=64, num_inference_steps=4, guidance_scale=12.0
)
DECISIONS = pd.DataFrame({"attempt": [0, 0, 0, 1], "accepted": [True, True, False, True]})
COPIES = pd.DataFrame(
    [
        ("generated", "pixels", 0.0, 3, 0),
        ("generated", "either", 0.0, 3, 0),
        ("copy: mirrored", "either", 1.0, 9, 9),
        ("copy: cropped", "either", 0.5, 9, 4),
    ],
    columns=["images", "space", "value", "n", "count"],
)


def card(profile="smoke", wrong=0.12345, **overrides):
    params = load_params(profile, overrides)
    prompt_set = load_prompt_set("birds")
    decisions = DECISIONS.assign(rule="source", threshold=0.41123)
    return near_copies.data_card(params, prompt_set, GENERATED, decisions, COPIES, wrong)


def test_a_card_says_all_that_it_must_in_the_hubs_form(tmp_path):
    prompt_set = load_prompt_set("birds")
    card().save(tmp_path / "README.md")
    saved = DatasetCard.load(tmp_path / "README.md")
    assert (saved.data.license, saved.data.tags) == ("other", ["synthetic"])
    assert saved.data.pretty_name == "generated counterparts, profile smoke"
    assert str(saved).endswith("on.\n")
    for part in (
        "\n# Data card: generated counterparts, profile smoke\n",
        *("3 images of 2 classes, drawn", "| model | tiny |\n| model hash | `abc` |"),
        *("| guidance scale | 12 |", "| seeds of the samples | 2 different ones |"),
        f"Template: `{prompt_set.template}`",
        *(", ".join(prompt_set.contexts), ", ".join(prompt_set.negatives)),
        *("| threshold | 0.4112 |", "| rejected of these | 33.3% |", "| accepted in all | 3 |"),
        *("| class | images |\n|---", "| jay | 2 |", r"| wren \| king | 1 |"),
        *("| generated, by pixels | 0 of 3 |", "12.3% of them are wrong"),
        "found 50% of the kind that is hardest to find (cropped)",
    ):
        assert part in saved.text
    assert "\n\n\n" not in saved.text
    assert "{" not in saved.text.replace(prompt_set.template, "")
    assert "copy: mirrored" not in saved.text


@pytest.mark.parametrize(
    ("kind", "wrong", "parts"),
    [
        ("hub", None, ["`somebody/cosxl`", "text-to-image model. **None", "is not known."]),
        ("import", None, ["imported from elsewhere", "records do not name", "Contexts: none."]),
        ("substitute", 0.1, ["terms of the data set (cub200)", "10.0% of the images are injected"]),
    ],
)
def test_other_origins_have_other_terms(kind, wrong, parts):
    location = {"generation.pipeline.kind": kind, "generation.pipeline.location": "somebody/cosxl"}
    text = card("cub200", wrong, **location).text
    assert all(part in text for part in parts)
    assert ("A context is what the prompt named" in text) == (kind == "hub")
