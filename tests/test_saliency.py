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
from torchvision.ops import masks_to_boxes

from diffcore import saliency


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


TARGETS = torch.tensor([2, 0, 3])


# --------------------------------------------------------------------------------------- Grad-CAM
def grad_cam_by_hand(model, layer, batch, targets):
    """Grad-CAM by its equations 1 and 2, one image at a time, with hooks."""
    kept = {}
    handle = layer.register_forward_hook(lambda _, __, out: kept.update(maps=out))
    cams = []
    for image, target in zip(batch, targets, strict=True):
        score = model(image[None])[0, target]
        (gradient,) = torch.autograd.grad(score, kept["maps"])
        weights = gradient[0].mean(dim=(1, 2))
        cam = (weights[:, None, None] * kept["maps"][0]).sum(dim=0).clamp(min=0)
        cam = interpolate(cam[None, None], batch.shape[2:], mode="bilinear")[0, 0]
        cams.append(cam / cam.max() if cam.max() > 0 else cam)
    handle.remove()
    return torch.stack(cams).detach()


def test_grad_cam_is_what_its_equations_say(tiny):
    found = saliency.grad_cam(tiny, images(), TARGETS, layer=tiny[2])
    expected = grad_cam_by_hand(tiny, tiny[2], images(), TARGETS)
    assert expected.amax() == 1
    torch.testing.assert_close(found, expected)


def test_grad_cam_is_what_its_equations_say_for_a_timm_model(resnet):
    found = saliency.grad_cam(resnet, images(), TARGETS)
    torch.testing.assert_close(found, grad_cam_by_hand(resnet, resnet.layer2, images(), TARGETS))


def test_grad_cam_sits_on_what_a_class_is_made_of():
    # The score of class c is the mean of channel c, so that the map is that channel itself.
    model = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    nn.init.dirac_(model[0].weight)
    batch = torch.zeros(2, 3, 8, 8)
    batch[0, 0, 2, 5], batch[1, 1, 6, 1] = 0.5, 0.25
    cam = saliency.grad_cam(model.eval(), batch, torch.tensor([0, 1]), layer=model[0])
    assert cam.nonzero().tolist() == [[0, 2, 5], [1, 6, 1]]
    assert cam.max() == 1
    other = saliency.grad_cam(model, batch, torch.tensor([2, 2]), layer=model[0])
    assert other.count_nonzero() == 0  # nothing speaks for a class whose channel is empty


def test_maps_do_not_depend_on_the_batch_nor_on_frozen_weights(resnet, monkeypatch):
    whole = saliency.grad_cam(resnet, images(5), torch.arange(5) % 4)
    monkeypatch.setattr(saliency, "_BATCH", 2)
    frozen = timm.create_model("resnet10t", pretrained=False, num_classes=4).eval()
    frozen.load_state_dict(resnet.state_dict())
    frozen.requires_grad_(False)
    with torch.no_grad():
        parts = saliency.grad_cam(frozen, images(5), torch.arange(5) % 4)
    torch.testing.assert_close(parts, whole)
    assert whole.shape == (5, 64, 64)
    assert all(p.grad is None for p in resnet.parameters())


# ---------------------------------------------------------------------------------------- layers
@pytest.mark.parametrize(
    ("name", "size", "layer", "side"),
    [
        ("resnet10t", 64, "layer2", 8), ("resnet10t", 224, "layer4", 7),
        ("mobilenetv3_small_050", 64, "blocks.1", 8), ("resnet50", 64, "layer2", 8),
        ("resnet50", 224, "layer4", 7), ("convnext_atto", 96, "stages.1", 12),
    ],
)  # fmt: skip
def test_the_deepest_stage_with_enough_cells_is_found(name, size, layer, side):
    model = timm.create_model(name, pretrained=False, num_classes=2).eval()
    wrapped = nn.Sequential(nn.Identity(), model)
    found = saliency.find_layer(wrapped.eval(), images(1, size))
    assert found is model.get_submodule(layer)
    kept = []
    found.register_forward_hook(lambda _, __, out: kept.append(out.shape[2:]))
    model(images(1, size))
    assert kept == [(side, side)]


def test_fewer_cells_come_from_a_deeper_stage_also_where_strides_leave_a_rest(resnet):
    assert saliency.find_layer(resnet, images(1), min_cells=4) is resnet.layer3
    uneven = torch.rand(1, 3, 60, 94)
    assert saliency.find_layer(resnet, uneven) is resnet.layer2
    assert saliency.grad_cam(resnet, uneven, torch.tensor([1])).shape == (1, 60, 94)


