"""Mixing a training image with its generated counterpart, and the methods this is compared with."""

from diffcore.mixing.mix import DiffCoReMix, patch_mix, pixel_mix
