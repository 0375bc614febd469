"""What is missing: all of it at once, in words, in little time, without fetching a file."""

import json
import os
import socket
import subprocess
import sys
import time

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from diffcore import preflight
from diffcore.paperbirds import clip_dir, pipeline_dir
from diffcore.params import load_params
from diffcore.preflight import MissingFilesError, missing, require

CLIP = "timm/vit_base_patch32_clip_224.openai"
VAE = "madebyollin/sdxl-vae-fp16-fix"
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
_DATA_GAPS = preflight._data_gaps


@pytest.fixture
def data_gaps():
    """What looks for photographs, also where a test has nothing look for them."""
    return _DATA_GAPS


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """An empty folder to work in, an empty cache, a hub that refuses, and no data to look for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
    monkeypatch.setattr(preflight, "_data_gaps", lambda settings: [])
    return tmp_path


@pytest.fixture
def hub(nowhere, monkeypatch):
    """A hub that takes connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        yield server


@pytest.fixture
def profile(tmp_path):
    """A YAML file in which the paper's settings stand, which are the defaults."""
    path = tmp_path / "paper.yaml"
    path.write_text("{data: {dataset: cub200, root: data/cub200}}")

    def load(**changes):
        return load_params(
            path, {name.replace("__", "."): value for name, value in changes.items()}
        )

    return load


def cache(folder, repository, files):
    """Put files into a cache of the hub, as a download does."""
    snapshot = folder / "cache" / f"models--{repository.replace('/', '--')}" / "snapshots" / "abc"
    refs = snapshot.parents[1] / "refs"
    refs.mkdir(parents=True, exist_ok=True)
    (refs / "main").write_text("abc")
    for name, text in files.items():
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).write_text(text)


def pipeline_files(weights=True):
    """Files of a pipeline with a tokenizer, scheduler and network, and one part left out."""
    index = {
        "_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True,
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "EulerScheduler"],
        "unet": ["diffusers", "UNet2DConditionModel"], "image_encoder": [None, None],
        "vae": ["diffusers", "AutoencoderKL"],
    }  # fmt: skip
    files = {
        "model_index.json": json.dumps(index), "tokenizer/tokenizer_config.json": "{}",
        "scheduler/scheduler_config.json": "{}", "unet/config.json": "{}",
    }  # fmt: skip
    return files | ({"unet/diffusion_pytorch_model.safetensors": ""} if weights else {})


# ---------------------------------------------------------------------------------------- the list
def test_the_paper_s_profile_lists_all_that_is_missing_at_once(nowhere, profile):
    with pytest.raises(MissingFilesError) as error:
        require(profile())
    head, *gaps, foot = str(error.value).splitlines()
    assert head == "paper cannot start: 4 things are missing"
    assert foot == f"Paths without a leading / begin in {nowhere}."
    assert [gap[:3] for gap in gaps] == ["1. ", "2. ", "3. ", "4. "]
    model, config, vae, clip = gaps
    assert "text-to-image model: checkpoints/cosxl.safetensors does not exist; run" in model
    assert "`hf download stabilityai/cosxl cosxl.safetensors --local-dir checkpoints`" in model
    assert f"configuration of the text-to-image model: {SDXL} is not in the hub's cache" in config
    assert "then set generation.pipeline.config to checkpoints/sdxl-config" in config
    assert f"`hf download {VAE} config.json diffusion_pytorch_model.safetensors" in vae
    assert "then set generation.pipeline.vae to checkpoints/sdxl-vae-fp16-fix" in vae
    folder = "checkpoints/vit_base_patch32_clip_224.openai"
    assert f"encoder: {CLIP} is not in the hub's cache, and the hub ({constants.ENDPOINT})" in clip
    assert f"then set filtering.encoder.model_name to local-dir:{folder}" in clip
    assert error.value._render_traceback_() == [f"MissingFilesError: {error.value}"]
    assert isinstance(error.value, FileNotFoundError)
    assert [path.name for path in nowhere.iterdir()] == ["paper.yaml"]  # nothing is written


@pytest.mark.parametrize("name", ["smoke", "demo"])
def test_the_embedded_world_needs_nothing(name):
    assert missing(load_params(name)) == []
    require(load_params(name))


def test_one_thing_is_in_the_singular(nowhere, profile):
    params = profile(generation__pipeline__kind="stand_in", training__weights="a/b.safetensors",
                     filtering__encoder__kind="paperbirds")  # fmt: skip
    with pytest.raises(MissingFilesError, match="paper cannot start: 1 thing is missing") as error:
        require(params)
    assert "1. weights to start from: training.weights: a/b.safetensors does not" in str(
        error.value
    )


