"""Corruptions, attacks, backgrounds and calibration, against references and by their limits."""

import io

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from PIL import Image
from scipy.ndimage import correlate
from torch import nn
from torchmetrics.functional.classification import multiclass_calibration_error

from diffcore import robustness, robustness_study
from diffcore.data import fetch, in_memory, some_of_each_class, spread
from diffcore.paperbirds import CONTEXTS, Paperbirds, load_oracle
from diffcore.params import load_params
from diffcore.robustness import CORRUPTIONS, SEVERITIES
from diffcore.training import build_classifier, predict, save_classifier

EPS = 8 / 255


@pytest.fixture(scope="module")
def birds():
    return Paperbirds("test_matched", style=0.6, images_per_class=1)


@pytest.fixture(scope="module")
def images(birds):
    return torch.from_numpy(birds.images).permute(0, 3, 1, 2) / 255


class Blobs(nn.Module):
    """A classifier that is right about `images`: nearness to each of them, smoothed a little."""

    def __init__(self, images):
        super().__init__()
        self.templates = images.flatten(1)

    def forward(self, images):
        return -torch.cdist(images.flatten(1), self.templates)


@pytest.fixture(scope="module")
def model(images):
    return Blobs(images)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# ------------------------------------------------------------------------------ common corruptions
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_repeats_and_harms_more_the_stronger_it_is(name, images):
    made = [robustness.corrupt(images, name, severity, seed=3) for severity in SEVERITIES]
    assert torch.equal(made[2], robustness.corrupt(images, name, 3, seed=3))
    for each in made:
        assert each.shape == images.shape
        assert each.dtype == torch.float32
        assert 0 <= each.min() <= each.max() <= 1
    harm = [(each - images).abs().mean().item() for each in made]
    assert harm == sorted(harm)
    assert harm[0] > 0.002


@pytest.mark.parametrize("name", ["Gaussian noise", "shot noise", "motion blur", "fog"])
def test_what_is_random_follows_the_seed(name, images):
    assert not torch.equal(*(robustness.corrupt(images, name, 3, seed) for seed in (0, 1)))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_images_of_another_size_and_a_single_one_are_corrupted_too(name):
    image = torch.rand(1, 3, 48, 80, generator=generator())
    assert robustness.corrupt(image, name, 5, seed=0).shape == image.shape


@pytest.mark.parametrize("name", ["defocus blur", "motion blur", "zoom blur", "pixelate"])
def test_a_blur_leaves_a_flat_image_as_it_is(name):
    flat = torch.full((2, 3, 64, 64), 0.4)
    tolerance = 1e-5 if "blur" in name else 1 / 255
    torch.testing.assert_close(robustness.corrupt(flat, name, 5, 0), flat, atol=tolerance, rtol=0)


def test_noise_has_the_moments_that_it_should():
    grey = torch.full((8, 3, 64, 64), 0.5)
    normal = robustness.gaussian_noise(grey, 2, generator()) - grey
    assert normal.mean().item() == pytest.approx(0, abs=1e-3)
    assert normal.std().item() == pytest.approx(0.08, rel=0.02)
    shots = robustness.shot_noise(grey, 3, generator())
    assert shots.mean().item() == pytest.approx(0.5, abs=2e-3)
    assert shots.var().item() == pytest.approx(0.5 / 50, rel=0.03)  # Poisson's, over the photons


