"""Substitute photographs: other real images of a class take the place of generated ones.

What a text-to-image model would draw is replaced by a photograph of the class that is neither
trained nor tested on, transformed (`RANGES`). A share carries injected label noise: they show
another class, as do the images that the paper's filter is to reject. Our choice: all of it. New
real data is more than a generated image brings, so gains from it are not gains from generation.
"""

import math
from collections import Counter

import numpy as np
import pandas as pd
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from diffcore.data.splits import Split
from diffcore.prompts.plan import plan_generation
from diffcore.prompts.prompt_set import PromptSet
from diffcore.store import digest

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
#: Hash of `transform`; raise the number when the same ranges give other pixels.
TRANSFORM_HASH = digest(RANGES, 1)

#: Share that shows another class: as many images as the paper's generator misaligns.
NOISE_SHARE = 0.1
_PROMPT_SET = PromptSet("substitutes", "a {class_name}", ("unknown",))  # none of it is kept


def plan_substitutes(
    sources: pd.DataFrame, spare: Split, *, generated_share: float, seed: int
) -> pd.DataFrame:
    """Choose the photographs that stand in for generated images; the same for the same arguments.

    How many there are, and which training image (source_id, class_name) each is the counterpart
    of, is as in `diffcore.prompts.plan_generation`. No photograph is taken twice while its class
    has an unused one; after that it is taken again, and transformed otherwise.

    Returns `PLAN_COLUMNS`, ``photograph`` (id in `spare`) and ``shows`` (its class); ``class_name``
    is the class that it claims to show. ValueError for a class without a spare photograph.
    """
    plan = plan_generation(sources, _PROMPT_SET, generated_share=generated_share, seed=seed)
    ids = spare.metadata["source_id"].groupby(spare.metadata["class_name"])
    classes = plan["class_name"].unique()
    if without := [name for name in classes if name not in ids.groups]:
        raise ValueError(
            f"{len(without)} of {len(classes)} classes have no photograph to spare, the first of "
            f"which is {without[0]!r}; make data.train_images_per_class smaller"
        )
    decks = {}  # the photographs of each class, shuffled by random numbers of its own
    for name in classes:
        photographs = np.sort(ids.get_group(name).to_numpy(object))
        decks[name] = np.random.default_rng([seed, *name.encode()]).permutation(photographs)
    photographs, shows = _deal(plan["class_name"].to_numpy(object), decks, seed)
    prompts = [f"photograph {photograph}, transformed" for photograph in photographs]
    return plan.assign(context="", prompt=prompts, photograph=photographs, shows=shows)


def _deal(
    classes: np.ndarray, decks: dict[str, np.ndarray], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Deal a photograph to each row: its id, and the class that it shows.

    The rows that show their own class come first, so that label noise takes none from them.
    """
    rng, noisy = np.random.default_rng(seed), np.zeros(len(classes), bool)
    count = math.floor(NOISE_SHARE * len(classes) + 0.5)
    noisy[rng.choice(len(classes), count, replace=False)] = True
    shows, photographs, taken = classes.copy(), np.empty(len(classes), object), Counter()
    for place in np.argsort(noisy, kind="stable"):
        if noisy[place]:
            others = [name for name in decks if name != classes[place]]
            unused = [name for name in others if taken[name] < len(decks[name])] or others
            shows[place] = unused[rng.integers(len(unused))]
        deck = decks[shows[place]]
        photographs[place] = deck[taken[shows[place]] % len(deck)]
        taken[shows[place]] += 1
    return photographs, shows


def judge_substitutes(plan: pd.DataFrame) -> pd.DataFrame:
    """Return which substitutes carry label noise; context and form always count as right."""
    judged = plan[["sample_id", "class_name", "context"]].assign(seen_species=plan["shows"])
    judged["species_right"] = judged["class_name"] == judged["seen_species"]
    judged["context_right"] = judged["wellformed"] = True
    judged["fault"] = np.where(judged["species_right"], "", "another class")
    return judged.assign(wrong=~judged["species_right"])


def transform(image: np.ndarray, seed: int) -> np.ndarray:
    """Change an image (H, W, 3) uint8 as a text-to-image model might, so that the class survives.

    By chance mirrored, cropped and enlarged again, recoloured and slightly blurred; `RANGES` says
    how far. The same image and seed give the same pixels.
    """
    rng = np.random.default_rng(seed)
    mirrored = rng.random() < RANGES["mirror"]
    drawn = {name: rng.uniform(*RANGES[name]) for name in RANGES if name != "mirror"}
    where = rng.random(2)  # of the crop, from top left to bottom right
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    if mirrored:
        pixels = F.horizontal_flip(pixels)
    size = np.array(image.shape[:2])
    part = np.maximum(1, np.round(size * math.sqrt(drawn["area"]))).astype(int)
    box = [*np.floor(where * (size - part + 1)).astype(int), *part]  # top, left, height, width
    pixels = F.resized_crop(pixels, *map(int, box), size.tolist(), InterpolationMode.BICUBIC)
    for name in ("brightness", "contrast", "saturation", "hue"):
        pixels = getattr(F, f"adjust_{name}")(pixels, drawn[name])
    sigma = drawn["blur"] * min(image.shape[:2])
    if sigma >= 0.1:  # below that, eight bits show nothing
        pixels = F.gaussian_blur(pixels, 2 * math.ceil(3 * sigma) + 1, sigma)
    return pixels.permute(1, 2, 0).contiguous().numpy()
