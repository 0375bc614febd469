"""What a study can know, and what it lacks to start: reported at once, before any work.

What only some data sets let us measure is a *capability*. A notebook's cell that needs one has the
tag ``needs-<capability>`` and is left out where it is lacking. Files are looked for without loading
a model or asking the network; each gap comes with the command that fills it.
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

from diffcore.data.datasets import find_dataset, load_split
from diffcore.data.images import find_images, read_image
from diffcore.data.layouts import PhotosError, download
from diffcore.data.published import PUBLISHED
from diffcore.data.splits import Split
from diffcore.data.weights import check_model_name, find_weights, is_file_name, refuse_torchscript
from diffcore.methods import method_of, study_methods
from diffcore.params import (
    EncoderSpec,
    PipelineSpec,
    StudyParams,
    UserError,
    is_hub_id,
    resolve_device,
    resolve_precision,
)
from diffcore.prompts.prompt_set import choose_prompt_set
from diffcore.store import PACKAGE, locate, write_text

#: What a cell can need, in words that end "it needs ...".
CAPABILITIES = {
    "renders": "a data set that can render its scenes anew and knows the truth of every image",
    "truth": "to know which generated images are wrong",
    "pipeline": "a text-to-image model; this study takes images that exist already",
    "substitutes": "photographs that stand in for generated images",
    "imports": "generated images from another tool",
    "masks": "masks or boxes of the objects, which this data set does not have",
    "texts": "an encoder that reads texts",
    "sweeps": "the ablation and the sweeps, which runs.sweep_seeds turns on",
}
#: The packages whose versions can change a number.
_PACKAGES = (
    *("accelerate", "captum", "datasets", "diffusers", "numpy", "open_clip_torch", "pandas"),
    *("pillow", "pyarrow", "scikit-learn", "scipy", "statsmodels", "timm", "torch"),
    *("torchmetrics", "torchvision", "transformers"),
)
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
_LISTED = 10  # images that cannot be used, at most
_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


class MissingFilesError(UserError, FileNotFoundError):
    """Files without which a study cannot start; the message is for the person who starts it."""


class CapabilityError(RuntimeError):
    """Something that this study cannot know; the message says what it needs."""

    def __init__(self, capability: str):
        super().__init__(f"this study cannot answer that: it needs {CAPABILITIES[capability]}")


def capabilities(params: StudyParams) -> frozenset[str]:
    """Return what of `CAPABILITIES` a study has.

    >>> from diffcore.params import load_params
    >>> sorted(frozenset(CAPABILITIES) - capabilities(load_params("demo")))
    ['imports', 'substitutes']
    """
    kind, drawn = params.generation.pipeline.kind, params.generation.can_draw
    dataset = find_dataset(params.data.dataset)
    renders = dataset.has_renders and drawn
    has = {
        "renders": renders,
        "truth": renders or kind == "substitute",
        "pipeline": drawn,
        "substitutes": kind == "substitute",
        "imports": kind == "import",
        "masks": dataset.has_masks,
        "texts": params.filtering.encoder.kind != "timm",
        "sweeps": params.runs.sweep_seeds is not None,
    }
    return frozenset(name for name, value in has.items() if value)


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


def require(params: StudyParams, run_dir: Path) -> None:
    """Resolve all that a profile names, and read every photograph, before any work begins.

    ParamsError for the prompts and the methods; MissingFilesError lists everything `missing`, and
    PhotosError the photographs that cannot be used.
    """
    choose_prompt_set(params.prompts)
    if params.generation.can_draw:
        styles = params.prompts.model_copy(update={"contexts": params.mixing.edit_prompts})
        choose_prompt_set(styles)
    for name in study_methods(params):
        method_of(name, params)
    if gaps := missing(params):
        count = "1 thing is" if len(gaps) == 1 else f"{len(gaps)} things are"
        head = f"{params.profile} cannot start: {count} missing or wrong"
        lines = [f"{place}. {gap}" for place, gap in enumerate(gaps, 1)]
        foot = f"Paths without a leading / begin in {Path.cwd()}."
        raise MissingFilesError("\n".join([head, *lines, foot]))
    if not find_dataset(params.data.dataset).keeps_images:
        download(params.data)
        _read_photographs(params, run_dir)


def _read_photographs(params: StudyParams, run_dir: Path) -> None:
    """Read and keep every image that the study will use; PhotosError lists what cannot be used."""
    problems, splits = [], {}
    names = ["train", *find_dataset(params.data.dataset).tests.values()]
    if params.generation.pipeline.kind == "substitute":
        names.append("spare")
    for split in names:
        with _collecting(problems):
            splits[split] = load_split(params, split, run_dir)
    if not params.generation.can_draw and len(splits) == len(names):
        with _collecting(problems):
            problems += _read_external(params, splits["train"], splits.get("spare"), run_dir)
    if problems:
        more = [f"and {len(problems) - _LISTED} more"] if len(problems) > _LISTED else []
        head = f"{params.profile} cannot start: these images cannot be used"
        raise PhotosError("\n".join([head, *problems[:_LISTED], *more]))


@contextmanager
def _collecting(problems: list[str]) -> Iterator[None]:
    """Add what is wrong to a list, one line each, and go on."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        problems.extend(str(error).splitlines())


