"""Plan what is trained: the main table at every dose, and the sweeps, the ablation among them.

Every comparison changes one thing and keeps the rest. The test sets are read once a run, at its
end, and decide nothing; settings were chosen on training images (`diffcore.training.tuning`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from operator import attrgetter
from typing import Any

import numpy as np
import pandas as pd

from diffcore.data.pairs import PairedDataset
from diffcore.data.splits import Split, test_splits
from diffcore.filtering.rules import hard_filter
from diffcore.measure.image_quality import ablations, without_context
from diffcore.methods.pixel_share import MASS_ARMS, settings_of_mass
from diffcore.methods.registry import GENERATIVE, method_settings, study_methods
from diffcore.params import DoseParams, StudyParams, change_params
from diffcore.training.runs import Run

#: What is compared at a point of a sweep.
SIDE_METHODS = ("vanilla", "added", "diffcoremix", "mixed_added")

#: `diffcore.study.Study`, which stands above this room.
Study = Any


def compare(
    study: Study, pairs: PairedDataset, methods: Sequence[str] = SIDE_METHODS,
    seeds: int | None = None, changes: Mapping[str, Any] | None = None,
    tests: Mapping[str, Split] | None = None, keep_weights: bool = False, **columns: Any,
) -> list[Run]:  # fmt: skip
    """Plan a run of each method from each of so many seeds, on the same pairs.

    Methods and recipe come from the study's parameters with `changes` (by dotted keys).
    """
    params = change_params(study.params, changes or {})
    # Without the images that it never sees, a method is trained once for all generated sets.
    bare = pairs.without_generated()
    return [
        Run(method, method_settings(method, params), params.seed + seed,
            pairs if method in GENERATIVE else bare, tests or study.tests, params.training, columns,
            keep_weights)
        for method in methods
        for seed in range(seeds or params.runs.sweep_seeds)
    ]  # fmt: skip


def plan_main(
    study: Study, methods: Sequence[str] | None = None, seeds: int | None = None
) -> list[Run]:
    """Plan methods at the study's own dose, with their weights; by default all of the study."""
    return _at_dose(study, own_dose(study), methods, seeds, keep_weights=True)


def plan_doses(study: Study) -> list[Run]:
    """Plan the main table: every method in every world, at every number of generated images."""
    runs = study.params.runs
    return [
        run
        for number in range(runs.worlds)
        for dose in doses(study)
        for run in _at_dose(
            study.world(number), dose, seeds=runs.world_seeds if number else None, world=number,
            dose=dose.share, keep_weights=number == 0 and dose == own_dose(study),
        )
    ]  # fmt: skip


def own_dose(study: Study) -> DoseParams:
    """The study's own number of generated images, at its own settings."""
    return DoseParams(share=study.params.generation.generated_share)


def doses(study: Study) -> list[DoseParams]:
    """Every dose of the main table, the least first."""
    return sorted((*study.params.runs.doses, own_dose(study)), key=attrgetter("share"))


def _at_dose(
    study: Study, at: DoseParams, methods: Sequence[str] | None = None,
    seeds: int | None = None, **told: Any,
) -> list[Run]:  # fmt: skip
    """Plan methods on so many images for each real one, DiffuseMix on as many edits."""
    seeds, runs = seeds or study.params.runs.seeds, []
    for method in methods or study_methods(study.params):
        pairs = dosed_pairs(study, at, method)
        runs += compare(study, pairs, [method], seeds, at.changes, **told)
    return runs


def dosed_pairs(study: Study, dose: DoseParams, method: str) -> PairedDataset:
    """Pairs of a method at a dose: chosen by chance, those of a smaller dose among them."""
    if method == "diffusemix":
        params = change_params(study.params, dose.changes)
        plan, params = plan_all_edits(study)[params.mixing.edit_strength]
        chosen = _some_of(study, study.plan_edits(params), dose)
        return study.pair(study.edit(plan, params).take(plan.index.isin(chosen)))
    if method not in GENERATIVE or dose == own_dose(study):
        return study.pairs
    return study.pairs.take_generated(_some_of(study, study.pairs.generated, dose))


def plan_all_edits(study: Study) -> dict[float, tuple[pd.DataFrame, StudyParams]]:
    """Plan DiffuseMix's edits for all doses: strength -> plan, and the parameters of the edits.

    Each is planned as a whole, so that which edits are made together does not hang on a dose.
    """
    edits, own = {}, study.params
    for dose in doses(study):  # the fewer, which come first, are among the more
        params = change_params(own, dose.changes)
        plan = study.plan_edits(params)
        edits[params.mixing.edit_strength] = plan.iloc[_some_of(study, plan, dose)], params
    return edits | {own.mixing.edit_strength: (study.plan_edits(own), own)}


def _some_of(study: Study, images: Any, dose: DoseParams) -> np.ndarray:
    """Choose places for a dose by chance; the fewer are among the more."""
    count = round(dose.share * len(study.train))
    return np.sort(np.random.default_rng(study.params.seed).permutation(len(images))[:count])


