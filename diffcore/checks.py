"""What a study can know, and what it lacks to start: reported at once, before any work.

What only some data sets let us measure is a *capability*. A notebook's cell that needs one has the
tag ``needs-<capability>`` and is left out where it is lacking. Nothing is loaded or fetched to find
gaps; each comes with the command that fills it.
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
_MODEL = "text-to-image model"
_NETWORKS = ("Model", "Projection", "KL")  # ends of the names of classes that have weights
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

    Raises ParamsError for prompts and methods, MissingFilesError for all that is `missing`, and
    PhotosError for photographs that cannot be used.
    """
    choose_prompt_set(params.prompts)
    if params.generation.can_draw:
        styles = params.prompts.model_copy(update={"contexts": params.mixing.edit_prompts})
        choose_prompt_set(styles)
    for name in study_methods(params):
        method_of(name, params)
    if gaps := missing(params):
        head = f"{params.profile} cannot start; missing or wrong:"
        lines = [f"{place}. {gap}" for place, gap in enumerate(gaps, 1)]
        foot = f"Paths without a leading / begin in {Path.cwd()}."
        raise MissingFilesError("\n".join([head, *lines, foot]))
    if not find_dataset(params.data.dataset).keeps_images:
        download(params.data)
        _read_photographs(params, run_dir)


def _read_photographs(params: StudyParams, run_dir: Path) -> None:
    """Read and keep every image that the study will use; PhotosError lists what cannot be used."""
    problems, splits = [], {"spare": None}
    spare = ["spare"] if params.generation.pipeline.kind == "substitute" else []
    for split in ["train", *find_dataset(params.data.dataset).tests.values(), *spare]:
        with _collecting(problems):
            splits[split] = load_split(params, split, run_dir)
    if not params.generation.can_draw and not problems:
        with _collecting(problems):
            problems += _read_external(params, splits["train"], splits["spare"], run_dir)
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
    problems = [] if fetched else find_dataset(params.data.dataset).missing(params.data)
    for check in (
        *(_check_model, _check_configuration, _check_autoencoder, _check_encoder),
        *(_check_devices, _check_classifier),
    ):
        with _collecting(problems):
            check(params)
    return problems


# -------------------------------------------------------- the checks: ValueError says what is wrong
def _check_model(params: StudyParams) -> None:
    """Look for the text-to-image model, or for the images that take its place."""
    spec, setting = params.generation.pipeline, "generation.pipeline.location"
    if spec.kind == "import":
        root = Path(spec.location)
        if not root.is_dir() or not any("/" in file for file in find_images(root)):
            raise ValueError(
                f"generated images: {root} holds no folder with images; put them there, one folder "
                f"per class, or set {setting} to where they are"
            )
    elif spec.kind == "hub":
        _check_files(_MODEL, spec.location, ["model_index.json"], setting, _MODEL_FILES)
    elif spec.kind == "folder":
        folder = locate(spec.location)
        index, wanted = folder / "model_index.json", ["model_index.json"]
        parts = json.loads(index.read_text(encoding="utf-8")) if index.is_file() else {}
        for name, part in parts.items():
            network = isinstance(part, list) and str(part[-1]).endswith(_NETWORKS)
            if network and (name != "vae" or spec.vae is None):
                wanted += [f"{name}/config.json", f"{name}/*.safetensors"]
        _check_files(_MODEL, folder, wanted, setting, _MODEL_FILES)
    elif spec.kind == "single_file":
        path = Path(spec.location)
        if path.suffix != ".safetensors":
            raise ValueError(
                f"{_MODEL}: {path} is no .safetensors file; others can run code when opened. Set "
                f"{setting} to one that is"
            )
        if not path.is_file():
            raise ValueError(
                f"{_MODEL}: {path} does not exist; {_fetch(path.parent, path.name, path.name)}set "
                f"{setting} to a checkpoint of SDXL's family, or generation.pipeline.kind to "
                "import or substitute, which need none"
            )
        _check_tensors(_MODEL, path, "model.diffusion_model.")


def _check_configuration(params: StudyParams) -> None:
    spec, setting = params.generation.pipeline, "generation.pipeline.config"
    if spec.kind == "single_file":
        place, what = spec.config or _SDXL, f"configuration of the {_MODEL}"
        _check_files(what, place, ["model_index.json"], setting, _CONFIG_FILES)


def _check_autoencoder(params: StudyParams) -> None:
    vae, setting = params.generation.pipeline.vae, "generation.pipeline.vae"
    if vae is not None and params.generation.can_draw:
        fetched = "config.json diffusion_pytorch_model.safetensors"
        _check_files("autoencoder", vae, ["config.json", "*.safetensors"], setting, fetched)


