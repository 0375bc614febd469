"""Where trained classifiers look: maps of saliency, and how much of them lies on the object."""

from diffcore.saliency.maps import energy_in_mask, grad_cam, pointing_game
