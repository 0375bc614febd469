"""Data: real images of any set behind one face, paired with generated ones."""

from diffcore.data.images import as_batch, as_pixels, some_of_each_class, spread
from diffcore.data.pairs import PairedDataset
from diffcore.data.splits import Split, load_split, test_splits

__all__ = [
    "PairedDataset", "Split", "as_batch", "as_pixels", "load_split", "some_of_each_class",
    "spread", "test_splits",
]  # fmt: skip
