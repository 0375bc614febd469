"""Filtration: keep a generated image only if it is enough like real images of its class.

The third step of the paper, hard-cosine filtration: the cosine similarity of CLIP embeddings of a
generated image and its real counterpart has to reach a threshold. Differences from the authors'
released code:

- the counterpart is the image's own source; theirs is the first file of the class folder, whatever
  image the sample was drawn for (kept here as the rule `class_first`, to be compared);
- images are embedded in batches, once: embeddings are kept on disk by content and model;
- a rejected image is drawn again from a new seed, and what never passes is reported;
- nothing is deleted: every score and decision is a row of a table.

Our choice: where the paper's 0.6 means nothing, as for any encoder but its ViT-B/32, the threshold
is a quantile, fixed in advance, of similarities between *real* images of a class. What an oracle
knows is never used for that; it serves to measure the filter, in the last part of this module.

Tables of images have a row an image and the columns ``class_name``, ``source_id`` (of a real image
its own id, of a generated one that of its counterpart) and ``embedding`` (unit vectors, (D,)).
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.metrics import roc_curve

from diffcore.encoders import Encoder
from diffcore.encoders import load_encoder as load_encoder  # it belongs to this step
from diffcore.metrics import bootstrap, rate

if TYPE_CHECKING:
    from diffcore.params import FilteringParams

#: Which real images a generated one is compared with: its own source, the mean of its class, the
#: nearest of its class, or the first of its class.
RULES = ("source", "class_mean", "class_nearest", "class_first")
#: What two images can have in common.
SHARED = ["class and context", "class only", "context only", "neither"]
DECISIONS = "decisions.parquet"
#: Real images of a class that are compared with each other, at most: ImageNet's 1,300 would make
#: 1.7 million pairs a class, and a quantile needs no such number.
MOST_COMPARED = 200


# ------------------------------------------------------------------------------------- the images
def embed(table: pd.DataFrame, images: np.ndarray, encoder: Encoder) -> pd.DataFrame:
    """Make a table of images: class_name, source_id, context if there is one, and embedding.

    Args:
        table: N rows, as a plan, generated images, or facts of real ones with a ``source_id``.
        images: of these rows in order, as `Encoder.embed_images` takes them.
    """
    kept = [name for name in ("class_name", "source_id", "context") if name in table]
    return table[kept].assign(embedding=list(encoder.embed_images(images)))


# ----------------------------------------------------------------------------------- the similarity
def cosine_to_reference(
    generated: pd.DataFrame, reference: pd.DataFrame, rule: str = "source"
) -> np.ndarray:
    """Cosine similarity of N generated images to what a rule compares them with: (N,) in [-1, 1].

    Args:
        generated: table of images.
        reference: table of real images; its order decides for `class_first` alone.
        rule: one of `RULES`.

    Raises:
        ValueError: for an unknown rule, and a source or class that the reference lacks.
    """
    _check_rule(rule)
    column = "source_id" if rule == "source" else "class_name"
    if absent := sorted(set(generated[column]) - set(reference[column])):
        raise ValueError(f"the reference has no {column} {absent[0]!r} ({len(absent)} are missing)")
    if rule == "source":
        own = reference.drop_duplicates("source_id").set_index("source_id")["embedding"]
        return cosine(_stack(generated), np.stack(own.loc[generated["source_id"]].tolist()))
    similarity, embeddings = np.empty(len(generated), np.float32), _stack(generated)
    members = reference.groupby("class_name")
    for class_name, rows in generated.groupby("class_name").indices.items():
        similarity[rows] = _TO_CLASS[rule](embeddings[rows], _stack(members.get_group(class_name)))
    return similarity


def cosine(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Cosine of rows: (N, D) and (N, D), unit length, to (N,); as for images and their texts."""
    return np.einsum("nd,nd->n", left, right).clip(-1, 1)  # rounding passes 1 by 1e-7


