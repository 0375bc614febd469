"""Typed parameters of the whole study: one frozen model, filled from a profile and overrides.

The defaults are the settings that the paper's authors released with their code (CosXL, EDM Euler,
guidance 12, 50 steps, 512 x 512, generated share 0.3). A profile, a YAML file in ``params/``, holds
what differs from them and says why. Overrides, from a notebook's ``parameters`` cell or from the
command line, come last. No text is coerced to a number and no unknown key is accepted, because
papermill itself only warns about a misspelt parameter: every mistake is reported with its place,
the value found, what pydantic says of it and the nearest key that exists.

>>> load_params("demo", {"generation.guidance_scale": 4.0}).generation.guidance_scale
4.0
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

OVERRIDES = "overrides"
SAVED = "params.yaml"  # beside a report: all parameters that it rests on
_SAMPLER = {
    "guidance_scale", "unguided_steps", "num_inference_steps", "height", "width", "batch_size",
    "shard_size",
}  # fmt: skip


class UserError(Exception):
    """What the person who starts a study has to put right; the message says how."""

    def _render_traceback_(self) -> list[str]:
        """Let IPython show the message alone: the stack says nothing about a typo or a file."""
        return [f"{type(self).__name__}: {self}"]


class ParamsError(UserError, ValueError):
    """Parameters that cannot be used; the message is for the person who wrote them."""


# ------------------------------------------------------------------------------------- the models

# A list in YAML, a tuple here, so that a frozen model is frozen all the way down.
_AsTuple = Field(min_length=1, strict=False)

Count = Annotated[int, Field(ge=1)]
Several = Annotated[int, Field(ge=2)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Part = Annotated[float, Field(gt=0, lt=1)]  # neither nothing nor all
Alpha = Annotated[float, Field(gt=0, le=100)]
Guidance = Annotated[float, Field(ge=1, le=50)]
Steps = Annotated[int, Field(ge=1, le=1000)]
Severity = Annotated[int, Field(ge=1, le=5)]
Pixels = Annotated[int, Field(ge=16, le=2048, multiple_of=8)]
Name = Annotated[str, Field(min_length=1)]
Device = Literal["auto", "cpu", "cuda"]  # auto takes a GPU if there is one; see `resolve_device`

Texts = Annotated[tuple[str, ...], _AsTuple]
Counts = Annotated[tuple[Count, ...], _AsTuple]

# Points of a sweep, which is left out where there are none.
_Points = Field(strict=False)


class _Section(BaseModel):
    """Base of all sections: frozen, strict (no text for a number), closed to unknown keys."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class SchedulerSpec(_Section):
    """Noise schedule and solver that replace those saved with a pipeline."""

    class_name: Literal["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"] = "EDMEulerScheduler"
    sigma_min: Positive = 0.002  # smallest noise level
    sigma_max: Positive = 120.0  # largest noise level
    sigma_data: Positive = 1.0  # standard deviation of the latents
    prediction_type: Literal["v_prediction", "epsilon"] = "v_prediction"
    sigma_schedule: Literal["exponential", "karras"] = "exponential"

    @model_validator(mode="after")
    def _sigmas_in_order(self) -> Self:
        """Reject an empty range of noise levels."""
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min {self.sigma_min} must be below sigma_max {self.sigma_max}")
        return self


class PipelineSpec(_Section):
    """Which text-to-image model draws, where it is loaded from and how it is run."""

    # The shipped model, a folder of diffusers, one file, a hub id; or none: images imported from a
    # class/image tree, or other photographs of the set as surrogates.
    kind: Literal["paperbirds", "folder", "single_file", "hub", "import", "surrogate"] = (
        "single_file"
    )
    location: Name = "checkpoints/cosxl.safetensors"  # path or hub id; unused without a model
    config: str | None = None  # local folder with the configuration that a single file lacks
    vae: str | None = "madebyollin/sdxl-vae-fp16-fix"  # folder or hub id; null: the model's own
    scheduler: SchedulerSpec | None = SchedulerSpec()  # null: the model's own
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"  # of weights and activations
    device: Device = "auto"
    local_files_only: bool = False  # fail rather than ask the hub for a file


