"""Filtration: keep a generated image only if it is enough like real images of its class.

The paper's hard-cosine filtration: the cosine of the CLIP embeddings of a generated image and its
real counterpart has to reach a threshold. The authors' code compares with the first file of the
class folder instead (`class_first`) and draws nothing again. Our choice: for any encoder but the
paper's the threshold is a quantile, fixed in advance, of similarities of *real* images.

Tables of images have one row per image and the columns ``class_name``, ``source_id`` (a real
image's own id, a generated one's that of its counterpart) and ``embedding`` (unit vectors, (D,)).
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd

from diffcore.filtering.encoders import Encoder
from diffcore.params import FilteringParams

#: What a generated image is compared with: its own source; of its class the mean, nearest or first;
#: or the mean of its class and that of the nearest other one, of which the difference counts.
RULES = ("source", "class_mean", "class_nearest", "class_first", "margin")
#: Real images of a class that are compared with each other, at most; a quantile needs no more.
MOST_COMPARED = 200


def embed(table: pd.DataFrame, images: Iterable[np.ndarray], encoder: Encoder) -> pd.DataFrame:
    """Make a table of images from N rows of metadata and their images (H, W, 3) uint8."""
    kept = [name for name in ("class_name", "source_id", "context") if name in table]
    return table[kept].assign(embedding=list(encoder.embed_images(images)))


def cosine_to_reference(
    generated: pd.DataFrame, reference: pd.DataFrame, rule: str = "source"
) -> np.ndarray:
    """Cosine similarity of N generated images to what a rule compares them with: (N,) in [-1, 1].

    That of `margin` is a difference of two, in [-2, 2]: what an image's context adds to both is in
    neither. Raises ValueError for an unknown rule, for a source or class that the reference lacks,
    and for the margin of one class.
    """
    _check_rule(rule)
    column = "source_id" if rule == "source" else "class_name"
    if absent := sorted(set(generated[column]) - set(reference[column])):
        raise ValueError(f"the reference has no {column} {absent[0]!r} ({len(absent)} are missing)")
    embeddings = stack(generated)
    if rule == "source":
        sources = reference.drop_duplicates("source_id").set_index("source_id")["embedding"]
        return cosine(embeddings, np.stack(sources.loc[generated["source_id"]].tolist()))
    if rule == "margin":
        return _margins(generated, class_means(reference))
    similarity, members = np.empty(len(generated), np.float32), reference.groupby("class_name")
    for class_name, rows in generated.groupby("class_name").indices.items():
        similarity[rows] = _TO_CLASS[rule](embeddings[rows], stack(members.get_group(class_name)))
    return similarity


def class_means(reference: pd.DataFrame) -> pd.DataFrame:
    """Unit mean embedding of each class of a table, one row (D,) per class."""
    classes = reference.groupby("class_name", sort=False)
    if len(classes) < 2:
        raise ValueError("the rule margin compares with the nearest other class, and there is none")
    return pd.DataFrame({name: _unit(stack(rows).mean(axis=0)) for name, rows in classes}).T


def _margins(table: pd.DataFrame, means: pd.DataFrame, to_class: np.ndarray | None = None) -> Any:
    """Cosine to the class's mean, or `to_class`, less that to the nearest other mean: (N,)."""
    to_all, rows = stack(table) @ means.to_numpy().T, np.arange(len(table))
    places = means.index.get_indexer(table["class_name"])
    to_class = to_all[rows, places] if to_class is None else to_class
    to_all[rows, places] = -np.inf
    return to_class - to_all.max(axis=1)


