"""What augmentation costs: in a training step, in the images it rests on, and over the epochs.

The paper's Figure 4 lays the overhead of training, in per cent of training without augmentation
(CUB, batches of 16), beside accuracy. Here the overhead of a method is

    (T_method - T_vanilla) / T_vanilla,

with T the seconds of one optimiser step, its images being ready in memory as 8-bit pixels. Network
and optimiser do the same work in both, so that only what a method does itself is left above the
line: fetching its counterparts, cropping them as the real images are cropped, and its own step.

Our choice: that part is timed by itself. The difference of two whole steps would be lost in their
spread, which is larger than the few per cent in question; whole steps are timed as a check. A
method that draws at random costs the mean of its draws; over turns the median is taken.

What is paid once, before training, is stated apart: drawing counterparts, filtering them with those
drawn again for the rejected, and DiffuseMix's edits. `Budget` spreads it over the epochs.
"""

import io
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from scipy.stats import bootstrap
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from diffcore import filtering
from diffcore.augmentation import crop_and_flip
from diffcore.bench import Seconds, laps, now, take_turns, time_share
from diffcore.data import View, as_pixels
from diffcore.experiments import study_plan, time_generation
from diffcore.methods import GENERATIVE, Method, make_method, method_settings
from diffcore.mixing_study import Pairs, edit_sources
from diffcore.params import OverheadParams, StudyParams, TrainingParams
from diffcore.training import build_classifier, device_of, total_steps
from diffcore.training_study import study_methods

#: Phases of a step that a method adds.
OWN = ("counterparts", "method")
VANILLA = "vanilla"
#: Parts of the cost of one image that is made before training, in the order of the work.
IMAGE_PARTS = ("UNet", "autoencoder", "text and files", "filter", "drawn for the rejected")
#: How an image is stored: format -> Pillow's options. Generated ones are PNG, photographs JPEG.
FORMATS: dict[str, dict[str, int]] = {"PNG": {"compress_level": 1}, "JPEG": {"quality": 95}}

_RESAMPLES = 2000
_PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16}

Clock = Callable[[], float]


