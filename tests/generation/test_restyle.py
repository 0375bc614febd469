"""Restyled images: resumed by image, drawn anew for another image, setting or model."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from shipped import assert_same, changed, load_shipped, make_sd

from diffcore.data.datasets import load_split
from diffcore.generation import read_generated
from diffcore.generation.restyle import plan_restyled, restyle_images
from diffcore.params import load_params

SAMPLER = {"guidance_scale": 3.0, "num_inference_steps": 4, "height": 64, "width": 64}
PARAMS = load_params("smoke")


@pytest.fixture(scope="module")
def pipeline():
    return load_shipped()


@pytest.fixture(scope="module")
def train():
    return load_split(PARAMS, "train").take(range(4))


@pytest.fixture(scope="module")
def plan(train):
    return plan_restyled(train.metadata, PARAMS)


def restyle(*arguments, strength=0.5, **options):
    return restyle_images(*arguments, strength=strength, progress=False, **SAMPLER, **options)


def test_a_style_takes_the_place_of_the_context(plan):
    assert set(plan["context"]) <= set(PARAMS.mixing.edit_prompts)
    assert set(plan["negative_prompt"]) == {""}
    for row in plan.itertuples():
        assert row.class_name in row.prompt
        assert row.context in row.prompt


def test_an_image_keeps_its_place_and_prompt_whatever_its_batch(plan, train, pipeline, tmp_path):
    options = {"num_inference_steps": 2, "height": 64, "width": 64, "output_type": "np"}

    def drawn():
        return pipeline("a blue jay", generator=torch.Generator().manual_seed(0), **options).images

    before = drawn()
    whole = restyle(plan, train, pipeline, tmp_path / "a")
    for column in plan:
        assert whole.metadata[column].tolist() == plan[column].tolist()
    assert whole.metadata["model_hash"].is_unique
    assert (whole.images[:] != train.images[:]).any(axis=(1, 2, 3)).all()
    order = [3, 0, 2]
    some = restyle(plan.iloc[order], train, pipeline, tmp_path / "b", batch_size=2, shard_size=2)
    assert_same(some, whole.take(order))
    np.testing.assert_array_equal(drawn(), before)  # the pipeline draws from text as before


def test_stable_diffusion_restyles_too(plan, train, pipeline, tmp_path):
    restyled = restyle(plan[:2], train, make_sd(pipeline), tmp_path)
    assert (restyled.images[:] != train.images[:2]).any(axis=(1, 2, 3)).all()


def test_only_other_images_settings_or_models_are_restyled_anew(plan, train, pipeline, tmp_path):
    first = restyle(plan, train, pipeline, tmp_path, shard_size=2)
    files = sorted(tmp_path.iterdir())
    files[0].unlink()  # as a killed run leaves it
    assert_same(restyle(plan, train, pipeline, tmp_path, shard_size=2), first)
    assert sorted(tmp_path.iterdir()) == files
    images = np.array(train.images[:])
    images[2] = 255 - images[2]
    restyle(plan, replace(train, images=images), pipeline, tmp_path)
    assert len(read_generated(tmp_path)) == 5
    restyle(plan[:1], train, pipeline, tmp_path, strength=1.0)
    restyle(plan[:1], train, changed(pipeline), tmp_path)
    assert len(read_generated(tmp_path)) == 7


@pytest.mark.parametrize("strength", [0.0, 0.2, 1.1])
def test_a_strength_that_runs_no_step_is_refused(plan, train, pipeline, tmp_path, strength):
    with pytest.raises(ValueError, match="leaves none of 4 steps"):
        restyle(plan, train, pipeline, tmp_path, strength=strength)
