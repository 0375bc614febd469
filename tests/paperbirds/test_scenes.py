"""Scenes: drawn from a seed alone, with the bias, the clutter and the malformations asked for."""

import numpy as np
import pytest
from fresh import FRESH

from diffcore.paperbirds import CLUTTER, CONTEXTS, DISTRACTORS, HOMES, MALFORMATIONS, SPECIES
from diffcore.paperbirds.scenes import HOME_SHARES, draw_scene

COUNT = 3_200


def scenes(count=COUNT, **options):
    return [draw_scene((FRESH, i), **options) for i in range(count)]


def shares(values):
    names, counts = np.unique(np.array(values, dtype=str), return_counts=True)
    return dict(zip(names.tolist(), (counts / counts.sum()).tolist(), strict=True))


@pytest.mark.parametrize("biased", [False, True])
def test_same_seed_gives_the_same_scene(biased):
    options = {"style": None, "biased": biased, "malformed": True, "extra_distractor": 0.5}
    assert scenes(200, **options) == scenes(200, **options)


def test_seeds_of_scenes_are_all_different():
    assert len({scene.seed for scene in scenes()}) == COUNT


def test_species_and_contexts_are_drawn_alike_without_bias():
    drawn = scenes()
    for values, names in (
        ([scene.species for scene in drawn], SPECIES),
        ([scene.context for scene in drawn], CONTEXTS),
    ):
        found = shares(values)
        assert set(found) == set(names)
        # Four standard deviations of a share.
        spread = 4 * np.sqrt(1 / len(names) / COUNT)
        assert max(abs(share - 1 / len(names)) for share in found.values()) < spread


@pytest.mark.parametrize("species", SPECIES)
def test_biased_scenes_are_at_home_in_the_stated_shares(species):
    found = shares([s.context for s in scenes(1_000, species=species, biased=True)])
    at_home = [found[home] for home in HOMES[species]]
    assert at_home == pytest.approx(HOME_SHARES[:3], abs=0.06)
    assert 1 - sum(at_home) == pytest.approx(HOME_SHARES[3], abs=0.03)
    assert len(found) > 10  # elsewhere is anywhere else


def test_homes_are_three_known_contexts_and_alike_species_live_apart():
    assert set(HOMES) == set(SPECIES)
    assert all(len(set(homes)) == 3 and set(homes) <= set(CONTEXTS) for homes in HOMES.values())
    assert {context for homes in HOMES.values() for context in homes} > set(CONTEXTS[:8])
    assert HOME_SHARES == (0.60, 0.25, 0.10, 0.05)
    for one, other in (
        ("northern cardinal", "summer tanager"),
        ("laysan albatross", "black footed albatross"),
        ("brewer blackbird", "red winged blackbird"),
    ):
        assert not set(HOMES[one]) & set(HOMES[other])


@pytest.mark.parametrize("context", ["garden", "city skyline at twilight"])
def test_gardens_and_skylines_bring_clutter_more_often_than_not(context):
    there = [bool(scene.distractors) for scene in scenes() if scene.context == context]
    assert len(there) > 100
    assert np.mean(there) > 0.5


def test_clutter_fits_its_context():
    drawn = [(scene.context, name) for scene in scenes() for name in scene.distractors]
    assert len(drawn) > 1_000
    assert {(context, name) for context, name in drawn} == {
        (context, name) for context, names in CLUTTER.items() for name in names
    }


def test_extra_distractors_come_in_every_context():
    with_extra = scenes(1_600, extra_distractor=1.0)
    assert all(scene.distractors for scene in with_extra)
    assert all(len(set(s.distractors)) == len(s.distractors) <= 4 for s in with_extra)
    high = {s.distractors for s in with_extra if s.context == "cloudless sky at high altitude"}
    assert high == {(name,) for name in DISTRACTORS}


def test_style_is_the_one_given_or_any():
    assert {scene.style for scene in scenes(50, style=0.6)} == {0.6}
    drawn = [scene.style for scene in scenes(400, style=None)]
    assert np.histogram(drawn, bins=4, range=(0, 1))[0].min() > 70


def test_malformations_are_drawn_on_request_alone():
    assert {scene.malformation for scene in scenes(200)} == {None}
    assert {scene.malformation for scene in scenes(200, malformed=True)} == set(MALFORMATIONS)


def test_a_scene_renders_itself():
    scene = draw_scene((FRESH, 9), style=0.5, malformed=True, extra_distractor=1.0)
    shown = scene.render()
    for fact in ("species", "context", "distractors", "style", "malformation"):
        assert getattr(shown, fact) == getattr(scene, fact)
    assert np.array_equal(shown.image, scene.render().image)
