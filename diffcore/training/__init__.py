"""Training classifiers: one, many of them, sweeps over what decides, and their settings."""

from diffcore.training.networks import Classifier, build_classifier, load_classifier, predict
from diffcore.training.runs import Run, read_curves, run_key, train_runs
from diffcore.training.sweeps import own_point, plan_curves, plan_main, plan_sweep, study_methods
from diffcore.training.train import PairSampler, Step, crop_and_flip, total_steps, train

__all__ = [
    "Classifier", "PairSampler", "Run", "Step", "build_classifier", "crop_and_flip",
    "load_classifier", "own_point", "plan_curves", "plan_main", "plan_sweep", "predict",
    "read_curves", "run_key", "study_methods", "total_steps", "train", "train_runs",
]  # fmt: skip
