"""The augmentations that DiffCoRe-Mix is compared with, behind one face.

What torchvision has comes from there: MixUp (Zhang et al., arXiv 1710.09412), CutMix (Yun et al.,
1905.04899), RandAugment (Cubuk et al., 1909.13719), TrivialAugment (Müller & Hutter, 2103.10158)
and AugMix (Hendrycks et al., 1912.02781, its images alone, without its consistency loss). Settings
are those of torchvision, apart from α.

They draw from torch's global generator; here each call draws from a generator of ours, and leaves
the global one as it was, so that a method changes no random number of another part.
"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn.functional import one_hot
from torchvision.transforms import v2

from diffcore.saliencymix import SaliencyMix

#: (images (B, 3, H, W) in [0, 1], labels (B,), generator) -> images and targets (B, K).
Baseline = Callable[[Tensor, Tensor, Generator | None], tuple[Tensor, Tensor]]

_MIXES = {"mixup": v2.MixUp, "cutmix": v2.CutMix}
_POLICIES = {
    "randaugment": v2.RandAugment,
    "trivialaugment": v2.TrivialAugmentWide,
    "augmix": v2.AugMix,
}
BASELINES = ("vanilla", *_MIXES, "saliencymix", *_POLICIES)


def make_baseline(name: str, num_classes: int, alpha: float = 1.0) -> Baseline:
    """Make an augmentation of whole batches.

    Args:
        name: one of `BASELINES`; "vanilla" does nothing.
        num_classes: width K of the targets, whose rows sum to 1.
        alpha: of Beta(α, α), for the methods that mix images.

    Raises:
        ValueError: for another name.

    >>> mix = make_baseline("mixup", num_classes=12)
    >>> [out.shape for out in mix(torch.rand(8, 3, 64, 64), torch.arange(8), None)]
    [torch.Size([8, 3, 64, 64]), torch.Size([8, 12])]
    """
    if name not in BASELINES:
        raise ValueError(f"no baseline {name!r}; there are {', '.join(BASELINES)}")
    if name == "saliencymix":
        return SaliencyMix(num_classes, alpha)
    if name in _MIXES:
        mix = _MIXES[name](alpha=alpha, num_classes=num_classes)
        return lambda images, labels, generator: _seeded(generator, mix, images, labels)
    change = _each(_POLICIES[name]()) if name in _POLICIES else torch.nn.Identity()
    return lambda images, labels, generator: (
        _seeded(generator, change, images),
        one_hot(labels, num_classes).to(images.dtype),
    )


def _each(policy: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Apply a policy to each image on its own: to a batch it would do the same throughout."""

    def apply(images: Tensor) -> Tensor:
        # In 8 bits, for which the policies' strengths are made.
        pixels = (images * 255).round().byte()
        changed = torch.stack([policy(image) for image in pixels])
        return changed.to(images.dtype) / 255

    return apply


def _seeded(generator: Generator | None, change: Callable, *inputs: Tensor) -> tuple | Tensor:
    """Call with the global generator set from ours, and set it back."""
    before = torch.get_rng_state()
    device = "cpu" if generator is None else generator.device
    seed = torch.randint(2**62, (), generator=generator, device=device).item()
    after = torch.get_rng_state() if generator is None else before
    torch.default_generator.manual_seed(seed)
    try:
        return change(*inputs)
    finally:
        torch.set_rng_state(after)
