"""A study of context-guided data augmentation with diffusion models (DiffCoRe-Mix).

The method (Islam & Akhtar, arXiv 2503.10687): a text-to-image model draws counterparts of each
training image from contextual prompts, a filter compares their embeddings, and the accepted ones
are mixed into the image they came from. A folder answers for each step; the notebooks ask.

>>> from diffcore import DiffCoReMix
>>> DiffCoReMix(alpha=1.0).alpha
1.0
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

#: Public name -> the module that defines it; loaded when it is first asked for.
_HOMES = {
    "Study": "study", "load_params": "params", "plan_generation": "prompts.plan",
    "load_pipeline": "generation.pipelines", "generate": "generation.draw",
    "load_encoder": "filtering.encoders", "hard_filter": "filtering.rules",
    "pixel_mix": "mixing.mix", "patch_mix": "mixing.mix", "DiffCoReMix": "mixing.mix",
    "PairedDataset": "data.pairs",
}  # fmt: skip
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    """Load a public name from its home."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
