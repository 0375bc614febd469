"""Retrieval: the renders that the text-to-image model learned from, in place of what it draws.

What a generator adds can only come from what it has seen, so that what it learned from is the fair
thing to compare with (Burg et al., arXiv 2304.10253; Geng et al., arXiv 2406.05184). Searched is
what captions say, as on the web, where one in five is wrong.
"""

from collections import defaultdict

import numpy as np
import pandas as pd

from diffcore.paperbirds.pretrain.stages import PLAN


def retrieve(wanted: pd.DataFrame, seed: int) -> np.ndarray:
    """Find an image of the web for each row (class_name, context): (N, 64, 64, 3) uint8.

    One whose caption names both or, where none is left, the class; each is taken once, by chance,
    unless there are too few.
    """
    rng, web = np.random.default_rng(seed), PLAN.studio
    found: dict[tuple, list[int]] = defaultdict(list)
    for place in rng.permutation(web.count):
        post = web.post(int(place))
        found[post.species, post.context].append(int(place))
        found[post.species, None].append(int(place))
    taken: set[int] = set()
    chosen = [
        _take(found[name, context], found[name, None], taken)
        for name, context in wanted[["class_name", "context"]].to_numpy()
    ]
    return np.stack([web.image(place) for place in chosen])


def _take(best: list[int], others: list[int], taken: set[int]) -> int:
    """Take the first that is free; of the class alone, and a second time, only where it must be."""
    free = (place for places in (best, others) for place in places if place not in taken)
    place = next(free, others[0])
    taken.add(place)
    return place
