"""Read what a folder of photographs holds, in the layouts of seven published sets and in any tree.

No image is opened here, and folders are listed with one call each, so that ImageNet's 1.3 million
files take seconds. A smaller set in the same layout is as good as the complete one; what is not:
a missing index file, a listed image that is not there, a class without images.

Our choices: Oxford Flowers trains on its training and validation images together, as is customary;
Caltech-101 goes without its background class, which shows nothing in particular; Tiny ImageNet and
ImageNet are tested on their validation images, as the labels of their test images are not public.
"""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from diffcore.params import DataParams
from diffcore.photos.catalogue import WHOLE_FILE, Catalogue, PhotosError, make_table, with_boxes
from diffcore.photos.known import PUBLISHED, advice
from diffcore.photos.names import read_words

SUFFIXES = frozenset({"jpg", "jpeg", "png", "webp", "bmp", "ppm", "tif", "tiff"})

#: Sets of which the images are listed from the disk, and so are there.
TREES = frozenset({"folder", "caltech101", "imagenet"})

# What the images of a part are for; a set without parts has but one.
PURPOSES = {"train": " for training", "test": " for testing", "": ""}

#: Folders of a class/image tree that hold test images; the first that is there counts.
TEST_FOLDERS = ("test", "val", "valid")

CIFAR_RECORD = 2 + 3 * 32 * 32  # bytes: coarse label, fine label, red, green, blue

# Where Caltech-101 calls a class otherwise in its annotations.
_ANNOTATED_AS = {
    "Faces": "Faces_2",
    "Faces_easy": "Faces_3",
    "Motorbikes": "Motorbikes_16",
    "airplanes": "Airplanes_Side_2",
}


def read_catalogue(settings: DataParams) -> Catalogue:
    """Read what a set holds.

    Raises:
        PhotosError: naming what is missing, where it comes from and where to put it.
    """
    if settings.dataset not in READERS:
        raise PhotosError([f"{settings.dataset} holds no photographs; change data.dataset"])
    try:
        catalogue = READERS[settings.dataset](find_home(settings))
        problems = _problems(catalogue)
        if settings.dataset not in TREES:
            problems += _absent(catalogue)
    except PhotosError as error:
        problems = error.problems
    if problems:
        remedy = _remedy(settings)
        raise PhotosError([f"{settings.dataset}: {problem}; {remedy}" for problem in problems])
    return catalogue


def find_home(settings: DataParams) -> Path:
    """Find the folder that a set's files lie in as published: the root, or one below it.

    Raises:
        PhotosError: if there is none.
    """
    # A profile's root is relative to where the study runs: name it in full where it is not there.
    root = Path(settings.root).expanduser().absolute()
    if settings.dataset == "folder":
        if not root.is_dir():
            raise PhotosError([f"there is no folder {root}"])
        return root
    published = PUBLISHED[settings.dataset]
    for home in (root, root / published.folder):
        if (home / published.marker).exists():
            return home
    raise PhotosError(
        [f"there is no {published.marker} in {root}, nor in {published.folder}/ there"]
    )


def _remedy(settings: DataParams) -> str:
    """Say what to do about a set that is not whole."""
    if settings.dataset == "folder":
        return "data.root must hold class/image.jpg, or such folders called train and test"
    return advice(settings.dataset, settings.root)


def _problems(catalogue: Catalogue) -> list[str]:
    """Say what is wrong with the lists of images, and which classes have too few."""
    table, folders = catalogue.table, catalogue.folders
    if not folders:
        return [f"{catalogue.home} holds no folder of images"]
    problems = []
    if twice := table["id"][table["id"].duplicated()].tolist():
        problems.append(f"{twice[0]} is listed twice")
    if strange := sorted(set(table["label"]) - set(range(len(folders)))):
        first = table.loc[table["label"] == strange[0], "file"].iloc[0]
        problems.append(f"{first} is of a class that the list of classes does not hold")
    # Without parts of its own, a class gives at least one image to each.
    own_parts = len(table) > 0 and table["part"].iloc[0] != ""
    parts, least = (("train", "test"), 1) if own_parts else (("",), 2)
    for part in parts:
        counts = table.loc[table["part"] == part, "label"].value_counts()
        poor = [name for label, name in enumerate(folders) if counts.get(label, 0) < least]
        if poor:
            problems.append(_too_few(poor, part, counts.get(folders.index(poor[0]), 0)))
    return problems


