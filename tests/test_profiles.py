"""Profiles of photographs: the released settings, prompts without conflicts, networks that fit."""

import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import timm
import torch
from conftest import PROJECT, make_study
from layouts import CALTECH, CARS, CIFAR, PHOTOGRAPHS, needs_photographs
from timm.data import ImageNetInfo

from diffcore.estimate import as_markdown, estimate, tabulate
from diffcore.methods import METHODS
from diffcore.params import load_params
from diffcore.photos import open_photos
from diffcore.photos.known import PUBLISHED
from diffcore.photos.names import readable_names
from diffcore.prompts import find_conflicts, list_prompt_books, load_prompt_book

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
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def at(params, key):
    for name in key.split("."):
        params = getattr(params, name)
    return params


def names_of(dataset):
    """Class names: all of Flowers-102 and ImageNet, and ten of the others."""
    folders = {
        "cub200": ["012.Yellow_headed_Blackbird", "118.House_Sparrow", "137.Cliff_Swallow",
                   "089.Hooded_Merganser", "128.Seaside_Sparrow"],
        "cars": CARS,
        "flowers102": [str(number) for number in range(1, 103)],
        "caltech101": CALTECH,
        "cifar100": CIFAR,
        "tiny_imagenet": ImageNetInfo().label_names(),  # which hold its 200
        "imagenet": ImageNetInfo().label_names(),
    }  # fmt: skip
    return readable_names(dataset, folders[dataset], Path())


# -------------------------------------------------------------------------------- what they hold
@pytest.mark.parametrize("name", SIDES)
def test_a_profile_of_the_paper_has_the_released_settings(name):
    params = load_params(name)
    assert {key: at(params, key) for key in RELEASED} == RELEASED
    # Theirs is madebyollin/sdxl-vae-fp16-fix, here in a folder, so that it is found offline.
    assert Path(params.generation.pipeline.vae).name == "sdxl-vae-fp16-fix"
    assert params.generation.pipeline.local_files_only


@pytest.mark.parametrize("name", SIDES)
def test_a_profile_of_the_paper_spells_out_what_a_reader_looks_for(name):
    text = (PROJECT / "params" / f"{name}.yaml").read_text(encoding="utf-8")
    for key in RELEASED:
        assert re.search(rf"^ +{key.rpartition('.')[2]}: ", text, re.MULTILINE), key
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("name", SIDES)
def test_a_profile_of_the_paper_opens_its_own_set(name):
    data = load_params(name).data
    assert (data.dataset, data.root, data.image_size) == (name, f"data/{name}", SIDES[name])
    assert data.download == bool(PUBLISHED[name].archives)  # fetched where it can be
    overhead = load_params(name).overhead
    assert (overhead.num_classes, overhead.batch_size) == (PUBLISHED[name].classes, 16)


@pytest.mark.parametrize("name", ["cub200", "cars", "flowers102", "caltech101"])
def test_the_fine_grained_sets_have_the_authors_recipe(name):
    training = load_params(name).training
    assert {key: getattr(training, key) for key in RECIPE} == RECIPE


@pytest.mark.parametrize("name", [*SIDES, "photos"])
def test_the_methods_are_known_and_vanilla_and_ours_among_them(name):
    methods = load_params(name).trials.methods
    assert set(methods) <= set(METHODS)
    assert {"vanilla", "added", "diffcoremix", "mixed_added"} <= set(methods)


def test_no_profile_edits_images_that_are_too_small_or_cannot_be_drawn():
    editing = {n for n in [*SIDES, "photos"] if "diffusemix" in load_params(n).trials.methods}
    assert editing == {"cub200", "cars", "flowers102", "caltech101"}


# ---------------------------------------------------------------------------------- that they fit
@pytest.mark.parametrize("name", SIDES)
def test_prompts_contradict_no_class(name):
    prompts = load_params(name).prompts
    assert prompts.domain in list_prompt_books()
    assert find_conflicts(load_prompt_book(prompts.domain), names_of(name)) == []


@pytest.mark.parametrize("name", [*SIDES, "photos"])
def test_the_network_sees_enough_of_an_image(name):
    params, classes = load_params(name), 7
    side, settings = params.data.image_size, params.training
    with torch.device("meta"), torch.no_grad():
        net = timm.create_model(settings.model, num_classes=classes, **settings.model_args).eval()
        batch = torch.empty(2, 3, side, side)
        assert net(batch).shape == (2, classes)
        if settings.model == "resnetv2_18_small":  # tests/test_backbones.py looks into it
            return
        stages = timm.create_model(settings.model, features_only=True, **settings.model_args).eval()
        sides = [maps.shape[-1] for maps in stages(batch)]
    # The first is of the stem, which halves the image; a map of the object needs some places.
    assert sides[0] == side // 2
    assert sides[1] >= (24 if name == "photos" else 32)
    assert sides[-1] >= (3 if name == "photos" else 4)


