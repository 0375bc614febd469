"""Real photographs where they are, and elsewhere as many pictures as the tests read.

The real ones are not part of the project: cub200-10 and tiny-imagenet-10, some of CUB-200-2011 and
Tiny ImageNet. The others are Paperbirds, a species a class, in the same folders, sizes and formats.
"""

import os
from collections import defaultdict
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from paperbirds.render import CONTEXTS, SPECIES, Rendering, render

#: Real photographs, if it is there.
REAL = Path(
    os.environ.get("DIFFCORE_TEST_DATA", Path(__file__).resolve().parents[1] / ".." / "shared/data")
)

BIRDS = ("001.Black_footed_Albatross", "002.Laysan_Albatross", "005.Crested_Auklet")
BIRDS += ("009.Brewer_Blackbird", "017.Cardinal")
SIZES = ((500, 375), (500, 333), (375, 500), (500, 500))  # width and height, by turns
_MIRRORED = 55  # as most of the time goes into rendering
#: wnid -> words of Tiny ImageNet.
THINGS = {
    "n01443537": "goldfish, Carassius auratus",
    "n01882714": "koala, koala bear, native bear",
    "n02056570": "king penguin, Aptenodytes patagonica",
    "n02123045": "tabby, tabby cat",
    "n02165456": "ladybug, ladybeetle",
    "n02504458": "African elephant, Loxodonta africana",
    "n03100240": "convertible",
    "n07747607": "orange",
    "n07873807": "pizza, pizza pie",
    "n09193705": "alp",
}


def make_photographs(home: Path) -> Path:
    """Make both sets in a folder, from seeds; return it."""
    make_birds(home / "cub200-10" / "train")
    make_things(home / "tiny-imagenet-10")
    return home


def make_birds(home: Path, per_class: int = 8) -> None:
    """Write full-size JPEGs with the grain of a camera."""
    for (label, name), number in product(enumerate(BIRDS), range(per_class)):
        size = SIZES[number % len(SIZES)]
        large = np.asarray(ImageOps.fit(Image.fromarray(shoot(label, number).image), size))
        grain = np.random.default_rng((label, number)).normal(0, 5, large.shape)
        image = Image.fromarray((large + grain).clip(0, 255).astype(np.uint8))
        save(image, home / name / f"{name[4:]}_{number:04d}.jpg")


def make_things(home: Path, train: int = 90, val: int = 20) -> None:
    """Write so many small JPEGs a class, with boxes; some are grey, as some of the real ones."""
    words = ["\t".join(row) for row in THINGS.items()]
    lists = defaultdict(list, {"wnids.txt": list(THINGS), "words.txt": words})
    for number, (label, kind) in product(range(train + val), enumerate(THINGS)):
        picture = shoot(label, number)
        y, x = np.nonzero(picture.mask)
        box = f"{x.min()}\t{y.min()}\t{x.max()}\t{y.max()}"  # all four are inside
        if number < train:
            folder, name = f"train/{kind}/images", f"{kind}_{number}.JPEG"
            lists[f"train/{kind}/{kind}_boxes.txt"].append(f"{name}\t{box}")
        else:
            folder, name = "val/images", f"val_{number * len(THINGS) + label}.JPEG"
            lists["val/val_annotations.txt"].append(f"{name}\t{kind}\t{box}")
        image = Image.fromarray(picture.image)
        save(image.convert("L") if number % 7 == 0 else image, home / folder / name)
    for file, lines in lists.items():
        (home / file).write_text("\n".join(lines) + "\n")


@cache
def shoot(label: int, number: int) -> Rendering:
    """Render a picture of a class, the contexts by turns; from `_MIRRORED` on, mirrored ones."""
    if number >= _MIRRORED:
        picture = shoot(label, number - _MIRRORED)
        return picture._replace(image=picture.image[:, ::-1], mask=picture.mask[:, ::-1])
    context = CONTEXTS[number % len(CONTEXTS)]
    return render(SPECIES[label], context, (label, number), style=0.7)


def save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=95)
