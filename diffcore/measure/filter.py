"""The filter measured: what each rule can see, and whether it rejects the images that are wrong.

What an oracle knows is never used to filter; here it judges the filter. As a study may have few
wrong images, errors are injected too: images passed off as another class, and malformed renders.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import roc_curve

from diffcore import stats
from diffcore.filtering.encoders import Encoder
from diffcore.filtering.rules import (
    RULES,
    calibrate_threshold,
    class_means,
    cosine,
    cosine_to_reference,
    hard_filter,
    real_similarities,
    stack,
)
from diffcore.prompts.prompt_set import PromptSet, write_prompt

#: What two images can have in common.
SHARED = ["class and context", "class only", "context only", "neither"]

Scores = Mapping[str, np.ndarray]  # rule -> similarities (N,)


def class_texts(
    encoder: Encoder, prompt_set: PromptSet, names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Embed the plain prompt of each class: class -> (D,); empty if the encoder reads no texts."""
    if not encoder.reads_texts:
        return {}
    found = encoder.embed_texts([write_prompt(prompt_set, name) for name in names])
    return dict(zip(names, found, strict=True))


def similarities(images: pd.DataFrame, reference: pd.DataFrame, texts: Scores) -> Scores:
    """Cosines of images by all `RULES` and, as ``text``, to the text of their class, if given."""
    found = {rule: cosine_to_reference(images, reference, rule) for rule in RULES}
    if texts:
        found["text"] = cosine(stack(images), np.stack([texts[c] for c in images["class_name"]]))
    return found


def encoder_accuracy(
    train: pd.DataFrame, tests: Mapping[str, pd.DataFrame], texts: Mapping[str, np.ndarray],
    confidence: float,
) -> pd.DataFrame:  # fmt: skip
    """How good the encoder is alone, tidy: by, test, value, low, high, n, over test images.

    By the nearest text of a class ("zero-shot", if `texts` are given) and by logistic regression on
    the training images ("linear probe"), whose strength is chosen on these alone.
    """
    parts = min(5, train["class_name"].value_counts().min())
    probe = LogisticRegressionCV(Cs=np.logspace(-1, 4, 6), cv=parts, max_iter=2000)
    probe.fit(stack(train), train["class_name"])
    rows = []
    for test, images in tests.items():
        answers = {"linear probe": probe.predict(stack(images))}
        if texts:
            nearest = (stack(images) @ np.stack(list(texts.values())).T).argmax(axis=1)
            answers["zero-shot"] = np.array(list(texts))[nearest]
        for by, names in answers.items():
            hits = names == images["class_name"].to_numpy()
            rows.append({"by": by, "test": test} | stats.proportion(hits, confidence))
    return pd.DataFrame(rows)


def thresholds(real: pd.DataFrame, texts: Scores, quantile: float) -> dict[str, float]:
    """Threshold of each rule, and of ``text`` if given, that a share of real images would miss."""
    alike = {rule: real_similarities(real, rule) for rule in RULES}
    if texts:
        alike["text"] = similarities(real, real, texts)["text"]
    return {rule: calibrate_threshold(values, quantile) for rule, values in alike.items()}


def mismatched(
    images: pd.DataFrame, real: pd.DataFrame, *, seed: int, copies: int = 1, alike: bool = False
) -> pd.DataFrame:
    """Pass images off as another class: label-mismatched pairs, which a filter has to reject.

    Each image, taken `copies` times, claims a random `real` one of another class as its source; if
    `alike`, of the class that is most similar by the mean. ValueError if there is one class only.
    """
    classes = real["class_name"].unique()
    if len(classes) < 2:
        raise ValueError("label-mismatched pairs need two classes")
    rng, taken = np.random.default_rng(seed), images.iloc[np.tile(np.arange(len(images)), copies)]
    nearest = _nearest_class(real)
    claimed = np.empty(len(taken), int)
    for class_name, rows in taken.groupby("class_name").indices.items():
        others = [nearest[class_name]] if alike else classes[classes != class_name]
        candidates = np.flatnonzero(real["class_name"].isin(others))
        claimed[rows] = rng.choice(candidates, size=len(rows))
    claims = real.iloc[claimed][["class_name", "source_id"]].reset_index(drop=True)
    return claims.assign(embedding=taken["embedding"].to_numpy())


