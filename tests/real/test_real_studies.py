"""The paper's profiles run on real photographs, with twins in the place of the large models.

Nothing but parameters is changed (`twins.overrides`): where things lie, and how much is done. All
eight notebooks take minutes, mostly to start, so one profile runs them; the others read, draw and
filter in this process. With DIFFCORE_ALL_PROFILES set, all seven run everything.
"""

import json
import os
import shutil

import numpy as np
import pytest
import twins as tiny
from conftest import PROJECT, make_study
from layouts import PHOTOGRAPHS, lay_out, needs_photographs
from PIL import Image

from diffcore import experiments, filtering
from diffcore.data import load_split
from diffcore.generation import decode_images, read_generated
from diffcore.params import load_params
from diffcore.preflight import require
from diffcore.prompts import find_conflicts
from diffcore.report import VERDICTS
from diffcore.study import build_index, run_notebook
from diffcore.training_study import NEEDED

pytestmark = needs_photographs

#: The paper's profiles, each with the name of the first class of its layout.
PROFILES = {
    "cub200": "black footed albatross", "cars": "am general hummer suv 2000",
    "flowers102": "pink primrose", "caltech101": "face", "cifar100": "apple",
    "tiny_imagenet": "goldfish", "imagenet": "tench",
}  # fmt: skip
IN_FULL = list(PROFILES) if os.environ.get("DIFFCORE_ALL_PROFILES") else ["cub200"]
NOTEBOOKS = sorted(path.stem for path in (PROJECT / "notebooks").glob("*.ipynb"))
CLASSES, EACH = 4, 4  # of training images, and as many for testing


@pytest.fixture(scope="module")
def changes(tmp_path_factory):
    """Lay out the photographs of a profile, once, and tell what opens them."""
    twins, made = tiny.make_twins(tmp_path_factory.mktemp("twins")), {}

    def of(profile):
        if profile not in made:
            folder = tmp_path_factory.mktemp(profile)
            data = lay_out(profile, folder, PHOTOGRAPHS, per_class=EACH, classes=CLASSES)
            made[profile] = tiny.overrides(twins, data)
        return dict(made[profile])

    return of


