"""The models that the paper's profiles name are read, set up and called as its authors do.

Dummies stand for the weights, in the same formats; the settings are the profiles' own.
"""

import socket
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from diffusers import EDMEulerScheduler, EulerDiscreteScheduler, StableDiffusionXLPipeline
from dummy_models import SECOND, make_dummy_models, make_tokenizer, places
from layouts import CALTECH, CARS, CIFAR
from PIL import Image
from safetensors.torch import load_file
from timm.data import ImageNetInfo

from diffcore.checks import missing
from diffcore.data.published import readable_names
from diffcore.filtering.encoders import load_encoder
from diffcore.generation import generate, load_pipeline
from diffcore.generation.pipelines import LazyPipeline, hash_model
from diffcore.params import PipelineSpec, load_params
from diffcore.prompts import load_prompt_set, plan_generation
from diffcore.prompts.prompt_set import negatives_for, write_prompt

pytestmark = pytest.mark.slow
PROFILES = ("cub200", "cars", "flowers102", "caltech101", "cifar100", "tiny_imagenet", "imagenet")
#: Released with the authors' code: CosXL's own noise schedule.
RELEASED = {"sigma_min": 0.002, "sigma_max": 120.0, "sigma_data": 1.0,
            "prediction_type": "v_prediction", "sigma_schedule": "exponential"}  # fmt: skip
