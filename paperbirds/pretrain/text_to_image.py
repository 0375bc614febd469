"""Losses of the text-to-image model: an autoencoder on renders, a denoiser on their latents.

The denoiser (UNet and text encoder) learns by the preconditioning of its sampler. Its loss is the
squared error of the v-prediction at log-normally distributed noise levels: that of the denoised
latents, divided by the scheduler's output scale.
Source: Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2022.
"""

from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from diffusers import AutoencoderKL, EDMEulerScheduler
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor
from transformers import CLIPTokenizer

from paperbirds.captions import Subject, draw_caption, full_caption
from paperbirds.oracle import as_images, as_input
from paperbirds.pretrain.loop import autocast, batches_in_order, device
from paperbirds.pretrain.models import Denoiser, build_scheduler, tokenize
from paperbirds.pretrain.renders import RenderSet

_KL_WEIGHT = 1.0e-4  # per latent value; keeps the latents near unit scale without blurring
#: Share of empty captions, from which classifier-free guidance steers away.
_EMPTY = 0.10
#: Mean and deviation of ln(sigma). Layout is settled around sigma 1 to 5 at unit data scale.
_LOG_SIGMA = (0.2, 1.4)
#: Ranges of `redraw`: noise levels, at which strokes change and scenes stay, and guidance; steps.
_REDRAW_SIGMA, _REDRAW_GUIDANCE, _REDRAW_STEPS = (0.1, 0.6), (1.0, 6.0), 4


def autoencoder_loss(
    model: AutoencoderKL, image_sets: list[np.ndarray], batch_size: int, step: int
) -> Tensor:
    """Return the loss of one step on images (N, 64, 64, 3) uint8: squared error, as in PSNR."""
    images = image_sets[step % len(image_sets)]
    x = as_input(images, batches_in_order(step, batch_size, len(images), seed=1), device())
    with autocast():
        latents = model.encode(x).latent_dist
        decoded = model.decode(latents.sample()).sample
    kl = latents.kl().mean() / latents.mean[0].numel()
    return (decoded.float() - x).square().mean() + _KL_WEIGHT * kl


@torch.inference_mode()
def encode_all(model: AutoencoderKL, images: np.ndarray, batch_size: int = 128) -> Tensor:
    """Return mean and log-variance of all latents, (N, 8, 16, 16) float16, unscaled."""
    moments = []
    for at in torch.arange(len(images)).split(batch_size):
        latents = model.encode(as_input(images, at, model.device)).latent_dist
        moments.append(latents.parameters.half())
    return torch.cat(moments).cpu()


@torch.inference_mode()
def psnr(model: AutoencoderKL, images: np.ndarray, batch_size: int = 64) -> np.ndarray:
    """Return the peak signal-to-noise ratio of each reconstruction in dB, (N,)."""
    values = []
    for at in torch.arange(len(images)).split(batch_size):
        x = as_input(images, at, model.device)
        decoded = model.decode(model.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
        values.append(-10 * ((decoded - x) / 2).square().mean(dim=(1, 2, 3)).log10())
    return torch.cat(values).cpu().numpy()


def denoiser_loss(
    model: Denoiser,
    tokenizer: CLIPTokenizer,
    moments: Tensor,
    metadata: pd.DataFrame,
    scaling_factor: float,
    batch_size: int,
    step: int,
) -> Tensor:
    """Return the loss of one step on moments (N, 8, 16, 16) of latents, with captions drawn anew."""
    chosen = batches_in_order(step, batch_size, len(moments), seed=2)
    generator, scheduler = torch.Generator().manual_seed(step), build_scheduler()
    encoded = DiagonalGaussianDistribution(moments[chosen].float())
    latents = encoded.sample(generator) * scaling_factor
    mean, deviation = _LOG_SIGMA
    sigma = (mean + deviation * torch.randn(len(chosen), 1, 1, 1, generator=generator)).exp()
    noisy = latents + sigma * torch.randn(latents.shape, generator=generator)
    scaled = scheduler.precondition_inputs(noisy, sigma).to(device())
    c_noise = scheduler.precondition_noise(sigma).flatten().to(device())
    rng = np.random.default_rng((2, step))
    subjects = [Subject(*row) for row in metadata.iloc[chosen.numpy()].itertuples(index=False)]
    captions = ["" if rng.random() < _EMPTY else draw_caption(s, rng)[0] for s in subjects]
    with autocast():
        predicted = model(scaled, c_noise, tokenize(tokenizer, captions).to(device())).float()
    return (predicted - _v_target(scheduler, latents, noisy, sigma)).square().mean()


@torch.inference_mode()
def redraw(
    autoencoder: AutoencoderKL, denoiser: Denoiser, tokenizer: CLIPTokenizer, renders: RenderSet
) -> np.ndarray:
    """Redraw renders by the sampler, (N, 64, 64, 3) uint8: the same scenes, its strokes.

    Latents are noised to a level at which the layout stays, and denoised again under the full
    caption with a random guidance.
    """
    drawn, scale = [], autoencoder.config.scaling_factor
    for at in torch.arange(len(renders.images)).split(32):
        generator = torch.Generator().manual_seed(int(at[0]))
        x = as_input(renders.images, at, autoencoder.device)
        rows = renders.metadata.iloc[at.numpy()]
        texts = map(full_caption, rows["species"], rows["context"], rows["distractors"])
        tokens = tokenize(tokenizer, [*texts, *[""] * len(at)]).to(x.device)
        latents = autoencoder.encode(x).latent_dist.mode() * scale
        latents = _finish(denoiser, latents, tokens, generator)
        drawn.append(as_images(autoencoder.decode(latents / scale).sample))
    return np.concatenate(drawn)


def _finish(
    denoiser: Denoiser, latents: Tensor, tokens: Tensor, generator: torch.Generator
) -> Tensor:
    """Noise latents (B, 4, 16, 16) and denoise them by Euler steps, guided by tokens (2B, T)."""

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(latents), 1, 1, 1, generator=generator)

    guidance, top = draw(*_REDRAW_GUIDANCE).to(latents), draw(*_REDRAW_SIGMA)
    x = latents + (top * torch.randn(latents.shape, generator=generator)).to(latents)
    scheduler, levels = build_scheduler(), torch.linspace(1, 0, _REDRAW_STEPS + 1)
    for level, after in pairwise(levels):
        sigma = top * level
        scaled = scheduler.precondition_inputs(x.cpu(), sigma).repeat(2, 1, 1, 1).to(latents)
        c_noise = scheduler.precondition_noise(sigma).flatten().repeat(2).to(latents)
        with_text, without = denoiser(scaled, c_noise, tokens).float().chunk(2)
        v = without + guidance * (with_text - without)
        clean = scheduler.precondition_outputs(x.cpu(), v.cpu(), sigma).to(latents)
        x = clean + (after / level) * (x - clean)
    return x


def _v_target(
    scheduler: EDMEulerScheduler, latents: Tensor, noisy: Tensor, sigma: Tensor
) -> Tensor:
    """Return the UNet output for which the scheduler's denoised latents would be exact."""
    zero = torch.zeros_like(noisy)
    skip = scheduler.precondition_outputs(noisy, zero, sigma)
    scale = scheduler.precondition_outputs(zero, zero + 1, sigma)
    return ((latents - skip) / scale).to(device())
