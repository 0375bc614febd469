"""Every layout is read as its publishers mean it, and what is wrong with one is said."""

import pickle
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from layouts import (
    CALTECH,
    CARS,
    CIFAR,
    PHOTOGRAPHS,
    WNIDS,
    WRITERS,
    birds,
    box_of,
    lay_out,
    needs_photographs,
)
from PIL import Image
from scipy.io import loadmat, savemat

from diffcore.params import DataParams
from diffcore.photos import PhotosError, describe, find_missing, open_photos
from diffcore.photos.layouts import CIFAR_RECORD, read_catalogue

pytestmark = needs_photographs

PARTS = ("cub200", "cars", "flowers102", "cifar100", "tiny_imagenet", "imagenet")
BOXES = ("cub200", "cars", "caltech101")


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory):
    """Folders of all small sets, by name; not to be changed."""
    folders = {name: tmp_path_factory.mktemp(name) for name in WRITERS}
    for name, folder in folders.items():
        lay_out(name, folder, PHOTOGRAPHS)
    return folders


@pytest.fixture
def own(tmp_path):
    """Lay out a small set to be changed."""

    def write(dataset, **counts):
        return settings(**lay_out(dataset, tmp_path, PHOTOGRAPHS, **counts))

    return write


def settings(**changes):
    return DataParams(**{key.removeprefix("data."): value for key, value in changes.items()})


def at(laid_out, dataset, **changes):
    return settings(dataset=dataset, root=str(laid_out[dataset]), image_size=32, **changes)


def photograph(dataset, item_id, folder):
    """The file that an image of a small set was written from, found by the writer's own rules."""
    classes = dict(birds(PHOTOGRAPHS, 4, 4))
    if dataset in {"cub200", "folder"}:
        return next(file for file in classes[folder] if file.stem == item_id.split("/")[1])
    if dataset == "imagenet":
        return list(classes.values())[WNIDS.index(folder)][int(item_id.rpartition("_")[2][-1])]
    number = int(item_id.rpartition("_")[2].rpartition("/")[2])
    if dataset == "cars":  # four images of each class in each part, which take turns
        return list(classes.values())[CARS.index(folder)][
            2 * ((number - 1) % 4) + ("test" in item_id)
        ]
    if dataset == "cifar100":
        return list(classes.values())[CIFAR.index(folder)][2 * (number % 4) + ("test" in item_id)]
    names = CALTECH if dataset == "caltech101" else ("1", "2", "3", "4")
    return list(classes.values())[names.index(folder)][(number - 1) % 8]


# --------------------------------------------------------------------------------- what is read
@pytest.mark.parametrize("dataset", WRITERS)
def test_a_small_set_is_whole_and_known_to_be_small(laid_out, dataset):
    assert find_missing(at(laid_out, dataset)) == []
    line = describe(at(laid_out, dataset))
    assert line.startswith(f"{dataset}: 4 ")
    assert ("a part of the set" in line) == (dataset != "folder")
    assert "32 " in line


