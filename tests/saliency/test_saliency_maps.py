"""Maps against Grad-CAM written by hand, measures by cases that can be counted, and the limits."""

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from torch import nn
from torch.nn.functional import interpolate

from diffcore.measure import saliency_maps as maps

TARGETS = torch.tensor([2, 0, 3])


def images(count=3, size=64, seed=0):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.ReLU(inplace=True), nn.Conv2d(5, 6, 3)
    head = nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    return nn.Sequential(*layers, *head).eval()


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return timm.create_model("resnet10t", pretrained=False, num_classes=4).eval()


# --------------------------------------------------------------------------------------- Grad-CAM
def grad_cam_by_hand(model, layer, batch, targets):
    """Grad-CAM by its equations 1 and 2, one image at a time, with hooks."""
    kept, cams = {}, []
    handle = layer.register_forward_hook(lambda _, __, out: kept.update(maps=out))
    for image, target in zip(batch, targets, strict=True):
        score = model(image[None])[0, target]
        (gradient,) = torch.autograd.grad(score, kept["maps"])
        weights = gradient[0].mean(dim=(1, 2))
        cam = (weights[:, None, None] * kept["maps"][0]).sum(dim=0).clamp(min=0)
        cam = interpolate(cam[None, None], batch.shape[2:], mode="bilinear")[0, 0]
        cams.append(cam / cam.max() if cam.max() > 0 else cam)
    handle.remove()
    return torch.stack(cams).detach()


def test_grad_cam_is_what_its_equations_say(tiny, resnet):
    found = maps.grad_cam(tiny, images(), TARGETS, layer=tiny[2])
    torch.testing.assert_close(found, grad_cam_by_hand(tiny, tiny[2], images(), TARGETS))
    assert found.amax() == 1
    found = maps.grad_cam(resnet, images(), TARGETS)
    torch.testing.assert_close(found, grad_cam_by_hand(resnet, resnet.layer2, images(), TARGETS))


def test_grad_cam_sits_on_what_a_class_is_made_of():
    # The score of class c is the mean of channel c, so that the map is that channel itself.
    model = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    nn.init.dirac_(model[0].weight)
    batch = torch.zeros(2, 3, 8, 8)
    batch[0, 0, 2, 5], batch[1, 1, 6, 1] = 0.5, 0.25
    cam = maps.grad_cam(model.eval(), batch, torch.tensor([0, 1]), layer=model[0])
    assert cam.nonzero().tolist() == [[0, 2, 5], [1, 6, 1]]
    other = maps.grad_cam(model, batch, torch.tensor([2, 2]), layer=model[0])
    assert other.count_nonzero() == 0  # nothing speaks for a class whose channel is empty


def test_maps_do_not_depend_on_the_batch_nor_on_frozen_weights(resnet, monkeypatch):
    whole = maps.grad_cam(resnet, images(5), torch.arange(5) % 4)
    monkeypatch.setattr(maps, "_BATCH", 2)
    resnet.requires_grad_(False)
    with torch.no_grad():
        parts = maps.grad_cam(resnet, images(5), torch.arange(5) % 4)
    resnet.requires_grad_(True)
    torch.testing.assert_close(parts, whole)
    assert all(p.grad is None for p in resnet.parameters())


@pytest.mark.parametrize(
    ("name", "size", "layer", "side"),
    [
        ("resnet10t", 64, "layer2", 8), ("resnet10t", 224, "layer4", 7),
        ("mobilenetv3_small_050", 64, "blocks.1", 8), ("convnext_atto", 96, "stages.1", 12),
    ],
)  # fmt: skip
def test_the_deepest_stage_with_enough_cells_is_found(name, size, layer, side):
    model = timm.create_model(name, pretrained=False, num_classes=2).eval()
    wrapped = nn.Sequential(nn.Identity(), model).eval()
    assert maps.find_layer(wrapped, images(1, size)) is model.get_submodule(layer)
    assert maps.stage_shapes(wrapped, images(1, size))[layer][2:] == (side, side)


def test_fewer_cells_come_from_a_deeper_stage_also_where_strides_leave_a_rest(resnet):
    assert maps.find_layer(resnet, images(1), min_cells=4) is resnet.layer3
    uneven = torch.rand(1, 3, 60, 94)
    assert maps.grad_cam(resnet, uneven, torch.tensor([1])).shape == (1, 60, 94)


def test_a_transformer_is_refused_with_a_remedy():
    model = timm.create_model("swin_tiny_patch4_window7_224", pretrained=False, num_classes=2)
    made = r"layers\.0 \(1, 56, 56, 96\)"  # channels last
    with pytest.raises(ValueError, match=rf"no stage makes .*{made}.*integrated_gradients"):
        maps.grad_cam(model.eval(), images(1, 224), torch.tensor([1]))


def test_errors_say_what_to_do(tiny):
    with pytest.raises(ValueError, match="holds no timm model with stages; pass layer="):
        maps.grad_cam(tiny, images(), TARGETS)
    with pytest.raises(ValueError, match="is no map"):
        maps.grad_cam(tiny, images(), TARGETS, layer=tiny[5])
    with pytest.raises(ValueError, match="3 images and 2 targets"):
        maps.grad_cam(tiny, images(), TARGETS[:2], layer=tiny[2])
    with pytest.raises(ValueError, match=r"call model\.eval"):
        maps.integrated_gradients(tiny.train(), images(), TARGETS)


# --------------------------------------------------------------------------- integrated gradients
def test_integrated_gradients_of_a_linear_model_are_its_terms():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 2)).eval()
    batch = images(2, 4)
    found = maps.integrated_gradients(model, batch, torch.tensor([0, 1]), baselines=[0.25])
    weights = model[1].weight.detach().view(2, 3, 4, 4)
    expected = ((batch - 0.25) * weights).abs().sum(dim=1)
    torch.testing.assert_close(found, expected / expected.amax(dim=(1, 2), keepdim=True))