def real_similarities(reference: pd.DataFrame, rule: str) -> np.ndarray:
    """What a rule says of real images as if each had been drawn for the others of its class.

    No image is compared with itself: of K images of a class, `source` gives K (K - 1) values,
    `class_first` gives K - 1, the other two give K, each against the rest. Only the first
    `MOST_COMPARED` images of a class count.

    Raises:
        ValueError: for an unknown rule, and if no class has two images.
    """
    _check_rule(rule)
    classes = reference.groupby("class_name", sort=False)
    groups = (_stack(rows.head(MOST_COMPARED)) for _, rows in classes)
    values = [_within_class(members, rule) for members in groups if len(members) > 1]
    if not values:
        raise ValueError("no class has two real images, so nothing can be compared")
    return np.concatenate(values).clip(-1, 1)


def similarities(
    images: pd.DataFrame, reference: pd.DataFrame, texts: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Cosines by all `RULES` and, as ``text``, to the text of the class: name -> (N,).

    Args:
        images: table of images.
        reference: table of real images.
        texts: class -> embedding (D,) of its text; empty, as for an encoder that reads none,
            there is no ``text``.
    """
    found = {rule: cosine_to_reference(images, reference, rule) for rule in RULES}
    if not texts:
        return found
    named = np.stack([texts[class_name] for class_name in images["class_name"]])
    return found | {"text": cosine(_stack(images), named)}


def impostors(
    images: pd.DataFrame,
    reference: pd.DataFrame,
    *,
    seed: int,
    copies: int = 1,
    alike: bool = False,
) -> pd.DataFrame:
    """Images passed off as another class: what a filter has to reject, planted.

    Args:
        images: table of images, each of which is taken `copies` times.
        reference: real images, of which a random one of another class is claimed as source.
        seed: of the choice.
        copies: how often.
        alike: only the most similar other class is claimed, by the classes' mean embeddings.

    Returns:
        Table of images with the ``class_name`` and ``source_id`` that are claimed.

    Raises:
        ValueError: if there is one class only.
    """
    classes = reference["class_name"].unique()
    if len(classes) < 2:
        raise ValueError("impostors need two classes")
    rng, taken = np.random.default_rng(seed), images.iloc[np.tile(np.arange(len(images)), copies)]
    nearest = _nearest_class(reference)
    claimed = np.empty(len(taken), int)
    for class_name, rows in taken.groupby("class_name").indices.items():
        others = [nearest[class_name]] if alike else classes[classes != class_name]
        claimed[rows] = rng.choice(
            np.flatnonzero(reference["class_name"].isin(others)), size=len(rows)
        )
    facts = reference.iloc[claimed][["class_name", "source_id"]].reset_index(drop=True)
    return facts.assign(embedding=taken["embedding"].to_numpy())


def _nearest_class(reference: pd.DataFrame) -> dict[str, str]:
    """Map each class to the other class with the most similar mean."""
    names = reference["class_name"].unique()
    means = np.stack([_stack(reference[reference["class_name"] == n]).mean(0) for n in names])
    pairs = _unit(means) @ _unit(means).T
    np.fill_diagonal(pairs, -np.inf)
    return dict(zip(names, names[pairs.argmax(axis=1)], strict=True))


def pair_cosines(left: pd.DataFrame, right: pd.DataFrame) -> pd.DataFrame:
    """Cosine of all pairs of two tables of images that have a ``context`` too.

    Pairs of an image with itself, or with what was drawn for it, are left out.

    Returns:
        One row a pair: cosine, and what the pair has in common, shared (one of `SHARED`).
    """
    if left.empty or right.empty:
        return pd.DataFrame({"cosine": [], "shared": pd.Categorical([], SHARED)})
    same_source, same_class, same_context = (
        np.equal.outer(left[column].to_numpy(), right[column].to_numpy())
        for column in ("source_id", "class_name", "context")
    )
    apart = ~same_source
    place = 2 * ~same_class[apart] + ~same_context[apart]
    return pd.DataFrame({
        "cosine": (_stack(left) @ _stack(right).T)[apart],
        "shared": pd.Categorical.from_codes(place, SHARED),
    })  # fmt: skip


def _check_rule(rule: str) -> None:
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}; known: {', '.join(RULES)}")


def _stack(table: pd.DataFrame) -> np.ndarray:
    return np.stack(table["embedding"].tolist())


def _project(rows: np.ndarray, onto: np.ndarray) -> np.ndarray:
    """Cosine of unit rows (N, D) to one unit vector (D,): (N,)."""
    # Not by `@`: on some processors BLAS warns there of invalid values that do not exist.
    return np.einsum("nd,d->n", rows, onto)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


#: rule -> function from (N, D) generated and (K, D) real embeddings of one class to (N,)
_TO_CLASS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "class_mean": lambda generated, real: _project(generated, _unit(real.mean(axis=0))),
    "class_nearest": lambda generated, real: (generated @ real.T).max(axis=1),
    "class_first": lambda generated, real: _project(generated, real[0]),
}


def _within_class(members: np.ndarray, rule: str) -> np.ndarray:
    """Compare each of K > 1 embeddings (K, D) of a class with the others by a rule."""
    if rule == "class_mean":
        others = members.sum(axis=0) - members
        return cosine(members, _unit(others))
    if rule == "class_first":
        return members[1:] @ members[0]
    pairs, apart = members @ members.T, ~np.eye(len(members), dtype=bool)
    if rule == "class_nearest":
        return np.where(apart, pairs, -1).max(axis=1)
    return pairs[apart]


# ------------------------------------------------------------------------------------- the decision
def calibrate_threshold(real: np.ndarray, quantile: float) -> float:
    """Threshold that at most a stated share of real images would miss.

    Args:
        real: similarities between real images alone, as from `real_similarities`.
        quantile: that share, in (0, 1).

    Raises:
        ValueError: for a quantile outside (0, 1).

    >>> calibrate_threshold(np.array([0.5, 0.6, 0.7, 0.8, 0.9]), quantile=0.25)
    0.6
    """
    if not 0 < quantile < 1:
        raise ValueError(f"quantile is {quantile}; it must be between 0 and 1")
    return float(np.quantile(real, quantile, method="lower"))


def compare_rules(
    thresholds: Mapping[str, float],
    generated: Mapping[str, np.ndarray],
    foreign: Mapping[str, np.ndarray],
) -> pd.DataFrame:
    """What each rule rejects at its own threshold: rule, threshold, two shares.

    Args:
        thresholds: rule -> threshold.
        generated: rule -> similarities of generated images.
        foreign: rule -> similarities of `impostors`.
    """
    return pd.DataFrame(
        {"rule": rule, "threshold": threshold,
         "generated_rejected": float(np.mean(~hard_filter(generated[rule], threshold))),
         "impostors_rejected": float(np.mean(~hard_filter(foreign[rule], threshold)))}
        for rule, threshold in thresholds.items()
    )  # fmt: skip


def study_threshold(settings: "FilteringParams", reference: pd.DataFrame) -> float:
    """The threshold that the parameters state, or else the one that real images set."""
    if settings.threshold is not None:
        return settings.threshold
    return calibrate_threshold(real_similarities(reference, settings.rule), settings.quantile)


def hard_filter(similarity: np.ndarray, threshold: float) -> np.ndarray:
    """Whether each similarity reaches the threshold, (N,) bool.

    >>> hard_filter(np.array([0.59, 0.6, 0.9]), threshold=0.6).tolist()
    [False, True, True]
    """
    return np.asarray(similarity) >= threshold


def score(
    generated: pd.DataFrame, reference: pd.DataFrame, rules: Sequence[str] = RULES
) -> pd.DataFrame:
    """Similarity of generated images by each rule: one column ``cosine_<rule>`` a rule."""
    columns = {f"cosine_{rule}": cosine_to_reference(generated, reference, rule) for rule in rules}
    return pd.DataFrame(columns, index=generated.index)


def refill(
    plan: pd.DataFrame,
    replan: Callable[[int], pd.DataFrame],
    draw_and_score: Callable[[pd.DataFrame], pd.DataFrame],
    *,
    rule: str,
    threshold: float,
    max_attempts: int,
) -> pd.DataFrame:
    """Decide on every sample of a plan, and draw what is rejected again until it passes.

    Args:
        plan: from `diffcore.prompts.plan_generation`, attempt 0.
        replan: attempt -> the same plan for that attempt, of which only the rows are drawn whose
            (source, copy) is still without an accepted image; empty if nothing can be drawn.
        draw_and_score: plan -> its similarities (`score`), a row each in the plan's order.
        rule: that decides, one of `RULES`.
        threshold: least similarity that passes.
        max_attempts: rounds of drawing again; 0 leaves rejected images unreplaced.

    Returns:
        All samples that were drawn, round by round: the plan's columns, the scores, ``slot``
        (source and copy), ``attempt``, ``rule``, ``similarity``, ``threshold`` and ``accepted``.
    """
    _check_rule(rule)
    rounds, asked = [], plan
    for attempt in range(max_attempts + 1):
        asked = asked.reset_index(drop=True)
        scores = draw_and_score(asked).reset_index(drop=True)
        similarity = scores[f"cosine_{rule}"]
        decided = pd.concat([asked, scores], axis=1).assign(
            slot=_slots(asked), attempt=attempt, rule=rule, similarity=similarity,
            threshold=threshold, accepted=hard_filter(similarity, threshold),
        )  # fmt: skip
        rounds.append(decided)
        missing = decided.loc[~decided["accepted"], "slot"]
        if missing.empty or attempt == max_attempts:
            break
        again = replan(attempt + 1)
        asked = again[_slots(again).isin(missing)]
        if asked.empty:
            break
    return pd.concat(rounds, ignore_index=True)


def never_passed(decisions: pd.DataFrame) -> pd.DataFrame:
    """What is still without an accepted image: slot, class_name, source_id, tries, best."""
    by_slot = decisions.groupby("slot", sort=False)
    table = by_slot.agg(
        class_name=("class_name", "first"), source_id=("source_id", "first"),
        tries=("attempt", "size"), best=("similarity", "max"), passed=("accepted", "any"),
    )  # fmt: skip
    return table[~table["passed"]].drop(columns="passed").reset_index()


def _slots(plan: pd.DataFrame) -> pd.Series:
    """Source and copy: the sample's id without the attempt at its end, if it has one."""
    return plan["sample_id"].str.replace(r"-\d+$", "", regex=True)


def save_decisions(decisions: pd.DataFrame, folder: str | Path) -> Path:
    """Save the table of scores and decisions, whole or not at all; no image is touched."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".{DECISIONS}.{os.getpid()}"
    decisions.to_parquet(aside, index=False)
    return aside.replace(folder / DECISIONS)


def read_decisions(folder: str | Path, *, accepted: bool = False) -> pd.DataFrame:
    """Read the table of `save_decisions`, or only its accepted samples.

    Raises:
        FileNotFoundError: if there is none.
    """
    path = Path(folder) / DECISIONS
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; run the notebook 02_filtering first")
    table = pd.read_parquet(path)
    return table[table["accepted"]].reset_index(drop=True) if accepted else table


# ------------------------------------------------------------------------- the filter as a detector
def auc(wrong: np.ndarray, similarity: np.ndarray) -> float:
    """Chance that a wrong image is less similar than a right one; ties count half.

    It is 0.5, as by guessing, where all images are right or all are wrong.

    >>> auc(np.array([True, False, False]), np.array([0.2, 0.1, 0.9]))
    0.5
    """
    wrong = np.asarray(wrong, bool)
    if wrong.all() or not wrong.any():
        return 0.5
    # Mann and Whitney's U by ranks: sklearn's roc_auc_score, for a tenth of the bootstrap's time.
    ranks, count = rankdata(similarity), int(wrong.sum())
    beaten = ranks[~wrong].sum() - (len(wrong) - count) * (len(wrong) - count + 1) / 2
    return float(beaten / (count * (len(wrong) - count)))


def auc_table(
    scores: Mapping[str, np.ndarray], wrong: np.ndarray, confidence: float, seed: int
) -> pd.DataFrame:
    """AUC of several similarities with bootstrap intervals: rule, auc, low, high, wrong, n.

    Where all images are right or all wrong, nothing is known of it: the interval is 0 to 1.
    """
    known, rows = wrong.any() and not wrong.all(), []
    for rule, values in scores.items():
        area = {"value": 0.5, "low": 0.0, "high": 1.0} if not known else bootstrap(
            lambda chosen, values=values: auc(wrong[chosen], values[chosen]),
            np.arange(len(wrong)), confidence, seed,
        )  # fmt: skip
        rows.append({"rule": rule, "auc": area["value"], "low": area["low"], "high": area["high"]})
    return pd.DataFrame(rows).assign(wrong=int(np.sum(wrong)), n=len(wrong))


def auc_by_cause(
    scores: Mapping[str, np.ndarray], judged: pd.DataFrame, confidence: float, seed: int
) -> pd.DataFrame:
    """AUC for each way of being wrong, against the right images: columns of `auc_table`, cause.

    Args:
        scores: rule -> (N,) similarities.
        judged: N rows with the booleans species_right, wellformed and wrong.
        confidence: coverage of the intervals.
        seed: of the bootstrap.
    """
    right = ~judged["wrong"].to_numpy()
    species, form = (judged[name].to_numpy() for name in ("species_right", "wellformed"))
    tables = []
    for cause, hit in (("wrong species", ~species), ("malformed, species right", species & ~form)):
        used = hit | right
        chosen = {rule: values[used] for rule, values in scores.items()}
        tables.append(auc_table(chosen, hit[used], confidence, seed).assign(cause=cause))
    return pd.concat(tables, ignore_index=True)


def render_pairs(
    plan: pd.DataFrame, malformations: Sequence[str], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Renders of what a plan asks for, whole and malformed, else alike: two (N, 64, 64, 3) uint8.

    For Paperbirds alone, of whose `MALFORMATIONS` those given take turns.
    """
    from diffcore.paperbirds import CONTEXTS, render

    pairs = []
    for place, row in enumerate(plan.itertuples()):
        scene = row.class_name, row.context or CONTEXTS[place % len(CONTEXTS)], (seed, place)
        wrong = malformations[place % len(malformations)]
        pairs.append([render(*scene, malformation=how).image for how in (None, wrong)])
    whole, malformed = (np.stack(images) for images in zip(*pairs, strict=True))
    return whole, malformed


def auc_planted(
    right: Mapping[str, np.ndarray], planted: Mapping[str, np.ndarray], confidence: float, seed: int
) -> pd.DataFrame:
    """AUC for errors that are planted: the columns of `auc_table`.

    Args:
        right: rule -> similarities of right images.
        planted: rule -> similarities of wrong ones.
        confidence: coverage of the intervals.
        seed: of the bootstrap.
    """
    scores = {rule: np.concatenate([planted[rule], right[rule]]) for rule in right}
    counts = [len(values) for values in (next(iter(planted.values())), next(iter(right.values())))]
    return auc_table(scores, np.repeat([True, False], counts), confidence, seed)


def roc_table(scores: Mapping[str, np.ndarray], wrong: np.ndarray) -> pd.DataFrame:
    """Points of the ROC curves, tidy: rule, false_alarms, caught; none where AUC has no meaning.

    ``caught`` is the share of wrong images below a threshold, ``false_alarms`` that of right ones.
    """
    tables = [pd.DataFrame({"rule": [], "false_alarms": [], "caught": []})]
    if wrong.any() and not wrong.all():
        for rule, values in scores.items():
            false_alarms, caught, _ = roc_curve(wrong, -values)
            tables.append(
                pd.DataFrame({"rule": rule, "false_alarms": false_alarms, "caught": caught})
            )
    return pd.concat(tables[1:] or tables, ignore_index=True)


def detection(
    wrong: np.ndarray, accepted: np.ndarray, confidence: float
) -> dict[str, dict[str, float]]:
    """The filter as a detector of wrong images, each number with its interval and n.

    Returns:
        ``rejection_rate``; ``precision`` (of the rejected, how many are wrong); ``recall`` (of the
        wrong, how many are rejected); ``wrong_rate`` of all and ``wrong_rate_kept`` of the kept. A
        share of nothing is 0, with an interval from 0 to 1.
    """
    wrong, accepted = np.asarray(wrong, bool), np.asarray(accepted, bool)
    questions = {
        "rejection_rate": ~accepted,
        "precision": wrong[~accepted],
        "recall": ~accepted[wrong],
        "wrong_rate": wrong,
        "wrong_rate_kept": wrong[accepted],
    }
    nothing = {"rate": 0.0, "low": 0.0, "high": 1.0, "n": 0}
    return {
        name: rate(hits, confidence) if len(hits) else dict(nothing)
        for name, hits in questions.items()
    }


def rejection_over(values: Mapping[str, np.ndarray], thresholds: np.ndarray) -> pd.DataFrame:
    """Share below each threshold, tidy: kind, threshold, rate."""
    tables: list[Any] = [
        pd.DataFrame({
            "kind": kind, "threshold": thresholds,
            "rate": np.searchsorted(np.sort(similarity), thresholds) / len(similarity),
        })
        for kind, similarity in values.items()
    ]  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def gallery(similarity: np.ndarray, threshold: float, count: int) -> dict[str, np.ndarray]:
    """Places of up to `count` images each: most similar, just above, just below, least similar."""
    order = np.argsort(-np.asarray(similarity), kind="stable")
    kept = int(hard_filter(similarity, threshold).sum())
    accepted, rejected = order[:kept], order[kept:]
    return {
        "accepted, most similar": accepted[:count],
        "accepted, just above": accepted[-count:],
        "rejected, just below": rejected[:count],
        "rejected, least similar": rejected[-count:][::-1],
    }


def captions(similarity: np.ndarray, judged: pd.DataFrame) -> list[str]:
    """A caption an image: similarity, class, and what is seen where that is another thing.

    Args:
        similarity: (N,).
        judged: N rows with class_name and, where the truth is known, seen_species, wellformed and
            wrong.
    """
    notes = [""] * len(judged)
    if "wrong" in judged:
        seen = judged["seen_species"].where(judged["wellformed"], "malformed")
        notes = (" but " + seen).where(judged["wrong"], "")
    return [
        f"{s:.2f} {c}{n}" for s, c, n in zip(similarity, judged["class_name"], notes, strict=True)
    ]


def most_rejected(outcome: pd.DataFrame, column: str, count: int) -> pd.DataFrame:
    """Keep the rows of the `count` groups that lose most, in their order; all if there are fewer.

    Args:
        outcome: rows with ``rejected`` and the column that groups them.
        column: name of it.
        count: of groups.

    >>> rows = pd.DataFrame({"class_name": list("aabb"), "rejected": [True, False, True, True]})
    >>> most_rejected(rows, "class_name", 1)["class_name"].tolist()
    ['b', 'b']
    """
    share = outcome.groupby(column, sort=False)["rejected"].mean()
    return outcome[outcome[column].isin(share.nlargest(count).index)]
