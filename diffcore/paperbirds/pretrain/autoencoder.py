"""Trains the KL autoencoder on renders of all styles."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from diffcore.paperbirds.pretrain.loop import Schedule, autocast, batches_in_order, device, train

_KL_WEIGHT = 1.0e-4  # per latent value; keeps the latents near unit scale without blurring


def train_autoencoder(
    model: AutoencoderKL, image_sets: list[np.ndarray], schedule: Schedule, checkpoint: Path
) -> AutoencoderKL:
    """Train on images (N, 64, 64, 3) uint8 by squared error, which is what PSNR measures."""

    def loss_fn(step: int) -> Tensor:
        images = image_sets[step % len(image_sets)]
        chosen = batches_in_order(step, schedule.batch_size, len(images), seed=1)
        x = as_input(images, chosen)
        with autocast():
            latents = model.encode(x).latent_dist
            decoded = model.decode(latents.sample()).sample
        kl = latents.kl().mean() / latents.mean[0].numel()
        return (decoded.float() - x).square().mean() + _KL_WEIGHT * kl

    return train(model, loss_fn, schedule, checkpoint, "autoencoder")


@torch.inference_mode()
def encode_all(model: AutoencoderKL, images: np.ndarray, batch_size: int = 128) -> Tensor:
    """Mean and log-variance of every image's latents, (N, 8, 16, 16) float16, unscaled."""
    batches = torch.arange(len(images)).split(batch_size)
    moments = [model.encode(as_input(images, at)).latent_dist.parameters.half() for at in batches]
    return torch.cat(moments).cpu()


@torch.inference_mode()
def psnr(model: AutoencoderKL, images: np.ndarray, batch_size: int = 64) -> np.ndarray:
    """Peak signal-to-noise ratio in dB of each reconstruction, (N,)."""
    values = []
    for at in torch.arange(len(images)).split(batch_size):
        x = scaled(images, at, model.device)
        decoded = model.decode(model.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
        values.append(-10 * ((decoded - x) / 2).square().mean(dim=(1, 2, 3)).log10())
    return torch.cat(values).cpu().numpy()


def as_input(images: np.ndarray, chosen: Tensor) -> Tensor:
    """uint8 (N, H, W, 3) -> float (B, 3, H, W) in [-1, 1] on the training device."""
    return scaled(images, chosen, device())


def scaled(images: np.ndarray, chosen: Tensor, where: torch.device | str = "cpu") -> Tensor:
    """uint8 (N, H, W, 3) -> float (B, 3, H, W) in [-1, 1] on a device; moved as bytes."""
    picked = torch.from_numpy(images[chosen.numpy()]).to(where)
    return picked.permute(0, 3, 1, 2).float() / 127.5 - 1