def _parts(study: Study) -> Iterator[Run]:
    """DiffCoRe-Mix without one of its parts, all on as many samples of the plan, none resampled."""
    count, seed = study.params.measure.ablation_images, study.params.seed
    plans = ablations(study.plan, study.prompt_set, count, seed)
    whole = plans["context and negatives"]
    drawn = {
        "full method": study.draw(whole),
        "no context": study.draw(without_context(whole, study.prompt_set)),
        "no negatives": study.draw(plans["with context"]),
    }
    pairs = {part: _filtered(study, generated) for part, generated in drawn.items()}
    pairs["no filter"] = study.pair(drawn["full method"])
    levels = {"pixel only": {"mixing.patch_share": 0.0}, "patch only": {"mixing.patch_share": 1.0}}
    for part, images in (pairs | dict.fromkeys(levels, pairs["full method"])).items():
        yield from compare(study, images, ["diffcoremix"], changes=levels.get(part), part=part)


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


def _masses(study: Study) -> Iterator[Run]:
    """Added and mixed images at one share of generated pixels, and other α at one of them."""
    seeds, points = study.params.runs.sweep_seeds, study.params.runs.masses
    ways = [(arm, mass, 1.0) for arm in MASS_ARMS for mass in points]
    middle = points[len(points) // 2]
    others = [(arm, middle, alpha) for arm in ("pixel", "patch") for alpha in (0.2, 4.0)]
    for number in range(study.params.runs.worlds):
        world = study.world(number)
        for arm, mass, alpha in ways if number else ways + others:
            method, settings = settings_of_mass(arm, mass, alpha)
            told = {"world": number, "part": arm, "point": mass, "alpha": alpha}
            planned = compare(world, world.pairs, [method], 1 if number else seeds, **told)
            yield from (replace(run, settings=settings) for run in planned)


def _lengths(study: Study) -> Iterator[Run]:
    """Longer trainings, each with a schedule of its own."""
    for steps in sorted({*study.params.runs.lengths, study.params.training.steps or 0} - {0}):
        changes = {"training.steps": steps}
        yield from compare(study, study.pairs, changes=changes, point=steps)


def _sources(study: Study) -> Iterator[Run]:
    """Images of the generator, what it learned from in their place, and half of its contexts."""
    methods, contexts = SIDE_METHODS[1:], list(study.prompt_set.contexts)
    named = study.accepted.metadata["context"].isin(contexts[::2])
    pools = {
        "drawn": study.pairs,
        "retrieved": study.pair(study.retrieved),
        "retrieved, filtered": _filtered(study, study.retrieved),
        "drawn, half the contexts": study.pairs.take_generated(np.flatnonzero(named)),
    }
    for pool, pairs in pools.items():
        yield from compare(study, pairs, methods, part=pool)
    yield from compare(study, study.pairs, ["vanilla"], part="none")


def _conditions(study: Study) -> Iterator[Run]:
    """All biases with all styles and numbers of real images, the same generated ones dealt anew."""
    runs, data, splits = study.params.runs, study.params.data, test_splits(study.params)
    sizes = sorted({*runs.images_per_class, data.train_images_per_class})
    biases, styles = sorted({*runs.biases, data.bias}), sorted({*runs.styles, data.style})
    for style, bias, size in product(styles, biases, sizes):
        changed = {"style": style, "bias": bias}
        train = study.load_split("train", train_images_per_class=size, **changed)
        names = f"{style}/{bias}/{size}/" + train.metadata["source_id"]  # no generated image's
        train = replace(train, metadata=train.metadata.assign(source_id=names))
        tests = {name: study.load_split(split, **changed) for name, split in splits.items()}
        owners = train.metadata["source_id"].to_numpy()[study.pair(study.generated, train).source]
        dealt = study.generated.metadata.assign(source_id=owners)
        pairs = _filtered(study, replace(study.generated, metadata=dealt), train)
        yield from compare(study, pairs, tests=tests, point=size, **changed)


def _filtered(study: Study, generated: Any, train: Split | None = None) -> PairedDataset:
    """Pair with what the filter lets through, none resampled."""
    kept = hard_filter(*study.judge_similarity(generated, train))
    return study.pair(generated, train).take_generated(np.flatnonzero(kept))


@dataclass(frozen=True)
class Axis:
    """How a sweep is planned, the study's own point, where its others stand, and what it needs."""

    plan: Callable[[Study], Iterator[Run]]
    own: Callable[[Study], Any]
    points: str  # of ``params.runs``
    needs: str = "sweeps"


AXES = {
    "ablation": Axis(_parts, lambda study: "full method", "sweeps", "pipeline"),
    "generated pixels": Axis(_masses, lambda study: None, "masses"),
    "steps": Axis(_lengths, attrgetter("params.training.steps"), "lengths"),
    "source of the images": Axis(_sources, lambda study: "drawn", "sources", "paperbirds"),
    "conditions": Axis(_conditions, lambda study: None, "biases", "paperbirds"),
    "share of wrong counterparts": Axis(_noise, lambda study: 0.0, "noise_shares"),
    "way of filtering": Axis(
        _arms, lambda study: study.params.filtering.rule, "filter_seeds", "truth"
    ),
    "share of planted errors": Axis(_planted, lambda study: 0.0, "planted_shares", "paperbirds"),
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
