"""What a study can know, and what it lacks to start: told at once, before any work.

What only some data sets let us measure is a *capability*: a cell that needs one is tagged
``needs-<capability>``, and left out where it lacks. Files are looked for without loading a model or
asking the network; each gap is told with the command that fills it.
"""

import json
import platform
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from huggingface_hub import constants, try_to_load_from_cache
from safetensors import safe_open
from tqdm.auto import tqdm

from diffcore.data.images import find_images, read_image
from diffcore.data.layouts import PhotosError, download, find_missing
from diffcore.data.published import PUBLISHED
from diffcore.data.splits import Split, load_split, test_splits
from diffcore.data.weights import check_model_name, find_weights, is_file_name, refuse_torchscript
from diffcore.methods.registry import study_methods
from diffcore.params import (
    EncoderSpec,
    PipelineSpec,
    PromptParams,
    StudyParams,
    UserError,
    is_hub_id,
    project_root,
    resolve_device,
    resolve_precision,
)
from diffcore.prompts.prompt_set import choose_prompt_set
from diffcore.store import write_text

#: What a cell can need, in words that end "it needs ...".
CAPABILITIES = {
    "paperbirds": "Paperbirds, whose renderer and oracle know the truth of every image",
    "truth": "to know which generated images are wrong",
    "pipeline": "a text-to-image model; this study takes images that are there already",
    "surrogates": "photographs that stand in for generated images",
    "imports": "generated images that were made elsewhere",
    "masks": "masks or boxes of the objects, which this data set does not bring",
    "texts": "an encoder that reads texts",
    "sweeps": "the ablation and the sweeps, which runs.sweeps turns on",
}
#: The packages whose versions can change a number.
_PACKAGES = (
    *("accelerate", "captum", "datasets", "diffusers", "numpy", "open_clip_torch", "pandas"),
    *("pillow", "pyarrow", "scikit-learn", "scipy", "statsmodels", "timm", "torch"),
    *("torchmetrics", "torchvision", "transformers"),
)
_BOXED = frozenset({"paperbirds", "cub200", "cars", "caltech101", "tiny_imagenet"})
_SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
#: Last part of a path in the profiles -> the repository that it is fetched from.
_FETCHED_FROM = {
    "cosxl.safetensors": "stabilityai/cosxl",
    "sdxl-config": _SDXL,
    "sdxl-vae-fp16-fix": "madebyollin/sdxl-vae-fp16-fix",
    "vit_base_patch32_clip_224.openai": "timm/vit_base_patch32_clip_224.openai",
}
_CONFIG_FILES = '--include "*.json" --include "*.txt"'
_MODEL_FILES = f'{_CONFIG_FILES} --include "*/*.safetensors" --exclude "*.fp16.safetensors"'
_TOLD = 10  # images that cannot be used, at most
_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


class MissingFilesError(UserError, FileNotFoundError):
    """Files without which a study cannot start; the message is for the person who starts it."""


class CapabilityError(RuntimeError):
    """Something was asked that this study cannot know; the message says what it needs."""

    def __init__(self, capability: str):
        super().__init__(f"this study cannot answer that: it needs {CAPABILITIES[capability]}")


def capabilities(params: StudyParams) -> frozenset[str]:
    """What of `CAPABILITIES` a study has.

    >>> from diffcore.params import load_params
    >>> sorted(frozenset(CAPABILITIES) - capabilities(load_params("demo")))
    ['imports', 'surrogates']
    """
    kind, drawn = params.generation.pipeline.kind, params.generation.can_draw
    paperbirds = params.data.dataset == "paperbirds" and drawn
    has = {
        "paperbirds": paperbirds,
        "truth": paperbirds or kind == "surrogate",
        "pipeline": drawn,
        "surrogates": kind == "surrogate",
        "imports": kind == "import",
        "masks": params.data.dataset in _BOXED,
        "texts": params.filtering.encoder.kind != "timm",
        "sweeps": params.runs.sweeps,
    }
    return frozenset(name for name, given in has.items() if given)