def test_defocus_is_a_correlation_with_the_disk(images):
    kernel = robustness.disk(2.5, 0.01).numpy()
    assert kernel.sum() == pytest.approx(1)
    np.testing.assert_array_equal(kernel, kernel.T)
    expected = correlate(images[0, 0].numpy(), kernel, mode="mirror")
    found = robustness.defocus_blur(images, 4, generator())[0, 0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_motion_smears_along_a_line_up_to_45_degrees():
    dot = torch.zeros(16, 1, 65, 65)
    dot[:, :, 32, 32] = 1
    smeared = robustness.motion_blur(dot, 5, generator())[:, 0]
    y, x = torch.meshgrid(torch.arange(65.0) - 32, torch.arange(65.0) - 32, indexing="ij")
    across = (smeared * x).sum((1, 2)) / smeared.sum((1, 2))
    down = (smeared * y).sum((1, 2)) / smeared.sum((1, 2))
    assert (across > 1).all()
    assert (down.abs() <= across + 1e-3).all()
    assert down.min() < -0.3 < 0.3 < down.max()


def test_zooming_enlarges_about_the_centre():
    across = torch.linspace(-1, 1, 65).expand(1, 1, 65, 65)
    inner = robustness.zoom_blur(across, 5, generator())[0, 0, 32, 8:57]
    expected = across[0, 0, 0, 8:57] * np.mean([1, *(1 / (1 + np.arange(26) / 100))])
    torch.testing.assert_close(inner, expected.float(), atol=1e-5, rtol=0)


def test_fog_is_the_formula_of_the_original(images):
    clouds = robustness.draw_clouds(len(images), 64, 64, 2.5, generator())
    assert clouds.amin((1, 2, 3)).tolist() == [0] * len(images)
    assert clouds.amax((1, 2, 3)).tolist() == [1] * len(images)
    most = images.amax((1, 2, 3), keepdim=True)
    expected = (images + clouds) * most / (most + 1)
    torch.testing.assert_close(robustness.fog(images, 3, generator()), expected)


@pytest.mark.parametrize("decay", [1.75, 3.0])
def test_each_octave_of_the_clouds_is_weaker_by_the_decay(decay):
    clouds = robustness.draw_clouds(64, 64, 64, decay, generator()).double()
    power = torch.fft.fft2(clouds).abs() ** 2
    f = torch.fft.fftfreq(64, dtype=torch.double)
    frequency = (f[:, None] ** 2 + f**2).sqrt()
    octaves = [power[..., (frequency >= low) & (frequency < 2 * low)].sum((1, 2))
               for low in (1 / 16, 1 / 8)]  # fmt: skip
    assert (octaves[0] / octaves[1]).sqrt().median().item() == pytest.approx(decay, rel=0.1)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 255), min_size=3, max_size=3), st.sampled_from(SEVERITIES))
def test_brightness_raises_the_value_of_hsv(colour, severity):
    colour = np.array(colour, np.float32) / 255
    hsv = rgb_to_hsv(colour)
    hsv[2] = min(1, hsv[2] + (0.1, 0.2, 0.3, 0.4, 0.5)[severity - 1])
    found = robustness.brightness(torch.from_numpy(colour).view(1, 3, 1, 1), severity, generator())
    np.testing.assert_allclose(found.flatten(), hsv_to_rgb(hsv), atol=1e-5)


def test_contrast_keeps_the_mean_of_each_channel(images):
    flat = robustness.contrast(images, 4, generator())
    torch.testing.assert_close(flat.mean((2, 3)), images.mean((2, 3)))
    torch.testing.assert_close(flat.std((2, 3)), 0.1 * images.std((2, 3)))


def test_jpeg_is_pillows(images):
    buffer = io.BytesIO()
    pixels = (images[0] * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=50)
    expected = np.asarray(Image.open(buffer)) / 255
    found = robustness.jpeg(images, 3, generator())[0].permute(1, 2, 0).numpy()
    assert np.abs(found - expected).mean() < 1 / 255  # the libraries round differently


@pytest.mark.parametrize(
    ("name", "severity", "message"),
    [("snow", 1, "unknown corruption 'snow'"), ("fog", 0, "severity is 0"), ("fog", 6, "from 1")],
)
def test_what_cannot_be_done_is_said(name, severity, message, images):
    with pytest.raises(ValueError, match=message):
        robustness.corrupt(images, name, severity, seed=0)


# ------------------------------------------------------------------------------------------ attacks
@pytest.mark.parametrize("eps", [0.0, 2 / 255, EPS])
def test_an_attack_stays_within_its_bounds(eps, model, images):
    labels = torch.arange(len(images))
    for moved in (
        robustness.fgsm(model, images, labels, eps),
        robustness.pgd(model, images, labels, eps, generator=generator()),
    ):
        assert (moved - images).abs().max() <= eps + 1e-6
        assert 0 <= moved.min() <= moved.max() <= 1
        assert not moved.requires_grad


