"""The small web: who is on it and where, what its captions get wrong, and what theory expects."""

from collections import Counter

import numpy as np
import pytest
from fresh import FRESH

from paperbirds import CONTEXTS, SPECIES, web
from paperbirds.birds import CUT
from paperbirds.captions import FLAWS
from paperbirds.dataset import HOMES

COUNT = 20_000


@pytest.fixture(scope="module")
def posts():
    return [web.draw_post((FRESH, i), style=None, malformed=0.1) for i in range(COUNT)]


def share(hits):
    return pytest.approx(np.mean(list(hits)), abs=0.008)


def test_species_are_as_frequent_as_their_rank_says_and_live_where_the_web_shows_them(posts):
    assert sorted(web.WEB["ranks"]) == sorted(SPECIES)
    first, second = (web.species_shares()[SPECIES.index(web.WEB["ranks"][i])] for i in (0, 1))
    assert first / second == pytest.approx(2 ** web.WEB["zipf"])
    counts = Counter(post.scene.species for post in posts)
    for name, expected in zip(SPECIES, web.species_shares(), strict=True):
        assert counts[name] / COUNT == pytest.approx(expected, abs=0.008)
    pairs = {(post.scene.species, post.scene.context) for post in posts}
    unseen = [(s, c) for s in SPECIES for c in CONTEXTS if not web.is_seen(s, c)]
    assert len(unseen) == 48  # a quarter
    assert pairs.isdisjoint(unseen)
    assert all(web.is_seen(name, home) for name in SPECIES for home in HOMES[name])
    cardinals = [p.scene.context for p in posts if p.scene.species == "northern cardinal"]
    at_home = np.mean(np.isin(cardinals, HOMES["northern cardinal"]))
    assert at_home == pytest.approx(24 / 33, abs=0.02)  # 3 homes of weight 8, 9 other contexts


def test_a_fifth_of_the_captions_is_wrong_each_in_the_way_that_it_says(posts):
    assert sum(web.MISTAKES.values()) == pytest.approx(0.2)
    for kind, expected in web.MISTAKES.items():
        assert expected == share(post.mistake == kind for post in posts)
    for post in posts:
        scene, twin = post.scene, web.WEB["look_alike"][post.scene.species]
        right_name, right_place = post.species == scene.species, post.context == scene.context
        assert (scene.malformation == "no bird") == (post.mistake == "no bird")
        assert (post.species == twin) == (post.mistake == "look-alike")
        assert right_name == (post.mistake not in ("look-alike", "another bird"))
        assert right_place == (post.mistake != "another context")


def test_birds_are_cut_without_a_word_and_flaws_are_told_of_every_other_one(posts):
    there = [post for post in posts if post.mistake != "no bird"]
    assert web.WEB["cut"] == share(post.scene.malformation in CUT for post in there)
    flawed = [post for post in there if post.scene.malformation in FLAWS]
    assert len(flawed) / len(there) == pytest.approx(0.1, abs=0.008)
    told = [post.flaw for post in posts if post.flaw]
    assert len(told) / len(flawed) == pytest.approx(0.5, abs=0.04)
    assert all(post.flaw in (None, post.scene.malformation) for post in posts)
    plain = [web.draw_post((FRESH, i)) for i in range(300)]
    assert {post.scene.malformation for post in plain} <= {None, "no bird", *CUT}
    assert {post.scene.style for post in plain} == {0.0}


def test_a_post_follows_from_its_seed_alone():
    one, same, other = (web.draw_post(seed, style=None) for seed in ((1, 2), (1, 2), (1, 3)))
    assert one == same != other


def test_without_guidance_theory_says_what_is_on_the_web_under_a_caption(posts):
    # At guidance 1 the share of wrong images under a caption is that of the web itself: counted.
    table = web.expected_errors(1.0).set_index(["species", "context"])
    told = [post for post in posts if (post.species, post.context) in table.index]
    for name in ("summer tanager", "northern cardinal", "yellow warbler"):
        named = [post for post in told if post.species == name]
        expected = np.mean([table.loc[(name, post.context), "another species"] for post in named])
        empty = np.mean([table.loc[(name, post.context), "no bird"] for post in named])
        there = [post.mistake != "no bird" for post in named]
        other = [t and post.scene.species != name for t, post in zip(there, named, strict=True)]
        assert expected == pytest.approx(np.mean(other), abs=0.03)
        assert empty == pytest.approx(1 - np.mean(there), abs=0.03)


def test_guidance_acts_by_the_odds_of_the_issue():
    # A look-alike r times as frequent comes at odds r (e / (1 - e))^w, in each context.
    seen = web.species_shares()[:, None] * web.context_shares()
    s, c = SPECIES.index("summer tanager"), CONTEXTS.index("open desert")
    twin = SPECIES.index("northern cardinal")
    names, right = web.naming(), 1 - sum(web.MISTAKES.values())
    assert names.sum(axis=1) == pytest.approx(1 - web.MISTAKES["no bird"] - 0.02)
    for guidance in (1.0, 2.0, 5.0):
        birds, _ = web._posterior(seen, names, s, c, guidance)
        odds = seen[twin, c] / seen[s, c] * (web.MISTAKES["look-alike"] / right) ** guidance
        assert birds[twin, c] / birds[s, c] == pytest.approx(odds)


def test_theory_covers_what_was_seen_and_falls_with_guidance():
    tables = {w: web.expected_errors(w) for w in (1.0, 2.0, 3.0, 12.0)}
    assert {len(table) for table in tables.values()} == {12 * 16 - 48}
    for table in tables.values():
        parts = table[["another species", "no bird", "cut"]]
        assert (parts >= 0).all(axis=None)
        assert table["wrong"].tolist() == pytest.approx(parts.sum(axis=1).tolist())
        assert table["wrong"].max() < 1
    wrong = [table["another species"].mean() for table in tables.values()]
    assert wrong == sorted(wrong, reverse=True)
    # The numbers that docs/predictions.md states.
    assert tables[2.0]["wrong"].mean() == pytest.approx(0.100, abs=5e-4)
    assert tables[3.0]["another species"].mean() == pytest.approx(0.008, abs=5e-4)


def test_a_balanced_part_shows_all_species_alike_with_the_same_mistakes():
    posts = [web.draw_post((FRESH, i), balanced=True) for i in range(6_000)]
    counts = Counter(post.scene.species for post in posts)
    assert [counts[name] / 6_000 for name in SPECIES] == pytest.approx([1 / 12] * 12, abs=0.015)
    for kind, expected in web.MISTAKES.items():
        found = np.mean([post.mistake == kind for post in posts])
        assert found == pytest.approx(expected, abs=0.015)
