"""The Paperbirds data set: scenes drawn from seeds, in a small, biased split and two for testing.

- `train`: few images a class, each species mostly in its own three contexts (`HOMES`).
- `test_matched`: the same bias.
- `test_shifted`: all contexts alike, so that a classifier that leans on the background is caught.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch.utils.data import Dataset

from diffcore.data.splits import Split
from diffcore.params import DataParams
from diffcore.prompts.prompt_set import PromptSet
from paperbirds.birds import MALFORMATIONS, SPECIES, WORLD
from paperbirds.contexts import CONTEXTS, DISTRACTORS, draw_clutter
from paperbirds.render import Rendering, render

#: Where each species is mostly photographed. Alike species live apart, so that a classifier can
#: (wrongly) tell them by their background: the bias that contextual prompts are meant to break.
HOMES = {species: tuple(homes) for species, homes in WORLD["homes"].items()}
#: Share of a biased split in the first, second and third home and anywhere else.
HOME_SHARES: tuple[float, ...] = (0.60, 0.25, 0.10, 0.05)


@dataclass(frozen=True)
class Scene:
    """All arguments of one rendering."""

    species: str
    context: str
    distractors: tuple[str, ...]
    style: float
    seed: tuple[int, ...]
    malformation: str | None = None

    def render(self) -> Rendering:
        """Render this scene; the same scene gives the same bytes."""
        return render(**vars(self))


def draw_scene(
    seed: tuple[int, ...], *, species: str | None = None, style: float | None = 0.0,
    bias: float = 0.0, malformed: bool = False, extra_distractor: float = 0.0,
) -> Scene:  # fmt: skip
    """Draw one scene; the same seed gives the same scene.

    Args:
        species, style: fixed ones (style in [0, 1]), or None for one drawn uniformly.
        bias: share of contexts that are drawn by HOMES and HOME_SHARES, the rest uniformly.
        extra_distractor: chance of one more distractor, whatever the context.
    """
    rng = np.random.default_rng(seed)
    species = species or SPECIES[rng.integers(len(SPECIES))]
    context = _home_context(species, rng) if bias else CONTEXTS[rng.integers(len(CONTEXTS))]
    if 0 < bias < 1:  # by draws of their own, so that the rest of the scene is that of a bias of 1
        own = np.random.default_rng((*seed, 2))
        context = context if own.random() < bias else CONTEXTS[own.integers(len(CONTEXTS))]
    distractors = draw_distractors(context, extra_distractor, rng)
    drawn_style = float(rng.random()) if style is None else style
    malformation = MALFORMATIONS[rng.integers(len(MALFORMATIONS))] if malformed else None
    return Scene(species, context, distractors, drawn_style, (*seed, 1), malformation)


def draw_distractors(context: str, extra: float, rng: np.random.Generator) -> tuple[str, ...]:
    """Draw what a context brings with it, and with chance `extra` one more object."""
    distractors = draw_clutter(context, rng)
    if rng.random() < extra:
        distractors = (*distractors, DISTRACTORS[rng.integers(len(DISTRACTORS))])
    return tuple(dict.fromkeys(distractors))


def _home_context(species: str, rng: np.random.Generator) -> str:
    homes = HOMES[species]
    place = rng.choice(len(HOME_SHARES), p=HOME_SHARES)
    if place < len(homes):
        return homes[place]
    others = [context for context in CONTEXTS if context not in homes]
    return others[rng.integers(len(others))]


#: split -> (number that sets its scenes apart, whether it is drawn with the bias)
_PER_CLASS = 30  # images, where parameters set no number

SPLITS = {"train": (11, True), "test_matched": (12, True), "test_shifted": (13, False)}


class Paperbirds(Dataset):
    """Images of one split, rendered when first asked for and then kept.

    >>> birds = Paperbirds("train", style=0.6, images_per_class=2)
    >>> len(birds), birds[0]["class_name"], birds[0]["image"].shape
    (24, 'northern cardinal', (64, 64, 3))
    """

    classes = SPECIES

    def __init__(
        self, split: str, *, style: float, images_per_class: int, seed: int = 0, bias: float = 1.0
    ):
        """Take style, studio to field, and bias in [0, 1]; ValueError for an unknown split."""
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
        number, biased = SPLITS[split]
        bias = bias if biased else 0.0
        self.split = split
        self.scenes: list[Scene] = [
            draw_scene((seed, number, label, i), species=name, style=style, bias=bias)
            for label, name in enumerate(SPECIES)
            for i in range(images_per_class)
        ]
        self._rendered: dict[int, Rendering] = {}

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One item: image (64, 64, 3) uint8, mask (64, 64) bool, label, class_name, source_id."""
        shown, row = self.rendering(index), self.metadata.iloc[index]
        item = {"image": shown.image, "mask": shown.mask, "label": int(row["label"])}
        return item | {name: row[name] for name in ("class_name", "source_id")}

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
    def metadata(self) -> pd.DataFrame:
        """One row an image: source_id, label, class_name, context, distractors (tuple)."""
        rows = [
            (f"{self.split}-{i:05d}", SPECIES.index(s.species), s.species, s.context, s.distractors)
            for i, s in enumerate(self.scenes)
        ]
        columns = ["source_id", "label", "class_name", "context", "distractors"]
        return pd.DataFrame(rows, columns=columns)


