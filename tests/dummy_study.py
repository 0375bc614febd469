"""A study of three classes without a model: what planning asks of one."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from diffcore.data.pairs import PairedDataset
from diffcore.data.splits import Split
from diffcore.generation.draw import GeneratedSet
from diffcore.params import StudyParams, change_params

CLASSES = ("crow", "jay", "wren")


def make_split(each, name, pixels=None):
    """Make a split of so many images per class, by default 4 x 4 with the label for brightness."""
    labels = np.repeat(np.arange(3), each)
    if pixels is None:
        pixels = np.full((len(labels), 4, 4, 3), labels[:, None, None, None], np.uint8)
    metadata = pd.DataFrame({
        "source_id": [f"{name}-{place}" for place in range(len(labels))],
        "label": labels,
        "class_name": np.array(CLASSES)[labels],
    })  # fmt: skip
    return Split(name, CLASSES, metadata, pixels)


def make_generated(split, source, pixels):
    """Generated images for the images of a split at the places `source`."""
    table = split.metadata[["source_id", "class_name"]].iloc[source].reset_index(drop=True)
    named = {"sample_id": [f"s-{n}" for n in range(len(table))], "context": "garden"}
    return GeneratedSet(table.assign(**named), pixels)


def gaussian_classes(labels, seed, side=32):
    """Noisy images whose brightness tells the class: (N, side, side, 3) uint8."""
    noise = np.random.default_rng(seed).integers(0, 60, (len(labels), side, side, 3))
    return (noise + 90 * np.asarray(labels)[:, None, None, None]).clip(0, 255).astype(np.uint8)


@dataclass
class DummyStudy:
    """Two training images per class, of which each has three counterparts of brightness 100 on."""

    params: StudyParams
    run_dir: Path = Path("nowhere")
    filtered: list = field(default_factory=list)
    restyled: list = field(default_factory=list)

    @cached_property
    def train(self):
        return make_split(2, "train")

    @cached_property
    def tests(self):
        return {"matched": make_split(1, "m"), "shifted": make_split(1, "s")}

    @cached_property
    def generated(self):
        pixels = (
            np.full((18, 4, 4, 3), 100, np.uint8)
            + np.arange(18, dtype=np.uint8)[:, None, None, None]
        )
        return make_generated(self.train, np.repeat(np.arange(6), 3), pixels)

    @property
    def accepted(self):
        return self.generated

    def restyle(self, plan, params):
        """Images whose brightness depends on their place in the plan."""
        self.restyled.append(params.mixing.edit_strength)
        return self.generated.take(np.arange(len(plan)) % len(self.generated))

    def replicate(self, number):
        """Another replicate: the same images, and seeds apart."""
        if number == 0:
            return self
        return DummyStudy(change_params(self.params, {"seed": 1000 * number}))

    @cached_property
    def pairs(self):
        return self.pair(self.accepted)

    def pair(self, generated, train=None):
        return PairedDataset(self.train if train is None else train, generated)

    @property
    def image_filter(self):
        return self

    def similarity(self, generated, train=None):
        """The brighter, the less similar; 115 is the darkest that is rejected."""
        self.filtered.append((generated, train))
        return 1 - generated.images[:, 0, 0, 0] / 1000, 0.8855

    def has(self, capability):
        return capability != "renders"
