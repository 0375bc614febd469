"""The Paperbirds data set: sizes, bias, and splits that share nothing."""

import hashlib
from itertools import combinations

import numpy as np
import pytest
from torch.utils.data import DataLoader

from diffcore.paperbirds import CONTEXTS, HOMES, SPECIES, SPLITS, Paperbirds
from diffcore.paperbirds.pretrain.quality import BROKEN, WHOLE
from diffcore.paperbirds.pretrain.stages import Plan
from diffcore.paperbirds.scenes import HOME_SHARES

BIASED = ("train", "test_matched")


def split(name, images_per_class=3, style=0.6, seed=0):
    return Paperbirds(name, style=style, images_per_class=images_per_class, seed=seed)


def random_states(scenes):
    """What a seed makes of numpy's generator: (1, 2) and (1, 2, 0) are one and the same there."""
    return {np.random.SeedSequence(s.seed).generate_state(4).tobytes() for s in scenes}


def digests(dataset):
    return {hashlib.sha256(image.tobytes()).hexdigest() for image in dataset.images}


@pytest.mark.parametrize("name", SPLITS)
@pytest.mark.parametrize("images_per_class", [1, 4])
def test_every_class_has_as_many_images_as_asked_for(name, images_per_class):
    birds = split(name, images_per_class)
    assert len(birds) == len(birds.facts) == images_per_class * len(SPECIES)
    assert birds.facts["class_name"].value_counts().to_dict() == dict.fromkeys(
        SPECIES, images_per_class
    )


@pytest.mark.parametrize("name", SPLITS)
def test_an_item_is_the_image_and_what_is_known_of_it(name):
    birds = split(name)
    for index in (0, 7, len(birds) - 1):
        item, fact, shown = birds[index], birds.facts.iloc[index], birds.rendering(index)
        assert (item["image"].shape, item["image"].dtype) == ((64, 64, 3), np.uint8)
        assert (item["mask"].shape, item["mask"].dtype) == ((64, 64), np.bool_)
        assert type(item["label"]) is int
        assert item["class_name"] == SPECIES[item["label"]] == shown.species == fact["class_name"]
        assert (shown.context, shown.distractors) == (fact["context"], fact["distractors"])
        assert (shown.style, shown.malformation) == (0.6, None)
        assert item["id"] == fact["id"]
        assert np.array_equal(birds.images[index], item["image"])
    assert birds.facts["id"].is_unique


@pytest.mark.parametrize("name", SPLITS)
def test_a_split_is_the_same_each_time_in_any_order(name):
    once, again = split(name), split(name)
    backwards = [again[i]["image"] for i in reversed(range(len(again)))][::-1]
    assert np.array_equal(once.images, backwards)
    assert once.facts.equals(again.facts)


def test_more_images_keep_the_first_ones():
    few, more = split("train", 2), split("train", 5)
    assert [s for i, s in enumerate(more.scenes) if i % 5 < 2] == few.scenes


def test_style_changes_the_looks_and_not_what_is_shown():
    studio, field = split("train", style=0.0), split("train", style=1.0)
    assert studio.facts.equals(field.facts)
    assert not digests(studio) & digests(field)


@pytest.mark.parametrize("name", BIASED)
def test_biased_splits_are_at_home_in_the_stated_shares(name):
    facts = split(name, 200).facts
    homes = facts["class_name"].map(lambda species: (*HOMES[species], None))
    place = [
        places.index(context) if context in places else 3
        for places, context in zip(homes, facts["context"], strict=True)
    ]
    found = np.bincount(place, minlength=4) / len(facts)
    assert found == pytest.approx(HOME_SHARES, abs=0.03)


def test_the_shifted_split_shows_all_contexts_alike():
    facts = split("test_shifted", 200).facts
    found = facts["context"].value_counts(normalize=True)
    assert set(found.index) == set(CONTEXTS)
    assert found.to_numpy() == pytest.approx(1 / len(CONTEXTS), abs=0.02)
    at_home = [context in HOMES[name] for name, context in facts[["class_name", "context"]].values]
    assert np.mean(at_home) == pytest.approx(3 / len(CONTEXTS), abs=0.03)


def test_no_scene_is_in_two_splits_nor_in_another_seed():
    sets = [random_states(split(name, 50, seed=seed).scenes) for name in SPLITS for seed in (0, 1)]
    assert {len(states) for states in sets} == {50 * len(SPECIES)}
    assert not any(one & other for one, other in combinations(sets, 2))


def test_no_scene_was_trained_on_or_measured_on_by_the_shipped_models():
    plan = Plan()
    recipes = (plan.studio, plan.any_style, plan.malformed, WHOLE, BROKEN)
    sets = [random_states(recipe.scene(i) for i in range(1_000)) for recipe in recipes]
    sets += [random_states(split(name, 100).scenes) for name in SPLITS]
    assert not any(one & other for one, other in combinations(sets, 2))


@pytest.mark.parametrize("style", [0.0, 0.6])
def test_no_two_images_are_identical_within_or_between_splits(style):
    sets = [digests(split(name, 4, style)) for name in SPLITS]
    assert len(set.union(*sets)) == 3 * 4 * len(SPECIES)


def test_torch_loads_it():
    batch = next(iter(DataLoader(split("train", 1), batch_size=5)))
    assert batch["image"].shape == (5, 64, 64, 3)
    assert batch["label"].tolist() == [0, 1, 2, 3, 4]


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="unknown split 'test'; known: train, test_matched, "):
        split("test")
    with pytest.raises(ValueError, match=r"style must be in \[0, 1\] .*, got 2"):
        split("train", style=2)[0]
