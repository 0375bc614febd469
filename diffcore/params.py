"""Typed parameters of the whole study: one frozen model, filled from a profile and overrides.

The defaults are the settings that the paper's authors released with their code (CosXL, EDM Euler,
guidance 12, 50 steps, 512 x 512, generated share 0.3). A profile, a YAML file in ``params/``, holds
what differs from them and says why. Overrides, from a notebook's ``parameters`` cell or from the
command line, come last. No text is coerced to a number and no unknown key is accepted, because
papermill itself only warns about a misspelt parameter: every mistake is reported with its place,
the value found, the legal values and the nearest key that exists.

>>> load_params("demo", {"generation.guidance_scale": 4.0}).generation.guidance_scale
4.0
"""

from __future__ import annotations

import difflib
import math
import string
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

OVERRIDES = "overrides"
PLACEHOLDERS = {"class_name", "domain_noun", "context"}


class ParamsError(ValueError):
    """Parameters that cannot be used; the message is for the person who wrote them."""

    def _render_traceback_(self) -> list[str]:
        """Let IPython show the message alone: the stack says nothing about a typo."""
        return [f"ParamsError: {self}"]


# ------------------------------------------------------------------------------------- the models

# A list in YAML, a tuple here, so that a frozen model is frozen all the way down.
_AsTuple = Field(min_length=1, strict=False)

Count = Annotated[int, Field(ge=1)]
Guidance = Annotated[float, Field(ge=1, le=50)]
Steps = Annotated[int, Field(ge=1, le=1000)]
Pixels = Annotated[int, Field(ge=16, le=2048, multiple_of=8)]
Texts = Annotated[tuple[str, ...], _AsTuple]


class _Section(BaseModel):
    """Base of all sections: frozen, strict (no text for a number), closed to unknown keys."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class SchedulerSpec(_Section):
    """Noise schedule and solver that replace those saved with a pipeline."""

    class_name: Literal["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"] = Field(
        "EDMEulerScheduler", description="scheduler class of diffusers"
    )
    sigma_min: float = Field(0.002, gt=0, description="smallest noise level")
    sigma_max: float = Field(120.0, gt=0, description="largest noise level, above sigma_min")
    sigma_data: float = Field(1.0, gt=0, description="standard deviation of the latents")
    prediction_type: Literal["v_prediction", "epsilon"] = Field(
        "v_prediction", description="what the UNet predicts"
    )
    sigma_schedule: Literal["exponential", "karras"] = Field(
        "exponential", description="spacing of the noise levels between both ends"
    )

    @model_validator(mode="after")
    def _sigmas_in_order(self) -> Self:
        """Reject an empty range of noise levels."""
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min {self.sigma_min} must be below sigma_max {self.sigma_max}")
        return self


class PipelineSpec(_Section):
    """Which text-to-image model draws, where it is loaded from and how it is run."""

    kind: Literal["paperbirds", "folder", "single_file", "hub", "import", "stand_in"] = Field(
        "single_file",
        description="the shipped model, a diffusers folder, one file, a hub id; or none: images "
        "imported from a class/image tree, or other photographs of the set standing in for them",
    )
    location: str = Field(
        "checkpoints/cosxl.safetensors",
        min_length=1,
        description="path or hub id; not used by the kinds paperbirds and stand_in",
    )
    config: str | None = Field(
        None, description="local folder with the configuration that a single file lacks"
    )
    vae: str | None = Field(
        "madebyollin/sdxl-vae-fp16-fix",
        description="autoencoder, folder or hub id; null keeps the pipeline's own",
    )
    scheduler: SchedulerSpec | None = Field(
        SchedulerSpec(), description="null keeps the scheduler saved with the pipeline"
    )
    dtype: Literal["float16", "bfloat16", "float32"] = Field(
        "float16", description="precision of weights and activations"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where to run; auto takes a GPU if there is one"
    )
    local_files_only: bool = Field(False, description="fail rather than ask the hub for a file")


class GenerationParams(_Section):
    """How many counterparts are drawn, and with which sampler settings."""

    pipeline: PipelineSpec = Field(PipelineSpec(), description="the text-to-image model")
    guidance_scale: Guidance = Field(12.0, description="classifier-free guidance; 1 is none")
    num_inference_steps: Steps = Field(50, description="denoising steps per image")
    height: Pixels = Field(512, description="pixels")
    width: Pixels = Field(512, description="pixels")
    generated_share: float = Field(
        0.3, gt=0, le=100, description="generated images per training image; above 1 is several"
    )
    batch_size: Count = Field(8, description="images denoised together; changes speed alone")
    shard_size: Count = Field(256, description="images per Parquet file, the most a kill can lose")
    planted_share: float = Field(
        0.1, ge=0, lt=1, description="of stand-ins, that show another class: what is to be rejected"
    )

    @property
    def can_draw(self) -> bool:
        """Whether there is a text-to-image model, and not only images that are there already."""
        return self.pipeline.kind not in {"import", "stand_in"}


class PromptParams(_Section):
    """What is asked of the text-to-image model; null takes it from the domain's prompt book."""

    domain: str = Field("birds", min_length=1, description="name of a prompt book")
    use_context: bool = Field(True, description="name a context in the prompt")
    use_negatives: bool = Field(True, description="steer away from the listed clutter")
    template: str | None = Field(
        None, description="prompt with {class_name} and, if wanted, {domain_noun} and {context}"
    )
    contexts: Texts | None = Field(None, description="contexts to name")
    negatives: Texts | None = Field(None, description="clutter to steer away from")

    @field_validator("template")
    @classmethod
    def _template_can_be_filled(cls, template: str | None) -> str | None:
        """Reject a placeholder that nothing fills, and a prompt that forgets the class."""
        if template is not None:
            names = {name for _, name, *_ in string.Formatter().parse(template) if name is not None}
            if "class_name" not in names or names - PLACEHOLDERS:
                allowed = ", ".join(f"{{{name}}}" for name in sorted(PLACEHOLDERS))
                raise ValueError(f"needs {{class_name}}, and no placeholder other than {allowed}")
        return template


