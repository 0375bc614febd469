"""Trained classifiers under corruption, attack and other backgrounds, and their calibration."""

from diffcore.robustness.attacks import attack
from diffcore.robustness.corruptions import CORRUPTIONS, corrupt
from diffcore.robustness.evaluate import (
    answers,
    calibration,
    clean_and_corrupted,
    exchange_backgrounds,
    reliability_bins,
    top1,
    under_attack,
    under_corruption,
)

__all__ = [
    "CORRUPTIONS", "answers", "attack", "calibration", "clean_and_corrupted", "corrupt",
    "exchange_backgrounds", "reliability_bins", "top1", "under_attack", "under_corruption",
]  # fmt: skip
