"""Classifiers: timm models, by name, that take images as they are.

The authors train from random weights, as the study does by default. Few photographs need a network
that was trained on others (`diffcore.data.weights`). Our choice: ``resnetv2_18_small`` for small
images, as timm's ResNets begin at a quarter of an image.
"""

import difflib
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import load_file, save
from timm.models import register_model
from timm.models.resnetv2 import ResNetV2, resnetv2_18
from timm.optim import list_optimizers
from torch import Tensor, nn

from diffcore.data.weights import check_model_name, load_backbone
from diffcore.params import TrainingParams, resolve_device
from diffcore.store import write_bytes

_MEAN, _STD = 0.5, 0.25  # for networks that start from random weights


@register_model
def resnetv2_18_small(pretrained: bool = False, **kwargs: Any) -> ResNetV2:
    """Build a pre-activation ResNet-18 whose first stage works on every pixel.

    It has the 3 x 3 stem of CIFAR (He et al., 2016): 32 x 32 becomes maps of 32, 16, 8 and 4.
    """
    net = resnetv2_18(pretrained=False, **kwargs)
    first = net.stem.conv
    conv = nn.Conv2d(first.in_channels, first.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    net.stem = nn.Sequential(OrderedDict(conv=conv.to(first.weight.device)))
    return net


class Classifier(nn.Module):
    """A timm model that normalises images itself: (B, 3, H, W) in [0, 1] to logits (B, K)."""

    def __init__(self, net: nn.Module, mean: Any = _MEAN, std: Any = _STD):
        """Wrap a model that expects normalised images; one mean and std, or one per channel."""
        super().__init__()
        self.net = net
        # Not saved with the weights: it follows from the settings, as the architecture does.
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalise and classify."""
        return self.net((images - self.mean) / self.std)


def build_classifier(settings: TrainingParams, num_classes: int, seed: int = 0) -> Classifier:
    """Build a classifier: with random weights, or with `settings.weights` and a new last layer.

    What is random follows from the seed. Raises ValueError for an unknown model and for weights
    that do not fit, FileNotFoundError for missing weights.
    """
    check_model_name(settings.model, "training.model")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = _network(settings, num_classes)
    return _wrap(net, settings)


def check_classifier(settings: TrainingParams) -> None:
    """Raise ValueError for a model, arguments, weights or an optimiser that do not work."""
    check_model_name(settings.model, "training.model")
    if (name := settings.optimizer.removeprefix("lookahead_")) not in (known := list_optimizers()):
        near = ", ".join(difflib.get_close_matches(name, known, cutoff=0.4))
        raise ValueError(f"training.optimizer: timm has no {name!r}; near it: {near or 'none'}")
    with torch.device("meta"), warnings.catch_warnings(action="ignore"):  # no time, no randomness
        try:
            _network(settings, num_classes=2)
        except (FileNotFoundError, ValueError):  # their messages explain what is wrong
            raise
        except Exception as error:  # each model has errors of its own
            raise ValueError(f"training.model_args: {settings.model}: {error}") from None


def _network(settings: TrainingParams, num_classes: int) -> nn.Module:
    if settings.weights is None:
        return _untrained(settings, num_classes)
    layers = {"num_classes": num_classes, "new_last_layer": True}
    return load_backbone(settings.model, settings.weights, model_args=settings.model_args, **layers)


def _untrained(settings: TrainingParams, num_classes: int) -> nn.Module:
    return timm.create_model(settings.model, num_classes=num_classes, **settings.model_args)


def _wrap(net: nn.Module, settings: TrainingParams) -> Classifier:
    """Normalise images as they were for the weights that the network started from, if any."""
    mean, std = _MEAN, _STD
    if settings.weights is not None:
        mean, std = (net.pretrained_cfg[key] for key in ("mean", "std"))
    return Classifier(net, mean, std).to(memory_format=torch.channels_last)


def save_classifier(classifier: Classifier, path: Path) -> None:
    """Save the weights as safetensors."""
    state = {name: value.contiguous() for name, value in classifier.state_dict().items()}
    write_bytes(path, save(state))


def load_classifier(path: Path, settings: TrainingParams, num_classes: int) -> Classifier:
    """Load what `save_classifier` saved, and no other weights, for evaluation on its device."""
    with torch.random.fork_rng(devices=[]):
        classifier = _wrap(_untrained(settings, num_classes), settings)
    classifier.load_state_dict(load_file(path))
    return classifier.eval().to(resolve_device(settings.device, "training.device"))


@torch.inference_mode()
def predict(classifier: Classifier, images: np.ndarray | Tensor, batch_size: int = 256) -> Tensor:
    """Classify N images in batches: float32 logits (N, K) in main memory, in evaluation mode.

    Images are (N, H, W, 3) uint8, also read on demand, or (N, 3, H, W) in [0, 1].
    """
    device, trained = next(classifier.parameters()).device, classifier.training
    classifier.eval()
    logits = []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        # A copy, as arrays shared between processes are read-only, and those on a disk are too.
        batch = torch.tensor(batch) if isinstance(batch, np.ndarray) else batch
        logits.append(classifier(as_floats(batch.to(device))).float().cpu())
    classifier.train(trained)
    return torch.cat(logits)


def as_floats(images: Tensor) -> Tensor:
    """Turn 8-bit images, channels last or first, into (B, 3, H, W) in [0, 1]."""
    if images.dtype == torch.uint8:
        images = (images if images.shape[1] == 3 else images.permute(0, 3, 1, 2)) / 255
    return images.contiguous(memory_format=torch.channels_last)