@pytest.mark.parametrize("dataset", [name for name in WRITERS if name != "tiny_imagenet"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_every_image_has_the_right_class_and_content(laid_out, dataset, split):
    photos = open_photos(at(laid_out, dataset), split)
    for place, row in enumerate(photos.facts.itertuples()):
        assert photos.folders[row.label] == row.folder
        assert photos.classes[row.label] == row.class_name
        source = Image.open(photograph(dataset, row.id, row.folder)).convert("RGB")
        # Resizing is compared elsewhere; here, whether it is the same photograph at all.
        short, (width, height) = min(source.size), source.size
        left, top = (width - short) // 2, (height - short) // 2
        square = source.crop((left, top, left + short, top + short)).resize((8, 8), 4)
        seen = Image.fromarray(photos.images[place]).resize((8, 8), 4)
        assert np.abs(np.asarray(square, float) - np.asarray(seen, float)).mean() < 6


@pytest.mark.parametrize("dataset", WRITERS)
def test_the_splits_share_nothing_and_have_every_class(laid_out, dataset):
    train, test = (open_photos(at(laid_out, dataset), split) for split in ("train", "test"))
    assert len(train) + len(test) == 32
    ids = [*train.facts["id"], *test.facts["id"]]
    assert len(set(ids)) == 32
    assert set(train.facts["label"]) == set(test.facts["label"]) == {0, 1, 2, 3}
    if dataset in PARTS:
        assert len(train) == len(test) == 16
    assert len(open_photos(at(laid_out, dataset), "spare")) == 0


@pytest.mark.parametrize("dataset", BOXES)
def test_boxes_stand_where_the_lists_put_them(laid_out, dataset):
    photos = open_photos(at(laid_out, dataset), "train")
    assert photos.has_boxes
    for item, folder in zip(photos, photos.facts["folder"], strict=True):
        source = photograph(dataset, item["id"], folder)
        x, y, width, height = box_of(source)
        painted = np.zeros(Image.open(source).size[::-1], np.uint8)
        painted[y : y + height, x : x + width] = 255
        short = min(painted.shape)
        top, left = ((side - short) // 2 for side in painted.shape)
        square = Image.fromarray(painted[top : top + short, left : left + short])
        expected = np.asarray(square.resize((32, 32), Image.Resampling.BOX)) > 127
        assert item["mask"].dtype == bool
        # An edge may fall on either side of a pixel's middle, but no further.
        assert np.abs(item["mask"].any(0).sum() - expected.any(0).sum()) <= 1
        overlap = (item["mask"] & expected).sum() / (item["mask"] | expected).sum()
        assert overlap > 0.85


@pytest.mark.parametrize("dataset", BOXES)
def test_boxes_are_right_to_the_pixel(laid_out, dataset):
    photos = open_photos(at(laid_out, dataset), "test")
    for place, row in enumerate(photos.facts.itertuples()):
        x, y, width, height = box_of(photograph(dataset, row.id, row.folder))
        assert photos._box(place) == (x, y, x + width, y + height)


@pytest.mark.parametrize("dataset", ["folder", "flowers102", "cifar100", "imagenet"])
def test_a_set_without_boxes_says_so(laid_out, dataset):
    photos = open_photos(at(laid_out, dataset), "train")
    assert not photos.has_boxes
    assert set(photos[0]) == {"image", "label", "class_name", "id"}


def test_tiny_imagenet_is_read_as_it_is(laid_out):
    unchanged = {"dataset": "tiny_imagenet", "root": str(laid_out["tiny_imagenet"])}
    train, test = (open_photos(settings(**unchanged), split) for split in ("train", "test"))
    source = PHOTOGRAPHS / "tiny-imagenet-10"
    assert train.classes == ("goldfish", "koala", "king penguin", "tabby")
    for photos, folder in ((train, "train/{}/images"), (test, "val/images")):
        for item, wnid in zip(photos, photos.facts["folder"], strict=True):
            file = source / folder.format(wnid) / f"{item['id'].split('/')[1]}.JPEG"
            assert np.array_equal(item["image"], np.asarray(Image.open(file).convert("RGB")))
    line = (source / "val/val_annotations.txt").read_text().splitlines()
    boxes = {row[0]: [int(end) for end in row[2:]] for row in map(str.split, line)}
    for item in test:
        x0, y0, x1, y1 = boxes[f"{item['id'].split('/')[1]}.JPEG"]
        rows, columns = np.nonzero(item["mask"])
        assert (columns.min(), rows.min(), columns.max(), rows.max()) == (x0, y0, x1, y1)
        assert item["mask"].sum() == (x1 - x0 + 1) * (y1 - y0 + 1)


@pytest.mark.parametrize(
    "dataset", [name for name in WRITERS if name not in {"folder", "imagenet"}]
)
def test_the_root_may_be_the_set_s_own_folder(laid_out, dataset):
    (home,) = laid_out[dataset].iterdir()
    above = open_photos(at(laid_out, dataset), "train")
    below = open_photos(settings(dataset=dataset, root=str(home), image_size=32), "train")
    assert above.facts.equals(below.facts)


def test_caltech_leaves_out_its_background(laid_out):
    photos = open_photos(at(laid_out, "caltech101"), "train")
    assert photos.folders == ("Faces", "Faces_easy", "Leopards", "Motorbikes")
    assert (laid_out["caltech101"] / "caltech101/101_ObjectCategories/BACKGROUND_Google").is_dir()


def test_flowers_may_lack_classes(own):
    data = own("flowers102")
    path = Path(data.root) / "flowers-102" / "setid.mat"
    parts = {key: loadmat(path)[key] for key in ("trnid", "valid", "tstid")}
    # Images 9 to 16 are those of the second class.
    savemat(path, {key: ids[(ids < 9) | (ids > 16)][None] for key, ids in parts.items()})
    photos = open_photos(data.model_copy(update={"image_size": 16}), "train")
    assert photos.folders == ("1", "3", "4")
    assert photos.classes == ("pink primrose", "canterbury bells", "sweet pea")
    assert photos.facts.iloc[-1].to_dict()["class_name"] == "sweet pea"


# ------------------------------------------------------------------------------- class/image trees
def tree(root, files):
    """Write a small picture to each of these files."""
    for number, file in enumerate(files):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (number % 256, 0, 0)).save(root / file)
    return settings(dataset="folder", root=str(root))


def ids(data, split, seed=0):
    return set(open_photos(data, split, seed).facts["id"])


def test_a_tree_may_nest_and_hold_other_files(tmp_path):
    data = tree(tmp_path, ["a/1.png", "a/deep/er/2.JPG", "b/1.webp", "b/2.tiff", "b/.3.png"])
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "list.csv").write_text("no folder")
    assert ids(data, "train") | ids(data, "test") == {"a/1", "a/deep/er/2", "b/1", "b/2"}


@pytest.mark.parametrize("name", ["test", "val", "valid"])
def test_a_tree_may_have_a_test_folder(tmp_path, name):
    data = tree(tmp_path, ["train/a/1.png", "train/b/1.png", f"{name}/a/1.png", f"{name}/b/2.png"])
    assert ids(data, "train") == {"train/a/1", "train/b/1"}
    assert ids(data, "test") == {f"{name}/a/1", f"{name}/b/2"}


def test_a_train_folder_alone_is_split(tmp_path):
    data = tree(tmp_path, [f"train/{name}/{number}.png" for name in "ab" for number in range(5)])
    assert open_photos(data, "train").folders == ("a", "b")
    assert len(ids(data, "train")) + len(ids(data, "test")) == 10


def test_a_class_may_be_called_train(tmp_path):
    data = tree(tmp_path, [f"{name}/{number}.png" for name in ("car", "train") for number in "12"])
    assert open_photos(data, "train").classes == ("car", "train")


def test_files_that_differ_in_the_suffix_alone_keep_it(tmp_path):
    data = tree(tmp_path, ["a/1.png", "a/1.jpg", "a/2.jpg"])
    assert ids(data, "train") | ids(data, "test") == {"a/1.png", "a/1.jpg", "a/2"}


def test_an_image_that_joins_moves_no_other(tmp_path):
    data = tree(tmp_path, [f"a/{number}.png" for number in range(60)])
    before = ids(data, "test")
    tree(tmp_path, [f"a/new_{number}.png" for number in range(40)])
    after = ids(data, "test")
    assert {name for name in after if "new" not in name} == before
    assert any("new" in name for name in after)
    assert 8 <= len(before) <= 28  # 60 at a chance of 0.3
    assert ids(data, "test", seed=1) != after


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_each_class_has_images_of_both_kinds(tmp_path, share):
    data = tree(tmp_path, [f"{name}/{number}.png" for name in "abc" for number in range(3)])
    data = data.model_copy(update={"test_share": share})
    sizes = {"train": 6, "test": 3} if share < 0.5 else {"train": 3, "test": 6}
    assert {split: len(ids(data, split)) for split in sizes} == sizes


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["a/1.png"], "the class 'a' has one image"),
        (["train/a/1.png", "test/b/1.png"], "the class 'b' has no images for training"),
        (["train/a/1.png", "train/b/1.png", "test/b/1.png"], "'a' has no images for testing"),
        (["1.png"], "holds no folder of images"),
    ],
)
def test_a_tree_that_is_none_is_told_so(tmp_path, files, message):
    problems = find_missing(tree(tmp_path, files))
    assert len([problem for problem in problems if message in problem]) == 1
    assert all("data.root must hold class/image.jpg" in problem for problem in problems)


