"""Cheaper ways of drawing: what they draw and what they cost, by hand and by diffusers alone."""

from functools import partial
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import PROJECT
from shipped import SAMPLER, load_shipped, make_plan

from diffcore.cli import main
from diffcore.generation import cheaper
from diffcore.generation.draw import _draw, _encode, guide_part

STEPS = 4
CSV, PAGE = PROJECT / "reports/bench/cheaper.csv", PROJECT / "docs/cheaper.md"


@pytest.fixture(scope="module")
def batch():
    pipeline, plan = load_shipped(), make_plan(3)
    pairs = zip(plan["prompt"], plan["negative_prompt"], strict=True)
    return pipeline, plan["seed"].tolist(), [_encode(pipeline, *pair) for pair in pairs]


def draw(batch, **changes):
    return _draw(*batch, **SAMPLER | {"num_inference_steps": STEPS} | changes).astype(int)


def draw_part(batch, first, last):
    sampler = SAMPLER | {"num_inference_steps": STEPS}
    return draw(batch, **guide_part(first, last, sampler, batch[-1]))


@torch.inference_mode()
def draw_by_hand(batch, scale_of):
    """Denoise without the pipeline's call: both halves at every step, guided by `scale_of`."""
    pipeline, seeds, encoded = batch
    pipeline.scheduler.set_timesteps(STEPS)
    noise = [torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(s)) for s in seeds]
    x = torch.stack(noise) * pipeline.scheduler.init_noise_sigma
    texts = {name: torch.cat([each[name] for each in encoded]) for name in encoded[0]}
    ids = torch.tensor([[64.0, 64, 0, 0, 64, 64]] * len(seeds))
    for place, t in enumerate(pipeline.scheduler.timesteps):
        z = pipeline.scheduler.scale_model_input(x, t)
        halves = []
        for kind in ("negative_", ""):
            added = {"text_embeds": texts[f"{kind}pooled_prompt_embeds"], "time_ids": ids}
            states = texts[f"{kind}prompt_embeds"]
            halves.append(pipeline.unet(z, t, states, added_cond_kwargs=added).sample)
        found = halves[0] + scale_of(place) * (halves[1] - halves[0])
        x = pipeline.scheduler.step(found, t, x).prev_sample
    return cheaper.decode(pipeline, x).astype(int)


# ------------------------------------------------------------------------------------------ drawing
def test_guidance_switched_off_nowhere_draws_the_study_s_own_images(batch):
    assert (draw_part(batch, 0, 0) == draw(batch)).all()


@pytest.mark.parametrize("part", [(STEPS, 0), (0, STEPS), (2, 2)])
def test_guidance_switched_off_everywhere_is_none(batch, part):
    assert np.abs(draw_part(batch, *part) - draw(batch, guidance_scale=1.0)).max() <= 1


@pytest.mark.parametrize(("first", "last"), [(1, 0), (0, 3), (1, 2)])
def test_guidance_in_the_middle_draws_what_a_loop_by_hand_does(batch, first, last):
    inside = range(first, STEPS - last)
    by_hand = draw_by_hand(batch, lambda step: 3.0 if step in inside else 1.0)
    seen, forward = [], batch[0].unet.forward

    def watched(latents, *args, **kwargs):
        seen.append(len(latents))
        return forward(latents, *args, **kwargs)

    with mock.patch.object(batch[0].unet, "forward", watched):
        found = draw_part(batch, first, last)
    assert np.abs(found - by_hand).max() <= 1
    assert np.abs(found - draw(batch)).max() > 20
    assert seen == [6 if step in inside else 3 for step in range(STEPS)]


def test_the_last_prediction_is_the_image_and_looking_changes_nothing(batch):
    sampler = SAMPLER | {"num_inference_steps": STEPS}
    tall = cheaper.draw_looks([1, 2, STEPS], sampler, *batch).astype(int)
    early, later, last, image = np.split(tall, 4, axis=1)
    assert (image == draw(batch)).all()
    assert np.abs(last - image).max() <= 1
    # The nearer to the end, the nearer to the image.
    assert np.abs(early - image).mean() > np.abs(later - image).mean() > 1


