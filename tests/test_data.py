"""Data sets behind one face."""

import numpy as np
import pytest

from diffcore import data
from diffcore.data import View, fetch, in_memory, keep_pixels, load_images, load_split
from diffcore.params import load_params


@pytest.fixture(scope="module")
def params():
    return load_params("smoke")


def test_every_split_has_the_face(params):
    for split in ("train", *data.test_splits(params).values()):
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


class Lazy:
    """Images that count how often they are read, as photographs on a disk would be."""

    def __init__(self, pixels):
        self.pixels, self.shape, self.reads = pixels, pixels.shape, 0

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, places):
        self.reads += 1
        return self.pixels[places]


@pytest.fixture
def lazy():
    return Lazy(np.random.default_rng(0).integers(0, 256, (600, 8, 8, 3), np.uint8))


def test_some_images_are_fetched_in_the_order_asked_for(params):
    images = load_split(params, "train")
    some = fetch(images, [5, 2])
    assert some.ids.tolist() == [images.facts["id"][5], images.facts["id"][2]]


def test_a_view_shows_some_places_at_a_size(lazy):
    view = View(lazy, [7, 3, 3], (4, 4))
    assert view.shape == (3, 4, 4, 3)
    assert np.array_equal(view[0], view[[0]][0])
    assert np.array_equal(view[[True, False, True]], view[::2])
    same = View(lazy, [7, 3, 3])
    assert np.array_equal(same[:], lazy.pixels[[7, 3, 3]])
    assert np.array_equal(View(same, [1])[0], lazy.pixels[3])
    assert View(lazy, [], (4, 4))[:].shape == (0, 4, 4, 3)


def test_pixels_are_decoded_once_and_read_from_the_file_after_that(lazy, tmp_path):
    first = keep_pixels(lazy, tmp_path, "these images")
    reads = lazy.reads
    again = keep_pixels(lazy, tmp_path, "these images")
    assert lazy.reads == reads
    assert np.array_equal(first, lazy.pixels)
    assert np.array_equal(again[[599, 0]], lazy.pixels[[599, 0]])
    assert len(list((tmp_path / "pixels").iterdir())) == 1


def test_other_facts_are_another_file(lazy, tmp_path):
    keep_pixels(lazy, tmp_path, "these images", 64)
    keep_pixels(lazy, tmp_path, "these images", 32)
    assert len(list((tmp_path / "pixels").glob("*.npy"))) == 2


def test_a_kill_leaves_no_file_that_could_be_taken_for_whole(lazy, tmp_path):
    class Killed(Lazy):
        def __getitem__(self, places):
            if isinstance(places, slice) and places.start > 0:
                raise KeyboardInterrupt
            return super().__getitem__(places)

    with pytest.raises(KeyboardInterrupt):
        keep_pixels(Killed(lazy.pixels), tmp_path, "x")
    assert not list((tmp_path / "pixels").glob("*.npy"))
    assert np.array_equal(keep_pixels(lazy, tmp_path, "x"), lazy.pixels)


def test_renders_are_read_into_memory_with_their_masks(params, tmp_path):
    images = load_images(params, "train", tmp_path)
    assert images.masks.shape == images.pixels.shape[:3]
    assert not list(tmp_path.iterdir())


def test_some_of_each_class_are_the_first_or_drawn_by_a_seed():
    labels = np.array([0, 1, 0, 1, 0, 1, 1])
    assert data.some_of_each_class(labels, 2).tolist() == [0, 1, 2, 3]
    draws = {tuple(data.some_of_each_class(labels, 2, seed)) for seed in range(20)}
    assert len(draws) > 3
    for places in draws:
        assert np.bincount(labels[list(places)]).tolist() == [2, 2]
        assert list(places) == sorted(places)


def test_things_are_spread_evenly_and_none_comes_twice():
    assert data.spread(5, 3).tolist() == [0, 2, 4]
    assert data.spread(2, 9).tolist() == [0, 1]
