"""Filtration, the third step of the paper: embed, compare, decide, and draw again what failed."""

from diffcore.filtering.encoders import Encoder, load_encoder

from diffcore.filtering.rules import (  # isort: skip
    RULES, calibrate_threshold, choose_threshold, cosine_to_reference, embed, hard_filter,
    never_passed, real_similarities, resample,
)  # fmt: skip

__all__ = [
    "RULES", "Encoder", "calibrate_threshold", "choose_threshold", "cosine_to_reference", "embed",
    "hard_filter", "load_encoder", "never_passed", "real_similarities", "resample",
]  # fmt: skip
