"""Robustness of a classifier: common corruptions, attacks, exchanged backgrounds, calibration.

Beyond the paper, whose public text reports accuracy, overhead and saliency alone. A model is any
function from images (B, 3, H, W) in [0, 1] to logits (B, K).

- Corruptions: ten of the fifteen of Hendrycks and Dietterich (ICLR 2019, arXiv 1903.12261), with
  the numbers that its authors published for 64 × 64 pixels (Tiny-ImageNet-C).
- Attacks: FGSM (Goodfellow et al., arXiv 1412.6572) and PGD (Madry et al., arXiv 1706.06083).
- Backgrounds: an object pasted into other scenes, after Xiao et al. (arXiv 2006.09994).
- Calibration: the expected calibration error of Guo et al. (arXiv 1706.04599) by torchmetrics.

Our choice: glass blur, snow, frost, elastic transform and impulse noise are left out (a kind of
each is in); lengths in pixels grow with the image; fog is drawn in the spectrum and not by
diamonds and squares; nothing is saved as JPEG on the way.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.nn.functional import (
    affine_grid,
    conv2d,
    cross_entropy,
    grid_sample,
    pad,
)
from torchmetrics.functional.classification import binary_calibration_error
from torchvision.transforms.v2 import functional as tv

Model = Callable[[Tensor], Tensor]
#: (images (B, C, H, W) in [0, 1], severity from 1 to 5, generator) -> images of the same kind
Corruption = Callable[[Tensor, int, Generator], Tensor]

SEVERITIES = (1, 2, 3, 4, 5)
_MADE_FOR = 64  # pixels; what lengths are given for


# ------------------------------------------------------------------------------- common corruptions
def gaussian_noise(images: Tensor, severity: int, generator: Generator) -> Tensor:
    """Add normal noise, as a sensor does in little light."""
    sigma = (0.04, 0.08, 0.12, 0.15, 0.18)[severity - 1]
    return images + sigma * torch.randn(images.shape, generator=generator)


def shot_noise(images: Tensor, severity: int, generator: Generator) -> Tensor:
    """Count photons: Poisson noise, stronger where an image is bright."""
    photons = (250, 100, 50, 30, 15)[severity - 1]
    return torch.poisson(images * photons, generator) / photons


def defocus_blur(images: Tensor, severity: int, generator: Generator) -> Tensor:
    """Blur by a disk, as a lens out of focus."""
    radius = (0.5, 1.0, 1.5, 2.5, 3.0)[severity - 1] * _scale(images)
    softness = (0.6, 0.1, 0.1, 0.01, 0.1)[severity - 1]
    kernel = disk(radius, softness)
    reach = len(kernel) // 2
    padded = pad(images, [reach] * 4, mode="reflect")
    weight = kernel.expand(images.shape[1], 1, -1, -1)
    return conv2d(padded, weight, groups=images.shape[1])


def disk(radius: float, softness: float) -> Tensor:
    """Make a disk's kernel (2R + 1, 2R + 1) of sum 1, its edge smoothed by a 3 × 3 Gaussian."""
    reach = int(np.ceil(radius)) + 1
    across = torch.arange(-reach, reach + 1.0)
    inside = (across[:, None] ** 2 + across**2 <= radius**2).float()
    return tv.gaussian_blur((inside / inside.sum())[None], 3, softness)[0]


def motion_blur(images: Tensor, severity: int, generator: Generator) -> Tensor:
    """Smear each image along a direction of its own, up to 45° from the horizontal."""
    radius = round((10, 10, 10, 10, 12)[severity - 1] * _scale(images))
    sigma = (1.0, 1.5, 2.0, 2.5, 3.0)[severity - 1] * _scale(images)
    angle = (torch.rand(len(images), generator=generator) - 0.5) * (torch.pi / 2)
    direction = torch.stack([angle.cos(), angle.sin()], dim=1)
    weights = torch.exp(-(torch.arange(radius + 1.0) ** 2) / (2 * sigma**2))
    moved = (w * _warp(images, shift=i * direction) for i, w in enumerate(weights))
    return sum(moved) / weights.sum()


def zoom_blur(images: Tensor, severity: int, generator: Generator) -> Tensor:
    """Average an image with enlargements of itself, as a camera that moves towards the object."""
    most = (6, 11, 16, 21, 26)[severity - 1]
    zoomed = [_warp(images, zoom=1 + percent / 100) for percent in range(most)]
    return (images + sum(zoomed)) / (most + 1)


