"""What "responsible" asks of generated images: no copies, no leak, balance, and a data card.

Beyond the paper, whose title calls the augmentation responsible: its public text names prompts,
negative prompts and a filter, and reports no check of this kind.

Images are compared in two spaces: by their CLIP embeddings (cosine distance), which see what is
shown, and by their pixels at 16 × 16, each image at the same exposure (root mean square
difference), which see how it is laid out. A **near-copy** is an image that lies nearer to a
training image, or to its mirror image, than all but a stated share of the training images lie to
each other, in either space. Our choice throughout; after Somepalli et al. (arXiv 2212.03860), who
search copies in an embedding, and Carlini et al. (arXiv 2301.13188), who search them in pixels.
Size, exposure and mirror images were chosen by what is found of planted copies of training images
(`planted_copies`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from string import Template
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from scipy.spatial.distance import cdist
from sklearn.metrics import adjusted_mutual_info_score
from torchvision.transforms.v2 import functional as tv

from diffcore.metrics import entropy_bits, entropy_within, rate

#: space -> metric of scipy's `cdist`
SPACES: dict[str, str] = {"CLIP embedding": "cosine", "pixels": "euclidean"}

_SIDE = 16  # pixels; so that small shifts and crops matter little
_EITHER = "either"
_TOGETHER = 512  # images in memory at a time


class ImageEncoder(Protocol):
    """Embeds N images (H, W, 3) uint8: (N, D) of unit length."""

    def embed_images(self, images: np.ndarray) -> np.ndarray:
        """Return the embeddings."""


# -------------------------------------------------------------------------------------- near-copies
def as_vectors(
    images: np.ndarray, encoder: ImageEncoder, *, mirrored: bool = False
) -> dict[str, np.ndarray]:
    """Turn images (N, H, W, 3) uint8, an array or one like it, into vectors of each space.

    Returns:
        space -> (N, V, D): of the image and, if `mirrored`, of its mirror image.
    """
    chunks = (images[start : start + _TOGETHER] for start in range(0, len(images), _TOGETHER))
    parts = [_as_vectors(chunk, encoder, mirrored) for chunk in chunks]
    return {space: np.concatenate([part[space] for part in parts]) for space in SPACES}


def _as_vectors(images: np.ndarray, encoder: ImageEncoder, mirrored: bool) -> dict[str, np.ndarray]:
    seen = [images, np.ascontiguousarray(images[:, :, ::-1])] if mirrored else [images]
    views = [{"CLIP embedding": encoder.embed_images(v), "pixels": _thumbnails(v)} for v in seen]
    return {space: np.stack([view[space] for view in views], axis=1) for space in SPACES}


def _thumbnails(images: np.ndarray) -> np.ndarray:
    """Small images of mean 1, (N, D): their Euclidean distance is a root mean square difference."""
    batch = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    small = tv.resize(batch, [_SIDE, _SIDE], antialias=True).flatten(1)
    # A black image has no exposure to divide by.
    level = small / small.mean(dim=1, keepdim=True).clamp(min=1 / 255)
    return level.numpy() / np.sqrt(level.shape[1])


def nearest(
    queries: Mapping[str, np.ndarray],
    references: Mapping[str, np.ndarray] | None = None,
) -> pd.DataFrame:
    """Find the nearest reference of N images in each space, as it is or mirrored.

    Args:
        queries: space -> (N, V, D), as from `as_vectors`; the first view is used.
        references: space -> (M, V, D), all views are used; None compares the queries with each
            other, none with itself.

    Returns:
        N rows a space: query and reference (places), space, distance.

    Raises:
        ValueError: if there is nothing to compare with.
    """
    tables = []
    for space, vectors in queries.items():
        others = vectors if references is None else references[space]
        distances = _distances(vectors[:, 0], others, SPACES[space])
        if references is None:
            np.fill_diagonal(distances, np.inf)
        if not np.isfinite(distances).any():
            raise ValueError("there is no reference image to compare with")
        place = distances.argmin(axis=1)
        rows = {"query": np.arange(len(place)), "reference": place, "space": space}
        tables.append(pd.DataFrame({**rows, "distance": distances.min(axis=1)}))
    return pd.concat(tables, ignore_index=True)


def _distances(queries: np.ndarray, references: np.ndarray, metric: str) -> np.ndarray:
    """Least distance of queries (N, D) to any view of references (M, V, D): (N, M), from 0 up."""
    views = [cdist(queries, view, metric) for view in references.swapaxes(0, 1)]
    return np.min(views, axis=0).clip(min=0)  # rounding passes 0 by 1e-16


def copy_thresholds(training: Mapping[str, np.ndarray], share: float = 0.01) -> dict[str, float]:
    """Distance of each space below which an image counts as a near-copy of a training image.

    The stated quantile of each training image's distance to the nearest other one: these are real,
    different, and have as many images to be near to as a generated image has, so that about that
    share of new real images falls below it. A quantile of *all* pairs would flag many more, as the
    nearest of many is nearer than any one of them.

    Args:
        training: space -> (M, V, D) of different real images.
        share: in (0, 1).

    Raises:
        ValueError: for a share outside (0, 1).
    """
    if not 0 < share < 1:
        raise ValueError(f"share is {share}; it must be between 0 and 1")
    apart = nearest(training).groupby("space", sort=False)["distance"]
    return {space: float(values) for space, values in apart.quantile(share).items()}


def flag_copies(found: pd.DataFrame, thresholds: Mapping[str, float]) -> pd.DataFrame:
    """Whether each of N images is a near-copy: a boolean column a space, and "either".

    Args:
        found: table of `nearest`.
        thresholds: space -> distance.
    """
    below = found.assign(near=found["distance"] < found["space"].map(thresholds))
    flags = below.pivot(index="query", columns="space", values="near")[list(thresholds)]
    return flags.assign(**{_EITHER: flags.any(axis=1)}).rename_axis(columns=None)


def copy_rates(flags: Mapping[str, pd.DataFrame], confidence: float) -> pd.DataFrame:
    """Share of near-copies in several sets of images: images, space, rate, low, high, n, count.

    Args:
        flags: name of the set -> table of `flag_copies`.
    """
    return pd.DataFrame(
        {"images": name, "space": space, **rate(hits, confidence), "count": int(hits.sum())}
        for name, table in flags.items()
        for space, hits in table.items()
    )


def planted_copies(images: np.ndarray) -> dict[str, np.ndarray]:
    """Copies that a search should find, from easy to hard: kind -> (N, H, W, 3) uint8."""
    batch = torch.from_numpy(images).permute(0, 3, 1, 2)
    size, aside = list(batch.shape[2:]), max(1, batch.shape[3] // 32)
    cut = batch[:, :, aside:-aside, aside:-aside]
    changed = {
        "saved as JPEG": tv.jpeg(batch, 50),
        "brightened": tv.adjust_brightness(batch, 1.15),
        "cropped": tv.resize(cut, size, antialias=True),
        "mirrored": tv.horizontal_flip(batch),
    }
    return {kind: copy.permute(0, 2, 3, 1).numpy() for kind, copy in changed.items()}


def closest_pairs(found: pd.DataFrame, space: str, count: int) -> pd.DataFrame:
    """Return the `count` nearest pairs of a table of `nearest`, the very nearest first."""
    rows = found[found["space"] == space]
    return rows.nsmallest(count, "distance").reset_index(drop=True)


# ------------------------------------------------------------------------------------------ leakage
def closer_shares(
    tests: Mapping[str, np.ndarray],
    training: Mapping[str, np.ndarray],
    others: Mapping[str, Mapping[str, np.ndarray]],
    confidence: float,
) -> pd.DataFrame:
    """How often a test image is nearer to another set than to the training set.

    Generated images that had seen the test set would lie closer to it than they should. Sets are
    compared that are equally large, as the nearest of more images is nearer.

    Args:
        tests: space -> (N, V, D), as from `as_vectors`.
        training: space -> (M, V, D).
        others: name -> space -> (M, V, D).

    Returns:
        images, space, rate, low, high, n: 1/2 is a set as near as the training set.

    Raises:
        ValueError: for sets that are not equally large.
    """
    base, rows = nearest(tests, training), []
    for name, vectors in others.items():
        if any(len(vectors[space]) != len(training[space]) for space in vectors):
            raise ValueError(f"{name} must hold as many images as the training set")
        closer = base.assign(closer=nearest(tests, vectors)["distance"] < base["distance"])
        rows += [
            {"images": name, "space": space, **rate(hits, confidence)}
            for space, hits in closer.groupby("space", sort=False)["closer"]
        ]
    return pd.DataFrame(rows)


# ------------------------------------------------------------------------------------------ balance
def balance(
    sets: Mapping[str, pd.DataFrame], contexts: Sequence[str], confidence: float
) -> pd.DataFrame:
    """How evenly classes and contexts are covered, a row a set.

    Args:
        sets: name -> rows with class_name and context.
        contexts: that there could be.

    Returns:
        images; images; class_entropy (bits) and smallest_class (share); context_entropy, within a
        class (bits), with context_low and context_high; pairs, the share of all pairs of class and
        context that occur; and tie, how much a context tells of the class: the adjusted mutual
        information of both, 0 as by chance, 1 if each determines the other.
    """
    rows = []
    for name, table in sets.items():
        classes, scenes = table["class_name"], table["context"]
        within = entropy_within(scenes, classes, confidence)
        rows.append({
            "set": name, "images": len(table),
            "class_entropy": entropy_bits(classes),
            "smallest_class": float(classes.value_counts(normalize=True).min()),
            "context_entropy": within["value"], "context_low": within["low"],
            "context_high": within["high"],
            "pairs": len(table.value_counts(["class_name", "context"]))
            / (classes.nunique() * len(contexts)),
            "tie": float(adjusted_mutual_info_score(classes, scenes)),
        })  # fmt: skip
    return pd.DataFrame(rows)


# ---------------------------------------------------------------------------------------- data card
@dataclass(frozen=True)
class DataCard:
    """What a reader has to know of a set of generated images before using it.

    Attributes:
        title: of the set.
        origin: what the images are, as the end of a sentence.
        model: name of the text-to-image model; model_hash identifies its weights.
        sampler: setting -> value.
        template: of the prompts; contexts and negatives are what it was filled with.
        plan_seed: from which each sample's own seed follows.
        seeds: of the samples, (N,) whole numbers.
        counts: class -> images.
        filtered: rule, threshold, rejected and drawn, or empty if no filter was used.
        copies: name -> number, of the search for near-copies.
        limits: known ones, a sentence each.
        intended_use: a sentence or two.
        licence: of images and model.
    """

    title: str
    model: str
    model_hash: str
    sampler: Mapping[str, object]
    template: str
    contexts: Sequence[str]
    negatives: Sequence[str]
    plan_seed: int
    seeds: Sequence[int]
    counts: Mapping[str, int]
    filtered: Mapping[str, float | str] = field(default_factory=dict)
    copies: Mapping[str, float | str] = field(default_factory=dict)
    limits: Sequence[str] = ()
    intended_use: str = ""
    licence: str = ""
    origin: str = "drawn by a text-to-image model. **None is a photograph of anything.**"


_CARD = Template("""# Data card: $title