def _too_few(poor: list[str], part: str, images: int) -> str:
    """Say which classes have too few images in a part, or at all."""
    many = len(poor) > 1
    they = (
        f"{len(poor):,} classes, {poor[0]!r} first, have" if many else f"the class {poor[0]!r} has"
    )
    if images:
        return f"{they} one image, which cannot be both for training and for testing"
    return f"{they} no images{PURPOSES[part]}"


def _absent(catalogue: Catalogue) -> list[str]:
    """Say whether listed files are not there, by listing folders rather than asking for each."""
    files = list(dict.fromkeys(catalogue.table["file"]))
    folders = {file.rpartition("/")[0] for file in files}
    there = set()
    for folder in folders:
        if (catalogue.home / folder).is_dir():
            prefix = f"{folder}/" if folder else ""
            there.update(prefix + path.name for path in (catalogue.home / folder).iterdir())
    absent = [catalogue.home / file for file in files if file not in there]
    if not absent:
        return []
    listed = f"{len(absent):,} listed images are" if len(absent) > 1 else "1 listed image is"
    return [f"{listed} not there, the first {absent[0]}"]


# ----------------------------------------------------------------------------- any class/image tree
def read_folder(home: Path) -> Catalogue:
    """Read a tree class/image, or train/class/image beside test/class/image.

    The second is meant if no folder but train and `TEST_FOLDERS` is there: a class may be called
    train. Without a test folder, the set has no parts. Other files and hidden ones do not count.
    """
    inside = set(_folders(home))
    if "train" not in inside or inside - {"train", *TEST_FOLDERS}:
        return _catalogue(home, {"": home})
    tests = [name for name in TEST_FOLDERS if name in inside]
    parts = {"train": home / "train", "test": home / tests[0]} if tests else {"": home / "train"}
    return _catalogue(home, parts)


def read_imagenet(home: Path) -> Catalogue:
    """Read ImageNet: train/<WordNet id>/image and val/<WordNet id>/image.

    Its validation images come all in one folder; torchvision has a function that sorts them.
    """
    if not _folders(_there(home, "val")):
        how = "torchvision.datasets.imagenet.parse_val_archive makes them"
        raise PhotosError([f"{home / 'val'} holds no folders of images, one a WordNet id ({how})"])
    return _catalogue(home, {"train": home / "train", "test": home / "val"})


def read_caltech(home: Path) -> Catalogue:
    """Read Caltech-101: class/image, and a file with a box for each where there are annotations."""
    catalogue = _catalogue(home, {"": home / "101_ObjectCategories"}, {"BACKGROUND_Google"})
    annotated = {name: _annotations(home, name) for name in catalogue.folders}

    def box_file(file: str) -> str | None:
        folder, image = file.split("/")[-2:]
        return annotated[folder].get(image.partition(".")[0].rpartition("_")[2])

    boxes = [box_file(file) for file in catalogue.table["file"]]
    return replace(catalogue, table=with_boxes(catalogue.table, boxes))


def _annotations(home: Path, folder: str) -> dict[str, str]:
    """Number of an image, as ``0001``, -> the file that holds its box."""
    path = home / "Annotations" / _ANNOTATED_AS.get(folder, folder)
    files = path.glob("*.mat") if path.is_dir() else []
    return {file.stem.rpartition("_")[2]: file.relative_to(home).as_posix() for file in files}


def _catalogue(home: Path, parts: dict[str, Path], without: set[str] = frozenset()) -> Catalogue:
    """Read one tree class/image a part; an id is the file's path, from what holds all parts."""
    names = sorted({name for top in parts.values() for name in _folders(top)} - without)
    start = home if len(parts) > 1 else next(iter(parts.values()))
    rows, files = [], []
    for part, top in parts.items():
        for label, name in enumerate(names):
            prefix = f"{(top / name).relative_to(start).as_posix()}/"
            found = _images(top / name, prefix) if (top / name).is_dir() else []
            files += found
            rows += [(label, part)] * len(found)
    below = "" if start == home else f"{start.relative_to(home).as_posix()}/"
    table = make_table([
        (name, label, below + file, part, WHOLE_FILE)
        for name, file, (label, part) in zip(_ids(files), files, rows, strict=True)
    ])  # fmt: skip
    return Catalogue(home, tuple(names), table)


