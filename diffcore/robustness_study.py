"""What the seventh notebook measures, between classifiers, test images and generated images.

Test images are corrupted once and shown to every classifier, so that methods and seeds are compared
on the very same pixels; `diffcore.comparison` has the statistics. Other backgrounds, and renders
that stand beside generated images, can be drawn for Paperbirds alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import DiffusionPipeline
from torch import Generator, Tensor

from diffcore.data import Images, ImageSet, as_batch, as_pixels, in_memory, load_split
from diffcore.experiments import draw, examine, study_book, study_plan, training_set
from diffcore.filtering import read_decisions
from diffcore.generation import decode_images
from diffcore.mixing_study import accepted_plan
from diffcore.paperbirds import CONTEXTS, SPECIES, Oracle, draw_clutter, render
from diffcore.params import StudyParams
from diffcore.responsibility import (
    DataCard,
    ImageEncoder,
    as_vectors,
    closer_shares,
    copy_rates,
    copy_thresholds,
    flag_copies,
    nearest,
    planted_copies,
)
from diffcore.robustness import (
    CORRUPTIONS,
    attack,
    calibration_error,
    corrupt,
    fgsm,
    paste,
    pgd,
    reliability,
)
from diffcore.training import Classifier, load_classifier, predict

#: (method, seed) -> classifier
Classifiers = Mapping[tuple[str, int], Classifier]

_UNCHANGED = "none"
_BACKGROUNDS, _FRESH = 71, 72  # set the seeds of renders apart from those of every split


# ----------------------------------------------------------------------------------- what is tested
def spread(total: int, count: int) -> np.ndarray:
    """Places of at most `count` things, spread evenly over all of them."""
    return np.unique(np.linspace(0, total - 1, count).round().astype(int))


def load_classifiers(
    results: pd.DataFrame, params: StudyParams, num_classes: int, methods: Sequence[str] = ()
) -> dict[tuple[str, int], Classifier]:
    """Load trained classifiers, without gradients of their own: attacks need those of images.

    Args:
        results: columns method, seed and weights (path), as from the fourth notebook.
        params: of the study.
        num_classes: number of classes.
        methods: to load; none for all.
    """
    wanted = results[results["method"].isin(methods)] if methods else results
    return {
        (row.method, row.seed): load_classifier(
            Path(row.weights), params.training, num_classes
        ).requires_grad_(False)
        for row in wanted.itertuples()
    }


def first_of_each(images: Images, each: int) -> Images:
    """Keep the first `each` images of every class."""
    order = pd.Series(images.labels).groupby(images.labels).cumcount()
    return images.take(np.flatnonzero(order < each))


def each_classifier(
    measure: Callable[[Classifier], pd.DataFrame], classifiers: Classifiers
) -> pd.DataFrame:
    """Put each classifier through a measurement: all its rows, with method and seed before them."""
    tables = [
        measure(classifier).assign(method=method, seed=seed)
        for (method, seed), classifier in classifiers.items()
    ]
    joined = pd.concat(tables, ignore_index=True)
    return joined[["method", "seed", *joined.columns.drop(["method", "seed"])]]


def accuracy(
    classifier: Classifier,
    variants: Mapping[tuple, Tensor],
    labels: np.ndarray,
    columns: Sequence[str],
) -> pd.DataFrame:
    """Top-1 of a classifier on every variant of the same images.

    Args:
        classifier: to be tested.
        variants: values of `columns` -> (N, 3, H, W) in [0, 1].
        labels: (N,).
        columns: what tells the variants apart.

    Returns:
        Tidy table: the columns, top1.
    """
    rows = []
    for key, images in variants.items():
        right = predict(classifier, images).argmax(1).numpy() == labels
        rows.append({**dict(zip(columns, key, strict=True)), "top1": right.mean()})
    return pd.DataFrame(rows)


# -------------------------------------------------------------------------------------- corruptions
def under_corruption(
    classifiers: Classifiers, images: Images, severities: Sequence[int], seed: int
) -> pd.DataFrame:
    """Top-1 under every corruption: method, seed, corruption ("none" too), severity, top1."""
    batch = as_batch(images.pixels)
    variants = {(_UNCHANGED, 0): batch} | {
        (name, severity): corrupt(batch, name, severity, seed)
        for name in CORRUPTIONS
        for severity in severities
    }
    columns = ("corruption", "severity")
    measure = partial(accuracy, variants=variants, labels=images.labels, columns=columns)
    return each_classifier(measure, classifiers)


def clean_and_corrupted(table: pd.DataFrame) -> pd.DataFrame:
    """Top-1 on clean images, and the mean over corruptions, a column each beside method, seed."""
    kind = np.where(table["corruption"] == _UNCHANGED, "clean images", "mean over corruptions")
    keys = [table["method"], table["seed"], kind]
    return table.groupby(keys, sort=False)["top1"].mean().unstack().reset_index()


def all_severities(one: pd.DataFrame, others: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Join what was measured at one severity with the others, for some methods, each row once."""
    joined = pd.concat([one[one["method"].isin(methods)], others], ignore_index=True)
    return joined.drop_duplicates(["method", "seed", "corruption", "severity"], ignore_index=True)


