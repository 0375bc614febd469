"""Fresh renders, which no training has seen, and the shipped models; each made once a test run."""

import hashlib
from functools import cache

import numpy as np
import pandas as pd

from diffcore.paperbirds import CONTEXTS, DISTRACTORS, MALFORMATIONS, SPECIES, draw_scene, render
from diffcore.paperbirds.pretrain.renders import RenderSet
from diffcore.paperbirds.weights import WEIGHTS

#: First number of the seeds of fresh renders; those of training and data sets are all lower.
FRESH = 5_000
COUNT = 300


@cache
def shipped():
    """The shipped models."""
    from diffcore.paperbirds.pretrain.export import load  # slow, and not all need it

    return load(WEIGHTS)


@cache
def fresh_renders(malformed: bool = False) -> RenderSet:
    """COUNT renders of all styles, species and contexts, whole or malformed."""
    scenes = [
        draw_scene((FRESH + malformed, i), style=None, malformed=malformed, extra_distractor=0.15)
        for i in range(COUNT)
    ]
    names = ("species", "context", "distractors", "style", "malformation")
    facts = pd.DataFrame([{name: getattr(scene, name) for name in names} for scene in scenes])
    return RenderSet(np.stack([scene.render().image for scene in scenes]), facts)


def digest() -> str:
    """SHA-256 over renders of every species, context, distractor, malformation and both styles."""
    total = hashlib.sha256()
    for i, context in enumerate(CONTEXTS):
        shown = render(
            SPECIES[i % len(SPECIES)], context, (FRESH + 2, i), (DISTRACTORS[i % 5],),
            style=(0.0, 0.5, 1.0)[i % 3], malformation=(None, *MALFORMATIONS)[i % 5],
        )  # fmt: skip
        total.update(shown.image.tobytes() + shown.mask.tobytes())
    drawn = [draw_scene((FRESH + 2, i), style=None, biased=True, malformed=True) for i in range(99)]
    total.update(repr(drawn).encode())
    return total.hexdigest()


if __name__ == "__main__":
    print(digest())