# --------------------------------------------------------------------------------- the arithmetic
def ratio_of_medians(
    above: Sequence[float] | np.ndarray,
    below: Sequence[float] | np.ndarray,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, float]:
    """Divide two medians over the same T turns: value, low, high, n.

    The interval is a percentile bootstrap over turns, whose two times stay together: what slows the
    machine down for a while slows both.

    Raises:
        ValueError: if the turns differ in number, or are fewer than two.

    >>> ratio_of_medians([1.0, 1.0, 9.0], [4.0, 4.0, 4.0])["value"]
    0.25
    """
    above, below = np.asarray(above, float), np.asarray(below, float)
    if above.shape != below.shape or len(above) < 2:
        raise ValueError(
            f"needed: two turns or more, as many of each; got {len(above)}, {len(below)}"
        )

    def ratio(above: np.ndarray, below: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.median(above, axis=axis) / np.median(below, axis=axis)

    interval = bootstrap(
        (above, below), ratio, paired=True, confidence_level=confidence, method="percentile",
        n_resamples=_RESAMPLES, rng=seed,
    ).confidence_interval  # fmt: skip
    low, high = float(interval.low), float(interval.high)
    return {"value": float(ratio(above, below)), "low": low, "high": high, "n": len(above)}


def seconds_per_kept(drawn_s: float, filter_s: float, drawn: int, kept: int) -> float:
    """Seconds for one image that passes the filter, with all that were drawn for it in vain.

    Args:
        drawn_s: seconds to draw one image.
        filter_s: seconds to judge one image.
        drawn: images drawn in all rounds.
        kept: those of them that pass.

    Raises:
        ValueError: unless 1 <= kept <= drawn.

    >>> seconds_per_kept(0.3, 0.1, drawn=10, kept=8)
    0.5
    """
    if not 1 <= kept <= drawn:
        raise ValueError(f"kept is {kept}; it must be at least 1, and at most the {drawn} drawn")
    return (drawn_s + filter_s) * drawn / kept


@dataclass(frozen=True)
class Budget:
    """What a method costs, in seconds for one real training image.

    Attributes:
        once_s: paid before training: drawing, filtering, editing.
        epoch_s: of training without augmentation, each epoch.
        own: overhead of the method's own step, as a fraction of `epoch_s`.

    >>> Budget(once_s=2.0, epoch_s=0.1, own=0.01).overhead(20)
    1.01
    """

    once_s: float
    epoch_s: float
    own: float

    def overhead(self, epochs: float) -> float:
        """Overhead as a fraction when what is paid once is spread over some epochs."""
        return self.own + self.once_s / (epochs * self.epoch_s)

    def epochs_to(self, allowed: float) -> float:
        """Epochs after which the overhead is down to a fraction; inf if it never is.

        >>> Budget(once_s=2.0, epoch_s=0.1, own=0.01).epochs_to(1.01)
        20.0
        """
        if not self.once_s:
            return 0.0 if self.own <= allowed else math.inf
        if allowed <= self.own:
            return math.inf
        return self.once_s / (self.epoch_s * (allowed - self.own))


def study_epochs(training: TrainingParams, images: int) -> float:
    """Passes over that many real images in one training of the study."""
    return total_steps(training, images) * training.batch_size / images


# -------------------------------------------------------------------------------------- the steps
@dataclass(frozen=True)
class Setting:
    """Where steps are timed: a network, images in memory, and the methods.

    Attributes:
        name: for tables and figures.
        network: images (B, 3, H, W) in [0, 1] to logits (B, K).
        real: (N, H, W, 3) uint8, on the CPU.
        counterparts: like `real`.
        labels: (N,).
        methods: by name; "vanilla" is among them.
        training: batch size, crop, optimiser and precision.
        device: of the network, to which each batch is brought.
    """

    name: str
    network: nn.Module
    real: Tensor
    counterparts: Tensor
    labels: Tensor
    methods: Mapping[str, Method]
    training: TrainingParams
    device: str = "cpu"

    @property
    def size(self) -> int:
        """Height of the images in pixels."""
        return self.real.shape[1]


def own_setting(pairs: Pairs, params: StudyParams) -> Setting:
    """Make the setting of the study's own trainings: its network, its images, its batches."""
    training, classes = params.training, len(pairs.train.classes)
    size = pairs.real.shape[2]
    name = f"this study: {training.model}, {size} × {size}, batch {training.batch_size}"
    return _setting(name, pairs, params, training, classes, size, device_of(training))


def large_settings(pairs: Pairs, params: StudyParams, effort: OverheadParams) -> list[Setting]:
    """Make the setting of the paper's size, on the CPU and, where there is one, on a GPU."""
    training = TrainingParams(model=effort.model, batch_size=effort.batch_size)
    name = f"{effort.model}, {effort.size} × {effort.size}, batch {effort.batch_size}"
    some, devices = pairs.head(effort.images), ["cpu", *(["cuda"] * torch.cuda.is_available())]
    return [
        _setting(
            f"{name}, {'GPU' if device == 'cuda' else 'CPU'}", some, params, training,
            effort.num_classes, effort.size, device,
        )
        for device in devices
    ]  # fmt: skip


def _setting(
    name: str,
    pairs: Pairs,
    params: StudyParams,
    training: TrainingParams,
    num_classes: int,
    size: int,
    device: str,
) -> Setting:
    """Make a setting of a study's images, enlarged where they are smaller.

    What an image shows hardly changes a time, so that counterparts also stand for edits.
    """
    network = build_classifier(training, num_classes, params.seed).to(device).train()
    methods = {
        method: make_method(method, _at_size(method_settings(method, params), size), num_classes)
        for method in study_methods(params)
    }
    real, counterparts = (_pixels(images, size) for images in (pairs.real, pairs.generated))
    labels = pairs.labels % num_classes  # a smaller network may know fewer
    return Setting(name, network, real, counterparts, labels, methods, training, device)


def _pixels(images: Tensor, size: int) -> Tensor:
    """Turn (N, 3, H, W) in [0, 1] into (N, size, size, 3) uint8."""
    if size != images.shape[2]:
        images = interpolate(images, (size, size), mode="bilinear", antialias=True)
    return torch.from_numpy(as_pixels(images))


def _at_size(settings: Mapping[str, float], size: int) -> dict[str, float]:
    """Fit a method's own pictures, its fractals, to a size."""
    if settings.get("size", size) == size:
        return dict(settings)
    # How many there are to choose from changes no time but that of drawing them beforehand.
    return dict(settings) | {"size": size, "fractals": min(4, settings["fractals"])}


class Step:
    """One optimiser step in phases that can be timed apart; each leaves what the next one needs."""

    def __init__(self, setting: Setting, method: str, seed: int = 0):
        """Take the name of one of the setting's methods, and the seed of all draws."""
        self.setting, self.method = setting, setting.methods[method]
        self.generative = method in GENERATIVE
        self.generator = torch.Generator().manual_seed(seed)
        training = setting.training
        self.optimizer = create_optimizer_v2(
            setting.network, training.optimizer, lr=training.lr, weight_decay=training.weight_decay
        )

    def real(self) -> None:
        """Draw a batch of real images."""
        count = self.setting.training.batch_size
        self.rows = torch.randint(len(self.setting.real), (count,), generator=self.generator)
        self.crop = torch.randint(2**62, (), generator=self.generator).item()
        self.images = self.others = self._fetch(self.setting.real)
        self.labels = self.setting.labels[self.rows].to(self.setting.device)

    def counterparts(self) -> None:
        """Fetch the counterparts of that batch, under the same crops."""
        self.others = self._fetch(self.setting.counterparts)

    def augment(self) -> None:
        """Let the method have it."""
        batch = self.images, self.others, self.labels
        mixed, self.targets = self.method(*batch, self.generator)
        self.mixed = mixed.contiguous(memory_format=torch.channels_last)

    def forward(self) -> None:
        """Run the network and compute the loss, in the precision of the training."""
        dtype = _PRECISIONS.get(self.setting.training.precision)
        with torch.autocast(self.setting.device, dtype, enabled=dtype is not None):
            self.loss = cross_entropy(self.setting.network(self.mixed), self.targets)

    def backward(self) -> None:
        """Compute the gradients."""
        self.optimizer.zero_grad()
        self.loss.backward()

    def update(self) -> None:
        """Change the weights."""
        self.optimizer.step()

    def own_phases(self) -> dict[str, Callable[[], None]]:
        """Return the phases that a method adds, by name."""
        before = {"counterparts": self.counterparts} if self.generative else {}
        return before | {"method": self.augment}

    def phases(self) -> dict[str, Callable[[], None]]:
        """Return all phases in order, by name."""
        network = {"forward": self.forward, "backward": self.backward, "update": self.update}
        return {"real images": self.real} | self.own_phases() | network

    def _fetch(self, pixels: Tensor) -> Tensor:
        images = pixels[self.rows].to(self.setting.device).permute(0, 3, 1, 2) / 255
        crops = torch.Generator().manual_seed(self.crop)
        return crop_and_flip(images, self.setting.training.crop_scale, crops)


def time_steps(
    setting: Setting,
    *,
    turns: int,
    repeats: int = 3,
    whole: Sequence[str] = ("diffcoremix",),
    clock: Clock = now,
    seed: int = 0,
) -> pd.DataFrame:
    """Time steps without augmentation, and what each method adds to them, in turns.

    Args:
        setting: network, images and methods.
        turns: of each, after one of each that warms up.
        repeats: draws of a method's own part within a turn, which are averaged.
        whole: methods of which a whole step is timed too, as a check.
        clock: seconds; waits for the GPU.
        seed: of orders, batches and draws.

    Returns:
        Tidy table: turn, part, seconds, run ("step" or "own"), method, setting.
    """
    steps = {method: Step(setting, method, seed) for method in setting.methods}
    laps(steps[VANILLA].phases())  # the first is slower than any other
    for step in steps.values():
        _own_seconds(step, 1, clock)
    contenders: dict[str, Callable[[], Seconds]] = {}
    for method in (VANILLA, *whole):
        contenders[f"step {method}"] = partial(laps, steps[method].phases(), clock)
    for method, step in steps.items():
        contenders[f"own {method}"] = partial(_own_seconds, step, repeats, clock)
    table = take_turns(contenders, turns, seed)
    table[["run", "method"]] = table.pop("contender").str.split(" ", n=1, expand=True)
    return table.assign(setting=setting.name)


def _own_seconds(step: Step, repeats: int, clock: Clock) -> Seconds:
    """Mean seconds of each phase that a method adds; the real images are fetched before."""
    runs = []
    for _ in range(repeats):
        step.real()
        runs.append(laps(step.own_phases(), clock))
    return pd.DataFrame(runs).mean().to_dict()


def by_turn(times: pd.DataFrame, run: str, method: str) -> np.ndarray:
    """Seconds of a run of a method in each turn, all parts together: (T,)."""
    chosen = times[(times["run"] == run) & (times["method"] == method)]
    return chosen.groupby("turn")["seconds"].sum().to_numpy()


def step_overheads(times: pd.DataFrame, confidence: float = 0.95, seed: int = 0) -> pd.DataFrame:
    """Overhead of each method's own step, from tables of `time_steps`.

    "vanilla", which has a step of its own too (it turns labels into targets), is taken off the
    others.

    Returns:
        One row a setting and method: setting, method, overhead (a fraction of a step without
        augmentation), low, high, own_ms, step_ms, turns.
    """
    rows = []
    for setting, runs in times.groupby("setting", sort=False):
        step, nothing = by_turn(runs, "step", VANILLA), by_turn(runs, "own", VANILLA)
        for method in runs.loc[runs["run"] == "own", "method"].unique():
            own = by_turn(runs, "own", method) - nothing
            found = ratio_of_medians(own, step, confidence, seed)
            rows.append({
                "setting": setting, "method": method, "overhead": found["value"],
                "low": found["low"], "high": found["high"], "own_ms": 1000 * np.median(own),
                "step_ms": 1000 * np.median(step), "turns": found["n"],
            })  # fmt: skip
    return pd.DataFrame(rows)


def whole_step_overheads(
    times: pd.DataFrame, confidence: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """Overhead by whole steps, where they were timed; below 0 if by chance they were faster.

    Returns:
        One row a setting and method: setting, method, overhead, low, high, turns.
    """
    rows = []
    for setting, runs in times.groupby("setting", sort=False):
        vanilla = by_turn(runs, "step", VANILLA)
        for method in runs.loc[runs["run"] == "step", "method"].unique():
            found = ratio_of_medians(by_turn(runs, "step", method), vanilla, confidence, seed)
            rows.append({
                "setting": setting, "method": method, "overhead": found["value"] - 1,
                "low": found["low"] - 1, "high": found["high"] - 1, "turns": found["n"],
            })  # fmt: skip
    return pd.DataFrame(rows)[lambda table: table["method"] != VANILLA].reset_index(drop=True)


def step_parts(times: pd.DataFrame) -> pd.DataFrame:
    """Where the time of whole steps goes: setting, method, part, ms, share (of a vanilla step)."""
    steps = times[times["run"] == "step"]
    keys = ["setting", "method", "part"]
    parts = steps.groupby(keys, sort=False)["seconds"].median().rename("seconds").reset_index()
    vanilla = parts[parts["method"] == VANILLA].groupby("setting")["seconds"].sum()
    parts["share"] = parts["seconds"] / parts["setting"].map(vanilla)
    return parts.assign(ms=1000 * parts.pop("seconds"))


# ------------------------------------------------------------------------------------- the images
def time_images(
    pairs: Pairs,
    params: StudyParams,
    pipeline: DiffusionPipeline | None,
    *,
    images: int = 32,
    turns: int = 3,
) -> pd.DataFrame:
    """Time the making of images that a method pays for before training, in turns.

    Counterparts are drawn and filtered, edits only drawn; nothing that is on disk is used or left.
    Without a pipeline counterparts are there already, and are only filtered.

    Returns:
        Tidy table: kind ("counterpart" or "edit"), turn, part (of `IMAGE_PARTS`), seconds for one
        image.
    """
    plan = study_plan(params, pairs.sources).head(images)
    chosen = pairs.sources.head(images)

    def counterpart() -> Seconds:
        judged = {"filter": _filter_seconds(pairs, params, images)}
        if pipeline is None:
            return judged
        return _parts(time_generation(plan, pipeline, params.generation), len(plan)) | judged

    contenders: dict[str, Callable[[], Seconds]] = {"counterpart": counterpart}
    if pipeline is not None:
        contenders["edit"] = lambda: _time_edits(pairs, chosen, params, pipeline)
    table = take_turns(contenders, turns, params.seed)
    return table.rename(columns={"contender": "kind"})


def _parts(spent: Any, images: int) -> Seconds:
    """Split a `TimeShare` into seconds an image."""
    rest = spent.total_s - spent.unet_s - spent.vae_s
    parts = {"UNet": spent.unet_s, "autoencoder": spent.vae_s, "text and files": rest}
    return {part: seconds / images for part, seconds in parts.items()}


def _time_edits(
    pairs: Pairs, sources: pd.DataFrame, params: StudyParams, pipeline: DiffusionPipeline
) -> Seconds:
    edits = []
    with tempfile.TemporaryDirectory() as folder:
        arguments = pairs.train, sources, params, pipeline, Path(folder)
        spent = time_share(pipeline, lambda: edits.extend(edit_sources(*arguments).index))
    return _parts(spent, len(edits))


def _filter_seconds(pairs: Pairs, params: StudyParams, images: int) -> float:
    """Seconds to judge a generated image: decode, embed, compare; with references at hand."""
    settings, drawn = params.filtering, pairs.table.head(images)
    encoder = filtering.load_encoder(settings.encoder)  # its memory is empty
    alike = np.flatnonzero(pairs.sources["class_name"].isin(drawn["class_name"]))
    shown = View(pairs.train.images, alike)
    reference = filtering.embed(pairs.sources.iloc[alike], shown, encoder)
    threshold = filtering.study_threshold(settings, reference)

    def judge() -> None:
        embedded = filtering.embed(drawn, pairs.drawn[: len(drawn)], encoder)
        similarity = filtering.cosine_to_reference(embedded, reference, settings.rule)
        filtering.hard_filter(similarity, threshold)

    return laps({"filter": judge})["filter"] / len(drawn)


def filter_counts(pairs: Pairs, folder: Path) -> tuple[int, int]:
    """Images drawn and kept in all rounds of the second notebook; 1 and 1 if it has not decided."""
    if not pairs.filtered:
        return 1, 1
    accepted = filtering.read_decisions(folder)["accepted"]
    return len(accepted), int(accepted.sum())


def image_costs(
    times: pd.DataFrame, drawn: int, kept: int, confidence: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """Sum up the table of `time_images`.

    Args:
        times: of `time_images`.
        drawn: images drawn in all rounds of filtering.
        kept: those of them that passed.
        confidence: coverage of the intervals.
        seed: of the bootstrap over turns.

    Returns:
        One row a measure, in seconds: seconds_per_generated, filter_seconds_per_image,
        seconds_per_kept, seconds_per_edit, each with low and high; none for what was not made.
    """
    totals = _totals(times)
    generated, judged, edited = totals["generated"], totals["filter"], totals["edit"]
    kept_s = [seconds_per_kept(*pair, drawn, kept) for pair in zip(generated, judged, strict=True)]
    measures = {
        "seconds_per_generated": generated, "filter_seconds_per_image": judged,
        "seconds_per_kept": kept_s, "seconds_per_edit": edited,
    }  # fmt: skip
    found = [
        {"measure": name, **ratio_of_medians(seconds, np.ones(len(seconds)), confidence, seed)}
        for name, seconds in measures.items()
        if seconds[0] > 0
    ]
    return pd.DataFrame(found).rename(columns={"value": "seconds", "n": "turns"})


def _totals(times: pd.DataFrame) -> dict[str, np.ndarray]:
    """Seconds for one image in each turn: generated, filter and edit; 0 for what was not made."""
    judging = times["part"] == "filter"
    kinds = {
        "generated": ~judging & (times["kind"] == "counterpart"),
        "filter": judging,
        "edit": times["kind"] == "edit",
    }
    turns = times["turn"].unique()
    return {
        name: times[rows].groupby("turn")["seconds"].sum().reindex(turns, fill_value=0).to_numpy()
        for name, rows in kinds.items()
    }


def image_parts(times: pd.DataFrame, drawn: int, kept: int) -> pd.DataFrame:
    """Where the time of one image goes: kind, part, ms; a counterpart's with the rejected ones'.

    Args:
        times: of `time_images`.
        drawn: images drawn in all rounds of filtering.
        kept: those of them that passed.
    """
    parts = times.groupby(["kind", "part"], sort=False)["seconds"].median().reset_index()
    whole = parts.loc[parts["kind"] == "counterpart", "seconds"].sum()
    vain = {
        "kind": "counterpart", "part": IMAGE_PARTS[-1],
        "seconds": seconds_per_kept(whole, 0.0, drawn, kept) - whole,
    }  # fmt: skip
    parts = pd.concat([parts, pd.DataFrame([vain])], ignore_index=True)
    return parts.assign(ms=1000 * parts.pop("seconds"))


def once_seconds(method: str, costs: pd.DataFrame, params: StudyParams) -> float:
    """Seconds that a method pays before training, for one real training image.

    Args:
        method: by name; 0 for one that uses no generated images.
        costs: of `image_costs`.
        params: how many counterparts and edits each training image has.
    """
    if method not in GENERATIVE:
        return 0.0
    seconds = costs.set_index("measure")["seconds"]
    if method == "diffusemix":
        return params.mixing.edits_per_image * seconds["seconds_per_edit"]
    # The real image is embedded too, once.
    drawn = params.generation.generated_share * seconds["seconds_per_kept"]
    return float(drawn + seconds["filter_seconds_per_image"])


def budgets(
    overheads: pd.DataFrame, costs: pd.DataFrame, params: StudyParams, batch_size: int
) -> dict[str, Budget]:
    """Budget of each method, from the rows of `step_overheads` of one setting."""
    return {
        row.method: Budget(
            once_seconds(row.method, costs, params), row.step_ms / 1000 / batch_size, row.overhead
        )
        for row in overheads.itertuples()
    }


def amortise(found: Mapping[str, Budget], epochs: Sequence[float]) -> pd.DataFrame:
    """Overhead of each method over the epochs, tidy: method, epochs, overhead."""
    return pd.DataFrame(
        {"method": method, "epochs": count, "overhead": budget.overhead(count)}
        for method, budget in found.items()
        for count in epochs
    )


def break_even(found: Mapping[str, Budget], method: str = "diffcoremix") -> pd.DataFrame:
    """Epochs after which a method costs no more than each other: against, overhead, epochs.

    Only against methods that pay nothing before training, whose overhead is the same at any
    number of epochs; inf where it never gets down to theirs.
    """
    return pd.DataFrame(
        {"against": other, "overhead": budget.own, "epochs": found[method].epochs_to(budget.own)}
        for other, budget in found.items()
        if not budget.once_s
    )


# ----------------------------------------------------------------------------------- the decoding
def time_decoding(
    setting: Setting, step_ms: float, *, images: int = 16, turns: int = 5, clock: Clock = now
) -> pd.DataFrame:
    """Time the decoding of stored images, as where they are not kept in memory.

    Args:
        setting: its counterparts are encoded in every format of `FORMATS`.
        step_ms: of a step without augmentation.
        images: how many are decoded in a turn.
        turns: of each format.
        clock: seconds.

    Returns:
        One row a format: setting, size, format, kilobytes and ms for one image, and overhead, what
        decoding a second batch adds to a step if the training process does it by itself.
    """
    pixels = setting.counterparts[:images].numpy()
    files = {name: [_encode(image, name) for image in pixels] for name in FORMATS}
    contenders = {
        name: partial(laps, {"decode": partial(_decode, encoded)}, clock)
        for name, encoded in files.items()
    }
    table = take_turns(contenders, turns)
    ms = 1000 * table.groupby("contender")["seconds"].median() / len(pixels)
    return pd.DataFrame(
        {"setting": setting.name, "size": setting.size, "format": name,
         "kilobytes": float(np.mean([len(file) for file in encoded])) / 1000, "ms": ms[name],
         "overhead": ms[name] * setting.training.batch_size / step_ms}
        for name, encoded in files.items()
    )  # fmt: skip


def _encode(pixels: np.ndarray, file_format: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, file_format, **FORMATS[file_format])
    return file.getvalue()


def _decode(files: Sequence[bytes]) -> list[np.ndarray]:
    return [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]
