"""Every layout is read as its publishers mean it, and what is wrong with one is said."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from layouts import WRITERS, allow_small_cifar, birds, box_of, lay_out, open_split, settings
from PIL import Image, ImageOps
from torchvision.datasets import Caltech101, ImageFolder, StanfordCars

from diffcore.data.layouts import find_missing, read_box, read_catalogue


@pytest.fixture
def own(tmp_path, monkeypatch, photographs):
    """Lay out a small set."""
    allow_small_cifar(monkeypatch)
    return lambda dataset, **n: settings(**lay_out(dataset, tmp_path, photographs, **n))


# ----------------------------------------------------------------------------------- what is read
@pytest.mark.parametrize("dataset", WRITERS)
def test_every_image_and_its_box_stand_where_they_belong(own, photographs, dataset):
    data = own(dataset)
    assert find_missing(data) == []
    assert len(read_catalogue(data).folders) == 4
    photos = [open_split(data, split, image_size=32) for split in ("train", "test", "spare")]
    assert len({name for split in photos for name in split.metadata["source_id"]}) == 32
    assert [set(split.labels) for split in photos] == [{0, 1, 2, 3}, {0, 1, 2, 3}, set()]
    if dataset in {"cifar100", "tiny_imagenet"}:
        return  # which have tests of their own
    found, classes = read_catalogue(data), [name for name, _ in birds(photographs, 8, 4)]
    sources = {file.read_bytes(): file for file in photographs.glob("cub200-10/train/*/*")}
    for row in found.table.itertuples():
        source = sources[(found.home / row.file).read_bytes()]
        assert classes[row.label] == source.parent.name
        if dataset in {"cub200", "cars", "caltech101"}:
            x, y, width, height = box_of(source)
            assert read_box(row.box) == (x, y, x + width, y + height)
    if dataset not in {"folder", "imagenet"}:  # the root may be the set's own folder
        below = data.model_copy(update={"root": str(found.home)})
        assert read_catalogue(below).table.equals(found.table)


def test_cifar_is_read_as_it_is(own, photographs):
    data, known = own("cifar100"), {}
    for label, (_, files) in enumerate(birds(photographs, 4, 4)):
        for file in files:
            small = ImageOps.fit(Image.open(file).convert("RGB"), (32, 32))
            known[np.asarray(small).tobytes()] = label
    for split in ("train", "test"):
        photos = open_split(data, split)
        assert [known[image.tobytes()] for image in photos.images] == photos.labels.tolist()
        assert photos.metadata["source_id"][4] == f"aquarium_fish/{split}_00004"


def test_tiny_imagenet_is_read_as_it_is(own, photographs):
    source, data = photographs / "tiny-imagenet-10", own("tiny_imagenet")
    train, test = (open_split(data, split) for split in ("train", "test"))
    assert train.classes == ("goldfish", "koala", "king penguin", "tabby")
    for photos, folder in ((train, "train/{}/images"), (test, "val/images")):
        for image, row in zip(photos.images, photos.metadata.itertuples(), strict=True):
            file = source / folder.format(row.folder) / f"{row.source_id.split('/')[1]}.JPEG"
            assert np.array_equal(image, np.asarray(Image.open(file).convert("RGB")))
    lines = map(str.split, (source / "val/val_annotations.txt").read_text().splitlines())
    boxes = {file.partition(".")[0]: [int(end) for end in ends] for file, _, *ends in lines}
    for mask, source_id in zip(test.masks, test.metadata["source_id"], strict=True):
        x0, y0, x1, y1 = boxes[source_id.split("/")[1]]
        assert mask[y0 : y1 + 1, x0 : x1 + 1].all()
        assert mask.sum() == (x1 - x0 + 1) * (y1 - y0 + 1)


def test_files_and_labels_are_those_of_torchvision(tmp_path, photographs):
    def ours(dataset, part):
        found = read_catalogue(settings(**lay_out(dataset, tmp_path / dataset, photographs)))
        rows = found.table[found.table["part"] == part]
        return [(str(found.home / file), label) for file, label in rows[["file", "label"]].values]

    assert ours("cars", "test") == StanfordCars(tmp_path / "cars", "test")._samples
    assert [label for _, label in ours("caltech101", "")] == Caltech101(tmp_path / "caltech101").y
    assert ours("folder", "") == ImageFolder(tmp_path / "folder").samples


# ---------------------------------------------------------------------------- any class/image tree
def tree(root, files):
    """Write a small image to each of these files."""
    for file in files.split():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()  # listing opens no image
    return settings(dataset="folder", root=str(root))


TREES = {
    "a/1.png a/deep/er/2.JPG b/1.webp b/2.tiff b/.3.png .c/1.png a/.d/1.png a/notes.txt":
        {"": "a/1 a/deep/er/2 b/1 b/2"},
    "train/a/1.png valid/a/2.png val/a/1.png": {"train": "train/a/1", "test": "val/a/1"},
    "train/a/1.png train/a/2.png": {"": "a/1 a/2"},
    "Train/a/1.png TEST/a/1.png": {"train": "Train/a/1", "test": "TEST/a/1"},
    "car/1.png car/2.png train/1.png train/2.png": {"": "car/1 car/2 train/1 train/2"},
    "a/1.png a/1.jpg a/2.jpg": {"": "a/1.jpg a/1.png a/2"},
}  # fmt: skip
WRONG = {
    "a/1.png": "1 classes, 'a' first, have less than 2 images",
    "train/a/1.png test/b/1.png": "'b' first, have less than 1 train images",
    "train/a/1.png train/b/1.png test/b/1.png": "'a' first, have less than 1 test images",
    "1.png": "holds no folder of images",
    "train/a/1.png test/a/2.png b/3.png": "holds b beside train, which holds classes; move it away",
}


@pytest.mark.parametrize("files", TREES)
def test_trees(tmp_path, files):
    found = read_catalogue(tree(tmp_path, files)).table.groupby("part")["source_id"]
    assert {part: " ".join(ids) for part, ids in found} == TREES[files]


@pytest.mark.parametrize("files", WRONG)
def test_a_tree_that_is_none_is_told_so(tmp_path, files):
    problems = "\n".join(find_missing(tree(tmp_path, files)))
    assert f"{WRONG[files]}; data.root must hold class/image.jpg" in problems


# --------------------------------------------------------------------------------- what is missing
@pytest.mark.parametrize("dataset", WRITERS)
def test_a_set_that_is_not_there_is_described(tmp_path, dataset):
    (problem,) = find_missing(settings(dataset=dataset, root=str(tmp_path / "nowhere")))
    assert problem.startswith(f"{dataset}: there is no ")
    assert str(tmp_path / "nowhere") in problem
    assert "data.root" in problem
    assert ("data.download" in problem) == (dataset not in {"folder", "cars", "imagenet"})
    assert ("http" in problem) == (dataset != "folder")


def away(file):
    shutil.move(file, file.with_name("elsewhere"))


def html(file):
    file.write_bytes(b"<html>not found</html>" * 20)


def without(old, new):
    return lambda file: file.write_text(file.read_text().replace(old, new, 1))


SPOILT = [
    ("cub200", "classes.txt", away, "there is no {file};"),
    ("cub200", "images.txt", without("1 001", "1001"), "{file}, line 1: 2 fields are expected"),
    ("cub200", "images.txt", without("\n2 ", "\n9 "), "has no line for image 9, 001."),
    ("cub200", "image_class_labels.txt", without("1 1\n", "1 7\n"), "is of a class that the list"),
    ("cub200", "classes.txt", without("1 0", "3 Kea\n1 0"), "1 classes, 'Kea' first, have less"),
    ("cub200", "001.Black_footed_Albatross", away, "4 of the listed images are not there"),
    ("cars", "cars_meta.mat", away, "there is no {file};"),
    ("cars", "cars_meta.mat", html, "{file} is no MATLAB file with 'class_names'"),
    ("cars", "cars_test/00002.jpg", away, "the listed images are not there, the first {file};"),
    ("flowers102", "setid.mat", away, "does not hold the lists of Oxford Flowers"),
    ("tiny_imagenet", "words.txt", away, "there is no {file};"),
    ("imagenet", "val", away, "there is no {file};"),
]


@pytest.mark.parametrize(("dataset", "name", "spoil", "message"), SPOILT)
def test_what_is_wrong_with_a_set_is_named(own, dataset, name, spoil, message):
    data = own(dataset, per_class=2, classes=2)
    (file,) = Path(data.root).rglob(name)
    spoil(file)
    assert message.format(file=file) in "\n".join(find_missing(data))
