"""DiffuseMix, which the paper sets itself apart from: halves of image and edit, and a fractal.

After Islam et al. (CVPR 2024, arXiv 2405.14881) and their code: four ways to halve, a soft seam of
20 pixels at 256, a fractal's share of 0.2; the label stays. `diffcore.generation.edit` makes the
edits. Our choice: the fractals are Julia sets, drawn here, where theirs are a set of pictures.
"""

from functools import lru_cache

import numpy as np
import torch
from torch import Generator, Tensor

from diffcore.mixing.mix import Mixed, check_shares, device_of

_ITERATIONS = 40
_BAILOUT = 8.0  # beyond 2, where points escape: makes the count of iterations smooth


class DiffuseMix:
    """Put half of each image and half of its edit together, and blend a fractal in.

    >>> mix = DiffuseMix(draw_fractals(4, size=32))
    >>> mix(torch.rand(8, 3, 32, 32), torch.rand(8, 3, 32, 32)).images.shape
    torch.Size([8, 3, 32, 32])
    """

    def __init__(self, fractals: Tensor, seam: float = 20 / 256, fractal_share: float = 0.2):
        """Take fractals (F, C, H, W) in [0, 1]; seam and share in [0, 1], else ValueError."""
        check_shares(seam=seam, fractal_share=fractal_share)
        self.fractals, self.seam, self.fractal_share = fractals, seam, fractal_share

    def __call__(self, real: Tensor, edited: Tensor, generator: Generator | None = None) -> Mixed:
        """Mix images (B, C, H, W) with their edits; half and fractal are drawn for each.

        The weights are the real images': what they and the fractal's share leave is the edits'.
        """
        count, device = (len(real),), device_of(generator)
        halves = torch.randint(4, count, generator=generator, device=device)
        chosen = torch.randint(len(self.fractals), count, generator=generator, device=device)
        weight = half_weights(halves, *real.shape[2:], self.seam).to(real)
        fractals = self.fractals[chosen.to(self.fractals.device)].to(real)
        images = torch.lerp(edited, real, weight).lerp(fractals, self.fractal_share)
        weight = (1 - self.fractal_share) * weight
        return Mixed(images, weight.mean(dim=(1, 2, 3)), weight)


def half_weights(halves: Tensor, height: int, width: int, seam: float) -> Tensor:
    """Share of the real image at each pixel when one half of it is kept: (B, 1, H, W).

    Halves (B,) are 0 left, 1 right, 2 top and 3 bottom; `seam` is the width of the linear
    transition, in sides of the image, and 0 a hard one. The mean is 1/2.
    """
    down, across = torch.meshgrid(_ramp(height, seam), _ramp(width, seam), indexing="ij")
    kinds = torch.stack([across, across.flip(1), down, down.flip(0)])
    return kinds[halves.cpu()][:, None].to(halves.device)


def _ramp(length: int, seam: float) -> Tensor:
    """Fall from 1 to 0 around the middle of a line: (length,), 1/2 on average."""
    distance = (torch.arange(length) + 0.5) / length - 0.5
    return (0.5 - distance / max(seam, 1e-6)).clamp(0, 1)


@lru_cache(maxsize=2)
def draw_fractals(count: int, size: int, seed: int = 0) -> Tensor:
    """Draw Julia sets in colours of their own, once a process: (count, 3, size, size) in [0, 1].

    Their constants lie just outside the main cardioid of the Mandelbrot set, where the pictures are
    richest; how fast each point escapes is coloured by three cosines of random phase.
    """
    rng = np.random.default_rng(seed)
    angle, beyond = rng.uniform(0, 2 * np.pi, count), rng.uniform(1.02, 1.12, count)
    cardioid = np.exp(1j * angle) / 2 - np.exp(2j * angle) / 4
    speed = _escape_speed(cardioid * beyond, rng.uniform(0.9, 1.4, count), size)
    phase = rng.uniform(0, 2 * np.pi, (count, 3, 1, 1))
    cycles = rng.uniform(0.8, 2.0, (count, 1, 1, 1))
    colours = 0.5 - 0.5 * np.cos(2 * np.pi * cycles * speed[:, None] + phase)
    return torch.from_numpy(colours.astype(np.float32))


def _escape_speed(constants: np.ndarray, reach: np.ndarray, size: int) -> np.ndarray:
    """Iterate z² + c over squares of half side `reach`: (N, size, size) in [0, 1], smooth."""
    axis = np.linspace(-1, 1, size)
    z = reach[:, None, None] * (axis[None, None, :] + 1j * axis[None, :, None])
    steps = np.full(z.shape, float(_ITERATIONS))
    for step in range(_ITERATIONS):
        z = np.where(np.abs(z) < _BAILOUT, z * z + constants[:, None, None], z)
        escaped = (np.abs(z) >= _BAILOUT) & (steps == _ITERATIONS)
        # The part of a step by which the bailout was overshot.
        steps[escaped] = step - np.log2(np.log(np.abs(z[escaped])) / np.log(_BAILOUT))
    return np.log1p(steps.clip(min=0)) / np.log1p(_ITERATIONS)