class DataParams(_Section):
    """Which images are trained and tested on."""

    dataset: Literal[
        "paperbirds", "folder", "cub200", "cars", "flowers102", "caltech101", "cifar100",
        "tiny_imagenet", "imagenet",
    ] = Field(
        "paperbirds", description="the embedded world, a class/image tree, or a known set"
    )  # fmt: skip
    root: str | None = Field(
        None, min_length=1, description="folder of the photographs; not used by paperbirds"
    )
    download: bool = Field(False, description="fetch a set that is not there, where that can be")
    image_size: Pixels | None = Field(
        None, description="side of the square that photographs are brought to; null: all are alike"
    )
    style: float = Field(
        1.0, ge=0, le=1, description="of Paperbirds: 0, as the generator draws, to 1, as a camera"
    )
    train_images_per_class: Count | None = Field(
        None, description="of the training split, at most; null: all (30 of Paperbirds)"
    )
    test_images_per_class: Count | None = Field(
        None, description="of each test split, at most; null: all (30 of Paperbirds)"
    )
    test_share: float = Field(
        0.3, gt=0, lt=1, description="of a class, where a set has no test images of its own"
    )

    @model_validator(mode="after")
    def _photographs_are_somewhere(self) -> Self:
        """Reject a set of photographs without a folder."""
        if self.dataset != "paperbirds" and self.root is None:
            raise ValueError(f"root must name the folder of {self.dataset}")
        return self


class MeasureParams(_Section):
    """What the first notebook measures of the generated images, and how finely."""

    images: Count = Field(1000, description="images behind a headline number")
    ablation_images: Count = Field(
        500, description="images drawn again without negatives, and without context"
    )
    guidance_scales: Annotated[tuple[Guidance, ...], _AsTuple] = Field(
        (1.0, 3.0, 6.0, 12.0, 18.0), description="points of the sweep over guidance"
    )
    inference_steps: Annotated[tuple[Steps, ...], _AsTuple] = Field(
        (10, 20, 50, 100), description="points of the sweep over denoising steps"
    )
    images_per_point: Count = Field(200, description="images at each point of a sweep")
    confidence: float = Field(0.95, gt=0, lt=1, description="coverage of the intervals")


