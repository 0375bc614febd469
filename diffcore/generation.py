"""Generation: draw the counterparts of training images into Parquet shards that survive a kill.

The third input of the paper's method, after the contextual and the negative prompt: a pre-trained
text-to-image model. One call loads every kind of it, from CosXL in one file to the tiny model that
ships with Paperbirds. Differences from the authors' released code:

- each sample starts from noise of its own seed, so batch size, order and resume do not matter;
- each shard appears whole or not at all, and images already drawn are not drawn again;
- each image keeps its prompt, seed, settings and the hash of its model beside it;
- nothing is written into the training folder.

Images that come from elsewhere (`diffcore.importing`, `diffcore.stand_ins`) are put into the same
shards by `store`, and `open_images` reads large sets without holding them.

Our choice: lossless PNG, and no watermark, since its presence would hang on an optional package.
A folder is for one writing process at a time; several may read it.
"""

import hashlib
import io
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
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
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from PIL import Image
from tqdm.auto import tqdm

from diffcore.prompts import PLAN_COLUMNS

if TYPE_CHECKING:
    from diffcore.params import PipelineSpec, SchedulerSpec

#: What a sampler was told, beside the plan; with it, all that decides about a sample's pixels.
SETTING_COLUMNS = ("model_hash", "num_inference_steps", "guidance_scale", "height", "width")
_FACTS = (*PLAN_COLUMNS, *SETTING_COLUMNS)
GENERATED_COLUMNS = (*PLAN_COLUMNS, "model", *SETTING_COLUMNS, "image")

#: Family -> what its prompts are encoded to, in the order in which it returns them.
_EMBEDDINGS: dict[type[DiffusionPipeline], tuple[str, ...]] = {
    StableDiffusionXLPipeline: (
        "prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds",
        "negative_pooled_prompt_embeds",
    ),
    StableDiffusionPipeline: ("prompt_embeds", "negative_prompt_embeds"),
}  # fmt: skip
_PREPARED_PROMPTS = 1024  # kept in memory; 1.3 MB each with SDXL's encoders in half precision
_READ_TOGETHER = 32  # images of a shard that are read at once, 14 MB of them at 512 x 512
_HELD_GROUPS = 4  # of these, kept in memory by `ShardImages`


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
        pipeline = _family(spec.config).from_single_file(source, **given, **parts, **common)
        pipeline.register_to_config(_name_or_path=source)  # as one from a folder has it
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