# --------------------------------------------------------------------------------- costs and losses
SECONDS = pd.Series({"guided": 2.0, "unguided": 1.0, "decode": 0.5, "embed": 0.5})


def test_costs_count_every_part():
    assert cheaper.cost(SECONDS, 12, 0, 12, 0) == 1
    assert cheaper.cost(SECONDS, 12, 0, 9, 3) == 22 / 25
    # After four steps and a look, half is dropped.
    assert cheaper.cost(SECONDS, 12, 4, 8, 0, kept=0.5) == (4 * 2 + 1 + 0.5 * (8 * 2 + 1)) / 25


def test_each_half_is_judged_by_the_threshold_of_the_other():
    accepted = np.array([True, True, True, False] * 2)
    half = np.repeat([True, False], 4)
    at_look = np.array([0.1, 0.2, 0.3, 0.25, 0.2, 0.4, 0.6, 0.0])
    found = partial(cheaper.drop, accepted=accepted, half=half, limit=0.4)
    # A third of what is accepted lies below 0.2 in the one half, and below 0.4 in the other.
    assert cheaper.drop(at_look, accepted, half, 0.1).tolist() == [True] + [False] * 6 + [True]
    at_limit = cheaper.drop(at_look, accepted, half, 0.5)
    assert at_limit.tolist() == [True] * 4 + [False, False, False, True]
    lowered = at_look.copy()
    lowered[:4] = [0.0, 0.0, 0.0, 0.9]  # of one half: decisions there rest on the other alone
    assert found(lowered)[:4].tolist() == (lowered[:4] < 0.2).tolist()
    changed = at_look.copy()
    changed[3] = -9.0  # what is not accepted sets no threshold
    assert (found(changed)[4:] == found(at_look)[4:]).all()


def make_scores(**columns):
    n = len(next(iter(columns.values())))
    blank = {"kept": True, "judged": True, "accepted": True, "wrong": False}
    return pd.DataFrame({name: np.broadcast_to(value, n) for name, value in blank.items()}).assign(
        **columns
    )


def test_savings_and_losses_are_those_counted_by_hand():
    # Of ten, eight are accepted, and one of these is wrong. The look drops the two that are not
    # accepted, one that is accepted and right, and the one that is accepted and wrong.
    accepted = np.arange(10) < 8
    own = make_scores(accepted=accepted, judged=accepted, wrong=np.arange(10) == 7)
    kept = np.arange(10) < 6
    found = own.assign(kept=kept, accepted=accepted & kept, judged=accepted & kept)
    row = cheaper.compare(own, found, lambda share: 0.25 + 0.75 * share)
    assert row["cost"] == pytest.approx(0.7)
    assert row["lost"] == pytest.approx(2 / 8)
    assert row["price"] == pytest.approx(0.7 * 8 / 6)
    assert row["wrong_more"] == pytest.approx(0 - 1 / 8)
    assert (row["accepted"], row["wrong"]) == (0.6, 0)
    assert row["price_low"] < row["price"] < row["price_high"]


def test_wrong_images_are_compared_with_those_of_the_same_rows():
    own = make_scores(wrong=np.arange(100) < 30)
    shifted = own.assign(wrong=np.arange(100) < 33)
    row = cheaper.compare(own, shifted, lambda share: 0.8)
    assert row["wrong_more"] == pytest.approx(0.03)
    assert 0 <= row["wrong_more_low"] < 0.03 < row["wrong_more_high"] < 0.08  # unpaired: to 0.16
    assert row["price"] == row["price_high"] == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("changes", "free"),
    [
        ({}, True),
        ({"price_high": 1.0}, False),
        ({"distance": 1.06}, False),
        ({"wrong_more_low": 0.001}, False),
        ({"wrong_more_high": 0.03}, False),
        ({"way": "look", "limit": 0.05}, True),
        ({"way": "look", "limit": 0.1}, False),
    ],
)
def test_the_rule_has_no_exceptions(changes, free):
    row = {"way": "guidance", "price_high": 0.9, "distance": 1.05, "wrong_more_low": -0.01,
           "wrong_more_high": 0.02}  # fmt: skip
    assert cheaper.is_free(pd.Series(row | changes)) is free


