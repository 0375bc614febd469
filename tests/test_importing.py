"""Importing: any class-folder tree becomes records, evenly dealt out, and mistakes are named."""

import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import PROJECT
from PIL import Image

from diffcore.generation import GENERATED_COLUMNS, open_images, read_generated
from diffcore.importing import coverage, hash_tree, import_images, plan_import
from diffcore.pictures import fit
from diffcore.prompts import PLAN_COLUMNS

PHOTOGRAPHS = Path(os.environ.get("DIFFCORE_TEST_DATA", PROJECT / "../shared/data"))
SIZE = {"height": 16, "width": 16, "progress": False}


def make_sources(each=3):
    """Training images of three classes, as CUB names them."""
    names = {"073.Blue_Jay": "blue jay", "091.Ovenbird": "ovenbird",
             "160.Cape_May_Warbler": "cape may warbler"}  # fmt: skip
    rows = [(f"{folder}/{k}", names[folder], folder) for folder in names for k in range(each)]
    return pd.DataFrame(rows, columns=["source_id", "class_name", "folder"])


def put(path, seed=0, size=(20, 16), mode="RGB", **options):
    """Save a picture of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).convert(mode).save(path, **options)
    return noise


@pytest.fixture
def tree(tmp_path):
    """Seven images of one class, one of another, none of the third."""
    folder = tmp_path / "drawn"
    for number in range(7):
        put(folder / "Blue_Jay" / f"{number}.png", seed=number)
    put(folder / "091.Ovenbird" / "a.jpg", seed=9)
    return folder


# ----------------------------------------------------------------------------------------- the plan
def test_a_plan_has_all_that_a_drawn_one_has(tree):
    plan = plan_import(tree, make_sources(), seed=0)
    assert tuple(plan.columns) == (*PLAN_COLUMNS, "file")
    assert Counter(plan["class_name"]) == {"blue jay": 7, "ovenbird": 1}
    assert plan["sample_id"].is_unique
    assert set(plan["sample_id"]) == {
        *(f"imported/Blue_Jay/{n}.png" for n in range(7)), "imported/091.Ovenbird/a.jpg",
    }  # fmt: skip
    assert all((tree / file).is_file() for file in plan["file"])
    assert (plan[["context", "prompt", "negative_prompt"]] == "").all(axis=None)
    assert (plan["seed"] == 0).all()


@pytest.mark.parametrize("count", [1, 3, 7])
def test_sources_are_dealt_out_evenly_within_a_class(tmp_path, count):
    for number in range(count):
        put(tmp_path / "ovenbird" / f"{number}.png")
    sources = make_sources()
    plan = plan_import(tmp_path, sources, seed=0)
    uses = Counter(plan["source_id"])
    assert set(uses) <= set(sources.loc[sources["class_name"] == "ovenbird", "source_id"])
    assert max(uses.values()) - min(uses.values()) <= 1
    assert len(uses) == min(count, 3)
    first = plan["source_id"][:3]
    assert first.is_unique  # every training image before any twice


def test_the_seed_alone_decides_about_sources(tree):
    sources = make_sources(each=50)
    one = plan_import(tree, sources, seed=1)
    pd.testing.assert_frame_equal(plan_import(tree, sources[::-1], seed=1), one)
    other = plan_import(tree, sources, seed=2)
    assert (other["source_id"] != one["source_id"]).any()
    pd.testing.assert_frame_equal(other.drop(columns="source_id"), one.drop(columns="source_id"))
    put(tree / "Cape May Warbler" / "new.png")
    more = plan_import(tree, sources, seed=1)
    kept = more[more["class_name"] != "cape may warbler"].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, one)


@pytest.mark.parametrize(
    "name", ["073.Blue_Jay", "Blue_Jay", "blue jay", "BLUE JAY", "7_blue_jay", "blue  jay"]
)
def test_a_class_folder_may_be_called_in_several_ways(tmp_path, name):
    put(tmp_path / name / "a.png")
    assert list(plan_import(tmp_path, make_sources(), seed=0)["class_name"]) == ["blue jay"]
    without = make_sources().drop(columns="folder")
    assert list(plan_import(tmp_path, without, seed=0)["class_name"]) == ["blue jay"]


def test_a_class_folder_may_have_the_name_that_only_the_set_uses(tmp_path):
    put(tmp_path / "n02012849" / "a.png")
    sources = make_sources().replace({"folder": {"091.Ovenbird": "n02012849"}})
    assert list(plan_import(tmp_path, sources, seed=0)["class_name"]) == ["ovenbird"]
    with pytest.raises(ValueError, match="fits none of the 3 classes"):
        plan_import(tmp_path, sources.drop(columns="folder"), seed=0)


def test_a_name_that_fits_two_classes_is_refused_unless_it_is_exact(tmp_path):
    put(tmp_path / "crane" / "a.png")
    rows = [("0", "crane bird", "1.Crane"), ("1", "crane machine", "2.Crane")]
    sources = pd.DataFrame(rows, columns=["source_id", "class_name", "folder"])
    with pytest.raises(ValueError, match="crane may stand for 'crane bird' or 'crane machine'"):
        plan_import(tmp_path, sources, seed=0)
    (tmp_path / "crane").rename(tmp_path / "2.Crane")
    assert list(plan_import(tmp_path, sources, seed=0)["class_name"]) == ["crane machine"]


def test_images_of_one_name_stay_apart(tmp_path):
    files = ["a.png", "a.jpg", "A.JPEG", "a.webp", "deep/a.png", "deep/er/a.png"]
    for file in files:
        put(tmp_path / "ovenbird" / file)
    plan = plan_import(tmp_path, make_sources(), seed=0)
    assert set(plan["file"]) == {f"ovenbird/{file}" for file in files}
    assert plan["sample_id"].is_unique


def test_what_is_no_image_is_passed_over(tree):
    plan = plan_import(tree, make_sources(), seed=0)
    put(tree / "Blue_Jay" / ".hidden.png")
    put(tree / ".thumbnails" / "0.png")
    (tree / "notes").mkdir()  # fits no class, and holds no image
    (tree / "notes" / "workflow.json").write_text("{}")
    (tree / "settings.yaml").write_text("steps: 50")
    pd.testing.assert_frame_equal(plan_import(tree, make_sources(), seed=0), plan)


def test_a_text_beside_an_image_is_its_prompt(tree):
    (tree / "Blue_Jay" / "2.txt").write_text("\ufeffa blue jay,\n a bird, garden\n", "utf-8")
    (tree / "091.Ovenbird" / "b.txt").write_text("of no image")
    plan = plan_import(tree, make_sources(), seed=0).set_index("file")
    assert plan.loc["Blue_Jay/2.png", "prompt"] == "a blue jay, a bird, garden"
    assert (plan["prompt"] != "").sum() == 1
    (tree / "Blue_Jay" / "2.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ValueError, match=r"2\.txt is no UTF-8 text; save it as such"):
        plan_import(tree, make_sources(), seed=0)


def test_classes_without_images_are_told(tree):
    table = coverage(
        plan_import(tree, make_sources(), seed=0), make_sources()["class_name"].unique()
    )
    assert table.to_dict("list") == {
        "class_name": ["blue jay", "ovenbird", "cape may warbler"], "images": [7, 1, 0],
    }  # fmt: skip


def test_a_tree_of_another_layout_is_told_the_right_one(tree, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere is no folder; set generation\.pipeline"):
        plan_import(tmp_path / "nowhere", make_sources(), seed=0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no image; expected is .*<class>/image\.png"):
        plan_import(tmp_path / "empty", make_sources(), seed=0)
    put(tree / "loose.png")
    with pytest.raises(ValueError, match=r"1 images lie in .*, such as loose\.png; expected is"):
        plan_import(tree, make_sources(), seed=0)


def test_an_unknown_class_is_named_with_the_nearest(tree):
    (tree / "Blue_Jay").rename(tree / "Blue_Jey")
    with pytest.raises(ValueError, match=r"Blue_Jey fits none of the 3 .* nearest is 'blue jay'"):
        plan_import(tree, make_sources(), seed=0)
    put(tree / "zebra" / "a.png")
    put(tree / "___" / "a.png")
    with pytest.raises(ValueError, match=r"\(and 2 more\) fits none"):
        plan_import(tree, make_sources(), seed=0)


# --------------------------------------------------------------------------------------- the images
def test_imported_images_are_records_like_drawn_ones(tree, tmp_path):
    plan = plan_import(tree, make_sources(), seed=0)
    out = tmp_path / "out"
    facts = import_images(tree, plan, out, height=12, width=24, progress=False)
    assert tuple(facts.columns) == GENERATED_COLUMNS[:-1]
    pd.testing.assert_frame_equal(
        facts[list(PLAN_COLUMNS)], plan[list(PLAN_COLUMNS)], check_dtype=False
    )
    for column, value in {
        "model": "imported", "num_inference_steps": 0, "guidance_scale": 0.0, "height": 12,
        "width": 24,
    }.items():  # fmt: skip
        assert set(facts[column]) == {value}
    images = open_images(out, facts)
    for file, image in zip(plan["file"], images, strict=True):
        np.testing.assert_array_equal(image, fit(Image.open(tree / file).convert("RGB"), 12, 24))


def test_an_image_of_the_right_size_is_kept_to_the_pixel(tmp_path):
    noise = put(tmp_path / "tree" / "ovenbird" / "a.png", size=(16, 16))
    plan = plan_import(tmp_path / "tree", make_sources(), seed=0)
    facts = import_images(tmp_path / "tree", plan, tmp_path / "out", **SIZE)
    np.testing.assert_array_equal(open_images(tmp_path / "out", facts)[0], noise)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "CMYK"])
def test_every_kind_of_picture_becomes_rgb(tmp_path, mode):
    suffix = "jpg" if mode == "CMYK" else "png"
    put(tmp_path / "tree" / "ovenbird" / f"a.{suffix}", mode=mode)
    plan = plan_import(tmp_path / "tree", make_sources(), seed=0)
    facts = import_images(tmp_path / "tree", plan, tmp_path / "out", **SIZE)
    assert open_images(tmp_path / "out", facts).shape == (1, 16, 16, 3)


def test_a_picture_that_lies_on_its_side_is_put_upright(tmp_path):
    upright = np.zeros((32, 32, 3), np.uint8)
    upright[:16] = 255  # light above
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: to be shown a quarter turn clockwise
    path = tmp_path / "tree" / "ovenbird" / "a.jpg"
    path.parent.mkdir(parents=True)
    Image.fromarray(np.rot90(upright)).save(path, exif=exif, quality=95)
    plan = plan_import(tmp_path / "tree", make_sources(), seed=0)
    facts = import_images(tmp_path / "tree", plan, tmp_path / "out", height=32, width=32,
                          progress=False)  # fmt: skip
    image = open_images(tmp_path / "out", facts)[0].astype(int)
    assert np.abs(image - upright).mean() < 5


def test_what_is_imported_is_not_imported_again(tree, tmp_path):
    plan, out = plan_import(tree, make_sources(), seed=0), tmp_path / "out"
    facts = import_images(tree, plan, out, **SIZE)
    before = sorted(out.iterdir())
    copy = shutil.copytree(tree, tmp_path / "elsewhere")
    pd.testing.assert_frame_equal(import_images(copy, plan, out, **SIZE), facts)
    assert sorted(out.iterdir()) == before
    put(tree / "Blue_Jay" / "3.png", seed=77)
    changed = import_images(tree, plan, out, **SIZE)
    assert set(changed["model_hash"]).isdisjoint(facts["model_hash"])
    expected = np.asarray(fit(Image.open(tree / "Blue_Jay" / "3.png").convert("RGB"), 16, 16))
    np.testing.assert_array_equal(open_images(out, changed)[3], expected)
    assert len(read_generated(out)) == 2 * len(plan)


def test_a_damaged_image_is_named_and_what_came_before_it_stays(tree, tmp_path):
    path = tree / "Blue_Jay" / "5.png"
    path.write_bytes(path.read_bytes()[:300])
    plan = plan_import(tree, make_sources(), seed=0)
    with pytest.raises(ValueError, match=r"Blue_Jay/5\.png is no image that can be read .*replace"):
        import_images(tree, plan, tmp_path / "out", shard_size=2, **SIZE)
    assert len(read_generated(tmp_path / "out")) == 4
    path.write_text("no image")
    with pytest.raises(ValueError, match=r"Blue_Jay/5\.png is no image"):
        import_images(tree, plan, tmp_path / "out", **SIZE)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"5\.png"):
        import_images(tree, plan, tmp_path / "out", **SIZE)


def test_the_hash_tells_trees_apart_and_not_where_they_lie(tree, tmp_path):
    files = list(plan_import(tree, make_sources(), seed=0)["file"])
    hashes = [hash_tree(tree, files)]
    assert hash_tree(shutil.copytree(tree, tmp_path / "copy"), files[::-1]) == hashes[0]
    noise = put(tree / "Blue_Jay" / "0.png", size=(200, 200))  # 120 kB, its middle not read
    hashes.append(hash_tree(tree, files))
    noise[100, 100] ^= 1
    Image.fromarray(noise).save(tree / "Blue_Jay" / "0.png")
    hashes += [hash_tree(tree, files), hash_tree(tree, files[1:]), hash_tree(tree, [])]
    (tree / files[0]).rename(tree / "Blue_Jay" / "zero.png")
    hashes.append(hash_tree(tree, ["Blue_Jay/zero.png", *files[1:]]))
    assert len(set(hashes)) == 6


@pytest.mark.skipif(not (PHOTOGRAPHS / "cub200-10").is_dir(), reason="no photographs")
def test_a_tree_of_photographs_is_imported(tmp_path):
    train = PHOTOGRAPHS / "cub200-10" / "train"
    names = sorted(path.name for path in train.iterdir())[:3]
    sources = pd.DataFrame({"source_id": names, "class_name": [n[4:].lower() for n in names]})
    for name in names:
        (tmp_path / "tree").mkdir(exist_ok=True)
        (tmp_path / "tree" / name[4:]).symlink_to((train / name).resolve())
    plan = plan_import(tmp_path / "tree", sources, seed=0)
    facts = import_images(tmp_path / "tree", plan, tmp_path / "out", height=64, width=64,
                          progress=False)  # fmt: skip
    assert coverage(plan, sources["class_name"])["images"].tolist() == [
        len(list((train / name).glob("*.jpg"))) for name in names
    ]
    images = open_images(tmp_path / "out", facts)
    assert images.shape == (len(plan), 64, 64, 3)
    assert min(image.std() for image in images) > 5  # pictures, not blanks