@pytest.mark.parametrize(
    ("name", "made"),
    [("vit_tiny_patch16_224", r"blocks\.11 \(1, 197, 192\)"),
     ("swin_tiny_patch4_window7_224", r"layers\.0 \(1, 56, 56, 96\)")],
)  # fmt: skip
def test_a_transformer_is_refused_with_a_remedy(name, made):
    model = timm.create_model(name, pretrained=False, num_classes=2)
    with pytest.raises(ValueError, match=rf"no stage makes a map .*{made}.*integrated_gradients"):
        saliency.grad_cam(model.eval(), images(1, 224), torch.tensor([1]))


def test_errors_say_what_to_do(tiny, resnet):
    with pytest.raises(ValueError, match="holds no timm model with stages; pass layer="):
        saliency.grad_cam(tiny, images(), TARGETS)
    with pytest.raises(ValueError, match=r"at least 7x7 from images 12x12 .*pass layer="):
        saliency.find_layer(resnet, images(1, 12))
    with pytest.raises(ValueError, match="output is no map"):
        saliency.grad_cam(tiny, images(), TARGETS, layer=tiny[5])
    with pytest.raises(ValueError, match=r"call model\.eval"):
        saliency.grad_cam(tiny.train(), images(), TARGETS, layer=tiny[2])
    with pytest.raises(ValueError, match=r"call model\.eval"):
        saliency.integrated_gradients(tiny, images(), TARGETS)
    with pytest.raises(ValueError, match="3 images and 2 targets"):
        saliency.grad_cam(tiny.eval(), images(), TARGETS[:2], layer=tiny[2])


# --------------------------------------------------------------------------- integrated gradients
@pytest.mark.parametrize("baseline", [0.0, 0.5])
def test_integrated_gradients_are_complete(tiny, baseline):
    found = saliency.path_gradients(tiny, images(), TARGETS, baseline, steps=64)
    with torch.no_grad():
        score = tiny(images()).gather(1, TARGETS[:, None])[:, 0]
        before = tiny(torch.full_like(images(), baseline)).gather(1, TARGETS[:, None])[:, 0]
    torch.testing.assert_close(found.sum(dim=(1, 2, 3)), score - before, atol=1e-4, rtol=1e-3)


def test_integrated_gradients_of_a_linear_model_are_its_terms():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 2)).eval()
    batch = images(2, 4)
    found = saliency.integrated_gradients(model, batch, torch.tensor([0, 1]), baselines=[0.25])
    weights = model[1].weight.detach().view(2, 3, 4, 4)
    expected = ((batch - 0.25) * weights).abs().sum(dim=1)
    torch.testing.assert_close(found, expected / expected.amax(dim=(1, 2), keepdim=True))


def test_two_baselines_see_black_and_white_alike():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 2 * 2, 1)).eval()
    nn.init.ones_(model[1].weight)
    batch = torch.tensor([0.0, 1.0, 0.0, 1.0]).view(1, 1, 2, 2).expand(1, 3, 2, 2)
    zero = torch.zeros(1, dtype=torch.int64)
    both = saliency.integrated_gradients(model, batch, zero)
    assert both.flatten().tolist() == pytest.approx([1, 1, 1, 1])
    black = saliency.integrated_gradients(model, batch, zero, baselines=[0.0])
    assert black.flatten().tolist() == pytest.approx([0, 1, 0, 1])


# --------------------------------------------------------------------------------------- measures
MASK = torch.tensor([[[True, True], [False, False]]])


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
    assert saliency.energy_in_mask(cam, MASK).item() == pytest.approx(energy)
    assert saliency.pointing_game(cam, MASK).item() == hit
    assert saliency.energy_in_mask(cam.numpy(), MASK.numpy()).item() == pytest.approx(energy)


SHAPE = (3, 5, 4)


def grids(seed, density):
    rng = np.random.default_rng(seed)
    mask = rng.random(SHAPE) < density
    mask[:, 2, 2], mask[:, 0, 0] = True, False
    return torch.from_numpy(rng.random(SHAPE)), torch.from_numpy(mask)


@given(st.integers(0, 10**6), st.floats(0.1, 0.9), st.floats(0.01, 100))
def test_measures_are_shares_and_mind_neither_scale_nor_side(seed, density, scale):
    cam, mask = grids(seed, density)
    energy, hit = saliency.energy_in_mask(cam, mask), saliency.pointing_game(cam, mask)
    assert torch.all((energy >= 0) & (energy <= 1))
    torch.testing.assert_close(energy, saliency.energy_in_mask(cam * scale, mask))
    torch.testing.assert_close(energy, saliency.energy_in_mask(cam.flip(2), mask.flip(2)))
    torch.testing.assert_close(energy + saliency.energy_in_mask(cam, ~mask), torch.ones(3).double())
    torch.testing.assert_close(hit + saliency.pointing_game(cam, ~mask), torch.ones(3).double())


