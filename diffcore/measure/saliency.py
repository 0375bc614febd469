"""Where a classifier looks, and whether that is on the object: the paper's Figure 5, in numbers.

Techniques, by captum: Grad-CAM (arXiv 1610.02391) and integrated gradients (1703.01365). Measures:
the share of a map's energy in the object's mask (Wang et al., 1910.01279) and the pointing game
(Zhang et al., 1608.00507). Our choice: all of these, `find_layer`, and that a map without energy
counts as a uniform one. Intervals (`stats.crossed`) are over seeds and images.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from captum.attr import IntegratedGradients, LayerActivation, LayerAttribution, LayerGradCam
from scipy.stats import rankdata
from torch import Tensor, nn

from diffcore import stats
from diffcore.data.images import as_batch
from diffcore.data.splits import Split
from diffcore.processes import side_by_side
from diffcore.training.networks import predict

#: Classifier in eval mode, images (N, 3, H, W) in [0, 1], class to explain of each -> (N, H, W).
Technique = Callable[[nn.Module, Tensor, Tensor], Tensor]
Loader = Callable[..., nn.Module]  # weights of a table of runs -> classifier in eval mode
Maps = Tensor | np.ndarray  # (N, H, W)
Tests = Mapping[str, Split]

_MEASURES = ["energy", "beyond", "hit"]  # which methods are compared by
_BATCH = 64


def grad_cam(model: nn.Module, images: Tensor, targets: Tensor, min_cells: int = 7) -> Tensor:
    """Explain the scores of target classes by Grad-CAM at the stage of `find_layer`.

    A map (H, W) has maximum 1, or is 0 everywhere if nothing supports the target.
    """

    def attribute(batch: Tensor, target: Tensor) -> Tensor:
        layer, size = find_layer(model, batch, min_cells), tuple(batch.shape[2:])
        cam = LayerGradCam(model, layer).attribute(batch, target, relu_attributions=True)
        return LayerAttribution.interpolate(cam.detach(), size, "bilinear")[:, 0]

    return _explain(model, images, targets, attribute)


def integrated_gradients(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Explain as `grad_cam` does, by integrated gradients, for any differentiable model.

    Absolute values, summed over channels and over paths from black and from white, as a black
    object has no gradients on a path from black.
    """
    technique, options = IntegratedGradients(model), {"n_steps": 16, "internal_batch_size": _BATCH}

    def attribute(batch: Tensor, target: Tensor) -> Tensor:
        signed = (technique.attribute(batch, grey, target, **options) for grey in (0.0, 1.0))
        return sum(each.detach().float().abs().sum(dim=1) for each in signed)

    return _explain(model, images, targets, attribute)