# -------------------------------------------------------------------------------------- the command
@pytest.mark.slow
def test_the_command_measures_every_way_and_draws_nothing_twice(study_folder, monkeypatch):
    for name, few in {"PARTS": ((1, 0),), "LOOKS": (2,), "LIMITS": (0.05,), "_RENDERED": 1}.items():
        monkeypatch.setattr(cheaper, name, few)
    monkeypatch.setattr(cheaper, "STEPS", {cheaper.SOLVERS[1]: (3,)})
    command = ["cheaper", "--profile", "smoke", "--per-source", "1"]
    assert main(command) == 0
    table = pd.read_csv(study_folder / "reports/bench/cheaper.csv")
    assert table["way"].tolist() == ["own, other noise", "guidance", "steps", "look"]
    assert (table["images"] == 24).all()
    assert (study_folder / "reports/bench/cheaper.svg").stat().st_size > 10_000
    seconds = table.filter(like="ms_").iloc[0].rename(lambda name: name.removeprefix("ms_"))
    costs = [cheaper.cost(seconds, 4, *calls) for calls in ((0, 4, 0), (0, 3, 1), (0, 3, 0))]
    assert table["cost"][:3].tolist() == pytest.approx(costs, abs=1e-4)
    with mock.patch.object(cheaper, "draw_looks", side_effect=AssertionError("drawn again")):
        assert main(command) == 0
    again = pd.read_csv(study_folder / "reports/bench/cheaper.csv")
    same = ["distance", "wrong", "wrong_more", "accepted", "lost"]
    pd.testing.assert_frame_equal(again[same], table[same])


# ----------------------------------------------------------------------------------------- the page
def write_row(row):
    """Write a row of the table as docs/cheaper.md has it."""
    if row["way"] == "look":
        named = f"look after step {row['look']:.0f}, limit {100 * row['limit']:.0f} %"
    elif row["way"] == "guidance":
        parts = [f"{kind} {row[kind]:.0f}" for kind in ("first", "last") if row[kind]]
        named = f"no guidance in the {' and '.join(parts)}"
    elif row["way"] == "steps":
        named = f"{cheaper._NAMES[row['solver']]}, {row['steps']:.0f} steps"
    else:
        named = row["way"]
    ends = [row[[name, f"{name}_low", f"{name}_high"]] for name in ("price", "wrong_more", "lost")]
    price, more, lost = ends[0], 100 * ends[1], 100 * ends[2]
    shares = [f"{100 * row[name]:.0f}" for name in ("accepted", "wrong")]
    cells = [
        named, f"{row['cost']:.2f}", "{:.2f} [{:.2f}, {:.2f}]".format(*price),
        f"{row['distance']:.2f}", *shares, "{:+.2f} [{:+.2f}, {:+.2f}]".format(*more),
        "{:.1f} [{:.1f}, {:.1f}]".format(*lost) if row["way"] == "look" else "",
        "**free**" if row["free"] else "no",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def test_the_page_has_the_rows_of_the_table():
    table = pd.read_csv(CSV)
    shown = table[(table["way"] != "look") | (table["limit"] == cheaper.JUDGED[0])]
    on_page = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ")]
    assert on_page[1:] == [write_row(row) for _, row in shown.iterrows()]
    assert (table.apply(cheaper.is_free, axis=1) == table["free"]).all()
    for name, seconds in table.filter(like="ms_").iloc[0].items():
        assert f"{seconds:.1f} ms" in PAGE.read_text("utf-8"), name
