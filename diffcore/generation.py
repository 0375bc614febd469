"""Generation: draw the counterparts of training images into Parquet shards that survive a kill.

The third input of the paper's method, after the contextual and the negative prompt: a pre-trained
text-to-image model. One call loads every kind of it, from CosXL in one file to the tiny model that
ships with Paperbirds. Differences from the authors' released code:

- each sample starts from noise of its own seed, so batch size, order and resume do not matter;
- each shard appears whole or not at all, and images already drawn are not drawn again;
- each image keeps its prompt, seed, settings and the hash of its model beside it;
- nothing is written into the training folder.

Our choice: lossless PNG, and no watermark, since its presence would hang on an optional package.
A folder is for one writing process at a time; several may read it.
"""

import hashlib
import io
import json
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Features, Value
from datasets import Image as ImageFeature
from diffusers import AutoencoderKL, DiffusionPipeline, StableDiffusionXLPipeline
from PIL import Image
from tqdm.auto import tqdm

from diffcore.prompts import PLAN_COLUMNS

if TYPE_CHECKING:
    from diffcore.params import PipelineSpec, SchedulerSpec

#: What a sampler was told, beside the plan; with it, all that decides about a sample's pixels.
SETTING_COLUMNS = ("model_hash", "num_inference_steps", "guidance_scale", "height", "width")
_FACTS = (*PLAN_COLUMNS, *SETTING_COLUMNS)
GENERATED_COLUMNS = (*PLAN_COLUMNS, "model", *SETTING_COLUMNS, "image")

_PREPARED_PROMPTS = 1024  # kept in memory; 1.3 MB each with SDXL's encoders in half precision


