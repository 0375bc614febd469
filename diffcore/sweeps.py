"""Plan what is trained: the main table, and the sweeps, the ablation among them.

Every comparison changes one thing and keeps the rest. The test sets are read once per run, at its
end, and decide nothing; settings were chosen on training images (`diffcore.methods.tuning`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from operator import attrgetter
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from diffcore.data.datasets import find_dataset, load_split
from diffcore.data.generated import GeneratedSet
from diffcore.data.pairs import PairedDataset
from diffcore.data.splits import Split
from diffcore.filtering.image_filter import ImageFilter
from diffcore.filtering.rules import hard_filter
from diffcore.generation.restyle import plan_restyled
from diffcore.measure import filter as measured
from diffcore.measure.image_quality import ablations, without_context
from diffcore.methods import METHODS, Method, method_of, study_methods
from diffcore.methods.pixel_share import PIXEL_CONDITIONS, at_pixel_share
from diffcore.params import ShareParams, StudyParams, change_params
from diffcore.prompts.prompt_set import PromptSet
from diffcore.training.runs import Run

#: What is compared at a point of a sweep.
SIDE_METHODS = ("vanilla", "added", "diffcoremix", "mixed_added")


class Sweepable(Protocol):
    """What planning asks of a study."""

    params: StudyParams
    run_dir: Path
    image_filter: ImageFilter
    train: Split
    tests: Mapping[str, Split]
    prompt_set: PromptSet
    plan: pd.DataFrame
    generated: GeneratedSet
    accepted: GeneratedSet
    pairs: PairedDataset
    has: Callable[[str], bool]
    draw: Callable[..., GeneratedSet]
    restyle: Callable[..., GeneratedSet]
    judge: Callable[[GeneratedSet], pd.DataFrame]
    pair: Callable[..., PairedDataset]
    replicate: Callable[[int], "Sweepable"]


# ---------------------------------------------------------------------------------- the main table
def compare(
    study: Sweepable,
    pairs: PairedDataset,
    methods: Sequence[str | Method] = SIDE_METHODS,
    seeds: int | None = None,
    changes: Mapping[str, Any] | None = None,
    tests: Mapping[str, Split] | None = None,
    keep_weights: bool = False,
    **columns: Any,
) -> list[Run]:
    """Plan a run of each method from each of so many seeds, on the same pairs.

    Methods that are named, and the recipe, come from the study's parameters with `changes` (by
    dotted keys).
    """
    params = change_params(study.params, changes or {})
    # Without the images that it never sees, a method is trained once for all generated sets.
    bare = pairs.without_generated()
    runs = []
    for method in methods:
        method = method_of(method, params) if isinstance(method, str) else method
        runs += [
            Run(
                method=method,
                seed=params.seed + seed,
                pairs=bare if method.sees == "real" else pairs,
                tests=tests or study.tests,
                training=params.training,
                columns=columns,
                keep_weights=keep_weights,
            )
            for seed in range(seeds or params.runs.sweep_seeds)
        ]
    return runs


def plan_methods(
    study: Sweepable, methods: Sequence[str] | None = None, seeds: int | None = None
) -> list[Run]:
    """Plan methods on the study's images, with their weights; by default all of the study."""
    return _at_share(study, study_share(study), methods, seeds, keep_weights=True)


def plan_main(study: Sweepable) -> list[Run]:
    """Plan the main table: every method in every replicate, at every number of images."""
    runs, most = [], study_share(study)
    for number, at in product(range(study.params.runs.replicates), shares(study)):
        columns = {"replicate": number, "dose": at.share}
        kept, seeds = number == 0 and at == most, 1 if number else None
        replicate = study.replicate(number)
        runs += _at_share(replicate, at, seeds=seeds, keep_weights=kept, **columns)
    return runs


def study_share(study: Sweepable) -> ShareParams:
    """Return the study's number of generated images per real one, at its settings."""
    return ShareParams(share=study.params.generation.generated_share)


def shares(study: Sweepable) -> list[ShareParams]:
    """Return every number of generated images of the main table, the least first."""
    return sorted((*study.params.runs.shares, study_share(study)), key=attrgetter("share"))


def _at_share(
    study: Sweepable,
    at: ShareParams,
    methods: Sequence[str] | None = None,
    seeds: int | None = None,
    **columns: Any,
) -> list[Run]:
    """Plan methods on so many images per real one, DiffuseMix on as many restyled ones."""
    seeds, runs = seeds or study.params.runs.seeds, []
    for method in methods or study_methods(study.params):
        pairs = pairs_at(study, at, method)
        runs += compare(study, pairs, [method], seeds, at.changes, **columns)
    return runs


