"""Mass: what settings are said to show is what images of them hold."""

import pytest
import torch

from diffcore.methods.pixel_share import MASS_ARMS, mass_of, mixed_mass, settings_of_mass
from diffcore.methods.registry import make_method, method_settings
from diffcore.params import load_params


def shown(method, settings, count=4000):
    """Share of generated pixels over many images: real ones are 0, generated ones 1."""
    step = make_method(method, settings, 2)
    real, labels = torch.zeros(count, 3, 16, 16), torch.zeros(count, dtype=torch.long)
    images, _ = step(real, torch.ones_like(real), labels, torch.Generator().manual_seed(0))
    return images.mean().item()


@pytest.mark.parametrize("arm", MASS_ARMS)
@pytest.mark.parametrize("mass", [0.1, 0.3, 0.5, 0.9])
def test_every_arm_shows_the_mass_that_is_asked_for(arm, mass):
    method, settings = settings_of_mass(arm, mass)
    assert mass_of(method, settings) == pytest.approx(mass)
    # A box has whole pixels, which at 16 x 16 takes some of its area.
    assert shown(method, settings) == pytest.approx(mass, abs=0.025)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
@pytest.mark.parametrize("patch_share", [0.0, 1.0])
def test_a_mixed_pair_shows_what_is_expected(alpha, patch_share):
    settings = {"alpha": alpha, "patch_share": patch_share, "mixed_share": 1.0}
    assert shown("diffcoremix", settings) == pytest.approx(
        mixed_mass(alpha, patch_share), abs=0.025
    )


def test_methods_without_generated_images_show_none():
    params = load_params("demo")
    assert mass_of("cutmix", method_settings("cutmix", params)) == 0
    edits = method_settings("diffusemix", params)
    assert mass_of("diffusemix", edits) == pytest.approx(0.25 * 0.8 / 2)
