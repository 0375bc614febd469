"""DiffuseMix: fractals, halves with a soft seam, and the formula that joins them."""

import numpy as np
import pytest
import torch

from diffcore.methods.diffusemix import diffuse_mix, draw_fractals, half_weights


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_fractals_are_in_range_differ_and_repeat():
    fractals = draw_fractals(6, size=33, seed=1)
    assert fractals.shape == (6, 3, 33, 33)
    assert 0 <= fractals.min() <= fractals.max() <= 1
    assert torch.equal(fractals, draw_fractals.__wrapped__(6, size=33, seed=1))
    assert len({tuple(f.flatten().tolist()) for f in fractals}) == 6
    assert (fractals.std(dim=(2, 3)).amax(dim=1) > 0.05).all()
    # A Julia set looks the same upside down.
    torch.testing.assert_close(fractals, fractals.flip(2, 3), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 14)])
def test_a_hard_seam_halves_exactly(height, width):
    left, right, top, bottom = half_weights(torch.arange(4), height, width, 0.0)[:, 0]
    columns = (torch.arange(width) + 0.5) / width
    expected = torch.where(columns < 0.5, 1.0, torch.where(columns > 0.5, 0.0, 0.5))
    assert torch.equal(left, expected.expand(height, width))
    assert torch.equal(right, 1 - left)
    assert torch.equal(bottom, 1 - top)
    assert torch.equal(top, half_weights(torch.tensor([0]), width, height, 0.0)[0, 0].T)


@pytest.mark.parametrize("seam", [0.0, 0.078, 0.5, 1.0])
def test_a_seam_falls_evenly_and_keeps_half(seam):
    weight = half_weights(torch.arange(4), 64, 64, seam)
    torch.testing.assert_close(weight.mean(dim=(1, 2, 3)), torch.full((4,), 0.5))
    assert (weight[0, 0, 0].diff() <= 0).all()
    assert ((weight > 0) & (weight < 1)).float().mean() == pytest.approx(seam, abs=0.03)


@pytest.mark.parametrize("count", [0, 3])
def test_the_mix_is_its_formula(count):
    real, restyled = torch.rand(2, 40, 3, 8, 8, generator=seeded(0)).unbind()
    fractals = draw_fractals(3, size=8)[:count]
    mixed, draw = diffuse_mix(real, restyled, fractals, seeded(1)), seeded(1)
    halves = torch.randint(4, (40,), generator=draw)
    assert {*halves.tolist()} == {0, 1, 2, 3}
    chosen = torch.randint(3, (40,), generator=draw)
    for b in range(40):
        kept = half_weights(halves[b : b + 1], 8, 8, 0.078)[0, 0].double()
        expected = kept * real[b] + (1 - kept) * restyled[b]
        if count:
            expected = 0.8 * expected + 0.2 * fractals[chosen[b]]
        np.testing.assert_allclose(mixed[b].numpy(), expected.numpy(), atol=1e-6)
