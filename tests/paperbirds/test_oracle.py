"""The oracle: what it reads, what it refuses, and how far it can be trusted."""

import numpy as np
import pytest
import torch
from fresh import COUNT, FRESH, fresh_renders

from diffcore.paperbirds import CONTEXTS, DISTRACTORS, SPECIES, Oracle, Reading, load_oracle
from diffcore.paperbirds.pretrain.quality import BROKEN, WHOLE
from diffcore.paperbirds.pretrain.stages import Plan


@pytest.fixture(scope="module")
def untrained():
    torch.manual_seed(0)
    return Oracle().eval()


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (7, 64, 64, 3), dtype=np.uint8)


def reading_of(species=(), context=(), distractors=(), malformed=()):
    return Reading(
        np.array(species), np.array(context), np.array(distractors), np.array(malformed),
        np.zeros((0, 12)), np.zeros((0, 16)),
    )  # fmt: skip


# ------------------------------------------------------------------------------ what it reads
def test_a_reading_has_one_row_an_image(untrained, images):
    seen = untrained.read(images)
    assert seen.species.shape == seen.context.shape == seen.malformed.shape == (7,)
    assert seen.distractors.shape == (7, len(DISTRACTORS))
    assert seen.species_probabilities.shape == (7, len(SPECIES))
    assert seen.context_probabilities.shape == (7, len(CONTEXTS))
    assert set(seen.species) <= set(SPECIES)
    assert set(seen.context) <= set(CONTEXTS)
    assert seen.wellformed.shape == seen.has_distractor.shape == (7,)


def test_probabilities_are_such_and_agree_with_the_names(untrained, images):
    seen = untrained.read(images)
    for table, names, chosen in (
        (seen.species_probabilities, SPECIES, seen.species),
        (seen.context_probabilities, CONTEXTS, seen.context),
    ):
        assert table.min() >= 0
        assert table.sum(axis=1) == pytest.approx(1, abs=1e-5)
        assert [names[i] for i in table.argmax(axis=1)] == chosen.tolist()
    for values in (seen.distractors, seen.malformed):
        assert ((values >= 0) & (values <= 1)).all()


def test_batch_size_does_not_change_a_reading(untrained, images):
    whole, parts = untrained.read(images), untrained.read(images, batch_size=3)
    assert whole.species_probabilities == pytest.approx(parts.species_probabilities, abs=1e-5)
    assert whole.malformed == pytest.approx(parts.malformed, abs=1e-5)
    assert whole.species.tolist() == parts.species.tolist()


def test_images_that_cannot_be_written_to_are_read(untrained, images):
    frozen = images.copy()
    frozen.flags.writeable = False  # as those of a memory-mapped set
    assert untrained.read(frozen).species.tolist() == untrained.read(images).species.tolist()


def test_no_images_give_an_empty_reading(untrained, images):
    seen = untrained.read(images[:0])
    assert len(seen.species) == len(seen.wellformed) == len(seen.has_distractor) == 0
    assert seen.species_probabilities.shape == (0, len(SPECIES))


def test_form_and_clutter_are_cut_at_one_half():
    seen = reading_of(
        malformed=[0.1, 0.49, 0.5, 0.9],
        distractors=[[0, 0, 0, 0, 0], [0.6, 0, 0, 0, 0], [0.4] * 5, [0, 0, 0, 0.9, 0.9]],
    )
    assert seen.wellformed.tolist() == [True, True, False, False]
    assert seen.has_distractor.tolist() == [False, True, False, True]


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((64, 64, 3), "uint8"),
        ((2, 3, 64, 64), "uint8"),
        ((2, 32, 32, 3), "uint8"),
        ((2, 64, 64, 4), "uint8"),
        ((2, 64, 64, 3), "float32"),
    ],
)
def test_other_images_are_refused(untrained, shape, dtype):
    with pytest.raises(ValueError, match=r"uint8 images \(N, 64, 64, 3\), got ") as caught:
        untrained.read(np.zeros(shape, dtype))
    assert str(caught.value).endswith(f"got {dtype} {shape}")


# ------------------------------------------------------------------------------ the shipped one
@pytest.fixture(scope="module")
def whole():
    return load_oracle().read(fresh_renders().images)


@pytest.fixture(scope="module")
def malformed():
    return load_oracle().read(fresh_renders(malformed=True).images)


def test_fresh_renders_are_fresh():
    plan = Plan()
    recipes = (plan.studio, plan.any_style, plan.malformed, WHOLE, BROKEN)
    assert all(recipe.seed < FRESH for recipe in recipes)
    facts = fresh_renders().facts
    assert len(facts) == COUNT
    assert (facts["species"].nunique(), facts["context"].nunique()) == (len(SPECIES), len(CONTEXTS))


def test_it_knows_the_species(whole):
    assert (whole.species == fresh_renders().facts["species"]).mean() >= 0.98


def test_it_knows_the_context(whole):
    assert (whole.context == fresh_renders().facts["context"]).mean() >= 0.98


def test_it_finds_the_distractors(whole):
    shown = fresh_renders().facts["distractors"]
    present = np.array([[name in names for name in DISTRACTORS] for names in shown])
    assert present.any(axis=0).all()
    assert ((whole.distractors > 0.5) == present).mean() >= 0.97
    assert (whole.has_distractor == present.any(axis=1)).mean() >= 0.95


def test_it_takes_whole_birds_for_whole(whole):
    assert whole.wellformed.mean() >= 0.97


def test_it_takes_malformed_birds_for_malformed(malformed):
    assert (~malformed.wellformed).mean() >= 0.97
