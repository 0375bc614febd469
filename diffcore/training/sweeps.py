"""Plan what is trained: the main table, learning curves, and the sweeps, the ablation among them.

Every comparison changes one thing and keeps the rest. The test sets are read once a run, at its
end, and decide nothing; settings were chosen on training images (`diffcore.training.tuning`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

import numpy as np

from diffcore.data.pairs import PairedDataset
from diffcore.data.splits import Split, test_splits
from diffcore.filtering.rules import hard_filter
from diffcore.generation.evaluate import ablations, without_context
from diffcore.mixing.methods import GENERATIVE, method_settings, study_methods
from diffcore.params import change_params
from diffcore.training.runs import Run

#: What is compared at a point of a sweep.
SIDE_METHODS = ("vanilla", "added", "diffcoremix", "mixed_added")

#: `diffcore.study.Study`, which stands above this room.
Study = Any
_added_share = attrgetter("params.training.methods.added.probability")


def compare(
    study: Study, pairs: PairedDataset, methods: Sequence[str] = SIDE_METHODS,
    seeds: int | None = None, changes: Mapping[str, Any] | None = None,
    tests: Mapping[str, Split] | None = None, **columns: Any,
) -> list[Run]:  # fmt: skip
    """Plan a run of each method from each of so many seeds, on the same pairs.

    Methods take their settings from the study's parameters with `changes` (by dotted keys).
    """
    params = change_params(study.params, changes or {})
    # Without the images that it never sees, a method is trained once for all generated sets.
    bare = pairs.without_generated()
    return [
        Run(method, method_settings(method, params), params.seed + seed,
            pairs if method in GENERATIVE else bare, tests or study.tests, columns)
        for method in methods
        for seed in range(seeds or params.runs.sweep_seeds)
    ]  # fmt: skip


def plan_main(
    study: Study, methods: Sequence[str] | None = None, seeds: int | None = None
) -> list[Run]:
    """Plan methods on the study's images, DiffuseMix on its edits; by default all of the study."""
    seeds, runs = seeds or study.params.runs.seeds, []
    for method in methods or study_methods(study.params):
        pairs = study.pair(study.edits) if method == "diffusemix" else study.pairs
        runs += compare(study, pairs, [method], seeds)
    return runs


def plan_curves(study: Study, methods: Sequence[str]) -> list[Run]:
    """Plan the main table's first run of some methods once more, tested on the way."""
    points = study.params.runs.curve_points
    return [replace(run, curve_points=points) for run in plan_main(study, methods, seeds=1)]


def _parts(study: Study) -> Iterator[Run]:
    """DiffCoRe-Mix without one of its parts, all on as many samples of the plan, none resampled."""
    count, seed = study.params.measure.ablation_images, study.params.seed
    plans = ablations(study.plan, study.book, count, seed)
    whole = plans["context and negatives"]
    drawn = {
        "full method": study.draw(whole),
        "no context": study.draw(without_context(whole, study.book)),
        "no negatives": study.draw(plans["with context"]),
    }
    pairs = {part: _filtered(study, generated) for part, generated in drawn.items()}
    pairs["no filter"] = study.pair(drawn["full method"])
    levels = {"pixel only": {"mixing.patch_share": 0.0}, "patch only": {"mixing.patch_share": 1.0}}
    for part, images in (pairs | dict.fromkeys(levels, pairs["full method"])).items():
        yield from compare(study, images, ["diffcoremix"], changes=levels.get(part), part=part)


def _styles(study: Study) -> Iterator[Run]:
    """The same scenes in styles nearer to and farther from the generator's, filtered anew."""
    params, splits = study.params, test_splits(study.params)
    for style in sorted({*params.runs.styles, params.data.style}):
        train = study.load_split("train", style=style)
        tests = {name: study.load_split(split, style=style) for name, split in splits.items()}
        pairs = _filtered(study, study.generated, train)
        yield from compare(study, pairs, tests=tests, point=style)


def _noise(study: Study) -> Iterator[Run]:
    """Counterparts of which a share shows another class."""
    for share in sorted({0.0, *study.params.runs.noise_shares}):
        noisy = inject_noise(study.accepted, share, study.params.seed)
        yield from compare(study, study.pair(noisy), point=share)


def inject_noise(generated: Any, share: float, seed: int) -> Any:
    """Put images of other classes in the place of a share of a GeneratedSet, chosen at random."""
    rng, names = np.random.default_rng(seed), generated.metadata["class_name"].to_numpy()
    places = np.arange(len(names))
    for place in rng.permutation(len(names))[: round(share * len(names))]:
        places[place] = rng.choice(np.flatnonzero(names != names[place]))
    shown = generated.take(places)
    labels = {name: generated.metadata[name].to_numpy() for name in ("source_id", "class_name")}
    return replace(shown, metadata=shown.metadata.assign(**labels))


def _arms(study: Study) -> Iterator[Run]:
    """Every way of filtering the same images, none drawn again."""
    yield from _filtered_by(study, study.generated, study.params.runs.filter_arms)


def _planted(study: Study) -> Iterator[Run]:
    """Images of which a share shows another class, before any filter: what the filter is worth."""
    arms = ("no filter", "at random", study.params.filtering.rule, "the oracle")
    for share in sorted({0.0, *study.params.runs.planted_shares}):
        planted = inject_noise(study.generated, share, study.params.seed)
        yield from _filtered_by(study, planted, arms, point=share)


