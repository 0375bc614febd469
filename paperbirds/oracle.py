"""The oracle: reads species, context, distractors and form off an image of Paperbirds.

It is used to *evaluate* only, never to filter or to train: what it says is the yardstick of the
study. It learns from fresh renders of all styles, half of them malformed.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from paperbirds.birds import SPECIES
from paperbirds.contexts import CONTEXTS, DISTRACTORS

_WIDTHS = (len(SPECIES), len(CONTEXTS), len(DISTRACTORS), 1, 1)


@dataclass(frozen=True)
class Reading:
    """What the oracle says of N images."""

    species: np.ndarray  # (N,) names
    context: np.ndarray  # (N,) names
    distractors: np.ndarray  # (N, 5) probability in [0, 1] of each of DISTRACTORS
    malformed: np.ndarray  # (N,) probability in [0, 1] of anything but one whole bird
    empty: np.ndarray  # (N,) probability in [0, 1] of no bird at all

    @property
    def wellformed(self) -> np.ndarray:
        """(N,) bool: one whole bird."""
        return self.malformed < 0.5


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


class Oracle(nn.Module):
    """A small residual network: (B, 3, 64, 64) in [-1, 1] to logits of all questions."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128, 192)):
        super().__init__()
        stages, previous = [], 3
        for width in widths:
            stages += [
                nn.Conv2d(previous, width, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(width), nn.ReLU(), _Residual(width),
            ]  # fmt: skip
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
        """Read images (N, 64, 64, 3) uint8; raises ValueError for any other shape or type."""
        if images.ndim != 4 or images.shape[1:] != (64, 64, 3) or images.dtype != np.uint8:
            raise ValueError(
                f"the oracle reads uint8 images (N, 64, 64, 3), got {images.dtype} {images.shape}"
            )
        # No images make one empty batch, so that they get an empty reading.
        batches = torch.arange(len(images)).split(batch_size)
        parts = [self(as_input(images, at)) for at in batches]
        species, context, distractors, malformed, empty = map(torch.cat, zip(*parts, strict=True))
        return Reading(
            species=np.array(SPECIES)[species.argmax(1).numpy()],
            context=np.array(CONTEXTS)[context.argmax(1).numpy()],
            distractors=distractors.sigmoid().numpy(),
            malformed=malformed.sigmoid().numpy(),
            empty=empty.sigmoid().numpy(),
        )


def as_input(images: np.ndarray, chosen: Tensor, where: torch.device | str = "cpu") -> Tensor:
    """Images uint8 (N, H, W, 3) -> those chosen as float (B, 3, H, W) in [-1, 1] on a device."""
    picked = torch.from_numpy(images[chosen.numpy()]).to(where)  # moved as bytes
    return picked.permute(0, 3, 1, 2).float() / 127.5 - 1


def as_images(x: Tensor) -> np.ndarray:
    """What a model draws, (B, 3, H, W) about [-1, 1], as images (B, H, W, 3) uint8."""
    pixels = (x.clamp(-1, 1) * 127.5 + 127.5).round().byte()
    return pixels.permute(0, 2, 3, 1).cpu().numpy()