def _nearest_class(real: pd.DataFrame) -> dict[str, str]:
    """Map each class to the other class with the most similar mean."""
    means = class_means(real)
    pairs = means.to_numpy() @ means.to_numpy().T
    np.fill_diagonal(pairs, -np.inf)
    return dict(zip(means.index, means.index[pairs.argmax(axis=1)], strict=True))




def pair_cosines(left: pd.DataFrame, right: pd.DataFrame) -> pd.DataFrame:
    """Cosine of all pairs of two tables of images, and what they share: cosine, shared (`SHARED`).

    Pairs of an image with itself, or with what was drawn for it, are left out.
    """
    if left.empty or right.empty:
        return pd.DataFrame({"cosine": [], "shared": pd.Categorical([], SHARED)})
    same_source, same_class, same_context = (
        np.equal.outer(left[column].to_numpy(), right[column].to_numpy())
        for column in ("source_id", "class_name", "context")
    )
    kind = (2 * ~same_class + ~same_context)[~same_source]
    cosines = (stack(left) @ stack(right).T)[~same_source]
    return pd.DataFrame({"cosine": cosines, "shared": pd.Categorical.from_codes(kind, SHARED)})


def rejection_over(values: Scores, thresholds: np.ndarray) -> pd.DataFrame:
    """Share below each threshold, tidy: kind, threshold, rate."""
    tables = []
    for kind, similarity in values.items():
        rate = np.searchsorted(np.sort(similarity), thresholds) / len(similarity)
        tables.append(pd.DataFrame({"kind": kind, "threshold": thresholds, "rate": rate}))
    return pd.concat(tables, ignore_index=True)


def gallery(
    similarity: np.ndarray, threshold: float, judged: pd.DataFrame, count: int
) -> dict[str, np.ndarray]:
    """Places of up to `count` images of each group, the least similar first.

    Where `judged` tells the truth, groups are what the filter does rightly and wrongly; elsewhere
    those far from the threshold and at it, on both sides.
    """
    order = np.argsort(similarity, kind="stable")
    rejected, kept = np.split(order, [int((~hard_filter(similarity, threshold)).sum())])
    if "wrong" not in judged:
        return {
            "rejected, least similar": rejected[:count],
            "rejected, just below": rejected[-count:],
            "accepted, just above": kept[:count],
            "accepted, most similar": kept[-count:],
        }
    wrong = judged["wrong"].to_numpy()
    return {
        "rejected and wrong": rejected[wrong[rejected]][:count],
        "rejected though right": rejected[~wrong[rejected]][:count],
        "accepted though wrong": kept[wrong[kept]][:count],
        "accepted and right, least similar": kept[~wrong[kept]][:count],
        "accepted, most similar": kept[-count:],
    }


def captions(similarity: np.ndarray, threshold: float, judged: pd.DataFrame) -> list[str]:
    """Caption each image: class and context, similarity and verdict, and, if known, its fault."""
    notes = [""] * len(judged)
    if "wrong" in judged:
        other = judged["fault"].str.startswith("another")
        seen = judged["fault"].where(~other, judged["seen_species"])
        notes = ("\nwrong: " + seen).where(judged["wrong"], "")
    asked = judged["class_name"] + (", " + judged["context"]).where(judged["context"] != "", "")
    verdicts = np.where(hard_filter(similarity, threshold), "accepted", "rejected")
    rows = zip(asked, similarity, verdicts, notes, strict=True)
    return [
        f"asked: {text}\nsimilarity {value:.3f}: {said}{note}" for text, value, said, note in rows
    ]


def auc(wrong: np.ndarray, similarity: np.ndarray) -> float:
    """Chance that a wrong image is less similar than a right one; ties count half.

    It is 0.5, as by guessing, where all images are right or all are wrong.

    >>> auc(np.array([True, False, False]), np.array([0.2, 0.1, 0.9]))
    0.5
    """
    count, right = int(np.sum(wrong)), int(np.sum(~wrong))
    if not count or not right:
        return 0.5
    # Mann and Whitney's U by ranks: sklearn's roc_auc_score, for a tenth of the bootstrap's time.
    beaten = rankdata(similarity)[~wrong].sum() - right * (right + 1) / 2
    return float(beaten / (count * right))


