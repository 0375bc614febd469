"""Prompts: wording, contradictions, and a plan in which each draw stands alone."""

from dataclasses import FrozenInstanceError
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffcore.prompts import (
    PLAN_COLUMNS,
    PromptBook,
    clean_class_name,
    find_conflicts,
    list_prompt_books,
    load_prompt_book,
    negatives_for,
    plan_generation,
    write_prompt,
)

OURS = ["birds", "cars", "flowers", "objects", "paperbirds"]
BIRDS = load_prompt_book("birds")


def make_sources(per_class, classes=("blue jay", "american crow")):
    return pd.DataFrame({
        "source_id": [f"{name}/{place}" for name in classes for place in range(per_class)],
        "class_name": [name for name in classes for _ in range(per_class)],
    })  # fmt: skip


def plan(sources, book=BIRDS, share=1.0, seed=0, **options):
    return plan_generation(sources, book, generated_share=share, seed=seed, **options)


# ------------------------------------------------------------------------------------------ wording
@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("001.Black_footed_Albatross", "black footed albatross"),
        ("00012_snow_goose", "snow goose"),
        ("maple_tree", "maple tree"),
        ("Audi S4 Sedan 2012", "audi s4 sedan 2012"),
        ("747-400", "747-400"),
        ("2012_Tesla", "2012 tesla"),
        ("goldfish, Carassius auratus", "goldfish"),
        ("  pink   primrose ", "pink primrose"),
        ("globe-flower", "globe-flower"),
        ("Hälsingland_häst", "hälsingland häst"),
    ],
)
def test_class_names_become_words(name, clean):
    assert clean_class_name(name) == clean
    assert clean_class_name(clean) == clean


@pytest.mark.parametrize("name", ["", "  ", "_", ",x"])
def test_a_name_without_words_is_refused(name):
    with pytest.raises(ValueError, match="holds no word"):
        clean_class_name(name)


@given(st.text(min_size=1, max_size=20))
def test_cleaning_leaves_single_spaces_and_no_underscores(name):
    try:
        clean = clean_class_name(name)
    except ValueError:
        return
    assert clean == " ".join(clean.split())
    assert "_" not in clean
    assert clean == clean.lower()


def test_the_prompt_follows_the_papers_template():
    prompt = write_prompt(BIRDS, "001.Black_footed_Albatross", "stormy sky")
    assert prompt == "a black footed albatross, a bird, stormy sky"
    assert write_prompt(BIRDS, "blue jay") == "a blue jay, a bird"


def test_the_article_fits_the_word():
    objects = load_prompt_book("objects")
    assert write_prompt(objects, "airliner", "on sand") == "an airliner, an object, on sand"
    assert write_prompt(BIRDS, "american crow") == "an american crow, a bird"


def test_braces_in_a_class_name_are_text():
    assert write_prompt(BIRDS, "{context}", "garden") == "a {context}, a bird, garden"


# -------------------------------------------------------------------------------------------- books
def test_the_books_are_those_of_the_study():
    assert list_prompt_books() == sorted([*OURS, "birds_released"])


@pytest.mark.parametrize("domain", [*OURS, "birds_released"])
def test_every_book_is_whole(domain):
    book = load_prompt_book(domain)
    assert book.domain == domain
    assert 12 <= len(book.contexts) <= 16
    assert set(book.exceptions) <= set(book.contexts)
    assert {name for names in book.exceptions.values() for name in names} <= set(book.negatives)
    assert write_prompt(book, "thing", book.contexts[0]).endswith(f", {book.contexts[0]}")


def test_paperbirds_book_names_what_its_world_holds():
    from diffcore.paperbirds import CONTEXTS, DISTRACTORS

    book = load_prompt_book("paperbirds")
    assert sorted(book.contexts) == sorted(CONTEXTS)
    assert sorted(book.negatives) == sorted(DISTRACTORS)


def test_the_captions_of_paperbirds_are_its_prompts():
    from diffcore.paperbirds import CONTEXTS, SPECIES
    from diffcore.paperbirds.captions import full_caption

    book = load_prompt_book("paperbirds")
    for species in SPECIES:
        assert write_prompt(book, species, CONTEXTS[0]) == full_caption(species, CONTEXTS[0])


def test_an_unknown_book_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"no prompt book 'bird'; .*nearest: birds"):
        load_prompt_book("bird")


