"""What augmentation costs: in a training step, in the images it rests on, and over the epochs.

The paper's Figure 4 shows overhead (CUB, batches of 16) beside accuracy. Here overhead is
(T_method - T_vanilla) / T_vanilla, with T the seconds of a step of `diffcore.training`, its images
in memory. Our choice: what a method adds is timed by itself, as it would be lost in the spread of
whole steps; these are timed as a check. What is paid once, before training, is spread over epochs.
"""

import math
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers import DiffusionPipeline
from torch import Generator, Tensor, nn
from torch.nn.functional import interpolate
from tqdm.auto import trange

from diffcore.data.images import as_pixels
from diffcore.data.pairs import PairedDataset
from diffcore.data.splits import Split
from diffcore.filtering import rules
from diffcore.filtering.encoders import load_encoder
from diffcore.filtering.image_filter import ImageFilter
from diffcore.generation.draw import GeneratedSet, generate
from diffcore.generation.pipelines import LazyPipeline
from diffcore.generation.restyle import plan_restyled, restyle_images
from diffcore.measure.mixing import first_pairs
from diffcore.methods import METHODS, method_of, study_methods
from diffcore.params import StudyParams, TrainingParams
from diffcore.stats import median_ratio
from diffcore.store import decode_png, encode_png
from diffcore.training.networks import build_classifier
from diffcore.training.train import Step

VANILLA, OURS = "vanilla", "diffcoremix"
STEP_PARTS = ("real images", "counterparts", "method", "forward", "backward", "update")
REST = "text and files"  # what drawing does outside the networks, where our code can save time
_ADDED = 3  # times that what a method adds is run within a repeat

Jobs = Mapping[str, Callable[[], Any]]  # or the parts of one
Seconds = dict[str, float]  # of the parts of a job


