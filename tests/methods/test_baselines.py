"""The baselines: torchvision's own, seeded; SaliencyMix against its definition and OpenCV's map."""

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from torchvision.transforms import v2

from diffcore.methods import METHODS
from diffcore.methods.baselines import CutMix, MixUp, Policy, SaliencyMix, peaks, saliency

TARGETS = torch.eye(4).repeat(2, 1)
LABELS = TARGETS.argmax(1)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images():
    return torch.randint(256, (8, 3, 32, 32), generator=seeded(0)) / 255


@pytest.mark.parametrize("name", [n for n in METHODS if METHODS[n].sees == "real"][1:])
def test_a_seed_decides_and_the_global_generator_stays(name, images):
    before, state, step = images.clone(), torch.get_rng_state(), METHODS[name]().step(4)
    first, again, other = (step(images, images, LABELS, seeded(seed))[0] for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("kind", "reference"), [(MixUp, v2.MixUp), (CutMix, v2.CutMix)])
def test_mixes_are_torchvisions(kind, reference, images):
    mixed, targets = kind(alpha=0.7).mix(images, TARGETS, seeded(3))
    torch.manual_seed(torch.randint(2**62, (), generator=seeded(3)).item())
    expected = reference(alpha=0.7, num_classes=4)(images, LABELS)
    assert torch.equal(mixed, expected[0])
    assert torch.equal(targets, expected[1])


@pytest.mark.parametrize("kind", Policy.__subclasses__())
def test_policies_treat_each_image_for_itself_as_torchvision_does(kind, images):
    same, generator = images[:1].expand(8, -1, -1, -1), seeded(3)
    changed, _ = kind().step(4)(same, same, LABELS, seeded(3))
    assert len({tuple(image.flatten().tolist()) for image in changed}) > 2
    torch.rand(8, generator=generator)  # which images are changed: all
    torch.manual_seed(torch.randint(2**62, (), generator=generator).item())
    policy = kind.transform()
    expected = torch.stack([policy((image * 255).round().byte()) for image in same])
    assert torch.equal((changed * 255).round().byte(), expected)


# -------------------------------------------------------------------------------------- SaliencyMix
def spots(rows, columns, size=32):
    """Grey images, each with one bright spot."""
    images = torch.full((len(rows), 3, size, size), 0.4)
    for image, row, column in zip(images, rows, columns, strict=True):
        image[0, row : row + 3, column : column + 3] = 1.0
    return images


def test_saliency_is_the_distance_to_the_mean_of_three_surroundings():
    image = torch.rand(1, 3, 16, 20, generator=seeded(0)).double()
    computed = saliency(image)[0]

    def mean(row, column, reach):
        rows = slice(max(0, row - reach), row + reach + 1)
        columns = slice(max(0, column - reach), column + reach + 1)
        return image[0, :, rows, columns].mean(dim=(1, 2))

    for row, column in [(0, 0), (7, 9), (15, 4), (3, 19)]:
        centre = mean(row, column, 1)
        expected = sum((centre - mean(row, column, reach)).norm() for reach in (1, 2, 4))
        assert computed[row, column] == pytest.approx(float(expected), abs=1e-9)


# Every second pixel of rows 38 and 10, through the blobs of the test below at columns 12 and 50, of
# 255 * cv2.saliency.StaticSaliencyFineGrained_create().computeSaliency(pixels)[1], rounded, by
# opencv-contrib-python-headless 5.0.0.93; 4.14.0.94 says the same. `pixels` is (64, 64, 3) uint8.
OPENCVS = [
    [8, 9, 7, 32, 109, 207, 255, 208, 110, 34, 6, 4, 3, 2, 1, 1, *[0] * 16],
    [1, *[0] * 13, 1, 1, 1, 2, 3, 4, 5, 6, 35, 111, 207, 255, 207, 109, 31, 8, 10, 9],
]  # fmt: skip


def test_saliency_goes_with_opencvs_where_dark_and_bright_stand_out_alike():
    """OpenCV stretches the brighter and the darker each to 255: here they are alike."""
    y, x = np.mgrid[:64, :64]
    bright, dark = (np.exp(-((y - r) ** 2 + (x - c) ** 2) / 18) for r, c in ((38, 12), (10, 50)))
    pixels = np.repeat((128 + 100 * (bright - dark)).round().astype(np.uint8)[..., None], 3, axis=2)
    found = saliency(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)
    halves = peaks(found[:, :, :32]), peaks(found[:, :, 32:])
    assert [half.tolist() for half in halves] == [[[38, 12]], [[10, 50 - 32]]]  # OpenCV's, too
    rows = found[0, [38, 10], ::2].flatten()
    assert pearsonr(rows, np.ravel(OPENCVS)).statistic > 0.985
    assert spearmanr(rows, np.ravel(OPENCVS)).statistic > 0.9


def test_the_patch_is_cut_around_the_peak_and_labels_follow_its_area():
    seen, labels = spots([3, 20, 27, 12], [25, 14, 2, 8]), torch.eye(3)[[0, 1, 2, 1]]
    images = torch.rand(4, 5, 32, 32, generator=seeded(0))  # they differ everywhere
    mixed, targets = SaliencyMix().mix(images, labels, seeded(5), seen=seen)
    for b in range(4):
        other, pasted = (b - 1) % 4, (mixed[b] != images[b]).any(dim=0)
        assert torch.equal(mixed[b][:, pasted], images[other][:, pasted])
        row, column = peaks(saliency(seen[other : other + 1]))[0].tolist()
        assert pasted[row, column]
        area = pasted.float().mean()
        torch.testing.assert_close(targets[b], (1 - area) * labels[b] + area * labels[other])
