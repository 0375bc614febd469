"""What a profile will need before it is started: hours of a GPU, and disk.

Networks run once on torch's meta device, where tensors have shapes but no memory, and torch counts
the operations. Our choice: what is not counted is small (side studies, images drawn again, the
filter's encoder, reading of prompts and photographs). Expect a factor of two either way.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib import resources
from typing import Any, NamedTuple

import pandas as pd
import timm
import torch
import yaml
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from diffcore.data.datasets import find_dataset, load_split
from diffcore.data.published import PUBLISHED
from diffcore.methods import METHODS, study_methods
from diffcore.params import (
    ParamsError,
    StudyParams,
    TrainingParams,
    list_profiles,
    load_params,
    parse_assignments,
)
from diffcore.store import locate
from diffcore.training.train import total_steps

#: What is known of models and sets that are not here, and what is assumed: `estimate.yaml`.
KNOWN = yaml.safe_load(resources.files("diffcore.measure").joinpath("estimate.yaml").read_text())
SDXL, SDXL_WEIGHTS = KNOWN["sdxl"], KNOWN["sdxl_weights"]


class DataSize(NamedTuple):
    """What a data set holds: images, classes, pixels per side, gigabytes to fetch."""

    train: int
    test: int
    classes: int
    side: int
    gigabytes: float


def count_flops(run: Callable[[], Any]) -> int:
    """Count the operations of a call; a multiplication and an addition are two."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@cache
@torch.no_grad()
def image_flops(location: str, side: int) -> dict[str, int]:
    """Operations for one image: a call of the UNet, decoding, encoding; SDXL's if it is absent."""
    folder, configs = locate(location), SDXL
    if folder.is_dir():
        configs = {net: json.loads((folder / net / "config.json").read_text()) for net in SDXL}
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(configs["unet"])
        vae, pixels = AutoencoderKL.from_config(configs["vae"]), torch.empty(1, 3, side, side)
        latents = vae.encode(pixels).latent_dist.mode()
        text, added = torch.empty(1, 77, unet.config.cross_attention_dim), {}
        if unet.config.addition_embed_type:  # SDXL reads six numbers too, of sizes and crop
            pooled = unet.config.projection_class_embeddings_input_dim
            pooled -= 6 * unet.config.addition_time_embed_dim
            added = {"text_embeds": torch.empty(1, pooled), "time_ids": torch.empty(1, 6)}
        denoise = partial(unet, latents, torch.ones(()), text, added_cond_kwargs=added)
        calls = {"decode": partial(vae.decode, latents), "encode": partial(vae.encode, pixels)}
        return {name: count_flops(run) for name, run in (calls | {"denoise": denoise}).items()}


def training_flops(settings: TrainingParams, num_classes: int, size: int) -> tuple[int, int]:
    """Operations of a training step for one image, forward and backward; and the weights."""
    with torch.device("meta"):
        net = timm.create_model(settings.model, num_classes=num_classes, **settings.model_args)
        images = torch.empty(2, 3, size, size)  # one may have no batch statistics
        flops = count_flops(lambda: net.train()(images).sum().backward())
    return flops // len(images), sum(weight.numel() for weight in net.parameters())


def data_size(params: StudyParams) -> DataSize:
    """Count a profile's data set, or return its published size; ParamsError if neither is there."""
    data, published = params.data, PUBLISHED.get(params.data.dataset)
    dataset = find_dataset(data.dataset)
    if not (missing := dataset.missing(data)):
        train = load_split(params, "train")
        tests = [load_split(params, split) for split in dataset.tests.values()]
        side = data.image_size or train.images.shape[2]
        return DataSize(len(train), sum(map(len, tests)), len(train.classes), side, 0.0)
    side = data.image_size or (published and published.side)
    if published is None or side is None:
        raise ParamsError("; ".join(missing) if published is None else "data.image_size is needed")
    images, gigabytes = KNOWN["train"][data.dataset]
    counts = images, published.images - images
    limits = data.train_images_per_class, data.test_images_per_class
    train, test = (
        min(count, count if limit is None else limit * published.classes)
        for count, limit in zip(counts, limits, strict=True)
    )
    return DataSize(train, test, published.classes, side, gigabytes)