class Options(BaseModel):
    """What ``data.options`` may say of this data set."""

    model_config = ConfigDict(strict=True, extra="forbid")

    style: Annotated[float, Field(ge=0, le=1)] = 1.0  # 0: as the generator draws; 1: as a camera
    bias: Annotated[float, Field(ge=0, le=1)] = 1.0  # contexts by species; 0: all alike


class PaperbirdsSource:
    """Paperbirds as a data set of the library: `diffcore.data.datasets.Dataset`."""

    tests = {"matched": "test_matched", "shifted": "test_shifted"}  # noqa: RUF012
    has_masks = has_renders = keeps_images = True

    def missing(self, settings: DataParams) -> list[str]:
        """Return one message per option that is not legal."""
        try:
            Options.model_validate(settings.options)
        except ValidationError as error:
            known = ", ".join(Options.model_fields)
            return [
                f"data.options.{'.'.join(map(str, problem['loc']))} is {problem['input']!r}; "
                f"{problem['msg']} (paperbirds has {known})"
                for problem in error.errors()
            ]
        return []

    def load(
        self, settings: DataParams, split: str, seed: int, run_dir: Path | None = None
    ) -> Split:
        """Render a split; ValueError for an unknown one."""
        options = Options.model_validate(settings.options)
        train, test = settings.train_images_per_class, settings.test_images_per_class
        count = (train if split == "train" else test) or _PER_CLASS
        birds = Paperbirds(split, images_per_class=count, seed=seed, **options.model_dump())
        masks = np.stack([birds.rendering(place).mask for place in range(len(birds))])
        return Split(split, tuple(birds.classes), birds.metadata, birds.images, masks)

    def judge(
        self, metadata: pd.DataFrame, images: np.ndarray, prompts: PromptSet
    ) -> pd.DataFrame:
        """Judge images (N, 64, 64, 3) uint8 by the oracle: `paperbirds.measure.judge`."""
        from paperbirds.measure import judge_images  # needs torch and the oracle's weights

        return judge_images(metadata, images, prompts)

    def retrieve(self, wanted: pd.DataFrame, seed: int) -> np.ndarray:
        """Retrieve images that the generator learned from: `paperbirds.measure.retrieve`."""
        from paperbirds.measure import retrieve  # needs the recipes of the pretraining

        return retrieve(wanted, seed)


#: Registered as an entry point of the group ``diffcore.datasets``.
SOURCE = PaperbirdsSource()
