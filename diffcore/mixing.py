"""Mixing: a training image and a generated image of the same class become one; the label stays.

The fourth step of the paper, which mixes at two levels: pixel (a convex combination) and patch (a
region of the generated image pasted into the real one), with the weight λ ~ Beta(α, α). Here λ is
always the share of the *real* image, one λ an image, and nothing loops over images.

Both levels are one weighted sum, with a weight per image or per pixel. It is taken with
`torch.lerp`, which is exact at weights 0 and 1 and never leaves the range between its two sources.

Our choice, where the public text does not settle it: α = 1; each image is mixed at one level, drawn
by chance; the patch is the box of CutMix (Yun et al., arXiv 1905.04899): the image's shape, centred
anywhere, cut off at the border, after which λ is computed anew from what is left of it.
"""

from typing import NamedTuple

import torch
from scipy.special import betaincinv
from torch import Generator, Tensor


class Mixed(NamedTuple):
    """A mixed batch.

    Attributes:
        images: (B, C, H, W), of the type and on the device of the real images.
        lam: (B,) share of the real image in each, after boxes were cut off at the border.
        weight: (B, 1, H, W) share of the real image at each pixel; its mean is `lam`.
    """

    images: Tensor
    lam: Tensor
    weight: Tensor


# ---------------------------------------------------------------------------------------- the parts
def draw_lam(count: int, alpha: float, generator: Generator | None = None) -> Tensor:
    """Draw λ ~ Beta(α, α): (count,) in [0, 1], on the generator's device.

    By inversion, since torch's own Beta takes no generator.

    >>> draw_lam(3, alpha=1.0, generator=torch.Generator().manual_seed(0)).shape
    torch.Size([3])

    Raises:
        ValueError: unless alpha is above 0.
    """
    if not alpha > 0:
        raise ValueError(f"alpha is {alpha}; it must be above 0")
    device = _device(generator)
    uniform = torch.rand(count, generator=generator, device=device, dtype=torch.float64)
    return torch.as_tensor(betaincinv(alpha, alpha, uniform.cpu().numpy())).float().to(device)