class GenerationParams(_Section):
    """How many counterparts are drawn, and with which sampler settings."""

    pipeline: PipelineSpec = PipelineSpec()
    guidance_scale: Guidance = 12.0  # classifier-free guidance; 1 is none
    num_inference_steps: Steps = 50  # denoising steps an image
    # Last denoising steps without guidance, which then need no unconditional pass.
    unguided_steps: Annotated[int, Field(ge=0)] = 0
    height: Pixels = 512
    width: Pixels = 512
    generated_share: Alpha = 0.3  # generated images per training image; above 1 is several
    batch_size: Count = 8  # images denoised together; changes speed alone
    shard_size: Count = 256  # images in a Parquet file, the most that a kill can lose
    noise_share: Annotated[float, Field(ge=0, lt=1)] = 0.1  # surrogates that show another class

    @model_validator(mode="after")
    def _some_step_is_guided(self) -> Self:
        """Reject as many steps without guidance as there are steps; guidance 1 says that."""
        unguided, steps = self.unguided_steps, self.num_inference_steps
        if unguided >= steps:
            raise ValueError(f"unguided_steps {unguided} must be below num_inference_steps {steps}")
        return self

    @property
    def sampler(self) -> dict[str, float]:
        """The settings that drawing and editing take as they are."""
        return self.model_dump(include=_SAMPLER)

    @property
    def can_draw(self) -> bool:
        """Whether there is a text-to-image model, and not only images that are there already."""
        return self.pipeline.kind not in {"import", "surrogate"}


class PromptParams(_Section):
    """What is asked of the text-to-image model; null takes it from the domain's prompt book."""

    domain: Name = "birds"  # name of a prompt book
    use_context: bool = True  # name a context in the prompt
    use_negatives: bool = True  # steer away from the listed clutter
    template: str | None = None  # with {class_name} and, if wanted, {domain_noun} and {context}
    contexts: Texts | None = None  # to name
    negatives: Texts | None = None  # to steer away from


class DataParams(_Section):
    """Which images are trained and tested on."""

    dataset: Literal[  # the embedded world, a class/image tree, or one of the paper's sets
        "paperbirds", "folder", "cub200", "cars", "flowers102", "caltech101", "cifar100",
        "tiny_imagenet", "imagenet",
    ] = "paperbirds"  # fmt: skip
    root: Name | None = None  # folder of the photographs
    download: bool = False  # fetch a set that is not there, where that can be
    image_size: Pixels | None = None  # square that photographs are brought to; null: as they are
    style: Share = 1.0  # of Paperbirds: 0, as the generator draws, to 1, as a camera sees
    bias: Share = 1.0  # of Paperbirds: contexts that a species mostly lives in; 0 is all alike
    train_images_per_class: Count | None = None  # at most; null: all (30 of Paperbirds)
    test_images_per_class: Count | None = None  # likewise, of each test split
    test_share: Part = 0.3  # of a class, where a set has no test images of its own

    @model_validator(mode="after")
    def _photographs_are_somewhere(self) -> Self:
        """Reject a set of photographs without a folder."""
        if self.dataset != "paperbirds" and self.root is None:
            raise ValueError(f"root must name the folder of {self.dataset}")
        return self


class MeasureParams(_Section):
    """What the first notebook measures of the generated images, and how finely."""

    images: Count = 1000  # behind a headline number
    ablation_images: Count = 500  # drawn again without negatives, and without context
    guidance_scales: Annotated[tuple[Guidance, ...], _AsTuple] = (1.0, 3.0, 6.0, 12.0, 18.0)
    inference_steps: Annotated[tuple[Steps, ...], _AsTuple] = (10, 20, 50, 100)
    images_per_point: Count = 200  # of these two sweeps
    confidence: Part = 0.95  # coverage of all intervals


class EncoderSpec(_Section):
    """Which encoder compares images, where it is loaded from and how it is run."""

    # The shipped CLIP, any model that open_clip loads, or a classifier of timm without its last
    # layer, which reads no texts.
    kind: Literal["paperbirds", "open_clip", "timm"] = "open_clip"
    model_name: Name = "ViT-B-32"  # the library's, or local-dir:<folder>
    pretrained: str | None = "openai"  # tag, file or package:<name>; null for local-dir
    device: Device = "auto"
    batch_size: Count = 64  # images or texts embedded together