# ---------------------------------------------------------------------------------------- the model
def load_pipeline(spec: "PipelineSpec") -> DiffusionPipeline:
    """Load a text-to-image pipeline, on its device, in its precision, without a bar.

    Only safetensors are read, since a pickled checkpoint can run code. What is missing is
    reported before anything is loaded.

    Raises:
        FileNotFoundError: for a model, configuration or autoencoder that is not there.
        ValueError: for a single file that is no safetensors file, or a GPU that is not there.
    """
    device = _device(spec.device)
    common = {"dtype": getattr(torch, spec.dtype), "local_files_only": spec.local_files_only}
    source, local = _locate(spec)
    parts = {} if spec.vae is None else {"vae": _load_vae(spec.vae, common)}
    if spec.kind == "single_file":
        given = {} if spec.config is None else {"config": spec.config}
        pipeline = StableDiffusionXLPipeline.from_single_file(source, **given, **parts, **common)
    else:
        common["local_files_only"] |= local
        pipeline = DiffusionPipeline.from_pretrained(
            source, use_safetensors=True, **parts, **common
        )
    if spec.scheduler is not None:
        pipeline.scheduler = _scheduler(spec.scheduler)
    pipeline.watermark = None
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def hash_model(pipeline: DiffusionPipeline) -> str:
    """Hash all that turns a prompt and noise into pixels: weights, their precision, settings.

    Where it was loaded from and the device it is on do not enter. Returns 16 hexadecimal digits.
    """
    digest = hashlib.sha256(_settings_text(pipeline.config))
    for name, part in sorted(pipeline.components.items()):
        digest.update(f"{name} {type(part).__name__}".encode())
        if hasattr(part, "config"):
            digest.update(_settings_text(part.config))
        if hasattr(part, "get_vocab"):
            digest.update(json.dumps(part.get_vocab(), sort_keys=True).encode())
        if isinstance(part, torch.nn.Module):
            for key, tensor in sorted(part.state_dict().items()):
                digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _device(name: str) -> str:
    """Resolve "auto"; raises ValueError for a GPU that this machine lacks."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "generation.pipeline.device is cuda, but torch finds no GPU; set it to auto or cpu"
        )
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def _locate(spec: "PipelineSpec") -> tuple[str, bool]:
    """Return where the pipeline is, and whether that is a local folder; check what is local."""
    if spec.kind == "hub":
        return spec.location, False
    if spec.kind == "paperbirds":
        from diffcore.paperbirds import pipeline_dir  # only this kind needs the embedded world

        path, remedy = Path(pipeline_dir()), "run `make pretrain`"
    else:
        path, remedy = (
            Path(spec.location),
            "put the model there or set generation.pipeline.location",
        )
    if spec.kind != "single_file":
        _require(path / "model_index.json", f"{remedy} (a folder in the format of diffusers)")
        return str(path), True
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} is no .safetensors file; others can run code when opened")
    _require(path, remedy)
    if spec.config is not None:
        _require(
            Path(spec.config), "set generation.pipeline.config to the model's configuration folder"
        )
    return str(path), True


def _require(path: Path, remedy: str) -> None:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; {remedy}")


def _load_vae(location: str, common: dict[str, Any]) -> AutoencoderKL:
    """Load an autoencoder from a folder or, for "owner/name", from the hub."""
    local = Path(location).is_dir()
    if not local and (location.count("/") != 1 or location.startswith((".", "/", "~"))):
        _require(Path(location), "set generation.pipeline.vae to a folder, a hub id or null")
    options = common | {"local_files_only": common["local_files_only"] or local}
    return AutoencoderKL.from_pretrained(location, use_safetensors=True, **options)


def _scheduler(spec: "SchedulerSpec") -> Any:
    """Make a scheduler from nothing but its specification, as the authors do."""
    import diffusers

    options = spec.model_dump(exclude={"class_name"})
    return getattr(diffusers, spec.class_name)(**options)


def _settings_text(config: Any) -> bytes:
    """Write a configuration without what depends on place, way of loading or version."""
    settings = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    # The weights tell the precision and the class of the object its architecture.
    passing = ("transformers_version", "dtype", "architectures")
    kept = {
        key: value
        for key, value in settings.items()
        if not key.startswith("_") and key not in passing
    }
    return json.dumps(kept, sort_keys=True, default=str).encode()


# -------------------------------------------------------------------------------------- the drawing
class _Settings(NamedTuple):
    """What the sampler is told for every sample alike."""

    num_inference_steps: int
    guidance_scale: float
    height: int
    width: int


def generate(
    plan: pd.DataFrame,
    pipeline: DiffusionPipeline,
    out_dir: str | Path,
    *,
    guidance_scale: float,
    num_inference_steps: int,
    height: int,
    width: int,
    batch_size: int = 8,
    shard_size: int = 256,
    model_id: str | None = None,
    images: bool = True,
    progress: bool = True,
) -> pd.DataFrame:
    """Draw every row of a plan that is not yet in a folder, and return all of them.

    A sample is drawn again if any fact about it differs: prompt, seed, setting or model. What
    was drawn under other settings stays, and `read_generated` tells the two apart.

    Args:
        plan: table with `PLAN_COLUMNS`, as from `diffcore.prompts.plan_generation`.
        pipeline: of the SDXL family, from `load_pipeline`.
        out_dir: folder of the shards; made if needed.
        guidance_scale: classifier-free guidance; at 1 and below the negatives have no effect.
        num_inference_steps: denoising steps.
        height: pixels, a multiple of 8.
        width: pixels, a multiple of 8.
        batch_size: images denoised together; changes speed and memory only.
        shard_size: images per Parquet file, the most that a kill can lose.
        model_id: name to record; the folder or id that the pipeline came from if None.
        images: False leaves the pixels on disk, for runs larger than the memory.
        progress: show a bar with images per second.

    Returns:
        What `read_generated` returns for this plan and these settings, in the plan's order.

    Raises:
        ValueError: for a plan with missing columns or values or repeated sample ids.
        TypeError: for a pipeline that is not of the SDXL family.
        FloatingPointError: if the model draws infinities or NaN, as half precision may.
    """
    settings = _Settings(num_inference_steps, float(guidance_scale), height, width)
    wanted = _checked_plan(plan).assign(model=model_id or _name(pipeline), **settings._asdict())
    wanted["model_hash"] = hash_model(_checked_pipeline(pipeline))
    folder = _writable(out_dir)
    pending = _without_drawn(wanted, folder)
    with tqdm(
        total=len(wanted), initial=len(wanted) - len(pending), unit="image", desc="generate",
        disable=not progress,
    ) as bar:  # fmt: skip
        prompts = _prompt_encoder(pipeline)
        for rows in _chunks(pending, shard_size):
            pngs = []
            for batch in _chunks(rows, batch_size):
                drawn = _draw(pipeline, batch, prompts, settings)
                pngs += [_to_png(pixels) for pixels in drawn]
                bar.update(len(batch))
            _write_shard(rows, pngs, folder)
    return read_generated(folder, wanted, images=images)


def _checked_plan(plan: pd.DataFrame) -> pd.DataFrame:
    """Return the plan's own columns; raises ValueError for a plan that cannot be drawn."""
    if missing := [name for name in PLAN_COLUMNS if name not in plan]:
        raise ValueError(f"the plan lacks the columns {missing}")
    table = plan[list(PLAN_COLUMNS)].reset_index(drop=True)
    if empty := [name for name in PLAN_COLUMNS if table[name].isna().any()]:
        raise ValueError(
            f"the plan misses values in {empty}; from CSV, read it with keep_default_na=False"
        )
    if table["sample_id"].duplicated().any():
        first = table.loc[table["sample_id"].duplicated(), "sample_id"].iloc[0]
        raise ValueError(f"sample_id {first!r} is in the plan more than once")
    return table


