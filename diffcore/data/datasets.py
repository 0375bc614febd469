"""Data sets by name: one small protocol, photographs, and whatever an installed package registers.

A package registers a data set by an entry point of the group ``diffcore.datasets``, whose name is
that of ``data.dataset`` and whose object has the members of `Dataset`.
"""

import difflib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from diffcore.data import photographs
from diffcore.data.splits import Split
from diffcore.params import ParamsError, StudyParams

GROUP = "diffcore.datasets"


class Dataset(Protocol):
    """What the library asks of a data set: its splits, and what it can tell beyond images."""

    #: Name in the results -> split to load, the hardest last.
    tests: Mapping[str, str]
    #: Whether the objects in the images have masks.
    has_masks: bool
    #: Whether scenes can be rendered anew and the truth about every generated image is known; only
    #: then are `judge` and `retrieve` called, and ``data.options`` varied.
    has_renders: bool
    #: Whether images are kept by the data set itself, so that a run need not keep them.
    in_memory: bool

    def check(self, params: StudyParams) -> None:
        """Raise a UserError for ``data.options`` that are not legal, or images that are missing."""

    def load(
        self, params: StudyParams, split: str, run_dir: Path | None, **options: float
    ) -> Split:
        """Load "train", one of `tests`, or "spare"; `options` replace those of ``data.options``."""

    def judge(self, metadata: pd.DataFrame, images: np.ndarray, prompts: Any) -> pd.DataFrame:
        """Compare generated images with their prompts: one row per image, with the bool ``wrong``."""

    def retrieve(self, wanted: pd.DataFrame, seed: int) -> np.ndarray:
        """Find, by caption, the generator's own training images: (N, H, W, 3) uint8."""


def find_dataset(name: str) -> Dataset:
    """Return the data set of a name; ParamsError for an unknown one, with the nearest known."""
    if name in photographs.NAMES:
        return photographs.Photographs(name)
    registered = _registered()
    if name not in registered:
        known = [*photographs.NAMES, *registered]
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        raise ParamsError(
            f"data.dataset: no data set {name!r}; nearest: {nearest!r}; there are "
            f"{', '.join(known)}, and a package can register its own"
        )
    return registered[name]


@cache
def _registered() -> dict[str, Dataset]:
    return {point.name: point.load() for point in entry_points(group=GROUP)}
