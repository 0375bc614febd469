"""Trains the oracle on fresh renders: whole birds and malformed ones, all styles."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from diffcore.paperbirds.contexts import CONTEXTS
from diffcore.paperbirds.distractors import DISTRACTORS
from diffcore.paperbirds.oracle import Oracle
from diffcore.paperbirds.pretrain.autoencoder import as_input
from diffcore.paperbirds.pretrain.loop import Schedule, autocast, batches_in_order, device, train
from diffcore.paperbirds.pretrain.renders import RenderSet
from diffcore.paperbirds.species import SPECIES

_IGNORE = -100  # the species of an image without a bird


def train_oracle(
    model: Oracle, sets: list[RenderSet], schedule: Schedule, checkpoint: Path
) -> Oracle:
    """Train on batches with an equal part of each set.

    Images are softened by a random amount: a picture that went through the autoencoder is slightly
    blurred, and must not count as malformed for that.
    """
    targets = [encode_facts(s.facts) for s in sets]
    part = schedule.batch_size // len(sets)

    def loss_fn(step: int) -> Tensor:
        chosen = [batches_in_order(step, part, len(s.images), seed=3) for s in sets]
        x = torch.cat([as_input(s.images, at) for s, at in zip(sets, chosen, strict=True)])
        y = [[q[at] for q in t] for t, at in zip(targets, chosen, strict=True)]
        x = _soften(x, torch.Generator().manual_seed(step))
        with autocast():
            logits = model(x)
        return oracle_loss(
            logits, [torch.cat(parts).to(device()) for parts in zip(*y, strict=True)]
        )

    return train(model, loss_fn, schedule, checkpoint, "oracle")


def oracle_loss(logits: tuple[Tensor, ...], targets: list[Tensor]) -> Tensor:
    """Sum over the oracle's four questions; a bird that is not there has no species."""
    species, context, distractors, malformed = (part.float() for part in logits)
    return (
        F.cross_entropy(species, targets[0], ignore_index=_IGNORE)
        + F.cross_entropy(context, targets[1])
        + 2 * F.binary_cross_entropy_with_logits(distractors, targets[2])
        + 2 * F.binary_cross_entropy_with_logits(malformed, targets[3])
    )


def encode_facts(facts: pd.DataFrame) -> list[Tensor]:
    """Targets: species (N,), context (N,) int64; distractors (N, 5), malformed (N,) float."""
    species = facts["species"].map(SPECIES.index).where(facts["malformation"] != "no bird", _IGNORE)
    present = [[name in shown for name in DISTRACTORS] for shown in facts["distractors"]]
    return [
        torch.tensor(species.to_numpy(np.int64)),
        torch.tensor(facts["context"].map(CONTEXTS.index).to_numpy(np.int64)),
        torch.tensor(present, dtype=torch.float32),
        torch.tensor(facts["malformation"].notna().to_numpy(np.float32)),
    ]


def _soften(x: Tensor, generator: torch.Generator) -> Tensor:
    """Blend each image with its 3x3 average by a random weight in [0, 0.8]."""
    weight = 0.8 * torch.rand(len(x), 1, 1, 1, generator=generator).to(x.device)
    return x.lerp(F.avg_pool2d(F.pad(x, (1, 1, 1, 1), "replicate"), 3, stride=1), weight)
