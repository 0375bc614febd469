"""What only this world can measure: the truth about images, masks of objects, other renders.

The oracle judges generated images; renders of the same scenes show what is due to chance; the
generator's own training images can be retrieved. Nothing here filters, trains or chooses a setting.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Generator, Tensor
from torch.nn.functional import one_hot

from diffcore import stats
from diffcore.data.images import as_batch, as_pixels
from diffcore.data.splits import Split
from diffcore.measure.balance import closer_shares
from diffcore.measure.mixing import same_patches
from diffcore.measure.near_copies import Vectors, as_vectors, nearest
from diffcore.methods.baselines import MIXES, make_mix
from diffcore.methods.diffusemix import DiffuseMix
from diffcore.mixing.mix import DiffCoReMix, Mixed, pixel_mix
from diffcore.params import MixingParams
from diffcore.prompts.prompt_set import PromptSet, negatives_for
from paperbirds.birds import SPECIES
from paperbirds.contexts import CONTEXTS, DISTRACTORS, draw_clutter
from paperbirds.oracle import Oracle, Reading
from paperbirds.pretrain.stages import PLAN
from paperbirds.render import render
from paperbirds.web import expected_errors, is_seen
from paperbirds.weights import load_oracle

#: What can be wrong with an image; of several, the first counts.
FAULTS = ("no bird", "another species", "malformed")


def judge(metadata: pd.DataFrame, seen: Reading, prompt_set: PromptSet) -> pd.DataFrame:
    """Compare what an oracle sees in N images with what their prompts asked for.

    Of distractors only those that the prompt set steers away from in a context count as uninvited:
    a tree is no clutter in a forest.

    Returns a row an image: ``sample_id``, ``class_name`` and ``context`` of the metadata,
    ``seen_species``, ``seen_context`` and the booleans ``species_right``, ``context_right`` (True
    where no context was asked for), ``wellformed``, ``fault`` (of `FAULTS`, or ""), ``wrong`` (any
    of these) and ``uninvited`` (a distractor), besides one ``uninvited: <name>`` each.
    """
    judged = metadata[["sample_id", "class_name", "context"]].reset_index(drop=True)
    judged = judged.assign(seen_species=seen.species, seen_context=seen.context)
    judged["species_right"] = judged["class_name"] == judged["seen_species"]
    asked = judged["context"]
    judged["context_right"] = (asked == judged["seen_context"]) | (asked == "")
    judged["wellformed"] = seen.wellformed
    hits = [seen.empty > 0.5, ~judged["species_right"], ~judged["wellformed"]]
    judged["fault"] = np.select(hits, FAULTS, default="")
    judged["wrong"] = judged["fault"] != ""
    steered = {context: negatives_for(prompt_set, context) for context in asked.unique()}
    counted = np.array([[name in steered[context] for name in DISTRACTORS] for context in asked])
    uninvited = (seen.distractors > 0.5) & counted.reshape(-1, len(DISTRACTORS))
    judged["uninvited"] = uninvited.any(axis=1)
    return judged.join(pd.DataFrame(uninvited, columns=DISTRACTORS).add_prefix("uninvited: "))


def judge_images(metadata: pd.DataFrame, images: np.ndarray, prompt_set: PromptSet) -> pd.DataFrame:
    """Read images (N, 64, 64, 3) uint8 of Paperbirds with the oracle, and judge them."""
    return judge(metadata, load_oracle().read(images), prompt_set)


def seen_in_web(judged: pd.DataFrame) -> np.ndarray:
    """Whether the model has ever seen the species in the context that was asked for, (N,) bool."""
    return np.array([is_seen(*pair) for pair in judged[["class_name", "context"]].to_numpy()])


def expected_rates(guidances: Sequence[float], by: Sequence[str] = ()) -> pd.DataFrame:
    """What `paperbirds.web` expects of a perfect learner, as `fault_rates`.

    Columns: point (of guidance), those of `by` (class_name, context), measure, value.
    """
    tables = [expected_errors(guidance).assign(point=guidance) for guidance in guidances]
    named = {"species": "class_name", "cut": "malformed"}
    table, groups = pd.concat(tables).rename(columns=named), ["point", *by]
    means = table.groupby(groups, sort=False)[[*FAULTS, "wrong"]].mean()
    return means.reset_index().melt(groups, var_name="measure")


def render_pairs(plan: pd.DataFrame, malformations: Sequence[str], seed: int) -> np.ndarray:
    """Render what a plan of Paperbirds asks for, whole and malformed: (2, N, 64, 64, 3) uint8.

    The `malformations`, of `paperbirds.birds.MALFORMATIONS`, take turns.
    """
    pairs = []
    for place, row in enumerate(plan.itertuples()):
        scene = row.class_name, row.context or CONTEXTS[place % len(CONTEXTS)], (seed, place)
        wrong = malformations[place % len(malformations)]
        pairs.append([render(*scene, malformation=how).image for how in (None, wrong)])
    return np.stack(pairs, axis=1)


_BATCH = 32


#: (real, their object maps, the counterparts', labels, generator) -> mixed object maps, targets.
_MixMaps = Callable[[Tensor, Tensor, Tensor, Tensor, Generator], tuple[Tensor, Tensor]]


def surrogate_masks(metadata: pd.DataFrame) -> np.ndarray:
    """Object masks (N, 64, 64) bool in place of those of generated images, which none knows.

    Of fresh renders of the same species, in the style that the generator learned from: what it
    draws has a bird of that size and place, if not the very same one.
    """
    # Any context does: in that style nothing stands in front of the bird.
    described = zip(metadata["class_name"], metadata["seed"], strict=True)
    birds = [render(name, CONTEXTS[0], int(seed), style=0.0) for name, seed in described]
    return np.stack([bird.mask for bird in birds])


def object_shares(
    real: Tensor, masks: np.ndarray, generated_masks: np.ndarray, labels: Tensor,
    settings: MixingParams, *, repeats: int, seed: int,
) -> pd.DataFrame:  # fmt: skip
    """How much of each mixed image is object, of its own class and of others, for each method.

    Mixing is linear, so a method that mixes images mixes maps of their objects just so: one channel
    a class, 1 where an object of it is. The mean of a channel is the share of that class. An edit
    has the map of its image, whose layout it keeps.

    Takes images (N, 3, H, W), masks (N, H, W) bool of their objects and of their counterparts',
    and labels (N,). Mixes each image `repeats` times, each time in a batch of its own. Returns a
    row a mixed image: method, own, other (shares of the image), before (share of the real image),
    target (what the label says of the own class).
    """
    num_classes = int(labels.max()) + 1
    channels = one_hot(labels, num_classes).float()[:, :, None, None]
    own, others = (channels * torch.from_numpy(m)[:, None] for m in (masks, generated_masks))
    generator, tables = torch.Generator().manual_seed(seed), []
    for (method, mix), _ in product(_mixes_of_maps(settings, num_classes).items(), range(repeats)):
        for rows in torch.randperm(len(labels), generator=generator).split(_BATCH):
            maps, targets = mix(real[rows], own[rows], others[rows], labels[rows], generator)
            shares = _shares(maps, own[rows], labels[rows], targets)
            tables.append(shares.assign(method=method))
    return pd.concat(tables, ignore_index=True)


def _mixes_of_maps(settings: MixingParams, num_classes: int) -> dict[str, _MixMaps]:
    """Name the methods that mix, as functions that push maps of objects through."""
    fractal = torch.zeros(1, num_classes, 1, 1)  # it holds no object
    diffuse = DiffuseMix(fractal, settings.seam, settings.fractal_share)
    mixup, cutmix, salient = (make_mix(name, num_classes, settings.alpha) for name in MIXES)

    def kept(mix: Callable[[Tensor, Tensor, Generator], Mixed]) -> _MixMaps:
        return lambda real, own, others, labels, g: (
            mix(own, others, g).images,
            one_hot(labels, num_classes).float(),
        )

    return {
        "DiffCoRe-Mix, pixel": kept(DiffCoReMix(settings.alpha, 0.0)),
        "DiffCoRe-Mix, patch": kept(DiffCoReMix(settings.alpha, 1.0)),
        "DiffuseMix": kept(lambda own, others, g: diffuse(own, own, g)),
        "MixUp": lambda real, own, others, labels, g: mixup(own, labels, g),
        "CutMix": lambda real, own, others, labels, g: cutmix(own, labels, g),
        "SaliencyMix": lambda real, own, others, labels, g: salient(own, labels, g, seen=real),
    }


def _shares(maps: Tensor, before: Tensor, labels: Tensor, targets: Tensor) -> pd.DataFrame:
    """Reduce maps (B, K, H, W) and targets (B, K) to a row an image."""
    shares, place = maps.mean(dim=(2, 3)), labels[:, None]
    own = shares.gather(1, place).squeeze(1)
    return pd.DataFrame({
        "own": own.numpy(), "other": (shares.sum(1) - own).clamp(min=0).numpy(),
        "before": before.mean(dim=(2, 3)).sum(1).numpy(),
        "target": targets.gather(1, place).squeeze(1).numpy(),
    })  # fmt: skip


def summarise_shares(shares: pd.DataFrame) -> pd.DataFrame:
    """Sum up the table of `object_shares`, a row a method: method, own, other, lost, label_error.

    `lost` is the share of images with less than half of the object that the real image had, and
    `label_error` by how much the label's weight of the own class misses that class's part of the
    object, on average over images that show any.
    """
    rows = []
    for method, table in shares.groupby("method", sort=False):
        visible = table["own"] + table["other"]
        lost = (visible < table["before"] / 2).mean()
        error = (table["target"] - table["own"] / visible)[visible > 0].abs().mean()
        means = table[["own", "other"]].mean()
        rows.append({"method": method, **means, "lost": lost, "label_error": error})
    return pd.DataFrame(rows)


def label_curves(
    real: Tensor, generated: Tensor, labels: Tensor, oracle: Oracle, lams: Sequence[float],
    *, confidence: float, seed: int,
) -> pd.DataFrame:  # fmt: skip
    """In how many mixed images the oracle names the real image's class, as λ falls.

    Each image is mixed with its counterpart, and with a training image of another class, at pixel
    and at patch level. Returns a tidy table: partner, level, lam, value, low, high, n.
    """
    strangers = real[_other_class(labels, seed)]
    partners = {"generated, same class": generated, "real, another class": strangers}
    levels = {"pixel": pixel_mix, "patch": same_patches(seed)}
    names = np.array(SPECIES)[labels.numpy()]
    rows = []
    for (partner, others), (level, mix), lam in product(partners.items(), levels.items(), lams):
        seen = oracle.read(as_pixels(mix(real, others, lam))).species
        found = stats.proportion(seen == names, confidence)
        rows.append({"partner": partner, "level": level, "lam": lam, **found})
    return pd.DataFrame(rows)


def _other_class(labels: Tensor, seed: int) -> Tensor:
    """Choose an image of another class for each, at random: places (N,)."""
    generator = torch.Generator().manual_seed(seed)
    chances = torch.rand(len(labels), len(labels), generator=generator)
    return chances.masked_fill(labels[:, None] == labels[None], -1).argmax(1)


_FRESH = 72  # sets the seeds of these renders apart from those of every split


def leakage(
    train: pd.DataFrame, generated: pd.DataFrame, vectors: Mapping[str, Vectors], encoder: Any,
    *, confidence: float, seed: int,
) -> pd.DataFrame:  # fmt: skip
    """Which of equally large sets are nearer to test images than the training set is.

    One generated image a training image, and a fresh render of the same class and context in the
    generator's style, which cannot know the test set: what both have in common is no leak.

    Takes metadata, that of generated images numbered from 0, and vectors of the sets "training",
    "generated" and, by names that begin so, "test"; adds the test to `closer_shares`.
    """
    rows = generated.drop_duplicates("source_id")
    renders = [
        render(row.class_name, row.context or CONTEXTS[0], (seed, _FRESH, place)).image
        for place, row in enumerate(rows.itertuples())
    ]
    used = train["source_id"].isin(rows["source_id"]).to_numpy()
    training = {space: each[used] for space, each in vectors["training"].items()}
    others = {
        "generated": {space: each[rows.index] for space, each in vectors["generated"].items()},
        "fresh renders": as_vectors(np.stack(renders), encoder, mirrored=True),
    }
    tests = [name for name in vectors if name.startswith("test")]
    tables = [closer_shares(vectors[t], training, others, confidence).assign(test=t) for t in tests]
    return pd.concat(tables, ignore_index=True)


def nearness_to_seen(
    generated: pd.DataFrame, images: np.ndarray, encoder: Any, *, most: int, seed: int
) -> pd.DataFrame:
    """How near images are to what their generator was trained on, beside renders that cannot copy.

    The shipped model's own training images of the same species and context, at most so many,
    are rendered again; a fresh render of the same pair stands for what is near by chance. Pairs
    that the model never saw are left out.

    Takes metadata and images (N, 64, 64, 3) uint8. Returns a row an image and space: images
    ("generated" or "fresh renders"), query, space, distance, reference (the nearest image), seen
    (the number compared with).
    """
    seen, tables = _seen_by_generator(generated, most), []
    for place, row in enumerate(generated.itertuples()):
        posts = seen.get((row.class_name, row.context), [])
        if not posts:
            continue
        shown = np.stack([PLAN.studio.image(index) for index in posts])
        fresh = render(row.class_name, row.context, (seed, _FRESH, 1, place)).image
        pair = as_vectors(np.stack([images[place], fresh]), encoder)
        found = nearest(pair, as_vectors(shown, encoder))
        names = found["query"].map({0: "generated", 1: "fresh renders"})
        nearby = [shown[index] for index in found["reference"]]
        tables.append(found.assign(images=names, query=place, reference=nearby, seen=len(posts)))
    return pd.concat(tables, ignore_index=True)


def _seen_by_generator(generated: pd.DataFrame, most: int) -> dict[tuple[str, str], list[int]]:
    """Numbers of the text-to-image model's training images by (species, context) of some pairs."""
    wanted = set(zip(generated["class_name"], generated["context"], strict=True))
    seen: dict[tuple[str, str], list[int]] = {}
    for index in range(PLAN.studio.count):
        scene = PLAN.studio.scene(index)
        pair = scene.species, scene.context
        if pair in wanted and scene.malformation is None and len(seen.get(pair, [])) < most:
            seen.setdefault(pair, []).append(index)
    return seen


