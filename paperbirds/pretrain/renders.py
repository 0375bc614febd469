"""Rendered training sets, drawn once by all cores and kept as arrays on disk."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from diffcore.store import digest, written_whole
from paperbirds.birds import WORLD
from paperbirds.contexts import SIZE
from paperbirds.training_data import Recipe

_CHUNK = 512  # images that a process renders at once


@dataclass(frozen=True)
class RenderSet:
    """Images (N, 64, 64, 3) uint8 with one row of metadata each."""

    images: np.ndarray
    metadata: pd.DataFrame  # the recipe's facts
    key: str = ""  # digest of the recipe and the world


def render_set(recipe: Recipe, folder: Path) -> RenderSet:
    """Render a set on all cores, or open it if this world's was rendered before."""

    def render_all() -> np.ndarray:
        with ProcessPoolExecutor() as pool:
            rendered = pool.map(recipe.image, range(recipe.count), chunksize=_CHUNK)
            bar = tqdm(rendered, f"render {recipe.name}", recipe.count, unit="image")
            return np.fromiter(bar, np.dtype((np.uint8, (SIZE, SIZE, 3))), recipe.count)

    key = digest(vars(recipe), WORLD)
    images = keep(folder / f"{recipe.name}-{key}.npy", render_all)
    return RenderSet(images, recipe.facts(), key)


def keep(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """Open an array on disk, which is made first if it is missing."""
    if not path.exists():
        with written_whole(path) as aside, aside.open("wb") as file:
            np.save(file, make())
    return np.load(path, mmap_mode="r")
