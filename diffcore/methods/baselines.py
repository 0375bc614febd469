"""Methods that use real images alone.

MixUp, CutMix and the policies are torchvision's, with its settings apart from α. AugMix comes
without its consistency loss. SaliencyMix centres its patch on the most salient point of the image
that the patch is cut from. Our choice: one λ and one box per image, where the authors draw one per
batch; saliency as the contrast of a colour to its surroundings, where they use OpenCV's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor
from torchvision.transforms import v2

from diffcore.methods.base import Method, choose
from diffcore.mixing.mix import box_mask, device_of, draw_lam, kept_share, patch_boxes

Batch = tuple[Tensor, Tensor]  # images (B, C, H, W) and targets (B, K), of which each row sums to 1


class Vanilla(Method):
    """Leave the images as they are."""

    name = "vanilla"


@dataclass(frozen=True)
class BatchMix(Method):
    """Mix a share `probability` of the images with others of the batch, and their labels too."""

    probability: float = 1.0
    alpha: float = 1.0  # of λ ~ Beta(α, α)
    transform: ClassVar[Callable]  # of torchvision

    def _augment(self, real: Tensor, _: Tensor, targets: Tensor, generator: Any) -> Batch:
        chosen = choose(self.probability, real, generator)
        images, mixed = self.mix(real, targets, generator)
        images = torch.where(chosen, images, real)
        return images, torch.where(chosen[:, :, 0, 0], mixed, targets)

    def mix(self, images: Tensor, targets: Tensor, generator: Generator | None = None) -> Batch:
        """Mix all images (B, C, H, W), and their targets (B, K) by the same shares.

        >>> images, targets = MixUp(alpha=0.2).mix(torch.rand(8, 3, 64, 64), torch.eye(8))
        """
        return _seeded(generator, self.transform(alpha=self.alpha), images, targets)


class MixUp(BatchMix):
    """Blend two images (Zhang et al., arXiv 1710.09412)."""

    name, transform = "mixup", v2.MixUp


class CutMix(BatchMix):
    """Paste a box of one image into another (Yun et al., arXiv 1905.04899)."""

    name, transform = "cutmix", v2.CutMix


class SaliencyMix(BatchMix):
    """Paste the salient part of one image into another (Uddin et al., arXiv 2006.01791)."""

    name = "saliencymix"

    def mix(
        self, images: Tensor, targets: Tensor, generator: Any = None, seen: Tensor | None = None
    ) -> Batch:
        """Mix all images as `BatchMix.mix`; compute saliency on `seen` (B, C', H, W) if given."""
        seen, size = images if seen is None else seen, images.shape[2:]
        lam = draw_lam(len(images), self.alpha, generator).to(images.device)
        boxes = patch_boxes(lam, peaks(saliency(seen.roll(1, 0))), *size)
        mask = box_mask(boxes, *size).to(images.dtype)
        kept = kept_share(mask).to(images.dtype)[:, None]
        mixed = torch.lerp(images, images.roll(1, 0), mask)
        return mixed, torch.lerp(targets.roll(1, 0), targets, kept)


@dataclass(frozen=True)
class Policy(Method):
    """Change a share `probability` of the images, each on its own, by a random policy."""

    probability: float = 1.0
    transform: ClassVar[Callable]  # of torchvision

    def _change(self, real: Tensor, _: Tensor, generator: Generator | None) -> Tensor:
        chosen, policy = choose(self.probability, real, generator).flatten(), self.transform()
        if not chosen.any():
            return real
        # The strengths of the policies are made for 8 bits. Images are changed one by one, as a
        # policy does the same to all images of a batch.
        pixels = (real[chosen] * 255).round().byte()
        changed = _seeded(generator, lambda: torch.stack([policy(image) for image in pixels]))
        return real.index_put((chosen,), changed.to(real.dtype) / 255)


class RandAugment(Policy):
    """Apply two operations of one strength (Cubuk et al., arXiv 1909.13719)."""

    name, transform = "randaugment", v2.RandAugment


class TrivialAugment(Policy):
    """Apply one operation of a random strength (Müller & Hutter, arXiv 2103.10158)."""

    name, transform = "trivialaugment", v2.TrivialAugmentWide


class AugMix(Policy):
    """Blend several chains of operations (Hendrycks et al., arXiv 1912.02781)."""

    name, transform = "augmix", v2.AugMix


def _seeded(generator: Generator | None, change: Callable, *inputs: Tensor) -> Any:
    """Call what draws from torch's global generator with a seed of ours; restore the global one."""
    before = torch.get_rng_state()
    seed = torch.randint(2**62, (), generator=generator, device=device_of(generator)).item()
    after = torch.get_rng_state() if generator is None else before
    torch.default_generator.manual_seed(seed)
    try:
        return change(*inputs)
    finally:
        torch.set_rng_state(after)


def saliency(images: Tensor) -> Tensor:
    """Sum the contrast of each pixel to three ever larger windows: (B, C, H, W) to (B, H, W).

    It is the distance of the pixel's colour, slightly blurred, to the mean colour of the window,
    whose side is an eighth, a quarter or half of the image's shorter one.
    """
    shorter = min(images.shape[2:])
    centre = _window_mean(images, max(1, shorter // 32))
    surrounds = [_window_mean(images, max(1, shorter // part)) for part in (16, 8, 4)]
    return sum((centre - around).square().sum(dim=1).sqrt() for around in surrounds)


def peaks(saliency_map: Tensor) -> Tensor:
    """Return row and column (B, 2) of the largest value of each map (B, H, W)."""
    place = saliency_map.flatten(1).argmax(dim=1)
    return torch.stack(torch.unravel_index(place, saliency_map.shape[1:]), dim=1)


def _window_mean(images: Tensor, reach: int) -> Tensor:
    """Average over a square window of 2 · reach + 1 pixels, cut off at the border."""
    # Differences of running sums: their cost does not grow with the window.
    for dim in (2, 3):
        place = torch.arange(size := images.shape[dim], device=images.device)
        start, stop = (place - reach).clamp(min=0), (place + reach + 1).clamp(max=size)
        sums = torch.cat([torch.zeros_like(images.narrow(dim, 0, 1)), images.cumsum(dim)], dim)
        widths = (stop - start).view([-1 if axis == dim else 1 for axis in range(4)])
        images = (sums.index_select(dim, stop) - sums.index_select(dim, start)) / widths
    return images