def test_pgd_repeats_and_starts_where_its_generator_says(model, images):
    labels = torch.arange(len(images))
    first, again, other = (
        robustness.pgd(model, images, labels, EPS, steps=1, generator=generator(seed))
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_attacks_succeed_and_pgd_is_no_weaker_than_fgsm(images):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 5, 4), nn.Tanh(), nn.Conv2d(16, 32, 5, 4), nn.Tanh(),
        nn.Flatten(), nn.Linear(288, 12),
    )  # fmt: skip
    labels = torch.arange(12)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(100):
        loss = nn.functional.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    losses = [
        nn.functional.cross_entropy(net(each), labels).item()
        for each in (
            images,
            robustness.fgsm(net, images, labels, EPS),
            robustness.pgd(net, images, labels, EPS, generator=generator()),
        )
    ]
    assert net(images).argmax(1).tolist() == labels.tolist()
    assert 2 * losses[0] < losses[1] <= losses[2]


def test_an_attack_leaves_the_gradients_of_the_model_alone(images):
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 12))
    with torch.no_grad():  # also where none are wanted
        robustness.fgsm(net, images, torch.arange(12), EPS)
    assert net[1].weight.grad is None


def test_fgsm_moves_every_pixel_of_a_linear_model_the_right_way():
    weight = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    linear = lambda x: x.flatten(1) @ weight.T  # noqa: E731
    moved = robustness.fgsm(linear, torch.full((1, 2, 1, 1), 0.5), torch.tensor([0]), 0.1)
    torch.testing.assert_close(moved.flatten(), torch.tensor([0.4, 0.6]))


def test_batches_do_not_change_an_attack(model, images):
    labels = torch.arange(12)
    whole = robustness.attack(lambda *x: robustness.fgsm(*x, EPS), model, images, labels)
    parts = robustness.attack(lambda *x: robustness.fgsm(*x, EPS), model, images, labels, 5)
    assert torch.equal(whole, parts)


def test_an_attack_without_a_step_is_an_error(model, images):
    with pytest.raises(ValueError, match="at least one"):
        robustness.pgd(model, images, torch.arange(12), EPS, steps=0)


# -------------------------------------------------------------------------------------- backgrounds
def test_objects_stay_and_the_rest_goes(birds, images):
    masks = torch.from_numpy(np.stack([birds[i]["mask"] for i in range(12)]))
    other = torch.rand(images.shape, generator=generator())
    pasted = robustness.paste(images, masks, other)
    inside = masks[:, None].expand_as(images)
    assert torch.equal(pasted[inside], images[inside])
    assert torch.equal(pasted[~inside], other[~inside])


def test_masks_have_to_fit(images):
    with pytest.raises(ValueError, match="these images need bool"):
        robustness.paste(images, torch.ones(12, 64, 64), images)
    with pytest.raises(ValueError, match=r"\(12, 64, 64\)"):
        robustness.paste(images, torch.ones(12, 32, 32, dtype=torch.bool), images)


def test_backgrounds_are_exchanged_for_what_they_are_called(birds, monkeypatch):
    asked = []
    real = robustness_study.bare_scenes
    monkeypatch.setattr(
        robustness_study, "bare_scenes", lambda c, *rest: asked.append(list(c)) or real(c, *rest)
    )
    shown = robustness_study.exchange_backgrounds(in_memory(birds), birds.facts, 0.6, seed=0)
    same, other = asked
    assert same == birds.facts["context"].tolist()
    assert all(a != b and b in CONTEXTS for a, b in zip(same, other, strict=True))
    masks = np.stack([birds[i]["mask"] for i in range(12)])[:, None].repeat(3, 1)
    masks = torch.from_numpy(masks)
    for condition in ("same context", "another context"):
        assert torch.equal(shown[(condition,)][masks], shown[("as it is",)][masks])
    assert torch.equal(shown[("no bird",)][~masks], shown[("same context",)][~masks])


