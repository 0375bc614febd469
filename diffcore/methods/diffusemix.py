"""DiffuseMix: half of an image, half of its restyled version, and a fractal blended in.

After Islam et al. (CVPR 2024, arXiv 2405.14881) and their code: four ways to halve, a soft seam of
20 pixels at 256, a share of 0.2 for the fractal. `diffcore.generation.restyle` restyles the images.
Our choice: the fractals are Julia sets drawn here, where the authors use a set of pictures.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Generator, Tensor

from diffcore.methods.base import Method, choose
from diffcore.mixing.mix import device_of

SEAM = 0.078  # width of the soft seam, in sides of the image
FRACTAL_SHARE = 0.2  # weight of the fractal
FRACTALS = 64  # to choose from
_ITERATIONS = 40
_BAILOUT = 8.0  # beyond 2, where points escape: makes the count of iterations smooth


@dataclass(frozen=True)
class DiffuseMix(Method):
    """Apply `diffuse_mix` to a share `probability` of the images; the labels stay."""

    name, sees = "diffusemix", "restyled"
    probability: float = 1.0
    seed: int = 0  # of the fractals

    def _change(self, real: Tensor, counterparts: Tensor, generator: Generator | None) -> Tensor:
        chosen = choose(self.probability, real, generator)
        fractals = draw_fractals(FRACTALS, real.shape[-1], self.seed)
        return torch.where(chosen, diffuse_mix(real, counterparts, fractals, generator), real)


def diffuse_mix(
    real: Tensor, restyled: Tensor, fractals: Tensor, generator: Generator | None = None
) -> Tensor:
    """Join halves of images (B, C, H, W) and of their restyled versions, and blend a fractal in.

    Half and fractal, one of (F, C, H, W), are drawn for each image; without fractals (F = 0) none
    is blended in.

    >>> diffuse_mix(*torch.rand(2, 8, 3, 32, 32), draw_fractals(4, size=32)).shape
    torch.Size([8, 3, 32, 32])
    """
    count, device = (len(real),), device_of(generator)
    halves = torch.randint(4, count, generator=generator, device=device)
    images = torch.lerp(restyled, real, half_weights(halves, *real.shape[2:], SEAM).to(real))
    if not len(fractals):
        return images
    chosen = torch.randint(len(fractals), count, generator=generator, device=device)
    return images.lerp(fractals[chosen.to(fractals.device)].to(real), FRACTAL_SHARE)


def half_weights(halves: Tensor, height: int, width: int, seam: float) -> Tensor:
    """Return the weight of the real image at each pixel when one half is kept: (B, 1, H, W).

    Halves (B,) are 0 left, 1 right, 2 top and 3 bottom. `seam` is the width of the linear
    transition, in sides of the image; 0 is a hard edge. The mean weight is 1/2.
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
    """Draw coloured Julia sets, once per process: (count, 3, size, size) in [0, 1].

    Their constants lie just outside the main cardioid of the Mandelbrot set, where the pictures are
    richest. Three cosines of random phase colour how fast each point escapes.
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