def test_classes_without_images_are_counted(tmp_path):
    data = tree(tmp_path, ["a/1.png", "a/2.png"])
    for name in ("empty", "full_of_text"):
        (tmp_path / name).mkdir()
    (tmp_path / "full_of_text" / "1.txt").touch()
    assert "2 classes, 'empty' first, have no images;" in find_missing(data)[0]


# ----------------------------------------------------------------------------------- limits, draws
@pytest.mark.parametrize("dataset", ["cub200", "folder"])
def test_limits_leave_spare_images_that_are_in_no_other_split(laid_out, dataset):
    whole = at(laid_out, dataset)
    limited = at(laid_out, dataset, train_images_per_class=1, test_images_per_class=1)
    train, test, spare = (ids(limited, split) for split in ("train", "test", "spare"))
    assert len(train) == len(test) == 4
    assert train < ids(whole, "train")
    assert test < ids(whole, "test")
    # Of a set with its own test part, what is left of that is kept from everyone.
    left = ids(whole, "train") - train
    left |= ids(whole, "test") - test if dataset == "folder" else set()
    assert spare == left
    assert set(open_photos(limited, "train").facts["label"].value_counts()) == {1}


def test_a_smaller_draw_is_part_of_a_larger_and_not_the_first(laid_out):
    draws = [
        [ids(at(laid_out, "cub200", train_images_per_class=n), "train", seed) for n in (1, 2, 3, 9)]
        for seed in range(5)
    ]
    assert all(a < b for drawn in draws for a, b in pairwise(drawn))
    assert len({frozenset(drawn[0]) for drawn in draws}) > 1
    assert all(len(drawn[3]) == 16 for drawn in draws)


