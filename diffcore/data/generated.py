"""Generated images as data: what is known of each, and how a run's folder is read.

Images lie in Parquet shards (`diffcore.store.ImageTable`); `diffcore.generation` writes them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffcore.data.images import Images, Lazy
from diffcore.prompts.plan import PLAN_COLUMNS
from diffcore.store import ImageTable, read_stored, read_vectors

#: What decides about an image's pixels beside its row of the plan; not what the model is called.
SETTING_COLUMNS = ("model_hash", "num_inference_steps", "guidance_scale", "height", "width")
_TYPES = dict.fromkeys((*PLAN_COLUMNS, "model", *SETTING_COLUMNS), "string")
_TYPES |= {"seed": "int64", "guidance_scale": "float64"}
_TYPES |= dict.fromkeys(("num_inference_steps", "height", "width"), "int32")
#: What is known of a generated image: its row of the plan, its model, and the sampler's settings.
GENERATED_COLUMNS = tuple(_TYPES)
_KEYS = (*PLAN_COLUMNS, *SETTING_COLUMNS)


class ShardImages(Lazy):
    """Images in shards, read when they are indexed; the last few groups of rows stay in memory."""

    def __init__(self, metadata: pd.DataFrame):
        """Take a table with shard (path), row in it, height and width."""
        self._shards, self._rows = (metadata[name].to_numpy() for name in ("shard", "row"))
        sizes = set(zip(metadata["height"], metadata["width"], strict=True)) or {(0, 0)}
        size = (*sizes.pop(), 3) if len(sizes) == 1 else ()
        super().__init__([*zip(self._shards, self._rows, strict=True)], read_stored, size)

    def embeddings(self, encoder: str) -> np.ndarray | None:
        """Read what lies beside the images: (N, D) by the encoder of that hash, or None."""
        embeddings = None
        for shard in np.unique(self._shards):
            vectors, here = read_vectors(shard, encoder), self._shards == shard
            if vectors is None:
                return None
            if embeddings is None:
                embeddings = np.empty((len(self), vectors.shape[1]), vectors.dtype)
            embeddings[here] = vectors[self._rows[here]]
        return embeddings


@dataclass(frozen=True, eq=False)
class GeneratedSet:
    """Generated images and what is known of them."""

    metadata: pd.DataFrame  # N rows: `GENERATED_COLUMNS`, and the shard and row of the image
    images: Images  # (N, H, W, 3) uint8
    #: Returns what embeds the images, as of `diffcore.filtering.encoders.load_encoder`.
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


def open_shards(folder: str | Path) -> ImageTable:
    """Open a folder of generated images, which may not be there yet."""
    return ImageTable(folder, _TYPES, _KEYS)


def read_generated(
    folder: str | Path,
    plan: pd.DataFrame | None = None,
    encoder: Callable[[], Any] | None = None,
) -> GeneratedSet:
    """Read the generated images of a folder, each once, or those of a plan, in its order.

    The plan may hold settings like ``guidance_scale`` besides, to choose among several drawings;
    its rows that are not drawn yet are absent from the result. Raises ValueError for a damaged
    shard or a plan that fits several drawings of one sample, FileNotFoundError without a folder.
    """
    if plan is None and not Path(folder).is_dir():
        raise FileNotFoundError(f"{folder} does not exist; generate into it first")
    drawn = open_shards(folder).metadata()
    if plan is not None:
        shared = [name for name in GENERATED_COLUMNS if name in plan]
        drawn = drawn.merge(plan[shared].drop_duplicates(), on=shared)
        several = drawn[drawn["sample_id"].duplicated(keep=False)]
        if len(several):
            first = several[several["sample_id"] == several["sample_id"].iloc[0]]
            differing = [name for name in _KEYS if first[name].nunique() > 1]
            raise ValueError(
                f"sample {first['sample_id'].iloc[0]!r} was drawn with several {differing}; "
                "add those columns to the plan to choose"
            )
        order = pd.Index(plan["sample_id"]).get_indexer(drawn["sample_id"])
        drawn = drawn.iloc[np.argsort(order)].reset_index(drop=True)
    return GeneratedSet(drawn, ShardImages(drawn), encoder)


def read_accepted(run_dir: Path, key: str | None = None) -> GeneratedSet:
    """Read the generated images of a run that its filter accepted.

    The key is the name of a file of decisions, without suffix. FileNotFoundError for a run without
    decisions; ValueError for an unknown key, and without a key where there are several.
    """
    files = {path.stem: path for path in sorted(run_dir.glob("decisions/[!.]*.parquet"))}
    if not files:
        raise FileNotFoundError(f"{run_dir} holds no decisions; run the notebook 02_filtering")
    if key is None and len(files) == 1:
        key = next(iter(files))
    if key not in files:
        listed = "\n".join(_describe(path) for path in files.values())
        problem = "several filters decided" if key is None else f"there are no decisions {key!r}"
        raise ValueError(f"{run_dir}: {problem}; take one of these keys:\n{listed}")
    decisions = pd.read_parquet(files[key])
    return read_generated(run_dir / "generation", decisions[decisions["accepted"]])


def _describe(path: Path) -> str:
    accepted = pd.read_parquet(path, columns=["accepted"])["accepted"]
    date = datetime.fromtimestamp(path.stat().st_mtime).astimezone()
    return f"  {path.stem} ({date:%Y-%m-%d %H:%M}, {accepted.sum():,} images accepted)"
