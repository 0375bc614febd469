"""What a study can know, and what is missing: all of it at once, in words, and nothing written."""

import json

import pytest
from huggingface_hub import constants

from diffcore import checks
from diffcore.params import load_params

SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
TIMM = {"filtering.encoder.kind": "timm", "filtering.encoder.model_name": "resnet10t",
        "filtering.encoder.pretrained": None}  # fmt: skip
CLIP = "timm/vit_base_patch32_clip_224.openai"


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """An empty folder to work in, an empty cache, and a hub that must not be asked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def cub200(**changes):
    start = {"data.download": True, "training.precision": "auto"}  # float16 needs a GPU
    return load_params("cub200", start | changes)


def cache(folder, repository, name):
    """Put a file into a cache of the hub, as a download does."""
    home = folder / "cache" / f"models--{repository.replace('/', '--')}"
    for path, text in ((home / "refs" / "main", "abc"), (home / "snapshots/abc" / name, "{}")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_everything_that_is_missing_is_message_at_once_with_its_remedy(nowhere):
    with pytest.raises(checks.MissingFilesError) as error:
        checks.require(cub200(**{"data.download": False}), nowhere / "runs")
    head, *gaps, foot = str(error.value).splitlines()
    assert head == "cub200 cannot start; missing or wrong:"
    assert foot == f"Paths without a leading / begin in {nowhere}."
    data, model, config, vae, clip = gaps
    assert "CUB_200_2011.tgz" in data
    assert "text-to-image model: checkpoints/cosxl.safetensors does not exist; run" in model
    assert "`hf download stabilityai/cosxl cosxl.safetensors --local-dir checkpoints`" in model
    assert "checkpoints/sdxl-config does not exist; run `hf download" in config
    assert "checkpoints/sdxl-vae-fp16-fix does not exist; run `hf download" in vae
    assert f"encoder: {CLIP} is not in the hub's cache, and HF_HUB_OFFLINE forbids" in clip
    assert list(nowhere.iterdir()) == []  # nothing is written


@pytest.mark.parametrize("name", ["smoke", "demo"])
def test_the_embedded_world_needs_nothing(name):
    assert checks.missing(load_params(name)) == []


def test_what_the_cache_holds_is_not_missing(nowhere):
    before = checks.missing(cub200())
    cache(nowhere, CLIP, "open_clip_model.safetensors")
    assert checks.missing(cub200()) == before[:-1]


def test_the_hub_is_only_in_question_where_it_may_not_be_asked(nowhere, monkeypatch):
    hub = {"generation.pipeline.kind": "hub", "generation.pipeline.location": SDXL,
           "generation.pipeline.vae": None}  # fmt: skip
    assert "HF_HUB_OFFLINE forbids" in checks.missing(cub200(**hub))[0]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert checks.missing(cub200(**hub)) == []


def test_a_folder_of_a_pipeline_is_looked_through_part_by_part(nowhere):
    index = {
        "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "EulerScheduler"], "image_encoder": [None, None],
    }  # fmt: skip
    folder = nowhere / "model"
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "unet" / "config.json").write_text("{}")
    asked = {"generation.pipeline.kind": "folder", "generation.pipeline.location": "model"}
    (gap,) = [g for g in checks.missing(cub200(**asked)) if g.startswith("text-to-image model")]
    assert "the folder model lacks unet/*.safetensors;" in gap  # the autoencoder is another


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"generation.pipeline.location": "a.ckpt"}, "others can run code when opened"),
        ({"generation.pipeline.kind": "import"}, "generated images: "),
        ({"generation.pipeline.vae": "checkpoints/x"}, "autoencoder: the folder checkpoints/x"),
        (
            {"training.weights": "a/b.safetensors"},
            "training.weights: a/b.safetensors does not",
        ),
        ({"filtering.encoder.pretrained": "nothing"}, "open_clip has no weights 'nothing'"),
        ({"filtering.encoder.model_name": "local-dir:here"}, "the folder here does not exist"),
        (TIMM, "filtering.encoder.pretrained: '' is neither package:"),
    ],
)
def test_each_gap_is_message_in_words(nowhere, changes, message):
    assert any(message in gap for gap in checks.missing(cub200(**changes)))


def test_capabilities_follow_from_the_data_the_model_and_the_encoder():
    assert checks.capabilities(cub200()) == {"pipeline", "masks", "texts"}
    assert checks.capabilities(load_params("photos")) == {"truth", "substitutes", "masks"}