def environment() -> dict[str, Any]:
    """Collect what a number may depend on: revision, Python, machine, device and versions."""
    import torch  # slow to import

    has_gpu, threads = torch.cuda.is_available(), torch.get_num_threads()
    return {
        "git revision": _git_revision(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name() if has_gpu else f"CPU (threads: {threads})",
        "packages": {package: metadata.version(package) for package in _PACKAGES},
    }


def _git_revision() -> str:
    """Return the commit of the code, marked if any source but the reports has changed since."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parents[1]), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", ".", ":(exclude)reports")
        return git("rev-parse", "--short=12", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def require(params: StudyParams) -> None:
    """Resolve all that a profile names, and read every photograph, before any work begins.

    ParamsError for the prompts and the methods; MissingFilesError lists everything `missing`, and
    PhotosError the photographs that cannot be used.
    """
    choose_prompt_set(params.prompts)
    if params.generation.can_draw:
        styles = PromptParams(domain=params.prompts.domain, contexts=params.mixing.edit_prompts)
        choose_prompt_set(styles)
    study_methods(params)
    if gaps := missing(params):
        count = "1 thing is" if len(gaps) == 1 else f"{len(gaps)} things are"
        head = f"{params.profile} cannot start: {count} missing or wrong"
        lines = [f"{place}. {gap}" for place, gap in enumerate(gaps, 1)]
        foot = f"Paths without a leading / begin in {Path.cwd()}."
        raise MissingFilesError("\n".join([head, *lines, foot]))
    download(params.data)
    if params.data.dataset != "paperbirds":
        _read_photographs(params)


def _read_photographs(params: StudyParams) -> None:
    """Read and keep every image that the study will use; PhotosError lists what cannot be used."""
    run_dir, splits = project_root() / "runs" / params.profile, {}
    problems = []
    for split in ("train", *test_splits(params).values(), "spare"):
        if split != "spare" or params.generation.pipeline.kind == "surrogate":
            with _collecting(problems):
                splits[split] = load_split(params, split, run_dir)
    if not params.generation.can_draw and "train" in splits:
        with _collecting(problems):
            problems += _read_others(params, splits["train"], splits.get("spare"), run_dir)
    if problems:
        more = [f"and {len(problems) - _TOLD} more"] if len(problems) > _TOLD else []
        head = f"{params.profile} cannot start: these images cannot be used"
        raise PhotosError("\n".join([head, *problems[:_TOLD], *more]))


@contextmanager
def _collecting(problems: list[str]) -> Iterator[None]:
    """Add what is wrong to a list, a line each, and go on."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        problems.extend(str(error).splitlines())


def _read_others(
    params: StudyParams, train: Split, spare: Split | None, run_dir: Path
) -> list[str]:
    """Match images that are there already with classes; read imports once, while none changes."""
    from diffcore.generation.external import plan_others  # slow to import

    pipeline, problems = params.generation.pipeline, []
    if spare is None and pipeline.kind == "surrogate":
        return []  # what is wrong with it is told already
    mark = run_dir / "imports" / plan_others(params, train.metadata, spare).made_by["model_hash"]
    if pipeline.kind == "import" and not mark.exists():
        for file in tqdm(find_images(pipeline.location), "read imports", unit="image"):
            with _collecting(problems):
                read_image(Path(pipeline.location, file))
        if not problems:
            write_text(mark, "all of them can be read\n")
    return problems


def missing(params: StudyParams) -> list[str]:
    """Say of everything that a profile needs and this machine lacks what it is, and the remedy."""
    published = PUBLISHED.get(params.data.dataset)
    fetched = params.data.download and published is not None and published.files
    gaps = [] if fetched else find_missing(params.data)
    gaps += _pipeline_gaps(params.generation.pipeline)
    gaps += _encoder_gaps(params.filtering.encoder)
    return gaps + _choices(params)


# --------------------------------------------------------------------------------------- the checks
def _choices(params: StudyParams) -> list[str]:
    """Resolve devices, networks and trackers by their names; nothing is built or loaded."""
    from diffcore.training.networks import check_classifier  # slow to import

    training, encoder, told = params.training, params.filtering.encoder, []
    places = {"filtering.encoder.device": encoder.device}
    if params.generation.can_draw:
        places["generation.pipeline.device"] = params.generation.pipeline.device
    for setting, wanted in places.items():
        with _collecting(told):
            resolve_device(wanted, setting)
    with _collecting(told):
        device = resolve_device(training.device, "training.device")
        resolve_precision(training.precision, device)
    start = training.weights
    lacking = [*_weights_gaps("weights to start from", "training.weights", start)] if start else []
    told += lacking
    if not lacking:
        with _collecting(told):
            check_classifier(training)
    with _collecting(told):
        check_model_name(params.overhead.model, "overhead.model")
    with _collecting(told):
        _check_tracker(training.log_with)
    with _collecting(told):
        if encoder.kind == "timm":
            check_model_name(encoder.model_name, "filtering.encoder.model_name")
        elif encoder.kind == "open_clip" and is_file_name(encoder.pretrained or ""):
            refuse_torchscript(Path(encoder.pretrained))
    return [*dict.fromkeys(told)]


def _check_tracker(name: str | None) -> None:
    """Raise ValueError for a tracker that accelerate does not know, or that is not installed."""
    if name is None:
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers  # slow to import

    if name not in LOGGER_TYPE_TO_CLASS:
        known = ", ".join(LOGGER_TYPE_TO_CLASS)
        raise ValueError(f"training.log_with: no tracker {name!r}; there are {known}")
    if name not in get_available_trackers():
        raise ValueError(f"training.log_with: {name} is not installed; run `pip install {name}`")


def _pipeline_gaps(spec: PipelineSpec) -> Iterator[str]:
    """Look for the text-to-image model, its configuration and its autoencoder."""
    what, setting = "text-to-image model", "generation.pipeline"
    if spec.kind == "import":
        yield from _import_gaps(Path(spec.location), f"{setting}.location")
    elif spec.kind == "folder":
        yield from _folder_gap(what, spec.location, f"{setting}.location", _MODEL_FILES, spec)
    elif spec.kind == "hub":
        yield from _hub_gap(what, spec.location, "model_index.json", _MODEL_FILES, spec)
    elif spec.kind == "single_file":
        yield from _single_file_gaps(spec)
    if spec.vae is not None and spec.kind not in {"import", "surrogate"}:
        files = "config.json diffusion_pytorch_model.safetensors"
        if is_hub_id(spec.vae):
            yield from _hub_gap("autoencoder", spec.vae, "config.json", files, spec)
        elif lacking := _lacking(Path(spec.vae), "config.json", "*.safetensors"):
            yield _told("autoencoder", spec.vae, lacking, f"{setting}.vae", files)


def _import_gaps(root: Path, setting: str) -> Iterator[str]:
    gap = f"{root} holds no folder with images; put them there, a folder a class, or set {setting} "
    gap += "to where they are"
    try:
        if root.is_dir() and any("/" in file for file in find_images(root)):
            return
    except ValueError as error:
        gap = str(error)
    yield f"generated images: {gap}"


def _single_file_gaps(spec: PipelineSpec) -> Iterator[str]:
    path, setting = Path(spec.location), "generation.pipeline.location"
    if path.suffix != ".safetensors":
        yield (
            f"text-to-image model: {path} is no .safetensors file; others can run code when "
            f"opened. Set {setting} to one that is"
        )
    elif not path.is_file():
        remedy = f"set {setting} to a checkpoint of SDXL's family, or generation.pipeline.kind to "
        remedy += "import or surrogate, which need none"
        yield f"text-to-image model: {path} does not exist; {_fetch(path, path.name)}{remedy}"
    else:
        yield from _damage("text-to-image model", path, "model.diffusion_model.")
    what = "configuration of the text-to-image model"
    if spec.config is not None:
        setting = "generation.pipeline.config"
        yield from _folder_gap(what, spec.config, setting, _CONFIG_FILES, spec, weights=False)
    else:
        yield from _hub_gap(what, _SDXL, "model_index.json", _CONFIG_FILES, spec)


def _encoder_gaps(spec: EncoderSpec) -> Iterator[str]:
    schema, _, place = spec.model_name.rpartition(":")
    if spec.kind == "paperbirds":
        return
    if spec.kind == "timm" or (not schema and is_file_name(spec.pretrained or "")):
        yield from _weights_gaps("encoder", "filtering.encoder.pretrained", spec.pretrained)
    elif schema == "local-dir":
        if lacking := _lacking(Path(place), "open_clip_config.json", "*.safetensors"):
            setting = "filtering.encoder.model_name, with local-dir: before it,"
            yield _told("encoder", place, lacking, setting, "")
        for file in sorted(Path(place).glob("*.safetensors")):
            yield from _damage("encoder", file)
    elif repository := _clip_repository(spec):
        if not any(_cached(repository, file) for file in _CLIP_WEIGHTS):
            yield from _hub_gap("encoder", repository, _CLIP_WEIGHTS[0], "")
    else:
        yield (
            f"encoder: open_clip has no weights {spec.pretrained!r} of {spec.model_name}; set "
            "filtering.encoder.model_name and pretrained to a pair of open_clip.list_pretrained()"
        )


def _clip_repository(spec: EncoderSpec) -> str | None:
    """Ask open_clip from which repository it has the weights."""
    if spec.model_name.startswith("hf-hub:"):
        return spec.model_name.removeprefix("hf-hub:")
    from open_clip.pretrained import get_pretrained_cfg  # takes seconds to import

    config = get_pretrained_cfg(spec.model_name.replace("/", "-"), spec.pretrained or "")
    found = config.get("hf_hub")
    return "/".join(found.split("/")[:2]) if found else None


def _weights_gaps(what: str, setting: str, weights: str | None) -> Iterator[str]:
    try:
        if weights is None:
            raise ValueError("null names none; name a file or package:<name>")
        find_weights(weights)
    except (FileNotFoundError, ValueError) as error:
        yield f"{what}: {setting}: {error}"


# --------------------------------------------------------------------------- folders, and the hub
def _folder_gap(
    what: str, folder: str, setting: str, files: str, spec: PipelineSpec, weights: bool = True
) -> Iterator[str]:
    """Name what the folder of a pipeline lacks, part by part as its index lists them."""
    index = Path(folder) / "model_index.json"
    lacking = _lacking(Path(folder), index.name)
    parts = {} if lacking else json.loads(index.read_text(encoding="utf-8"))
    for name, entry in parts.items():
        network = isinstance(entry, list) and str(entry[-1]).endswith(("Model", "Projection", "KL"))
        if network and not (name == "vae" and spec.vae is not None):
            wanted = ("config.json", "*.safetensors") if weights else ("config.json",)
            lacking += [f"{name}/{file}" for file in _lacking(Path(folder, name), *wanted)]
    if lacking:
        yield _told(what, folder, lacking, setting, files)
    elif weights:
        for path in sorted(Path(folder).glob("*/*.safetensors")):
            yield from _damage(what, path)


def _damage(what: str, path: Path, start: str = "") -> Iterator[str]:
    """Tell of a file that is no safetensors file, or whose tensors have other names."""
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
    except Exception as error:  # the library's own kind is not public
        yield f"{what}: {path} is damaged or no safetensors file ({error}); fetch it anew"
    else:
        if not any(name.startswith(start) for name in names):
            held = f"tensors such as {names[0]!r}" if names else "nothing"
            yield f"{what}: {path} holds {held}, and none that starts with {start!r}; name another"


def _lacking(folder: Path, *patterns: str) -> list[str]:
    return [pattern for pattern in patterns if not any(folder.glob(pattern))]


def _told(what: str, folder: str, lacking: Sequence[str], setting: str, files: str) -> str:
    """Word a gap in a folder, and how to fill it."""
    state = f"lacks {', '.join(lacking[:3])}" if Path(folder).is_dir() else "does not exist"
    fetch = _fetch(Path(folder), files)
    return f"{what}: the folder {folder} {state}; {fetch}set {setting} to another"


def _fetch(path: Path, files: str) -> str:
    """Say how a known file or folder is fetched to where it is looked for."""
    repository = _FETCHED_FROM.get(path.name)
    if repository is None:
        return ""
    folder = path.parent if path.suffix else path
    command = " ".join(filter(None, ["hf download", repository, files, f"--local-dir {folder}"]))
    licence = " (if that is refused, accept the licence on the model's page first)"
    return f"run `{command}`{licence if path.suffix else ''}, or "


def _hub_gap(
    what: str, repository: str, file: str, files: str, spec: PipelineSpec | None = None
) -> Iterator[str]:
    """Tell of a repository that is not in the hub's cache where the hub may not be asked."""
    local = spec is not None and spec.local_files_only
    setting = "generation.pipeline.local_files_only" if local else "HF_HUB_OFFLINE"
    if (local or constants.HF_HUB_OFFLINE) and not _cached(repository, file):
        command = f"hf download {repository} {files}".strip()
        yield (
            f"{what}: {repository} is not in the hub's cache, and {setting} forbids to fetch it; "
            f"where there is a network, run `{command}`"
        )


def _cached(repository: str, file: str) -> bool:
    return isinstance(try_to_load_from_cache(repository, file), str)
