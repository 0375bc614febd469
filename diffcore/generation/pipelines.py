"""Pipelines: one call loads every kind of text-to-image model, and a digest tells them apart.

From CosXL in one file to a tiny model inside a package, all become the same kind of pipeline. Our
choice: only safetensors are read, since a pickled checkpoint can run code, and no watermark is
drawn, since its presence would depend on an optional package.
"""

import json
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from huggingface_hub import try_to_load_from_cache

from diffcore.params import PipelineSpec, is_hub_id, resolve_device
from diffcore.store import digest, file_digest, locate, verify_sums

_EMBEDS = ("prompt_embeds", "negative_prompt_embeds")
#: Family -> what its prompts are encoded to, in the order in which it returns them.
FAMILIES: dict[type[DiffusionPipeline], tuple[str, ...]] = {
    StableDiffusionXLPipeline: (*_EMBEDS, "pooled_prompt_embeds", "negative_pooled_prompt_embeds"),
    StableDiffusionPipeline: _EMBEDS,
}

_MODEL_FILES = (".json", ".safetensors", ".txt")
# What of a configuration depends on the version of a library, or follows from the weights.
_PASSING = ("transformers_version", "dtype", "architectures")
_SOFTWARE = ("diffusers", "torch", "transformers")


class LazyPipeline:
    """A text-to-image model that is loaded when it has to draw, and known by its digest before."""

    def __init__(self, spec: PipelineSpec | None, loaded: DiffusionPipeline | None = None):
        self.spec, self._loaded = spec, loaded

    @classmethod
    def of(cls, pipeline: "LazyPipeline | DiffusionPipeline") -> "LazyPipeline":
        """Wrap a loaded pipeline; raises TypeError for one that is of none of the `FAMILIES`."""
        return pipeline if isinstance(pipeline, cls) else cls(None, _checked(pipeline))

    def load(self) -> DiffusionPipeline:
        """Load the model, once; see `load_pipeline`."""
        if self._loaded is None:
            self._loaded = load_pipeline(self.spec)
        return self._loaded

    @cached_property
    def name(self) -> str:
        """The last part of its path or hub id, which no machine's folders enter."""
        if self.spec is None:
            return Path(self._loaded.name_or_path or type(self._loaded).__name__).name
        return Path(_location(self.spec)).name

    @cached_property
    def digest(self) -> str:
        """Hash all that turns a prompt and noise into pixels, without loading the weights.

        Of local files their content, of the hub's their commit, and precision and schedule; not
        where they lie, nor the device. What the hub has and this machine lacks is fetched first.
        """
        if self.spec is None:
            return hash_model(self._loaded)
        if None in _contents(self.spec):
            self.load()
        scheduler = self.spec.scheduler and self.spec.scheduler.model_dump()
        return digest(*_contents(self.spec), self.spec.dtype, scheduler)

    def made_with(self, batch_size: int) -> dict[str, Any]:
        """Return what may change the last bit of a pixel beside its row; loads the model."""
        device = self.load().device
        kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        made_with = {"batch_size": batch_size, "device": kind}
        return made_with | {name: version(name) for name in _SOFTWARE}


