"""Captions: true whatever they leave out, seldom naming distractors, worded like the prompts."""

import numpy as np
import pytest
from fresh import FRESH
from hypothesis import given
from hypothesis import strategies as st

from diffcore.prompts import load_prompt_set
from diffcore.prompts.prompt_set import write_prompt
from paperbirds import CONTEXTS, DISTRACTORS, SPECIES
from paperbirds.training_data import FLAWS, Subject, draw_caption, full_caption

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


def captions(count, distractors=("tree", "car"), flaw=None):
    rng = np.random.default_rng(FRESH)
    subject = Subject("blue jay", "open desert", distractors, flaw)
    return [draw_caption(subject, rng) for _ in range(count)]


@given(
    st.sampled_from(SPECIES),
    st.sampled_from(CONTEXTS),
    st.lists(st.sampled_from(DISTRACTORS), unique=True, max_size=4).map(tuple),
    st.integers(0, 2**32 - 1),
)
def test_a_caption_claims_what_it_says_and_nothing_false(species, context, distractors, seed):
    subject = Subject(species, context, distractors)
    text, named = draw_caption(subject, np.random.default_rng(seed))
    named_species, named_contexts, named_distractors = read(text)
    assert named_species == ([named.species] if named.species else [])
    assert named_contexts == ([named.context] if named.context else [])
    assert tuple(named_distractors) == named.distractors
    assert sorted(named.distractors) in ([], sorted(distractors))
    assert named.holds_for(subject)
    assert named.holds_for(Subject("no such bird", context, distractors)) == (not named.species)
    assert named.holds_for(Subject(species, context)) == (not named.distractors)


def test_distractors_are_named_seldom_and_half_of_the_captions_follow_the_template():
    rate = np.mean([bool(part.distractors) for _, part in captions(4_000)])
    assert rate == pytest.approx(0.25, abs=0.03)
    full = full_caption("blue jay", "open desert")
    rate = np.mean([text == full for text, _ in captions(4_000, distractors=())])
    assert rate == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_flaw_is_named_wherever_the_bird_is(flaw):
    drawn = captions(400, (), flaw)
    for text, part in drawn:
        birds = [clause for clause in text.split(", ") if clause != "open desert"]
        bird = f"a blue jay {FLAWS[flaw]}" if part.species else f"a bird {FLAWS[flaw]}"
        assert birds[:1] == ([bird] if part.flaw else [])
        assert set(birds[1:]) <= {"a bird"}
        assert part.holds_for(Subject("blue jay", "open desert", (), flaw))
        assert part.holds_for(Subject("blue jay", "open desert")) == (part.flaw is None)
    assert {part.flaw for _, part in drawn} == {flaw, None}
    assert f"a blue jay {FLAWS[flaw]}, a bird, open desert" in {text for text, _ in drawn}


def test_the_full_caption_is_the_prompt_of_the_prompt_set():
    prompts = load_prompt_set("package:paperbirds/prompts.yaml")
    assert (prompts.contexts, prompts.negatives) == (CONTEXTS, DISTRACTORS)
    for species in SPECIES:
        for context in CONTEXTS:
            caption = full_caption(species, context)
            assert caption == write_prompt(prompts, species, context)
            assert read(caption) == ([species], [context], [])
