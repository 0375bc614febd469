"""Tables of saliency: with classifiers made by hand, of which the answer is known."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from diffcore.data.splits import Split
from diffcore.measure import saliency as evaluate


def some_images(count=6, classes=3, seed=0):
    """Images whose object, a square, is the brightest thing in the channel of its class."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 60, (count, 8, 8, 3), dtype=np.uint8)
    labels, masks = np.arange(count) % classes, np.zeros((count, 8, 8), bool)
    for place, label in enumerate(labels):
        top, left = rng.integers(0, 6, 2)
        masks[place, top : top + 2, left : left + 2] = True
        pixels[place, masks[place], label] = 250
    ids = [f"image-{n}" for n in range(count)]
    metadata = pd.DataFrame({"source_id": ids, "label": labels})
    return Split("test", ("a", "b", "c"), metadata, pixels, masks)


class Channels(nn.Module):
    """The score of class k is the mean of channel k, or of the next but `turn` ones."""

    def __init__(self, turn=0):
        super().__init__()
        self.maps = nn.Conv2d(3, 3, 1, bias=False)
        self.maps.weight = nn.Parameter(torch.eye(3).roll(turn, 0)[:, :, None, None])

    def forward(self, images):
        return self.maps(images).mean(dim=(2, 3))


def look_at_channel(model, images, targets):
    """A technique that can be computed in the head: the channel that the class looks at."""
    with torch.no_grad():
        return model.maps(images)[torch.arange(len(images)), targets].square()


MODELS = {"right": Channels().eval(), "turned": Channels(1).eval()}
RUNS = pd.DataFrame(
    [("vanilla", 0, "turned"), ("vanilla", 1, "turned"),
     ("diffcoremix", 0, "right"), ("diffcoremix", 1, "right")],
    columns=["method", "seed", "weights"],
)  # fmt: skip
TESTS = {"matched": some_images(), "shifted": some_images(seed=1)}


def survey(about="true", processes=1, technique=look_at_channel):
    return evaluate.survey(RUNS, MODELS.get, TESTS, technique, about, processes)


@pytest.fixture(scope="module")
def table():
    return survey()


def test_a_survey_has_a_row_for_every_image_and_classifier(table):
    assert len(table) == 4 * 2 * 6
    assert not table.duplicated(["method", "seed", "split", "source_id"]).any()
    assert (table["share"] == 4 / 64).all()
    ours = table[table["method"] == "diffcoremix"]
    assert ours["correct"].all()
    assert (ours["energy"] > 0.5).all()
    assert (ours["hit"] == 1).all()
    # This one looks at a channel in which the object of the class is dark.
    others = table[table["method"] == "vanilla"]
    assert not others["correct"].any()
    assert others["energy"].mean() < 0.2
    assert (table["beyond"] == table["energy"] - table["elsewhere"]).all()
    assert ours["elsewhere"].mean() < ours["energy"].mean() / 2


@pytest.mark.slow
def test_a_survey_is_the_same_in_several_processes(table):
    pd.testing.assert_frame_equal(survey(processes=2), table)


def test_mistakes_are_asked_about_what_was_answered(table):
    found = survey("answered")
    # A turned classifier answers the class whose score is that of the bright channel.
    assert found["method"].unique().tolist() == ["vanilla"]
    assert len(found) == 2 * 2 * 6
    assert (found["hit"] == 1).all()
    kinds = set(pd.concat([table, found])["about"])
    about = ("right answer, true", "wrong answer, true", "wrong answer, answered")
    assert kinds == {f"{kind} class" for kind in about}


def test_without_masks_nothing_can_be_measured_and_images_without_one_are_left_out():
    images = some_images()
    images.masks[2] = False
    found = evaluate.measure(MODELS["right"], images, look_at_channel)
    assert found["source_id"].tolist() == [f"image-{n}" for n in (0, 1, 3, 4, 5)]
    bare = Split("test", images.classes, images.metadata, images.images)
    with pytest.raises(ValueError, match="no masks: without them, or boxes in their place"):
        evaluate.measure(MODELS["right"], bare, look_at_channel)


def test_maps_without_energy_are_counted():
    found = survey(technique=lambda model, images, targets: torch.zeros(len(images), 8, 8))
    assert found["empty"].all()
    assert (found["energy"] == found["share"]).all()


def test_examples_have_maps_and_captions_for_each_method():
    images, first = TESTS["matched"].take([0, 1]), RUNS[RUNS["seed"] == 0]
    maps, captions = evaluate.examples(first, MODELS.get, images, look_at_channel)
    assert [part.shape for part in maps.values()] == [(2, 8, 8)] * 2
    share = maps["diffcoremix"][0][images.masks[0]].sum() / maps["diffcoremix"][0].sum()
    assert captions[0][1] == f"{share:.0%} ✓"
    assert captions[0][0].endswith("✗\nb")  # and what was answered
    bare = Split("test", images.classes, images.metadata, images.images)
    assert evaluate.examples(first, MODELS.get, bare, look_at_channel)[1] == [
        ["✗\nb", "✓"], ["✗\nc", "✓"],
    ]  # fmt: skip


