"""What the third notebook mixes and measures, between tables and tensors of the other modules.

Any set's images can be mixed and looked at. What is measured only a known world allows: how much of
a mixed image is an object of the class that its label names, and whether an oracle still sees that
class. Both exist for Paperbirds alone.
"""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import DiffusionPipeline
from torch import Generator, Tensor
from torch.nn.functional import one_hot

from diffcore import filtering
from diffcore.baselines import BASELINES, make_baseline
from diffcore.data import ImageSet, View, as_batch, as_pixels, fetch, spread
from diffcore.diffusemix import DiffuseMix, draw_fractals, edit_images
from diffcore.experiments import (
    at_data_size,
    draw,
    draw_study,
    study_book,
    study_plan,
    training_set,
)
from diffcore.filtering import read_decisions
from diffcore.generation import decode_images
from diffcore.metrics import rate
from diffcore.mixing import DiffCoReMix, Mixed, kept_share, patch_mix, pixel_mix
from diffcore.paperbirds import CONTEXTS, SPECIES, Oracle, render
from diffcore.params import FilteringParams, MixingParams, StudyParams
from diffcore.pictures import LazyImages
from diffcore.prompts import PLAN_COLUMNS, load_prompt_book, plan_generation
from diffcore.saliencymix import SaliencyMix

_BATCH = 32
_LOST = 0.5  # of the object in the real image
_MOST_PAIRS = 512  # kept as tensors; all that a notebook shows or times comes from these


# --------------------------------------------------------------------------------- images and pairs
@dataclass(frozen=True)
class Pairs:
    """Training images, each with its first generated counterpart.

    Attributes:
        train: the whole training set.
        sources: its facts, with ``source_id``.
        table: N rows: ``real`` (place in the training set) and what is known of the counterpart.
        real: (N, 3, H, W) in [0, 1].
        generated: like `real`.
        drawn: the generated images at the size that they were drawn at, read when asked for.
        labels: (N,).
        masks: of the objects in the real images, (N, H, W) bool, or None if they are not known.
        filtered: whether the counterparts are those that the filter accepted.
        count: training images that have a counterpart, of which N may be a part.
    """

    train: ImageSet
    sources: pd.DataFrame
    table: pd.DataFrame
    real: Tensor
    generated: Tensor
    drawn: LazyImages
    labels: Tensor
    masks: np.ndarray | None
    filtered: bool
    count: int

    def head(self, count: int) -> "Pairs":
        """Return at most `count` pairs, spread evenly over all of them."""
        chosen = spread(len(self.table), count)
        parts = {name: getattr(self, name)[chosen] for name in ("real", "generated", "labels")}
        table = self.table.iloc[chosen].reset_index(drop=True)
        masks = None if self.masks is None else self.masks[chosen]
        return replace(self, table=table, masks=masks, drawn=View(self.drawn, chosen), **parts)


def load_pairs(params: StudyParams, pipeline: DiffusionPipeline | None, run_dir: Path) -> Pairs:
    """Pair training images with what the second notebook accepted.

    If there are no decisions, or they were made for another plan, with all of the first notebook's
    images. What is already drawn is only read. Of a large set, pairs are taken evenly.
    """
    train, sources = training_set(params)
    plan, filtered = accepted_plan(study_plan(params, sources), run_dir / "filtering")
    facts, images = draw_study(params, plan, pipeline, run_dir)
    facts = facts.assign(drawn=np.arange(len(facts)))
    table = first_counterparts(sources["source_id"], facts)
    count, table = len(table), table.iloc[spread(len(table), _MOST_PAIRS)].reset_index(drop=True)
    real, drawn = fetch(train, table["real"]), View(images, table["drawn"])
    return Pairs(
        train,
        sources,
        table,
        as_batch(real.pixels),
        as_batch(at_data_size(drawn, train)[:]),
        drawn,
        torch.from_numpy(real.labels),
        real.masks,
        filtered,
        count,
    )


