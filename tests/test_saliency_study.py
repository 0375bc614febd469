"""Tables of saliency: against statistics that are known, and with classifiers made by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import ttest_1samp
from torch import nn

from diffcore import saliency_study as study
from diffcore.data import Images
from diffcore.paperbirds import Paperbirds
from diffcore.saliency import grad_cam


def some_images(count=6, classes=3, seed=0):
    """Images whose object, a square, is the brightest thing in the channel of its class."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 60, (count, 8, 8, 3), dtype=np.uint8)
    labels, masks = np.arange(count) % classes, np.zeros((count, 8, 8), bool)
    for place, label in enumerate(labels):
        top, left = rng.integers(0, 6, 2)
        masks[place, top : top + 2, left : left + 2] = True
        pixels[place, masks[place], label] = 250
    ids = np.array([f"image-{n}" for n in range(count)])
    return Images(pixels, labels.astype(np.int64), masks, ids)


class Channels(nn.Module):
    """The score of class k is the mean of channel k, or of the next but `turn` ones."""

    def __init__(self, turn=0):
        super().__init__()
        self.maps = nn.Conv2d(3, 3, 1, bias=False)
        weight = torch.eye(3).roll(turn, 0)[:, :, None, None]
        self.maps.weight = nn.Parameter(weight)

    def forward(self, images):
        return self.maps(images).mean(dim=(2, 3))


def look_at_channel(model, images, targets):
    """A technique that can be computed in the head: the channel that the class looks at."""
    with torch.no_grad():
        return model.maps(images)[torch.arange(len(images)), targets].square()


MODELS = {"right": Channels().eval(), "turned": Channels(1).eval()}
TRAINED = pd.DataFrame(
    [("vanilla", 0, "turned"), ("vanilla", 1, "turned"),
     ("diffcoremix", 0, "right"), ("diffcoremix", 1, "right")],
    columns=["method", "seed", "weights"],
)  # fmt: skip


def load(weights):
    return MODELS[weights]


@pytest.fixture(scope="module")
def table():
    sets = {"matched": some_images(), "shifted": some_images(seed=1)}
    return study.survey(TRAINED, load, sets, look_at_channel)


# --------------------------------------------------------------------------------------- the table
def test_images_are_chosen_by_class_and_come_with_their_masks():
    birds = Paperbirds("test_matched", style=0.6, images_per_class=3)
    chosen = study.choose(birds, 2, seed=0)
    assert np.bincount(chosen.labels).tolist() == [2] * len(birds.classes)
    assert chosen.masks.shape == chosen.pixels.shape[:3]
    assert chosen.ids.tolist() == study.choose(birds, 2, seed=0).ids.tolist()


def test_without_masks_nothing_can_be_measured():
    images = some_images()
    bare = Images(images.pixels, images.labels, None, images.ids)
    with pytest.raises(ValueError, match="no masks: without them, or boxes in their place"):
        study.measure(nn.Identity(), bare, grad_cam)


def test_a_survey_has_a_row_for_every_image_and_classifier(table):
    assert len(table) == 4 * 2 * 6
    assert not table.duplicated(["method", "seed", "split", "id"]).any()
    assert (table["share"] == 4 / 64).all()
    ours = table[table["method"] == "diffcoremix"]
    assert ours["correct"].all()
    assert (ours["energy"] > 0.5).all()
    assert (ours["hit"] == 1).all()
    # This one looks at a channel in which the object of the class is dark.
    others = table[table["method"] == "vanilla"]
    assert not others["correct"].any()
    assert others["energy"].mean() < 0.2
    assert not table["empty"].any()
    assert (table["beyond"] == table["energy"] - table["elsewhere"]).all()
    assert ours["elsewhere"].mean() < ours["energy"].mean() / 2