@pytest.mark.parametrize("dataset", ["folder", "caltech101"])
def test_a_seed_says_it_all(laid_out, dataset):
    data = at(laid_out, dataset, train_images_per_class=2)
    once, again = (open_photos(data, "train", 7).facts for _ in range(2))
    assert once.equals(again)
    assert ids(data, "train", 7) != ids(data, "train", 8)


def test_an_unknown_split_is_refused(laid_out):
    with pytest.raises(
        ValueError, match="no split 'dev' of photographs; there are train, test, spa"
    ):
        open_photos(at(laid_out, "folder"), "dev")


# --------------------------------------------------------------------------------- what is missing
@pytest.mark.parametrize("dataset", WRITERS)
def test_a_set_that_is_not_there_is_described(tmp_path, dataset):
    (problem,) = find_missing(settings(dataset=dataset, root=str(tmp_path / "nowhere")))
    assert problem.startswith(f"{dataset}: there is no ")
    assert str(tmp_path / "nowhere") in problem
    assert "data.root" in problem
    assert ("data.download" in problem) == (dataset not in {"folder", "cars", "imagenet"})
    assert ("http" in problem) == (dataset != "folder")


INDEX_FILES = [
    ("cub200", "classes.txt"),
    ("cub200", "image_class_labels.txt"),
    ("cub200", "train_test_split.txt"),
    ("cub200", "bounding_boxes.txt"),
    ("cars", "devkit/cars_meta.mat"),
    ("cars", "devkit/cars_train_annos.mat"),
    ("cars", "cars_test_annos_withlabels.mat"),
    ("flowers102", "imagelabels.mat"),
    ("flowers102", "setid.mat"),
    ("cifar100", "test.bin"),
    ("cifar100", "fine_label_names.txt"),
    ("tiny_imagenet", "words.txt"),
    ("tiny_imagenet", "val/val_annotations.txt"),
    ("imagenet", "val"),
]


@pytest.mark.parametrize(("dataset", "name"), INDEX_FILES)
def test_a_missing_index_file_is_named(own, dataset, name):
    data = own(dataset, per_class=1, classes=2)
    (file,) = Path(data.root).rglob(name.split("/")[-1])
    shutil.move(file, file.with_name("elsewhere"))
    problems = find_missing(data)
    assert problems[0].startswith(f"{dataset}: there is no {file};")
    with pytest.raises(PhotosError) as error:
        open_photos(data, "train")
    assert str(error.value) == "\n".join(problems)
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)


