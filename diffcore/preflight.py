"""What a profile needs and this machine lacks, all at once and before any work starts.

No part of the paper. A profile of photographs needs a data set, a text-to-image model, its
autoencoder, an encoder and perhaps weights to start from. Each would be missed where it is first
used, the last of them after hours of drawing; here they are looked for together, in seconds,
without loading a model and without fetching or writing a file.
"""

# Light on purpose: no torch, diffusers, timm or open_clip, which take seconds to import.
import json
import socket
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from huggingface_hub import constants, try_to_load_from_cache

from diffcore.params import DataParams, EncoderSpec, PipelineSpec, StudyParams, TrainingParams
from diffcore.weights import CLIP_REMEDY, find_weights, is_file_name, refuse_torchscript

_PATIENCE_S = 3.0  # for the hub's answer
_FOLDER = "checkpoints"  # where the profiles look for models
_SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
#: Last part of a path in the profiles -> what to fetch for it from the hub.
_FETCHED_FROM = {
    "cosxl.safetensors": "stabilityai/cosxl",
    "sdxl-config": _SDXL,
    "sdxl-vae-fp16-fix": "madebyollin/sdxl-vae-fp16-fix",
}
_CONFIG_FILES = '--include "*.json" --include "*.txt"'
_PIPELINE_FILES = f'{_CONFIG_FILES} --include "*/*.safetensors" --exclude "*.fp16.safetensors"'
_VAE_FILES = ("config.json", "diffusion_pytorch_model.safetensors")
#: How the class of a part of a pipeline ends -> its file of settings; of networks config.json.
_SETTINGS_FILES = {
    "Scheduler": "scheduler_config.json",
    "Tokenizer": "tokenizer_config.json",
    "TokenizerFast": "tokenizer_config.json",
    "Processor": "preprocessor_config.json",
    "FeatureExtractor": "preprocessor_config.json",
}
_CLIP_CONFIG = "open_clip_config.json"
_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
#: Where open_clip has the weights of the paper's encoder from; it is slow to be asked.
_CLIP_REPOSITORIES = {("ViT-B-32", "openai"): "timm/vit_base_patch32_clip_224.openai"}


class MissingFilesError(FileNotFoundError):
    """Files without which a study cannot start; the message is for the person who starts it."""

    def _render_traceback_(self) -> list[str]:
        """Let IPython show the message alone: the stack says nothing about a file."""
        return [f"MissingFilesError: {self}"]


def missing(params: StudyParams) -> list[str]:
    """Say of everything that a profile needs and this machine lacks what it is, and the remedy."""
    hub = _Hub()
    return [
        *_data_gaps(params.data),
        *_pipeline_gaps(params.generation.pipeline, hub),
        *_encoder_gaps(params.filtering.encoder, hub),
        *_training_gaps(params.training),
    ]


def require(params: StudyParams) -> None:
    """Raise MissingFilesError that lists all of `missing`, if there is anything."""
    if gaps := missing(params):
        count = "1 thing is" if len(gaps) == 1 else f"{len(gaps)} things are"
        lines = [f"{place}. {gap}" for place, gap in enumerate(gaps, 1)]
        raise MissingFilesError(
            "\n".join(
                [
                    f"{params.profile} cannot start: {count} missing",
                    *lines,
                    f"Paths without a leading / begin in {Path.cwd()}.",
                ]
            )
        )


# ---------------------------------------------------------------------------------------- the hub
class _Hub:
    """The hub of models: what its cache on this machine holds, and whether it can be asked."""

    @cached_property
    def answers(self) -> bool:
        """Whether it takes a connection; asked at most once, for `_PATIENCE_S` seconds."""
        return _in_time(*_address(constants.ENDPOINT))

    def refusal(self, forbidden_by: str | None = None) -> str | None:
        """Say why a file that is not in the cache cannot be had; None if it can."""
        if constants.HF_HUB_OFFLINE:
            return "HF_HUB_OFFLINE forbids to ask the hub"
        if forbidden_by is not None:
            return f"{forbidden_by} forbids to ask the hub"
        return None if self.answers else f"the hub ({constants.ENDPOINT}) does not answer"

    @staticmethod
    def cached(repository: str, file: str) -> Path | None:
        """Return where the cache has a file."""
        found = try_to_load_from_cache(repository, file)
        return Path(found) if isinstance(found, str) else None