def fake_photos(monkeypatch, gaps, addresses):
    """Put another module in the place of diffcore.photos."""
    module = type(sys)("photos")
    module.find_missing, module.sites = lambda settings: gaps, lambda settings: addresses
    monkeypatch.setitem(sys.modules, "diffcore.photos", module)
    monkeypatch.setattr("diffcore.photos", module, raising=False)


def test_photographs_are_looked_for_by_their_own_module(profile, monkeypatch, data_gaps):
    fake_photos(monkeypatch, ["data: none"], [])
    assert list(data_gaps(profile().data)) == ["data: none"]
    assert list(data_gaps(load_params("demo").data)) == []


def test_photographs_that_can_be_fetched_are_not_missing(hub, profile, monkeypatch, data_gaps):
    host, port = hub.getsockname()
    fake_photos(monkeypatch, ["data: none"], [f"http://{host}:{port}/set.zip"])
    assert list(data_gaps(profile().data)) == []


def test_photographs_whose_site_is_silent_are_missing(profile, monkeypatch, data_gaps):
    monkeypatch.setattr(preflight, "_connects", lambda *to: False)
    fake_photos(monkeypatch, ["data: none"], ["http://set.example/set.zip"])
    (gap,) = data_gaps(profile().data)
    assert gap == "data: none (http://set.example/set.zip does not answer)"


def test_it_is_light_and_quick():
    code = (
        "import sys, diffcore.preflight as p; from diffcore.params import load_params; "
        "p.require(load_params('demo')); "
        "print([m for m in ('torch', 'timm', 'diffusers', 'open_clip') if m in sys.modules])"
    )
    start = time.perf_counter()
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
    assert time.perf_counter() - start < 10


# ----------------------------------------------------------------------------------------- the hub
def test_a_hub_that_answers_fills_the_gaps_and_is_asked_once(hub, profile, monkeypatch):
    asked = []
    connects = preflight._connects
    monkeypatch.setattr(preflight, "_connects", lambda *to: asked.append(to) or connects(*to))
    gaps = missing(profile())
    assert len(gaps) == 1  # the single file, which no library fetches
    assert "cosxl" in gaps[0]
    assert asked == [("127.0.0.1", hub.getsockname()[1])]


def test_a_hub_that_is_silent_is_not_waited_for(nowhere, profile, monkeypatch):
    monkeypatch.setattr(preflight, "_PATIENCE_S", 0.2)
    monkeypatch.setattr(preflight, "_connects", lambda *to: time.sleep(2))
    start = time.perf_counter()
    assert len(missing(profile())) == 4
    assert time.perf_counter() - start < 1.5


def test_a_proxy_is_asked_in_the_hub_s_place(monkeypatch, nowhere):
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.example")
    assert preflight._address("https://hub.example") == ("hub.example", 443)
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    assert preflight._address("https://hub.example") == ("proxy.example", 3128)
    monkeypatch.setenv("no_proxy", "hub.example")
    assert preflight._address("https://hub.example") == ("hub.example", 443)


def test_what_forbids_to_ask_is_said(hub, profile, monkeypatch):
    gaps = missing(profile(generation__pipeline__local_files_only=True))
    told = "and generation.pipeline.local_files_only forbids to ask the hub"
    assert [told in gap for gap in gaps] == [False, True, True]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    gaps = missing(profile())
    assert ["HF_HUB_OFFLINE forbids" in gap for gap in gaps] == [False, True, True, True]


def test_what_the_cache_holds_is_not_missing(nowhere, profile):
    cache(nowhere, VAE, {"config.json": "{}", "diffusion_pytorch_model.safetensors": ""})
    cache(nowhere, CLIP, {"open_clip_model.safetensors": ""})
    cache(nowhere, SDXL, pipeline_files(weights=False))
    params = profile()
    (gap,) = missing(params)
    assert "cosxl" in gap
    (nowhere / "checkpoints").mkdir()
    (nowhere / "checkpoints" / "cosxl.safetensors").touch()
    assert missing(params) == []
    hub = {"generation__pipeline__kind": "hub", "generation__pipeline__location": SDXL}
    (gap,) = missing(profile(**hub))  # its weights are not there
    assert "then set generation.pipeline.kind to folder and generation.pipeline.location" in gap
    cache(nowhere, SDXL, pipeline_files())
    assert missing(profile(**hub)) == []


# --------------------------------------------------------------------------------------- pipelines
def pipeline(profile, **settings):
    """A profile of which only the pipeline is checked."""
    changes = {f"generation__pipeline__{name}": value for name, value in settings.items()}
    return profile(filtering__encoder__kind="paperbirds", **changes)


def test_a_folder_is_checked_part_by_part(nowhere, profile):
    shipped = pipeline(profile, kind="folder", location=str(pipeline_dir()), vae=None)
    assert missing(shipped) == []
    folder = nowhere / "model"
    params = pipeline(profile, kind="folder", location="model", vae=None)
    assert "text-to-image model: the folder model does not exist; put" in missing(params)[0]
    for name, text in pipeline_files(weights=False).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (gap,) = missing(params)
    assert "the folder model lacks unet/*.safetensors, vae/config.json, vae/*.safetensors;" in gap
    (folder / "model_index.json").write_text("{")
    assert "lacks a readable model_index.json" in missing(params)[0]


