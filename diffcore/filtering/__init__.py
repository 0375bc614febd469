"""Filtration, the third step of the paper: embed, compare, decide, and draw again what failed."""

from diffcore.filtering.encoders import load_encoder
from diffcore.filtering.rules import calibrate_threshold, cosine_to_reference, hard_filter
