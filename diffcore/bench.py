"""Benchmark: what the parts of the study cost on this machine, as ratios within one run.

Run by `make bench`. Absolute times differ between machines; ratios from one run, in which the
contenders take turns, can be compared. Measured are the renderer of Paperbirds, generation in
batches against one image per call (as the authors' released code draws), the share of generation
that is spent inside the UNet and the autoencoder, the part no code of ours can save, and filtering
in batches against one image per call by way of a file (again as the authors' code does), and mixing
against torchvision's CutMix.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torchvision.transforms import v2

from diffcore.filtering import Encoder, cosine_to_reference, load_encoder
from diffcore.generation import generate, load_pipeline
from diffcore.mixing import DiffCoReMix, draw_lam, patch_mix, pixel_mix
from diffcore.params import load_params
from diffcore.prompts import load_prompt_book, plan_generation

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from diffcore.params import EncoderSpec, GenerationParams

SEED = 0

#: part of a job -> seconds that it took
Seconds = dict[str, float]


@dataclass(frozen=True)
class TimeShare:
    """Seconds of a call, and how many of them went to the two networks that draw."""

    total_s: float
    unet_s: float
    vae_s: float

    @property
    def share(self) -> float:
        """Part of the time inside UNet and autoencoder, in [0, 1]."""
        return (self.unet_s + self.vae_s) / self.total_s


def time_share(pipeline: "DiffusionPipeline", fn: Callable[[], Any]) -> TimeShare:
    """Call a function that draws with a pipeline and measure where its time goes.

    On a GPU each network is waited for, without which its work would count where it is needed.

    >>> time_share(pipeline, lambda: pipeline("a blue jay")).share  # doctest: +SKIP
    0.97
    """
    spent = {"unet": 0.0, "vae": 0.0}
    with (
        _timed(pipeline.unet, "forward", spent, "unet"),
        _timed(pipeline.vae, "decode", spent, "vae"),
    ):
        start = now()
        fn()
        total = now() - start
    return TimeShare(total, spent["unet"], spent["vae"])


@contextmanager
def _timed(module: torch.nn.Module, method: str, spent: dict[str, float], key: str) -> Iterator:
    """Add the seconds inside one method of a module to `spent[key]`, for as long as it lasts."""
    original = getattr(module, method)

    def measured(*args: Any, **kwargs: Any) -> Any:
        start = now()
        try:
            return original(*args, **kwargs)
        finally:
            spent[key] += now() - start

    # On the instance, where it hides the method of the class and can be taken away again.
    setattr(module, method, measured)
    try:
        yield
    finally:
        delattr(module, method)


def now() -> float:
    """Return the time in seconds when all work given to a GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def laps(parts: Mapping[str, Callable[[], Any]], clock: Callable[[], float] = now) -> Seconds:
    """Run the parts of one job in order: part -> seconds that it took."""
    seconds = {}
    for name, part in parts.items():
        start = clock()
        part()
        seconds[name] = clock() - start
    return seconds


def take_turns(
    contenders: Mapping[str, Callable[[], Seconds]], turns: int, seed: int = SEED
) -> pd.DataFrame:
    """Let contenders that time themselves take turns, in another order each time.

    Whatever else the machine does then meets all alike, and none always follows the same one.

    Args:
        contenders: name -> a run that returns the seconds of its parts, as `laps` does.
        turns: runs of each.
        seed: of the orders.

    Returns:
        Tidy table: turn, contender, part, seconds.
    """
    rng, names, rows = np.random.default_rng(seed), list(contenders), []
    for turn in range(turns):
        runs = {str(name): contenders[name]() for name in rng.permutation(names)}
        rows += [(turn, name, *part) for name in names for part in runs[name].items()]
    return pd.DataFrame(rows, columns=["turn", "contender", "part", "seconds"])


