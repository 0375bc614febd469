"""Train a classifier on pairs of real and generated images, with any method of `diffcore.mixing`.

The fifth step of the paper. From one seed every method gets the same initial weights, number of
steps, order of images and crops. The last weights are kept: no epoch is chosen on any test set.
What a step sees follows from the seed and the number of the step alone, so that a killed training
goes on from its checkpoint as if it had not been.
"""

import math
import os
from collections.abc import Iterator
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
from diffcore.mixing.methods import Method
from diffcore.mixing.mix import device_of
from diffcore.params import TrainingParams, resolve_device
from diffcore.store import written_whole
from diffcore.training.networks import Classifier, as_floats


def draw_crops(count: int, scale: float, generator: Generator | None = None) -> Tensor:
    """Draw crops of at least `scale` of the area, half of them flipped: affine maps (count, 2, 3).

    The "Inception" crop (Szegedy et al., arXiv 1409.4842). Our choice: it keeps the aspect ratio,
    as a stretched bird is no bird of its species. A `scale` of 1 only flips; outside (0, 1] it is a
    ValueError.
    """
    if not 0 < scale <= 1:
        raise ValueError(f"scale is {scale}; it must be above 0 and at most 1")
    device = device_of(generator)
    area, across, down, chance = torch.rand(4, count, generator=generator, device=device)
    side = (scale + (1 - scale) * area).sqrt()
    maps = torch.zeros(count, 2, 3, device=device)
    maps[:, 0, 0] = torch.where(chance < 0.5, -side, side)
    maps[:, 1, 1] = side
    maps[:, :, 2] = (1 - side)[:, None] * (2 * torch.stack([across, down], dim=1) - 1)
    return maps


def crop_and_flip(images: Tensor, crops: Tensor) -> Tensor:
    """Cut a crop out of each image (B, C, H, W) of floats, and enlarge it to the image's size."""
    grid = affine_grid(crops.to(images), list(images.shape), align_corners=False)
    return grid_sample(images, grid, padding_mode="border", align_corners=False)


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
        self, classifier: Classifier, method: Method, settings: TrainingParams, steps: int = 1
    ):
        """Move the classifier to its device; of Steps of several precisions only the last works."""
        self.classifier, self.method, self.settings = classifier, method, settings
        self.accelerator = _make_accelerator(settings)
        optimizer = create_optimizer_v2(
            classifier, opt=settings.optimizer, lr=settings.lr, weight_decay=settings.weight_decay
        )
        self.schedule = _make_schedule(optimizer, settings, steps)
        self.model, self.optimizer = self.accelerator.prepare(classifier, optimizer)

    def take_real(self, real: Tensor, labels: Tensor, generator: Generator) -> None:
        """Take a batch of real images (B, H, W, 3) uint8, and draw their crops."""
        self.generator, self.labels = generator, labels.to(self.accelerator.device)
        self._crops = draw_crops(len(real), self.settings.crop_scale, generator)
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


def _make_accelerator(settings: TrainingParams) -> Accelerator:
    """Set up device and precision; `batch_size` counts the images of all processes together."""
    if "WORLD_SIZE" not in os.environ:  # one process, which may have trained in another precision
        AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(
        cpu=resolve_device(settings.device, "training.device") == "cpu",
        mixed_precision=settings.precision,
        dataloader_config=DataLoaderConfiguration(split_batches=True),
    )


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
) -> Iterator[tuple[int, float]]:  # fmt: skip
    """Train in place, from the folder's checkpoint if any; yield steps done and the last loss."""
    steps = total_steps(settings, len(data))
    step = Step(classifier, method, settings, steps)
    path = folder / "checkpoint.pt" if folder else None
    start = _restore(step, path)
    loader = step.accelerator.prepare(_loader(data, settings, steps, seed, start))
    for done, (real, generated, labels) in enumerate(loader, start):
        step.schedule.step_update(done)
        # A generator for each step and process, so that a resumed training draws the same.
        step.take_real(real, labels, _generator(seed, done, step.accelerator.process_index))
        if len(data.generated):
            step.take_counterparts(generated)
        for phase in (step.augment, step.forward, step.backward, step.update):
            phase()
        due = (done + 1) % settings.checkpoint_every == 0 and done + 1 < steps
        if path and due and step.accelerator.is_main_process:
            _save(step, path, done + 1)
        yield done + 1, step.loss.item()
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


def _restore(step: Step, path: Path | None) -> int:
    """Go back to a checkpoint, if there is one; return how many steps it had done."""
    if path is None or not path.exists():
        return 0
    saved = torch.load(path, map_location=step.accelerator.device, weights_only=True)
    for name, part in _states(step).items():
        part.load_state_dict(saved[name])
    return saved["step"]


def _save(step: Step, path: Path, done: int) -> None:
    states = {name: part.state_dict() for name, part in _states(step).items()}
    with written_whole(path) as aside:
        torch.save({"step": done, **states}, aside)
