"""Typed parameters of the whole study: one frozen model, filled from a profile and overrides.

The defaults are the settings that the paper's authors released with their code (CosXL, EDM Euler,
guidance 12, 50 steps, 512 x 512, generated share 0.3). A profile is a YAML file in ``params/``: it
holds what differs from its ``base`` and says why. Overrides come last, from a notebook or the
command line. A mistake is reported with its place, its value and what would be legal.

>>> load_params("demo", {"generation.guidance_scale": 4.0}).generation.guidance_scale
4.0
"""

from __future__ import annotations

import difflib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

OVERRIDES = "overrides"
SAVED = "params.yaml"  # beside a report: all parameters that it rests on
_SAMPLER = {"guidance_scale", "num_inference_steps", "batch_size", "shard_size"}

#: A place that values come from, and the values as nested mappings.
_Layer = tuple[str, dict[str, Any]]


class UserError(Exception):
    """What the person who starts a study has to put right; the message says how."""

    def _render_traceback_(self) -> list[str]:
        """Let IPython show the message alone, as a stack does not help with a typo or a file."""
        return [f"{type(self).__name__}: {self}"]


class ParamsError(UserError, ValueError):
    """Parameters that cannot be used; the message is for the person who wrote them."""


# ------------------------------------------------------------------------------------- the models
# A list in YAML, a tuple here, so that a frozen model is frozen all the way down.
_Tuple = Field(strict=False)
_NonEmpty = Field(min_length=1, strict=False)