#: Some of SDXL's weights as they are called in the published file, with their number of dimensions.
PUBLISHED = {
    "model.diffusion_model.input_blocks.3.0.op.weight": 4,
    "model.diffusion_model.input_blocks.4.0.skip_connection.weight": 4,
    "model.diffusion_model.input_blocks.8.1.transformer_blocks.1.attn2.to_k.weight": 2,
    "model.diffusion_model.middle_block.1.proj_in.weight": 2,
    "model.diffusion_model.output_blocks.5.2.conv.weight": 4,
    "model.diffusion_model.output_blocks.8.0.emb_layers.1.bias": 1,
    "model.diffusion_model.label_emb.0.0.weight": 2,
    "first_stage_model.decoder.up.1.upsample.conv.weight": 4,
    "first_stage_model.encoder.down.2.block.0.nin_shortcut.weight": 4,
    "first_stage_model.encoder.mid.attn_1.q.weight": 4,
    "conditioner.embedders.0.transformer.text_model.encoder.layers.1.self_attn.v_proj.weight": 2,
    "conditioner.embedders.1.model.text_projection": 2,
    "conditioner.embedders.1.model.transformer.resblocks.1.attn.in_proj_weight": 2,
}
LOCAL = {"dtype": "float32", "device": "cpu"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return make_dummy_models(tmp_path_factory.mktemp("models"))


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


def one_file(models, **changes):
    given = {"location": str(models.file), "config": str(models.config), "vae": str(models.vae)}
    return PipelineSpec(kind="single_file", **(given | LOCAL | changes))


def folder(models, **changes):
    given = {"location": str(models.folder), "vae": str(models.vae)}
    return PipelineSpec(kind="folder", **(given | LOCAL | changes))


def at_the_dummies(profile, models):
    """A profile of the paper with nothing changed but where its models lie, and a CPU."""
    offline = {"generation.pipeline.device": "cpu", "data.download": False}
    return load_params(profile, places(models) | offline)


def plan_of(*rows):
    """A plan of prompts and negative prompts, each from a seed of its own."""
    plan = pd.DataFrame(rows, columns=["prompt", "negative_prompt"])
    named = {"sample_id": [f"s{place}" for place in range(len(rows))], "seed": range(len(rows))}
    return plan.assign(**named, class_name="robin", source_id="r1", context="")


def pixels(plan, pipeline, folder):
    settings = {"guidance_scale": 12.0, "num_inference_steps": 3, "height": 64, "width": 64}
    return generate(plan, pipeline, folder, progress=False, **settings).images[:]


# ----------------------------------------------------------------------------------- the one file
def test_the_file_has_the_names_of_the_published_one(models):
    weights = load_file(models.file)
    assert {key: weights[key].ndim for key in PUBLISHED} == PUBLISHED
    blocks = {".".join(key.split(".")[2:4]) for key in weights if "diffusion_model" in key}
    for side, count in (("input_blocks", 9), ("middle_block", 3), ("output_blocks", 9)):
        assert sum(block.startswith(side) for block in blocks) == count


@torch.no_grad()
def test_the_second_text_encoder_of_the_file_is_one_that_openclip_reads(models):
    start = "conditioner.embedders.1.model."
    weights = {key.removeprefix(start): weight for key, weight in load_file(models.file).items()
               if key.startswith(start) and not key.endswith("logit_scale")}  # fmt: skip
    tower = open_clip.transformer.TextTransformer(
        width=SECOND, heads=2, layers=2, output_dim=SECOND
    )
    tower.load_state_dict(weights, strict=True)
    pipeline = load_pipeline(folder(models))  # which was not written by way of the file's names
    texts = ["a robin, a bird, misty morning", "a car"]
    ids = pipeline.tokenizer_2(texts, padding="max_length", return_tensors="pt").input_ids
    assert torch.equal(ids, open_clip.get_tokenizer("ViT-B-32")(texts))  # padded with 0, both
    torch.testing.assert_close(pipeline.text_encoder_2(ids).text_embeds, tower.eval()(ids))


def test_one_file_and_a_folder_hold_the_same_model_and_draw_without_a_network(
    models, tmp_path, no_network
):
    whole, parts = load_pipeline(one_file(models)), load_pipeline(folder(models))
    assert hash_model(whole) == hash_model(parts)
    plan = plan_of(("a robin", "train"), ("a crow", "train"), ("a robin", "car"), ("a robin", ""))
    drawn, again = pixels(plan, whole, tmp_path / "a"), pixels(plan, parts, tmp_path / "b")
    # Rounding alone: where a weight lies in memory decides about the last bit of a product.
    np.testing.assert_allclose(drawn.astype(int), again.astype(int), atol=1)
    assert np.mean(drawn != again) < 0.01
    same_noise = pixels(plan.assign(seed=5), whole, tmp_path / "c")
    assert len({image.tobytes() for image in same_noise}) == 4
    assert no_network == []


def test_autoencoder_and_scheduler_are_those_that_are_named(models):
    own, given = (load_pipeline(one_file(models, **change)) for change in ({"vae": None}, {}))
    named = load_file(models.vae / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(given.vae.state_dict()[key], named[key]) for key in named)
    # SDXL's own is brought to single precision before it decodes, the one for float16 is not.
    assert (own.vae.config.force_upcast, given.vae.config.force_upcast) == (True, False)
    assert type(given.scheduler) is EDMEulerScheduler
    kept = load_pipeline(folder(models, scheduler=None)).scheduler
    assert type(kept) is EulerDiscreteScheduler
    changes = ({}, {"vae": None}, {"scheduler": None}, {"dtype": "bfloat16"}, {"config": None})
    specs = [one_file(models, **change) for change in changes]
    assert len({LazyPipeline(spec).digest for spec in specs}) == 5
    assert LazyPipeline(one_file(models, device="auto")).digest == LazyPipeline(specs[0]).digest


# ----------------------------------------------------------- what of a profile reaches diffusers
@pytest.fixture
def asked(monkeypatch):
    """Note what the package asks of diffusers; the model that is loaded draws black."""
    calls = SimpleNamespace(load=[], encode=[], draw=[])
    load = StableDiffusionXLPipeline.from_single_file

    def from_single_file(path, **options):
        calls.load.append((path, options))
        return load(path, **options)

    def encode_prompt(pipeline, prompt, **options):
        calls.encode.append((prompt, options["negative_prompt"]))
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
def test_a_profile_loads_and_draws_at_the_released_setting(profile, models, asked, tmp_path):
    params = at_the_dummies(profile, models)
    assert not [gap for gap in missing(params) if str(models.file.parent) in gap]
    lazy = LazyPipeline(params.generation.pipeline)
    sources = pd.DataFrame({"source_id": [f"i{n}" for n in range(10)], "class_name": "mute swan"})
    plan = plan_generation(
        sources, load_prompt_set(params.prompts.domain), seed=params.seed,
        generated_share=params.generation.generated_share,
    )  # fmt: skip
    assert len(plan) == 3  # 0.3 of the training images
    drawn = generate(plan.tail(1), lazy, tmp_path, progress=False, **params.generation.sampler)

    ((path, options),) = asked.load
    assert (path, options["config"]) == (str(models.file), str(models.config))
    assert options["local_files_only"] is True
    pipeline = lazy.load()
    assert pipeline.vae is options["vae"]
    parts = (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2)
    assert {weight.dtype for part in parts for weight in part.parameters()} == {torch.float16}
    assert {name: pipeline.scheduler.config[name] for name in RELEASED} == RELEASED

    (call,) = asked.draw
    wanted = {"guidance_scale": 12.0, "num_inference_steps": 50, "height": 512, "width": 512}
    assert {name: call[name] for name in wanted} == wanted
    row = plan.iloc[-1]
    noise = torch.randn(4, 64, 64, generator=torch.Generator().manual_seed(int(row["seed"])))
    assert torch.equal(call["latents"][0], noise.half())
    assert asked.encode == [(row["prompt"], row["negative_prompt"])]
    assert row["class_name"] in row["prompt"]
    assert row["context"] in row["prompt"]
    assert drawn.images.shape == (1, 512, 512, 3)
    assert drawn.metadata["model"].tolist() == ["cosxl.safetensors"]


def test_the_noise_levels_are_cosxls_from_the_largest_to_none(models):
    scheduler = load_pipeline(at_the_dummies("cub200", models).generation.pipeline).scheduler
    scheduler.set_timesteps(50)
    expected = np.geomspace(120.0, 0.002, 50)  # exponential is even in the logarithm
    np.testing.assert_allclose(scheduler.sigmas[:-1], expected, rtol=1e-3)
    assert scheduler.sigmas[-1] == 0


@pytest.mark.parametrize("profile", PROFILES)
def test_no_prompt_is_longer_than_the_text_encoders_read(profile):
    prompt_set = load_prompt_set(load_params(profile).prompts.domain)
    folders = {
        "cub200": ["012.Yellow_headed_Blackbird", "151.Black_capped_Vireo"], "cars": CARS,
        "flowers102": [str(number) for number in range(1, 103)], "caltech101": CALTECH,
        "cifar100": CIFAR,
    }  # fmt: skip
    names = readable_names(profile, folders.get(profile) or ImageNetInfo().label_names(), Path())
    pairs = [(context, name) for name in names for context in prompt_set.contexts]
    prompts = {write_prompt(prompt_set, name, context) for context, name in pairs}
    negatives = {", ".join(negatives_for(prompt_set, *pair)) for pair in pairs}
    ids = make_tokenizer("!")([*prompts, *negatives]).input_ids
    assert 8 < max(map(len, ids)) <= 77


def test_the_clip_loads_offline_and_embeds_as_open_clip_does(models, no_network):
    spec = at_the_dummies("cub200", models).filtering.encoder
    encoder = load_encoder(spec.model_copy(update={"device": "cpu"}))
    images = list(np.random.default_rng(0).integers(0, 256, (3, 80, 60, 3), dtype=np.uint8))
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{models.clip}")
    with torch.no_grad():
        batch = torch.stack([preprocess(Image.fromarray(image)) for image in images])
        expected = model.eval().encode_image(batch, normalize=True).numpy()
    np.testing.assert_allclose(encoder.embed_images(images), expected, atol=1e-5)
    assert encoder.embed_texts(["a robin", "a car"]).shape == (2, expected.shape[1])
    activations = {type(part).__name__ for part in encoder.model.modules()} & {"GELU", "QuickGELU"}
    assert activations == {"QuickGELU"}  # as OpenAI's weights were trained
    assert no_network == []
