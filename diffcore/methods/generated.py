"""Methods that use generated images of the same class: added, mixed in (DiffCoRe-Mix), or both.

The labels stay. Adding images is a step too: by chance a real image gives way to its counterpart,
so that every method trains on the same number of images.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from diffcore.methods.base import Method, choose
from diffcore.mixing.mix import DiffCoReMix


@dataclass(frozen=True)
class Added(Method):
    """Replace a share `probability` of the images by their counterparts."""

    name, sees = "added", "generated"
    probability: float = 0.5  # our choice

    def _change(self, real: Tensor, counterparts: Tensor, generator: Generator | None) -> Tensor:
        return torch.where(choose(self.probability, real, generator), counterparts, real)


@dataclass(frozen=True)
class DiffCoReMixing(Method):
    """Mix images with their counterparts by `DiffCoReMix`, with its settings.

    >>> real, generated = torch.rand(2, 8, 3, 64, 64)
    >>> images, targets = DiffCoReMixing().step(12)(real, generated, torch.arange(8))
    >>> images.shape, targets.shape
    (torch.Size([8, 3, 64, 64]), torch.Size([8, 12]))
    """

    name, sees = "diffcoremix", "generated"
    alpha: float = 1.0
    patch_share: float = 0.5
    probability: float = 1.0

    def _change(self, real: Tensor, counterparts: Tensor, generator: Generator | None) -> Tensor:
        mix = DiffCoReMix(self.alpha, self.patch_share, self.probability)
        return mix(real, counterparts, generator).images


@dataclass(frozen=True)
class MixedAdded(Method):
    """Mix all images, then replace a share `probability` of them by their counterparts."""

    name, sees = "mixed_added", "generated"
    probability: float = 0.5  # our choice
    mixing: Method = DiffCoReMixing()

    def _change(self, real: Tensor, counterparts: Tensor, generator: Generator | None) -> Tensor:
        mixed = self.mixing._change(real, counterparts, generator)
        return torch.where(choose(self.probability, real, generator), counterparts, mixed)
