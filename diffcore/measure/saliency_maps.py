"""Where a classifier looks, and whether that is on the object: the paper's Figure 5, in numbers.

Techniques, by captum: Grad-CAM (arXiv 1610.02391) and integrated gradients (1703.01365). Measures:
the share of a map's energy in the object's mask (Wang et al., 1910.01279) and the pointing game
(Zhang et al., 1608.00507). Our choice of what the paper's public text leaves open: all of these,
`find_layer` for Grad-CAM, and that a map without energy counts as a uniform one, as by chance.
"""

import copy
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from captum.attr import IntegratedGradients, LayerActivation, LayerAttribution, LayerGradCam
from scipy.stats import rankdata
from torch import Tensor, nn

_BATCH = 64
_REMEDY = "pass layer=, a module whose output is a map (B, C, h, w), or use integrated_gradients"


def grad_cam(
    model: nn.Module, images: Tensor, targets: Tensor,
    layer: nn.Module | None = None, min_cells: int = 7,
) -> Tensor:  # fmt: skip
    """Explain the scores of target classes by Grad-CAM: maps (N, H, W) on the CPU.

    Takes a model in eval mode, images (N, 3, H, W) in [0, 1], the class to explain of each, and a
    layer whose output is a map (B, C, h, w), by default that of `find_layer`. A map has maximum 1,
    or is 0 all over where nothing speaks for the target. Raises ValueError for a model in training
    mode, or a layer whose output is no map.
    """
    batches, size, maps = _batches(model, images, targets), tuple(images.shape[2:]), []
    layer = find_layer(model, images, min_cells) if layer is None else layer
    technique = LayerGradCam(model, layer)
    for batch, target in batches:
        cam = technique.attribute(batch, target, relu_attributions=True).detach()
        if not _is_map(cam.shape, size):
            raise ValueError(f"the layer's output {tuple(cam.shape)} is no map; {_REMEDY}")
        maps.append(LayerAttribution.interpolate(cam, size, "bilinear")[:, 0].cpu())
    return _scaled(torch.cat(maps))


def integrated_gradients(
    model: nn.Module, images: Tensor, targets: Tensor,
    baselines: Sequence[float] = (0.0, 1.0), steps: int = 16,
) -> Tensor:  # fmt: skip
    """Explain the scores of target classes by integrated gradients, for any differentiable model.

    Takes and returns what `grad_cam` does: absolute values, summed over the channels and over
    paths of so many steps from each baseline, a grey value that is blind to pixels of its own.
    """
    technique, maps = IntegratedGradients(model), []
    options = {"n_steps": steps, "internal_batch_size": _BATCH}
    for batch, target in _batches(model, images, targets):
        signed = (technique.attribute(batch, grey, target, **options) for grey in baselines)
        maps.append(sum(each.detach().float().cpu().abs().sum(dim=1) for each in signed))
    return _scaled(torch.cat(maps))


def find_layer(model: nn.Module, images: Tensor, min_cells: int = 7) -> nn.Module:
    """Find the deepest stage of a timm model whose map has at least `min_cells` cells a side.

    For ResNet-50 at 224 x 224 that is the last stage, as is the custom; at 64 x 64, of which the
    last stage leaves 2 x 2 cells, it is the one at an eighth of the side. Raises ValueError if the
    model holds no timm model, or no stage of it makes such a map.
    """
    size, shapes = tuple(images.shape[2:]), stage_shapes(model, images)
    fit = [n for n, s in shapes.items() if _is_map(s, size) and min(s[2:]) >= min_cells]
    if not fit:
        made = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        wanted = f"{min_cells} x {min_cells} cells from images {size[0]} x {size[1]}"
        raise ValueError(f"no stage makes {wanted} (they make {made}); {_REMEDY}")
    return _timm_part(model).get_submodule(fit[-1])


@torch.no_grad()
def stage_shapes(model: nn.Module, images: Tensor) -> dict[str, tuple[int, ...]]:
    """Shape of what each stage of a timm model makes of the first image, by name, in order."""
    network, device = _timm_part(model), next(model.parameters()).device
    names = [stage["module"] for stage in network.feature_info]
    layers = [network.get_submodule(name) for name in names]
    outputs = LayerActivation(model, layers).attribute(images[:1].to(device))
    return {name: tuple(output.shape) for name, output in zip(names, outputs, strict=True)}


def _timm_part(model: nn.Module) -> nn.Module:
    """Find the timm model within a model: the part that knows its stages."""
    for part in model.modules():
        if hasattr(part, "feature_info"):
            return part
    raise ValueError(f"{type(model).__name__} holds no timm model with stages; {_REMEDY}")