def test_two_baselines_see_black_and_white_alike():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 2 * 2, 1)).eval()
    nn.init.ones_(model[1].weight)
    batch = torch.tensor([0.0, 1.0, 0.0, 1.0]).view(1, 1, 2, 2).expand(1, 3, 2, 2)
    both = maps.integrated_gradients(model, batch, torch.tensor([0]))
    assert both.flatten().tolist() == pytest.approx([1, 1, 1, 1])
    black = maps.integrated_gradients(model, batch, torch.tensor([0]), baselines=[0.0])
    assert black.flatten().tolist() == pytest.approx([0, 1, 0, 1])


# --------------------------------------------------------------------------------------- measures
MASK = torch.tensor([[[True, True], [False, False]]])
SHAPE = (3, 5, 4)


@pytest.mark.parametrize(
    ("cam", "energy", "hit"),
    [
        ([[1.0, 0.0], [0.0, 0.0]], 1.0, 1.0), ([[0.0, 0.0], [0.0, 0.3]], 0.0, 0.0),
        ([[0.2, 0.4], [0.3, 0.1]], 0.6, 1.0), ([[0.2, 0.2], [0.5, 0.1]], 0.4, 0.0),
        ([[1.0, 0.0], [0.0, 1.0]], 0.5, 0.5), ([[0.0, 0.0], [0.0, 0.0]], 0.5, 0.5),
    ],
)  # fmt: skip
def test_measures_of_maps_that_can_be_counted(cam, energy, hit):
    cam = torch.tensor([cam])
    assert maps.energy_in_mask(cam.numpy(), MASK.numpy()).item() == pytest.approx(energy)
    assert maps.pointing_game(cam, MASK).item() == hit


@given(st.integers(0, 10**6), st.floats(0.1, 0.9), st.floats(0.01, 100))
def test_measures_are_shares_and_a_uniform_map_is_at_chance(seed, density, scale):
    rng = np.random.default_rng(seed)
    mask, cam = torch.from_numpy(rng.random(SHAPE) < density), torch.from_numpy(rng.random(SHAPE))
    mask[:, 2, 2], mask[:, 0, 0] = True, False
    energy, hit = maps.energy_in_mask(cam, mask), maps.pointing_game(cam, mask)
    torch.testing.assert_close(energy, maps.energy_in_mask(cam * scale, mask))
    torch.testing.assert_close(energy + maps.energy_in_mask(cam, ~mask), torch.ones(3).double())
    torch.testing.assert_close(hit + maps.pointing_game(cam, ~mask), torch.ones(3).double())
    for measure in (maps.energy_in_mask, maps.pointing_game):
        chance = mask.double().mean(dim=(1, 2))
        torch.testing.assert_close(measure(torch.full(SHAPE, 0.7), mask), chance)
        assert measure(mask.float(), mask).tolist() == [1, 1, 1]


def test_measures_refuse_what_has_no_answer():
    with pytest.raises(ValueError, match=r"\(1, 2, 2\) and \(1, 2, 3\); both must be"):
        maps.energy_in_mask(torch.ones(1, 2, 2), torch.ones(1, 2, 3))
    with pytest.raises(ValueError, match="a saliency is negative"):
        maps.energy_in_mask(-torch.ones(1, 2, 2), MASK)
    with pytest.raises(ValueError, match="a mask is empty"):
        maps.pointing_game(torch.ones(1, 2, 2), ~torch.ones_like(MASK))


def test_rank_correlation_is_spearmans():
    first, second = images(3, 6)[:, 0].round(decimals=1), images(3, 6, seed=1)[:, 1]
    pairs = zip(first.flatten(1), second.flatten(1), strict=True)
    expected = [spearmanr(a, b).statistic for a, b in pairs]
    assert maps.rank_correlation(first, second) == pytest.approx(expected)
    assert maps.rank_correlation(first, torch.ones(3, 6, 6)).tolist() == [0, 0, 0]


# ----------------------------------------------------------------------------- randomised weights
def changed(model, other):
    """Top-level parts that differ between two models of one make."""
    pairs = zip(model.state_dict().items(), other.state_dict().values(), strict=True)
    return {name.split(".")[0] for (name, a), b in pairs if not torch.equal(a, b)}


def test_the_cascade_shuffles_from_the_output_down_and_leaves_the_model(resnet):
    before = {name: value.clone() for name, value in resnet.state_dict().items()}
    wrapped = nn.ModuleDict({"norm": nn.Identity(), "net": resnet}).eval()
    steps = [(name, step["net"]) for name, step in maps.randomised_cascade(wrapped, seed=0)]
    names = [name for name, _ in steps]
    assert names == ["fc", "layer4", "layer3", "layer2", "layer1", "bn1", "conv1"]
    for place, (_, shuffled) in enumerate(steps):
        # A fresh normalisation is ones and zeros, which no shuffle can tell.
        assert changed(resnet, shuffled) == set(names[: place + 1]) - {"bn1"}
        assert not shuffled.training
    assert all(torch.equal(before[name], value) for name, value in resnet.state_dict().items())


@settings(max_examples=10)
@given(st.integers(0, 1000))
def test_a_shuffle_keeps_the_values_and_repeats(seed):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2)).eval()
    (*_, (_, first)), (*_, (_, again)) = (maps.randomised_cascade(model, seed) for _ in range(2))
    for name, value in model.state_dict().items():
        shuffled = first.state_dict()[name]
        assert torch.equal(shuffled.flatten().sort()[0], value.flatten().sort()[0])
        assert torch.equal(shuffled, again.state_dict()[name])