def test_parts_of_a_book_can_be_replaced():
    book = load_prompt_book("cars", contexts=["ice rink"], negatives=[], template="{class_name}")
    assert (book.contexts, book.negatives, book.domain_noun) == (("ice rink",), (), "car")
    assert write_prompt(book, "Fiat 500", "ice rink") == "fiat 500"


def test_a_book_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        BIRDS.contexts = ()
    with pytest.raises(TypeError):
        load_prompt_book("paperbirds").exceptions["garden"] = ("tree",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
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
    with pytest.raises(ValueError, match=message):
        load_prompt_book("birds", **change)


def test_a_noun_that_the_template_uses_must_be_given():
    with pytest.raises(ValueError, match="domain_noun is empty"):
        PromptBook("boats", "a {class_name}, a {domain_noun}", ("sea",))


# ----------------------------------------------------------------------------------- contradictions
@pytest.mark.parametrize("domain", OURS)
def test_our_books_do_not_contradict_themselves(domain):
    assert find_conflicts(load_prompt_book(domain)) == []


def test_the_released_lists_contradict_their_contexts_and_one_data_set():
    found = find_conflicts(load_prompt_book("birds_released"), ["BMW M3 Coupe 2012"])
    by_context = {conflict.negative for conflict in found if conflict.where == "context"}
    assert {"sky", "landscape", "tree", "road", "cityscape"} <= by_context
    assert len([conflict for conflict in found if conflict.negative == "sky"]) == 8
    assert [c.negative for c in found if c.where == "class"] == ["car"]
    assert not by_context & {"train", "newspaper", "people", "human", "bus", "desk", "computer"}


def test_real_class_names_meet_no_negative_of_their_book():
    cars = ["AM General Hummer SUV 2000", "Dodge Ram Pickup 3500 Crew Cab 2010", "Jeep Patriot SUV"]
    flowers = ["bird of paradise", "tree mallow", "windflower", "snapdragon", "love in the mist"]
    birds = ["Tree Swallow", "House Wren", "Cliff Swallow", "Boat tailed Grackle", "Ovenbird"]
    for domain, names in {"cars": cars, "flowers": flowers, "birds": birds}.items():
        assert find_conflicts(load_prompt_book(domain), names) == []


@pytest.mark.parametrize(
    ("negative", "text", "contradicts"),
    [
        ("trees", "forest canopy", True),
        ("tree", "garden", False),
        ("streets", "quiet road", True),
        ("traffic lights", "a traffic light at dusk", True),
        ("traffic lights", "heavy traffic", False),
        ("buses", "bus stop", True),
        ("benches", "bench in a park", True),
        ("cities", "city at night", True),
        ("people", "baby", True),
        ("sky", "skyscraper", False),
        ("car", "cardinal", False),
    ],
)
def test_contradiction_goes_by_whole_words_and_what_they_imply(negative, text, contradicts):
    book = PromptBook("any", "{class_name}, {context}", (text,), (negative,))
    assert bool(find_conflicts(book)) is contradicts
    assert (negatives_for(book, text) == ()) is contradicts


def test_a_negative_against_the_domain_is_named():
    found = find_conflicts(load_prompt_book("cars", negatives=["vehicles", "toy"]))
    assert [(c.negative, c.contradicts, c.where) for c in found] == [("vehicles", "car", "domain")]
    assert found[0].why == '"car" implies vehicle'


def test_negatives_fit_their_prompt():
    book = load_prompt_book("paperbirds")
    assert negatives_for(book, "garden") == book.negatives
    assert "tree" not in negatives_for(book, "forest canopy")
    assert "house" not in negatives_for(book, "city skyline at twilight")
    assert "tree" not in negatives_for(book, "garden", "014.Tree_Swallow")


# --------------------------------------------------------------------------------------------- plan
def test_the_plan_has_a_row_per_image_in_the_order_of_the_sources():
    sources = make_sources(4).sample(frac=1, random_state=0)
    table = plan(sources)
    assert tuple(table.columns) == PLAN_COLUMNS
    assert list(table["source_id"]) == list(sources["source_id"])
    assert list(table["class_name"]) == list(sources["class_name"])
    assert table["sample_id"].is_unique
    assert table["seed"].is_unique
    assert table["seed"].between(0, 2**63 - 1).all()
    for row in table.itertuples():
        assert row.prompt == write_prompt(BIRDS, row.class_name, row.context)


@given(st.integers(1, 40), st.floats(0.01, 4), st.integers(0, 5))
def test_each_class_gets_its_share_spread_over_images_and_contexts(per_class, share, seed):
    table = plan(make_sources(per_class), share=share, seed=seed)
    for _, rows in table.groupby("class_name"):
        assert abs(len(rows) - max(1, share * per_class)) <= 0.5 + 1e-9
        images = rows["source_id"].value_counts()
        assert images.max() - (images.min() if len(images) == per_class else 0) <= 1
        contexts = rows["context"].value_counts().reindex(BIRDS.contexts, fill_value=0)
        assert contexts.max() - contexts.min() <= 1


def test_copies_of_an_image_get_different_contexts():
    table = plan(make_sources(16), share=4)
    assert (table.groupby("source_id")["context"].nunique() == 4).all()


def test_the_plan_is_the_same_everywhere():
    row = plan(make_sources(10), share=0.3).iloc[0]
    assert (row["sample_id"], row["context"], row["seed"]) == (
        "blue jay/1-0-0",
        "misty morning",
        9094061494462208776,
    )
    pd.testing.assert_frame_equal(plan(make_sources(10)), plan(make_sources(10)))
    assert not plan(make_sources(10), seed=1)["seed"].isin(plan(make_sources(10))["seed"]).any()


def test_seeds_do_not_depend_on_other_rows_or_on_the_wording():
    sources = make_sources(9)
    seeds = plan(sources, share=2).set_index("sample_id")["seed"]
    fewer = plan(sources[::2], share=2).set_index("sample_id")["seed"]
    assert fewer.equals(seeds[fewer.index])
    for options in ({"use_context": False}, {"book": load_prompt_book("cars")}):
        assert plan(sources, share=2, **options).set_index("sample_id")["seed"].equals(seeds)


def test_another_attempt_replaces_the_same_images_with_other_noise():
    first, second = (plan(make_sources(20), share=0.3, attempt=attempt) for attempt in (0, 1))
    assert list(first["source_id"]) == list(second["source_id"])
    assert not first["seed"].isin(second["seed"]).any()
    assert not first["sample_id"].isin(second["sample_id"]).any()


def test_context_and_negatives_can_be_left_out():
    table = plan(make_sources(2), use_context=False, use_negatives=False)
    assert set(table["context"]) == set(table["negative_prompt"]) == {""}
    assert set(table["prompt"]) == {"a blue jay, a bird", "an american crow, a bird"}


def test_negatives_in_the_plan_fit_unless_the_released_lists_are_wanted_as_they_are():
    released = load_prompt_book("birds_released")
    fitting = plan(make_sources(16), released)
    as_released = plan(make_sources(16), released, drop_conflicts=False)
    assert set(as_released["negative_prompt"]) == {", ".join(released.negatives)}
    forest = fitting[fitting["context"] == "forest canopy"].iloc[0]
    assert "tree" not in forest["negative_prompt"].split(", ")
    assert "sky" in forest["negative_prompt"].split(", ")


def test_a_share_of_zero_and_no_sources_plan_nothing():
    for table in (plan(make_sources(3), share=0), plan(make_sources(0))):
        assert len(table) == 0
        assert tuple(table.columns) == PLAN_COLUMNS


def test_numeric_ids_and_other_columns_are_welcome():
    sources = pd.DataFrame({"source_id": [7, 8], "class_name": ["owl", "owl"], "label": [0, 0]})
    assert list(plan(sources)["source_id"]) == ["7", "8"]


def test_sources_that_cannot_be_planned_are_refused():
    sources = make_sources(2)
    with pytest.raises(ValueError, match=r"lack the columns \['class_name'\]"):
        plan(sources.drop(columns="class_name"))
    with pytest.raises(ValueError, match="without a source_id or class_name"):
        plan(sources.assign(class_name=[None, "owl", "owl", "owl"]))
    with pytest.raises(ValueError, match="'blue jay/0' is in sources more than once"):
        plan(pd.concat([sources, sources]))
    with pytest.raises(ValueError, match="must be 0 or more"):
        plan(sources, share=-0.1)


def test_no_book_names_a_host():
    books = Path(__file__).parents[1] / "diffcore" / "prompt_books"
    assert not [book for book in books.glob("*.yaml") if "://" in book.read_text("utf-8")]