_BACKGROUNDS = 71  # sets the seeds of these renders apart from those of every split


def exchange_backgrounds(split: Split, style: float, seed: int) -> dict[tuple[str], Tensor]:
    """Cut the birds of Paperbirds out and lay them on fresh scenes: (condition,) -> (N, 3, H, W).

    "same context" is a fresh scene of the same context, which shows what the cut itself costs,
    "another context" one of any other, and "no bird" the scene of the same context alone.
    """
    context = split.metadata["context"].tolist()
    rng = np.random.default_rng((seed, _BACKGROUNDS))
    others = [str(rng.choice([c for c in CONTEXTS if c != own])) for own in context]
    same, other = (as_batch(bare_scenes(each, style, seed)) for each in (context, others))
    batch, masks = as_batch(split.images[:]), torch.tensor(split.masks[:])[:, None]
    return {
        ("as it is",): batch,
        ("same context",): torch.where(masks, batch, same),
        ("another context",): torch.where(masks, batch, other),
        ("no bird",): same,
    }


def bare_scenes(contexts: Sequence[str], style: float, seed: int) -> np.ndarray:
    """Draw fresh scenes without a bird, one a context: (N, 64, 64, 3) uint8."""
    scenes = []
    for place, context in enumerate(contexts):
        own = (seed, _BACKGROUNDS, place)
        clutter = draw_clutter(context, np.random.default_rng(own))
        scene = render(SPECIES[0], context, own, clutter, style=style, malformation="no bird")
        scenes.append(scene.image)
    return np.stack(scenes)


