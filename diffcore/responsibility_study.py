"""What the seventh notebook asks of the generated images, between their records and the measures.

Near-copies, leakage, balance and the data card of `diffcore.responsibility`, for the images that a
study drew or brought in. Renders that stand beside generated images, as the measure of a leak, can
be drawn for Paperbirds alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from diffusers import DiffusionPipeline

from diffcore.data import ImageSet, View, load_split, spread, test_splits
from diffcore.experiments import draw_study, judge_study, study_book, study_plan, training_set
from diffcore.filtering import read_decisions
from diffcore.mixing_study import accepted_plan
from diffcore.paperbirds import CONTEXTS, render
from diffcore.params import StudyParams
from diffcore.pictures import LazyImages
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
from diffcore.scope import known

_FRESH = 72  # sets the seeds of these renders apart from those of every split


# ---------------------------------------------------------------------------------- the images
@dataclass(frozen=True)
class Synthetic:
    """The set of generated images that classifiers are trained on, and what it was made for.

    Attributes:
        train: the training set.
        sources: facts of K training images, with ``source_id``.
        places: of these in the training set, (K,).
        table: facts of N generated images: the accepted ones, or all if nothing was filtered.
        images: the same, read when asked for.
        decisions: of the filter, about all that was drawn; None if it has not decided.
    """

    train: ImageSet
    sources: pd.DataFrame
    places: np.ndarray
    table: pd.DataFrame
    images: LazyImages
    decisions: pd.DataFrame | None

    @property
    def first(self) -> np.ndarray:
        """Places of one generated image for each training image that has any."""
        return self.table.drop_duplicates("source_id").index.to_numpy()

    @property
    def real(self) -> LazyImages:
        """The K training images."""
        return View(self.train.images, self.places)

    def at_most(self, count: int) -> "Synthetic":
        """Return at most so many training and generated images, spread evenly over all."""
        real, drawn = spread(len(self.sources), count), spread(len(self.table), count)
        return replace(
            self,
            sources=self.sources.iloc[real].reset_index(drop=True),
            places=self.places[real],
            table=self.table.iloc[drawn].reset_index(drop=True),
            images=View(self.images, drawn),
        )


def load_synthetic(
    params: StudyParams, pipeline: DiffusionPipeline | None, run_dir: Path
) -> Synthetic:
    """Load what the second notebook accepted, or all images of the first if it has not run."""
    train, sources = training_set(params)
    plan, filtered = accepted_plan(study_plan(params, sources), run_dir / "filtering")
    table, images = draw_study(params, plan, pipeline, run_dir)
    decisions = read_decisions(run_dir / "filtering") if filtered else None
    places = np.arange(len(sources))
    return Synthetic(train, sources, places, table.reset_index(drop=True), images, decisions)


def real_and_generated(
    params: StudyParams, synthetic: Synthetic, encoder: ImageEncoder
) -> dict[str, dict[str, np.ndarray]]:
    """Vectors of training and generated images, mirrored too, and of the test sets.

    Of test sets, at most ``robustness.copy_images`` each are taken, spread evenly.
    """
    vectors = {
        "training": as_vectors(synthetic.real, encoder, mirrored=True),
        "generated": as_vectors(synthetic.images, encoder, mirrored=True),
    }
    for test, split in test_splits(params).items():
        images = load_split(params, split).images
        some = View(images, spread(len(images), params.robustness.copy_images))
        vectors[name_test(test)] = as_vectors(some, encoder)
    return vectors


def name_test(test: str) -> str:
    """Name a test set in tables of near-copies."""
    return "test" if test == "test" else f"test, {test}"


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
        for kind, copies in planted_copies(synthetic.real[:]).items()
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
    real = synthetic.real[found["reference"].tolist()]
    names = synthetic.table["class_name"].iloc[found["query"]].tolist()
    below = [f"distance {value:.3f}" for value in found["distance"]]
    return [list(synthetic.images[found["query"].tolist()]), list(real)], [names, below]


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
def describe(params: StudyParams, synthetic: Synthetic, copies: pd.DataFrame) -> DataCard:
    """Collect what the data card of the generated images says.

    Args:
        params: of the study.
        synthetic: the images.
        copies: rates of near-copies, as from `search_copies`.
    """
    book, table, drew = study_book(params), synthetic.table, params.generation.can_draw
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
        origin=_ORIGINS.get(params.generation.pipeline.kind, DataCard.origin),
        template=book.template if drew else "none: nothing was drawn here",
        contexts=book.contexts if drew and params.prompts.use_context else (),
        negatives=book.negatives if drew and params.prompts.use_negatives else (),
        plan_seed=params.seed,
        seeds=table["seed"].tolist(),
        counts=table["class_name"].value_counts(sort=False).to_dict(),
        filtered=_filter_facts(params, synthetic.decisions),
        copies=_copy_facts(copies),
        limits=(_wrong_images(params, synthetic), *_limits(params, copies)),
        intended_use=_USE,
        licence=_licence(params),
    )


_ORIGINS = {
    "import": "imported from elsewhere: of what made them, only what their files say is known.",
    "stand_in": "photographs of the data set, transformed, that stand in for generated images.",
}
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
        "encoder": "the CLIP that ships with Paperbirds"
        if params.filtering.encoder.kind == "paperbirds"
        else params.filtering.encoder.model_name,
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


def _wrong_images(params: StudyParams, synthetic: Synthetic) -> str:
    """Say how many images are wrong, if that is known."""
    if "truth" not in known(params):
        return "How many of the images show another class, or nothing whole, is not known."
    wrong = judge_study(params, synthetic.table, synthetic.images)["wrong"].mean()
    if not params.generation.can_draw:
        return f"{wrong:.1%} of the images were planted: they show another class than they say."
    return (
        f"An oracle, which knows the world that the model was trained on, finds {wrong:.1%} of the "
        "images wrong in class or form; they are in the set."
    )


def _limits(params: StudyParams, copies: pd.DataFrame) -> tuple[str, ...]:
    planted = copies[copies["images"].str.startswith("planted") & (copies["space"] == "either")]
    missed = planted.sort_values("rate").iloc[0]
    general = (
        f"Of copies planted to test it, the search for near-copies found {missed['rate']:.0%} of "
        f"the kind that it finds least ({missed['images'].removeprefix('planted: ')}).",
        f"Images have {params.generation.width} × {params.generation.height} pixels; classes and "
        "contexts are those named here and no others.",
    )
    if not params.generation.can_draw:
        return general
    return (
        "A context is what the prompt asked for; that the image shows it is not checked.",
        *general,
        "What the model was trained on decides how a class looks, and is not balanced by prompts.",
    )


def _licence(params: StudyParams) -> str:
    pipeline = params.generation.pipeline
    if pipeline.kind == "paperbirds":
        return "MIT, as the project and its model, which was trained on its own renders alone."
    if pipeline.kind == "stand_in":
        return f"The terms of the data set ({params.data.dataset}), of whose photographs these are."
    if pipeline.kind == "import":
        return "The terms of whatever model made these images, which their records do not name."
    return (
        f"The terms of the text-to-image model (`{pipeline.location}`) hold for its images; read "
        "them before passing the images on."
    )