class FilteringParams(_Section):
    """Which generated images are kept."""

    encoder: EncoderSpec = EncoderSpec()
    rule: Literal["source", "class_mean", "class_nearest", "class_first", "margin"] = "source"
    threshold: Annotated[float, Field(ge=-1, le=1)] | None = 0.6  # null: calibrated on real pairs
    quantile: Part = 0.05  # share of real pairs below a calibrated threshold
    max_attempts: Annotated[int, Field(ge=0, le=100)] = 0  # to draw a rejected image again


class MixingParams(_Section):
    """How images are mixed by DiffCoRe-Mix, and by DiffuseMix, which edits them first."""

    alpha: Alpha = 1.0  # of λ ~ Beta(α, α); 1 is even (our choice)
    patch_share: Share = 0.5  # mixed at patch level, the rest at pixel level (our choice)
    probability: Share = 1.0  # of images that are mixed at all (our choice)
    edit_prompts: Texts = (  # style prompts of DiffuseMix; its authors' own
        "autumn", "snowy", "watercolor art", "sunset", "rainbow", "aurora", "mosaic", "ukiyo-e",
        "a sketch with crayon",
    )  # fmt: skip
    edit_strength: Annotated[float, Field(gt=0, le=1)] = 0.6  # 1 leaves nothing (our choice)
    seam: Share = 0.078  # soft seam of DiffuseMix in sides; its authors' 20 of 256
    fractals: Count = 64  # to choose from (our choice)
    fractal_share: Share = 0.2  # weight of the fractal; DiffuseMix's own


class PolicySettings(_Section):
    """A method that is applied to some images, and leaves the others as they are."""

    probability: Share = 1.0  # of images that it is applied to


class MixSettings(PolicySettings):
    """A method that mixes images of different classes, and their labels with them."""

    alpha: Alpha = 1.0  # of λ ~ Beta(α, α)


class AddingSettings(_Section):
    """A method that trains on generated images as they are."""

    probability: Share = 0.5  # of each batch that is generated images (our choice)


class MethodsParams(_Section):
    """Settings of the methods that DiffCoRe-Mix (section mixing) is compared with."""

    mixup: MixSettings = MixSettings()
    cutmix: MixSettings = MixSettings()
    saliencymix: MixSettings = MixSettings()
    randaugment: PolicySettings = PolicySettings()
    trivialaugment: PolicySettings = PolicySettings()
    augmix: PolicySettings = PolicySettings()
    diffusemix: PolicySettings = PolicySettings()
    added: AddingSettings = AddingSettings()
    mixed_added: AddingSettings = AddingSettings()


class TrainingParams(_Section):
    """How classifiers are trained: the same for every method, but for the method itself."""

    model: Name = "resnet50"  # of timm
    model_args: dict[str, Any] = {}  # of timm.create_model
    weights: Name | None = None  # to start from: a file or package:<name>; null: random
    optimizer: Name = "sgd"  # of timm
    lr: Positive = 0.025  # peak; the authors' 0.1 · batch / 256
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4  # the authors', for Cars
    schedule: Literal["cosine", "tanh"] = "cosine"  # of timm, those that end at almost nothing
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of the steps
    batch_size: Count = 64  # images a step, over all processes
    epochs: Count = 128  # over the real images; the authors', for Cars
    steps: Count | None = None  # the same for every method; null: from the epochs
    crop_scale: Annotated[float, Field(gt=0, le=1)] = 0.4  # least area of a crop (our choice)
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    # Of matrix products and convolutions; see `resolve_precision`.
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: Device = "auto"
    loader_workers: Annotated[int, Field(ge=0)] = 0  # processes that read images ahead
    checkpoint_every: Count = 200  # steps, the most that a kill can lose
    log_with: Name | None = None  # a tracker that accelerate knows and that is installed
    methods: MethodsParams = MethodsParams()


Arm = Literal[
    "no filter", "at random", "source", "class_mean", "class_nearest", "class_first", "margin",
    "text", "the oracle",
]  # fmt: skip


