"""The share of generated pixels among all that a method trains on, and methods of one share.

Adding an image shows all of it, and mixing shows a part. At the same number of images the two
therefore differ in their share of generated pixels. To ask whether *mixing* helps, this share must
be the same. Mixing into real images cannot reach every share. Beyond its limit some pairs swap
places, so that a part of the real image is mixed into the generated one.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Generator, Tensor

from diffcore.methods.base import Method, choose
from diffcore.methods.diffusemix import FRACTAL_SHARE, DiffuseMix
from diffcore.methods.generated import Added, DiffCoReMixing, MixedAdded

#: What is compared at one share of generated pixels.
PIXEL_CONDITIONS = ("added", "pixel", "patch", "both levels", "mixed and added")
_PATCH_SHARES = {"pixel": 0.0, "patch": 1.0}  # of mixed pairs; in other conditions it is a half
_DRAWS = 4096  # quantiles of λ that an expectation is taken over


@dataclass(frozen=True)
class SwappedMixing(Method):
    """Mix images and counterparts, a share `swapped` of the pairs in each other's place."""

    name, sees = "diffcoremix", "generated"
    swapped: float
    mixing: DiffCoReMixing

    def _change(self, real: Tensor, counterparts: Tensor, generator: Generator | None) -> Tensor:
        chosen = choose(self.swapped, real, generator)
        first, second = (
            torch.where(chosen, counterparts, real),
            torch.where(chosen, real, counterparts),
        )
        return self.mixing._change(first, second, generator)


def mixed_share(alpha: float, patch_share: float) -> float:
    """Return the expected share of the generated image where a pair is mixed.

    At pixel level it is 1/2. At patch level it is less: of a box of side s, centred anywhere, the
    border leaves s - s²/4 of each side.

    >>> round(mixed_share(1.0, 0.0), 3), round(mixed_share(1.0, 1.0), 3)
    (0.5, 0.321)
    """
    side = np.sqrt(1 - betaincinv(alpha, alpha, (np.arange(_DRAWS) + 0.5) / _DRAWS))
    return (1 - patch_share) / 2 + patch_share * float(((side - side**2 / 4) ** 2).mean())


def pixel_share(method: Method) -> float:
    """Return the expected share of generated or restyled pixels; 0 for methods without them."""
    match method:
        case Added():
            return method.probability
        case DiffuseMix():
            return method.probability * (1 - FRACTAL_SHARE) / 2
        case DiffCoReMixing():
            return method.probability * mixed_share(method.alpha, method.patch_share)
        case SwappedMixing():
            mixed = pixel_share(method.mixing)
            return mixed + method.swapped * (1 - 2 * mixed)
        case MixedAdded():
            return method.probability + (1 - method.probability) * pixel_share(method.mixing)
    return 0.0


def at_pixel_share(condition: str, share: float, alpha: float = 1.0) -> Method:
    """Return the method by which one of `PIXEL_CONDITIONS` shows a share in (0, 1).

    "mixed and added" shows half of it by adding and half by mixing.

    >>> at_pixel_share("pixel", 0.3).probability
    0.6
    """
    if condition == "added":
        return Added(share)
    added = share / 2 if condition == "mixed and added" else 0.0
    left = (share - added) / (1 - added)
    mixing = _mixing_at(left, alpha, _PATCH_SHARES.get(condition, 0.5))
    return MixedAdded(added, mixing) if added else mixing


def _mixing_at(share: float, alpha: float, patch_share: float) -> Method:
    """Choose the shares of the pairs that are mixed and that are swapped."""
    once = mixed_share(alpha, patch_share)  # what a mixed pair shows without a swap
    if share <= once:
        return DiffCoReMixing(alpha, patch_share, share / once)
    if share >= 1 - once:
        return SwappedMixing(1.0, DiffCoReMixing(alpha, patch_share, (1 - share) / once))
    return SwappedMixing((share - once) / (1 - 2 * once), DiffCoReMixing(alpha, patch_share))
