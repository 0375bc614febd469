"""What a profile will need before it is started: GPU memory, hours and disk.

Networks are built on torch's meta device, where tensors have shapes but no memory, and run once:
the operations are counted by torch and the memory by the tensors that are alive at the same time.
What turns these counts into hours and gigabytes is stated below, each assumption with its reason;
the results are estimates, good to perhaps a factor of two, and not measurements.

    python -m diffcore.estimate --profile cub200
    python -m diffcore.estimate --markdown        # every profile, as docs/profiles.md has it

Our choices, all of them: the assumptions below; that what is not counted is small. Not counted are
the experiments of single notebooks, learning curves, side studies, re-drawn images, the networks
that read prompts (once for each prompt) and the reading of images from disk, which can keep a GPU
waiting: set ``training.loader_workers``.
"""

import argparse
import json
import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import timm
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from diffcore.methods import METHODS
from diffcore.params import (
    EncoderSpec,
    PipelineSpec,
    StudyParams,
    TrainingParams,
    load_params,
    parse_assignments,
    project_root,
)
from diffcore.photos import find_missing, open_photos
from diffcore.photos.known import PUBLISHED
from diffcore.training import total_steps

# ------------------------------------------------------------------------------------ assumptions
#: Bytes of a PNG per pixel: the mean of 40 photographs of CUB-200-2011 at 512 x 512, saved as
#: `diffcore.generation` saves images (0.39 MB each).
PNG_BYTES_PER_PIXEL = 1.5
#: On top of what is counted: the driver's own memory, and what an allocator cannot use.
DRIVER_BYTES, ALLOCATOR_SHARE = 1.0e9, 0.2
#: Bytes of a weight in training: weight, gradient and the optimiser's averages, all in float32.
TRAINING_BYTES = {"sgd": 12, "adam": 16, "adamw": 16}
#: Forward and backward pass together, in forward passes: the backward pass computes the gradients
#: of activations and of weights, each as costly as the forward pass.
PASSES = 3
#: A checkpoint on the way, in classifiers: weights and up to two averages of the optimiser.
CHECKPOINT = 3


@dataclass(frozen=True)
class Device:
    """How fast the work is done.

    Attributes:
        tflops: peak of dense half precision in 10^12 operations a second; 312 is an A100's, by its
            data sheet.
        draw_share: part of the peak that drawing reaches; large matrix products and convolutions.
        train_share: part of the peak that training reaches; the layers between the convolutions of
            a ResNet wait for memory, and small images for the processor.
    """

    tflops: float = 312.0
    draw_share: float = 0.4
    train_share: float = 0.2


class SetSize(NamedTuple):
    """Size of a data set: images to train on and to test on, classes, gigabytes of its archives."""

    train: int
    test: int
    classes: int
    gigabytes: float


#: Training images of the complete sets by their official splits, and gigabytes of their archives,
#: rounded; the other published images are for testing. Flowers-102: training and validation part.
#: Caltech-101 has no split: 70 % (data.test_share) before any limit.
TRAINING_IMAGES = {
    "cub200": (5_994, 1.2), "cars": (8_144, 2.0), "flowers102": (2_040, 0.4),
    "caltech101": (6_074, 0.2), "cifar100": (50_000, 0.2), "tiny_imagenet": (100_000, 0.3),
    "imagenet": (1_281_167, 150.0),
}  # fmt: skip
#: Of Paperbirds: classes, images of each class and split by default, splits to test on, side.
_CLASSES, _IMAGES, _TEST_SPLITS, _SIDE = 12, 30, 2, 64

