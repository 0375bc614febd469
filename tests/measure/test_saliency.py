"""Maps against Grad-CAM written by hand, measures by counting, classifiers that are known."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from torch import nn
from torch.nn.functional import interpolate

from diffcore.data.splits import Split
from diffcore.measure import saliency


def images(count=3, size=64, seed=0):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


class Channels(nn.Module):
    """The score of class k is the mean of channel k, or of the next but `turn` ones."""

    feature_info = ({"module": "maps", "num_chs": 3},)

    def __init__(self, turn=0):
        super().__init__()
        self.maps = nn.Conv2d(3, 3, 1, bias=False)
        self.maps.weight = nn.Parameter(torch.eye(3).roll(turn, 0)[:, :, None, None])

    def forward(self, images):
        return self.maps(images).mean(dim=(2, 3))


@pytest.fixture(scope="module")
def resnet():
    """A network whose normalisations differ from ones and zeros, as after a training."""
    torch.manual_seed(0)
    net = timm.create_model("resnet10t", pretrained=False, num_classes=4).eval()
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.weight, 1.0, 0.2)
            nn.init.normal_(part.bias, 0.0, 0.2)
    return net


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


def test_grad_cam_is_its_equations_in_any_batch_and_with_frozen_weights(resnet, monkeypatch):
    targets = torch.tensor([2, 0, 3])
    cams = saliency.grad_cam(resnet, images(), targets)
    torch.testing.assert_close(cams, grad_cam_by_hand(resnet, resnet.layer2, images(), targets))
    assert cams.amax(dim=(1, 2)).tolist() == [0, 1, 1]
    monkeypatch.setattr(saliency, "_BATCH", 2)
    resnet.requires_grad_(False)
    with torch.no_grad():
        parts = saliency.grad_cam(resnet, images(), targets)
    resnet.requires_grad_(True)
    torch.testing.assert_close(parts, cams)
    assert all(p.grad is None for p in resnet.parameters())


@pytest.mark.parametrize(
    ("name", "size", "layer", "side"),
    [
        ("resnet10t", 64, "layer2", 8),
        ("resnet10t", 224, "layer4", 7),
        ("resnetv2_18_small", 32, "stages.2", 8),
        ("efficientnet_lite0", 64, "blocks.2", 8),
    ],
)
def test_the_deepest_stage_with_enough_cells_is_chosen(name, size, layer, side):
    model = timm.create_model(name, pretrained=False, num_classes=2).eval()
    wrapped = nn.Sequential(nn.Identity(), model).eval()
    assert saliency.find_layer(wrapped, images(1, size)) is model.get_submodule(layer)
    assert saliency.stage_shapes(wrapped, images(1, size))[layer][2:] == (side, side)


def test_fewer_cells_come_from_a_deeper_stage_also_where_strides_leave_a_rest(resnet):
    assert saliency.find_layer(resnet, images(1), min_cells=4) is resnet.layer3
    uneven = torch.rand(1, 3, 60, 94)
    assert saliency.grad_cam(resnet, uneven, torch.tensor([1])).shape == (1, 60, 94)


def test_errors_say_what_to_do():
    model = timm.create_model("swin_tiny_patch4_window7_224", pretrained=False, num_classes=2)
    shapes = r"'layers\.0': \(1, 56, 56, 96\)"  # channels last
    with pytest.raises(ValueError, match=rf"no stage has .*{shapes}.*integrated_gradients"):
        saliency.find_layer(model.eval(), images(1, 224))
    with pytest.raises(ValueError, match="holds no timm model with stages; use integrated"):
        saliency.find_layer(nn.Flatten(), images())
    with pytest.raises(ValueError, match=r"call model\.eval"):
        saliency.grad_cam(Channels(), images(), torch.tensor([0, 1, 2]))


def test_integrated_gradients_of_a_linear_model_are_its_terms_from_black_and_from_white():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 2)).eval()
    batch = images(2, 4)
    maps = saliency.integrated_gradients(model, batch, torch.tensor([0, 1]))
    weights = model[1].weight.detach().view(2, 3, 4, 4)
    expected = sum(((batch - grey) * weights).abs().sum(dim=1) for grey in (0, 1))
    torch.testing.assert_close(maps, expected / expected.amax(dim=(1, 2), keepdim=True))


MASK = torch.tensor([[[True, True], [False, False]]])
SHAPE = (3, 5, 4)


@pytest.mark.parametrize(
    ("cam", "energy", "hit"),
    [
        ([[1.0, 0.0], [0.0, 0.0]], 1.0, 1.0),
        ([[0.0, 0.0], [0.0, 0.3]], 0.0, 0.0),
        ([[0.2, 0.4], [0.3, 0.1]], 0.6, 1.0),
        ([[0.2, 0.2], [0.5, 0.1]], 0.4, 0.0),
        ([[1.0, 0.0], [0.0, 1.0]], 0.5, 0.5),
        ([[0.0, 0.0], [0.0, 0.0]], 0.5, 0.5),
    ],
)
def test_measures_of_maps_that_can_be_counted(cam, energy, hit):
    cam = torch.tensor([cam])
    assert saliency.energy_in_mask(cam.numpy(), MASK.numpy()).item() == pytest.approx(energy)
    assert saliency.pointing_game(cam, MASK).item() == hit


@given(st.integers(0, 10**6), st.floats(0.1, 0.9), st.floats(0.01, 100))
def test_measures_are_shares_and_a_uniform_map_is_at_chance(seed, density, scale):
    rng = np.random.default_rng(seed)
    mask, cam = torch.from_numpy(rng.random(SHAPE) < density), torch.from_numpy(rng.random(SHAPE))
    mask[:, 2, 2], mask[:, 0, 0] = True, False
    for measure in (saliency.energy_in_mask, saliency.pointing_game):
        torch.testing.assert_close(measure(cam * scale, mask), measure(cam, mask))
        whole = measure(cam, mask) + measure(cam, ~mask)
        torch.testing.assert_close(whole, torch.ones(3).double())
        chance = mask.double().mean(dim=(1, 2))
        torch.testing.assert_close(measure(torch.full(SHAPE, 0.7), mask), chance)


def test_measures_refuse_what_has_no_answer():
    one = torch.ones(1, 2, 2)
    for cam, mask in ((one, torch.ones(1, 2, 3)), (-one, MASK), (one, ~one.bool())):
        with pytest.raises(ValueError, match="a map is negative, a mask is empty, or their shapes"):
            saliency.energy_in_mask(cam, mask)


def test_rank_correlation_is_spearmans():
    first, second = images(3, 6)[:, 0].round(decimals=1), images(3, 6, seed=1)[:, 1]
    pairs = zip(first.flatten(1), second.flatten(1), strict=True)
    expected = [spearmanr(a, b).statistic for a, b in pairs]
    assert saliency.rank_correlation(first, second) == pytest.approx(expected)
    assert saliency.rank_correlation(first, torch.ones(3, 6, 6)).tolist() == [0, 0, 0]


def some_images(count=6, classes=3, seed=0):
    """Images whose object, a square, is the brightest thing in the channel of its class."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 60, (count, 8, 8, 3), dtype=np.uint8)
    labels, masks = np.arange(count) % classes, np.zeros((count, 8, 8), bool)
    for place, label in enumerate(labels):
        top, left = rng.integers(0, 6, 2)
        masks[place, top : top + 2, left : left + 2] = True
        pixels[place, masks[place], label] = 250
    metadata = pd.DataFrame({"source_id": [f"image-{n}" for n in range(count)], "label": labels})
    return Split("test", ("a", "b", "c"), metadata, pixels, masks)