def _explain(
    model: nn.Module, images: Tensor, targets: Tensor, attribute: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Explain batch by batch, scaled and on the CPU; gradients flow even if weights are fixed."""
    if model.training:
        raise ValueError("the model is in training mode; call model.eval() first")
    device, maps = next(model.parameters()).device, []
    for batch, target in zip(images.split(_BATCH), targets.split(_BATCH), strict=True):
        batch = batch.detach().to(device, copy=True).requires_grad_()
        maps.append(attribute(batch, target.to(device)).cpu())
    peaks = torch.cat(maps).amax(dim=(1, 2), keepdim=True)
    return torch.cat(maps) / torch.where(peaks > 0, peaks, 1)


def find_layer(model: nn.Module, images: Tensor, min_cells: int = 7) -> nn.Module:
    """Find the deepest stage of a timm model whose map has at least `min_cells` cells per side.

    For ResNet-50 at 224 x 224 that is the last stage, as is usual. Raises ValueError if there is no
    timm model, or no stage with such a map.
    """
    network, shapes = _timm_part(model), stage_shapes(model, images)
    channels = {stage["module"]: stage["num_chs"] for stage in network.feature_info}
    maps = [n for n, shape in shapes.items() if len(shape) == 4 and shape[1] == channels[n]]
    fit = [name for name in maps if min(shapes[name][2:]) >= min_cells]
    if not fit:
        wanted = f"{min_cells} x {min_cells} cells from images {tuple(images.shape[2:])}"
        raise ValueError(f"no stage has {wanted}, but {shapes}; use integrated_gradients")
    return network.get_submodule(fit[-1])


@torch.no_grad()
def stage_shapes(model: nn.Module, images: Tensor) -> dict[str, tuple[int, ...]]:
    """Return the shape of each stage's output for the first image, by the stage's name."""
    network, device = _timm_part(model), next(model.parameters()).device
    names = [stage["module"] for stage in network.feature_info]
    layers = [network.get_submodule(name) for name in names]
    outputs = LayerActivation(model, layers).attribute(images[:1].to(device))
    return {name: tuple(output.shape) for name, output in zip(names, outputs, strict=True)}


def _timm_part(model: nn.Module) -> nn.Module:
    for part in model.modules():
        if hasattr(part, "feature_info"):
            return part
    raise ValueError("the model holds no timm model with stages; use integrated_gradients")


def energy_in_mask(cam: Maps, mask: Maps) -> Tensor:
    """Share of each map's energy that lies in the mask, (N,); without energy, the mask's share."""
    cam, mask = _checked(cam, mask)
    cam = torch.where(cam.sum(dim=(1, 2), keepdim=True) > 0, cam, 1)
    return (cam * mask).sum(dim=(1, 2)) / cam.sum(dim=(1, 2))


def pointing_game(cam: Maps, mask: Maps) -> Tensor:
    """Whether each map's maximum lies in the mask, (N,): 0, 1, or the share of several maxima."""
    cam, mask = _checked(cam, mask)
    peaks = cam == cam.amax(dim=(1, 2), keepdim=True)
    return (peaks & mask).sum(dim=(1, 2)) / peaks.sum(dim=(1, 2)).double()


def _checked(cam: Maps, mask: Maps) -> tuple[Tensor, Tensor]:
    """Return both as tensors, in double precision and bool, if they fit."""
    cam, mask = torch.as_tensor(cam).double(), torch.as_tensor(mask).bool()
    if cam.shape != mask.shape or (cam < 0).any() or not mask.flatten(1).any(dim=1).all():
        raise ValueError("a map is negative, a mask is empty, or their shapes differ")
    return cam, mask


def rank_correlation(first: Tensor, second: Tensor) -> np.ndarray:
    """Spearman's correlation of each map (N, H, W) with another; 0 where either is uniform."""
    ranks = [rankdata(maps.flatten(1).numpy(), axis=1) for maps in (first, second)]
    a, b = (rank - rank.mean(axis=1, keepdims=True) for rank in ranks)
    scale = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return (a * b).sum(axis=1) / np.where(scale > 0, scale, 1)


def survey(
    runs: pd.DataFrame, load: Loader, tests: Tests, technique: Technique, about: str = "true"
) -> pd.DataFrame:
    """Explain test images with masks to every classifier, and place the maps on the objects.

    Explains the "true" class of all images or, of wrong answers alone, the class "answered".
    Returns one row per image and classifier: the columns of `measure`, split, method and seed.
    """
    # Loaded here, as whatever loads them need not travel to other processes.
    jobs = (
        partial(_survey_one, place, load(weights), tests, technique, about)
        for place, weights in enumerate(runs["weights"])
    )
    tables = dict(side_by_side(jobs, "cuda" if torch.cuda.is_available() else "cpu"))
    named = enumerate(runs.itertuples())
    rows = [tables[place].assign(method=run.method, seed=run.seed) for place, run in named]
    return pd.concat(rows, ignore_index=True)


def _survey_one(
    place: int, classifier: nn.Module, tests: Tests, technique: Technique, about: str
) -> tuple[int, pd.DataFrame]:
    tables = [measure(classifier, s, technique, about).assign(split=n) for n, s in tests.items()]
    return place, pd.concat(tables)


def measure(
    classifier: nn.Module, split: Split, technique: Technique, about: str = "true"
) -> pd.DataFrame:
    """Place one classifier's maps on the objects of N images; raise ValueError without masks.

    Returns one row per image: source_id, correct, about, energy (in the mask), hit (of the pointing
    game), share (of the image that is mask: chance), elsewhere (energy in another image's mask: the
    centre-bias baseline), beyond (energy minus elsewhere), empty (no energy).
    """
    if split.masks is None:
        raise ValueError("no masks: without them, or boxes in their place, no energy can be placed")
    split = split.take(split.masks[:].any(axis=(1, 2)))  # an object may have been cut off
    answers = predict(classifier, split.images[:]).argmax(dim=1).numpy()
    if about == "answered":
        wrong = answers != split.labels
        split, answers = split.take(wrong), answers[wrong]
    if not len(split):
        return pd.DataFrame(columns=["source_id"])
    targets = torch.tensor(answers if about == "answered" else split.labels)
    cams = technique(classifier, as_batch(split.images[:]), targets)
    # A copy, as arrays that processes share are read-only, of which torch would warn.
    masks, correct = np.array(split.masks[:]), answers == split.labels
    columns = {
        "source_id": split.metadata["source_id"].to_numpy(),
        "correct": correct,
        "about": [f"{'right' if ok else 'wrong'} answer, {about} class" for ok in correct],
        "energy": energy_in_mask(cams, masks),
        "hit": pointing_game(cams, masks),
        "share": masks.mean(axis=(1, 2)),
        "elsewhere": energy_in_mask(cams, np.roll(masks, len(masks) // 2, axis=0)),
        "empty": (cams == 0).flatten(1).all(dim=1),
    }
    return pd.DataFrame(columns).eval("beyond = energy - elsewhere")


def examples(
    runs: pd.DataFrame, load: Loader, split: Split, technique: Technique
) -> tuple[dict[str, Tensor], list[list[str]]]:
    """Return maps (N, H, W) by method, of one classifier each, and captions by image and method.

    A caption is the energy in the mask, if known, and ✓ for a right answer, or ✗ and the answer.
    """
    maps, captions = {}, []
    batch, labels = as_batch(split.images[:]), torch.tensor(split.labels)
    known = split.masks is not None and split.masks[:].any(axis=(1, 2)).all()
    for run in runs.itertuples():
        classifier = load(run.weights)
        maps[run.method] = technique(classifier, batch, labels)
        energy = energy_in_mask(maps[run.method], split.masks[:]) if known else []
        shares = [f"{share:.0%} " for share in energy] or [""] * len(split)
        answers = predict(classifier, split.images[:]).argmax(dim=1).numpy()
        names = np.array(split.classes, object)[answers]
        marks = np.where(answers == split.labels, "✓", "✗\n" + names)
        captions.append(np.array(shares, object) + marks)
    return maps, np.stack(captions, axis=1).tolist()


def levels(
    table: pd.DataFrame,
    by: Sequence[str] = ("split", "method"),
    columns: Sequence[str] = ("energy", "elsewhere", "hit", "empty"),
) -> pd.DataFrame:
    """Mean columns within groups of two images or more: `by`, measure, and of `stats.crossed`."""
    rows = [
        {**dict(zip(by, group, strict=True)), "measure": name}
        | stats.crossed(images[name], images["seed"], images["source_id"])
        for group, images in table.groupby(list(by), sort=False)
        for name in (columns if len(images) > 1 else ())
    ]
    return pd.DataFrame(rows, columns=[*by, "measure", "value", "low", "high", "n", "p"])


def gains(table: pd.DataFrame, baselines: Sequence[str]) -> pd.DataFrame:
    """Gain of each method over each baseline, paired by seed and image: `levels` and over."""
    keys, tables = ["split", "seed", "source_id"], []
    for over in baselines:
        base = table.loc[table["method"] == over, [*keys, *_MEASURES]]
        pairs = table[table["method"] != over].merge(base, on=keys, suffixes=("", "_base"))
        pairs[_MEASURES] -= pairs[[f"{name}_base" for name in _MEASURES]].to_numpy()
        tables.append(levels(pairs, columns=_MEASURES).assign(over=over))
    return pd.concat(tables, ignore_index=True)


def randomise(
    runs: pd.DataFrame, load: Loader, split: Split, technique: Technique, seed: int
) -> pd.DataFrame:
    """Compare maps of classifiers with those after their weights were shuffled, part by part.

    Returns one row per image, classifier and part: seed, source_id, part ("as trained", "other
    seed" or what was shuffled last), energy, correlation (of ranks, with the map as trained).
    """
    batch, targets, masks = as_batch(split.images[:]), torch.tensor(split.labels), split.masks[:]
    classifiers, rows = [load(weights) for weights in runs["weights"]], []
    cams = [technique(classifier, batch, targets) for classifier in classifiers]
    for place, (run_seed, classifier) in enumerate(zip(runs["seed"], classifiers, strict=True)):
        compared = {"as trained": cams[place], "other seed": cams[place - 1]}
        for part, shuffled in randomised_cascade(classifier, seed):
            compared[part] = technique(shuffled, batch, targets)
        for part, cam in compared.items():
            row = {"seed": run_seed, "source_id": split.metadata["source_id"].to_numpy()}
            row |= {"part": part, "energy": energy_in_mask(cam, masks)}
            rows.append(pd.DataFrame(row).assign(correlation=rank_correlation(cam, cams[place])))
    return pd.concat(rows, ignore_index=True)


def randomised_cascade(model: nn.Module, seed: int) -> Iterator[tuple[str, nn.Module]]:
    """Yield the part shuffled last, and a copy of the model shuffled from its output down to it.

    For the check of Adebayo et al. (1810.03292). Our choice: values are permuted within a tensor.
    """
    model, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    for name, part in reversed(list(_timm_part(model).named_children())):
        tensors = part.state_dict().values()
        for tensor in tensors:
            order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
            tensor.copy_(tensor.flatten()[order].view_as(tensor))
        if tensors:
            yield name, copy.deepcopy(model)


def sanity_check(table: pd.DataFrame) -> dict[str, float | bool]:
    """Judge whether maps show what was learned, from the table of `randomise` for several seeds.

    Our choice: ``passes`` if, with all weights shuffled, clearly less energy is on the object, and
    maps are clearly less like those as trained than maps of another seed are.
    """
    shuffled, row = table["part"].unique()[-1], {}
    for column, part in (("energy", "as trained"), ("correlation", "other seed")):
        wide = table.pivot(index=["seed", "source_id"], columns="part", values=column)
        drop = (wide[part] - wide[shuffled]).reset_index(name="drop")
        mean = stats.crossed(drop["drop"], drop["seed"], drop["source_id"])
        row |= stats.flatten(f"{column}_drop", mean)
    return row | {"passes": row["energy_drop_low"] > 0 and row["correlation_drop_low"] > 0}
