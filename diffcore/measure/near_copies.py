"""What "responsible" asks of generated images: no copies, no leak of the test set, balance, a card.

Beyond the paper, whose public text names prompts, negative prompts and a filter. A near-copy lies
nearer to a training image than real images lie to each other. Embeddings (cosine distance) compare
what is shown (Somepalli et al., arXiv 2212.03860); pixels at 16 x 16 and one exposure (root mean
square difference) compare the layout (Carlini et al., arXiv 2301.13188). Our choice: near in
either is enough; size, exposure and mirror images were chosen by how many `known_copies` are found.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from huggingface_hub import DatasetCard, DatasetCardData
from sklearn.metrics import adjusted_mutual_info_score
from sklearn.neighbors import NearestNeighbors
from torchvision.transforms.v2 import functional as tv

from diffcore import stats
from diffcore.data.images import as_batch
from diffcore.params import StudyParams
from diffcore.prompts.prompt_set import PromptSet

SPACES = {"embedding": "cosine", "pixels": "euclidean"}  # space -> metric
Vectors = Mapping[str, np.ndarray]  # space -> (N, V, D) of V views of each of N images

_SIDE = 16  # pixels; so that small shifts and crops matter little
_TOGETHER = 512  # images in memory at a time


def as_vectors(images: Any, encoder: Any, *, mirrored: bool = False) -> dict[str, np.ndarray]:
    """Turn images (N, H, W, 3) uint8, and their mirror images if `mirrored`, into vectors."""
    parts = []
    for start in range(0, len(images), _TOGETHER):
        chunk = images[start : start + _TOGETHER]
        views = [chunk, np.ascontiguousarray(chunk[:, :, ::-1])] if mirrored else [chunk]
        embed = {"embedding": encoder.embed_images, "pixels": _thumbnails}
        parts.append({space: np.stack([f(v) for v in views], axis=1) for space, f in embed.items()})
    return {space: np.concatenate([part[space] for part in parts]) for space in SPACES}


def _thumbnails(images: np.ndarray) -> np.ndarray:
    """Small images of mean 1, (N, D): their Euclidean distance is a root mean square difference."""
    small = tv.resize(as_batch(images), [_SIDE, _SIDE], antialias=True).flatten(1)
    # A black image has no exposure to divide by.
    level = small / small.mean(dim=1, keepdim=True).clamp(min=1 / 255)
    return level.numpy() / np.sqrt(level.shape[1])


def nearest(queries: Vectors, references: Vectors | None = None) -> pd.DataFrame:
    """Find the nearest reference, in any view, of N images: query, reference, space, distance.

    Queries and references are numbered; of a query the first view counts. Without references the
    queries are compared with each other. ValueError if there is nothing to compare with.
    """
    tables = []
    for space, vectors in queries.items():
        others = vectors if references is None else references[space]
        views = others.shape[1]
        skipped = views if references is None else 0  # of the query itself
        if len(others) * views <= skipped:
            raise ValueError("there is no reference image to compare with")
        flat = others.reshape(-1, others.shape[2]).astype(float)
        index = NearestNeighbors(n_neighbors=skipped + 1, metric=SPACES[space], algorithm="brute")
        distance, place = index.fit(flat).kneighbors(vectors[:, 0].astype(float))
        rows, place = np.arange(len(place)), place // views
        first = (place != rows[:, None]).argmax(axis=1) if skipped else 0
        table = pd.DataFrame({"query": rows, "reference": place[rows, first], "space": space})
        tables.append(table.assign(distance=distance[rows, first]))
    return pd.concat(tables, ignore_index=True)


def copy_thresholds(training: Vectors, share: float = 0.01) -> dict[str, float]:
    """Distance in each space below which an image counts as a near-copy of a training image.

    About a `share` of new real images falls below this quantile of the distances of training images
    to the nearest other one.
    """
    apart = nearest(training).groupby("space", sort=False)["distance"]
    return {space: float(values) for space, values in apart.quantile(share).items()}


def copy_rates(
    neighbours: Mapping[str, pd.DataFrame], thresholds: Mapping[str, float]
) -> pd.DataFrame:
    """Share of near-copies in sets of images, by space and in "either".

    Takes the set's name -> table of `nearest`; returns images, space, value, low, high, n, count.
    """
    rows = []
    for name, table in neighbours.items():
        below = table.assign(near=table["distance"] < table["space"].map(thresholds))
        flags = below.pivot(index="query", columns="space", values="near")[list(thresholds)]
        for space, near in flags.assign(either=flags.any(axis=1)).items():
            share = stats.proportion(near)
            rows.append({"images": name, "space": space, **share, "count": int(near.sum())})
    return pd.DataFrame(rows)


def known_copies(images: np.ndarray) -> dict[str, np.ndarray]:
    """Make copies that a search should find, from easy to hard: kind -> (N, H, W, 3) uint8."""
    batch = torch.tensor(images).permute(0, 3, 1, 2)
    size, aside = list(batch.shape[2:]), max(1, batch.shape[3] // 32)
    cut = batch[:, :, aside:-aside, aside:-aside]
    changed = {
        "saved as JPEG": tv.jpeg(batch, 50),
        "brightened": tv.adjust_brightness(batch, 1.15),
        "cropped": tv.resize(cut, size, antialias=True),
        "mirrored": tv.horizontal_flip(batch),
    }
    return {kind: copy.permute(0, 2, 3, 1).numpy() for kind, copy in changed.items()}


def closer_shares(tests: Vectors, training: Vectors, others: Mapping[str, Vectors]) -> pd.DataFrame:
    """How often a test image is nearer to another set than to the training set: 1/2 by chance.

    Returns images, space, value, low, high, n. The nearest of more images is nearer, so ValueError
    for sets of another size than the training set.
    """
    base, rows = nearest(tests, training), []
    for name, vectors in others.items():
        if any(len(vectors[space]) != len(training[space]) for space in vectors):
            raise ValueError(f"{name} must hold as many images as the training set")
        closer = nearest(tests, vectors)["distance"] < base["distance"]
        rows.append(base.assign(closer=closer, images=name))
    by = ["images", "space"]
    return stats.tabulate(pd.concat(rows), by, ["closer"], stats.proportion).drop(columns="measure")


def balance(sets: Mapping[str, pd.DataFrame], contexts: Sequence[str]) -> pd.DataFrame:
    """How evenly sets cover classes and possible contexts: one row per set.

    Entropies are in bits, that of contexts within a class. pairs is the share of all pairs of class
    and context that occur; tie is their adjusted mutual information: 0 by chance, 1 if each
    determines the other.
    """
    rows = []
    for name, table in sets.items():
        classes, scenes = table["class_name"], table["context"]
        within = stats.entropy_within(scenes, classes)
        overall = stats.entropy_within(classes, np.zeros(len(classes)))
        pairs = scenes.groupby(classes).nunique().sum() / (classes.nunique() * len(contexts))
        row = {"set": name, "images": len(table), "class_entropy": overall["value"]}
        row["smallest_class"] = float(classes.value_counts(normalize=True).min())
        row |= stats.flatten("context", within)
        row |= {"pairs": pairs, "tie": float(adjusted_mutual_info_score(classes, scenes))}
        rows.append(row)
    return pd.DataFrame(rows).rename(columns={"context": "context_entropy"})


def data_card(
    params: StudyParams,
    prompt_set: PromptSet,
    generated: pd.DataFrame,
    decisions: pd.DataFrame,
    copies: pd.DataFrame,
    wrong: float | None = None,
) -> DatasetCard:
    """Write the card of generated images, from their metadata, decisions and `copy_rates`.

    `wrong` is the share of wrong images, None if it is not known.
    """
    known = copies["images"].str.startswith("copy: ")
    searched = copies[known & (copies["space"] == "either")].sort_values("value", kind="stable")
    facts = {"params": params, "prompt_set": prompt_set, "generated": generated, "wrong": wrong}
    facts |= {"decisions": decisions, "missed": searched.iloc[0].to_dict()}
    facts["copies"] = copies[~known].to_dict("records")
    header = DatasetCardData(pretty_name=f"generated counterparts, profile {params.profile}")
    template = Path(__file__).with_name("data_card.md.j2")
    return DatasetCard.from_template(header, template_path=str(template), **facts)
