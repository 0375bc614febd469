"""Readable names of classes, distinct within a set, as a prompt and a figure need them.

Most come from what the set itself calls its classes, by `clean_class_name`. WordNet ids go through
their synonyms, of which the first that no other class has is taken. Our choice: a few by hand.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain, count
from pathlib import Path

import yaml
from torchvision.datasets import Flowers102

from diffcore.prompts.prompt_set import clean_class_name

_BY_HAND = yaml.safe_load(Path(__file__).with_name("names.yaml").read_text(encoding="utf-8"))


def readable_names(
    dataset: str, folders: Sequence[str], home: Path | None = None
) -> tuple[str, ...]:
    """Name the classes of a set, in the order of its folders: lower case, distinct, no index."""
    if dataset == "flowers102":  # by number, from 1; one of the names asks whether it is right
        return tuple(Flowers102.classes[int(folder) - 1].rstrip("?") for folder in folders)
    words = _read_words(home) if dataset in {"tiny_imagenet", "imagenet"} else {}
    return tell_apart([_synonyms(folder, words) for folder in folders])


def tell_apart(synonyms: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Take the first synonym of each class, or a further one where two classes share the first.

    >>> tell_apart([["cardigan", "corgi"], ["cardigan"], ["robin"], ["robin"]])
    ('corgi', 'cardigan', 'robin', 'robin 2')
    """
    shared = Counter(first for first, *_ in synonyms)
    names, taken = [], {name for name, classes in shared.items() if classes == 1}
    for first, *further in synonyms:
        options = chain(further, [first], (f"{first} {number}" for number in count(2)))
        fresh = (option for option in options if option not in taken)
        names.append(first if shared[first] == 1 else next(fresh))
        taken.add(names[-1])
    return tuple(names)


def _synonyms(folder: str, words: Mapping[str, str]) -> list[str]:
    """Clean names of a class, the best first."""
    if folder in _BY_HAND:
        return [_BY_HAND[folder]]
    # A slash (the Ram C/V of Stanford Cars) would make two folders of a name.
    names = words.get(folder, folder).replace("/", "-").split(",")
    return [_clean(name) for name in names if name.strip()] or [_clean(folder)]


def _clean(name: str) -> str:
    """Clean a name until nothing is left to clean."""
    cleaned = clean_class_name(name)
    return name if cleaned == name else _clean(cleaned)


def _read_words(home: Path | None) -> dict[str, str]:
    """Read the words of WordNet ids, from the set's own list or else from timm's."""
    if home is None or not (home / "words.txt").is_file():
        from timm.data import ImageNetInfo  # of no use to other sets

        info = ImageNetInfo()
        return {wnid: info.label_name_to_description(wnid) for wnid in info.label_names()}
    lines = (home / "words.txt").read_text(encoding="utf-8").splitlines()
    return {wnid: words for wnid, tab, words in (line.partition("\t") for line in lines) if tab}
