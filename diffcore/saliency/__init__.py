"""Where trained classifiers look: maps of saliency, and how much of them lies on the object."""

from diffcore.saliency.evaluate import examples, gains, levels, randomise, sanity_check, survey
from diffcore.saliency.maps import (
    energy_in_mask,
    grad_cam,
    integrated_gradients,
    pointing_game,
    stage_shapes,
)

__all__ = [
    "energy_in_mask", "examples", "gains", "grad_cam", "integrated_gradients", "levels",
    "pointing_game", "randomise", "sanity_check", "stage_shapes", "survey",
]  # fmt: skip
