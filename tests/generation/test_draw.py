"""Drawing: a sample does not depend on how it is drawn, and is not drawn twice."""

import numpy as np
import pandas as pd
import pytest
import torch
from shipped import SAMPLER, assert_same, changed, draw, load_shipped, make_plan, make_sd, make_spec

from diffcore.data.generated import GENERATED_COLUMNS, GeneratedSet
from diffcore.generation import generate, read_generated
from diffcore.generation.draw import fill_shards
from diffcore.generation.pipelines import LazyPipeline, hash_model


@pytest.fixture(scope="module")
def pipeline():
    return load_shipped()


@pytest.fixture(scope="module")
def plan():
    return make_plan(12)


@pytest.fixture(scope="module")
def drawn(plan, pipeline, tmp_path_factory):
    return draw(plan, pipeline, tmp_path_factory.mktemp("runs") / "whole", batch_size=8)


# --------------------------------------------------------------------------------------- the pixels
def test_every_row_of_the_plan_is_drawn_once_with_all_that_decided_about_it(plan, drawn, pipeline):
    facts = drawn.metadata
    assert tuple(facts.columns) == (*GENERATED_COLUMNS, "shard", "row")
    pd.testing.assert_frame_equal(facts[list(plan.columns)], plan, check_dtype=False)
    assert set(facts["model"]) == {"text_to_image"}
    assert set(facts["model_hash"]) == {hash_model(pipeline)}
    assert (facts[list(SAMPLER)] == pd.Series(SAMPLER)).all(axis=None)
    assert len(drawn) == len(np.unique(drawn.images[:], axis=0)) == 12


@pytest.mark.parametrize("batch_size", [1, 5])
def test_batches_order_and_company_do_not_change_a_sample(
    plan, pipeline, drawn, tmp_path, batch_size
):
    order = np.random.default_rng(0).permutation(12)[:7]
    again = draw(plan.iloc[order], pipeline, tmp_path, batch_size=batch_size, shard_size=4)
    assert_same(again, drawn.take(order))


@pytest.mark.parametrize("family", ["SDXL", "Stable Diffusion"])
def test_a_sample_is_what_the_pipeline_draws_from_its_texts_and_noise(
    plan, pipeline, tmp_path, family
):
    pipeline = pipeline if family == "SDXL" else make_sd(pipeline)
    found = draw(plan[:2], pipeline, tmp_path).images
    assert (found[0] != found[1]).any()
    for row, image in zip(plan.itertuples(), found, strict=False):
        noise = torch.randn((1, 4, 16, 16), generator=torch.Generator().manual_seed(row.seed))
        texts = {"prompt": row.prompt, "negative_prompt": row.negative_prompt}
        alone = pipeline(**texts, latents=noise, output_type="np", **SAMPLER).images[0]
        assert np.abs(alone * 255 - image).max() <= 1


def test_an_empty_negative_is_what_the_pipeline_takes_for_none(pipeline, tmp_path):
    other, plan, found = changed(pipeline), make_plan(1, negatives=[]), []
    for zeros in (False, True):
        other.register_to_config(force_zeros_for_empty_prompt=zeros)
        generator = torch.Generator().manual_seed(int(plan["seed"][0]))
        noise = torch.randn((1, 4, 16, 16), generator=generator)
        theirs = other(plan["prompt"][0], latents=noise, output_type="np", **SAMPLER).images[0]
        found.append(draw(plan, other, tmp_path).images[0])
        assert np.abs(theirs * 255 - found[-1]).max() <= 1
    assert (found[0] != found[1]).any()


def test_prompts_reach_the_image_and_guidance_of_one_ignores_negatives(pipeline, drawn, tmp_path):
    without = make_plan(2, negatives=[])
    for plan in (without, make_plan(2, template="a {class_name}")):
        other = draw(plan, pipeline, tmp_path)
        assert (other.images[:] != drawn.images[:2]).any(axis=(1, 2, 3)).all()
    plans = make_plan(2), without
    one, two = (draw(plan, pipeline, tmp_path, guidance_scale=1.0).images[:] for plan in plans)
    np.testing.assert_array_equal(one, two)


