"""Readable names of classes, distinct within a set, as a prompt and a figure need them.

Most come from what the set itself calls its classes, by `diffcore.prompts.clean_class_name`, which
leaves every name that is made here as it is. WordNet ids go through their synonyms, of which the
first that no other class of the set has is taken. Our choice: the few words of `_BY_HAND`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path

from diffcore.prompts import clean_class_name

# Where the set's own words are no name of one thing, are misspelt, or are another class's too.
_BY_HAND = {
    "Faces": "face",
    "Faces_easy": "close-up face",
    "Leopards": "leopard",
    "Motorbikes": "motorbike",
    "airplanes": "airplane",
    "water_lilly": "water lily",
    "n02012849": "crane bird",
    "n03126707": "construction crane",
}


def readable_names(dataset: str, folders: Sequence[str], home: Path) -> tuple[str, ...]:
    """Name the classes of a set, in the order of its folders: lower case, distinct, no index.

    >>> readable_names("cub200", ["001.Black_footed_Albatross", "017.Cardinal"], Path())
    ('black footed albatross', 'cardinal')

    Raises:
        ValueError: for a folder whose name holds no word.
    """
    if dataset == "flowers102":
        return _flower_names(folders)
    words: Mapping[str, str] = {}
    if dataset in {"tiny_imagenet", "imagenet"}:
        words = read_words(home) if (home / "words.txt").is_file() else _wordnet()
    return tell_apart([_synonyms(folder, words) for folder in folders])


def read_words(home: Path) -> dict[str, str]:
    """Read ``words.txt``: WordNet id, tab, synonyms joined by commas."""
    lines = (home / "words.txt").read_text(encoding="utf-8").splitlines()
    return {wnid: words for wnid, tab, words in (line.partition("\t") for line in lines) if tab}


def tell_apart(synonyms: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Take the first synonym of each class, or a further one where two classes share the first.

    >>> tell_apart([["cardigan", "corgi"], ["cardigan"], ["robin"], ["robin"]])
    ('corgi', 'cardigan', 'robin', 'robin 2')
    """
    shared = Counter(options[0] for options in synonyms)
    taken = {name for name, classes in shared.items() if classes == 1}
    names = []
    for first, *further in synonyms:
        if shared[first] == 1:
            names.append(first)
            continue
        numbered = (f"{first} {number}" for number in count(2))
        names.append(_free([*further, first], numbered, taken))
        taken.add(names[-1])
    return tuple(names)


def _free(options: Iterable[str], numbered: Iterable[str], taken: set[str]) -> str:
    """Return the first of the options, then of the numbered ones, that is not taken."""
    for names in (options, numbered):
        for name in names:
            if name not in taken:
                return name
    raise AssertionError("there is always another number")


def _synonyms(folder: str, words: Mapping[str, str]) -> list[str]:
    """Clean names of a class, the best first."""
    if folder in _BY_HAND:
        return [_BY_HAND[folder]]
    # A slash (the Ram C/V of Stanford Cars) would make two folders of a name.
    names = words.get(folder, folder).replace("/", "-").split(",")
    return [_clean(name) for name in names if name.strip()] or [_clean(folder)]


def _clean(name: str) -> str:
    """Clean a name until nothing is left to clean."""
    while (cleaned := clean_class_name(name)) != name:
        name = cleaned
    return name


def _flower_names(folders: Sequence[str]) -> tuple[str, ...]:
    """Names of the flowers by the set's own numbers, from 1."""
    from torchvision.datasets import Flowers102

    # One of the names asks whether it is right.
    return tuple(Flowers102.classes[int(folder) - 1].rstrip("?") for folder in folders)


def _wordnet() -> dict[str, str]:
    """Synonyms of ImageNet's classes by WordNet id."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    return {wnid: info.label_name_to_description(wnid) for wnid in info.label_names()}
