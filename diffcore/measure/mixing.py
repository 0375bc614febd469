"""What mixing does to images: galleries over λ, and the λ that results."""

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from diffcore.data.images import as_batch, as_pixels, spread
from diffcore.data.pairs import PairedDataset
from diffcore.mixing.mix import DiffCoReMix, patch_mix

#: (real, generated (N, 3, H, W), λ, one for all or (N,)) -> mixed images.
Mix = Callable[[Tensor, Tensor, float | Tensor], Tensor]


def first_pairs(
    pairs: PairedDataset, most: int = 512
) -> tuple[Tensor, Tensor, Tensor, np.ndarray | None, pd.DataFrame]:
    """Read some training images, spread over all that have a counterpart, with the first of each.

    Returns real and generated images (N, 3, H, W) in [0, 1], labels (N,), masks of the objects in
    the real images (N, H, W) bool or None, and the metadata of the generated ones.
    """
    real, first = np.unique(pairs.source, return_index=True)
    some = spread(len(real), most)
    real, first = real[some], first[some]
    images = as_batch(pairs.real[real]), as_batch(pairs.generated[first])
    masks = None if pairs.masks is None else pairs.masks[real]
    metadata = pairs.metadata.iloc[first].reset_index(drop=True)
    return *images, torch.as_tensor(pairs.labels[real]), masks, metadata


def gallery(mix: Mix, real: Tensor, generated: Tensor, lams: Sequence[float]) -> list[np.ndarray]:
    """Mix each pair (N, 3, H, W) at every λ: N arrays (len(lams), H, W, 3) uint8."""
    lam, size = torch.tensor(lams), (len(lams), -1, -1, -1)
    pairs = zip(real, generated, strict=True)
    return [as_pixels(mix(one.expand(size), other.expand(size), lam)) for one, other in pairs]


def same_patches(seed: int) -> Mix:
    """`patch_mix` with the same centres at every call; returns the images alone."""
    return lambda *pair_and_lam: patch_mix(*pair_and_lam, torch.Generator().manual_seed(seed))[0]


def draw_lams(
    alphas: Sequence[float], count: int, height: int, width: int, seed: int
) -> pd.DataFrame:
    """Draw λ for several α at both levels, patches cut off at the border: alpha, level, lam."""
    tables = []
    for alpha, (level, patch_share) in product(alphas, (("pixel", 0.0), ("patch", 1.0))):
        generator = torch.Generator().manual_seed(seed)
        weight = DiffCoReMix(alpha, patch_share).draw_weight(count, height, width, generator)
        lam = weight.mean(dim=(1, 2, 3)).numpy()
        tables.append(pd.DataFrame({"alpha": alpha, "level": level, "lam": lam}))
    return pd.concat(tables, ignore_index=True)
