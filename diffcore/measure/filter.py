"""The filter measured: what each rule compares, and whether it rejects the images that are wrong.

The truth about images is never used to filter; here it judges the filter. As a study may have few
wrong images, errors are injected too, such as images passed off as another class.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import roc_curve

from diffcore import stats
from diffcore.filtering import rules
from diffcore.filtering.encoders import Encoder
from diffcore.filtering.rules import RULES, hard_filter, stack
from diffcore.prompts.prompt_set import PromptSet, write_prompt

#: What two images can have in common.
SHARED = ["class and context", "class only", "context only", "neither"]

Scores = Mapping[str, np.ndarray]  # rule -> similarities (N,)
Texts = Mapping[str, np.ndarray]  # class -> embedding (D,) of its plain prompt


def class_texts(encoder: Encoder, prompt_set: PromptSet, names: Sequence[str]) -> Texts:
    """Embed the plain prompt of each class; empty if the encoder reads no texts."""
    if not encoder.reads_texts:
        return {}
    embeddings = encoder.embed_texts([write_prompt(prompt_set, name) for name in names])
    return dict(zip(names, embeddings, strict=True))


def similarities(images: pd.DataFrame, reference: pd.DataFrame, texts: Texts) -> Scores:
    """Cosines of images by all `RULES` and, as ``text``, to the text of their class, if any."""
    scores = {rule: rules.cosine_to_reference(images, reference, rule) for rule in RULES}
    if texts:
        prompts = np.stack([texts[name] for name in images["class_name"]])
        scores["text"] = rules.cosine(stack(images), prompts)
    return scores


def encoder_accuracy(
    train: pd.DataFrame, tests: Mapping[str, pd.DataFrame], texts: Texts
) -> pd.DataFrame:
    """Accuracy of the encoder alone, tidy: by, test, value, low, high, n, over test images.

    By the nearest text of a class ("zero-shot", if there are texts) and by logistic regression on
    the training images alone ("linear probe").
    """
    folds = min(5, train["class_name"].value_counts().min())
    probe = LogisticRegressionCV(Cs=np.logspace(-1, 4, 6), cv=folds, max_iter=2000)
    probe.fit(stack(train), train["class_name"])
    rows = []
    for test, images in tests.items():
        answers = {"linear probe": probe.predict(stack(images))}
        if texts:
            closest = (stack(images) @ np.stack(list(texts.values())).T).argmax(axis=1)
            answers["zero-shot"] = np.array(list(texts))[closest]
        for by, names in answers.items():
            hits = names == images["class_name"].to_numpy()
            rows.append({"by": by, "test": test} | stats.proportion(hits))
    return pd.DataFrame(rows)


def thresholds(real: pd.DataFrame, texts: Texts, quantile: float) -> dict[str, float]:
    """Threshold of each rule, and of ``text`` if any, that a share of real images would miss."""
    alike = {rule: rules.real_similarities(real, rule) for rule in RULES}
    if texts:
        alike["text"] = similarities(real, real, texts)["text"]
    return {rule: rules.calibrate_threshold(values, quantile) for rule, values in alike.items()}


def mismatched(
    images: pd.DataFrame, real: pd.DataFrame, *, seed: int, copies: int = 1, alike: bool = False
) -> pd.DataFrame:
    """Pass images off as another class, `copies` times each: pairs that a filter has to reject.

    Each claims a random `real` image of another class as its source; if `alike`, of the class with
    the most similar mean.
    """
    classes = real["class_name"].unique()
    rng, taken = np.random.default_rng(seed), images.iloc[np.tile(np.arange(len(images)), copies)]
    means = rules.class_means(real)
    apart = means.to_numpy() @ means.to_numpy().T
    np.fill_diagonal(apart, -np.inf)
    nearest = dict(zip(means.index, means.index[apart.argmax(axis=1)], strict=True))
    claimed = np.empty(len(taken), int)
    for class_name, rows in taken.groupby("class_name").indices.items():
        others = [nearest[class_name]] if alike else classes[classes != class_name]
        candidates = np.flatnonzero(real["class_name"].isin(others))
        claimed[rows] = rng.choice(candidates, size=len(rows))
    claims = real.iloc[claimed][["class_name", "source_id"]].reset_index(drop=True)
    return claims.assign(embedding=taken["embedding"].to_numpy())


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


def gallery(
    similarity: np.ndarray, threshold: float, judged: pd.DataFrame, count: int
) -> dict[str, np.ndarray]:
    """Places of up to `count` images of each group, the least similar first.

    If `judged` holds the truth, groups are what the filter does rightly and wrongly; otherwise
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
    notes = pd.Series("", judged.index)
    if "wrong" in judged:
        other = judged["fault"].str.startswith("another")
        fault = judged["fault"].where(~other, judged["seen_species"])
        notes = ("\nwrong: " + fault).where(judged["wrong"], "")
    prompts = judged["class_name"] + (", " + judged["context"]).where(judged["context"] != "", "")
    verdicts = np.where(hard_filter(similarity, threshold), "accepted", "rejected")
    rows = zip(prompts, similarity, verdicts, notes, strict=True)
    return [
        f"prompt: {text}\nsimilarity {at:.3f}: {verdict}{note}" for text, at, verdict, note in rows
    ]


