"""Paperbirds: a world of cut-paper birds in which every step of the method can be measured.

It renders a fine-grained image set of which species, context, distractors and mask are known, and
ships a tiny text-to-image model, a tiny CLIP and an oracle for it. Knows nothing of the study.
"""

from diffcore.paperbirds.birds import MALFORMATIONS, SPECIES
from diffcore.paperbirds.captions import full_caption
from diffcore.paperbirds.contexts import CLUTTER, CONTEXTS, DISTRACTORS, draw_clutter
from diffcore.paperbirds.dataset import HOMES, SPLITS, Paperbirds, Scene, draw_scene
from diffcore.paperbirds.oracle import Oracle, Reading
from diffcore.paperbirds.render import Rendering, render
from diffcore.paperbirds.weights import (
    WeightsError,
    clip_dir,
    load_oracle,
    pipeline_dir,
    shipped_megabytes,
    shipped_quality,
)

__all__ = [
    "CLUTTER", "CONTEXTS", "DISTRACTORS", "HOMES", "MALFORMATIONS", "SPECIES", "SPLITS",
    "Oracle", "Paperbirds", "Reading", "Rendering", "Scene", "WeightsError",
    "clip_dir", "draw_clutter", "draw_scene", "full_caption", "load_oracle", "pipeline_dir",
    "render", "shipped_megabytes", "shipped_quality",
]  # fmt: skip
