"""The models that the paper's profiles name are read, set up and called as its authors do.

Twins stand in for the weights, in the same formats (`twins`); the settings are the profiles' own.
"""

import socket
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
import twins as tiny
from diffusers import EDMEulerScheduler, EulerDiscreteScheduler, StableDiffusionXLPipeline
from huggingface_hub import constants
from layouts import CALTECH, CARS, CIFAR
from PIL import Image
from safetensors.torch import load_file
from timm.data import ImageNetInfo

from diffcore.encoders import load_encoder
from diffcore.experiments import draw_study, study_book, study_plan
from diffcore.generation import decode_images, generate, hash_model, load_pipeline
from diffcore.params import PipelineSpec, load_params
from diffcore.photos.names import readable_names
from diffcore.preflight import missing
from diffcore.prompts import PLAN_COLUMNS, negatives_for, write_prompt

PROFILES = ("cub200", "cars", "flowers102", "caltech101", "cifar100", "tiny_imagenet", "imagenet")
#: Released with the authors' code: CosXL's own noise schedule.
RELEASED = {"sigma_min": 0.002, "sigma_max": 120.0, "sigma_data": 1.0,
            "prediction_type": "v_prediction", "sigma_schedule": "exponential"}  # fmt: skip
#: Some of SDXL's weights as they are called in the published file, with their number of dimensions.
PUBLISHED = {
    "model.diffusion_model.input_blocks.0.0.weight": 4,
    "model.diffusion_model.input_blocks.3.0.op.weight": 4,
    "model.diffusion_model.input_blocks.4.0.skip_connection.weight": 4,
    "model.diffusion_model.input_blocks.8.1.transformer_blocks.1.attn2.to_k.weight": 2,
    "model.diffusion_model.middle_block.1.proj_in.weight": 2,
    "model.diffusion_model.middle_block.2.out_layers.3.weight": 4,
    "model.diffusion_model.output_blocks.5.2.conv.weight": 4,
    "model.diffusion_model.output_blocks.8.0.emb_layers.1.bias": 1,
    "model.diffusion_model.time_embed.2.weight": 2,
    "model.diffusion_model.label_emb.0.0.weight": 2,
    "model.diffusion_model.out.2.weight": 4,
    "first_stage_model.decoder.up.3.block.2.conv1.weight": 4,
    "first_stage_model.decoder.up.1.upsample.conv.weight": 4,
    "first_stage_model.encoder.down.2.block.0.nin_shortcut.weight": 4,
    "first_stage_model.encoder.mid.attn_1.q.weight": 4,
    "first_stage_model.post_quant_conv.weight": 4,
    "conditioner.embedders.0.transformer.text_model.encoder.layers.1.self_attn.v_proj.weight": 2,
    "conditioner.embedders.1.model.text_projection": 2,
    "conditioner.embedders.1.model.transformer.resblocks.1.attn.in_proj_weight": 2,
}


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    return tiny.make_twins(tmp_path_factory.mktemp("twins"))


