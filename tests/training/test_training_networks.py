"""Classifiers: normalised by themselves, the same from one seed, saved and loaded whole."""

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from diffcore.params import load_params
from diffcore.training.networks import build_classifier, load_classifier, predict, save_classifier

K, SETTINGS = 3, load_params("smoke").training
PIXELS = np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3)).astype(np.uint8)
IMAGES = torch.from_numpy(PIXELS).permute(0, 3, 1, 2) / 255


def start_from(name, path):
    """Settings of a training that starts from weights for nine classes, and their network."""
    torch.manual_seed(1)
    net = timm.create_model(name, num_classes=9)
    save_file(net.state_dict(), path)
    changes = {"model": name, "model_args": {}, "weights": str(path)}
    return SETTINGS.model_copy(update=changes), net


def test_an_unknown_model_is_named_with_its_nearest():
    with pytest.raises(ValueError, match=r"training.model: timm has no model 'resnet51'; near it"):
        build_classifier(SETTINGS.model_copy(update={"model": "resnet51"}), K)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_predictions_are_the_models_of_normalised_images_in_any_batches(size):
    classifier = build_classifier(SETTINGS, K).eval()
    with torch.inference_mode():
        expected = classifier.net((IMAGES - 0.5) / 0.25)
    assert torch.allclose(predict(classifier, IMAGES, size), expected, atol=1e-5)
    assert torch.allclose(predict(classifier, PIXELS, size), expected, atol=1e-5)


@pytest.mark.parametrize(("starts", "classes"), [(False, K), (True, K), (True, 9)])
def test_what_is_random_follows_from_the_seed_alone(starts, classes, tmp_path):
    settings, net = start_from("test_resnet", tmp_path / "start.safetensors")
    before = torch.get_rng_state()
    start = settings if starts else SETTINGS
    builds = [build_classifier(start, classes, seed).net.state_dict() for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    first, same, other = builds
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["fc.weight"], other["fc.weight"])
    if starts:
        body = [name for name in first if not name.startswith("fc.")]
        assert all(torch.equal(first[name], net.state_dict()[name]) for name in body)
        assert first["fc.weight"].shape[0] == classes


def test_weights_to_start_from_get_images_normalised_as_they_were_trained_on(tmp_path):
    settings, net = start_from("mobilenetv3_small_050", tmp_path / "it.safetensors")
    classifier = build_classifier(settings, K).eval()
    mean, std = (torch.tensor(net.pretrained_cfg[key]) for key in ("mean", "std"))
    assert len(set(mean.tolist())) == 3
    normalised = (IMAGES - mean[:, None, None]) / std[:, None, None]
    with torch.inference_mode():
        assert torch.allclose(classifier(IMAGES), classifier.net(normalised))


@pytest.mark.parametrize("starts", [False, True])
def test_saved_weights_come_back_and_need_no_start(starts, tmp_path):
    begin, file = tmp_path / "start.safetensors", tmp_path / "it.safetensors"
    settings = start_from("test_resnet", begin)[0] if starts else SETTINGS
    classifier = build_classifier(settings, K, seed=3)
    begin.unlink(missing_ok=True)
    save_classifier(classifier, file)
    assert all(name.startswith("net.") for name in load_file(file))
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    back = load_classifier(file, settings, K)
    assert torch.equal(predict(back, PIXELS), predict(classifier, PIXELS))
    assert (back.training, classifier.training) == (False, True)  # predict left it as it was
    if starts:
        with pytest.raises(FileNotFoundError, match=r"start\.safetensors does not exist"):
            build_classifier(settings, K)


def test_the_first_stage_of_the_small_network_sees_every_pixel():
    torch.manual_seed(3)
    net, sides = timm.create_model("resnetv2_18_small", num_classes=7).eval(), []
    for stage in net.stages:
        stage.register_forward_hook(lambda _, __, maps: sides.append(maps.shape[-1]))
    with torch.no_grad():
        assert net(IMAGES[:2]).shape == (2, 7)
    assert sides == [32, 16, 8, 4]
    # He's variance 2 / (9 * 64): a stem that was left as it came would be another.
    assert net.stem.conv.weight.std().item() == pytest.approx((2 / 576) ** 0.5, rel=0.1)
