"""What mixing makes of images and labels: λ as it is used, objects kept, classes still seen.

Any set's images can be mixed and looked at. Object shares need masks, and label curves an oracle;
for generated images no mask is known, so renders of the same species stand in (Paperbirds only).
"""

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import pandas as pd
import torch
from torch import Generator, Tensor
from torch.nn.functional import one_hot

from diffcore import stats
from diffcore.data.images import as_batch, as_pixels, spread
from diffcore.data.pairs import PairedDataset
from diffcore.mixing.baselines import MIXES, make_mix
from diffcore.mixing.diffusemix import DiffuseMix
from diffcore.mixing.mix import DiffCoReMix, Mixed, patch_mix, pixel_mix
from diffcore.paperbirds.birds import SPECIES
from diffcore.paperbirds.contexts import CONTEXTS
from diffcore.paperbirds.oracle import Oracle
from diffcore.paperbirds.render import render
from diffcore.params import MixingParams

_BATCH = 32

#: (real, generated (N, 3, H, W), λ, one for all or (N,)) -> mixed images.
_Mix = Callable[[Tensor, Tensor, float | Tensor], Tensor]
#: (real, their object maps, the counterparts', labels, generator) -> mixed object maps, targets.
_MixMaps = Callable[[Tensor, Tensor, Tensor, Tensor, Generator], tuple[Tensor, Tensor]]


def first_pairs(
    pairs: PairedDataset, most: int = 512
) -> tuple[Tensor, Tensor, Tensor, np.ndarray | None, pd.DataFrame]:
    """Read training images that have a counterpart, each with its first; some spread over all.

    Returns real and generated images (N, 3, H, W) in [0, 1], labels (N,), masks of the objects in
    the real images (N, H, W) bool or None, and the metadata of the generated ones.
    """
    real, first = np.unique(pairs.source, return_index=True)
    some = spread(len(real), most)
    real, first = real[some], first[some]
    return (
        as_batch(pairs.real[real]),
        as_batch(pairs.generated[first]),
        torch.as_tensor(pairs.labels[real]),
        None if pairs.masks is None else pairs.masks[real],
        pairs.metadata.iloc[first].reset_index(drop=True),
    )


def gallery(mix: _Mix, real: Tensor, generated: Tensor, lams: Sequence[float]) -> list[np.ndarray]:
    """Mix each pair (N, 3, H, W) at every λ: N arrays (len(lams), H, W, 3) uint8."""
    lam, size = torch.tensor(lams), (len(lams), -1, -1, -1)
    pairs = zip(real, generated, strict=True)
    return [as_pixels(mix(one.expand(size), other.expand(size), lam)) for one, other in pairs]


def same_patches(seed: int) -> _Mix:
    """`patch_mix` with the same centres at every call; returns the images alone."""
    return lambda *pair_and_lam: patch_mix(*pair_and_lam, torch.Generator().manual_seed(seed))[0]


def draw_lams(
    alphas: Sequence[float], count: int, height: int, width: int, seed: int
) -> pd.DataFrame:
    """Draw λ for several α at both levels, patches cut off at the border: alpha, level, lam."""
    tables = []
    for alpha, (level, patch_share) in product(alphas, (("pixel", 0.0), ("patch", 1.0))):
        generator = torch.Generator().manual_seed(seed)
        weight = DiffCoReMix(alpha, patch_share).draw_weight(count, height, width, generator)
        lam = weight.mean(dim=(1, 2, 3)).numpy()
        tables.append(pd.DataFrame({"alpha": alpha, "level": level, "lam": lam}))
    return pd.concat(tables, ignore_index=True)


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