# ---------------------------------------------------------------------------- up to the filtering
@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_finds_all_that_it_needs_and_opens_its_photographs(profile, changes):
    params = load_params(profile, changes(profile))
    require(params)
    train, test = (load_split(params, split) for split in ("train", "test"))
    assert len(train.classes) == CLASSES
    assert train.classes[0].lower() == PROFILES[profile]
    assert len(train) + len(test) == 2 * EACH * CLASSES
    assert not set(train.facts["id"]) & set(test.facts["id"])
    for part in (train, test):
        assert set(part.facts["class_name"]) == set(train.classes)
        assert part[0]["image"].shape == (32, 32, 3)
        assert part[0]["image"].std() > 5  # a photograph, and no blank


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_draws_and_filters_counterparts_of_its_photographs(profile, changes, tmp_path):
    params = load_params(profile, changes(profile))
    train, sources = experiments.training_set(params)
    assert find_conflicts(experiments.study_book(params), train.classes) == []
    plan = experiments.study_plan(params, sources)
    assert len(plan) == len(train)
    some = plan.iloc[:: len(plan) // 3]
    assert all(name in text for name, text in zip(some["class_name"], some["prompt"], strict=True))
    assert all(part in text for part, text in zip(some["context"], some["prompt"], strict=True))
    pipeline = experiments.load_generator(params)
    facts, images = experiments.draw_study(params, some, pipeline, tmp_path, progress=False)
    assert images.shape == (len(some), 64, 64, 3)
    assert len({image.tobytes() for image in images}) == len(some)

    encoder = filtering.load_encoder(params.filtering.encoder)
    real = filtering.embed(sources, train.images, encoder)
    cosine = filtering.cosine_to_reference(filtering.embed(facts, images, encoder), real, "source")
    at = {source: place for place, source in enumerate(sources["source_id"])}
    photographs = train.images[[at[source] for source in facts["source_id"]]]
    pairs = zip(encoder.embed_images(images[:]), encoder.embed_images(photographs), strict=True)
    np.testing.assert_allclose(cosine, [left @ right for left, right in pairs], atol=1e-5)
    kept = filtering.hard_filter(cosine, filtering.study_threshold(params.filtering, real))
    np.testing.assert_array_equal(kept, cosine >= 0.6)


# ---------------------------------------------------------------------------------- the notebooks
@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of its own, for all profiles, in which nothing has been run."""
    with pytest.MonkeyPatch.context() as patch:
        folder = make_study(tmp_path_factory.mktemp("study"), patch)
        for name in NOTEBOOKS:
            shutil.copy(PROJECT / "notebooks" / f"{name}.ipynb", folder / "notebooks")
        yield folder


@pytest.fixture
def find(study, changes):
    """Run a notebook, and what it needs before it; return its metrics."""

    def run(profile, name):
        for needed in NOTEBOOKS[: NOTEBOOKS.index(name) + 1]:
            if not (study / "reports" / profile / needed / f"{needed}.ipynb").exists():
                run_notebook(needed, profile, changes(profile))
        report = study / "reports" / profile / name
        assert any((report / "figures").glob("*.png"))
        return json.loads((report / "metrics.json").read_text())

    return run


def parameters(changes, profile):
    return load_params(profile, changes(profile))


@pytest.mark.parametrize("profile", IN_FULL)
def test_01_generation(profile, find, changes):
    found = find(profile, "01_generation")
    train, _ = experiments.training_set(parameters(changes, profile))
    assert found["images"] == len(train)
    assert found["seconds_per_image"] > 0


@pytest.mark.parametrize("profile", IN_FULL)
def test_02_filtering(profile, find):
    found = find(profile, "02_filtering")
    assert found["threshold"] == 0.6
    assert 0 < found["rejection_rate"] < 1  # of the twin's images, by the twin's CLIP
    rejected = found["rejection_rate"] * found["images"]
    assert found["never_passed"] == pytest.approx(rejected)


@pytest.mark.parametrize("profile", IN_FULL)
def test_03_mixing(profile, find):
    found = find(profile, "03_mixing")
    filtered = find(profile, "02_filtering")
    assert found["filtered"] is True
    assert found["pairs"] == filtered["images"] - filtered["never_passed"]


@pytest.mark.parametrize("profile", IN_FULL)
def test_04_training(profile, find, changes):
    found = find(profile, "04_training")
    methods = parameters(changes, profile).trials.methods
    assert found["trainings"] == 2 * len(methods)
    (top1,) = found["top1"].values()
    assert set(top1) == set(methods)
    assert all(0 <= value <= 1 for value in top1.values())


@pytest.mark.parametrize("profile", IN_FULL)
@pytest.mark.parametrize("name", ["05_saliency", "06_overhead", "07_robustness"])
def test_what_is_measured_on_the_classifiers(profile, name, find):
    assert find(profile, name)


@pytest.mark.parametrize("profile", IN_FULL)
def test_08_report(profile, find, study):
    found = find(profile, "08_report")
    assert found["notebooks"] == 7
    assert set(found["verdicts"].values()) <= set(VERDICTS) - {"not run yet"}
    page = build_index(profile).read_text(encoding="utf-8")
    for name in NOTEBOOKS:
        assert page.count(f'<h2><a href="{name}/{name}.html">') == 1


# ------------------------------------------------------------------- images that are there already
@pytest.fixture
def tree(changes, tmp_path):
    """Images of the twin as another tool leaves them: a folder a class, some with their prompt."""
    params = parameters(changes, "cub200")
    train, sources = experiments.training_set(params)
    plan = experiments.study_plan(params, sources).groupby("class_name").head(2)
    pipeline = experiments.load_generator(params)
    facts, images = experiments.draw_study(params, plan, pipeline, tmp_path / "run", progress=False)
    names = dict(zip(train.classes, train.folders, strict=True))
    for place, (row, image) in enumerate(zip(facts.itertuples(), images, strict=True)):
        # As the data set names its classes, or in words.
        name = names[row.class_name] if place < 4 else row.class_name.title()
        folder = tmp_path / "tree" / name
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{place}.png")
        (folder / f"{place}.txt").write_text(row.prompt)
    return tmp_path / "tree"


def test_images_that_another_tool_drew_are_filtered_like_any(tree, study, changes):
    imported = {
        "profile": "imported",
        "generation.pipeline.kind": "import",
        "generation.pipeline.location": str(tree),
        "trials.methods": list(NEEDED),  # not DiffuseMix, which edits with a pipeline
    }
    run_notebook("02_filtering", "cub200", changes("cub200") | imported)
    files = sorted(tree.rglob("*.png"))
    found = json.loads((study / "reports/imported/02_filtering/metrics.json").read_text())
    assert found["images"] == len(files) == 8
    stored = read_generated(study / "runs" / "imported" / "generation").sort_values("sample_id")
    given = [np.asarray(Image.open(file)) for file in files]
    np.testing.assert_array_equal(decode_images(stored), given)
    assert stored["prompt"].tolist() == [file.with_suffix(".txt").read_text() for file in files]
