"""One training: its pairs and steps, the same result again, and a resume that changes nothing."""

import multiprocessing

import numpy as np
import pytest
import torch
from dummy_study import gaussian_classes, make_generated, make_split

from diffcore.data.pairs import PairedDataset
from diffcore.methods import METHODS
from diffcore.params import load_params
from diffcore.training import train as module
from diffcore.training.networks import build_classifier, load_classifier, predict, save_classifier
from diffcore.training.train import PairSampler, Step, draw_crops, total_steps, train

K = 3


@pytest.fixture(scope="module")
def data():
    """Nine images of three classes that differ in brightness, each with a few counterparts."""
    labels = np.repeat(np.arange(K), 3)
    source = np.array([0, 0, 0, 1, 2, 2, 4, 5, 7, 8])  # images 3 and 6 have none
    real = make_split(3, "train", gaussian_classes(labels, 0))
    return PairedDataset(real, make_generated(real, source, gaussian_classes(labels[source], 1)))


def settings_of(**changes):
    return load_params("smoke").training.model_copy(update={"steps": 12} | changes)


def fit(data, settings=None, method="diffcoremix", seed=0, folder=None, stop=None, **options):
    """Train, up to a step; return the classifier and the losses."""
    settings, step = settings or settings_of(), METHODS[method](**options).step(K)
    classifier = build_classifier(settings, K, seed)
    for log in train(classifier, data, step, settings, seed, folder):
        log[-1]["count"] = len(log)
        if len(log) == stop:
            break
    assert [row["count"] for row in log] == list(range(1, len(log) + 1))
    return classifier, [row["loss"] for row in log]


def same_weights(one, other):
    return all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


# ---------------------------------------------------------------------------------------- the pairs
def test_every_image_comes_once_an_epoch_with_its_counterparts_in_turn(data):
    pairs = np.array([*PairSampler(data, 9, steps=300, seed=0)]).reshape(-1, 9, 2)
    epochs = pairs[:, :, 0]
    assert (np.sort(epochs, axis=1) == np.arange(9)).all()
    assert len({tuple(epoch) for epoch in epochs}) > 290  # each in an order of its own
    for place, drawn in pairs.reshape(-1, 2):
        assert drawn == -1 if place in {3, 6} else data.source[drawn] == place
    firsts = pairs[epochs == 0][:, 1]
    assert np.bincount(firsts, minlength=3)[:3].min() > 60  # of 300, three alike


def test_a_later_start_takes_the_same_batches(data):
    whole = list(PairSampler(data, 4, steps=10, seed=7))
    later = PairSampler(data, 4, steps=10, seed=7, start=6)
    assert list(later) == whole[6:]
    assert len(later) == 4
    # Numbers in the reports rest on these draws.
    assert PairSampler(data, 5, 3, 1).batch(2) == [(2, 5), (6, -1), (8, 9), (1, 3), (3, -1)]


def test_steps_follow_from_the_epochs():
    settings = settings_of(steps=None, epochs=4, batch_size=32)
    assert total_steps(settings, 100) == 13  # 400 images in batches of 32


@pytest.mark.parametrize("scale", [0.0, 1.1])
def test_a_scale_that_is_no_share_is_an_error(scale):
    with pytest.raises(ValueError, match="scale is"):
        draw_crops(1, scale)


# ------------------------------------------------------------------------------------- the training
def test_a_training_learns(data):
    classifier, losses = fit(data, settings_of(steps=60))
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])
    fresh = np.repeat(np.arange(K), 20)
    assert (predict(classifier, gaussian_classes(fresh, 9)).argmax(1).numpy() == fresh).mean() > 0.9


@pytest.mark.slow
def test_workers_change_nothing(data, monkeypatch):
    """Not even those that are started afresh, which have to unpickle all that they use."""
    spawn, default = multiprocessing.get_context("spawn"), multiprocessing.context._default_context
    monkeypatch.setattr(default, "_actual_context", spawn)
    assert fit(data, settings_of(loader_workers=1))[1] == fit(data)[1]


@pytest.mark.parametrize("name", ["cutmix", "added"])
def test_methods_share_the_first_weights_and_batches(name, data):
    plain = fit(data.without_generated(), method="vanilla", stop=2)[1]
    assert fit(data, method=name, stop=2, probability=0.0)[1] == plain


@pytest.mark.parametrize("damage", [False, True])
def test_a_killed_training_goes_on_exactly(damage, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "_CHECKPOINT_EVERY", 4)
    whole, losses = fit(data)
    assert fit(data, seed=5, stop=2)[1] != losses[:2]
    fit(data, folder=tmp_path, stop=7)
    (saved,) = tmp_path.iterdir()
    assert saved.name == "checkpoint.pt"
    if damage:  # then it begins again
        saved.write_bytes(saved.read_bytes()[:-100])
    resumed, rest = fit(data, folder=tmp_path)
    assert rest == losses
    assert same_weights(resumed, whole)
    assert not list(tmp_path.iterdir())  # nothing is left behind
    assert (f"{saved} is damaged" in capsys.readouterr().out) == damage


def test_a_classifier_predicts_in_float32_whatever_it_was_trained_in(data, tmp_path):
    settings, images = settings_of(steps=3, precision="bfloat16"), data.real[:]
    trained = fit(data, settings)[0]
    save_classifier(trained, tmp_path / "a.safetensors")
    loaded = load_classifier(tmp_path / "a.safetensors", settings, K)
    assert torch.equal(predict(trained, images), predict(loaded, images))
    after = Step(trained, None, settings_of())  # a process may train in another precision then
    assert after.accelerator.mixed_precision == "no"


@pytest.mark.parametrize("lr", [1e30, 1e7])
def test_a_training_that_diverges_stops_at_the_step_it_names(data, lr):
    settings = settings_of(steps=30, optimizer="sgd", lr=lr, warmup_share=0.0)
    with pytest.raises(FloatingPointError, match=r"the loss of step \d+ is .*lower training\.lr"):
        fit(data, settings)


def test_other_models_of_timm_train_too(data):
    changes = {"model": "vit_tiny_patch16_224", "model_args": {"img_size": 32, "depth": 1}}
    assert np.isfinite(fit(data, settings_of(**changes, steps=1))[1]).all()