def load_pipeline(spec: PipelineSpec) -> DiffusionPipeline:
    """Load a text-to-image pipeline, on its device, in its precision, without a bar.

    FileNotFoundError for a local model that is not there, ValueError for a single file that is no
    safetensors file and for an absent GPU, TypeError for a pipeline of none of the `FAMILIES`.
    """
    device, source = resolve_device(spec.device, "generation.pipeline.device"), _location(spec)
    if spec.kind == "single_file" and not source.endswith(".safetensors"):
        raise ValueError(f"{source} is no .safetensors file; others can run code when opened")
    if spec.kind != "hub" and not Path(source).exists():
        raise FileNotFoundError(f"{source} does not exist; set generation.pipeline.location")
    # A single file lacks its configuration, which diffusers fetches unless a folder has it.
    local = spec.kind == "folder" or (spec.kind == "single_file" and spec.config is not None)
    options = {"dtype": getattr(torch, spec.dtype)}
    safe = options | {"use_safetensors": True}
    load_vae = diffusers.AutoencoderKL.from_pretrained
    parts = {} if spec.vae is None else {"vae": load_vae(spec.vae, **safe)}
    if spec.kind == "single_file":
        parts |= {} if spec.config is None else {"config": spec.config}
        pipeline = _family(spec.config).from_single_file(
            source, **parts, **options, local_files_only=local
        )
        pipeline.register_to_config(_name_or_path=source)  # as one from a folder has it
    else:
        safe["local_files_only"] = local
        pipeline = DiffusionPipeline.from_pretrained(source, **parts, **safe)
    if spec.scheduler is not None:  # from nothing but its specification, as the authors do
        scheduler = getattr(diffusers, spec.scheduler.class_name)
        pipeline.scheduler = scheduler(**spec.scheduler.settings)
    pipeline.watermark = None
    pipeline.set_progress_bar_config(disable=True)
    return _checked(pipeline).to(device)


def hash_model(pipeline: DiffusionPipeline) -> str:
    """Hash what a loaded pipeline is made of: settings, vocabularies, weights, their precision."""
    parts: list[Any] = []
    for name, part in [("", pipeline), *sorted(pipeline.components.items())]:
        config = getattr(part, "config", {})
        config = config.to_dict() if hasattr(config, "to_dict") else dict(config)
        kept = {key for key in config if not key.startswith("_") and key not in _PASSING}
        weights = part.state_dict() if isinstance(part, torch.nn.Module) else {}
        parts += [name, type(part).__name__, {key: config[key] for key in kept}]
        parts.append(part.get_vocab() if hasattr(part, "get_vocab") else {})
        for key, weight in sorted(weights.items()):
            content = torch.atleast_1d(weight).cpu().contiguous().view(torch.uint8).numpy()
            parts.append(digest(key, str(weight.dtype), content))
    return digest(*parts)


def _checked(pipeline: Any) -> DiffusionPipeline:
    if not isinstance(pipeline, tuple(FAMILIES)):
        raise TypeError(
            f"cannot draw with a {type(pipeline).__name__}; a pipeline of SDXL or of Stable "
            "Diffusion 1 and 2 is needed"
        )
    return pipeline


def _location(spec: PipelineSpec) -> str:
    """Return the hub id, or the path of local files, which are verified where sums are known."""
    if spec.kind == "hub":
        return spec.location
    path = locate(spec.location)
    verify_sums(path)
    return str(path)


def _contents(spec: PipelineSpec) -> list[Any]:
    """Digests of model, configuration and autoencoder; None for one that is to be fetched."""
    named = {_location(spec): "model_index.json", spec.config: "", spec.vae: "config.json"}
    return [_content(location, index) for location, index in named.items() if location]


def _content(location: str, index: str) -> Any:
    """Digests of local files, or the commit of the hub's; None if neither is on this machine."""
    if is_hub_id(location):
        cached = try_to_load_from_cache(location, index)
        return Path(cached).parent.name if isinstance(cached, str) else None
    root = Path(location)
    files = [root] if root.is_file() else sorted(root.rglob("*"))
    chosen = [file for file in files if file.suffix in _MODEL_FILES]
    return [(file.relative_to(root).as_posix(), file_digest(file)) for file in chosen] or None


def _family(config: str | None) -> type[DiffusionPipeline]:
    """Read from a single file's configuration which pipeline it is for; without one, SDXL's."""
    index = Path(config, "model_index.json") if config else None
    named = json.loads(index.read_text()).get("_class_name") if index and index.is_file() else None
    return {family.__name__: family for family in FAMILIES}.get(named, StableDiffusionXLPipeline)
