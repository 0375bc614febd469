"""Further images of the world, to compare with: renders, masks, images that the generator saw."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from diffcore.data.images import as_batch
from diffcore.data.splits import Split
from paperbirds.birds import SPECIES
from paperbirds.contexts import CONTEXTS, draw_clutter
from paperbirds.render import render
from paperbirds.training_data import GENERATOR_DATA

_BACKGROUNDS = 71  # sets the seeds of these renders apart from those of every split


def render_scenes(names: Sequence[str], count: int, seed: int) -> pd.DataFrame:
    """Render `count` whole birds of every class in every context, without clutter.

    Columns: class_name, context, image (64, 64, 3) uint8.
    """
    wanted = [(name, context) for name in names for context in CONTEXTS for _ in range(count)]
    images = [render(*scene, (seed, place)).image for place, scene in enumerate(wanted)]
    return pd.DataFrame(wanted, columns=["class_name", "context"]).assign(image=images)


def render_pairs(plan: pd.DataFrame, malformations: Sequence[str], seed: int) -> np.ndarray:
    """Render the scenes of a plan, whole and malformed: (2, N, 64, 64, 3) uint8.

    The `malformations`, of `paperbirds.birds.MALFORMATIONS`, take turns.
    """
    pairs = []
    for place, row in enumerate(plan.itertuples()):
        scene = row.class_name, row.context or CONTEXTS[place % len(CONTEXTS)], (seed, place)
        wrong = malformations[place % len(malformations)]
        pairs.append([render(*scene, malformation=form).image for form in (None, wrong)])
    return np.stack(pairs, axis=1)


def substitute_masks(metadata: pd.DataFrame) -> np.ndarray:
    """Return object masks (N, 64, 64) bool in place of those of generated images, not known.

    They are of fresh renders of the same species, in the style that the generator learned from:
    birds of about the same size and place.
    """
    # Any context does: in that style nothing stands in front of the bird.
    birds = zip(metadata["class_name"], metadata["seed"], strict=True)
    return np.stack([render(name, CONTEXTS[0], int(seed)).mask for name, seed in birds])


def exchange_backgrounds(split: Split, style: float, seed: int) -> dict[tuple[str], Tensor]:
    """Cut the birds out and lay them on fresh scenes: (condition,) -> (N, 3, H, W).

    "same context" is a fresh scene of the same context and shows the cost of the cut itself.
    "another context" is one of any other, and "no bird" the scene of the same context alone.
    """
    contexts = split.metadata["context"].tolist()
    rng = np.random.default_rng((seed, _BACKGROUNDS))
    elsewhere = [str(rng.choice([c for c in CONTEXTS if c != context])) for context in contexts]
    same, other = (as_batch(bare_scenes(each, style, seed)) for each in (contexts, elsewhere))
    batch, masks = as_batch(split.images[:]), torch.tensor(split.masks[:])[:, None]
    return {
        ("as it is",): batch,
        ("same context",): torch.where(masks, batch, same),
        ("another context",): torch.where(masks, batch, other),
        ("no bird",): same,
    }


def bare_scenes(contexts: Sequence[str], style: float, seed: int) -> np.ndarray:
    """Render one fresh scene without a bird for each context: (N, 64, 64, 3) uint8."""
    scenes = []
    for place, context in enumerate(contexts):
        scene_seed = (seed, _BACKGROUNDS, place)
        clutter = draw_clutter(context, np.random.default_rng(scene_seed))
        options = {"style": style, "malformation": "no bird"}
        scenes.append(render(SPECIES[0], context, scene_seed, clutter, **options).image)
    return np.stack(scenes)


def retrieve(wanted: pd.DataFrame, seed: int) -> np.ndarray:
    """Find a training image of the generator for each row (class_name, context), by its caption.

    The caption names both or, if no such image is left, the class. Each image is taken once, by
    chance, unless there are too few. Returns (N, 64, 64, 3) uint8.
    """
    rng = np.random.default_rng(seed)
    captioned: dict[tuple, list[int]] = defaultdict(list)
    for place in map(int, rng.permutation(GENERATOR_DATA.count)):
        subject = GENERATOR_DATA.example(place).subject
        captioned[subject.species, subject.context].append(place)
        captioned[subject.species, None].append(place)
    chosen: list[int] = []
    for name, context in wanted[["class_name", "context"]].to_numpy():
        candidates = [*captioned[name, context], *captioned[name, None]]
        free = (place for place in candidates if place not in chosen)
        chosen.append(next(free, captioned[name, None][0]))
    return np.stack([GENERATOR_DATA.image(place) for place in chosen])
