"""Trains the tiny CLIP on renders of all styles and their captions.

Contrastive, as CLIP; since many captions here are true of several images of a batch (two northern
cardinals, or "a bird"), such pairs are left out of the sum instead of being pushed apart.
Source: Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from torch import Tensor
from transformers import CLIPTokenizer

from diffcore.paperbirds.captions import Caption, draw_caption
from diffcore.paperbirds.contexts import CONTEXTS
from diffcore.paperbirds.distractors import DISTRACTORS
from diffcore.paperbirds.pretrain.autoencoder import as_input
from diffcore.paperbirds.pretrain.loop import Schedule, autocast, batches_in_order, device, train
from diffcore.paperbirds.pretrain.models import TEXT_WIDTH, TOKENS
from diffcore.paperbirds.pretrain.renders import RenderSet
from diffcore.paperbirds.species import SPECIES


def clip_config(tokenizer: CLIPTokenizer) -> dict:
    """open_clip's configuration of the tiny CLIP: a small ResNet and a two-layer text tower."""
    vision = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 24, "head_width": 32}
    text = {"context_length": TOKENS, "vocab_size": len(tokenizer), "width": TEXT_WIDTH,
            "heads": 4, "layers": 2, "hf_tokenizer_name": "."}  # fmt: skip
    return {"embed_dim": 128, "vision_cfg": vision, "text_cfg": text}


def build_clip(tokenizer: CLIPTokenizer) -> CLIP:
    """The tiny CLIP with random weights."""
    config = clip_config(tokenizer)
    return CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"])


def train_clip(
    model: CLIP, tokenizer: CLIPTokenizer, renders: RenderSet, schedule: Schedule, checkpoint: Path
) -> CLIP:
    """Train on images (N, 64, 64, 3) uint8, a caption being drawn anew at every step."""
    facts = _encode(
        renders.facts["species"], renders.facts["context"], renders.facts["distractors"]
    )

    def loss_fn(step: int) -> Tensor:
        chosen = batches_in_order(step, schedule.batch_size, len(renders.images), seed=4)
        captions = _draw_captions(renders.facts.iloc[chosen.numpy()], step)
        texts = [caption.text for caption in captions]
        tokens = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
        with autocast():
            images, words, scale = model(
                as_input(renders.images, chosen), tokens.input_ids.to(device())
            )
        logits = scale.clamp(max=100) * images.float() @ words.float().T
        true = _truth([part[chosen.numpy()] for part in facts], _encode_captions(captions))
        return contrastive_loss(logits, true.to(device()))

    return train(model, loss_fn, schedule, checkpoint, "clip")


def contrastive_loss(logits: Tensor, true: Tensor) -> Tensor:
    """Symmetric InfoNCE over (B, B) logits; other true pairs (B, B) bool do not count."""
    own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    logits = logits.masked_fill(true & ~own, -torch.inf)
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def _draw_captions(facts: pd.DataFrame, step: int) -> list[Caption]:
    rng = np.random.default_rng((4, step))
    rows = facts[["species", "context", "distractors"]].itertuples(index=False)
    return [draw_caption(*row, rng) for row in rows]


def _truth(images: list[np.ndarray], captions: list[np.ndarray]) -> Tensor:
    """(B, B) bool: caption j claims nothing that is not so in image i."""
    species = (captions[0] < 0) | (images[0][:, None] == captions[0])
    context = (captions[1] < 0) | (images[1][:, None] == captions[1])
    objects = (captions[2] & ~images[2][:, None]) == 0
    return torch.from_numpy(species & context & objects)


def _encode_captions(captions: list[Caption]) -> list[np.ndarray]:
    columns = zip(*((c.species, c.context, c.distractors) for c in captions), strict=True)
    return _encode(*columns)


def _encode(
    species: Iterable[str | None],
    context: Iterable[str | None],
    distractors: Iterable[tuple[str, ...]],
) -> list[np.ndarray]:
    """Indices of species and context (-1 = not named) and distractors as bits, each (N,)."""
    bits = [sum(1 << DISTRACTORS.index(name) for name in names) for names in distractors]
    return [
        np.array([SPECIES.index(name) if name else -1 for name in species]),
        np.array([CONTEXTS.index(name) if name else -1 for name in context]),
        np.array(bits),
    ]
