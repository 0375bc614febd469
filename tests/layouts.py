"""Small versions of the published sets' folders, laid out from `photographs`.

The layouts are written by hand from the sets' documentation, not by the package, so that reading
them is a test.
"""

import pickle
import shutil
from collections import defaultdict
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from scipy.io import savemat

from diffcore.data.datasets import load_split
from diffcore.params import DataParams, load_params

# The first classes of each set.
CARS = ("AM General Hummer SUV 2000", "Audi S4 Sedan 2012", "Audi S4 Sedan 2007")
CARS += ("Ram C/V Cargo Van Minivan 2012", "smart fortwo Convertible 2012")
CALTECH = ("Faces", "Faces_easy", "Motorbikes", "dollar_bill", "yin_yang")
CIFAR = ("apple", "aquarium_fish", "baby", "bear", "maple_tree")
WNIDS = ("n01440764", "n02012849", "n02113186", "n02963159", "n03126707")


def lay_out(
    dataset: str, folder: Path, photographs: Path, per_class: int = 4, classes: int = 4
) -> dict[str, str]:
    """Write a small version of a set into a folder, and return the parameters that open it.

    Args:
        dataset: name of the layout; "folder" is class/image without parts.
        folder: where the set goes, in a folder of its own name if it has one.
        photographs: the folder of cub200-10 and tiny-imagenet-10.
        per_class: training images of each class, and as many for testing: up to 8, or up to 50 of
            Tiny ImageNet. A set without parts has all of them together.
        classes: up to 5.
    """
    WRITERS[dataset](Path(folder), Path(photographs), per_class, classes)
    return {"data.dataset": dataset, "data.root": str(folder)}


def settings(**changes):
    """Parameters of data, with the section's name before the key or without."""
    return DataParams(**{key.removeprefix("data."): value for key, value in changes.items()})


def open_split(data, split, run_dir=None, seed=0, **changes):
    """Open a split of a set of photographs."""
    params = load_params("smoke").model_copy(update={"data": data, "seed": seed})
    return load_split(params, split, run_dir, **changes)


def box_of(path: Path) -> tuple[int, int, int, int]:
    """The box that lists get for an image: x, y, width and height, off its middle."""
    with Image.open(path) as picture:
        width, height = picture.size
    return width // 8, height // 4, width // 2, height // 3


def birds(photographs: Path, per_class: int, classes: int) -> list[tuple[str, list[Path]]]:
    """Classes with twice so many photographs, which are sorted."""
    folders = sorted((photographs / "cub200-10" / "train").iterdir())[:classes]
    return [(folder.name, sorted(folder.iterdir())[: 2 * per_class]) for folder in folders]


def each(*counts):
    """Label from 0, class, place in it, part by turns, and file, of all photographs."""
    for label, (name, files) in enumerate(birds(*counts)):
        for place, file in enumerate(files):
            yield label, name, place, ("train", "test")[place % 2], file