def test_what_cannot_be_drawn_is_refused(plan, pipeline, tmp_path):
    with pytest.raises(KeyError, match="seed"):
        draw(plan.drop(columns="seed"), pipeline, tmp_path)
    with pytest.raises(ValueError, match="keep_default_na"):
        draw(plan.assign(context=None), pipeline, tmp_path)
    with pytest.raises(ValueError, match="more than once"):
        draw(pd.concat([plan, plan]), pipeline, tmp_path)
    with pytest.raises(TypeError, match="SDXL"):
        draw(plan, torch.nn.Identity(), tmp_path)
    with pytest.raises(TypeError, match="steps"):
        draw(plan, pipeline, tmp_path, steps=3)
    broken = changed(pipeline)
    torch.nn.init.constant_(broken.vae.decoder.conv_out.bias, float("nan"))
    with pytest.raises(FloatingPointError, match="dtype to float32"):
        draw(plan[:1], broken, tmp_path)
    assert not list(tmp_path.iterdir())
    assert len(draw(plan[:0], pipeline, tmp_path / "nothing")) == 0


# --------------------------------------------------------------------------------------- the shards
def test_what_is_drawn_is_not_drawn_again_nor_is_the_model_loaded(plan, tmp_path):
    first = generate(plan[:3], LazyPipeline(make_spec()), tmp_path, progress=False, **SAMPLER)
    files, unused = sorted(tmp_path.iterdir()), LazyPipeline(make_spec())
    again = draw(plan[:3][::-1], unused, tmp_path, batch_size=2)
    assert_same(again, first.take(np.arange(3)[::-1]), atol=0)
    assert sorted(tmp_path.iterdir()) == files
    assert unused._loaded is None


def test_a_changed_setting_prompt_or_model_draws_anew_and_keeps_the_old(pipeline, tmp_path):
    plan = make_plan(1)
    first = draw(plan, pipeline, tmp_path)
    for options in ({"guidance_scale": 4.0}, {"num_inference_steps": 1}):
        other = draw(plan, pipeline, tmp_path, **options)
        assert (other.images[:] != first.images[:]).any()
    chosen = plan.assign(guidance_scale=4.0, num_inference_steps=2)
    assert set(read_generated(tmp_path, chosen).metadata["guidance_scale"]) == {4.0}
    reworded = draw(plan.assign(prompt="a blue jay"), pipeline, tmp_path)
    assert set(reworded.metadata["prompt"]) == {"a blue jay"}
    draw(plan, changed(pipeline), tmp_path)
    assert len(read_generated(tmp_path)) == 5
    assert_same(draw(plan, pipeline, tmp_path), first, atol=0)
    with pytest.raises(ValueError, match=r"several \['model_hash', 'num_inference_steps', 'gui"):
        read_generated(tmp_path, plan)
    with pytest.raises(FileNotFoundError, match="generate into it"):
        read_generated(tmp_path / "nowhere")


def test_a_set_of_images_takes_places_and_masks_and_embeds_once(tmp_path):
    settings = {"num_inference_steps": 0, "guidance_scale": 0.0, "height": 12, "width": 10}
    table = make_plan(4).assign(model="elsewhere", model_hash="1", **settings)
    images = np.random.default_rng(0).integers(0, 256, (4, 12, 10, 3), np.uint8)
    stored = fill_shards(table, lambda rows: images[rows.index], tmp_path, 3)
    with pytest.raises(ValueError, match="without an encoder"):
        _ = stored.embeddings

    class Encoder:
        def embed_images(self, images):
            return images[:].mean(axis=(1, 2))

    for found in (stored.images, images):
        whole = GeneratedSet(stored.metadata, found, Encoder)
        for places in ([3, 0], np.array([True, False, False, True]), slice(1, 3)):
            taken = whole.take(places)
            assert type(taken.images) is type(found)  # in shards they stay there
            np.testing.assert_array_equal(taken.images[:], images[places])
            np.testing.assert_array_equal(taken.embeddings, images[places].mean(axis=(1, 2)))
            assert taken.embeddings is taken.embeddings
            expected = table["sample_id"].to_numpy()[places]
            assert taken.metadata["sample_id"].tolist() == expected.tolist()