def test_a_bare_scene_holds_no_bird_and_is_not_the_tests_own(birds):
    scenes = robustness_study.bare_scenes(birds.facts["context"].tolist(), 0.0, seed=0)
    seen = load_oracle().read(scenes)
    assert seen.context.tolist() == birds.facts["context"].tolist()
    assert not seen.wellformed.any()
    again = robustness_study.bare_scenes(birds.facts["context"].tolist(), 0.0, seed=0)
    np.testing.assert_array_equal(scenes, again)


# -------------------------------------------------------------------------------------- calibration
def an_answer(seed=0, count=400):
    logits = 3 * torch.randn(count, 5, generator=generator(seed))
    confidence, answer = logits.softmax(1).max(1)
    labels = torch.where(torch.rand(count, generator=generator(seed)) < 0.6, answer, 0)
    return logits, labels, confidence.numpy(), (answer == labels).numpy()


def test_the_error_is_that_of_all_classes():
    logits, labels, confidence, right = an_answer()
    expected = multiclass_calibration_error(logits.softmax(1), labels, 5, n_bins=15)
    assert robustness.calibration_error(confidence, right) == pytest.approx(expected.item())


@pytest.mark.parametrize("bins", [5, 15])
def test_the_diagram_adds_up_to_the_error(bins):
    _, _, confidence, right = an_answer(1)
    rows = robustness.reliability(confidence, right, bins)
    assert rows["count"].sum() == len(right)
    weighed = ((rows["confidence"] - rows["top1"]).abs() * rows["count"]).sum() / len(right)
    assert robustness.calibration_error(confidence, right, bins) == pytest.approx(weighed, abs=1e-6)


def test_certainty_is_calibrated_only_if_it_is_right():
    sure = np.ones(10, np.float32)
    assert robustness.calibration_error(sure, np.ones(10, bool)) == 0
    assert robustness.calibration_error(sure, np.zeros(10, bool)) == 1


def test_modest_and_bold_classifiers_are_told_apart():
    given = pd.DataFrame(
        {
            "method": ["a"] * 4 + ["b"] * 4,
            "seed": 0,
            "confidence": [0.5] * 4 + [0.9] * 4,
            "right": [True] * 3 + [False] + [True] + [False] * 3,
        }
    )
    found = robustness_study.calibration(given).set_index("method")
    assert found["confidence less accuracy"].tolist() == pytest.approx([-0.25, 0.65])
    assert found["ECE"].tolist() == pytest.approx([0.25, 0.65])
    assert robustness_study.reliability_bins(given)["count"].tolist() == [4, 4]


# ------------------------------------------------------------------------------------ the measuring
class Constant(nn.Module):
    """A classifier that always answers the same class."""

    def __init__(self, answer):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.answer = answer

    def forward(self, images):
        one = nn.functional.one_hot(torch.full((len(images),), self.answer), 12).float()
        return self.scale * one + 0 * images.mean((1, 2, 3))[:, None]


@pytest.fixture(scope="module")
def few(birds):
    return fetch(birds, some_of_each_class(birds.facts["label"].to_numpy(), 1))


@pytest.fixture
def classifiers():
    return {("vanilla", 0): Constant(0), ("vanilla", 1): Constant(1), ("added", 0): Constant(2)}


def test_every_classifier_meets_every_corruption(classifiers, few):
    found = robustness_study.under_corruption(classifiers, few, [1, 3], seed=0)
    assert len(found) == 3 * (1 + 2 * len(CORRUPTIONS))
    assert found["top1"].tolist() == pytest.approx([1 / 12] * len(found))
    assert list(found) == ["method", "seed", "corruption", "severity", "top1"]
    assert len(robustness_study.clean_and_corrupted(found)) == 3


def test_clean_images_are_not_among_the_corrupted():
    table = pd.DataFrame(
        {"method": "a", "seed": 0, "corruption": ["none", "fog", "JPEG"], "top1": [1.0, 0.4, 0.6]}
    )
    (row,) = robustness_study.clean_and_corrupted(table).to_dict("records")
    assert row["clean images"] == 1
    assert row["mean over corruptions"] == pytest.approx(0.5)


