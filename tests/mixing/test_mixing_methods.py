"""Every method: what it does to a batch and its labels, and that it still does the very same."""

import pytest
import torch
from torch import Generator

from diffcore.methods.registry import GENERATIVE, METHODS, make_method, method_settings
from diffcore.params import change_params, load_params

K = 12


@pytest.fixture(scope="module")
def params():
    return load_params("smoke", {"generation.height": 32, "generation.width": 32})


@pytest.fixture(scope="module")
def batch():
    real, other = torch.rand(2, 64, 3, 32, 32, generator=Generator().manual_seed(0))
    return real, other, torch.arange(64) % K


def run(name, batch, params, seed=1, **changes):
    settings = method_settings(name, change_params(params, changes) if changes else params)
    return make_method(name, settings, K)(*batch, Generator().manual_seed(seed))


def noise_like(images):
    return torch.randn(images.shape, generator=Generator().manual_seed(7))


def changed(images, before):
    return (images != before).flatten(1).any(1)


@pytest.mark.parametrize("name", METHODS)
def test_images_stay_images_and_targets_sum_to_one(name, batch, params):
    images, targets = run(name, batch, params)
    assert images.shape == batch[0].shape
    assert images.dtype == torch.float32
    assert 0 <= images.min() <= images.max() <= 1
    assert targets.shape == (64, K)
    torch.testing.assert_close(targets.sum(1), torch.ones(64))
    if name in GENERATIVE:
        assert torch.equal(targets.argmax(1), batch[2])
        assert torch.equal(targets.amax(1), torch.ones(64))


GOLDEN = {  # images and targets, each times noise
    "vanilla": (226.727, 2.441),
    "mixup": (180.826, 1.101),
    "cutmix": (150.337, 1.699),
    "saliencymix": (268.979, 1.934),
    "randaugment": (30.401, 2.441),
    "trivialaugment": (112.787, 2.441),
    "augmix": (243.965, 2.441),
    "diffusemix": (31.659, 2.441),
    "added": (26.537, 2.441),
    "diffcoremix": (87.322, 2.441),
    "mixed_added": (90.423, 2.441),
}


@pytest.mark.parametrize("name", METHODS)
def test_draws_stay_those_of_earlier_studies(name, batch, params):
    changes = {"mixing.probability": 0.8, "mixing.alpha": 0.7}
    if name not in {"vanilla", "diffcoremix"}:
        changes[f"training.methods.{name}.probability"] = 0.7
    images, targets = run(name, batch, params, **changes)
    found = (images * noise_like(images)).sum().item(), (targets * noise_like(targets)).sum().item()
    assert found == pytest.approx(GOLDEN[name], abs=1e-2)


@pytest.mark.parametrize(
    "name", [name for name in METHODS if name not in {"vanilla", "diffcoremix"}]
)
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_share_of_the_images_is_changed_and_the_other_labels_stay(name, share, batch, params):
    changes = {f"training.methods.{name}.probability": share}
    if name == "mixed_added":  # with nothing mixed, what is left is adding
        changes["mixing.probability"] = 0.0
    images, targets = run(name, batch, params, **changes)
    moved = changed(images, batch[0])
    own = torch.nn.functional.one_hot(batch[2], K).float()
    assert torch.equal(targets[~moved], own[~moved])
    assert moved.sum() == 0 if share == 0 else 8 <= moved.sum() <= 48


def test_both_mixes_what_it_does_not_replace(batch, params):
    images, _ = run("mixed_added", batch, params, **{"mixing.patch_share": 0.0})
    replaced = (images == batch[1]).flatten(1).all(1)
    assert 16 < replaced.sum() < 48
    low, high = torch.minimum(*batch[:2]) - 1e-6, torch.maximum(*batch[:2]) + 1e-6
    assert ((images >= low) & (images <= high)).all()


def test_an_unknown_method_is_an_error_that_names_the_known(params):
    with pytest.raises(ValueError, match="no method 'mixupp'; there are vanilla, mixup"):
        method_settings("mixupp", params)
