"""Every method: what it does to a batch and its labels."""

import pytest
import torch
from torch import Generator

from diffcore.methods import GENERATIVE, METHODS, make_method, method_settings
from diffcore.params import change_params, load_params

K = 12


@pytest.fixture(scope="module")
def params():
    return load_params("smoke", {"generation.height": 32, "generation.width": 32})


@pytest.fixture(scope="module")
def batch():
    generator = Generator().manual_seed(0)
    real, other = torch.rand(2, 64, 3, 32, 32, generator=generator)
    return real, other, torch.arange(64) % K


def run(name, batch, params, seed=1, **changes):
    settings = method_settings(name, change_params(params, changes) if changes else params)
    return make_method(name, settings, K)(*batch, Generator().manual_seed(seed))


def changed(images, before):
    return (images != before).flatten(1).any(1)


@pytest.mark.parametrize("name", METHODS)
def test_images_stay_images_and_targets_sum_to_one(name, batch, params):
    images, targets = run(name, batch, params)
    assert images.shape == batch[0].shape
    assert images.dtype == torch.float32
    assert images.min() >= 0
    assert images.max() <= 1
    assert targets.shape == (64, K)
    assert torch.allclose(targets.sum(1), torch.ones(64), atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_the_same_seed_gives_the_same_batch(name, batch, params):
    (first, one), (again, two) = (run(name, batch, params, seed=5) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(one, two)


@pytest.mark.parametrize("name", GENERATIVE)
def test_generated_images_leave_the_labels(name, batch, params):
    _, targets = run(name, batch, params)
    assert torch.equal(targets.argmax(1), batch[2])
    assert torch.equal(targets.amax(1), torch.ones(64))


def test_vanilla_changes_nothing(batch, params):
    images, _ = run("vanilla", batch, params)
    assert torch.equal(images, batch[0])


@pytest.mark.parametrize(
    "name", [name for name in METHODS if name not in {"vanilla", "diffcoremix"}]
)
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_share_of_the_images_is_changed(name, share, batch, params):
    changes = {f"training.methods.{name}.probability": share}
    if name == "mixed_added":  # with nothing mixed, what is left is adding
        changes["mixing.probability"] = 0.0
    images, targets = run(name, batch, params, **changes)
    moved = changed(images, batch[0])
    own = torch.nn.functional.one_hot(batch[2], K).float()
    assert torch.equal(targets[~moved], own[~moved])
    assert moved.sum() == 0 if share == 0 else 8 <= moved.sum() <= 48


def test_adding_puts_counterparts_in_place_of_images(batch, params):
    images, _ = run("added", batch, params, **{"training.methods.added.probability": 0.5})
    moved = changed(images, batch[0])
    assert torch.equal(images[moved], batch[1][moved])
    assert 16 < moved.sum() < 48


def test_both_mixes_what_it_does_not_replace(batch, params):
    images, _ = run("mixed_added", batch, params, **{"mixing.patch_share": 0.0})
    replaced = (images == batch[1]).flatten(1).all(1)
    assert 16 < replaced.sum() < 48
    between = torch.minimum(*batch[:2]) - 1e-6, torch.maximum(*batch[:2]) + 1e-6
    assert ((images >= between[0]) & (images <= between[1])).all()


def test_labels_are_mixed_only_where_images_are(batch, params):
    images, targets = run("cutmix", batch, params, **{"training.methods.cutmix.probability": 0.5})
    untouched = ~changed(images, batch[0])
    assert torch.equal(targets[untouched].argmax(1), batch[2][untouched])
    assert untouched.sum() > 8


def test_settings_name_all_that_a_method_depends_on(params):
    changes = {"mixing.alpha": 0.3, "mixing.probability": 0.7, "training.methods.mixup.alpha": 0.4}
    altered = change_params(params, changes)
    assert method_settings("diffcoremix", altered)["alpha"] == 0.3
    assert method_settings("diffcoremix", altered)["mixed_share"] == 0.7
    assert method_settings("mixup", altered)["alpha"] == 0.4
    assert method_settings("vanilla", altered) == {}
    assert method_settings("cutmix", altered) == method_settings("cutmix", params)


def test_an_unknown_method_is_an_error_that_names_the_known(params):
    with pytest.raises(ValueError, match="no method 'mixupp'; there are vanilla, mixup"):
        method_settings("mixupp", params)
