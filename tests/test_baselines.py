"""The baselines: torchvision's own, seeded, in one face."""

import pytest
import torch
from torchvision.transforms import v2

from diffcore.baselines import BASELINES, make_baseline

LABELS = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])


@pytest.fixture
def images():
    pixels = torch.randint(256, (8, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    return pixels / 255


def apply(name, images, seed=0, **options):
    return make_baseline(name, 4, **options)(images, LABELS, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", BASELINES)
def test_all_have_one_face(name, images):
    before = images.clone()
    mixed, targets = apply(name, images)
    assert mixed.shape == images.shape
    assert mixed.dtype == images.dtype
    assert mixed.min() >= 0
    assert mixed.max() <= 1
    assert targets.shape == (8, 4)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(8))
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", BASELINES)
def test_a_seed_decides_and_the_global_generator_stays(name, images):
    state = torch.get_rng_state()
    first, again, other = (apply(name, images, seed)[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, other) == (name == "vanilla")


@pytest.mark.parametrize("name", set(BASELINES) - {"vanilla"})
def test_without_a_generator_each_call_differs(name, images):
    method = make_baseline(name, 4)
    assert not torch.equal(method(images, LABELS, None)[0], method(images, LABELS, None)[0])


@pytest.mark.parametrize(("name", "reference"), [("mixup", v2.MixUp), ("cutmix", v2.CutMix)])
def test_mixes_are_torchvisions(name, reference, images):
    mixed, targets = apply(name, images, seed=3, alpha=0.7)
    seed = torch.randint(2**62, (), generator=torch.Generator().manual_seed(3)).item()
    torch.manual_seed(seed)
    expected = reference(alpha=0.7, num_classes=4)(images, LABELS)
    assert torch.equal(mixed, expected[0])
    assert torch.equal(targets, expected[1])


def test_vanilla_changes_nothing(images):
    mixed, targets = apply("vanilla", images)
    assert torch.equal(mixed, images)
    assert torch.equal(targets.argmax(1), LABELS)


@pytest.mark.parametrize("name", ["randaugment", "trivialaugment", "augmix"])
def test_policies_keep_labels_and_treat_each_image_for_itself(name, images):
    same = images[:1].expand(8, -1, -1, -1)
    changed, targets = apply(name, same)
    assert torch.equal(targets.argmax(1), LABELS)
    assert len({tuple(image.flatten().tolist()) for image in changed}) > 2


def test_an_unknown_name_is_told_those_that_exist():
    with pytest.raises(ValueError, match="no baseline 'mixop'; there are vanilla, mixup, cutmix"):
        make_baseline("mixop", 4)