# ------------------------------------------------------------------------------------------- clocks
def now() -> float:
    """Return the time in seconds when all work given to a GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def gpu_gigabytes() -> float:
    """Return the most GPU memory that tensors took since the last call, in 10^9 bytes, or 0."""
    if not torch.cuda.is_available():
        return 0.0
    most = torch.cuda.max_memory_allocated() / 1e9
    torch.cuda.reset_peak_memory_stats()
    return most


def clock(job: Callable[[], Any]) -> float:
    """Run a job, and return the seconds that it took."""
    start = now()
    job()
    return now() - start


def laps(parts: Jobs) -> Seconds:
    """Run the parts of one job in order: part -> seconds that it took."""
    return {name: clock(part) for name, part in parts.items()}


def take_repeats(jobs: Jobs, repeats: int, seed: int = 0, describe: str = "time") -> pd.DataFrame:
    """Run jobs that return `Seconds`, in changing order: tidy repeat, job, part and seconds."""
    rng, rows = np.random.default_rng(seed), []
    for repeat in trange(repeats, desc=describe):
        runs = {name: jobs[name]() for name in rng.permutation(list(jobs)).tolist()}
        rows += [(repeat, name, *part) for name in jobs for part in runs[name].items()]
    return pd.DataFrame(rows, columns=["repeat", "job", "part", "seconds"])


def time_drawing(pipeline: DiffusionPipeline, draw: Callable[[], Any]) -> Seconds:
    """Time a function that draws with a pipeline: in its two networks, and besides (`REST`)."""
    networks = {"UNet": pipeline.unet, "autoencoder": pipeline.vae.decoder}
    spent, hooks = dict.fromkeys(networks, 0.0), []

    def count(part: str, sign: int, *_: Any) -> None:
        spent[part] += sign * now()

    for part, network in networks.items():
        hooks.append(network.register_forward_pre_hook(partial(count, part, -1)))
        hooks.append(network.register_forward_hook(partial(count, part, 1)))
    try:
        total = clock(draw)
    finally:
        for hook in hooks:
            hook.remove()
    return spent | {REST: total - sum(spent.values())}


# -------------------------------------------------------------------------------------------- steps
@dataclass(frozen=True)
class Setting:
    """Where steps are timed: a network, methods ("vanilla" among them), and images in memory."""

    name: str
    training: TrainingParams
    classifier: nn.Module
    methods: Mapping[str, Callable]  # as of `Method.step`
    real: Tensor  # (N, H, W, 3) uint8, on the CPU
    generated: Tensor  # their counterparts, alike
    labels: Tensor  # (N,)


def make_settings(
    pairs: PairedDataset, params: StudyParams, model: str, size: int, batch_size: int, images: int
) -> list[Setting]:
    """Return the study's setting; then the paper's, on the CPU and, where there is one, a GPU.

    What an image shows hardly changes a time: small ones are enlarged, and stand for restyled ones.
    """
    cases = [("this study: {}", params.training, pairs.real.shape[2], first_pairs(pairs))]
    few, classes = first_pairs(pairs, images), len(pairs.classes)
    for title, device in (("{}, CPU", "cpu"), ("{}, GPU", "cuda"))[: 1 + torch.cuda.is_available()]:
        training = TrainingParams(model=model, batch_size=batch_size, device=device)
        cases.append((title, training, size, few))
    settings = []
    for title, training, side, (*both, labels, _, _) in cases:
        square = {"size": (side, side), "mode": "bilinear", "antialias": True}
        shown = [torch.from_numpy(as_pixels(interpolate(each, **square))) for each in both]
        name = title.format(f"{training.model}, {side} × {side}, batch {training.batch_size}")
        classifier = build_classifier(training, classes, params.seed)
        methods = {each: method_of(each, params).step(classes) for each in study_methods(params)}
        settings.append(Setting(name, training, classifier, methods, *shown, labels))
    return settings


def step_phases(setting: Setting, step: Step, method: str, generator: Generator) -> Jobs:
    """Return the phases of a training step of a method, from the drawing of a batch on."""
    rows, count = torch.empty(0), setting.training.batch_size

    def take_real() -> None:
        nonlocal rows
        step.method = setting.methods[method]
        rows = torch.randint(len(setting.real), (count,), generator=generator)
        step.take_real(setting.real[rows], setting.labels[rows], generator)

    phases = {"real images": take_real}
    if METHODS[method].sees != "real":
        phases["counterparts"] = lambda: step.take_counterparts(setting.generated[rows])
    network = {"forward": step.forward, "backward": step.backward, "update": step.update}
    return phases | {"method": step.augment} | network


def time_steps(setting: Setting, repeats: int, seed: int = 0) -> pd.DataFrame:
    """Time whole steps, without augmentation and of DiffCoRe-Mix, and what each method adds.

    Tidy: setting, run ("step" or "own"), method, repeat, part, seconds, gpu_gigabytes (the most).
    """
    gpu_gigabytes()
    step = Step(setting.classifier, setting.methods[VANILLA], setting.training)
    phases = {
        method: step_phases(setting, step, method, Generator().manual_seed(seed))
        for method in setting.methods
    }
    laps(phases[VANILLA])  # the first is slower than any other
    for each in phases.values():
        _time_added(each, 1)
    jobs = {f"step {method}": partial(laps, phases[method]) for method in (VANILLA, OURS)}
    jobs |= {f"own {method}": partial(_time_added, each, _ADDED) for method, each in phases.items()}
    table = take_repeats(jobs, repeats, seed, setting.name)
    table[["run", "method"]] = table.pop("job").str.split(" ", n=1, expand=True)
    return table.assign(setting=setting.name, gpu_gigabytes=gpu_gigabytes())


def _time_added(phases: Jobs, runs: int) -> Seconds:
    """Mean seconds of each phase that a method adds, after the real images are fetched."""
    added = {name: phase for name, phase in phases.items() if name in STEP_PARTS[:3]}
    times = pd.DataFrame(laps(added) for _ in range(runs))
    return times.mean().drop("real images").to_dict()


def step_overheads(times: pd.DataFrame, run: str = "own") -> pd.DataFrame:
    """Overhead of each method, as a fraction of a step without augmentation, from `time_steps`.

    Of what it adds to "vanilla", timed by itself (`run` is "own"), or of whole steps ("step").
    Columns: setting, method, value, low, high, n (repeats), own_ms, step_ms (vanilla's),
    gpu_gigabytes.
    """
    rows, keys = [], ["run", "repeat", "method"]
    for (setting, gigabytes), table in times.groupby(["setting", "gpu_gigabytes"], sort=False):
        seconds = table.groupby(keys, sort=False)["seconds"].sum()
        step, own = (seconds.loc[kind].unstack("method", sort=False) for kind in ("step", run))
        vanilla = step[VANILLA]
        for method, added in own.sub(own[VANILLA], axis="index").items():
            row = {"setting": setting, "method": method}
            row |= median_ratio(added, vanilla)
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
    params: StudyParams,
    plan: pd.DataFrame,
    train: Split,
    generated: GeneratedSet,
    image_filter: ImageFilter,
    pipeline: LazyPipeline | None,
    repeats: int,
) -> pd.DataFrame:
    """Time, in turns, the making of images that is paid for before training.

    Counterparts of a plan are drawn, `generated` ones are filtered, and training images restyled;
    without a pipeline images are filtered only. Tidy: kind ("counterpart" or "edit"), repeat, part,
    seconds for one image.
    """
    pixels, reference = generated.images[:], image_filter.reference  # no embeddings beside them

    def counterpart() -> Seconds:
        encoder = load_encoder(params.filtering.encoder)  # that has embedded nothing yet

        def compare() -> None:
            embedded = rules.embed(generated.metadata, pixels, encoder)
            rules.cosine_to_reference(embedded, reference, params.filtering.rule)

        scored = {"filter": clock(compare) / len(generated)}
        if pipeline is None:
            return scored
        sampler = params.generation.sampler
        with tempfile.TemporaryDirectory() as warm, tempfile.TemporaryDirectory() as cold:
            generate(plan.head(2), pipeline, warm, **sampler, progress=False)
            draw = partial(generate, plan, pipeline, cold, **sampler, progress=False)
            spent = time_drawing(pipeline.load(), draw)
        return {part: seconds / len(plan) for part, seconds in spent.items()} | scored

    def restyle() -> Seconds:
        restyled = plan_restyled(train.metadata, params)
        options = params.generation.sampler | {"progress": False}
        options["strength"] = params.mixing.edit_strength
        with tempfile.TemporaryDirectory() as folder:
            draw = partial(restyle_images, restyled, train, pipeline, folder, **options)
            spent = time_drawing(pipeline.load(), draw)
        return {part: seconds / len(restyled) for part, seconds in spent.items()}

    jobs = {"counterpart": counterpart} | ({} if pipeline is None else {"edit": restyle})
    times = take_repeats(jobs, repeats, params.seed, "images")
    return times.rename(columns={"job": "kind"})


def image_costs(times: pd.DataFrame, drawn_per_kept: float) -> pd.DataFrame:
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
        {"measure": name} | median_ratio(totals[kind], np.ones(len(totals)))
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
    restyled = params.generation.generated_share * seconds.get("seconds_per_edit", math.nan)
    # The real image is embedded too, once.
    costs_of = {"generated": drawn + seconds["filter_seconds_per_image"], "restyled": restyled}
    once = {name: costs_of.get(method.sees, 0.0) for name, method in METHODS.items()}
    return {
        row.method: Budget(once[row.method], row.step_ms / 1000 / batch_size, row.value)
        for row in overheads.itertuples()
    }


def break_even(budgets: Mapping[str, Budget]) -> pd.DataFrame:
    """Epochs after which ours costs no more than methods that pay nothing before training, or inf.

    Columns: against, overhead (the same at any number of epochs), epochs.
    """
    return pd.DataFrame(
        {"against": other, "overhead": budget.own, "epochs": budgets[OURS].epochs_to(budget.own)}
        for other, budget in budgets.items()
        if not budget.once_s
    )


def time_decoding(setting: Setting, step_ms: float, images: int) -> dict[str, Any]:
    """Time the decoding of stored counterparts, as where they are not kept in memory.

    Returns a row: setting, size, kilobytes and ms for one image, and overhead: what decoding a
    second batch adds to a step of `step_ms`.
    """
    files = [encode_png(image) for image in setting.generated[:images].numpy()]
    seconds = [clock(lambda: [decode_png(file) for file in files]) for _ in range(5)]
    ms = 1000 * float(np.median(seconds)) / len(files)
    row = {"setting": setting.name, "size": setting.generated.shape[1]}
    row |= {"kilobytes": float(np.mean([*map(len, files)])) / 1000, "ms": ms}
    return row | {"overhead": ms * setting.training.batch_size / step_ms}
