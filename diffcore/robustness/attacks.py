"""Attacks within ε of each pixel: FGSM (arXiv 1412.6572) and PGD (Madry et al., arXiv 1706.06083).

FGSM is captum's. Our choice: PGD repeats it here, as captum's own takes no random generator.
"""

from collections.abc import Sequence
from functools import partial

import torch
from captum.robust import FGSM
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

_BATCH = 128  # images that are attacked together


def fgsm(model: nn.Module, images: Tensor, labels: Tensor, eps: float) -> Tensor:
    """Move every pixel by `eps` up the loss (fast gradient sign method).

    Takes a model in evaluation mode, images (B, 3, H, W) in [0, 1] and their labels (B,); returns
    images in [0, 1], no pixel further than `eps` from the given one.
    """
    return _climb(model, images, labels, eps).clamp(0, 1)


def pgd(
    model: nn.Module, images: Tensor, labels: Tensor, eps: float,
    *, steps: int = 10, generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    """Climb the loss in small steps within `eps` of each pixel (projected gradient descent).

    Starts at a random point of that box. A step is 2.5 · eps / steps, as in Madry et al., so that
    any point of the box can be reached. Takes and returns what `fgsm` does; raises ValueError for
    fewer than one step.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; an attack needs at least one")
    start = 2 * torch.rand(images.shape, generator=generator).to(images) - 1
    moved = (images + eps * start).clamp(0, 1)
    for _ in range(steps):
        ahead = _climb(model, moved, labels, 2.5 * eps / steps)
        moved = (images + (ahead - images).clamp(-eps, eps)).clamp(0, 1)
    return moved


def attack(
    model: nn.Module, images: Tensor, labels: Tensor, eps: Sequence[float], steps: int, seed: int
) -> dict[tuple[str, float], Tensor]:
    """Attack N images at each size: ("none", 0), ("FGSM", eps) and ("PGD", eps) -> images."""
    device = next(model.parameters()).device
    images = images.to(device, memory_format=torch.channels_last)
    batches = list(zip(images.split(_BATCH), labels.to(device).split(_BATCH), strict=True))
    found = {("none", 0.0): images}
    for size in eps:
        # A generator of its own for each attack, so that one does not change another.
        start = partial(pgd, steps=steps, generator=Generator().manual_seed(seed))
        for name, move in (("FGSM", fgsm), ("PGD", start)):
            found[name, size] = torch.cat([move(model, x, y, size) for x, y in batches])
    return found


def _climb(model: nn.Module, images: Tensor, labels: Tensor, step: float) -> Tensor:
    move = FGSM(model, partial(cross_entropy, reduction="none"))
    move.zero_thresh = 0.0  # captum's 1e-6 would spare pixels about which a model is sure
    return move.perturb(images.detach().requires_grad_(), step, labels).detach()