def auc(wrong: np.ndarray, similarity: np.ndarray) -> float:
    """Chance that a wrong image is less similar than a right one; 0.5 if one kind is missing."""
    count, right = int(np.sum(wrong)), int(np.sum(~wrong))
    if not count or not right:
        return 0.5
    # Mann and Whitney's U by ranks: sklearn's roc_auc_score, for a tenth of the bootstrap's time.
    beaten = rankdata(similarity)[~wrong].sum() - right * (right + 1) / 2
    return float(beaten / (count * right))


def auc_table(
    scores: Scores, wrong: np.ndarray, seed: int, sources: Sequence[str] | None = None
) -> pd.DataFrame:
    """AUC of several similarities, with a bootstrap: rule, value, low, high, n, wrong.

    The bootstrap draws images, or `sources` (of N images) with all of their images, since what is
    drawn for one real image is compared with the same. Where all images are right or all wrong,
    the interval is 0 to 1.
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
            row = stats.bootstrap(area, np.arange(len(units)), seed)
        rows.append({"rule": rule, **row, "n": len(wrong), "wrong": int(wrong.sum())})
    return pd.DataFrame(rows)


def auc_by_cause(
    scores: Scores, truth: pd.DataFrame, seed: int, sources: Sequence[str]
) -> pd.DataFrame:
    """AUC for each kind of fault, against the right images: `auc_table` and cause."""
    tables = []
    for cause in sorted(set(truth["fault"]) - {""}):
        hit = (truth["fault"] == cause).to_numpy()
        used = hit | ~truth["wrong"].to_numpy()
        chosen = {rule: values[used] for rule, values in scores.items()}
        table = auc_table(chosen, hit[used], seed, np.asarray(sources)[used])
        tables.append(table.assign(cause=cause))
    columns = ["rule", "value", "low", "high", "n", "wrong", "cause"]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def auc_injected(right: Scores, injected: Scores, seed: int) -> pd.DataFrame:
    """AUC for injected errors, by their similarities and those of right images: `auc_table`."""
    scores = {rule: np.concatenate([injected[rule], right[rule]]) for rule in right}
    wrong = np.repeat([True, False], [len(injected["source"]), len(right["source"])])
    return auc_table(scores, wrong, seed)


def conditions(
    scores: Scores, limits: Mapping[str, float], in_use: str, wrong: np.ndarray, seed: int
) -> dict[str, np.ndarray]:
    """Which of N images each condition keeps: name -> (N,) bool.

    ``at random`` rejects as many as the rule `in_use`, and ``the oracle`` what is wrong.
    """
    by_rule = {rule: hard_filter(values, limits[rule]) for rule, values in scores.items()}
    blind = np.random.default_rng(seed).permutation(by_rule[in_use])
    return {"no filter": np.ones_like(wrong), "at random": blind, **by_rule, "the oracle": ~wrong}


def roc_table(scores: Scores, wrong: np.ndarray) -> pd.DataFrame:
    """Points of the ROC curves, tidy: rule, false_alarms and caught (of right and wrong images).

    Without right or without wrong images there are none.
    """
    tables = [pd.DataFrame(columns=["false_alarms", "caught", "rule"])]
    for rule, values in scores.items() if wrong.any() and not wrong.all() else ():
        alarms, caught, _ = roc_curve(wrong, -values)
        tables.append(pd.DataFrame({"false_alarms": alarms, "caught": caught, "rule": rule}))
    return pd.concat(tables[1:] or tables, ignore_index=True)


def detection(wrong: np.ndarray, accepted: np.ndarray) -> dict[str, stats.Row]:
    """The filter as a detector of wrong images: measure -> value, low, high, n."""
    questions = {
        "rejection_rate": ~accepted,
        "precision": wrong[~accepted],
        "recall": ~accepted[wrong],
        "wrong_rate": wrong,
        "wrong_rate_kept": wrong[accepted],
    }
    return {name: stats.proportion(hits) for name, hits in questions.items()}
