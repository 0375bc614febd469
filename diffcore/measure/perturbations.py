"""Common corruptions of images, and attacks by who knows the classifier.

Corruptions: ten of the fifteen of Hendrycks and Dietterich (arXiv 1903.12261), with their numbers
for 64 x 64 pixels (Tiny-ImageNet-C). Our choice: lengths in pixels grow with the image; fog is
drawn in the spectrum; nothing is saved as JPEG on the way. Attacks: captum's FGSM (arXiv 1412.6572)
and PGD (Madry et al., 1706.06083): no pixel moves further than ε, and all stay in [0, 1].
"""

import warnings
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from captum.robust import FGSM, PGD
from PIL import Image
from torch import Generator, Tensor, nn
from torch.nn.functional import affine_grid, conv2d, cross_entropy, grid_sample, pad
from torchvision.transforms.v2 import functional as tv

from diffcore.data.images import as_batch, as_pixels

_BATCH = 128  # images that are attacked together
_loss = partial(cross_entropy, reduction="none")


def gaussian_noise(images: Tensor, generator: Generator, sigma: float) -> Tensor:
    """Add normal noise, as a sensor does in little light."""
    return images + sigma * torch.randn(images.shape, generator=generator)


def shot_noise(images: Tensor, generator: Generator, photons: int) -> Tensor:
    """Count photons: Poisson noise, stronger where an image is bright."""
    return torch.poisson(images * photons, generator) / photons


