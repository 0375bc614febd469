"""The glue of the third notebook: pairs, shares of objects, labels that are still seen."""

import numpy as np
import pandas as pd
import pytest
import torch
from twin import make_twin

from diffcore import mixing_study
from diffcore.data import as_batch, as_pixels
from diffcore.filtering import save_decisions
from diffcore.generation import decode_images
from diffcore.mixing import pixel_mix
from diffcore.mixing_study import Pairs
from diffcore.paperbirds import SPECIES, Paperbirds, load_oracle, render
from diffcore.params import MixingParams, load_params
from diffcore.prompts import load_prompt_book, plan_generation

KEPT = ("DiffCoRe-Mix, pixel", "DiffCoRe-Mix, patch", "DiffuseMix")
SPLIT = ("MixUp", "CutMix", "SaliencyMix")


@pytest.fixture(scope="module")
def params():
    return load_params("smoke", {"data.train_images_per_class": 1})


@pytest.fixture(scope="module")
def pairs():
    """Real images in field style, and perfect counterparts: fresh renders in the studio."""
    train = Paperbirds("train", style=0.6, images_per_class=2)
    sources = train.facts.rename(columns={"id": "source_id"})
    drawn = [render(name, "garden", seed).image for seed, name in enumerate(sources["class_name"])]
    return Pairs(
        train, sources, sources.assign(real=range(24), seed=range(24)), as_batch(train.images),
        as_batch(drawn), np.stack(drawn), torch.tensor(sources["label"].to_numpy()),
        np.stack([train[i]["mask"] for i in range(24)]), False, 24,
    )  # fmt: skip


@pytest.fixture(scope="module")
def loaded(params, tmp_path_factory):
    return mixing_study.load_pairs(params, make_twin(), tmp_path_factory.mktemp("run"))


def a_plan():
    sources = pd.DataFrame({"source_id": list("abcd"), "class_name": "blue jay"})
    return plan_generation(sources, load_prompt_book("paperbirds"), generated_share=2, seed=0)


# --------------------------------------------------------------------------------- images and pairs
def test_pixels_survive_a_round_trip():
    images = np.random.default_rng(0).integers(0, 256, (3, 5, 4, 3), dtype=np.uint8)
    np.testing.assert_array_equal(as_pixels(as_batch(images)), images)


def test_pairs_agree_with_each_other(loaded):
    assert not loaded.filtered
    for row, image, counterpart, drawn, label in zip(
        loaded.table.itertuples(), loaded.real, loaded.generated, loaded.drawn[:], loaded.labels,
        strict=True,
    ):  # fmt: skip
        item = loaded.train[row.real]
        assert item["id"] == row.source_id
        assert item["class_name"] == row.class_name == SPECIES[label]
        np.testing.assert_array_equal(as_pixels(image[None])[0], item["image"])
        np.testing.assert_array_equal(as_pixels(counterpart[None])[0], drawn)
    assert loaded.count == len(loaded.table)


def test_a_head_is_spread_over_all(pairs):
    head = pairs.head(4)
    assert head.table["real"].tolist() == [0, 8, 15, 23]
    assert torch.equal(head.real, pairs.real[[0, 8, 15, 23]])
    assert len(pairs.head(100).table) == len(head.train) == 24


def test_decisions_replace_the_plan_they_were_made_for(tmp_path):
    plan = a_plan()
    assert mixing_study.accepted_plan(plan, tmp_path) == (plan, False)
    again = plan[:1].assign(sample_id="a-0-1", seed=5)
    decided = pd.concat([plan, again], ignore_index=True)
    save_decisions(decided.assign(accepted=[False] * 2 + [True] * 7, similarity=0.5), tmp_path)
    accepted, filtered = mixing_study.accepted_plan(plan, tmp_path)
    assert filtered
    assert accepted.columns.tolist() == plan.columns.tolist()
    assert accepted["sample_id"].tolist() == [*plan["sample_id"][2:], "a-0-1"]
    _, filtered = mixing_study.accepted_plan(plan.assign(seed=plan["seed"] + 1), tmp_path)
    assert not filtered


def test_each_image_keeps_its_first_counterpart():
    rows = mixing_study.first_counterparts(["d", "b", "a"], a_plan().query("source_id < 'c'"))
    assert rows[["real", "sample_id"]].to_numpy().tolist() == [[1, "b-0-0"], [2, "a-0-0"]]


def test_edits_follow_their_training_images(params, loaded, tmp_path):
    sources = loaded.sources[3:6]
    edits = mixing_study.edit_sources(loaded.train, sources, params, make_twin(), tmp_path)
    assert edits["real"].tolist() == [3, 4, 5]
    assert set(edits["context"]) <= set(params.mixing.edit_prompts)
    assert decode_images(edits).shape == (3, 64, 64, 3)


def test_one_image_is_followed_through_every_stage(params, loaded, tmp_path, monkeypatch):
    passed = np.array([True, False, True])
    monkeypatch.setattr(mixing_study, "_judge", lambda *_: (np.array([0.9, 0.1, 0.8]), passed))
    images, captions = mixing_study.follow(
        loaded, 4, params, make_twin(), tmp_path, [1.0, 0.5, 0.0]
    )
    start, generated, pixel, patch = images
    np.testing.assert_array_equal(start[0], loaded.train[4]["image"])
    for mixed in (pixel, patch):
        assert mixed[1] is None
        np.testing.assert_array_equal(mixed[0], start[0])
        np.testing.assert_array_equal(mixed[2], generated[2])
    assert [text.split("\n")[-1] for text in captions[1]] == [
        "0.90 passes", "0.10 rejected", "0.80 passes",
    ]  # fmt: skip
    assert captions[2] == captions[3] == ["λ = 1.00", "", "λ = 0.00"]