def _family(config: str | None) -> type[DiffusionPipeline]:
    """Tell by a single file's configuration which pipeline it is for; without one, SDXL's."""
    index = Path(config or "") / "model_index.json"
    named = json.loads(index.read_text()).get("_class_name") if index.is_file() else None
    known = {kind.__name__: kind for kind in _EMBEDDINGS}
    return known.get(named, StableDiffusionXLPipeline)


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
        pipeline: of the SDXL family, or of Stable Diffusion 1 and 2, from `load_pipeline`.
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
        TypeError: for a pipeline of another family.
        FloatingPointError: if the model draws infinities or NaN, as half precision may.
    """
    settings = _Settings(num_inference_steps, float(guidance_scale), height, width)
    wanted = _checked_plan(plan).assign(model=model_id or _name(pipeline), **settings._asdict())
    wanted["model_hash"] = hash_model(_checked_pipeline(pipeline))
    folder = _writable(out_dir)
    prompts = _prompt_encoder(pipeline)

    def drawn(rows: pd.DataFrame) -> Iterator[np.ndarray]:
        for batch in _chunks(rows, batch_size):
            yield from _draw(pipeline, batch, prompts, settings)

    _write_missing(wanted, drawn, folder, shard_size, "generate" if progress else None)
    # What a model was called when it drew an image tells nothing of the image.
    return read_generated(folder, wanted.drop(columns="model"), images=images)


def _checked_plan(plan: pd.DataFrame, columns: Sequence[str] = PLAN_COLUMNS) -> pd.DataFrame:
    """Return these columns of a plan; raises ValueError for a plan that cannot be drawn."""
    if missing := [name for name in columns if name not in plan]:
        raise ValueError(f"the plan lacks the columns {missing}")
    table = plan[list(columns)].reset_index(drop=True)
    if empty := [name for name in columns if table[name].isna().any()]:
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
    """Raise TypeError for a pipeline whose prompts are not encoded as one of `_EMBEDDINGS`."""
    if not isinstance(pipeline, tuple(_EMBEDDINGS)):
        raise TypeError(
            f"cannot draw with a {type(pipeline).__name__}; a pipeline of SDXL or of Stable "
            "Diffusion 1 and 2 is needed"
        )
    return pipeline


def _chunks(table: pd.DataFrame, size: int) -> Iterator[pd.DataFrame]:
    for start in range(0, len(table), size):
        yield table.iloc[start : start + size]


def _prompt_encoder(pipeline: DiffusionPipeline) -> Any:
    """Return a function from (prompt, negative) to its embeddings by name that remembers them.

    One text at a time: which prompts share a batch then cannot change an embedding.
    """

    @lru_cache(maxsize=_PREPARED_PROMPTS)
    @torch.inference_mode()
    def encode(prompt: str, negative: str) -> dict[str, torch.Tensor]:
        found = pipeline.encode_prompt(
            prompt, device=pipeline.device, num_images_per_prompt=1,
            # None, not "", lets the pipeline apply its own idea of an absent negative.
            do_classifier_free_guidance=True, negative_prompt=negative or None,
        )  # fmt: skip
        return dict(zip(names, found, strict=True))

    names = next(names for kind, names in _EMBEDDINGS.items() if isinstance(pipeline, kind))
    return encode


@torch.inference_mode()
def _draw(
    pipeline: DiffusionPipeline, rows: pd.DataFrame, encode: Any, settings: _Settings
) -> np.ndarray:
    """Draw one batch: (B, H, W, 3) uint8. Each sample uses the random numbers of its own seed."""
    generators = [torch.Generator().manual_seed(seed) for seed in rows["seed"].tolist()]
    pairs = zip(rows["prompt"], rows["negative_prompt"], strict=True)
    encoded = [encode(*pair) for pair in pairs]
    images = pipeline(
        **{name: torch.cat([each[name] for each in encoded]) for name in encoded[0]},
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
    pipeline: DiffusionPipeline, generators: list[torch.Generator], settings: _Settings
) -> torch.Tensor:
    """Draw standard normal latents (B, C, H/f, W/f), one generator each.

    On the CPU in single precision, so that they are the same for every device and precision.
    """
    scale = pipeline.vae_scale_factor
    shape = (pipeline.unet.config.in_channels, settings.height // scale, settings.width // scale)
    noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
    return noise.to(pipeline.unet.dtype)


# ---------------------------------------------------------------------------- images from elsewhere
def store(
    table: pd.DataFrame,
    images: Sequence[np.ndarray] | Callable[[int], np.ndarray],
    out_dir: str | Path,
    *,
    shard_size: int = 256,
    progress: bool = True,
) -> None:
    """Put given images into shards, as if they had been drawn.

    What a folder holds with the same facts is not written again, nor is its image asked for.

    Args:
        table: all of `GENERATED_COLUMNS` but the image.
        images: the image (H, W, 3) uint8 of each row, by its place in the table; each is asked
            for once, in order, and forgotten when its shard is written.
        out_dir: folder of the shards; made if needed.
        shard_size: images per Parquet file, the most that a kill can lose.
        progress: show a bar with images per second.

    Raises:
        ValueError: for missing columns or values, repeated sample ids, or an image that is not
            of the height and width that its row names.
    """
    wanted = _checked_plan(table, GENERATED_COLUMNS[:-1])
    image_of = images if callable(images) else images.__getitem__

    def given(rows: pd.DataFrame) -> Iterator[np.ndarray]:
        for row in rows.itertuples():
            yield _checked_image(image_of(row.Index), row)

    _write_missing(wanted, given, _writable(out_dir), shard_size, "store" if progress else None)


def _checked_image(image: np.ndarray, row: Any) -> np.ndarray:
    """Raise ValueError for an image that is not what its row says."""
    if image.dtype != np.uint8 or image.shape != (row.height, row.width, 3):
        raise ValueError(
            f"the image of {row.sample_id!r} is {image.dtype} {image.shape}; its row asks for "
            f"uint8 {(row.height, row.width, 3)}"
        )
    return image


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
    table, shards = _index(out_dir)
    if plan is not None:
        shared = [name for name in GENERATED_COLUMNS[:-1] if name in plan]
        table = _in_order_of(plan, table.merge(plan[shared].drop_duplicates(), on=shared))
    if images:
        table["image"] = _read_images(table, shards)
    return table[list(GENERATED_COLUMNS if images else GENERATED_COLUMNS[:-1])]


def decode_images(generated: pd.DataFrame) -> np.ndarray:
    """Decode the column ``image`` to (N, H, W, 3) uint8; ValueError if the sizes differ."""
    if generated.empty:
        return np.empty((0, 0, 0, 3), np.uint8)
    files = (Image.open(io.BytesIO(image["bytes"])) for image in generated["image"])
    return np.stack([np.asarray(file.convert("RGB")) for file in files])


def open_images(out_dir: str | Path, table: pd.DataFrame) -> "ShardImages":
    """Open the images of a table's rows, in its order, without reading them.

    Args:
        out_dir: folder of the shards.
        table: facts, as from `read_generated` with ``images=False``.

    Raises:
        FileNotFoundError: if the folder does not exist, or for a row of which it has no image.
        ValueError: for a damaged shard, or a row that fits several drawings of one sample.
    """
    known, shards = _index(out_dir)
    shared = [name for name in _FACTS if name in table]
    columns = list(dict.fromkeys((*shared, "height", "width", "shard", "row")))
    found = table[shared].merge(known[columns], how="left", on=shared)
    if (absent := found["shard"].isna()).any():
        raise FileNotFoundError(
            f"{out_dir} holds no image for {absent.sum()} rows, the first of which is "
            f"{found.loc[absent, 'sample_id'].iloc[0]!r}; generate them first"
        )
    if len(found) > len(table):
        raise ValueError(
            f"some of the rows were drawn with several {list(SETTING_COLUMNS)}; add those columns "
            "to the table to choose"
        )
    return ShardImages(found.astype({"shard": int, "row": int}), shards)


class ShardImages:
    """Images in shards, like an array (N, H, W, 3) uint8 that is read where it is asked for.

    One place gives an image (H, W, 3); a slice, or a list or array of places or of truth values,
    gives several (n, H, W, 3), which must be of one size. A few images beside the last ones stay
    in memory, so reading on in order opens each part of a file once. It can be pickled, to be
    read by several processes.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, places: pd.DataFrame, shards: Sequence[Path]):
        """Take a table with shard (number), row in it, height and width; `open_images` makes it."""
        self._shards = list(shards)
        self._shard, self._row = (places[name].to_numpy() for name in ("shard", "row"))
        self._sides = places[["height", "width"]].to_numpy()
        self._order = np.arange(len(places))
        self._groups: OrderedDict[tuple[int, int], pa.Array] = OrderedDict()

    def __len__(self) -> int:
        return len(self._order)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, H, W, 3); raises AttributeError if the images are of several sizes."""
        try:
            return (len(self), *self._one_size(self._order), 3)
        except ValueError as error:
            raise AttributeError(str(error)) from error

    def __getitem__(self, key: Any) -> np.ndarray:
        """Read one image (H, W, 3) or several (n, H, W, 3), as numpy would understand the key."""
        places = self._order[key]
        if places.ndim == 0:
            return self._read(places)
        images = np.empty((len(places), *self._one_size(places), 3), np.uint8)
        for at in np.lexsort((self._row[places], self._shard[places])):  # as they lie on the disk
            images[at] = self._read(places[at])
        return images

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self._read(place) for place in self._order)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_groups": OrderedDict()}

    def _one_size(self, places: np.ndarray) -> tuple[int, int]:
        """Return height and width of these images; raises ValueError if they differ."""
        # No image at all is of the size of the first, so that an empty selection keeps its shape.
        sides = np.unique(self._sides[places if len(places) else slice(1)], axis=0)
        if len(sides) > 1:
            shown = " and ".join(f"{height} x {width}" for height, width in sides[:2])
            raise ValueError(f"images are of several sizes, such as {shown}")
        return tuple(sides[0].tolist()) if len(sides) else (0, 0)

    def _read(self, place: int) -> np.ndarray:
        first, images = self._group(self._shard[place], self._row[place])
        image = Image.open(io.BytesIO(images[self._row[place] - first]["bytes"].as_py()))
        return np.asarray(image.convert("RGB"))

    def _group(self, shard: int, row: int) -> tuple[int, pa.Array]:
        """Return the first row and the encoded images of the row group that holds a row."""
        for (held, first), images in self._groups.items():
            if held == shard and 0 <= row - first < len(images):
                self._groups.move_to_end((held, first))
                return first, images
        first, images = _read_group(self._shards[shard], row)
        self._groups[shard, first] = images
        if len(self._groups) > _HELD_GROUPS:
            self._groups.popitem(last=False)
        return first, images


def _read_group(path: Path, row: int) -> tuple[int, pa.Array]:
    """Read the images of the row group that holds a row of a shard, and the group's first row."""
    with _naming(path), pq.ParquetFile(path) as file:
        counts = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
        ends = np.cumsum(counts)
        number = int(np.searchsorted(ends, row, side="right"))
        images = file.read_row_group(number, columns=["image"])["image"].combine_chunks()
    return int(ends[number] - counts[number]), images


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