@given(st.integers(0, 10**6), st.floats(0.1, 0.9))
def test_a_uniform_map_is_at_chance_and_the_mask_itself_at_one(seed, density):
    _, mask = grids(seed, density)
    chance = saliency.mask_share(mask)
    torch.testing.assert_close(saliency.energy_in_mask(torch.full(SHAPE, 0.7), mask), chance)
    torch.testing.assert_close(saliency.pointing_game(torch.full(SHAPE, 0.7), mask), chance)
    assert saliency.energy_in_mask(mask.float(), mask).tolist() == [1, 1, 1]
    assert saliency.pointing_game(mask.float(), mask).tolist() == [1, 1, 1]


def test_measures_refuse_what_has_no_answer():
    for measure in (saliency.energy_in_mask, saliency.pointing_game):
        with pytest.raises(ValueError, match=r"\(1, 2, 2\) and \(1, 2, 3\); both must be"):
            measure(torch.ones(1, 2, 2), torch.ones(1, 2, 3))
        with pytest.raises(ValueError, match="a saliency is negative"):
            measure(-torch.ones(1, 2, 2), MASK)
        with pytest.raises(ValueError, match="a mask is empty"):
            measure(torch.ones(1, 2, 2), ~torch.ones_like(MASK))


@given(
    *(st.integers(0, 5) for _ in range(2)), *(st.integers(1, 4) for _ in range(2)), st.booleans()
)
def test_a_box_makes_the_mask_that_has_this_box(left, top, width, height, shifted):
    box = torch.tensor([[left, top, left + width, top + height]], dtype=torch.float32)
    mask = saliency.mask_from_box(box + 0.4 * shifted, height=9, width=10)
    assert mask.shape == (1, 9, 10)
    assert mask.sum() == width * height
    right_below = torch.tensor([[0, 0, 1, 1]])  # torchvision's boxes end at the last pixel
    assert torch.equal(masks_to_boxes(mask) + right_below, box)


def test_a_box_is_cut_off_at_the_border_but_must_hold_something():
    assert saliency.mask_from_box(np.array([[-3, -3, 1, 1]]), 2, 2).tolist() == [
        [[True, False], [False, False]]
    ]
    with pytest.raises(ValueError, match="a box holds no pixel of an image 2x3"):
        saliency.mask_from_box(torch.tensor([[5, 0, 8, 2]]), 2, 3)


def test_rank_correlation_is_spearmans():
    first, second = images(3, 6)[:, 0].round(decimals=1), images(3, 6, seed=1)[:, 1]
    expected = [
        spearmanr(a.flatten(), b.flatten()).statistic for a, b in zip(first, second, strict=True)
    ]
    assert saliency.rank_correlation(first, second) == pytest.approx(expected)
    assert saliency.rank_correlation(first, first**3) == pytest.approx([1, 1, 1])
    assert saliency.rank_correlation(first, torch.ones(3, 6, 6)).tolist() == [0, 0, 0]


# ----------------------------------------------------------------------------- randomised weights
def changed(model, other):
    """Top-level parts that differ between two models of one make."""
    pairs = zip(model.state_dict().items(), other.state_dict().values(), strict=True)
    return {name.split(".")[0] for (name, a), b in pairs if not torch.equal(a, b)}


def test_the_cascade_shuffles_from_the_output_down_and_leaves_the_model(resnet):
    before = {name: value.clone() for name, value in resnet.state_dict().items()}
    steps = list(saliency.randomised_cascade(resnet, seed=0))
    names = [name for name, _ in steps]
    assert names == ["fc", "layer4", "layer3", "layer2", "layer1", "bn1", "conv1"]
    for place, (_, shuffled) in enumerate(steps):
        # A fresh normalisation is ones and zeros, which no shuffle can tell.
        assert changed(resnet, shuffled) == set(names[: place + 1]) - {"bn1"}
        assert not shuffled.training
    assert all(torch.equal(before[name], value) for name, value in resnet.state_dict().items())


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_a_shuffle_keeps_the_values_and_repeats(seed):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2)).eval()
    (*_, (_, first)), (*_, (_, second)) = (
        saliency.randomised_cascade(model, seed) for _ in range(2)
    )
    for name, value in model.state_dict().items():
        shuffled = first.state_dict()[name]
        assert torch.equal(shuffled.flatten().sort()[0], value.flatten().sort()[0])
        assert torch.equal(shuffled, second.state_dict()[name])


def test_a_wrapped_model_is_taken_apart_within_its_wrapper(resnet):
    wrapped = nn.ModuleDict({"norm": nn.Identity(), "net": resnet}).eval()
    names = [name for name, _ in saliency.randomised_cascade(wrapped, seed=0)]
    assert names[0] == "fc"
    assert len(names) == 7


def test_maps_of_shuffled_weights_are_other_maps(resnet):
    maps = saliency.grad_cam(resnet, images(), TARGETS)
    (*_, (_, shuffled)) = saliency.randomised_cascade(resnet, seed=0)
    others = saliency.grad_cam(shuffled, images(), TARGETS)
    assert np.all(saliency.rank_correlation(maps, others) < 0.95)
