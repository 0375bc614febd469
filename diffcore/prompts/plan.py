"""The plan: which image to draw for which training image, from which prompt, seed and context.

Our choice: contexts are dealt out in equal numbers within a class, every class gets at least one
image however small the share, and every draw has a seed of its own, so that it can be repeated,
resumed and replaced.
"""

import hashlib
import json
import math
from functools import partial

import pandas as pd

from diffcore.prompts.prompt_set import PromptSet, negatives_for, write_prompt

PLAN_COLUMNS = (
    *("sample_id", "class_name", "source_id", "context"),
    *("prompt", "negative_prompt", "seed"),
)


def plan_generation(
    sources: pd.DataFrame,
    prompt_set: PromptSet,
    *,
    generated_share: float,
    seed: int,
    attempt: int = 0,
) -> pd.DataFrame:
    """Make the table of what to draw: one row per generated image, in the order of the sources.

    A draw's own seed depends on (seed, source, copy, attempt) alone: neither other rows nor the
    wording change it. Copies of an image get different contexts if there are enough.

    Args:
        sources: training images, columns ``source_id`` (distinct) and ``class_name``.
        generated_share: generated images per training image of a class, >= 0. A class gets at
            least one unless the share is 0.
        attempt: 0 at first; higher draws replacements: other noise, contexts dealt anew.

    Returns `PLAN_COLUMNS`; ``sample_id`` is distinct, seeds are in [0, 2^63). Raises ValueError for
    missing columns or values, repeated source ids or a negative share.
    """
    if generated_share < 0:
        raise ValueError(f"generated_share is {generated_share}; it must be 0 or more")
    sources = _checked_sources(sources)
    order = {source_id: place for place, source_id in enumerate(sources["source_id"])}
    rows = []
    for class_name, members in sources.groupby("class_name", sort=False):
        # Shuffled for each class, so that small classes do not all get the same few.
        deal = partial(_hash, "deal", seed, class_name, attempt)
        texts = []
        for context in sorted(prompt_set.contexts, key=deal):
            negatives = ", ".join(negatives_for(prompt_set, context, class_name))
            texts.append((context, write_prompt(prompt_set, class_name, context), negatives))
        for place, (source_id, copy) in enumerate(_draws(members, generated_share, seed)):
            sample_id = f"{source_id}-{copy}-{attempt}"
            noise = _hash("draw", seed, source_id, copy, attempt) >> 1  # signed 64 bits hold it
            row = (sample_id, class_name, source_id, *texts[place % len(texts)], noise)
            rows.append((order[source_id], copy, row))
    plan = [row for *_, row in sorted(rows)]
    return pd.DataFrame(plan, columns=PLAN_COLUMNS).astype({"seed": "int64"})


def _checked_sources(sources: pd.DataFrame) -> pd.DataFrame:
    """Return ids and classes as text; raises ValueError for what cannot be planned."""
    needed = ["source_id", "class_name"]
    if missing := [name for name in needed if name not in sources]:
        raise ValueError(f"sources lack the columns {missing}; they have {list(sources)}")
    if sources[needed].isna().any(axis=None):
        raise ValueError("sources have rows without a source_id or class_name")
    table = sources[needed].astype(str)
    if (repeated := table["source_id"].duplicated()).any():
        first = table.loc[repeated, "source_id"].iloc[0]
        raise ValueError(f"source_id {first!r} is in sources more than once; ids must be distinct")
    return table


def _draws(members: pd.DataFrame, share: float, seed: int) -> list[tuple[str, int]]:
    """List the (source_id, copy) of one class; an image's copies stand side by side."""
    ranked = sorted(members["source_id"], key=lambda source: _hash("rank", seed, source))
    total = max(1, math.floor(share * len(ranked) + 0.5)) if share > 0 else 0
    base, extra = divmod(total, len(ranked))
    return [
        (source, copy)
        for rank, source in enumerate(ranked)
        for copy in range(base + (rank < extra))
    ]


def _hash(*parts: str | int) -> int:
    """Hash parts to 64 bits; the same on every machine and in every process, unlike hash()."""
    digest = hashlib.blake2b(json.dumps(parts, default=int).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")
