"""Train a classifier on pairs of real and generated images, with any method of `diffcore.methods`.

The fifth step of the paper. Model, optimiser and schedule are timm's, by name; accelerate brings
mixed precision and several GPUs. Every method gets the same number of optimiser steps, the same
order of images, the same base augmentation and the same initial weights from one seed; what differs
is the method. The weights that are kept are the last ones: no epoch is chosen on any test set.

What a step sees follows from the seed and the number of the step alone, so that a killed training
goes on from its checkpoint with the batches that it would have seen.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import timm
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from safetensors.torch import load_file, save_file
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

import diffcore.backbones  # noqa: F401  makes its networks known to timm
from diffcore.augmentation import crop_and_flip
from diffcore.methods import Method
from diffcore.params import TrainingParams
from diffcore.weights import check_model_name, load_backbone

#: Of pixels in [0, 1]: one number for all channels alike, or one a channel.
Channels = float | tuple[float, ...]
_MEAN, _STD = 0.5, 0.25  # for networks that start from random weights
_CHECKPOINT = "checkpoint.pt"


# ------------------------------------------------------------------------------------- the model
class Classifier(nn.Module):
    """A timm model that takes images as they are: (B, 3, H, W) in [0, 1] to logits (B, K)."""

    def __init__(self, net: nn.Module, mean: Channels = _MEAN, std: Channels = _STD):
        """Wrap a model that expects normalised images; `mean` and `std` of pixels in [0, 1]."""
        super().__init__()
        self.net = net
        # Not saved with the weights: it follows from the settings, as the architecture does.
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalise and classify."""
        return self.net((images - self.mean) / self.std)


def build_classifier(settings: TrainingParams, num_classes: int, seed: int = 0) -> Classifier:
    """Build a classifier: with random weights, or with `settings.weights` and a new last layer.

    What is random follows from the seed.

    Raises:
        ValueError: for a model that timm does not have, the message names the nearest, and for
            weights that do not fit it.
        FileNotFoundError: for weights that are not there.
    """
    check_model_name(settings.model, "training.model")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if settings.weights is None:
            net = _untrained(settings, num_classes)
        else:
            net = load_backbone(
                settings.model, settings.weights, num_classes=num_classes,
                model_args=settings.model_args, new_last_layer=True,
            )  # fmt: skip
    return _wrap(net, settings)


def _untrained(settings: TrainingParams, num_classes: int) -> nn.Module:
    return timm.create_model(settings.model, num_classes=num_classes, **settings.model_args)


def _wrap(net: nn.Module, settings: TrainingParams) -> Classifier:
    """Let a network that has seen images normalised in its own way see them so again."""
    own = settings.weights is not None
    mean, std = (net.pretrained_cfg[key] for key in ("mean", "std")) if own else (_MEAN, _STD)
    return Classifier(net, mean, std).to(memory_format=torch.channels_last)


def save_classifier(classifier: Classifier, path: Path) -> None:
    """Save the weights as safetensors; the file appears whole or not at all."""
    aside = path.with_suffix(".part")
    save_file({name: value.contiguous() for name, value in classifier.state_dict().items()}, aside)
    aside.replace(path)


def load_classifier(path: Path, settings: TrainingParams, num_classes: int) -> Classifier:
    """Load what `save_classifier` saved, ready to predict, on the device of the settings.

    The weights that its training started from are not read.
    """
    with torch.random.fork_rng(devices=[]):
        classifier = _wrap(_untrained(settings, num_classes), settings)
    classifier.load_state_dict(load_file(path))
    return classifier.eval().to(device_of(settings))


def device_of(settings: TrainingParams) -> str:
    """Where classifiers are trained and asked: "cuda" if it is wanted and there, else "cpu"."""
    return "cuda" if settings.device != "cpu" and torch.cuda.is_available() else "cpu"


@torch.inference_mode()
def predict(classifier: Classifier, images: np.ndarray | Tensor, batch_size: int = 256) -> Tensor:
    """Classify N images in batches, on the classifier's device.

    Args:
        classifier: put into evaluation mode for this, and back.
        images: (N, H, W, 3) uint8, or (N, 3, H, W) in [0, 1].
        batch_size: images at a time; changes speed alone.

    Returns:
        Logits (N, K), float32, in main memory.
    """
    device, trained = next(classifier.parameters()).device, classifier.training
    classifier.eval()
    logits = []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        # A copy, as arrays shared between processes are read-only, and those on a disk are too.
        batch = torch.tensor(batch) if isinstance(batch, np.ndarray) else batch
        logits.append(classifier(_as_floats(batch.to(device))).float().cpu())
    classifier.train(trained)
    return torch.cat(logits)


