"""Photographs are decoded right whatever their mode, turn and size, and masks go with them."""

import pickle

import numpy as np
import pytest
from layouts import PHOTOGRAPHS, lay_out, needs_photographs
from PIL import Image, ImageOps

from diffcore.params import DataParams
from diffcore.photos import open_photos
from diffcore.photos.decoding import decode, size_of


def folder(root, pictures, **changes):
    """A set of one class, with a picture for training by this name, and one for testing."""
    (root / "a").mkdir(exist_ok=True)
    for name, picture in pictures.items():
        picture.save(root / "a" / name)
    return DataParams(dataset="folder", root=str(root), **changes)


def gradient(width, height):
    """A smooth picture without any symmetry."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    planes = np.stack([x, y, x * (1 - y)], axis=-1)
    return Image.fromarray((planes * 255).astype(np.uint8))


# ----------------------------------------------------------------------------------------- pixels
@needs_photographs
@pytest.mark.parametrize("side", [32, 224])
def test_a_large_jpeg_is_decoded_like_the_whole_picture(side):
    for path in sorted((PHOTOGRAPHS / "cub200-10/train/017.Cardinal").iterdir())[:4]:
        pixels, mask = decode(path, -1, side, None)
        whole = ImageOps.fit(
            Image.open(path).convert("RGB"), (side, side), Image.Resampling.BICUBIC
        )
        assert mask is None
        assert (pixels.shape, pixels.dtype) == ((side, side, 3), np.uint8)
        # JPEG's own reduction, which saves most of the time, leaves a trace in fine patterns.
        assert np.abs(pixels.astype(float) - np.asarray(whole)).mean() < 3


@pytest.mark.parametrize("size", [(90, 40), (40, 90), (13, 50), (16, 16)])
def test_the_middle_square_is_kept(tmp_path, size):
    gradient(*size).save(tmp_path / "1.png")
    pixels, _ = decode(tmp_path / "1.png", -1, 16, None)
    width, height = size
    short = min(size)
    x = ((np.arange(16) + 0.5) / 16 * short + (width - short) / 2 - 0.5) / (width - 1)
    y = ((np.arange(16) + 0.5) / 16 * short + (height - short) / 2 - 0.5) / (height - 1)
    inner = slice(2, -2)  # bicubic weights end at the edges
    assert np.allclose(pixels[8, inner, 0] / 255, x[inner], atol=0.012)
    assert np.allclose(pixels[inner, 8, 1] / 255, y[inner], atol=0.012)


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "RGBA", "LA", "I;16", "YCbCr"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    plain = Image.new("RGB", (20, 20), (200, 200, 200))
    if mode == "1":
        picture, expected = Image.new("1", (20, 20), 1), 255
    elif mode == "I;16":
        picture, expected = Image.fromarray(np.full((20, 20), 200 << 8, np.uint16)), 200
    elif mode == "P":
        picture, expected = plain.quantize(2), 200
    else:
        picture, expected = plain.convert(mode), 200
    path = tmp_path / ("1.jpg" if mode in {"CMYK", "YCbCr"} else "1.png")
    picture.save(path)
    pixels, _ = decode(path, -1, 16, None)
    assert pixels.shape == (16, 16, 3)
    assert np.abs(pixels.astype(int) - expected).max() <= 2


def test_the_transparent_is_white(tmp_path):
    Image.new("RGBA", (20, 20), (200, 0, 0, 0)).save(tmp_path / "1.png")
    palette = gradient(20, 20).quantize(8)
    palette.save(tmp_path / "2.png", transparency=b"\x00" * 8)
    for name in ("1.png", "2.png"):
        assert (decode(tmp_path / name, -1, 16, None)[0] == 255).all()


@pytest.mark.parametrize("turn", range(1, 9))
def test_pictures_stand_upright_and_boxes_with_them(tmp_path, turn):
    stored = np.zeros((160, 240), np.uint8)
    stored[16:48, 48:96] = 255
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(stored).save(tmp_path / "1.jpg", exif=exif, quality=95)
    upright = ImageOps.exif_transpose(Image.open(tmp_path / "1.jpg"))
    box = (48, 16, 96, 48)
    pixels, mask = decode(tmp_path / "1.jpg", -1, None, box)
    assert size_of(tmp_path / "1.jpg", -1) == upright.size == pixels.shape[1::-1]
    assert np.array_equal(mask, np.asarray(upright) > 127)
    pixels, mask = decode(tmp_path / "1.jpg", -1, 40, box)
    assert np.array_equal(mask, pixels[..., 0] > 127)


# ------------------------------------------------------------------------------------------ masks
def test_a_box_that_the_square_leaves_out_makes_no_mask(tmp_path):
    gradient(300, 100).save(tmp_path / "1.png")
    assert decode(tmp_path / "1.png", -1, 50, (0, 0, 99, 100))[1] is None
    assert decode(tmp_path / "1.png", -1, 50, (210, 0, 290, 100))[1] is None
    assert decode(tmp_path / "1.png", -1, 50, (0, 0, 150, 100))[1].sum() == 25 * 50


def test_a_small_box_has_one_pixel_at_least(tmp_path):
    gradient(400, 400).save(tmp_path / "1.png")
    for x, y in ((0, 0), (399, 399), (201, 17)):
        mask = decode(tmp_path / "1.png", -1, 16, (x, y, x + 1, y + 1))[1]
        assert mask.sum() == 1
        rows, columns = np.nonzero(mask)
        assert abs(rows[0] + 0.5 - y / 25) <= 1
        assert abs(columns[0] + 0.5 - x / 25) <= 1


def test_a_box_may_reach_beyond_its_picture(tmp_path):
    gradient(40, 40).save(tmp_path / "1.png")
    assert decode(tmp_path / "1.png", -1, 16, (-5, -5, 90, 90))[1].all()


# ----------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize("name", ["1.jpg", "1.png", "1.webp"])
@pytest.mark.parametrize("kept", [0, 30, 0.5])
def test_a_damaged_file_is_named(tmp_path, name, kept):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = tmp_path / name
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept == 0.5 else kept])
    with pytest.raises(ValueError, match=rf"{name} is damaged or no picture"):
        decode(path, -1, 32, None)


def test_a_damaged_file_of_a_set_is_named_when_it_is_reached(tmp_path):
    data = folder(tmp_path, {f"{n}.png": gradient(30, 30) for n in range(6)}, image_size=16)
    for file in (tmp_path / "a").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    photos = open_photos(data, "train")
    with pytest.raises(ValueError, match=r"a/\d\.png is damaged or no picture"):
        photos[0]
    with pytest.raises(ValueError, match=r"a/\d\.png is damaged or no picture"):
        photos.images[:2]


def test_sizes_that_differ_are_told_with_the_remedy(tmp_path):
    pictures = {f"{n}.png": gradient(30, 30) for n in range(9)} | {"x.png": gradient(31, 30)}
    data = folder(tmp_path, pictures, test_share=0.001)
    message = r"0\.png of 30 x 30, .*x\.png of 31 x 30 pixels; set data.image_size"
    tests = set(open_photos(data.model_copy(update={"image_size": 16}), "test").facts["id"])
    assert tests.isdisjoint({"a/0", "a/x"})  # or the message would not name both
    with pytest.raises(ValueError, match=message):
        open_photos(data, "train")
    assert len(open_photos(data.model_copy(update={"image_size": 16}), "train")) == 9


# -------------------------------------------------------------------------------------- sequences
@pytest.fixture
def photos(tmp_path):
    pictures = {f"{n}.png": Image.new("RGB", (24, 16), (20 * n, 0, 0)) for n in range(9)}
    return open_photos(folder(tmp_path, pictures, test_share=0.001), "train")


def test_images_are_a_sequence_of_arrays(photos):
    images = photos.images
    assert (len(photos), images.shape, images.dtype) == (8, (8, 16, 24, 3), np.uint8)
    whole = np.asarray(images)
    assert np.array_equal(whole, np.stack([item["image"] for item in photos]))
    assert np.array_equal(whole, np.stack(list(images)))
    assert len({tuple(image[0, 0]) for image in whole}) == 8


@pytest.mark.parametrize(
    "places",
    [slice(2, 5), slice(None, None, -2), [3, 0, -1], np.array([1, 1]), [], np.arange(8) % 3 == 0],
    ids=["slice", "backwards", "list", "array", "none", "mask"],
)
def test_images_are_chosen_as_from_an_array(photos, places):
    whole = np.asarray(photos.images)
    chosen = photos.images[places]
    expected = whole[places] if len(np.shape(places)) == 0 or len(places) else whole[:0]
    assert np.array_equal(chosen, expected)
    assert np.array_equal(photos.images[np.int64(3)], whole[3])
    assert np.array_equal(photos.images[-1], whole[-1])


def test_a_place_outside_is_an_error(photos):
    for place in (8, [0, 8], np.ones(3, bool)):
        with pytest.raises(IndexError):
            photos.images[place]
    with pytest.raises(IndexError):
        photos[8]


def test_a_set_can_go_to_another_process(photos):
    there = pickle.loads(pickle.dumps(photos))
    assert np.array_equal(there.images[3], photos.images[3])


@needs_photographs
def test_items_fit_what_the_study_reads_into_arrays(tmp_path):
    from diffcore.data import in_memory

    overrides = lay_out("cub200", tmp_path, PHOTOGRAPHS, per_class=2, classes=2)
    data = DataParams(dataset="cub200", root=overrides["data.root"], image_size=32)
    photos = open_photos(data, "test")
    arrays = in_memory(photos)
    assert arrays.pixels.shape == (4, 32, 32, 3)
    assert arrays.masks.shape == (4, 32, 32)
    assert arrays.labels.tolist() == photos.facts["label"].tolist() == [0, 0, 1, 1]
    assert arrays.ids.tolist() == photos.facts["id"].tolist()
