"""What a profile will need before it is started: hours of a GPU, and disk.

Networks run once on torch's meta device, where tensors have shapes but no memory, and torch counts
the operations. Our choice: what is not counted is small (side studies, images drawn again, the
filter's encoder, reading of prompts and photographs). Expect a factor of two either way.
"""

import argparse
import json
from collections.abc import Callable
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
import timm
import torch
import yaml
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from diffcore import params as settings_of
from diffcore.checks import MissingFilesError
from diffcore.data.layouts import find_missing
from diffcore.data.published import PUBLISHED
from diffcore.data.splits import load_split
from diffcore.methods.registry import study_methods
from diffcore.params import ParamsError, PipelineSpec, StudyParams, TrainingParams
from diffcore.training.train import total_steps
from paperbirds.birds import SPECIES
from paperbirds.weights import pipeline_dir

#: What is known of models and sets that are not here, and what is assumed: `estimate.yaml`.
KNOWN = yaml.safe_load(resources.files("diffcore.measure").joinpath("estimate.yaml").read_text())
SDXL, SDXL_WEIGHTS, BIRDS = KNOWN["sdxl"], KNOWN["sdxl_weights"], KNOWN["paperbirds"]


def count_flops(run: Callable[[], Any]) -> int:
    """Count the operations of a call; a multiplication and an addition are two."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@cache
@torch.no_grad()
def image_flops(spec: PipelineSpec, height: int, width: int) -> dict[str, int]:
    """Operations for one image: a call of the UNet, decoding, encoding; SDXL's if it is absent."""
    folder, configs = _model_folder(spec), SDXL
    if folder.is_dir():
        configs = {net: json.loads((folder / net / "config.json").read_text()) for net in SDXL}
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(configs["unet"])
        vae, pixels = AutoencoderKL.from_config(configs["vae"]), torch.empty(1, 3, height, width)
        latents = vae.encode(pixels).latent_dist.mode()
        text, added = torch.empty(1, 77, unet.config.cross_attention_dim), {}
        if unet.config.addition_embed_type:  # SDXL reads six numbers too, of sizes and crop
            pooled = unet.config.projection_class_embeddings_input_dim
            pooled -= 6 * unet.config.addition_time_embed_dim
            added = {"text_embeds": torch.empty(1, pooled), "time_ids": torch.empty(1, 6)}
        denoise = partial(unet, latents, torch.ones(()), text, added_cond_kwargs=added)
        calls = {"decode": partial(vae.decode, latents), "encode": partial(vae.encode, pixels)}
        return {name: count_flops(run) for name, run in (calls | {"denoise": denoise}).items()}


def _model_folder(spec: PipelineSpec) -> Path:
    return Path(pipeline_dir() if spec.kind == "paperbirds" else spec.location)


def training_flops(settings: TrainingParams, num_classes: int, size: int) -> tuple[int, int]:
    """Operations of a training step for one image, forward and backward; and the weights."""
    with torch.device("meta"):
        net = timm.create_model(settings.model, num_classes=num_classes, **settings.model_args)
        images = torch.empty(2, 3, size, size)  # one may have no batch statistics
        flops = count_flops(lambda: net.train()(images).sum().backward())
    return flops // len(images), sum(weight.numel() for weight in net.parameters())


def data_size(params: StudyParams) -> tuple[int, int, int, float]:
    """Images to train on and to test on, classes, and gigabytes to fetch, of a profile's data set.

    Counted if it is there, else as published; raises MissingFilesError if it is not known either.
    """
    data = params.data
    limits = data.train_images_per_class, data.test_images_per_class
    if data.dataset == "paperbirds":
        train, test = (len(SPECIES) * (limit or BIRDS["images"]) for limit in limits)
        return train, BIRDS["test_splits"] * test, len(SPECIES), 0.0
    if not (missing := find_missing(data)):
        train, test = (load_split(params, split) for split in ("train", "test"))
        return len(train), len(test), len(train.classes), 0.0
    if data.dataset not in PUBLISHED:
        raise MissingFilesError("; ".join(missing))
    published, (train, gigabytes) = PUBLISHED[data.dataset], KNOWN["train"][data.dataset]
    train, test = (
        min(count, count if limit is None else limit * published.classes)
        for count, limit in zip((train, published.images - train), limits, strict=True)
    )
    return train, test, published.classes, gigabytes


