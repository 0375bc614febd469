"""What only this world can measure, in cases whose answer is known."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from diffcore.data.images import as_batch, as_pixels
from diffcore.measure.near_copies import as_vectors
from diffcore.mixing.mix import pixel_mix
from diffcore.prompts import load_prompt_set
from paperbirds import CONTEXTS, DISTRACTORS, SPECIES, load_oracle, measure, render, render_split
from paperbirds.birds import MALFORMATIONS
from paperbirds.oracle import Reading
from paperbirds.training_data import GENERATOR_DATA, expected_errors, is_seen

PROMPTS = load_prompt_set("package:paperbirds/prompts.yaml")
KEPT = ["DiffCoRe-Mix, pixel", "DiffCoRe-Mix, patch", "DiffuseMix"]
SPLIT = ["MixUp", "CutMix", "SaliencyMix"]


class Corner:
    """An encoder that sees the mean colour of the upper left quarter alone."""

    def embed_images(self, images):
        corner = images[:, : images.shape[1] // 2, : images.shape[2] // 2].mean((1, 2)) + 1.0
        return corner / np.linalg.norm(corner, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def world():
    """Real images in field style, and perfect counterparts: fresh renders in the studio."""
    train = render_split("train", style=0.6, images_per_class=2)
    names = train.metadata["class_name"].tolist()
    drawn = [render(name, "garden", seed).image for seed, name in enumerate(names)]
    return SimpleNamespace(
        real=as_batch(train.images), generated=as_batch(drawn), masks=train.masks,
        labels=torch.tensor(train.labels), split=train,
        metadata=pd.DataFrame({"class_name": names, "seed": range(24)}),
    )  # fmt: skip


# --------------------------------------------------------------------------------- generated images
def test_an_image_is_judged_by_its_prompt_and_the_first_of_its_faults():
    rows = [
        # class, context; species, context, malformed and empty as seen; fault
        ("jay", "forest canopy", "jay", "forest canopy", 0.1, 0.1, ""),
        ("jay", "open desert", "wren", "open desert", 0.9, 0.1, "another species"),
        ("wren", "forest canopy", "wren", "open desert", 0.7, 0.1, "malformed"),
        ("wren", "", "jay", "garden", 0.9, 0.9, "no bird"),
    ]
    names, contexts, *seen, faults = zip(*rows, strict=True)
    distractors = np.zeros((4, len(DISTRACTORS)))
    tree, car = (DISTRACTORS.index(name) for name in ("tree", "car"))
    distractors[[0, 1], tree], distractors[2, car] = 0.9, 0.6
    species, places, malformed, empty = map(np.array, seen)
    metadata = pd.DataFrame({"sample_id": list("1234"), "class_name": names, "context": contexts})
    reading = Reading(species, places, distractors, malformed, empty)
    judged = measure.judge(metadata, reading, PROMPTS)
    assert judged["fault"].tolist() == [*faults]
    assert judged["wrong"].tolist() == [False, True, True, True]
    assert judged["species_right"].tolist() == [True, False, True, False]
    assert judged["context_right"].tolist() == [True, True, False, True]  # any will do for ""
    assert judged["wellformed"].tolist() == [True, False, False, False]
    assert judged["uninvited: tree"].tolist() == [False, True, False, False]  # no clutter in a wood
    assert judged["uninvited: car"].tolist() == [False, False, True, False]
    assert judged["uninvited"].tolist() == [False, True, True, False]


def test_rates_of_faults_are_counted_within_groups():
    judged = pd.DataFrame({
        "point": [1, 1, 2, 2], "fault": ["", "no bird", "malformed", "another species"],
        "wrong": [False, True, True, True],
    })  # fmt: skip
    rates = measure.fault_rates(judged, ["point"])
    rates = rates.pivot(index="measure", columns="point", values="value")
    rates = rates.loc[["no bird", "another species", "malformed", "wrong"]]
    assert rates.to_numpy().tolist() == [[0.5, 0], [0, 0.5], [0, 0.5], [0.5, 1]]


def test_theory_has_the_same_form():
    rates, table = measure.expected_rates([1.0, 3.0]), expected_errors(3.0)
    assert rates["point"].tolist() == [1.0, 3.0] * 4
    values = rates[rates["point"] == 3.0].set_index("measure")["value"]
    assert values["malformed"] == pytest.approx(table["cut"].mean())
    by_species = measure.expected_rates([3.0], ["class_name"])
    rare = by_species.query("class_name == 'summer tanager' and measure == 'wrong'")["value"]
    expected = table[table["species"] == "summer tanager"]["wrong"].mean()
    assert rare.tolist() == pytest.approx([expected])


# ------------------------------------------------------------------------------------- mixed images
@pytest.fixture(scope="module")
def objects(world):
    masks = measure.substitute_masks(world.metadata)
    assert world.masks.mean() < masks.mean() < 0.4  # in the studio birds are larger
    images = world.real, world.masks, masks, world.labels
    shares = measure.object_shares(*images, alpha=1.0, repeats=6, seed=0)
    return shares, measure.summarise_shares(shares).set_index("method")


def test_a_kept_label_is_right_and_split_labels_miss_the_objects(objects):
    shares, table = objects
    assert table.index.tolist() == [*KEPT, *SPLIT]
    assert (table.loc[KEPT, ["other", "label_error"]] == 0).all(axis=None)
    assert (shares[shares["method"].isin(KEPT)]["target"] == 1).all()
    assert (table.loc[SPLIT, ["other", "label_error"]] > 0).all(axis=None)
    assert table.loc["MixUp", "label_error"] < table.loc["CutMix", "label_error"]


def test_shares_are_shares_of_the_image(objects, world):
    shares, table = objects
    assert shares[["own", "other", "before", "target"]].min().min() >= 0
    assert shares["target"].max() <= 1 + 1e-6
    before = world.masks.mean()
    assert shares["before"].mean() == pytest.approx(before, rel=1e-4)
    mixup = table.loc["MixUp"]
    assert mixup["own"] + mixup["other"] == pytest.approx(before, rel=1e-4)
    assert table.loc["DiffuseMix", "own"] == pytest.approx(0.8 * before, rel=1e-4)


def test_shares_come_from_the_seed_alone(world):
    images, state = (world.real, world.masks, world.masks, world.labels), torch.get_rng_state()
    first, again, other = (
        measure.object_shares(*images, alpha=1.0, repeats=1, seed=seed) for seed in (0, 0, 1)
    )
    pd.testing.assert_frame_equal(first, again)
    assert not first.equals(other)
    assert torch.equal(torch.get_rng_state(), state)


def test_summaries_leave_out_images_without_object_from_label_errors():
    rows = [("a", 0.2, 0.2, 0.4, 0.75), ("a", 0.0, 0.0, 0.4, 1.0)]
    table = pd.DataFrame(rows, columns=["method", "own", "other", "before", "target"])
    (row,) = measure.summarise_shares(table).to_dict("records")
    expected = {"method": "a", "own": 0.1, "other": 0.1, "lost": 0.5, "label_error": 0.25}
    assert row == pytest.approx(expected)


def test_the_class_is_seen_throughout_only_among_its_own(world):
    images, lams = (world.real, world.generated, world.labels), [0.0, 0.5, 1.0]
    curves = measure.label_curves(*images, lams, seed=0)
    rates = curves.set_index(["partner", "level", "lam"])["value"]
    same, other = curves["partner"].unique()
    assert len(curves) == 2 * 2 * 3
    for level in ("pixel", "patch"):
        assert rates[same, level, 1.0] == rates[other, level, 1.0]
        assert rates[other, level, 0.0] == 0 < rates[same, level, 0.0]
    seen = load_oracle().read(as_pixels(pixel_mix(world.real, world.generated, 0.5))).species
    assert rates[same, "pixel", 0.5] == np.mean(seen == np.array(SPECIES)[world.labels])


# -------------------------------------------------------------------------------- leaks and copies
def test_leakage_compares_sets_of_one_size(world):
    train = world.split
    tests = {
        f"test, {name}": render_split(f"test_{name}", style=0.6, images_per_class=2)
        for name in ("matched", "shifted")
    }
    vectors = {name: as_vectors(part.images, Corner()) for name, part in tests.items()}
    vectors["training"] = as_vectors(train.images, Corner(), mirrored=True)
    # Two generated images for each training image but the last, here these images themselves.
    places = np.repeat(np.arange(len(train) - 1), 2)
    vectors["generated"] = {space: each[places] for space, each in vectors["training"].items()}
    generated = train.metadata.iloc[places].reset_index(drop=True)
    found = measure.leakage(train.metadata, generated, vectors, Corner(), seed=0)
    assert found["test"].unique().tolist() == ["test, matched", "test, shifted"]
    assert (found.loc[found["images"] == "generated", "value"] == 0).all()  # none is nearer
    assert (found.loc[found["images"] == "fresh renders", "value"] > 0).all()


def test_a_copy_of_a_training_image_is_nearer_than_fresh_renders(monkeypatch):
    data = replace(GENERATOR_DATA, count=640)
    monkeypatch.setattr(measure, "GENERATOR_DATA", data)
    scenes = [data.example(index).scene for index in range(data.count)]
    whole = [i for i, scene in enumerate(scenes) if scene.malformation is None][:6]
    rows = [(scenes[i].species, scenes[i].context) for i in whole]
    unseen = ("northern cardinal", next(c for c in CONTEXTS if not is_seen("northern cardinal", c)))
    wanted = pd.DataFrame([*rows, unseen], columns=["class_name", "context"])
    images = np.stack([data.image(i) for i in [*whole, 0]])
    found = measure.nearness_to_seen(wanted, images, Corner(), most=200, seed=0)
    assert set(found["query"]) == set(range(6))  # what it never saw, it cannot copy
    apart = found.pivot(index=["query", "space"], columns="images", values="distance")
    assert apart["generated"].tolist() == pytest.approx([0] * 12, abs=1e-6)
    assert (apart.xs("pixels", level="space")["fresh renders"] > 0).all()
    copies = found[(found["images"] == "generated") & (found["space"] == "pixels")]
    for query, nearest in zip(copies["query"], copies["reference"], strict=True):
        assert np.array_equal(nearest, images[query])


def test_training_images_are_retrieved_by_caption_each_once(monkeypatch):
    data = replace(GENERATOR_DATA, count=200)
    monkeypatch.setattr(measure, "GENERATOR_DATA", data)
    captions = data.facts()
    pair = captions.groupby(["species", "context"]).size().idxmax()
    pool = captions[(captions["species"] == pair[0]) & (captions["context"] == pair[1])].index
    same_name = captions[captions["species"] == pair[0]].index
    wanted = pd.DataFrame([pair] * (len(pool) + 1), columns=["class_name", "context"])
    drawn = [image.tobytes() for image in measure.retrieve(wanted, seed=0)]
    assert len(set(drawn)) == len(drawn)
    assert set(drawn[:-1]) == {data.image(place).tobytes() for place in pool}
    assert drawn[-1] in {data.image(place).tobytes() for place in same_name}
    many = pd.DataFrame([pair] * (len(same_name) + 1), columns=["class_name", "context"])
    assert len({i.tobytes() for i in measure.retrieve(many, seed=0)}) == len(same_name)


# ---------------------------------------------------------------------------------- further renders
def test_rendered_pairs_differ_in_the_bird_alone():
    contexts = ["open desert", "open desert", "", ""]
    plan = pd.DataFrame({"class_name": ["blue jay"] * 4, "context": contexts})
    whole, malformed = measure.render_pairs(plan, MALFORMATIONS, seed=0)
    assert whole.shape == malformed.shape == (4, 64, 64, 3)
    differing = (whole != malformed).any(axis=3)
    assert differing.any(axis=(1, 2)).all()
    assert not differing[:, 0, :].any()  # the sky


def test_backgrounds_are_exchanged_and_objects_stay(world, monkeypatch):
    contexts, bare_scenes = [], measure.bare_scenes
    record = lambda c, *rest: contexts.append(list(c)) or bare_scenes(c, *rest)  # noqa: E731
    monkeypatch.setattr(measure, "bare_scenes", record)
    shown = measure.exchange_backgrounds(world.split, 0.6, seed=0)
    same, other = contexts
    assert same == world.split.metadata["context"].tolist()
    assert all(a != b and b in CONTEXTS for a, b in zip(same, other, strict=True))
    inside = torch.from_numpy(world.masks)[:, None].expand(-1, 3, -1, -1)
    for condition in ("same context", "another context"):
        assert torch.equal(shown[(condition,)][inside], shown[("as it is",)][inside])
    assert torch.equal(shown[("no bird",)][~inside], shown[("same context",)][~inside])


def test_a_bare_scene_holds_no_bird(world):
    contexts = world.split.metadata["context"].tolist()
    seen = load_oracle().read(measure.bare_scenes(contexts, 0.0, seed=0))
    assert seen.context.tolist() == contexts
    assert not seen.wellformed.any()
