"""The same work done in several ways: as this package does, as the authors do, and its bare core.

The authors' way is their released loop, written afresh: an image at a time, by way of files.
`benchmarks.bench` times the ways against each other, and its tests hold their results equal.
"""

import copy
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

from diffcore.data.images import fit
from diffcore.filtering.encoders import Encoder
from diffcore.filtering.rules import cosine_to_reference, embed
from diffcore.generation.draw import Sampler, generate, in_batches
from diffcore.generation.pipelines import LazyPipeline
from diffcore.params import GenerationParams
from diffcore.prompts.plan import plan_generation
from diffcore.prompts.prompt_set import load_prompt_set
from paperbirds.birds import SPECIES
from paperbirds.dataset import render_split


# ---------------------------------------------------------------------------------------- drawing
def make_plan(images: int) -> pd.DataFrame:
    """Plan one image for each of so many sources."""
    sources = {"source_id": np.arange(images), "class_name": np.resize(SPECIES, images)}
    prompt_set = load_prompt_set("package:paperbirds/prompts.yaml")
    return plan_generation(pd.DataFrame(sources), prompt_set, generated_share=1, seed=0)


def draw(pipeline: LazyPipeline, settings: GenerationParams, plan: pd.DataFrame) -> np.ndarray:
    """Draw a plan as this package does, into shards, and read it back: (N, H, W, 3) uint8."""
    with tempfile.TemporaryDirectory() as folder:
        return generate(plan, pipeline, folder, **settings.sampler, progress=False).images[:]


def draw_one_by_one(
    pipeline: DiffusionPipeline, settings: GenerationParams, plan: pd.DataFrame
) -> np.ndarray:
    """Draw as the released code does, but for the seeds: one call and one file per image."""
    sampler, images = Sampler(**settings.sampler).pixels, []
    with tempfile.TemporaryDirectory() as folder:
        for row in plan.itertuples():
            noise, path = torch.Generator().manual_seed(row.seed), Path(folder, f"{row.Index}.png")
            texts = {"prompt": row.prompt, "negative_prompt": row.negative_prompt}
            pipeline(**texts, generator=noise, **sampler).images[0].save(path)
            images.append(np.asarray(_read(path)))
            torch.cuda.empty_cache()  # as it does; gc.collect(), which it does not, takes 0.3 s
    return np.stack(images)


@torch.inference_mode()
def prepare_batches(
    pipeline: DiffusionPipeline, settings: GenerationParams, plan: pd.DataFrame
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Prepare what `draw_bare` takes of each batch: noise, and embeddings, the negatives' first."""
    side = settings.image_size // pipeline.vae_scale_factor
    shape, batches = (pipeline.unet.config.in_channels, side, side), []
    for rows in in_batches(plan, settings.batch_size):
        text, negative, pooled, negative_pooled = pipeline.encode_prompt(
            rows["prompt"].tolist(), negative_prompt=rows["negative_prompt"].tolist()
        )
        seeded = [torch.Generator().manual_seed(seed) for seed in rows["seed"].tolist()]
        noise = torch.stack([torch.randn(shape, generator=each) for each in seeded]).to(text)
        batches.append((noise, torch.cat([negative, text]), torch.cat([negative_pooled, pooled])))
    return batches


@torch.inference_mode()
def draw_bare(
    pipeline: DiffusionPipeline, settings: GenerationParams, batches: list[tuple[Tensor, ...]]
) -> Tensor:
    """Denoise with guidance and decode, for SDXL's family, and do nothing else: (N, 3, H, W)."""
    unet, vae, scheduler = pipeline.unet, pipeline.vae, pipeline.scheduler
    size, drawn = (settings.image_size, settings.image_size), []
    for noise, texts, pooled in batches:
        added = {"text_embeds": pooled}
        added["time_ids"] = torch.tensor([[*size, 0, 0, *size]] * len(texts)).to(texts)
        scheduler.set_timesteps(settings.num_inference_steps, device=noise.device)
        latents = noise * scheduler.init_noise_sigma
        for time in scheduler.timesteps:
            both = scheduler.scale_model_input(torch.cat([latents, latents]), time)
            away, towards = unet(both, time, texts, added_cond_kwargs=added).sample.chunk(2)
            guided = away + settings.guidance_scale * (towards - away)
            latents = scheduler.step(guided, time, latents).prev_sample
        drawn.append(vae.decode(latents / vae.config.scaling_factor).sample)
    return (torch.cat(drawn) / 2 + 0.5).clamp(0, 1)


# -------------------------------------------------------------------------------------- filtering
def make_renders(split: str, style: float, images: int, size: int = 64) -> pd.DataFrame:
    """Render that many images of Paperbirds, of as many species as there can be, in some size."""
    birds = render_split(split, style=style, images_per_class=-(-images // len(SPECIES)))
    shown = [fit(image, size, size) for image in birds.images[:images]]
    return birds.metadata[["class_name"]].head(images).assign(image=shown)


def filter_at_once(encoder: Encoder, drawn: pd.DataFrame, real: pd.DataFrame) -> np.ndarray:
    """Compare images with the first real one of their class as this package does: (N,)."""
    tables = [embed(renders, renders["image"], encoder) for renders in (drawn, real)]
    return cosine_to_reference(*tables, "class_first")


def filter_one_by_one(
    encoder: Encoder, drawn: pd.DataFrame, real: Mapping[str, Path]
) -> np.ndarray:
    """Compare as the released code does: by way of a file, and both images embedded each time.

    Takes the file of the first real image of each class.
    """

    @torch.inference_mode()
    def see(path: Path) -> Tensor:
        pixels = encoder.preprocess(_read(path)).unsqueeze(0)
        return encoder.model.encode_image(pixels.to(encoder.device), normalize=True)[0]

    cosines = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "drawn.png"
        for bird in drawn.itertuples():
            Image.fromarray(bird.image).save(path)
            cosines.append(float(see(path) @ see(real[bird.class_name])))
    return np.array(cosines)


def write_files(real: pd.DataFrame, folder: str | Path) -> dict[str, Path]:
    """Write the one image of each class: class -> file."""
    files = {bird.class_name: Path(folder, f"{bird.class_name}.png") for bird in real.itertuples()}
    for bird in real.itertuples():
        Image.fromarray(bird.image).save(files[bird.class_name])
    return files


def forget(encoder: Encoder, folder: str | Path) -> Encoder:
    """Return an encoder with the same weights that remembers only what a folder keeps."""
    other = copy.copy(encoder)
    vars(other).pop("_known", None)
    other._folder, other._unsaved = Path(folder), {}
    return other


def _read(path: Path) -> Image.Image:
    with Image.open(path) as file:
        return file.convert("RGB")