def accepted_plan(plan: pd.DataFrame, folder: Path) -> tuple[pd.DataFrame, bool]:
    """Replace a plan by what a filter accepted of it and drew again, if it has decided.

    Args:
        plan: of the first notebook.
        folder: of the decisions.

    Returns:
        The plan of the accepted images, and True; or, if there are no decisions or they are about
        another plan, the plan as it is, and False.
    """
    try:
        decisions = read_decisions(folder)
    except FileNotFoundError:
        return plan, False
    columns = list(PLAN_COLUMNS)
    if len(decisions[columns].merge(plan, on=columns)) < len(plan):
        return plan, False
    return decisions.loc[decisions["accepted"], columns].reset_index(drop=True), True


def first_counterparts(source_ids: Sequence[str], generated: pd.DataFrame) -> pd.DataFrame:
    """Keep one generated image for each training image that has any, in the order of these.

    Returns:
        What the table says of it, after ``real``, the place in `source_ids`.
    """
    place = {source: number for number, source in enumerate(source_ids)}
    rows = generated.drop_duplicates("source_id").copy()
    rows.insert(0, "real", rows["source_id"].map(place))
    return rows.sort_values("real", ignore_index=True)


# ------------------------------------------------------------------------------------ one at a time
def follow(
    pairs: Pairs,
    place: int,
    params: StudyParams,
    pipeline: DiffusionPipeline,
    run_dir: Path,
    lams: Sequence[float],
) -> tuple[list[list[np.ndarray | None]], list[list[str]]]:
    """Follow one training image through every stage of the method.

    Args:
        pairs: for the training set, on which the filter rests.
        place: of the image in the training set.
        params: of the study.
        pipeline: draws a counterpart for each λ, in a folder of its own.
        run_dir: where embeddings and images are kept.
        lams: share of the real image in each mixed one.

    Returns:
        Rows of images and of their captions: the training image; its counterparts with their
        similarity; each that passes mixed at pixel level; and at patch level. None for one that
        does not pass.
    """
    source = pairs.sources.iloc[[place]]
    plan = plan_generation(source, study_book(params), generated_share=len(lams), seed=params.seed)
    drawn = draw(plan, pipeline, params.generation, run_dir / "stages", progress=False)
    similarity, passed = _judge(pairs, drawn, params.filtering, run_dir)
    image, others = pairs.train[place]["image"], decode_images(drawn)
    whole, lam = as_batch([image] * len(lams)), torch.tensor(lams)
    fitting = as_batch(at_data_size(others, pairs.train)[:])
    pixel = pixel_mix(whole, fitting, lam)
    generator = torch.Generator().manual_seed(params.seed)
    pasted, mask = patch_mix(whole, fitting, lam, generator)
    images = [_only(passed, list(as_pixels(mixed))) for mixed in (pixel, pasted)]
    shares = [[f"λ = {value:.2f}" for value in each] for each in (lam, kept_share(mask))]
    captions = [_only(passed, each, "") for each in shares]
    return (
        [[image], list(others), *images],
        [list(source["class_name"]), _verdicts(plan["context"], similarity, passed), *captions],
    )


def _verdicts(contexts: Sequence[str], similarity: np.ndarray, passed: np.ndarray) -> list[str]:
    """Caption each counterpart: its context, its similarity and what became of it."""
    return [
        f"{textwrap.fill(context, 15)}\n{value:.2f} {'passes' if ok else 'rejected'}"
        for context, value, ok in zip(contexts, similarity, passed, strict=True)
    ]


