"""Edits: resumed by image, drawn anew for another image, setting or model."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from shipped import assert_same, changed, load_shipped, make_sd

from diffcore.data.splits import load_split
from diffcore.generation import read_generated
from diffcore.generation.edit import edit_images, plan_edits
from diffcore.params import load_params

SAMPLER = {"strength": 0.5, "guidance_scale": 3.0, "num_inference_steps": 4, "height": 64,
           "width": 64, "progress": False}  # fmt: skip


@pytest.fixture(scope="module")
def pipeline():
    return load_shipped()


@pytest.fixture(scope="module")
def params():
    return load_params("smoke")


@pytest.fixture(scope="module")
def train(params):
    return load_split(params, "train").take(range(6))


@pytest.fixture(scope="module")
def plan(params, train):
    return plan_edits(train.metadata, params)


def test_a_style_takes_the_place_of_the_context(params, plan):
    assert set(plan["context"]) <= set(params.mixing.edit_prompts)
    assert set(plan["negative_prompt"]) == {""}
    for row in plan.itertuples():
        assert row.class_name in row.prompt
        assert row.context in row.prompt


@pytest.mark.slow
def test_an_edit_keeps_its_place_and_prompt_whatever_its_batch(plan, train, pipeline, tmp_path):
    whole = edit_images(plan, train, pipeline, tmp_path / "a", **SAMPLER)
    for column in plan:
        assert whole.metadata[column].tolist() == plan[column].tolist()
    assert whole.metadata["model_hash"].is_unique
    assert (whole.images[:] != train.images[:]).any(axis=(1, 2, 3)).all()
    order = [4, 1, 3]
    parts = edit_images(
        plan.iloc[order], train, pipeline, tmp_path / "b", batch_size=2, shard_size=2, **SAMPLER
    )
    assert_same(parts, whole.take(order))


def test_stable_diffusion_edits_too(plan, train, pipeline, tmp_path):
    edited = edit_images(plan[:2], train, make_sd(pipeline), tmp_path, **SAMPLER)
    assert (edited.images[:] != train.images[:2]).any(axis=(1, 2, 3)).all()


@pytest.mark.slow
def test_only_other_images_settings_or_models_are_edited_anew(plan, train, pipeline, tmp_path):
    first = edit_images(plan, train, pipeline, tmp_path, shard_size=2, **SAMPLER)
    files = sorted(tmp_path.iterdir())
    files[0].unlink()  # as a killed run leaves it
    again = edit_images(plan, train, pipeline, tmp_path, shard_size=2, **SAMPLER)
    assert_same(again, first)
    assert sorted(tmp_path.iterdir()) == files
    images = np.array(train.images[:])
    images[2] = 255 - images[2]
    edit_images(plan, replace(train, images=images), pipeline, tmp_path, **SAMPLER)
    assert len(read_generated(tmp_path)) == 7
    edit_images(plan, train, pipeline, tmp_path, **(SAMPLER | {"strength": 1.0}))
    edit_images(plan, train, changed(pipeline), tmp_path, **SAMPLER)
    assert len(read_generated(tmp_path)) == 19


def test_the_pipeline_still_draws_from_text_as_before(plan, train, pipeline, tmp_path):
    def drawn():
        options = {"num_inference_steps": 2, "height": 64, "width": 64, "output_type": "np"}
        return pipeline("a blue jay", generator=torch.Generator().manual_seed(0), **options).images

    before = drawn()
    edit_images(plan, train, pipeline, tmp_path, **SAMPLER)
    np.testing.assert_array_equal(drawn(), before)


@pytest.mark.parametrize("strength", [0.0, 0.2, 1.1])
def test_a_strength_that_runs_no_step_is_refused(plan, train, pipeline, tmp_path, strength):
    with pytest.raises(ValueError, match="leaves none of 4 steps"):
        edit_images(plan, train, pipeline, tmp_path, **(SAMPLER | {"strength": strength}))
