"""What can be measured because the truth about every image of this world is known.

The oracle judges generated images, masks follow objects through a mix, and renders show what is
near by chance. Nothing here filters, trains or chooses a setting.
"""

import json
from collections.abc import Callable, Sequence
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
from diffcore.measure.mixing import same_patches
from diffcore.measure.near_copies import Vectors, as_vectors, closer_shares, nearest
from diffcore.methods.baselines import CutMix, MixUp, SaliencyMix
from diffcore.methods.diffusemix import diffuse_mix
from diffcore.mixing.mix import DiffCoReMix, pixel_mix
from diffcore.prompts.prompt_set import PromptSet, negatives_for
from paperbirds import CONTEXTS, DISTRACTORS, SPECIES, load_oracle, render
from paperbirds.contexts import draw_clutter
from paperbirds.oracle import WEIGHTS, Reading
from paperbirds.training_data import GENERATOR_DATA, expected_errors, is_seen

#: What can be wrong with an image; of several, the first counts.
FAULTS = ("no bird", "another species", "malformed")
_BATCH = 32  # images mixed together
_BACKGROUNDS, _FRESH = 71, 72  # set the seeds of these renders apart from those of every split


def shipped_facts() -> dict[str, float]:
    """Return the size of what ships in MB, ``shipped_mb``, and its quality on the model card."""
    size = sum(file.stat().st_size for file in WEIGHTS.rglob("*") if file.is_file())
    facts = json.loads((WEIGHTS / "facts.json").read_text(encoding="utf-8"))
    return {"shipped_mb": size / 1e6, **facts["quality"]}


# ------------------------------------------------------------------------------- generated images
def judge(metadata: pd.DataFrame, seen: Reading, prompts: PromptSet) -> pd.DataFrame:
    """Compare what an oracle sees in N images with their prompts.

    Returns one row per image: ``sample_id``, ``class_name`` and ``context`` of the metadata,
    ``seen_species``, ``seen_context``, ``fault`` (of `FAULTS`, or ""), and the booleans
    ``species_right``, ``context_right`` (True for a prompt without context), ``wellformed``,
    ``wrong`` (any fault), ``uninvited: <name>`` (a distractor that is a negative in that context: a
    tree is no clutter in a forest) and ``uninvited`` (any of them).
    """
    judged = metadata[["sample_id", "class_name", "context"]].reset_index(drop=True)
    judged = judged.assign(seen_species=seen.species, seen_context=seen.context)
    judged["species_right"] = judged["class_name"] == judged["seen_species"]
    contexts = judged["context"]
    judged["context_right"] = (contexts == judged["seen_context"]) | (contexts == "")
    judged["wellformed"] = seen.wellformed
    hits = [seen.empty > 0.5, ~judged["species_right"], ~judged["wellformed"]]
    judged["fault"] = np.select(hits, FAULTS, default="")
    judged["wrong"] = judged["fault"] != ""
    negatives = {context: negatives_for(prompts, context) for context in contexts.unique()}
    counted = [[name in negatives[context] for name in DISTRACTORS] for context in contexts]
    uninvited = (seen.distractors > 0.5) & np.reshape(counted, (-1, len(DISTRACTORS)))
    judged["uninvited"] = uninvited.any(axis=1)
    return judged.join(pd.DataFrame(uninvited, columns=DISTRACTORS).add_prefix("uninvited: "))


def judge_images(metadata: pd.DataFrame, images: np.ndarray, prompts: PromptSet) -> pd.DataFrame:
    """Read images (N, 64, 64, 3) uint8 of Paperbirds with the oracle, and judge them."""
    return judge(metadata, load_oracle().read(images), prompts)


def seen_by_generator(judged: pd.DataFrame) -> np.ndarray:
    """Return whether the model learned from the class in the context of each row, (N,) bool."""
    return np.array([is_seen(*pair) for pair in judged[["class_name", "context"]].to_numpy()])


