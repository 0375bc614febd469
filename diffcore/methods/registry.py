"""Every method that the study compares, as one step between a batch and the optimiser.

The counterpart of a real image is a generated image of its class, an edit of it, or itself where it
has none. All methods share the sampling, the base augmentation and the number of steps. Generated
images as extra data, without mixing, are such a step too ("added"): each real image gives way to
its counterpart by chance. "mixed_added" mixes the images and does that to some of them.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Generator, Tensor
from torch.nn.functional import one_hot

from diffcore.methods.baselines import MIXES, POLICIES, make_mix, make_policy
from diffcore.methods.diffusemix import DiffuseMix, draw_fractals
from diffcore.mixing.mix import DiffCoReMix, device_of
from diffcore.params import ParamsError, StudyParams

#: (real, counterpart (B, 3, H, W) in [0, 1], labels (B,), generator) -> images, targets (B, K).
Method = Callable[[Tensor, Tensor, Tensor, Generator | None], tuple[Tensor, Tensor]]

BASELINES = ("vanilla", *MIXES, *POLICIES)
#: Methods that need counterparts drawn by the text-to-image model.
GENERATIVE = ("diffusemix", "added", "diffcoremix", "mixed_added")
METHODS = (*BASELINES, *GENERATIVE)
#: Methods without which there is nothing to compare.
REQUIRED = ("vanilla", "cutmix", "added", "diffcoremix", "mixed_added")


def study_methods(params: StudyParams) -> list[str]:
    """Methods of the main table: those asked for, or all for which there are images.

    Raises ParamsError, naming every method that is unknown, has no images or lacks, also of those
    that the seventh notebook looks at in detail.
    """
    possible = [name for name in METHODS if params.generation.can_draw or name != "diffusemix"]
    wanted = params.runs.methods or possible
    problems = [f"{name!r} is no method" for name in wanted if name not in METHODS]
    if "diffusemix" in wanted and "diffusemix" not in possible:
        problems.append("'diffusemix' needs a pipeline that can edit")
    if lacking := [repr(name) for name in REQUIRED if name not in wanted]:
        problems.append(f"{', '.join(lacking)} must be there, as every notebook compares with them")
    if problems:
        problems.append(f"there are {', '.join(possible)}")
        raise ParamsError(f"runs.methods: {'; '.join(problems)}")
    if others := [repr(n) for n in params.robustness.methods_in_detail if n not in wanted]:
        told = f"{', '.join(others)} are not among the methods {', '.join(wanted)}"
        raise ParamsError(f"robustness.methods_in_detail: {told}")
    return [name for name in METHODS if name in wanted]


def method_settings(name: str, params: StudyParams) -> dict[str, float]:
    """All that a method, one of `METHODS` or ValueError, depends on besides its batch."""
    if name not in METHODS:
        raise ValueError(f"no method {name!r}; there are {', '.join(METHODS)}")
    mixing, own = params.mixing, getattr(params.training.methods, name, None)
    settings = own.model_dump() if own else {}
    if name in {"diffcoremix", "mixed_added"}:
        settings |= mixing.model_dump(include={"alpha", "patch_share"})
        settings["mixed_share"] = mixing.probability
    if name == "diffusemix":
        settings |= mixing.model_dump(include={"seam", "fractal_share", "fractals"})
        size = params.data.image_size or params.generation.height  # of Paperbirds, they are one
        settings |= {"size": size, "seed": params.seed}
    return settings


def make_method(name: str, settings: Mapping[str, float], num_classes: int) -> Method:
    """Make a method from the settings that `method_settings` returns, for targets (B, num_classes).

    >>> from diffcore.params import load_params
    >>> mix = make_method("diffcoremix", method_settings("diffcoremix", load_params("demo")), 12)
    >>> real, generated = torch.rand(2, 8, 3, 64, 64)
    >>> [out.shape for out in mix(real, generated, torch.arange(8), None)]
    [torch.Size([8, 3, 64, 64]), torch.Size([8, 12])]
    """
    step, share = _make_step(name, settings, num_classes), settings.get("probability", 1.0)
    swapped = settings.get("swapped", 0.0)

    def method(
        real: Tensor, other: Tensor, labels: Tensor, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        own = one_hot(labels, num_classes).to(real.dtype)
        if name not in MIXES:
            return _change(name, step, share, swapped, real, other, generator), own
        chosen = _choose(share, real, generator)
        images, targets = step(real, labels, generator)
        return torch.where(chosen, images, real), torch.where(chosen[:, :, 0, 0], targets, own)

    return method


def _make_step(name: str, settings: Mapping[str, float], num_classes: int) -> Callable | None:
    """Make what a method does to the images that it is applied to; None for nothing of its own."""
    if name in MIXES:
        return make_mix(name, num_classes, settings["alpha"])
    if name in POLICIES:
        return make_policy(name)
    if name == "diffusemix":
        fractals = draw_fractals(settings["fractals"], settings["size"], settings["seed"])
        return DiffuseMix(fractals, settings["seam"], settings["fractal_share"])
    if name in {"diffcoremix", "mixed_added"}:
        return DiffCoReMix(settings["alpha"], settings["patch_share"], settings["mixed_share"])
    return None


def _change(
    name: str, step: Callable | None, share: float, swapped: float,
    images: Tensor, other: Tensor, generator: Generator | None,
) -> Tensor:  # fmt: skip
    """Change images by a method that keeps the labels."""
    if name in {"diffcoremix", "mixed_added"}:
        images = _mix(step, swapped, images, other, generator)
    if name in {"diffcoremix", "vanilla"}:
        return images
    chosen = _choose(share, images, generator)
    if name in POLICIES and chosen.any():  # one by one, which spares the cost of the others
        some = (chosen.flatten(),)
        other = images.index_put(some, step(images[some], generator))
    if name == "diffusemix":
        other = step(images, other, generator).images
    return torch.where(chosen, other, images)


def _mix(
    step: Callable, swapped: float, images: Tensor, other: Tensor, generator: Generator | None
) -> Tensor:
    """Mix images with their counterparts; a share of the pairs with the two in each other's place.

    The swap is for comparisons at one mass of generated pixels (`diffcore.methods.pixel_share`).
    """
    if swapped:
        chosen = _choose(swapped, images, generator)
        images, other = torch.where(chosen, other, images), torch.where(chosen, images, other)
    return step(images, other, generator).images


def _choose(share: float, images: Tensor, generator: Generator | None) -> Tensor:
    """Draw which images a method is applied to: (B, 1, 1, 1) bool."""
    chances = torch.rand(len(images), generator=generator, device=device_of(generator))
    return (chances < share).to(images.device)[:, None, None, None]
