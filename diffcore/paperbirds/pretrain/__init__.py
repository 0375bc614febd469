"""Trains the models of the embedded world: `make pretrain`."""
