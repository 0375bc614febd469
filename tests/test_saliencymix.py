"""SaliencyMix: the patch holds what stands out, and the labels follow its area."""

import pytest
import torch

from diffcore.mixing import kept_share
from diffcore.paperbirds import SPECIES, render
from diffcore.saliencymix import SaliencyMix, peaks, saliency


def spots(rows, columns, size=32):
    """Grey images, each with one bright spot."""
    images = torch.full((len(rows), 3, size, size), 0.4)
    for image, row, column in zip(images, rows, columns, strict=True):
        image[0, row : row + 3, column : column + 3] = 1.0
    return images


def test_saliency_is_the_distance_to_the_mean_of_three_surroundings():
    image = torch.rand(1, 3, 16, 20, generator=torch.Generator().manual_seed(0)).double()
    found = saliency(image)[0]

    def mean(row, column, reach):
        rows = slice(max(0, row - reach), row + reach + 1)
        columns = slice(max(0, column - reach), column + reach + 1)
        return image[0, :, rows, columns].mean(dim=(1, 2))

    for row, column in [(0, 0), (7, 9), (15, 4), (3, 19)]:
        centre = mean(row, column, 1)
        expected = sum((centre - mean(row, column, reach)).norm() for reach in (1, 2, 4))
        assert found[row, column] == pytest.approx(float(expected), abs=1e-9)


def test_nothing_stands_out_of_an_even_image():
    assert saliency(torch.full((1, 3, 32, 32), 0.7)).max() < 1e-4


def test_a_spot_stands_out_wherever_it_is():
    rows, columns = [3, 20, 27], [25, 14, 2]
    found = peaks(saliency(spots(rows, columns)))
    expected = torch.tensor([rows, columns]).T + 1
    assert (found - expected).abs().max() <= 1


def test_saliency_sits_on_the_bird_more_than_beside_it():
    ratios = []
    for seed, species in enumerate(SPECIES):
        shown = render(species, "cloudless sky at high altitude", seed, style=0.6)
        image = torch.from_numpy(shown.image).permute(2, 0, 1)[None] / 255
        inside = torch.from_numpy(shown.mask)
        values = saliency(image)[0]
        ratios.append(float(values[inside].mean() / values[~inside].mean()))
    assert min(ratios) > 1
    assert sum(ratios) / len(ratios) > 1.5


def test_the_patch_is_cut_around_the_peak_and_labels_follow_its_area():
    images = spots([3, 20, 27, 12], [25, 14, 2, 8])
    labels = torch.tensor([0, 1, 2, 1])
    mix, seed = SaliencyMix(num_classes=3), 5
    mixed, targets = mix(images, labels, torch.Generator().manual_seed(seed))
    mask = mix.draw_mask(images, torch.Generator().manual_seed(seed))
    for b in range(4):
        other = (b - 1) % 4
        pasted = mask[b, 0].bool()
        expected = torch.where(pasted, images[other], images[b])
        assert torch.equal(mixed[b], expected)
        row, column = peaks(saliency(images[other : other + 1]))[0].tolist()
        assert not pasted.any() or pasted[row, column]
        share = pasted.float().mean().item()
        wanted = torch.zeros(3)
        wanted[labels[b]] += 1 - share
        wanted[labels[other]] += share
        torch.testing.assert_close(targets[b], wanted)


def test_a_seed_decides_and_inputs_stay():
    images, labels = torch.rand(8, 3, 16, 16), torch.arange(8)
    before = images.clone()
    runs = [SaliencyMix(8)(images, labels, torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(runs[0][0], runs[1][0])
    assert not torch.equal(runs[0][0], runs[2][0])
    assert torch.equal(images, before)


@pytest.mark.parametrize("alpha", [0.3, 2.0])
def test_targets_sum_to_one(alpha):
    _, targets = SaliencyMix(5, alpha)(torch.rand(9, 3, 16, 16), torch.arange(9) % 5)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(9))
    assert targets.min() >= 0


def test_the_mask_is_zero_or_one():
    mask = SaliencyMix(2).draw_mask(torch.rand(4, 3, 16, 16))
    assert {*mask.unique().tolist()} <= {0.0, 1.0}
    assert kept_share(mask).shape == (4,)
