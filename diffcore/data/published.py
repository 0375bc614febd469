"""The paper's seven sets as published (`published.yaml`), and readable names of their classes.

Most names come from what the set itself calls its classes, by `clean_class_name`. WordNet ids go
through their synonyms, of which the first that no other class has is taken. Our choice: a few by
hand (`names.yaml`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from types import SimpleNamespace

import yaml
from torchvision.datasets import CIFAR100, Flowers102
from torchvision.datasets.utils import download_and_extract_archive, extract_archive

from diffcore.prompts.prompt_set import clean_class_name

_BY_HAND = yaml.safe_load(Path(__file__).with_name("names.yaml").read_text(encoding="utf-8"))
_TABLE = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text(encoding="utf-8"))
_ABSENT = {"files": [], "md5": None, "how": "", "side": None}
#: By the names of data.dataset; what the fields mean stands in ``published.yaml``.
PUBLISHED = {name: SimpleNamespace(**_ABSENT | fields) for name, fields in _TABLE.items()}


def advice(dataset: str, root: str) -> str:
    """Return where a set comes from and where to put it."""
    if dataset not in PUBLISHED:
        return "data.root must hold class/image.jpg, or such folders called train and test"
    published = PUBLISHED[dataset]
    place = f"{root}/{published.folder}"
    if not published.files:
        return f"{published.how}, into {place}; or change data.root (page: {published.page})"
    names = ", ".join(Path(file).name for file in published.files)
    return (
        f"get {names} ({published.page}) and unpack so that {place}/{published.marker} is there, "
        "or set data.download to true, or change data.root"
    )


def fetch(dataset: str, folder: Path) -> None:
    """Fetch a set and unpack it below a folder; RuntimeError for a file with another checksum."""
    if by_torchvision := {"cifar100": CIFAR100, "flowers102": Flowers102}.get(dataset):
        by_torchvision(folder, download=True)
        return
    published = PUBLISHED[dataset]
    download_and_extract_archive(published.files[0], str(folder), md5=published.md5)
    # Caltech-101's holds two archives, of which torchvision's class throws away that of the boxes.
    for inner in folder.glob("caltech-101/*.tar*"):
        extract_archive(str(inner), str(folder / published.folder))


def readable_names(
    dataset: str, folders: Sequence[str], home: Path | None = None
) -> tuple[str, ...]:
    """Name the classes of a set, in the order of its folders: lower case, distinct, no index."""
    if dataset == "flowers102":  # by number, from 1; one of the names ends with a question mark
        return tuple(Flowers102.classes[int(folder) - 1].rstrip("?") for folder in folders)
    words = _read_words(home) if dataset in {"tiny_imagenet", "imagenet"} else {}
    return make_distinct([_synonyms(folder, words) for folder in folders])


def make_distinct(synonyms: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Take the first synonym of each class, or a further one where two classes share the first.

    >>> make_distinct([["cardigan", "corgi"], ["cardigan"], ["robin"], ["robin"]])
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
