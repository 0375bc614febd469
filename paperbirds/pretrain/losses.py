"""Losses of the four models: autoencoder, denoiser, CLIP and oracle.

The denoiser (UNet and text encoder) learns by the preconditioning of its sampler (Karras et al.,
2022): the squared error of the v-prediction at log-normally distributed noise levels. CLIP learns
from captioned images (Radford et al., 2021). Many captions, such as "a bird", fit several images of
a batch. Such pairs are left out of the sum instead of being pushed apart. Whether they fit follows
from the captions alone, right or wrong. The oracle learns the truth about renders.
"""

from itertools import pairwise

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, EDMEulerScheduler
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from open_clip.model import CLIP
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio
from transformers import CLIPTokenizer

from paperbirds import CONTEXTS, DISTRACTORS, SPECIES
from paperbirds.oracle import Oracle, as_images, as_input
from paperbirds.pretrain.loop import autocast, batches_in_order, device
from paperbirds.pretrain.models import Denoiser, build_scheduler, tokenize
from paperbirds.training_data import RenderSet, Subject, draw_caption, full_caption

_KL_WEIGHT = 1.0e-4  # per latent value; keeps the latents near unit scale without blurring
#: Share of empty captions, from which classifier-free guidance steers away.
_EMPTY = 0.10
#: Mean and deviation of ln(sigma). Layout is settled around sigma 1 to 5 at unit data scale.
_LOG_SIGMA = (0.2, 1.4)
#: Ranges of `redraw`: noise levels, at which strokes change and scenes stay, and guidance; steps.
_REDRAW_SIGMA, _REDRAW_GUIDANCE, _REDRAW_STEPS = (0.1, 0.6), (1.0, 6.0), 4
_IGNORE = -100  # the species of an image without a bird
_LATENT_NOISE = 0.15  # largest noise level of latents, at unit scale


# ------------------------------------------------------------------------------------ text to image
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
def encode_all(model: AutoencoderKL, images: np.ndarray) -> np.ndarray:
    """Return mean and log-variance of all latents, (N, 8, 16, 16) float16, unscaled."""
    batches = (as_input(images, at, model.device) for at in torch.arange(len(images)).split(128))
    moments = [model.encode(x).latent_dist.parameters.half().cpu() for x in batches]
    return torch.cat(moments).numpy()


@torch.inference_mode()
def psnr(model: AutoencoderKL, images: np.ndarray) -> np.ndarray:
    """Return the peak signal-to-noise ratio of each reconstruction in dB, (N,)."""
    values = []
    for at in torch.arange(len(images)).split(64):
        x = as_input(images, at, model.device)
        decoded = model.decode(model.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
        values.append(peak_signal_noise_ratio(decoded, x, 2.0, reduction="none", dim=(1, 2, 3)))
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
    """Return the loss of one step on moments (N, 8, 16, 16) of latents, captioned anew."""
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


# ---------------------------------------------------------------------------------- CLIP and oracle
def clip_loss(
    model: CLIP, tokenizer: CLIPTokenizer, renders: RenderSet, batch_size: int, step: int
) -> Tensor:
    """Return the loss of one step, for which a caption of every image is drawn anew."""
    chosen = batches_in_order(step, batch_size, len(renders.images), seed=4)
    rng = np.random.default_rng((4, step))
    shown = renders.metadata.iloc[chosen.numpy()]
    subjects = [Subject(*row) for row in shown.itertuples(index=False)]
    texts, parts = zip(*(draw_caption(subject, rng) for subject in subjects), strict=True)
    # Whether caption j holds for image i, as far as the subject of image i is known.
    true = torch.tensor([[part.holds_for(subject) for part in parts] for subject in subjects])
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

    Every other image goes through the autoencoder, as generated images do. The rest is blended
    with its 3x3 average by a random amount. None of this must count as malformed.
    """
    images, facts = [], []
    for renders in sets:
        chosen = batches_in_order(step, batch_size // len(sets), len(renders.images), seed=3)
        images.append(as_input(renders.images, chosen, device()))
        facts.append(renders.metadata.iloc[chosen.numpy()])
    generator = torch.Generator().manual_seed(step)
    x = torch.cat(images)
    weight = 0.8 * torch.rand(len(x), 1, 1, 1, generator=generator).to(x.device)
    soft = x.lerp(F.avg_pool2d(F.pad(x, (1, 1, 1, 1), "replicate"), 3, stride=1), weight)
    with autocast():
        soft[::2] = _reconstruct(autoencoder, x[::2], generator)
        species, context, *present = model(soft)
    targets = [each.to(device()) for each in encode_targets(pd.concat(facts, ignore_index=True))]
    loss = F.cross_entropy(species.float(), targets[0], ignore_index=_IGNORE)
    loss = loss + F.cross_entropy(context.float(), targets[1])
    for weight, logits, target in zip((2, 2, 1), present, targets[2:], strict=True):
        loss = loss + weight * F.binary_cross_entropy_with_logits(logits.float(), target)
    return loss


@torch.no_grad()
def _reconstruct(autoencoder: AutoencoderKL, x: Tensor, generator: torch.Generator) -> Tensor:
    """Decode images from their latents with a little noise on these."""
    latents = autoencoder.encode(x).latent_dist.mode()
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    level = _LATENT_NOISE * torch.rand(len(x), 1, 1, 1, generator=generator).to(latents)
    latents = latents + level * noise / autoencoder.config.scaling_factor
    return autoencoder.decode(latents).sample.clamp(-1, 1).float()


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
