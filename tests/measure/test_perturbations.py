"""Corruptions and attacks against references, and by their limits."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from PIL import Image
from scipy.ndimage import correlate
from torch import nn
from torch.nn.functional import cross_entropy, interpolate

from diffcore.measure import perturbations
from diffcore.measure.perturbations import CORRUPTIONS, attack, corrupt, fgsm, pgd

# Strengths at severities 1 to 5, as of ImageNet-C/create_c/make_tinyimagenet_c.py in
# github.com/hendrycks/robustness. Zooms are counted from its ranges in steps of 0.01, without their
# ends; by an error of rounding NumPy's ranges have the end too at the first two.
PUBLISHED = {
    "Gaussian noise": [(0.04,), (0.08,), (0.12,), (0.15,), (0.18,)],
    "shot noise": [(250,), (100,), (50,), (30,), (15,)],
    "defocus blur": [(0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)],
    "motion blur": [(10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)],
    "zoom blur": [(round((end - 1) / 0.01),) for end in (1.06, 1.11, 1.16, 1.21, 1.26)],
    "fog": [(0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)],
    "brightness": [(0.1,), (0.2,), (0.3,), (0.4,), (0.5,)],
    "contrast": [(0.4,), (0.3,), (0.2,), (0.1,), (0.05,)],
    "pixelate": [(0.9,), (0.8,), (0.7,), (0.6,), (0.5,)],
    "JPEG": [(65,), (58,), (50,), (40,), (25,)],
}
EPS = 8 / 255
LABELS = torch.arange(12)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def images():
    """Pictures of soft patches and of fine ones."""
    coarse, fine = (torch.rand(12, 3, side, side, generator=generator()) for side in (6, 20))
    patches = [interpolate(each, 64, mode="bicubic") for each in (coarse, fine)]
    return (0.7 * patches[0] + 0.3 * patches[1]).clamp(0, 1)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_has_the_published_strength_repeats_and_harms_more_the_stronger(name, images):
    change, *ours = CORRUPTIONS[name]
    assert [*zip(*ours, strict=True)] == PUBLISHED[name]
    harm = []
    for severity, strengths in enumerate(PUBLISHED[name], 1):
        corrupted = corrupt(images, name, severity, seed=3)
        expected = change(images, generator(3), *strengths).clamp(0, 1)
        assert torch.equal(corrupted, expected)
        harm.append((corrupted - images).abs().mean().item())
    assert harm == sorted(harm)
    assert harm[0] > 0.002
    assert corrupt(torch.rand(1, 3, 48, 80), name, 5, seed=0).shape == (1, 3, 48, 80)


@pytest.mark.parametrize("name", ["defocus blur", "motion blur", "zoom blur", "pixelate"])
def test_a_blur_leaves_a_flat_image_as_it_is(name):
    flat = torch.full((2, 3, 64, 64), 0.4)
    tolerance = 1e-5 if "blur" in name else 1 / 255
    torch.testing.assert_close(corrupt(flat, name, 5, 0), flat, atol=tolerance, rtol=0)


def test_noise_has_the_moments_that_it_should():
    grey = torch.full((8, 3, 64, 64), 0.5)
    normal = perturbations.gaussian_noise(grey, generator(), 0.08) - grey
    assert normal.mean().item() == pytest.approx(0, abs=1e-3)
    assert normal.std().item() == pytest.approx(0.08, rel=0.02)
    shots = perturbations.shot_noise(grey, generator(), 50)
    assert shots.mean().item() == pytest.approx(0.5, abs=2e-3)
    assert shots.var().item() == pytest.approx(0.5 / 50, rel=0.03)  # Poisson's, over the photons


def test_defocus_is_a_correlation_with_the_disk(images):
    kernel = perturbations.disk(2.5, 0.01).numpy()
    assert kernel.sum() == pytest.approx(1)
    expected = correlate(images[0, 0].numpy(), kernel, mode="mirror")
    blurred = perturbations.defocus_blur(images, generator(), 2.5, 0.01)[0, 0].numpy()
    np.testing.assert_allclose(blurred, expected, atol=1e-5)


def test_motion_smears_along_a_line_up_to_45_degrees():
    dot = torch.zeros(16, 1, 65, 65)
    dot[:, :, 32, 32] = 1
    smeared = perturbations.motion_blur(dot, generator(), 12, 3.0)[:, 0]
    y, x = torch.meshgrid(torch.arange(65.0) - 32, torch.arange(65.0) - 32, indexing="ij")
    across, down = ((smeared * axis).sum((1, 2)) / smeared.sum((1, 2)) for axis in (x, y))
    assert (across > 1).all()
    assert (down.abs() <= across + 1e-3).all()
    assert down.min() < -0.3 < 0.3 < down.max()


def test_zooming_enlarges_about_the_centre():
    across = torch.linspace(-1, 1, 65).expand(1, 1, 65, 65)
    inner = perturbations.zoom_blur(across, generator(), 26)[0, 0, 32, 8:57]
    expected = across[0, 0, 0, 8:57] * np.mean([1, *(1 / (1 + np.arange(26) / 100))])
    torch.testing.assert_close(inner, expected.float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("decay", [1.75, 3.0])
def test_each_octave_of_the_clouds_is_weaker_by_the_decay(decay):
    clouds = perturbations.draw_clouds(64, 64, 64, decay, generator()).double()
    power, f = torch.fft.fft2(clouds).abs() ** 2, torch.fft.fftfreq(64, dtype=torch.double)
    octave = ((f[:, None] ** 2 + f**2).sqrt() * 16).log2().floor()
    low, high = (power[..., octave == n].sum((1, 2)) for n in (0, 1))
    assert (low / high).sqrt().median().item() == pytest.approx(decay, rel=0.1)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 255), min_size=3, max_size=3), st.integers(1, 5))
def test_brightness_raises_the_value_of_hsv(colour, severity):
    colour = np.array(colour, np.float32) / 255
    hsv = rgb_to_hsv(colour)
    hsv[2] = min(1, hsv[2] + severity / 10)
    bright = corrupt(torch.from_numpy(colour).view(1, 3, 1, 1), "brightness", severity, seed=0)
    np.testing.assert_allclose(bright.flatten(), hsv_to_rgb(hsv), atol=1e-5)


def test_contrast_keeps_the_mean_of_each_channel(images):
    flat = perturbations.contrast(images, generator(), 0.1)
    expected = images.mean((2, 3), keepdim=True) * 0.9 + 0.1 * images
    torch.testing.assert_close(flat, expected)


def test_jpeg_is_pillows(images):
    buffer = io.BytesIO()
    pixels = (images[0] * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=50)
    saved = perturbations.jpeg(images, generator(), 50)[0].permute(1, 2, 0).numpy()
    # The libraries round differently.
    assert np.abs(saved - np.asarray(Image.open(buffer)) / 255).mean() < 1 / 255


@pytest.mark.parametrize(("name", "severity"), [("snow", 1), ("fog", 6)])
def test_an_unknown_corruption_or_severity_is_refused(name, severity, images):
    with pytest.raises(ValueError, match=f"no corruption '{name}' of severity {severity}; 1 to 5"):
        corrupt(images, name, severity, seed=0)


@pytest.fixture(scope="module")
def noise():
    return torch.rand(12, 3, 64, 64, generator=generator())


@pytest.fixture(scope="module")
def net(noise):
    """A small network that has learned the images by heart."""
    torch.manual_seed(0)
    body = nn.Conv2d(3, 16, 5, 4), nn.Tanh(), nn.Conv2d(16, 32, 5, 4), nn.Tanh()
    net = nn.Sequential(*body, nn.Flatten(), nn.Linear(288, 12))
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(100):
        optimizer.zero_grad()
        cross_entropy(net(noise), LABELS).backward()
        optimizer.step()
    net.zero_grad()
    return net.eval()


def pgd_by_hand(net, images, eps, steps, seed):
    """Madry et al.'s equation, on the images one by one."""
    start = images + eps * (2 * torch.rand(images.shape, generator=generator(seed)) - 1)
    moved = start.clamp(0, 1)
    for _ in range(steps):
        inputs = moved.clone().requires_grad_()
        for image, label in zip(inputs, LABELS, strict=True):
            cross_entropy(net(image[None]), label[None]).backward()
        moved = moved + 2.5 * eps / steps * inputs.grad.sign()
        moved = torch.minimum(torch.maximum(moved, images - eps), images + eps).clamp(0, 1)
    net.zero_grad()
    return moved


