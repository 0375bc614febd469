"""Prompts: wording, books that can work, and contradictions that a reader would not dispute."""

from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paperbirds import CONTEXTS, DISTRACTORS, SPECIES
from paperbirds.captions import full_caption
from diffcore.params import ParamsError, PromptParams
from diffcore.prompts import clean_class_name, find_conflicts, load_prompt_set
from diffcore.prompts.prompt_set import (
    PromptSet,
    choose_prompt_set,
    list_prompt_sets,
    negatives_for,
    write_prompt,
)

BIRDS, PAPERBIRDS = load_prompt_set("birds"), load_prompt_set("paperbirds")


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("001.Black_footed_Albatross", "black footed albatross"),
        ("00012_snow_goose", "snow goose"),
        ("747-400", "747-400"),
        ("2012_Tesla", "2012 tesla"),
        ("goldfish, Carassius auratus", "goldfish"),
        ("  pink   primrose ", "pink primrose"),
        ("Hälsingland_häst", "hälsingland häst"),
        ("Ha\u0308st", "h\u00e4st"),  # as macOS stores it
    ],
)
def test_class_names_become_words(name, clean):
    assert clean_class_name(name) == clean
    assert clean_class_name(clean) == clean


@given(st.text(max_size=20))
def test_cleaning_leaves_lower_case_and_single_spaces_or_refuses(name):
    try:
        clean = clean_class_name(name)
    except ValueError:
        assert not name.split(",")[0].replace("_", " ").strip()
        return
    assert clean == " ".join(clean.split()).lower() != ""
    assert "_" not in clean


def test_the_prompt_follows_the_papers_template():
    prompt = write_prompt(BIRDS, "001.Black_footed_Albatross", "stormy sky")
    assert prompt == "a black footed albatross, a bird, stormy sky"
    assert write_prompt(BIRDS, "american crow") == "an american crow, a bird"
    assert write_prompt(BIRDS, "{context}", "garden") == "a {context}, a bird, garden"


@pytest.mark.parametrize("domain", list_prompt_sets())
def test_every_book_is_whole_and_all_but_the_released_lists_agree_with_themselves(domain):
    prompt_set = load_prompt_set(domain)
    assert prompt_set.domain == domain
    assert 12 <= len(prompt_set.contexts) <= 16
    assert set(prompt_set.exceptions) <= set(prompt_set.contexts)
    assert {name for names in prompt_set.exceptions.values() for name in names} <= set(prompt_set.negatives)
    assert write_prompt(prompt_set, "thing", prompt_set.contexts[0]).endswith(f", {prompt_set.contexts[0]}")
    assert (find_conflicts(prompt_set) == []) == (domain != "birds_released")


def test_the_book_of_paperbirds_speaks_the_words_that_its_models_learned():
    assert sorted(PAPERBIRDS.contexts) == sorted(CONTEXTS)
    assert sorted(PAPERBIRDS.negatives) == sorted(DISTRACTORS)
    for species in SPECIES:
        assert write_prompt(PAPERBIRDS, species, CONTEXTS[0]) == full_caption(species, CONTEXTS[0])


def test_parts_of_a_book_can_be_replaced_but_not_changed():
    prompt_set = load_prompt_set("cars", contexts=["ice rink"], negatives=[], template="{class_name}")
    assert (prompt_set.contexts, prompt_set.negatives, prompt_set.domain_noun) == (("ice rink",), (), "car")
    assert write_prompt(prompt_set, "Fiat 500", "ice rink") == "fiat 500"
    parts = {"contexts": ["ice rink"], "negatives": ["toy"], "template": "{class_name}"}
    asked = choose_prompt_set(PromptParams(domain="cars", **parts))
    assert asked == load_prompt_set("cars", **parts)
    assert choose_prompt_set(PromptParams(domain="cars")) == load_prompt_set("cars")
    with pytest.raises(FrozenInstanceError):
        BIRDS.contexts = ()
    with pytest.raises(TypeError):
        PAPERBIRDS.exceptions["garden"] = ("tree",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"domain": "bird"}, r"no prompt set 'bird'; .*nearest: birds"),
        ({"template": "a {"}, "cannot be read: Single '{'"),
        ({"template": "a {classname}"}, r"\['classname'\]; legal are"),
        ({"template": "a bird, {context}"}, "does not name the {class_name}"),
        ({"template": "a {class_name} in {context}"}, "class and context in one clause"),
        ({"contexts": []}, "at least one scene"),
        ({"contexts": "garden"}, "contexts must be a list of texts"),
        ({"contexts": ["garden", "garden"]}, r"\['garden'\] more than once"),
        ({"negatives": ["car", " "]}, "negatives must be a list of texts"),
    ],
)
def test_a_book_that_cannot_work_is_refused(change, message):
    with pytest.raises(ParamsError, match=message):
        load_prompt_set(**({"domain": "birds"} | change))
    with pytest.raises(ParamsError, match="domain_noun is empty"):
        PromptSet("boats", "a {class_name}, a {domain_noun}", ("sea",))


def test_the_released_lists_contradict_their_contexts_and_one_data_set():
    found = find_conflicts(load_prompt_set("birds_released"), ["BMW M3 Coupe 2012"])
    by_context = {conflict.negative for conflict in found if conflict.where == "context"}
    assert {"sky", "landscape", "tree", "road", "cityscape"} <= by_context
    assert not by_context & {"train", "newspaper", "people", "human", "bus", "desk", "computer"}
    assert [c.negative for c in found].count("sky") == 8
    assert [c.negative for c in found if c.where == "class"] == ["car"]


@pytest.mark.parametrize(
    ("negative", "text", "contradicts"),
    [
        ("trees", "forest canopy", True),
        ("tree", "garden", False),
        ("streets", "quiet road", True),
        ("traffic lights", "a traffic light at dusk", True),
        ("traffic lights", "heavy traffic", False),
        ("buses", "bus stop", True),
        ("benches", "park bench", True),
        ("cities", "city at night", True),
        ("people", "baby", True),
        ("sky", "skyscraper", False),
        ("car", "cardinal", False),
    ],
)
def test_contradiction_goes_by_whole_words_and_what_they_imply(negative, text, contradicts):
    prompt_set = PromptSet("any", "{class_name}, {context}", (text,), (negative,))
    assert bool(find_conflicts(prompt_set)) is contradicts
    assert (negatives_for(prompt_set, text) == ()) is contradicts


def test_negatives_fit_context_class_and_domain():
    assert negatives_for(PAPERBIRDS, "garden") == PAPERBIRDS.negatives
    assert "house" not in negatives_for(PAPERBIRDS, "city skyline at twilight")
    assert "tree" not in negatives_for(PAPERBIRDS, "garden", "014.Tree_Swallow")
    prompt_set = PromptSet("any", "{class_name}, {context}", ("sea", "hill"), ("fog", "toy"),
                      exceptions={"sea": ("fog",)})  # fmt: skip
    assert [negatives_for(prompt_set, context) for context in prompt_set.contexts] == [("toy",), ("fog", "toy")]
    found = find_conflicts(load_prompt_set("cars", negatives=["vehicles", "toy"]))
    assert [(c.negative, c.where, c.why) for c in found] == [
        ("vehicles", "domain", '"car" implies vehicle')
    ]
