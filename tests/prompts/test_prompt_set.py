"""Prompts: wording, sets that can work, and contradictions that a reader would not dispute."""

from dataclasses import FrozenInstanceError

import pytest

from diffcore.params import ParamsError, PromptParams
from diffcore.prompts import clean_class_name, load_prompt_set
from diffcore.prompts.prompt_set import (
    PromptSet,
    choose_prompt_set,
    list_prompt_sets,
    negatives_for,
    write_prompt,
)

BIRDS = load_prompt_set("birds")


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


def test_the_prompt_follows_the_papers_template():
    prompt = write_prompt(BIRDS, "001.Black_footed_Albatross", "stormy sky")
    assert prompt == "a black footed albatross, a bird, stormy sky"
    assert write_prompt(BIRDS, "american crow") == "an american crow, a bird"
    assert write_prompt(BIRDS, "{context}", "garden") == "a {context}, a bird, garden"


def contradictions(prompt_set):
    """What is left out of the prompts, context by context, though no exception names it."""
    found = {}
    for context in prompt_set.contexts:
        settled = (*negatives_for(prompt_set, context), *prompt_set.exceptions.get(context, ()))
        found[context] = set(prompt_set.negatives) - set(settled)
    return found


@pytest.mark.parametrize("domain", list_prompt_sets())
def test_every_set_is_whole_and_all_but_the_released_lists_agree_with_themselves(domain):
    prompt_set = load_prompt_set(domain)
    contexts = prompt_set.contexts
    assert prompt_set.domain == domain
    assert 12 <= len(contexts) <= 16
    assert set(prompt_set.exceptions) <= set(contexts)
    excepted = {name for names in prompt_set.exceptions.values() for name in names}
    assert excepted <= set(prompt_set.negatives)
    assert write_prompt(prompt_set, "thing", contexts[0]).endswith(f", {contexts[0]}")
    assert any(contradictions(prompt_set).values()) == (domain == "birds_released")


def test_the_released_lists_contradict_their_contexts():
    found = contradictions(load_prompt_set("birds_released"))
    named = set().union(*found.values())
    assert {"sky", "landscape", "tree", "road", "cityscape"} <= named
    assert not named & {"train", "newspaper", "people", "human", "bus", "desk", "computer"}
    assert sum("sky" in names for names in found.values()) == 8


def test_parts_of_a_set_can_be_replaced_but_not_changed():
    parts = {"contexts": ["ice rink"], "negatives": [], "template": "{class_name}"}
    prompt_set = load_prompt_set("cars", **parts)
    assert (prompt_set.contexts, prompt_set.negatives) == (("ice rink",), ())
    assert prompt_set.domain_noun == "car"
    assert write_prompt(prompt_set, "Fiat 500", "ice rink") == "fiat 500"
    assert choose_prompt_set(PromptParams(domain="cars", **parts)) == prompt_set
    assert choose_prompt_set(PromptParams(domain="cars")) == load_prompt_set("cars")
    with pytest.raises(FrozenInstanceError):
        BIRDS.contexts = ()
    with pytest.raises(TypeError):
        BIRDS.exceptions["garden"] = ("tree",)


def test_a_set_may_be_a_file_also_inside_a_package(tmp_path):
    path = tmp_path / "boats.yaml"
    path.write_text("{domain: boats, template: 'a {class_name}, {context}', contexts: [at sea]}")
    assert load_prompt_set(str(path), contexts=["in port"]).contexts == ("in port",)
    assert load_prompt_set("package:paperbirds/prompts.yaml").domain == "paperbirds"
    path.write_text("{domain: boats, places: [at sea]}")
    for location, message in ((path, "must hold context"), (tmp_path / "a.yml", "cannot be read")):
        with pytest.raises(ParamsError, match=rf"prompts\.domain: {location} {message}"):
            load_prompt_set(str(location))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"domain": "bird"}, r"no prompt set 'bird'; .*nearest: birds"),
        ({"template": "a {"}, "cannot be read: Single '{'"),
        ({"template": "a {class_name!r}"}, "write {class_name} and no more"),
        ({"template": "a {classname}"}, r"\['classname'\]; legal are"),
        ({"template": "a bird, {context}"}, "does not name the {class_name}"),
        ({"template": "a {class_name} in {context}"}, "class and context in one clause"),
        ({"domain_noun": ""}, "domain_noun is empty"),
        ({"contexts": []}, "at least one scene"),
        ({"contexts": "garden"}, "contexts must be a list of texts"),
        ({"contexts": ["garden", "garden"]}, r"\['garden'\] more than once"),
        ({"negatives": ["car", " "]}, "negatives must be a list of texts"),
    ],
)
def test_a_set_that_cannot_work_is_refused(change, message):
    with pytest.raises(ParamsError, match=message):
        load_prompt_set(**({"domain": "birds"} | change))


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
    assert (negatives_for(prompt_set, text) == ()) is contradicts


def test_negatives_fit_context_class_and_domain():
    negatives, contexts = ("fog", "toy", "tree"), ("sea", "hill")
    exceptions = {"sea": ("fog",)}
    prompt_set = PromptSet("any", "{class_name}", contexts, negatives, exceptions=exceptions)
    assert [negatives_for(prompt_set, at) for at in contexts] == [("toy", "tree"), negatives]
    assert negatives_for(prompt_set, "hill", "014.Tree_Swallow") == ("fog", "toy")
    assert negatives_for(load_prompt_set("cars", negatives=["vehicles", "toy"])) == ("toy",)
