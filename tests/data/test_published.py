"""Names of classes are readable, distinct and survive their own cleaning."""

import re

import pytest
from layouts import CALTECH, CARS, CIFAR
from timm.data import ImageNetInfo

from diffcore.data.published import make_distinct, readable_names
from diffcore.prompts import clean_class_name

SETS = {
    "imagenet": (ImageNetInfo().label_names(), {
        "n01440764": "tench", "n02012849": "crane bird", "n03126707": "construction crane",
        "n03710637": "maillot", "n03710721": "tank suit", "n02113186": "cardigan welsh corgi",
        "n02963159": "cardigan",
    }),
    # As listed by the publisher's page, by the number of the class.
    "flowers102": ([str(number) for number in range(1, 103)], {
        "1": "pink primrose", "21": "fire lily", "102": "blackberry lily",
    }),
    "cars": (CARS, {"Ram C/V Cargo Van Minivan 2012": "ram c-v cargo van minivan 2012"}),
    "caltech101": (CALTECH, {"Faces_easy": "close-up face", "dollar_bill": "dollar bill"}),
    "cifar100": (CIFAR, {"aquarium_fish": "aquarium fish"}),
    "folder": (["1_robin", "2_Robin", "01.02_kea", "1_._x", "3.5_mm", "Kite, a bird", "a/b"], {
        "1_robin": "robin", "2_Robin": "robin 2", "a/b": "a-b",
    }),
}  # fmt: skip


@pytest.mark.parametrize("dataset", SETS)
def test_names_are_readable_and_distinct(dataset):
    folders, known = SETS[dataset]
    names = dict(zip(folders, readable_names(dataset, folders), strict=True))
    assert {folder: names[folder] for folder in known} == known
    assert len(set(names.values())) == len(folders)
    for name in names.values():
        assert clean_class_name(name) == name
        assert re.fullmatch(r"[a-z0-9._][a-z0-9 '._&-]*", name), name


def test_words_beside_the_images_come_first(tmp_path):
    (tmp_path / "words.txt").write_text("n01440764\tslippery fish, tench\nn02012849\tcrane\n")
    names = readable_names("imagenet", ["n01440764", "n02012849"], tmp_path)
    assert names == ("slippery fish", "crane bird")


def test_classes_are_told_apart():
    assert make_distinct([["a", "b"], ["a"], ["b"]]) == ("a", "a 2", "b")  # b is the third's own
    assert make_distinct([["a", "c"], ["a", "c"], ["a", "c"]]) == ("c", "a", "a 2")
    assert make_distinct([["a"], ["a"], ["a 2"]]) == ("a", "a 3", "a 2")