def _as_floats(images: Tensor) -> Tensor:
    """Turn 8-bit images, channels last or first, into (B, 3, H, W) in [0, 1]."""
    if images.dtype == torch.uint8:
        images = (images if images.shape[1] == 3 else images.permute(0, 3, 1, 2)) / 255
    return images.contiguous(memory_format=torch.channels_last)


# --------------------------------------------------------------------------------------- the data
class ImageSource(Protocol):
    """Images that are fetched by a list of places: an array (N, H, W, 3) uint8, or like one."""

    def __len__(self) -> int:
        """Return how many there are."""

    def __getitem__(self, places: list[int]) -> np.ndarray:
        """Fetch images (len(places), H, W, 3) uint8."""


@dataclass(frozen=True)
class TrainingData(Dataset):
    """Real images, and generated ones that are each a counterpart of one of them.

    Attributes:
        real: N images.
        labels: of the real images, (N,) int64.
        generated: M images; M may be 0.
        source: place of the real image that each generated one belongs to, (M,) int64.
    """

    real: ImageSource
    labels: np.ndarray
    generated: ImageSource
    source: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, pairs: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor, Tensor]:
        """Fetch a batch of pairs: real, counterpart (B, H, W, 3) uint8, and labels (B,).

        A pair is a place among the real images and one among the generated; -1 stands for no
        counterpart, and the image is then its own.
        """
        places = [real for real, _ in pairs]
        real = torch.from_numpy(np.array(self.real[places]))
        other, drawn = real.clone(), [generated for _, generated in pairs if generated >= 0]
        if drawn:
            has = torch.tensor([generated >= 0 for _, generated in pairs])
            other[has] = torch.from_numpy(np.array(self.generated[drawn]))
        return real, other, torch.from_numpy(self.labels[places])


