"""Mixing: exact against loops written afresh, exact at its limits, and its properties at large."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats
from timm.data.mixup import rand_bbox

from diffcore.mixing.mix import DiffCoReMix, draw_lam, kept_share, patch_boxes, patch_mix, pixel_mix

LEVELS = {"pixel": 0.0, "patch": 1.0, "both": 0.5}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def a_pair(batch=6, height=9, width=14, seed=0, dtype=torch.float32):
    shape = (2, batch, 3, height, width)
    return torch.rand(shape, generator=seeded(seed), dtype=torch.float32).to(dtype).unbind()


def test_pixel_mix_is_a_convex_combination():
    real, generated = a_pair()
    lam = draw_lam(6, 1.0, seeded(1))
    expected = np.empty(real.shape)
    for b, c, y, x in np.ndindex(*real.shape):
        weight = float(lam[b])
        expected[b, c, y, x] = weight * real[b, c, y, x] + (1 - weight) * generated[b, c, y, x]
    mixed = pixel_mix(real, generated, lam)
    np.testing.assert_allclose(mixed.numpy(), expected, rtol=0, atol=1e-6)


def test_patch_mix_copies_a_box_and_nothing_else():
    real, generated = a_pair(batch=40)
    lam = draw_lam(40, 1.0, seeded(1))
    mixed, mask = patch_mix(real, generated, lam, seeded(2))
    uniform = torch.rand(40, 2, generator=seeded(2), dtype=torch.float64).numpy()
    expected, area = real.numpy().copy(), []
    for b in range(40):
        row, column = int(uniform[b, 0] * 9), int(uniform[b, 1] * 14)
        side = math.sqrt(1 - float(lam[b]))
        tall, wide = int(side * 9), int(side * 14)
        top, bottom = max(0, row - tall // 2), min(9, row - tall // 2 + tall)
        left, right = max(0, column - wide // 2), min(14, column - wide // 2 + wide)
        expected[b, :, top:bottom, left:right] = generated[b, :, top:bottom, left:right]
        area.append((bottom - top) * (right - left) / (9 * 14))
    np.testing.assert_array_equal(mixed.numpy(), expected)
    np.testing.assert_allclose(1 - kept_share(mask).numpy(), area, atol=1e-6)


@given(lam=st.floats(0.001, 1), seed=st.integers(0, 999))
def test_boxes_are_those_of_cutmix(lam, seed):
    np.random.seed(seed)  # noqa: NPY002 - timm draws from the global generator
    expected = rand_bbox((3, 37, 50), lam)
    np.random.seed(seed)  # noqa: NPY002
    centre = [np.random.randint(37), np.random.randint(50)]  # noqa: NPY002
    boxes = patch_boxes(torch.tensor([lam], dtype=torch.float64), torch.tensor([centre]), 37, 50)
    top, left, bottom, right = boxes[0].tolist()
    assert (top, bottom, left, right) == tuple(int(edge) for edge in expected)


@pytest.mark.parametrize("alpha", [0.4, 1.0, 4.0])
def test_lam_follows_its_beta_distribution(alpha):
    lam = draw_lam(20_000, alpha, seeded()).double().numpy()
    assert stats.kstest(lam, stats.beta(alpha, alpha).cdf).pvalue > 0.01


@pytest.mark.parametrize("level", LEVELS)
def test_the_whole_is_made_of_the_two_levels(level):
    real, generated = a_pair(batch=200)
    mixed = DiffCoReMix(1.0, LEVELS[level])(real, generated, seeded())
    for b in range(200):
        weight = mixed.weight[b, 0]
        pixel = (weight == weight[0, 0]).all() and 0 < weight[0, 0] < 1
        if pixel:
            one = pixel_mix(real[b : b + 1], generated[b : b + 1], float(weight[0, 0]))
        else:
            one = torch.where(weight == 1, real[b : b + 1], generated[b : b + 1])
        torch.testing.assert_close(mixed.images[b : b + 1], one, rtol=0, atol=1e-6)
    torch.testing.assert_close(mixed.lam, mixed.weight.mean(dim=(1, 2, 3)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("one_for_all", [True, False])
def test_the_limits_return_the_inputs(dtype, one_for_all):
    real, generated = a_pair(dtype=dtype)
    for value, expected in ((0.0, generated), (1.0, real)):
        lam = value if one_for_all else torch.full((6,), value)
        assert torch.equal(pixel_mix(real, generated, lam), expected)
        mixed, mask = patch_mix(real, generated, lam, seeded())
        assert torch.equal(mixed, expected)
        assert mask.float().mean() == 1 - value
        assert mixed.dtype == dtype


@pytest.mark.parametrize("mix", [DiffCoReMix(probability=0.0), DiffCoReMix(0.5, 0.5)])
def test_what_has_no_counterpart_or_no_luck_stays(mix):
    real, generated = a_pair(batch=50)
    other = generated if mix.probability == 0 else real
    assert torch.equal(mix(real, other, seeded()).images, real)


IMAGES = arrays.arrays(
    np.float32, (2, 3, 2, 5, 4), elements=st.floats(-1e3, 1e3, width=32, allow_subnormal=False)
)
LAMS = arrays.arrays(np.float32, 3, elements=st.floats(0, 1, width=32))


@given(images=IMAGES, lam=LAMS)
def test_every_pixel_lies_between_its_two_sources(images, lam):
    real, generated = torch.from_numpy(images)
    lam = torch.from_numpy(lam)
    low, high = torch.minimum(real, generated), torch.maximum(real, generated)
    mixed = pixel_mix(real, generated, lam)
    assert ((low <= mixed) & (mixed <= high)).all()
    mixed, mask = patch_mix(real, generated, lam, seeded())
    assert torch.equal(mixed, torch.where(mask, generated, real))


@given(
    lam=st.lists(st.floats(0, 1), min_size=1, max_size=5), height=st.integers(1, 40),
    width=st.integers(1, 40), seed=st.integers(0, 2**31),
)  # fmt: skip
def test_the_patch_is_of_at_most_its_area(lam, height, width, seed):
    lam = torch.tensor(lam, dtype=torch.float64)
    real = torch.ones(len(lam), 1, height, width)
    mixed, mask = patch_mix(real, torch.zeros_like(real), lam, seeded(seed))
    assert mask.shape == (len(lam), 1, height, width)
    torch.testing.assert_close(kept_share(mask), mixed.mean(dim=(1, 2, 3)), rtol=0, atol=1e-6)
    assert (kept_share(mask) >= lam - 1e-6).all()  # the border only ever gives area back
    for one in mask[:, 0]:
        assert torch.equal(one, one.any(dim=1)[:, None] & one.any(dim=0))


def test_levels_and_probability_have_their_shares():
    ones = torch.ones(4000, 1, 4, 4)
    weight = DiffCoReMix(1.0, 0.25, 0.5)(ones, ones - 1, seeded()).weight.flatten(1)
    untouched = (weight == 1).all(dim=1)
    boxed = ((weight == 0) | (weight == 1)).all(dim=1) & ~untouched
    # A box that is less than one of the 4 x 4 pixels, 1 - λ < 1/16, is none.
    assert untouched.float().mean() == pytest.approx(0.5 + 0.5 * 0.25 / 16, abs=0.03)
    assert boxed.float().mean() == pytest.approx(0.5 * 0.25 * 15 / 16, abs=0.03)


def test_settings_do_not_change_what_is_drawn():
    real, generated = a_pair(batch=64)
    pixel, both = (DiffCoReMix(1.0, share)(real, generated, seeded()) for share in (0.0, 0.5))
    same = (pixel.weight == both.weight).flatten(1).all(dim=1)
    assert 0.3 < same.float().mean() < 0.7


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("on", ["cpu", "cuda"])
def test_a_gpu_mixes_as_the_cpu_does(on):
    real, generated = a_pair(batch=32)
    expected = DiffCoReMix()(real, generated, seeded())
    generator = torch.Generator(on).manual_seed(0)
    found = DiffCoReMix()(real.cuda(), generated.cuda(), generator)
    assert {part.device.type for part in found} == {"cuda"}
    if on == "cpu":
        torch.testing.assert_close(found.images.cpu(), expected.images, rtol=0, atol=1e-6)


def test_a_loader_mixes_items_as_they_come():
    real, generated = torch.rand(2, 8, 3, 6, 6)
    items = list(zip(real, generated, range(8), strict=True))
    torch.manual_seed(3)
    images, labels = DiffCoReMix().collate(items)
    torch.manual_seed(3)
    torch.testing.assert_close(images, DiffCoReMix()(real, generated).images)
    assert labels.tolist() == list(range(8))


def test_a_lam_out_of_range_or_of_another_shape_is_refused():
    wrong = [-0.1, 1.1, float("nan"), torch.tensor([0.5, 2.0, 0, 0, 0, 0])]
    for mix, lam in product((pixel_mix, patch_mix), wrong):
        with pytest.raises(ValueError, match=r"lam must be in \[0, 1\]"):
            mix(*a_pair(), lam)
    for lam in (torch.ones(5), torch.ones(6, 1)):
        with pytest.raises(ValueError, match="give one, or 6 in a row"):
            pixel_mix(*a_pair(), lam)


@pytest.mark.parametrize(
    "mix",
    [lambda a, b: pixel_mix(a, b, 0.5), lambda a, b: patch_mix(a, b, 0.5), DiffCoReMix()],
    ids=LEVELS,
)
def test_images_that_do_not_fit_are_refused(mix):
    real, generated = a_pair()
    for pair in ((real, generated[:3]), (real[0], generated[0])):
        with pytest.raises(ValueError, match="alike"):
            mix(*pair)
    with pytest.raises(TypeError, match=r"scale 8-bit images to \[0, 1\] first"):
        mix((real * 255).byte(), (generated * 255).byte())
    with pytest.raises(TypeError, match="one floating-point type"):
        mix(real, generated.half())


@pytest.mark.parametrize(
    ("name", "value"),
    [("alpha", 0.0), ("alpha", float("nan")), ("patch_share", 1.5), ("probability", -0.1)],
)
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is .*; it must be"):
        DiffCoReMix(**{name: value})
    if name == "alpha":
        with pytest.raises(ValueError, match="alpha is"):
            draw_lam(3, value)
