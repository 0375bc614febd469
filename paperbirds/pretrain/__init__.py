"""Trains the models of the embedded world, from seeds: `python -m paperbirds pretrain`."""
