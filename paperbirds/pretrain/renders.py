"""Rendered training sets, drawn once by all cores and kept as memory-mapped arrays."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from diffcore.store import digest, written_whole
from paperbirds.birds import WORLD
from paperbirds.contexts import SIZE
from paperbirds.dataset import Scene, draw_scene
from paperbirds.web import Post, draw_post

_CHUNK = 512  # images that a process renders at once
_SHOWN = ["species", "context", "distractors", "style", "malformation"]
_TOLD = ["species", "context", "distractors", "flaw"]


@dataclass(frozen=True)
class RenderRecipe:
    """How one set is drawn; `seed` sets it apart from every other set."""

    name: str
    count: int
    seed: int
    style: float | None  # None: drawn uniformly from [0, 1]
    malformed: bool = False
    extra_distractor: float = 0.0

    def key(self, *given: Any) -> str:
        """Digest of all that the set rests on, and what is made of it by what is `given`."""
        return digest(vars(self), WORLD, *given)

    def scene(self, index: int) -> Scene:
        """The scene of one image of the set."""
        options = {"malformed": self.malformed, "extra_distractor": self.extra_distractor}
        return draw_scene((self.seed, index), style=self.style, **options)

    def image(self, index: int) -> np.ndarray:
        """One image of the set."""
        return self.scene(index).render().image

    def facts(self) -> pd.DataFrame:
        """What each image shows: species, context, distractors (tuple), style, malformation."""
        rows = [vars(self.scene(i)) for i in range(self.count)]
        return pd.DataFrame(rows, columns=_SHOWN)


@dataclass(frozen=True)
class WebRecipe(RenderRecipe):
    """A part of the web, of which captions are known, not truths; `flawed` birds are malformed."""

    flawed: float = 0.0
    balanced: bool = False  # by species

    def post(self, index: int) -> Post:
        """An image of the web and what its caption is about."""
        return draw_post(
            (self.seed, index), style=self.style, extra_distractor=self.extra_distractor,
            malformed=self.flawed, balanced=self.balanced,
        )  # fmt: skip

    def scene(self, index: int) -> Scene:
        """The scene of one image of the set."""
        return self.post(index).scene

    def facts(self) -> pd.DataFrame:
        """What the caption of each image is about: species, context, distractors (tuple), flaw."""
        posts = map(self.post, range(self.count))
        rows = [(p.species, p.context, p.scene.distractors, p.flaw) for p in posts]
        return pd.DataFrame(rows, columns=_TOLD, dtype=object)


@dataclass(frozen=True)
class RenderSet:
    """Images (N, 64, 64, 3) uint8 with one row of metadata each."""

    images: np.ndarray
    metadata: pd.DataFrame  # the recipe's facts


def render_set(recipe: RenderRecipe, folder: Path) -> RenderSet:
    """Render a set on all cores, or open it where it was rendered before, of the same world."""
    path = folder / f"{recipe.name}-{recipe.key()}.npy"
    if not path.exists():
        count, bar = recipe.count, {"desc": f"render {recipe.name}", "unit": "image"}
        with written_whole(path) as aside, ProcessPoolExecutor() as pool:
            images = np.lib.format.open_memmap(aside, "w+", np.uint8, (count, SIZE, SIZE, 3))
            rendered = pool.map(recipe.image, range(count), chunksize=_CHUNK)
            for i, image in enumerate(tqdm(rendered, total=count, **bar)):
                images[i] = image
            images.flush()
    return RenderSet(np.load(path, mmap_mode="r"), recipe.facts())
