"""The base augmentation: a crop, enlarged again, and a flip."""

import pytest
import torch
from torch import Generator
from torchvision.transforms.v2.functional import resized_crop

from diffcore.augmentation import crop_and_flip


def seeded(seed=0):
    return Generator().manual_seed(seed)


def ramp(count=64, size=8):
    """Images that grow from left to right by 1 a pixel, and from top to bottom by 100."""
    place = torch.arange(size, dtype=torch.float32)
    return (place[None, :] + 100 * place[:, None]).expand(count, 1, size, size)


def test_whole_crops_are_flipped_or_left():
    images = torch.rand(64, 3, 8, 8)
    out = crop_and_flip(images, 1.0, seeded())
    flipped = torch.isclose(out, images.flip(3), atol=1e-5).flatten(1).all(1)
    left = torch.isclose(out, images, atol=1e-5).flatten(1).all(1)
    assert (flipped ^ left).all()
    assert 16 < flipped.sum() < 48


def test_a_crop_agrees_with_torchvision():
    image = torch.nn.functional.avg_pool2d(torch.rand(1, 3, 80, 80, generator=seeded(3)), 16, 1)
    image = image[:, :, :64, :64]
    out = crop_and_flip(image, 0.25, seeded(1))
    # The draws again, as one crop in whole pixels.
    area, across, down, chance = torch.rand(4, 1, generator=seeded(1))
    side = float((0.25 + 0.75 * area).sqrt()) * 64
    top, left = float(down) * (64 - side), float(across) * (64 - side)
    expected = resized_crop(image, round(top), round(left), round(side), round(side), [64, 64])
    expected = expected.flip(3) if chance < 0.5 else expected
    assert (out - expected).abs().mean() < 0.01


def test_crops_stay_inside_and_are_no_smaller_than_asked():
    out = crop_and_flip(ramp(), 0.25, seeded())
    assert out.min() >= 0
    assert out.max() <= 707 + 1e-3
    widths = (out[:, 0, 0].amax(1) - out[:, 0, 0].amin(1)) / 7  # of the crop, in sides
    assert widths.min() > 0.42  # an edge is repeated, not invented
    assert widths.max() < 1.001
    heights = (out[:, 0, :, 0].amax(1) - out[:, 0, :, 0].amin(1)) / 700
    assert torch.allclose(widths, heights, atol=0.08)  # the aspect ratio is kept


def test_each_image_has_a_crop_of_its_own_that_follows_from_the_seed():
    images = torch.rand(1, 3, 16, 16).expand(8, -1, -1, -1)
    first, again = (crop_and_flip(images, 0.5, seeded(2)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first[0], first[1])


def test_channels_are_cropped_alike():
    image = torch.rand(4, 3, 16, 16)
    out = crop_and_flip(torch.cat([image, image], dim=1), 0.5, seeded())
    assert torch.equal(out[:, :3], out[:, 3:])


@pytest.mark.parametrize("scale", [0.0, 1.1])
def test_a_scale_that_is_no_share_is_an_error(scale):
    with pytest.raises(ValueError, match="scale is"):
        crop_and_flip(torch.rand(1, 3, 4, 4), scale)