def pairs_at(study: Sweepable, at: ShareParams, method: str) -> PairedDataset:
    """Return the pairs of a method at a number of images: the fewer are among the more."""
    sees = METHODS[method].sees
    if sees == "restyled":
        params = change_params(study.params, at.changes)
        plan, params = plan_all_restyled(study)[params.mixing.edit_strength]
        chosen = _choose(study, plan_restyled(study.train.metadata, params), at)
        return study.pair(study.restyle(plan, params).take(plan.index.isin(chosen)))
    if sees == "real" or at == study_share(study):
        return study.pairs
    return study.pairs.take_generated(_choose(study, study.pairs.generated, at))


def plan_all_restyled(study: Sweepable) -> dict[float, tuple[pd.DataFrame, StudyParams]]:
    """Plan all restyled images: strength -> plan, and the parameters they are made with.

    Each is planned as a whole, so that which images are made together depends on no share.
    """
    plans = {}
    for at in shares(study):  # the fewer, which come first, are among the more
        params = change_params(study.params, at.changes)
        plan = plan_restyled(study.train.metadata, params)
        plans[params.mixing.edit_strength] = plan.iloc[_choose(study, plan, at)], params
    whole = plan_restyled(study.train.metadata, study.params)
    return plans | {study.params.mixing.edit_strength: (whole, study.params)}


def _choose(study: Sweepable, images: Any, at: ShareParams) -> np.ndarray:
    """Choose places of images by chance."""
    count = round(at.share * len(study.train))
    return np.sort(np.random.default_rng(study.params.seed).permutation(len(images))[:count])


# -------------------------------------------------------------------------------------- the sweeps
def _parts(study: Sweepable) -> Iterator[Run]:
    """DiffCoRe-Mix without one of its parts, all on as many samples of the plan, none resampled."""
    count, seed = study.params.runs.ablation_images, study.params.seed
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


def _noise(study: Sweepable) -> Iterator[Run]:
    """Counterparts of which a share shows another class."""
    for share in sorted({0.0, *study.params.runs.noise_shares}):
        noisy = inject_noise(study.accepted, share, study.params.seed)
        yield from compare(study, study.pair(noisy), point=share)


def inject_noise(generated: GeneratedSet, share: float, seed: int) -> GeneratedSet:
    """Put images of other classes in the place of a share of the images, chosen by chance."""
    rng, names = np.random.default_rng(seed), generated.metadata["class_name"].to_numpy()
    places = np.arange(len(names))
    for place in rng.permutation(len(names))[: round(share * len(names))]:
        places[place] = rng.choice(np.flatnonzero(names != names[place]))
    shown = generated.take(places)
    labels = {name: generated.metadata[name].to_numpy() for name in ("source_id", "class_name")}
    return replace(shown, metadata=shown.metadata.assign(**labels))


def _filters(study: Sweepable) -> Iterator[Run]:
    """DiffCoRe-Mix on what each way of filtering keeps of the same images, none drawn again."""
    runs, (kept, wrong) = study.params.runs, filter_conditions(study, study.generated)
    pairs, wanted = study.pair(study.generated), runs.filter_conditions or tuple(kept)
    for name in (name for name in kept if name in wanted):
        some = pairs.take_generated(np.flatnonzero(kept[name]))
        shares = {"kept": kept[name].mean(), "wrong": wrong[kept[name]].mean()}
        yield from compare(study, some, ["diffcoremix"], runs.filter_seeds, part=name, **shares)


