"""Small versions of the published sets' folders, laid out from real photographs.

The layouts are written by hand from the sets' documentation, not by the package, so that reading
them is a test. Photographs come from the folder of `PHOTOGRAPHS`, which is not part of the project.
"""

import os
import shutil
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from scipy.io import savemat

#: Real photographs: cub200-10 and tiny-imagenet-10.
PHOTOGRAPHS = Path(
    os.environ.get("DIFFCORE_TEST_DATA", Path(__file__).resolve().parents[1] / ".." / "shared/data")
)

needs_photographs = pytest.mark.skipif(
    not PHOTOGRAPHS.is_dir(), reason="no photographs; DIFFCORE_TEST_DATA names their folder"
)

CARS = (
    "AM General Hummer SUV 2000", "Audi S4 Sedan 2012", "Audi S4 Sedan 2007",
    "Ram C/V Cargo Van Minivan 2012", "BMW 1 Series Coupe 2012", "smart fortwo Convertible 2012",
    "Volvo 240 Sedan 1993", "Tesla Model S Sedan 2012", "Mercedes-Benz 300-Class Convertible 1993",
    "Rolls-Royce Phantom Drophead Coupe Convertible 2012",
)  # fmt: skip
CALTECH = (
    "Faces", "Faces_easy", "Leopards", "Motorbikes", "accordion", "airplanes", "cougar_body",
    "dollar_bill", "water_lilly", "yin_yang",
)  # fmt: skip
CIFAR = (
    "apple", "aquarium_fish", "baby", "bear", "maple_tree", "pickup_truck", "ray", "streetcar",
    "tank", "willow_tree",
)  # fmt: skip
WNIDS = (
    "n01440764", "n02012849", "n02113186", "n02963159", "n03126707", "n03710637", "n03710721",
    "n04228054", "n07747607", "n15075141",
)  # fmt: skip


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
        classes: up to 10.
    """
    WRITERS[dataset](Path(folder), Path(photographs), per_class, classes)
    return {"data.dataset": dataset, "data.root": str(folder)}


def box_of(path: Path) -> tuple[int, int, int, int]:
    """The box that lists get for an image: x, y, width and height, off its middle."""
    with Image.open(path) as picture:
        width, height = picture.size
    return width // 8, height // 4, width // 2, height // 3


def birds(photographs: Path, per_class: int, classes: int) -> list[tuple[str, list[Path]]]:
    """Classes with twice so many photographs, which are sorted."""
    if per_class > 8 or classes > 10:
        raise ValueError("there are 10 classes of 16 photographs")
    folders = sorted((photographs / "cub200-10" / "train").iterdir())[:classes]
    return [(folder.name, sorted(folder.iterdir())[: 2 * per_class]) for folder in folders]


def put(source: Path, target: Path) -> Path:
    """Copy a photograph into a folder that may not be there yet."""
    target.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(source, target))


def write_folder(home, photographs, per_class, classes):
    for name, files in birds(photographs, per_class, classes):
        for file in files:
            put(file, home / name / file.name)


def write_cub(folder, photographs, per_class, classes):
    home = folder / "CUB_200_2011"
    lists = {name: [] for name in ("images", "image_class_labels", "train_test_split", "classes")}
    boxes, number = [], 0
    for label, (name, files) in enumerate(birds(photographs, per_class, classes), start=1):
        lists["classes"].append(f"{label} {name}")
        for place, file in enumerate(files):
            number += 1
            put(file, home / "images" / name / file.name)
            lists["images"].append(f"{number} {name}/{file.name}")
            lists["image_class_labels"].append(f"{number} {label}")
            lists["train_test_split"].append(f"{number} {(place + 1) % 2}")  # by turns
            boxes.append(f"{number} " + " ".join(f"{end:.1f}" for end in box_of(file)))
    for name, lines in (lists | {"bounding_boxes": boxes}).items():
        (home / f"{name}.txt").write_text("\n".join(lines) + "\n")


def write_cars(folder, photographs, per_class, classes):
    home = folder / "stanford_cars"
    (home / "devkit").mkdir(parents=True)
    rows = {"train": [], "test": []}
    for label, (_, files) in enumerate(birds(photographs, per_class, classes), start=1):
        for place, file in enumerate(files):
            part = ("train", "test")[place % 2]
            name = f"{len(rows[part]) + 1:05d}.jpg"
            put(file, home / f"cars_{part}" / name)
            x, y, width, height = box_of(file)
            # MATLAB counts from 1, and the last pixel is part of the box.
            rows[part].append((x + 1, y + 1, x + width, y + height, label, name))
    fields = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
    files = {"train": "devkit/cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}
    for part, file in files.items():
        table = np.array(rows[part], dtype=[(field, object) for field in fields])
        savemat(home / file, {"annotations": table[None]})
    names = np.array(CARS[:classes], dtype=object)
    savemat(home / "devkit" / "cars_meta.mat", {"class_names": names[None]})


def write_flowers(folder, photographs, per_class, classes):
    home = folder / "flowers-102"
    labels, parts = [], {"trnid": [], "valid": [], "tstid": []}
    for label, (_, files) in enumerate(birds(photographs, per_class, classes), start=1):
        for place, file in enumerate(files):
            labels.append(label)
            number = len(labels)
            put(file, home / "jpg" / f"image_{number:05d}.jpg")
            # Testing by turns with the other two, which train.
            parts[("trnid", "tstid", "valid", "tstid")[place % 4]].append(number)
    savemat(home / "imagelabels.mat", {"labels": np.array([labels], np.uint8)})
    savemat(home / "setid.mat", {key: np.array([ids], np.uint16) for key, ids in parts.items()})


def write_caltech(folder, photographs, per_class, classes):
    home = folder / "caltech101"
    called = {"Faces": "Faces_2", "Faces_easy": "Faces_3", "Motorbikes": "Motorbikes_16",
              "airplanes": "Airplanes_Side_2"}  # fmt: skip
    for name, (_, files) in zip(CALTECH, birds(photographs, per_class, classes), strict=False):
        for number, file in enumerate(files, start=1):
            put(file, home / "101_ObjectCategories" / name / f"image_{number:04d}.jpg")
            x, y, width, height = box_of(file)
            annotation = home / "Annotations" / called.get(name, name)
            annotation.mkdir(parents=True, exist_ok=True)
            box = np.array([[y + 1, y + height, x + 1, x + width]], np.uint16)
            savemat(annotation / f"annotation_{number:04d}.mat", {"box_coord": box})
    put(files[0], home / "101_ObjectCategories" / "BACKGROUND_Google" / "image_0001.jpg")


def write_cifar(folder, photographs, per_class, classes):
    home = folder / "cifar-100-binary"
    home.mkdir(parents=True)
    records = {"train": b"", "test": b""}
    for label, (_, files) in enumerate(birds(photographs, per_class, classes)):
        for place, file in enumerate(files):
            small = ImageOps.fit(Image.open(file).convert("RGB"), (32, 32))
            planes = b"".join(np.asarray(plane).tobytes() for plane in small.split())
            records[("train", "test")[place % 2]] += bytes([99, label]) + planes
    for part, content in records.items():
        (home / f"{part}.bin").write_bytes(content)
    (home / "fine_label_names.txt").write_text("\n".join(CIFAR[:classes]) + "\n")


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


def write_imagenet(folder, photographs, per_class, classes):
    for wnid, (_, files) in zip(WNIDS, birds(photographs, per_class, classes), strict=False):
        for place, file in enumerate(files):
            part, name = (("train", f"{wnid}_"), ("val", f"ILSVRC2012_val_{wnid}"))[place % 2]
            put(file, folder / part / wnid / f"{name}{place}.JPEG")


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
