"""Classifiers: normalised by themselves, the same from one seed, saved and loaded whole."""

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from diffcore.params import load_params
from diffcore.training.networks import build_classifier, load_classifier, predict, save_classifier

K = 3


@pytest.fixture(scope="module")
def settings():
    return load_params("smoke").training


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3)).astype(np.uint8)


def weights(classifier):
    return torch.cat([p.detach().flatten() for p in classifier.parameters()])


def test_a_classifier_normalises_by_itself(settings):
    classifier = build_classifier(settings, K).eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(classifier(images), classifier.net((images - 0.5) / 0.25))


def test_weights_follow_from_the_seed_and_leave_the_global_generator(settings):
    before = torch.get_rng_state()
    first, same, other = (build_classifier(settings, K, seed) for seed in (1, 1, 2))
    assert torch.equal(weights(first), weights(same))
    assert not torch.equal(weights(first), weights(other))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_unknown_model_is_named_with_its_nearest(settings):
    with pytest.raises(ValueError, match=r"training.model: timm has no model 'resnet51'; near it"):
        build_classifier(settings.model_copy(update={"model": "resnet51"}), K)


def test_saved_weights_come_back(settings, pixels, tmp_path):
    classifier = build_classifier(settings, K, seed=3)
    save_classifier(classifier, tmp_path / "it.safetensors")
    assert all(name.startswith("net.") for name in load_file(tmp_path / "it.safetensors"))
    back = load_classifier(tmp_path / "it.safetensors", settings, K)
    assert torch.equal(predict(back, pixels), predict(classifier, pixels))
    assert (back.training, classifier.training) == (False, True)  # predict left it as it was
    assert [path.name for path in tmp_path.iterdir()] == ["it.safetensors"]


@pytest.mark.parametrize("size", [1, 3, 100])
def test_predictions_are_the_models_in_any_batches(settings, pixels, size):
    classifier = build_classifier(settings, K).eval()
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        expected = classifier(images)
    assert torch.allclose(predict(classifier, images, size), expected, atol=1e-5)
    assert torch.allclose(predict(classifier, pixels, size), expected, atol=1e-5)


# ----------------------------------------------------------------------- a start from other weights
def start_from(settings, name, path):
    torch.manual_seed(1)
    net = timm.create_model(name, num_classes=9)
    save_file(net.state_dict(), path)
    changes = {"model": name, "model_args": {}, "weights": str(path)}
    return settings.model_copy(update=changes), net


@pytest.mark.parametrize("classes", [K, 9])
def test_a_start_from_weights_has_a_last_layer_of_the_seed(settings, tmp_path, classes):
    settings, net = start_from(settings, "test_resnet", tmp_path / "start.safetensors")
    before = torch.get_rng_state()
    first, same, other = (build_classifier(settings, classes, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(weights(first), weights(same))
    expected, found = net.state_dict(), first.net.state_dict()
    body = [name for name in expected if not name.startswith("fc.")]
    assert all(torch.equal(found[name], expected[name]) for name in body)
    assert found["fc.weight"].shape[0] == classes
    assert not torch.equal(first.net.fc.weight, other.net.fc.weight)


def test_trained_weights_see_images_as_they_were_trained_to(settings, tmp_path):
    settings, net = start_from(settings, "mobilenetv3_small_050", tmp_path / "it.safetensors")
    classifier = build_classifier(settings, K).eval()
    mean, std = (torch.tensor(net.pretrained_cfg[key]) for key in ("mean", "std"))
    assert len(set(mean.tolist())) == 3
    images = torch.rand(2, 3, 32, 32)
    normalised = (images - mean[:, None, None]) / std[:, None, None]
    with torch.inference_mode():
        assert torch.allclose(classifier(images), classifier.net(normalised))


def test_a_trained_classifier_needs_its_start_no_more(settings, pixels, tmp_path):
    settings, _ = start_from(settings, "test_resnet", tmp_path / "start.safetensors")
    classifier = build_classifier(settings, K, seed=3)
    save_classifier(classifier, tmp_path / "it.safetensors")
    (tmp_path / "start.safetensors").unlink()
    back = load_classifier(tmp_path / "it.safetensors", settings, K)
    assert torch.equal(predict(back, pixels), predict(classifier, pixels))
    with pytest.raises(FileNotFoundError, match=r"start\.safetensors does not exist"):
        build_classifier(settings, K)


# --------------------------------------------------------------------- the network for small images
def test_the_first_stage_of_the_small_network_sees_every_pixel():
    torch.manual_seed(3)
    net = timm.create_model("resnetv2_18_small", num_classes=7).eval()
    sides = []
    for stage in net.stages:
        stage.register_forward_hook(lambda _, __, maps: sides.append(maps.shape[-1]))
    with torch.no_grad():
        assert net(torch.rand(2, 3, 32, 32)).shape == (2, 7)
    assert sides == [32, 16, 8, 4]
    # He's variance 2 / (9 * 64): a stem that was left as it came would be another.
    assert net.stem.conv.weight.std().item() == pytest.approx((2 / 576) ** 0.5, rel=0.1)