def corruption_gallery(pixels: np.ndarray, severity: int, seed: int) -> list[list[np.ndarray]]:
    """Each image (H, W, 3) as it is and under every corruption: rows for `image_grid`."""
    batch = as_batch(pixels)
    shown = [batch, *(corrupt(batch, name, severity, seed) for name in CORRUPTIONS)]
    return [list(row) for row in zip(*map(as_pixels, shown), strict=True)]


# ------------------------------------------------------------------------------------------ attacks
def attackers(
    eps: Sequence[float], steps: int, seed: int
) -> dict[tuple[str, float], Callable[[Classifier, Tensor, Tensor], Tensor]]:
    """FGSM and PGD at each size: (attack, eps) -> (model, images, labels) -> images."""
    found = {}
    for size in eps:
        # A generator of its own for each attack, so that one does not change another.
        generator = Generator().manual_seed(seed)
        found["FGSM", size] = partial(fgsm, eps=size)
        found["PGD", size] = partial(pgd, eps=size, steps=steps, generator=generator)
    return found


def under_attack(
    classifiers: Classifiers, images: Images, eps: Sequence[float], steps: int, seed: int
) -> pd.DataFrame:
    """Top-1 under attacks on each classifier: method, seed, attack ("none" too), eps, top1."""
    measure = partial(_attacked, images=images, eps=eps, steps=steps, seed=seed)
    return each_classifier(measure, classifiers)


def _attacked(
    classifier: Classifier, images: Images, eps: Sequence[float], steps: int, seed: int
) -> pd.DataFrame:
    batch = as_batch(images.pixels).contiguous(memory_format=torch.channels_last)
    variants, labels = {(_UNCHANGED, 0.0): batch}, torch.from_numpy(images.labels)
    for name, attacker in attackers(eps, steps, seed).items():
        variants[name] = attack(attacker, classifier, batch, labels)
    return accuracy(classifier, variants, images.labels, ("attack", "eps"))


def name_attacks(table: pd.DataFrame) -> pd.Series:
    """Name each row of `under_attack` for people: the attack and its size in 255ths."""
    size = (255 * table["eps"]).map("{:g}/255".format)
    return (table["attack"] + ", ε = " + size).where(table["eps"] > 0, "clean images")


def compare_attacks(table: pd.DataFrame) -> pd.Series:
    """Whether PGD leaves no more right than FGSM, for each method, seed and eps of a table."""
    wide = table.pivot(index=["method", "seed", "eps"], columns="attack", values="top1").dropna(
        subset=["FGSM", "PGD"]
    )
    return wide["PGD"] <= wide["FGSM"]


def attack_gallery(
    classifier: Classifier, images: Images, eps: float, steps: int, seed: int
) -> dict[str, np.ndarray]:
    """Images, what PGD changes in them (enlarged to full range about grey) and what comes out."""
    batch, labels = as_batch(images.pixels), torch.from_numpy(images.labels)
    moved = attackers([eps], steps, seed)["PGD", eps](classifier, batch, labels)
    change = 0.5 + (moved - batch) / (2 * eps)
    shown = {"image": batch, "change, enlarged": change.clamp(0, 1), "attacked": moved}
    return {name: as_pixels(each) for name, each in shown.items()}


# -------------------------------------------------------------------------------------- backgrounds
def bare_scenes(contexts: Sequence[str], style: float, seed: int) -> np.ndarray:
    """Fresh scenes without a bird, one a context: (N, 64, 64, 3) uint8."""
    scenes = []
    for place, context in enumerate(contexts):
        own = (seed, _BACKGROUNDS, place)
        clutter = draw_clutter(context, np.random.default_rng(own))
        scene = render(SPECIES[0], context, own, clutter, style=style, malformation="no bird")
        scenes.append(scene.image)
    return np.stack(scenes)


