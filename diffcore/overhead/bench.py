"""Benchmark: what the parts of the study cost on this machine, as ratios within one run.

Drawing and filtering in batches are held against the authors' way, one image a call and by files.
"""

import argparse
import json
import os
import platform
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torchvision.transforms import v2
from tqdm.auto import tqdm

from diffcore.filtering.encoders import Encoder, load_encoder
from diffcore.filtering.rules import cosine_to_reference, embed
from diffcore.generation.pipelines import load_pipeline
from diffcore.mixing.mix import DiffCoReMix, draw_lam, patch_mix, pixel_mix
from diffcore.overhead import timing
from diffcore.paperbirds.birds import SPECIES
from diffcore.paperbirds.dataset import Paperbirds
from diffcore.params import EncoderSpec, GenerationParams, load_params
from diffcore.prompts.book import load_prompt_book
from diffcore.prompts.plan import plan_generation
from diffcore.store import write_text

_REPEATS = 3  # of jobs in turn; the fastest run counts, as whatever else runs can only slow it


def bench_generation(
    pipeline: DiffusionPipeline, settings: GenerationParams, plan: pd.DataFrame
) -> dict[str, float]:
    """Time `generate` against one call an image, and find the time inside the networks."""
    one_by_one = partial(draw_one_by_one, pipeline, settings, plan)
    rounds = [
        (
            timing.time_generation(plan, pipeline, settings),
            timing.time_drawing(pipeline, one_by_one),
        )
        for _ in tqdm(range(_REPEATS), "draw", unit="repeat")
    ]
    ways = zip(*rounds, strict=True)
    batched, single = (pd.Series(min(way, key=lambda run: sum(run.values()))) for way in ways)
    return {
        "images": len(plan), "batch_size": settings.batch_size,
        "seconds_per_image": batched.sum() / len(plan),
        "seconds_per_image_one_by_one": single.sum() / len(plan),
        "batching_speedup": single.sum() / batched.sum(),
        "model_time_share": 1 - batched[timing.REST] / batched.sum(),
        "model_time_share_one_by_one": 1 - single[timing.REST] / single.sum(),
    }  # fmt: skip


def draw_one_by_one(
    pipeline: DiffusionPipeline, settings: GenerationParams, plan: pd.DataFrame
) -> None:
    """Draw a plan as the released code does: texts in, one file out, image by image."""
    told = {"guidance_scale", "num_inference_steps", "height", "width"}
    sampler = settings.model_dump(include=told)
    with tempfile.TemporaryDirectory() as folder:
        for row in plan.itertuples():
            noise = torch.Generator().manual_seed(row.seed)
            texts = {"prompt": row.prompt, "negative_prompt": row.negative_prompt}
            image = pipeline(**texts, generator=noise, **sampler).images[0]
            image.save(Path(folder) / f"{row.Index}.png")


def bench_filtering(spec: EncoderSpec, images: int = 1000) -> dict[str, float]:
    """Time filtering renders in batches (first, again from the cache) against the released way."""
    real = make_renders("train", 0.6, len(SPECIES))
    drawn, rounds = make_renders("test_shifted", 0.0, images), []
    filter_one_by_one(load_encoder(spec), drawn[:8], real)  # warm up
    for _ in tqdm(range(_REPEATS), "filter", unit="repeat"):
        with tempfile.TemporaryDirectory() as cache:
            ours = [partial(filter_at_once, load_encoder(spec, cache), drawn, real) for _ in "12"]
            theirs = partial(filter_one_by_one, load_encoder(spec), drawn, real)
            rounds.append(timing.laps({"first": ours[0], "again": ours[1], "one by one": theirs}))
    first, again, single = pd.DataFrame(rounds).min() / len(drawn)
    return {
        "filtered_images": len(drawn),
        "filter_ms_per_image": 1000 * first, "filter_ms_per_image_one_by_one": 1000 * single,
        "filter_speedup": single / first, "filter_speedup_again": single / again,
    }  # fmt: skip