def filter_conditions(
    study: Sweepable, generated: GeneratedSet
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return what each way of filtering keeps of M images, (M,) bool each, and which are wrong."""
    settings, image_filter = study.params.filtering, study.image_filter
    wrong, real = study.judge(generated)["wrong"].to_numpy(), image_filter.reference
    texts = measured.class_texts(image_filter.encoder, study.prompt_set, study.train.classes)
    scores = measured.similarities(image_filter.embed(generated), real, texts)
    limits = measured.thresholds(real, texts, settings.quantile)
    limits[settings.rule] = image_filter.threshold
    seed = study.params.seed
    return measured.conditions(scores, limits, settings.rule, wrong, seed), wrong


def _pixel_shares(study: Sweepable) -> Iterator[Run]:
    """Added and mixed images at one share of generated pixels, and other α at one of them."""
    seeds, points = study.params.runs.sweep_seeds, study.params.runs.pixel_shares
    compared = [(name, share, 1.0) for name in PIXEL_CONDITIONS for share in points]
    middle = points[len(points) // 2]
    others = [(name, middle, alpha) for name in ("pixel", "patch") for alpha in (0.2, 4.0)]
    for number in range(study.params.runs.replicates):
        replicate, count = study.replicate(number), 1 if number else seeds
        for name, share, alpha in compared if number else compared + others:
            method = at_pixel_share(name, share, alpha)
            columns = {"replicate": number, "part": name, "point": share, "alpha": alpha}
            yield from compare(replicate, replicate.pairs, [method], count, **columns)


def _steps(study: Sweepable) -> Iterator[Run]:
    """Longer trainings, each with its own schedule."""
    for steps in sorted({*study.params.runs.steps, study.params.training.steps or 0} - {0}):
        changes = {"training.steps": steps}
        yield from compare(study, study.pairs, changes=changes, point=steps)


def _sources(study: Sweepable) -> Iterator[Run]:
    """Generated images, what the generator learned from in their place, and half the contexts."""
    methods, contexts = SIDE_METHODS[1:], list(study.prompt_set.contexts)
    named = study.accepted.metadata["context"].isin(contexts[::2])
    dataset = find_dataset(study.params.data.dataset)
    images = dataset.retrieve(study.accepted.metadata, study.params.seed)
    retrieved = replace(study.accepted, images=images)
    pools = {
        "drawn": study.pairs,
        "retrieved": study.pair(retrieved),
        "retrieved, filtered": _filtered(study, retrieved),
        "drawn, half the contexts": study.pairs.take_generated(np.flatnonzero(named)),
    }
    for pool, pairs in pools.items():
        yield from compare(study, pairs, methods, part=pool)
    yield from compare(study, study.pairs, ["vanilla"], part="none")


def _conditions(study: Sweepable) -> Iterator[Run]:
    """Every combination of some parameters of the data; the same generated images dealt anew."""
    tests = find_dataset(study.params.data.dataset).tests
    *names, last = study.params.runs.conditions
    for values in product(*study.params.runs.conditions.values()):
        condition = dict(zip([*names, last], values, strict=True))
        shown = {name: condition[name] for name in names}
        changed = {name: load_split(study.params, test, **shown) for name, test in tests.items()}
        train = load_split(study.params, "train", **condition)
        prefix = "/".join(map(str, values)) + "/"  # else an image could be taken for a source
        ids = prefix + train.metadata["source_id"]
        train = replace(train, metadata=train.metadata.assign(source_id=ids))
        owners = ids.to_numpy()[study.pair(study.generated, train).source]
        dealt = study.generated.metadata.assign(source_id=owners)
        pairs = _filtered(study, replace(study.generated, metadata=dealt), train)
        yield from compare(study, pairs, tests=changed, point=condition[last], **shown)


def _filtered(
    study: Sweepable, generated: GeneratedSet, train: Split | None = None
) -> PairedDataset:
    """Pair with what the filter lets through, none resampled."""
    kept = hard_filter(*study.image_filter.similarity(generated, train))
    return study.pair(generated, train).take_generated(np.flatnonzero(kept))


@dataclass(frozen=True)
class Axis:
    """How a sweep is planned, which of ``params.runs`` turns it on, and what else it needs."""

    plan: Callable[[Sweepable], Iterator[Run]]
    points: str
    needs: str = "sweeps"


AXES = {
    "ablation": Axis(_parts, "ablation_images", "pipeline"),
    "generated pixels": Axis(_pixel_shares, "pixel_shares"),
    "steps": Axis(_steps, "steps"),
    "source of the images": Axis(_sources, "sweep_seeds", "renders"),
    "conditions": Axis(_conditions, "conditions", "renders"),
    "share of wrong counterparts": Axis(_noise, "noise_shares"),
    "way of filtering": Axis(_filters, "filter_seeds", "truth"),
}


def axes(study: Sweepable) -> list[str]:
    """Return those of `AXES` that a study has points for, and what it takes to run them."""
    return [
        name
        for name, axis in AXES.items()
        if study.has("sweeps") and study.has(axis.needs) and getattr(study.params.runs, axis.points)
    ]


def plan_sweep(study: Sweepable, axis: str) -> list[Run]:
    """Plan the sweep over one of `AXES`; raise ValueError for another name."""
    if axis not in AXES:
        raise ValueError(f"no axis {axis!r}; there are {', '.join(AXES)}")
    return list(AXES[axis].plan(study))
