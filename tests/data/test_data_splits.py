"""Splits have one face, say what they hold, and are drawn by a hash that never changes."""

import os
import pickle
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features
from datasets import Image as ImageFeature
from layouts import lay_out, open_split, settings
from PIL import Image

from diffcore.data import photographs as module
from diffcore.data.datasets import find_dataset, load_split
from diffcore.params import ParamsError, load_params

SPLITS = ("train", "test", "spare")


@pytest.fixture(scope="module")
def params():
    return load_params("smoke")


# -------------------------------------------------------------------------------------- the face
def test_a_split_has_items_and_some_of_it_is_a_split(params):
    whole = load_split(params, "test_shifted")
    item = whole[3]
    assert item["class_name"] == whole.classes[item["label"]] == whole.classes[whole.labels[3]]
    assert item["source_id"] == whole.metadata["source_id"][3] == "test_shifted-00003"
    assert np.array_equal(item["mask"], whole.masks[3])
    for some in (whole.take([5, 3]), whole.take(np.arange(len(whole)) < 6).take([5, 3])):
        assert some.metadata["source_id"].tolist() == ["test_shifted-00005", "test_shifted-00003"]
        assert np.array_equal(some.images[:], whole.images[[5, 3]])
        assert np.array_equal(some.masks[1], whole.masks[3])
        assert some.labels.tolist() == whole.labels[[5, 3]].tolist()
    assert whole.take([5, 3]).digest == some.digest != whole.digest


def test_a_split_is_changed_for_an_experiment(params):
    clean, own = load_split(params, "train", style=0.0), load_split(params, "train")
    assert not np.array_equal(clean.images[0], own.images[0])
    assert clean.metadata["context"].equals(own.metadata["context"])  # the same scene
    assert len(load_split(params, "train", train_images_per_class=3)) == 3 * len(own.classes)


# ------------------------------------------------------------------------------------ photographs
@pytest.fixture
def photos(tmp_path):
    for n in range(9):
        (tmp_path / "set/a").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 16), (20 * n, 0, 0)).save(tmp_path / f"set/a/{n}.png")
    return settings(dataset="folder", root=str(tmp_path / "set"))


