"""Fresh renders, which no training has seen, and the shipped models; made once per test run."""

from functools import cache

import numpy as np
import pandas as pd

from paperbirds.dataset import draw_scene
from paperbirds.oracle import WEIGHTS
from paperbirds.training_data import RenderSet

#: First number of the seeds of fresh renders; those of training and data sets are all lower.
FRESH = 5_000
COUNT = 300


@cache
def shipped():
    """The shipped models."""
    from paperbirds.pretrain.stages import load_models

    return load_models(WEIGHTS)


@cache
def fresh_renders(malformed=False):
    """COUNT renders of all styles, species and contexts, whole or malformed."""
    options = {"style": None, "malformed": malformed, "extra_distractor": 0.15}
    scenes = [draw_scene((FRESH + malformed, i), **options) for i in range(COUNT)]
    images = np.stack([scene.render().image for scene in scenes])
    return RenderSet(images, pd.DataFrame([vars(scene) for scene in scenes]))
