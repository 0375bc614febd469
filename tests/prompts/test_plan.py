"""The plan: each draw stands alone, and what is dealt out is dealt out evenly."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffcore.prompts import load_prompt_set, plan_generation
from diffcore.prompts.plan import PLAN_COLUMNS
from diffcore.prompts.prompt_set import write_prompt

BIRDS = load_prompt_set("birds")


def make_sources(per_class, classes=("blue jay", "american crow")):
    rows = [(f"{name}/{place}", name) for name in classes for place in range(per_class)]
    return pd.DataFrame(rows, columns=["source_id", "class_name"])


def plan(sources, prompt_set=BIRDS, share=1.0, seed=0, **options):
    return plan_generation(sources, prompt_set, generated_share=share, seed=seed, **options)


def test_the_plan_has_a_row_per_image_in_the_order_of_the_sources():
    sources = make_sources(4).sample(frac=1, random_state=0)
    table = plan(sources)
    assert tuple(table.columns) == PLAN_COLUMNS
    assert list(table["source_id"]) == list(sources["source_id"])
    assert list(table["class_name"]) == list(sources["class_name"])
    assert table["sample_id"].is_unique
    assert table["seed"].is_unique
    assert table["seed"].between(0, 2**63 - 1).all()
    for row in table.itertuples():
        assert row.prompt == write_prompt(BIRDS, row.class_name, row.context)


@settings(max_examples=30)
@given(st.integers(1, 40), st.floats(0.01, 4), st.integers(0, 5))
def test_each_class_gets_its_share_spread_over_images_and_contexts(per_class, share, seed):
    table = plan(make_sources(per_class), share=share, seed=seed)
    for _, rows in table.groupby("class_name"):
        assert abs(len(rows) - max(1, share * per_class)) <= 0.5 + 1e-9
        images = rows["source_id"].value_counts()
        assert images.max() - (images.min() if len(images) == per_class else 0) <= 1
        contexts = rows["context"].value_counts().reindex(BIRDS.contexts, fill_value=0)
        assert contexts.max() - contexts.min() <= 1


def test_the_plan_is_the_same_everywhere():
    row = plan(make_sources(10), share=0.3).iloc[0]
    assert row[["sample_id", "context", "seed"]].tolist() == [
        "blue jay/1-0-0", "misty morning", 9094061494462208776,
    ]  # fmt: skip
    of_numpy = plan(make_sources(10), share=0.3, seed=np.int64(0)).iloc[0]
    assert of_numpy["seed"] == row["seed"]
    assert not plan(make_sources(10), seed=1)["seed"].isin(plan(make_sources(10))["seed"]).any()


def test_seeds_do_not_depend_on_other_rows_or_on_the_wording():
    sources = make_sources(9)
    seeds = plan(sources, share=2).set_index("sample_id")["seed"]
    fewer = plan(sources[::2], share=2).set_index("sample_id")["seed"]
    assert fewer.equals(seeds[fewer.index])
    others = plan(sources, load_prompt_set("cars"), share=2).set_index("sample_id")["seed"]
    assert others.equals(seeds)


def test_another_attempt_replaces_the_same_images_with_other_noise():
    first, second = (plan(make_sources(20), share=0.3, attempt=attempt) for attempt in (0, 1))
    assert list(first["source_id"]) == list(second["source_id"])
    assert not first["seed"].isin(second["seed"]).any()
    assert not first["sample_id"].isin(second["sample_id"]).any()


def test_negatives_fit_their_context():
    released = plan(make_sources(16), load_prompt_set("birds_released"))
    forest = released[released["context"] == "forest canopy"].iloc[0]
    assert {"tree", "sky"} & set(forest["negative_prompt"].split(", ")) == {"sky"}


def test_a_share_of_zero_and_no_sources_plan_nothing():
    for table in (plan(make_sources(3), share=0), plan(make_sources(0))):
        assert len(table) == 0
        assert tuple(table.columns) == PLAN_COLUMNS


def test_sources_that_cannot_be_planned_are_refused():
    sources = make_sources(2)
    assert list(plan(sources.assign(source_id=range(4)))["source_id"]) == list("0123")
    with pytest.raises(ValueError, match=r"lack the columns \['class_name'\]"):
        plan(sources.drop(columns="class_name"))
    with pytest.raises(ValueError, match="without a source_id or class_name"):
        plan(sources.assign(class_name=[None, "owl", "owl", "owl"]))
    with pytest.raises(ValueError, match="'blue jay/0' is in sources more than once"):
        plan(pd.concat([sources, sources]))
    with pytest.raises(ValueError, match="must be 0 or more"):
        plan(sources, share=-0.1)
