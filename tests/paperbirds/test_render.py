"""The renderer: the same bytes for the same seed, exact masks, the range of styles."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from fresh import FRESH
from PIL import Image

from paperbirds import CONTEXTS, DISTRACTORS, SPECIES, render
from paperbirds.birds import CUT, MALFORMATIONS
from paperbirds.dataset import draw_scene
from paperbirds.render import Scene

RENDER_MODULE = sys.modules[Scene.__module__]


def dilated(mask):
    padded = np.pad(mask, 1)
    return np.any([padded[y : y + 64, x : x + 64] for y in range(3) for x in range(3)], axis=0)


def changed(a, b):
    return (a.image != b.image).any(axis=2)


DIGEST = """
import hashlib
from paperbirds.dataset import draw_scene
options = {"style": None, "bias": 1.0, "extra_distractor": 0.5}
scenes = [draw_scene((5_002, i), malformed=i % 2 == 0, **options) for i in range(40)]
digest = hashlib.sha256(b"".join(scene.render().image for scene in scenes)).hexdigest()
"""


@pytest.mark.slow
def test_another_process_renders_the_same_bytes():
    # Not pinned to one number: polygons are rounded from floats, which may differ by platform.
    here: dict[str, str] = {}
    exec(DIGEST, here)
    command = [sys.executable, "-c", DIGEST + "print(digest)"]
    environment = os.environ | {"PYTHONHASHSEED": "12345"}
    there = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here["digest"]


def test_every_species_stands_in_every_context():
    images = set()
    for i, species in enumerate(SPECIES):
        for j, context in enumerate(CONTEXTS):
            shown = render(species, context, (FRESH, i, j))
            assert 0.08 < shown.mask.mean() < 0.35
            images.add(shown.image.tobytes())
    assert len(images) == len(SPECIES) * len(CONTEXTS)


@pytest.mark.parametrize("species", SPECIES)
def test_mask_is_where_the_bird_changes_the_image(species):
    for i, context in enumerate(CONTEXTS):
        scene = {"seed": (FRESH, i), "distractors": ("tree", "car")}
        with_bird = render(species, context, **scene)
        without = render(species, context, **scene, malformation="no bird")
        seen = changed(with_bird, without)
        # A pixel that the bird covers by less than half differs, but is not yet the bird's: a rim
        # of one pixel, and at most two more at the tip of a toe or beak thinner than a pixel.
        rim = dilated(with_bird.mask)
        assert (seen & ~rim).sum() <= 2
        assert not (seen & ~dilated(rim)).any()
        assert seen[with_bird.mask].mean() > 0.95
        assert not without.mask.any()


def test_mask_leaves_out_what_stands_in_front(monkeypatch):
    def masks():
        drawn = [draw_scene((FRESH, i), style=1.0) for i in range(60)]
        return [scene.render().mask for scene in drawn]

    occluded = masks()
    monkeypatch.setattr(RENDER_MODULE, "draw_in_front", lambda *_: Image.new("RGBA", (256, 256)))
    whole = masks()
    assert not any((front & ~free).any() for front, free in zip(occluded, whole, strict=True))
    smaller = sum(front.sum() < free.sum() for front, free in zip(occluded, whole, strict=True))
    assert 10 <= smaller <= 45  # half of the field's images have something in front


def test_style_leads_from_studio_to_field_step_by_step():
    rows = []
    for style in (0.0, 0.25, 0.5, 0.75, 1.0):
        shown = [draw_scene((FRESH + 3, i), style=style).render() for i in range(60)]
        centres = [np.argwhere(r.mask).mean(axis=0) - 32 for r in shown if r.mask.any()]
        rows.append([
            np.mean([r.mask.mean() for r in shown]),  # area of the bird
            -np.mean(np.hypot(*np.transpose(centres))),  # distance from the centre
            np.mean([np.ptp(r.image.astype(int), axis=2) for r in shown]),  # saturation
            np.mean([r.image.std() for r in shown]),  # contrast
        ])  # fmt: skip
    assert (np.diff(rows, axis=0) < 0).all()
    assert rows[0][0] > 1.4 * rows[-1][0]


@pytest.mark.parametrize("species", SPECIES)
def test_malformed_birds_differ_from_whole_ones(species):
    kinds = (None, *MALFORMATIONS)
    birds = {how: render(species, "misty morning", FRESH, malformation=how) for how in kinds}
    assert all(changed(birds[None], birds[how]).sum() > 30 for how in MALFORMATIONS)
    sizes = [birds[how].mask.sum() for how in ("no bird", "no head", None, "two heads")]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("style", [0.0, 0.6])
@pytest.mark.parametrize("how", CUT)
def test_about_half_of_a_cut_bird_is_seen(how, style):
    seen = []
    for i, species in enumerate(SPECIES):
        scene = Scene(species, "misty morning", (FRESH, i), style=style)
        whole, cut = scene.render(), replace(scene, malformation=how).render()
        seen.append(cut.mask.sum() / whole.mask.sum())
        if how == "cropped":  # by the left or the right edge
            assert cut.mask[:, [0, -1]].any()
    assert 0.25 < np.mean(seen) < 0.75
    assert max(seen) < 0.95


@pytest.mark.parametrize("distractor", DISTRACTORS)
def test_a_distractor_is_seen_behind_the_bird(distractor):
    visible = []
    for i, context in enumerate(CONTEXTS):
        empty = Scene("blue jay", context, (FRESH, i), malformation="no bird")
        there = changed(empty.render(), replace(empty, distractors=(distractor,)).render())
        bird = replace(empty, malformation=None).render().mask
        assert 0.01 < there.mean() < 0.12
        visible.append((there & ~bird).sum() / there.sum())
    assert np.mean(visible) > 0.7
