"""Read what a folder of photographs holds, in the layouts of seven published sets and in any tree.

No image is opened here. A smaller set in the same layout is as good as the complete one, but for
CIFAR-100. Our choices: Oxford Flowers trains on its training and validation images together, as is
customary; Caltech-101 goes without its background class; Tiny ImageNet and ImageNet are tested on
their validation images, as the labels of their test images are not public.
"""

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.io import loadmat
from torchvision.datasets import CIFAR100

from diffcore.data.images import Box, Images, Lazy, as_value_error, find_images, in_utf8, to_pixels
from diffcore.data.published import PUBLISHED, advice, fetch
from diffcore.params import DataParams, UserError
from diffcore.prompts.prompt_set import clean_class_name

_TEST_FOLDERS = ("test", "val", "valid")  # of a class/image tree; the first that is there counts
_LISTED = frozenset({"cub200", "cars", "flowers102", "tiny_imagenet"})  # not read from the disk


class PhotosError(UserError, ValueError):
    """Photographs that are not there or cannot be used: one line per problem, with its remedy."""


@dataclass(frozen=True)
class Catalogue:
    """All labelled images; a part is "train", "test", or "" where a set has no split of its own."""

    home: Path
    folders: tuple[str, ...]  # what the set itself calls its classes, in the order of the labels
    table: pd.DataFrame  # source_id (distinct), label, file (below home), part, box (`read_box`)
    pixels: Images | None = None  # (N, H, W, 3) uint8, of a file that holds many images


_as_photos_error = partial(as_value_error, kind=PhotosError)


def read_catalogue(settings: DataParams) -> Catalogue:
    """Read what a set holds; PhotosError names what is missing, its source and its place."""
    try:
        catalogue = LAYOUTS[settings.dataset](_find_home(settings))
        problems = list(_problems(catalogue, settings.dataset))
    except FileNotFoundError as error:
        problems = [f"there is no {error.filename}"]
    except OSError as error:
        problems = [f"{error.filename} cannot be read: {error.strerror}"]
    except ValueError as error:
        problems = [str(error)]
    if problems:
        remedy = advice(settings.dataset, settings.root)
        raise PhotosError("\n".join(f"{settings.dataset}: {it}; {remedy}" for it in problems))
    return catalogue


def find_missing(settings: DataParams) -> list[str]:
    """Return what is missing of a set, and where to get and put it; [] if it is whole."""
    try:
        read_catalogue(settings)
    except PhotosError as error:
        return str(error).splitlines()
    return []


def download(settings: DataParams) -> None:
    """Fetch a set if it is not there and the settings ask for it; PhotosError says why not."""
    if not settings.download or not find_missing(settings):
        return
    published, root = PUBLISHED.get(settings.dataset), Path(settings.root).expanduser()
    if published is None or not published.files:
        how = advice(settings.dataset, settings.root)
        raise PhotosError(f"{settings.dataset} cannot be downloaded: {how}")
    target = root if root.name == published.folder else root / published.folder
    if target.exists() and any(target.iterdir()):
        raise PhotosError(f"{target} is not whole; move it away, and it is downloaded anew")
    aside = target.parent / f".{target.name}.download"
    aside.mkdir(parents=True, exist_ok=True)
    with _as_photos_error(f"{published.page} could not be fetched whole; try again, or by hand"):
        fetch(settings.dataset, aside)
    (aside / published.folder).replace(target)
    shutil.rmtree(aside)
    read_catalogue(settings)


def _find_home(settings: DataParams) -> Path:
    """Find the folder that a set's files lie in as published: the root, or one below it."""
    # A profile's root is relative to where the study runs: name it in full where it is not there.
    root, published = Path(settings.root).expanduser().absolute(), PUBLISHED.get(settings.dataset)
    if published is None:
        return root
    named = settings.dataset == "cifar100"  # which torchvision finds by the folder's name
    for home in (root, root / published.folder):
        if (home / published.marker).exists() and (home.name == published.folder or not named):
            return home
    raise PhotosError(f"there is no {published.folder}/{published.marker} in {root}")


