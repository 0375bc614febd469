"""The setting of the sampler is chosen by the rule that was written down, and by nothing else."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from diffcore.params import load_params
from diffcore.prompts import load_prompt_set
from paperbirds import CONTEXTS, SPECIES
from paperbirds.pretrain import choose

EULER, OTHER = choose.SOLVERS


@pytest.fixture
def chosen(monkeypatch):
    """What is chosen where candidates have given distances: (guidance, steps, solver) -> value."""

    def choose_by(distances):
        embed = SimpleNamespace(embed_images=lambda images: np.zeros(1))

        def study(solver):
            def draw(plan, guidance_scale, num_inference_steps):
                asked = (guidance_scale, num_inference_steps, solver)
                return SimpleNamespace(embeddings=distances(*asked))

            train = SimpleNamespace(classes=SPECIES)
            return SimpleNamespace(
                train=train,
                prompt_set=load_prompt_set("package:paperbirds/prompts.yaml"),
                encoder=embed,
                draw=draw,
            )

        monkeypatch.setattr(choose, "frechet_distance", lambda drawn, reference: drawn)
        monkeypatch.setattr(choose, "_RENDERED", 1)
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


def test_pairs_are_planned_alike_and_rendered_whole():
    names = list(SPECIES[:2])
    study = SimpleNamespace(
        train=SimpleNamespace(classes=names),
        prompt_set=load_prompt_set("package:paperbirds/prompts.yaml"),
    )
    plan = choose.plan_pairs(study, count=3, seed=0)
    counts = plan.groupby(["class_name", "context"]).size()
    assert len(counts) == 2 * 16
    assert set(counts) == {3}
    scenes = choose.render_scenes(names, 2, seed=0)
    assert scenes.groupby(["class_name", "context"]).size().tolist() == [2] * 32
    assert len({image.tobytes() for image in scenes["image"]}) == 64
    assert set(scenes["context"]) == set(CONTEXTS)


@pytest.mark.parametrize("profile", ["demo", "birds"])
def test_the_profiles_use_what_was_chosen(profile):
    table = choose.read_choice()
    guidance, steps = table[table["chosen"]].to_dict("records")
    generation = load_params(profile).generation
    assert generation.guidance_scale == guidance["guidance_scale"] == steps["guidance_scale"]
    assert generation.num_inference_steps == steps["num_inference_steps"]
    scheduler = generation.pipeline.scheduler
    assert (scheduler.class_name if scheduler else EULER) == steps["solver"]


def test_curves_have_a_panel_for_each_part():
    table = choose.read_choice()
    curves, marks = choose.as_curves(table)
    assert curves["part"].value_counts().to_dict() == {"guidance scale": 7, "denoising steps": 6}
    assert set(curves["solver"]) == {"Euler", "DPM++ 2M"}
    assert marks["guidance scale"] == table[table["chosen"]]["guidance_scale"].iloc[0]
    assert pd.Series(curves["value"]).tolist() == table["distance"].tolist()
