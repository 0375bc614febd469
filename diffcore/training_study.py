"""What the fourth notebook trains and compares, between images of the study and trials.

Every comparison changes one thing and keeps the rest: the method (the main table), a part of ours
(the ablation), the gap between generator and data, the share of wrong counterparts, the number of
real or of generated images, the threshold. The test sets are read once a trial, at its end, and
decide nothing; settings were chosen on the training images (`diffcore.tuning`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from diffusers import DiffusionPipeline

from diffcore import filtering
from diffcore.data import (
    Images,
    View,
    in_memory,
    keep_pixels,
    load_images,
    load_split,
    test_splits,
)
from diffcore.experiments import (
    ablations,
    at_data_size,
    draw,
    draw_study,
    load_generator,
    study_plan,
    training_set,
    without_context,
)
from diffcore.filtering import Encoder
from diffcore.generation import decode_images, open_images
from diffcore.methods import GENERATIVE, METHODS, method_settings
from diffcore.mixing_study import accepted_plan, edit_sources
from diffcore.params import ParamsError, StudyParams, change_params
from diffcore.pictures import LazyImages
from diffcore.scope import known
from diffcore.training import TrainingData
from diffcore.trials import Corpus, Trial, run_trials

#: Methods without which there is nothing to compare.
NEEDED = ("vanilla", "cutmix", "added", "diffcoremix", "mixed_added")
#: What is compared wherever a condition varies.
SIDE_METHODS = ("vanilla", "added", "diffcoremix", "mixed_added")


# ---------------------------------------------------------------------------------- the materials
@dataclass(frozen=True)
class Pool:
    """Generated images, and whose counterparts they are.

    Attributes:
        pixels: of the size of the real images, (M, H, W, 3) uint8.
        table: M rows with at least ``source_id`` and ``class_name``.
        drawn: the same images at the size that they were drawn at, which is what a filter sees.
    """

    pixels: np.ndarray
    table: pd.DataFrame
    drawn: LazyImages

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, places: np.ndarray) -> "Pool":
        """Return the images at these places, or where a mask is True."""
        chosen = np.flatnonzero(places) if places.dtype == bool else places
        return Pool(self.pixels[chosen], self.table.iloc[chosen], View(self.drawn, chosen))


@dataclass(frozen=True)
class Materials:
    """All images of the study.

    Attributes:
        params: of the study.
        classes: names, in the order of the labels.
        train: real training images.
        sources: their facts, with ``source_id``.
        tests: name of a column of results -> images.
        drawn: every image of the plan, before any filter.
        accepted: what the filter let through, re-drawn images included.
        edits: training images edited by a style, for DiffuseMix; none without a pipeline.
        filtered: whether notebook 02 has decided about this plan; if not, `accepted` is `drawn`.
    """

    params: StudyParams
    classes: Sequence[str]
    train: Images
    sources: pd.DataFrame
    tests: dict[str, Images]
    drawn: Pool
    accepted: Pool
    edits: Pool
    filtered: bool


def load_materials(
    params: StudyParams, pipeline: DiffusionPipeline | None, run_dir: Path
) -> Materials:
    """Collect all images; those that earlier notebooks have drawn are only read."""
    train, sources = training_set(params)
    plan = study_plan(params, sources)
    passed, filtered = accepted_plan(plan, run_dir / "filtering")
    tests = test_splits(params)
    return Materials(
        params=params,
        classes=train.classes,
        train=load_images(params, "train", run_dir),
        sources=sources,
        tests={name: load_images(params, split, run_dir) for name, split in tests.items()},
        drawn=load_pool(params, plan, pipeline, run_dir),
        accepted=load_pool(params, passed, pipeline, run_dir),
        edits=_load_edits(params, pipeline, run_dir),
        filtered=filtered,
    )


def load_pool(
    params: StudyParams, plan: pd.DataFrame, pipeline: DiffusionPipeline | None, run_dir: Path
) -> Pool:
    """Collect the study's own generated images, or a part of them."""
    facts, images = draw_study(params, plan, pipeline, run_dir)
    return _pool(params, facts, images, run_dir)


def _pool(params: StudyParams, facts: pd.DataFrame, images: LazyImages, run_dir: Path) -> Pool:
    """Bring generated images to the size of the real ones, on disk where these are on disk."""
    table, fitted = facts.reset_index(drop=True), at_data_size(images, training_set(params)[0])
    if params.data.dataset == "paperbirds":
        return Pool(fitted[:], table, images)
    pixels = keep_pixels(fitted, run_dir, fitted.shape, table.to_dict("list"))
    return Pool(pixels, table, images)


