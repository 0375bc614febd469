"""Mixing a training image with its generated counterpart, and the methods this is compared with."""

from diffcore.mixing.diffusemix import DiffuseMix
from diffcore.mixing.methods import BASELINES, METHODS, make_method, method_settings
from diffcore.mixing.mix import DiffCoReMix, kept_share, patch_mix, pixel_mix

__all__ = [
    "BASELINES", "METHODS", "DiffCoReMix", "DiffuseMix", "kept_share", "make_method",
    "method_settings", "patch_mix", "pixel_mix",
]  # fmt: skip
