"""Substitutes: photographs of the class, a stated share of another's, and the truth kept apart."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from diffcore.data.generated import GENERATED_COLUMNS
from diffcore.data.images import fit
from diffcore.data.splits import Split
from diffcore.generation import read_generated
from diffcore.generation.external import plan_external
from diffcore.generation.substitutes import NOISE_SHARE, plan_substitutes, transform
from diffcore.params import load_params
from diffcore.prompts import load_prompt_set, plan_generation
from diffcore.prompts.plan import PLAN_COLUMNS

NAMES = ("blue jay", "ovenbird", "horned lark")
SHARES = {"generated_share": 1.0, "seed": 0}


def make_sources(each=10, names=NAMES):
    rows = [(f"train/{name}/{number}", name) for name in names for number in range(each)]
    return pd.DataFrame(rows, columns=["source_id", "class_name"])


def make_spare(each=12, names=NAMES):
    """Images of noise, of another size than they are wanted in."""
    metadata = make_sources(each, names).assign(label=0)
    metadata["source_id"] = metadata["source_id"].str.replace("train", "spare")
    images = np.random.default_rng(0).integers(0, 256, (len(metadata), 24, 24, 3), np.uint8)
    return Split("spare", names, metadata, images)


# ----------------------------------------------------------------------------------------- the plan
def test_a_plan_is_one_of_generation_with_a_photograph_for_each_row():
    spare = make_spare()
    plan = plan_substitutes(make_sources(), spare, **SHARES)
    assert tuple(plan.columns) == (*PLAN_COLUMNS, "photograph", "shows")
    drawn = plan_generation(make_sources(), load_prompt_set("birds"), **SHARES)
    same = ["sample_id", "class_name", "source_id", "seed"]
    pd.testing.assert_frame_equal(plan[same], drawn[same])
    assert (plan[["context", "negative_prompt"]] == "").all(axis=None)
    assert (plan["prompt"] == "photograph " + plan["photograph"] + ", transformed").all()
    classes = spare.metadata.set_index("source_id")["class_name"]
    assert list(plan["shows"]) == list(classes[plan["photograph"]])
    wrong = plan.loc[plan["shows"] != plan["class_name"], ["sample_id", "photograph"]]
    assert wrong.to_numpy().tolist() == [
        ["train/ovenbird/5-0-0", "spare/blue jay/4"],
        ["train/ovenbird/8-0-0", "spare/blue jay/11"],
        ["train/horned lark/3-0-0", "spare/ovenbird/3"],
    ]
    shuffled = spare.take(np.random.default_rng(0).permutation(len(spare)))
    pd.testing.assert_frame_equal(plan_substitutes(make_sources(), shuffled, **SHARES), plan)


SOME = {"each": st.integers(1, 9), "spare": st.integers(1, 9), "share": st.floats(0.1, 3)}


@given(**SOME, seed=st.integers(0, 2**31 - 1))
@settings(max_examples=15, derandomize=True)
def test_exactly_the_share_is_noise_and_photographs_last_as_long_as_they_can(
    each, spare, share, seed
):
    plan = plan_substitutes(make_sources(each), make_spare(spare), generated_share=share, seed=seed)
    wrong = plan["shows"] != plan["class_name"]
    assert wrong.sum() == int(NOISE_SHARE * len(plan) + 0.5)
    for name in NAMES:
        of_its_own = plan.loc[(plan["class_name"] == name) & ~wrong, "photograph"]
        assert of_its_own.nunique() == min(spare, len(of_its_own))
    # A photograph comes twice only if all of its class were taken, by its own or by noisy rows.
    uses = plan["photograph"].value_counts()
    for name, group in plan.groupby("shows")["photograph"]:
        assert uses[group].max() == 1 or group.nunique() == spare, name


def test_too_few_photographs_are_taken_again_and_a_class_without_any_is_named():
    plan = plan_substitutes(make_sources(), make_spare(2), **SHARES)
    assert Counter(plan["photograph"]).most_common()[0][1] >= 5
    assert plan["seed"].is_unique  # each time transformed otherwise
    with pytest.raises(ValueError, match=r"1 of 3 .*'horned lark'; make data\.train_images_per"):
        plan_substitutes(make_sources(), make_spare(names=NAMES[:2]), **SHARES)


# ----------------------------------------------------------------------------------- transformation
@pytest.fixture(scope="module")
def image():
    """A smooth image without symmetry, 48 x 64."""
    noise = np.random.default_rng(3).normal(size=(48, 64, 3))
    smooth = ndimage.gaussian_filter(noise, (6, 6, 0))
    return np.uint8(255 * (smooth - smooth.min()) / np.ptp(smooth))


def test_a_transformation_is_its_seeds(image):
    one = transform(image, 2**63 - 1)
    assert (one.shape, one.dtype) == (image.shape, np.uint8)
    np.testing.assert_array_equal(transform(image, 2**63 - 1), one)
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    assert [int(transform(noise, seed).sum()) for seed in (1, 2)] == [553072, 924855]


# --------------------------------------------------------------------------------------- the images
def test_substitutes_are_a_set_like_drawn_images_with_the_truth_apart(tmp_path):
    generation = {"image_size": 16, "shard_size": 7, "generated_share": 1.0}
    generation["pipeline"] = {"kind": "substitute"}
    params = load_params("smoke", {"generation": generation})
    spare, sources = make_spare(), make_sources()
    external = plan_external(params, sources, spare)
    found = external.bring_in(tmp_path, params.generation)
    plan = plan_substitutes(sources, spare, **SHARES | {"seed": params.seed})
    assert tuple(found.metadata.columns) == (*GENERATED_COLUMNS, "shard", "row")
    shared = list(PLAN_COLUMNS)
    pd.testing.assert_frame_equal(found.metadata[shared], plan[shared], check_dtype=False)
    places = pd.Index(spare.metadata["source_id"]).get_indexer(plan["photograph"])
    for place, row, image in zip(places, plan.itertuples(), found.images, strict=True):
        np.testing.assert_array_equal(image, fit(transform(spare.images[place], row.seed), 16, 16))
    judged = external.judge(found.metadata.iloc[[5, 3, 8]])
    assert judged["sample_id"].tolist() == plan["sample_id"].iloc[[5, 3, 8]].tolist()
    assert external.truth["wrong"].tolist() == (plan["shows"] != plan["class_name"]).tolist()
    other = plan_external(params.model_copy(update={"seed": 1}), sources, spare)
    other.bring_in(tmp_path, params.generation)
    again = external.bring_in(tmp_path, params.generation)
    pd.testing.assert_frame_equal(again.metadata, found.metadata)
    assert len(read_generated(tmp_path)) == 60
    darker = replace(spare, images=spare.images // 2)  # the same names, in another folder
    replaced = plan_external(params, sources, darker).bring_in(tmp_path, params.generation)
    assert not any(map(np.array_equal, replaced.images, found.images))
