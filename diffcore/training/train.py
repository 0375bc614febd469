"""Train a classifier on pairs of real and generated images, with any method of `diffcore.mixing`.

The fifth step of the paper. From one seed every method gets the same initial weights, number of
steps, order of images and crops. The last weights are kept: no epoch is chosen on any test set.
What a step sees follows from the seed and the number of the step alone, so that a killed training
goes on from its checkpoint as if it had not been.
"""

import math
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.state import AcceleratorState
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, cross_entropy, grid_sample
from torch.utils.data import DataLoader

from diffcore.data.pairs import PairedDataset
from diffcore.methods.registry import Method
from diffcore.mixing.mix import device_of
from diffcore.params import TrainingParams, resolve_device, resolve_precision
from diffcore.store import read_kept, written_whole
from diffcore.training.networks import Classifier, as_floats

Log = list[dict[str, float]]  # a row a step: its loss, and what else was measured then
_DIVERGED = 1e4  # a loss that no classifier recovers from; chance is log(classes), below 10
_FUSED = ("adam", "adamw", "sgd")  # optimisers that update all weights in one call
_MIXED = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}  # accelerate's names


def draw_crops(
    shape: Sequence[int], scale: float, generator: Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:  # fmt: skip
    """Draw crops of at least `scale` of the area, half of them flipped, for images of a shape.

    The "Inception" crop (Szegedy et al., arXiv 1409.4842). Our choice: it keeps the aspect ratio,
    as a stretched bird is no bird of its species. A `scale` of 1 only flips; outside (0, 1] it is a
    ValueError. Takes (B, C, H, W); returns where to look for each pixel, (B, H, W, 2) on a device.
    """
    if not 0 < scale <= 1:
        raise ValueError(f"scale is {scale}; it must be above 0 and at most 1")
    drawn = torch.rand(4, shape[0], generator=generator, device=device_of(generator)).to(device)
    area, across, down, chance = drawn
    side = (scale + (1 - scale) * area).sqrt()
    maps = torch.zeros(shape[0], 2, 3, device=device)
    maps[:, 0, 0] = torch.where(chance < 0.5, -side, side)
    maps[:, 1, 1] = side
    maps[:, :, 2] = (1 - side)[:, None] * (2 * torch.stack([across, down], dim=1) - 1)
    return affine_grid(maps, list(shape), align_corners=False)


def crop_and_flip(images: Tensor, crops: Tensor) -> Tensor:
    """Cut a crop out of each image (B, C, H, W) of floats, and enlarge it to the image's size."""
    return grid_sample(images, crops.to(images), padding_mode="border", align_corners=False)


class PairSampler:
    """Batches of pairs (real, counterpart or -1) from one step to the last.

    Each real image comes once an epoch, in that epoch's order, with one of its counterparts.
    """

    def __init__(self, data: PairedDataset, batch_size: int, steps: int, seed: int, start: int = 0):
        """Plan batches of `batch_size` for the steps `start` to `steps`."""
        self.batch_size, self.steps, self.seed, self.start = batch_size, steps, seed, start
        self.drop_last = False  # accelerate asks, to share batches among processes
        self._counterparts = data.counterparts

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return (self.batch(step) for step in range(self.start, self.steps))

    def batch(self, step: int) -> list[tuple[int, int]]:
        """Draw the pairs of one step."""
        count, rng = len(self._counterparts), np.random.default_rng((self.seed, 1, step))
        turns = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        orders = {epoch: self._order(epoch) for epoch in np.unique(turns // count)}
        places = [int(orders[turn // count][turn % count]) for turn in turns]
        return [
            (place, self._counterpart(place, chance))
            for place, chance in zip(places, rng.random(len(places)), strict=True)
        ]

    def _order(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, 0, epoch))
        return rng.permutation(len(self._counterparts))

    def _counterpart(self, place: int, chance: float) -> int:
        own = self._counterparts[place]
        return int(own[int(chance * len(own))]) if len(own) else -1


def total_steps(settings: TrainingParams, images: int) -> int:
    """Optimiser steps of a training: as set, or from the epochs over so many real images."""
    return settings.steps or math.ceil(settings.epochs * images / settings.batch_size)


class Step:
    """One optimiser step, in phases that can be timed apart; each leaves what the next one needs.

    In this order; `take_counterparts` only for methods that look at them. `method` may be changed.
    """

    def __init__(
        self, classifier: Classifier, method: Method, settings: TrainingParams, steps: int = 1,
        folder: Path | None = None,
    ):  # fmt: skip
        """Move the classifier to its device; of Steps of several precisions only the last works.

        The folder is for what a tracker writes.
        """
        self.classifier, self.method, self.settings = classifier, method, settings
        self.accelerator = _make_accelerator(settings, folder)
        optimizer = create_optimizer_v2(
            classifier, opt=settings.optimizer, lr=settings.lr, weight_decay=settings.weight_decay,
            **({"fused": True} if settings.optimizer in _FUSED else {}),
        )  # fmt: skip
        self.schedule = _make_schedule(optimizer, settings, steps)
        self.model, self.optimizer = self.accelerator.prepare(classifier, optimizer)
        # Whoever predicts with it between two steps is to get float32, as from the saved weights.
        vars(classifier).pop("forward", None)

    def take_real(self, real: Tensor, labels: Tensor, generator: Generator) -> None:
        """Take a batch of real images (B, H, W, 3) uint8, and draw their crops."""
        self.generator, self.labels = generator, labels.to(self.accelerator.device)
        shape = len(real), 3, *real.shape[1:3]
        place = self.accelerator.device
        self._crops = draw_crops(shape, self.settings.crop_scale, generator, place)
        self.real = self.generated = self._crop(real)

    def take_counterparts(self, generated: Tensor) -> None:
        """Take a counterpart of each, and crop it alike, as halves of an edit must fit."""
        self.generated = self._crop(generated)

    def augment(self) -> None:
        """Let the method make images and targets of the batch."""
        with torch.no_grad():
            batch = self.real, self.generated, self.labels
            images, self.targets = self.method(*batch, self.generator)
            self.images = images.contiguous(memory_format=torch.channels_last)

    def forward(self) -> None:
        """Compute the loss, in the precision of the settings."""
        self.model.train()
        smoothing = self.settings.label_smoothing
        with self.accelerator.autocast():
            self.loss = cross_entropy(
                self.model(self.images), self.targets, label_smoothing=smoothing
            )

    def backward(self) -> None:
        """Compute the gradients."""
        self.accelerator.backward(self.loss)

    def update(self) -> None:
        """Change the weights."""
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _crop(self, images: Tensor) -> Tensor:
        return crop_and_flip(as_floats(images.to(self.accelerator.device)), self._crops)


def _make_accelerator(settings: TrainingParams, folder: Path | None) -> Accelerator:
    """Set up device, precision and tracker; `batch_size` counts the images of all processes."""
    if "WORLD_SIZE" not in os.environ:  # one process, which may have trained in another precision
        AcceleratorState._reset_state(reset_partial_state=True)
    device = resolve_device(settings.device, "training.device")
    accelerator = Accelerator(
        cpu=device == "cpu",
        mixed_precision=_MIXED[resolve_precision(settings.precision, device)],
        dataloader_config=DataLoaderConfiguration(split_batches=True),
        log_with=settings.log_with,
        project_dir=folder,
    )
    if settings.log_with and not accelerator.log_with:  # accelerate leaves it out without a word
        raise ValueError(f"training.log_with is {settings.log_with}, which is not installed")
    return accelerator


def _make_schedule(
    optimizer: torch.optim.Optimizer, settings: TrainingParams, steps: int
) -> Scheduler:
    """Let the learning rate rise, then fall to nearly 0 at the last step."""
    schedule, _ = create_scheduler_v2(
        optimizer, sched=settings.schedule, num_epochs=steps,
        warmup_epochs=round(settings.warmup_share * steps), step_on_epochs=False,
        updates_per_epoch=1,  # an "epoch" of timm's is a step of ours
    )  # fmt: skip
    return schedule


def train(
    classifier: Classifier, data: PairedDataset, method: Method, settings: TrainingParams,
    seed: int, folder: Path | None = None,
) -> Iterator[Log]:  # fmt: skip
    """Train in place, from the folder's checkpoint if any; yield the log after each step.

    Whoever takes it may add to its last row, which the next checkpoint holds too. Raises
    FloatingPointError, naming the step, when the loss is NaN or beyond recovery.
    """
    steps = total_steps(settings, len(data))
    step = Step(classifier, method, settings, steps, folder)
    path = folder / "checkpoint.pt" if folder else None
    log = _restore(step, path)
    step.accelerator.init_trackers(
        "diffcore", settings.model_dump(exclude={"methods", "model_args"})
    )
    loader = step.accelerator.prepare(_loader(data, settings, steps, seed, len(log)))
    for done, (real, generated, labels) in enumerate(loader, len(log)):
        step.schedule.step_update(done)
        # A generator for each step and process, so that a resumed training draws the same.
        step.take_real(real, labels, _generator(seed, done, step.accelerator.process_index))
        if len(data.generated):
            step.take_counterparts(generated)
        for phase in (step.augment, step.forward, step.backward, step.update):
            phase()
        log.append({"loss": step.loss.item()})
        if not log[-1]["loss"] < _DIVERGED:  # nor if it is NaN
            raise FloatingPointError(
                f"the loss of step {done + 1} is {log[-1]['loss']:g}; the training diverged: lower "
                "training.lr, or raise training.warmup_share"
            )
        step.accelerator.log(log[-1], done + 1)
        yield log
        due = (done + 1) % settings.checkpoint_every == 0 and done + 1 < steps
        if path and due and step.accelerator.is_main_process:
            _save(step, path, log)
    step.accelerator.end_training()
    if path and step.accelerator.is_main_process:
        path.unlink(missing_ok=True)


def _loader(
    data: PairedDataset, settings: TrainingParams, steps: int, seed: int, start: int
) -> DataLoader:
    """Fetch batch after batch, in other processes if asked for."""
    sampler = PairSampler(data, settings.batch_size, steps, seed, start)
    workers = settings.loader_workers
    return DataLoader(data, batch_sampler=sampler, collate_fn=_as_fetched, num_workers=workers)


def _as_fetched(batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Leave a batch as the data set fetched it; no lambda, as workers may have to unpickle it."""
    return batch


def _generator(*numbers: int) -> Generator:
    """Make a generator whose draws follow from all of these numbers."""
    return Generator().manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))


def _states(step: Step) -> dict[str, Any]:
    """Everything of a training that a checkpoint holds, by name."""
    parts = {"model": step.classifier, "optimizer": step.optimizer}
    scaler = step.accelerator.scaler
    return parts if scaler is None else parts | {"scaler": scaler}


def _restore(step: Step, path: Path | None) -> Log:
    """Go back to a checkpoint, if there is one; return the log of the steps it had done."""
    saved = None if path is None else read_kept(path, partial(_load, step))
    if saved is None:
        return []
    for name, part in _states(step).items():
        part.load_state_dict(saved[name])
    return saved["log"]


def _load(step: Step, path: Path) -> dict[str, Any]:
    return torch.load(path, map_location=step.accelerator.device, weights_only=True)


def _save(step: Step, path: Path, log: Log) -> None:
    states = {name: part.state_dict() for name, part in _states(step).items()}
    with written_whole(path) as aside, aside.open("wb") as file:
        torch.save({"log": log, **states}, file)
