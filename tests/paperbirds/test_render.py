"""The renderer: the same bytes for the same seed, exact masks, the dial of style, every mistake."""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import PROJECT
from fresh import FRESH, digest
from PIL import Image

from diffcore.paperbirds import (
    CLUTTER,
    CONTEXTS,
    DISTRACTORS,
    MALFORMATIONS,
    SPECIES,
    draw_clutter,
    draw_scene,
    render,
)
from diffcore.paperbirds import render as render_function

RENDER_MODULE = sys.modules[render_function.__module__]


def dilated(mask):
    padded = np.pad(mask, 1)
    return np.any([padded[y : y + 64, x : x + 64] for y in range(3) for x in range(3)], axis=0)


def changed(a, b):
    return (a.image != b.image).any(axis=2)


# ------------------------------------------------------------------------------ the same bytes
def test_same_arguments_give_the_same_bytes():
    first, second = (
        render("blue jay", "garden", (FRESH, 1), ("car",), style=0.7) for _ in range(2)
    )
    assert first.image.tobytes() == second.image.tobytes()
    assert first.mask.tobytes() == second.mask.tobytes()


def test_another_process_renders_the_same_bytes():
    # Not pinned to one number: polygons are rounded from floats, which a platform may do its way.
    paths = os.pathsep.join((str(PROJECT), str(Path(__file__).parent)))
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": "12345"}
    run = subprocess.run(
        [sys.executable, "-m", "fresh"], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == digest()


@pytest.mark.parametrize("style", [0.0, 1.0])
def test_another_seed_gives_another_image(style):
    images = {render("blue jay", "garden", seed, style=style).image.tobytes() for seed in range(20)}
    assert len(images) == 20


def test_every_species_stands_in_every_context():
    images = set()
    for i, species in enumerate(SPECIES):
        for j, context in enumerate(CONTEXTS):
            shown = render(species, context, (FRESH, i, j))
            assert (shown.image.shape, shown.image.dtype) == ((64, 64, 3), np.uint8)
            assert (shown.mask.shape, shown.mask.dtype) == ((64, 64), np.bool_)
            assert 0.08 < shown.mask.mean() < 0.35
            images.add(shown.image.tobytes())
    assert len(images) == len(SPECIES) * len(CONTEXTS)


def test_the_world_is_as_large_as_promised():
    assert len(set(SPECIES)) >= 12
    assert len(set(CONTEXTS)) >= 14
    assert set(CLUTTER) <= set(CONTEXTS)
    assert {name for chances in CLUTTER.values() for name in chances} == set(DISTRACTORS)


@pytest.mark.parametrize("one", SPECIES)
def test_species_differ_even_with_one_seed(one):
    shown = render(one, "overcast sky", FRESH)
    for other in SPECIES:
        different = changed(shown, render(other, "overcast sky", FRESH)).sum()
        assert (different == 0) if other == one else (different > 40)


# ------------------------------------------------------------------------------ the mask
@pytest.mark.parametrize("species", SPECIES)
def test_mask_is_where_the_bird_changes_the_picture(species):
    for i, context in enumerate(CONTEXTS):
        with_bird = render(species, context, (FRESH, i), ("tree", "car"))
        without = render(species, context, (FRESH, i), ("tree", "car"), malformation="no bird")
        seen = changed(with_bird, without)
        # A pixel that the bird covers by less than half differs, but is not yet the bird's: a rim
        # of one pixel, and at most two more at the tip of a toe or beak thinner than a pixel.
        rim = dilated(with_bird.mask)
        assert (seen & ~rim).sum() <= 2
        assert not (seen & ~dilated(rim)).any()
        assert seen[with_bird.mask].mean() > 0.95


@pytest.mark.parametrize("style", [0.0, 0.5, 1.0])
def test_mask_is_empty_without_a_bird(style):
    for i, context in enumerate(CONTEXTS):
        shown = render("blue jay", context, (FRESH, i), style=style, malformation="no bird")
        assert not shown.mask.any()


def test_mask_leaves_out_what_stands_in_front(monkeypatch):
    def masks():
        scenes = [draw_scene((FRESH, i), style=1.0) for i in range(60)]
        return [scene.render().mask for scene in scenes]

    occluded = masks()
    monkeypatch.setattr(RENDER_MODULE, "draw_foreground", lambda *_: Image.new("RGBA", (256, 256)))
    whole = masks()
    assert not any((front & ~free).any() for front, free in zip(occluded, whole, strict=True))
    smaller = sum(front.sum() < free.sum() for front, free in zip(occluded, whole, strict=True))
    assert 10 <= smaller <= 45  # half of the field's images have something in front


# ------------------------------------------------------------------------------ the dial
def test_style_leads_from_studio_to_field_step_by_step():
    rows = []
    for style in (0.0, 0.25, 0.5, 0.75, 1.0):
        shown = [draw_scene((FRESH + 3, i), style=style).render() for i in range(80)]
        centres = [np.argwhere(r.mask).mean(axis=0) - 32 for r in shown if r.mask.any()]
        rows.append(
            {
                "area of the bird": np.mean([r.mask.mean() for r in shown]),
                "distance from the centre": -np.mean(np.hypot(*np.transpose(centres))),
                "saturation": np.mean([np.ptp(r.image.astype(int), axis=2) for r in shown]),
                "contrast": np.mean([r.image.std() for r in shown]),
            }
        )
    for name in rows[0]:
        values = [row[name] for row in rows]
        assert all(a > b for a, b in pairwise(values)), (name, values)
    assert rows[0]["area of the bird"] > 1.4 * rows[-1]["area of the bird"]


def test_studio_birds_face_right_and_field_birds_either_way():
    def left(style):
        poses = [RENDER_MODULE._stage(np.random.default_rng(i), style) for i in range(400)]
        return np.mean([pose.facing == -1 for pose in poses])

    assert left(0.0) == 0
    assert left(1.0) == pytest.approx(0.5, abs=0.1)


def test_facts_are_what_was_asked_for():
    shown = render("blue jay", "garden", 3, ("car",), style=0.25, malformation="no head")
    assert (shown.species, shown.context, shown.distractors) == ("blue jay", "garden", ("car",))
    assert (shown.style, shown.malformation) == (0.25, "no head")


# ------------------------------------------------------------------------------ malformed birds
@pytest.mark.parametrize("malformation", MALFORMATIONS)
@pytest.mark.parametrize("species", SPECIES)
def test_malformed_birds_differ_from_whole_ones(species, malformation):
    whole = render(species, "misty morning", FRESH)
    broken = render(species, "misty morning", FRESH, malformation=malformation)
    assert changed(whole, broken).sum() > 30


def test_heads_add_to_and_take_from_the_bird():
    for i, species in enumerate(SPECIES):
        areas = [
            render(species, "open desert", (FRESH, i), malformation=kind).mask.sum()
            for kind in ("no bird", "no head", None, "two heads")
        ]
        assert all(a < b for a, b in pairwise(areas)), (species, areas)


# ------------------------------------------------------------------------------ distractors
@pytest.mark.parametrize("distractor", DISTRACTORS)
def test_a_distractor_is_seen_behind_the_bird(distractor):
    visible = []
    for i, context in enumerate(CONTEXTS):
        shown = render("blue jay", context, (FRESH, i), (distractor,), malformation="no bird")
        plain = render("blue jay", context, (FRESH, i), malformation="no bird")
        there = changed(shown, plain)
        bird = render("blue jay", context, (FRESH, i), (distractor,)).mask
        assert 0.01 < there.mean() < 0.12
        visible.append((there & ~bird).sum() / there.sum())
    assert np.mean(visible) > 0.7


def test_four_distractors_stand_in_four_corners():
    names, arguments = DISTRACTORS[:4], ("blue jay", "overcast sky", (FRESH, 4))
    plain = render(*arguments, malformation="no bird")
    there = changed(render(*arguments, names, malformation="no bird"), plain)
    quarters = [there[y : y + 32, x : x + 32].sum() for y in (0, 32) for x in (0, 32)]
    assert min(quarters) > 30


@pytest.mark.parametrize("context", CONTEXTS)
def test_clutter_comes_as_often_as_listed(context):
    rng, count = np.random.default_rng(FRESH), 1_000
    drawn = [draw_clutter(context, rng) for _ in range(count)]
    for name in DISTRACTORS:
        rate = sum(name in names for names in drawn) / count
        assert rate == pytest.approx(CLUTTER.get(context, {}).get(name, 0), abs=0.06)


@pytest.mark.parametrize("context", ["garden", "city skyline at twilight"])
def test_gardens_and_skylines_are_cluttered_more_often_than_not(context):
    rng = np.random.default_rng(FRESH)
    assert np.mean([bool(draw_clutter(context, rng)) for _ in range(1_000)]) > 0.55


# ------------------------------------------------------------------------------ what is refused
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"species": "dodo"}, "unknown species 'dodo'; known: northern cardinal, "),
        ({"context": "moon base"}, "unknown context 'moon base'; known: garden, "),
        ({"distractors": ("car", "bus")}, "unknown distractor 'bus'; known: tree, car, "),
        ({"malformation": "no legs"}, "unknown malformation 'no legs'; known: None, two heads, "),
        ({"distractors": DISTRACTORS}, "at most four distractors .*, got tree, car, "),
        ({"style": 1.5}, r"style must be in \[0, 1\] .*, got 1\.5"),
        ({"style": -0.1}, r"style must be in \[0, 1\] .*, got -0\.1"),
        ({"style": float("nan")}, r"style must be in \[0, 1\] .*, got nan"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        render(**{"species": "blue jay", "context": "garden", "seed": 1, **arguments})