def test_a_survey_is_the_same_in_several_processes(table):
    sets = {"matched": some_images(), "shifted": some_images(seed=1)}
    again = study.survey(TRAINED, load, sets, look_at_channel, processes=2)
    pd.testing.assert_frame_equal(again, table)


def test_mistakes_are_asked_about_what_was_answered():
    images = some_images()
    found = study.survey(TRAINED, load, {"matched": images}, look_at_channel, about="mistake")
    # A turned classifier answers the class whose score is that of the bright channel.
    assert found["method"].unique().tolist() == ["vanilla"]
    assert len(found) == 2 * 6
    assert (found["hit"] == 1).all()
    assert not found["correct"].any()


def test_maps_without_energy_are_counted():
    def nothing(model, images, targets):
        return torch.zeros(len(images), 8, 8)

    found = study.measure(MODELS["right"], some_images(), nothing)
    assert found["empty"].all()
    assert (found["energy"] == found["share"]).all()


def test_a_gallery_has_maps_and_captions_for_each_method():
    images = some_images(2)
    first = TRAINED[TRAINED["seed"] == 0]
    maps, captions = study.look(first, load, images, look_at_channel)
    assert list(maps) == ["vanilla", "diffcoremix"]
    assert [part.shape for part in maps.values()] == [(2, 8, 8)] * 2
    assert [row[1][-1] for row in captions] == ["✓", "✓"]
    assert [row[0][-1] for row in captions] == ["✗", "✗"]
    share = maps["diffcoremix"][0][images.masks[0]].sum() / maps["diffcoremix"][0].sum()
    assert captions[0][1] == f"{share:.0%} ✓"


# --------------------------------------------------------------------------------------- intervals
def test_with_one_factor_the_interval_is_students():
    values = np.random.default_rng(0).normal(0.3, 1, 9)
    found = study.crossed_interval(values, np.arange(9), confidence=0.9)
    expected = ttest_1samp(values, 0).confidence_interval(0.9)
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high))
    assert found == study.crossed_interval(values, np.arange(9), np.zeros(9), confidence=0.9)
    with pytest.raises(ValueError, match="at least two seeds or two images"):
        study.crossed_interval([1.0], ["seed"], ["image"])


def test_an_interval_covers_new_seeds_and_new_images():
    rng, hits, naive = np.random.default_rng(0), [], []
    seeds, images = (grid.ravel() for grid in np.meshgrid(range(5), range(40), indexing="ij"))
    for _ in range(400):
        by_seed, by_image = rng.normal(0, 1, 5), rng.normal(0, 2, 40)
        values = by_seed[seeds] + by_image[images] + rng.normal(0, 1, 200)
        found = study.crossed_interval(values, seeds, images)
        hits.append(found["low"] < 0 < found["high"])
        alone = study.crossed_interval(values, np.arange(200))
        naive.append(alone["low"] < 0 < alone["high"])
    assert np.mean(hits) >= 0.93
    assert np.mean(naive) < 0.75  # as if each image were new to each classifier


def test_levels_name_their_groups_and_leave_out_single_images(table):
    found = study.levels(table, 0.95)
    assert list(found) == ["split", "method", "measure", "value", "low", "high", "n"]
    assert len(found) == 2 * 2 * 4
    row = found.query("split == 'shifted' and method == 'vanilla' and measure == 'energy'").iloc[0]
    rows = table.query("split == 'shifted' and method == 'vanilla'")
    assert row["value"] == pytest.approx(rows["energy"].mean())
    assert row["n"] == 12
    assert study.levels(table[:1], 0.95).empty
    assert list(study.levels(table[:1], 0.95)) == list(found)