def look_at_channel(model, images, targets):
    """A technique that can be computed by hand: the channel that the class looks at."""
    with torch.no_grad():
        return model.maps(images)[torch.arange(len(images)), targets].square()


MODELS = {"right": Channels().eval(), "turned": Channels(1).eval()}
RUNS = pd.DataFrame(
    [("vanilla", 0, "turned"), ("diffcoremix", 0, "right"), ("vanilla", 1, "turned")],
    columns=["method", "seed", "weights"],
)
TESTS = {"matched": some_images(), "shifted": some_images(seed=1)}
survey = partial(saliency.survey, RUNS, MODELS.get, TESTS)


@pytest.fixture(autouse=True)
def _in_turn(monkeypatch):
    """Do the jobs in this process, the last one first."""
    reverse = lambda jobs, device: (job() for job in reversed(list(jobs)))  # noqa: E731
    monkeypatch.setattr(saliency, "side_by_side", reverse)


def test_a_survey_has_a_row_for_every_image_and_classifier_in_the_order_of_the_runs():
    table = survey(look_at_channel)
    keys = ["method", "seed", "split", "source_id"]
    expected = [
        [m, s, t, f"image-{n}"] for m, s, _ in RUNS.to_numpy() for t in TESTS for n in range(6)
    ]
    assert table[keys].to_numpy().tolist() == expected
    assert (table["share"] == 4 / 64).all()
    ours = table[table["method"] == "diffcoremix"]
    assert ours["correct"].all()
    assert (ours["energy"] > 0.5).all()
    assert (ours["hit"] == 1).all()
    others = table[table["method"] == "vanilla"]  # looks at a channel in which the object is dark
    assert not others["correct"].any()
    assert others["energy"].mean() < 0.2
    assert (table["beyond"] == table["energy"] - table["elsewhere"]).all()
    assert ours["elsewhere"].mean() < ours["energy"].mean() / 2
    assert set(table["about"]) == {"right answer, true class", "wrong answer, true class"}
    # A turned classifier answers the class whose score is that of the bright channel.
    mistakes = survey(look_at_channel, "answered")
    assert mistakes["method"].tolist() == ["vanilla"] * 2 * 2 * 6
    assert (mistakes["hit"] == 1).all()
    assert set(mistakes["about"]) == {"wrong answer, answered class"}