def bench_renderer(images: int = 200) -> dict[str, float]:
    """Time the renderer of Paperbirds over all species and contexts in turn, on one core.

    Both styles take turns, and so do one distractor and none. Returns the median and the 95th
    percentile of the milliseconds per image.
    """
    from diffcore.paperbirds import CONTEXTS, DISTRACTORS, SPECIES, render

    times = []
    for seed in range(images):
        species, context = SPECIES[seed % len(SPECIES)], CONTEXTS[seed % len(CONTEXTS)]
        distractors = (DISTRACTORS[seed % len(DISTRACTORS)],) if seed % 2 else ()
        start = time.perf_counter()
        render(species, context, seed, distractors, style=seed // 2 % 2)
        times.append(1000 * (time.perf_counter() - start))
    return {
        "renderer_ms_per_image": float(np.median(times)),
        "renderer_ms_per_image_p95": float(np.quantile(times, 0.95)),
    }


def bench_generation(
    pipeline: "DiffusionPipeline", settings: "GenerationParams", plan: pd.DataFrame
) -> dict[str, float]:
    """Time `generate` against one call per image, and find the time inside the networks.

    The two draw the same plan in turns, three times; the faster run of each counts, since
    whatever else the machine does can only slow it down.
    """
    in_batches = lambda: _generate_afresh(pipeline, settings, plan)  # noqa: E731
    one_by_one = lambda: _draw_one_by_one(pipeline, settings, plan)  # noqa: E731
    _generate_afresh(pipeline, settings, plan[: settings.batch_size])  # warm up
    turns = [(time_share(pipeline, in_batches), time_share(pipeline, one_by_one)) for _ in range(3)]
    batched, single = (min(runs, key=lambda run: run.total_s) for runs in zip(*turns, strict=True))
    return {
        "images": len(plan),
        "batch_size": settings.batch_size,
        "seconds_per_image": batched.total_s / len(plan),
        "seconds_per_image_one_by_one": single.total_s / len(plan),
        "batching_speedup": single.total_s / batched.total_s,
        "model_time_share": batched.share,
        "model_time_share_one_by_one": single.share,
    }


def bench_mixing(batch: int = 16, size: int = 224, turns: int = 30) -> dict[str, float]:
    """Time mixing a batch against torchvision's `CutMix`, which shares one box over the batch.

    All take turns on the same images; the medians are compared. Drawing λ, boxes and masks counts,
    and so does CutMix's mixing of labels, which ours leaves out as it is not needed.
    """
    images, generated = torch.rand(2, batch, 3, size, size).unbind()
    labels, cutmix = torch.arange(batch), v2.CutMix(num_classes=batch)
    generator = torch.Generator().manual_seed(SEED)
    contenders = {
        "cutmix": lambda: cutmix(images, labels),
        "patch_mix": lambda: patch_mix(images, generated, draw_lam(batch, 1.0, generator)),
        "pixel_mix": lambda: pixel_mix(images, generated, draw_lam(batch, 1.0, generator)),
        "diffcore_mix": lambda: DiffCoReMix()(images, generated, generator),
    }
    jobs = {name: partial(laps, {"mix": mix}) for name, mix in contenders.items()}
    times = take_turns(jobs, turns).groupby("contender", sort=False)["seconds"]
    medians = times.median().to_dict()
    ratios = {f"{name}_vs_cutmix": medians[name] / medians["cutmix"] for name in medians}
    return {"patch_mix_ms": 1000 * medians["patch_mix"], "cutmix_ms": 1000 * medians["cutmix"]} | {
        name: ratio for name, ratio in ratios.items() if name != "cutmix_vs_cutmix"
    }


def _sampler(settings: "GenerationParams") -> dict[str, Any]:
    names = ("guidance_scale", "num_inference_steps", "height", "width")
    return {name: getattr(settings, name) for name in names}


def _generate_afresh(
    pipeline: "DiffusionPipeline", settings: "GenerationParams", plan: pd.DataFrame
) -> None:
    """Draw a plan into a folder that is thrown away, so that nothing is reused."""
    with tempfile.TemporaryDirectory() as folder:
        generate(
            plan, pipeline, folder, **_sampler(settings), batch_size=settings.batch_size,
            shard_size=settings.shard_size, progress=False,
        )  # fmt: skip


def _draw_one_by_one(
    pipeline: "DiffusionPipeline", settings: "GenerationParams", plan: pd.DataFrame
) -> None:
    """Draw a plan as the released code does: texts in, one file out, image by image."""
    with tempfile.TemporaryDirectory() as folder:
        for row in plan.itertuples():
            image = pipeline(
                row.prompt,
                negative_prompt=row.negative_prompt,
                generator=torch.Generator().manual_seed(row.seed),
                **_sampler(settings),
            ).images[0]
            image.save(Path(folder) / f"{row.Index}.png")


def bench_filtering(spec: "EncoderSpec", images: int = 1000, turns: int = 2) -> dict[str, float]:
    """Time the filtering of images in batches against the released code's way, in turns.

    Ours is timed twice: with an empty cache, where every image is embedded once, and again as
    after a change of rule or threshold, where all embeddings are read from disk. Both compare with
    the first image of the class, as theirs does. Renders stand in for real and generated images.
    """
    real, drawn = _stand_ins(images)
    _filter_one_by_one(load_encoder(spec), drawn[:8], real)  # warm up
    seconds: dict[str, list[float]] = {"first": [], "again": [], "one_by_one": []}
    for _ in range(turns):
        with tempfile.TemporaryDirectory() as cache:
            for way in ("first", "again"):
                encoder = load_encoder(spec, cache)
                seconds[way].append(_seconds(lambda e=encoder: _filter_at_once(e, drawn, real)))
        encoder = load_encoder(spec)
        seconds["one_by_one"].append(_seconds(lambda e=encoder: _filter_one_by_one(e, drawn, real)))
    first, again, single = (min(times) for times in seconds.values())
    return {
        "filtered_images": len(drawn),
        "filter_ms_per_image": 1000 * first / len(drawn),
        "filter_ms_per_image_one_by_one": 1000 * single / len(drawn),
        "filter_speedup": single / first,
        "filter_speedup_again": single / again,
    }


def _seconds(fn: Callable[[], Any]) -> float:
    return laps({"all": fn})["all"]


def _stand_ins(images: int) -> tuple[list[tuple[str, np.ndarray]], list[tuple[str, np.ndarray]]]:
    """Render a real image of every class, and that many in the generator's style, with classes."""
    from diffcore.paperbirds import Paperbirds

    each = -(-images // len(Paperbirds.classes))
    real = Paperbirds("train", style=0.6, images_per_class=1, seed=SEED)
    drawn = Paperbirds("test_shifted", style=0.0, images_per_class=each, seed=SEED)
    pairs = [
        [(facts["class_name"], facts["image"]) for facts in (birds[i] for i in range(len(birds)))]
        for birds in (real, drawn)
    ]
    return pairs[0], pairs[1][:images]


def _filter_at_once(
    encoder: Encoder, drawn: list[tuple[str, np.ndarray]], real: list[tuple[str, np.ndarray]]
) -> np.ndarray:
    """Compare images (class, pixels) with the first of their class as this package does."""
    tables = []
    for pairs in (drawn, real):
        names, images = zip(*pairs, strict=True)
        table = pd.DataFrame({"class_name": names, "source_id": ""})
        tables.append(table.assign(embedding=list(encoder.embed_images(images))))
    return cosine_to_reference(*tables, "class_first")


def _filter_one_by_one(
    encoder: Encoder, drawn: list[tuple[str, np.ndarray]], real: list[tuple[str, np.ndarray]]
) -> np.ndarray:
    """Compare as the released code does: by way of a file, and both images embedded each time."""

    def embed(path: Path) -> torch.Tensor:
        with Image.open(path) as file, torch.inference_mode():
            pixels = encoder.preprocess(file.convert("RGB")).unsqueeze(0)
            return encoder.model.encode_image(pixels.to(encoder.device), normalize=True)[0]

    with tempfile.TemporaryDirectory() as folder:
        for class_name, pixels in real:
            Image.fromarray(pixels).save(Path(folder) / f"{class_name}.png")
        cosines = []
        for class_name, pixels in drawn:
            Image.fromarray(pixels).save(Path(folder) / "drawn.png")
            pair = embed(Path(folder) / "drawn.png"), embed(Path(folder) / f"{class_name}.png")
            cosines.append(float(pair[0] @ pair[1]))
    return np.array(cosines)


def _plan(images: int) -> pd.DataFrame:
    """Plan that many draws over all species of Paperbirds, in context and with negatives."""
    from diffcore.paperbirds import SPECIES

    sources = pd.DataFrame({
        "source_id": [str(place) for place in range(images)],
        "class_name": [SPECIES[place % len(SPECIES)] for place in range(images)],
    })  # fmt: skip
    book = load_prompt_book("paperbirds")
    return plan_generation(sources, book, generated_share=1, seed=SEED)


def run(profile: str = "demo", images: int = 64) -> dict[str, Any]:
    """Measure everything at the settings of a profile; see the functions above for the keys."""
    params = load_params(profile)
    settings = params.generation
    pipeline = load_pipeline(settings.pipeline)
    machine = {
        "profile": profile,
        "device": str(pipeline.device),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
    }
    filtering = bench_filtering(params.filtering.encoder, params.measure.images)
    drawing = bench_generation(pipeline, settings, _plan(images))
    return machine | bench_renderer() | drawing | filtering | bench_mixing()


def main(arguments: list[str] | None = None) -> None:
    """Print the measurements and write them as JSON."""
    parser = argparse.ArgumentParser(prog="python -m diffcore.bench", description=main.__doc__)
    parser.add_argument("--profile", default="demo", help="whose settings to measure")
    parser.add_argument("--images", type=int, default=64, help="how many to draw each time")
    parser.add_argument("--out", type=Path, default=Path("reports/bench.json"))
    given = parser.parse_args(arguments)
    measured = run(given.profile, given.images)
    for name, value in measured.items():
        print(f"{name:32}{value:.4g}" if isinstance(value, float) else f"{name:32}{value}")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(measured, indent=2) + "\n")


if __name__ == "__main__":
    main()
