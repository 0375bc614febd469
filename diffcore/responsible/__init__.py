"""What "responsible" asks of generated images: no copies, no leak, balance, and a data card."""

from diffcore.responsible.card import data_card
from diffcore.responsible.copies import (
    as_vectors,
    copy_rates,
    copy_thresholds,
    known_copies,
    nearest,
)
from diffcore.responsible.evaluate import balance, closer_shares, leakage

__all__ = [
    "as_vectors", "balance", "closer_shares", "copy_rates", "copy_thresholds", "data_card",
    "known_copies", "leakage", "nearest",
]  # fmt: skip