def estimate(
    params: StudyParams, tflops: float = 312.0, draw_share: float = 0.4, train_share: float = 0.2
) -> dict[str, Any]:
    """Estimate what a profile will need: a row of the table, by column.

    By default for an A100, whose data sheet states a half-precision peak of 312 TFLOP/s. Drawing,
    of large matrix products, reaches more of it than training, where layers between convolutions
    wait for memory. Raises as `data_size`, and ParamsError for many sizes without an image_size.
    """
    (train, test, classes, gigabytes), side = data_size(params), _side(params)
    generation, training = params.generation, params.training
    methods, imported = study_methods(params), generation.pipeline.kind == "import"
    # Of each class a counterpart is drawn at least.
    drawn = 0 if imported else max(classes, round(generation.generated_share * train))
    edited = round(max(1.0, generation.generated_share) * train) if "diffusemix" in methods else 0
    trainings = len(methods) * params.runs.seeds
    step, weights = training_flops(training, classes, side)
    # At the end each classifier is tested: a forward pass alone.
    shown = total_steps(training, train) * training.batch_size + test / KNOWN["passes"]
    drawing = drawing_flops(params, drawn, edited, side)
    pixels = drawn * generation.height * generation.width + edited * side**2
    disk = 1e9 * gigabytes + pixels * KNOWN["png_bytes_per_pixel"]
    if params.data.dataset != "paperbirds":  # all of them are decoded once, and kept
        disk += 3 * side**2 * (train + test + drawn + edited)
    disk += 4 * weights * (trainings + KNOWN["checkpoint"])
    if generation.can_draw and not _model_folder(generation.pipeline).exists():
        disk += SDXL_WEIGHTS * getattr(torch, generation.pipeline.dtype).itemsize
    return {
        "profile": params.profile, "training images": train, "test images": test,
        "classes": classes, "generated": drawn, "edited": edited, "trainings": trainings,
        "hours to draw": drawing / (tflops * draw_share * 1e12) / 3600,
        "hours to train": trainings * shown * step / (tflops * train_share * 1e12) / 3600,
        "GB of disk": disk / 1e9,
    }  # fmt: skip


def drawing_flops(params: StudyParams, drawn: int, edited: int, side: int) -> int:
    """Operations of all drawing: counterparts at their size, edits at that of the photographs."""
    generation, spec, flops = params.generation, params.generation.pipeline, 0
    steps, guided = generation.num_inference_steps, generation.guidance_scale > 1
    if drawn and generation.can_draw:
        image = image_flops(spec, generation.height, generation.width)
        calls = steps + guided * (steps - generation.unguided_steps)
        flops += drawn * (calls * image["denoise"] + image["decode"])
    if edited:
        image, steps = image_flops(spec, side, side), int(params.mixing.edit_strength * steps)
        calls = steps * (1 + guided)
        flops += edited * (calls * image["denoise"] + image["encode"] + image["decode"])
    return flops


def _side(params: StudyParams) -> int:
    """Side of the images that are trained on, in pixels."""
    dataset, published = params.data.dataset, PUBLISHED.get(params.data.dataset)
    side = params.data.image_size or (published and published.side)
    side = BIRDS["side"] if dataset == "paperbirds" else side
    if side is None:
        raise ParamsError(f"data.image_size of {params.profile} must be a number of pixels")
    return side


def rough(value: float | int | str) -> str:
    """Write a float as precisely as an estimate deserves, counts and texts as they are.

    >>> [rough(value) for value in ("demo", 1234, 0.0, 0.0041, 0.96, 12.3, 1234.0)]
    ['demo', '1,234', '0', '0.01', '0.96', '12', '1,200']
    """
    if isinstance(value, float):
        return f"{float(f'{max(value, 0.01 * (value > 0)):.2g}'):,g}"
    return value if isinstance(value, str) else f"{value:,}"


def main(arguments: list[str] | None = None) -> int:
    """Estimate what profiles will need before they are run: hours of a GPU, and disk."""
    parser = argparse.ArgumentParser(prog="diffcore estimate", description=main.__doc__)
    given = parser.add_argument
    given("--profile", nargs="*", help="names in params/; all if none is given")
    given("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    given("--markdown", action="store_true", help="write a table in Markdown")
    given("--tflops", type=float, default=312.0, help="half-precision peak of the device")
    given("--draw-share", type=float, default=0.4, help="of it, reached in drawing")
    given("--train-share", type=float, default=0.2, help="of it, reached in training")
    told = parser.parse_args(arguments)
    changes = settings_of.parse_assignments(told.set)
    names = told.profile or settings_of.list_profiles()
    studies = [settings_of.load_params(name, changes) for name in names]
    device = told.tflops, told.draw_share, told.train_share
    table = pd.DataFrame(estimate(study, *device) for study in studies).map(rough)
    rows = [list(table), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    markdown = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    print(markdown if told.markdown else table.T.to_string(header=False))
    print(f"\nEstimates, not measurements, for {told.tflops:g} TFLOP/s at peak, of which drawing "
          f"reaches {told.draw_share:.0%} and training {told.train_share:.0%}.")  # fmt: skip
    return 0
