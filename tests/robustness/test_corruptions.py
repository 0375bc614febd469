"""Corruptions against references, and by their limits."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from PIL import Image
from scipy.ndimage import correlate

from paperbirds import Paperbirds
from diffcore.measure import corruptions
from diffcore.measure.corruptions import CORRUPTIONS, corrupt

# Strengths at severities 1 to 5, as of ImageNet-C/create_c/make_tinyimagenet_c.py in
# github.com/hendrycks/robustness. Zooms are counted from its ranges in steps of 0.01, without their
# ends; by an error of rounding NumPy's ranges have the end too at the first two (7 and 12 zooms).
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


@pytest.fixture(scope="module")
def images():
    birds = Paperbirds("test_matched", style=0.6, images_per_class=1)
    return torch.from_numpy(birds.images).permute(0, 3, 1, 2) / 255


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_repeats_and_harms_more_the_stronger_it_is(name, images):
    made = [corrupt(images, name, severity, seed=3) for severity in range(1, 6)]
    assert torch.equal(made[2], corrupt(images, name, 3, seed=3))
    assert all(each.min() >= 0 and each.max() <= 1 for each in made)
    harm = [(each - images).abs().mean().item() for each in made]
    assert harm == sorted(harm)
    assert harm[0] > 0.002
    assert corrupt(torch.rand(1, 3, 48, 80), name, 5, seed=0).shape == (1, 3, 48, 80)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_severity_has_the_published_strength(name, images):
    change, *ours = CORRUPTIONS[name]
    assert [*zip(*ours, strict=True)] == PUBLISHED[name]
    for severity, strengths in enumerate(PUBLISHED[name], 1):
        expected = change(images, generator(3), *strengths).clamp(0, 1)
        assert torch.equal(corrupt(images, name, severity, seed=3), expected)


@pytest.mark.parametrize("name", ["Gaussian noise", "shot noise", "motion blur", "fog"])
def test_what_is_random_follows_the_seed(name, images):
    assert not torch.equal(*(corrupt(images, name, 3, seed) for seed in (0, 1)))


@pytest.mark.parametrize("name", ["defocus blur", "motion blur", "zoom blur", "pixelate"])
def test_a_blur_leaves_a_flat_image_as_it_is(name):
    flat = torch.full((2, 3, 64, 64), 0.4)
    tolerance = 1e-5 if "blur" in name else 1 / 255
    torch.testing.assert_close(corrupt(flat, name, 5, 0), flat, atol=tolerance, rtol=0)


def test_noise_has_the_moments_that_it_should():
    grey = torch.full((8, 3, 64, 64), 0.5)
    normal = corruptions.gaussian_noise(grey, generator(), 0.08) - grey
    assert normal.mean().item() == pytest.approx(0, abs=1e-3)
    assert normal.std().item() == pytest.approx(0.08, rel=0.02)
    shots = corruptions.shot_noise(grey, generator(), 50)
    assert shots.mean().item() == pytest.approx(0.5, abs=2e-3)
    assert shots.var().item() == pytest.approx(0.5 / 50, rel=0.03)  # Poisson's, over the photons


def test_defocus_is_a_correlation_with_the_disk(images):
    kernel = corruptions.disk(2.5, 0.01).numpy()
    assert kernel.sum() == pytest.approx(1)
    expected = correlate(images[0, 0].numpy(), kernel, mode="mirror")
    found = corruptions.defocus_blur(images, generator(), 2.5, 0.01)[0, 0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_motion_smears_along_a_line_up_to_45_degrees():
    dot = torch.zeros(16, 1, 65, 65)
    dot[:, :, 32, 32] = 1
    smeared = corruptions.motion_blur(dot, generator(), 12, 3.0)[:, 0]
    y, x = torch.meshgrid(torch.arange(65.0) - 32, torch.arange(65.0) - 32, indexing="ij")
    across, down = ((smeared * way).sum((1, 2)) / smeared.sum((1, 2)) for way in (x, y))
    assert (across > 1).all()
    assert (down.abs() <= across + 1e-3).all()
    assert down.min() < -0.3 < 0.3 < down.max()


def test_zooming_enlarges_about_the_centre():
    across = torch.linspace(-1, 1, 65).expand(1, 1, 65, 65)
    inner = corruptions.zoom_blur(across, generator(), 26)[0, 0, 32, 8:57]
    expected = across[0, 0, 0, 8:57] * np.mean([1, *(1 / (1 + np.arange(26) / 100))])
    torch.testing.assert_close(inner, expected.float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("decay", [1.75, 3.0])
def test_each_octave_of_the_clouds_is_weaker_by_the_decay(decay):
    clouds = corruptions.draw_clouds(64, 64, 64, decay, generator()).double()
    power = torch.fft.fft2(clouds).abs() ** 2
    f = torch.fft.fftfreq(64, dtype=torch.double)
    frequency = (f[:, None] ** 2 + f**2).sqrt()
    octaves = [power[..., (frequency >= low) & (frequency < 2 * low)].sum((1, 2))
               for low in (1 / 16, 1 / 8)]  # fmt: skip
    assert (octaves[0] / octaves[1]).sqrt().median().item() == pytest.approx(decay, rel=0.1)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 255), min_size=3, max_size=3), st.integers(1, 5))
def test_brightness_raises_the_value_of_hsv(colour, severity):
    colour = np.array(colour, np.float32) / 255
    hsv = rgb_to_hsv(colour)
    hsv[2] = min(1, hsv[2] + severity / 10)
    shown = torch.from_numpy(colour).view(1, 3, 1, 1)
    found = corrupt(shown, "brightness", severity, seed=0)
    np.testing.assert_allclose(found.flatten(), hsv_to_rgb(hsv), atol=1e-5)


def test_contrast_keeps_the_mean_of_each_channel(images):
    flat = corruptions.contrast(images, generator(), 0.1)
    torch.testing.assert_close(flat.mean((2, 3)), images.mean((2, 3)))
    torch.testing.assert_close(flat.std((2, 3)), 0.1 * images.std((2, 3)))


def test_jpeg_is_pillows(images):
    buffer = io.BytesIO()
    pixels = (images[0] * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=50)
    found = corruptions.jpeg(images, generator(), 50)[0].permute(1, 2, 0).numpy()
    # The libraries round differently.
    assert np.abs(found - np.asarray(Image.open(buffer)) / 255).mean() < 1 / 255


@pytest.mark.parametrize(
    ("name", "severity", "message"),
    [("snow", 1, "unknown corruption 'snow'"), ("fog", 0, "severity is 0"), ("fog", 6, "from 1")],
)
def test_what_cannot_be_done_is_said(name, severity, message, images):
    with pytest.raises(ValueError, match=message):
        corrupt(images, name, severity, seed=0)