class EncoderSpec(_Section):
    """Which CLIP compares images, where it is loaded from and how it is run."""

    kind: Literal["paperbirds", "open_clip", "timm"] = Field(
        "open_clip",
        description="the shipped CLIP, any model that open_clip loads, or a classifier of timm "
        "without its last layer, which reads no texts",
    )
    model_name: str = Field(
        "ViT-B-32",
        min_length=1,
        description="the library's name, or local-dir:<folder>; not used by the kind paperbirds",
    )
    pretrained: str | None = Field(
        "openai",
        description="tag, file or package:<name> of the weights; null for local-dir, with its own",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where to run; auto takes a GPU if there is one"
    )
    batch_size: Count = Field(64, description="images or texts embedded together")


class FilteringParams(_Section):
    """Which generated images are kept."""

    encoder: EncoderSpec = Field(EncoderSpec(), description="what makes embeddings of images")
    rule: Literal["source", "class_mean", "class_nearest", "class_first"] = Field(
        "source", description="which real images a generated one is compared with"
    )
    threshold: float | None = Field(
        0.6, ge=-1, le=1, description="least cosine that passes; null calibrates on real images"
    )
    quantile: float = Field(
        0.05, gt=0, lt=1, description="share of real pairs below a calibrated threshold"
    )
    max_attempts: int = Field(
        0, ge=0, le=100, description="how often a rejected image is drawn again; the authors': 0"
    )


class MixingParams(_Section):
    """How images are mixed by DiffCoRe-Mix, and by DiffuseMix, which edits them first."""

    alpha: float = Field(1.0, gt=0, le=100, description="of λ ~ Beta(α, α); 1 is even (our choice)")
    patch_share: float = Field(
        0.5, ge=0, le=1, description="share mixed at patch level, the rest at pixel (our choice)"
    )
    probability: float = Field(
        1.0, ge=0, le=1, description="share of images that are mixed at all (our choice)"
    )
    edit_prompts: Texts = Field(
        ("autumn", "snowy", "watercolor art", "sunset", "rainbow", "aurora", "mosaic", "ukiyo-e",
         "a sketch with crayon"),
        description="style prompts of DiffuseMix; its authors' own",
    )  # fmt: skip
    edits_per_image: float = Field(
        1.0, gt=0, le=100, description="edits of each training image for DiffuseMix (our choice)"
    )
    edit_strength: float = Field(
        0.6, gt=0, le=1, description="how far an edit leaves its image; 1 is all (our choice)"
    )
    seam: float = Field(
        0.078, ge=0, le=1, description="soft seam of DiffuseMix in sides; its authors' 20 of 256"
    )
    fractals: Count = Field(64, description="fractals to choose from (our choice)")
    fractal_share: float = Field(
        0.2, ge=0, le=1, description="weight of the fractal; DiffuseMix's own"
    )


class PolicySettings(_Section):
    """A method that is applied to some images, and leaves the others as they are."""

    probability: float = Field(1.0, ge=0, le=1, description="share of images that it is applied to")


class MixSettings(PolicySettings):
    """A method that mixes images of different classes, and their labels with them."""

    alpha: float = Field(1.0, gt=0, le=100, description="of λ ~ Beta(α, α); 1 is even")


class AddingSettings(_Section):
    """A method that trains on generated images as they are."""

    probability: float = Field(
        0.5, ge=0, le=1, description="share of each batch that is generated images (our choice)"
    )


class MethodsParams(_Section):
    """Settings of the methods that DiffCoRe-Mix (section mixing) is compared with."""

    mixup: MixSettings = Field(MixSettings(), description="MixUp")
    cutmix: MixSettings = Field(MixSettings(), description="CutMix")
    saliencymix: MixSettings = Field(MixSettings(), description="SaliencyMix")
    randaugment: PolicySettings = Field(PolicySettings(), description="RandAugment")
    trivialaugment: PolicySettings = Field(PolicySettings(), description="TrivialAugment")
    augmix: PolicySettings = Field(PolicySettings(), description="AugMix")
    diffusemix: PolicySettings = Field(PolicySettings(), description="DiffuseMix")
    added: AddingSettings = Field(AddingSettings(), description="generated images, added")
    mixed_added: AddingSettings = Field(
        AddingSettings(), description="DiffCoRe-Mix, and generated images added"
    )


