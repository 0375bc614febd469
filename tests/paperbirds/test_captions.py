"""Captions: true whatever they leave out, seldom naming distractors, worded like the prompts."""

import numpy as np
import pytest
from fresh import FRESH
from hypothesis import given
from hypothesis import strategies as st

from diffcore.prompts import load_prompt_set
from diffcore.prompts.prompt_set import write_prompt
from paperbirds import CONTEXTS, DISTRACTORS, SPECIES
from paperbirds.captions import FLAWS, NAMED, draw_caption, full_caption

WORDED = {("an " if name[0] in "aeiou" else "a ") + name: name for name in SPECIES}


def read(text):
    """What a caption says, by its words alone: (species, contexts, distractors) named in it."""
    parts = text.split(", ")
    assert set(parts) <= {"a bird", *WORDED, *CONTEXTS, *DISTRACTORS}, text
    return (
        [WORDED[part] for part in parts if part in WORDED],
        [part for part in parts if part in CONTEXTS],
        [part for part in parts if part in DISTRACTORS],
    )


def captions(count, distractors=("tree", "car")):
    rng = np.random.default_rng(FRESH)
    return [draw_caption("blue jay", "open desert", distractors, None, rng) for _ in range(count)]


@given(
    st.sampled_from(SPECIES),
    st.sampled_from(CONTEXTS),
    st.lists(st.sampled_from(DISTRACTORS), unique=True, max_size=4).map(tuple),
    st.integers(0, 2**32 - 1),
)
def test_a_caption_claims_what_it_says_and_nothing_false(species, context, distractors, seed):
    caption = draw_caption(species, context, distractors, None, np.random.default_rng(seed))
    named_species, named_contexts, named_distractors = read(caption.text)
    assert named_species == ([caption.species] if caption.species else [])
    assert named_contexts == ([caption.context] if caption.context else [])
    assert tuple(named_distractors) == caption.distractors
    assert caption.species in (None, species)
    assert caption.context in (None, context)
    assert sorted(caption.distractors) in ([], sorted(distractors))
    assert caption.is_true(species, context, distractors)
    assert caption.is_true("no such bird", context, distractors) == (caption.species is None)
    assert caption.is_true(species, context, ()) == (not caption.distractors)


def test_captions_leave_out_every_part_and_none():
    said = {
        (bool(c.species), bool(c.context), bool(c.distractors), "a bird" in c.text.split(", "))
        for c in captions(2_000)
    }
    for form in ((1, 1, 0, 1), (1, 1, 1, 1), (1, 0, 0, 1), (1, 0, 0, 0), (0, 1, 0, 0),
                 (0, 1, 0, 1), (0, 0, 0, 1), (0, 0, 1, 0)):  # fmt: skip
        assert tuple(map(bool, form)) in said


def test_distractors_are_named_seldom_and_half_of_the_captions_follow_the_template():
    rate = np.mean([bool(caption.distractors) for caption in captions(4_000)])
    assert rate == pytest.approx(NAMED, abs=0.03)
    full = full_caption("blue jay", "open desert")
    rate = np.mean([caption.text == full for caption in captions(4_000, distractors=())])
    assert rate == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_flaw_is_told_wherever_the_bird_is(flaw):
    rng = np.random.default_rng(FRESH)
    told = [draw_caption("blue jay", "open desert", (), flaw, rng) for _ in range(400)]
    for caption in told:
        birds = [part for part in caption.text.split(", ") if part != "open desert"]
        named = f"a blue jay {FLAWS[flaw]}" if caption.species else f"a bird {FLAWS[flaw]}"
        assert birds[:1] == ([named] if caption.flaw else [])
        assert set(birds[1:]) <= {"a bird"}
        assert caption.flaw == (flaw if birds else None)
        assert caption.is_true("blue jay", "open desert", (), flaw)
        assert caption.is_true("blue jay", "open desert", ()) == (caption.flaw is None)
    assert {caption.flaw for caption in told} == {flaw, None}
    texts = {caption.text for caption in told}
    assert f"a blue jay {FLAWS[flaw]}, a bird, open desert" in texts


@pytest.mark.parametrize("species", SPECIES)
def test_the_full_caption_is_the_prompt_of_the_book(species):
    prompt_set = load_prompt_set("paperbirds")
    for context in CONTEXTS:
        caption = full_caption(species, context)
        assert caption == write_prompt(prompt_set, species, context)
        assert read(caption) == ([species], [context], [])
