"""Stand-ins: other real photographs of a class take the place of generated images.

Where no generated images are at hand, the study still runs on real photographs: what a
text-to-image model would draw for a training image is replaced by a photograph of its class that
is neither trained nor tested on, put through a stated transformation (`RANGES`). A stated share of
stand-ins is planted: they show another class, as the images do that the paper's filter is to
reject, so its recall on real photographs is known.

Our choice: all of it. Nothing of the paper is measured here but filter, mixing and training; a
stand-in says nothing about any text-to-image model. It is new real data for the class, more than a
generated image brings, so gains in accuracy from stand-ins are not gains from generation.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from diffcore.generation import read_generated, store
from diffcore.pictures import fit_array
from diffcore.prompts import PLAN_COLUMNS, PromptBook, plan_generation

if TYPE_CHECKING:
    from diffcore.data import ImageSet

#: What `transform` draws from, evenly; "mirror" is a probability.
RANGES = {
    "mirror": 0.5,
    "area": (0.6, 1.0),  # of the image, that a crop of its proportions keeps
    "brightness": (0.6, 1.4),  # factor
    "contrast": (0.6, 1.4),  # factor
    "saturation": (0.5, 1.5),  # factor
    "hue": (-0.03, 0.03),  # turns of the colour circle: little, as colours tell birds apart
    "blur": (0.0, 0.005),  # standard deviation, in shorter sides: 0 to 2.2 pixels of 448
}
_VERSION = 1  # of `transform`; raise it when the same ranges give other pixels
_BOOK = PromptBook("stand-ins", "a {class_name}", ("unknown",))  # of its words none is kept


# ----------------------------------------------------------------------------------------- the plan
def plan_stand_ins(
    sources: pd.DataFrame,
    spare: "ImageSet",
    *,
    generated_share: float,
    planted_share: float,
    seed: int,
) -> pd.DataFrame:
    """Choose the photographs that stand in for generated images; the same for the same arguments.

    How many there are, and which training image each is the counterpart of, is as in
    `diffcore.prompts.plan_generation`. Of all of them ``round(planted_share * N)``, drawn by
    chance, show another class. No photograph is taken twice while its class has an unused one;
    after that it is taken again, and transformed otherwise.

    Args:
        sources: training images, columns ``source_id`` (distinct) and ``class_name``.
        spare: photographs that are not trained or tested on; its facts have id and class_name.
        generated_share: stand-ins per training image of a class, above 0; at least one a class.
        planted_share: of the stand-ins, that show another class, in [0, 1].
        seed: of the study.

    Returns:
        Table with `PLAN_COLUMNS`, ``photograph`` (id in `spare`) and ``shows`` (its class);
        ``class_name`` is the class that it claims to show. ``seed`` is of its transformation.

    Raises:
        ValueError: for a class without a spare photograph, spare photographs that are trained on,
            planting with one class alone, or shares outside their ranges.
    """
    _check(sources, spare.facts, generated_share, planted_share)
    plan = plan_generation(
        sources, _BOOK, generated_share=generated_share, seed=seed,
        use_context=False, use_negatives=False,
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    planted = np.zeros(len(plan), bool)
    planted[rng.choice(len(plan), math.floor(planted_share * len(plan) + 0.5), False)] = True
    decks = _shuffled(spare.facts, plan["class_name"].unique(), seed)
    photographs, shows = _deal(plan["class_name"].to_numpy(), planted, decks, rng)
    prompts = [f"photograph {photograph}, transformed" for photograph in photographs]
    return plan.assign(prompt=prompts, photograph=photographs, shows=shows)


def judge_stand_ins(plan: pd.DataFrame) -> pd.DataFrame:
    """Tell which stand-ins are planted: the table of `diffcore.metrics.judge`, as far as it goes.

    Returns:
        One row a stand-in: ``sample_id``, ``class_name``, ``context``, ``seen_species`` (the class
        that it really shows) and the booleans ``species_right``, ``context_right`` and
        ``wellformed`` (always True: no context is asked for, and photographs are whole) and
        ``wrong``.
    """
    judged = plan[["sample_id", "class_name", "context"]].reset_index(drop=True)
    judged["seen_species"] = plan["shows"].to_numpy()
    judged["species_right"] = judged["class_name"] == judged["seen_species"]
    judged["context_right"] = judged["wellformed"] = True
    judged["wrong"] = ~judged["species_right"]
    return judged


def _check(
    sources: pd.DataFrame, facts: pd.DataFrame, generated_share: float, planted_share: float
) -> None:
    """Raise ValueError for what cannot be planned."""
    if generated_share <= 0 or not 0 <= planted_share <= 1:
        raise ValueError(
            f"generated_share is {generated_share} and planted_share {planted_share}; the first "
            "must be above 0, the second from 0 to 1"
        )
    classes, spared = sources["class_name"].unique(), set(facts["class_name"])
    if without := [name for name in classes if name not in spared]:
        raise ValueError(
            f"{len(without)} of {len(classes)} classes have no photograph to spare, the first of "
            f"which is {without[0]!r}; make data.train_images_per_class smaller, so that some of "
            "each class are left over"
        )
    if both := set(facts["id"]) & set(sources["source_id"]):
        raise ValueError(
            f"{len(both)} photographs are both trained on and to spare, such as {min(both)!r}"
        )
    if planted_share and len(classes) < 2:
        raise ValueError("with one class alone, generation.planted_share must be 0")


class _Deck:
    """The photographs of one class, dealt out in order and, once all are, again from the first."""

    def __init__(self, photographs: np.ndarray):
        self.left = len(photographs)
        self._order: Iterator[str] = cycle(photographs)

    def take(self) -> str:
        """Take the next; `left` counts those that nobody has taken yet."""
        self.left = max(0, self.left - 1)
        return next(self._order)


def _shuffled(facts: pd.DataFrame, classes: np.ndarray, seed: int) -> dict[str, _Deck]:
    """Shuffle the photographs of each class, by random numbers of its own."""
    ids = facts["id"].groupby(facts["class_name"])
    return {
        name: _Deck(
            np.random.default_rng([seed, *name.encode()]).permutation(
                np.sort(ids.get_group(name).to_numpy(object))
            )
        )
        for name in classes
    }


def _deal(
    asked: np.ndarray, planted: np.ndarray, decks: dict[str, _Deck], rng: np.random.Generator
) -> tuple[list[str], list[str]]:
    """Deal a photograph to each row: its id, and the class that it shows.

    The rows that show their own class come first, so that planting takes no photograph from them.
    """
    shows = asked.astype(object)
    photographs = np.empty(len(asked), object)
    for place in np.argsort(planted, kind="stable"):
        if planted[place]:
            others = [name for name in decks if name != asked[place]]
            unused = [name for name in others if decks[name].left] or others
            shows[place] = unused[rng.integers(len(unused))]
        photographs[place] = decks[shows[place]].take()
    return photographs.tolist(), shows.tolist()


# --------------------------------------------------------------------------------------- the images
def transform(image: np.ndarray, seed: int) -> np.ndarray:
    """Change what a text-to-image model would change and the class survives.

    By chance mirrored, cropped and enlarged again, recoloured and slightly blurred; `RANGES` says
    how far. The same image and seed give the same pixels.

    Args:
        image: (H, W, 3) uint8.
        seed: of the transformation, at least 0.

    Returns:
        (H, W, 3) uint8.
    """
    rng = np.random.default_rng(seed)
    mirrored = rng.random() < RANGES["mirror"]
    drawn = {name: rng.uniform(*RANGES[name]) for name in RANGES if name != "mirror"}
    where = rng.random(2)  # of the crop, from top left to bottom right
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    if mirrored:
        pixels = F.horizontal_flip(pixels)
    pixels = _crop(pixels, drawn["area"], where)
    pixels = F.adjust_brightness(pixels, drawn["brightness"])
    pixels = F.adjust_contrast(pixels, drawn["contrast"])
    pixels = F.adjust_saturation(pixels, drawn["saturation"])
    pixels = F.adjust_hue(pixels, drawn["hue"])
    pixels = _blur(pixels, drawn["blur"] * min(image.shape[:2]))
    return pixels.permute(1, 2, 0).contiguous().numpy()


def _crop(pixels: torch.Tensor, area: float, where: np.ndarray) -> torch.Tensor:
    """Keep a part (3, H, W) of an image with its proportions, and enlarge it to the whole."""
    size = np.array(pixels.shape[1:])
    part = np.maximum(1, np.round(size * math.sqrt(area))).astype(int)
    top, left = np.floor(where * (size - part + 1)).astype(int).tolist()
    height, width = part.tolist()
    return F.resized_crop(
        pixels, top, left, height, width, size.tolist(), InterpolationMode.BICUBIC, antialias=True
    )


def _blur(pixels: torch.Tensor, sigma: float) -> torch.Tensor:
    """Blur (3, H, W) by a Gaussian; nothing below what eight bits can show."""
    if sigma < 0.1:
        return pixels
    return F.gaussian_blur(pixels, 2 * math.ceil(3 * sigma) + 1, sigma)


def make_stand_ins(
    plan: pd.DataFrame,
    spare: "ImageSet",
    out_dir: str | Path,
    *,
    height: int,
    width: int,
    shard_size: int = 256,
    progress: bool = True,
) -> pd.DataFrame:
    """Transform the photographs of a plan and store them in shards, where they are not there yet.

    Args:
        plan: from `plan_stand_ins`.
        spare: the photographs that it was planned with.
        out_dir: folder of the shards; made if needed.
        height: pixels.
        width: pixels.
        shard_size: images per Parquet file.
        progress: show a bar with images per second.

    Returns:
        What `diffcore.generation.read_generated` returns for the plan, without images. Which of
        them are planted is not in it; `judge_stand_ins` tells from the plan.

    Raises:
        ValueError: for a plan whose photographs are not among the spare ones.
    """
    places = _places(plan["photograph"], spare.facts["id"])
    seeds = plan["seed"].tolist()
    table = plan[list(PLAN_COLUMNS)].assign(
        model="stand-in photographs", model_hash=hash_transform(),
        num_inference_steps=0, guidance_scale=0.0, height=height, width=width,
    )  # fmt: skip

    def image_of(place: int) -> np.ndarray:
        changed = transform(spare[places[place]]["image"], seeds[place])
        return fit_array(changed, height, width)

    store(table, image_of, out_dir, shard_size=shard_size, progress=progress)
    return read_generated(out_dir, table, images=False)


def hash_transform() -> str:
    """Hash what `transform` does, in place of a model: 16 hexadecimal digits."""
    stated = json.dumps([RANGES, _VERSION], sort_keys=True)
    return hashlib.sha256(stated.encode()).hexdigest()[:16]


def _places(photographs: pd.Series, ids: pd.Series) -> list[int]:
    """Find photographs among the spare ones; raises ValueError if one is not there."""
    known = {name: place for place, name in enumerate(ids)}
    if absent := [name for name in photographs if name not in known]:
        raise ValueError(
            f"the plan names {len(absent)} photographs that are not to spare, the first of which "
            f"is {absent[0]!r}; plan again with the settings (data, seed) of these photographs"
        )
    return [known[name] for name in photographs]