def make_renders(split: str, style: float, images: int) -> pd.DataFrame:
    """Render that many images of Paperbirds, of as many species as there can be."""
    birds = Paperbirds(split, style=style, images_per_class=-(-images // len(SPECIES)))
    return pd.DataFrame([birds[place] for place in range(images)])[["class_name", "image"]]


def filter_at_once(encoder: Encoder, drawn: pd.DataFrame, real: pd.DataFrame) -> np.ndarray:
    """Compare images with the first real one of their class as this package does: (N,)."""
    tables = [embed(renders, renders["image"], encoder) for renders in (drawn, real)]
    return cosine_to_reference(*tables, "class_first")


def filter_one_by_one(encoder: Encoder, drawn: pd.DataFrame, real: pd.DataFrame) -> np.ndarray:
    """Compare as the released code does: by way of a file, and both images embedded each time."""

    def read(path: Path) -> torch.Tensor:
        with Image.open(path) as file, torch.inference_mode():
            pixels = encoder.preprocess(file.convert("RGB")).unsqueeze(0)
            return encoder.model.encode_image(pixels.to(encoder.device), normalize=True)[0]

    with tempfile.TemporaryDirectory() as folder:
        cosines, path = [], Path(folder) / "drawn.png"
        for bird in real.itertuples():
            Image.fromarray(bird.image).save(path.with_stem(bird.class_name))
        for bird in drawn.itertuples():
            Image.fromarray(bird.image).save(path)
            cosines.append(float(read(path) @ read(path.with_stem(bird.class_name))))
    return np.array(cosines)


def bench_mixing(batch: int = 16, size: int = 224, repeats: int = 30) -> dict[str, float]:
    """Time mixing a batch against torchvision's `CutMix`, which shares one box over the batch.

    Drawing λ, boxes and masks counts, and so does CutMix's mixing of labels, which ours needs not.
    """
    images, generated = torch.rand(2, batch, 3, size, size).unbind()
    labels, cutmix = torch.arange(batch), v2.CutMix(num_classes=batch)
    generator = torch.Generator().manual_seed(0)
    ways = {
        "cutmix": lambda: cutmix(images, labels),
        "patch_mix": lambda: patch_mix(images, generated, draw_lam(batch, 1.0, generator)),
        "pixel_mix": lambda: pixel_mix(images, generated, draw_lam(batch, 1.0, generator)),
        "diffcore_mix": lambda: DiffCoReMix()(images, generated, generator),
    }
    times = timing.median_seconds(ways, repeats, "mix")
    found = {f"{name}_ms": 1000 * times[name] for name in ("patch_mix", "cutmix")}
    return found | (times / times["cutmix"]).drop("cutmix").add_suffix("_vs_cutmix").to_dict()


def run(profile: str = "demo", images: int = 64) -> dict[str, Any]:
    """Measure everything at the settings of a profile; see the functions above for the keys."""
    params = load_params(profile)
    pipeline, book = load_pipeline(params.generation.pipeline), load_prompt_book("paperbirds")
    sources = {"source_id": np.arange(images), "class_name": np.resize(SPECIES, images)}
    plan = plan_generation(pd.DataFrame(sources), book, generated_share=1, seed=0)
    found = {
        "profile": profile, "device": str(pipeline.device),
        "processor": platform.processor() or platform.machine(), "cores": os.cpu_count(),
        "torch": torch.__version__, "torch_threads": torch.get_num_threads(),
    }  # fmt: skip
    found |= bench_generation(pipeline, params.generation, plan)
    found["draw_gpu_gigabytes"] = timing.gpu_gigabytes()
    return found | bench_filtering(params.filtering.encoder, params.measure.images) | bench_mixing()


def main(arguments: list[str] | None = None) -> int:
    """Measure what the parts of the study cost on this machine; print it, and write it as JSON."""
    parser = argparse.ArgumentParser(prog="diffcore bench", description=main.__doc__)
    parser.add_argument("--profile", default="demo", help="whose settings to measure")
    parser.add_argument("--images", type=int, default=64, help="how many to draw each time")
    parser.add_argument("--out", type=Path, default=Path("reports/bench.json"))
    given = parser.parse_args(arguments)
    measured = run(given.profile, given.images)
    print(pd.Series(measured).to_string(float_format="{:.4g}".format))
    write_text(given.out, json.dumps(measured, indent=2) + "\n")
    return 0