def _problems(catalogue: Catalogue, dataset: str) -> Iterator[str]:
    """Yield what is wrong with the lists of images, and which classes have too few."""
    home, folders, table = catalogue.home, catalogue.folders, catalogue.table
    if not folders:
        yield f"{home} holds no folder of images"
    first: dict[str, str] = {}
    for folder in folders if dataset == "folder" else ():  # such as 001.Cardinal and cardinal
        if (known := first.setdefault(clean_class_name(folder), folder)) != folder:
            remedy = "rename one, or put their images together"
            yield f"{known} and {folder} would be one class; {remedy}"
    for name in table["source_id"][table["source_id"].duplicated()].head(1):
        yield f"{name} is listed twice"
    for file in table["file"][~table["label"].isin(range(len(folders)))].head(1):
        yield f"{file} is of a class that the list of classes does not hold"
    parts = {"": 2} if (table["part"] == "").all() else {"train": 1, "test": 1}
    for part, least in parts.items():
        counts = table.loc[table["part"] == part, "label"].value_counts()
        poor = [name for label, name in enumerate(folders) if counts.get(label, 0) < least]
        if poor:
            few = f"less than {least} {part} images".replace("  ", " ")
            yield f"{len(poor):,} classes, {poor[0]!r} first, have {few}"
    if dataset in _LISTED:  # folders are listed, as to look for each file is slow
        files = [home / file for file in table["file"].drop_duplicates()]
        folders = {file.parent for file in files}
        there = {path for folder in folders for path in folder.glob("*")}
        if absent := [file for file in files if file not in there]:
            yield f"{len(absent):,} of the listed images are not there, the first {absent[0]}"


def _read_folder(home: Path) -> Catalogue:
    """Read a tree class/image, or train/class/image, perhaps beside test/class/image.

    Or a saved set of Hugging Face's `datasets` in its place.
    """
    if any((home / f"dataset_{kind}.json").exists() for kind in ("info", "dict")):
        return _read_hub_set(home)
    inside = {name.lower(): name for name in _folders(home)}
    train = inside.get("train", "")
    if not train or not _folders(home / train):  # train may be a class, too
        return _read_trees(home, {"": ""})
    if others := sorted(set(inside) - {"train", *_TEST_FOLDERS}):
        raise PhotosError(
            f"{home} holds {inside[others[0]]} beside {train}, which holds classes; move it away"
        )
    tests = [f"{inside[name]}/" for name in _TEST_FOLDERS if name in inside]
    parts = {"train": f"{train}/", "test": tests[0]} if tests else {"": f"{train}/"}
    return _read_trees(home, parts)


def _read_hub_set(home: Path) -> Catalogue:
    """Read a set of Hugging Face's `datasets`, one part or several, as `save_to_disk` left it."""
    from datasets import Dataset, concatenate_datasets, load_from_disk  # slow to import

    with _as_photos_error(f"{home} is no data set that save_to_disk wrote"):
        saved = load_from_disk(home)
    parts = {"": saved} if isinstance(saved, Dataset) else saved
    tests = [name for name in (*_TEST_FOLDERS, "validation") if name in parts]
    roles = {"train": "train", tests[0]: "test"} if tests else {next(iter(parts)): ""}
    labels, names, pixels = open_hub_set(concatenate_datasets([parts[name] for name in roles]))
    places = ((part, place) for part in roles for place in range(len(parts[part])))
    rows = [
        (f"{part}/{place:06d}".lstrip("/"), label, f"{part}/dataset_info.json", roles[part], None)
        for (part, place), label in zip(places, labels, strict=True)
    ]
    return Catalogue(home, tuple(names), _table(rows), pixels)


def open_hub_set(dataset: Any) -> tuple[list[int], list[str], Images]:
    """Open a set of Hugging Face's `datasets`: labels, names of the classes, images as they are."""
    columns = {type(kind).__name__: name for name, kind in dataset.features.items()}
    if not {"Image", "ClassLabel"} <= set(columns):
        raise PhotosError(f"an Image and a ClassLabel are needed; there are {dataset.features}")
    label, images = columns["ClassLabel"], dataset[columns["Image"]]  # decoded when asked for
    return list(dataset[label]), dataset.features[label].names, Lazy(images, to_pixels)