def fog(images: Tensor, severity: int, generator: Generator) -> Tensor:
    """Lay clouds over each image and darken the whole, so that its maximum stays."""
    strength = (0.4, 0.7, 1.0, 1.5, 2.0)[severity - 1]
    decay = (3.0, 3.0, 2.5, 2.0, 1.75)[severity - 1]
    count, _, height, width = images.shape
    clouds = draw_clouds(count, height, width, decay, generator)
    most = images.amax(dim=(1, 2, 3), keepdim=True)
    return (images + strength * clouds) * most / (most + strength)


def draw_clouds(count: int, height: int, width: int, decay: float, generator: Generator) -> Tensor:
    """Draw smooth random fields (N, 1, H, W), each from 0 to 1.

    Args:
        decay: by how much each octave is weaker than the one below it, as the `wibbledecay` of the
            original's diamond-square; in two dimensions an amplitude of f^-(1 + log2(decay)).
    """
    white = torch.fft.rfft2(torch.randn(count, 1, height, width, generator=generator))
    frequency = (torch.fft.fftfreq(height)[:, None] ** 2 + torch.fft.rfftfreq(width) ** 2).sqrt()
    frequency[0, 0] = torch.inf  # the mean is set below
    field = torch.fft.irfft2(white * frequency ** -(1 + np.log2(decay)), s=(height, width))
    least, most = field.amin((2, 3), keepdim=True), field.amax((2, 3), keepdim=True)
    return (field - least) / (most - least)


def brightness(images: Tensor, severity: int, generator: Generator) -> Tensor:
    """Raise the value of hue, saturation and value."""
    value = images.amax(dim=1, keepdim=True)
    raised = (value + (0.1, 0.2, 0.3, 0.4, 0.5)[severity - 1]).clamp(max=1)
    return torch.where(value > 0, images * (raised / value.clamp(min=1e-6)), raised)


def contrast(images: Tensor, severity: int, generator: Generator) -> Tensor:
    """Draw each channel towards its mean."""
    kept = (0.4, 0.3, 0.2, 0.1, 0.05)[severity - 1]
    return images.mean(dim=(2, 3), keepdim=True).lerp(images, kept)


def pixelate(images: Tensor, severity: int, generator: Generator) -> Tensor:
    """Shrink and enlarge again, both by Pillow's box filter."""
    share = (0.9, 0.8, 0.7, 0.6, 0.5)[severity - 1]
    height, width = images.shape[2:]
    small = int(width * share), int(height * share)
    pictures = (Image.fromarray(image) for image in _as_uint8(images).permute(0, 2, 3, 1).numpy())
    box = Image.Resampling.BOX
    coarse = [np.asarray(p.resize(small, box).resize((width, height), box)) for p in pictures]
    return torch.from_numpy(np.stack(coarse)).permute(0, 3, 1, 2) / 255


def jpeg(images: Tensor, severity: int, generator: Generator) -> Tensor:
    """Compress as JPEG."""
    return tv.jpeg(_as_uint8(images), (65, 58, 50, 40, 25)[severity - 1]) / 255


#: name -> corruption, in the order noise, blur, weather, digital of the original
CORRUPTIONS: dict[str, Corruption] = {
    "Gaussian noise": gaussian_noise,
    "shot noise": shot_noise,
    "defocus blur": defocus_blur,
    "motion blur": motion_blur,
    "zoom blur": zoom_blur,
    "fog": fog,
    "brightness": brightness,
    "contrast": contrast,
    "pixelate": pixelate,
    "JPEG": jpeg,
}