def test_maps_of_no_energy_or_of_the_middle_gain_nothing_beyond_centre_bias():
    def blob(model, images, targets, value):
        spot = torch.zeros(len(images), 8, 8)
        spot[:, 2:6, 2:6] = value
        return spot

    table = survey(partial(blob, value=1.0))
    assert table.groupby("split")["beyond"].mean().to_numpy() == pytest.approx([0, 0], abs=1e-6)
    assert table["energy"].mean() > 0
    empty = survey(partial(blob, value=0.0))
    assert empty["empty"].all()
    assert (empty["energy"] == empty["share"]).all()


def test_without_masks_nothing_can_be_measured_and_images_without_one_are_left_out():
    split = some_images()
    split.masks[2] = False
    table = saliency.measure(MODELS["right"], split, look_at_channel)
    assert table["source_id"].tolist() == [f"image-{n}" for n in (0, 1, 3, 4, 5)]
    bare = Split("test", split.classes, split.metadata, split.images)
    with pytest.raises(ValueError, match="no masks: without them, or boxes in their place"):
        saliency.measure(MODELS["right"], bare, look_at_channel)


def test_examples_have_maps_and_captions_for_each_method():
    split = TESTS["matched"].take([0, 1])
    maps, captions = saliency.examples(RUNS[:2], MODELS.get, split, look_at_channel)
    assert [part.shape for part in maps.values()] == [(2, 8, 8)] * 2
    share = maps["diffcoremix"][0][split.masks[0]].sum() / maps["diffcoremix"][0].sum()
    assert captions[0][1] == f"{share:.0%} ✓"
    bare = Split("test", split.classes, split.metadata, split.images)
    _, captions = saliency.examples(RUNS[:2], MODELS.get, bare, look_at_channel)
    assert captions == [["✗\nb", "✓"], ["✗\nc", "✓"]]  # and what was answered