def _load_edits(params: StudyParams, pipeline: DiffusionPipeline | None, run_dir: Path) -> Pool:
    """Edit training images for DiffuseMix, if it is among the methods and there is a pipeline."""
    train, sources = training_set(params)
    if pipeline is None or "diffusemix" not in study_methods(params):
        nothing = np.empty((0, *train[0]["image"].shape), np.uint8)
        return Pool(nothing, pd.DataFrame({"source_id": [], "class_name": []}), nothing)
    edits = edit_sources(train, sources, params, pipeline, run_dir / "edits")
    return _pool(params, edits.drop(columns="image"), decode_images(edits), run_dir)


def study_methods(params: StudyParams) -> list[str]:
    """Methods of the main table: those asked for, or all for which there are images.

    Raises:
        ParamsError: for an unknown method, one for which there are no images, or one that lacks.
    """
    possible = [name for name in METHODS if params.generation.can_draw or name != "diffusemix"]
    wanted = params.trials.methods or possible
    if wrong := [name for name in wanted if name not in possible]:
        why = "needs a pipeline that can edit" if wrong[0] in METHODS else "is no method"
        raise ParamsError(f"trials.methods: {wrong[0]!r} {why}; there are {', '.join(possible)}")
    if lacking := [name for name in NEEDED if name not in wanted]:
        raise ParamsError(
            f"trials.methods lacks {lacking[0]!r}, with which every notebook compares"
        )
    return [name for name in METHODS if name in wanted]


def make_corpus(
    materials: Materials, pool: Pool, train: Images | None = None, **tests: Images
) -> Corpus:
    """Pair training images with a pool, each image of the pool with the one it was drawn for.

    Args:
        materials: of the study.
        pool: generated images.
        train: in place of the study's training images; images of the pool whose own is not among
            them are dealt out among those of their class.
        tests: in place of the study's test sets.
    """
    real = materials.train if train is None else train
    names = np.array(materials.classes)[real.labels]
    source = place_sources(pool.table, real.ids, names)
    data = TrainingData(real.pixels, real.labels, pool.pixels, source)
    return Corpus(data, tests or materials.tests, len(materials.classes))


def place_sources(table: pd.DataFrame, ids: np.ndarray, class_names: np.ndarray) -> np.ndarray:
    """Place of the real image that each generated one belongs to, (M,).

    Its own, by ``source_id``; where that is not among `ids`, one of its class in turn.

    Raises:
        ValueError: for a class that has no real image.
    """
    own = {name: place for place, name in enumerate(ids)}
    members = {name: np.flatnonzero(class_names == name) for name in np.unique(class_names)}
    if lacking := set(table["class_name"]) - set(members):
        raise ValueError(f"no real image of {sorted(lacking)[0]!r}, for which images were drawn")
    turn = table.groupby("class_name").cumcount()
    rows = zip(table["source_id"], table["class_name"], turn, strict=True)
    return np.array(
        [own.get(source, members[name][t % len(members[name])]) for source, name, t in rows],
        dtype=np.int64,
    )


# ------------------------------------------------------------------------------------- what varies
def compare(
    materials: Materials,
    corpus: Corpus,
    methods: Iterable[str],
    seeds: int,
    changes: Mapping[str, Any] | None = None,
    **facts: Any,
) -> list[Trial]:
    """Plan a trial of each method from each seed, on one corpus.

    Args:
        materials: for the parameters.
        corpus: what is trained on.
        methods: names.
        seeds: how many.
        changes: of parameters, by dotted keys.
        facts: columns of the results.
    """
    params = change_params(materials.params, changes or {})
    # Without the images that it never sees, a method is trained once for all pools.
    bare = corpus.without_generated()
    return [
        Trial(
            method,
            method_settings(method, params),
            params.seed + seed,
            corpus if method in GENERATIVE else bare,
            facts,
        )
        for method in methods
        for seed in range(seeds)
    ]


def main_trials(materials: Materials) -> list[Trial]:
    """Every method of the study on its images; DiffuseMix on its edits."""
    seeds, methods = materials.params.trials.seeds, study_methods(materials.params)
    corpus = make_corpus(materials, materials.accepted)
    edited = make_corpus(materials, materials.edits)
    return [
        trial
        for method in methods
        for trial in compare(
            materials, edited if method == "diffusemix" else corpus, [method], seeds
        )
    ]