def corrupt(images: Tensor, name: str, severity: int, seed: int) -> Tensor:
    """Corrupt images (B, 3, H, W) in [0, 1]; all severities of one seed share their noise.

    Raises:
        ValueError: for an unknown name or severity.

    >>> corrupt(torch.rand(2, 3, 64, 64), "fog", severity=3, seed=0).shape
    torch.Size([2, 3, 64, 64])
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"unknown corruption {name!r}; known: {', '.join(CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity is {severity}; it must be a whole number from 1 to 5")
    generator = torch.Generator().manual_seed(seed)
    return CORRUPTIONS[name](images, severity, generator).clamp(0, 1)


def _scale(images: Tensor) -> float:
    return images.shape[-1] / _MADE_FOR


def _as_uint8(images: Tensor) -> Tensor:
    return (images * 255).round().byte()


def _warp(images: Tensor, *, zoom: float = 1.0, shift: Tensor | None = None) -> Tensor:
    """Enlarge images about their centre and move them by pixels (B, 2), x first; edges repeat."""
    maps = torch.zeros(len(images), 2, 3)
    maps[:, 0, 0] = maps[:, 1, 1] = 1 / zoom
    if shift is not None:
        maps[:, :, 2] = -2 * shift / torch.tensor([images.shape[3], images.shape[2]])
    grid = affine_grid(maps, list(images.shape), align_corners=False)
    return grid_sample(images, grid, padding_mode="border", align_corners=False)


# ------------------------------------------------------------------------------------------ attacks
def fgsm(model: Model, images: Tensor, labels: Tensor, eps: float) -> Tensor:
    """Move every pixel by `eps` up the loss (fast gradient sign method).

    Args:
        model: in evaluation mode, differentiable in its images.
        images: (B, 3, H, W) in [0, 1].
        labels: (B,).
        eps: largest change of a pixel, in [0, 1].

    Returns:
        Images in [0, 1], nowhere further than `eps` from the given ones.
    """
    return (images + eps * _ascent(model, images, labels)).clamp(0, 1)


def pgd(
    model: Model,
    images: Tensor,
    labels: Tensor,
    eps: float,
    *,
    steps: int = 10,
    generator: Generator | None = None,
) -> Tensor:
    """Climb the loss in small steps within `eps` of each pixel (projected gradient descent).

    Starts at a random point of that box. A step is 2.5 · eps / steps, as in Madry et al., so that
    any point of the box can be reached. Arguments and result are those of `fgsm`.

    Raises:
        ValueError: for fewer than one step.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; an attack needs at least one")
    start = 2 * torch.rand(images.shape, generator=generator).to(images) - 1
    moved = (images + eps * start).clamp(0, 1)
    for _ in range(steps):
        ahead = moved + 2.5 * eps / steps * _ascent(model, moved, labels)
        moved = (images + (ahead - images).clamp(-eps, eps)).clamp(0, 1)
    return moved


def attack(
    attacker: Callable[[Model, Tensor, Tensor], Tensor],
    model: Model,
    images: Tensor,
    labels: Tensor,
    batch_size: int = 128,
) -> Tensor:
    """Attack images (N, 3, H, W) a batch at a time, with `fgsm` or `pgd` and their settings."""
    batches = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    return torch.cat([attacker(model, batch, target) for batch, target in batches])


def _ascent(model: Model, images: Tensor, labels: Tensor) -> Tensor:
    """Sign of the loss's gradient in the images; the model's own gradients are left alone."""
    with torch.enable_grad():
        inputs = images.detach().clone().requires_grad_()
        loss = cross_entropy(model(inputs), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, inputs)
    return gradient.sign()


# -------------------------------------------------------------------------------------- backgrounds
def paste(images: Tensor, masks: Tensor, backgrounds: Tensor) -> Tensor:
    """Cut objects out of images and lay them on backgrounds, each in its place.

    Args:
        images: (B, C, H, W).
        masks: of the objects, (B, H, W) bool.
        backgrounds: like the images.

    Raises:
        ValueError: for masks of another size, or not of booleans.
    """
    if masks.dtype != torch.bool or masks.shape != images[:, 0].shape:
        raise ValueError(
            f"masks are {masks.dtype} {tuple(masks.shape)}; "
            f"these images need bool {tuple(images[:, 0].shape)}"
        )
    return torch.where(masks[:, None], images, backgrounds)


# -------------------------------------------------------------------------------------- calibration
def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error in [0, 1]: mean distance of confidence and accuracy in a bin.

    Args:
        confidence: largest probability of each answer, (N,).
        right: whether the answer is right, (N,) bool.
        bins: of equal width; 15 as in Guo et al.
    """
    # Of answers to many classes only these two count, which makes it the binary case.
    return float(binary_calibration_error(*_as_tensors(confidence, right), n_bins=bins))


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> pd.DataFrame:
    """What stands in a reliability diagram, a row a bin that is not empty.

    Arguments are those of `calibration_error`, which weighs these rows by their count.

    Returns:
        confidence and top1 (means in the bin), count.
    """
    edges = torch.linspace(0, 1, bins + 1)
    place = torch.bucketize(_as_tensors(confidence, right)[0], edges, right=True).numpy()
    answers = pd.DataFrame({"confidence": confidence, "top1": right})
    return (
        answers.groupby(place)
        .agg(confidence=("confidence", "mean"), top1=("top1", "mean"), count=("top1", "size"))
        .reset_index(drop=True)
    )


def _as_tensors(confidence: np.ndarray, right: np.ndarray) -> tuple[Tensor, Tensor]:
    return torch.tensor(confidence, dtype=torch.float32), torch.tensor(right, dtype=torch.int64)