Written by the study as it ran; every number below is computed from the images and their records.

## What it is

$total images of $classes classes, $origin Each image is kept in Parquet with its prompt, negative
prompt, seed, settings and the hash of its model.

$model

## Prompts

Template: `$template`

Contexts: $contexts.

Negative prompt (less what a context is itself made of): $negatives.

## Filter

$filtered

## Images per class

$counts

## Near-copies of training images

$copies

## Known limits

$limits

## Intended use

$use

## Licence

$licence
""")


def write_card(card: DataCard) -> str:
    """Write a data card as Markdown.

    Raises:
        ValueError: for a card without limits, intended use or licence: it would hide the most.
    """
    for name in ("limits", "intended_use", "licence"):
        if not getattr(card, name):
            raise ValueError(f"a data card must state {name}")
    total = sum(card.counts.values())
    return _CARD.substitute(
        title=card.title,
        total=f"{total:,}",
        classes=len(card.counts),
        origin=card.origin,
        model=_markdown_table(_model_facts(card), ("fact", "value")),
        template=card.template,
        contexts=", ".join(card.contexts) or "none",
        negatives=", ".join(card.negatives) or "none",
        filtered=_markdown_table(card.filtered, ("fact", "value"), "No filter was used."),
        counts=_markdown_table(card.counts, ("class", "images")),
        copies=_markdown_table(card.copies, ("fact", "value"), "Not searched for."),
        limits="\n".join(f"- {limit}" for limit in card.limits),
        use=card.intended_use,
        licence=card.licence,
    )


def _model_facts(card: DataCard) -> dict[str, object]:
    return {
        "model": card.model,
        "model hash": f"`{card.model_hash}`",
        **card.sampler,
        "seed of the plan": card.plan_seed,
        "seeds of the samples": f"{len(set(card.seeds)):,} different ones",
    }


def _markdown_table(facts: Mapping[str, object], head: tuple[str, str], otherwise: str = "") -> str:
    """Write a table of two columns, or what to say in its place if there is nothing."""
    if not facts:
        return otherwise
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    rows = [f"| {_shown(name)} | {_shown(value)} |" for name, value in facts.items()]
    return "\n".join(lines + rows)


def _shown(value: object) -> str:
    """Show a number with four significant digits, a whole one in full, and no bare pipe."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).replace("|", "\\|")
