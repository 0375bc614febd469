"""Data sets behind one face."""

import numpy as np
import pytest

from diffcore.data import SPLITS, in_memory, load_split
from diffcore.params import load_params


@pytest.fixture(scope="module")
def params():
    return load_params("smoke")


def test_every_split_has_the_face(params):
    for split in SPLITS:
        images = load_split(params, split)
        item = images[0]
        assert item["image"].shape == (64, 64, 3)
        assert item["class_name"] == images.classes[item["label"]]
        assert images.facts["id"][0] == item["id"]


def test_a_split_is_changed_for_an_experiment(params):
    clean, own = load_split(params, "train", style=0.0), load_split(params, "train")
    assert not np.array_equal(clean[0]["image"], own[0]["image"])
    assert clean.facts["context"].equals(own.facts["context"])  # the same scene
    assert len(load_split(params, "train", train_images_per_class=3)) == 3 * len(own.classes)


def test_an_unknown_split_is_an_error(params):
    with pytest.raises(ValueError, match="unknown split"):
        load_split(params, "validation")


def test_arrays_hold_what_the_items_hold(params):
    images = load_split(params, "test_shifted")
    arrays = in_memory(images)
    assert len(arrays) == len(images)
    assert np.array_equal(arrays.pixels[5], images[5]["image"])
    assert np.array_equal(arrays.masks[5], images[5]["mask"])
    assert arrays.labels.tolist() == images.facts["label"].tolist()
    some = arrays.take([3, 1])
    assert some.ids.tolist() == [arrays.ids[3], arrays.ids[1]]
    assert np.array_equal(some.masks[1], arrays.masks[1])


def test_masks_are_optional(params):
    class Bare:
        classes = ("a",)

        def __len__(self):
            return 2

        def __getitem__(self, place):
            return {"image": np.zeros((4, 4, 3), np.uint8), "label": 0, "id": str(place)}

    arrays = in_memory(Bare())
    assert arrays.masks is None
    assert arrays.take([1]).masks is None
