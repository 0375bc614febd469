"""Scenes and the data set: drawn from a seed alone, with the stated bias, sharing nothing."""

from itertools import combinations

import numpy as np
import pytest
from fresh import FRESH

from diffcore.data.datasets import find_dataset
from diffcore.params import DataParams
from paperbirds import CONTEXTS, DISTRACTORS, SPECIES, render, render_split
from paperbirds.contexts import CLUTTER
from paperbirds.dataset import HOME_SHARES, HOMES, SPLITS, draw_scene
from paperbirds.pretrain.stages import RECIPES


def scenes(count=1_600, **options):
    return [draw_scene((FRESH, i), **options) for i in range(count)]


def split(name, images_per_class=3, style=0.6, **options):
    return render_split(name, images_per_class=images_per_class, style=style, **options)


def random_states(seeds):
    """What seeds make of numpy's generator: (1, 2) and (1, 2, 0) are one and the same there."""
    return {np.random.SeedSequence(seed).generate_state(4).tobytes() for seed in seeds}


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


def test_clutter_fits_its_context_and_extra_distractors_come_in_every_one():
    drawn = {(scene.context, name) for scene in scenes(3_200) for name in scene.distractors}
    assert drawn == {(context, name) for context, names in CLUTTER.items() for name in names}
    extra = scenes(extra_distractor=1.0)
    assert all(1 <= len(set(s.distractors)) == len(s.distractors) <= 4 for s in extra)
    high = {s.distractors for s in extra if s.context == "cloudless sky at high altitude"}
    assert high == {(name,) for name in DISTRACTORS}


@pytest.mark.parametrize("name", SPLITS)
def test_an_item_is_the_image_and_its_facts(name):
    birds = split(name)
    number, biased = SPLITS[name]
    assert birds.metadata["source_id"].is_unique
    for place in (0, 7, len(birds) - 1):
        item, row = birds[place], birds.metadata.iloc[place]
        label, i = divmod(place, 3)
        scene = draw_scene((0, number, label, i), SPECIES[label], 0.6, float(biased))
        image, mask = scene.render()
        assert item["class_name"] == SPECIES[item["label"]] == scene.species
        assert (row["context"], row["distractors"]) == (scene.context, scene.distractors)
        assert np.array_equal(item["image"], image)
        assert np.array_equal(item["mask"], mask)


@pytest.mark.parametrize(("name", "bias"), [("train", 1.0), ("train", 0.5), ("test_shifted", 1.0)])
def test_splits_are_at_home_in_the_stated_shares(name, bias):
    metadata = split(name, 40, bias=bias).metadata
    place = [
        HOMES[species].index(context) if context in HOMES[species] else 3
        for species, context in metadata[["class_name", "context"]].itertuples(index=False)
    ]
    biased = bias if SPLITS[name][1] else 0.0
    expected = biased * np.array(HOME_SHARES) + (1 - biased) * np.array([1, 1, 1, 13]) / 16
    assert np.bincount(place, minlength=4) / len(place) == pytest.approx(expected, abs=0.05)
    assert set(metadata["context"]) == set(CONTEXTS)


def test_no_scene_is_in_two_splits_seeds_or_sets_of_the_pretraining():
    places = [(label, i) for label in range(12) for i in range(50)]
    numbers = [number for number, _ in SPLITS.values()]
    sets = [random_states((seed, n, *at) for at in places) for n in numbers for seed in (0, 1)]
    assert all(recipe.seed < FRESH for recipe in RECIPES)
    sets += [random_states((recipe.seed, i) for i in range(1_000)) for recipe in RECIPES]
    assert not any(one & other for one, other in combinations(sets, 2))


def test_the_library_finds_it_and_names_options_that_are_not_legal():
    source = find_dataset("paperbirds")
    settings = DataParams(dataset="paperbirds", train_images_per_class=2, options={"style": 0.0})
    assert source.missing(settings) == []
    train = source.load(settings, "train", seed=3)
    assert np.array_equal(train.images, split("train", 2, style=0.0, seed=3).images)
    wrong = settings.model_copy(update={"options": {"stile": 0.5, "bias": 2.0, "style": "studio"}})
    assert source.missing(wrong) == [
        "data.options.stile is 0.5; there are style, bias, from 0 to 1",
        "data.options.bias is 2.0; there are style, bias, from 0 to 1",
        "data.options.style is 'studio'; there are style, bias, from 0 to 1",
    ]
    with pytest.raises(ValueError, match="unknown split 'test'; known: train, test_matched, "):
        source.load(settings, "test", seed=3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"species": "dodo"}, "unknown species 'dodo'; known: northern cardinal, "),
        ({"context": "moon base"}, "unknown context 'moon base'; known: garden, "),
        ({"distractors": ("car", "bus")}, "unknown distractor 'bus'; known: tree, car, "),
        ({"malformation": "no legs"}, "unknown malformation 'no legs'; known: None, two heads, "),
        ({"distractors": DISTRACTORS}, "at most four distractors .*, got tree, car, "),
        ({"style": 1.5}, r"style must be in \[0, 1\] .*, got 1\.5"),
        ({"style": float("nan")}, r"style must be in \[0, 1\] .*, got nan"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        render(**{"species": "blue jay", "context": "garden", "seed": 1, **arguments})