def _filtered_by(
    study: Study, generated: Any, arms: Sequence[str] | None, **columns: Any
) -> Iterator[Run]:
    """DiffCoRe-Mix on what each way of filtering keeps, with the share of wrong images in it."""
    kept, wrong = study.filter_by_all(generated)
    pairs, seeds = study.pair(generated), study.params.runs.filter_seeds
    for arm in (name for name in kept if arms is None or name in arms):
        some = pairs.take_generated(np.flatnonzero(kept[arm]))
        told = {"part": arm, "kept": kept[arm].mean(), "wrong": wrong[kept[arm]].mean(), **columns}
        yield from compare(study, some, ["diffcoremix"], seeds, **told)


def _sizes(study: Study) -> Iterator[Run]:
    """Fewer and more real images of each class, with the same generated ones.

    Sets are nested. At a size that is not the study's own, Paperbirds' generated images are dealt
    anew among the real ones of their class; those of photographs stay with their own, if there.
    """
    own = images_per_class(study)
    for count in sorted({*study.params.runs.images_per_class, own}):
        train = study.train
        if count != own:
            train = study.load_split("train", train_images_per_class=count)
        if count != own and study.params.data.dataset == "paperbirds":
            names = f"{count}-a-class/" + train.metadata["source_id"]  # no generated image has them
            train = replace(train, metadata=train.metadata.assign(source_id=names))
        yield from compare(study, study.pair(study.accepted, train), point=count)


def images_per_class(study: Study) -> int:
    """Real training images of a class, on average."""
    return round(len(study.train) / len(study.train.classes))


def _amounts(study: Study) -> Iterator[Run]:
    """Fewer generated images, chosen at random; the point is their number per training image."""
    pairs, count = study.pairs, len(study.train)
    order = np.random.default_rng(study.params.seed).permutation(len(pairs.generated))
    for share in sorted({*study.params.runs.generated_shares, len(order) / count}):
        some = pairs.take_generated(np.sort(order[: round(share * count)]))
        yield from compare(study, some, ["added", "diffcoremix"], point=share)


def _batch_shares(study: Study) -> Iterator[Run]:
    """Other generated shares of a batch; DiffCoRe-Mix has no such share, and is the same beside."""
    methods = ("added", "diffcoremix", "mixed_added")
    keys = [f"training.methods.{name}.probability" for name in ("added", "mixed_added")]
    for share in sorted({_added_share(study), *study.params.runs.batch_shares}):
        changes = dict.fromkeys(keys, share)
        yield from compare(study, study.pairs, methods, changes=changes, point=share)


def _thresholds(study: Study) -> Iterator[Run]:
    """No threshold and stricter ones, none resampled; the point is the share rejected."""
    similarity, own = study.judge_similarity(study.generated)
    stricter, pairs = study.params.runs.rejected_shares, study.pair(study.generated)
    for threshold in sorted({-1.0, own, *np.quantile(similarity, stricter).tolist()}):
        kept = hard_filter(similarity, threshold)
        some = pairs.take_generated(np.flatnonzero(kept))
        columns = {"point": 1 - kept.mean(), "threshold": threshold}
        yield from compare(study, some, ["added", "diffcoremix"], **columns)


def _filtered(study: Study, generated: Any, train: Split | None = None) -> PairedDataset:
    """Pair with what the filter lets through, none resampled."""
    kept = hard_filter(*study.judge_similarity(generated, train))
    return study.pair(generated, train).take_generated(np.flatnonzero(kept))


def _share_rejected(study: Study) -> float:
    return 1 - hard_filter(*study.judge_similarity(study.generated)).mean()


@dataclass(frozen=True)
class Axis:
    """How a sweep is planned, the study's own point, where its others stand, and what it needs."""

    plan: Callable[[Study], Iterator[Run]]
    own: Callable[[Study], Any]
    points: str  # of ``params.runs``
    needs: str = "sweeps"


AXES = {
    "ablation": Axis(_parts, lambda study: "full method", "sweeps", "pipeline"),
    "style of the real images": Axis(
        _styles, attrgetter("params.data.style"), "styles", "paperbirds"
    ),
    "share of wrong counterparts": Axis(_noise, lambda study: 0.0, "noise_shares"),
    "way of filtering": Axis(
        _arms, lambda study: study.params.filtering.rule, "filter_seeds", "truth"
    ),
    "share of planted errors": Axis(_planted, lambda study: 0.0, "planted_shares", "paperbirds"),
    "real images per class": Axis(_sizes, images_per_class, "images_per_class"),
    "generated per training image": Axis(
        _amounts, lambda study: len(study.accepted) / len(study.train), "generated_shares"
    ),
    "generated share of a batch": Axis(_batch_shares, _added_share, "batch_shares"),
    "share rejected": Axis(_thresholds, _share_rejected, "rejected_shares"),
}


def axes(study: Study) -> list[str]:
    """Name those of `AXES` that a study has points for, and what it takes to run them."""
    return [
        name for name, axis in AXES.items()
        if study.has("sweeps") and study.has(axis.needs) and getattr(study.params.runs, axis.points)
    ]  # fmt: skip


def plan_sweep(study: Study, axis: str) -> list[Run]:
    """Plan the sweep over one of `AXES`; raise ValueError for another name."""
    if axis not in AXES:
        raise ValueError(f"no axis {axis!r}; there are {', '.join(AXES)}")
    return list(AXES[axis].plan(study))


def own_point(study: Study, axis: str) -> Any:
    """Where the study's own setting lies on one of `AXES`."""
    return AXES[axis].own(study)
