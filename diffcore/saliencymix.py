"""SaliencyMix: CutMix whose patch sits on what stands out, a baseline of the study.

After Uddin et al. (arXiv 2006.01791): the patch is centred on the most salient point of the image
it is cut from, pasted at the same place, and the labels are mixed by area. Our choice: one λ and
one box an image, where theirs serve a whole batch; and a saliency in a few lines, where theirs is
OpenCV's: how far each pixel's colour is from the mean colour of ever larger surroundings.
"""

import torch
from torch import Generator, Tensor
from torch.nn.functional import one_hot

from diffcore.mixing import box_mask, draw_lam, kept_share, patch_boxes

_SURROUNDS = (1 / 8, 1 / 4, 1 / 2)  # of the shorter side


def saliency(images: Tensor) -> Tensor:
    """Centre-surround contrast of colour.

    The sum, over three sizes of a square window, of the distance between a pixel's colour, slightly
    blurred, and the mean colour of the window around it.

    Args:
        images: (B, C, H, W), floating point.

    Returns:
        (B, H, W), 0 where a pixel is like all its surroundings, and larger where it stands out.
    """
    shorter = min(images.shape[2:])
    centre = _window_mean(images, max(1, shorter // 32))
    surrounds = [_window_mean(images, max(1, int(shorter * s / 2))) for s in _SURROUNDS]
    return sum((centre - around).square().sum(dim=1).sqrt() for around in surrounds)


def peaks(saliency_map: Tensor) -> Tensor:
    """Row and column (B, 2) of the largest value of each map (B, H, W)."""
    place = saliency_map.flatten(1).argmax(dim=1)
    width = saliency_map.shape[2]
    return torch.stack([place // width, place % width], dim=1)


class SaliencyMix:
    """Paste the salient part of another image of the batch into each; mix the labels by area.

    >>> mix = SaliencyMix(num_classes=12)
    >>> images, targets = mix(torch.rand(8, 3, 64, 64), torch.arange(8))
    >>> images.shape, targets.shape
    (torch.Size([8, 3, 64, 64]), torch.Size([8, 12]))
    """

    def __init__(self, num_classes: int, alpha: float = 1.0):
        """Take the number of classes, and α > 0 of λ ~ Beta(α, α)."""
        self.num_classes, self.alpha = num_classes, alpha

    def __call__(
        self, images: Tensor, labels: Tensor, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mix images (B, C, H, W) with labels (B,); each gives its patch to the next in the batch.

        Returns:
            Images (B, C, H, W), and targets (B, num_classes) whose rows sum to 1.
        """
        mask = self.draw_mask(images, generator)
        own = one_hot(labels, self.num_classes).to(images.dtype)
        kept = kept_share(mask).to(images.dtype)[:, None]
        mixed = torch.lerp(images, images.roll(1, 0), mask)
        return mixed, torch.lerp(own.roll(1, 0), own, kept)

    def draw_mask(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        """Draw where the image before each is pasted in: (B, 1, H, W), 1.0 there, else 0.0."""
        size = images.shape[2:]
        lam = draw_lam(len(images), self.alpha, generator).to(images.device)
        boxes = patch_boxes(lam, peaks(saliency(images.roll(1, 0))), *size)
        return box_mask(boxes, *size).to(images.dtype)


def _window_mean(images: Tensor, reach: int) -> Tensor:
    """Mean over a square window of 2 · reach + 1 pixels, cut off at the border."""
    # By differences of running sums, whose cost does not grow with the window.
    for dim in (2, 3):
        size = images.shape[dim]
        place = torch.arange(size, device=images.device)
        start, stop = (place - reach).clamp(min=0), (place + reach + 1).clamp(max=size)
        sums = torch.cat([torch.zeros_like(images.narrow(dim, 0, 1)), images.cumsum(dim)], dim)
        widths = (stop - start).view([-1 if axis == dim else 1 for axis in range(4)])
        images = (sums.index_select(dim, stop) - sums.index_select(dim, start)) / widths
    return images