def _name(pipeline: DiffusionPipeline) -> str:
    """Name a pipeline by the last part of its path or hub id, which no machine's folders enter."""
    return Path(pipeline.name_or_path or type(pipeline).__name__).name


def _checked_pipeline(pipeline: DiffusionPipeline) -> DiffusionPipeline:
    """Raise TypeError for a pipeline whose prompts are not encoded as SDXL does."""
    if not isinstance(pipeline, StableDiffusionXLPipeline):
        raise TypeError(f"cannot draw with a {type(pipeline).__name__}; an SDXL pipeline is needed")
    return pipeline


def _chunks(table: pd.DataFrame, size: int) -> Iterator[pd.DataFrame]:
    for start in range(0, len(table), size):
        yield table.iloc[start : start + size]


def _prompt_encoder(pipeline: StableDiffusionXLPipeline) -> Any:
    """Return a function from (prompt, negative) to its four embeddings that remembers them.

    One text at a time: which prompts share a batch then cannot change an embedding.
    """

    @lru_cache(maxsize=_PREPARED_PROMPTS)
    @torch.inference_mode()
    def encode(prompt: str, negative: str) -> tuple[torch.Tensor, ...]:
        # None, not "", lets the pipeline apply its own idea of an absent negative.
        return pipeline.encode_prompt(prompt, negative_prompt=negative or None)

    return encode