class DoseParams(_Section):
    """A number of generated images, and the settings that methods were given at it (make tune)."""

    share: Positive  # generated, or edited, images for each real one
    changes: dict[str, float] = {}  # of parameters, by dotted keys


class RunsParams(_Section):
    """Which classifiers are trained and compared, and from how many seeds."""

    methods: Texts | None = None  # of the main table; null: all for which there are images
    seeds: Several = 5  # of the main table
    worlds: Count = 1  # training sets in it, each with generated images and tests of its own
    world_seeds: Count = 2  # of the others of these
    doses: Annotated[tuple[DoseParams, ...], _Points] = ()  # in it, besides the study's own
    sweeps: bool = True  # whether to train the ablation and the sweeps
    sweep_seeds: Several = 3  # of these
    filter_seeds: Several = 10  # of the ways of filtering
    # Ways of filtering that are compared; null: all that the encoder can tell.
    filter_arms: Annotated[tuple[Arm, ...], _AsTuple] | None = None
    tuning: Name | None = None  # table in params/tuning that the methods' settings come from
    folds: Several = 3  # of the training images, when settings are chosen (make tune)
    tuning_seeds: Count = 2  # of each candidate on each fold
    processes: Count | None = None  # runs at a time on a CPU, a thread each; null: one a core
    # Points of the sweeps, besides the study's own; an empty list leaves a sweep out.
    masses: Annotated[tuple[Part, ...], _Points] = (0.1, 0.3, 0.5, 0.7, 0.9)  # of generated pixels
    lengths: Annotated[tuple[Count, ...], _Points] = ()  # steps of a training
    # Of generated images, swapped for another class's.
    noise_shares: Annotated[tuple[Share, ...], _Points] = (0.2, 0.5)
    # Likewise, before the filter, which may find them.
    planted_shares: Annotated[tuple[Share, ...], _Points] = (0.1, 0.2, 0.4)
    sources: bool = True  # whether to train on what the generator learned from
    # All of each with all of the others; without biases, none.
    biases: Annotated[tuple[Share, ...], _Points] = ()  # of the real images' contexts
    styles: Annotated[tuple[Share, ...], _Points] = (0.0, 1.0)  # of the real images
    images_per_class: Annotated[tuple[Count, ...], _Points] = (3, 30)  # real ones


class OverheadParams(_Section):
    """What the sixth notebook times, and how often."""

    model: Name = "resnet50"  # a large network of timm
    size: Pixels = 224  # of its images
    batch_size: Count = 16  # of its steps; the paper's
    num_classes: Several = 200  # of it; CUB's
    repeats: Several = 3  # of its steps, which are slow
    own_repeats: Several = 15  # of the study's own steps
    draws: Count = 3  # of a method's own part within a repeat
    images: Several = 32  # drawn, edited, filtered and decoded in a repeat
    image_repeats: Several = 3  # of these
    epochs: Counts = (1, 10, 100, 1000, 10000)  # over which is spread what is paid once


class SaliencyParams(_Section):
    """What the fifth notebook explains, and how finely."""

    images_per_class: Count = 10  # from each test split
    few_per_class: Count = 2  # where a technique is slow


class RobustnessParams(_Section):
    """What the seventh notebook does to images, and to how many."""

    images_per_class: Count = 10  # from each test split
    severity: Severity = 3  # of corruptions, for all methods
    severities: Annotated[tuple[Severity, ...], _AsTuple] = (1, 3, 5)  # for those in detail
    eps: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], _AsTuple] = (2 / 255, 8 / 255)
    pgd_steps: Count = 10  # of projected gradient descent
    copy_images: Count = 5000  # of each set, at most, among which near-copies are searched
    methods_in_detail: Texts = ("vanilla", "cutmix", "added", "diffcoremix")  # what costs most