def _is_map(shape: Sequence[int], size: Sequence[int]) -> bool:
    """Tell a map (B, C, h, w) of images of a size from tokens, and from channels put last."""
    if len(shape) != 4:
        return False
    high, wide = shape[2] / size[0], shape[3] / size[1]
    # Rounding, where a stride does not divide the size, shifts either side by less than a cell.
    return max(high, wide) <= 1 and abs(high - wide) < 1 / min(size)


def _batches(model: nn.Module, images: Tensor, targets: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Split images and targets, on the model's device; gradients flow even if weights are fixed."""
    if model.training:
        raise ValueError("the model is in training mode; call model.eval() first")
    if len(images) != len(targets) or not len(images):
        raise ValueError(f"{len(images)} images and {len(targets)} targets; each needs one")
    device = next(model.parameters()).device
    pairs = zip(images.split(_BATCH), targets.split(_BATCH), strict=True)
    return [(x.detach().to(device, copy=True).requires_grad_(), y.to(device)) for x, y in pairs]


def _scaled(maps: Tensor) -> Tensor:
    """Divide each map (N, H, W), non-negative, by its maximum; one of zeros stays."""
    peaks = maps.amax(dim=(1, 2), keepdim=True)
    return maps / torch.where(peaks > 0, peaks, 1)


def energy_in_mask(cam: Tensor | np.ndarray, mask: Tensor | np.ndarray) -> Tensor:
    """Share of each map's energy that lies in the mask: (N,); by chance, the mask's of the image.

    Takes saliency (N, H, W) and masks of the objects (N, H, W) bool. Raises ValueError for shapes
    that differ, a negative saliency, and an empty mask.
    """
    cam, mask = _checked(cam, mask)
    energy, inside = cam.sum(dim=(1, 2)), (cam * mask).sum(dim=(1, 2))
    chance = mask.double().mean(dim=(1, 2))
    return torch.where(energy > 0, inside / torch.where(energy > 0, energy, 1), chance)


def pointing_game(cam: Tensor | np.ndarray, mask: Tensor | np.ndarray) -> Tensor:
    """Whether each map's maximum lies in the mask: (N,), 0 or 1.

    Where several pixels share the maximum, the share of them in the mask; so a map of zeros gets
    the mask's share of the image. Takes and raises what `energy_in_mask` does.
    """
    cam, mask = _checked(cam, mask)
    peaks = cam == cam.amax(dim=(1, 2), keepdim=True)
    return (peaks & mask).sum(dim=(1, 2)) / peaks.sum(dim=(1, 2)).double()


def rank_correlation(first: Tensor, second: Tensor) -> np.ndarray:
    """Spearman's correlation of each map (N, H, W) with another; 0 where either is uniform."""
    ranks = [rankdata(maps.flatten(1).numpy(), axis=1) for maps in (first, second)]
    a, b = (rank - rank.mean(axis=1, keepdims=True) for rank in ranks)
    scale = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return (a * b).sum(axis=1) / np.where(scale > 0, scale, 1)


def _checked(cam: Tensor | np.ndarray, mask: Tensor | np.ndarray) -> tuple[Tensor, Tensor]:
    """Return both as tensors, in double precision and bool, if they fit."""
    cam, mask = torch.as_tensor(cam).double(), torch.as_tensor(mask).bool()
    if cam.shape != mask.shape or cam.ndim != 3:
        shapes = f"{tuple(cam.shape)} and {tuple(mask.shape)}"
        raise ValueError(f"maps and masks are {shapes}; both must be (N, H, W)")
    if (cam < 0).any():
        raise ValueError("a saliency is negative; take its absolute value or its positive part")
    if not mask.flatten(1).any(dim=1).all():
        raise ValueError("a mask is empty; leave out images that show no object")
    return cam, mask


def randomised_cascade(model: nn.Module, seed: int) -> Iterator[tuple[str, nn.Module]]:
    """Yield copies of a model, shuffled from its output down to its input one part after another.

    Each comes with the name of the part shuffled last. For the check of Adebayo et al. (arXiv
    1810.03292); our choice: values are permuted within each tensor, not drawn anew, which keeps
    their distribution and works for layers of any type.
    """
    model, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    for name, part in reversed(_parts(model)):
        for tensor in part.state_dict().values():
            order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
            tensor.copy_(tensor.flatten()[order].view_as(tensor))
        yield name, copy.deepcopy(model)


def _parts(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Children that hold weights, in order; of the child, where there is but one."""
    parts = [child for child in model.named_children() if any(True for _ in child[1].parameters())]
    return _parts(parts[0][1]) if len(parts) == 1 else parts
