"""Importing: a class-folder tree becomes a generated set, evenly dealt out; mistakes are named."""

import shutil
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from diffcore.data.generated import GENERATED_COLUMNS
from diffcore.data.images import fit, read_image
from diffcore.generation import read_generated
from diffcore.generation.external import plan_external, plan_import
from diffcore.params import load_params
from diffcore.prompts.plan import PLAN_COLUMNS


def make_sources(each=3):
    """Training images of three classes, as CUB names them."""
    names = {"073.Blue_Jay": "blue jay", "091.Ovenbird": "ovenbird"}
    names["160.Cape_May_Warbler"] = "cape may warbler"
    rows = [(f"{folder}/{k}", names[folder], folder) for folder in names for k in range(each)]
    return pd.DataFrame(rows, columns=["source_id", "class_name", "folder"])


def put(path, seed=0, width=20):
    """Save an image of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (16, width, 3), np.uint8)
    Image.fromarray(noise).save(path)
    return noise


@pytest.fixture
def tree(tmp_path):
    """Seven images of one class, one of another, none of the third."""
    folder = tmp_path / "drawn"
    for number in range(7):
        put(folder / "Blue_Jay" / f"{number}.png", seed=number)
    put(folder / "091.Ovenbird" / "deep" / "a.JPG", seed=9)
    return folder


# ----------------------------------------------------------------------------------------- the plan
def test_a_plan_has_all_that_a_drawn_one_has(tree):
    plan = plan_import(tree, make_sources(), seed=0)
    assert tuple(plan.columns) == (*PLAN_COLUMNS, "file")
    assert Counter(plan["class_name"]) == {"blue jay": 7, "ovenbird": 1}
    drawn = {f"imported/Blue_Jay/{n}.png" for n in range(7)}
    assert set(plan["sample_id"]) == {*drawn, "imported/091.Ovenbird/deep/a.JPG"}
    assert all((tree / file).is_file() for file in plan["file"])
    assert (plan[["context", "prompt", "negative_prompt"]] == "").all(axis=None)
    assert (plan["seed"] == 0).all()


def test_the_seed_alone_decides_about_sources(tree):
    sources = make_sources(each=50)
    one = plan_import(tree, sources, seed=1)
    pd.testing.assert_frame_equal(plan_import(tree, sources[::-1], seed=1), one)
    assert one["source_id"][:3].tolist() == [f"073.Blue_Jay/{k}" for k in (10, 29, 45)]
    put(tree / "Cape May Warbler" / "new.png")
    more = plan_import(tree, sources, seed=1)
    kept = more[more["class_name"] != "cape may warbler"].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, one)
    uses = Counter(plan_import(tree, make_sources(), seed=1)["source_id"])
    assert sorted(uses.values()) == [1, 1, 2, 2, 3]  # every image of a class before any again


@pytest.mark.parametrize("name", ["073.Blue_Jay", "BLUE JAY", "7_blue_jay", "n0201"])
def test_a_class_folder_may_be_called_in_several_ways(tmp_path, name):
    put(tmp_path / name / "a.png")
    sources = make_sources()
    if name == "n0201":  # as only the data set calls it
        sources = sources.replace({"folder": {"073.Blue_Jay": name}})
    assert list(plan_import(tmp_path, sources, seed=0)["class_name"]) == ["blue jay"]


def test_a_name_that_fits_two_classes_is_refused_unless_it_is_exact(tmp_path):
    put(tmp_path / "crane" / "a.png")
    rows = [("0", "crane bird", "1.Crane"), ("1", "crane machine", "2.Crane")]
    sources = pd.DataFrame(rows, columns=["source_id", "class_name", "folder"])
    with pytest.raises(ValueError, match="crane may stand for 'crane bird' or 'crane machine'"):
        plan_import(tmp_path, sources, seed=0)
    (tmp_path / "crane").rename(tmp_path / "2.Crane")
    assert list(plan_import(tmp_path, sources, seed=0)["class_name"]) == ["crane machine"]


def test_what_is_no_image_is_passed_over(tree):
    plan = plan_import(tree, make_sources(), seed=0)
    put(tree / "Blue_Jay" / ".hidden.png")
    put(tree / ".thumbnails" / "0.png")
    (tree / "notes").mkdir()  # fits no class, and holds no image
    (tree / "notes" / "workflow.json").write_text("{}")
    pd.testing.assert_frame_equal(plan_import(tree, make_sources(), seed=0), plan)


def test_a_text_beside_an_image_is_its_prompt(tree):
    (tree / "Blue_Jay" / "2.txt").write_text("\ufeffa blue jay,\n a bird, garden\n", "utf-8")
    plan = plan_import(tree, make_sources(), seed=0).set_index("file")
    assert plan.loc["Blue_Jay/2.png", "prompt"] == "a blue jay, a bird, garden"
    assert (plan["prompt"] != "").sum() == 1
    (tree / "Blue_Jay" / "2.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ValueError, match=r"2\.txt is no UTF-8 text; save it as such"):
        plan_import(tree, make_sources(), seed=0)


def test_a_tree_of_another_layout_is_told_the_right_one(tree, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere is no folder; set generation\.pipeline"):
        plan_import(tmp_path / "nowhere", make_sources(), seed=0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no image; expected is .*<class>/image\.png"):
        plan_import(tmp_path / "empty", make_sources(), seed=0)
    (tree / "Blue_Jay").rename(tree / "Blue_Jey")
    with pytest.raises(ValueError, match=r"Blue_Jey fits none of the 3 .* nearest is 'blue jay'"):
        plan_import(tree, make_sources(), seed=0)
    put(tree / "loose.png")
    with pytest.raises(ValueError, match=r"1 images lie in no folder, such as loose\.png"):
        plan_import(tree, make_sources(), seed=0)


# --------------------------------------------------------------------------------------- the images
def bring_in(tree, out):
    pipeline = {"kind": "import", "location": str(tree)}
    params = load_params("smoke", {"generation": {"pipeline": pipeline, "image_size": 16}})
    return plan_external(params, make_sources()).bring_in(out, params.generation)


def test_imported_images_are_a_set_like_drawn_ones(tree, tmp_path):
    noise = put(tree / "Blue_Jay" / "0.png", width=16)
    found = bring_in(tree, tmp_path / "out")
    plan = plan_import(tree, make_sources(), seed=0)
    assert tuple(found.metadata.columns) == (*GENERATED_COLUMNS, "shard", "row")
    shared = list(PLAN_COLUMNS)
    pd.testing.assert_frame_equal(found.metadata[shared], plan[shared], check_dtype=False)
    assert set(found.metadata["model"]) == {"imported"}
    assert (found.metadata[["num_inference_steps", "guidance_scale"]] == 0).all(axis=None)
    for file, image in zip(plan["file"], found.images, strict=True):
        np.testing.assert_array_equal(image, fit(read_image(tree / file), 16, 16))
    np.testing.assert_array_equal(found.images[0], noise)  # of the right size, kept to the pixel


def test_what_is_imported_is_imported_again_only_if_the_tree_changes(tree, tmp_path):
    out = tmp_path / "out"
    first = bring_in(tree, out)
    files = sorted(out.iterdir())
    copy = shutil.copytree(tree, tmp_path / "elsewhere")
    pd.testing.assert_frame_equal(bring_in(copy, out).metadata, first.metadata)
    assert sorted(out.iterdir()) == files
    put(tree / "Blue_Jay" / "3.png", seed=77)
    changed = bring_in(tree, out)
    expected = fit(read_image(tree / "Blue_Jay" / "3.png"), 16, 16)
    np.testing.assert_array_equal(changed.images[3], expected)
    assert len(read_generated(out)) == 2 * len(first)