def _judge(
    pairs: Pairs, drawn: pd.DataFrame, settings: FilteringParams, run_dir: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Filter images as the second notebook does: similarity (N,) and whether it passes (N,)."""
    encoder = filtering.load_encoder(settings.encoder, run_dir / "filtering" / "embeddings")
    chosen = np.arange(len(pairs.sources))
    if settings.threshold is not None:  # else all real images have a say in it
        chosen = np.flatnonzero(pairs.sources["class_name"].isin(drawn["class_name"]))
    shown = View(pairs.train.images, chosen)
    reference = filtering.embed(pairs.sources.iloc[chosen], shown, encoder)
    embedded = filtering.embed(drawn, decode_images(drawn), encoder)
    similarity = filtering.cosine_to_reference(embedded, reference, settings.rule)
    threshold = filtering.study_threshold(settings, reference)
    return similarity, filtering.hard_filter(similarity, threshold)


def _only(passed: np.ndarray, items: list, otherwise: str | None = None) -> list:
    return [item if ok else otherwise for item, ok in zip(items, passed, strict=True)]


def style_plan(sources: pd.DataFrame, params: StudyParams) -> pd.DataFrame:
    """Plan DiffuseMix's edits of training images: a style in the place of the context."""
    prompts, mixing = params.prompts, params.mixing
    book = load_prompt_book(prompts.domain, template=prompts.template, contexts=mixing.edit_prompts)
    return plan_generation(
        sources, book, generated_share=mixing.edits_per_image, seed=params.seed, use_negatives=False
    )


def edit_sources(
    train: ImageSet,
    sources: pd.DataFrame,
    params: StudyParams,
    pipeline: DiffusionPipeline,
    folder: Path,
) -> pd.DataFrame:
    """Edit training images by styles, for DiffuseMix; what is drawn is not drawn again.

    Returns:
        The plan with ``image``, and ``real``, the place in the training set.
    """
    plan, settings = style_plan(sources, params), params.generation
    place = {source: number for number, source in enumerate(train.facts["id"])}
    real = plan["source_id"].map(place)
    edits = edit_images(
        plan,
        View(train.images, real, (settings.height, settings.width)),
        pipeline,
        folder,
        strength=params.mixing.edit_strength,
        guidance_scale=settings.guidance_scale,
        num_inference_steps=settings.num_inference_steps,
        batch_size=settings.batch_size,
        shard_size=settings.shard_size,
    )
    return edits.assign(real=real.to_numpy())


def fitted(edits: pd.DataFrame, pairs: Pairs) -> Tensor:
    """Bring edits (the table of `edit_sources`) to the size of the real images: (N, 3, H, W)."""
    return as_batch(at_data_size(decode_images(edits), pairs.train)[:])


def contrast(
    pairs: Pairs, edited: Tensor | None, mixing: MixingParams, seed: int
) -> dict[str, Tensor]:
    """Lay the stages of DiffuseMix beside DiffCoRe-Mix on the same images, at λ = 1/2.

    Args:
        pairs: N of them.
        edited: the real images after their edit, (N, 3, H, W); None leaves DiffuseMix out.
        mixing: settings.
        seed: of halves, fractals and patches.

    Returns:
        Name of the stage -> (N, 3, H, W).
    """
    diffuse = {} if edited is None else _diffusemix_stages(pairs, edited, mixing, seed)
    return {
        "training image": pairs.real,
        **diffuse,
        "generated": pairs.generated,
        "DiffCoRe-Mix, pixel": pixel_mix(pairs.real, pairs.generated, 0.5),
        "DiffCoRe-Mix, patch": paster(seed)(pairs.real, pairs.generated, 0.5),
    }


def _diffusemix_stages(
    pairs: Pairs, edited: Tensor, mixing: MixingParams, seed: int
) -> dict[str, Tensor]:
    size = pairs.real.shape[-1]
    joined, diffused = (
        DiffuseMix(draw_fractals(mixing.fractals, size, seed), mixing.seam, share)(
            pairs.real, edited, torch.Generator().manual_seed(seed)
        ).images
        for share in (0.0, mixing.fractal_share)
    )
    return {"edited by a style": edited, "half and half": joined, "DiffuseMix": diffused}


def baseline_images(pairs: Pairs, alpha: float, seed: int) -> dict[str, Tensor]:
    """Put real images through every baseline that changes them: name -> (N, 3, H, W)."""
    return {
        name: make_baseline(name, len(pairs.train.classes), alpha)(
            pairs.real, pairs.labels, torch.Generator().manual_seed(seed)
        )[0]
        for name in BASELINES
        if name != "vanilla"
    }


def gallery(
    mix: Callable[[Tensor, Tensor, Tensor], Tensor],
    real: Tensor,
    generated: Tensor,
    lams: Sequence[float],
) -> list[np.ndarray]:
    """Mix each pair (N, 3, H, W) at every λ: N arrays (len(lams), H, W, 3) uint8."""
    lam, count = torch.tensor(lams), len(lams)
    return [
        as_pixels(mix(image.expand(count, -1, -1, -1), other.expand(count, -1, -1, -1), lam))
        for image, other in zip(real, generated, strict=True)
    ]


def draw_lams(
    alphas: Sequence[float], count: int, height: int, width: int, seed: int
) -> pd.DataFrame:
    """Draw λ for several α, and what is left of it once a patch is cut off at the border.

    Returns:
        Tidy table: alpha, level ("pixel" or "patch"), lam.
    """
    tables = []
    for alpha in alphas:
        for level, patch_share in (("pixel", 0.0), ("patch", 1.0)):
            generator = torch.Generator().manual_seed(seed)
            mix = DiffCoReMix(alpha, patch_share)
            lam = mix.draw_weight(count, height, width, generator).mean(dim=(1, 2, 3))
            tables.append(pd.DataFrame({"alpha": alpha, "level": level, "lam": lam.numpy()}))
    return pd.concat(tables, ignore_index=True)


# --------------------------------------------------------------------------- how much is an object
#: (maps of the real images' objects, maps of the other source's, images, labels, generator) ->
#: maps of the objects in the mixed images, and targets.
_Pushed = Callable[[Tensor, Tensor, Tensor, Tensor, Generator], tuple[Tensor, Tensor]]


def stand_in_masks(rows: pd.DataFrame) -> np.ndarray:
    """Object masks (N, 64, 64) bool that stand in for those of generated images, which none knows.

    Of fresh renders of the same species, in the style that the generator learned from: what it
    draws has a bird of that size and place, if not the very same one.
    """
    # Any context does: in that style nothing stands in front of the bird.
    described = zip(rows["class_name"], rows["seed"], strict=True)
    return np.stack(
        [render(name, CONTEXTS[0], int(seed), style=0.0).mask for name, seed in described]
    )


def object_shares(pairs: Pairs, mixing: MixingParams, *, repeats: int, seed: int) -> pd.DataFrame:
    """How much of each mixed image is object, of its own class and of others, for each method.

    Mixing is linear, so a method that mixes images mixes maps of their objects just so: one channel
    a class, 1 where an object of it is. The mean of a channel is the share of that class. An edit
    has the map of its image, whose layout it keeps; a generated image that of its stand-in.

    Args:
        pairs: N of them.
        mixing: settings.
        repeats: how often each image is mixed, each time in a batch of its own.
        seed: of all draws.

    Returns:
        One row a mixed image: method, own, other (shares of the image), before (share of the real
        image), target (what the label says of the own class).
    """
    images, labels = pairs.real, pairs.labels
    own = _object_maps(pairs.masks, labels)
    counterpart = _object_maps(stand_in_masks(pairs.table), labels)
    generator = torch.Generator().manual_seed(seed)
    tables = []
    for method, push in _methods(mixing).items():
        for _ in range(repeats):
            for rows in torch.randperm(len(labels), generator=generator).split(_BATCH):
                chosen = own[rows], counterpart[rows], images[rows], labels[rows]
                maps, targets = push(*chosen, generator)
                tables.append(_shares(method, maps, own[rows], labels[rows], targets))
    return pd.concat(tables, ignore_index=True)


def _object_maps(masks: np.ndarray, labels: Tensor) -> Tensor:
    """Give every class a channel: (N, K, H, W), 1 where an object of it is."""
    classes = one_hot(labels, len(SPECIES)).float()[:, :, None, None]
    return classes * torch.from_numpy(masks).float()[:, None]


def _methods(mixing: MixingParams) -> dict[str, _Pushed]:
    """The methods that mix, as functions that push maps of objects through."""
    size = (1, len(SPECIES), 1, 1)  # a fractal holds no object
    diffuse = DiffuseMix(torch.zeros(size), mixing.seam, mixing.fractal_share)
    saliency = SaliencyMix(len(SPECIES), mixing.alpha)

    def salient(own: Tensor, _: Tensor, images: Tensor, labels: Tensor, g: Generator) -> tuple:
        mask = saliency.draw_mask(images, g)
        kept, target = kept_share(mask)[:, None], one_hot(labels, len(SPECIES)).float()
        return own.lerp(own.roll(1, 0), mask), target.roll(1, 0).lerp(target, kept)

    return {
        "DiffCoRe-Mix, pixel": _with_counterparts(DiffCoReMix(mixing.alpha, 0.0)),
        "DiffCoRe-Mix, patch": _with_counterparts(DiffCoReMix(mixing.alpha, 1.0)),
        "DiffuseMix": lambda own, _, images, labels, g: _kept_label(diffuse(own, own, g), labels),
        "MixUp": _with_others("mixup", mixing),
        "CutMix": _with_others("cutmix", mixing),
        "SaliencyMix": salient,
    }


def _with_counterparts(mix: DiffCoReMix) -> _Pushed:
    return lambda own, counterpart, images, labels, g: _kept_label(mix(own, counterpart, g), labels)


def _kept_label(mixed: Mixed, labels: Tensor) -> tuple[Tensor, Tensor]:
    return mixed.images, one_hot(labels, len(SPECIES)).float()


def _with_others(name: str, mixing: MixingParams) -> _Pushed:
    mix = make_baseline(name, len(SPECIES), mixing.alpha)
    return lambda own, counterpart, images, labels, g: mix(own, labels, g)


def _shares(
    method: str, maps: Tensor, before: Tensor, labels: Tensor, targets: Tensor
) -> pd.DataFrame:
    """Reduce maps (B, K, H, W) and targets (B, K) to a row an image."""
    shares, place = maps.mean(dim=(2, 3)), labels[:, None]
    own = shares.gather(1, place).squeeze(1)
    return pd.DataFrame({
        "method": method, "own": own.numpy(), "other": (shares.sum(1) - own).clamp(min=0).numpy(),
        "before": before.mean(dim=(2, 3)).sum(1).numpy(),
        "target": targets.gather(1, place).squeeze(1).numpy(),
    })  # fmt: skip


def summarise_shares(shares: pd.DataFrame) -> pd.DataFrame:
    """Sum up the table of `object_shares`, a row a method.

    Returns:
        method; own and other, mean shares; lost, the share of images with less than half of the
        object that the real image had; label_error, by how much the label's weight of the own class
        misses that class's part of the object, on average over images that show any.
    """
    rows = []
    for method, table in shares.groupby("method", sort=False):
        visible = table["own"] + table["other"]
        lost = (visible < _LOST * table["before"]).mean()
        error = (table["target"] - table["own"] / visible)[visible > 0].abs().mean()
        means = table[["own", "other"]].mean()
        rows.append({"method": method, **means, "lost": lost, "label_error": error})
    return pd.DataFrame(rows)


# -------------------------------------------------------------------------- is the class still seen
def label_curves(
    pairs: Pairs,
    oracle: Oracle,
    lams: Sequence[float],
    *,
    confidence: float,
    seed: int,
) -> pd.DataFrame:
    """In how many mixed images the oracle names the real image's class, as λ falls.

    Each of N training images is mixed with its counterpart, and with a training image of another
    class, at pixel and at patch level.

    Returns:
        Tidy table: partner, level, lam, rate, low, high, n.
    """
    partners = {
        "generated, same class": pairs.generated,
        "real, another class": pairs.real[_other_class(pairs.labels, seed)],
    }
    levels = {"pixel": pixel_mix, "patch": paster(seed)}
    names = np.array(SPECIES)[pairs.labels.numpy()]
    rows = []
    for partner, others in partners.items():
        for level, mix in levels.items():
            for lam in lams:
                seen = oracle.read(as_pixels(mix(pairs.real, others, lam))).species
                found = rate(seen == names, confidence)
                rows.append({"partner": partner, "level": level, "lam": lam, **found})
    return pd.DataFrame(rows)


def paster(seed: int) -> Callable[[Tensor, Tensor, float | Tensor], Tensor]:
    """Mix at patch level with the same centres at every λ; returns the images alone."""
    return lambda real, other, lam: patch_mix(
        real, other, lam, torch.Generator().manual_seed(seed)
    )[0]


def _other_class(labels: Tensor, seed: int) -> Tensor:
    """Choose an image of another class for each, at random: places (N,)."""
    generator = torch.Generator().manual_seed(seed)
    chances = torch.rand(len(labels), len(labels), generator=generator)
    return chances.masked_fill(labels[:, None] == labels[None], -1).argmax(1)
