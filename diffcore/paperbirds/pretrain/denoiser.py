"""Trains UNet and text encoder on captions and latents, by the sampler's own preconditioning.

The loss is the squared error of the v-prediction, that is of the denoised latents divided by the
scheduler's output scale, at log-normally distributed noise levels. Source: Karras et al.,
Elucidating the Design Space of Diffusion-Based Generative Models, 2022.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import EDMEulerScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from diffcore.paperbirds.captions import draw_caption
from diffcore.paperbirds.contexts import SIZE
from diffcore.paperbirds.pretrain.loop import Schedule, autocast, batches_in_order, device, train
from diffcore.paperbirds.pretrain.models import build_scheduler

#: Share of empty captions, from which classifier-free guidance steers away.
_EMPTY = 0.10
#: Mean and deviation of ln(sigma). Layout is settled around sigma 1 to 5 at unit data scale.
_LOG_SIGMA = (0.2, 1.4)


class Denoiser(nn.Module):
    """UNet and text encoder as one model: noisy latents and tokens to v-prediction."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModelWithProjection):
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(self, scaled: Tensor, c_noise: Tensor, tokens: Tensor) -> Tensor:
        """(B, 4, 16, 16), (B,), (B, T) -> (B, 4, 16, 16)."""
        text = self.text_encoder(tokens, output_hidden_states=True)
        sizes = torch.tensor([SIZE, SIZE, 0, 0, SIZE, SIZE], device=scaled.device)
        added = {"text_embeds": text.text_embeds, "time_ids": sizes.expand(len(scaled), 6)}
        # SDXL reads the text encoder's last layer but one; so must the training.
        hidden = text.hidden_states[-2]
        return self.unet(scaled, c_noise, hidden, added_cond_kwargs=added).sample


def train_denoiser(
    model: Denoiser,
    tokenizer: CLIPTokenizer,
    moments: Tensor,
    facts: pd.DataFrame,
    scaling_factor: float,
    schedule: Schedule,
    checkpoint: Path,
) -> Denoiser:
    """Train on latents' `moments` (N, 8, 16, 16) and the facts from which captions are drawn."""
    scheduler = build_scheduler()

    def loss_fn(step: int) -> Tensor:
        chosen = batches_in_order(step, schedule.batch_size, len(moments), seed=2)
        generator = torch.Generator().manual_seed(step)
        latents = _sample_latents(moments[chosen], generator) * scaling_factor
        sigma = _draw_sigma(len(chosen), generator)
        noisy = latents + sigma * torch.randn(latents.shape, generator=generator)
        scaled = scheduler.precondition_inputs(noisy, sigma).to(device())
        c_noise = scheduler.precondition_noise(sigma).flatten().to(device())
        tokens = _draw_tokens(tokenizer, facts.iloc[chosen.numpy()], step)
        with autocast():
            predicted = model(scaled, c_noise, tokens).float()
        return (predicted - _v_target(scheduler, latents, noisy, sigma)).square().mean()

    return train(model, loss_fn, schedule, checkpoint, "denoiser")


def _sample_latents(moments: Tensor, generator: torch.Generator) -> Tensor:
    mean, log_variance = moments.float().chunk(2, dim=1)
    deviation = (0.5 * log_variance.clamp(-30, 20)).exp()
    return mean + deviation * torch.randn(mean.shape, generator=generator)


def _draw_sigma(count: int, generator: torch.Generator) -> Tensor:
    mean, deviation = _LOG_SIGMA
    return (mean + deviation * torch.randn(count, 1, 1, 1, generator=generator)).exp()


def _v_target(
    scheduler: EDMEulerScheduler, latents: Tensor, noisy: Tensor, sigma: Tensor
) -> Tensor:
    """The UNet output for which the scheduler's denoised latents would be exact."""
    zero = torch.zeros_like(noisy)
    skip = scheduler.precondition_outputs(noisy, zero, sigma)
    scale = scheduler.precondition_outputs(zero, zero + 1, sigma)
    return ((latents - skip) / scale).to(device())


def _draw_tokens(tokenizer: CLIPTokenizer, facts: pd.DataFrame, step: int) -> Tensor:
    rng = np.random.default_rng((2, step))
    rows = facts[["species", "context", "distractors"]].itertuples(index=False)
    captions = ["" if rng.random() < _EMPTY else draw_caption(*row, rng).text for row in rows]
    return tokenizer(
        captions, padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids.to(device())
