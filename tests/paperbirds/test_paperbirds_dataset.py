"""Scenes and the data set: drawn from a seed alone, with the stated bias, sharing nothing."""

from itertools import combinations

import numpy as np
import pytest
from fresh import FRESH
from paperbirds.pretrain.renders import RenderRecipe

from paperbirds import CONTEXTS, DISTRACTORS, SPECIES, Paperbirds
from paperbirds.contexts import CLUTTER
from paperbirds.dataset import HOME_SHARES, HOMES, SPLITS, draw_scene
from paperbirds.pretrain.stages import PLAN


def scenes(count=1_600, **options):
    return [draw_scene((FRESH, i), **options) for i in range(count)]


def split(name, images_per_class=3, style=0.6, seed=0):
    return Paperbirds(name, style=style, images_per_class=images_per_class, seed=seed)


def random_states(drawn):
    """What a seed makes of numpy's generator: (1, 2) and (1, 2, 0) are one and the same there."""
    return {np.random.SeedSequence(s.seed).generate_state(4).tobytes() for s in drawn}


# ------------------------------------------------------------------------------ scenes
def test_species_contexts_and_styles_are_drawn_alike_without_bias():
    drawn = scenes(3_200, style=None)
    for values, names in (
        ([scene.species for scene in drawn], SPECIES),
        ([scene.context for scene in drawn], CONTEXTS),
        ([int(4 * scene.style) for scene in drawn], range(4)),
    ):
        shares = np.array([values.count(name) for name in names]) / len(values)
        spread = 4 * np.sqrt(1 / len(names) / len(values))  # four standard deviations
        assert shares == pytest.approx(1 / len(names), abs=spread)
        assert shares.sum() == pytest.approx(1)


def test_clutter_fits_its_context_and_extra_distractors_come_in_every_one():
    drawn = {(scene.context, name) for scene in scenes(3_200) for name in scene.distractors}
    assert drawn == {(context, name) for context, names in CLUTTER.items() for name in names}
    extra = scenes(extra_distractor=1.0)
    assert all(1 <= len(set(s.distractors)) == len(s.distractors) <= 4 for s in extra)
    high = {s.distractors for s in extra if s.context == "cloudless sky at high altitude"}
    assert high == {(name,) for name in DISTRACTORS}


def test_alike_species_live_apart():
    for one, other in (SPECIES[:2], SPECIES[2:4], SPECIES[4:6]):
        assert not set(HOMES[one]) & set(HOMES[other])


# ------------------------------------------------------------------------------ the splits
@pytest.mark.parametrize("name", SPLITS)
def test_an_item_is_the_image_and_what_is_known_of_it(name):
    birds = split(name)
    assert birds.metadata["class_name"].value_counts().to_dict() == dict.fromkeys(SPECIES, 3)
    assert birds.metadata["source_id"].is_unique
    for index in (0, 7, len(birds) - 1):
        item, row, shown = birds[index], birds.metadata.iloc[index], birds.rendering(index)
        assert type(item["label"]) is int
        assert item["class_name"] == SPECIES[item["label"]] == shown.species == row["class_name"]
        assert (shown.context, shown.distractors) == (row["context"], row["distractors"])
        assert (shown.style, shown.malformation) == (0.6, None)
        assert item["source_id"] == row["source_id"]
        assert np.array_equal(birds.images[index], item["image"])
        assert np.array_equal(shown.mask, item["mask"])


def test_a_split_is_the_same_in_any_order_and_more_images_keep_the_first():
    once, again, more = split("train"), split("train"), split("train", 5)
    backwards = [again[i]["image"] for i in reversed(range(len(again)))][::-1]
    assert np.array_equal(once.images, backwards)
    assert [s for i, s in enumerate(more.scenes) if i % 5 < 3] == once.scenes


@pytest.mark.parametrize("name", ["train", "test_matched"])
def test_biased_splits_are_at_home_in_the_stated_shares(name):
    metadata = split(name, 200).metadata
    place = [
        HOMES[species].index(context) if context in HOMES[species] else 3
        for species, context in metadata[["class_name", "context"]].itertuples(index=False)
    ]
    found = np.bincount(place, minlength=4) / len(place)
    assert found == pytest.approx(HOME_SHARES, abs=0.03)


def test_the_shifted_split_shows_all_contexts_alike():
    found = split("test_shifted", 200).metadata["context"].value_counts(normalize=True)
    assert set(found.index) == set(CONTEXTS)
    assert found.to_numpy() == pytest.approx(1 / len(CONTEXTS), abs=0.02)


def test_no_scene_is_in_two_splits_seeds_or_sets_of_the_pretraining():
    sets = [random_states(split(name, 50, seed=seed).scenes) for name in SPLITS for seed in (0, 1)]
    assert {len(states) for states in sets} == {50 * len(SPECIES)}
    recipes = [part for part in vars(PLAN).values() if isinstance(part, RenderRecipe)]
    assert all(recipe.seed < FRESH for recipe in recipes)
    sets += [random_states(recipe.scene(i) for i in range(1_000)) for recipe in recipes]
    assert not any(one & other for one, other in combinations(sets, 2))


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="unknown split 'test'; known: train, test_matched, "):
        split("test")
    with pytest.raises(ValueError, match=r"style must be in \[0, 1\] .*, got 2"):
        split("train", style=2)[0]
