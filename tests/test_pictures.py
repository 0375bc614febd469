"""Pictures brought to one size."""

import numpy as np
import pytest
from PIL import Image

from diffcore.pictures import chosen_places, fit, fit_array, kept_box


def test_a_picture_of_the_size_asked_for_stays_as_it_is():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    assert np.array_equal(np.asarray(fit(Image.fromarray(pixels), 20, 30)), pixels)
    assert fit_array(pixels, 20, 30) is pixels


def test_what_is_kept_is_the_largest_part_about_the_centre():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 100, 3), np.uint8))
    inner = slice(2, -2), slice(2, -2)  # at a border that is cut, the pixels beyond it count
    for height, width in ((30, 30), (10, 20)):
        whole = picture.crop(tuple(map(round, kept_box(60, 100, height, width))))
        alone = np.asarray(whole.resize((width, height), Image.Resampling.BICUBIC))
        assert np.array_equal(np.asarray(fit(picture, height, width))[inner], alone[inner])


@pytest.mark.parametrize(("size", "kept"), [((40, 20), slice(10, 30)), ((20, 20), slice(0, 20))])
def test_the_middle_is_kept(size, kept):
    width, height = size
    ramp = np.tile(np.arange(width, dtype=np.uint8)[None, :, None] * 6, (height, 1, 3))
    found = fit_array(ramp, 20, 20)
    assert np.array_equal(found, ramp[:, kept])


def test_proportions_stay():
    box = kept_box(400, 300, 64, 32)
    left, top, right, bottom = box
    assert (bottom - top) / (right - left) == pytest.approx(2)
    assert (top, bottom) == (0, 400)
    assert left + right == pytest.approx(300)


def test_shrinking_averages_and_does_not_skip():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(fit_array(stripes, 8, 8).astype(int) - 128).max() < 20


def test_places_come_in_every_form_that_an_array_takes():
    for places in (slice(1, 3), [1, 2], np.array([1, 2]), np.array([False, True, True, False])):
        assert list(chosen_places(places, 4)) == [1, 2]
    assert list(chosen_places([], 4)) == []
    with pytest.raises(IndexError):
        chosen_places([4], 4)