class PairSampler:
    """Batches of pairs from one step to the last; each epoch in an order of its own.

    A real image has its turn once an epoch, each time with one of its counterparts, drawn by
    chance. The batch of a step follows from the seed and the step alone.
    """

    def __init__(self, data: TrainingData, batch_size: int, steps: int, seed: int, start: int = 0):
        """Plan batches of `batch_size` for the steps `start` to `steps`."""
        self.batch_size, self.steps, self.seed, self.start = batch_size, steps, seed, start
        self.drop_last = False  # accelerate asks, to share batches among processes
        order = np.argsort(data.source, kind="stable")
        self._counts = np.bincount(data.source, minlength=len(data))
        self._groups = np.split(order, np.cumsum(self._counts)[:-1])

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.start, self.steps):
            yield self.batch(step)

    def batch(self, step: int) -> list[tuple[int, int]]:
        """Draw the pairs of one step."""
        count, rng = len(self._counts), np.random.default_rng((self.seed, 1, step))
        turns = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs = {epoch: self._order(epoch) for epoch in np.unique(turns // count)}
        places = [int(epochs[turn // count][turn % count]) for turn in turns]
        chances = rng.random(len(places))
        return [
            (place, self._counterpart(place, u)) for place, u in zip(places, chances, strict=True)
        ]

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, 0, epoch)).permutation(len(self._counts))

    def _counterpart(self, place: int, chance: float) -> int:
        count = self._counts[place]
        return int(self._groups[place][int(chance * count)]) if count else -1


def total_steps(settings: TrainingParams, images: int) -> int:
    """Optimiser steps of a training: as set, or from the epochs over so many real images."""
    return settings.steps or math.ceil(settings.epochs * images / settings.batch_size)


# ----------------------------------------------------------------------------------- the training
def train(
    classifier: Classifier,
    data: TrainingData,
    method: Method,
    settings: TrainingParams,
    seed: int,
    folder: Path | None = None,
    progress: bool = False,
) -> Iterator[tuple[int, float]]:
    """Train in place, step by step; yields how many steps are done, and the loss of the last.

    Args:
        classifier: moved to the device of the settings.
        data: what it is trained on.
        method: what is done to each batch.
        settings: of the training.
        seed: of the order of images, of crops and of the method's draws.
        folder: for checkpoints; a training that finds one there goes on from it.
        progress: whether to show a bar.
    """
    accelerator, steps = _accelerator(settings), total_steps(settings, len(data))
    optimizer = create_optimizer_v2(
        classifier, opt=settings.optimizer, lr=settings.lr, weight_decay=settings.weight_decay
    )
    schedule = _schedule(optimizer, settings, steps)
    model, optimizer = accelerator.prepare(classifier, optimizer)
    state = _State(accelerator, classifier, optimizer, folder)
    start = state.restore()
    loader = accelerator.prepare(_loader(data, settings, steps, seed, start))
    for step, batch in enumerate(
        tqdm(loader, "train", steps, initial=start, unit="step", disable=not progress), start
    ):
        model.train()
        schedule.step_update(step)
        # A generator for each step and process, so that a resumed training draws the same.
        generator = _generator(seed, step, accelerator.process_index)
        images, targets = _augment(*batch, method, settings.crop_scale, generator)
        with accelerator.autocast():
            loss = cross_entropy(model(images), targets, label_smoothing=settings.label_smoothing)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        state.save(step + 1, steps, settings.checkpoint_every)
        yield step + 1, loss.item()


@torch.no_grad()
def _augment(
    real: Tensor, other: Tensor, labels: Tensor, method: Method, scale: float, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Crop and flip both images of each pair alike, as halves of an edit must fit; then mix."""
    pair = torch.cat([_as_floats(real), _as_floats(other)], dim=1)
    real, other = crop_and_flip(pair, scale, generator).split(3, dim=1)
    images, targets = method(real, other, labels, generator)
    return images.contiguous(memory_format=torch.channels_last), targets


def _accelerator(settings: TrainingParams) -> Accelerator:
    """Set up device and precision; `batch_size` counts the images of all processes together."""
    return Accelerator(
        cpu=settings.device == "cpu",
        mixed_precision=settings.precision,
        dataloader_config=DataLoaderConfiguration(split_batches=True),
    )


def _schedule(optimizer: torch.optim.Optimizer, settings: TrainingParams, steps: int) -> Scheduler:
    """Let the learning rate rise, then fall to nearly 0 at the last step."""
    schedule, _ = create_scheduler_v2(
        optimizer,
        sched=settings.schedule,
        num_epochs=steps,
        warmup_epochs=round(settings.warmup_share * steps),
        step_on_epochs=False,
        updates_per_epoch=1,  # an "epoch" of timm's is a step of ours
    )
    return schedule


def _loader(
    data: TrainingData, settings: TrainingParams, steps: int, seed: int, start: int
) -> DataLoader:
    """Fetch batch after batch, in other processes if asked for."""
    sampler = PairSampler(data, settings.batch_size, steps, seed, start)
    return DataLoader(
        data,
        batch_sampler=sampler,
        collate_fn=lambda batch: batch,  # the data set fetches whole batches
        num_workers=settings.loader_workers,
    )


def _generator(*numbers: int) -> Generator:
    """Make a generator whose draws follow from all of these numbers."""
    return Generator().manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))


class _State:
    """Checkpoints of a training: weights, optimiser and step in one file, whole or absent."""

    def __init__(
        self,
        accelerator: Accelerator,
        classifier: Classifier,
        optimizer: torch.optim.Optimizer,
        folder: Path | None,
    ):
        self.accelerator, self.parts = accelerator, {"model": classifier, "optimizer": optimizer}
        if accelerator.scaler is not None:
            self.parts["scaler"] = accelerator.scaler
        self.path = folder / _CHECKPOINT if folder else None

    def restore(self) -> int:
        """Go back to the checkpoint, if there is one; return how many steps it had done."""
        if self.path is None or not self.path.exists():
            return 0
        saved = torch.load(self.path, map_location=self.accelerator.device, weights_only=True)
        for name, part in self.parts.items():
            part.load_state_dict(saved[name])
        return saved["step"]

    def save(self, step: int, steps: int, every: int) -> None:
        """Save now and then; after the last step, remove what is no longer needed."""
        if self.path is None or not self.accelerator.is_main_process:
            return
        if step == steps:
            self.path.unlink(missing_ok=True)
        elif step % every == 0:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            aside = self.path.with_suffix(".part")
            states = {name: part.state_dict() for name, part in self.parts.items()}
            torch.save({"step": step, **states}, aside)
            aside.replace(self.path)
