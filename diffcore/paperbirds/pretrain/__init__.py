"""Trains the models of the embedded world, from seeds: `diffcore pretrain`."""

from diffcore.paperbirds.pretrain.stages import main

__all__ = ["main"]
