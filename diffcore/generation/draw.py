"""Drawing: turn a plan into images, kept in Parquet shards that survive a kill.

Differences from the authors' released code: each sample starts from noise of its own seed, so batch
size, order and resume do not matter; what is drawn is not drawn again; each image keeps its prompt,
seed, settings and its model's digest beside it; and nothing is written into the training folder.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers import DiffusionPipeline

from diffcore.data.generated import GENERATED_COLUMNS, GeneratedSet, open_shards, read_generated
from diffcore.data.images import as_pixels
from diffcore.generation.pipelines import FAMILIES, LazyPipeline


@dataclass(frozen=True)
class Sampler:
    """The settings of drawing."""

    guidance_scale: float  # classifier-free; at 1 and below the negatives have no effect
    num_inference_steps: int  # denoising steps
    height: int  # pixels, a multiple of 8
    width: int
    batch_size: int = 8  # images denoised together; changes speed and memory only
    shard_size: int = 256  # images per Parquet file, the most that a kill can lose

    @property
    def pixels(self) -> dict[str, float]:
        """The settings that decide about the pixels."""
        settings = asdict(self) | {"guidance_scale": float(self.guidance_scale)}
        del settings["batch_size"], settings["shard_size"]
        return settings


def generate(
    plan: pd.DataFrame,
    pipeline: LazyPipeline | DiffusionPipeline,
    out_dir: str | Path,
    *,
    progress: bool = True,
    encoder: Callable[[], Any] | None = None,
    **sampler: float,
) -> GeneratedSet:
    """Draw every row of a plan that is not yet in a folder; open all of them in the plan's order.

    A sample is drawn again if anything that decides about it differs: prompt, seed, setting or
    model. What was drawn under other settings stays, and `read_generated` keeps the two apart.

    Args:
        plan: table with `PLAN_COLUMNS`, as from `diffcore.prompts.plan_generation`.
        pipeline: loaded only if a row is missing.
        encoder: returns what embeds the images, as of `diffcore.filtering.encoders.load_encoder`;
            embeddings lie in the same file.
        sampler: the fields of `Sampler`.

    ValueError for a plan with missing values or repeated ids, TypeError for a pipeline of another
    family, FloatingPointError if the model draws NaN. A batch is never made smaller.
    """
    pipeline, sampler = LazyPipeline.of(pipeline), Sampler(**sampler)

    @lru_cache(maxsize=1024)  # 1.3 MB each with SDXL's encoders in half precision
    def encode(prompt: str, negative: str) -> dict[str, torch.Tensor]:
        return _encode(pipeline.load(), prompt, negative)

    def draw_batch(rows: pd.DataFrame) -> np.ndarray:
        pairs = zip(rows["prompt"], rows["negative_prompt"], strict=True)
        encoded, seeds = [encode(*pair) for pair in pairs], rows["seed"].tolist()
        return _draw(pipeline.load(), seeds, encoded, **sampler.pixels)

    wanted = plan.assign(model_hash=pipeline.digest)
    describe = "generate" if progress else None
    return draw_missing(wanted, draw_batch, pipeline, sampler, out_dir, describe, encoder)


def draw_missing(
    wanted: pd.DataFrame,
    draw_batch: Callable[[pd.DataFrame], np.ndarray],
    pipeline: LazyPipeline,
    sampler: Sampler,
    out_dir: str | Path,
    describe: str | None,
    encoder: Callable[[], Any] | None = None,
) -> GeneratedSet:
    """Draw what a folder lacks, by a function of a batch's rows; open all that is wanted."""

    def images_of(rows: pd.DataFrame) -> Iterator[np.ndarray]:
        for batch in in_batches(rows, sampler.batch_size):
            yield from draw_batch(batch)

    wanted = wanted.assign(model=pipeline.name, **sampler.pixels)
    made_with = partial(pipeline.made_with, sampler.batch_size)
    return fill_shards(wanted, images_of, out_dir, sampler.shard_size, describe, encoder, made_with)


@torch.inference_mode()
def _encode(pipeline: DiffusionPipeline, prompt: str, negative: str) -> dict[str, torch.Tensor]:
    """Embed one pair of texts, by name: which prompts share a batch then changes no embedding."""
    embeddings = pipeline.encode_prompt(
        prompt,
        device=pipeline.device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=True,
        negative_prompt=negative or None,  # "" would not be the pipeline's own absent prompt
    )
    names = next(names for family, names in FAMILIES.items() if isinstance(pipeline, family))
    return dict(zip(names, embeddings, strict=True))


@torch.inference_mode()
def _draw(
    pipeline: DiffusionPipeline, seeds: list[int], encoded: list[dict], **settings: float
) -> np.ndarray:
    """Draw one batch: (B, H, W, 3) uint8. Each sample uses the random numbers of its own seed."""
    sides = (settings[side] // pipeline.vae_scale_factor for side in ("height", "width"))
    shape = (pipeline.unet.config.in_channels, *sides)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    # On the CPU in single precision, so that noise is the same for every device and precision.
    noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
    texts = {name: torch.cat([each[name] for each in encoded]) for name in encoded[0]}
    settings |= {"latents": noise.to(pipeline.unet.dtype), "generator": generators}
    return checked_pixels(pipeline(**texts, **settings, output_type="pt").images)


def checked_pixels(images: torch.Tensor) -> np.ndarray:
    """Turn what a model drew, (B, 3, H, W) in [0, 1], into (B, H, W, 3) uint8; not NaN."""
    if not torch.isfinite(images).all():
        raise FloatingPointError(
            "the model drew NaN or infinity; set generation.pipeline.dtype to float32, or use an "
            "autoencoder that is safe in half precision"
        )
    return as_pixels(images.float())


def in_batches(rows: pd.DataFrame, size: int) -> Iterator[pd.DataFrame]:
    """Cut a table into batches of `size` rows, in order; the last may be shorter."""
    return (rows.iloc[start : start + size] for start in range(0, len(rows), size))


def fill_shards(
    wanted: pd.DataFrame,
    images_of: Callable[[pd.DataFrame], Iterable[np.ndarray]],
    out_dir: str | Path,
    shard_size: int,
    describe: str | None = None,
    encoder: Callable[[], Any] | None = None,
    made_with: Callable[[], dict[str, Any]] = dict,
) -> GeneratedSet:
    """Make what a folder lacks, as `diffcore.store.ImageTable.fill`; open all that is wanted."""
    wanted = wanted[list(GENERATED_COLUMNS)].reset_index(drop=True)
    if wanted.isna().any(axis=None):
        raise ValueError("the plan misses values; from CSV, read it with keep_default_na=False")
    if len(repeated := wanted.loc[wanted["sample_id"].duplicated(), "sample_id"]):
        raise ValueError(f"sample_id {repeated.iloc[0]!r} is in the plan more than once")
    open_shards(out_dir).fill(wanted, images_of, shard_size, describe, encoder, made_with)
    return read_generated(out_dir, wanted.drop(columns="model"), encoder)
