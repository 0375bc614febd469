"""The sampler's setting follows the rule; labels by hand are drawn by chance and counted."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from diffcore.data.generated import GeneratedSet
from diffcore.params import load_params
from diffcore.prompts import load_prompt_set
from paperbirds import SPECIES
from paperbirds.__main__ import main
from paperbirds.pretrain import choose, labels

EULER, OTHER = choose.SOLVERS
PROMPTS = load_prompt_set("package:paperbirds/prompts.yaml")
FACTS = {"model_hash": "abc", "guidance_scale": 2.0, "num_inference_steps": 12}
GENERATED = pd.DataFrame({"sample_id": ["s0", "s1", "s2", "s3"], **FACTS})


# ------------------------------------------------------------------------------ the sampler
@pytest.fixture
def chosen(monkeypatch):
    """The candidates that are chosen by their distances: (guidance, steps, solver) -> value."""
    encoder = SimpleNamespace(embed_images=lambda images: np.zeros(1))
    common = {
        "train": SimpleNamespace(classes=SPECIES), "prompt_set": PROMPTS,
        "image_filter": SimpleNamespace(encoder=encoder),
    }  # fmt: skip
    monkeypatch.setattr(choose, "frechet_distance", lambda drawn, reference: drawn)
    monkeypatch.setattr(choose, "_RENDERED", 1)

    def choose_by(distances):
        def study(solver):
            def draw(plan, guidance_scale, num_inference_steps):
                distance = distances(guidance_scale, num_inference_steps, solver)
                return SimpleNamespace(embeddings=distance)

            return SimpleNamespace(draw=draw, **common)

        table = choose.choose({solver: study(solver) for solver in choose.SOLVERS})
        assert table["part"].tolist() == ["guidance"] * 7 + ["steps and solver"] * 6
        columns = ["guidance_scale", "num_inference_steps", "solver"]
        return [tuple(row) for row in table.loc[table["chosen"], columns].to_numpy()]

    return choose_by


def test_the_nearest_guidance_and_the_fewest_steps_that_are_about_as_near(chosen):
    # Least at guidance 3; of 24, 12 and 6 steps the last is too far from the least.
    far = {6: 0.2, 12: 0.04, 24: 0.0}
    found = chosen(lambda w, steps, solver: 1 + (w - 3) ** 2 + far[steps])
    assert found == [(3.0, 12, EULER), (3.0, 12, EULER)]


def test_euler_comes_first_where_both_solvers_are_about_as_near(chosen):
    by = {EULER: 0.03, OTHER: 0.0}
    found = chosen(lambda w, steps, solver: 1 + (w - 1.5) ** 2 + by[solver])
    assert found[1] == (1.5, 6, EULER)
    by[EULER] = 0.2
    assert chosen(lambda w, steps, solver: 1 + by[solver])[1] == (1.0, 6, OTHER)


def test_studies_differ_in_the_solver_alone(monkeypatch):
    opened = {}
    table = choose.read_choice()
    monkeypatch.setattr(choose.Study, "open", lambda *arguments: arguments)
    monkeypatch.setattr(choose, "choose", lambda studies: opened.update(studies) or table)
    monkeypatch.setattr(choose, "write_text", lambda path, text: path)
    assert main(["choose", "--profile", "demo"]) == 0
    first, second = (load_params(*opened[solver][1:]) for solver in (EULER, OTHER))
    assert first == load_params("demo")
    scheduler = second.generation.pipeline.scheduler
    assert (scheduler.class_name, scheduler.settings["sigma_max"]) == (OTHER, 40.0)


@pytest.mark.parametrize("profile", ["demo", "birds"])
def test_the_profiles_use_what_was_chosen(profile):
    table = choose.read_choice()
    guidance, steps = table[table["chosen"]].to_dict("records")
    generation = load_params(profile).generation
    assert generation.guidance_scale == guidance["guidance_scale"] == steps["guidance_scale"]
    assert generation.num_inference_steps == steps["num_inference_steps"]
    scheduler = generation.pipeline.scheduler
    assert (scheduler.class_name if scheduler else EULER) == steps["solver"]


# ------------------------------------------------------------------------------ labels by hand
@pytest.fixture
def labels_file(tmp_path, monkeypatch):
    path = tmp_path / "demo.csv"
    monkeypatch.setattr(labels, "labels_path", lambda profile: path)
    return path


def test_labels_count_for_the_images_of_one_model_and_setting(labels_file):
    assert labels.read_labels("demo", GENERATED).empty  # there are none yet
    rows = GENERATED.iloc[[2, 0, 3]].assign(number=[1, 2, 3], whole=[1, 0, 0])
    rows.assign(species=["blue jay", "", "indigo bunting"]).to_csv(labels_file, index=False)
    found = labels.read_labels("demo", GENERATED)
    assert found["place"].tolist() == [2, 0, 3]
    assert found["species"].tolist() == ["blue jay", "", "indigo bunting"]
    assert found["whole"].tolist() == [True, False, False]
    for other in ({"guidance_scale": 3.0}, {"model_hash": "other"}):
        assert labels.read_labels("demo", GENERATED.assign(**other)).empty


@pytest.mark.parametrize("wrong", [{"species": "dodo"}, {"whole": 2}])
def test_what_is_no_label_is_named_by_its_line(labels_file, wrong):
    rows = GENERATED.iloc[:3].assign(species="blue jay", whole=1)
    for name, value in wrong.items():
        rows.loc[1, name] = value
    rows.to_csv(labels_file, index=False)
    with pytest.raises(labels.LabelsError, match=r"demo\.csv, line 3: species must be one of"):
        labels.read_labels("demo", GENERATED)


def test_agreement_is_counted_by_question_and_by_kind_of_image():
    by_hand = pd.DataFrame({
        "place": [0, 1, 2, 3, 4], "species": ["jay", "jay", "wren", "", "jay"],
        "whole": [True, True, True, False, False],
    })  # fmt: skip
    truth = pd.DataFrame({
        "class_name": "jay", "seen_species": ["jay", "wren", "wren", "jay", "jay"],
        "wellformed": [True, True, True, False, True],
    })  # fmt: skip
    found = labels.agreement(by_hand, truth).set_index(["question", "seen"])
    assert found["value"].to_dict() == pytest.approx({
        ("species", "a bird"): 3 / 4, ("one whole bird", "all"): 4 / 5, ("both", "all"): 3 / 5,
        ("both", "the bird that was asked for"): 1 / 2, ("both", "another species"): 1,
        ("both", "malformed"): 0, ("both", "no bird"): 1,
    })  # fmt: skip
    assert found["n"].tolist() == [4, 5, 5, 2, 1, 1, 1]


def test_the_labels_that_are_committed_are_legal_and_of_many_images():
    table = pd.read_csv(labels.labels_path("demo"), dtype={"species": str})
    keys = table[["sample_id", *FACTS]]
    assert len(labels.read_labels("demo", keys.drop_duplicates())) == len(table) >= 300
    generation = load_params("demo").generation
    assert set(table["guidance_scale"]) == {generation.guidance_scale}
    assert set(table["num_inference_steps"]) == {generation.num_inference_steps}


def test_sheets_and_an_empty_table_are_written(tmp_path, monkeypatch):
    generated = GeneratedSet(GENERATED, np.zeros((4, 8, 8, 3), np.uint8))
    study = SimpleNamespace(generated=generated, run_dir=tmp_path, params=load_params("demo"))
    monkeypatch.setattr(labels.Study, "open", lambda *arguments: study)
    assert main(["label", "--count", "3"]) == 0
    folder = tmp_path / "labels"
    assert {file.name for file in folder.iterdir()} == {"species.png", "images.png", "labels.csv"}
    blank = pd.read_csv(folder / "labels.csv")
    assert blank["number"].tolist() == [1, 2, 3]
    assert blank["sample_id"].is_unique
    assert blank[["species", "whole"]].isna().all(axis=None)
