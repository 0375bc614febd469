"""What augmentation costs: in a training step, in the images it rests on, and over the epochs.

The paper's Figure 4 lays overhead (CUB, batches of 16) beside accuracy. Here it is (T_method -
T_vanilla) / T_vanilla, with T the seconds of a step of `diffcore.training`, its images in memory.
Our choice: what a method does by itself is timed apart, as it would be lost in the spread of whole
steps, which are a check; what is paid once, before training, is spread over the epochs (`Budget`).
"""

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import interpolate

from diffcore.data.images import as_pixels
from diffcore.data.pairs import PairedDataset
from diffcore.data.splits import Split
from diffcore.filtering import rules
from diffcore.filtering.encoders import Encoder, load_encoder
from diffcore.generation.draw import GeneratedSet
from diffcore.generation.edit import edit_images, plan_edits
from diffcore.generation.pipelines import LazyPipeline
from diffcore.measure import timing
from diffcore.measure.mixing import first_pairs
from diffcore.methods.registry import (
    GENERATIVE,
    Method,
    make_method,
    method_settings,
    study_methods,
)
from diffcore.params import StudyParams, TrainingParams
from diffcore.stats import median_ratio
from diffcore.store import decode_png, encode_png
from diffcore.training.networks import build_classifier
from diffcore.training.train import Step

VANILLA, OURS = "vanilla", "diffcoremix"
STEP_PARTS = ("real images", "counterparts", "method", "forward", "backward", "update")


@dataclass(frozen=True)
class Setting:
    """Where steps are timed: a network, methods ("vanilla" among them), and images in memory."""

    name: str
    training: TrainingParams
    classifier: nn.Module
    methods: Mapping[str, Method]
    real: Tensor  # (N, H, W, 3) uint8, on the CPU
    generated: Tensor  # their counterparts, alike
    labels: Tensor  # (N,)


def make_settings(pairs: PairedDataset, params: StudyParams) -> list[Setting]:
    """Make the study's own setting; then the paper's, on the CPU and, where there is one, a GPU.

    As what an image shows hardly changes a time, small ones are enlarged, and stand for edits too.
    """
    effort, own, side = params.overhead, params.training, pairs.real.shape[2]
    every, few = first_pairs(pairs)[:3], first_pairs(pairs, effort.images)[:3]
    settings = [_make_setting("this study: {}", own, len(pairs.classes), side, every, params)]
    for name, device in (("CPU", "cpu"), ("GPU", "cuda"))[: 1 + torch.cuda.is_available()]:
        large = TrainingParams(model=effort.model, batch_size=effort.batch_size, device=device)
        place = "{}, " + name, large, effort.num_classes, effort.size
        settings.append(_make_setting(*place, few, params))
    return settings


def _make_setting(
    name: str, training: TrainingParams, num_classes: int, size: int, images: Sequence[Tensor],
    params: StudyParams,
) -> Setting:  # fmt: skip
    *images, labels = images
    fractals, square = {"size": size}, {"size": (size, size), "mode": "bilinear"}
    pixels = (as_pixels(interpolate(each, **square, antialias=True)) for each in images)
    methods = {
        method: make_method(method, method_settings(method, params) | fractals, num_classes)
        for method in study_methods(params)
    }
    return Setting(
        name.format(f"{training.model}, {size} × {size}, batch {training.batch_size}"), training,
        build_classifier(training, num_classes, params.seed), methods,
        *map(torch.from_numpy, pixels), labels % num_classes,
    )  # fmt: skip


def step_phases(setting: Setting, step: Step, method: str, generator: Generator) -> timing.Jobs:
    """Return the phases of a training step of a method, from the drawing of a batch on."""
    rows, count = torch.empty(0), setting.training.batch_size

    def take_real() -> None:
        nonlocal rows
        step.method = setting.methods[method]
        rows = torch.randint(len(setting.real), (count,), generator=generator)
        step.take_real(setting.real[rows], setting.labels[rows], generator)

    phases = {"real images": take_real}
    if method in GENERATIVE:
        phases["counterparts"] = lambda: step.take_counterparts(setting.generated[rows])
    network = {"forward": step.forward, "backward": step.backward, "update": step.update}
    return phases | {"method": step.augment} | network


