"""Settings reach the training: its losses, step by step, are those of a loop of torch alone.

Which pairs a step takes, and four numbers per image for its crop, are drawn by the package. What is
done with them is written here again.
"""

import math

import numpy as np
import pytest
import torch
from dummy_study import gaussian_classes, make_generated, make_split
from torch import nn, optim
from torch.nn.functional import one_hot

from diffcore.data.pairs import PairedDataset
from diffcore.params import load_params
from diffcore.training.train import PairSampler, train

K, SEED = 3, 2
BASE = {
    **{"optimizer": "sgd", "lr": 0.01, "weight_decay": 0.0, "warmup_share": 0.0},
    **{"batch_size": 6, "steps": 6, "crop_scale": 1.0, "precision": "float32"},
}


@pytest.fixture(scope="module")
def data():
    """Nine images of three classes that differ in brightness, two counterparts of each."""
    labels = np.repeat(np.arange(K), 3)
    source = np.repeat(np.arange(9), 2)
    real = make_split(3, "train", gaussian_classes(labels, 0))
    return PairedDataset(real, make_generated(real, source, gaussian_classes(labels[source], 1)))


def network():
    torch.manual_seed(0)
    layers = nn.BatchNorm2d(3), nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(512, K)
    return nn.Sequential(*layers)


def halfway(real, other, labels, generator):
    """Mix by halves, so that a loss depends on both images of a pair."""
    return (real + other) / 2, one_hot(labels, K).float()


def trained(data, changes=None):
    """Losses of the package's training."""
    settings = load_params("smoke").training.model_copy(update=BASE | (changes or {}))
    return [log[-1]["loss"] for log in train(network(), data, halfway, settings, SEED)]


# ----------------------------------------------------------------------------------- the plain loop
def plain(data, flipped=0.5, **changes):
    """Losses of the same training by torch alone."""
    net, settings = network(), BASE | changes
    optimizer, losses = plain_optimizer(net, settings), []
    bfloat16 = torch.autocast("cpu", torch.bfloat16, enabled=settings["precision"] == "bfloat16")
    sampler = PairSampler(data, settings["batch_size"], settings["steps"], SEED)
    for step in range(settings["steps"]):
        real, other, labels = data.__getitems__(sampler.batch(step))
        halves = (real / 255 + other / 255).permute(0, 3, 1, 2) / 2
        images = plain_crop(halves, step, settings["crop_scale"], flipped)
        with bfloat16:
            logits = net(images)
        loss = -(torch.eye(K)[labels] * logits.float().log_softmax(1)).sum(1).mean()
        for group in optimizer.param_groups:
            group["lr"] = plain_rate(step, settings)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def plain_optimizer(net, settings):
    """Of timm's names; biases and scales are not decayed."""
    groups = [
        {"params": [p for p in net.parameters() if p.ndim > 1]},
        {"params": [p for p in net.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    options = {"lr": settings["lr"], "weight_decay": settings["weight_decay"]}
    return {
        "sgd": lambda: optim.SGD(groups, momentum=0.9, nesterov=True, **options),
        "momentum": lambda: optim.SGD(groups, momentum=0.9, **options),
        "adamw": lambda: optim.AdamW(groups, **options),
    }[settings["optimizer"]]()


def plain_rate(step, settings):
    """Rise in a straight line from 1e-5, then fall along a cosine of all steps."""
    warm, done = round(settings["warmup_share"] * settings["steps"]), step / settings["steps"]
    if step < warm:
        return 1e-5 + (settings["lr"] - 1e-5) * step / warm
    return settings["lr"] * (1 + math.cos(math.pi * done)) / 2


def plain_crop(images, step, scale, flipped):
    """Crop by two matrices of hat functions, (B, to, from), and turn some round."""
    seed = int(np.random.SeedSequence((SEED, step, 0)).generate_state(1)[0])
    draws = torch.rand(4, len(images), generator=torch.Generator().manual_seed(seed))
    area, across, down, chance = draws[:, :, None]
    side, pixels = (scale + (1 - scale) * area).sqrt(), torch.arange(32.0)

    def hats(start):
        places = 32 * start * (1 - side) + side * (pixels + 0.5) - 0.5
        return (1 - (places.clamp(0, 31)[:, :, None] - pixels).abs()).clamp(min=0)

    cropped = hats(down)[:, None] @ images @ hats(across)[:, None].mT
    turned = torch.where(chance[:, :, None, None] < flipped, cropped.flip(3), cropped)
    # In the package's memory format: other kernels would round bfloat16 in another way.
    return turned.contiguous(memory_format=torch.channels_last)


# ---------------------------------------------------------------------------------------- the tests
@pytest.mark.parametrize(
    ("setting", "value", "wrong"),
    [
        ("lr", 0.02, 0.01),
        ("batch_size", 5, 6),
        ("crop_scale", 0.4, 0.5),
        ("weight_decay", 0.1, 0.05),
        ("optimizer", "momentum", "sgd"),
        ("optimizer", "adamw", "sgd"),
        ("warmup_share", 0.5, 0.3),
        ("precision", "bfloat16", "float32"),
    ],
)
def test_a_setting_does_to_the_losses_what_it_does_in_a_plain_loop(setting, value, wrong, data):
    losses = trained(data, {setting: value})
    assert losses == pytest.approx(plain(data, **{setting: value}), rel=3e-5)
    assert losses != pytest.approx(plain(data, **{setting: wrong}), rel=3e-4)


def test_half_the_images_are_flipped(data):
    losses = trained(data)
    assert losses == pytest.approx(plain(data), rel=3e-5)
    assert losses != pytest.approx(plain(data, flipped=0.0), rel=3e-4)
