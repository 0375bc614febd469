"""Leakage and balance, in cases of which the answer is known."""

import numpy as np
import pandas as pd
import pytest
from corner import Corner, spaces

from diffcore.data.splits import load_split
from paperbirds import CONTEXTS
from paperbirds.pretrain.stages import PLAN
from paperbirds.web import is_seen
from diffcore.params import load_params
from diffcore.responsible import evaluate
from diffcore.measure.near_copies import as_vectors
from diffcore.measure.balance import balance, closer_shares, leakage, nearness_to_seen


def test_a_set_that_knows_the_test_is_nearer_to_it():
    tests, training = spaces([0.1, 0.5, 0.9, 0.3]), spaces([0.0, 0.2, 0.4, 0.8])
    shares = closer_shares(tests, training, {"leaked": tests, "far": spaces([7.0] * 4)}, 0.95)
    values = shares[shares["space"] == "pixels"].set_index("images")["value"]
    assert values.to_dict() == {"leaked": 1.0, "far": 0.0}
    with pytest.raises(ValueError, match="more must hold as many"):
        closer_shares(tests, training, {"more": spaces([0.0] * 5)}, 0.95)


def test_sets_of_one_kind_are_equally_near():
    rng = np.random.default_rng(0)
    draws = [{"pixels": rng.normal(size=(400, 1, 3))} for _ in range(3)]
    found = closer_shares(draws[0], draws[1], {"other": draws[2]}, 0.99).iloc[0]
    assert found["low"] < 0.5 < found["high"]


def test_leakage_compares_sets_of_one_size():
    params = load_params("smoke", {"data.train_images_per_class": 2})
    train = load_split(params, "train")
    tests = {f"test, {name}": load_split(params, f"test_{name}") for name in ("matched", "shifted")}
    vectors = {name: as_vectors(part.images, Corner()) for name, part in tests.items()}
    vectors["training"] = as_vectors(train.images, Corner(), mirrored=True)
    # Two generated images for each training image but the last, here these images themselves.
    places = np.repeat(np.arange(len(train) - 1), 2)
    vectors["generated"] = {space: each[places] for space, each in vectors["training"].items()}
    generated = train.metadata.iloc[places].reset_index(drop=True)
    found = leakage(train.metadata, generated, vectors, Corner(), confidence=0.95, seed=0)
    assert found["images"].unique().tolist() == ["generated", "fresh renders"]
    assert found["test"].unique().tolist() == ["test, matched", "test, shifted"]
    assert (found.loc[found["images"] == "generated", "value"] == 0).all()  # none is nearer
    assert (found.loc[found["images"] == "fresh renders", "value"] > 0).all()


def test_a_copy_of_what_the_generator_has_seen_is_nearer_than_fresh_renders(monkeypatch):
    plan = PLAN.scaled(0.01)
    monkeypatch.setattr(evaluate, "PLAN", plan)
    scenes = [plan.studio.scene(index) for index in range(plan.studio.count)]
    whole = [i for i, scene in enumerate(scenes) if scene.malformation is None][:6]
    rows = [(scenes[i].species, scenes[i].context) for i in whole]
    unseen = ("northern cardinal", next(c for c in CONTEXTS if not is_seen("northern cardinal", c)))
    asked = pd.DataFrame([*rows, unseen], columns=["class_name", "context"])
    images = np.stack([scenes[i].render().image for i in [*whole, 0]])
    found = nearness_to_seen(asked, images, Corner(), most=200, seed=0)
    assert set(found["query"]) == set(range(6))  # what it never saw, it cannot copy
    apart = found.pivot(index=["query", "space"], columns="images", values="distance")
    assert apart["generated"].tolist() == pytest.approx([0] * 12, abs=1e-6)
    assert (apart.xs("pixels", level="space")["fresh renders"] > 0).all()
    own = found[(found["images"] == "generated") & (found["space"] == "pixels")]
    for query, nearest in zip(own["query"], own["reference"], strict=True):
        assert np.array_equal(nearest, images[query])
    few = nearness_to_seen(asked, images, Corner(), most=1, seed=0)
    assert set(few["seen"]) == {1}


def test_balance_tells_even_from_tied():
    tied = pd.DataFrame({"class_name": ["a", "b"] * 20, "context": ["x", "y"] * 20})
    even = pd.DataFrame({"class_name": ["a", "b"] * 20, "context": ["x", "x", "y", "y"] * 10})
    found = balance({"tied": tied, "even": even}, "xy", 0.95).set_index("set")
    assert found["class_entropy"].tolist() == [1, 1]
    assert found["context_entropy"].tolist() == pytest.approx([0, 1])
    assert found["pairs"].tolist() == [0.5, 1]
    assert found["tie"].tolist() == pytest.approx([1, 0], abs=0.05)
    assert found["smallest_class"].tolist() == [0.5, 0.5]


def test_the_tie_of_chance_is_none_however_few_there_are():
    rng, ties = np.random.default_rng(0), []
    for _ in range(40):
        table = pd.DataFrame(
            {"class_name": np.repeat(list("abcdef"), 8), "context": rng.choice(list("uvwxyz"), 48)}
        )
        ties.append(balance({"": table}, "uvwxyz", 0.95)["tie"][0])
    assert np.mean(ties) == pytest.approx(0, abs=0.02)