class TrainingParams(_Section):
    """How classifiers are trained: the same for every method, but for the method itself."""

    model: str = Field("resnet50", min_length=1, description="a model of timm, by name")
    model_args: dict[str, Any] = Field({}, description="arguments of timm.create_model")
    weights: str | None = Field(
        None,
        min_length=1,
        description="to start from: a file or package:<name>; null: random ones, as the authors'",
    )
    optimizer: str = Field("sgd", min_length=1, description="an optimiser of timm, by name")
    lr: float = Field(0.025, gt=0, description="peak learning rate; the authors' 0.1 · batch / 256")
    weight_decay: float = Field(5e-4, ge=0, description="the authors', for Cars")
    schedule: Literal["cosine", "tanh", "poly", "step"] = Field(
        "cosine", description="a schedule of timm for the learning rate, by name"
    )
    warmup_share: float = Field(0.0, ge=0, lt=1, description="share of the steps, to warm up")
    batch_size: Count = Field(64, description="images a step, over all processes")
    epochs: Count = Field(128, description="passes over the real images; the authors', for Cars")
    steps: Count | None = Field(
        None, description="optimiser steps, the same for every method; null: from the epochs"
    )
    crop_scale: float = Field(
        0.4, gt=0, le=1, description="least area of a random crop, before a flip (our choice)"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="of the targets")
    precision: Literal["no", "fp16", "bf16"] = Field("no", description="mixed precision")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where to train; auto takes a GPU if there is one"
    )
    loader_workers: int = Field(0, ge=0, description="processes that read images ahead")
    checkpoint_every: Count = Field(200, description="steps, the most that a kill can lose")
    methods: MethodsParams = Field(MethodsParams(), description="settings of other methods")


class TrialsParams(_Section):
    """Which classifiers are trained and compared, and from how many seeds."""

    methods: Texts | None = Field(
        None, description="of the main table; null: all for which there are images"
    )
    seeds: Annotated[int, Field(ge=2)] = Field(5, description="of the main table")
    side_studies: bool = Field(
        True, description="whether to train ablations, dials and sensitivities (04, sections 4 on)"
    )
    side_seeds: Annotated[int, Field(ge=2)] = Field(3, description="of every other comparison")
    folds: Annotated[int, Field(ge=2)] = Field(
        4, description="of the training images, when settings are chosen (make tune)"
    )
    curve_points: Count = Field(8, description="times that a learning curve is measured")
    processes: Count | None = Field(
        None, description="trainings at a time on a CPU, one thread each; null: one a core"
    )
    styles: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], _AsTuple] = Field(
        (0.0, 0.3, 1.0), description="points of the style dial, besides the study's own"
    )
    wrong_shares: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], _AsTuple] = Field(
        (0.2, 0.5), description="shares of counterparts that are swapped for another class's"
    )
    images_per_class: Annotated[tuple[Count, ...], _AsTuple] = Field(
        (3, 30, 100), description="real images of a class, besides the study's own"
    )
    generated_shares: Annotated[tuple[Annotated[float, Field(gt=0)], ...], _AsTuple] = Field(
        (0.3, 1.0, 3.0), description="generated images per training image, below the study's own"
    )
    batch_shares: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], _AsTuple] = Field(
        (0.2, 0.5, 0.8), description="of a batch, that are generated images where they are added"
    )
    rejected_shares: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], _AsTuple] = Field(
        (0.2, 0.5), description="of generated images, that a stricter threshold rejects"
    )


class OverheadParams(_Section):
    """What the sixth notebook times, and how often."""

    model: str = Field("resnet50", min_length=1, description="a large network of timm, by name")
    size: Pixels = Field(224, description="of its images, pixels")
    batch_size: Count = Field(16, description="of its steps; the paper's")
    num_classes: Annotated[int, Field(ge=2)] = Field(200, description="of it; CUB's")
    turns: Annotated[int, Field(ge=2)] = Field(3, description="of its steps, which are slow")
    own_turns: Annotated[int, Field(ge=2)] = Field(15, description="of the study's own steps")
    repeats: Count = Field(3, description="draws of a method's own part within a turn")
    images: Annotated[int, Field(ge=2)] = Field(
        32, description="images that are drawn, edited, filtered and decoded in a turn"
    )
    image_turns: Annotated[int, Field(ge=2)] = Field(3, description="turns of these")
    epochs: Annotated[tuple[Count, ...], _AsTuple] = Field(
        (1, 10, 100, 1000, 10000), description="over which is spread what is paid once"
    )