def put(source: Path, target: Path) -> None:
    """Copy a photograph into a folder that may not be there yet."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def write_folder(home, *counts):
    for _, name, _, _, file in each(*counts):
        put(file, home / name / file.name)


def write_cub(folder, *counts):
    home, lists = folder / "CUB_200_2011", defaultdict(list)
    for number, (label, name, place, part, file) in enumerate(each(*counts), start=1):
        put(file, home / "images" / name / file.name)
        if place == 0:
            lists["classes"].append(f"{label + 1} {name}")
        lists["images"].append(f"{number} {name}/{file.name}")
        lists["image_class_labels"].append(f"{number} {label + 1}")
        lists["train_test_split"].append(f"{number} {int(part == 'train')}")
        lists["bounding_boxes"].append(f"{number} " + " ".join(f"{n:.1f}" for n in box_of(file)))
    for name, lines in lists.items():
        (home / f"{name}.txt").write_text("\n".join(lines) + "\n")


def write_cars(folder, *counts):
    home, rows = folder / "stanford_cars", {"train": [], "test": []}
    (home / "devkit").mkdir(parents=True)
    for label, _, _, part, file in each(*counts):
        name = f"{len(rows[part]) + 1:05d}.jpg"
        put(file, home / f"cars_{part}" / name)
        x, y, width, height = box_of(file)
        # MATLAB counts from 1, and the last pixel is part of the box.
        rows[part].append((x + 1, y + 1, x + width, y + height, label + 1, name))
    fields = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
    files = {"train": "devkit/cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}
    for part, file in files.items():
        table = np.array(rows[part], dtype=[(field, object) for field in fields])
        savemat(home / file, {"annotations": table[None]})
    names = np.array(CARS[: counts[-1]], dtype=object)
    savemat(home / "devkit" / "cars_meta.mat", {"class_names": names[None]})


def write_flowers(folder, *counts):
    home, labels, parts = folder / "flowers-102", [], {"trnid": [], "valid": [], "tstid": []}
    for number, (label, _, place, _, file) in enumerate(each(*counts), start=1):
        labels.append(label + 1)
        put(file, home / "jpg" / f"image_{number:05d}.jpg")
        # Testing by turns with the other two, which train.
        parts[("trnid", "tstid", "valid", "tstid")[place % 4]].append(number)
    savemat(home / "imagelabels.mat", {"labels": np.array([labels], np.uint8)})
    savemat(home / "setid.mat", {key: np.array([ids], np.uint16) for key, ids in parts.items()})


def write_caltech(folder, *counts):
    home = folder / "caltech101"
    called = {"Faces": "Faces_2", "Faces_easy": "Faces_3", "Motorbikes": "Motorbikes_16"}
    for label, _, place, _, file in each(*counts):
        name, number = CALTECH[label], f"{place + 1:04d}"
        put(file, home / "101_ObjectCategories" / name / f"image_{number}.jpg")
        x, y, width, height = box_of(file)
        annotation = home / "Annotations" / called.get(name, name)
        annotation.mkdir(parents=True, exist_ok=True)
        box = np.array([[y + 1, y + height, x + 1, x + width]], np.uint16)
        savemat(annotation / f"annotation_{number}.mat", {"box_coord": box})
    put(file, home / "101_ObjectCategories" / "BACKGROUND_Google" / "image_0001.jpg")


def write_cifar(folder, *counts):
    home, parts = folder / "cifar-100-python", defaultdict(lambda: defaultdict(list))
    home.mkdir(parents=True)
    for label, _, _, part, file in each(*counts):
        small = np.asarray(ImageOps.fit(Image.open(file).convert("RGB"), (32, 32)))
        parts[part]["data"].append(small.transpose(2, 0, 1).reshape(-1))
        parts[part]["fine_labels"].append(label)
    parts["meta"]["fine_label_names"] = list(CIFAR[: counts[-1]])
    for name, part in parts.items():
        (home / name).write_bytes(pickle.dumps(dict(part)))


def allow_small_cifar(monkeypatch):
    """Let torchvision open pickles whose checksums are not those of the published set."""
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)


def write_tiny_imagenet(folder, photographs, per_class, classes):
    source, home = photographs / "tiny-imagenet-10", folder / "tiny-imagenet-200"
    wnids = (source / "wnids.txt").read_text().split()[:classes]
    home.mkdir(parents=True)
    (home / "wnids.txt").write_text("\n".join(wnids) + "\n")
    shutil.copyfile(source / "words.txt", home / "words.txt")
    for wnid in wnids:
        for file in sorted((source / "train" / wnid / "images").iterdir())[:per_class]:
            put(file, home / "train" / wnid / "images" / file.name)
        boxes = f"train/{wnid}/{wnid}_boxes.txt"
        shutil.copyfile(source / boxes, home / boxes)
    lines = (source / "val" / "val_annotations.txt").read_text().splitlines()
    kept = [[line for line in lines if line.split()[1] == wnid][:per_class] for wnid in wnids]
    for line in (chosen := list(chain(*kept))):
        put(source / "val/images" / line.split()[0], home / "val/images" / line.split()[0])
    (home / "val" / "val_annotations.txt").write_text("\n".join(chosen) + "\n")


def write_imagenet(folder, *counts):
    for label, _, place, part, file in each(*counts):
        wnid = WNIDS[label]
        start = f"train/{wnid}/{wnid}_" if part == "train" else f"val/{wnid}/ILSVRC2012_val_{wnid}"
        put(file, folder / f"{start}{place}.JPEG")


WRITERS = {
    "folder": write_folder,
    "cub200": write_cub,
    "cars": write_cars,
    "flowers102": write_flowers,
    "caltech101": write_caltech,
    "cifar100": write_cifar,
    "tiny_imagenet": write_tiny_imagenet,
    "imagenet": write_imagenet,
}
