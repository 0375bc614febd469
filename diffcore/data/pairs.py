"""Real images, each with the generated ones that were drawn for it: what mixing and training take.

In a training loop of your own, the real images may be any class-labelled data set:

    pairs = PairedDataset(ImageFolder("birds/train"), "runs/birds", transform=v2.Resize((224, 224)))
    for real, generated, labels in DataLoader(pairs, batch_size=64, shuffle=True):
        mixed = pixel_mix(real, generated, lam=0.5)
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.datasets import DatasetFolder
from torchvision.transforms.v2.functional import to_image

from diffcore.data.generated import GeneratedSet, read_accepted
from diffcore.data.images import Images, Lazy, View, as_batch, as_pixels, fit, to_pixels
from diffcore.data.layouts import name_images, open_hub_set
from diffcore.data.published import readable_names
from diffcore.data.splits import Split, chunks
from diffcore.store import digest, keep_array

_IN_MEMORY = 2**30  # bytes of generated images, at most


class PairedDataset(Dataset):
    """Items of real image, one of its counterparts drawn by chance, and label.

    `split` holds the N real images (`real`, `labels`, `classes` and `masks` are its own);
    `generated` M others at their size, (M, H, W, 3) uint8, `metadata` their source_id and
    class_name, and `source` (M,) the place of the real image that each belongs to. That is the one
    with its source_id; where there is none, one of its class in turn.
    """

    def __init__(
        self,
        real: Any,
        generated: Any = None,
        transform: Any = None,
        *,
        key: str | None = None,
        cache_dir: Any = None,
    ):
        """Pair images; ValueError for generated ones of a class that has no real one.

        Args:
            real: a `Split`, a set of Hugging Face's `datasets` with an Image and a ClassLabel, or
                any data set of (image, label) as of torchvision. The ids of an ImageFolder are its
                paths without suffix.
            generated: what has metadata and images, or a run's folder, for what was accepted.
            transform: as of torchvision.transforms.v2; acts on both images of an item alike.
            key: name of the decisions in a run's folder; ValueError if it is needed and absent.
            cache_dir: keeps fitted images; without it they are in memory, if few.
        """
        self.split, self.transform = _as_split(real), transform
        self.real, self.labels = self.split.images, self.split.labels
        self.classes, self.masks = self.split.classes, self.split.masks
        if isinstance(generated, str | Path):
            generated = read_accepted(Path(generated), key)
        size = self.real.shape[1:3]  # () where they are of several: each pair is then fitted alone
        self.metadata = pd.DataFrame({"source_id": [], "class_name": []})
        self.generated = np.empty((0, *size, 3), np.uint8)
        if generated is not None and len(generated.metadata):
            self.metadata = generated.metadata.reset_index(drop=True)
            self.generated = self._fitted(generated.images, size, cache_dir)
        self.source = _place_sources(self.metadata, self.split.metadata)

    def _fitted(self, images: Images, size: tuple[int, ...], cache_dir: Any) -> Images:
        fitted = View(images, size=size)
        if size and cache_dir is not None:
            key = digest(fitted.shape, self.metadata.to_dict("list"))
            return keep_array(fitted, Path(cache_dir) / f"{key}.npy")
        return fitted[:] if size and np.prod(fitted.shape) <= _IN_MEMORY else fitted

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor, int]:
        """Real image and counterpart (itself, if it has none), (3, H, W) in [0, 1], and label."""
        label, real, drawn = int(self.labels[place]), self.real[place], self.counterparts[place]
        other = real
        if len(drawn):
            chosen = drawn[torch.randint(len(drawn), ()).item()]
            other = fit(self.generated[chosen], *real.shape[:2])
        pair = as_batch([real, other])
        if self.transform is not None:  # which acts on one plain tensor alone, but on all images
            pair = self.transform(*map(tv_tensors.Image, pair))
            pair = [image.as_subclass(Tensor) for image in pair]
        return *pair, label

    def __getitems__(self, places: Sequence[Any]) -> Any:
        """Fetch a batch: real images and counterparts, (B, H, W, 3) uint8, and labels (B,).

        Places are pairs (real, generated), -1 for the image itself; single ones give items.
        """
        if not isinstance(places[0], tuple):
            return [self[place] for place in places]
        reals, drawn = zip(*places, strict=True)
        has = np.array(drawn) >= 0
        real = torch.from_numpy(np.array(self.real[list(reals)]))
        other = real.clone()
        if has.any():
            other[has] = torch.from_numpy(np.array(self.generated[np.array(drawn)[has]]))
        return real, other, torch.from_numpy(self.labels[list(reals)])

    @cached_property
    def counterparts(self) -> list[np.ndarray]:
        """Places of the generated images that belong to each real one."""
        order = np.argsort(self.source, kind="stable")
        return np.split(order, np.cumsum(np.bincount(self.source, minlength=len(self)))[:-1])

    @cached_property
    def digest(self) -> str:
        """Hash of all pixels and labels, and of which image belongs to which."""
        return digest(self.split.digest, self.source, *chunks(self.generated))

    def without_generated(self) -> "PairedDataset":
        """Return the real images alone, for methods that see no others."""
        return PairedDataset(self.split, None, self.transform)

    def take_real(self, places: Any) -> "PairedDataset":
        """Return the real images at these places, each with its generated ones."""
        belongs = np.isin(self.source, np.arange(len(self))[places])
        return self._take(self.split.take(places), belongs)

    def take_generated(self, places: Any) -> "PairedDataset":
        """Return the same with the generated images at these places, or where a mask is True."""
        return self._take(self.split, places)

    def _take(self, split: Split, places: Any) -> "PairedDataset":
        images = View(self.generated, places)
        some = GeneratedSet(self.metadata.iloc[images.items], images)
        return PairedDataset(split, some, self.transform)


def _place_sources(generated: pd.DataFrame, real: pd.DataFrame) -> np.ndarray:
    """Place of the real image that each generated one belongs to, (M,)."""
    place_of = {name: place for place, name in enumerate(real["source_id"])}
    place_of |= {f"train/{name}": place for name, place in place_of.items()}  # of a tree with parts
    members, places = real.groupby("class_name").indices, []
    table = generated[["source_id", "class_name"]]
    for source, name, turn in table.assign(turn=table.groupby("class_name").cumcount()).to_numpy():
        if source in place_of:
            places.append(place_of[source])
        elif name in members:
            places.append(members[name][turn % len(members[name])])
        else:
            raise ValueError(f"no real image of {name!r}, for which images were drawn")
    return np.array(places, np.int64)


def _as_split(dataset: Any) -> Split:
    """Turn a data set of (image, label) into a split, unless it is one."""
    if isinstance(dataset, Split):
        return dataset
    ids, images = [str(place) for place in range(len(dataset))], Lazy(dataset, _to_pixels)
    if hasattr(dataset, "features"):
        labels, folders, images = open_hub_set(dataset)
    else:
        labels, folders = getattr(dataset, "targets", None), getattr(dataset, "classes", None)
        labels = [dataset[place][1] for place in range(len(dataset))] if labels is None else labels
    if isinstance(dataset, DatasetFolder):
        paths = [Path(file).relative_to(dataset.root) for file, _ in dataset.samples]
        ids = name_images([path.as_posix() for path in paths])
    classes = readable_names("folder", folders or [str(n) for n in range(max(labels) + 1)])
    metadata = pd.DataFrame({"source_id": ids, "label": np.asarray(labels, np.int64)})
    metadata["class_name"] = [classes[label] for label in metadata["label"]]
    return Split("real", classes, metadata, images)


def _to_pixels(item: tuple) -> np.ndarray:
    image = item[0]
    if isinstance(image, Image.Image):
        return to_pixels(image)
    image = image if isinstance(image, Tensor) else to_image(image)
    return as_pixels(image[None] if image.is_floating_point() else image[None] / 255)[0]