class SaliencyParams(_Section):
    """What the fifth notebook explains, and how finely."""

    images_per_class: Count = Field(10, description="of each test split")
    few_per_class: Count = Field(2, description="where a technique is slow")


class RobustnessParams(_Section):
    """What the seventh notebook does to images, and to how many."""

    images_per_class: Count = Field(10, description="of each test split")
    severity: Annotated[int, Field(ge=1, le=5)] = Field(
        3, description="of corruptions, for all methods"
    )
    severities: Annotated[tuple[Annotated[int, Field(ge=1, le=5)], ...], _AsTuple] = Field(
        (1, 3, 5), description="of corruptions, for the methods in detail"
    )
    eps: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], _AsTuple] = Field(
        (2 / 255, 8 / 255), description="sizes of l∞ attacks, of pixels in [0, 1]"
    )
    pgd_steps: Count = Field(10, description="of projected gradient descent")
    copy_images: Count = Field(
        5000, description="of each set, at most, among which near-copies are searched"
    )
    methods_in_detail: Texts = Field(
        ("vanilla", "cutmix", "added", "diffcoremix"), description="what costs most, for these"
    )


class StudyParams(_Section):
    """All parameters of one profile; `profile` names the folders of its reports and runs."""

    profile: str = Field(pattern=r"^[\w-]+$", description="letters, digits, - and _")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="every random draw follows from it")
    data: DataParams = Field(DataParams(), description="the images")
    prompts: PromptParams = Field(PromptParams(), description="the prompts")
    generation: GenerationParams = Field(GenerationParams(), description="the sampler")
    filtering: FilteringParams = Field(FilteringParams(), description="the filter")
    mixing: MixingParams = Field(MixingParams(), description="the mixing")
    measure: MeasureParams = Field(MeasureParams(), description="the measurements")
    training: TrainingParams = Field(TrainingParams(), description="the classifiers")
    trials: TrialsParams = Field(TrialsParams(), description="the comparisons")
    saliency: SaliencyParams = Field(SaliencyParams(), description="the saliency maps")
    overhead: OverheadParams = Field(OverheadParams(), description="the timings")
    robustness: RobustnessParams = Field(RobustnessParams(), description="corruptions, attacks")


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
    return _validate(values, _short(path), changes)


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
    return yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=100)


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
    """Return the nearest folder with profiles: from the working directory up, else the package's.

    Raises:
        ParamsError: where no such folder exists.
    """
    start = Path.cwd()
    for folder in (start, *start.parents, Path(__file__).resolve().parents[1]):
        if any((folder / "params").glob("*.yaml")):
            return folder
    raise ParamsError(f"no params/ folder with profiles in {start} or above it")


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
    known = {file.stem: file for file in sorted((project_root() / "params").glob("*.yaml"))}
    if path.name not in known:
        nearest = max(known, key=lambda name: _similarity(path.name, name))
        listed = ", ".join(known)
        raise ParamsError(f"no profile {path.name!r}; nearest: {nearest!r}; there are: {listed}")
    return known[path.name]