Count = Annotated[int, Field(ge=1)]
Several = Annotated[int, Field(ge=2)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Part = Annotated[float, Field(gt=0, lt=1)]  # neither nothing nor all
Alpha = Annotated[float, Field(gt=0, le=100)]
Pixels = Annotated[int, Field(ge=16, le=2048, multiple_of=8)]
Name = Annotated[str, Field(min_length=1)]
Device = Literal["auto", "cpu", "cuda"]  # auto takes a GPU if there is one; see `resolve_device`
Texts = Annotated[tuple[str, ...], _NonEmpty]
Counts = Annotated[tuple[Count, ...], _Tuple]  # points of a sweep; without points it is left out
Shares = Annotated[tuple[Share, ...], _Tuple]


class _Section(BaseModel):
    """Base of all sections: frozen, strict (no text for a number), closed to unknown keys."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class SchedulerSpec(_Section):
    """Noise schedule and solver that replace those saved with a pipeline."""

    class_name: Literal["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"] = "EDMEulerScheduler"
    settings: dict[str, Any] = {  # of this class of diffusers; the authors' own
        "sigma_min": 0.002,
        "sigma_max": 120.0,
        "sigma_data": 1.0,
        "prediction_type": "v_prediction",
        "sigma_schedule": "exponential",
    }


class PipelineSpec(_Section):
    """Which text-to-image model draws, where it is loaded from and how it is run."""

    # A folder of diffusers, one file or a hub id; or no model: images imported from a class/image
    # tree, or other photographs of the set as substitutes.
    kind: Literal["folder", "single_file", "hub", "import", "substitute"] = "single_file"
    location: Name = "checkpoints/cosxl.safetensors"  # path, package:<name>/<path> or hub id
    config: str | None = None  # local folder with the configuration that a single file lacks
    vae: str | None = "madebyollin/sdxl-vae-fp16-fix"  # folder or hub id; null: the model's own
    scheduler: SchedulerSpec | None = SchedulerSpec()  # null: the model's own
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"  # of weights and activations
    device: Device = "auto"


class GenerationParams(_Section):
    """How many counterparts are drawn, and with which sampler settings."""

    pipeline: PipelineSpec = PipelineSpec()
    guidance_scale: Annotated[float, Field(ge=1, le=50)] = 12.0  # classifier-free; 1 is none
    num_inference_steps: Annotated[int, Field(ge=1, le=1000)] = 50  # denoising steps per image
    image_size: Pixels = 512  # side of the generated images
    generated_share: Alpha = 0.3  # generated images per training image; above 1 is several
    batch_size: Count = 8  # images denoised together; changes speed alone
    shard_size: Count = 256  # images in a Parquet file, the most that a kill can lose

    @property
    def sampler(self) -> dict[str, float]:
        """The settings that drawing and restyling take as they are."""
        sides = {"height": self.image_size, "width": self.image_size}
        return self.model_dump(include=_SAMPLER) | sides

    @property
    def can_draw(self) -> bool:
        """Whether there is a text-to-image model, and not only images that exist already."""
        return self.pipeline.kind not in {"import", "substitute"}


class PromptParams(_Section):
    """What is asked of the text-to-image model; null takes it from the prompt set."""

    domain: Name = "birds"  # name of a prompt set, or a YAML file (also package:<name>/<path>)
    template: str | None = None  # with {class_name} and, if wanted, {domain_noun} and {context}
    contexts: Texts | None = None  # to name
    negatives: Annotated[tuple[str, ...], _Tuple] | None = None  # to steer away from; [] is none


class DataParams(_Section):
    """Which images are trained and tested on."""

    dataset: Name = "folder"  # a class/image tree, one of the paper's sets, or a registered one
    root: Name | None = None  # folder of the photographs
    download: bool = False  # fetch a set that is not there, where that can be
    image_size: Pixels | None = None  # square that photographs are brought to; null: as they are
    options: dict[str, Any] = {}  # what the data set itself offers, by its own names
    train_images_per_class: Count | None = None  # at most; null: all
    test_images_per_class: Count | None = None  # likewise, of each test split


class EncoderSpec(_Section):
    """Which encoder compares images, where it is loaded from and how it is run."""

    # Any model that open_clip loads, or a classifier of timm without its last layer, which reads
    # no texts.
    kind: Literal["open_clip", "timm"] = "open_clip"
    model_name: Name = "ViT-B-32"  # the library's, local-dir:<folder> or package:<name>/<path>
    pretrained: str | None = "openai"  # tag, file or package:<name>; null for a folder
    device: Device = "auto"


class FilteringParams(_Section):
    """Which generated images are kept."""

    encoder: EncoderSpec = EncoderSpec()
    rule: Literal["source", "class_mean", "class_nearest", "class_first", "margin"] = "source"
    threshold: Annotated[float, Field(ge=-1, le=1)] | None = 0.6  # null: calibrated on real pairs
    quantile: Part = 0.05  # share of real pairs below a calibrated threshold
    max_attempts: Annotated[int, Field(ge=0, le=100)] = 0  # to draw a rejected image again


class MixingParams(_Section):
    """How images are mixed by DiffCoRe-Mix, and by DiffuseMix, which restyles them first."""

    alpha: Alpha = 1.0  # of λ ~ Beta(α, α); 1 is even (our choice)
    patch_share: Share = 0.5  # mixed at patch level, the rest at pixel level (our choice)
    probability: Share = 1.0  # of images that are mixed at all (our choice)
    edit_prompts: Texts = (  # style prompts of DiffuseMix; its authors' own
        *("autumn", "snowy", "watercolor art", "sunset", "rainbow", "aurora", "mosaic"),
        *("ukiyo-e", "a sketch with crayon"),
    )
    edit_strength: Annotated[float, Field(gt=0, le=1)] = 0.6  # 1 leaves nothing (our choice)


class TrainingParams(_Section):
    """How classifiers are trained: the same for every method, but for the method itself."""

    model: Name = "resnet50"  # of timm
    model_args: dict[str, Any] = {}  # of timm.create_model
    weights: Name | None = None  # to start from: a file or package:<name>; null: random
    optimizer: Name = "sgd"  # of timm
    lr: Positive = 0.025  # peak of the cosine schedule; the authors' 0.1 · batch / 256
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4  # the authors', for Cars
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of the steps
    batch_size: Count = 64  # images per step, over all processes
    epochs: Count = 128  # over the real images; the authors', for Cars
    steps: Count | None = None  # the same for every method; null: from the epochs
    crop_scale: Annotated[float, Field(gt=0, le=1)] = 0.4  # least area of a crop (our choice)
    # Of matrix products and convolutions; see `resolve_precision`.
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: Device = "auto"
    loader_workers: Annotated[int, Field(ge=0)] = 0  # processes that read images ahead
    methods: dict[str, dict[str, float]] = {}  # settings by method; `diffcore.methods` has them


FilterCondition = Literal[
    *("no filter", "at random", "source", "class_mean", "class_nearest", "class_first"),
    *("margin", "text", "the oracle"),
]


class ShareParams(_Section):
    """A number of generated images, and the settings that methods get at it (make tune)."""

    share: Positive  # generated, or restyled, images per real image
    changes: dict[str, Any] = {}  # of parameters, by dotted keys


class RunsParams(_Section):
    """Which classifiers are trained and compared, and from how many seeds."""

    methods: Texts | None = None  # of the main table; null: all for which there are images
    seeds: Several = 5  # of the main table
    replicates: Count = 1  # training sets in it, each with its own generated images and tests
    shares: Annotated[tuple[ShareParams, ...], _Tuple] = ()  # in it, besides the study's own
    sweep_seeds: Several | None = 3  # of the ablation and the sweeps; null leaves them out
    ablation_images: Count = 500  # drawn again without negatives, and without context
    filter_seeds: Several = 10  # of the ways of filtering
    # Ways of filtering that are compared; null: all that the encoder can compute.
    filter_conditions: Annotated[tuple[FilterCondition, ...], _NonEmpty] | None = None
    tuning: Name | None = None  # table in params/tuning that the methods' settings come from
    pixel_shares: Annotated[tuple[Part, ...], _Tuple] = (0.1, 0.3, 0.5, 0.7, 0.9)  # generated
    steps: Counts = ()  # lengths of a training
    noise_shares: Shares = (0.2, 0.5)  # of generated images, swapped for another class's
    # Values by name of a data parameter or option, of which every combination is tried.
    conditions: dict[str, list[float | int]] = {}


class StudyParams(_Section):
    """All parameters of one profile; `profile` names the folders of its reports and runs."""

    profile: Annotated[str, Field(pattern=r"^[\w-]+$")]
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0  # every random draw follows from it
    data: DataParams = DataParams()
    prompts: PromptParams = PromptParams()
    generation: GenerationParams = GenerationParams()
    filtering: FilteringParams = FilteringParams()
    mixing: MixingParams = MixingParams()
    training: TrainingParams = TrainingParams()
    runs: RunsParams = RunsParams()
    notebooks: dict[str, dict[str, Any]] = {}  # values of a notebook's own parameters, by its name

    @model_validator(mode="after")
    def _shares_can_be_taken(self) -> StudyParams:
        """Reject a share above the study's own, as it is a part of what that draws."""
        most = self.generation.generated_share
        if above := [at.share for at in self.runs.shares if at.share >= most]:
            raise ValueError(f"runs.shares: {above[0]:g} must be below generated_share, {most:g}")
        return self


# ---------------------------------------------------------------------------------------- loading
def load_params(
    profile_or_path: str | Path, overrides: Mapping[str, Any] | None = None
) -> StudyParams:
    """Read a profile with its bases, lay the overrides over it and check the whole.

    A profile is the name of a file in ``params/`` or the path of any ``.yaml`` file, such as the
    ``params.yaml`` beside a report. Overrides have dotted keys (``{"generation.batch_size": 4}``)
    or are nested. Raises ParamsError for a profile that does not exist and for all that is illegal.
    """
    path = _find_profile(profile_or_path)
    start = (_short(path), {"profile": path.stem})
    layers = [start, *_read_layers(path), (OVERRIDES, _expand(overrides or {}))]
    params = _validate(layers)
    for at in params.runs.shares:  # checked now, or it would fail hours later
        change_params(params, {"runs.shares": [], **at.changes})
    # What was saved beside a report is of that profile, and may take its place.
    if params.profile in set(list_profiles()) - {path.stem} and path.name != SAVED:
        raise ParamsError(
            f"{_place(['profile'], layers)}: profile is {params.profile!r}, whose report would be "
            f"replaced by that of {path.stem}; take a name that no profile has"
        )
    return params


def change_params(params: StudyParams, changes: Mapping[str, Any]) -> StudyParams:
    """Change some parameters by dotted keys, for an experiment; ParamsError if one is not legal.

    >>> change_params(load_params("demo"), {"mixing.alpha": 0.5}).mixing.alpha
    0.5
    """
    return _validate([(params.profile, params.model_dump()), (params.profile, _expand(changes))])


def dump_params(params: StudyParams) -> str:
    """Write all parameters as compact YAML that `load_params` reads back unchanged."""
    yaml, file = _yaml(), io.StringIO()
    yaml.default_flow_style, yaml.width, yaml.allow_unicode = None, 100, True
    yaml.sort_base_mapping_type_on_output = False
    yaml.dump(params.model_dump(mode="json"), file)
    return file.getvalue()


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Turn ``key=value`` texts of a command line into overrides; values are read as YAML.

    >>> parse_assignments(["generation.guidance_scale=4.0", "runs.steps=[5, 10]"])
    {'generation.guidance_scale': 4.0, 'runs.steps': [5, 10]}
    """
    overrides = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not (key.strip() and equals):
            raise ParamsError(f"{OVERRIDES}: {assignment!r} is not of the form key=value")
        overrides[key.strip()] = _parse_yaml(value, f"{OVERRIDES}: {key.strip()}")
    return overrides


def project_root() -> Path:
    """Return where runs and reports go: the nearest folder with profiles, from here upwards.

    Without one it is the clone that holds this package or, without a clone, the working directory.
    """
    start, clone = Path.cwd(), Path(__file__).resolve().parents[1]
    with_profiles = (f for f in (start, *start.parents, clone) if any(f.glob("params/*.yaml")))
    return next(with_profiles, start)


def list_profiles() -> dict[str, Path]:
    """Return the files of all profiles by name."""
    return {file.stem: file for file in project_files("params/*.yaml", "profiles")}


def project_files(pattern: str, packaged: str) -> list[Path]:
    """List files of the project or, without any, those of the same names in the package."""
    in_project = sorted(project_root().glob(pattern))
    return in_project or sorted(Path(__file__).with_name(packaged).glob(Path(pattern).name))


def resolve_device(wanted: str, setting: str) -> str:
    """Turn "auto", "cpu" or "cuda" into where to run: "cuda" if there is a GPU and it may be used.

    An Apple GPU is left alone. ValueError names the setting for a GPU that this machine lacks.
    """
    import torch  # slow to import, and only needed where something runs

    has_gpu = torch.cuda.is_available()
    if wanted == "cuda" and not has_gpu:
        raise ValueError(f"{setting} is cuda, but torch finds no GPU; set it to auto or cpu")
    return "cuda" if has_gpu and wanted != "cpu" else "cpu"


def resolve_precision(wanted: str, device: str) -> str:
    """Turn "auto" into "bfloat16" where a device has instructions for it, and else into "float32".

    Where bfloat16 is emulated, it is several times slower than float32 (docs/performance.md).
    ValueError for float16 on a CPU, where a training would stay in float32 silently.
    """
    import torch

    if wanted == "float16" and device == "cpu":
        raise ValueError("training.precision is float16, which needs a GPU; set it to auto")
    if wanted != "auto":
        return wanted
    if device == "cuda":
        has = torch.cuda.is_bf16_supported(including_emulation=False)
    else:  # what torch was set to use counts, and not only what the CPU has
        capabilities = torch.cpu.get_capabilities()
        has = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
        has &= capabilities.get("avx512_bf16", False) or capabilities.get("amx_bf16", False)
    return "bfloat16" if has else "float32"


def is_hub_id(location: str) -> bool:
    """Whether a text names a repository of the hub, as owner/name, and no folder of this machine.

    >>> is_hub_id("madebyollin/sdxl-vae-fp16-fix"), is_hub_id("checkpoints/cosxl.safetensors")
    (True, False)
    """
    local = (".", "/", "~", "checkpoints/", "package:")
    if location.startswith(local) or location.count("/") != 1:
        return False
    return not Path(location).exists()


def _validate(layers: Sequence[_Layer]) -> StudyParams:
    """Merge layers, the last on top, and check them; an error names the layer of each mistake."""
    values = reduce(_merge, (each for _, each in layers), {})
    try:
        return StudyParams.model_validate(values)
    except ValidationError as error:
        problems = [_explain(problem, layers) for problem in error.errors()]
        raise ParamsError("\n".join(problems)) from None


def _find_profile(profile_or_path: str | Path) -> Path:
    """Resolve a profile's name, or the path of a YAML file, to a file that exists."""
    path = Path(str(profile_or_path))
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise ParamsError(f"no parameter file {path}")
        return path
    known = list_profiles()
    if path.name not in known:
        (nearest,) = difflib.get_close_matches(path.name, known, n=1, cutoff=0)
        listed = ", ".join(known)
        raise ParamsError(f"no profile {path.name!r}; nearest: {nearest!r}; there are: {listed}")
    return known[path.name]


def _read_layers(path: Path, above: tuple[Path, ...] = ()) -> list[_Layer]:
    """Read a profile and the bases that it inherits from, the furthest base first."""
    values = _expand(_read_yaml(path))
    base = values.pop("base", None)
    if base is None:
        return [(_short(path), values)]
    lower = _find_profile(base)
    if lower in (path, *above):
        raise ParamsError(f"{_short(path)}: base {base!r} inherits from this very profile")
    return [*_read_layers(lower, (path, *above)), (_short(path), values)]


def _read_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping from a YAML file; an empty file is an empty mapping."""
    try:
        values = _parse_yaml(path.read_text(encoding="utf-8-sig"), _short(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ParamsError(f"{_short(path)} cannot be read as a text in UTF-8: {error}") from None
    if not isinstance(values, dict | None):
        raise ParamsError(f"{_short(path)}: expected 'key: value' lines, found {values!r}")
    return values or {}


def _parse_yaml(text: str, place: str) -> Any:
    """Parse YAML 1.2, where ``no`` is a text and ``1e-3`` a number; an error names the line."""
    try:
        return _yaml().load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1
        raise ParamsError(f"{place}, line {line}: {error.problem}") from None
    except (YAMLError, ValueError, RecursionError) as error:  # a number, or nesting, too long
        raise ParamsError(f"{place}: {error}") from None


def _yaml() -> YAML:
    return YAML(typ="safe", pure=True)


def _short(path: Path) -> str:
    """Name a file by its folder and name, as ``params/demo.yaml``: reports carry no home folder."""
    return "/".join(path.resolve().parts[-2:])


def _expand(values: Mapping[str, Any]) -> dict[str, Any]:
    """Spell dotted keys as nested mappings: ``{"a.b": 1}`` becomes ``{"a": {"b": 1}}``."""
    if not isinstance(values, Mapping):
        raise ParamsError(f'{OVERRIDES} must be a dict such as {{"seed": 3}}, not {values!r}')
    nested: dict[str, Any] = {}
    for key, value in values.items():
        for part in reversed(str(key).split(".")):
            value = {part: value}
        nested = _merge(nested, value)
    return nested


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one nested mapping over another; an empty one, and anything else, replaces."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(merged.get(key), Mapping) and isinstance(value, Mapping)
        merged[key] = _merge(merged[key], value) if both and value else value
    return merged


# ------------------------------------------------------------------------ explaining what is wrong
def _explain(problem: Mapping[str, Any], layers: Sequence[_Layer]) -> str:
    """Say in one line where a value stands, what is wrong with it, and what would be right."""
    names = [part for part in problem["loc"] if isinstance(part, str)]
    index = "".join(f"[{part}]" for part in problem["loc"] if isinstance(part, int))
    key, place, value = ".".join(names), _place(names, layers), repr(problem["input"])
    if problem["type"] == "extra_forbidden":
        return f"{place}: unknown key {key} (value {value}); nearest valid key: {_nearest(key)}"
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{place}: {key}{index} is {value}; {message}"


def parameter_keys(model: type[BaseModel] = StudyParams, prefix: str = "") -> Iterator[str]:
    """Yield every dotted key of a model, sections included."""
    for name, field in model.model_fields.items():
        yield prefix + name
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from parameter_keys(kind, f"{prefix}{name}.")


def _place(names: list[str], layers: Sequence[_Layer]) -> str:
    """Name the uppermost layer that holds a key; the profile's file where none does."""
    for place, values in reversed(layers):
        with suppress(KeyError, TypeError):
            reduce(getitem, names, values)
            return place
    return layers[0][0]


def _nearest(wrong: str) -> str:
    """Return the parameter most like a wrong key, of the same section where that exists."""

    def likeness(known: str) -> float:
        ends = wrong.rpartition(".")[2], known.rpartition(".")[2]
        return sum(difflib.SequenceMatcher(None, *pair).ratio() for pair in ((wrong, known), ends))

    section = wrong.rpartition(".")[0]
    in_section = [key for key in parameter_keys() if section and key.startswith(f"{section}.")]
    return max(in_section or parameter_keys(), key=likeness)
