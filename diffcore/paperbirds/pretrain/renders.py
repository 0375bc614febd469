"""Rendered training sets, drawn once by all cores and kept as memory-mapped arrays."""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from diffcore.paperbirds.contexts import SIZE
from diffcore.paperbirds.scenes import Scene, draw_scene

_CHUNK = 512


@dataclass(frozen=True)
class RenderRecipe:
    """How one set is drawn; `seed` sets it apart from every other set."""

    name: str
    count: int
    seed: int
    style: float | None  # None: drawn uniformly from [0, 1]
    malformed: bool = False
    extra_distractor: float = 0.0

    def scene(self, index: int) -> Scene:
        """The scene of one image of the set."""
        return draw_scene(
            (self.seed, index), style=self.style, malformed=self.malformed,
            extra_distractor=self.extra_distractor,
        )  # fmt: skip


@dataclass(frozen=True)
class RenderSet:
    """Images (N, 64, 64, 3) uint8 with one row of facts each."""

    images: np.ndarray
    facts: pd.DataFrame  # species, context, distractors (tuple), style, malformation


def render_set(recipe: RenderRecipe, folder: Path, workers: int | None = None) -> RenderSet:
    """Render a set, or open it where it was rendered before; written whole or not at all."""
    path = folder / f"{recipe.name}-{recipe.count}-{recipe.seed}.npy"
    if not path.exists():
        _render_to(path, recipe, workers or os.cpu_count() or 1)
    facts = pd.DataFrame([_facts(recipe.scene(i)) for i in range(recipe.count)])
    return RenderSet(np.load(path, mmap_mode="r"), facts)


def _render_to(path: Path, recipe: RenderRecipe, workers: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part.npy")
    shape = (recipe.count, SIZE, SIZE, 3)
    images = np.lib.format.open_memmap(aside, mode="w+", dtype=np.uint8, shape=shape)
    chunks = list(_chunks(recipe.count))
    with ProcessPoolExecutor(workers) as pool:
        rendered = pool.map(partial(_render_chunk, recipe), chunks)
        bar = tqdm(chunks, desc=f"render {recipe.name}", unit_scale=_CHUNK, unit="image")
        for chunk, part in zip(bar, rendered, strict=True):
            images[chunk[0] : chunk[0] + len(part)] = part
    images.flush()
    aside.rename(path)


def _render_chunk(recipe: RenderRecipe, chunk: range) -> np.ndarray:
    return np.stack([recipe.scene(i).render().image for i in chunk])


def _chunks(count: int) -> Iterator[range]:
    return (range(at, min(at + _CHUNK, count)) for at in range(0, count, _CHUNK))


def _facts(scene: Scene) -> dict:
    names = ("species", "context", "distractors", "style", "malformation")
    return {name: getattr(scene, name) for name in names}