def _write_missing(
    wanted: pd.DataFrame,
    images_of: Callable[[pd.DataFrame], Iterable[np.ndarray]],
    folder: Path,
    shard_size: int,
    title: str | None,
) -> None:
    """Write the rows that a folder lacks, a shard at a time, under a bar if it has a title."""
    pending = _without_drawn(wanted, folder)
    with tqdm(
        total=len(wanted), initial=len(wanted) - len(pending), unit="image", desc=title,
        disable=title is None,
    ) as bar:  # fmt: skip
        for rows in _chunks(pending, shard_size):
            pngs = []
            for image in images_of(rows):
                pngs.append(_to_png(image))
                bar.update()
            _write_shard(rows, pngs, folder)


def _index(out_dir: str | Path) -> tuple[pd.DataFrame, list[Path]]:
    """List every drawn image once: its facts, and the shard and row that hold it."""
    folder = Path(out_dir)
    _require(folder, "generate into it first")
    shards = sorted(folder.glob("*.parquet"))
    frames = [_read_facts(path).assign(shard=number) for number, path in enumerate(shards)]
    empty = _schema().empty_table().to_pandas().assign(shard=0).rename_axis("row").reset_index()
    table = pd.concat([frame for frame in frames if len(frame)] or [empty], ignore_index=True)
    return table.drop_duplicates(list(_FACTS), ignore_index=True), shards


def _read_facts(path: Path) -> pd.DataFrame:
    """Read a shard without its images; ``row`` counts its rows."""
    with _naming(path):
        table = pq.read_table(path, columns=list(GENERATED_COLUMNS[:-1])).to_pandas()
    return table.assign(row=np.arange(len(table)))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name the shard that cannot be read, and the remedy."""
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is damaged; delete it and generate again ({error})") from error


def _read_images(table: pd.DataFrame, shards: list[Path]) -> list[dict[str, Any]]:
    """Read the column ``image`` of an index's rows, each shard once."""
    images: list[dict[str, Any]] = [{}] * len(table)
    for number, places in table.groupby("shard").indices.items():
        with _naming(shards[number]):
            column = pq.read_table(shards[number], columns=["image"])["image"]
        rows = column.take(table["row"].to_numpy()[places])
        for place, image in zip(places, rows.to_pylist(), strict=True):
            images[place] = image
    return images


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
        pq.write_table(table, file, row_group_size=_READ_TOGETHER)
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