def cosine(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Cosine of rows (N, D) of unit length to others (N, D), or to one (D,): (N,) in [-1, 1]."""
    # Not by `@`: on some processors BLAS warns there of invalid values that do not exist.
    return np.einsum("nd,nd->n", left, np.broadcast_to(right, left.shape)).clip(-1, 1)


def stack(table: pd.DataFrame) -> np.ndarray:
    """Embeddings of a table of N images: (N, D)."""
    return np.stack(table["embedding"].tolist())


def _check_rule(rule: str) -> None:
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}; known: {', '.join(RULES)}")


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


#: rule -> function of (N, D) generated and (K, D) real embeddings of one class: (N,)
_TO_CLASS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "class_mean": lambda generated, real: cosine(generated, _unit(real.mean(axis=0))),
    "class_nearest": lambda generated, real: (generated @ real.T).max(axis=1),
    "class_first": lambda generated, real: cosine(generated, real[0]),
}


def choose_threshold(settings: FilteringParams, reference: pd.DataFrame) -> float:
    """Return the threshold that the settings state, or else calibrate it on real images alone."""
    if settings.threshold is not None:
        return settings.threshold
    return calibrate_threshold(real_similarities(reference, settings.rule), settings.quantile)


def calibrate_threshold(real: np.ndarray, quantile: float) -> float:
    """Threshold that at most a stated share of real images would miss.

    >>> calibrate_threshold(np.array([0.5, 0.6, 0.7, 0.8, 0.9]), quantile=0.25)
    0.6
    """
    return float(np.quantile(real, quantile, method="lower"))


def real_similarities(reference: pd.DataFrame, rule: str) -> np.ndarray:
    """Apply a rule to real images as if each had been drawn for the others of its class.

    Of K images of a class, `source` gives K (K - 1) values, `class_first` K - 1, the others K, each
    against the rest. Only the first `MOST_COMPARED` of a class count. ValueError if no class has
    two images.
    """
    _check_rule(rule)
    few = reference.groupby("class_name", sort=False).head(MOST_COMPARED)
    few = few[few.groupby("class_name")["class_name"].transform("size") > 1]
    if few.empty:
        raise ValueError("no class has two real images, so nothing can be compared")
    within = "class_mean" if rule == "margin" else rule
    groups = [rows for _, rows in few.groupby("class_name", sort=False)]
    values = np.concatenate([_within_class(stack(rows), within) for rows in groups]).clip(-1, 1)
    if rule == "margin":
        return _margins(pd.concat(groups), class_means(reference), values)
    return values


def _within_class(members: np.ndarray, rule: str) -> np.ndarray:
    """Compare each of K > 1 embeddings (K, D) of a class with the others by a rule."""
    if rule == "class_mean":
        return cosine(members, _unit(members.sum(axis=0) - members))
    if rule == "class_first":
        return members[1:] @ members[0]
    pairs, apart = members @ members.T, ~np.eye(len(members), dtype=bool)
    if rule == "class_nearest":
        return np.where(apart, pairs, -1).max(axis=1)
    return pairs[apart]


def hard_filter(similarity: np.ndarray, threshold: float | np.ndarray) -> np.ndarray:
    """Whether each similarity reaches the threshold, (N,) bool; ValueError for NaN.

    >>> hard_filter(np.array([0.59, 0.6, 0.9]), threshold=0.6).tolist()
    [False, True, True]
    """
    if (unknown := np.isnan(similarity)).any():
        raise ValueError(f"similarity {unknown.argmax()} is NaN, neither kept nor rejected")
    return np.asarray(similarity) >= threshold


def score(generated: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """Similarity of generated images by each of `RULES`: one column ``cosine_<rule>`` each."""
    columns = {f"cosine_{rule}": cosine_to_reference(generated, reference, rule) for rule in RULES}
    return pd.DataFrame(columns, index=generated.index)


def resample(
    plan: pd.DataFrame,
    replan: Callable[[int], pd.DataFrame],
    draw_and_score: Callable[[pd.DataFrame], pd.DataFrame],
    *,
    rule: str,
    threshold: float,
    max_attempts: int,
) -> pd.DataFrame:
    """Decide on every sample of a plan, and draw what is rejected again until it passes.

    `replan` makes the plan of an attempt (empty if nothing can be drawn), of which only the rows
    are drawn whose source and copy have no accepted image; `draw_and_score` returns its `score`.
    `max_attempts` rounds follow the first. Returns all samples that were drawn, round by round: the
    plan's columns, the scores, attempt, rule, similarity, threshold and accepted.
    """
    rounds, rows = [], plan
    for attempt in range(max_attempts + 1):
        rows = rows.reset_index(drop=True)
        scores = draw_and_score(rows).reset_index(drop=True)
        similarity = scores[f"cosine_{rule}"]
        decided = pd.concat([rows, scores], axis=1).assign(
            attempt=attempt,
            rule=rule,
            similarity=similarity,
            threshold=threshold,
            accepted=hard_filter(similarity, threshold),
        )
        rounds.append(decided)
        rejected = _places(decided[~decided["accepted"]], attempt)
        if rejected.empty or attempt == max_attempts:
            break
        replacements = replan(attempt + 1)
        rows = replacements[_places(replacements, attempt + 1).isin(rejected)]
        if rows.empty:
            break
    return pd.concat(rounds, ignore_index=True)


def never_passed(decisions: pd.DataFrame) -> pd.DataFrame:
    """List what was never accepted: sample_id (the first), class_name, source_id, tries, best."""
    place = pd.concat(_places(rows, attempt) for attempt, rows in decisions.groupby("attempt"))
    by_place = decisions.groupby(place, sort=False)
    table = by_place[["sample_id", "class_name", "source_id"]].first()
    table = table.assign(tries=by_place.size(), best=by_place["similarity"].max())
    return table[~by_place["accepted"].any()].reset_index(drop=True)


def _places(plan: pd.DataFrame, attempt: int) -> pd.Series:
    """Source and copy of each row: its sample_id without the attempt at the end, if it has one."""
    return plan["sample_id"].str.removesuffix(f"-{attempt}")