def test_the_folders_of_the_profiles_are_named_with_their_commands(nowhere, profile):
    params = pipeline(
        profile, config="checkpoints/sdxl-config", vae="checkpoints/sdxl-vae-fp16-fix",
        location="model.ckpt",
    )  # fmt: skip
    model, config, vae = missing(params)
    assert "model.ckpt is no .safetensors file; others can run code" in model
    assert "the folder checkpoints/sdxl-config does not exist; run `hf download" in config
    assert f'{SDXL} --include "*.json" --include "*.txt" --local-dir checkpoints/sdxl' in config
    assert f"run `hf download {VAE} config.json" in vae
    assert "--local-dir checkpoints/sdxl-vae-fp16-fix`, or set generation.pipeline.vae" in vae


def test_images_to_import_are_folders_of_classes(nowhere, profile):
    params = pipeline(profile, kind="import", location="drawn")
    assert "generated images: drawn does not exist; put the images there" in missing(params)[0]
    (nowhere / "drawn").mkdir()
    assert "drawn has no folders in it" in missing(params)[0]
    (nowhere / "drawn" / "jay").mkdir()
    assert missing(params) == []


# ---------------------------------------------------------------------------- encoders and weights
def encoder(profile, **settings):
    """A profile of which only the encoder is checked."""
    changes = {f"filtering__encoder__{name}": value for name, value in settings.items()}
    return profile(generation__pipeline__kind="stand_in", **changes)


def test_the_folder_of_a_clip_has_configuration_and_weights(nowhere, profile):
    assert missing(encoder(profile, model_name=f"local-dir:{clip_dir()}", pretrained=None)) == []
    params = encoder(profile, model_name="local-dir:clip", pretrained=None)
    assert "encoder: the folder clip does not exist; `hf download`" in missing(params)[0]
    (nowhere / "clip").mkdir()
    (nowhere / "clip" / "open_clip_config.json").touch()
    assert "the folder clip lacks open_clip_model.safetensors; " in missing(params)[0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_file_of_weights_is_there_and_no_archive(nowhere, profile):
    params = encoder(profile, model_name="ViT-B-32-quickgelu", pretrained="clip.safetensors")
    assert "filtering.encoder.pretrained: clip.safetensors does not exist" in missing(params)[0]
    save_file({"a": torch.zeros(1)}, nowhere / "clip.safetensors")
    assert missing(params) == []
    torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save("ViT-B-32.pt")
    (gap,) = missing(encoder(profile, pretrained="ViT-B-32.pt"))
    assert "TorchScript archive, which holds code; take the model's safetensors instead" in gap


def test_tags_are_open_clip_s(nowhere, profile):
    (gap,) = missing(encoder(profile, model_name="ViT-B-32-quickgelu"))
    assert f"encoder: {CLIP} is not in the hub's cache" in gap
    (gap,) = missing(encoder(profile, model_name="ViT-B-16", pretrained="openai"))
    assert "encoder: timm/vit_base_patch16_clip_224.openai is not in the hub's cache" in gap
    (gap,) = missing(encoder(profile, model_name="hf-hub:someone/clip", pretrained=None))
    assert "encoder: someone/clip is not in the hub's cache" in gap
    (gap,) = missing(encoder(profile, pretrained="opnai"))
    assert "open_clip has no weights 'opnai' of ViT-B-32" in gap


def test_a_package_is_asked_for_by_both_that_use_it(nowhere, profile):
    package = "package:no_such_package"
    params = profile(
        generation__pipeline__kind="stand_in", filtering__encoder__kind="timm",
        filtering__encoder__pretrained=package, training__weights=package,
    )  # fmt: skip
    gaps = missing(params)
    assert [gap.split(": ")[:2] for gap in gaps] == [
        ["encoder", "filtering.encoder.pretrained"],
        ["weights to start from", "training.weights"],
    ]
    assert all("the package no_such_package is not installed; install" in gap for gap in gaps)
    (gap,) = missing(encoder(profile, kind="timm", pretrained=None))
    assert "encoder: filtering.encoder.pretrained: null names none; name a file or" in gap


@pytest.mark.skipif(os.name != "posix", reason="the folder of a cache is made with links")
def test_a_cached_link_to_nothing_is_missing(nowhere, profile):
    cache(nowhere, CLIP, {"open_clip_model.safetensors": ""})
    (file,) = (nowhere / "cache").rglob("open_clip_model.safetensors")
    file.unlink()
    file.symlink_to(nowhere / "gone")
    assert len(missing(encoder(profile))) == 1
