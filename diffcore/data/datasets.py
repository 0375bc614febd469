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
from diffcore.params import DataParams, ParamsError, StudyParams
from diffcore.prompts.prompt_set import PromptSet

GROUP = "diffcore.datasets"


class Dataset(Protocol):
    """What the library asks of a data set: its splits, and what it knows beyond images."""

    #: Name in the results -> split to load, the hardest last.
    tests: Mapping[str, str]
    #: Whether the objects in the images have masks.
    has_masks: bool
    #: Whether scenes can be rendered anew under other ``data.options``, and the truth about every
    #: generated image is known. `judge` and `retrieve` are called only then.
    has_renders: bool
    keeps_images: bool  # itself, so that a run need not keep them

    def missing(self, settings: DataParams) -> list[str]:
        """Return one message per thing that is missing or wrong, such as an unknown option."""

    def load(
        self, settings: DataParams, split: str, seed: int, run_dir: Path | None = None
    ) -> Split:
        """Load "train", one of the splits of `tests`, or "spare"; ValueError for another."""

    def judge(self, metadata: pd.DataFrame, images: np.ndarray, prompts: PromptSet) -> pd.DataFrame:
        """Compare generated images with their prompts: one row each, with the bool ``wrong``."""

    def retrieve(self, wanted: pd.DataFrame, seed: int) -> np.ndarray:
        """Find images that the generator learned from, by caption: (N, H, W, 3) uint8."""


def load_split(
    params: StudyParams, split: str, run_dir: Path | None = None, **changes: Any
) -> Split:
    """Load a split of a study's data set, with some of its parameters or options changed."""
    fields = {name: value for name, value in changes.items() if name in DataParams.model_fields}
    options = {name: value for name, value in changes.items() if name not in fields}
    fields["options"] = params.data.options | options
    settings = params.data.model_copy(update=fields)
    return find_dataset(settings.dataset).load(settings, split, params.seed, run_dir)


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
