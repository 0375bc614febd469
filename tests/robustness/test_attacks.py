"""Attacks against a plain re-implementation, and by their bounds."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from diffcore.measure.attacks import attack, fgsm, pgd

EPS = 8 / 255
LABELS = torch.arange(12)


@pytest.fixture(scope="module")
def images():
    return torch.rand(12, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def net(images):
    """A small network that has learned the images by heart."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 5, 4), nn.Tanh(), nn.Conv2d(16, 32, 5, 4), nn.Tanh(),
        nn.Flatten(), nn.Linear(288, 12),
    )  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(100):
        optimizer.zero_grad()
        cross_entropy(net(images), LABELS).backward()
        optimizer.step()
    net.zero_grad()
    return net.eval()


def pgd_by_hand(net, images, eps, steps, seed):
    """Madry et al.'s equation, on the images one by one."""
    start = torch.rand(images.shape, generator=torch.Generator().manual_seed(seed))
    moved = (images + eps * (2 * start - 1)).clamp(0, 1)
    for _ in range(steps):
        inputs = moved.clone().requires_grad_()
        for image, label in zip(inputs, LABELS, strict=True):
            cross_entropy(net(image[None]), label[None]).backward()
        moved = moved + 2.5 * eps / steps * inputs.grad.sign()
        moved = torch.minimum(torch.maximum(moved, images - eps), images + eps).clamp(0, 1)
    net.zero_grad()
    return moved


def test_pgd_is_what_its_equation_says(net, images):
    torch.manual_seed(5)
    found = pgd(net, images, LABELS, EPS, steps=3)
    # Rounding may turn the sign of a gradient that is next to nothing.
    same = (found - pgd_by_hand(net, images, EPS, 3, seed=5)).abs() < 1e-6
    assert same.float().mean() > 0.999
    assert not found.requires_grad


def test_fgsm_moves_every_pixel_the_right_way_however_sure_the_model_is():
    weight = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    for scale in (1, 30):  # the gradients of the surer one are below 1e-6
        linear = lambda x, s=scale: s * x.flatten(1) @ weight.T  # noqa: E731
        image = torch.tensor([0.9, 0.3]).view(1, 2, 1, 1)
        moved = fgsm(linear, image, torch.tensor([0]), 0.1)
        torch.testing.assert_close(moved.flatten(), torch.tensor([0.8, 0.4]))


@pytest.mark.parametrize("eps", [0.0, 2 / 255, EPS])
def test_an_attack_stays_within_its_bounds(eps, net, images):
    for moved in (fgsm(net, images, LABELS, eps), pgd(net, images, LABELS, eps)):
        assert (moved - images).abs().max() <= eps + 1e-6
        assert 0 <= moved.min() <= moved.max() <= 1


def test_attacks_succeed_and_pgd_is_no_weaker_than_fgsm(net, images):
    shown = attack(net, images, LABELS, [EPS], steps=10, seed=0)
    losses = [cross_entropy(net(each), LABELS).item() for each in shown.values()]
    assert net(images).argmax(1).tolist() == LABELS.tolist()
    assert 2 * losses[0] < losses[1] <= losses[2]


def test_batches_and_other_sizes_do_not_change_an_attack(net, images, monkeypatch):
    whole = attack(net, images, LABELS, [EPS], steps=2, seed=0)
    monkeypatch.setattr("diffcore.measure.attacks._BATCH", 5)
    with torch.no_grad():  # also where no gradients are wanted
        parts = attack(net, images, LABELS, [2 / 255, EPS], steps=2, seed=0)
    for name, moved in whole.items():
        torch.testing.assert_close(parts[name], moved)
    assert list(parts) == [("none", 0), *((n, e) for e in (2 / 255, EPS) for n in ("FGSM", "PGD"))]
    assert all(weight.grad is None for weight in net.parameters())
