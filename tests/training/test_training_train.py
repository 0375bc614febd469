"""One training: crops, pairs, steps; the same result again, and a resume that changes nothing."""

import multiprocessing
from typing import ClassVar

import numpy as np
import pytest
import torch
from accelerate import tracking
from accelerate.tracking import GeneralTracker
from accelerate.utils import LoggerType
from dummy_study import gaussian_classes, make_generated, make_split
from torch import Generator
from torch.nn.functional import cross_entropy
from torchvision.transforms.v2.functional import resized_crop

from diffcore.data.pairs import PairedDataset
from diffcore.methods.registry import make_method, method_settings
from diffcore.params import load_params
from diffcore.training.networks import (
    build_classifier,
    load_classifier,
    predict,
    save_classifier,
)
from diffcore.training.train import (
    PairSampler,
    Step,
    _loader,
    crop_and_flip,
    draw_crops,
    total_steps,
    train,
)

K = 3


@pytest.fixture(scope="module")
def params():
    return load_params("smoke", {"training.steps": 12})


@pytest.fixture(scope="module")
def data():
    """Nine images of three classes that differ in brightness, each with a few counterparts."""
    labels = np.repeat(np.arange(K), 3)
    source = np.array([0, 0, 0, 1, 2, 2, 4, 5, 7, 8])  # images 3 and 6 have none
    real = make_split(3, "train", gaussian_classes(labels, 0))
    return PairedDataset(real, make_generated(real, source, gaussian_classes(labels[source], 1)))


def method(params, name="diffcoremix"):
    return make_method(name, method_settings(name, params), K)


def weights(classifier):
    return torch.cat([p.detach().flatten() for p in classifier.parameters()])


def seeded(seed=0):
    return Generator().manual_seed(seed)


# --------------------------------------------------------------------------------- the augmentation
def test_whole_crops_are_flipped_or_left():
    images = torch.rand(64, 3, 8, 8)
    out = crop_and_flip(images, draw_crops(images.shape, 1.0, seeded()))
    flipped = torch.isclose(out, images.flip(3), atol=1e-5).flatten(1).all(1)
    left = torch.isclose(out, images, atol=1e-5).flatten(1).all(1)
    assert (flipped ^ left).all()
    assert 16 < flipped.sum() < 48


def test_a_crop_agrees_with_torchvision():
    image = torch.nn.functional.avg_pool2d(torch.rand(1, 3, 80, 80, generator=seeded(3)), 16, 1)
    image = image[:, :, :64, :64]
    out = crop_and_flip(image, draw_crops(image.shape, 0.25, seeded(1)))
    # The draws again, as one crop in whole pixels.
    area, across, down, chance = torch.rand(4, 1, generator=seeded(1))
    side = float((0.25 + 0.75 * area).sqrt()) * 64
    top, left = float(down) * (64 - side), float(across) * (64 - side)
    expected = resized_crop(image, round(top), round(left), round(side), round(side), [64, 64])
    expected = expected.flip(3) if chance < 0.5 else expected
    assert (out - expected).abs().mean() < 0.01


def test_crops_stay_inside_and_are_no_smaller_than_asked():
    """Images that grow from left to right by 1 a pixel, and from top to bottom by 100."""
    place = torch.arange(8, dtype=torch.float32)
    ramp = (place[None, :] + 100 * place[:, None]).expand(64, 1, 8, 8)
    out = crop_and_flip(ramp, draw_crops(ramp.shape, 0.25, seeded()))
    assert out.min() >= 0
    assert out.max() <= 707 + 1e-3
    widths = (out[:, 0, 0].amax(1) - out[:, 0, 0].amin(1)) / 7  # of the crop, in sides
    assert 0.42 < widths.min() < widths.max() < 1.001  # an edge is repeated, not invented
    heights = (out[:, 0, :, 0].amax(1) - out[:, 0, :, 0].amin(1)) / 700
    assert torch.allclose(widths, heights, atol=0.08)  # the aspect ratio is kept


@pytest.mark.parametrize("scale", [0.0, 1.1])
def test_a_scale_that_is_no_share_is_an_error(scale):
    with pytest.raises(ValueError, match="scale is"):
        draw_crops((1, 3, 8, 8), scale)


# ---------------------------------------------------------------------------------------- the pairs
def test_every_image_comes_once_an_epoch(data):
    places = [place for batch in PairSampler(data, 6, steps=30, seed=0) for place, _ in batch]
    epochs = np.array(places).reshape(-1, 9)
    assert (np.sort(epochs, axis=1) == np.arange(9)).all()
    assert len({tuple(epoch) for epoch in epochs}) > 15  # of 20, each in an order of its own