@needs_photographs
def test_photographs_on_a_laptop_are_enough_for_stand_ins():
    params = load_params("photos", {"data.root": str(PHOTOGRAPHS / "tiny-imagenet-10")})
    train, test, spare = (open_photos(params.data, s) for s in ("train", "test", "spare"))
    assert (len(train), len(test)) == (100, 200)
    assert len(spare) >= params.generation.generated_share * len(train)
    assert train[0]["image"].shape == (96, 96, 3)


@needs_photographs
def test_the_remark_on_birds_in_photos_holds():
    text = (PROJECT / "params" / "photos.yaml").read_text(encoding="utf-8")
    assert "data.dataset=folder data.root=../shared/data/cub200-10/train" in text
    changes = {"data.dataset": "folder", "data.root": str(PHOTOGRAPHS / "cub200-10" / "train"),
               "data.train_images_per_class": 4, "generation.generated_share": 1.0}  # fmt: skip
    params = load_params("photos", changes)
    train, spare = (open_photos(params.data, split) for split in ("train", "spare"))
    assert (len(train), len(train.classes)) == (40, 10)
    assert len(spare) >= len(train)


# ------------------------------------------------------------------------------------ the documents
def blocks(document, language):
    text = (PROJECT / "docs" / document).read_text(encoding="utf-8")
    return [body for kind, body in BLOCK.findall(text) if kind == language]


@pytest.fixture
def ten_birds(tmp_path, monkeypatch):
    """The profile of docs/your-data.md, saved as it says, beside the photographs."""
    study = make_study(tmp_path / "main", monkeypatch)
    (study / "params" / "ten_birds.yaml").write_text(blocks("your-data.md", "yaml")[0])
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "data").symlink_to(PHOTOGRAPHS.resolve())
    return "ten_birds"


def test_the_walk_through_is_a_profile(ten_birds):
    params = load_params(ten_birds)
    assert (params.profile, params.data.dataset) == ("ten_birds", "folder")
    assert params.generation.pipeline.kind == "stand_in"
    birds = load_prompt_book(
        params.prompts.domain,
        template=params.prompts.template,
        contexts=params.prompts.contexts,
        negatives=params.prompts.negatives,
    )
    assert find_conflicts(birds, names_of("cub200")) == []


@needs_photographs
def test_the_walk_through_finds_its_photographs_and_says_what_it_prints(ten_birds):
    params = load_params(ten_birds)
    lengths = [len(open_photos(params.data, split)) for split in ("train", "test", "spare")]
    assert lengths == [40, 50, 70]
    printed = StringIO()
    with redirect_stdout(printed):
        exec(blocks("your-data.md", "python")[0], {})
    text = (PROJECT / "docs" / "your-data.md").read_text(encoding="utf-8")
    assert printed.getvalue().count("\n") == 2
    for line in printed.getvalue().splitlines():
        assert f"\n    {line}\n" in text


def test_the_table_of_profiles_is_what_the_estimate_says(study_folder):
    text = (PROJECT / "docs" / "profiles.md").read_text(encoding="utf-8")
    table = text.partition("<!-- estimate -->\n")[2].partition("\n<!-- end -->")[0].splitlines()
    assert [row.split(" | ")[0].strip("| ") for row in table[2:]] == list(SIDES)
    # One of the seven, as all would take long; without photographs, so that none are counted.
    head, line, row = as_markdown(tabulate([estimate(load_params("cifar100"))])).splitlines()
    assert table[:2] == [head, line]
    assert row in table


@pytest.mark.parametrize("document", ["profiles.md", "your-data.md"])
def test_a_document_links_to_files_that_exist(document):
    folder = PROJECT / "docs"
    for target in re.findall(r"\]\(([^)#]+)\)", (folder / document).read_text(encoding="utf-8")):
        assert (folder / target).exists(), target


def test_settings_named_in_the_documents_exist():
    text = "".join(path.read_text(encoding="utf-8") for path in (PROJECT / "docs").glob("[py]*.md"))
    params = load_params("cub200")
    sections = "data|generation|filtering|training|trials|measure|prompts"
    keys = set(re.findall(rf"\b(?:{sections})(?:\.[a-z_]+)+\b(?!\.py|/)", text))
    assert len(keys) > 8
    for key in keys:
        at(params, key)