def _read_caltech(home: Path) -> Catalogue:
    """Read Caltech-101: class/image, and a file with a box for each where there are annotations."""
    catalogue = _read_trees(home, {"": "101_ObjectCategories/"}, {"BACKGROUND_Google"})
    there, files = set((home / "Annotations").glob("*/*.mat")), []
    folders = PUBLISHED["caltech101"].annotated_as
    for image in map(Path, catalogue.table["file"]):
        folder = home / "Annotations" / folders.get(image.parent.name, image.parent.name)
        file = folder / f"{image.stem.replace('image', 'annotation')}.mat"
        files.append(file if file in there else None)
    catalogue.table["box"] = pd.Series(files, dtype=object)
    return catalogue


def _read_trees(home: Path, parts: dict[str, str], without: set[str] = frozenset()) -> Catalogue:
    """Read one tree class/image a part; an id is the file's path, from what holds all parts."""
    names = sorted({name for top in parts.values() for name in _folders(home / top)} - without)
    rows = [
        ((top if len(parts) > 1 else "") + file, label, top + file, part, None)
        for part, top in parts.items()
        for file, label in _list_images(home / top, names)
    ]
    table = _table(rows)
    table["source_id"] = name_images(table["source_id"].tolist())
    return Catalogue(home, tuple(names), table)


def name_images(files: Sequence[str]) -> list[str]:
    """Name images by their files, without the suffix but where two differ in nothing else."""
    counts = Counter(stems := [file.rpartition(".")[0] for file in files])
    return [file if counts[stem] > 1 else stem for stem, file in zip(stems, files, strict=True)]


