"""Drawing: what is drawn does not depend on how it is drawn, and a kill costs one shard."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import PNDMScheduler
from shipped import SAMPLER, assert_same, changed, draw, load_shipped, make_plan, make_sd, make_spec

from diffcore.generation import generate, read_generated
from diffcore.generation.draw import GENERATED_COLUMNS, GeneratedSet, fill_shards
from diffcore.generation.pipelines import LazyPipeline, hash_model
from diffcore.store import digest


@pytest.fixture(scope="module")
def pipeline():
    return load_shipped()


@pytest.fixture(scope="module")
def plan():
    return make_plan(21)


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
    assert len(drawn) == len(np.unique(drawn.images[:], axis=0)) == 21


@pytest.mark.parametrize("batch_size", [1, 5, 32])
def test_batches_order_and_company_do_not_change_a_sample(
    plan, pipeline, drawn, tmp_path, batch_size
):
    order = np.random.default_rng(0).permutation(21)[:11]
    again = draw(plan.iloc[order], pipeline, tmp_path, batch_size=batch_size, shard_size=7)
    assert_same(again, drawn.take(order))


def test_a_sample_is_what_the_pipeline_draws_from_its_texts_and_noise(plan, pipeline, drawn):
    for row, image in zip(plan.head(2).itertuples(), drawn.images, strict=False):
        noise = torch.randn((1, 4, 16, 16), generator=torch.Generator().manual_seed(row.seed))
        theirs = pipeline(
            row.prompt, negative_prompt=row.negative_prompt, latents=noise, output_type="np",
            **SAMPLER,
        ).images[0]  # fmt: skip
        assert np.abs(theirs * 255 - image).max() <= 1


def test_an_empty_negative_is_what_the_pipeline_takes_for_none(pipeline, tmp_path):
    other, plan = changed(pipeline), make_plan(1, use_negatives=False)
    seed, found = int(plan["seed"][0]), []
    for zeros in (False, True):
        other.register_to_config(force_zeros_for_empty_prompt=zeros)
        noise = torch.randn((1, 4, 16, 16), generator=torch.Generator().manual_seed(seed))
        theirs = other(plan["prompt"][0], latents=noise, output_type="np", **SAMPLER).images[0]
        found.append(draw(plan, other, tmp_path).images[0])
        assert np.abs(theirs * 255 - found[-1]).max() <= 1
    assert (found[0] != found[1]).any()


def test_stable_diffusion_draws_as_its_own_call_would(pipeline, tmp_path):
    other, plan = make_sd(pipeline), make_plan(3)
    found = draw(plan, other, tmp_path, batch_size=2).images
    row, noise = plan.iloc[1], torch.Generator().manual_seed(int(plan["seed"][1]))
    alone = other(
        row["prompt"], negative_prompt=row["negative_prompt"], generator=noise,
        output_type="np", **SAMPLER,
    ).images[0]  # fmt: skip
    assert np.abs(found[1] - 255 * alone).max() <= 1
    assert (found[0] != found[1]).any()


@pytest.mark.parametrize("family", ["SDXL", "Stable Diffusion", "PNDM"])
def test_last_steps_without_guidance_compute_half(pipeline, tmp_path, family):
    other, plan = pipeline if family == "SDXL" else make_sd(pipeline), make_plan(2)
    if family == "PNDM":  # of Stable Diffusion 1.5: it takes one step more than is asked
        other.scheduler = PNDMScheduler(skip_prk_steps=True)
    found, rows = {}, {}
    for unguided in (0, 2):
        with mock.patch.object(other.unet, "forward", wraps=other.unet.forward) as forward:
            found[unguided] = draw(plan, other, tmp_path, unguided_steps=unguided)
        rows[unguided] = [len(call.args[0]) for call in forward.call_args_list]
    steps = len(rows[0])
    assert steps == 3 + (family == "PNDM")
    assert rows == {0: [4] * steps, 2: [4] * (steps - 2) + [2, 2]}
    assert (found[0].images[:] != found[2].images[:]).any(axis=(1, 2, 3)).all()
    assert set(found[0].metadata["model_hash"]) == {hash_model(other)}
    assert set(found[2].metadata["model_hash"]) == {digest(hash_model(other), "unguided", 2)}


def test_unguided_steps_are_drawn_once_and_change_nothing_without_guidance(pipeline, tmp_path):
    plan = make_plan(2)
    part = draw(plan, pipeline, tmp_path, unguided_steps=1)
    with mock.patch("diffcore.generation.draw._draw", side_effect=AssertionError("drawn again")):
        again = draw(plan, pipeline, tmp_path, unguided_steps=1)
    assert_same(part, again, atol=0)
    one, two = (
        draw(plan, pipeline, tmp_path, guidance_scale=1.0, unguided_steps=n) for n in (0, 2)
    )
    assert_same(one, two, atol=0)
    with pytest.raises(ValueError, match="unguided_steps 3 must be below"):
        draw(plan, pipeline, tmp_path, unguided_steps=3)


def test_context_and_negatives_reach_the_image_and_guidance_of_one_ignores_negatives(
    pipeline, drawn, tmp_path
):
    for options in ({"use_context": False}, {"use_negatives": False}):
        other = draw(make_plan(3, **options), pipeline, tmp_path)
        assert (other.images[:] != drawn.images[:3]).any(axis=(1, 2, 3)).all()
    plans = make_plan(2), make_plan(2, use_negatives=False)
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
    broken = changed(pipeline)
    torch.nn.init.constant_(broken.vae.decoder.conv_out.bias, float("nan"))
    with pytest.raises(FloatingPointError, match="dtype to float32"):
        draw(plan[:1], broken, tmp_path)
    assert not list(tmp_path.iterdir())
    assert len(draw(plan[:0], pipeline, tmp_path)) == 0


# --------------------------------------------------------------------------------------- the shards
INTERRUPTED = """
import sys, time
sys.path.insert(0, {tests!r})
import pandas as pd
from diffcore.generation import load_pipeline
from shipped import draw, make_spec
pipeline = load_pipeline(make_spec())
pipeline.unet.register_forward_pre_hook(lambda *_: time.sleep(0.05))
draw(pd.read_parquet({plan!r}), pipeline, {out!r}, batch_size=2, shard_size=4)
"""


def kill_midway(script, out):
    """Run a script and kill -9 it as soon as two shards are there."""
    process = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 240
    while len(list(out.glob("[!.]*.parquet"))) < 2:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_a_killed_run_resumes_with_the_same_samples(plan, pipeline, drawn, tmp_path):
    out, file = tmp_path / "out", tmp_path / "plan.parquet"
    plan.to_parquet(file)
    tests = str(Path(__file__).parent)
    kill_midway(INTERRUPTED.format(tests=tests, out=str(out), plan=str(file)), out)
    before = {path: path.stat().st_mtime_ns for path in out.glob("[!.]*.parquet")}
    assert 8 <= len(read_generated(out)) < len(plan)
    assert_same(draw(plan, pipeline, out, batch_size=7), drawn)
    assert len(read_generated(out)) == len(plan)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_what_is_drawn_is_not_drawn_again_nor_is_the_model_loaded(plan, tmp_path):
    first = generate(plan[:5], LazyPipeline(make_spec()), tmp_path, progress=False, **SAMPLER)
    files, unused = sorted(tmp_path.iterdir()), LazyPipeline(make_spec())
    again = draw(plan[:5][::-1], unused, tmp_path, batch_size=2)
    assert_same(again, first.take(np.arange(5)[::-1]), atol=0)
    assert sorted(tmp_path.iterdir()) == files
    assert unused._loaded is None


def test_a_changed_setting_prompt_or_model_draws_anew_and_keeps_the_old(pipeline, tmp_path):
    plan = make_plan(2)
    first = draw(plan, pipeline, tmp_path)
    for options in ({"guidance_scale": 4.0}, {"num_inference_steps": 2}):
        other = draw(plan, pipeline, tmp_path, **options)
        assert (other.images[:] != first.images[:]).any(axis=(1, 2, 3)).all()
    chosen = plan.assign(guidance_scale=4.0, num_inference_steps=3)
    assert set(read_generated(tmp_path, chosen).metadata["guidance_scale"]) == {4.0}
    reworded = draw(plan.assign(prompt="a blue jay"), pipeline, tmp_path)
    assert set(reworded.metadata["prompt"]) == {"a blue jay"}
    draw(plan, changed(pipeline), tmp_path)
    assert len(read_generated(tmp_path)) == 10
    assert_same(draw(plan, pipeline, tmp_path), first, atol=0)
    with pytest.raises(ValueError, match=r"several \['model_hash', 'num_inference_steps', 'gui"):
        read_generated(tmp_path, plan)
    with pytest.raises(FileNotFoundError, match="generate into it"):
        read_generated(tmp_path / "nowhere")


def test_given_images_are_a_set_that_takes_places_and_masks_and_embeds_once(tmp_path):
    facts = {"model": "elsewhere", "model_hash": "1", "num_inference_steps": 0,
             "guidance_scale": 0.0, "height": 12, "width": 10}  # fmt: skip
    table = make_plan(4).assign(**facts)
    images = np.random.default_rng(0).integers(0, 256, (4, 12, 10, 3), np.uint8)
    stored = fill_shards(table, lambda rows: images[rows.index], tmp_path, 3, None)
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
