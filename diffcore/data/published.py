"""The paper's seven sets as published (`published.yaml`): their sizes, and where they come from."""

from pathlib import Path
from types import SimpleNamespace

import yaml
from torchvision.datasets import CIFAR100, Flowers102
from torchvision.datasets.utils import download_and_extract_archive, extract_archive

_TABLE = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text(encoding="utf-8"))
_ABSENT = {"files": [], "md5": None, "how": "", "side": None}
#: By the names of data.dataset; what the fields mean stands in ``published.yaml``.
PUBLISHED = {name: SimpleNamespace(**_ABSENT | fields) for name, fields in _TABLE.items()}


def advice(dataset: str, root: str) -> str:
    """Say where a set comes from and where to put it."""
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
    if own := {"cifar100": CIFAR100, "flowers102": Flowers102}.get(dataset):
        own(folder, download=True)
        return
    published = PUBLISHED[dataset]
    download_and_extract_archive(published.files[0], str(folder), md5=published.md5)
    # Caltech-101's holds two archives, of which torchvision's class throws away that of the boxes.
    for inner in folder.glob("caltech-101/*.tar*"):
        extract_archive(str(inner), str(folder / published.folder))