def render_scenes(names: Sequence[str], count: int, seed: int) -> pd.DataFrame:
    """Render `count` whole birds of every class in every context, without clutter.

    Columns: class_name, context, image (64, 64, 3) uint8.
    """
    asked = [(name, context, i) for name in names for context in CONTEXTS for i in range(count)]
    rows = [
        (name, context, render(name, context, (seed, place)).image)
        for place, (name, context, _) in enumerate(asked)
    ]
    return pd.DataFrame(rows, columns=["class_name", "context", "image"])




def retrieve(wanted: pd.DataFrame, seed: int) -> np.ndarray:
    """Find an image of the web for each row (class_name, context): (N, 64, 64, 3) uint8.

    One whose caption names both or, where none is left, the class; each is taken once, by chance,
    unless there are too few.
    """
    rng, web = np.random.default_rng(seed), PLAN.studio
    found: dict[tuple, list[int]] = defaultdict(list)
    for place in rng.permutation(web.count):
        post = web.post(int(place))
        found[post.species, post.context].append(int(place))
        found[post.species, None].append(int(place))
    taken: set[int] = set()
    chosen = [
        _take(found[name, context], found[name, None], taken)
        for name, context in wanted[["class_name", "context"]].to_numpy()
    ]
    return np.stack([web.image(place) for place in chosen])


def _take(best: list[int], others: list[int], taken: set[int]) -> int:
    """Take the first that is free; of the class alone, and a second time, only where it must be."""
    free = (place for places in (best, others) for place in places if place not in taken)
    place = next(free, others[0])
    taken.add(place)
    return place


def fault_rates(judged: pd.DataFrame, by: Sequence[str], confidence: float) -> pd.DataFrame:
    """Share of images with each of `FAULTS` and with any (wrong) within groups, tidy."""
    faults = judged.assign(**{fault: judged["fault"] == fault for fault in FAULTS})
    return stats.tabulate(faults, by, [*FAULTS, "wrong"], stats.proportion, confidence)