def fault_rates(judged: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return the share of images with each of `FAULTS` and with any (wrong) within groups, tidy."""
    faults = judged.assign(**{fault: judged["fault"] == fault for fault in FAULTS})
    return stats.tabulate(faults, by, [*FAULTS, "wrong"], stats.proportion)


def expected_rates(guidances: Sequence[float], by: Sequence[str] = ()) -> pd.DataFrame:
    """Return the rates of a perfect learner: point (of guidance), those of `by`, measure, value."""
    tables = [expected_errors(guidance).assign(point=guidance) for guidance in guidances]
    columns = {"species": "class_name", "cut": "malformed"}
    table, groups = pd.concat(tables).rename(columns=columns), ["point", *by]
    means = table.groupby(groups, sort=False)[[*FAULTS, "wrong"]].mean()
    return means.reset_index().melt(groups, var_name="measure")


# ----------------------------------------------------------------------------------- mixed images


def object_shares(
    real: Tensor,
    masks: np.ndarray,
    generated_masks: np.ndarray,
    labels: Tensor,
    *,
    alpha: float,
    repeats: int,
    seed: int,
) -> pd.DataFrame:
    """Measure how much of each mixed image is object, of its class and of others, by method.

    Mixing is linear, so a method mixes maps of objects as it mixes images: one channel per class, 1
    where an object of it is. A restyled image keeps the layout, and so the map, of its image.

    Takes images (N, 3, H, W), masks (N, H, W) bool of their objects and of their counterparts', and
    labels (N,). Mixes each image `repeats` times. Returns one row per mixed image: method, own,
    other (shares of the image), before (share of the real image), target (the label's own weight).
    """
    num_classes = int(labels.max()) + 1
    classes, generator = one_hot(labels, num_classes).float(), torch.Generator().manual_seed(seed)
    maps, counterparts = (
        classes[:, :, None, None] * torch.from_numpy(each)[:, None]
        for each in (masks, generated_masks)
    )
    tables = []
    for (method, mix), _ in product(_mixes_of_maps(alpha, num_classes).items(), range(repeats)):
        for rows in torch.randperm(len(labels), generator=generator).split(_BATCH):
            batch = real[rows], maps[rows], counterparts[rows], classes[rows]
            mixed, targets = mix(*batch, generator)
            shares, label = mixed.mean(dim=(2, 3)), labels[rows, None]
            own = shares.gather(1, label).squeeze(1)
            columns = {
                "own": own,
                "other": (shares.sum(1) - own).clamp(min=0),
                "before": maps[rows].mean(dim=(2, 3)).sum(1),
                "target": targets.gather(1, label).squeeze(1),
            }
            arrays = {name: values.numpy() for name, values in columns.items()}
            tables.append(pd.DataFrame(arrays).assign(method=method))
    return pd.concat(tables, ignore_index=True)


def _mixes_of_maps(alpha: float, num_classes: int) -> dict[str, Callable]:
    """Return the methods that mix: (real, maps, counterparts' maps, targets, generator) -> both."""
    empty = torch.zeros(1, num_classes, 1, 1)  # a fractal shows no object
    mixup, cutmix, saliencymix = MixUp(alpha=alpha), CutMix(alpha=alpha), SaliencyMix(alpha=alpha)

    def kept(mix: Callable[[Tensor, Tensor, Generator], Tensor]) -> Callable:
        return lambda real, maps, others, targets, g: (mix(maps, others, g), targets)

    return {
        "DiffCoRe-Mix, pixel": kept(lambda *batch: DiffCoReMix(alpha, 0.0)(*batch).images),
        "DiffCoRe-Mix, patch": kept(lambda *batch: DiffCoReMix(alpha, 1.0)(*batch).images),
        "DiffuseMix": kept(lambda maps, _, g: diffuse_mix(maps, maps, empty, g)),
        "MixUp": lambda real, maps, _, targets, g: mixup.mix(maps, targets, g),
        "CutMix": lambda real, maps, _, targets, g: cutmix.mix(maps, targets, g),
        "SaliencyMix": lambda real, maps, _, targets, g: saliencymix.mix(maps, targets, g, real),
    }


def summarise_shares(shares: pd.DataFrame) -> pd.DataFrame:
    """Sum up the table of `object_shares`: method, own, other, lost, label_error, one row each.

    `lost` is the share of images that keep less than half of their object. `label_error` is the
    mean distance of the label's weight to the class's part of the object, where any is seen.
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
    real: Tensor, generated: Tensor, labels: Tensor, lams: Sequence[float], *, seed: int
) -> pd.DataFrame:
    """Return in how many mixed images the oracle recognises the real image's class, as λ falls.

    Each image is mixed with its counterpart, and with a training image of another class, at pixel
    and at patch level. Columns: partner, level, lam, value, low, high, n.
    """
    generator = torch.Generator().manual_seed(seed)
    chances = torch.rand(len(labels), len(labels), generator=generator)
    strangers = real[chances.masked_fill(labels[:, None] == labels[None], -1).argmax(1)]
    partners = {"generated, same class": generated, "real, another class": strangers}
    levels = {"pixel": pixel_mix, "patch": same_patches(seed)}
    names, rows = np.array(SPECIES)[labels.numpy()], []
    for (partner, images), (level, mix), lam in product(partners.items(), levels.items(), lams):
        seen = load_oracle().read(as_pixels(mix(real, images, lam))).species
        share = stats.proportion(seen == names)
        rows.append({"partner": partner, "level": level, "lam": lam, **share})
    return pd.DataFrame(rows)


# -------------------------------------------------------------------------------- leaks and copies
def leakage(
    train: pd.DataFrame, drawn: pd.DataFrame, vectors: dict[str, Vectors], encoder: Any, seed: int
) -> pd.DataFrame:
    """Compare how near equally large sets are to test images: `closer_shares`, and the test.

    One set has a generated image per training image, the other a fresh render of the same class
    and context, which cannot know the test set: what both share is no leak. Takes metadata, that of
    generated images numbered from 0, and vectors of "training", "generated" and "test…".
    """
    rows = drawn.drop_duplicates("source_id")
    renders = [
        render(row.class_name, row.context or CONTEXTS[0], (seed, _FRESH, place)).image
        for place, row in enumerate(rows.itertuples())
    ]
    used = train["source_id"].isin(rows["source_id"]).to_numpy()
    training = {space: each[used] for space, each in vectors["training"].items()}
    compared = {
        "generated": {space: each[rows.index] for space, each in vectors["generated"].items()},
        "fresh renders": as_vectors(np.stack(renders), encoder, mirrored=True),
    }
    tests = [name for name in vectors if name.startswith("test")]
    tables = [closer_shares(vectors[t], training, compared).assign(test=t) for t in tests]
    return pd.concat(tables, ignore_index=True)


def nearness_to_seen(
    generated: pd.DataFrame, images: np.ndarray, encoder: Any, *, most: int, seed: int
) -> pd.DataFrame:
    """Measure how near images are to the training images of their generator.

    They are compared with its training images of the same species and context, at most so many,
    and so is a fresh render, which shows what is near by chance. Pairs without training images are
    left out. Returns one row per image and space: images ("generated" or "fresh renders"), query,
    space, distance, reference (the nearest image), seen (the number compared with).
    """
    scenes = pd.DataFrame(
        [vars(e.scene) for e in map(GENERATOR_DATA.example, range(GENERATOR_DATA.count))]
    )
    whole, tables = scenes[scenes["malformation"].isna()], []
    seen = whole.groupby(["species", "context"]).groups
    for place, row in enumerate(generated.itertuples()):
        if (row.class_name, row.context) not in seen:
            continue
        places = seen[row.class_name, row.context][:most]
        shown = np.stack([GENERATOR_DATA.image(index) for index in places])
        fresh = render(row.class_name, row.context, (seed, _FRESH, 1, place)).image
        pair = as_vectors(np.stack([images[place], fresh]), encoder)
        found = nearest(pair, as_vectors(shown, encoder))
        names = found["query"].map({0: "generated", 1: "fresh renders"})
        nearby = [shown[index] for index in found["reference"]]
        tables.append(found.assign(images=names, query=place, reference=nearby, seen=len(places)))
    return pd.concat(tables, ignore_index=True)


def retrieve(wanted: pd.DataFrame, seed: int) -> np.ndarray:
    """Find a training image of the generator for each row (class_name, context), by its caption.

    The caption names both or, if no such image is left, the class. Each image is taken once, by
    chance, unless there are too few. Returns (N, 64, 64, 3) uint8.
    """
    order = np.random.default_rng(seed).permutation(GENERATOR_DATA.count)
    captions, chosen = GENERATOR_DATA.facts().iloc[order], []
    by_pair = captions.groupby(["species", "context"]).groups
    by_name = captions.groupby("species").groups
    for name, context in wanted[["class_name", "context"]].to_numpy():
        candidates = [*by_pair.get((name, context), []), *by_name[name]]
        chosen.append(next((at for at in candidates if at not in chosen), by_name[name][0]))
    return np.stack([GENERATOR_DATA.image(place) for place in chosen])


# ---------------------------------------------------------------------------------- further renders
def render_scenes(names: Sequence[str], count: int, seed: int) -> pd.DataFrame:
    """Render `count` whole birds of every class in every context, without clutter.

    Columns: class_name, context, image (64, 64, 3) uint8.
    """
    wanted = [(name, context) for name in names for context in CONTEXTS for _ in range(count)]
    images = [render(*scene, (seed, place)).image for place, scene in enumerate(wanted)]
    return pd.DataFrame(wanted, columns=["class_name", "context"]).assign(image=images)


def render_pairs(plan: pd.DataFrame, malformations: Sequence[str], seed: int) -> np.ndarray:
    """Render the scenes of a plan, whole and malformed: (2, N, 64, 64, 3) uint8.

    The `malformations`, of `paperbirds.birds.MALFORMATIONS`, take turns.
    """
    pairs = []
    for place, row in enumerate(plan.itertuples()):
        scene = row.class_name, row.context or CONTEXTS[place % len(CONTEXTS)], (seed, place)
        wrong = malformations[place % len(malformations)]
        pairs.append([render(*scene, malformation=form).image for form in (None, wrong)])
    return np.stack(pairs, axis=1)


def substitute_masks(metadata: pd.DataFrame) -> np.ndarray:
    """Return masks (N, 64, 64) bool of fresh renders, as those of generated images are not known.

    They show the same species in the generator's style, in about the same size and place.
    """
    # Any context does: in that style nothing stands in front of the bird.
    birds = zip(metadata["class_name"], metadata["seed"], strict=True)
    return np.stack([render(name, CONTEXTS[0], int(seed)).mask for name, seed in birds])


def exchange_backgrounds(split: Split, style: float, seed: int) -> dict[tuple[str], Tensor]:
    """Cut the birds out and lay them on fresh scenes: (condition,) -> (N, 3, H, W).

    "same context" is a fresh scene of the same context and shows the cost of the cut itself.
    "another context" is one of any other, and "no bird" the scene of the same context alone.
    """
    contexts = split.metadata["context"].tolist()
    rng = np.random.default_rng((seed, _BACKGROUNDS))
    elsewhere = [str(rng.choice([c for c in CONTEXTS if c != context])) for context in contexts]
    same, other = (as_batch(bare_scenes(each, style, seed)) for each in (contexts, elsewhere))
    batch, masks = as_batch(split.images[:]), torch.tensor(split.masks[:])[:, None]
    return {
        ("as it is",): batch,
        ("same context",): torch.where(masks, batch, same),
        ("another context",): torch.where(masks, batch, other),
        ("no bird",): same,
    }


def bare_scenes(contexts: Sequence[str], style: float, seed: int) -> np.ndarray:
    """Render one fresh scene without a bird for each context: (N, 64, 64, 3) uint8."""
    scenes = []
    for place, context in enumerate(contexts):
        scene_seed = (seed, _BACKGROUNDS, place)
        clutter = draw_clutter(context, np.random.default_rng(scene_seed))
        options = {"style": style, "malformation": "no bird"}
        scenes.append(render(SPECIES[0], context, scene_seed, distractors=clutter, **options).image)
    return np.stack(scenes)