@pytest.mark.parametrize("dataset", ["cub200", "cars", "flowers102"])
def test_listed_images_that_are_not_there_are_counted(own, dataset):
    data = own(dataset, per_class=2, classes=2)
    files = sorted(Path(data.root).rglob("*.jpg"))
    files[1].unlink()
    (problem,) = find_missing(data)
    assert problem.startswith(f"{dataset}: 1 listed image is not there, the first {files[1]};")
    files[2].unlink()
    assert "2 listed images are not there" in find_missing(data)[0]


def test_a_folder_of_listed_images_that_is_not_there_is_told(own):
    data = own("cub200", per_class=1, classes=2)
    shutil.rmtree(Path(data.root) / "CUB_200_2011" / "images")
    assert "4 listed images are not there" in find_missing(data)[0]


def test_tiny_imagenet_s_lists_may_name_more_boxes_but_not_more_images(own):
    data = own("tiny_imagenet", per_class=2, classes=2)
    (Path(data.root) / "tiny-imagenet-200/val/images").rename(Path(data.root) / "away")
    assert "4 listed images are not there" in find_missing(data)[0]


def test_a_class_that_is_listed_without_images_is_named(own):
    data = own("cub200", per_class=1, classes=2)
    with (Path(data.root) / "CUB_200_2011" / "classes.txt").open("a") as file:
        file.write("3 003.Sooty_Albatross\n")
    problems = find_missing(data)
    assert "the class '003.Sooty_Albatross' has no images for training;" in problems[0]
    assert "the class '003.Sooty_Albatross' has no images for testing;" in problems[1]


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("images.txt", "1 001", "1001", "images.txt, line 1: 2 fields are expected"),
        ("image_class_labels.txt", "1 1\n", "1 7\n", "is of a class that the list of classes does"),
        ("train_test_split.txt", "1 1\n", "", "train_test_split.txt has no line for image 1, 001."),
    ],
)
def test_a_list_that_makes_no_sense_is_named(own, name, old, new, message):
    data = own("cub200", per_class=1, classes=2)
    path = Path(data.root) / "CUB_200_2011" / name
    path.write_text(path.read_text().replace(old, new, 1))
    assert message in "\n".join(find_missing(data))


def test_files_that_hold_something_else_are_named(own):
    data = own("flowers102", per_class=1, classes=2)
    path = Path(data.root) / "flowers-102" / "imagelabels.mat"
    path.write_bytes(b"<html>not found</html>" * 20)
    assert f"{path} is no MATLAB file with 'labels'" in find_missing(data)[0]
    savemat(path, {"others": [1]})
    assert f"{path} is no MATLAB file with 'labels'" in find_missing(data)[0]
    savemat(path, {"labels": [1]})
    assert f"{path} has no label for image 3" in find_missing(data)[0]


def test_half_a_cifar_file_is_no_file(own):
    data = own("cifar100", per_class=1, classes=2)
    path = Path(data.root) / "cifar-100-binary" / "train.bin"
    path.write_bytes(path.read_bytes()[: CIFAR_RECORD + 7])
    assert f"{path} ends in the middle of an image" in find_missing(data)[0]


def test_images_of_imagenet_s_validation_that_are_not_sorted_are_told(own):
    data = own("imagenet", per_class=1, classes=2)
    for folder in (Path(data.root) / "val").iterdir():
        for file in folder.iterdir():
            file.rename(file.parents[1] / file.name)
        folder.rmdir()
    assert (
        "val holds no folders of images, one a WordNet id (torchvision.datasets.im"
        in find_missing(data)[0]
    )


def test_paperbirds_holds_no_photographs():
    assert find_missing(DataParams()) == ["paperbirds holds no photographs; change data.dataset"]


def test_listing_opens_no_image(own):
    data = own("imagenet", per_class=2, classes=2)
    for file in Path(data.root).rglob("*.JPEG"):
        file.write_bytes(b"")
    assert len(read_catalogue(data).table) == 8