class StudyParams(_Section):
    """All parameters of one profile; `profile` names the folders of its reports and runs."""

    profile: Annotated[str, Field(pattern=r"^[\w-]+$")]
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0  # every random draw follows from it
    data: DataParams = DataParams()
    prompts: PromptParams = PromptParams()
    generation: GenerationParams = GenerationParams()
    filtering: FilteringParams = FilteringParams()
    mixing: MixingParams = MixingParams()
    measure: MeasureParams = MeasureParams()
    training: TrainingParams = TrainingParams()
    runs: RunsParams = RunsParams()
    saliency: SaliencyParams = SaliencyParams()
    overhead: OverheadParams = OverheadParams()
    robustness: RobustnessParams = RobustnessParams()
    # Other forms of every table and figure, beside CSV, PNG and SVG.
    exports: Annotated[tuple[Literal["latex", "pdf"], ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _doses_can_be_taken(self) -> Self:
        """Reject a dose above the study's own, as it is a part of what that draws."""
        own = self.generation.generated_share
        if above := [dose.share for dose in self.runs.doses if dose.share >= own]:
            raise ValueError(f"runs.doses: {above[0]:g} must be below generated_share, {own:g}")
        return self


# ---------------------------------------------------------------------------------------- loading
def load_params(
    profile_or_path: str | Path, overrides: Mapping[str, Any] | None = None
) -> StudyParams:
    """Read a profile, lay the overrides over it and check the whole.

    Args:
        profile_or_path: the name of a file in ``params/``, or the path of any ``.yaml`` file; the
            ``params.yaml`` beside a report is one too, and reproduces that report's parameters.
        overrides: nested (``{"generation": {"batch_size": 4}}``) or with dotted keys
            (``{"generation.batch_size": 4}``).

    Raises:
        ParamsError: for a profile that does not exist and for any key or value that is not legal.
    """
    path = _find_profile(profile_or_path)
    changes = _expand({} if overrides is None else overrides)
    values = _merge({"profile": path.stem} | _expand(_read_yaml(path)), changes)
    params = _validate(values, _short(path), changes)
    for dose in params.runs.doses:  # legal now, or it would fail hours later
        change_params(params, {"runs.doses": [], **dose.changes})
    # What was saved beside a report is of that profile, and may take its place.
    if params.profile in set(list_profiles()) - {path.stem} and path.name != SAVED:
        place, name = _place(["profile"], _short(path), changes), params.profile
        raise ParamsError(
            f"{place}: profile is {name!r}, whose report would be replaced by that of {path.stem}; "
            "take a name that no profile has"
        )
    return params


def change_params(params: StudyParams, changes: Mapping[str, Any]) -> StudyParams:
    """Change some parameters, given by dotted keys, for an experiment.

    >>> change_params(load_params("demo"), {"mixing.alpha": 0.5}).mixing.alpha
    0.5

    Raises:
        ParamsError: for any key or value that is not legal.
    """
    changes = _expand(changes)
    return _validate(_merge(params.model_dump(), changes), params.profile, changes)


def dump_params(params: StudyParams) -> str:
    """Write all parameters as compact YAML that `load_params` reads back unchanged."""
    values = params.model_dump(mode="json")
    return yaml.dump(
        values, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=100,
        allow_unicode=True,
    )  # fmt: skip


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Turn ``key=value`` texts of a command line into overrides; values are read as YAML.

    >>> parse_assignments(["generation.guidance_scale=4.0", "measure.inference_steps=[5, 10]"])
    {'generation.guidance_scale': 4.0, 'measure.inference_steps': [5, 10]}

    Raises:
        ParamsError: for a text without ``=`` and a value that is not YAML.
    """
    overrides = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not (key.strip() and equals):
            raise ParamsError(f"{OVERRIDES}: {assignment!r} is not of the form key=value")
        overrides[key.strip()] = _parse_yaml(value, f"{OVERRIDES}: {key.strip()}")
    return overrides


def project_root() -> Path:
    """Where runs and reports go: the nearest folder with profiles, from the working directory up.

    Without one it is the clone that holds this package or, installed without a clone, the working
    directory.
    """
    start, clone = Path.cwd(), Path(__file__).resolve().parents[1]
    with_profiles = (f for f in (start, *start.parents, clone) if any(f.glob("params/*.yaml")))
    return next(with_profiles, start)


def list_profiles() -> dict[str, Path]:
    """Files of all profiles by name: the project's or, without any, those that came along."""
    return {file.stem: file for file in project_files("params/*.yaml", "profiles")}


def project_files(pattern: str, packaged: str) -> list[Path]:
    """List files of the project or, without any, those of the same names in the package."""
    own = sorted(project_root().glob(pattern))
    return own or sorted(Path(__file__).with_name(packaged).glob(Path(pattern).name))


def resolve_device(wanted: str, setting: str) -> str:
    """Turn "auto", "cpu" or "cuda" into where to run: "cuda" if there is a GPU and it may be used.

    An Apple GPU is left alone, by models and trainings alike: nothing was ever tested on one.

    Raises:
        ValueError: naming the setting, for a GPU that this machine lacks.
    """
    import torch  # slow to import, and only asked for where something runs

    has_gpu = torch.cuda.is_available()
    if wanted == "cuda" and not has_gpu:
        raise ValueError(f"{setting} is cuda, but torch finds no GPU; set it to auto or cpu")
    return "cuda" if has_gpu and wanted != "cpu" else "cpu"


def resolve_precision(wanted: str, device: str) -> str:
    """Turn "auto" into "bfloat16" where a device has instructions for it, and else into "float32".

    Where bfloat16 is emulated, it is several times slower than float32 (docs/performance.md).

    Raises:
        ValueError: for float16 on a CPU, where a training would stay in float32 without a word.
    """
    import torch

    if wanted == "float16" and device == "cpu":
        raise ValueError("training.precision is float16, which needs a GPU; set it to auto")
    if wanted != "auto":
        return wanted
    if device == "cuda":
        has = torch.cuda.is_bf16_supported(including_emulation=False)
    else:  # what torch was told to use counts, and not only what the CPU has
        found = torch.cpu.get_capabilities()
        has = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
        has &= found.get("avx512_bf16", False) or found.get("amx_bf16", False)
    return "bfloat16" if has else "float32"


def is_hub_id(location: str) -> bool:
    """Whether a text names a repository of the hub, as owner/name, and no folder of this machine.

    >>> is_hub_id("madebyollin/sdxl-vae-fp16-fix"), is_hub_id("checkpoints/cosxl.safetensors")
    (True, False)
    """
    if location.startswith((".", "/", "~", "checkpoints/")) or location.count("/") != 1:
        return False
    return not Path(location).exists()


def _validate(values: dict[str, Any], file: str, changes: Mapping[str, Any]) -> StudyParams:
    """Check nested values; an error names their place: `file`, or the changes laid over it."""
    try:
        return StudyParams.model_validate(values)
    except ValidationError as error:
        problems = [_explain(problem, file, changes) for problem in error.errors()]
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
        nearest = max(known, key=lambda name: _similarity(path.name, name))
        listed = ", ".join(known)
        raise ParamsError(f"no profile {path.name!r}; nearest: {nearest!r}; there are: {listed}")
    return known[path.name]


def _read_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping from a YAML file; an empty file is an empty mapping."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ParamsError(f"{_short(path)} cannot be read as a text in UTF-8: {error}") from None
    values = _parse_yaml(text, _short(path))
    if not isinstance(values, dict | None):
        raise ParamsError(f"{_short(path)}: expected 'key: value' lines, found {values!r}")
    return values or {}


def _parse_yaml(text: str, place: str) -> Any:
    """Parse YAML; an error names the place, and the line within it."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1
        raise ParamsError(f"{place}, line {line}: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a number, or nesting, too long
        raise ParamsError(f"{place}: {error}") from None


class _Loader(yaml.SafeLoader):
    """Safe loader that takes plain values as YAML 1.2 does, and refuses what misleads.

    So ``no`` and ``1:30`` are texts and ``1e-3`` is a number. A key given twice, of which the last
    would count silently, and an alias, which can grow without end, are errors.
    """

    yaml_implicit_resolvers: ClassVar[dict] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """Build a mapping after checking that each of its keys is new."""
        seen = []  # a list, as a key may be unhashable; the parent class then says so
        for key_node, _ in node.value:
            if key_node.value in seen:
                problem = f"key {key_node.value!r} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.append(key_node.value)
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Read one value that stands where it is meant."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "write out what *... refers to", mark)
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    """Safe dumper that quotes texts which `_Loader`, too, would take for something else."""


_NUMBER = r"[-+]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)"
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9]\d*)", list("-+0123456789")),
    ("float", _NUMBER + r"(?:[eE][-+]?\d+)?", list("-+.0123456789")),
):
    for _kind in (_Loader, _Dumper):
        _plain = re.compile(f"(?:{_pattern})$", re.ASCII)
        _kind.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _plain, _first)


def _short(path: Path) -> str:
    """Name a file by its folder and name, as ``params/demo.yaml``: reports carry no home folder."""
    return "/".join(path.resolve().parts[-2:])


def _expand(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Spell dotted keys as nested mappings: ``{"a.b": 1}`` becomes ``{"a": {"b": 1}}``."""
    if not isinstance(overrides, Mapping):
        raise ParamsError(f'{OVERRIDES} must be a dict such as {{"seed": 3}}, not {overrides!r}')
    nested: dict[str, Any] = {}
    for key, value in overrides.items():
        item = _expand(value) if isinstance(value, Mapping) else value
        for part in reversed(str(key).split(".")):
            item = {part: item}
        if twice := _shared(nested, item):
            raise ParamsError(f"{twice} is given twice, once with its section before a dot")
        nested = _merge(nested, item)
    return nested


def _shared(one: Any, other: Any) -> str:
    """Name a key that two nested mappings both give a value, if there is one."""
    for key in one.keys() & other.keys():
        if not (isinstance(one[key], Mapping) and isinstance(other[key], Mapping)):
            return str(key)
        if below := _shared(one[key], other[key]):
            return f"{key}.{below}"
    return ""


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one nested mapping over another; anything but two mappings is replaced."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(merged.get(key), Mapping) and isinstance(value, Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


# ------------------------------------------------------------------------ explaining what is wrong
def _explain(problem: Mapping[str, Any], file: str, changes: Mapping[str, Any]) -> str:
    """Say in one line where a value stands, what is wrong with it, and what would be right."""
    names = [part for part in problem["loc"] if isinstance(part, str)]
    index = "".join(f"[{part}]" for part in problem["loc"] if isinstance(part, int))
    key, place, value = ".".join(names), _place(names, file, changes), repr(problem["input"])
    if problem["type"] == "extra_forbidden":
        nearest = max(_keys(StudyParams), key=lambda known: _similarity(key, known))
        return f"{place}: unknown key {key} (value {value}); nearest valid key: {nearest}"
    said = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{place}: {key}{index} is {value}; {said}{_remedy(problem['input'], said)}"


def _place(names: list[str], file: str, changes: Mapping[str, Any]) -> str:
    """Tell whether a key came from the overrides or from the profile's file."""
    node: Any = changes
    for name in names:
        if not isinstance(node, Mapping) or name not in node:
            return file
        node = node[name]
    return OVERRIDES


def _remedy(value: Any, said: str) -> str:
    """Spell out a number that YAML reads as a text, such as ``010`` or one in quotes."""
    try:
        is_text = isinstance(value, str) and ("number" in said or "integer" in said)
        number = float(value) if is_text else math.nan
    except ValueError:
        return ""
    if not math.isfinite(number):
        return ""
    spelling = yaml.safe_dump(int(number) if number.is_integer() else number).split()[0]
    return f" (write {spelling}, without quotes)"


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield every dotted key of a model."""
    for name, field in model.model_fields.items():
        yield prefix + name
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from _keys(kind, f"{prefix}{name}.")


def _similarity(given: str, known: str) -> float:
    """Score how alike two dotted keys are: as a whole, in the last parts, and in the section."""

    def ratio(a: str, b: str) -> float:
        return difflib.SequenceMatcher(None, a, b).ratio()

    (place, _, last), (known_place, _, known_last) = given.rpartition("."), known.rpartition(".")
    # `steps` is short for `num_inference_steps`, however few letters they share, and for the first
    # of several; and whoever names a section that exists most likely means one of its keys.
    short, in_place = known_last.endswith(f"_{last}"), 1.5 * (place == known_place != "")
    alike = 2.4 if short else ratio(given, known) + 2 * ratio(last, known_last)
    return alike + (last in known_last) + in_place