def time_steps(setting: Setting, repeats: int, draws: int = 3, seed: int = 0) -> pd.DataFrame:
    """Time whole steps, without augmentation and of DiffCoRe-Mix, and what each method adds.

    They take turns, after one of each that warms up; what a method adds is the mean of `draws`.
    Tidy: setting, run ("step" or "own"), method, repeat, part, seconds, gpu_gigabytes (the most).
    """
    timing.gpu_gigabytes()
    step = Step(setting.classifier, setting.methods[VANILLA], setting.training)
    phases = {
        method: step_phases(setting, step, method, Generator().manual_seed(seed))
        for method in setting.methods
    }
    timing.laps(phases[VANILLA])  # the first is slower than any other
    for each in phases.values():
        _time_own(each, 1)
    jobs = {f"step {method}": partial(timing.laps, phases[method]) for method in (VANILLA, OURS)}
    jobs |= {f"own {method}": partial(_time_own, each, draws) for method, each in phases.items()}
    table = timing.take_repeats(jobs, repeats, seed, setting.name)
    table[["run", "method"]] = table.pop("job").str.split(" ", n=1, expand=True)
    return table.assign(setting=setting.name, gpu_gigabytes=timing.gpu_gigabytes())


def _time_own(phases: timing.Jobs, draws: int) -> timing.Seconds:
    """Mean seconds of each phase that a method adds, after the real images are fetched."""
    own = {name: phase for name, phase in phases.items() if name in STEP_PARTS[:3]}
    runs = pd.DataFrame(timing.laps(own) for _ in range(draws))
    return runs.mean().drop("real images").to_dict()


def step_overheads(times: pd.DataFrame, run: str = "own", confidence: float = 0.95) -> pd.DataFrame:
    """Overhead of each method, as a fraction of a step without augmentation, from `time_steps`.

    Of what it adds, timed by itself (`run` is "own"), or of the difference of whole steps ("step"),
    below 0 where they were faster by chance; less what "vanilla" does, labels to targets. Columns:
    setting, method, value, low, high, n (repeats), own_ms, step_ms (vanilla's), gpu_gigabytes.
    """
    rows, keys = [], ["run", "repeat", "method"]
    for (setting, gigabytes), table in times.groupby(["setting", "gpu_gigabytes"], sort=False):
        seconds = table.groupby(keys, sort=False)["seconds"].sum()
        step, own = (seconds.loc[kind].unstack("method", sort=False) for kind in ("step", run))
        vanilla = step[VANILLA]
        for method, added in own.sub(own[VANILLA], axis="index").items():
            row = {"setting": setting, "method": method}
            row |= median_ratio(added, vanilla, confidence)
            row |= {"own_ms": 1000 * added.median(), "step_ms": 1000 * vanilla.median()}
            rows.append(row | {"gpu_gigabytes": gigabytes})
    return pd.DataFrame(rows)


def step_parts(times: pd.DataFrame) -> pd.DataFrame:
    """Where the time of whole steps goes: setting, method, part, ms; 0 for what is not done."""
    keys, steps = ["setting", "method", "part"], times[times["run"] == "step"]
    ms = 1000 * steps.groupby(keys, sort=False)["seconds"].median()
    wide = ms.unstack("part", sort=False).reindex(columns=STEP_PARTS).fillna(0)
    return wide.stack().rename("ms").reset_index()


def time_images(
    params: StudyParams, plan: pd.DataFrame, train: Split, generated: GeneratedSet,
    reference: pd.DataFrame, pipeline: LazyPipeline | None,
) -> pd.DataFrame:  # fmt: skip
    """Time, in turns, the making of images that is paid for before training.

    Counterparts of a plan are drawn, `generated` ones are filtered by a `reference` that is there,
    and training images are edited; without a pipeline only filtered. Nothing on the disk is used,
    or left there. Tidy: kind ("counterpart" or "edit"), repeat, part, seconds for one image.
    """
    settings, threshold = params.filtering, rules.choose_threshold(params.filtering, reference)

    def judge(encoder: Encoder) -> None:
        embedded = rules.embed(generated.metadata, generated.images, encoder)
        rules.hard_filter(rules.cosine_to_reference(embedded, reference, settings.rule), threshold)

    def counterpart() -> timing.Seconds:
        encoder = load_encoder(settings.encoder)  # its memory is empty
        judged = timing.laps({"filter": partial(judge, encoder)})
        judged["filter"] /= len(generated)
        if pipeline is None:
            return judged
        spent = timing.time_generation(plan, pipeline, params.generation)
        return {part: seconds / len(plan) for part, seconds in spent.items()} | judged

    def edit() -> timing.Seconds:
        edits = plan_edits(train.metadata, params)
        own = {"strength": params.mixing.edit_strength, "progress": False}
        options = params.generation.sampler | own
        with tempfile.TemporaryDirectory() as folder:
            draw = partial(edit_images, edits, train, pipeline, folder, **options)
            spent = timing.time_drawing(pipeline.load(), draw)
        return {part: seconds / len(edits) for part, seconds in spent.items()}

    jobs = {"counterpart": counterpart} | ({} if pipeline is None else {"edit": edit})
    times = timing.take_repeats(jobs, params.overhead.image_repeats, params.seed, "images")
    return times.rename(columns={"job": "kind"})


