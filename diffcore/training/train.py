"""Train a classifier on pairs of real and generated images, with any method that augments them.

The fifth step of the paper. From one seed every method gets the same initial weights, number of
steps, order of images and crops. The last weights are kept: no epoch is chosen on any test set.
What a step draws follows from the seed and its number alone, so that a killed training goes on from
its checkpoint to the same result.
"""

import math
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.state import AcceleratorState
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, cross_entropy, grid_sample
from torch.utils.data import DataLoader

from diffcore.data.pairs import PairedDataset
from diffcore.mixing.mix import device_of
from diffcore.params import TrainingParams, resolve_device, resolve_precision
from diffcore.store import read_kept, written_whole
from diffcore.training.networks import Classifier, as_floats

#: (real, counterparts (B, 3, H, W) in [0, 1], labels (B,), generator) -> images, targets (B, K).
Augment = Callable[[Tensor, Tensor, Tensor, Generator], tuple[Tensor, Tensor]]
Log = list[dict[str, float]]  # one row per step: its loss, and what else was measured then
_CHECKPOINT_EVERY = 200  # steps
_DIVERGED = 1e4  # a loss that no classifier recovers from; chance is log(classes), below 10
_FUSED = ("adam", "adamw", "sgd")  # optimisers that update all weights in one call
_MIXED = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}  # accelerate's names


