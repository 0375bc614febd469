"""Fresh renders, which no training has seen, and the shipped models; each made once a test run."""

from functools import cache

import numpy as np
import pandas as pd
from paperbirds.pretrain.release import load
from paperbirds.pretrain.renders import RenderSet

from paperbirds.dataset import draw_scene
from paperbirds.weights import WEIGHTS

#: First number of the seeds of fresh renders; those of training and data sets are all lower.
FRESH = 5_000
COUNT = 300

shipped = cache(lambda: load(WEIGHTS))


@cache
def fresh_renders(malformed=False):
    """COUNT renders of all styles, species and contexts, whole or malformed."""
    options = {"style": None, "malformed": malformed, "extra_distractor": 0.15}
    shown = [draw_scene((FRESH + malformed, i), **options).render() for i in range(COUNT)]
    names = ("species", "context", "distractors", "style", "malformation")
    metadata = pd.DataFrame([{name: getattr(each, name) for name in names} for each in shown])
    return RenderSet(np.stack([each.image for each in shown]), metadata)