def exchange_backgrounds(
    images: Images, facts: pd.DataFrame, style: float, seed: int
) -> dict[tuple[str], Tensor]:
    """Birds before other backgrounds, and backgrounds without a bird.

    Args:
        images: N, with masks.
        facts: with the id and context of each of them.
        style: of the backgrounds.
        seed: of backgrounds and of the contexts that are drawn for them.

    Returns:
        (condition,) -> (N, 3, H, W): as it is; "same context" on a fresh scene of the same context,
        which shows what the cut itself costs; "another context" on one of any other; and "no bird",
        the scene of the same context alone.
    """
    context = facts.set_index("id").loc[images.ids, "context"].tolist()
    rng = np.random.default_rng((seed, _BACKGROUNDS))
    others = [str(rng.choice([c for c in CONTEXTS if c != own])) for own in context]
    same, other = (as_batch(bare_scenes(each, style, seed)) for each in (context, others))
    batch, masks = as_batch(images.pixels), torch.from_numpy(images.masks)
    shown = {
        "as it is": batch,
        "same context": paste(batch, masks, same),
        "another context": paste(batch, masks, other),
        "no bird": same,
    }
    return {(condition,): each for condition, each in shown.items()}


def background_gallery(
    variants: Mapping[tuple[str], Tensor], count: int
) -> dict[str, list[np.ndarray]]:
    """Spread `count` images evenly over those of `exchange_backgrounds`: condition -> images."""
    places = spread(len(next(iter(variants.values()))), count)
    return {name: list(as_pixels(images[places])) for (name,), images in variants.items()}


def on_backgrounds(
    classifiers: Classifiers, variants: Mapping[tuple[str], Tensor], labels: np.ndarray
) -> pd.DataFrame:
    """Top-1 on what `exchange_backgrounds` makes: method, seed, condition, top1."""
    measure = partial(accuracy, variants=variants, labels=labels, columns=("condition",))
    return each_classifier(measure, classifiers)


def background_drop(table: pd.DataFrame) -> pd.DataFrame:
    """Top-1 lost with the context, beyond what the cut costs: method, seed, drop."""
    wide = table.pivot(index=["method", "seed"], columns="condition", values="top1")
    drop = (wide["same context"] - wide["another context"]).rename("drop")
    return drop.reset_index()


# -------------------------------------------------------------------------------------- calibration
def answers(classifiers: Classifiers, images: Images) -> pd.DataFrame:
    """What every classifier answers to every image: method, seed, confidence, right."""
    return each_classifier(partial(_answers, images=images), classifiers)


def _answers(classifier: Classifier, images: Images) -> pd.DataFrame:
    confidence, answer = predict(classifier, images.pixels).softmax(1).max(1)
    return pd.DataFrame(
        {"confidence": confidence.numpy(), "right": answer.numpy() == images.labels}
    )


def calibration(given: pd.DataFrame) -> pd.DataFrame:
    """How far the confidence of `answers` can be trusted.

    Returns:
        Tidy table: method, seed, top1, ECE, and "confidence less accuracy", of all answers
        together: negative for a classifier that is too modest.
    """
    rows = []
    for (method, seed), table in given.groupby(["method", "seed"], sort=False):
        confidence, right = table["confidence"].to_numpy(), table["right"].to_numpy()
        rows.append({
            "method": method, "seed": seed, "top1": right.mean(),
            "ECE": calibration_error(confidence, right),
            "confidence less accuracy": float(confidence.mean() - right.mean()),
        })  # fmt: skip
    return pd.DataFrame(rows)


def reliability_bins(given: pd.DataFrame) -> pd.DataFrame:
    """What stands in reliability diagrams, the seeds of a method together, with a column method."""
    tables = [
        reliability(table["confidence"].to_numpy(), table["right"].to_numpy()).assign(method=method)
        for method, table in given.groupby("method", sort=False)
    ]
    return pd.concat(tables, ignore_index=True)


