"""What the first notebook measures: judged by what was asked for, compared from the same noise."""

import pandas as pd
from shipped import make_plan

from diffcore.measure.image_quality import (
    ablations,
    context_statistics,
    sweep,
    without_context,
)
from diffcore.prompts import load_prompt_book
from diffcore.prompts.plan import PLAN_COLUMNS

BOOK = load_prompt_book("paperbirds")


def test_ablations_differ_in_their_prompts_alone():
    plan = make_plan(30)
    parts = ablations(plan, BOOK, count=12, seed=0)
    plain, context, both = parts.values()
    assert list(parts) == ["plain prompt", "with context", "context and negatives"]
    assert both.merge(plan).shape == (12, len(PLAN_COLUMNS))
    contextless = without_context(both, BOOK)
    for column in ("sample_id", "class_name", "source_id", "seed"):
        for other in (plain, context, contextless):
            assert other[column].tolist() == both[column].tolist()
    assert (plain[["context", "negative_prompt"]] == "").all(axis=None)
    assert (plain["prompt"] == contextless["prompt"]).all()
    assert plain["prompt"][0] == f"a {plain['class_name'][0]}, a bird"
    assert (contextless["negative_prompt"] == ", ".join(BOOK.negatives)).all()
    assert (context["prompt"] == both["prompt"]).all()
    assert (context["negative_prompt"] == "").all()
    swallow = without_context(both[:1].assign(class_name="tree swallow"), BOOK)
    expected = [name for name in BOOK.negatives if name != "tree"]
    assert swallow["negative_prompt"].tolist() == [", ".join(expected)]


def test_a_sweep_changes_one_setting_at_a_time():
    calls = []

    def draw(plan, **changes):
        calls.append(changes)
        return plan

    points = {"guidance_scale": (1.0, 3.0), "num_inference_steps": (2,)}
    swept = sweep(make_plan(5), draw, lambda table: table, points)
    assert calls == [{"guidance_scale": 1.0}, {"guidance_scale": 3.0}, {"num_inference_steps": 2}]
    assert swept["setting"].tolist() == ["guidance_scale"] * 10 + ["num_inference_steps"] * 5
    assert swept["point"].tolist() == [1.0] * 5 + [3.0] * 5 + [2] * 5


def test_context_statistics_know_what_is_new():
    training = pd.DataFrame({"class_name": ["jay", "jay"], "context": ["forest", "forest"]})
    seen = pd.DataFrame({"class_name": ["jay", "jay"], "seen_context": ["forest", "street"]})
    table = context_statistics({"drawn": seen}, training, 0.95)
    assert table[["condition", "measure", "value"]].to_numpy().tolist() == [
        ["training set", "entropy", 0.0], ["training set", "new_pairs", 0.0],
        ["drawn", "entropy", 1.0], ["drawn", "new_pairs", 0.5],
    ]  # fmt: skip
    uneven = {"drawn": pd.concat([seen, seen[:1]])}
    half, most = (context_statistics(uneven, training, share) for share in (0.5, 0.95))
    assert ((half["high"] - half["low"])[2:] < (most["high"] - most["low"])[2:]).all()
