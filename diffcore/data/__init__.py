"""Data: real images of any set behind one face, paired with generated ones."""

from diffcore.data.images import as_batch, as_pixels, some_of_each_class, spread
from diffcore.data.pairs import PairedDataset
from diffcore.data.splits import load_split

__all__ = ["PairedDataset", "as_batch", "as_pixels", "load_split", "some_of_each_class", "spread"]