def test_gains_are_paired_and_levels_are_not():
    rows = pd.DataFrame({"method": ["vanilla", "diffcoremix"] * 4, "split": "matched", "hit": 0.0})
    rows["seed"], rows["source_id"] = np.repeat([0, 1], 4), [*"aabbaabb"]
    rows["energy"] = [0.1, 0.2, 0.7, 0.8] * 2
    rows["beyond"] = 2 * rows["energy"]
    gains = saliency.gains(rows, ["vanilla"]).set_index("measure")
    assert gains.loc["energy", ["value", "low", "high"]].tolist() == pytest.approx([0.1] * 3)
    assert gains.loc["beyond", "value"] == pytest.approx(0.2)
    assert gains["n"].unique().tolist() == [4]
    # Rows without a partner, here because one of both was dropped, do not count.
    assert saliency.gains(rows[:-2], ["vanilla"])["n"].unique().tolist() == [3]
    assert saliency.gains(rows[:2], ["cutmix"]).empty
    levels = saliency.levels(rows, columns=["energy"])
    assert levels["value"].tolist() == pytest.approx([0.4, 0.5])
    assert (levels["high"] - levels["low"] > 0.5).all()
    assert saliency.levels(rows[:1], columns=["energy"]).empty  # one image has no interval


def test_the_cascade_shuffles_from_the_output_down_and_leaves_the_model(resnet):
    before = {name: value.clone() for name, value in resnet.state_dict().items()}
    wrapped = nn.ModuleDict({"norm": nn.Identity(), "net": resnet}).eval()
    steps = list(saliency.randomised_cascade(wrapped, seed=0))
    names = [name for name, _ in steps]
    assert names == ["fc", "layer4", "layer3", "layer2", "layer1", "bn1", "conv1"]
    for place, (_, shuffled) in enumerate(steps):
        state = shuffled["net"].state_dict()
        changed = {
            name.split(".")[0] for name in state if not torch.equal(state[name], before[name])
        }
        assert changed == set(names[: place + 1])
    for name, value in resnet.state_dict().items():
        assert torch.equal(before[name], value)
        assert torch.equal(state[name].flatten().sort()[0], value.flatten().sort()[0])


@pytest.mark.parametrize(
    ("energies", "correlations", "passes"),
    [
        ((0.5, 0.5, 0.3, 0.1), (1, 0.6, 0.3, 0.0), True),
        ((0.5, 0.5, 0.5, 0.5), (1, 0.6, 0.3, 0.0), False),  # as much on the object as before
        ((0.5, 0.5, 0.3, 0.1), (1, 0.6, 0.9, 0.9), False),  # the same maps, whatever the weights
    ],
)
def test_the_check_fails_for_maps_that_mind_no_weights(energies, correlations, passes):
    rng, parts = np.random.default_rng(0), ["as trained", "other seed", "fc", "conv1"]
    table = pd.DataFrame({"seed": np.repeat([0, 1], 16), "part": parts * 8})
    table["source_id"] = np.tile(np.repeat(list("abcd"), 4), 2)
    table["energy"] = np.tile(energies, 8) + rng.normal(0, 0.01, 32)
    table["correlation"] = np.tile(correlations, 8) + rng.normal(0, 0.01, 32)
    row = saliency.sanity_check(table)
    assert row["passes"] is passes
    assert row["energy_drop"] == pytest.approx(energies[0] - energies[3], abs=0.02)
    assert row["correlation_drop"] == pytest.approx(correlations[1] - correlations[3], abs=0.02)


def test_a_technique_that_minds_no_weights_is_detected():
    brightness = lambda model, images, targets: images.mean(dim=1)  # noqa: E731
    table = saliency.randomise(RUNS.iloc[[0, 2]], MODELS.get, some_images(), brightness, seed=0)
    assert table["part"].unique().tolist() == ["as trained", "other seed", "maps"]
    assert len(table) == 2 * 6 * 3
    assert table["correlation"].to_numpy() == pytest.approx(np.ones(len(table)))
    assert saliency.sanity_check(table)["passes"] is False
