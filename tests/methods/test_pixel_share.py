"""Shares of generated pixels: what settings are said to show is what images of them hold."""

import pytest
import torch

from diffcore.methods import METHODS
from diffcore.methods.generated import DiffCoReMixing
from diffcore.methods.pixel_share import PIXEL_CONDITIONS, at_pixel_share, mixed_share, pixel_share


def shown(method, count=4000):
    """Share of generated pixels over many images: real ones are 0, generated ones 1."""
    real, labels = torch.zeros(count, 3, 16, 16), torch.zeros(count, dtype=torch.long)
    draws = torch.Generator().manual_seed(0)
    return method.step(2)(real, torch.ones_like(real), labels, draws)[0].mean().item()


@pytest.mark.parametrize("condition", PIXEL_CONDITIONS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_every_condition_shows_its_share(condition, share):
    method = at_pixel_share(condition, share)
    assert pixel_share(method) == pytest.approx(share)
    # A box has whole pixels, which at 16 x 16 takes some of its area.
    assert shown(method) == pytest.approx(share, abs=0.025)


@pytest.mark.parametrize("alpha", [0.2, 4.0])
@pytest.mark.parametrize("patch_share", [0.0, 1.0])
def test_a_mixed_pair_shows_what_is_expected(alpha, patch_share):
    expected = pytest.approx(mixed_share(alpha, patch_share), abs=0.025)
    assert shown(DiffCoReMixing(alpha, patch_share)) == expected


def test_methods_without_generated_images_show_none():
    assert pixel_share(METHODS["cutmix"]()) == 0
    assert pixel_share(METHODS["diffusemix"](0.25)) == pytest.approx(0.25 * 0.8 / 2)
