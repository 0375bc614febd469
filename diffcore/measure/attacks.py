"""Attacks within ε of each pixel: FGSM (arXiv 1412.6572) and PGD (Madry et al., arXiv 1706.06083).

Both are captum's, and return images in [0, 1], no pixel further than ε from the given one.
"""

import warnings
from collections.abc import Sequence
from functools import partial

import torch
from captum.robust import FGSM, PGD
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

_BATCH = 128  # images that are attacked together
_loss = partial(cross_entropy, reduction="none")


def fgsm(model: nn.Module, images: Tensor, labels: Tensor, eps: float) -> Tensor:
    """Move every pixel by `eps` up the loss (fast gradient sign method).

    Takes a model in evaluation mode, images (B, 3, H, W) in [0, 1] and their labels (B,).
    """
    technique = FGSM(model, _loss, 0.0, 1.0)
    technique.zero_thresh = 0.0  # captum's 1e-6 would spare pixels about which a model is sure
    return technique.perturb(images.detach().requires_grad_(), eps, labels).detach()


def pgd(model: nn.Module, images: Tensor, labels: Tensor, eps: float, steps: int = 10) -> Tensor:
    """Climb the loss in small steps within `eps` of each pixel (projected gradient descent).

    From a random point of that box, by torch's global generator. A step is 2.5 · eps / steps, as in
    Madry et al., so that any point of the box can be reached. Takes what `fgsm` does.
    """
    technique = PGD(model, _loss, 0.0, 1.0)
    technique.fgsm.zero_thresh = 0.0
    step = 2.5 * eps / steps
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # of gradients turned on
        return technique.perturb(images.detach(), eps, step, steps, labels, random_start=True)


def attack(
    model: nn.Module, images: Tensor, labels: Tensor, eps: Sequence[float], steps: int, seed: int
) -> dict[tuple[str, float], Tensor]:
    """Attack N images at each size: ("none", 0), ("FGSM", eps) and ("PGD", eps) -> images."""
    device = next(model.parameters()).device
    images = images.to(device, memory_format=torch.channels_last)
    batches = list(zip(images.split(_BATCH), labels.to(device).split(_BATCH), strict=True))
    found = {("none", 0.0): images}
    for size in eps:
        for name, move in (("FGSM", fgsm), ("PGD", partial(pgd, steps=steps))):
            with torch.random.fork_rng():  # so that one attack does not change another
                torch.manual_seed(seed)
                found[name, size] = torch.cat([move(model, x, y, size) for x, y in batches])
    return found