def test_photographs_are_decoded_once_and_anew_when_they_change(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_TEST_SHARE", 0.001)
    whole, run = open_split(photos, "train"), tmp_path / "run"
    kept = open_split(photos, "train", run)
    assert isinstance(kept.images, np.memmap)
    assert kept.images.shape == whole.images.shape == (8, 16, 24, 3)
    assert kept.digest == whole.digest == pickle.loads(pickle.dumps(whole)).digest
    assert kept.masks is None
    assert "mask" not in kept[0]
    open_split(photos, "train", run)
    open_split(photos, "train", run, image_size=16)
    assert len(list((run / "pixels").iterdir())) == 2
    file = tmp_path / "set" / f"{kept[0]['source_id']}.png"
    Image.new("RGB", (24, 16), (0, 0, 255)).save(file)
    os.utime(file, (1, 1))
    changed = open_split(photos, "train", run)
    assert changed.images[0, 0, 0].tolist() == [0, 0, 255]
    assert changed.digest != kept.digest


@pytest.mark.parametrize("parts", [("train",), ("train", "validation", "test")])
def test_a_saved_set_of_hugging_face_stands_for_a_folder_of_classes(parts, tmp_path):
    kinds = Features({"image": ImageFeature(), "label": ClassLabel(names=["kea", "kite"])})
    shown = [Image.new("RGB", (24, 16), (9 * n, 0, 0)) for n in range(20)]
    hub = Dataset.from_dict({"image": shown, "label": [n % 2 for n in range(20)]}, kinds)
    saved = hub if len(parts) == 1 else DatasetDict(dict.fromkeys(parts, hub))
    saved.save_to_disk(tmp_path / "set")
    photos = settings(dataset="folder", root=str(tmp_path / "set"))
    train, test = (open_split(photos, split, tmp_path / "run") for split in ("train", "test"))
    assert train.classes == test.classes == ("kea", "kite")
    assert len(train) + len(test) == (20 if len(parts) == 1 else 40)
    assert train.images.shape[1:] == (16, 24, 3)
    places = [int(name.rpartition("/")[2]) for name in train.metadata["source_id"]]
    assert train.images[:, 0, 0, 0].tolist() == [9 * place for place in places]
    assert train.labels.tolist() == [place % 2 for place in places]


def test_an_image_without_a_box_has_no_mask(tmp_path, photographs):
    data = settings(**lay_out("caltech101", tmp_path, photographs, per_class=2, classes=2))
    for number, file in enumerate(sorted(tmp_path.rglob("annotation_*.mat"))):
        if number % 2:
            file.unlink()
    items = [*open_split(data, "train", image_size=32), *open_split(data, "test", image_size=32)]
    assert sorted("mask" in item for item in items) == [False] * 4 + [True] * 4


# ---------------------------------------------------------------------------- which make up a split
def table(per_class=8, parts=("",)):
    rows = [
        (f"{part}{name}/{number}", label, part)
        for part in parts
        for label, name in enumerate("ab")
        for number in range(per_class)
    ]
    return pd.DataFrame(rows, columns=["source_id", "label", "part"])


def ids(images, split, seed=0, **changes):
    data = settings(dataset="folder", root="x", **changes)
    return module.choose(images, data, split, seed)["source_id"].tolist()


def test_the_choice_never_changes():
    limits = {"train_images_per_class": 3, "test_images_per_class": 2}
    found = {split: " ".join(ids(table(), split, 5, **limits)) for split in SPLITS}
    assert found == {
        "train": "a/0 a/1 a/4 b/0 b/1 b/2",
        "test": "a/7 b/6 b/7",
        "spare": "a/2 a/3 a/5 a/6 b/3 b/4 b/5",
    }


def test_an_image_that_joins_moves_no_other():
    before, after = ids(table(60), "test"), ids(table(100), "test")
    assert set(before) == {name for name in after if int(name.split("/")[1]) < 60}
    assert 16 <= len(before) <= 56  # 120 at a chance of 0.3
    assert ids(table(100), "test", seed=1) != after


@pytest.mark.parametrize(("share", "tests"), [(0.001, 1), (0.999, 7)])
def test_each_class_has_images_of_both_kinds(share, tests, monkeypatch):
    monkeypatch.setattr(module, "_TEST_SHARE", share)
    assert len(ids(table(), "test")) == 2 * tests
    assert len(ids(table(), "train")) == 2 * (8 - tests)


@pytest.mark.parametrize("parts", [("",), ("train", "test")])
def test_limits_leave_spare_images_that_are_in_no_other_split(parts):
    images, limits = table(8, parts), {"train_images_per_class": 1, "test_images_per_class": 1}
    train, test, spare = (ids(images, split, **limits) for split in SPLITS)
    assert len(train) == len(test) == 2
    assert set(train) < set(ids(images, "train"))
    # Of a set with its own test part, what is left of that is kept from everyone.
    left = set(images["source_id"][images["part"] != "test"]) - {*train, *test}
    assert set(spare) == left


def test_an_unknown_data_set_is_named_with_the_nearest():
    with pytest.raises(ParamsError, match=r"no data set 'cub20'; nearest: 'cub200'; .*paperbirds"):
        find_dataset("cub20")


def test_a_smaller_draw_is_part_of_a_larger():
    images = table(8, ("train", "test"))
    for seed in range(5):
        draws = [set(ids(images, "train", seed, train_images_per_class=n)) for n in (1, 2, 3, 9)]
        assert all(a < b for a, b in pairwise(draws))
    with pytest.raises(ValueError, match="no split 'dev' of photographs; there are train, test"):
        ids(images, "dev")