def test_a_gallery_has_a_row_a_pair_and_a_column_a_lam(pairs):
    rows = mixing_study.gallery(pixel_mix, pairs.real[:3], pairs.generated[:3], [1.0, 0.0])
    assert len(rows) == 3
    np.testing.assert_array_equal(np.stack(rows)[:, 0], as_pixels(pairs.real[:3]))
    np.testing.assert_array_equal(np.stack(rows)[:, 1], as_pixels(pairs.generated[:3]))


def test_the_contrast_starts_and_ends_with_the_same_images(pairs):
    edited = 1 - pairs.real
    stages = mixing_study.contrast(pairs, edited, MixingParams(fractals=3), seed=0)
    half = stages["half and half"]
    from_either = torch.isclose(half, pairs.real) | torch.isclose(half, edited)
    assert from_either.float().mean() > 0.85
    fractal = (stages["DiffuseMix"] - 0.8 * half) / 0.2
    assert -1e-5 <= fractal.min() <= fractal.max() <= 1 + 1e-5
    assert torch.equal(
        stages["DiffCoRe-Mix, pixel"], pixel_mix(pairs.real, stages["generated"], 0.5)
    )


def test_every_baseline_but_vanilla_is_shown(pairs):
    shown = mixing_study.baseline_images(pairs, 50.0, seed=0)
    assert "vanilla" not in shown
    assert all(images.shape == pairs.real.shape for images in shown.values())
    assert all(not torch.equal(images, pairs.real) for images in shown.values())


def test_the_border_gives_area_back_and_leaves_drawn_lams_alone():
    table = mixing_study.draw_lams((0.5, 3.0), 4000, 32, 32, seed=0)
    means = table.groupby(["level", "alpha"])["lam"].mean()
    assert means["pixel"].to_numpy() == pytest.approx([0.5, 0.5], abs=0.02)
    assert (means["patch"] > means["pixel"] + 0.1).all()


# --------------------------------------------------------------------------- how much is an object
@pytest.fixture(scope="module")
def objects(pairs):
    shares = mixing_study.object_shares(pairs, MixingParams(), repeats=6, seed=0)
    return shares, mixing_study.summarise_shares(shares).set_index("method")


def test_a_kept_label_is_right_where_both_sources_show_its_class(objects):
    shares, table = objects
    assert table.index.tolist() == [*KEPT, *SPLIT]
    assert (table.loc[[*KEPT], ["other", "label_error"]] == 0).all(axis=None)
    assert (shares[shares["method"].isin(KEPT)]["target"] == 1).all()


def test_split_labels_miss_the_objects(objects):
    _, table = objects
    assert (table.loc[[*SPLIT], ["other", "label_error"]] > 0).all(axis=None)
    assert table.loc["MixUp", "label_error"] < table.loc["CutMix", "label_error"]


def test_shares_are_shares_of_the_image(objects, pairs):
    shares, table = objects
    assert shares[["own", "other", "before", "target"]].min().min() >= 0
    assert shares["target"].max() <= 1 + 1e-6
    assert (shares["own"] + shares["other"]).max() < 0.6
    before = pairs.masks.mean()
    assert shares["before"].mean() == pytest.approx(before, rel=1e-4)
    mixup = table.loc["MixUp"]
    assert mixup["own"] + mixup["other"] == pytest.approx(before, rel=1e-4)
    assert table.loc["DiffuseMix", "own"] == pytest.approx(0.8 * before, rel=1e-4)


def test_stand_ins_are_birds_of_a_generators_size(pairs):
    masks = mixing_study.stand_in_masks(pairs.table)
    assert masks.shape == pairs.masks.shape
    assert 0.05 < masks.mean() < 0.4
    assert masks.mean() > pairs.masks.mean()  # in the studio birds are larger


# -------------------------------------------------------------------------- is the class still seen
def test_the_class_is_seen_throughout_only_among_its_own(pairs):
    oracle, lams = load_oracle(), [0.0, 0.5, 1.0]
    curves = mixing_study.label_curves(pairs, oracle, lams, confidence=0.95, seed=0)
    rates = curves.set_index(["partner", "level", "lam"])["rate"]
    same, other = curves["partner"].unique()
    assert len(curves) == 2 * 2 * 3
    for level in ("pixel", "patch"):
        assert rates[same, level, 1.0] == rates[other, level, 1.0]
        assert rates[other, level, 0.0] < rates[other, level, 1.0] + 1e-9
    assert rates[other, "pixel", 0.0] == rates[other, "patch", 0.0]


def test_the_other_image_is_of_another_class(pairs):
    chosen = mixing_study._other_class(pairs.labels, seed=0)
    assert (pairs.labels[chosen] != pairs.labels).all()
    assert len(set(chosen.tolist())) > 6


def test_summaries_leave_out_images_without_object_from_label_errors():
    rows = [("a", 0.2, 0.2, 0.4, 0.75), ("a", 0.0, 0.0, 0.4, 1.0)]
    table = pd.DataFrame(rows, columns=["method", "own", "other", "before", "target"])
    (row,) = mixing_study.summarise_shares(table).to_dict("records")
    assert row == pytest.approx(
        {"method": "a", "own": 0.1, "other": 0.1, "lost": 0.5, "label_error": 0.25}
    )