def curve_trials(materials: Materials, methods: Sequence[str]) -> list[Trial]:
    """One more training of some methods, tested on the way."""
    points = materials.params.trials.curve_points
    planned = compare(materials, make_corpus(materials, materials.accepted), methods, 1)
    return [replace(trial, curve_points=points) for trial in planned]


def ablation_trials(
    materials: Materials, pipeline: DiffusionPipeline, encoder: Encoder, run_dir: Path
) -> list[Trial]:
    """DiffCoRe-Mix without one of its parts, all on as many samples of the plan, none re-drawn."""
    params, seeds = materials.params, materials.params.trials.side_seeds
    pools = {}
    for name, (plan, folder) in _ablated_plans(materials).items():
        facts = draw(plan, pipeline, params.generation, run_dir / folder, images=False)
        pools[name] = _pool(params, facts, open_images(run_dir / folder, facts), run_dir)
    kept = {name: pool.take(passes(materials, pool, encoder)) for name, pool in pools.items()}
    corpora = {name: make_corpus(materials, pool) for name, pool in kept.items()}
    unfiltered = make_corpus(materials, pools["full method"])
    full, ours = corpora["full method"], ["diffcoremix"]
    return [
        *compare(materials, full, ours, seeds, part="full method"),
        *compare(materials, corpora["no context"], ours, seeds, part="no context"),
        *compare(materials, corpora["no negatives"], ours, seeds, part="no negatives"),
        *compare(materials, unfiltered, ours, seeds, part="no filter"),
        *compare(materials, full, ours, seeds, {"mixing.patch_share": 0.0}, part="pixel only"),
        *compare(materials, full, ours, seeds, {"mixing.patch_share": 1.0}, part="patch only"),
    ]


def _ablated_plans(materials: Materials) -> dict[str, tuple[pd.DataFrame, str]]:
    """Plans without a part, and the folders of their images; notebook 01 has drawn most of them."""
    params = materials.params
    plans = ablations(params, study_plan(params, materials.sources))
    whole = plans["context and negatives"]
    return {
        "full method": (whole, "generation"),
        "no context": (without_context(params, whole), "contextless"),
        "no negatives": (plans["with context"], "unsteered"),
    }


def passes(
    materials: Materials, pool: Pool, encoder: Encoder, train: Images | None = None
) -> np.ndarray:
    """Filter a pool as notebook 02 does, without drawing again: (M,) bool."""
    return filtering.hard_filter(*_judge(materials, pool, encoder, train))


def _judge(
    materials: Materials, pool: Pool, encoder: Encoder, train: Images | None = None
) -> tuple[np.ndarray, float]:
    """Similarity of a pool to real images (M,), and the threshold that these set."""
    settings, real = materials.params.filtering, materials.train if train is None else train
    reference = filtering.embed(materials.sources, real.pixels, encoder)
    embedded = filtering.embed(pool.table, pool.drawn, encoder)
    similarity = filtering.cosine_to_reference(embedded, reference, settings.rule)
    return similarity, filtering.study_threshold(settings, reference)


def dials(materials: Materials, encoder: Encoder) -> dict[str, tuple[list[Trial], float]]:
    """What is turned to see when mixing helps: its label -> trials, and the study's own setting."""
    found = {
        "share of wrong counterparts": (wrong_trials(materials), 0.0),
        "real images per class": (scarcity_trials(materials), images_per_class(materials)),
    }
    if "world" not in known(materials.params):
        return found
    style = style_trials(materials, encoder), materials.params.data.style
    return {"style of the real images": style, **found}


def style_trials(materials: Materials, encoder: Encoder) -> list[Trial]:
    """The same scenes in styles nearer to and farther from the generator's, filtered anew."""
    params, seeds = materials.params, materials.params.trials.side_seeds
    trials = []
    splits = test_splits(params)
    for style in sorted({*params.trials.styles, params.data.style}):
        train, *tests = (
            in_memory(load_split(params, split, style=style))
            for split in ("train", *splits.values())
        )
        pool = materials.drawn.take(passes(materials, materials.drawn, encoder, train))
        corpus = make_corpus(materials, pool, train, **dict(zip(splits, tests, strict=True)))
        trials += compare(materials, corpus, SIDE_METHODS, seeds, value=style)
    return trials


