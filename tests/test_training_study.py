"""What is varied, and that nothing else is."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from diffcore import training_study as ts
from diffcore.data import Images
from diffcore.filtering import Encoder
from diffcore.methods import GENERATIVE, METHODS
from diffcore.params import ParamsError, change_params, load_params

CLASSES = ("crow", "jay", "wren")


@pytest.fixture(scope="module")
def params():
    return load_params("smoke", {"data.train_images_per_class": 2})


def images(count, prefix, value=0):
    labels = np.repeat(np.arange(3), count)
    pixels = np.full((len(labels), 4, 4, 3), value, np.uint8) + labels[:, None, None, None].astype(
        np.uint8
    )
    ids = np.array([f"{prefix}-{place}" for place in range(len(labels))])
    return Images(pixels, labels, None, ids)


@pytest.fixture(scope="module")
def materials(params):
    """Three classes of two training images, of which each has three counterparts."""
    train = images(2, "train")
    sources = pd.DataFrame({"source_id": train.ids, "class_name": np.array(CLASSES)[train.labels]})
    table = sources.loc[np.repeat(np.arange(6), 3)].reset_index(drop=True)
    table["sample_id"] = [f"sample-{place}" for place in range(18)]
    pixels = np.arange(18, dtype=np.uint8)[:, None, None, None] + np.full(
        (18, 4, 4, 3), 100, np.uint8
    )
    pool = ts.Pool(pixels, table, pixels)
    tests = {"matched": images(1, "m"), "shifted": images(1, "s")}
    return ts.Materials(
        params, CLASSES, train, sources, tests, pool, pool, pool.take(np.arange(6)), True
    )


# -------------------------------------------------------------------------------------- the pairing
def test_a_generated_image_belongs_to_its_own_source(materials):
    corpus = ts.make_corpus(materials, materials.accepted)
    assert corpus.data.source.tolist() == np.repeat(np.arange(6), 3).tolist()


def test_without_its_own_it_is_dealt_within_its_class(materials):
    other = images(3, "other")
    source = ts.make_corpus(materials, materials.accepted, other).data.source
    assert source.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 7, 8, 6, 7, 8]


def test_a_class_without_real_images_is_an_error(materials):
    some = materials.train.take([0, 1])
    with pytest.raises(ValueError, match="no real image of 'jay'"):
        ts.make_corpus(materials, materials.accepted, some)


def test_a_pool_is_taken_by_mask_or_by_places(materials):
    mask = np.arange(18) % 2 == 0
    by_mask, by_place = materials.drawn.take(mask), materials.drawn.take(np.flatnonzero(mask))
    assert np.array_equal(by_mask.pixels, by_place.pixels)
    assert by_mask.table["sample_id"].tolist() == by_place.table["sample_id"].tolist()
    assert len(by_mask) == 9


# --------------------------------------------------------------------------------------- the trials
def test_the_main_table_has_every_method_from_every_seed(materials):
    trials = ts.main_trials(materials)
    found = {(trial.method, trial.seed) for trial in trials}
    assert found == {(method, seed) for method in METHODS for seed in (0, 1)}
    for trial in trials:
        expected = (
            0 if trial.method not in GENERATIVE else 6 if trial.method == "diffusemix" else 18
        )
        assert len(trial.corpus.data.generated) == expected


def test_changes_reach_the_settings_of_the_method_alone(materials):
    corpus = ts.make_corpus(materials, materials.accepted)
    changed = ts.compare(
        materials, corpus, ["diffcoremix"], 1, {"mixing.patch_share": 1.0}, part="x"
    )
    plain = ts.compare(materials, corpus, ["diffcoremix"], 1)
    assert changed[0].settings == {**plain[0].settings, "patch_share": 1.0}
    assert changed[0].facts == {"part": "x"}


def test_some_counterparts_are_swapped_for_another_class(materials):
    pool = materials.accepted
    planted = ts.plant_wrong(pool, 0.5, seed=0)
    moved = (planted.pixels != pool.pixels).any(axis=(1, 2, 3))
    assert moved.sum() == 9
    names = pool.table["class_name"].to_numpy()
    by_value = {int(pixels[0, 0, 0]): name for pixels, name in zip(pool.pixels, names, strict=True)}
    shown = np.array([by_value[int(pixels[0, 0, 0])] for pixels in planted.pixels])
    assert (shown[moved] != names[moved]).all()
    assert planted.table is pool.table
    assert np.array_equal(ts.plant_wrong(pool, 0.0, 0).pixels, pool.pixels)


def test_of_two_shares_the_smaller_is_part_of_the_larger(materials):
    trials = [trial for trial in ts.share_trials(materials) if trial.method == "added"]
    sizes = {trial.facts["value"]: trial.corpus for trial in trials}
    assert {value: len(corpus.data.source) for value, corpus in sizes.items()} == {0.5: 3, 3.0: 18}
    few, all_ = (set(sizes[value].data.generated[:, 0, 0, 0].tolist()) for value in (0.5, 3.0))
    assert few < all_
    whole = ts.make_corpus(materials, materials.accepted)
    assert sizes[3.0].digest == whole.digest  # so that it shares the trials of the main table


def test_other_numbers_of_real_images_keep_all_counterparts(params, materials, monkeypatch):
    counts = []

    def small(params, split, train_images_per_class):
        counts.append(train_images_per_class)
        return train_images_per_class

    monkeypatch.setattr(ts, "load_split", small)
    monkeypatch.setattr(ts, "in_memory", lambda count: images(count, "train"))
    trials = ts.scarcity_trials(materials)
    assert counts == [1]  # two a class are the study's own
    sizes = {t.facts["value"]: t.corpus.data for t in trials if t.method == "diffcoremix"}
    assert {value: len(data) for value, data in sizes.items()} == {1: 3, 2: 6}
    assert all(len(data.source) == 18 for data in sizes.values())
    # The image called train-1 is of another class there: its name must not attract counterparts.
    assert sizes[1].source.tolist() == [0] * 6 + [1] * 6 + [2] * 6


class ByBrightness(Encoder):
    """Sees images by their brightness: the nearer, the more alike."""

    def __init__(self):
        pass

    def embed_images(self, images):
        angle = np.asarray(images, float).mean(axis=(1, 2, 3)) / 255
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def test_thresholds_reject_more_and_more(materials):
    set_ = dataclasses.replace(
        materials,
        params=load_params("smoke", {"filtering.threshold": 0.92, "filtering.rule": "source"}),
    )
    trials = [t for t in ts.threshold_trials(set_, ByBrightness()) if t.method == "added"]
    rejected = {t.facts["threshold"]: t.facts["value"] for t in trials}
    kept = {t.facts["threshold"]: len(t.corpus.data.source) for t in trials}
    assert rejected[-1.0] == 0
    for threshold, share in rejected.items():
        assert kept[threshold] == pytest.approx(18 * (1 - share))
    # Brightnesses 100 to 117 against 0 to 2: all cosines are below 0.93.
    similarity = np.cos((100 + np.arange(18) - np.repeat([0, 1, 2], 6)) / 255)
    assert rejected[0.92] == pytest.approx((similarity < 0.92).mean())


def test_curves_are_trials_of_their_own(materials):
    (trial, *_) = ts.curve_trials(materials, ["vanilla"])
    assert trial.curve_points == materials.params.trials.curve_points


# ---------------------------------------------------------------------------------- the methods
def with_methods(params, *names, kind="paperbirds"):
    return change_params(params, {"trials.methods": list(names), "generation.pipeline.kind": kind})


def test_all_methods_are_compared_for_which_there_are_images(params):
    assert ts.study_methods(params) == list(METHODS)
    photographs = {"generation.pipeline.kind": "stand_in"}
    without = ts.study_methods(change_params(params, photographs))
    assert set(METHODS) - set(without) == {"diffusemix"}


def test_methods_come_in_one_order_whatever_the_profile_says(params):
    asked = with_methods(params, *reversed(ts.NEEDED))
    assert ts.study_methods(asked) == list(ts.NEEDED)


@pytest.mark.parametrize(
    ("names", "kind", "message"),
    [
        ((*ts.NEEDED, "mixup2"), "paperbirds", "'mixup2' is no method; there are vanilla, mixup"),
        ((*ts.NEEDED, "diffusemix"), "stand_in", "'diffusemix' needs a pipeline that can edit"),
        (ts.NEEDED[:-1], "paperbirds", "lacks 'mixed_added', with which every notebook compares"),
    ],
)
def test_a_method_that_cannot_be_compared_is_named(params, names, kind, message):
    with pytest.raises(ParamsError, match=message):
        ts.study_methods(with_methods(params, *names, kind=kind))