# ----------------------------------------------------------------------------- the generated images
@dataclass(frozen=True)
class Synthetic:
    """The set of generated images that classifiers are trained on, and what it was made for.

    Attributes:
        train: the training set; sources are its facts with ``source_id``.
        table: facts of N generated images: the accepted ones, or all if nothing was filtered.
        images: (N, H, W, 3) uint8.
        decisions: of the filter, about all that was drawn; None if it has not decided.
    """

    train: ImageSet
    sources: pd.DataFrame
    table: pd.DataFrame
    images: np.ndarray
    decisions: pd.DataFrame | None

    @property
    def first(self) -> np.ndarray:
        """Places of one generated image for each training image that has any."""
        return self.table.drop_duplicates("source_id").index.to_numpy()


def load_synthetic(params: StudyParams, pipeline: DiffusionPipeline, run_dir: Path) -> Synthetic:
    """Load what the second notebook accepted, or all images of the first if it has not run."""
    train, sources = training_set(params)
    plan, filtered = accepted_plan(study_plan(params, sources), run_dir / "filtering")
    table = draw(plan, pipeline, params.generation, run_dir / "generation").reset_index(drop=True)
    decisions = read_decisions(run_dir / "filtering") if filtered else None
    return Synthetic(train, sources, table, decode_images(table), decisions)


def real_and_generated(
    params: StudyParams, synthetic: Synthetic, encoder: ImageEncoder
) -> dict[str, dict[str, np.ndarray]]:
    """Vectors of the training set and the generated images, mirrored too, and of both test sets."""
    return {
        "training": as_vectors(in_memory(synthetic.train).pixels, encoder, mirrored=True),
        "generated": as_vectors(synthetic.images, encoder, mirrored=True),
        "test, matched": as_vectors(in_memory(load_split(params, "test_matched")).pixels, encoder),
        "test, shifted": as_vectors(in_memory(load_split(params, "test_shifted")).pixels, encoder),
    }


def search_copies(
    synthetic: Synthetic,
    vectors: Mapping[str, Mapping[str, np.ndarray]],
    encoder: ImageEncoder,
    confidence: float,
) -> tuple[dict[str, pd.DataFrame], dict[str, float], pd.DataFrame]:
    """Search near-copies of training images: generated, among test images, and planted ones.

    Returns:
        Name -> table of `nearest`; thresholds; and rates of near-copies, as `copy_rates`.
    """
    thresholds = copy_thresholds(vectors["training"])
    planted = {
        f"planted: {kind}": as_vectors(copies, encoder)
        for kind, copies in planted_copies(in_memory(synthetic.train).pixels).items()
    }
    queries = {name: each for name, each in vectors.items() if name != "training"} | planted
    found = {name: nearest(each, vectors["training"]) for name, each in queries.items()}
    flags = {name: flag_copies(table, thresholds) for name, table in found.items()}
    return found, thresholds, copy_rates(flags, confidence)


def closest_gallery(
    synthetic: Synthetic, found: pd.DataFrame
) -> tuple[list[list[np.ndarray]], list[list[str]]]:
    """Generated images above the training images that they are nearest to: images, captions.

    Args:
        found: pairs, as from `closest_pairs`.
    """
    real = in_memory(synthetic.train).pixels[found["reference"]]
    names = synthetic.table["class_name"].iloc[found["query"]].tolist()
    below = [f"distance {value:.3f}" for value in found["distance"]]
    return [list(synthetic.images[found["query"]]), list(real)], [names, below]


def leakage(
    synthetic: Synthetic,
    vectors: Mapping[str, Mapping[str, np.ndarray]],
    encoder: ImageEncoder,
    *,
    confidence: float,
    seed: int,
) -> pd.DataFrame:
    """Which of equally large sets are nearer to test images than the training set is.

    One generated image a training image, and a fresh render of the same class and context in the
    generator's style, which cannot know the test set: what both have in common is no leak.

    Returns:
        The columns of `closer_shares`, and test.
    """
    rows = synthetic.table.loc[synthetic.first]
    twins = [
        render(row.class_name, row.context or CONTEXTS[0], (seed, _FRESH, place)).image
        for place, row in enumerate(rows.itertuples())
    ]
    known = synthetic.sources["source_id"].isin(rows["source_id"]).to_numpy()
    training = {space: each[known] for space, each in vectors["training"].items()}
    others = {
        "generated": {s: each[synthetic.first] for s, each in vectors["generated"].items()},
        "fresh renders": as_vectors(np.stack(twins), encoder, mirrored=True),
    }
    tables = [
        closer_shares(vectors[name], training, others, confidence).assign(test=name)
        for name in ("test, matched", "test, shifted")
    ]
    return pd.concat(tables, ignore_index=True)