def _address(site: str) -> tuple[str, int]:
    """Host and port of a site, or of the proxy that leads there."""
    there = urlsplit(site)
    proxy = getproxies().get(there.scheme)
    way = urlsplit(proxy) if proxy and not proxy_bypass(there.hostname) else there
    return way.hostname, way.port or (443 if way.scheme == "https" else 80)


def _in_time(host: str, port: int) -> bool:
    """Whether a host takes a connection within `_PATIENCE_S` seconds."""
    found: list[bool] = []
    # In a thread, as looking up a name has no time limit of its own.
    asking = Thread(target=lambda: found.append(_connects(host, port)), daemon=True)
    asking.start()
    asking.join(_PATIENCE_S)
    return any(found)


def _connects(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=_PATIENCE_S).close()
    except OSError:
        return False
    return True


def _not_cached(
    what: str, repository: str, reason: str, files: str, remedy: str, name: str | None = None
) -> str:
    """Word a gap that the hub could fill: `remedy` says what to set to the fetched folder."""
    folder = f"{_FOLDER}/{name or repository.rpartition('/')[2]}"
    return (
        f"{what}: {repository} is not in the hub's cache, and {reason}. Where there is a network: "
        f"`hf download {repository} {files} --local-dir {folder}`; then set "
        f"{remedy.format(folder=folder)}"
    )


# ------------------------------------------------------------------------------------- the checks
def _data_gaps(settings: DataParams) -> Iterator[str]:
    """Yield what is missing of the photographs and cannot be fetched before the study starts."""
    if settings.dataset == "paperbirds":
        return
    from diffcore.photos import find_missing, sites  # need more than the rest of this module

    gaps, addresses = find_missing(settings), sites(settings)
    if gaps and addresses and _in_time(*_address(addresses[0])):
        return
    for gap in gaps:
        yield f"{gap} ({addresses[0]} does not answer)" if addresses else gap


def _pipeline_gaps(spec: PipelineSpec, hub: _Hub) -> Iterator[str]:
    checks = {
        "folder": _folder_gaps, "single_file": _single_file_gaps, "hub": _hub_gaps,
        "import": _import_gaps,
    }  # fmt: skip
    if spec.kind in checks:
        yield from checks[spec.kind](spec, hub)
    if spec.vae is not None and spec.kind not in {"import", "stand_in"}:
        yield from _vae_gaps(spec, hub)


def _folder_gaps(spec: PipelineSpec, hub: _Hub) -> Iterator[str]:
    folder = Path(spec.location)
    if gaps := _incomplete(folder, weights=True, given=_given(spec)):
        yield (
            f"text-to-image model: {_told(folder, gaps)}; put a folder in the format of diffusers "
            "there, or set generation.pipeline.location to one"
        )


def _single_file_gaps(spec: PipelineSpec, hub: _Hub) -> Iterator[str]:
    path = Path(spec.location)
    if path.suffix != ".safetensors":
        yield (
            f"text-to-image model: {path} is no .safetensors file; others can run code when "
            "opened. Set generation.pipeline.location to one that is"
        )
    elif not path.is_file():
        yield (
            f"text-to-image model: {path} does not exist; {_fetch_file(path)}set "
            "generation.pipeline.location to a checkpoint of SDXL's family, or "
            "generation.pipeline.kind to import or stand_in, which need none"
        )
    yield from _config_gaps(spec, hub)


def _config_gaps(spec: PipelineSpec, hub: _Hub) -> Iterator[str]:
    """Look for the configuration and tokenizers that a single file lacks."""
    what = "configuration of the text-to-image model"
    if spec.config is not None:
        folder = Path(spec.config)
        if gaps := _incomplete(folder, weights=False, given=_given(spec)):
            yield (
                f"{what}: {_told(folder, gaps)}; run `hf download {_SDXL} {_CONFIG_FILES} "
                f"--local-dir {folder}`, or set generation.pipeline.config to a folder that has it"
            )
    elif not _snapshot(hub, _SDXL, weights=False, given=_given(spec)) and (
        reason := hub.refusal(_forbidding(spec))
    ):
        remedy = "generation.pipeline.config to {folder}"
        yield _not_cached(what, _SDXL, reason, _CONFIG_FILES, remedy, "sdxl-config")


