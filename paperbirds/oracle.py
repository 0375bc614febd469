"""The oracle: recognises species, context, distractors and form in an image of Paperbirds.

It only *evaluates*. It never filters, trains or chooses a setting, since its answers are the
yardstick of the study. It learned from fresh renders of all styles, half of them malformed.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from diffcore.store import verify_sums
from paperbirds.birds import SPECIES
from paperbirds.contexts import CONTEXTS, DISTRACTORS

#: The models that ship, with a SHA256SUMS beside them.
WEIGHTS = Path(__file__).with_name("weights")
_WIDTHS = (len(SPECIES), len(CONTEXTS), len(DISTRACTORS), 1, 1)


@dataclass(frozen=True)
class Reading:
    """The oracle's answers on N images."""

    species: np.ndarray  # (N,) names
    context: np.ndarray  # (N,) names
    distractors: np.ndarray  # (N, 5) probability in [0, 1] of each of DISTRACTORS
    malformed: np.ndarray  # (N,) probability in [0, 1] of anything but one whole bird
    empty: np.ndarray  # (N,) probability in [0, 1] of no bird at all

    @property
    def wellformed(self) -> np.ndarray:
        """(N,) bool: one whole bird."""
        return self.malformed < 0.5


def _convolution(width: int, out: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(width, out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(out)]


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        layers = [*_convolution(width, width), nn.ReLU(), *_convolution(width, width)]
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


class Oracle(nn.Module):
    """A small residual network: (B, 3, 64, 64) in [-1, 1] to logits of all questions."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128, 192)):
        super().__init__()
        stages, previous = [], 3
        for width in widths:
            stages += [*_convolution(previous, width, 2), nn.ReLU(), _Residual(width)]
            previous = width
        self.features = nn.Sequential(*stages)
        # Where things are matters for form (two heads), so the 4x4 grid is kept.
        self.head = nn.Linear(previous * 16, sum(_WIDTHS))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Logits of species (B, 12), context (B, 16), distractors (B, 5), malformed, empty (B,)."""
        logits = self.head(self.features(x).flatten(1))
        species, context, distractors, malformed, empty = logits.split(_WIDTHS, dim=1)
        return species, context, distractors, malformed.squeeze(1), empty.squeeze(1)

    @torch.inference_mode()
    def read(self, images: np.ndarray, batch_size: int = 256) -> Reading:
        """Read images (N, 64, 64, 3) uint8; ValueError for any other shape or type."""
        if images.ndim != 4 or images.shape[1:] != (64, 64, 3) or images.dtype != np.uint8:
            raise ValueError(
                f"the oracle reads uint8 images (N, 64, 64, 3), got {images.dtype} {images.shape}"
            )
        # Without images there is one empty batch, and an empty reading.
        batches = torch.arange(len(images)).split(batch_size)
        answers = [self(as_input(images, at)) for at in batches]
        species, context, *chances = map(torch.cat, zip(*answers, strict=True))
        return Reading(
            np.array(SPECIES)[species.argmax(1).numpy()],
            np.array(CONTEXTS)[context.argmax(1).numpy()],
            *(logits.sigmoid().numpy() for logits in chances),
        )


def as_input(images: np.ndarray, chosen: Tensor, where: torch.device | str = "cpu") -> Tensor:
    """Return some of the images (N, H, W, 3) uint8 as (B, 3, H, W) in [-1, 1] on a device."""
    picked = torch.from_numpy(images[chosen.numpy()]).to(where)  # moved as bytes
    return picked.permute(0, 3, 1, 2).float() / 127.5 - 1


def as_images(x: Tensor) -> np.ndarray:
    """Return the output of a model, (B, 3, H, W) in [-1, 1] or so, as (B, H, W, 3) uint8."""
    pixels = (x.clamp(-1, 1) * 127.5 + 127.5).round().byte()
    return pixels.permute(0, 2, 3, 1).cpu().numpy()


@cache
def load_oracle(path: Path = WEIGHTS / "oracle.safetensors") -> Oracle:
    """Load the oracle, ready to evaluate; DamageError if it is not the one that was released."""
    verify_sums(path)
    oracle = Oracle()
    oracle.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    return oracle.eval().requires_grad_(False)
