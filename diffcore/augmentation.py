"""The base augmentation of every method: a random crop, enlarged again, and a horizontal flip.

The "Inception" crop (Szegedy et al., arXiv 1409.4842) as torchvision's `RandomResizedCrop` takes it
from one image at a time, here for a whole batch on any device, one crop an image. It keeps the
aspect ratio: a stretched bird is no bird of its species (our choice).
"""

import torch
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, grid_sample


def crop_and_flip(images: Tensor, scale: float, generator: Generator | None = None) -> Tensor:
    """Crop each image, enlarge the crop to the image's size, and flip half of them.

    Args:
        images: (B, C, H, W), floating point.
        scale: least area of a crop, as a share of the image's, in (0, 1]; 1 only flips.
        generator: draws one crop and one flip an image.

    Raises:
        ValueError: for a scale outside (0, 1].

    >>> crop_and_flip(torch.rand(8, 3, 64, 64), scale=0.5).shape
    torch.Size([8, 3, 64, 64])
    """
    if not 0 < scale <= 1:
        raise ValueError(f"scale is {scale}; it must be above 0 and at most 1")
    device = "cpu" if generator is None else generator.device
    area, across, down, chance = torch.rand(4, len(images), generator=generator, device=device)
    side = (scale + (1 - scale) * area).sqrt()
    maps = torch.zeros(len(images), 2, 3, device=device)
    maps[:, 0, 0] = torch.where(chance < 0.5, -side, side)
    maps[:, 1, 1] = side
    maps[:, :, 2] = (1 - side)[:, None] * (2 * torch.stack([across, down], dim=1) - 1)
    grid = affine_grid(maps.to(images), list(images.shape), align_corners=False)
    return grid_sample(images, grid, padding_mode="border", align_corners=False)