def _check_encoder(params: StudyParams) -> None:
    """Look for the encoder, without building it."""
    spec, setting = params.filtering.encoder, "filtering.encoder"
    local = spec.model_name.startswith(("local-dir:", PACKAGE))
    if spec.kind == "timm":
        check_model_name(spec.model_name, f"{setting}.model_name")
        _find_weights(spec.pretrained, f"{setting}.pretrained")
    elif local:
        folder = locate(spec.model_name.removeprefix("local-dir:"))
        wanted = ["open_clip_config.json", "*.safetensors"]
        _check_files("encoder", folder, wanted, f"{setting}.model_name")
    elif is_file_name(spec.pretrained or ""):
        refuse_torchscript(_find_weights(spec.pretrained, f"{setting}.pretrained"))
    elif repository := _clip_repository(spec):
        _check_files("encoder", repository, _CLIP_WEIGHTS, f"{setting}.model_name")
    else:
        raise ValueError(
            f"encoder: open_clip has no weights {spec.pretrained!r} of {spec.model_name}; set "
            f"{setting}.model_name and pretrained to a pair of open_clip.list_pretrained()"
        )


def _clip_repository(spec: EncoderSpec) -> str | None:
    """Return the repository from which open_clip has the weights."""
    if spec.model_name.startswith("hf-hub:"):
        return spec.model_name.removeprefix("hf-hub:")
    from open_clip.pretrained import get_pretrained_cfg  # takes seconds to import

    config = get_pretrained_cfg(spec.model_name.replace("/", "-"), spec.pretrained or "")
    return "/".join(config.get("hf_hub", "").split("/")[:2]) or None


def _check_devices(params: StudyParams) -> None:
    resolve_device(params.filtering.encoder.device, "filtering.encoder.device")
    if params.generation.can_draw:
        resolve_device(params.generation.pipeline.device, "generation.pipeline.device")
    device = resolve_device(params.training.device, "training.device")
    resolve_precision(params.training.precision, device)


def _check_classifier(params: StudyParams) -> None:
    from diffcore.training.networks import check_classifier  # slow to import

    if params.training.weights:
        _find_weights(params.training.weights, "training.weights")
    check_classifier(params.training)


# ----------------------------------------------------------------------- files, and the hub's cache
def _find_weights(weights: str | None, setting: str) -> Path:
    try:
        return find_weights(weights or "")
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(f"{setting}: {error}") from None


def _check_files(
    what: str, place: str | Path, wanted: Sequence[str], setting: str, fetched: str = ""
) -> None:
    """Look for files in a folder, or for one of them in the cache of a repository of the hub."""
    if isinstance(place, str) and is_hub_id(place):
        cached = any(isinstance(try_to_load_from_cache(place, file), str) for file in wanted)
        if constants.HF_HUB_OFFLINE and not cached:
            raise ValueError(
                f"{what}: {place} is not in the hub's cache, and HF_HUB_OFFLINE forbids to fetch "
                f"it; where there is a network, run `{f'hf download {place} {fetched}'.strip()}`"
            )
        return
    folder = Path(place)
    for path in (path for pattern in wanted for path in sorted(folder.glob(pattern))):
        if path.suffix == ".safetensors":
            _check_tensors(what, path)
    if lacking := [pattern for pattern in wanted if not any(folder.glob(pattern))]:
        state = f"lacks {', '.join(lacking[:3])}" if folder.is_dir() else "does not exist"
        remedy = f"{_fetch(folder, folder.name, fetched)}set {setting} to another"
        raise ValueError(f"{what}: the folder {folder} {state}; {remedy}")


def _check_tensors(what: str, path: Path, start: str = "") -> None:
    """Reject a file that is no safetensors file, or whose tensors have other names."""
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
    except Exception as error:  # the library's own kind is not public
        problem = f"is damaged or no safetensors file ({error}); fetch it anew"
        raise ValueError(f"{what}: {path} {problem}") from None
    if not any(name.startswith(start) for name in names):
        held = f"tensors such as {names[0]!r}" if names else "nothing"
        raise ValueError(
            f"{what}: {path} holds {held}, and none that starts with {start!r}; name another"
        )


def _fetch(folder: Path, known: str, files: str) -> str:
    """Say how a known file or folder is fetched to where it is looked for."""
    if known not in _FETCHED_FROM:
        return ""
    command = f"hf download {_FETCHED_FROM[known]} {files} --local-dir {folder}"
    return f"run `{command}` (if refused, accept the licence on the model's page first), or "