def _read_external(
    params: StudyParams, train: Split, spare: Split | None, run_dir: Path
) -> list[str]:
    """Match external images with classes; read imports once, while none of them changes."""
    from diffcore.generation.external import plan_external  # slow to import

    pipeline, problems = params.generation.pipeline, []
    mark = run_dir / "imports" / plan_external(params, train.metadata, spare).made_by["model_hash"]
    if pipeline.kind == "import" and not mark.exists():
        for file in tqdm(find_images(pipeline.location), "read imports", unit="image"):
            with _collecting(problems):
                read_image(Path(pipeline.location, file))
        if not problems:
            write_text(mark, "all of them can be read\n")
    return problems


def missing(params: StudyParams) -> list[str]:
    """Return one message for everything that a profile needs and this machine lacks."""
    published = PUBLISHED.get(params.data.dataset)
    fetched = params.data.download and published is not None and published.files
    gaps = [] if fetched else find_dataset(params.data.dataset).missing(params.data)
    gaps += _pipeline_gaps(params.generation.pipeline)
    gaps += _encoder_gaps(params.filtering.encoder)
    return gaps + _choices(params)


# --------------------------------------------------------------------------------------- the checks
def _choices(params: StudyParams) -> list[str]:
    """Resolve devices and networks by their names; nothing is built or loaded."""
    from diffcore.training.networks import check_classifier  # slow to import

    training, encoder, problems = params.training, params.filtering.encoder, []
    devices = {"filtering.encoder.device": encoder.device}
    if params.generation.can_draw:
        devices["generation.pipeline.device"] = params.generation.pipeline.device
    for setting, wanted in devices.items():
        with _collecting(problems):
            resolve_device(wanted, setting)
    with _collecting(problems):
        device = resolve_device(training.device, "training.device")
        resolve_precision(training.precision, device)
    lacking = []
    if training.weights:
        lacking = [*_weights_gaps("weights to start from", "training.weights", training.weights)]
    problems += lacking
    with _collecting(problems):
        if not lacking:
            check_classifier(training)
    with _collecting(problems):
        if encoder.kind == "timm":
            check_model_name(encoder.model_name, "filtering.encoder.model_name")
        elif is_file_name(encoder.pretrained or ""):
            refuse_torchscript(Path(encoder.pretrained))
    return [*dict.fromkeys(problems)]


def _pipeline_gaps(spec: PipelineSpec) -> Iterator[str]:
    """Look for the text-to-image model, its configuration and its autoencoder."""
    setting = "generation.pipeline"
    if spec.kind == "import":
        yield from _import_gaps(Path(spec.location), f"{setting}.location")
    elif spec.kind == "folder":
        yield from _folder_gaps(spec.location, f"{setting}.location", spec.vae is None)
    elif spec.kind == "hub":
        yield from _hub_gap("text-to-image model", spec.location, "model_index.json", _MODEL_FILES)
    elif spec.kind == "single_file":
        yield from _single_file_gaps(spec)
    if spec.vae is not None and spec.kind not in {"import", "substitute"}:
        files = "config.json diffusion_pytorch_model.safetensors"
        if is_hub_id(spec.vae):
            yield from _hub_gap("autoencoder", spec.vae, "config.json", files)
        else:
            wanted = ("config.json", "*.safetensors")
            yield from _files_gap("autoencoder", Path(spec.vae), wanted, f"{setting}.vae", files)


def _import_gaps(root: Path, setting: str) -> Iterator[str]:
    gap = f"{root} holds no folder with images; put them there, one folder per class, or set "
    gap += f"{setting} to where they are"
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
        remedy += "import or substitute, which need none"
        yield f"text-to-image model: {path} does not exist; {_fetch(path, path.name)}{remedy}"
    else:
        yield from _damage("text-to-image model", path, "model.diffusion_model.")
    what = "configuration of the text-to-image model"
    if spec.config is None:
        yield from _hub_gap(what, _SDXL, "model_index.json", _CONFIG_FILES)
    else:
        place, wanted = Path(spec.config), ("model_index.json",)
        setting = "generation.pipeline.config"
        yield from _files_gap(what, place, wanted, setting, _CONFIG_FILES)