def before_and_after(synthetic: Synthetic) -> dict[str, pd.DataFrame]:
    """Facts of the training set alone and with the generated images, for `balance`."""
    columns = ["class_name", "context"]
    both = pd.concat([synthetic.sources[columns], synthetic.table[columns]], ignore_index=True)
    return {"training set": synthetic.sources[columns], "with generated": both}


# ------------------------------------------------------------------------------------ the data card
def describe(
    params: StudyParams,
    synthetic: Synthetic,
    copies: pd.DataFrame,
    oracle: Oracle,
) -> DataCard:
    """Collect what the data card of the generated images says.

    Args:
        params: of the study.
        synthetic: the images.
        copies: rates of near-copies, as from `search_copies`.
        oracle: reads the images, to tell how many are wrong.
    """
    book, table = study_book(params), synthetic.table
    wrong = examine(table, oracle, book)["wrong"].mean()
    drawn = table.iloc[0]
    return DataCard(
        title=f"generated counterparts, profile {params.profile}",
        model=", ".join(table["model"].unique()),
        model_hash=", ".join(table["model_hash"].unique()),
        sampler={
            "size": f"{drawn['width']} × {drawn['height']} pixels",
            "denoising steps": int(drawn["num_inference_steps"]),
            "guidance scale": float(drawn["guidance_scale"]),
        },
        template=book.template,
        contexts=book.contexts if params.prompts.use_context else (),
        negatives=book.negatives if params.prompts.use_negatives else (),
        plan_seed=params.seed,
        seeds=table["seed"].tolist(),
        counts=table["class_name"].value_counts(sort=False).to_dict(),
        filtered=_filter_facts(params, synthetic.decisions),
        copies=_copy_facts(copies),
        limits=_limits(params, wrong, copies),
        intended_use=_USE,
        licence=_licence(params),
    )


_USE = (
    "Training image classifiers of these classes together with the real images that it was drawn "
    "for, and studying what that does. Not for testing: a generated image shows what its model "
    "takes a class for, not what the class looks like."
)


def _filter_facts(
    params: StudyParams, decisions: pd.DataFrame | None
) -> dict[str, float | str | int]:
    """Rule, threshold and rejections of the first round, to which later ones answer."""
    if decisions is None:
        return {}
    first = decisions[decisions["attempt"] == 0]
    return {
        "rule": f"cosine of CLIP embeddings, `{decisions['rule'].iloc[0]}`",
        "encoder": params.filtering.encoder.model_name
        if params.filtering.encoder.kind == "open_clip"
        else "the CLIP that ships with Paperbirds",
        "threshold": float(decisions["threshold"].iloc[0]),
        "drawn at first": len(first),
        "rejected of these": f"{1 - first['accepted'].mean():.1%}",
        "drawn in all": len(decisions),
        "accepted in all": int(decisions["accepted"].sum()),
    }


def _copy_facts(copies: pd.DataFrame) -> dict[str, int | str]:
    """Near-copies by space, beside those that real test images hold by chance."""
    shown = copies[~copies["images"].str.startswith("planted")]
    return {
        f"{row.images}, by {row.space}": f"{row.count_} of {row.n:,}"
        for row in shown.rename(columns={"count": "count_"}).itertuples()
    }


def _limits(params: StudyParams, wrong: float, copies: pd.DataFrame) -> tuple[str, ...]:
    planted = copies[copies["images"].str.startswith("planted") & (copies["space"] == "either")]
    missed = planted.sort_values("rate").iloc[0]
    return (
        f"An oracle, which knows the world that the model was trained on, finds {wrong:.1%} of the "
        "images wrong in class or form; they are in the set.",
        "A context is what the prompt asked for; that the image shows it is not checked.",
        f"Of copies planted to test it, the search for near-copies found {missed['rate']:.0%} of "
        f"the kind that it finds least ({missed['images'].removeprefix('planted: ')}).",
        f"Images have {params.generation.width} × {params.generation.height} pixels; classes and "
        "contexts are those named here and no others.",
        "What the model was trained on decides how a class looks, and is not balanced by prompts.",
    )


def _licence(params: StudyParams) -> str:
    if params.generation.pipeline.kind == "paperbirds":
        return "MIT, as the project and its model, which was trained on its own renders alone."
    return (
        f"The terms of the text-to-image model (`{params.generation.pipeline.location}`) hold for "
        "its images; read them before passing the images on."
    )
