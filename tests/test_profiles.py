"""Profiles of photographs: the released settings, prompts without conflicts, networks that fit."""

from functools import reduce

import pytest
import timm
import torch
from layouts import CALTECH, CARS, CIFAR
from timm.data import ImageNetInfo

from diffcore.data.datasets import load_split
from diffcore.data.published import readable_names
from diffcore.methods import study_methods
from diffcore.params import load_params
from diffcore.prompts.prompt_set import load_prompt_set, negatives_for

#: The paper's seven data sets: profile -> side of the images.
SIDES = {
    "cub200": 448, "cars": 448, "flowers102": 224, "caltech101": 224, "cifar100": 32,
    "tiny_imagenet": 64, "imagenet": 224,
}  # fmt: skip
#: What the authors released with their code, by dotted keys: CosXL in one file with its own noise
#: schedule, the sampler's settings, filter and share.
RELEASED = {
    "generation.pipeline.kind": "single_file",
    "generation.pipeline.dtype": "float16",
    "generation.pipeline.scheduler.class_name": "EDMEulerScheduler",
    "generation.guidance_scale": 12.0,
    "generation.num_inference_steps": 50,
    "generation.image_size": 512,
    "generation.generated_share": 0.3,
    "filtering.encoder.model_name": "ViT-B-32",
    "filtering.encoder.pretrained": "openai",
    "filtering.threshold": 0.6,
    "filtering.max_attempts": 0,
    "training.optimizer": "sgd",
}
NOISE = {
    "sigma_min": 0.002, "sigma_max": 120.0, "sigma_data": 1.0,
    "prediction_type": "v_prediction", "sigma_schedule": "exponential",
}  # fmt: skip
#: Of the same author's training code for Cars.
RECIPE = {"model": "resnet50", "lr": 0.1 * 64 / 256, "weight_decay": 5e-4, "batch_size": 64,
          "epochs": 128}  # fmt: skip


@pytest.mark.parametrize("name", SIDES)
def test_a_profile_of_the_paper_has_the_released_settings_on_its_set(name):
    params = load_params(name)
    assert {key: reduce(getattr, key.split("."), params) for key in RELEASED} == RELEASED
    pipeline = params.generation.pipeline
    assert pipeline.scheduler.settings == NOISE
    # Theirs is madebyollin/sdxl-vae-fp16-fix, here in a folder: the one that half precision needs.
    assert pipeline.vae == "checkpoints/sdxl-vae-fp16-fix"
    data = params.data
    assert (data.dataset, data.root, data.image_size) == (name, f"data/{name}", SIDES[name])


@pytest.mark.parametrize("name", ["cub200", "cars", "flowers102", "caltech101"])
def test_the_fine_grained_sets_have_the_authors_recipe(name):
    training = load_params(name).training
    assert {key: getattr(training, key) for key in RECIPE} == RECIPE


def test_no_profile_restyles_images_that_are_too_small_or_cannot_be_drawn():
    methods = {name: study_methods(load_params(name)) for name in (*SIDES, "photos")}
    restyling = {name for name, used in methods.items() if "diffusemix" in used}
    assert restyling == {"cub200", "cars", "flowers102", "caltech101"}


@pytest.mark.parametrize("name", SIDES)
def test_negatives_contradict_no_class(name):
    folders = {
        "cub200": ["012.Yellow_headed_Blackbird", "118.House_Sparrow", "137.Cliff_Swallow",
                   "089.Hooded_Merganser", "128.Seaside_Sparrow"],
        "cars": CARS, "caltech101": CALTECH, "cifar100": CIFAR,
        "flowers102": [str(number) for number in range(1, 103)],
    }.get(name, ImageNetInfo().label_names())  # fmt: skip
    prompt_set = load_prompt_set(load_params(name).prompts.domain)
    for class_name in readable_names(name, folders):
        assert negatives_for(prompt_set, "", class_name) == prompt_set.negatives
    for context in prompt_set.contexts:
        exceptions = {*prompt_set.exceptions.get(context, ())}
        assert {*negatives_for(prompt_set, context)} == {*prompt_set.negatives} - exceptions


@pytest.mark.parametrize("name", [*SIDES, "photos"])
def test_the_network_sees_enough_of_an_image(name):
    side, settings = load_params(name).data.image_size, load_params(name).training
    if settings.model == "resnetv2_18_small":  # its own test looks into it
        return
    with torch.device("meta"), torch.no_grad():
        stages = timm.create_model(settings.model, features_only=True, **settings.model_args).eval()
        sides = [maps.shape[-1] for maps in stages(torch.empty(2, 3, side, side))]
    # The first is of the stem, which halves the image; a map of the object needs some places.
    assert sides[0] == side // 2
    assert sides[1] >= (24 if name == "photos" else 32)
    assert sides[-1] >= (3 if name == "photos" else 4)


def test_photographs_on_a_laptop_are_enough_for_substitutes(photographs):
    params = load_params("photos", {"data.root": str(photographs / "tiny-imagenet-10")})
    train, test, spare = (load_split(params, split) for split in ("train", "test", "spare"))
    assert (len(train), len(test)) == (100, 200)
    assert len(spare) >= params.generation.generated_share * len(train)
    assert train[0]["image"].shape == (96, 96, 3)


def test_birds_is_the_demo_with_more_of_it():
    demo, birds = (load_params(name).model_dump() for name in ("demo", "birds"))
    assert {key for key in demo if demo[key] != birds[key]} == {"profile", "runs", "notebooks"}