@pytest.fixture
def no_network(monkeypatch):
    """Refuse every connection, and tell of those that were tried."""
    tried = []

    def refuse(*call, **options):
        tried.append(call)
        raise OSError("there is no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return tried


def one_file(twins, **changes):
    given = {"location": str(twins.file), "config": str(twins.config), "vae": str(twins.vae)}
    return PipelineSpec(kind="single_file", **(given | LOCAL | changes))


def folder(twins, **changes):
    given = {"location": str(twins.folder), "vae": str(twins.vae)}
    return PipelineSpec(kind="folder", **(given | LOCAL | changes))


LOCAL = {"dtype": "float32", "device": "cpu", "local_files_only": True}


def plan_of(*rows):
    """A plan of prompts and negative prompts, each from a seed of its own."""
    facts = [
        (f"s{place}", "robin", "r1", "", prompt, negative, place)
        for place, (prompt, negative) in enumerate(rows)
    ]
    columns = [
        "sample_id",
        "class_name",
        "source_id",
        "context",
        "prompt",
        "negative_prompt",
        "seed",
    ]
    assert set(columns) == set(PLAN_COLUMNS)
    return pd.DataFrame(facts, columns=columns)


def pixels(plan, pipeline, folder):
    settings = {"guidance_scale": 12.0, "num_inference_steps": 3, "height": 64, "width": 64}
    return decode_images(generate(plan, pipeline, folder, progress=False, **settings))


def same_weights(part, other):
    left, right = part.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


# ----------------------------------------------------------------------------------- the one file
def test_the_file_has_the_names_of_the_published_one(twins):
    weights = load_file(twins.file)
    assert {key: weights[key].ndim for key in PUBLISHED} == PUBLISHED
    blocks = {".".join(key.split(".")[2:4]) for key in weights if "diffusion_model" in key}
    for side, count in (("input_blocks", 9), ("middle_block", 3), ("output_blocks", 9)):
        assert sum(block.startswith(side) for block in blocks) == count


@torch.no_grad()
def test_the_second_text_encoder_of_the_file_is_one_that_openclip_reads(twins):
    start = "conditioner.embedders.1.model."
    weights = {key.removeprefix(start): weight for key, weight in load_file(twins.file).items()
               if key.startswith(start) and not key.endswith("logit_scale")}  # fmt: skip
    tower = open_clip.transformer.TextTransformer(
        width=tiny.SECOND, heads=2, layers=2, output_dim=tiny.SECOND
    )
    tower.load_state_dict(weights, strict=True)
    pipeline = load_pipeline(folder(twins))  # which was not written by way of the file's names
    texts = ["a robin, a bird, misty morning", "a car"]
    ids = pipeline.tokenizer_2(texts, padding="max_length", return_tensors="pt").input_ids
    assert torch.equal(ids, open_clip.get_tokenizer("ViT-B-32")(texts))  # padded with 0, both
    torch.testing.assert_close(pipeline.text_encoder_2(ids).text_embeds, tower.eval()(ids))


def test_one_file_and_a_folder_hold_the_same_model_and_draw_the_same_pixels(twins, tmp_path):
    whole, parts = load_pipeline(one_file(twins)), load_pipeline(folder(twins))
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        assert same_weights(getattr(whole, name), getattr(parts, name)), name
    assert hash_model(whole) == hash_model(parts)
    plan = plan_of(("a robin", "train"), ("a robin, misty morning", ""))
    drawn, again = pixels(plan, whole, tmp_path / "a"), pixels(plan, parts, tmp_path / "b")
    # Rounding alone: where a weight lies in memory decides about the last bit of a product.
    np.testing.assert_allclose(drawn.astype(int), again.astype(int), atol=1)
    assert np.mean(drawn != again) < 0.01


def test_prompt_negative_and_seed_each_change_the_pixels_of_the_one_file(twins, tmp_path):
    pipeline = load_pipeline(one_file(twins))
    plan = plan_of(
        ("a robin", "train"), ("a crow", "train"), ("a robin", "car"), ("a robin", "train")
    )
    drawn = pixels(plan.assign(seed=[5, 5, 5, 6]), pipeline, tmp_path)
    assert len({image.tobytes() for image in drawn}) == 4


def test_the_one_file_loads_and_draws_without_a_network(twins, tmp_path, no_network):
    assert constants.HF_HUB_OFFLINE
    pixels(plan_of(("a robin", "train")), load_pipeline(one_file(twins)), tmp_path)
    assert no_network == []


def test_the_autoencoder_that_is_named_replaces_the_one_in_the_file(twins, tmp_path):
    own, given = load_pipeline(one_file(twins, vae=None)), load_pipeline(one_file(twins))
    assert same_weights(own.vae, load_pipeline(folder(twins, vae=None)).vae)
    named = load_file(twins.vae / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(given.vae.state_dict()[key], named[key]) for key in named)
    # SDXL's own is brought to single precision before it decodes, the one for float16 is not.
    assert (own.vae.config.force_upcast, given.vae.config.force_upcast) == (True, False)
    plan = plan_of(("a robin", "train"))
    assert (pixels(plan, own, tmp_path / "a") != pixels(plan, given, tmp_path / "b")).any()


def test_without_a_scheduler_in_the_profile_the_one_of_the_folder_stays(twins):
    for spec in (one_file(twins, scheduler=None), folder(twins, scheduler=None)):
        assert type(load_pipeline(spec).scheduler) is EulerDiscreteScheduler


# ----------------------------------------------------------- what of a profile reaches diffusers
def at_the_twins(profile, twins):
    """A profile of the paper with nothing changed but where its models lie, and a CPU."""
    offline = {"generation.pipeline.device": "cpu", "data.download": False}
    return load_params(profile, tiny.places(twins) | offline)


@pytest.fixture
def asked(monkeypatch):
    """Note what the package asks of diffusers; the model that is loaded draws black."""
    calls = SimpleNamespace(load=[], encode=[], draw=[])
    load = StableDiffusionXLPipeline.from_single_file

    def from_single_file(path, **options):
        calls.load.append((path, options))
        return load(path, **options)

    def encode_prompt(pipeline, prompt, **options):
        calls.encode.append((prompt, options))
        wide, pooled = torch.zeros(1, 77, 48), torch.zeros(1, 32)
        return wide, wide, pooled, pooled

    def draw(pipeline, **options):
        calls.draw.append(options)
        size = len(options["latents"]), 3, options["height"], options["width"]
        return SimpleNamespace(images=torch.zeros(size))

    monkeypatch.setattr(StableDiffusionXLPipeline, "from_single_file", from_single_file)
    monkeypatch.setattr(StableDiffusionXLPipeline, "encode_prompt", encode_prompt)
    monkeypatch.setattr(StableDiffusionXLPipeline, "__call__", draw)
    return calls


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_loads_the_released_setting(profile, twins, asked, no_network):
    params = at_the_twins(profile, twins)
    assert not [gap for gap in missing(params) if str(twins.file.parent) in gap]
    pipeline = load_pipeline(params.generation.pipeline)
    ((path, options),) = asked.load
    assert (path, options["config"]) == (str(twins.file), str(twins.config))
    assert options["local_files_only"] is True
    assert options["dtype"] is torch.float16
    assert pipeline.vae is options["vae"]
    named = load_file(twins.vae / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(pipeline.vae.state_dict()[key], named[key].half()) for key in named)
    parts = (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2)
    assert {weight.dtype for part in parts for weight in part.parameters()} == {torch.float16}
    assert type(pipeline.scheduler) is EDMEulerScheduler
    assert {name: pipeline.scheduler.config[name] for name in RELEASED} == RELEASED
    assert no_network == []


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_draws_at_the_released_setting(profile, twins, asked, tmp_path):
    params = at_the_twins(profile, twins)
    names = ["mute swan", "red fox"] * 10
    sources = pd.DataFrame({"source_id": [f"i{n}" for n in range(20)], "class_name": names})
    plan = study_plan(params, sources)
    assert len(plan) == 6  # 0.3 of the training images
    one = plan.tail(1)
    facts, images = draw_study(
        params, one, load_pipeline(params.generation.pipeline), tmp_path, progress=False
    )
    (call,) = asked.draw
    wanted = {"guidance_scale": 12.0, "num_inference_steps": 50, "height": 512, "width": 512}
    assert {name: call[name] for name in wanted} == wanted
    assert (call["latents"].shape, call["latents"].dtype) == ((1, 4, 64, 64), torch.float16)
    noise = torch.randn(
        4, 64, 64, generator=torch.Generator().manual_seed(int(one["seed"].iloc[0]))
    )
    assert torch.equal(call["latents"][0], noise.half())
    ((prompt, options),) = asked.encode
    row = one.iloc[0]
    assert prompt == row["prompt"]
    assert row["class_name"] in prompt
    assert row["context"] in prompt
    assert options["negative_prompt"] == row["negative_prompt"] != ""
    assert images.shape == (1, 512, 512, 3)
    assert facts["model"].tolist() == ["cosxl.safetensors"]


def test_the_noise_levels_are_cosxls_from_the_largest_to_none(twins):
    pipeline = load_pipeline(at_the_twins("cub200", twins).generation.pipeline)
    pipeline.scheduler.set_timesteps(50)
    expected = np.geomspace(120.0, 0.002, 50)  # exponential is even in the logarithm
    np.testing.assert_allclose(pipeline.scheduler.sigmas[:-1], expected, rtol=1e-3)
    assert pipeline.scheduler.sigmas[-1] == 0


@pytest.mark.parametrize("profile", PROFILES)
def test_no_prompt_is_longer_than_the_text_encoders_read(profile):
    book = study_book(load_params(profile))
    names = class_names(profile)
    prompts = {write_prompt(book, name, context) for name in names for context in book.contexts}
    negatives = {", ".join(negatives_for(book, at, name)) for name in names for at in book.contexts}
    tokenizer = tiny.make_tokenizer("!")
    ids = tokenizer([*prompts, *negatives]).input_ids
    assert 8 < max(map(len, ids)) <= 77


def class_names(profile):
    """Class names: those of Flowers-102 and ImageNet all, of others some."""
    folders = {
        "cub200": ["012.Yellow_headed_Blackbird", "151.Black_capped_Vireo"],
        "cars": CARS,
        "flowers102": [str(number) for number in range(1, 103)],
        "caltech101": CALTECH,
        "cifar100": CIFAR,
    }
    return readable_names(profile, folders.get(profile) or ImageNetInfo().label_names(), Path())


# ---------------------------------------------------------------------------------------- the CLIP
def test_the_clip_loads_offline_and_embeds_as_open_clip_does(twins, no_network):
    spec = at_the_twins("cub200", twins).filtering.encoder
    assert spec.kind == "open_clip"
    encoder = load_encoder(spec.model_copy(update={"device": "cpu"}))
    generator = np.random.default_rng(0)
    images = list(generator.integers(0, 256, (3, 80, 60, 3), dtype=np.uint8))
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{twins.clip}")
    with torch.no_grad():
        batch = torch.stack([preprocess(Image.fromarray(image)) for image in images])
        expected = model.eval().encode_image(batch, normalize=True).numpy()
    assert batch.shape == (3, 3, 224, 224)
    np.testing.assert_allclose(encoder.embed_images(images), expected, atol=1e-5)
    assert encoder.embed_texts(["a robin", "a car"]).shape == (2, expected.shape[1])
    activations = {type(part).__name__ for part in encoder.model.modules()} & {"GELU", "QuickGELU"}
    assert activations == {"QuickGELU"}  # as OpenAI's weights were trained
    assert no_network == []