def image_costs(
    times: pd.DataFrame, drawn_per_kept: float, confidence: float = 0.95
) -> pd.DataFrame:
    """Sum up the table of `time_images`, in seconds for one image: measure, value, low, high, n.

    A kept image pays for `drawn_per_kept` images, those of all rounds of filtering.
    """
    kinds = times["kind"].where(times["part"] != "filter", "filter")
    totals = times.groupby(["repeat", kinds])["seconds"].sum().unstack()
    totals["kept"] = drawn_per_kept * totals.filter(["counterpart", "filter"]).sum(axis=1)
    measures = {
        "counterpart": "seconds_per_generated", "filter": "filter_seconds_per_image",
        "kept": "seconds_per_kept", "edit": "seconds_per_edit",
    }  # fmt: skip
    return pd.DataFrame(
        {"measure": name} | median_ratio(totals[kind], np.ones(len(totals)), confidence)
        for kind, name in measures.items()
        if kind in totals
    )


def image_parts(times: pd.DataFrame, drawn_per_kept: float) -> pd.DataFrame:
    """Where the time of one image goes: kind, part, ms; a counterpart's with the rejected ones'."""
    ms = 1000 * times.groupby(["kind", "part"], sort=False)["seconds"].median()
    parts = ms.rename("ms").reset_index()
    vain = (drawn_per_kept - 1) * parts.loc[parts["kind"] == "counterpart", "ms"].sum()
    parts.loc[len(parts)] = "counterpart", "drawn for the rejected", vain
    return parts


@dataclass(frozen=True)
class Budget:
    """What a method costs, in seconds for one real training image."""

    once_s: float  # paid before training: drawing, filtering, editing
    epoch_s: float  # of training without augmentation, each epoch
    own: float  # overhead of the method's own step, as a fraction of `epoch_s`

    def overhead(self, epochs: float) -> float:
        """Overhead as a fraction when what is paid once is spread over some epochs."""
        return self.own + self.once_s / (epochs * self.epoch_s)

    def epochs_to(self, allowed: float) -> float:
        """Epochs after which the overhead is down to a fraction; inf if it never is."""
        spare = allowed - self.own
        if spare > 0:
            return self.once_s / (self.epoch_s * spare)
        return math.inf if self.once_s or spare else 0.0


def make_budgets(
    overheads: pd.DataFrame, costs: pd.DataFrame, params: StudyParams, batch_size: int
) -> dict[str, Budget]:
    """Budget of each method: rows of `step_overheads` of one setting, and `image_costs`."""
    seconds = costs.set_index("measure")["value"]
    drawn = params.generation.generated_share * seconds["seconds_per_kept"]
    # The real image is embedded too, once.
    once = dict.fromkeys(GENERATIVE, drawn + seconds["filter_seconds_per_image"])
    once["diffusemix"] = params.generation.generated_share * seconds.get(
        "seconds_per_edit", math.nan
    )
    return {
        row.method: Budget(once.get(row.method, 0.0), row.step_ms / 1000 / batch_size, row.value)
        for row in overheads.itertuples()
    }


def amortise(budgets: Mapping[str, Budget], epochs: Sequence[float]) -> pd.DataFrame:
    """Overhead of each method over the epochs, tidy: method, epochs, value."""
    return pd.DataFrame(
        {"method": method, "epochs": count, "value": budget.overhead(count)}
        for method, budget in budgets.items()
        for count in epochs
    )


def break_even(budgets: Mapping[str, Budget]) -> pd.DataFrame:
    """Epochs after which ours costs no more (or inf): columns against, overhead, epochs.

    Against methods that pay nothing before training: theirs is the same at any number of epochs.
    """
    return pd.DataFrame(
        {"against": other, "overhead": budget.own, "epochs": budgets[OURS].epochs_to(budget.own)}
        for other, budget in budgets.items()
        if not budget.once_s
    )


def time_decoding(setting: Setting, step_ms: float, images: int) -> dict[str, Any]:
    """Time the decoding of stored counterparts, as where they are not kept in memory.

    Returns a row: setting, size, kilobytes and ms for one image, and overhead: what decoding a
    second batch adds to a step of `step_ms` if the training process does it by itself.
    """
    files = [encode_png(image) for image in setting.generated[:images].numpy()]
    decode = {"decode": lambda: [decode_png(file) for file in files]}
    times = timing.take_repeats({"decode": partial(timing.laps, decode)}, 5, describe="decode")
    ms = 1000 * times["seconds"].median() / len(files)
    return {
        "setting": setting.name, "size": setting.generated.shape[1],
        "kilobytes": float(np.mean([*map(len, files)])) / 1000, "ms": ms,
        "overhead": ms * setting.training.batch_size / step_ms,
    }  # fmt: skip