def test_levels_name_their_groups_and_leave_out_single_images(table):
    found = evaluate.levels(table, 0.95)
    assert list(found) == ["split", "method", "measure", "value", "low", "high", "n"]
    assert len(found) == 2 * 2 * 4
    row = found.query("split == 'shifted' and method == 'vanilla' and measure == 'energy'").iloc[0]
    rows = table.query("split == 'shifted' and method == 'vanilla'")
    assert row["value"] == pytest.approx(rows["energy"].mean())
    assert row["n"] == 12
    assert list(evaluate.levels(table[:1], 0.95)) == list(found)
    assert evaluate.levels(table[:1], 0.95).empty


def test_gains_are_paired():
    rows = pd.DataFrame(
        {"method": m, "split": "matched", "seed": s, "source_id": i, "energy": base + gain,
         "hit": 0.0, "beyond": base + 2 * gain}
        for s in (0, 1) for i, base in (("a", 0.1), ("b", 0.7))
        for m, gain in (("vanilla", 0.0), ("diffcoremix", 0.1))
    )  # fmt: skip
    found = evaluate.gains(rows, ["vanilla"], 0.95).set_index("measure")
    assert found.loc["energy", ["value", "low", "high"]].tolist() == pytest.approx([0.1] * 3)
    assert found.loc["beyond", "value"] == pytest.approx(0.2)
    assert found["n"].unique().tolist() == [4]
    # Rows without a partner, here because one of both was dropped, do not count.
    assert evaluate.gains(rows[:-2], ["vanilla"], 0.95)["n"].unique().tolist() == [3]
    assert evaluate.gains(rows[:2], ["cutmix"], 0.95).empty


@given(st.integers(0, 10**6), st.sampled_from([0.8, 0.95]))
def test_a_p_falls_below_its_level_as_the_interval_leaves_zero(seed, confidence):
    rng = np.random.default_rng(seed)
    pairs = pd.DataFrame(
        {"split": "a", "method": m, "seed": s, "source_id": i}
        | {name: rng.normal(m == "ours") for name in evaluate.MEASURES}
        for m in ("vanilla", "ours") for s in range(3) for i in range(4)
    )  # fmt: skip
    found = evaluate.gains(pairs, ["vanilla"], confidence)
    clear = (found["low"] > 0) | (found["high"] < 0)
    assert clear.tolist() == (found["p"] < 1 - confidence).tolist()


def test_a_map_in_the_middle_gains_nothing_beyond_centre_bias():
    """Every image's map is the same blob: what it holds of objects is their place."""

    def blob(model, images, targets):
        spot = torch.zeros(len(images), 8, 8)
        spot[:, 2:6, 2:6] = 1
        return spot

    table = survey(technique=blob)
    assert table.groupby("split")["beyond"].mean().to_numpy() == pytest.approx([0, 0], abs=1e-6)
    assert table["energy"].mean() > 0


# ------------------------------------------------------------------------------ randomised weights
PARTS = ("as trained", "other seed", "fc", "conv1")


@pytest.mark.parametrize(
    ("energies", "correlations", "passes"),
    [
        ((0.5, 0.5, 0.3, 0.1), (1, 0.6, 0.3, 0.0), True),
        ((0.5, 0.5, 0.5, 0.5), (1, 0.6, 0.3, 0.0), False),  # as much on the object as before
        ((0.5, 0.5, 0.3, 0.1), (1, 0.6, 0.9, 0.9), False),  # the same maps, whatever the weights
    ],
)
def test_the_check_fails_for_maps_that_mind_no_weights(energies, correlations, passes):
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"seed": s, "source_id": i, "part": part, "energy": energy + rng.normal(0, 0.01),
         "correlation": correlation + rng.normal(0, 0.01)}
        for s in (0, 1) for i in "abcd"
        for part, energy, correlation in zip(PARTS, energies, correlations, strict=True)
    )  # fmt: skip
    found = evaluate.sanity_check(table, 0.95)
    assert found["passes"] is passes
    assert found["energy_drop"] == pytest.approx(energies[0] - energies[3], abs=0.02)
    assert found["correlation_drop"] == pytest.approx(correlations[1] - correlations[3], abs=0.02)


def tiny_network(weights):
    torch.manual_seed(int(weights))
    body = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()


def test_a_technique_that_minds_no_weights_is_found_out():
    runs = pd.DataFrame({"method": "vanilla", "seed": [0, 1], "weights": ["0", "1"]})
    brightness = lambda model, images, targets: images.mean(dim=1)  # noqa: E731
    table = evaluate.randomise(runs, tiny_network, some_images(), brightness, seed=0)
    assert table["part"].unique().tolist() == ["as trained", "other seed", "4", "0"]
    assert len(table) == 2 * 6 * 4
    assert table["correlation"].to_numpy() == pytest.approx(np.ones(len(table)))
    assert evaluate.sanity_check(table, 0.95)["passes"] is False
