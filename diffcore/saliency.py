"""Where a classifier looks, and whether that is on the object: the paper's Figure 5, in numbers.

Two techniques from captum: Grad-CAM (Selvaraju et al., arXiv 1610.02391), and integrated gradients
(Sundararajan et al., 1703.01365), so that no finding hangs on one of them. Two measures against a
mask of the object: the share of a map's energy inside (Wang et al., Score-CAM, 1910.01279), and the
pointing game (Zhang et al., 1608.00507). And a test of the techniques themselves: a map that stays
when the weights are shuffled shows the image, not what was learned (Adebayo et al., 1810.03292).

Our choice, as the public text of the paper names neither technique nor layer:

- The layer of Grad-CAM is the deepest stage whose map has at least 7 × 7 cells. For ResNet-50 at
  224 × 224 that is the last one, as is the custom; for an image of 64 × 64, of which the last stage
  leaves 2 × 2 cells, it is the stage at an eighth of the side.
- A map without any energy points nowhere. It counts as a uniform one, at the level of chance.
- Integrated gradients are the mean over a black and a white baseline. A baseline sees nothing in
  pixels of its own colour, so that a black bird would vanish against black alone.
- Weights are shuffled within each tensor, not drawn anew: that keeps their distribution, and works
  for layers of any type.
"""

import copy
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from captum.attr import IntegratedGradients, LayerActivation, LayerAttribution, LayerGradCam
from scipy.stats import rankdata
from torch import Generator, Tensor, nn

MIN_CELLS = 7
_BATCH = 64
_REMEDY = "pass layer=, a module whose output is a map (B, C, h, w), or use integrated_gradients"


# -------------------------------------------------------------------------------------- techniques
def grad_cam(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    layer: nn.Module | None = None,
    min_cells: int = MIN_CELLS,
) -> Tensor:
    """Explain the scores of target classes by Grad-CAM, enlarged to the size of the images.

    Args:
        model: (B, 3, H, W) -> scores (B, K), in eval mode.
        images: (N, 3, H, W) in [0, 1].
        targets: class to explain of each image, (N,) int64.
        layer: a module whose output is a map (B, C, h, w); None takes that of `find_layer`.
        min_cells: for `find_layer`.

    Returns:
        (N, H, W) on the CPU, in [0, 1] with maximum 1, or 0 all over where nothing speaks for the
        target.

    Raises:
        ValueError: for a model in training mode, or a layer whose output is no map.
    """
    _check_model(model)
    size = tuple(images.shape[2:])
    layer = find_layer(model, images, min_cells) if layer is None else layer
    technique = LayerGradCam(model, layer)
    maps = []
    for batch, target in _batches(model, images, targets):
        cam = technique.attribute(batch, target, relu_attributions=True).detach()
        if not _is_map(cam.shape, size):
            raise ValueError(
                f"the layer's output is no map (B, C, h, w) of images {size[0]}x{size[1]}; "
                "pass a layer with one, or use integrated_gradients"
            )
        maps.append(LayerAttribution.interpolate(cam, size, "bilinear")[:, 0].cpu())
    return _scaled(torch.cat(maps))


def integrated_gradients(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    baselines: Sequence[float] = (0.0, 1.0),
    steps: int = 16,
) -> Tensor:
    """Explain the scores of target classes by integrated gradients, for any differentiable model.

    Takes `model`, `images` and `targets` as `grad_cam` does.

    Args:
        baselines: grey values in [0, 1]; the result is the mean over them.
        steps: points on the way from a baseline to the image.

    Returns:
        (N, H, W) on the CPU, in [0, 1] with maximum 1: absolute values, summed over the channels.
    """
    total = torch.zeros(len(images), *images.shape[2:])
    for baseline in baselines:
        total += path_gradients(model, images, targets, baseline, steps).abs().sum(dim=1)
    return _scaled(total)


def path_gradients(
    model: nn.Module, images: Tensor, targets: Tensor, baseline: float, steps: int
) -> Tensor:
    """Integrate gradients along the straight line from a uniform image to each image.

    Returns:
        (N, 3, H, W), signed, on the CPU. Each image's sum tends to the target's score less its
        score for the baseline, as `steps` grows (completeness).
    """
    _check_model(model)
    technique = IntegratedGradients(model)
    options = {"n_steps": steps, "internal_batch_size": _BATCH}
    parts = [
        technique.attribute(batch, baseline, target, **options).detach()
        for batch, target in _batches(model, images, targets)
    ]
    return torch.cat(parts).float().cpu()


def find_layer(model: nn.Module, images: Tensor, min_cells: int = MIN_CELLS) -> nn.Module:
    """Find the deepest stage of a timm model whose map has at least `min_cells` cells a side.

    Args:
        model: a timm model, or a module that holds one.
        images: (N, 3, H, W); the first is passed through.
        min_cells: fewer cells place an object badly, more come from less deep layers.

    Raises:
        ValueError: if the model holds no timm model, or no stage of it makes such a map.
    """
    size, shapes = tuple(images.shape[2:]), stage_shapes(model, images)
    fit = [n for n, s in shapes.items() if _is_map(s, size) and min(s[2:]) >= min_cells]
    if not fit:
        made = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        wanted = f"of at least {min_cells}x{min_cells} from images {size[0]}x{size[1]}"
        raise ValueError(f"no stage makes a map {wanted} (they make {made}); {_REMEDY}")
    return _timm_part(model).get_submodule(fit[-1])


