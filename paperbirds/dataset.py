"""The Paperbirds data set: scenes drawn from seeds, in a small biased split and two for testing.

- `train`: few images per class, each species mostly in its home contexts (`HOMES`).
- `test_matched`: the same bias.
- `test_shifted`: all contexts equally often, which exposes a classifier that uses backgrounds.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from diffcore.data.splits import Split
from diffcore.params import DataParams
from diffcore.prompts.prompt_set import PromptSet
from paperbirds.birds import MALFORMATIONS, SPECIES, WORLD
from paperbirds.contexts import CONTEXTS, DISTRACTORS, draw_clutter
from paperbirds.render import Scene

#: Where each species is mostly photographed. Alike species live apart, so that a classifier can
#: (wrongly) distinguish them by background: the bias that contextual prompts are meant to break.
HOMES = {species: tuple(homes) for species, homes in WORLD["homes"].items()}
#: Share of a biased split in the first, second and third home and anywhere else.
HOME_SHARES: tuple[float, ...] = (0.60, 0.25, 0.10, 0.05)
#: Split -> number in the seeds of its scenes, and whether contexts follow the bias.
SPLITS = {"train": (11, True), "test_matched": (12, True), "test_shifted": (13, False)}
_PER_CLASS = 30  # images, where the parameters set no number


def draw_scene(
    seed: tuple[int, ...],
    species: str | None = None,
    style: float | None = 0.0,
    bias: float = 0.0,
    malformed: bool = False,
    extra_distractor: float = 0.0,
) -> Scene:
    """Draw one scene; the same seed gives the same scene.

    None draws a species, or a style in [0, 1], uniformly. A share `bias` of contexts follows HOMES
    and HOME_SHARES; the rest is uniform. A malformed bird has one of MALFORMATIONS.
    `extra_distractor` is the chance of one more distractor, whatever the context.
    """
    rng = np.random.default_rng(seed)
    species = species or SPECIES[rng.integers(len(SPECIES))]
    context = _home_context(species, rng) if bias else CONTEXTS[rng.integers(len(CONTEXTS))]
    if 0 < bias < 1:  # a generator apart leaves the rest of the scene as at a bias of 1
        apart = np.random.default_rng((*seed, 2))
        context = context if apart.random() < bias else CONTEXTS[apart.integers(len(CONTEXTS))]
    distractors = draw_distractors(context, extra_distractor, rng)
    style = float(rng.random()) if style is None else style
    malformation = MALFORMATIONS[rng.integers(len(MALFORMATIONS))] if malformed else None
    return Scene(species, context, (*seed, 1), distractors, style, malformation)


def draw_distractors(context: str, extra: float, rng: np.random.Generator) -> tuple[str, ...]:
    """Draw the distractors of a context and, with chance `extra`, one more object."""
    distractors = draw_clutter(context, rng)
    if rng.random() < extra:
        distractors = (*distractors, DISTRACTORS[rng.integers(len(DISTRACTORS))])
    return tuple(dict.fromkeys(distractors))


def _home_context(species: str, rng: np.random.Generator) -> str:
    homes = HOMES[species]
    place = rng.choice(len(HOME_SHARES), p=HOME_SHARES)
    if place < len(homes):
        return homes[place]
    elsewhere = [context for context in CONTEXTS if context not in homes]
    return elsewhere[rng.integers(len(elsewhere))]


def render_split(
    split: str, *, style: float, images_per_class: int, seed: int = 0, bias: float = 1.0
) -> Split:
    """Render a split, class by class; ValueError for an unknown one.

    The metadata has one row per image: source_id, label, class_name, context, distractors (tuple).

    >>> birds = render_split("train", style=0.6, images_per_class=2)
    >>> len(birds), birds[0]["class_name"], birds[0]["image"].shape
    (24, 'northern cardinal', (64, 64, 3))
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    number, biased = SPLITS[split]
    rows, renderings = [], []
    for place in range(len(SPECIES) * images_per_class):
        label, i = divmod(place, images_per_class)
        scene_seed = seed, number, label, i
        scene = draw_scene(scene_seed, SPECIES[label], style, bias if biased else 0.0)
        facts = scene.species, scene.context, scene.distractors
        rows.append((f"{split}-{place:05d}", label, *facts))
        renderings.append(scene.render())
    columns = ["source_id", "label", "class_name", "context", "distractors"]
    images, masks = map(np.stack, zip(*renderings, strict=True))
    return Split(split, SPECIES, pd.DataFrame(rows, columns=columns), images, masks)


#: Keys of ``data.options`` and their defaults; all are in [0, 1]. A style of 0 is the generator's,
#: 1 a camera's; a bias of 1 ties contexts to species.
OPTIONS = {"style": 1.0, "bias": 1.0}


class PaperbirdsSource:
    """Paperbirds as a data set of the library: `diffcore.data.datasets.Dataset`."""

    tests = {"matched": "test_matched", "shifted": "test_shifted"}  # noqa: RUF012
    has_masks = has_renders = keeps_images = True

    def missing(self, settings: DataParams) -> list[str]:
        """Return one message per option that is not legal."""
        return [
            f"data.options.{key} is {value!r}; there are {', '.join(OPTIONS)}, from 0 to 1"
            for key, value in settings.options.items()
            if key not in OPTIONS or not (isinstance(value, int | float) and 0 <= value <= 1)
        ]

    def load(
        self, settings: DataParams, split: str, seed: int, run_dir: Path | None = None
    ) -> Split:
        """Render a split; ValueError for an unknown one."""
        train, test = settings.train_images_per_class, settings.test_images_per_class
        count = (train if split == "train" else test) or _PER_CLASS
        options = OPTIONS | settings.options
        return render_split(split, images_per_class=count, seed=seed, **options)

    def judge(self, metadata: pd.DataFrame, images: np.ndarray, prompts: PromptSet) -> pd.DataFrame:
        """Judge images (N, 64, 64, 3) uint8 by the oracle: `paperbirds.measure.judge`."""
        from paperbirds.measure import judge_images  # which imports this module

        return judge_images(metadata, images, prompts)

    def retrieve(self, wanted: pd.DataFrame, seed: int) -> np.ndarray:
        """Retrieve images that the generator learned from: `paperbirds.measure.retrieve`."""
        from paperbirds.measure import retrieve  # which imports this module

        return retrieve(wanted, seed)


#: Registered as an entry point of the group ``diffcore.datasets``.
SOURCE = PaperbirdsSource()
