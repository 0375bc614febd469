"""The paper's mixing: a training image and a generated image of its class; the label stays.

Images are mixed at pixel level (a convex combination) or at patch level (a box of the generated
image pasted into the real one), with λ ~ Beta(α, α), the share of the *real* image. Both are one
weighted sum, by `torch.lerp`, which is exact at weights 0 and 1.

Our choice, where the public text does not settle it: α = 1; each image is mixed at one level, drawn
by chance; the patch is CutMix's box (Yun et al., arXiv 1905.04899): of the image's shape, centred
anywhere, cut off at the border, after which λ is computed anew from what is left of it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from scipy.special import betaincinv
from torch import Generator, Tensor
from torch.utils.data import default_collate


class Mixed(NamedTuple):
    """A mixed batch, of the type and on the device of the real images."""

    images: Tensor  # (B, C, H, W)
    lam: Tensor  # (B,) share of the real image, after boxes were cut off at the border
    weight: Tensor  # (B, 1, H, W) share of the real image at each pixel; its mean is `lam`


def draw_lam(count: int, alpha: float, generator: Generator | None = None) -> Tensor:
    """Draw λ ~ Beta(α, α): (count,) in [0, 1], on the generator's device.

    By inversion, since torch's Beta takes no generator. Raises ValueError unless α > 0.

    >>> draw_lam(3, alpha=1.0, generator=torch.Generator().manual_seed(0)).shape
    torch.Size([3])
    """
    if not alpha > 0:
        raise ValueError(f"alpha is {alpha}; it must be above 0")
    device = device_of(generator)
    uniform = torch.rand(count, generator=generator, device=device, dtype=torch.float64)
    return torch.as_tensor(betaincinv(alpha, alpha, uniform.cpu().numpy())).float().to(device)


def patch_boxes(lam: Tensor, centres: Tensor, height: int, width: int) -> Tensor:
    """Place boxes of area 1 - λ, (B,), around centres (B, 2) row and column, cut off at the border.

    Returns (B, 4): top, left, bottom and right, the last two exclusive. λ = 1 is an empty box, and
    λ = 0 is the whole image wherever its centre, so that both limits are exact.
    """
    # In double precision: in single a side may be rounded up to the next whole pixel.
    side = torch.where(lam > 0, (1 - lam.double()).sqrt(), 2.0)  # reaches all from any centre
    size = torch.tensor([height, width], device=lam.device)
    length = (side[:, None] * size).long()
    start = (centres - length // 2).clamp(min=0)
    stop = torch.minimum(centres + (length + 1) // 2, size)
    return torch.cat([start, stop], dim=1)


def box_mask(boxes: Tensor, height: int, width: int) -> Tensor:
    """Draw boxes (B, 4) of `patch_boxes` as a mask (B, 1, H, W): 1.0 inside, 0.0 outside."""
    top, left, bottom, right = boxes[:, :, None].unbind(1)
    rows, columns = (torch.arange(size, device=boxes.device) for size in (height, width))
    inside_rows = ((rows >= top) & (rows < bottom)).float()
    inside_columns = ((columns >= left) & (columns < right)).float()
    # Numbers rather than booleans: their product is many times faster than a logical and.
    return (inside_rows[:, :, None] * inside_columns[:, None, :])[:, None]


def kept_share(mask: Tensor) -> Tensor:
    """Compute λ anew: the share (B,) of each image that is outside its mask (B, 1, H, W)."""
    return 1 - mask.float().mean(dim=(1, 2, 3))


def pixel_mix(real: Tensor, generated: Tensor, lam: float | Tensor) -> Tensor:
    """Mix at pixel level: λ · real + (1 - λ) · generated.

    Takes images (B, C, H, W), of the same classes if the labels are to stay, and λ in [0, 1], one
    for all or (B,). Raises ValueError for shapes or devices that do not agree and for a λ outside
    its range, TypeError for images that are not floating point.

    >>> pixel_mix(torch.ones(1, 1, 1, 2), torch.zeros(1, 1, 1, 2), 0.25)
    tensor([[[[0.2500, 0.2500]]]])
    """
    _check_pair(real, generated)
    return torch.lerp(generated, real, _as_lam(lam, real).to(real)[:, None, None, None])


def patch_mix(
    real: Tensor, generated: Tensor, lam: float | Tensor, generator: Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Mix at patch level: paste a box of the generated image into the real one, same place.

    Takes what `pixel_mix` does, and a generator for the centres of the boxes. Returns the images
    (B, C, H, W) and the mask (B, 1, H, W), True where they are generated: `kept_share` of it is λ.
    """
    _check_pair(real, generated)
    mask = _draw_masks(_as_lam(lam, real), *real.shape[2:], generator, real.device).to(real)
    return torch.lerp(real, generated, mask), mask.bool()


