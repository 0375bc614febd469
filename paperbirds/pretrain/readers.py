"""Losses of the two models that read images: the tiny CLIP and the oracle.

CLIP learns from the web in all styles. Since many captions fit several images of a batch (two of a
northern cardinal, or "a bird"), such pairs are left out of the sum instead of being pushed apart;
whether they fit is told by the captions alone, right or wrong. The oracle learns from fresh renders
of whole birds and of malformed ones, and knows what they show.
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
from paperbirds.captions import draw_caption
from paperbirds.contexts import CONTEXTS, DISTRACTORS
from paperbirds.oracle import Oracle, as_input
from paperbirds.pretrain.loop import autocast, batches_in_order, device
from paperbirds.pretrain.models import TEXT_WIDTH, TOKENS, tokenize
from paperbirds.pretrain.renders import RenderSet

_IGNORE = -100  # the species of an image without a bird
_LATENT_NOISE = 0.15  # the most that latents are off, at unit scale


def clip_config(tokenizer: CLIPTokenizer) -> dict:
    """open_clip's configuration of the tiny CLIP: a small ResNet and a two-layer text tower."""
    vision = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 24, "head_width": 32}
    text = {"context_length": TOKENS, "vocab_size": len(tokenizer), "width": TEXT_WIDTH,
            "heads": 4, "layers": 2, "hf_tokenizer_name": "."}  # fmt: skip
    return {"embed_dim": 128, "vision_cfg": vision, "text_cfg": text}


def clip_loss(
    model: CLIP, tokenizer: CLIPTokenizer, renders: RenderSet, batch_size: int, step: int
) -> Tensor:
    """The loss of one step, for which a caption of every image is drawn anew."""
    chosen = batches_in_order(step, batch_size, len(renders.images), seed=4)
    rng = np.random.default_rng((4, step))
    shown = renders.metadata.iloc[chosen.numpy()]
    rows = shown[["species", "context", "distractors", "flaw"]].to_numpy()
    captions = [draw_caption(*row, rng) for row in rows]
    # Whether caption j claims nothing but what image i is said to show.
    true = torch.tensor([[caption.is_true(*row) for caption in captions] for row in rows])
    tokens = tokenize(tokenizer, [caption.text for caption in captions])
    with autocast():
        x = as_input(renders.images, chosen, device())
        images, words, scale = model(x, tokens.to(device()))
    logits = scale.clamp(max=100) * images.float() @ words.float().T
    return contrastive_loss(logits, true.to(device()))


def contrastive_loss(logits: Tensor, true: Tensor) -> Tensor:
    """Symmetric InfoNCE over (B, B) logits; other true pairs (B, B) bool do not count."""
    own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    logits = logits.masked_fill(true & ~own, -torch.inf)
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def oracle_loss(
    model: Oracle, autoencoder: AutoencoderKL, sets: list[RenderSet], batch_size: int, step: int
) -> Tensor:
    """The loss of one step, on a batch with an equal part of each set.

    The sets are renders and such that the sampler has drawn once more; every other image goes
    through the autoencoder too, as what the oracle judges has, and the others are softened by a
    random amount. None of this must count as malformed.
    """
    images, told = [], []
    for renders in sets:
        chosen = batches_in_order(step, batch_size // len(sets), len(renders.images), seed=3)
        images.append(as_input(renders.images, chosen, device()))
        told.append(renders.metadata.iloc[chosen.numpy()])
    generator = torch.Generator().manual_seed(step)
    x = _soften(torch.cat(images), generator)
    with autocast():
        x[::2] = _reconstruct(autoencoder, torch.cat(images)[::2], generator)
        logits = model(x)
    targets = encode_targets(pd.concat(told, ignore_index=True))
    return _answer_loss(logits, [answer.to(device()) for answer in targets])


@torch.no_grad()
def _reconstruct(autoencoder: AutoencoderKL, x: Tensor, generator: torch.Generator) -> Tensor:
    """Images as the autoencoder gives them back from latents that are slightly off."""
    latents = autoencoder.encode(x).latent_dist.mode()
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    off = _LATENT_NOISE * torch.rand(len(x), 1, 1, 1, generator=generator).to(latents)
    latents = latents + off * noise / autoencoder.config.scaling_factor
    return autoencoder.decode(latents).sample.clamp(-1, 1).float()


def _answer_loss(logits: tuple[Tensor, ...], targets: list[Tensor]) -> Tensor:
    """Sum over the oracle's five questions; a bird that is not there has no species."""
    species, context, distractors, malformed, empty = (part.float() for part in logits)
    return (
        F.cross_entropy(species, targets[0], ignore_index=_IGNORE)
        + F.cross_entropy(context, targets[1])
        + 2 * F.binary_cross_entropy_with_logits(distractors, targets[2])
        + 2 * F.binary_cross_entropy_with_logits(malformed, targets[3])
        + F.binary_cross_entropy_with_logits(empty, targets[4])
    )


def encode_targets(metadata: pd.DataFrame) -> list[Tensor]:
    """Targets: species, context (N,) int64; distractors (N, 5), malformed, empty (N,) float."""
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