def draw_crops(count: int, scale: float, generator: Generator | None = None) -> Tensor:
    """Draw crops of at least `scale` of the area, half of them flipped, as matrices (B, 2, 3).

    The "Inception" crop (Szegedy et al., arXiv 1409.4842). Our choice: it keeps the aspect ratio,
    as a stretched bird is no bird of its species. A `scale` of 1 only flips; outside (0, 1] it is a
    ValueError.
    """
    if not 0 < scale <= 1:
        raise ValueError(f"scale is {scale}; it must be above 0 and at most 1")
    drawn = torch.rand(4, count, generator=generator, device=device_of(generator))
    area, across, down, chance = drawn
    side = (scale + (1 - scale) * area).sqrt()
    maps = torch.zeros(count, 2, 3, device=drawn.device)
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

    Each real image comes once per epoch, in that epoch's order, with one of its counterparts.
    """

    def __init__(self, data: PairedDataset, batch_size: int, steps: int, seed: int, start: int = 0):
        """Plan batches of `batch_size` for the steps `start` to `steps`."""
        self.batch_size, self.steps, self.seed, self.start = batch_size, steps, seed, start
        self.drop_last = False  # accelerate reads it to share batches among processes
        self._counterparts = data.counterparts

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return (self.batch(step) for step in range(self.start, self.steps))

    def batch(self, step: int) -> list[tuple[int, int]]:
        """Draw the pairs of one step."""
        count, rng = len(self._counterparts), np.random.default_rng((self.seed, 1, step))
        turns = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        orders = {
            epoch: np.random.default_rng((self.seed, 0, epoch)).permutation(count)
            for epoch in np.unique(turns // count)
        }
        pairs = []
        for turn, chance in zip(turns, rng.random(len(turns)), strict=True):
            place = int(orders[turn // count][turn % count])
            drawn = self._counterparts[place]
            pairs.append((place, int(drawn[int(chance * len(drawn))]) if len(drawn) else -1))
        return pairs


def total_steps(settings: TrainingParams, images: int) -> int:
    """Return the number of optimiser steps: as set, or from the epochs over so many real images."""
    return settings.steps or math.ceil(settings.epochs * images / settings.batch_size)


class Step:
    """One optimiser step, in phases that can be timed apart; each leaves what the next one needs.

    The phases come in this order; `take_counterparts` is only for methods that need them. `method`
    may be changed between steps.
    """

    def __init__(
        self, classifier: Classifier, method: Augment, settings: TrainingParams, steps: int = 1
    ):
        """Move the classifier to its device; of Steps of several precisions only the last works."""
        self.classifier, self.method, self.settings = classifier, method, settings
        self.accelerator = _make_accelerator(settings)
        fused = {"fused": True} if settings.optimizer in _FUSED else {}
        rates = {"lr": settings.lr, "weight_decay": settings.weight_decay}
        optimizer = create_optimizer_v2(classifier, settings.optimizer, **rates, **fused)
        # The learning rate rises, then falls to nearly 0. An "epoch" of timm's is a step of ours.
        warmup = round(settings.warmup_share * steps)
        lengths = {"num_epochs": steps, "warmup_epochs": warmup, "updates_per_epoch": 1}
        self.schedule, _ = create_scheduler_v2(optimizer, "cosine", step_on_epochs=False, **lengths)
        self.model, self.optimizer = self.accelerator.prepare(classifier, optimizer)
        # A prediction between two steps is in float32, as it is from the saved weights.
        vars(classifier).pop("forward", None)

    def take_real(self, real: Tensor, labels: Tensor, generator: Generator) -> None:
        """Take a batch of real images (B, H, W, 3) uint8, and draw their crops."""
        self.generator, self.labels = generator, labels.to(self.accelerator.device)
        self._crops = draw_crops(len(real), self.settings.crop_scale, generator)
        self.real = self.generated = self._crop(real)

    def take_counterparts(self, generated: Tensor) -> None:
        """Take a counterpart of each, and crop it alike, as halves of a restyled image must fit."""
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
        with self.accelerator.autocast():
            self.loss = cross_entropy(self.model(self.images), self.targets)

    def backward(self) -> None:
        """Compute the gradients."""
        self.accelerator.backward(self.loss)

    def update(self) -> None:
        """Change the weights."""
        self.optimizer.step()
        self.optimizer.zero_grad()

    def states(self) -> dict[str, Any]:
        """Return all that a checkpoint holds of a training, by name."""
        states = {"model": self.classifier, "optimizer": self.optimizer}
        scaler = self.accelerator.scaler
        return states if scaler is None else states | {"scaler": scaler}

    def _crop(self, images: Tensor) -> Tensor:
        return crop_and_flip(as_floats(images.to(self.accelerator.device)), self._crops)


def _make_accelerator(settings: TrainingParams) -> Accelerator:
    """Set up device and precision; `batch_size` counts the images of all processes."""
    if "WORLD_SIZE" not in os.environ:  # one process, which may have trained in another precision
        AcceleratorState._reset_state(reset_partial_state=True)
    device = resolve_device(settings.device, "training.device")
    return Accelerator(
        cpu=device == "cpu",
        mixed_precision=_MIXED[resolve_precision(settings.precision, device)],
        dataloader_config=DataLoaderConfiguration(split_batches=True),
    )


def train(
    classifier: Classifier,
    data: PairedDataset,
    method: Augment,
    settings: TrainingParams,
    seed: int,
    folder: Path | None = None,
) -> Iterator[Log]:
    """Train in place, from the folder's checkpoint if any; yield the log after each step.

    The caller may add to the log's last row, which the next checkpoint holds too. Raises
    FloatingPointError, naming the step, when the loss is NaN or beyond recovery.
    """
    steps = total_steps(settings, len(data))
    step = Step(classifier, method, settings, steps)
    path = folder / "checkpoint.pt" if folder else None
    log = _restore(step, path)
    sampler = PairSampler(data, settings.batch_size, steps, seed, start=len(log))
    # The data set fetches whole batches, so that there is nothing to collate.
    options = {"collate_fn": tuple, "num_workers": settings.loader_workers}
    loader = step.accelerator.prepare(DataLoader(data, batch_sampler=sampler, **options))
    saves = path is not None and step.accelerator.is_main_process
    for done, (real, generated, labels) in enumerate(loader, len(log)):
        step.schedule.step_update(done)
        # A generator for each step and process, so that a resumed training draws the same.
        step.take_real(real, labels, _generator(seed, done, step.accelerator.process_index))
        if len(data.generated):
            step.take_counterparts(generated)
        for phase in (step.augment, step.forward, step.backward, step.update):
            phase()
        loss = step.loss.item()
        if not loss < _DIVERGED:  # nor if it is NaN
            raise FloatingPointError(
                f"the loss of step {done + 1} is {loss:g}; the training diverged: lower "
                "training.lr, or raise training.warmup_share"
            )
        log.append({"loss": loss})
        yield log
        if saves and (done + 1) % _CHECKPOINT_EVERY == 0 and done + 1 < steps:
            _save(step, path, log)
    step.accelerator.end_training()
    if saves:
        path.unlink(missing_ok=True)


def _generator(*numbers: int) -> Generator:
    """Make a generator whose draws follow from all of these numbers."""
    return Generator().manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))


def _restore(step: Step, path: Path | None) -> Log:
    """Go back to a checkpoint, if there is one; return the log of the steps it had done."""
    place = step.accelerator.device
    load = partial(torch.load, map_location=place, weights_only=True)
    saved = None if path is None else read_kept(path, load)
    if saved is None:
        return []
    for name, part in step.states().items():
        part.load_state_dict(saved[name])
    return saved["log"]


def _save(step: Step, path: Path, log: Log) -> None:
    states = {name: part.state_dict() for name, part in step.states().items()}
    with written_whole(path) as aside, aside.open("wb") as file:
        torch.save({"log": log, **states}, file)
