"""Profiles of photographs: the released settings, prompts without conflicts, networks that fit."""

import re
from pathlib import Path

import pytest
import timm
import torch
from conftest import PROJECT
from diffcore.data.names import readable_names
from diffcore.methods.registry import study_methods
from layouts import CALTECH, CARS, CIFAR
from timm.data import ImageNetInfo

from diffcore.data.published import PUBLISHED
from diffcore.data.splits import load_split
from diffcore.params import load_params
from diffcore.prompts.prompt_set import find_conflicts, load_prompt_set
from diffcore.training import networks

#: The paper's seven data sets: profile -> side of the images.
SIDES = {
    "cub200": 448, "cars": 448, "flowers102": 224, "caltech101": 224, "cifar100": 32,
    "tiny_imagenet": 64, "imagenet": 224,
}  # fmt: skip
#: What the authors released with their code, by dotted keys: CosXL in one file with its own noise
#: schedule, the autoencoder that half precision needs, the sampler's settings, filter and share.
RELEASED = {
    "generation.pipeline.kind": "single_file",
    "generation.pipeline.dtype": "float16",
    "generation.pipeline.scheduler.class_name": "EDMEulerScheduler",
    "generation.pipeline.scheduler.sigma_min": 0.002,
    "generation.pipeline.scheduler.sigma_max": 120.0,
    "generation.pipeline.scheduler.sigma_data": 1.0,
    "generation.pipeline.scheduler.prediction_type": "v_prediction",
    "generation.pipeline.scheduler.sigma_schedule": "exponential",
    "generation.guidance_scale": 12.0,
    "generation.num_inference_steps": 50,
    "generation.height": 512,
    "generation.width": 512,
    "generation.generated_share": 0.3,
    "filtering.encoder.kind": "open_clip",
    "filtering.encoder.model_name": "ViT-B-32",
    "filtering.encoder.pretrained": "openai",
    "filtering.threshold": 0.6,
    "filtering.max_attempts": 0,
    "training.schedule": "cosine",
    "training.optimizer": "sgd",
    "training.weights": None,
}
#: Of the same author's training code for Cars.
RECIPE = {"model": "resnet50", "lr": 0.1 * 64 / 256, "weight_decay": 5e-4, "batch_size": 64,
          "epochs": 128}  # fmt: skip


def at(params, key):
    for name in key.split("."):
        params = getattr(params, name)
    return params


@pytest.mark.parametrize("name", SIDES)
def test_a_profile_of_the_paper_has_the_released_settings_and_spells_them_out(name):
    params = load_params(name)
    assert {key: at(params, key) for key in RELEASED} == RELEASED
    # Theirs is madebyollin/sdxl-vae-fp16-fix, here in a folder, so that it is found offline.
    assert Path(params.generation.pipeline.vae).name == "sdxl-vae-fp16-fix"
    assert params.generation.pipeline.local_files_only
    text = (PROJECT / "params" / f"{name}.yaml").read_text(encoding="utf-8")
    for key in RELEASED:
        assert re.search(rf"^ +{key.rpartition('.')[2]}: ", text, re.MULTILINE), key


@pytest.mark.parametrize("name", SIDES)
def test_a_profile_of_the_paper_opens_its_own_set(name):
    params = load_params(name)
    data, overhead = params.data, params.overhead
    assert (data.dataset, data.root, data.image_size) == (name, f"data/{name}", SIDES[name])
    assert (overhead.num_classes, overhead.batch_size) == (PUBLISHED[name].classes, 16)


@pytest.mark.parametrize("name", ["cub200", "cars", "flowers102", "caltech101"])
def test_the_fine_grained_sets_have_the_authors_recipe(name):
    training = load_params(name).training
    assert {key: getattr(training, key) for key in RECIPE} == RECIPE


def test_no_profile_edits_images_that_are_too_small_or_cannot_be_drawn():
    methods = {name: study_methods(load_params(name)) for name in (*SIDES, "photos")}
    editing = {name for name, used in methods.items() if "diffusemix" in used}
    assert editing == {"cub200", "cars", "flowers102", "caltech101"}


@pytest.mark.parametrize("name", SIDES)
def test_prompts_contradict_no_class(name):
    folders = {
        "cub200": ["012.Yellow_headed_Blackbird", "118.House_Sparrow", "137.Cliff_Swallow",
                   "089.Hooded_Merganser", "128.Seaside_Sparrow"],
        "cars": CARS, "caltech101": CALTECH, "cifar100": CIFAR,
        "flowers102": [str(number) for number in range(1, 103)],
    }.get(name, ImageNetInfo().label_names())  # fmt: skip
    prompt_set = load_prompt_set(load_params(name).prompts.domain)
    assert find_conflicts(prompt_set, readable_names(name, folders)) == []


@pytest.mark.parametrize("name", [*SIDES, "photos"])
def test_the_network_sees_enough_of_an_image(name):
    side, settings = load_params(name).data.image_size, load_params(name).training
    with torch.device("meta"), torch.no_grad():
        assert networks  # which registers a model of its own
        net = timm.create_model(settings.model, num_classes=7, **settings.model_args).eval()
        batch = torch.empty(2, 3, side, side)
        assert net(batch).shape == (2, 7)
        if settings.model == "resnetv2_18_small":  # its own test looks into it
            return
        stages = timm.create_model(settings.model, features_only=True, **settings.model_args).eval()
        sides = [maps.shape[-1] for maps in stages(batch)]
    # The first is of the stem, which halves the image; a map of the object needs some places.
    assert sides[0] == side // 2
    assert sides[1] >= (24 if name == "photos" else 32)
    assert sides[-1] >= (3 if name == "photos" else 4)


def test_photographs_on_a_laptop_are_enough_for_surrogates(photographs):
    params = load_params("photos", {"data.root": str(photographs / "tiny-imagenet-10")})
    train, test, spare = (load_split(params, split) for split in ("train", "test", "spare"))
    assert (len(train), len(test)) == (100, 200)
    assert len(spare) >= params.generation.generated_share * len(train)
    assert train[0]["image"].shape == (96, 96, 3)


def test_birds_is_the_demo_with_more_of_it():
    apart = {"profile", "measure", "runs", "overhead"}
    demo, birds = (load_params(name).model_dump(exclude=apart) for name in ("demo", "birds"))
    assert demo == birds