def defocus_blur(images: Tensor, generator: Generator, radius: float, softness: float) -> Tensor:
    """Blur by a disk, as a lens out of focus."""
    kernel = disk(radius * (images.shape[-1] / 64), softness)
    padded = pad(images, [len(kernel) // 2] * 4, mode="reflect")
    weight = kernel.expand(images.shape[1], 1, -1, -1)
    return conv2d(padded, weight, groups=images.shape[1])


def disk(radius: float, softness: float) -> Tensor:
    """Make a disk's kernel (2R + 1, 2R + 1) of sum 1, its edge smoothed by a 3 x 3 Gaussian."""
    reach = int(np.ceil(radius)) + 1
    across = torch.arange(-reach, reach + 1.0)
    inside = (across[:, None] ** 2 + across**2 <= radius**2).float()
    return tv.gaussian_blur((inside / inside.sum())[None], 3, softness)[0]


def motion_blur(images: Tensor, generator: Generator, radius: int, sigma: float) -> Tensor:
    """Smear each image along its random direction, up to 45° from the horizontal."""
    scale = images.shape[-1] / 64
    radius, sigma = round(radius * scale), sigma * scale
    angle = (torch.rand(len(images), generator=generator) - 0.5) * (torch.pi / 2)
    direction = torch.stack([angle.cos(), angle.sin()], dim=1)
    weights = torch.exp(-(torch.arange(radius + 1.0) ** 2) / (2 * sigma**2))
    moved = (w * _warp(images, shift=i * direction) for i, w in enumerate(weights))
    return sum(moved) / weights.sum()


def zoom_blur(images: Tensor, generator: Generator, most: int) -> Tensor:
    """Average an image with its enlargements, as a camera that moves towards the object."""
    zoomed = [_warp(images, zoom=1 + percent / 100) for percent in range(most)]
    return (images + sum(zoomed)) / (most + 1)


def _warp(images: Tensor, *, zoom: float = 1.0, shift: Tensor | float = 0.0) -> Tensor:
    """Enlarge images about their centre and move them by pixels (B, 2), x first; edges repeat."""
    maps = torch.zeros(len(images), 2, 3)
    maps[:, 0, 0] = maps[:, 1, 1] = 1 / zoom
    maps[:, :, 2] = -2 * shift / torch.tensor([images.shape[3], images.shape[2]])
    grid = affine_grid(maps, list(images.shape), align_corners=False)
    return grid_sample(images, grid, padding_mode="border", align_corners=False)


def fog(images: Tensor, generator: Generator, strength: float, decay: float) -> Tensor:
    """Lay clouds over each image and darken the whole, so that its maximum stays."""
    clouds = draw_clouds(len(images), *images.shape[2:], decay, generator)
    most = images.amax(dim=(1, 2, 3), keepdim=True)
    return (images + strength * clouds) * most / (most + strength)


def draw_clouds(count: int, height: int, width: int, decay: float, generator: Generator) -> Tensor:
    """Draw smooth random fields (N, 1, H, W), each from 0 to 1.

    Each octave is weaker than the one below it by `decay`, the `wibbledecay` of the original's
    diamond-square; in two dimensions an amplitude of f^-(1 + log2(decay)).
    """
    white = torch.fft.rfft2(torch.randn(count, 1, height, width, generator=generator))
    frequency = (torch.fft.fftfreq(height)[:, None] ** 2 + torch.fft.rfftfreq(width) ** 2).sqrt()
    frequency[0, 0] = torch.inf  # the mean is set below
    field = torch.fft.irfft2(white * frequency ** -(1 + np.log2(decay)), s=(height, width))
    least, most = field.amin((2, 3), keepdim=True), field.amax((2, 3), keepdim=True)
    return (field - least) / (most - least)


def brightness(images: Tensor, generator: Generator, more: float) -> Tensor:
    """Raise the value of hue, saturation and value."""
    value = images.amax(dim=1, keepdim=True)
    raised = (value + more).clamp(max=1)
    return torch.where(value > 0, images * (raised / value.clamp(min=1e-6)), raised)


def contrast(images: Tensor, generator: Generator, kept: float) -> Tensor:
    """Draw each channel towards its mean."""
    return images.mean(dim=(2, 3), keepdim=True).lerp(images, kept)


def pixelate(images: Tensor, generator: Generator, share: float) -> Tensor:
    """Shrink and enlarge again, both by Pillow's box filter."""
    height, width = images.shape[2:]
    small, box = (int(width * share), int(height * share)), Image.Resampling.BOX
    whole = (Image.fromarray(image) for image in as_pixels(images))
    return as_batch([np.asarray(i.resize(small, box).resize((width, height), box)) for i in whole])


def jpeg(images: Tensor, generator: Generator, quality: int) -> Tensor:
    """Compress as JPEG."""
    return tv.jpeg((images * 255).round().byte(), quality) / 255


#: name -> function of images (B, C, H, W), a generator and strengths, and for each strength its
#: values at severities 1 to 5. In the original's order: noise, blur, weather, digital.
CORRUPTIONS: dict[str, tuple[Callable[..., Tensor], *tuple[Sequence[float], ...]]] = {
    "Gaussian noise": (gaussian_noise, (0.04, 0.08, 0.12, 0.15, 0.18)),
    "shot noise": (shot_noise, (250, 100, 50, 30, 15)),
    "defocus blur": (defocus_blur, (0.5, 1.0, 1.5, 2.5, 3.0), (0.6, 0.1, 0.1, 0.01, 0.1)),
    "motion blur": (motion_blur, (10, 10, 10, 10, 12), (1.0, 1.5, 2.0, 2.5, 3.0)),
    "zoom blur": (zoom_blur, (6, 11, 16, 21, 26)),
    "fog": (fog, (0.4, 0.7, 1.0, 1.5, 2.0), (3.0, 3.0, 2.5, 2.0, 1.75)),
    "brightness": (brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": (contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),
    "pixelate": (pixelate, (0.9, 0.8, 0.7, 0.6, 0.5)),
    "JPEG": (jpeg, (65, 58, 50, 40, 25)),
}


def corrupt(images: Tensor, name: str, severity: int, seed: int) -> Tensor:
    """Corrupt images (B, 3, H, W) in [0, 1]; all severities of one seed share their noise."""
    if name not in CORRUPTIONS or severity not in range(1, 6):
        known = ", ".join(CORRUPTIONS)
        raise ValueError(f"no corruption {name!r} of severity {severity}; 1 to 5 of {known}")
    generator = torch.Generator().manual_seed(seed)
    change, *strengths = CORRUPTIONS[name]
    return change(images, generator, *(each[severity - 1] for each in strengths)).clamp(0, 1)


def fgsm(model: nn.Module, images: Tensor, labels: Tensor, eps: float) -> Tensor:
    """Move every pixel of images (B, 3, H, W) by `eps` up the loss (fast gradient sign method)."""
    technique = FGSM(model, _loss, 0.0, 1.0)
    technique.zero_thresh = 0.0  # captum's 1e-6 would spare pixels about which a model is sure
    return technique.perturb(images.detach().requires_grad_(), eps, labels).detach()


def pgd(model: nn.Module, images: Tensor, labels: Tensor, eps: float, steps: int = 10) -> Tensor:
    """Climb the loss in small steps within `eps` of each pixel (projected gradient descent).

    From a random point of that box, by torch's global generator. A step is 2.5 · eps / steps, as in
    Madry et al., so that any point of the box can be reached.
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
    attacked = {("none", 0.0): images}
    for size in eps:
        for name, move in (("FGSM", fgsm), ("PGD", partial(pgd, steps=steps))):
            with torch.random.fork_rng():  # so that one attack does not change another
                torch.manual_seed(seed)
                attacked[name, size] = torch.cat([move(model, x, y, size) for x, y in batches])
    return attacked