def _read_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping from a YAML file; an empty file is an empty mapping."""
    values = _parse_yaml(path.read_text(encoding="utf-8"), _short(path))
    if not isinstance(values, dict | None):
        raise ParamsError(f"{_short(path)}: expected 'key: value' lines, found {values!r}")
    return values or {}


def _parse_yaml(text: str, place: str) -> Any:
    """Parse YAML; an error names the place, and the line within it."""
    try:
        return yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1
        raise ParamsError(f"{place}, line {line}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ParamsError(f"{place}: {error}") from None


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe loader that refuses a key given twice, of which YAML would keep the last silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """Build a mapping after checking that each of its keys is new."""
        seen = []  # a list, as a key may be unhashable; the parent class then says so
        for key_node, _ in node.value:
            if key_node.value in seen:
                problem = f"key {key_node.value!r} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.append(key_node.value)
        return super().construct_mapping(node, deep)


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
        nested = _merge(nested, item)
    return nested


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one nested mapping over another; anything but two mappings is replaced."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(merged.get(key), Mapping) and isinstance(value, Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


# ------------------------------------------------------------------------ explaining what is wrong
_KINDS = {
    "number": "a number",
    "integer": "a whole number",
    "string": "a text",
    "boolean": "true or false",
    "null": "null",
    "object": "a mapping",
}
# The JSON schema's names for bounds; minimum and maximum first, as they read best together.
_BOUNDS = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "exclusiveMinimum": "above {}",
    "exclusiveMaximum": "below {}",
    "multipleOf": "a multiple of {}",
    "minLength": "of length {} or more",
    "pattern": "matching {}",
}


def _explain(problem: Mapping[str, Any], file: str, changes: Mapping[str, Any]) -> str:
    """Say in one line where a value stands, what is wrong with it and what would be right."""
    names = [part for part in problem["loc"] if isinstance(part, str)]
    index = "".join(f"[{part}]" for part in problem["loc"] if isinstance(part, int))
    key, place, value = ".".join(names), _place(names, file, changes), repr(problem["input"])
    legal = dict(_legal_values(StudyParams.model_json_schema()))
    if problem["type"] == "extra_forbidden":
        nearest = max(legal, key=lambda known: _similarity(key, known))
        return (
            f"{place}: unknown key {key} (value {value}); "
            f"nearest valid key: {nearest} ({legal[nearest]})"
        )
    if problem["type"] == "value_error":
        return f"{place}: {key}: {problem['ctx']['error']}; found {value}"
    remedy = _remedy(problem["input"], legal[key])
    return f"{place}: {key}{index} is {value}; legal: {legal[key]}{remedy}"


def _place(names: list[str], file: str, changes: Mapping[str, Any]) -> str:
    """Tell whether a key came from the overrides or from the profile's file."""
    node: Any = changes
    for name in names:
        if not isinstance(node, Mapping) or name not in node:
            return file
        node = node[name]
    return OVERRIDES


def _remedy(value: Any, legal: str) -> str:
    """Spell out a number that reached us as text, which is how YAML reads ``1e-3``."""
    try:
        number = float(value) if isinstance(value, str) and "number" in legal else math.nan
    except ValueError:
        return ""
    if not math.isfinite(number):
        return ""
    spelling = yaml.safe_dump(int(number) if number.is_integer() else number).split()[0]
    why = "YAML takes 1e-3 for text, but 1.0e-3 for a number; " if "e" in value.lower() else ""
    return f" ({why}write {spelling}, without quotes)"


def _similarity(given: str, known: str) -> float:
    """Score how alike two dotted keys are: as a whole, in the last parts, and in the section."""

    def ratio(a: str, b: str) -> float:
        return difflib.SequenceMatcher(None, a, b).ratio()

    (place, _, last), (known_place, _, known_last) = given.rpartition("."), known.rpartition(".")
    # `steps` is short for `num_inference_steps`, however few letters they share; and whoever names
    # a section that exists most likely means one of its keys.
    in_place = 1.5 * (place == known_place != "")
    return ratio(given, known) + 2 * ratio(last, known_last) + (last in known_last) + in_place


def _legal_values(schema: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield every dotted key of a JSON schema with a phrase for its legal values."""
    definitions = schema.get("$defs", {})

    def walk(section: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
        for name, field in section["properties"].items():
            yield prefix + name, _phrase(field, definitions)
            for option in field.get("anyOf", [field]):
                if "$ref" in option:
                    yield from walk(_resolve(option, definitions), f"{prefix}{name}.")

    yield from walk(schema, "")


def _resolve(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follow a reference of a JSON schema to the section it names."""
    return definitions[field["$ref"].rpartition("/")[2]]


def _phrase(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """Put the legal values of one field of a JSON schema into words."""
    if "$ref" in field:
        return "a section with the keys " + ", ".join(_resolve(field, definitions)["properties"])
    if "anyOf" in field:
        return " or ".join(_phrase(option, definitions) for option in reversed(field["anyOf"]))
    if "enum" in field or "const" in field:
        return "one of " + ", ".join(field.get("enum", [field.get("const")]))
    if field["type"] == "array":
        return "a list, not empty, each item " + _phrase(field["items"], definitions)
    return " ".join([_KINDS[field["type"]], _limits(field)]).strip()


def _limits(field: Mapping[str, Any]) -> str:
    """Put the bounds of a number or text into words: ``from 0 to 1``, ``above 0``."""
    limits = [words.format(field[key]) for key, words in _BOUNDS.items() if key in field]
    if "minimum" in field and "maximum" in field:
        limits[:2] = [f"from {field['minimum']} to {field['maximum']}"]
    return " and ".join(limits)