def wrong_trials(materials: Materials) -> list[Trial]:
    """Counterparts of which a share shows another class."""
    params, trials = materials.params, []
    for share in sorted({0.0, *params.trials.wrong_shares}):
        pool = plant_wrong(materials.accepted, share, params.seed)
        corpus = make_corpus(materials, pool)
        trials += compare(materials, corpus, SIDE_METHODS, params.trials.side_seeds, value=share)
    return trials


def plant_wrong(pool: Pool, share: float, seed: int) -> Pool:
    """Put images of other classes in the place of a share of a pool, chosen at random."""
    rng, names = np.random.default_rng(seed), pool.table["class_name"].to_numpy()
    pixels = pool.pixels.copy()
    for place in rng.permutation(len(names))[: round(share * len(names))]:
        pixels[place] = pool.pixels[rng.choice(np.flatnonzero(names != names[place]))]
    return Pool(pixels, pool.table, pixels)


def scarcity_trials(materials: Materials) -> list[Trial]:
    """Fewer and more real images of each class, with the same generated ones."""
    params, trials = materials.params, []
    own = images_per_class(materials)
    for count in sorted({*params.trials.images_per_class, own}):
        train = materials.train if count == own else _another_size(params, count)
        corpus = make_corpus(materials, materials.accepted, train)
        trials += compare(materials, corpus, SIDE_METHODS, params.trials.side_seeds, value=count)
    return trials


def images_per_class(materials: Materials) -> int:
    """Real training images of a class, on average."""
    return round(len(materials.train) / len(materials.classes))


def _another_size(params: StudyParams, count: int) -> Images:
    """Training images, so many a class.

    Those of Paperbirds get names that no generated image goes by: another number of them is other
    renders. Of photographs, more are the same and others beside them.
    """
    train = in_memory(load_split(params, "train", train_images_per_class=count))
    if params.data.dataset != "paperbirds":
        return replace(train, masks=None)
    return replace(train, ids=np.char.add(f"{count}-a-class/", train.ids))


def share_trials(materials: Materials) -> list[Trial]:
    """Fewer generated images, chosen at random; the value is their number per training image."""
    params, pool = materials.params, materials.accepted
    order = np.random.default_rng(params.seed).permutation(len(pool.pixels))
    trials = []
    for share in sorted({*params.trials.generated_shares, len(order) / len(materials.train)}):
        some = pool.take(np.sort(order[: round(share * len(materials.train))]))
        corpus = make_corpus(materials, some)
        seeds = params.trials.side_seeds
        trials += compare(materials, corpus, ["added", "diffcoremix"], seeds, value=share)
    return trials


def batch_trials(materials: Materials) -> list[Trial]:
    """Other shares of each batch that are generated images, where these are added.

    DiffCoRe-Mix has no such share, and is the same beside each.
    """
    params, trials = materials.params, []
    corpus = make_corpus(materials, materials.accepted)
    for share in sorted({params.training.methods.added.probability, *params.trials.batch_shares}):
        changes = {
            f"training.methods.{method}.probability": share for method in ("added", "mixed_added")
        }
        seeds, methods = params.trials.side_seeds, ("added", "diffcoremix", "mixed_added")
        trials += compare(materials, corpus, methods, seeds, changes, value=share)
    return trials


def threshold_trials(materials: Materials, encoder: Encoder) -> list[Trial]:
    """No threshold and stricter ones, without drawing again; the value is the share rejected."""
    params = materials.params
    similarity, own = _judge(materials, materials.drawn, encoder)
    stricter = np.quantile(similarity, params.trials.rejected_shares)
    trials = []
    for threshold in sorted({-1.0, own, *stricter.tolist()}):
        kept = filtering.hard_filter(similarity, threshold)
        corpus = make_corpus(materials, materials.drawn.take(kept))
        methods, seeds = ("added", "diffcoremix"), params.trials.side_seeds
        facts = {"value": 1 - kept.mean(), "threshold": threshold}
        trials += compare(materials, corpus, methods, seeds, **facts)
    return trials


# ------------------------------------------------------------------------------------- running them
def train_all(
    trials: Sequence[Trial], params: StudyParams, run_dir: Path, describe: str
) -> pd.DataFrame:
    """Train what is missing: the table of `diffcore.trials.run_trials`."""
    folder, processes = run_dir / "training", params.trials.processes
    return run_trials(trials, params.training, folder, processes, describe)


def train_main(params: StudyParams, run_dir: Path) -> pd.DataFrame:
    """Train the main table as notebook 04 does, for the notebooks that look at its classifiers."""
    materials = load_materials(params, load_generator(params), run_dir)
    return train_all(main_trials(materials), params, run_dir, "main table")