def _hub_gaps(spec: PipelineSpec, hub: _Hub) -> Iterator[str]:
    if not _snapshot(hub, spec.location, weights=True, given=_given(spec)) and (
        reason := hub.refusal(_forbidding(spec))
    ):
        remedy = "generation.pipeline.kind to folder and generation.pipeline.location to {folder}"
        yield _not_cached("text-to-image model", spec.location, reason, _PIPELINE_FILES, remedy)


def _import_gaps(spec: PipelineSpec, hub: _Hub) -> Iterator[str]:
    folder = Path(spec.location)
    if not (folder.is_dir() and any(child.is_dir() for child in folder.iterdir())):
        state = "has no folders in it" if folder.is_dir() else "does not exist"
        yield (
            f"generated images: {folder} {state}; put the images there, a folder a class, or set "
            "generation.pipeline.location to where they are"
        )


def _vae_gaps(spec: PipelineSpec, hub: _Hub) -> Iterator[str]:
    folder, repository = Path(spec.vae), _FETCHED_FROM.get(Path(spec.vae).name)
    if folder.is_dir() or not _is_hub_id(spec.vae):
        if gaps := _lacking(folder):
            get = f"run `hf download {repository} {' '.join(_VAE_FILES)} --local-dir {folder}`, or "
            yield (
                f"autoencoder: {_told(folder, gaps)}; {get if repository else ''}set "
                "generation.pipeline.vae to a folder with both, a hub id, or null for the model's "
                "own"
            )
    elif not all(hub.cached(spec.vae, file) for file in _VAE_FILES) and (
        reason := hub.refusal(_forbidding(spec))
    ):
        remedy = "generation.pipeline.vae to {folder}"
        yield _not_cached("autoencoder", spec.vae, reason, " ".join(_VAE_FILES), remedy)


def _encoder_gaps(spec: EncoderSpec, hub: _Hub) -> Iterator[str]:
    schema, _, place = spec.model_name.rpartition(":")
    if spec.kind == "paperbirds":
        return
    if spec.kind == "timm" or (not schema and is_file_name(spec.pretrained or "")):
        yield from _weights_gaps("encoder", "filtering.encoder.pretrained", spec.pretrained)
    elif schema == "local-dir":
        yield from _clip_folder_gaps(Path(place))
    else:
        yield from _clip_hub_gaps(spec, hub)


def _clip_folder_gaps(folder: Path) -> Iterator[str]:
    """Look for configuration and weights in the folder of a CLIP."""
    lacking = [] if (folder / _CLIP_CONFIG).is_file() else [_CLIP_CONFIG]
    if not any(file.suffix in {".safetensors", ".bin", ".pth"} for file in folder.glob("*")):
        lacking.append(_CLIP_WEIGHTS[0])
    if lacking:
        yield (
            f"encoder: {_told(folder, lacking)}; `hf download` of a repository of open_clip's "
            f"with --local-dir {folder} makes one, {next(iter(_CLIP_REPOSITORIES.values()))} for "
            "the paper's; or set filtering.encoder.model_name to local-dir:<another folder>"
        )


def _clip_hub_gaps(spec: EncoderSpec, hub: _Hub) -> Iterator[str]:
    """Look for the weights of a tag, or of a repository, in the hub's cache."""
    repository = spec.model_name.removeprefix("hf-hub:")
    if repository == spec.model_name:
        repository = _repository_of_tag(spec.model_name, spec.pretrained)
    if repository is None:
        yield (
            f"encoder: open_clip has no weights {spec.pretrained!r} of {spec.model_name}; set "
            "filtering.encoder.model_name and pretrained to a pair of open_clip.list_pretrained()"
        )
    elif not any(hub.cached(repository, file) for file in _CLIP_WEIGHTS) and (
        reason := hub.refusal()
    ):
        files = f'--include "*.json" --include {_CLIP_WEIGHTS[0]}'
        remedy = "filtering.encoder.model_name to local-dir:{folder}"
        yield _not_cached("encoder", repository, reason, files, remedy)