def _ids(files: list[str]) -> list[str]:
    """Name images by their files, without the suffix but where two differ in nothing else."""
    counts = Counter(stems := [_stem(file) for file in files])
    return [file if counts[stem] > 1 else stem for stem, file in zip(stems, files, strict=True)]


def _folders(path: Path) -> list[str]:
    """Names of the folders in a folder, sorted; hidden ones do not count."""
    with os.scandir(path) as entries:
        return sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir())


def _images(folder: Path | str, prefix: str) -> list[str]:
    """Paths of the images in a folder and in those below it, relative to it, sorted."""
    found = []
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            if entry.name.rpartition(".")[2].lower() in SUFFIXES and entry.is_file():
                found.append(prefix + entry.name)
            elif entry.is_dir():
                found += _images(entry.path, f"{prefix}{entry.name}/")
    return found


# ------------------------------------------------------------------------------ sets with lists
def read_cub(home: Path) -> Catalogue:
    """Read CUB-200-2011: lists of classes and images, and of facts by the image's number."""
    classes = _lines(home, "classes.txt", 2)
    labels = {number: label for label, (number, _) in enumerate(classes)}
    class_of = _by_number(home, "image_class_labels.txt", 2)
    training = _by_number(home, "train_test_split.txt", 2)
    boxes = _by_number(home, "bounding_boxes.txt", 5)
    rows = []
    for number, file in _lines(home, "images.txt", 2):
        part = "train" if training[number] == ["1"] else "test"
        x, y, width, height = map(float, boxes[number])
        label = labels.get(class_of[number][0], -1)
        box = (x, y, x + width, y + height)
        rows.append((_stem(file), label, f"images/{file}", part, WHOLE_FILE, box))
    return Catalogue(home, tuple(name for _, name in classes), make_table(rows))


def read_cars(home: Path) -> Catalogue:
    """Read Stanford Cars: MATLAB files of classes, and of images with class and box.

    A box is counted from 1 and means the last pixel too.
    """
    names = [str(name) for name in _mat(home, "devkit/cars_meta.mat", "class_names")]
    labelled = "cars_test_annos_withlabels.mat"
    if (home / "devkit" / labelled).exists():  # where some copies keep it
        labelled = f"devkit/{labelled}"
    rows = []
    for part, file in (("train", "devkit/cars_train_annos.mat"), ("test", labelled)):
        for row in _mat(home, file, "annotations"):
            x0, y0, x1, y1 = (int(row[f"bbox_{end}"]) for end in ("x1", "y1", "x2", "y2"))
            image, box = f"cars_{part}/{row['fname']}", (x0 - 1, y0 - 1, x1, y1)
            rows.append((_stem(image), int(row["class"]) - 1, image, part, WHOLE_FILE, box))
    return Catalogue(home, tuple(names), make_table(rows))


def read_flowers(home: Path) -> Catalogue:
    """Read Oxford Flowers: labels by the image's number, and the numbers of three parts.

    A class is called by its own number, from 1, as the set gives it no other name.
    """
    labels = _mat(home, "imagelabels.mat", "labels")
    images = [
        (part, int(number))
        for key, part in (("trnid", "train"), ("valid", "train"), ("tstid", "test"))
        for number in _mat(home, "setid.mat", key)
    ]
    if outside := [number for _, number in images if not 1 <= number <= len(labels)]:
        raise PhotosError([f"{home / 'imagelabels.mat'} has no label for image {outside[0]}"])
    # A part of the set may lack classes, and labels have no gaps.
    classes = sorted({int(labels[number - 1]) for _, number in images})
    rows = []
    for part, number in images:
        name, label = f"image_{number:05d}", classes.index(labels[number - 1])
        rows.append((name, label, f"jpg/{name}.jpg", part, WHOLE_FILE))
    return Catalogue(home, tuple(map(str, classes)), make_table(rows))