def test_every_classifier_is_attacked(classifiers, few):
    found = robustness_study.under_attack(classifiers, few, [EPS], steps=2, seed=0)
    assert found["attack"].tolist() == ["none", "FGSM", "PGD"] * 3
    assert found["eps"].tolist() == [0, EPS, EPS] * 3


def test_the_drop_is_what_the_context_costs_beyond_the_cut():
    table = pd.DataFrame(
        {
            "method": "a",
            "seed": 0,
            "condition": ["as it is", "same context", "another context", "no bird"],
            "top1": [0.9, 0.8, 0.5, 0.1],
        }
    )
    assert robustness_study.background_drop(table)["drop"].tolist() == pytest.approx([0.3])


def test_attacks_are_named_and_compared():
    table = pd.DataFrame(
        {"method": "a", "seed": 0, "attack": ["none", "FGSM", "PGD", "FGSM", "PGD"],
         "eps": [0, 2 / 255, 2 / 255, EPS, EPS], "top1": [0.9, 0.5, 0.4, 0.1, 0.2]}
    )  # fmt: skip
    assert robustness_study.name_attacks(table).tolist() == [
        "clean images", "FGSM, ε = 2/255", "PGD, ε = 2/255", "FGSM, ε = 8/255", "PGD, ε = 8/255",
    ]  # fmt: skip
    assert robustness_study.compare_attacks(table).tolist() == [True, False]


def test_severities_are_joined_without_clean_images_twice():
    one = pd.DataFrame(
        {"method": ["a", "a", "b"], "seed": 0, "corruption": ["none", "fog", "fog"],
         "severity": [0, 3, 3], "top1": 0.5}
    )  # fmt: skip
    others = one[:2].assign(severity=[0, 5])
    joined = robustness_study.all_severities(one, others, ["a"])
    assert joined["severity"].tolist() == [0, 3, 5]


def test_classifiers_are_loaded_as_they_were_saved_and_frozen(images, tmp_path):
    params = load_params("smoke")
    saved = build_classifier(params.training, 12, seed=1)
    save_classifier(saved, tmp_path / "a.safetensors")
    results = pd.DataFrame(
        {"method": ["vanilla", "added"], "seed": [0, 3], "weights": tmp_path / "a.safetensors"}
    )
    (found,) = robustness_study.load_classifiers(results, params, 12, ["added"]).items()
    assert found[0] == ("added", 3)
    assert len(robustness_study.load_classifiers(results, params, 12)) == 2
    assert torch.equal(predict(found[1], images), predict(saved, images))
    assert not any(weight.requires_grad for weight in found[1].parameters())


def test_galleries_show_the_same_images_in_every_row(images):
    variants = {("a",): images, ("b",): 1 - images}
    shown = robustness_study.background_gallery(variants, 3)
    assert spread(12, 3).tolist() == [0, 6, 11]
    assert spread(2, 5).tolist() == [0, 1]
    for row, negative in zip(shown["a"], shown["b"], strict=True):
        np.testing.assert_array_equal(row, 255 - negative)
    assert len(shown["a"]) == 3
    rows = robustness_study.corruption_gallery(shown["a"], 3, seed=0)
    assert [len(row) for row in rows] == [1 + len(CORRUPTIONS)] * 3
    np.testing.assert_array_equal(rows[0][0], shown["a"][0])


def test_the_gallery_of_an_attack_shows_what_it_changed(few):
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 12))
    stages = robustness_study.attack_gallery(net, few, EPS, steps=2, seed=0)
    assert list(stages) == ["image", "change, enlarged", "attacked"]
    change = stages["attacked"].astype(int) - stages["image"]
    np.testing.assert_array_equal(stages["image"], few.pixels)
    assert 0 < np.abs(change).max() <= 8
    assert (np.sign(change) * (stages["change, enlarged"].astype(int) - 128) >= -1).all()
