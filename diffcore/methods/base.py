"""What a method is: its settings, and one step between a batch and the optimiser.

All methods share the sampling, the base augmentation and the number of steps. The counterpart of a
real image is a generated image of its class or a restyled version of it, as the method needs. An
image without one is passed as its own counterpart.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.nn.functional import one_hot

from diffcore.mixing.mix import device_of
from diffcore.params import ParamsError

#: (real, counterparts (B, 3, H, W) in [0, 1], labels (B,), generator) -> images, targets (B, K).
Step = Callable[..., tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Method:
    """A method whose fields are its settings; ParamsError for one that is out of range."""

    name: ClassVar[str]
    sees: ClassVar[str] = "real"  # counterparts that it needs: "generated", "restyled", or none

    def __post_init__(self):
        for setting, value in vars(self).items():
            place = f"training.methods.{self.name}.{setting} is {value}"
            if setting == "alpha" and not 0 < value <= 100:
                raise ParamsError(f"{place}; it must be above 0 and at most 100")
            if setting in {"probability", "patch_share"} and not 0 <= value <= 1:
                raise ParamsError(f"{place}; it must be in [0, 1]")

    def step(self, num_classes: int) -> Step:
        """Return the function that a training applies to each batch, for so many classes."""

        def step(
            real: Tensor, counterparts: Tensor, labels: Tensor, generator: Generator | None = None
        ) -> tuple[Tensor, Tensor]:
            targets = one_hot(labels, num_classes).to(real.dtype)
            return self._augment(real, counterparts, targets, generator)

        return step

    def _augment(
        self, real: Tensor, counterparts: Tensor, targets: Tensor, generator: Generator | None
    ) -> tuple[Tensor, Tensor]:
        return self._change(real, counterparts, generator), targets  # the labels stay

    def _change(self, real: Tensor, counterparts: Tensor, generator: Generator | None) -> Tensor:
        return real


def choose(share: float, images: Tensor, generator: Generator | None) -> Tensor:
    """Draw which images a method is applied to: (B, 1, 1, 1) bool."""
    chances = torch.rand(len(images), generator=generator, device=device_of(generator))
    return (chances < share).to(images.device)[:, None, None, None]