@torch.inference_mode()
def _draw(
    pipeline: StableDiffusionXLPipeline, rows: pd.DataFrame, encode: Any, settings: _Settings
) -> np.ndarray:
    """Draw one batch: (B, H, W, 3) uint8. Each sample uses the random numbers of its own seed."""
    generators = [torch.Generator().manual_seed(seed) for seed in rows["seed"].tolist()]
    pairs = zip(rows["prompt"], rows["negative_prompt"], strict=True)
    embeddings = [torch.cat(same) for same in zip(*(encode(*pair) for pair in pairs), strict=True)]
    names = ("prompt_embeds", "negative_prompt_embeds",
             "pooled_prompt_embeds", "negative_pooled_prompt_embeds")  # fmt: skip
    images = pipeline(
        **dict(zip(names, embeddings, strict=True)),
        latents=_noise(pipeline, generators, settings),
        generator=generators,
        output_type="pt",
        **settings._asdict(),
    ).images
    if not torch.isfinite(images).all():
        raise FloatingPointError(
            f"the model drew NaN or infinity in {pipeline.dtype}; set generation.pipeline.dtype to "
            "float32, or use an autoencoder that is safe in half precision"
        )
    return (images.float() * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def _noise(
    pipeline: StableDiffusionXLPipeline, generators: list[torch.Generator], settings: _Settings
) -> torch.Tensor:
    """Draw standard normal latents (B, C, H/f, W/f), one generator each.

    On the CPU in single precision, so that they are the same for every device and precision.
    """
    scale = pipeline.vae_scale_factor
    shape = (pipeline.unet.config.in_channels, settings.height // scale, settings.width // scale)
    noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
    return noise.to(pipeline.unet.dtype)


# --------------------------------------------------------------------------------------- the shards
def read_generated(
    out_dir: str | Path, plan: pd.DataFrame | None = None, *, images: bool = True
) -> pd.DataFrame:
    """Read generated images, each once.

    Args:
        out_dir: folder of the shards.
        plan: keep only the rows that agree with it on every column that both have, in its
            order. Columns like ``guidance_scale`` may be added to it to choose among settings.
            Rows of the plan that are not drawn yet are absent from the result.
        images: False leaves the column ``image`` out.

    Returns:
        Table with `GENERATED_COLUMNS`; ``image`` is a dict of ``bytes`` (PNG) and ``path``.
        Without a plan, samples drawn under several settings have a row for each.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ValueError: for a damaged shard, or a plan that fits several drawings of one sample.
    """
    folder = Path(out_dir)
    _require(folder, "generate into it first")
    columns = GENERATED_COLUMNS if images else GENERATED_COLUMNS[:-1]
    frames = [_read_shard(path, columns, plan) for path in sorted(folder.glob("*.parquet"))]
    empty = _schema().empty_table().select(list(columns)).to_pandas()
    table = pd.concat([frame for frame in frames if len(frame)] or [empty], ignore_index=True)
    table = table.drop_duplicates(list(_FACTS), ignore_index=True)
    return table if plan is None else _in_order_of(plan, table)


def decode_images(generated: pd.DataFrame) -> np.ndarray:
    """Decode the column ``image`` to (N, H, W, 3) uint8; ValueError if the sizes differ."""
    if generated.empty:
        return np.empty((0, 0, 0, 3), np.uint8)
    files = (Image.open(io.BytesIO(image["bytes"])) for image in generated["image"])
    return np.stack([np.asarray(file.convert("RGB")) for file in files])


def _writable(out_dir: str | Path) -> Path:
    """Make the folder and clear what a killed run left half written."""
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(".*.parquet.tmp"):
        stale.unlink()
    return folder


def _without_drawn(wanted: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Return the rows of which the folder holds no image with the same facts."""
    drawn = read_generated(folder, images=False)[list(_FACTS)]
    marked = wanted.merge(drawn, how="left", on=list(_FACTS), indicator=True)
    return wanted[(marked["_merge"] == "left_only").to_numpy()]


def _read_shard(path: Path, columns: tuple[str, ...], plan: pd.DataFrame | None) -> pd.DataFrame:
    """Read the rows of one shard that a plan asks for."""
    try:
        table = pq.read_table(path, columns=list(columns)).to_pandas()
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is damaged; delete it and generate again ({error})") from error
    if plan is None:
        return table
    shared = [name for name in columns if name in plan and name != "image"]
    return table.merge(plan[shared].drop_duplicates(), on=shared)


def _in_order_of(plan: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Sort rows as in the plan; raises ValueError if a sample has several."""
    repeated = table["sample_id"].duplicated(keep=False)
    if repeated.any():
        group = table[table["sample_id"] == table.loc[repeated, "sample_id"].iloc[0]]
        differing = [name for name in _FACTS if group[name].nunique() > 1]
        raise ValueError(
            f"sample {group['sample_id'].iloc[0]!r} was drawn with several {differing}; "
            "add those columns to the plan to choose"
        )
    order = {sample_id: place for place, sample_id in enumerate(plan["sample_id"])}
    return table.sort_values("sample_id", key=lambda ids: ids.map(order), ignore_index=True)


def _write_shard(rows: pd.DataFrame, pngs: list[bytes], folder: Path) -> None:
    """Write rows (with their plan's places as index) and images as one file, or not at all."""
    images = [
        {"bytes": png, "path": f"{sample_id}.png"}
        for png, sample_id in zip(pngs, rows["sample_id"], strict=True)
    ]
    facts = hashlib.sha256(rows[list(_FACTS)].to_json(orient="values").encode()).hexdigest()
    name = f"{rows.index[0]:07d}-{rows.index[-1]:07d}-{facts[:16]}.parquet"
    table = pa.Table.from_pandas(rows.assign(image=images), _schema(), preserve_index=False)
    partial = folder / f".{name}.tmp"
    with partial.open("wb") as file:
        pq.write_table(table, file)
        file.flush()
        os.fsync(file.fileno())  # else a power cut may leave a whole name on half a file
    partial.replace(folder / name)


@lru_cache(maxsize=1)
def _schema() -> pa.Schema:
    """Columns and types of a shard, with the marks by which `datasets` decodes the images."""
    texts = dict.fromkeys((*PLAN_COLUMNS, "model", "model_hash"), Value("string"))
    numbers = dict.fromkeys(("num_inference_steps", "height", "width"), Value("int32"))
    types = texts | numbers | {
        "seed": Value("int64"), "guidance_scale": Value("float64"), "image": ImageFeature(),
    }  # fmt: skip
    return Features({name: types[name] for name in GENERATED_COLUMNS}).arrow_schema


def _to_png(pixels: np.ndarray) -> bytes:
    """Encode (H, W, 3) uint8; lightly compressed, as denser files cost more time than disk."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()