def test_counterparts_are_an_images_own_and_take_turns(data):
    pairs = [pair for batch in PairSampler(data, 9, steps=300, seed=0) for pair in batch]
    for place, drawn in pairs:
        assert drawn == -1 if place in {3, 6} else data.source[drawn] == place
    own = [drawn for place, drawn in pairs if place == 0]
    assert np.bincount(own, minlength=3)[:3].min() > 60  # of 300, three alike


def test_a_later_start_sees_the_same_batches(data):
    whole = list(PairSampler(data, 4, steps=10, seed=7))
    assert list(PairSampler(data, 4, steps=10, seed=7, start=6)) == whole[6:]
    assert len(PairSampler(data, 4, steps=10, seed=7, start=6)) == 4
    assert list(PairSampler(data, 4, steps=10, seed=8)) != whole


def test_batches_are_as_they_were_when_the_reports_were_made(data):
    """Numbers in the reports rest on these draws."""
    batch = PairSampler(data, 5, steps=3, seed=1).batch(2)
    assert batch == [(2, 5), (6, -1), (8, 9), (1, 3), (3, -1)]


def test_steps_follow_from_the_epochs(params):
    settings = params.training.model_copy(update={"steps": None, "epochs": 4, "batch_size": 32})
    assert total_steps(settings, 100) == 13  # 400 images in batches of 32


@pytest.mark.slow
@pytest.mark.parametrize("start", ["fork", "spawn", "forkserver"])
def test_workers_change_no_batch_however_they_start(start, params, data, monkeypatch):
    own = multiprocessing.get_start_method()
    multiprocessing.set_start_method(start, force=True)
    try:
        with_workers = params.training.model_copy(update={"loader_workers": 2})
        batches = list(_loader(data, with_workers, 5, 0, 0))
    finally:
        multiprocessing.set_start_method(own, force=True)
    for batch, expected in zip(batches, _loader(data, params.training, 5, 0, 0), strict=True):
        assert all(map(torch.equal, batch, expected))


# ----------------------------------------------------------------------------------------- one step
def test_a_step_is_written_out(params, data):
    """The phases against a plain loop of torch's: crop, method, loss, gradient, update."""
    settings = params.training.model_copy(
        update={"optimizer": "momentum", "weight_decay": 0.0, "label_smoothing": 0.1, "lr": 0.1}
    )
    real, generated, labels = data.__getitems__([(4, 6), (3, -1), (0, 2), (8, 9)])
    classifier = build_classifier(settings, K, seed=1)
    step = Step(classifier, method(params), settings)
    step.take_real(real, labels, seeded(5))
    step.take_counterparts(generated)
    for phase in (step.augment, step.forward, step.backward, step.update):
        phase()

    plain, generator = build_classifier(settings, K, seed=1), seeded(5)
    both = torch.cat([batch.permute(0, 3, 1, 2) / 255 for batch in (real, generated)], dim=1)
    cropped = crop_and_flip(both, draw_crops(both.shape, settings.crop_scale, generator))
    images, targets = method(params)(cropped[:, :3], cropped[:, 3:], labels, generator)
    loss = cross_entropy(plain(images), targets, label_smoothing=0.1)
    loss.backward()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter -= 0.1 * parameter.grad
    assert step.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    assert torch.allclose(weights(classifier), weights(plain), atol=1e-6)
    assert all(parameter.grad is None for parameter in classifier.parameters())


def test_a_process_may_train_in_one_precision_after_another(params):
    for precision, name in (("bfloat16", "bf16"), ("float32", "no")):
        settings = params.training.model_copy(update={"precision": precision})
        step = Step(build_classifier(settings, K), method(params), settings)
        assert step.accelerator.mixed_precision == name


def test_the_learning_rate_rises_and_falls(params):
    settings = params.training.model_copy(update={"warmup_share": 0.2, "lr": 0.1})
    step = Step(build_classifier(settings, K), method(params), settings, steps=100)
    rates = []
    for done in range(100):
        step.schedule.step_update(done)
        rates.append(step.optimizer.param_groups[0]["lr"])
    assert rates[0] < 0.01
    assert max(rates) == pytest.approx(0.1, rel=0.15)
    assert np.argmax(rates) in range(18, 23)
    assert rates[-1] < 0.001
    assert (np.diff(rates[25:]) < 0).all()


# ------------------------------------------------------------------------------------- the training
def fit(params, data, seed=0, folder=None, stop=None, name="diffcoremix"):
    classifier = build_classifier(params.training, K, seed)
    for log in train(classifier, data, method(params, name), params.training, seed, folder):
        log[-1]["seen"] = len(log)
        if len(log) == stop:
            break
    assert [row["seen"] for row in log] == list(range(1, len(log) + 1))
    return classifier, [row["loss"] for row in log]