def _folder_gaps(location: str, setting: str, needs_vae: bool) -> Iterator[str]:
    """Name what the folder of a pipeline lacks, part by part as its index lists them."""
    what = "text-to-image model"
    try:
        folder = locate(location)
    except (FileNotFoundError, ValueError) as error:
        yield f"{what}: {setting}: {error}"
        return
    index, wanted = folder / "model_index.json", ["model_index.json"]
    parts = json.loads(index.read_text(encoding="utf-8")) if index.is_file() else {}
    for name, entry in parts.items():
        network = isinstance(entry, list) and str(entry[-1]).endswith(("Model", "Projection", "KL"))
        if network and (name != "vae" or needs_vae):
            wanted += [f"{name}/config.json", f"{name}/*.safetensors"]
    gaps = [*_files_gap(what, folder, wanted, setting, _MODEL_FILES)]
    for path in [] if gaps else sorted(folder.glob("*/*.safetensors")):
        gaps += _damage(what, path)
    yield from gaps


def _encoder_gaps(spec: EncoderSpec) -> Iterator[str]:
    setting = "filtering.encoder.pretrained"
    local = spec.model_name.startswith(("local-dir:", PACKAGE))
    if spec.kind == "timm" or (not local and is_file_name(spec.pretrained or "")):
        yield from _weights_gaps("encoder", setting, spec.pretrained)
    elif local:
        folder = locate(spec.model_name.removeprefix("local-dir:"))
        wanted = ("open_clip_config.json", "*.safetensors")
        setting = "filtering.encoder.model_name"
        yield from _files_gap("encoder", folder, wanted, setting, "")
        for file in sorted(folder.glob("*.safetensors")):
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
    """Return the repository from which open_clip has the weights."""
    if spec.model_name.startswith("hf-hub:"):
        return spec.model_name.removeprefix("hf-hub:")
    from open_clip.pretrained import get_pretrained_cfg  # takes seconds to import

    config = get_pretrained_cfg(spec.model_name.replace("/", "-"), spec.pretrained or "")
    return "/".join(config.get("hf_hub", "").split("/")[:2]) or None


def _weights_gaps(what: str, setting: str, weights: str | None) -> Iterator[str]:
    try:
        if weights is None:
            raise ValueError("null names none; name a file or package:<name>")
        find_weights(weights)
    except (FileNotFoundError, ValueError) as error:
        yield f"{what}: {setting}: {error}"


# --------------------------------------------------------------------------- folders, and the hub
def _files_gap(
    what: str, folder: Path, wanted: Sequence[str], setting: str, files: str
) -> Iterator[str]:
    """Name the files that a folder lacks, and how to fill the gap."""
    lacking = [pattern for pattern in wanted if not any(folder.glob(pattern))]
    if lacking:
        state = f"lacks {', '.join(lacking[:3])}" if folder.is_dir() else "does not exist"
        fetch = _fetch(folder, files)
        yield f"{what}: the folder {folder} {state}; {fetch}set {setting} to another"


def _damage(what: str, path: Path, start: str = "") -> Iterator[str]:
    """Name a file that is no safetensors file, or whose tensors have other names."""
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
    except Exception as error:  # the library's own kind is not public
        yield f"{what}: {path} is damaged or no safetensors file ({error}); fetch it anew"
    else:
        if not any(name.startswith(start) for name in names):
            held = f"tensors such as {names[0]!r}" if names else "nothing"
            yield f"{what}: {path} holds {held}, and none that starts with {start!r}; name another"


def _fetch(path: Path, files: str) -> str:
    """Say how a known file or folder is fetched to where it is looked for."""
    repository = _FETCHED_FROM.get(path.name)
    if repository is None:
        return ""
    folder = path.parent if path.suffix else path
    command = " ".join(filter(None, ["hf download", repository, files, f"--local-dir {folder}"]))
    licence = " (if that is refused, accept the licence on the model's page first)"
    return f"run `{command}`{licence if path.suffix else ''}, or "


def _hub_gap(what: str, repository: str, file: str, files: str) -> Iterator[str]:
    """Name a repository that is not in the hub's cache where the hub may not be asked."""
    if constants.HF_HUB_OFFLINE and not _cached(repository, file):
        command = f"hf download {repository} {files}".strip()
        yield (
            f"{what}: {repository} is not in the hub's cache, and HF_HUB_OFFLINE forbids to fetch "
            f"it; where there is a network, run `{command}`"
        )


def _cached(repository: str, file: str) -> bool:
    return isinstance(try_to_load_from_cache(repository, file), str)
