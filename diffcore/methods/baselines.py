"""What DiffCoRe-Mix is compared with, apart from DiffuseMix: mixes of classes, and policies.

What torchvision has comes from there, with its settings apart from α: MixUp (Zhang et al., arXiv
1710.09412), CutMix (Yun et al., 1905.04899), RandAugment (Cubuk et al., 1909.13719), TrivialAugment
(Müller & Hutter, 2103.10158), AugMix (Hendrycks et al., 1912.02781; without its consistency loss).

SaliencyMix is after Uddin et al. (arXiv 2006.01791): the patch is centred on the most salient point
of the image it is cut from. Our choice: one λ and one box an image, where theirs serve a whole
batch; and saliency as the colour's contrast to ever larger surroundings, where theirs is OpenCV's.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Generator, Tensor
from torch.nn.functional import one_hot
from torchvision.transforms import v2

from diffcore.mixing.mix import box_mask, device_of, draw_lam, kept_share, patch_boxes

#: (images (B, C, H, W), labels (B,), generator) -> images, and targets (B, K) whose rows sum to 1.
Mix = Callable[[Tensor, Tensor, Generator | None], tuple[Tensor, Tensor]]

#: Methods that mix images of the batch, and their labels with them.
MIXES = ("mixup", "cutmix", "saliencymix")
#: Methods that change each image on its own.
POLICIES = {
    "randaugment": v2.RandAugment, "trivialaugment": v2.TrivialAugmentWide, "augmix": v2.AugMix,
}  # fmt: skip


def make_mix(name: str, num_classes: int, alpha: float = 1.0) -> Mix:
    """Make one of `MIXES`, with λ ~ Beta(α, α).

    >>> images, targets = make_mix("mixup", 12)(torch.rand(8, 3, 64, 64), torch.arange(8), None)
    >>> images.shape, targets.shape
    (torch.Size([8, 3, 64, 64]), torch.Size([8, 12]))
    """
    if name == "saliencymix":
        return partial(saliency_mix, num_classes=num_classes, alpha=alpha)
    mix = {"mixup": v2.MixUp, "cutmix": v2.CutMix}[name](alpha=alpha, num_classes=num_classes)
    return lambda images, labels, generator: _seeded(generator, mix, images, labels)


def make_policy(name: str) -> Callable[[Tensor, Generator | None], Tensor]:
    """Make one of `POLICIES`, for images (B, 3, H, W) in [0, 1] and a generator."""
    policy = POLICIES[name]()

    def change(images: Tensor) -> Tensor:
        # In 8 bits, for which the policies' strengths are made. One by one: to a batch a policy
        # would do the same throughout.
        pixels = (images * 255).round().byte()
        return torch.stack([policy(image) for image in pixels]).to(images.dtype) / 255

    return lambda images, generator: _seeded(generator, change, images)


def _seeded(generator: Generator | None, change: Callable, *inputs: Tensor) -> tuple | Tensor:
    """Call what draws from torch's global generator as if from ours; leave the global as it was."""
    before = torch.get_rng_state()
    seed = torch.randint(2**62, (), generator=generator, device=device_of(generator)).item()
    after = torch.get_rng_state() if generator is None else before
    torch.default_generator.manual_seed(seed)
    try:
        return change(*inputs)
    finally:
        torch.set_rng_state(after)


def saliency_mix(
    images: Tensor, labels: Tensor, generator: Generator | None = None, *, num_classes: int,
    alpha: float = 1.0, seen: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Paste the salient part of the image before it in the batch into each; mix labels by area.

    Takes images (B, C, H, W) and labels (B,), returns images and targets (B, num_classes). Patches
    are centred where `seen`, (B, C', H, W), stands out; None: the images themselves.
    """
    seen, size = images if seen is None else seen, images.shape[2:]
    lam = draw_lam(len(images), alpha, generator).to(images.device)
    boxes = patch_boxes(lam, peaks(saliency(seen.roll(1, 0))), *size)
    mask = box_mask(boxes, *size).to(images.dtype)
    own, kept = one_hot(labels, num_classes).to(images.dtype), kept_share(mask).to(images.dtype)
    mixed = torch.lerp(images, images.roll(1, 0), mask)
    return mixed, torch.lerp(own.roll(1, 0), own, kept[:, None])


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
    """Row and column (B, 2) of the largest value of each map (B, H, W)."""
    place = saliency_map.flatten(1).argmax(dim=1)
    return torch.stack(torch.unravel_index(place, saliency_map.shape[1:]), dim=1)


def _window_mean(images: Tensor, reach: int) -> Tensor:
    """Mean over a square window of 2 · reach + 1 pixels, cut off at the border."""
    # By differences of running sums, whose cost does not grow with the window.
    for dim in (2, 3):
        place = torch.arange(size := images.shape[dim], device=images.device)
        start, stop = (place - reach).clamp(min=0), (place + reach + 1).clamp(max=size)
        sums = torch.cat([torch.zeros_like(images.narrow(dim, 0, 1)), images.cumsum(dim)], dim)
        widths = (stop - start).view([-1 if axis == dim else 1 for axis in range(4)])
        images = (sums.index_select(dim, stop) - sums.index_select(dim, start)) / widths
    return images
