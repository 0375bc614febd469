"""Every method that the study compares, as one step between a batch and the optimiser.

A method gets a batch of real images, a counterpart of each (a generated image of its class, an edit
of it, or itself where it has none) and the labels, and returns what is trained on. So all methods
share the sampling, the base augmentation and the number of steps, and differ in this step alone.

Generated images as extra data, without mixing, are such a step too ("added"): each real image gives
way to its counterpart by chance, so that a share of every batch is generated images, each as likely
as another. "mixed_added" does that to some images and mixes the others.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache

import torch
from torch import Generator, Tensor
from torch.nn.functional import one_hot

from diffcore.baselines import BASELINES, make_baseline
from diffcore.diffusemix import DiffuseMix, draw_fractals
from diffcore.mixing import DiffCoReMix
from diffcore.params import StudyParams

#: (real, counterpart (B, 3, H, W) in [0, 1], labels (B,), generator) -> images, targets (B, K).
Method = Callable[[Tensor, Tensor, Tensor, Generator | None], tuple[Tensor, Tensor]]

#: Methods that need counterparts drawn by the text-to-image model.
GENERATIVE = ("diffusemix", "added", "diffcoremix", "mixed_added")
METHODS = (*BASELINES, *GENERATIVE)
#: Methods that mix images of the batch with each other; the others change each image on its own.
_ACROSS = ("mixup", "cutmix", "saliencymix")


def method_settings(name: str, params: StudyParams) -> dict[str, float]:
    """All that a method depends on, besides its batch: what `make_method` takes.

    Raises:
        ValueError: for a name that is not one of `METHODS`.
    """
    if name not in METHODS:
        raise ValueError(f"no method {name!r}; there are {', '.join(METHODS)}")
    mixing = params.mixing
    own = getattr(params.training.methods, name, None)
    settings = {} if own is None else own.model_dump()
    if name in {"diffcoremix", "mixed_added"}:
        settings |= {"alpha": mixing.alpha, "patch_share": mixing.patch_share}
        settings["mixed_share"] = mixing.probability
    if name == "diffusemix":
        settings |= mixing.model_dump(include={"seam", "fractal_share", "fractals"})
        size = params.data.image_size or params.generation.height  # of Paperbirds, they are one
        settings |= {"size": size, "seed": params.seed}
    return settings


def make_method(name: str, settings: Mapping[str, float], num_classes: int) -> Method:
    """Make a method from the settings that `method_settings` returns.

    Args:
        name: one of `METHODS`.
        settings: of the method.
        num_classes: width K of the targets, whose rows sum to 1.

    >>> from diffcore.params import load_params
    >>> mix = make_method("diffcoremix", method_settings("diffcoremix", load_params("demo")), 12)
    >>> real, generated = torch.rand(2, 8, 3, 64, 64)
    >>> [out.shape for out in mix(real, generated, torch.arange(8), None)]
    [torch.Size([8, 3, 64, 64]), torch.Size([8, 12])]
    """
    if name in _ACROSS:
        mix = make_baseline(name, num_classes, settings["alpha"])
        return _sometimes(lambda real, _, *rest: mix(real, *rest), settings, num_classes)
    if name in BASELINES:
        change = make_baseline(name, num_classes)
        keep = _kept_labels(num_classes, lambda real, _, g: _some(change, real, settings, g))
        return keep if settings else lambda real, _, *rest: change(real, *rest)
    return _generative(name, settings, num_classes)


def _generative(name: str, settings: Mapping[str, float], num_classes: int) -> Method:
    """Make a method that takes counterparts; the labels stay."""
    if name == "diffusemix":
        fractals = _fractals(settings["fractals"], settings["size"], settings["seed"])
        join = DiffuseMix(fractals, settings["seam"], settings["fractal_share"])
        whole = _kept_labels(num_classes, lambda *batch: join(*batch).images)
        return _sometimes(whole, settings, num_classes)
    if name == "added":
        return _kept_labels(num_classes, lambda *batch: _replace(*batch, settings["probability"]))
    mix = DiffCoReMix(settings["alpha"], settings["patch_share"], settings["mixed_share"])
    if name == "diffcoremix":
        return _kept_labels(num_classes, lambda *batch: mix(*batch).images)

    def mix_or_replace(real: Tensor, generated: Tensor, generator: Generator | None) -> Tensor:
        mixed = mix(real, generated, generator).images
        return _replace(mixed, generated, generator, settings["probability"])

    return _kept_labels(num_classes, mix_or_replace)


def _kept_labels(
    num_classes: int, change: Callable[[Tensor, Tensor, Generator | None], Tensor]
) -> Method:
    """Make a method of a change that leaves the labels as they are."""
    return lambda real, other, labels, generator: (
        change(real, other, generator),
        one_hot(labels, num_classes).to(real.dtype),
    )


def _sometimes(method: Method, settings: Mapping[str, float], num_classes: int) -> Method:
    """Apply a method to whole batches, but leave some images and their labels as they were."""

    def apply(
        real: Tensor, other: Tensor, labels: Tensor, generator: Generator | None
    ) -> tuple[Tensor, Tensor]:
        chosen = _draw(len(real), settings["probability"], generator, real.device)
        images, targets = method(real, other, labels, generator)
        own = one_hot(labels, num_classes).to(targets)
        return (
            torch.where(chosen[:, None, None, None], images, real),
            torch.where(chosen[:, None], targets, own),
        )

    return apply


def _some(
    change: Callable, images: Tensor, settings: Mapping[str, float], generator: Generator | None
) -> Tensor:
    """Change some images, each on its own, and spare the cost of the others."""
    chosen = _draw(len(images), settings["probability"], generator, images.device)
    if not chosen.any():
        return images
    labels = torch.zeros(int(chosen.sum()), dtype=torch.long, device=images.device)
    changed = images.clone()
    changed[chosen] = change(images[chosen], labels, generator)[0]
    return changed


def _replace(
    images: Tensor, others: Tensor, generator: Generator | None, probability: float
) -> Tensor:
    """Put others in the place of some images."""
    chosen = _draw(len(images), probability, generator, images.device)
    return torch.where(chosen[:, None, None, None], others, images)


def _draw(
    count: int, probability: float, generator: Generator | None, device: torch.device
) -> Tensor:
    """Draw which of `count` images a method is applied to: (count,) bool."""
    source = "cpu" if generator is None else generator.device
    chances = torch.rand(count, generator=generator, device=source)
    return (chances < probability).to(device)


@lru_cache(maxsize=2)
def _fractals(count: int, size: int, seed: int) -> Tensor:
    """Draw the fractals once a process: it takes longer than a training step."""
    return draw_fractals(count, size, seed)