#: SDXL's networks, from the configuration files of stabilityai/stable-diffusion-xl-base-1.0; CosXL
#: has the same. What is not named has the default of diffusers or transformers.
SDXL = {
    "unet": {
        "sample_size": 128,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (320, 640, 1280),
        "attention_head_dim": (5, 10, 20),
        "transformer_layers_per_block": (1, 2, 10),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    "vae": {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "latent_channels": 4,
    },
    "text_encoder": {"hidden_size": 768, "intermediate_size": 3072, "projection_dim": 768,
                     "num_hidden_layers": 12, "num_attention_heads": 12},
    "text_encoder_2": {"hidden_size": 1280, "intermediate_size": 5120, "projection_dim": 1280,
                       "num_hidden_layers": 32, "num_attention_heads": 20},
}  # fmt: skip


# --------------------------------------------------------------------------------------- counting
class Work(NamedTuple):
    """What a network does with one batch.

    Attributes:
        flops: operations; a multiplication and an addition are two.
        params: weights.
        peak_bytes: of all tensors alive at the same time, without the weights.
    """

    flops: int
    params: int
    peak_bytes: int


def count(net: nn.Module, run: Callable[[], Any]) -> Work:
    """Count what a call does with a network on the meta device.

    Args:
        net: with its weights on the meta device; those are left out of the memory.
        run: calls it.

    >>> with torch.device("meta"):
    ...     net, images = nn.Conv2d(3, 8, 3, padding=1, bias=False), torch.empty(1, 3, 16, 16)
    >>> count(net, lambda: net(images)).flops == 2 * 16 * 16 * 8 * 3 * 3 * 3
    True
    """
    alive = _Alive([*net.parameters(), *net.buffers()])
    flops = FlopCounterMode(display=False)
    # Memory is watched outermost, so that it sees the operations that the counter takes apart.
    with alive, flops, _FusedAttention():
        run()
    params = sum(weight.numel() for weight in net.parameters())
    return Work(flops.get_total_flops(), params, alive.peak)


class _Alive(TorchDispatchMode):
    """Adds up the bytes of all tensors that operations make, until they are no longer used."""

    def __init__(self, known: Sequence[Tensor]):
        super().__init__()
        self.now = self.peak = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Run an operation and note the memory of what it returns."""
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self._note(leaf.untyped_storage())
        return made

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:  # a view has the memory of what it looks at
            self._known.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


class _FusedAttention(TorchFunctionMode):
    """Takes attention for the fused operation of GPUs, which never holds all pairs of tokens."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Replace attention without a mask; leave all else."""
        kwargs = kwargs or {}
        attention = func is nn.functional.scaled_dot_product_attention
        if not attention or len(args) != 3 or kwargs.get("attn_mask") is not None:
            return func(*args, **kwargs)
        return torch.ops.aten._scaled_dot_product_flash_attention(*args)[0]


# -------------------------------------------------------------------------- the text-to-image model
@cache
def pipeline_params(spec: PipelineSpec) -> int:
    """Weights of a text-to-image model, autoencoder and text encoders included."""
    nets = [_build(name, config, spec) for name, config in _configs(spec).items()]
    return sum(weight.numel() for net in nets for weight in net.parameters())


@cache
@torch.no_grad()
def denoising_step(spec: PipelineSpec, height: int, width: int, images: int) -> Work:
    """Count one call of the UNet with a batch of images, in which guidance has each twice.

    Args:
        spec: of the text-to-image model.
        height: of the images, in pixels.
        width: likewise.
        images: in the batch.
    """
    configs = _configs(spec)
    net, scale = _build("unet", configs["unet"], spec), _scale(configs["vae"])
    latents = _empty(spec, images, net.config.in_channels, height // scale, width // scale)
    text = _empty(spec, images, 77, net.config.cross_attention_dim)
    # Beside the text SDXL reads six numbers, of sizes and crop, each as so many features.
    numbers = 6 * net.config.addition_time_embed_dim
    pooled = net.config.projection_class_embeddings_input_dim - numbers
    added = {"text_embeds": _empty(spec, images, pooled), "time_ids": _empty(spec, images, 6)}
    time = torch.ones((), device="meta")
    return count(net, lambda: net(latents, time, text, added_cond_kwargs=added))


@cache
@torch.no_grad()
def decoding(spec: PipelineSpec, height: int, width: int) -> Work:
    """Count the autoencoder's way from latents to one image."""
    config = _configs(spec)["vae"]
    net, scale = _build("vae", config, spec), _scale(config)
    latents = _empty(spec, 1, net.config.latent_channels, height // scale, width // scale)
    return count(net, lambda: net.decode(latents))


@cache
@torch.no_grad()
def encoding(spec: PipelineSpec, height: int, width: int) -> Work:
    """Count the autoencoder's way from one image to latents, where an edit begins."""
    net = _build("vae", _configs(spec)["vae"], spec)
    pixels = _empty(spec, 1, 3, height, width)
    return count(net, lambda: net.encode(pixels))


def _configs(spec: PipelineSpec) -> dict[str, dict[str, Any]]:
    """Configurations of a model's networks: those in its folder, or SDXL's."""
    if spec.kind == "paperbirds":
        from diffcore.paperbirds import pipeline_dir  # only this kind needs the embedded world

        folder = Path(pipeline_dir())
    else:
        folder = Path(spec.location)
    files = {name: folder / name / "config.json" for name in SDXL}
    found = {name: file for name, file in files.items() if file.exists()}
    if "unet" not in found:
        return SDXL
    return {name: json.loads(file.read_text(encoding="utf-8")) for name, file in found.items()}


def _build(name: str, config: dict[str, Any], spec: PipelineSpec) -> nn.Module:
    """Build a network whose weights have a shape and a precision, but no values."""
    # Imported here, as it takes seconds: a profile that draws nothing does without.
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    with torch.device("meta"):
        if name.startswith("text_encoder"):
            return CLIPTextModelWithProjection(CLIPTextConfig(**config))
        net = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}[name].from_config(config)
    return nn.Module.to(net, _dtype(spec))  # as PyTorch does it: that of diffusers warns


def _scale(vae: dict[str, Any]) -> int:
    """Pixels of an image per latent, along a side."""
    return 2 ** (len(vae["block_out_channels"]) - 1)


def _dtype(spec: PipelineSpec) -> torch.dtype:
    return getattr(torch, spec.dtype)


def _empty(spec: PipelineSpec, *shape: int) -> Tensor:
    return torch.empty(shape, device="meta", dtype=_dtype(spec))


# --------------------------------------------------------------------------------- the classifiers
def training_step(settings: TrainingParams, num_classes: int, size: int, images: int) -> Work:
    """Count one step of training, forward and backward, with a batch of images.

    Args:
        settings: of the training.
        num_classes: of the data set.
        size: side of the images, in pixels.
        images: in the batch.
    """
    half = torch.float32 if settings.precision == "no" else torch.float16
    with torch.device("meta"):
        net = timm.create_model(settings.model, num_classes=num_classes, **settings.model_args)
    net = net.to(half).train()
    batch = torch.empty(images, 3, size, size, device="meta", dtype=half)
    return count(net, lambda: net(batch).sum().backward())


@cache
@torch.no_grad()
def embedding_flops(spec: EncoderSpec) -> int:
    """Operations by which the filter's encoder embeds an image; 0 for one from elsewhere."""
    import open_clip

    # Names with a colon are of folders and of the hub, where nothing is looked for here.
    listed = spec.kind == "open_clip" and ":" not in spec.model_name
    config = open_clip.get_model_config(spec.model_name) if listed else None
    with torch.device("meta"):
        if spec.kind == "timm":
            net = timm.create_model(spec.model_name, num_classes=0).eval()
            embed, size = net, net.pretrained_cfg["input_size"][-1]
        elif config is not None:
            net = open_clip.CLIP(**config).eval()
            embed, size = net.encode_image, config["vision_cfg"]["image_size"]
        else:
            return 0
        return count(net, lambda: embed(torch.empty(1, 3, size, size))).flops


# ------------------------------------------------------------------------------------- the estimate
@dataclass(frozen=True)
class Estimate:
    """What a profile will need.

    Attributes:
        profile: its name.
        images: to train on, and to test on.
        classes: of the data set.
        counterparts: generated images that are drawn, or brought in.
        edits: images that are edited for DiffuseMix.
        trainings: of the main table.
        draw_gb: GPU memory while drawing, in 10^9 bytes.
        train_gb: likewise while training.
        draw_hours: on the stated device.
        train_hours: likewise.
        disk_gb: photographs, model, generated images and classifiers, in 10^9 bytes.
    """

    profile: str
    images: tuple[int, int]
    classes: int
    counterparts: int
    edits: int
    trainings: int
    draw_gb: float
    train_gb: float
    draw_hours: float
    train_hours: float
    disk_gb: float


def estimate(params: StudyParams, device: Device | None = None) -> Estimate:
    """Estimate what a profile will need.

    Raises:
        ValueError: for a data set whose size is not known and whose folder is not there.
    """
    device = device or Device()
    size, methods = data_size(params), params.trials.methods or METHODS
    trainings = len(methods) * params.trials.seeds
    counterparts = _counterparts(params, size)
    edits = _edits(params, size, methods)
    batch = params.training.batch_size
    step = training_step(params.training, size.classes, _side(params), batch)
    # At the end each classifier is tested: a forward pass alone.
    passes = total_steps(params.training, size.train) + size.test / batch / PASSES
    train_flops = trainings * passes * step.flops
    draw_flops = _draw_flops(params, counterparts, edits)
    draw_flops += embedding_flops(params.filtering.encoder) * (size.train + counterparts)
    return Estimate(
        params.profile, (size.train, size.test), size.classes, counterparts, edits, trainings,
        draw_gb=_draw_bytes(params) / 1e9,
        train_gb=_train_bytes(params.training, step) / 1e9,
        draw_hours=_hours(draw_flops, device.tflops * device.draw_share),
        train_hours=_hours(train_flops, device.tflops * device.train_share),
        disk_gb=_disk_bytes(params, size, counterparts, edits, trainings, step.params) / 1e9,
    )  # fmt: skip


def data_size(params: StudyParams) -> SetSize:
    """Size of a profile's data set: counted if its images are there, else that of the whole set.

    Raises:
        ValueError: if neither is known.
    """
    data = params.data
    if data.dataset == "paperbirds":
        train, test = (_CLASSES * (limit or _IMAGES) for limit in _limits(params))
        return SetSize(train, _TEST_SPLITS * test, _CLASSES, 0.0)
    missing = find_missing(data)
    if not missing:
        return _counted(params)
    if data.dataset not in PUBLISHED:
        raise ValueError("; ".join(missing))
    published, (train, gigabytes) = PUBLISHED[data.dataset], TRAINING_IMAGES[data.dataset]
    train, test = (
        images if limit is None else min(images, limit * published.classes)
        for images, limit in zip((train, published.images - train), _limits(params), strict=True)
    )
    return SetSize(train, test, published.classes, gigabytes)


def _limits(params: StudyParams) -> tuple[int | None, int | None]:
    return params.data.train_images_per_class, params.data.test_images_per_class


def _counted(params: StudyParams) -> SetSize:
    """Count the images that are there; their bytes are already on the disk."""
    train, test = (open_photos(params.data, split, params.seed) for split in ("train", "test"))
    return SetSize(len(train), len(test), len(train.classes), 0.0)


def _side(params: StudyParams) -> int:
    """Side of the images that are trained on, in pixels."""
    dataset, side = params.data.dataset, params.data.image_size
    published = PUBLISHED[dataset].side if dataset in PUBLISHED else None
    side = _SIDE if dataset == "paperbirds" else side or published
    if side is None:
        raise ValueError(f"data.image_size of {params.profile} must be a number of pixels")
    return side


def _counterparts(params: StudyParams, size: SetSize) -> int:
    """Generated images: the share of each class, and at least one of each."""
    generation = params.generation
    if generation.pipeline.kind == "import":
        return 0
    return max(size.classes, round(generation.generated_share * size.train))


def _edits(params: StudyParams, size: SetSize, methods: Sequence[str]) -> int:
    wanted = params.generation.can_draw and "diffusemix" in methods
    return round(params.mixing.edits_per_image * size.train) if wanted else 0


def _draw_flops(params: StudyParams, counterparts: int, edits: int) -> float:
    """Operations of all drawing: counterparts at their size, edits at that of the photographs."""
    if not params.generation.can_draw:
        return 0.0
    drawing, spec = params.generation, params.generation.pipeline
    shape = (drawing.height, drawing.width)
    decoded = decoding(spec, *shape).flops
    flops = counterparts * (drawing.num_inference_steps * _guided_flops(params, *shape) + decoded)
    if edits:
        shape = (_side(params),) * 2
        steps = math.floor(params.mixing.edit_strength * drawing.num_inference_steps)
        coded = encoding(spec, *shape).flops + decoding(spec, *shape).flops
        flops += edits * (steps * _guided_flops(params, *shape) + coded)
    return flops


def _guided_flops(params: StudyParams, height: int, width: int) -> float:
    """Operations of a step for one image of a batch."""
    drawing = params.generation
    step = denoising_step(drawing.pipeline, height, width, _unet_batch(params))
    return step.flops / drawing.batch_size


def _unet_batch(params: StudyParams) -> int:
    """Images that the UNet sees at once: with guidance each twice, with and without its prompt."""
    drawing = params.generation
    return drawing.batch_size * (2 if drawing.guidance_scale > 1 else 1)


def _draw_bytes(params: StudyParams) -> float:
    """GPU memory of drawing: weights, and the larger of a guided step and of decoding a batch."""
    if not params.generation.can_draw:
        return 0.0
    drawing, spec = params.generation, params.generation.pipeline
    shape = (drawing.height, drawing.width)
    step = denoising_step(spec, *shape, _unet_batch(params)).peak_bytes
    decoded = decoding(spec, *shape).peak_bytes * drawing.batch_size
    weights = pipeline_params(spec) * _dtype(spec).itemsize
    return _with_allowance(weights + max(step, decoded))


def _train_bytes(settings: TrainingParams, step: Work) -> float:
    """GPU memory of training: weights and what goes with them, and activations."""
    each = TRAINING_BYTES.get(settings.optimizer, max(TRAINING_BYTES.values()))
    return _with_allowance(step.params * each + step.peak_bytes)


def _with_allowance(counted: float) -> float:
    return DRIVER_BYTES + counted * (1 + ALLOCATOR_SHARE)


def _disk_bytes(
    params: StudyParams, size: SetSize, counterparts: int, edits: int, trainings: int, weights: int
) -> float:
    """Bytes of photographs, text-to-image model, generated images and classifiers."""
    drawing = params.generation
    pixels = counterparts * drawing.height * drawing.width + edits * _side(params) ** 2
    spec = drawing.pipeline
    model = pipeline_params(spec) * _dtype(spec).itemsize if drawing.can_draw else 0
    classifiers = 4 * weights * (trainings + CHECKPOINT)
    return size.gigabytes * 1e9 + model + pixels * PNG_BYTES_PER_PIXEL + classifiers


def _hours(flops: float, tflops: float) -> float:
    return flops / (tflops * 1e12) / 3600


# ------------------------------------------------------------------------------------ for people
def tabulate(estimates: Sequence[Estimate]) -> pd.DataFrame:
    """Make a table for people, a row a profile: numbers as text, with two digits that count."""
    return pd.DataFrame(
        {
            "profile": found.profile,
            "training images": f"{found.images[0]:,}",
            "test images": f"{found.images[1]:,}",
            "classes": f"{found.classes:,}",
            "generated": f"{found.counterparts:,}",
            "edited": f"{found.edits:,}",
            "trainings": f"{found.trainings:,}",
            "GB to draw": _rough(found.draw_gb),
            "GB to train": _rough(found.train_gb),
            "hours to draw": _rough(found.draw_hours),
            "hours to train": _rough(found.train_hours),
            "GB of disk": _rough(found.disk_gb),
        }
        for found in estimates
    )


def _rough(value: float) -> str:
    """Write a number as precisely as an estimate deserves.

    >>> [_rough(value) for value in (0.0, 0.004, 0.96, 1.23, 45.6, 1234.0)]
    ['0', '0.01', '0.96', '1.2', '46', '1,200']
    """
    if value < 0.01:
        return "0.01" if value > 0 else "0"
    digits = 1 - math.floor(math.log10(value))
    text = f"{round(value, digits):,.{min(max(digits, 0), 2)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def as_markdown(table: pd.DataFrame) -> str:
    """Write a table of texts as Markdown."""
    rows = [list(table), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Print what profiles will need; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m diffcore.estimate",
        description="Estimate GPU memory, hours and disk of profiles, before they are run.",
    )
    given = parser.add_argument
    given("--profile", nargs="*", help="names in params/; all if none is given")
    given("--set", nargs="*", default=[], metavar="KEY=VALUE", help="parameters that differ")
    given("--markdown", action="store_true", help="write a table in Markdown")
    given("--tflops", type=float, default=Device.tflops, help="half-precision peak of the device")
    given("--draw-share", type=float, default=Device.draw_share, help="of it, reached in drawing")
    given("--train-share", type=float, default=Device.train_share, help="of it, in training")
    options = parser.parse_args()
    device = Device(options.tflops, options.draw_share, options.train_share)
    names = options.profile or sorted(p.stem for p in (project_root() / "params").glob("*.yaml"))
    overrides = parse_assignments(options.set)
    table = tabulate([estimate(load_params(name, overrides), device) for name in names])
    print(as_markdown(table) if options.markdown else table.T.to_string(header=False))
    print(f"\nEstimates, not measurements, for {device.tflops:g} TFLOP/s at peak, of which drawing "
          f"reaches {device.draw_share:.0%} and training {device.train_share:.0%}.")  # fmt: skip


if __name__ == "__main__":
    main()