def test_a_training_learns(data):
    params = load_params("smoke", {"training.steps": 60, "training.lr": 0.01})
    classifier, losses = fit(params, data)
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])
    fresh = np.repeat(np.arange(K), 20)
    found = predict(classifier, gaussian_classes(fresh, 9)).argmax(1).numpy()
    assert (found == fresh).mean() > 0.9


def test_the_same_seed_gives_the_same_weights(params, data):
    (first, one), (again, two) = (fit(params, data, seed=4) for _ in range(2))
    assert one == two
    assert torch.equal(weights(first), weights(again))
    assert fit(params, data, seed=5)[1] != one


@pytest.mark.parametrize("name", ["cutmix", "added"])
def test_methods_share_the_first_weights_and_batches(name, data):
    quiet = load_params("smoke", {"training.steps": 2, "training.methods.cutmix.probability": 0.0,
                                  "training.methods.added.probability": 0.0})  # fmt: skip
    plain = fit(quiet, data.without_generated(), name="vanilla")[1]
    assert fit(quiet, data, name=name)[1] == plain


def test_a_killed_training_goes_on_as_if_it_had_not_been(data, tmp_path):
    params = load_params("smoke", {"training.steps": 12, "training.checkpoint_every": 4})
    whole, losses = fit(params, data)
    fit(params, data, folder=tmp_path, stop=7)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
    resumed, rest = fit(params, data, folder=tmp_path)
    assert rest == losses
    assert torch.equal(weights(resumed), weights(whole))
    assert not list(tmp_path.iterdir())  # nothing is left behind


def test_a_classifier_predicts_in_float32_whatever_it_was_trained_in(data, tmp_path):
    params = load_params("smoke", {"training.steps": 3, "training.precision": "bfloat16"})
    trained, images = fit(params, data)[0], data.real[:]
    save_classifier(trained, tmp_path / "a.safetensors")
    loaded = load_classifier(tmp_path / "a.safetensors", params.training, K)
    assert torch.equal(predict(trained, images), predict(loaded, images))


def test_a_damaged_checkpoint_is_named_and_the_training_begun_again(data, tmp_path, capsys):
    params = load_params("smoke", {"training.steps": 8, "training.checkpoint_every": 4})
    losses = fit(params, data)[1]
    fit(params, data, folder=tmp_path, stop=7)
    saved = tmp_path / "checkpoint.pt"
    saved.write_bytes(saved.read_bytes()[:-100])
    assert fit(params, data, folder=tmp_path)[1] == losses
    assert f"{saved} is damaged" in capsys.readouterr().out


@pytest.mark.parametrize("lr", [1e30, 1e7])
def test_a_training_that_diverges_stops_at_the_step_it_names(data, lr):
    params = load_params("smoke", {"training.steps": 30, "training.optimizer": "sgd"})
    settings = params.training.model_copy(update={"lr": lr, "warmup_share": 0.0})
    with pytest.raises(FloatingPointError, match=r"the loss of step \d+ is .*lower training\.lr"):
        list(train(build_classifier(settings, K), data, method(params), settings, 0))


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "vit_tiny_patch16_224"])
def test_other_models_of_timm_train_too(name, params, data):
    changes = {"model": name, "model_args": {"img_size": 32} if "vit" in name else {}, "steps": 1}
    settings = params.training.model_copy(update=changes)
    (log,) = train(build_classifier(settings, K), data, method(params), settings, 0)
    assert [*map(np.isfinite, log[0].values())] == [True]


def test_a_tracker_sees_every_loss(data, params, tmp_path, monkeypatch):
    class Kept(GeneralTracker):
        name, requires_logging_directory, tracker, main_process_only = "kept", True, None, True
        logged: ClassVar[dict] = {}

        def __init__(self, run_name, logging_dir, **_):
            super().__init__()

        def store_init_configuration(self, values):
            pass

        def log(self, values, step, **_):
            self.logged[step] = values["loss"]

    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "tensorboard", Kept)
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: [LoggerType.TENSORBOARD])
    followed = load_params("smoke", {"training.steps": 12, "training.log_with": "tensorboard"})
    losses = fit(followed, data, folder=tmp_path)[1]
    assert list(Kept.logged.values()) == losses == fit(params, data)[1]
    monkeypatch.setattr(tracking, "get_available_trackers", list)
    with pytest.raises(ValueError, match="which is not installed"):
        fit(followed, data)
