"""Generation: what is drawn does not depend on how it is drawn, and a kill costs one shard."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from datasets import load_dataset
from diffusers import EDMEulerScheduler, StableDiffusionXLPipeline
from twin import make_twin, save_twin

from diffcore.generation import (
    GENERATED_COLUMNS,
    decode_images,
    generate,
    hash_model,
    load_pipeline,
    read_generated,
)
from diffcore.params import PipelineSpec, SchedulerSpec
from diffcore.prompts import load_prompt_book, plan_generation

SAMPLER = {"guidance_scale": 3.0, "num_inference_steps": 3, "height": 64, "width": 64}


def local_spec(folder, **changes):
    settings = {
        "kind": "folder", "location": str(folder), "vae": None, "scheduler": None,
        "dtype": "float32", "device": "cpu", "local_files_only": True,
    }  # fmt: skip
    return PipelineSpec(**(settings | changes))


def make_plan(images, **options):
    names = ["blue jay", "american crow", "laysan albatross"]
    sources = pd.DataFrame({
        "source_id": [f"train/{place}" for place in range(images)],
        "class_name": [names[place % 3] for place in range(images)],
    })  # fmt: skip
    book = load_prompt_book("paperbirds")
    return plan_generation(sources, book, generated_share=1, seed=0, **options)


def draw(plan, pipeline, folder, **options):
    return generate(plan, pipeline, folder, progress=False, **(SAMPLER | options))


def assert_same_samples(one, other):
    """Same facts in the same order, and pixels that differ by rounding at most."""
    pd.testing.assert_frame_equal(one.drop(columns="image"), other.drop(columns="image"))
    difference = decode_images(one).astype(int) - decode_images(other)
    assert np.abs(difference).max() <= 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_twin(tmp_path_factory.mktemp("twin") / "pipeline")


@pytest.fixture(scope="module")
def pipeline(folder):
    return load_pipeline(local_spec(folder))


@pytest.fixture(scope="module")
def plan():
    return make_plan(33)


@pytest.fixture(scope="module")
def drawn(plan, pipeline, tmp_path_factory):
    return draw(plan, pipeline, tmp_path_factory.mktemp("runs") / "whole", batch_size=8)


# ---------------------------------------------------------------------------------------- drawing
def test_every_row_of_the_plan_is_drawn_once_with_all_its_facts(plan, drawn, pipeline):
    assert tuple(drawn.columns) == GENERATED_COLUMNS
    pd.testing.assert_frame_equal(drawn[list(plan.columns)], plan, check_dtype=False)
    assert set(drawn["model"]) == {"pipeline"}
    assert set(drawn["model_hash"]) == {hash_model(pipeline)}
    assert (drawn[list(SAMPLER)] == pd.Series(SAMPLER)).all(axis=None)
    assert decode_images(drawn).shape == (33, 64, 64, 3)
    assert len(np.unique(decode_images(drawn), axis=0)) == 33


@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_batch_size_does_not_change_a_sample(plan, pipeline, drawn, tmp_path, batch_size):
    again = draw(plan, pipeline, tmp_path, batch_size=batch_size, shard_size=20)
    assert_same_samples(again, drawn)


def test_order_and_company_do_not_change_a_sample(plan, pipeline, drawn, tmp_path):
    some = plan.iloc[[30, 4, 17]]
    again = draw(some, pipeline, tmp_path)
    assert list(again["sample_id"]) == list(some["sample_id"])
    assert_same_samples(again, drawn.iloc[[30, 4, 17]].reset_index(drop=True))


@pytest.mark.parametrize("two_encoders", [False, True])
def test_a_sample_is_what_the_pipeline_draws_from_its_texts_and_noise(tmp_path, two_encoders):
    pipeline = make_twin(two_encoders)
    plan = make_plan(2)
    ours = decode_images(draw(plan, pipeline, tmp_path))
    for row, image in zip(plan.itertuples(), ours, strict=True):
        noise = torch.randn((1, 4, 16, 16), generator=torch.Generator().manual_seed(row.seed))
        theirs = pipeline(
            row.prompt, negative_prompt=row.negative_prompt, latents=noise, output_type="np",
            **SAMPLER,
        ).images[0]  # fmt: skip
        assert np.abs(theirs * 255 - image).max() <= 1


@pytest.mark.parametrize("zeros", [False, True])
def test_an_empty_negative_is_what_the_pipeline_takes_for_none(tmp_path, zeros):
    pipeline = make_twin()
    pipeline.register_to_config(force_zeros_for_empty_prompt=zeros)
    plan = make_plan(1, use_negatives=False)
    ours = decode_images(draw(plan, pipeline, tmp_path))[0]
    generator = torch.Generator().manual_seed(int(plan["seed"][0]))
    noise = torch.randn((1, 4, 16, 16), generator=generator)
    theirs = pipeline(plan["prompt"][0], latents=noise, output_type="np", **SAMPLER).images[0]
    assert np.abs(theirs * 255 - ours).max() <= 1


def test_context_and_negatives_reach_the_picture(plan, pipeline, drawn, tmp_path):
    plain = draw(make_plan(3, use_context=False), pipeline, tmp_path / "plain")
    without = draw(make_plan(3, use_negatives=False), pipeline, tmp_path / "without")
    assert list(plain["seed"]) == list(drawn["seed"][:3])
    for other in (plain, without):
        assert (decode_images(other) != decode_images(drawn[:3])).any(axis=(1, 2, 3)).all()


def test_each_pair_of_texts_is_encoded_once(tmp_path):
    pipeline, seen = make_twin(), []
    encode = pipeline.encode_prompt

    def watched(prompt=None, **options):
        if prompt is not None:
            seen.append((prompt, options["negative_prompt"]))
        return encode(prompt, **options)

    pipeline.encode_prompt = watched
    plan = make_plan(12, use_context=False)
    draw(plan, pipeline, tmp_path, batch_size=5, shard_size=6)
    assert sorted(seen) == sorted(set(zip(plan["prompt"], plan["negative_prompt"], strict=True)))


def test_guidance_of_one_ignores_negatives(pipeline, tmp_path):
    with_negatives = draw(make_plan(2), pipeline, tmp_path / "a", guidance_scale=1.0)
    without = draw(make_plan(2, use_negatives=False), pipeline, tmp_path / "b", guidance_scale=1.0)
    np.testing.assert_array_equal(decode_images(with_negatives), decode_images(without))


def test_an_empty_plan_gives_an_empty_table(plan, pipeline, tmp_path):
    table = draw(plan[:0], pipeline, tmp_path)
    assert tuple(table.columns) == GENERATED_COLUMNS
    assert decode_images(table).shape == (0, 0, 0, 3)


def test_a_plan_that_cannot_be_drawn_is_refused(plan, pipeline, tmp_path):
    with pytest.raises(ValueError, match="lacks the columns \\['seed'\\]"):
        draw(plan.drop(columns="seed"), pipeline, tmp_path)
    with pytest.raises(ValueError, match="keep_default_na"):
        draw(plan.assign(context=None), pipeline, tmp_path)
    with pytest.raises(ValueError, match="more than once"):
        draw(pd.concat([plan, plan]), pipeline, tmp_path)
    with pytest.raises(TypeError, match="SDXL"):
        draw(plan, torch.nn.Identity(), tmp_path, model_id="identity")


def test_a_model_that_draws_nan_is_caught(plan, tmp_path):
    pipeline = make_twin()
    torch.nn.init.constant_(pipeline.vae.decoder.conv_out.bias, float("nan"))
    with pytest.raises(FloatingPointError, match="dtype to float32"):
        draw(plan[:1], pipeline, tmp_path)
    assert not list(tmp_path.iterdir())


# ----------------------------------------------------------------------------------------- resuming
INTERRUPTED = """
import sys, time
sys.path.insert(0, {tests!r})
import pandas as pd
from diffcore.generation import generate, load_pipeline
from test_generation import SAMPLER, local_spec
pipeline = load_pipeline(local_spec({folder!r}))
pipeline.unet.register_forward_pre_hook(lambda *_: time.sleep(0.05))
plan = pd.read_parquet({plan!r})
generate(plan, pipeline, {out!r}, batch_size=2, shard_size=4, progress=False, **SAMPLER)
"""


def kill_midway(script, out):
    """Run a script and kill -9 it as soon as two shards are there."""
    process = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 120
    while len(list(out.glob("*.parquet"))) < 2:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_a_killed_run_resumes_with_the_same_samples(plan, folder, pipeline, drawn, tmp_path):
    out = tmp_path / "out"
    plan.to_parquet(tmp_path / "plan.parquet")
    kill_midway(
        INTERRUPTED.format(
            tests=str(Path(__file__).parent), folder=str(folder), out=str(out),
            plan=str(tmp_path / "plan.parquet"),
        ),
        out,
    )  # fmt: skip
    (out / ".0000000-0000003-0.parquet.tmp").write_bytes(b"half a shard")
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    kept = read_generated(out)
    assert 8 <= len(kept) < len(plan)
    assert set(kept["sample_id"]) <= set(plan["sample_id"])

    resumed = draw(plan, pipeline, out, batch_size=7)

    assert_same_samples(resumed, drawn)
    assert len(read_generated(out)) == len(plan)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not list(out.glob(".*"))


def test_what_is_drawn_is_not_drawn_again(plan, pipeline, tmp_path):
    draw(plan[:5], pipeline, tmp_path)
    files = sorted(tmp_path.iterdir())
    draw(plan[:5], pipeline, tmp_path, model_id="another name", batch_size=2)
    assert sorted(tmp_path.iterdir()) == files


@pytest.mark.parametrize("change", [{"guidance_scale": 4.0}, {"num_inference_steps": 2}])
def test_a_changed_setting_draws_anew_and_keeps_the_old(pipeline, tmp_path, change):
    plan = make_plan(3)
    first = draw(plan, pipeline, tmp_path)
    second = draw(plan, pipeline, tmp_path, **change)
    assert (decode_images(first) != decode_images(second)).any(axis=(1, 2, 3)).all()
    assert_same_samples(draw(plan, pipeline, tmp_path), first)
    assert len(read_generated(tmp_path)) == 6
    name, value = next(iter(change.items()))
    assert_same_samples(read_generated(tmp_path, plan.assign(**{name: value})), second)
    with pytest.raises(ValueError, match=f"several \\['{name}'\\]"):
        read_generated(tmp_path, plan)


def test_a_changed_prompt_or_model_draws_anew(pipeline, tmp_path):
    plan = make_plan(2)
    draw(plan, pipeline, tmp_path)
    reworded = draw(plan.assign(prompt="a blue jay"), pipeline, tmp_path)
    assert set(reworded["prompt"]) == {"a blue jay"}
    other = draw(plan, make_twin(seed=1), tmp_path)
    assert set(other["model"]) == {"StableDiffusionXLPipeline"}
    assert len(read_generated(tmp_path)) == 6


def test_the_hash_is_of_what_decides_about_pixels(folder, pipeline):
    assert hash_model(load_pipeline(local_spec(folder))) == hash_model(pipeline)
    assert hash_model(make_twin()) == hash_model(make_twin()) == hash_model(pipeline)
    changed = [make_twin(seed=1), load_pipeline(local_spec(folder, dtype="bfloat16"))]
    changed += [load_pipeline(local_spec(folder, scheduler=SchedulerSpec()))]
    assert len({hash_model(model) for model in [*changed, pipeline]}) == 4


# ------------------------------------------------------------------------------------------- shards
def test_shards_hold_at_most_their_size_and_are_named_by_content(plan, pipeline, tmp_path):
    draw(plan[:7], pipeline, tmp_path / "a", shard_size=3)
    draw(plan[:7], pipeline, tmp_path / "b", shard_size=3, batch_size=2)
    names = [sorted(path.name for path in (tmp_path / part).iterdir()) for part in "ab"]
    assert names[0] == names[1]
    assert [name[:16] for name in names[0]] == [
        "0000000-0000002-", "0000003-0000005-", "0000006-0000006-",
    ]  # fmt: skip
    assert [pq.read_metadata(tmp_path / "a" / name).num_rows for name in names[0]] == [3, 3, 1]


def test_datasets_opens_shards_with_an_image_feature(plan, pipeline, drawn, tmp_path):
    draw(plan[:4], pipeline, tmp_path / "out", shard_size=2)
    files = sorted(str(path) for path in (tmp_path / "out").glob("*.parquet"))
    table = load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "hf"))
    assert type(table.features["image"]).__name__ == "Image"
    assert table[0]["image"].size == (64, 64)
    difference = np.asarray(table[0]["image"]).astype(int) - decode_images(drawn[:1])[0]
    assert np.abs(difference).max() <= 1
    assert table["prompt"][:] == list(plan["prompt"][:4])


def test_pixels_can_be_left_on_disk(plan, pipeline, tmp_path):
    facts = draw(plan[:2], pipeline, tmp_path, images=False)
    assert tuple(facts.columns) == GENERATED_COLUMNS[:-1]
    assert len(read_generated(tmp_path)["image"]) == 2


def test_reading_what_is_not_there_or_damaged_says_so(plan, pipeline, tmp_path):
    with pytest.raises(FileNotFoundError, match="generate into it"):
        read_generated(tmp_path / "nowhere")
    draw(plan[:1], pipeline, tmp_path)
    assert len(read_generated(tmp_path, plan)) == 1
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"broken\.parquet is damaged; delete it"):
        read_generated(tmp_path)


# ------------------------------------------------------------------------------------------ loading
def test_a_scheduler_replaces_the_saved_one(folder):
    assert load_pipeline(local_spec(folder)).scheduler.config.sigma_max == 80.0
    scheduler = load_pipeline(local_spec(folder, scheduler=SchedulerSpec())).scheduler
    assert isinstance(scheduler, EDMEulerScheduler)
    wanted = {"sigma_max": 120.0, "sigma_data": 1.0, "sigma_schedule": "exponential"}
    assert wanted.items() <= dict(scheduler.config).items()


def test_an_autoencoder_replaces_the_saved_one(folder, tmp_path):
    make_twin(seed=5).vae.save_pretrained(tmp_path)
    replaced = load_pipeline(local_spec(folder, vae=str(tmp_path)))
    assert torch.equal(replaced.vae.quant_conv.weight, make_twin(seed=5).vae.quant_conv.weight)


def test_paperbirds_loads_through_the_same_call(folder, monkeypatch):
    import diffcore.paperbirds

    monkeypatch.setattr(diffcore.paperbirds, "pipeline_dir", lambda: folder, raising=False)
    loaded = load_pipeline(local_spec("unused", kind="paperbirds"))
    assert hash_model(loaded) == hash_model(load_pipeline(local_spec(folder)))


def test_a_single_file_is_loaded_with_its_configuration(folder, tmp_path, monkeypatch):
    file = tmp_path / "cosxl.safetensors"
    file.touch()
    asked = {}

    def from_single_file(path, **options):
        asked.update(options, path=path)
        return make_twin()

    monkeypatch.setattr(StableDiffusionXLPipeline, "from_single_file", from_single_file)
    spec = local_spec(file, kind="single_file", config=str(folder), scheduler=SchedulerSpec())
    pipeline = load_pipeline(spec)
    assert asked == {
        "path": str(file), "config": str(folder), "dtype": torch.float32, "local_files_only": True,
    }  # fmt: skip
    assert pipeline.scheduler.config.sigma_max == 120.0


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"location": "no/such/folder"}, FileNotFoundError, "model_index.json does not exist; put"),
        ({"kind": "single_file", "location": "a.ckpt"}, ValueError, "no .safetensors file"),
        ({"kind": "single_file", "location": "a.safetensors"}, FileNotFoundError, "location"),
        ({"vae": "./no/vae"}, FileNotFoundError, "pipeline.vae"),
    ],
)
def test_what_is_missing_is_named_with_a_remedy(folder, changes, error, message):
    with pytest.raises(error, match=message):
        load_pipeline(local_spec(folder, **changes))


def test_pickled_weights_are_refused(tmp_path):
    save_twin(tmp_path)
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(make_twin().unet.state_dict(), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(OSError, match="safetensors"):
        load_pipeline(local_spec(tmp_path))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_reported(folder):
    with pytest.raises(ValueError, match="finds no GPU"):
        load_pipeline(local_spec(folder, device="cuda"))
    assert load_pipeline(local_spec(folder, device="auto")).device.type == "cpu"