def auc_table(
    scores: Scores, wrong: np.ndarray, confidence: float, seed: int,
    sources: Sequence[str] | None = None,
) -> pd.DataFrame:  # fmt: skip
    """AUC of several similarities, with a bootstrap: rule, value, low, high, n, wrong.

    Resampled are images, or `sources` (of N images) with all of their images, since what is drawn
    for one real image is compared with the same. Where all images are right or all wrong, nothing
    is known of it: the interval is 0 to 1.
    """
    known, rows = wrong.any() and not wrong.all(), []
    together = np.arange(len(wrong)) if sources is None else np.asarray(sources)
    units = list(pd.Series(together).groupby(together, sort=False).indices.values())
    for rule, values in scores.items():

        def area(chosen: np.ndarray, values: np.ndarray = values) -> float:
            places = np.concatenate([units[unit] for unit in chosen])
            return auc(wrong[places], values[places])

        row = {"value": 0.5, "low": 0.0, "high": 1.0}
        if known:
            row = stats.bootstrap(area, np.arange(len(units)), confidence, seed)
        rows.append({"rule": rule, **row, "n": len(wrong), "wrong": int(wrong.sum())})
    return pd.DataFrame(rows)


def auc_by_cause(
    scores: Scores, truth: pd.DataFrame, confidence: float, seed: int, sources: Sequence[str]
) -> pd.DataFrame:
    """AUC for each way of being wrong, against the right images: `auc_table` and cause."""
    tables = [pd.DataFrame(columns=["rule", "value", "low", "high", "n", "wrong", "cause"])]
    for cause in sorted(set(truth["fault"]) - {""}):
        hit = (truth["fault"] == cause).to_numpy()
        used = hit | ~truth["wrong"].to_numpy()
        chosen = {rule: values[used] for rule, values in scores.items()}
        table = auc_table(chosen, hit[used], confidence, seed, np.asarray(sources)[used])
        tables.append(table.assign(cause=cause))
    return pd.concat(tables[1:] or tables, ignore_index=True)


def auc_injected(right: Scores, injected: Scores, confidence: float, seed: int) -> pd.DataFrame:
    """AUC for injected errors, by their similarities and those of right images: `auc_table`."""
    scores = {rule: np.concatenate([injected[rule], right[rule]]) for rule in right}
    counts = [len(next(iter(values.values()))) for values in (injected, right)]
    return auc_table(scores, np.repeat([True, False], counts), confidence, seed)


def arms(
    scores: Scores, limits: Mapping[str, float], in_use: str, wrong: np.ndarray, seed: int
) -> dict[str, np.ndarray]:
    """Which of N images each way of filtering keeps: arm -> (N,) bool.

    Arms: ``no filter``; ``at random``, which rejects as many as the rule `in_use`; each rule of
    `scores` at its limit; and ``the oracle``, which rejects what is wrong and nothing else.
    """
    by_rule = {rule: hard_filter(values, limits[rule]) for rule, values in scores.items()}
    blind = np.random.default_rng(seed).permutation(by_rule[in_use])
    return {"no filter": np.ones_like(wrong), "at random": blind, **by_rule, "the oracle": ~wrong}


def roc_table(scores: Scores, wrong: np.ndarray) -> pd.DataFrame:
    """Points of the ROC curves, tidy: rule, false_alarms, caught; none where AUC has no meaning.

    ``caught`` is the share of wrong images below a threshold, ``false_alarms`` that of right ones.
    """
    names, tables = ["false_alarms", "caught"], []
    if wrong.any() and not wrong.all():
        for rule, values in scores.items():
            points = dict(zip(names, roc_curve(wrong, -values)[:2], strict=True))
            tables.append(pd.DataFrame({"rule": rule, **points}))
    return pd.concat(tables or [pd.DataFrame(columns=["rule", *names])], ignore_index=True)


def detection(wrong: np.ndarray, accepted: np.ndarray, confidence: float) -> dict[str, stats.Row]:
    """The filter as a detector of wrong images: measure -> value, low, high, n.

    Measures are rejection_rate, precision (of the rejected, how many are wrong), recall (of the
    wrong, how many are rejected), and wrong_rate of all and wrong_rate_kept of the kept.
    """
    questions = {
        "rejection_rate": ~accepted,
        "precision": wrong[~accepted],
        "recall": ~accepted[wrong],
        "wrong_rate": wrong,
        "wrong_rate_kept": wrong[accepted],
    }
    return {name: stats.proportion(hits, confidence) for name, hits in questions.items()}
