"""What a set of photographs holds, by its own files, and which images make up a split.

Our choice: images are drawn by a hash of the seed and their id, never by their place in a list. So
a smaller draw is part of a larger one, and an image that joins or leaves a folder without a test
part of its own moves no other image to the other side (but where a class would lack one side).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffcore.params import DataParams

#: Splits that can be opened; "spare" is what limits leave over, and never tested on.
SPLITS = ("train", "test", "spare")

#: Of a catalogue's table, a row an image.
COLUMNS = ("id", "label", "file", "part", "place", "box")

WHOLE_FILE = -1  # the place of an image that has a file of its own


class PhotosError(ValueError):
    """Photographs that are not there or cannot be used; the message is for a person.

    Attributes:
        problems: one text each.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)

    def _render_traceback_(self) -> list[str]:
        """Let IPython show the message alone: the stack says nothing about a missing file."""
        return [f"PhotosError: {self}"]


@dataclass(frozen=True)
class Catalogue:
    """All labelled images of a set.

    Attributes:
        home: the folder that files are named from.
        folders: what the set itself calls its classes, in the order of the labels.
        table: with the `COLUMNS`: id (distinct), label (from 0), file (relative to home), part
            ("train", "test", or "" where the set has no split of its own), place (number of the
            record in a file that holds many, else -1), and box: (x0, y0, x1, y1) in pixels of the
            file with x1 and y1 just outside, a file that holds it, or None.
    """

    home: Path
    folders: tuple[str, ...]
    table: pd.DataFrame


def make_table(rows: Sequence[tuple]) -> pd.DataFrame:
    """Make a catalogue's table of tuples in the order of `COLUMNS`; a box may be left out."""
    columns = list(zip(*rows, strict=True)) or [()] * len(COLUMNS)
    table = pd.DataFrame(dict(zip(COLUMNS, columns, strict=False)))
    return with_boxes(table, columns[5] if len(columns) == len(COLUMNS) else [None] * len(rows))


def with_boxes(table: pd.DataFrame, boxes: Sequence[Any]) -> pd.DataFrame:
    """Put a box, a file or None beside each image of a table."""
    # An array by hand: pandas would make a table of tuples, and a number of None.
    return table.assign(box=pd.Series(np.fromiter(boxes, object, len(table)), dtype=object))


def choose(table: pd.DataFrame, settings: DataParams, split: str, seed: int) -> pd.DataFrame:
    """Rows of one split, by label and then in the set's own order.

    The training and test images of a class are the first by their draw in the set's own part, or
    else in what `test_share` makes of the class. Spare ones are the rest of the training part; of
    the test part too, where that part is not the set's own.

    Raises:
        ValueError: for an unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"no split {split!r} of photographs; there are {', '.join(SPLITS)}")
    draws, own_parts = _draws(table["id"], seed), bool((table["part"] != "").all())
    part = table["part"] if own_parts else _deal_out(table["label"], draws, settings.test_share)
    limits = {
        "train": settings.train_images_per_class,
        "test": settings.test_images_per_class,
    }
    taken = {
        name: _first(table["label"], draws, part == name, limit) for name, limit in limits.items()
    }
    left = ~taken["train"] & ~taken["test"]
    taken["spare"] = left & (part == "train") if own_parts else left
    chosen = table[taken[split]]
    return chosen.sort_values("label", kind="stable").reset_index(drop=True)


def _draws(ids: Sequence[str], seed: int) -> pd.Series:
    """Draw a number in [0, 1) for each id, from it and the seed alone."""
    prefix = f"{seed}/"
    digests = (hashlib.blake2b(f"{prefix}{name}".encode(), digest_size=8).digest() for name in ids)
    return pd.Series(np.frombuffer(b"".join(digests), ">u8") / 2**64)


def _deal_out(labels: pd.Series, draws: pd.Series, share: float) -> pd.Series:
    """Call each image "test", with this chance, or "train"; of each class at least one of both."""
    in_class = draws.groupby(labels)
    test = (draws < share) | (draws == in_class.transform("min"))
    test &= draws != in_class.transform("max")
    return test.map({True: "test", False: "train"})


def _first(
    labels: pd.Series, draws: pd.Series, eligible: pd.Series, limit: int | None
) -> pd.Series:
    """Tell which of the eligible images are among the first so many of their class."""
    if limit is None:
        return eligible
    rank = draws.where(eligible).groupby(labels).rank(method="first")
    return rank <= limit  # an image that is not eligible has no rank, and NaN is below nothing