def patch_boxes(lam: Tensor, centres: Tensor, height: int, width: int) -> Tensor:
    """Boxes of area 1 - λ around their centres, cut off at the border of the image.

    Args:
        lam: (B,) in [0, 1].
        centres: (B, 2) row and column, whole numbers inside the image.
        height: of the image, pixels.
        width: of the image, pixels.

    Returns:
        (B, 4) top, left, bottom and right; bottom and right are exclusive. λ = 1 is an empty box,
        and λ = 0 the whole image wherever its centre, so that both limits are exact.
    """
    # In double precision, as in single a side may be rounded up to the next whole pixel.
    side = (1 - lam.double()).sqrt()
    side = torch.where(lam > 0, side, 2.0)  # reaches every border from any centre
    size = torch.tensor([height, width], device=lam.device)
    length = (side[:, None] * size).long()
    start = (centres - length // 2).clamp(min=0)
    stop = torch.minimum(centres + (length + 1) // 2, size)
    return torch.cat([start, stop], dim=1)


def box_mask(boxes: Tensor, height: int, width: int) -> Tensor:
    """Draw boxes (B, 4) of `patch_boxes` as a mask (B, 1, H, W): 1.0 inside, 0.0 outside."""
    top, left, bottom, right = boxes[:, :, None].unbind(1)
    rows = torch.arange(height, device=boxes.device)
    columns = torch.arange(width, device=boxes.device)
    inside_rows = ((rows >= top) & (rows < bottom)).float()
    inside_columns = ((columns >= left) & (columns < right)).float()
    # Numbers rather than booleans: their product is many times faster than a logical and.
    return (inside_rows[:, :, None] * inside_columns[:, None, :])[:, None]


def kept_share(mask: Tensor) -> Tensor:
    """Compute λ anew: the share (B,) of each image that is outside its mask (B, 1, H, W)."""
    return 1 - mask.float().mean(dim=(1, 2, 3))


# --------------------------------------------------------------------------------------- the levels
def pixel_mix(real: Tensor, generated: Tensor, lam: float | Tensor) -> Tensor:
    """Mix at pixel level: λ · real + (1 - λ) · generated.

    Args:
        real: (B, C, H, W), floating point.
        generated: like `real`; of the same classes if the labels are to stay.
        lam: share of the real image in [0, 1], one for all or (B,).

    Raises:
        ValueError: for shapes or devices that do not agree, or a λ outside [0, 1].
        TypeError: for images that are not floating point.

    >>> pixel_mix(torch.ones(1, 1, 1, 2), torch.zeros(1, 1, 1, 2), 0.25)
    tensor([[[[0.2500, 0.2500]]]])
    """
    _check_pair(real, generated)
    return torch.lerp(generated, real, _as_lam(lam, real).to(real)[:, None, None, None])


def patch_mix(
    real: Tensor, generated: Tensor, lam: float | Tensor, generator: Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Mix at patch level: paste a box of the generated image into the real one, same place.

    Args:
        real: (B, C, H, W), floating point.
        generated: like `real`; of the same classes if the labels are to stay.
        lam: share of the real image asked for, in [0, 1], one for all or (B,).
        generator: draws the centres of the boxes, the same on every device.

    Returns:
        The mixed images (B, C, H, W), and the mask (B, 1, H, W), True where the generated image
        is. The λ that came of it is ``kept_share(mask)``.

    Raises:
        ValueError: for shapes or devices that do not agree, or a λ outside [0, 1].
        TypeError: for images that are not floating point.
    """
    _check_pair(real, generated)
    mask = _draw_masks(_as_lam(lam, real), *real.shape[2:], generator).to(real)
    return torch.lerp(real, generated, mask), mask.bool()


class DiffCoReMix:
    """Mix every image of a batch with its counterpart, at pixel or at patch level.

    An image without a counterpart can be passed as its own, which leaves it as it is. Labels are
    not asked for: both sources show the same class, so they stay.

    >>> mix = DiffCoReMix(alpha=1.0, patch_share=0.5)
    >>> mix(torch.rand(8, 3, 64, 64), torch.rand(8, 3, 64, 64)).images.shape
    torch.Size([8, 3, 64, 64])
    """

    def __init__(self, alpha: float = 1.0, patch_share: float = 0.5, probability: float = 1.0):
        """Set how λ and the level are drawn.

        Args:
            alpha: of Beta(α, α), above 0; small ones draw λ near 0 and 1, large ones near 1/2.
            patch_share: share of mixed images that are mixed at patch level, in [0, 1].
            probability: share of images that are mixed at all, in [0, 1].

        Raises:
            ValueError: for a number out of its range.
        """
        if not alpha > 0:
            raise ValueError(f"alpha is {alpha}; it must be above 0")
        for name, value in (("patch_share", patch_share), ("probability", probability)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; it must be in [0, 1]")
        self.alpha, self.patch_share, self.probability = alpha, patch_share, probability

    def __call__(
        self, real: Tensor, generated: Tensor, generator: Generator | None = None
    ) -> Mixed:
        """Mix (B, C, H, W) with (B, C, H, W); raises as `pixel_mix` does."""
        _check_pair(real, generated)
        weight = self.draw_weight(len(real), *real.shape[2:], generator).to(real.device)
        images = torch.lerp(generated, real, weight.to(real.dtype))
        return Mixed(images, weight.mean(dim=(1, 2, 3)), weight)

    def draw_weight(
        self, count: int, height: int, width: int, generator: Generator | None = None
    ) -> Tensor:
        """Draw the real images' share at each pixel, (count, 1, H, W): λ, or 1 with a box of 0.

        The draws are the same in number and order whatever the settings, so that two settings can
        be compared from one seed.
        """
        lam = draw_lam(count, self.alpha, generator)
        chances = torch.rand(2, count, generator=generator, device=_device(generator))
        lam = torch.where(chances[0] < self.probability, lam, 1.0)
        mask = _draw_masks(lam, height, width, generator)
        patched = chances[1] < self.patch_share
        even = torch.where(patched, 1.0, lam)
        return even[:, None, None, None] - patched.float()[:, None, None, None] * mask


# ------------------------------------------------------------------------------------------ helpers
def _draw_masks(lam: Tensor, height: int, width: int, generator: Generator | None) -> Tensor:
    """Draw a box at a random place for each λ: (B, 1, H, W), on the generator's device."""
    device = _device(generator)
    size = torch.tensor([height, width], device=device)
    uniform = torch.rand(len(lam), 2, generator=generator, device=device, dtype=torch.float64)
    # Below 1 times a whole number, cut to a whole number: each row and column equally likely.
    boxes = patch_boxes(lam.to(device), (uniform * size).long(), height, width)
    return box_mask(boxes, height, width)


def _device(generator: Generator | None) -> torch.device:
    return torch.device("cpu") if generator is None else generator.device


def _as_lam(lam: float | Tensor, real: Tensor) -> Tensor:
    """Give every image its λ, (B,); raises ValueError for another shape or a λ outside [0, 1]."""
    values = torch.as_tensor(lam, dtype=None if torch.is_tensor(lam) else torch.float64)
    if values.ndim > 1 or values.numel() not in {1, len(real)}:
        raise ValueError(f"lam has shape {tuple(values.shape)}; give one, or {len(real)} in a row")
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"lam must be in [0, 1], found {values.tolist()}")
    return values.expand(len(real))


def _check_pair(real: Tensor, generated: Tensor) -> None:
    """Raise unless both are floating-point batches (B, C, H, W) that agree in all."""
    if real.ndim != 4 or real.shape != generated.shape:
        raise ValueError(
            "real and generated must be (B, C, H, W) alike, "
            f"got {tuple(real.shape)} and {tuple(generated.shape)}"
        )
    if real.device != generated.device:
        raise ValueError(f"real is on {real.device}, but generated on {generated.device}")
    if not real.is_floating_point() or real.dtype != generated.dtype:
        raise TypeError(
            "real and generated must be of one floating-point type, "
            f"got {real.dtype} and {generated.dtype}; scale 8-bit images to [0, 1] first"
        )