def read_tiny_imagenet(home: Path) -> Catalogue:
    """Read Tiny ImageNet: a folder a WordNet id for training, and a list of validation images.

    Its boxes mean the last pixel too (our reading: in images of 64 x 64 they end at 63). Those of
    images that are not there do not count.
    """
    wnids = [line[0] for line in _lines(home, "wnids.txt", 1)]
    words = read_words(_there(home, "words.txt").parent)
    if unnamed := [wnid for wnid in wnids if wnid not in words]:
        raise PhotosError([f"{home / 'words.txt'} has no words for {unnamed[0]}"])
    images = [image for wnid in wnids for image in _tiny_training(home, wnid)]
    for file, wnid, *ends in _lines(home, "val/val_annotations.txt", 6):
        images.append((wnid, "val/images", file, "test", _box(ends)))
    labels, rows = {wnid: label for label, wnid in enumerate(wnids)}, []
    for wnid, folder, file, part, box in images:
        name, label = f"{wnid}/{_stem(file)}", labels.get(wnid, -1)
        rows.append((name, label, f"{folder}/{file}", part, WHOLE_FILE, box))
    return Catalogue(home, tuple(wnids), make_table(rows))


def _tiny_training(home: Path, wnid: str) -> list[tuple]:
    """Training images of a class of Tiny ImageNet: class, folder, file, part, box."""
    folder = f"train/{wnid}/images"
    if not (home / folder).is_dir():
        return []
    listed = _lines(home, f"train/{wnid}/{wnid}_boxes.txt", 5)
    boxes = {file: _box(ends) for file, *ends in listed}
    files = _images(home / folder, "")
    return [(wnid, folder, file, "train", boxes.get(file)) for file in files]


def read_cifar100(home: Path) -> Catalogue:
    """Read CIFAR-100's binary version, whose records hold two labels and the pixels."""
    names, rows = [line[0] for line in _lines(home, "fine_label_names.txt", 1)], []
    for part in ("train", "test"):
        content = _there(home, f"{part}.bin").read_bytes()
        if len(content) % CIFAR_RECORD:
            raise PhotosError([f"{home / part}.bin ends in the middle of an image"])
        for place, label in enumerate(content[1::CIFAR_RECORD]):
            name = f"{names[label] if label < len(names) else label}/{part}_{place:05d}"
            rows.append((name, label, f"{part}.bin", part, place))
    return Catalogue(home, tuple(names), make_table(rows))


def _there(home: Path, file: str) -> Path:
    """Return the path of an index file or folder; PhotosError if it is not there."""
    if not (home / file).exists():
        raise PhotosError([f"there is no {home / file}"])
    return home / file


def _lines(home: Path, file: str, fields: int) -> list[list[str]]:
    """Fields of each line of a list, by spaces or tabs; PhotosError if their number is off."""
    lines = _there(home, file).read_text(encoding="utf-8").splitlines()
    rows = [line.split() for line in lines]
    for number, row in enumerate(rows, start=1):
        if len(row) not in {0, fields}:
            raise PhotosError([f"{home / file}, line {number}: {fields} fields are expected"])
    return [row for row in rows if row]


def _by_number(home: Path, file: str, fields: int) -> dict[str, list[str]]:
    """Other fields of a list by the first, an image's number; PhotosError on a missing one."""
    listed = {number: rest for number, *rest in _lines(home, file, fields)}
    for number, image in _lines(home, "images.txt", 2):
        if number not in listed:
            raise PhotosError([f"{home / file} has no line for image {number}, {image}"])
    return listed


def _mat(home: Path, file: str, key: str) -> np.ndarray:
    """Read a list from a MATLAB file, which holds arrays and runs nothing."""
    from scipy.io import loadmat

    path = _there(home, file)
    try:
        return np.atleast_1d(loadmat(path, squeeze_me=True)[key])
    except (KeyError, ValueError, TypeError, NotImplementedError, OSError) as error:
        raise PhotosError([f"{path} is no MATLAB file with {key!r} ({error})"]) from None


def _box(ends: list[str]) -> tuple[float, ...]:
    """Turn first and last pixels into a box: x0, y0, x1, y1, the last two just outside."""
    x0, y0, x1, y1 = map(float, ends)
    return x0, y0, x1 + 1, y1 + 1


def _stem(file: str) -> str:
    """A file's path without its suffix."""
    return file.rpartition(".")[0]


READERS: dict[str, Callable[[Path], Catalogue]] = {
    "folder": read_folder,
    "cub200": read_cub,
    "cars": read_cars,
    "flowers102": read_flowers,
    "caltech101": read_caltech,
    "cifar100": read_cifar100,
    "tiny_imagenet": read_tiny_imagenet,
    "imagenet": read_imagenet,
}
