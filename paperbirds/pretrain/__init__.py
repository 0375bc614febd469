"""Trains the models of the embedded world, from seeds: `diffcore pretrain`."""
