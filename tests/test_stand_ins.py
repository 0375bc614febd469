"""Stand-ins: photographs of the class, a stated share of another's, and the truth kept apart."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import PROJECT
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from diffcore import stand_ins
from diffcore.generation import GENERATED_COLUMNS, open_images, read_generated
from diffcore.metrics import judge
from diffcore.pictures import fit
from diffcore.prompts import PLAN_COLUMNS, plan_generation
from diffcore.stand_ins import (
    RANGES,
    hash_transform,
    judge_stand_ins,
    make_stand_ins,
    plan_stand_ins,
    transform,
)

PHOTOGRAPHS = Path(os.environ.get("DIFFCORE_TEST_DATA", PROJECT / "../shared/data"))
NAMES = ("blue jay", "ovenbird", "horned lark")
SHARES = {"generated_share": 1.0, "planted_share": 0.2, "seed": 0}


class FakeSet:
    """Plain images, each of a colour of its own."""

    def __init__(self, names, side=16):
        ids = [f"{name}/{number}" for number, name in enumerate(names)]
        self.facts = pd.DataFrame({"id": ids, "class_name": list(names)})
        self.images = np.random.default_rng(0).integers(0, 256, (len(ids), side, side, 3), np.uint8)
        self.asked = []

    def __getitem__(self, place):
        self.asked.append(place)
        return {"image": self.images[place], "id": self.facts["id"][place]}


def make_sources(each=10, names=NAMES):
    rows = [(f"train/{name}/{number}", name) for name in names for number in range(each)]
    return pd.DataFrame(rows, columns=["source_id", "class_name"])


def make_spare(each=12, names=NAMES):
    return FakeSet([name for name in names for _ in range(each)])


# ----------------------------------------------------------------------------------------- the plan
def test_a_plan_is_one_of_generation_with_a_photograph_for_each_row():
    plan = plan_stand_ins(make_sources(), make_spare(), **SHARES)
    assert tuple(plan.columns) == (*PLAN_COLUMNS, "photograph", "shows")
    drawn = plan_generation(make_sources(), stand_ins._BOOK, generated_share=1.0, seed=0)
    same = ["sample_id", "class_name", "source_id", "seed"]
    pd.testing.assert_frame_equal(plan[same], drawn[same])
    assert (plan[["context", "negative_prompt"]] == "").all(axis=None)
    assert list(plan["prompt"]) == [
        f"photograph {name}, transformed" for name in plan["photograph"]
    ]
    spare = make_spare().facts.set_index("id")["class_name"]
    assert list(plan["shows"]) == list(spare[plan["photograph"]])


@pytest.mark.parametrize(("share", "count"), [(0.01, 1), (0.3, 3), (0.25, 3), (1.0, 10), (2.5, 25)])
def test_each_class_gets_its_share_and_sources_take_turns(share, count):
    plan = plan_stand_ins(make_sources(), make_spare(), **SHARES | {"generated_share": share})
    assert Counter(plan["class_name"]) == dict.fromkeys(NAMES, count)
    uses = plan["source_id"].value_counts().reindex(make_sources()["source_id"], fill_value=0)
    assert uses.max() - uses.min() <= 1


@given(
    each=st.integers(1, 9), spare=st.integers(1, 9), share=st.floats(0.1, 3),
    planted=st.floats(0, 1), seed=st.integers(0, 2**31 - 1),
)  # fmt: skip
@settings(max_examples=30, deadline=None, derandomize=True)
def test_exactly_the_share_is_planted_and_photographs_last_as_long_as_they_can(
    each, spare, share, planted, seed
):
    plan = plan_stand_ins(
        make_sources(each), make_spare(spare),
        generated_share=share, planted_share=planted, seed=seed,
    )  # fmt: skip
    wrong = plan["shows"] != plan["class_name"]
    assert wrong.sum() == int(planted * len(plan) + 0.5)
    for name in NAMES:
        of_its_own = plan.loc[(plan["class_name"] == name) & ~wrong, "photograph"]
        assert of_its_own.nunique() == min(spare, len(of_its_own))
    # A photograph comes twice only if all of its class were taken, by its own or by planted rows.
    uses = plan["photograph"].value_counts()
    for name, group in plan.groupby("shows")["photograph"]:
        assert uses[group].max() == 1 or group.nunique() == spare, name


def test_planted_photographs_are_unused_ones_while_there_are_any():
    few = FakeSet(["blue jay"] * 10 + ["ovenbird"] * 10 + ["horned lark"] * 10)
    plan = plan_stand_ins(make_sources(), few, **SHARES)
    assert plan["photograph"].is_unique  # 30 stand-ins, 30 photographs, 6 of them planted
    assert (plan["shows"] != plan["class_name"]).sum() == 6


def test_planting_is_spread_over_classes_and_seeds():
    sources, spare = make_sources(200), make_spare(250)
    options = {"generated_share": 1.0, "planted_share": 0.25}
    plan = plan_stand_ins(sources, spare, **options, seed=0)
    wrong = plan[plan["shows"] != plan["class_name"]]
    pairs = pd.crosstab(wrong["class_name"], wrong["shows"])
    for name in NAMES:
        assert pairs.loc[name, name] == 0
        assert 30 < pairs.loc[name].sum() < 70  # 50 expected, standard deviation 5
        assert pairs.loc[name].drop(name).min() > 5
    other = plan_stand_ins(sources, spare, **options, seed=1)
    assert set(wrong["sample_id"]) != set(
        other.loc[other["shows"] != other["class_name"], "sample_id"]
    )


def test_the_same_arguments_give_the_same_plan_whatever_the_order_of_the_spare_ones():
    plan = plan_stand_ins(make_sources(), make_spare(), **SHARES)
    shuffled = make_spare()
    shuffled.facts = shuffled.facts.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(plan_stand_ins(make_sources(), shuffled, **SHARES), plan)


def test_too_few_photographs_are_taken_again_with_another_transformation():
    plan = plan_stand_ins(make_sources(), make_spare(2), **SHARES | {"planted_share": 0.0})
    assert Counter(plan["photograph"]).most_common()[0][1] == 5
    assert plan["seed"].is_unique
    assert not judge_stand_ins(plan)["wrong"].any()


def test_what_cannot_be_planned_is_refused_with_a_remedy():
    sources, spare = make_sources(), make_spare()
    with pytest.raises(ValueError, match=r"1 of 3 .*'horned lark'; make data\.train_images_per"):
        plan_stand_ins(sources, make_spare(names=NAMES[:2]), **SHARES)
    with pytest.raises(ValueError, match=r"generation\.planted_share must be 0"):
        plan_stand_ins(make_sources(names=NAMES[:1]), spare, **SHARES)
    trained = spare.facts.rename(columns={"id": "source_id"})
    with pytest.raises(ValueError, match=r"36 photographs are both .* 'blue jay/0'"):
        plan_stand_ins(trained, spare, **SHARES)
    for wrong in ({"generated_share": 0.0}, {"planted_share": 1.1}, {"planted_share": -0.1}):
        with pytest.raises(ValueError, match="the first must be above 0, the second from 0 to 1"):
            plan_stand_ins(sources, spare, **SHARES | wrong)


def test_the_truth_is_in_the_words_of_an_oracle():
    plan = plan_stand_ins(make_sources(), make_spare(), **SHARES)
    judged = judge_stand_ins(plan)
    count = len(plan)
    oracle = judge(
        plan, species=plan["shows"].to_numpy(), context=np.full(count, "garden"),
        wellformed=np.ones(count, bool), distractors=np.zeros((count, 1), bool),
        distractor_names=["car"], steered_away={"": []},
    )  # fmt: skip
    pd.testing.assert_frame_equal(judged, oracle[list(judged)])
    assert judged["wrong"].sum() == 6


# ----------------------------------------------------------------------------------- transformation
@pytest.fixture(scope="module")
def picture():
    """A smooth picture without symmetry, 48 x 64."""
    noise = np.random.default_rng(3).normal(size=(48, 64, 3))
    smooth = ndimage.gaussian_filter(noise, (6, 6, 0))
    low, high = smooth.min(), smooth.max()
    return np.uint8(255 * (smooth - low) / (high - low))


def only(monkeypatch, **ranges):
    """Switch off all of the transformation but what is given."""
    off = {"mirror": 0.0, "area": (1.0, 1.0), "hue": (0.0, 0.0), "blur": (0.0, 0.0)}
    off |= dict.fromkeys(("brightness", "contrast", "saturation"), (1.0, 1.0))
    monkeypatch.setattr(stand_ins, "RANGES", off | ranges)


def test_a_transformation_is_its_seeds(picture):
    one = transform(picture, 2**63 - 1)
    assert (one.shape, one.dtype) == (picture.shape, np.uint8)
    np.testing.assert_array_equal(transform(picture, 2**63 - 1), one)
    before = picture.copy()
    others = [transform(picture, seed).tobytes() for seed in range(20)]
    assert len(set(others)) == 20
    np.testing.assert_array_equal(picture, before)


def test_without_any_range_an_image_stays_as_it_is(picture, monkeypatch):
    only(monkeypatch)
    for seed in range(3):
        np.testing.assert_allclose(transform(picture, seed).astype(int), picture, atol=1)


def test_half_of_all_images_are_mirrored(picture, monkeypatch):
    only(monkeypatch, mirror=RANGES["mirror"])
    mirrored = 0
    for seed in range(60):
        image = transform(picture, seed).astype(int)
        mirrored += np.abs(image - picture[:, ::-1]).max() <= 1
        assert min(np.abs(image - other).max() for other in (picture, picture[:, ::-1])) <= 1
    assert 18 <= mirrored <= 42


def test_a_crop_keeps_proportions_and_the_stated_area(monkeypatch):
    only(monkeypatch, area=RANGES["area"])
    down, along = np.meshgrid(np.arange(120), np.arange(200), indexing="ij")
    ramp = np.stack([down, along, np.zeros_like(down)], axis=2).astype(np.uint8)
    corners = set()
    for seed in range(60):
        middle = transform(ramp, seed)[10:-10, 10:-10].astype(float)
        # Slopes of the enlarged ramps tell what share of each side was kept.
        share_down = np.ptp(middle[:, 50, 0]) / 99
        share_along = np.ptp(middle[50, :, 1]) / 179
        assert share_down == pytest.approx(share_along, abs=0.03)
        assert 0.58 < share_down * share_along < 1.02
        corners.add((middle[0, 0, 0], middle[0, 0, 1]))
    assert len(corners) > 40


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_colour_factors_are_those_of_pillow(picture, monkeypatch, name):
    from PIL import ImageEnhance

    low, high = RANGES[name]
    only(monkeypatch, **{name: (high, high)})
    enhance = {"brightness": "Brightness", "contrast": "Contrast", "saturation": "Color"}[name]
    expected = getattr(ImageEnhance, enhance)(Image.fromarray(picture)).enhance(high)
    difference = transform(picture, 0).astype(int) - np.asarray(expected)
    assert np.abs(difference).max() <= 2
    assert low < 1 < high


def test_hue_turns_a_little(monkeypatch):
    only(monkeypatch, hue=(RANGES["hue"][1],) * 2)
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 200
    turned = transform(red, 0)[0, 0].astype(int)
    assert turned[1] == pytest.approx(200 * 6 * RANGES["hue"][1], abs=2)  # towards yellow
    assert abs(turned[0] - 200) <= 1
    assert turned[2] <= 1


def test_blur_is_gaussian_and_slight(monkeypatch):
    only(monkeypatch, blur=(0.02, 0.02))
    point = np.zeros((65, 65, 3), np.uint8)
    point[32, 32] = 255
    expected = ndimage.gaussian_filter(point.astype(float), (1.3, 1.3, 0), truncate=4)
    np.testing.assert_allclose(transform(point, 0), expected, atol=1.5)
    assert RANGES["blur"][1] * 448 < 2.5


def test_the_hash_is_of_the_stated_transformation(monkeypatch):
    before = hash_transform()
    assert before == hash_transform()
    only(monkeypatch)
    assert hash_transform() != before
    monkeypatch.undo()
    monkeypatch.setattr(stand_ins, "_VERSION", 2)
    assert hash_transform() != before


# --------------------------------------------------------------------------------------- the images
SIZE = {"height": 16, "width": 16, "progress": False}


def test_stand_ins_are_records_like_drawn_images(tmp_path):
    spare = make_spare()
    plan = plan_stand_ins(make_sources(), spare, **SHARES)
    facts = make_stand_ins(plan, spare, tmp_path, **SIZE)
    assert tuple(facts.columns) == GENERATED_COLUMNS[:-1]
    shared = list(PLAN_COLUMNS)
    pd.testing.assert_frame_equal(facts[shared], plan[shared], check_dtype=False)
    assert set(facts["model"]) == {"stand-in photographs"}
    assert set(facts["model_hash"]) == {hash_transform()}
    assert (facts[["num_inference_steps", "guidance_scale"]] == 0).all(axis=None)
    place = {name: place for place, name in enumerate(spare.facts["id"])}
    images = open_images(tmp_path, facts)
    for row, image in zip(plan.itertuples(), images, strict=True):
        np.testing.assert_array_equal(
            image, transform(spare.images[place[row.photograph]], row.seed)
        )


def test_stand_ins_are_made_once_and_in_the_size_that_is_asked_for(tmp_path):
    spare = make_spare()
    plan = plan_stand_ins(make_sources(), spare, **SHARES)
    facts = make_stand_ins(plan, spare, tmp_path, height=8, width=12, shard_size=7, progress=False)
    assert len(spare.asked) == len(plan) == 30
    again = make_stand_ins(plan, spare, tmp_path, height=8, width=12, progress=False)
    pd.testing.assert_frame_equal(again, facts)
    assert len(spare.asked) == 30
    images = open_images(tmp_path, facts)
    assert images.shape == (30, 8, 12, 3)
    first = Image.fromarray(transform(spare.images[spare.asked[0]], int(plan["seed"][0])))
    np.testing.assert_array_equal(images[0], np.asarray(fit(first, 8, 12)))


def test_stand_ins_survive_other_stand_ins_in_the_same_folder(tmp_path):
    spare = make_spare()
    plans = [plan_stand_ins(make_sources(), spare, **SHARES | {"seed": seed}) for seed in (0, 1)]
    tables = [make_stand_ins(plan, spare, tmp_path, **SIZE) for plan in plans]
    again = make_stand_ins(plans[0], spare, tmp_path, **SIZE)
    pd.testing.assert_frame_equal(again, tables[0])
    assert len(read_generated(tmp_path)) == 60


def test_photographs_that_are_gone_are_named(tmp_path):
    plan = plan_stand_ins(make_sources(), make_spare(), **SHARES)
    with pytest.raises(ValueError, match=r"not to spare, .* 'horned lark/\d+'; plan again"):
        make_stand_ins(plan, make_spare(names=NAMES[:2]), tmp_path, **SIZE)


class Birds:
    """Photographs of a folder of CUB as a set to spare from."""

    def __init__(self, root, side=64):
        self.files = sorted(root.glob("*/*.jpg"))
        ids = [f"{path.parent.name}/{path.stem}" for path in self.files]
        names = [path.parent.name[4:].replace("_", " ").lower() for path in self.files]
        self.facts, self.side = pd.DataFrame({"id": ids, "class_name": names}), side

    def __getitem__(self, place):
        with Image.open(self.files[place]) as image:
            return {"image": np.asarray(fit(image, self.side, self.side))}


@pytest.mark.skipif(not (PHOTOGRAPHS / "cub200-10").is_dir(), reason="no photographs")
def test_photographs_stand_in_and_stay_alike(tmp_path):
    spare = Birds(PHOTOGRAPHS / "cub200-10" / "train")
    names = sorted(set(spare.facts["class_name"]))
    sources = make_sources(6, names)
    plan = plan_stand_ins(sources, spare, **SHARES)
    facts = make_stand_ins(plan, spare, tmp_path, height=64, width=64, progress=False)
    images = open_images(tmp_path, facts)[:].astype(float)
    places = [list(spare.facts["id"]).index(name) for name in plan["photograph"]]
    originals = np.stack([spare[place]["image"] for place in places]).astype(float)

    def closest(image):
        """Which original a stand-in is most alike, mirrored or not, in coarse grey."""
        coarse = [ndimage.zoom(x.mean(axis=-1), 0.125, order=1) for x in (image, image[:, ::-1])]
        return max(
            (np.corrcoef(view.ravel(), other.ravel())[0, 1], place)
            for view in coarse
            for place, other in enumerate(grey)
        )[1]

    grey = [ndimage.zoom(original.mean(axis=-1), 0.125, order=1) for original in originals]
    found = np.mean([closest(image) == place for place, image in enumerate(images)])
    assert found > 0.6  # by chance, one in sixty
    assert (np.abs(images - originals).mean(axis=(1, 2, 3)) > 3).all()  # and none is a copy
