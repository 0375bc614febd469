"""Filtration, the third step of the paper: embed, compare, decide, and draw again what failed."""

from diffcore.filtering.encoders import Encoder, load_encoder
from diffcore.filtering.rules import (
    RULES,
    calibrate_threshold,
    choose_threshold,
    cosine_to_reference,
    embed,
    hard_filter,
    never_passed,
    real_similarities,
    resample,
    score,
)

__all__ = [
    "RULES", "Encoder", "calibrate_threshold", "choose_threshold", "cosine_to_reference", "embed",
    "hard_filter", "load_encoder", "never_passed", "real_similarities", "resample", "score",
]  # fmt: skip