@torch.no_grad()
def stage_shapes(model: nn.Module, images: Tensor) -> dict[str, tuple[int, ...]]:
    """Shape of what each stage of a timm model makes of the first image, by name, in order.

    Takes and raises what `find_layer` does.
    """
    network = _timm_part(model)
    names = [stage["module"] for stage in network.feature_info]
    layers = [network.get_submodule(name) for name in names]
    outputs = LayerActivation(model, layers).attribute(images[:1].to(_device(model)))
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


def _batches(model: nn.Module, images: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Split images and targets, on the model's device; gradients flow even if weights are fixed."""
    if len(images) != len(targets) or not len(images):
        raise ValueError(f"{len(images)} images and {len(targets)} targets; each needs one")
    device = _device(model)
    for batch, target in zip(images.split(_BATCH), targets.split(_BATCH), strict=True):
        yield batch.detach().to(device, copy=True).requires_grad_(), target.to(device)


def _check_model(model: nn.Module) -> None:
    if model.training:
        raise ValueError("the model is in training mode; call model.eval() first")


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _scaled(maps: Tensor) -> Tensor:
    """Divide each map (N, H, W), non-negative, by its maximum; one of zeros stays."""
    peaks = maps.amax(dim=(1, 2), keepdim=True)
    return maps / torch.where(peaks > 0, peaks, 1)


# ---------------------------------------------------------------------------------------- measures
def energy_in_mask(cam: Tensor | np.ndarray, mask: Tensor | np.ndarray) -> Tensor:
    """Share of each map's energy that lies in the mask: (N,) in [0, 1].

    Args:
        cam: saliency, (N, H, W), none negative.
        mask: where the object is, (N, H, W) bool, somewhere in each image.

    Raises:
        ValueError: for shapes that differ, a negative saliency, and an empty mask.

    >>> energy_in_mask(torch.tensor([[[3.0, 1.0]]]), torch.tensor([[[True, False]]]))
    tensor([0.7500], dtype=torch.float64)
    """
    cam, mask = _checked(cam, mask)
    energy, inside = cam.sum(dim=(1, 2)), (cam * mask).sum(dim=(1, 2))
    return torch.where(energy > 0, inside / torch.where(energy > 0, energy, 1), mask_share(mask))


def pointing_game(cam: Tensor | np.ndarray, mask: Tensor | np.ndarray) -> Tensor:
    """Whether each map's maximum lies in the mask: (N,), 0 or 1.

    Where several pixels share the maximum, the share of them in the mask; so a map of zeros gets
    the mask's share of the image. Takes and raises what `energy_in_mask` does.

    >>> pointing_game(torch.tensor([[[3.0, 1.0]]]), torch.tensor([[[True, False]]]))
    tensor([1.], dtype=torch.float64)
    """
    cam, mask = _checked(cam, mask)
    peaks = cam == cam.amax(dim=(1, 2), keepdim=True)
    return (peaks & mask).sum(dim=(1, 2)) / peaks.sum(dim=(1, 2)).double()


def mask_share(mask: Tensor | np.ndarray) -> Tensor:
    """Share of each image that is mask (N,): what both measures give a uniform map, by chance."""
    return torch.as_tensor(mask).double().mean(dim=(1, 2))


def mask_from_box(boxes: Tensor | np.ndarray, height: int, width: int) -> Tensor:
    """Turn boxes into masks, for sets that know no more: (N, height, width) bool.

    Args:
        boxes: left, top, right, bottom in pixels, (N, 4); a pixel counts if its centre is inside.
        height: of the images in pixels.
        width: of the images in pixels.

    Raises:
        ValueError: for a box that holds no pixel of the image.

    >>> mask_from_box(torch.tensor([[1, 0, 3, 1]]), height=2, width=3).int().tolist()
    [[[0, 1, 1], [0, 0, 0]]]
    """
    left, top, right, bottom = torch.as_tensor(boxes)[:, :, None].unbind(dim=1)
    across, down = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    columns, rows = (left <= across) & (across < right), (top <= down) & (down < bottom)
    masks = rows[:, :, None] & columns[:, None, :]
    if not masks.flatten(1).any(dim=1).all():
        raise ValueError(f"a box holds no pixel of an image {height}x{width}")
    return masks


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


# ------------------------------------------------------------------------------ randomised weights
def randomised_cascade(model: nn.Module, seed: int) -> Iterator[tuple[str, nn.Module]]:
    """Shuffle the weights of a model from its output down to its input, one part after another.

    Yields:
        Name of the part shuffled last, and a copy of the model in which it and all nearer to the
        output are shuffled; in the last copy all parts are. The model itself is left as it was.
    """
    model, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    for name, part in reversed(_parts(model)):
        _shuffle(part, generator)
        yield name, copy.deepcopy(model)


def _parts(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Children that hold weights, in order; of the child, where there is but one."""
    parts = [
        (n, part) for n, part in model.named_children() if any(True for _ in part.parameters())
    ]
    return _parts(parts[0][1]) if len(parts) == 1 else parts


@torch.no_grad()
def _shuffle(part: nn.Module, generator: Generator) -> None:
    """Permute the values within each weight, and within each running statistic."""
    for tensor in part.state_dict().values():
        order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
        tensor.copy_(tensor.flatten()[order].view_as(tensor))
