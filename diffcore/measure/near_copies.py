"""Near-copies: what lies nearer to a training image than real images lie to each other.

Compared are embeddings (cosine distance), which see what is shown, as by Somepalli et al. (arXiv
2212.03860), and pixels at 16 x 16 and one exposure (root mean square difference), which see how it
is laid out, as by Carlini et al. (arXiv 2301.13188). Our choice: to be near in either is enough,
and size, exposure and mirror images are chosen by what is found of `known_copies`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.neighbors import NearestNeighbors
from torchvision.transforms.v2 import functional as tv

from diffcore import stats
from diffcore.data.images import as_batch

SPACES = {"embedding": "cosine", "pixels": "euclidean"}  # space -> metric
Vectors = Mapping[str, np.ndarray]  # space -> (N, V, D) of N images, each seen in V ways

_SIDE = 16  # pixels; so that small shifts and crops matter little
_TOGETHER = 512  # images in memory at a time


def as_vectors(images: Any, encoder: Any, *, mirrored: bool = False) -> dict[str, np.ndarray]:
    """Turn images (N, H, W, 3) uint8, and their mirror images if `mirrored`, into vectors."""
    parts = []
    for start in range(0, len(images), _TOGETHER):
        chunk = images[start : start + _TOGETHER]
        views = [chunk, np.ascontiguousarray(chunk[:, :, ::-1])] if mirrored else [chunk]
        sees = {"embedding": encoder.embed_images, "pixels": _thumbnails}
        parts.append({s: np.stack([see(v) for v in views], axis=1) for s, see in sees.items()})
    return {space: np.concatenate([part[space] for part in parts]) for space in SPACES}


def _thumbnails(images: np.ndarray) -> np.ndarray:
    """Small images of mean 1, (N, D): their Euclidean distance is a root mean square difference."""
    small = tv.resize(as_batch(images), [_SIDE, _SIDE], antialias=True).flatten(1)
    # A black image has no exposure to divide by.
    level = small / small.mean(dim=1, keepdim=True).clamp(min=1 / 255)
    return level.numpy() / np.sqrt(level.shape[1])


def nearest(queries: Vectors, references: Vectors | None = None) -> pd.DataFrame:
    """Find the nearest reference of N images, seen in any way: query, reference, space, distance.

    Of the queries, told by place, the first view is used. Without references they are compared with
    each other, none with itself; raises ValueError if there is nothing to compare with.
    """
    tables = []
    for space, vectors in queries.items():
        others = vectors if references is None else references[space]
        views = others.shape[1]
        own = views if references is None else 0  # of a query, to be passed over
        if len(others) * views <= own:
            raise ValueError("there is no reference image to compare with")
        flat = others.reshape(-1, others.shape[2]).astype(float)
        index = NearestNeighbors(n_neighbors=own + 1, metric=SPACES[space], algorithm="brute")
        distance, place = index.fit(flat).kneighbors(vectors[:, 0].astype(float))
        rows, place = np.arange(len(place)), place // views
        first = (place != rows[:, None]).argmax(axis=1) if own else 0
        found = {"reference": place[rows, first], "space": space, "distance": distance[rows, first]}
        tables.append(pd.DataFrame({"query": rows} | found))
    return pd.concat(tables, ignore_index=True)


def copy_thresholds(training: Vectors, share: float = 0.01) -> dict[str, float]:
    """Distance in each space below which an image counts as a near-copy of a training image.

    The stated quantile of each training image's distance to the nearest other one, so that about
    that share of new real images falls below it. A quantile of *all* pairs would flag many more,
    as the nearest of many is nearer than any one of them.
    """
    apart = nearest(training).groupby("space", sort=False)["distance"]
    return {space: float(values) for space, values in apart.quantile(share).items()}


def copy_rates(
    found: Mapping[str, pd.DataFrame], thresholds: Mapping[str, float], confidence: float
) -> pd.DataFrame:
    """Share of near-copies in sets of images, by space and in "either".

    Takes the set's name -> table of `nearest`; returns images, space, value, low, high, n, count.
    """
    rows = []
    for name, table in found.items():
        below = table.assign(near=table["distance"] < table["space"].map(thresholds))
        flags = below.pivot(index="query", columns="space", values="near")[list(thresholds)]
        for space, near in flags.assign(either=flags.any(axis=1)).items():
            share = stats.proportion(near, confidence)
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
