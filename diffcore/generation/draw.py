"""Drawing: turn a plan into images, kept in Parquet shards that survive a kill.

Differences from the authors' released code: each sample starts from noise of its own seed, so batch
size, order and resume do not matter; what is drawn is not drawn again; each image keeps its prompt,
seed, settings and its model's digest beside it; and nothing is written into the training folder.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers import DiffusionPipeline

from diffcore.data.images import as_pixels
from diffcore.generation.pipelines import FAMILIES, LazyPipeline
from diffcore.prompts.plan import PLAN_COLUMNS
from diffcore.store import ImageTable, ShardImages

_TYPES = {
    **dict.fromkeys(PLAN_COLUMNS, "string"), "seed": "int64", "model": "string",
    "model_hash": "string", "num_inference_steps": "int32", "guidance_scale": "float64",
    "height": "int32", "width": "int32",
}  # fmt: skip
#: What is known of a generated image: its row of the plan, its model, and the sampler's settings.
GENERATED_COLUMNS = tuple(_TYPES)
#: What decides about an image's pixels beside its row of the plan; not what the model is called.
SETTING_COLUMNS = GENERATED_COLUMNS[len(PLAN_COLUMNS) + 1 :]
_KEYS = [*PLAN_COLUMNS, *SETTING_COLUMNS]
_SOFTWARE = ("diffusers", "torch", "transformers")


@dataclass(frozen=True, eq=False)
class GeneratedSet:
    """Generated images and what is known of them.

    Attributes:
        metadata: N rows: `GENERATED_COLUMNS`, and the ``shard`` and ``row`` that hold the image.
        images: (N, H, W, 3) uint8, read when they are asked for.
        encoder: returns what embeds them, as of `diffcore.filtering.encoders.load_encoder`.
    """

    metadata: pd.DataFrame
    images: ShardImages | np.ndarray
    encoder: Callable[[], Any] | None = None

    def __len__(self) -> int:
        return len(self.metadata)

    @cached_property
    def embeddings(self) -> np.ndarray:
        """Embed the images, once: (N, D) of unit length; raises ValueError without an encoder."""
        if self.encoder is None:
            raise ValueError("these images were opened without an encoder; take them from a Study")
        return self.encoder().embed_images(self.images)

    def take(self, places: Sequence[int] | np.ndarray) -> "GeneratedSet":
        """Return the images at these places (or where a mask is True), in that order."""
        chosen = np.arange(len(self))[places]
        metadata = self.metadata.iloc[chosen].reset_index(drop=True)
        lazy = isinstance(self.images, ShardImages)
        images = ShardImages(metadata) if lazy else self.images[chosen]
        return GeneratedSet(metadata, images, self.encoder)


def generate(
    plan: pd.DataFrame, pipeline: LazyPipeline | DiffusionPipeline, out_dir: str | Path, *,
    guidance_scale: float, num_inference_steps: int, height: int, width: int,
    batch_size: int = 8, shard_size: int = 256, progress: bool = True,
    encoder: Callable[[], Any] | None = None,
) -> GeneratedSet:  # fmt: skip
    """Draw every row of a plan that is not yet in a folder; open all of them in the plan's order.

    A sample is drawn again if anything that decides about it differs: prompt, seed, setting or
    model. What was drawn under other settings stays, and `read_generated` tells the two apart.

    Args:
        plan: table with `PLAN_COLUMNS`, as from `diffcore.prompts.plan_generation`.
        pipeline: loaded only if a row is missing.
        guidance_scale: classifier-free guidance; at 1 and below the negatives have no effect.
        num_inference_steps, height, width: denoising steps; pixels, multiples of 8.
        batch_size: images denoised together; changes speed and memory only.
        shard_size: images per Parquet file, the most that a kill can lose.
        encoder: returns what embeds the images, as of `diffcore.filtering.encoders.load_encoder`;
            embeddings lie in the same file.

    Raises:
        ValueError: for a plan with missing values or repeated sample ids.
        TypeError: for a pipeline of another family.
        FloatingPointError: if the model draws infinities or NaN, as half precision may.
        torch.OutOfMemoryError: for a batch that a GPU has no room for; it is never made smaller.
    """
    pipeline = LazyPipeline.of(pipeline)
    settings = {"num_inference_steps": num_inference_steps, "guidance_scale": float(guidance_scale),
                "height": height, "width": width}  # fmt: skip

    @lru_cache(maxsize=1024)  # 1.3 MB each with SDXL's encoders in half precision
    def encode(prompt: str, negative: str) -> dict[str, torch.Tensor]:
        return _encode(pipeline.load(), prompt, negative)

    def drawn(rows: pd.DataFrame) -> Iterator[np.ndarray]:
        for batch in in_batches(rows, batch_size):
            pairs = zip(batch["prompt"], batch["negative_prompt"], strict=True)
            encoded = [encode(*pair) for pair in pairs]
            yield from _draw(pipeline.load(), batch["seed"].tolist(), encoded, **settings)

    wanted = plan.assign(model=pipeline.name, model_hash=pipeline.digest, **settings)
    describe, decides = "generate" if progress else None, partial(made_with, pipeline, batch_size)
    return fill_shards(wanted, drawn, out_dir, shard_size, describe, encoder, decides)


def made_with(pipeline: LazyPipeline, batch_size: int) -> dict[str, Any]:
    """Tell what may change the last bit of a pixel beside its row: the model is loaded for it."""
    device = pipeline.load().device
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"batch_size": batch_size, "device": kind} | {name: version(name) for name in _SOFTWARE}


@torch.inference_mode()
def _encode(pipeline: DiffusionPipeline, prompt: str, negative: str) -> dict[str, torch.Tensor]:
    """Embed one pair of texts, by name: which prompts share a batch then changes no embedding."""
    found = pipeline.encode_prompt(
        prompt, device=pipeline.device, num_images_per_prompt=1, do_classifier_free_guidance=True,
        negative_prompt=negative or None,  # not "", for the pipeline's own idea of an absent one
    )  # fmt: skip
    names = next(names for family, names in FAMILIES.items() if isinstance(pipeline, family))
    return dict(zip(names, found, strict=True))


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
    """Cut a table into parts of `size` rows, in order; the last may be shorter."""
    return (rows.iloc[start : start + size] for start in range(0, len(rows), size))


def read_generated(out_dir: str | Path, plan: pd.DataFrame | None = None) -> GeneratedSet:
    """Open the generated images of a folder, each once, or those of a plan, in its order.

    The plan may hold settings like ``guidance_scale`` besides, to choose among several drawings;
    its rows that are not drawn yet are absent from the result. Raises ValueError for a damaged
    shard, or a plan that fits several drawings of one sample.
    """
    if not Path(out_dir).is_dir():
        raise FileNotFoundError(f"{out_dir} does not exist; generate into it first")
    return _open(ImageTable(out_dir, _TYPES, _KEYS), plan)


def fill_shards(
    wanted: pd.DataFrame,
    images_of: Callable[[pd.DataFrame], Iterable[np.ndarray]],
    out_dir: str | Path,
    shard_size: int,
    describe: str | None,
    encoder: Callable[[], Any] | None = None,
    made_with: Callable[[], dict[str, Any]] = dict,
) -> GeneratedSet:
    """Make what a folder lacks, as `diffcore.store.ImageTable.fill`; open all that is wanted."""
    wanted = wanted[list(GENERATED_COLUMNS)].reset_index(drop=True)
    if wanted.isna().any(axis=None):
        raise ValueError("the plan misses values; from CSV, read it with keep_default_na=False")
    if len(repeated := wanted.loc[wanted["sample_id"].duplicated(), "sample_id"]):
        raise ValueError(f"sample_id {repeated.iloc[0]!r} is in the plan more than once")
    table = ImageTable(out_dir, _TYPES, _KEYS)
    table.fill(wanted, images_of, shard_size, describe, encoder, made_with)
    return _open(table, wanted.drop(columns="model"), encoder)


def _open(
    table: ImageTable, plan: pd.DataFrame | None, encoder: Callable[[], Any] | None = None
) -> GeneratedSet:
    """Open all images, or those that agree with a plan on every column that both have."""
    found = table.metadata()
    if plan is not None:
        shared = [name for name in GENERATED_COLUMNS if name in plan]
        found = found.merge(plan[shared].drop_duplicates(), on=shared)
        several = found[found["sample_id"].duplicated(keep=False)]
        if len(several):
            first = several[several["sample_id"] == several["sample_id"].iloc[0]]
            differing = [name for name in _KEYS if first[name].nunique() > 1]
            raise ValueError(
                f"sample {first['sample_id'].iloc[0]!r} was drawn with several {differing}; "
                "add those columns to the plan to choose"
            )
        order = pd.Index(plan["sample_id"]).get_indexer(found["sample_id"])
        found = found.iloc[np.argsort(order)].reset_index(drop=True)
    return GeneratedSet(found, ShardImages(found), encoder)