class DiffCoReMix:
    """Mix every image of a batch with its counterpart, at pixel or at patch level.

    λ ~ Beta(`alpha`, `alpha`), α > 0: small α draw λ near 0 and 1, large ones near 1/2. A share
    `probability` of the images is mixed at all, and `patch_share` of these at patch level. An image
    without a counterpart is passed as its counterpart, which leaves it as it is.

    >>> mix = DiffCoReMix(alpha=1.0, patch_share=0.5)
    >>> mix(torch.rand(8, 3, 64, 64), torch.rand(8, 3, 64, 64)).images.shape
    torch.Size([8, 3, 64, 64])
    """

    def __init__(self, alpha: float = 1.0, patch_share: float = 0.5, probability: float = 1.0):
        """Set how λ and the level are drawn; raise ValueError for a number out of its range."""
        if not alpha > 0:
            raise ValueError(f"alpha is {alpha}; it must be above 0")
        check_shares(patch_share=patch_share, probability=probability)
        self.alpha, self.patch_share, self.probability = alpha, patch_share, probability

    def __call__(
        self, real: Tensor, generated: Tensor, generator: Generator | None = None
    ) -> Mixed:
        """Mix (B, C, H, W) with (B, C, H, W); raises as `pixel_mix` does."""
        _check_pair(real, generated)
        weight = self.draw_weight(len(real), *real.shape[2:], generator, real.device)
        images = torch.lerp(generated, real, weight.to(real.dtype))
        return Mixed(images, weight.mean(dim=(1, 2, 3)), weight)

    def collate(self, items: Sequence[tuple[Tensor, Tensor, int]]) -> tuple[Tensor, Tensor]:
        """Mix items (real, generated, label) into a batch, as a loader's ``collate_fn``.

        Returns images (B, C, H, W) and labels (B,), as of any data set, so that a training loop
        need not change. Draws from torch's global generator, which a loader seeds per worker.
        """
        real, generated, labels = default_collate(items)
        return self(real, generated).images, labels

    def draw_weight(
        self, count: int, height: int, width: int, generator: Generator | None, device: Any = "cpu"
    ) -> Tensor:
        """Draw the real images' share at each pixel, (count, 1, H, W): λ, or 1 with a box of 0.

        The draws are the same whatever the settings, so that two settings compare from one seed.
        """
        lam = draw_lam(count, self.alpha, generator)
        chances = torch.rand(2, count, generator=generator, device=device_of(generator))
        lam = torch.where(chances[0] < self.probability, lam, 1.0)
        mask = _draw_masks(lam, height, width, generator, device)
        patched = (chances[1] < self.patch_share).to(device)[:, None, None, None]
        return torch.where(patched, 1 - mask, lam.to(device)[:, None, None, None])


def device_of(generator: Generator | None) -> torch.device:
    """Return where a generator draws; None is torch's global one, on the CPU."""
    return torch.device("cpu") if generator is None else generator.device


def check_shares(**shares: float) -> None:
    """Raise ValueError for a setting outside [0, 1], by its name."""
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}; it must be in [0, 1]")


def _draw_masks(
    lam: Tensor, height: int, width: int, generator: Generator | None, device: torch.device | str
) -> Tensor:
    """Draw a box at a random place for each λ: (B, 1, H, W), on a device."""
    place = device_of(generator)
    size = torch.tensor([height, width], device=place)
    uniform = torch.rand(len(lam), 2, generator=generator, device=place, dtype=torch.float64)
    # Cut to whole numbers, so that each row and column is equally likely.
    boxes = patch_boxes(lam.to(place), (uniform * size).long(), height, width)
    return box_mask(boxes.to(device), height, width)  # four numbers per image are moved, not a mask


def _as_lam(lam: float | Tensor, real: Tensor) -> Tensor:
    """Return one λ per image, (B,)."""
    values = torch.as_tensor(lam, dtype=None if torch.is_tensor(lam) else torch.float64)
    if values.ndim > 1 or values.numel() not in {1, len(real)}:
        raise ValueError(f"lam has shape {tuple(values.shape)}; give one, or {len(real)} in a row")
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"lam must be in [0, 1], not {values.tolist()}")
    return values.expand(len(real))


def _check_pair(real: Tensor, generated: Tensor) -> None:
    """Raise unless both are floating-point batches (B, C, H, W) that agree in all."""
    if real.ndim != 4 or real.shape != generated.shape:
        shapes = f"{tuple(real.shape)} and {tuple(generated.shape)}"
        raise ValueError(f"real and generated must be (B, C, H, W) alike, got {shapes}")
    if real.device != generated.device:
        raise ValueError(f"real is on {real.device}, but generated on {generated.device}")
    if not real.is_floating_point() or real.dtype != generated.dtype:
        types = f"{real.dtype} and {generated.dtype}; scale 8-bit images to [0, 1] first"
        raise TypeError(f"real and generated must be of one floating-point type, got {types}")
