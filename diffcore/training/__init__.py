"""Training classifiers: one, many of them, sweeps over what decides, and their settings."""

from diffcore.training.networks import build_classifier
from diffcore.training.runs import read_curves
from diffcore.training.train import PairSampler, Step, total_steps, train

__all__ = ["PairSampler", "Step", "build_classifier", "read_curves", "total_steps", "train"]
