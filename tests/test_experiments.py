"""The glue of the first notebook, with the shipped model where it must draw."""

import numpy as np
import pandas as pd
import pytest

from diffcore import experiments
from diffcore.generation import load_pipeline
from diffcore.paperbirds import CONTEXTS, SPECIES, load_oracle
from diffcore.params import load_params


@pytest.fixture(scope="module")
def params():
    return load_params("smoke")


@pytest.fixture(scope="module")
def pipeline(params):
    return load_pipeline(params.generation.pipeline)


def test_the_book_follows_the_parameters():
    changed = load_params(
        "smoke", {"prompts.contexts": ["open desert"], "prompts.negatives": ["car"]}
    )
    book = experiments.study_book(changed)
    assert (book.contexts, book.negatives) == (("open desert",), ("car",))
    assert experiments.study_book(load_params("smoke")).contexts == CONTEXTS


def test_all_pairs_stand_in_reading_order(params):
    plan = experiments.all_pairs(params, SPECIES)
    expected = [(species, context) for species in SPECIES for context in CONTEXTS]
    assert list(zip(plan["class_name"], plan["context"], strict=True)) == expected
    assert plan["seed"].is_unique


def test_ablations_differ_in_their_prompts_alone(params):
    _, sources = experiments.training_set(params)
    plan = experiments.study_plan(params, sources)
    plain, context, both = experiments.ablations(params, plan).values()
    for column in ("sample_id", "class_name", "source_id", "seed"):
        assert plain[column].tolist() == context[column].tolist() == both[column].tolist()
    assert (plain["context"] == "").all()
    assert not any(c in p for c, p in zip(both["context"], plain["prompt"], strict=True))
    assert all(c in p for c, p in zip(context["context"], context["prompt"], strict=True))
    assert (context["negative_prompt"] == "").all()
    assert both.merge(plan).shape == both.shape  # the study's own samples


def test_side_plans_share_no_seed_with_the_study(params):
    _, sources = experiments.training_set(params)
    plans = [experiments.study_plan(params, sources)]
    plans += [experiments.side_plan(params, sources, len(sources), number) for number in (1, 2)]
    assert pd.concat(plans)["seed"].is_unique


def test_context_statistics_know_what_is_new():
    training = pd.DataFrame({"class_name": ["jay", "jay"], "context": ["forest", "forest"]})
    seen = pd.DataFrame({"class_name": ["jay", "jay"], "seen_context": ["forest", "street"]})
    table = experiments.context_statistics({"drawn": seen}, training, 0.95)
    assert table["condition"].tolist() == ["training set", "drawn"]
    assert table["entropy_bits"].tolist() == [0.0, 1.0]
    assert table["new_pairs"].tolist() == [0.0, 0.5]


def test_counterparts_stand_behind_their_source(params, pipeline, tmp_path):
    train, sources = experiments.training_set(params)
    plan = experiments.study_plan(params, sources).head(2)
    drawn, images = experiments.draw_study(params, plan, pipeline, tmp_path)
    grid = experiments.counterparts(train, drawn, images, SPECIES[:2], each=3)
    assert grid["rows"] == list(SPECIES[:2])
    assert grid["captions"][0][0] == "(real)"
    assert (grid["images"][0][0] == train[0]["image"]).all()
    own = drawn[drawn["class_name"] == SPECIES[0]]
    assert len(grid["images"][0]) == 1 + min(3, (own["source_id"] == "train-00000").sum())


def test_the_best_guidance_has_the_fewest_wrong_images():
    swept = pd.DataFrame(
        [("guidance_scale", 1.0, "wrong", 0.5), ("guidance_scale", 5.0, "wrong", 0.1),
         ("guidance_scale", 3.0, "wrong", 0.1), ("guidance_scale", 9.0, "species_right", 0.0),
         ("num_inference_steps", 40, "wrong", 0.0)],
        columns=["setting", "value", "measure", "rate"],
    )  # fmt: skip
    assert experiments.best_guidance(swept) == 3.0


def test_context_shares_sum_to_one_and_keep_what_is_absent():
    table = pd.DataFrame({"class_name": ["jay", "jay", "wren"], "seen": ["a", "b", "a"]})
    shares = experiments.context_shares(table, "seen", ["a", "b", "c"])
    assert shares.loc["jay"].tolist() == [0.5, 0.5, 0.0]
    assert shares.sum(axis=1).tolist() == [1.0, 1.0]


def test_failures_say_what_was_asked_for_and_what_was_seen():
    judged = pd.DataFrame(
        {"wrong": [False, True, True], "species_right": [True, True, False],
         "class_name": ["jay"] * 3, "seen_species": ["jay", "jay", "wren"]}
    )  # fmt: skip
    places, captions = experiments.describe_failures(judged, 5, seed=0)
    expected = {1: "jay\nmalformed", 2: "jay\nseen: wren"}
    assert dict(zip(places.tolist(), captions, strict=True)) == expected


def test_a_sweep_judges_every_point_and_changes_one_setting_at_a_time(params, pipeline, tmp_path):
    plan = experiments.all_pairs(params, SPECIES[:1]).head(2)
    swept = experiments.sweep(plan, pipeline, params, tmp_path, load_oracle())
    points = swept[["setting", "value"]].drop_duplicates().to_numpy().tolist()
    assert points == [["guidance_scale", 1.0], ["guidance_scale", 3.0],
                      ["num_inference_steps", 2], ["num_inference_steps", 4]]  # fmt: skip
    assert set(swept["measure"]) == set(experiments.SWEPT)
    assert (swept["n"] == 2).all()


def test_timing_counts_what_is_drawn_and_leaves_nothing_behind(params, pipeline):
    plan = experiments.all_pairs(params, SPECIES[:1]).head(3)
    timing = experiments.time_generation(plan, pipeline, params.generation)
    assert 0 < timing.unet_s + timing.vae_s < timing.total_s
    assert 0.5 < timing.share < 1


def test_the_oracle_recognises_what_the_shipped_model_draws(params, pipeline, tmp_path):
    """At full steps nearly every image shows what was asked for; the demo measures it exactly."""
    book = experiments.study_book(params)
    plan = experiments.all_pairs(params, SPECIES).iloc[::8]
    drawn = experiments.draw(
        plan, pipeline, params.generation, tmp_path, num_inference_steps=16, guidance_scale=3.0
    )
    judged = experiments.examine(drawn, load_oracle(), book)
    assert len(judged) == 24
    assert judged["species_right"].mean() >= 0.8
    assert judged["context_right"].mean() >= 0.8
    assert not np.isnan(judged["wrong"].astype(float)).any()