def estimate(
    params: StudyParams, tflops: float = 312.0, draw_share: float = 0.4, train_share: float = 0.2
) -> dict[str, Any]:
    """Estimate what a profile will need: one row of the table, by column.

    By default for an A100, whose data sheet states a half-precision peak of 312 TFLOP/s. Training
    reaches less of it than drawing, as layers between convolutions wait for memory.
    """
    size, generation, training = data_size(params), params.generation, params.training
    methods, imported = study_methods(params), generation.pipeline.kind == "import"
    # Of each class a counterpart is drawn at least.
    drawn = 0 if imported else max(size.classes, round(generation.generated_share * size.train))
    restyles = any(METHODS[name].sees == "restyled" for name in methods)
    restyled = round(max(1.0, generation.generated_share) * size.train) if restyles else 0
    trainings = len(methods) * params.runs.seeds
    step, weights = training_flops(training, size.classes, size.side)
    # At the end each classifier is tested: a forward pass alone.
    shown = total_steps(training, size.train) * training.batch_size + size.test / KNOWN["passes"]
    drawing = drawing_flops(params, drawn, restyled, size.side)
    pixels = drawn * generation.image_size**2 + restyled * size.side**2
    disk = 1e9 * size.gigabytes + pixels * KNOWN["png_bytes_per_pixel"]
    if not find_dataset(params.data.dataset).keeps_images:  # images are decoded once, and kept
        disk += 3 * size.side**2 * (size.train + size.test + drawn + restyled)
    disk += 4 * weights * (trainings + KNOWN["checkpoint"])
    if generation.can_draw and not locate(generation.pipeline.location).exists():
        disk += SDXL_WEIGHTS * getattr(torch, generation.pipeline.dtype).itemsize
    return {
        "profile": params.profile,
        "training images": size.train,
        "test images": size.test,
        "classes": size.classes,
        "generated": drawn,
        "edited": restyled,
        "trainings": trainings,
        "hours to draw": drawing / (tflops * draw_share * 1e12) / 3600,
        "hours to train": trainings * shown * step / (tflops * train_share * 1e12) / 3600,
        "GB of disk": disk / 1e9,
    }


def drawing_flops(params: StudyParams, drawn: int, restyled: int, side: int) -> int:
    """Count the operations of all drawing: counterparts at their size, restyled ones at `side`."""
    generation, flops = params.generation, 0
    passes, steps = 1 + (generation.guidance_scale > 1), generation.num_inference_steps
    if drawn and generation.can_draw:
        image = image_flops(generation.pipeline.location, generation.image_size)
        flops += drawn * (passes * steps * image["denoise"] + image["decode"])
    if restyled:
        image = image_flops(generation.pipeline.location, side)
        steps = int(params.mixing.edit_strength * steps)
        flops += restyled * (passes * steps * image["denoise"] + image["encode"] + image["decode"])
    return flops


def rough(value: float | int | str) -> str:
    """Write a float as precisely as an estimate deserves, counts and texts as they are.

    >>> [rough(value) for value in ("demo", 1234, 0.0, 0.0041, 0.96, 12.3, 1234.0)]
    ['demo', '1,234', '0', '0.01', '0.96', '12', '1,200']
    """
    if isinstance(value, float):
        return f"{float(f'{max(value, 0.01 * (value > 0)):.2g}'):,g}"
    return value if isinstance(value, str) else f"{value:,}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Estimate what profiles will need before they are run: hours of a GPU, and disk."""
    parser = argparse.ArgumentParser(prog="diffcore estimate", description=main.__doc__)
    add = parser.add_argument
    add("--profile", nargs="*", help="names in params/; all if none is named")
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    add("--markdown", action="store_true", help="write a table in Markdown")
    add("--tflops", type=float, default=312.0, help="half-precision peak of the device")
    add("--draw-share", type=float, default=0.4, help="of it, reached in drawing")
    add("--train-share", type=float, default=0.2, help="of it, reached in training")
    options = parser.parse_args(arguments)
    changes = parse_assignments(options.set)
    studies = [load_params(name, changes) for name in options.profile or list_profiles()]
    device = options.tflops, options.draw_share, options.train_share
    table = pd.DataFrame(estimate(study, *device) for study in studies).map(rough)
    rows = [list(table), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    markdown = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    print(markdown if options.markdown else table.T.to_string(header=False))
    shares = f"{options.draw_share:.0%} and training {options.train_share:.0%}"
    print(f"\nEstimates, not measurements, for a peak of {options.tflops:g} TFLOP/s, of which")
    print(f"drawing reaches {shares}.")
    return 0