def _repository_of_tag(model_name: str, tag: str | None) -> str | None:
    """Ask open_clip from which repository it has the weights of a tag; None if from nowhere.

    Only the paper's is known beforehand; to be asked of another, open_clip takes seconds.
    """
    known = _CLIP_REPOSITORIES.get((model_name.removesuffix("-quickgelu"), tag))
    if known is not None:
        return known
    from open_clip.pretrained import get_pretrained_cfg

    found = get_pretrained_cfg(model_name.replace("/", "-"), tag or "").get("hf_hub")
    return "/".join(found.split("/")[:2]) if found else None


def _training_gaps(settings: TrainingParams) -> Iterator[str]:
    if settings.weights is not None:
        yield from _weights_gaps("weights to start from", "training.weights", settings.weights)


def _weights_gaps(what: str, setting: str, weights: str | None) -> Iterator[str]:
    """Look for a file of weights, or the package that has it."""
    try:
        if weights is None:
            raise ValueError("null names none; name a file or package:<name>")
        refuse_torchscript(find_weights(weights), CLIP_REMEDY)
    except (FileNotFoundError, ValueError) as error:
        yield f"{what}: {setting}: {error}"


# ---------------------------------------------------------------------------- folders of diffusers
def _incomplete(folder: Path, *, weights: bool, given: Sequence[str]) -> list[str]:
    """Name the files that the folder of a pipeline lacks; `given` parts come from elsewhere."""
    index = folder / "model_index.json"
    if not index.is_file():
        return [index.name]
    try:
        parts = json.loads(index.read_text(encoding="utf-8"))
    except ValueError:
        return [f"a readable {index.name}"]
    return [
        file
        for name, entry in parts.items()
        if _is_part(entry) and name not in given
        for file in _lacking_of_part(folder / name, entry[1], weights)
    ]


def _is_part(entry: Any) -> bool:
    """Whether an entry of an index is a library and a class in it, and not an option."""
    return isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], str)


def _lacking_of_part(folder: Path, class_name: str, weights: bool) -> list[str]:
    """Name the files that one part of a pipeline lacks."""
    ends = [file for end, file in _SETTINGS_FILES.items() if class_name.endswith(end)]
    lacking = [file for file in ends or ["config.json"] if not (folder / file).is_file()]
    if weights and not ends and not any(folder.glob("*.safetensors")):
        lacking.append("*.safetensors")
    return [f"{folder.name}/{file}" for file in lacking]


def _lacking(folder: Path) -> list[str]:
    """Name the files that the folder of an autoencoder lacks."""
    lacking = [] if (folder / _VAE_FILES[0]).is_file() else [_VAE_FILES[0]]
    return lacking if any(folder.glob("*.safetensors")) else [*lacking, _VAE_FILES[1]]


def _snapshot(hub: _Hub, repository: str, *, weights: bool, given: Sequence[str]) -> bool:
    """Whether the hub's cache holds a whole pipeline."""
    index = hub.cached(repository, "model_index.json")
    return index is not None and not _incomplete(index.parent, weights=weights, given=given)


def _given(spec: PipelineSpec) -> tuple[str, ...]:
    """Name the parts that are not loaded with the pipeline."""
    return () if spec.vae is None else ("vae",)


def _forbidding(spec: PipelineSpec) -> str | None:
    return "generation.pipeline.local_files_only" if spec.local_files_only else None


def _is_hub_id(location: str) -> bool:
    """Whether a text names a repository: owner/name, and not a folder of the profiles."""
    like_one = location.count("/") == 1 and not location.startswith((".", "/", "~"))
    return like_one and not location.startswith(f"{_FOLDER}/")


def _told(folder: Path, lacking: Sequence[str]) -> str:
    if not folder.is_dir():
        return f"the folder {folder} does not exist"
    more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
    return f"the folder {folder} lacks {', '.join(lacking[:3])}{more}"


def _fetch_file(path: Path) -> str:
    """Say how a known file is fetched to where it is looked for."""
    repository = _FETCHED_FROM.get(path.name)
    if repository is None:
        return ""
    return (
        f"run `hf download {repository} {path.name} --local-dir {path.parent}` (if that is "
        "refused, accept the licence on the model's page first), or "
    )