def _folders(path: Path) -> list[str]:
    names = [p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")]
    return in_utf8(names, path)


def _list_images(top: Path, names: Sequence[str]) -> Iterator[tuple[str, int]]:
    """List files and labels of a tree class/image, class by class and folder by folder."""
    for label, name in enumerate(names):
        if (top / name).exists():  # a class may lack one part
            yield from ((f"{name}/{file}", label) for file in find_images(top / name))


def _read_cub(home: Path) -> Catalogue:
    """Read CUB-200-2011: lists of classes and images, and of what is known by an image's number."""
    names = ("classes", "images", "image_class_labels", "train_test_split", "bounding_boxes")
    classes, images, class_of, training, boxes = (
        {number: rest for number, *rest in _lines(home / f"{name}.txt", fields)}
        for name, fields in zip(names, (2, 2, 2, 2, 5), strict=True)
    )
    labels, rows = {number: label for label, number in enumerate(classes)}, []
    for number, (file,) in images.items():
        with _as_photos_error(f"a list in {home} has no line for image {number}, {file}"):
            (label,), (train,), box = class_of[number], training[number], boxes[number]
        x, y, width, height = map(float, box)
        part, box = "train" if train == "1" else "test", (x, y, x + width, y + height)
        rows.append((file.rpartition(".")[0], labels.get(label, -1), f"images/{file}", part, box))
    return Catalogue(home, tuple(name for (name,) in classes.values()), _table(rows))


def _read_cars(home: Path) -> Catalogue:
    """Read Stanford Cars: classes, and images with class and box, which is counted from 1."""
    names, rows = _read_mat(home / "devkit/cars_meta.mat", "class_names"), []
    tests = home / "devkit/cars_test_annos_withlabels.mat"  # where some copies keep it
    tests = tests if tests.exists() else home / tests.name
    for part, file in (("train", home / "devkit/cars_train_annos.mat"), ("test", tests)):
        for row in _read_mat(file, "annotations"):
            x0, y0, x1, y1 = (int(row[f"bbox_{end}"]) for end in ("x1", "y1", "x2", "y2"))
            image, box = f"cars_{part}/{row['fname']}", (x0 - 1, y0 - 1, x1, y1)
            rows.append((image.rpartition(".")[0], int(row["class"]) - 1, image, part, box))
    return Catalogue(home, tuple(map(str, names)), _table(rows))


def _read_flowers(home: Path) -> Catalogue:
    """Read Oxford Flowers; a class is called by its number, from 1."""
    rows = []
    with _as_photos_error(f"{home} does not hold the lists of Oxford Flowers"):
        class_of = _read_mat(home / "imagelabels.mat", "labels").tolist()
        for key, part in (("trnid", "train"), ("valid", "train"), ("tstid", "test")):
            for number in _read_mat(home / "setid.mat", key):
                name = f"image_{number:05d}"
                rows.append((name, class_of[number - 1], f"jpg/{name}.jpg", part, None))
    table = _table(rows)
    classes = sorted(set(table["label"]))  # a part of the set may lack some; labels have no gaps
    table["label"] = table["label"].map(classes.index)
    return Catalogue(home, tuple(map(str, classes)), table)


def _read_cifar100(home: Path) -> Catalogue:
    """Read CIFAR-100, from pickles that torchvision opens only if it knows their checksums."""
    with _as_photos_error(f"{home} is not CIFAR-100 as published"):
        parts = {part: CIFAR100(home.parent, train=part == "train") for part in ("train", "test")}
    rows = [
        (f"{images.classes[label]}/{part}_{place:05d}", label, part, part, None)
        for part, images in parts.items()
        for place, label in enumerate(images.targets)
    ]
    pixels = np.concatenate([images.data for images in parts.values()])
    return Catalogue(home, tuple(parts["train"].classes), _table(rows), pixels)


def _read_tiny_imagenet(home: Path) -> Catalogue:
    """Read Tiny ImageNet: a folder a WordNet id for training, and a list of validation images.

    Its boxes mean the last pixel too (our reading: in images of 64 x 64 they end at 63).
    """
    (home / "words.txt").stat()  # else the classes would have no names
    wnids = [wnid for (wnid,) in _lines(home / "wnids.txt", 1)]
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    lists = (_lines(home / f"train/{wnid}/{wnid}_boxes.txt", 5) for wnid in wnids)
    boxes = {file: ends for listed in lists for file, *ends in listed}
    images = [
        (f"train/{file}", label, "train", boxes.get(Path(file).name))
        for file, label in _list_images(home / "train", wnids)
    ]
    for file, wnid, *ends in _lines(home / "val/val_annotations.txt", 6):
        images.append((f"val/images/{file}", labels.get(wnid, -1), "test", ends))
    rows = []
    for file, label, part, ends in images:
        x0, y0, x1, y1 = map(float, ends or [0] * 4)
        name, box = f"{wnids[label]}/{Path(file).stem}", (x0, y0, x1 + 1, y1 + 1)
        rows.append((name, label, file, part, box if ends else None))
    return Catalogue(home, tuple(wnids), _table(rows))


def read_box(box: Box | Path | None) -> Box | None:
    """Read a box of Caltech-101, if it is in a file: rows, then columns, counted from 1."""
    if not isinstance(box, Path):
        return box
    y0, y1, x0, x1 = map(float, _read_mat(box, "box_coord"))
    return x0 - 1, y0 - 1, x1, y1


def _table(rows: list[tuple]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["source_id", "label", "file", "part", "box"])


def _lines(path: Path, fields: int) -> list[list[str]]:
    """Fields of each line of a list, by spaces or tabs; PhotosError if their number is off."""
    rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    for number, row in enumerate(rows, start=1):
        if len(row) not in {0, fields}:
            raise PhotosError(f"{path}, line {number}: {fields} fields are expected")
    return [row for row in rows if row]


def _read_mat(path: Path, key: str) -> np.ndarray:
    """Read a list from a MATLAB file, which holds arrays and runs nothing."""
    with path.open("rb") as file, _as_photos_error(f"{path} is no MATLAB file with {key!r}"):
        return np.atleast_1d(loadmat(file, squeeze_me=True)[key])


#: Name of a data set -> what reads its layout from its folder.
LAYOUTS = {
    "folder": _read_folder,
    "cub200": _read_cub,
    "cars": _read_cars,
    "flowers102": _read_flowers,
    "caltech101": _read_caltech,
    "cifar100": _read_cifar100,
    "tiny_imagenet": _read_tiny_imagenet,
    "imagenet": partial(_read_trees, parts={"train": "train/", "test": "val/"}),
}