def test_pgd_is_what_its_equation_says(net, noise):
    torch.manual_seed(5)
    moved = pgd(net, noise, LABELS, EPS, steps=3)
    # Rounding may turn the sign of a gradient that is next to nothing.
    same = (moved - pgd_by_hand(net, noise, EPS, 3, seed=5)).abs() < 1e-6
    assert same.float().mean() > 0.999
    assert not moved.requires_grad


def test_fgsm_moves_every_pixel_the_right_way_however_sure_the_model_is():
    weight = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    for scale in (1, 30):  # the gradients of the surer one are below 1e-6
        linear = lambda x, s=scale: s * x.flatten(1) @ weight.T  # noqa: E731
        image = torch.tensor([0.9, 0.3]).view(1, 2, 1, 1)
        moved = fgsm(linear, image, torch.tensor([0]), 0.1)
        torch.testing.assert_close(moved.flatten(), torch.tensor([0.8, 0.4]))


def test_attacks_stay_within_their_bounds_succeed_and_pgd_is_no_weaker_than_fgsm(net, noise):
    attacked = attack(net, noise, LABELS, [0.0, EPS], steps=10, seed=0)
    for (_, eps), moved in attacked.items():
        assert (moved - noise).abs().max() <= eps + 1e-6
        assert 0 <= moved.min() <= moved.max() <= 1
    kinds = ("none", 0.0), ("FGSM", EPS), ("PGD", EPS)
    losses = [cross_entropy(net(attacked[kind]), LABELS).item() for kind in kinds]
    assert net(noise).argmax(1).tolist() == LABELS.tolist()
    assert 2 * losses[0] < losses[1] <= losses[2]


def test_batches_and_other_sizes_do_not_change_an_attack(net, noise, monkeypatch):
    whole = attack(net, noise, LABELS, [EPS], steps=2, seed=0)
    monkeypatch.setattr(perturbations, "_BATCH", 5)
    with torch.no_grad():  # also where no gradients are wanted
        parts = attack(net, noise, LABELS, [2 / 255, EPS], steps=2, seed=0)
    for name, moved in whole.items():
        torch.testing.assert_close(parts[name], moved)
    assert list(parts) == [("none", 0), *((n, e) for e in (2 / 255, EPS) for n in ("FGSM", "PGD"))]
    assert all(weight.grad is None for weight in net.parameters())
