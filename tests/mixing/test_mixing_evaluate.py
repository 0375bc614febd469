"""What mixing makes of images: first pairs, λ, shares of objects, labels that are still seen."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from diffcore.data.images import as_batch, as_pixels
from diffcore.data.pairs import PairedDataset
from diffcore.data.splits import Split
from diffcore.measure import mixing as evaluate
from diffcore.mixing.mix import pixel_mix
from paperbirds import render, render_split


@pytest.fixture(scope="module")
def world():
    """Real images in field style, and perfect counterparts: fresh renders in the studio."""
    train = render_split("train", style=0.6, images_per_class=2)
    names = enumerate(train.metadata["class_name"])
    drawn = [render(name, "garden", seed).image for seed, name in names]
    return SimpleNamespace(real=as_batch(train.images), generated=as_batch(drawn))


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


# -------------------------------------------------------------------------- is the class still seen
