"""What mixing makes of images: first pairs, λ, shares of objects, labels that are still seen."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from diffcore.data.images import as_batch, as_pixels
from diffcore.data.pairs import PairedDataset
from diffcore.data.splits import Split
from diffcore.measure import mixing as evaluate
from diffcore.mixing.mix import pixel_mix
from paperbirds import SPECIES, Paperbirds, load_oracle, render
from diffcore.params import MixingParams

KEPT = ["DiffCoRe-Mix, pixel", "DiffCoRe-Mix, patch", "DiffuseMix"]
SPLIT = ["MixUp", "CutMix", "SaliencyMix"]


@pytest.fixture(scope="module")
def world():
    """Real images in field style, and perfect counterparts: fresh renders in the studio."""
    train = Paperbirds("train", style=0.6, images_per_class=2)
    items = [train[i] for i in range(24)]
    names = [item["class_name"] for item in items]
    drawn = [render(name, "garden", seed).image for seed, name in enumerate(names)]
    return SimpleNamespace(
        real=as_batch(train.images), generated=as_batch(drawn),
        labels=torch.tensor([item["label"] for item in items]),
        masks=np.stack([item["mask"] for item in items]),
        metadata=pd.DataFrame({"class_name": names, "seed": range(24)}),
    )  # fmt: skip


# --------------------------------------------------------------------------------- images and pairs
def some_pairs(masks=None):
    """Six real images, of which 1, 3 and 4 have counterparts, the first of them 2, 0 and 1."""
    images = np.random.default_rng(0).integers(0, 256, (9, 2, 2, 3), dtype=np.uint8)
    facts = pd.DataFrame({"source_id": list("012345"), "class_name": "jay", "label": 0})
    drawn = pd.DataFrame({"sample_id": list("abcde"), "source_id": list("34131")})
    generated = SimpleNamespace(metadata=drawn.assign(class_name="jay"), images=images[4:])
    return PairedDataset(Split("train", ("jay",), facts, images[:6], masks), generated)


def test_each_image_keeps_its_first_counterpart_and_some_are_spread_over_all():
    pairs = some_pairs(masks=np.arange(24).reshape(6, 2, 2) % 5 == 0)
    real, generated, labels, masks, metadata = evaluate.first_pairs(pairs)
    assert labels.tolist() == [0, 0, 0]
    assert metadata["sample_id"].tolist() == ["c", "a", "b"]
    np.testing.assert_array_equal(as_pixels(real), pairs.real[[1, 3, 4]])
    np.testing.assert_array_equal(as_pixels(generated), pairs.generated[[2, 0, 1]])
    np.testing.assert_array_equal(masks, pairs.masks[[1, 3, 4]])
    *_, masks, metadata = evaluate.first_pairs(some_pairs(), most=2)
    assert metadata["source_id"].tolist() == ["1", "4"]
    assert metadata.index.tolist() == [0, 1]
    assert masks is None


def test_a_gallery_has_a_row_a_pair_and_a_column_a_lam(world):
    rows = evaluate.gallery(pixel_mix, world.real[:3], world.generated[:3], [1.0, 0.0])
    assert len(rows) == 3
    np.testing.assert_array_equal(np.stack(rows)[:, 0], as_pixels(world.real[:3]))
    np.testing.assert_array_equal(np.stack(rows)[:, 1], as_pixels(world.generated[:3]))


def test_the_border_gives_area_back_and_leaves_drawn_lams_alone():
    table = evaluate.draw_lams((0.5, 3.0), 4000, 32, 32, seed=0)
    means = table.groupby(["level", "alpha"])["lam"].mean()
    assert means["pixel"].to_numpy() == pytest.approx([0.5, 0.5], abs=0.02)
    assert (means["patch"] > means["pixel"] + 0.1).all()


# --------------------------------------------------------------------------- how much is an object
@pytest.fixture(scope="module")
def objects(world):
    surrogates = evaluate.surrogate_masks(world.metadata)
    images = world.real, world.masks, surrogates, world.labels
    shares = evaluate.object_shares(*images, MixingParams(), repeats=6, seed=0)
    return shares, evaluate.summarise_shares(shares).set_index("method")


def test_a_kept_label_is_right_where_both_sources_show_its_class(objects):
    shares, table = objects
    assert table.index.tolist() == [*KEPT, *SPLIT]
    assert (table.loc[KEPT, ["other", "label_error"]] == 0).all(axis=None)
    assert (shares[shares["method"].isin(KEPT)]["target"] == 1).all()


def test_split_labels_miss_the_objects(objects):
    _, table = objects
    assert (table.loc[SPLIT, ["other", "label_error"]] > 0).all(axis=None)
    assert table.loc["MixUp", "label_error"] < table.loc["CutMix", "label_error"]


def test_shares_are_shares_of_the_image(objects, world):
    shares, table = objects
    assert shares[["own", "other", "before", "target"]].min().min() >= 0
    assert shares["target"].max() <= 1 + 1e-6
    before = world.masks.mean()
    assert shares["before"].mean() == pytest.approx(before, rel=1e-4)
    mixup = table.loc["MixUp"]
    assert mixup["own"] + mixup["other"] == pytest.approx(before, rel=1e-4)
    assert table.loc["DiffuseMix", "own"] == pytest.approx(0.8 * before, rel=1e-4)


def test_shares_come_from_the_seed_alone(world):
    images, state = (world.real, world.masks, world.masks, world.labels), torch.get_rng_state()
    first, again, other = (
        evaluate.object_shares(*images, MixingParams(), repeats=1, seed=seed) for seed in (0, 0, 1)
    )
    pd.testing.assert_frame_equal(first, again)
    assert not first.equals(other)
    assert torch.equal(torch.get_rng_state(), state)
    even = evaluate.object_shares(*images, MixingParams(alpha=100.0), repeats=1, seed=0)
    halves = even[even["method"] == "MixUp"]["target"]
    assert (halves[halves < 1] - 0.5).abs().max() < 0.15


def test_surrogates_are_birds_of_a_generators_size(world):
    masks = evaluate.surrogate_masks(world.metadata)
    assert masks.shape == world.masks.shape
    assert world.masks.mean() < masks.mean() < 0.4  # in the studio birds are larger


def test_summaries_leave_out_images_without_object_from_label_errors():
    rows = [("a", 0.2, 0.2, 0.4, 0.75), ("a", 0.0, 0.0, 0.4, 1.0)]
    table = pd.DataFrame(rows, columns=["method", "own", "other", "before", "target"])
    (row,) = evaluate.summarise_shares(table).to_dict("records")
    assert row == pytest.approx(
        {"method": "a", "own": 0.1, "other": 0.1, "lost": 0.5, "label_error": 0.25}
    )


# -------------------------------------------------------------------------- is the class still seen
def test_the_class_is_seen_throughout_only_among_its_own(world):
    images, lams = (world.real, world.generated, world.labels), [0.0, 0.5, 1.0]
    curves = evaluate.label_curves(*images, load_oracle(), lams, confidence=0.95, seed=0)
    rates = curves.set_index(["partner", "level", "lam"])["value"]
    same, other = curves["partner"].unique()
    assert len(curves) == 2 * 2 * 3
    for level in ("pixel", "patch"):
        assert rates[same, level, 1.0] == rates[other, level, 1.0]
        assert rates[other, level, 0.0] == 0 < rates[same, level, 0.0]
    seen = load_oracle().read(as_pixels(pixel_mix(world.real, world.generated, 0.5))).species
    assert rates[same, "pixel", 0.5] == np.mean(seen == np.array(SPECIES)[world.labels])


def test_the_other_image_is_of_another_class(world):
    chosen = evaluate._other_class(world.labels, seed=0)
    assert (world.labels[chosen] != world.labels).all()
    assert torch.equal(chosen, evaluate._other_class(world.labels, seed=0))
    assert len(set(chosen.tolist())) > 6
