"""Generation: what is drawn does not depend on how it is drawn, and a kill costs one shard."""

import os
import pickle
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
from twin import make_sd_twin, make_twin, save_twin

from diffcore import generation
from diffcore.generation import (
    GENERATED_COLUMNS,
    decode_images,
    generate,
    hash_model,
    load_pipeline,
    open_images,
    read_generated,
    store,
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


def test_stable_diffusion_draws_as_its_own_call_would(tmp_path):
    make_sd_twin().save_pretrained(tmp_path / "model")
    pipeline = load_pipeline(local_spec(tmp_path / "model"))
    plan = make_plan(3)
    found = decode_images(draw(plan, pipeline, tmp_path / "out", batch_size=2))
    row, noise = plan.iloc[1], torch.Generator().manual_seed(int(plan["seed"][1]))
    alone = pipeline(
        row["prompt"], negative_prompt=row["negative_prompt"], generator=noise,
        output_type="np", **SAMPLER,
    ).images[0]  # fmt: skip
    assert np.abs(found[1] - 255 * alone).max() <= 1
    assert (found[0] != found[1]).any()


def test_a_single_file_is_of_the_family_that_its_configuration_names(tmp_path):
    assert generation._family(None) is generation.StableDiffusionXLPipeline
    make_sd_twin().save_config(tmp_path)
    assert generation._family(str(tmp_path)) is generation.StableDiffusionPipeline


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
    again = draw(plan[:5], pipeline, tmp_path, model_id="another name", batch_size=2)
    assert len(again) == 5
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


# ---------------------------------------------------------------------------- images from elsewhere
def elsewhere(count, *, height=12, width=10):
    """Facts and noise images of a made-up source."""
    table = make_plan(count).assign(
        model="elsewhere", model_hash="1" * 16, num_inference_steps=0, guidance_scale=0.0,
        height=height, width=width,
    )  # fmt: skip
    shape = (count, height, width, 3)
    return table, np.random.default_rng(0).integers(0, 256, shape, np.uint8)


class Asked:
    """Images that remember which of them were asked for."""

    def __init__(self, images):
        self.images, self.places = images, []

    def __call__(self, place):
        self.places.append(place)
        return self.images[place]


def test_given_images_are_kept_as_they_are_with_their_facts(tmp_path):
    table, images = elsewhere(5)
    store(table, images, tmp_path, shard_size=2, progress=False)
    kept = read_generated(tmp_path, table)
    assert tuple(kept.columns) == GENERATED_COLUMNS
    pd.testing.assert_frame_equal(kept.drop(columns="image"), table, check_dtype=False)
    np.testing.assert_array_equal(decode_images(kept), images)
    assert len(list(tmp_path.glob("*.parquet"))) == 3


def test_what_is_stored_is_not_asked_for_again(tmp_path):
    table, images = elsewhere(5)
    asked = Asked(images)
    store(table[:3], asked, tmp_path, progress=False)
    store(table, asked, tmp_path, progress=False)
    assert asked.places == [0, 1, 2, 3, 4]
    store(table, asked, tmp_path, progress=False)
    store(table.assign(model="by another name"), asked, tmp_path, progress=False)
    assert asked.places == [0, 1, 2, 3, 4]
    reworded = table.copy()
    reworded.loc[2, "prompt"] = "another"
    store(reworded, asked, tmp_path, progress=False)
    assert asked.places == [0, 1, 2, 3, 4, 2]
    assert len(read_generated(tmp_path)) == 6


def test_storing_goes_on_where_it_stopped(tmp_path):
    table, images = elsewhere(7)

    def fails_at_the_last_but_one(place):
        if place == 5:
            raise RuntimeError("disk on fire")
        return images[place]

    with pytest.raises(RuntimeError, match="on fire"):
        store(table, fails_at_the_last_but_one, tmp_path, shard_size=2, progress=False)
    assert list(read_generated(tmp_path)["sample_id"]) == list(table["sample_id"][:4])
    asked = Asked(images)
    store(table, asked, tmp_path, shard_size=2, progress=False)
    assert asked.places == [4, 5, 6]
    np.testing.assert_array_equal(decode_images(read_generated(tmp_path, table)), images)


def test_images_that_are_not_what_their_facts_say_are_refused(tmp_path):
    table, images = elsewhere(2)
    with pytest.raises(ValueError, match=r"'train/0-0-0' is uint8 \(10, 12, 3\); its row asks for"):
        store(table, images.transpose(0, 2, 1, 3), tmp_path, progress=False)
    with pytest.raises(ValueError, match="is float64"):
        store(table, images / 255, tmp_path, progress=False)
    with pytest.raises(ValueError, match="lacks the columns \\['model_hash'\\]"):
        store(table.drop(columns="model_hash"), images, tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------- lazy reading
@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Twenty images in three shards of row groups of three, opened in another order."""
    monkeypatch.setattr(generation, "_READ_TOGETHER", 3)
    table, images = elsewhere(20)
    store(table, images, tmp_path, shard_size=8, progress=False)
    order = np.random.default_rng(1).permutation(20)
    return open_images(tmp_path, table.iloc[order]), images[order], table.iloc[order], tmp_path


MASK = np.arange(20) % 3 == 0


@pytest.mark.parametrize(
    "key", [0, 7, -1, np.int64(3), slice(None), slice(4, 17, 5), slice(5, 5), [3, 3, 0], [],
            np.array([19, 2, -20]), MASK, MASK.tolist()],
)  # fmt: skip
def test_images_on_disk_read_like_an_array(opened, key):
    images, array, *_ = opened
    read = images[key]
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, array[key])


def test_images_on_disk_have_the_look_of_an_array(opened):
    images, array, table, folder = opened
    assert (len(images), images.shape, images.dtype) == (20, array.shape, array.dtype)
    np.testing.assert_array_equal(np.stack(list(images)), array)
    for key in (20, [0, 20], np.ones(19, bool)):
        with pytest.raises(IndexError):
            images[key]
    assert open_images(folder, table[:0]).shape == (0, 0, 0, 3)
    assert open_images(folder, table[:0])[:].shape == (0, 0, 0, 3)


def test_images_on_disk_go_to_another_process(opened):
    images, array, *_ = opened
    images[:]
    text = pickle.dumps(images)
    assert len(text) < 10_000  # the places of images, and none of them
    np.testing.assert_array_equal(pickle.loads(text)[4], array[4])


def test_reading_in_order_opens_each_group_once_and_holds_few(opened, monkeypatch):
    _, array, table, folder = opened
    reads, read_group = [], generation._read_group

    def counted(path, row):
        reads.append(path.name)
        return read_group(path, row)

    monkeypatch.setattr(generation, "_read_group", counted)
    images = open_images(folder, table.sort_index())
    for image in images:
        assert image.shape == (12, 10, 3)
    assert len(reads) == 3 + 3 + 2  # groups of 8, 8 and 4 rows
    assert len(images._groups) == 4
    shuffled = open_images(folder, table)
    np.testing.assert_array_equal(shuffled[:], array)
    assert len(reads) == 2 * 8  # several at once are read as they lie on the disk
    reads.clear()
    images = open_images(folder, table.sort_index())
    for place in (0, 3, 6, 8, 0, 11, 0):  # four groups, the first once more, a fifth
        images[place]
    assert len(reads) == 5  # what was used last stays


def test_images_of_several_sizes_are_read_one_by_one(tmp_path):
    small, large = elsewhere(2), elsewhere(4, height=20)
    table = pd.concat([small[0], large[0][2:]], ignore_index=True)
    store(table, [*small[1], *large[1][2:]], tmp_path, progress=False)
    images = open_images(tmp_path, table)
    assert not hasattr(images, "shape")
    assert [image.shape[0] for image in images] == [12, 12, 20, 20]
    assert images[2:].shape == (2, 20, 10, 3)
    with pytest.raises(ValueError, match="12 x 10 and 20 x 10"):
        images[:]


def test_opening_what_is_not_there_says_so(opened):
    *_, table, folder = opened
    with pytest.raises(FileNotFoundError, match=r"no image for 1 rows, .* 'train/new'; generate"):
        open_images(folder, table.replace({"sample_id": {"train/4-0-0": "train/new"}}))
    store(elsewhere(1)[0].assign(guidance_scale=2.0), elsewhere(1)[1], folder, progress=False)
    both = open_images(folder, read_generated(folder, images=False))
    assert len(both) == 21
    with pytest.raises(ValueError, match=r"several .*'guidance_scale'.*; add those columns"):
        open_images(folder, table[["sample_id"]])
    with pytest.raises(FileNotFoundError, match="generate into it"):
        open_images(folder / "nowhere", table)
    for path in folder.glob("*.parquet"):
        path.write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="is damaged; delete it"):
        both[0]


def test_a_shard_of_one_group_is_read_as_well(tmp_path):
    table, images = elsewhere(4)
    store(table, images, tmp_path, progress=False)
    (path,) = tmp_path.glob("*.parquet")
    pq.write_table(pq.read_table(path), path, row_group_size=1024)
    np.testing.assert_array_equal(open_images(tmp_path, table)[[3, 0]], images[[3, 0]])


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
