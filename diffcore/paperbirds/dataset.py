"""The Paperbirds data set: a small, biased training split and two test splits.

- `train`: few images a class, each species mostly in its own three contexts (scenes.HOMES).
- `test_matched`: the same bias.
- `test_shifted`: all contexts alike, so that a classifier that leans on the background is caught.
"""

from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from torch.utils.data import Dataset

from diffcore.paperbirds.render import Rendering
from diffcore.paperbirds.scenes import Scene, draw_scene
from diffcore.paperbirds.species import SPECIES

#: split -> (number that sets its scenes apart, drawn with the bias)
SPLITS: dict[str, tuple[int, bool]] = {
    "train": (11, True),
    "test_matched": (12, True),
    "test_shifted": (13, False),
}


class Paperbirds(Dataset):
    """Images of one split, rendered when first asked for and then kept.

    >>> birds = Paperbirds("train", style=0.6, images_per_class=2)
    >>> len(birds), birds[0]["class_name"], birds[0]["image"].shape
    (24, 'northern cardinal', (64, 64, 3))
    """

    classes = SPECIES

    def __init__(self, split: str, *, style: float, images_per_class: int, seed: int = 0):
        """Take style in [0, 1], studio to field; raise ValueError for an unknown split."""
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
        number, biased = SPLITS[split]
        self.split = split
        self.scenes: list[Scene] = [
            draw_scene((seed, number, label, i), species=name, style=style, biased=biased)
            for label, name in enumerate(SPECIES)
            for i in range(images_per_class)
        ]
        self._rendered: dict[int, Rendering] = {}

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One item: image (64, 64, 3) uint8, mask (64, 64) bool, label, class_name, id."""
        shown, facts = self.rendering(index), self.facts.iloc[index]
        return {
            "image": shown.image, "mask": shown.mask, "label": int(facts["label"]),
            "class_name": facts["class_name"], "id": facts["id"],
        }  # fmt: skip

    def rendering(self, index: int) -> Rendering:
        """One image with all that is known about it."""
        if index not in self._rendered:
            self._rendered[index] = self.scenes[index].render()
        return self._rendered[index]

    @property
    def images(self) -> np.ndarray:
        """All images, (N, 64, 64, 3) uint8."""
        return np.stack([self.rendering(i).image for i in range(len(self))])

    @cached_property
    def facts(self) -> pd.DataFrame:
        """One row an image: id, label, class_name, context, distractors (tuple)."""
        return pd.DataFrame(
            {
                "id": f"{self.split}-{i:05d}",
                "label": SPECIES.index(scene.species),
                "class_name": scene.species,
                "context": scene.context,
                "distractors": scene.distractors,
            }
            for i, scene in enumerate(self.scenes)
        )
