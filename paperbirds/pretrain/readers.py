"""Losses of the two models that recognise what an image shows: the tiny CLIP and the oracle.

CLIP learns from captioned images in all styles. Many captions fit several images of a batch, such
as two of a northern cardinal, or "a bird". Such pairs are left out of the sum instead of being
pushed apart. Whether they fit follows from the captions alone, right or wrong. The oracle learns
the truth about fresh renders of whole birds and of malformed ones.
Source: Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021.
"""

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from open_clip.model import CLIP
from torch import Tensor
from transformers import CLIPTokenizer

from paperbirds.birds import SPECIES
from paperbirds.captions import Subject, draw_caption
from paperbirds.contexts import CONTEXTS, DISTRACTORS
from paperbirds.oracle import Oracle, as_input
from paperbirds.pretrain.loop import autocast, batches_in_order, device
from paperbirds.pretrain.models import tokenize
from paperbirds.pretrain.renders import RenderSet

_IGNORE = -100  # the species of an image without a bird
_LATENT_NOISE = 0.15  # largest noise level of latents, at unit scale


def clip_loss(
    model: CLIP, tokenizer: CLIPTokenizer, renders: RenderSet, batch_size: int, step: int
) -> Tensor:
    """Return the loss of one step, for which a caption of every image is drawn anew."""
    chosen = batches_in_order(step, batch_size, len(renders.images), seed=4)
    rng = np.random.default_rng((4, step))
    shown = renders.metadata.iloc[chosen.numpy()]
    subjects = [Subject(*row) for row in shown.itertuples(index=False)]
    texts, named = zip(*(draw_caption(subject, rng) for subject in subjects), strict=True)
    # Whether caption j holds for image i, as far as the subject of image i is known.
    true = torch.tensor([[part.holds_for(subject) for part in named] for subject in subjects])
    tokens = tokenize(tokenizer, list(texts))
    with autocast():
        x = as_input(renders.images, chosen, device())
        images, words, scale = model(x, tokens.to(device()))
    logits = scale.clamp(max=100) * images.float() @ words.float().T
    return contrastive_loss(logits, true.to(device()))


def contrastive_loss(logits: Tensor, true: Tensor) -> Tensor:
    """Return the symmetric InfoNCE of (B, B) logits, without the other true pairs (B, B) bool."""
    pairs = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    logits = logits.masked_fill(true & ~pairs, -torch.inf)
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def oracle_loss(
    model: Oracle, autoencoder: AutoencoderKL, sets: list[RenderSet], batch_size: int, step: int
) -> Tensor:
    """Return the loss of one step, on a batch with an equal part of each set.

    The sets are renders and such that the sampler has drawn once more. Every other image goes
    through the autoencoder, as generated images do; the rest is softened by a random amount. None
    of this must count as malformed.
    """
    images, facts = [], []
    for renders in sets:
        chosen = batches_in_order(step, batch_size // len(sets), len(renders.images), seed=3)
        images.append(as_input(renders.images, chosen, device()))
        facts.append(renders.metadata.iloc[chosen.numpy()])
    generator = torch.Generator().manual_seed(step)
    x = _soften(torch.cat(images), generator)
    with autocast():
        x[::2] = _reconstruct(autoencoder, torch.cat(images)[::2], generator)
        logits = model(x)
    targets = encode_targets(pd.concat(facts, ignore_index=True))
    return _answer_loss(logits, [answer.to(device()) for answer in targets])


@torch.no_grad()
def _reconstruct(autoencoder: AutoencoderKL, x: Tensor, generator: torch.Generator) -> Tensor:
    """Decode images from their latents with a little noise on these."""
    latents = autoencoder.encode(x).latent_dist.mode()
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    level = _LATENT_NOISE * torch.rand(len(x), 1, 1, 1, generator=generator).to(latents)
    latents = latents + level * noise / autoencoder.config.scaling_factor
    return autoencoder.decode(latents).sample.clamp(-1, 1).float()


def _answer_loss(logits: tuple[Tensor, ...], targets: list[Tensor]) -> Tensor:
    """Sum over the oracle's five questions; an image without a bird has no species."""
    species, context, *present = (part.float() for part in logits)
    loss = F.cross_entropy(species, targets[0], ignore_index=_IGNORE)
    loss = loss + F.cross_entropy(context, targets[1])
    for weight, answer, target in zip((2, 2, 1), present, targets[2:], strict=True):
        loss = loss + weight * F.binary_cross_entropy_with_logits(answer, target)
    return loss


def encode_targets(metadata: pd.DataFrame) -> list[Tensor]:
    """Return species, context (N,) int64, distractors (N, 5), malformed and empty (N,) float."""
    there = metadata["malformation"] != "no bird"
    species = metadata["species"].map(SPECIES.index).where(there, _IGNORE)
    present = [[name in shown for name in DISTRACTORS] for shown in metadata["distractors"]]
    return [
        torch.tensor(species.to_numpy(np.int64)),
        torch.tensor(metadata["context"].map(CONTEXTS.index).to_numpy(np.int64)),
        torch.tensor(present, dtype=torch.float32),
        torch.tensor(metadata["malformation"].notna().to_numpy(np.float32)),
        torch.tensor((~there).to_numpy(np.float32)),
    ]


def _soften(x: Tensor, generator: torch.Generator) -> Tensor:
    """Blend each image with its 3x3 average by a random weight in [0, 0.8]."""
    weight = 0.8 * torch.rand(len(x), 1, 1, 1, generator=generator).to(x.device)
    return x.lerp(F.avg_pool2d(F.pad(x, (1, 1, 1, 1), "replicate"), 3, stride=1), weight)
