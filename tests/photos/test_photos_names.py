"""Names of classes are readable, distinct and survive their own cleaning."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from layouts import CALTECH, CARS, CIFAR, PHOTOGRAPHS, needs_photographs

from diffcore.photos.names import readable_names, tell_apart
from diffcore.prompts import clean_class_name

NOWHERE = Path("nowhere")


def check(names):
    assert len(set(names)) == len(names)
    for name in names:
        assert clean_class_name(name) == name
        assert re.fullmatch(r"[a-z0-9][a-z0-9 '.&-]*[a-z0-9.]", name), name


def test_imagenet_s_thousand_names():
    from timm.data import ImageNetInfo

    wnids = ImageNetInfo().label_names()
    names = readable_names("imagenet", wnids, NOWHERE)
    assert len(names) == 1000
    check(names)
    known = dict(zip(wnids, names, strict=True))
    assert known["n01440764"] == "tench"
    assert (known["n02012849"], known["n03126707"]) == ("crane bird", "construction crane")
    assert (known["n03710637"], known["n03710721"]) == ("maillot", "tank suit")
    assert (known["n02113186"], known["n02963159"]) == ("cardigan welsh corgi", "cardigan")


def test_words_beside_the_images_come_first(tmp_path):
    (tmp_path / "words.txt").write_text("n01440764\tslippery fish, tench\nn02012849\tcrane\n")
    names = readable_names("imagenet", ["n01440764", "n02012849"], tmp_path)
    assert names == ("slippery fish", "crane bird")


def test_the_102_flowers():
    names = readable_names("flowers102", [str(number) for number in range(1, 103)], NOWHERE)
    assert len(names) == 102
    check(names)
    # As listed by the publisher's page, by the number of the class.
    known = {1: "pink primrose", 21: "fire lily", 46: "wallflower", 54: "sunflower",
             60: "pink-yellow dahlia", 77: "passion flower", 102: "blackberry lily"}  # fmt: skip
    assert {number: names[number - 1] for number in known} == known


@needs_photographs
def test_tiny_imagenet_s_names():
    home = PHOTOGRAPHS / "tiny-imagenet-10"
    names = readable_names("tiny_imagenet", (home / "wnids.txt").read_text().split(), home)
    check(names)
    assert names[:3] == ("goldfish", "koala", "king penguin")


@needs_photographs
def test_birds():
    folders = sorted(path.name for path in (PHOTOGRAPHS / "cub200-10" / "train").iterdir())
    names = readable_names("cub200", folders, NOWHERE)
    check(names)
    assert names[0] == "black footed albatross"
    assert "cardinal" in names


@pytest.mark.parametrize(("dataset", "folders"), [("cars", CARS), ("caltech101", CALTECH)])
def test_names_that_are_not_as_their_folders(dataset, folders):
    names = dict(zip(folders, readable_names(dataset, folders, NOWHERE), strict=True))
    check(list(names.values()))
    known = {"Audi S4 Sedan 2012": "audi s4 sedan 2012", "Faces": "face", "airplanes": "airplane",
             "Ram C/V Cargo Van Minivan 2012": "ram c-v cargo van minivan 2012",
             "Faces_easy": "close-up face", "dollar_bill": "dollar bill"}  # fmt: skip
    for folder in set(known) & set(folders):
        assert names[folder] == known[folder]


def test_cifar():
    names = readable_names("cifar100", CIFAR, NOWHERE)
    check(names)
    assert names[:2] == ("apple", "aquarium fish")


def test_names_stay_clean_however_often_they_are_cleaned():
    folders = ["01.02_robin", "1_._x", "3.5_mm", "Kea, mountain parrot", "a/b"]
    for name in readable_names("folder", folders, NOWHERE):
        assert clean_class_name(name) == name
        assert "/" not in name


@pytest.mark.parametrize(
    ("synonyms", "names"),
    [
        ([["a"], ["b"]], ("a", "b")),
        ([["a", "b"], ["a"], ["b"]], ("a", "a 2", "b")),  # b is the third's own
        ([["a", "c"], ["a", "c"], ["a", "c"]], ("c", "a", "a 2")),
        ([["a"], ["a"], ["a 2"]], ("a", "a 3", "a 2")),
    ],
)
def test_classes_are_told_apart(synonyms, names):
    assert tell_apart(synonyms) == names


def test_two_folders_of_one_name_are_two_classes():
    assert readable_names("folder", ["1_robin", "2_Robin"], NOWHERE) == ("robin", "robin 2")


def test_importing_loads_nothing_heavy():
    code = "import sys, diffcore.photos; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "diffcore" in loaded
    assert not {"torch", "torchvision", "timm", "diffusers", "transformers"} & set(loaded)
