"""Images are decoded right whatever their mode, turn and size, masks go with them, and many of
them are fetched like an array."""

import pickle

import numpy as np
import pytest
from PIL import Image, ImageOps

from diffcore.data.images import (
    Lazy,
    View,
    common_size,
    find_images,
    fit,
    read_image,
    read_mask,
    some_of_each_class,
    spread,
)


def gradient(width, height):
    """A smooth image without any symmetry."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return Image.fromarray((np.stack([x, y, x * (1 - y)], axis=-1) * 255).astype(np.uint8))


# ---------------------------------------------------------------------------------------- one file
@pytest.mark.parametrize("side", [32, 224])
def test_a_large_jpeg_is_decoded_like_the_whole_image(photographs, side):
    for path in sorted((photographs / "cub200-10/train/017.Cardinal").iterdir())[:4]:
        whole = fit(np.asarray(Image.open(path).convert("RGB")), side, side)
        # JPEG's own reduction, which saves most of the time, leaves a trace in fine patterns.
        assert np.abs(read_image(path, side).astype(float) - whole).mean() < 1
        assert np.array_equal(read_image(path), np.asarray(Image.open(path).convert("RGB")))


@pytest.mark.parametrize("size", [(90, 40), (13, 50)])
def test_the_middle_square_is_kept(tmp_path, size):
    gradient(*size).save(tmp_path / "1.png")
    (width, height), short = size, min(size)
    x = ((np.arange(16) + 0.5) / 16 * short + (width - short) / 2 - 0.5) / (width - 1)
    y = ((np.arange(16) + 0.5) / 16 * short + (height - short) / 2 - 0.5) / (height - 1)
    inner = slice(2, -2)  # bicubic weights end at the edges
    for pixels in (read_image(tmp_path / "1.png", 16), fit(np.asarray(gradient(*size)), 16, 16)):
        assert np.allclose(pixels[8, inner, 0] / 255, x[inner], atol=0.012)
        assert np.allclose(pixels[inner, 8, 1] / 255, y[inner], atol=0.012)


MODES = {
    "1": (Image.new("1", (20, 20), 1), 255),
    "I;16": (Image.fromarray(np.full((20, 20), 200 << 8, np.uint16)), 200),
    "P": (Image.new("RGB", (20, 20), (200, 200, 200)).quantize(2), 200),
    "clear": (Image.new("RGBA", (20, 20), (200, 0, 0, 0)), 255),
}  # the others are grey


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "RGBA", "LA", "I;16", "clear"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("1.jpg" if mode == "CMYK" else "1.png")
    grey = Image.new("RGB", (20, 20), (200, 200, 200))
    image, expected = MODES[mode] if mode in MODES else (grey.convert(mode), 200)
    image.save(path)
    for pixels in (read_image(path, 16), read_image(path)):
        assert pixels.shape[2] == 3
        assert np.abs(pixels.astype(int) - expected).max() <= 2


@pytest.mark.parametrize("turn", range(1, 9))
def test_images_stand_upright_and_boxes_with_them(tmp_path, turn):
    stored, exif, path = np.zeros((160, 240), np.uint8), Image.Exif(), tmp_path / "1.jpg"
    stored[16:48, 48:96] = 255
    exif[0x0112] = turn
    Image.fromarray(stored).save(path, exif=exif, quality=95)
    upright, boxed = np.asarray(ImageOps.exif_transpose(Image.open(path))), (path, (48, 16, 96, 48))
    assert common_size([path]) == upright.shape == read_image(path).shape[:2]
    assert np.array_equal(read_mask(boxed), upright > 127)
    assert np.array_equal(read_mask(boxed, 40), read_image(path, 40)[..., 0] > 127)


def test_boxes_become_masks(tmp_path):
    gradient(300, 100).save(path := tmp_path / "1.png")
    sizes = {
        (0, 0, 99, 100): 0,  # left out by the square, which begins at 100
        (0, 0, 150, 100): 25 * 50,
        (-5, -5, 390, 390): 50 * 50,
        (100, 0, 101, 1): 1,  # one pixel at least
        (199.5, 99.5, 200, 100): 1,
        None: 0,
    }
    assert {box: read_mask((path, box), 50).sum() for box in sizes} == sizes


@pytest.mark.parametrize("name", ["1.jpg", "1.png", "1.webp"])
def test_a_damaged_file_is_named(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path := tmp_path / name)
    content = path.read_bytes()
    for kept in (0, 30, len(content) // 2):
        path.write_bytes(content[:kept])
        with pytest.raises(ValueError, match=rf"{name} is damaged or no image"):
            read_image(path, 32)


def test_deep_greys_are_scaled_by_the_depth_that_the_file_tells(tmp_path):
    shown = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(shown.astype(np.uint16) * 257).save(tmp_path / "16.png")
    Image.fromarray(shown.astype(np.uint16) * 257).save(tmp_path / "16.tif")
    Image.fromarray(shown / np.float32(255)).save(tmp_path / "one.tif")
    Image.fromarray(shown.astype(np.float32)).save(tmp_path / "255.tif")
    for path in tmp_path.iterdir():
        assert np.array_equal(read_image(path)[..., 0], shown), path.name


# ------------------------------------------------------------------------------------- many images
def test_links_count_once_and_what_is_hidden_not_at_all(tmp_path):
    top = tmp_path / "set" / "wren"
    for name in ("1.jpg", "deep/2.PNG", ".3.jpg", ".hidden/4.jpg", "5.txt"):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).touch()
    (top / "a-loop").symlink_to(top)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "6.jpg").touch()
    (top / "linked").symlink_to(tmp_path / "elsewhere")
    assert find_images(top) == ["1.jpg", "deep/2.PNG", "linked/6.jpg"]


@pytest.fixture
def files(tmp_path):
    for n in range(8):
        Image.new("RGB", (24, 16), (20 * n, 0, 0)).save(tmp_path / f"{n}.png")
    return sorted(map(str, tmp_path.iterdir()))


PLACES = [slice(2, 5), slice(None, None, -2), [3, 0, -1], [], np.arange(8) % 3 > 0, 3, np.int64(-1)]


@pytest.mark.parametrize("places", PLACES, ids=str)
def test_images_are_fetched_as_from_an_array(files, places):
    images = Lazy(files, read_image, (16, 24, 3))
    whole = np.stack([np.asarray(Image.open(file)) for file in files])
    again = pickle.loads(pickle.dumps(images))
    assert (images.shape, images.dtype, len(images)) == (whole.shape, np.uint8, 8)
    backwards = range(7, -1, -1)
    for same in (again, View(images), View(View(images, backwards), backwards)):
        assert np.array_equal(same[places], whole[places])
    fitted, half = View(images, size=(8, 12)), np.stack([fit(image, 8, 12) for image in whole])
    assert fitted.shape == half.shape
    assert np.array_equal(fitted[places], half[places])
    for outside in (8, [0, 8], np.ones(3, bool)):
        with pytest.raises(IndexError):
            images[outside]


def test_some_of_each_class_are_the_first_or_drawn_by_a_seed():
    labels = np.array([0, 1, 0, 1, 0, 1, 1])
    assert some_of_each_class(labels, 2).tolist() == [0, 1, 2, 3]
    draws = {tuple(some_of_each_class(labels, 2, seed)) for seed in range(20)}
    assert len(draws) > 3
    assert all(np.bincount(labels[list(places)]).tolist() == [2, 2] for places in draws)
    assert all(list(places) == sorted(places) for places in draws)


def test_things_are_spread_evenly_and_none_comes_twice():
    assert (spread(5, 3).tolist(), spread(2, 9).tolist()) == ([0, 2, 4], [0, 1])
