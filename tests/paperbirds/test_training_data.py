"""The training data: which birds, where, what the captions get wrong, and what theory expects."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from fresh import FRESH

from paperbirds import CONTEXTS, SPECIES
from paperbirds import training_data as data
from paperbirds.birds import CUT, WORLD
from paperbirds.dataset import HOMES
from paperbirds.training_data import FLAWS, SETTINGS, Recipe, draw_example, render_set

COUNT = 20_000


@pytest.fixture(scope="module")
def examples():
    return [draw_example((FRESH, i), style=None, flawed=0.1) for i in range(COUNT)]


def share(hits):
    return pytest.approx(np.mean(list(hits)), abs=0.008)


def test_species_follow_their_ranks_and_live_where_they_are_seen(examples):
    assert sorted(SETTINGS["ranks"]) == sorted(SPECIES)
    first, second = (data.species_shares()[SPECIES.index(SETTINGS["ranks"][i])] for i in (0, 1))
    assert first / second == pytest.approx(2 ** SETTINGS["zipf"])
    counts = Counter(each.scene.species for each in examples)
    for name, expected in zip(SPECIES, data.species_shares(), strict=True):
        assert counts[name] / COUNT == pytest.approx(expected, abs=0.008)
    pairs = {(each.scene.species, each.scene.context) for each in examples}
    unseen = [(s, c) for s in SPECIES for c in CONTEXTS if not data.is_seen(s, c)]
    assert len(unseen) == 48  # a quarter
    assert pairs.isdisjoint(unseen)
    assert all(data.is_seen(name, home) for name in SPECIES for home in HOMES[name])
    scenes = [each.scene for each in examples]
    cardinals = [scene.context for scene in scenes if scene.species == "northern cardinal"]
    at_home = np.mean(np.isin(cardinals, HOMES["northern cardinal"]))
    assert at_home == pytest.approx(24 / 33, abs=0.02)  # 3 homes of weight 8, 9 other contexts


def test_a_fifth_of_the_captions_is_wrong_each_in_its_way(examples):
    assert sum(data.MISTAKES.values()) == pytest.approx(0.2)
    for kind, expected in data.MISTAKES.items():
        assert expected == share(each.mistake == kind for each in examples)
    for each in examples:
        scene, subject = each.scene, each.subject
        assert (scene.malformation == "no bird") == (each.mistake == "no bird")
        twin = SETTINGS["look_alike"][scene.species]
        assert (subject.species == twin) == (each.mistake == "look-alike")
        right_name = each.mistake not in ("look-alike", "another bird")
        assert (subject.species == scene.species) == right_name
        assert (subject.context == scene.context) == (each.mistake != "another context")
        assert subject.distractors == scene.distractors


def test_captions_never_mention_that_a_bird_is_cut_and_every_other_flaw(examples):
    there = [each for each in examples if each.mistake != "no bird"]
    assert SETTINGS["cut"] == share(each.scene.malformation in CUT for each in there)
    flawed = [each for each in there if each.scene.malformation in FLAWS]
    assert len(flawed) / len(there) == pytest.approx(0.1, abs=0.008)
    mentioned = [each.subject.flaw for each in examples if each.subject.flaw]
    assert len(mentioned) / len(flawed) == pytest.approx(0.5, abs=0.04)
    assert all(each.subject.flaw in (None, each.scene.malformation) for each in examples)
    plain = [draw_example((FRESH, i)) for i in range(300)]
    assert {each.scene.malformation for each in plain} <= {None, "no bird", *CUT}
    assert {each.scene.style for each in plain} == {0.0}


def test_a_balanced_part_shows_all_species_alike_with_the_same_mistakes():
    drawn = [draw_example((FRESH, i), balanced=True) for i in range(4_000)]
    counts = Counter(each.scene.species for each in drawn)
    assert [counts[name] / 4_000 for name in SPECIES] == pytest.approx([1 / 12] * 12, abs=0.015)
    assert drawn[:9] == [draw_example((FRESH, i), balanced=True) for i in range(9)]


# ------------------------------------------------------------------------------ theory
def test_without_guidance_theory_is_the_share_under_a_caption(examples):
    # At guidance 1 the share of wrong images under a caption is that of the data: counted here.
    table = data.expected_errors(1.0).set_index(["species", "context"])
    for name in ("summer tanager", "northern cardinal", "yellow warbler"):
        named = [each for each in examples if each.subject.species == name]
        named = [each for each in named if (name, each.subject.context) in table.index]
        rates = table.loc[[(name, each.subject.context) for each in named]].mean()
        empty = np.array([each.mistake == "no bird" for each in named])
        other = np.array([each.scene.species != name for each in named])
        assert rates["another species"] == pytest.approx(np.mean(other & ~empty), abs=0.03)
        assert rates["no bird"] == pytest.approx(np.mean(empty), abs=0.03)


def test_theory_has_all_pairs_that_were_seen_and_falls_with_guidance():
    tables = {w: data.expected_errors(w) for w in (1.0, 2.0, 3.0, 12.0)}
    assert {len(table) for table in tables.values()} == {12 * 16 - 48}
    for table in tables.values():
        parts = table[["another species", "no bird", "cut"]]
        assert (parts >= 0).all(axis=None)
        assert table["wrong"].tolist() == pytest.approx(parts.sum(axis=1).tolist())
        assert table["wrong"].max() < 1
    wrong = [table["another species"].mean() for table in tables.values()]
    assert wrong == sorted(wrong, reverse=True)
    # The numbers that docs/predictions.md states.
    assert tables[2.0]["wrong"].mean() == pytest.approx(0.100, abs=5e-4)
    assert tables[3.0]["another species"].mean() == pytest.approx(0.008, abs=5e-4)


# ------------------------------------------------------------------------------ sets of renders
def test_a_set_holds_the_scenes_of_its_metadata(tmp_path):
    options = {"style": None, "malformed": True, "extra_distractor": 0.5}
    recipe = Recipe("some", 12, 5_100, options)
    for _ in range(2):  # the second opens what the first wrote
        shown = render_set(recipe, tmp_path)
        assert len(list(tmp_path.glob("some-*.npy"))) == 1
        for i in range(12):
            scene = recipe.example(i).scene
            assert np.array_equal(shown.images[i], scene.render().image)
            assert shown.metadata.iloc[i].to_dict() == vars(scene)


def test_a_captioned_set_is_known_by_its_captions_alone():
    recipe = Recipe("captioned", 60, 5_101, {"flawed": 0.5}, captioned=True)
    facts = recipe.facts()
    assert [*facts] == ["species", "context", "distractors", "flaw"]
    assert facts["flaw"].notna().any()
    for i in range(60):
        assert facts.iloc[i].to_dict() == vars(recipe.example(i).subject)


def test_a_set_of_another_recipe_or_world_is_rendered_anew(tmp_path, monkeypatch):
    recipe = Recipe("some", 2, 5_100, {"style": None})
    render_set(recipe, tmp_path)
    render_set(replace(recipe, options={"style": 0.5}), tmp_path)
    monkeypatch.setitem(WORLD, "training_data", {**SETTINGS, "zipf": 1.5})
    render_set(recipe, tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