def test_gains_are_paired():
    rows = [
        {"method": m, "split": "matched", "seed": s, "id": i, "energy": base + gain,
         "hit": 0.0, "beyond": base + 2 * gain}
        for s in (0, 1) for i, base in (("a", 0.1), ("b", 0.7))
        for m, gain in (("vanilla", 0.0), ("diffcoremix", 0.1))
    ]  # fmt: skip
    found = study.gains(pd.DataFrame(rows), "vanilla", 0.95).set_index("measure")
    assert found.loc["energy", ["value", "low", "high"]].tolist() == pytest.approx([0.1] * 3)
    assert found.loc["beyond", "value"] == pytest.approx(0.2)
    assert found["method"].unique().tolist() == ["diffcoremix"]
    assert found["n"].unique().tolist() == [4]
    # Rows without a partner, here because one of both was dropped, do not count.
    fewer = study.gains(pd.DataFrame(rows[:-2]), "vanilla", 0.95)
    assert fewer["n"].unique().tolist() == [3]
    assert study.gains(pd.DataFrame(rows[:2]), "cutmix", 0.95).empty


def test_techniques_and_answers_are_compared(table):
    sets = {"matched": some_images(), "shifted": some_images(seed=1)}
    both = {"a": table, "b": table}
    by_technique = study.compare_techniques(both, "diffcoremix", ["vanilla"], 0.9)
    assert by_technique["technique"].unique().tolist() == ["a", "b"]
    assert set(by_technique["over"]) == {"vanilla"}
    assert (by_technique.query("measure == 'energy'")["low"] > 0).all()
    mistakes = study.survey(TRAINED, load, sets, look_at_channel, about="mistake")
    answers = study.compare_answers(table, mistakes, 0.9).set_index(["split", "method", "about"])
    kinds = answers.loc["matched"].index.tolist()
    assert kinds == [
        ("diffcoremix", "right answer, true class"), ("vanilla", "wrong answer, true class"),
        ("vanilla", "wrong answer, answered class"),
    ]  # fmt: skip
    wrong = answers.sort_index().loc[("matched", "vanilla")]["value"]
    assert wrong["wrong answer, answered class"] > wrong["wrong answer, true class"]


# ------------------------------------------------------------------------------ randomised weights
def shuffled_rows(energies, correlations):
    """A table of `randomise` for four images, two seeds: energy and likeness by part."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {"seed": s, "id": i, "part": part, "hit": 1.0, "energy": energies[part] + noise,
         "correlation": correlations[part] + noise}
        for s in (0, 1) for i in "abcd" for part in energies
        for noise in [rng.normal(0, 0.01)]
    )  # fmt: skip


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
    table = shuffled_rows(
        dict(zip(PARTS, energies, strict=True)), dict(zip(PARTS, correlations, strict=True))
    )
    found = study.sanity_check(table, 0.95)
    assert found["passes"] is passes
    assert found["energy_drop"] == pytest.approx(energies[0] - energies[3], abs=0.02)
    assert found["correlation_drop"] == pytest.approx(correlations[1] - correlations[3], abs=0.02)


def tiny_network(weights):
    torch.manual_seed(int(weights))
    body = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()


def brightness(model, images, targets):
    """Minds no weights at all."""
    return images.mean(dim=1)


def test_a_technique_that_minds_no_weights_is_found_out():
    trained = pd.DataFrame({"method": "vanilla", "seed": [0, 1], "weights": ["0", "1"]})
    table = study.randomise(trained, tiny_network, some_images(), brightness, seed=0)
    assert table["part"].unique().tolist() == ["as trained", "other seed", "4", "0"]
    assert len(table) == 2 * 6 * 4
    assert table["correlation"].to_numpy() == pytest.approx(np.ones(len(table)))
    assert study.sanity_check(table, 0.95)["passes"] is False


def test_a_single_classifier_has_no_other_seed():
    trained = pd.DataFrame({"method": "vanilla", "seed": [0], "weights": ["0"]})
    table = study.randomise(trained, tiny_network, some_images(), brightness, seed=0)
    assert table["part"].unique().tolist() == ["as trained", "4", "0"]
    with pytest.raises(ValueError, match="two classifiers"):
        study.sanity_check(table, 0.95)
