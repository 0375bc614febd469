"""Mixing a training image with its generated counterpart."""

from diffcore.mixing.mix import DiffCoReMix, patch_mix, pixel_mix
