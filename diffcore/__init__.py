"""A study of context-guided data augmentation with diffusion models (DiffCoRe-Mix).

The method (Islam & Akhtar, arXiv 2503.10687): a text-to-image model draws counterparts of each
training image from contextual prompts, a filter compares their embeddings, and the accepted ones
are mixed into the image that they were drawn for. There is a package for each step.

>>> from diffcore import DiffCoReMix
>>> DiffCoReMix(alpha=1.0).alpha
1.0
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

#: Public name -> the module that defines it, which is imported when the name is first used.
_MODULES = {
    "Study": "study",
    "load_params": "params",
    "plan_generation": "prompts.plan",
    "load_pipeline": "generation.pipelines",
    "generate": "generation.draw",
    "load_encoder": "filtering.encoders",
    "hard_filter": "filtering.rules",
    "pixel_mix": "mixing.mix",
    "patch_mix": "mixing.mix",
    "DiffCoReMix": "mixing.mix",
    "PairedDataset": "data.pairs",
}
__all__ = [*_MODULES]


def __getattr__(name: str) -> Any:
    """Import a public name from its module."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
