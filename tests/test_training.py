"""Training: the pairs, the steps, the same result again, and a resume that changes nothing."""

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from diffcore import training
from diffcore.methods import make_method, method_settings
from diffcore.params import load_params
from diffcore.training import PairSampler, TrainingData

K = 3


@pytest.fixture(scope="module")
def params():
    return load_params("smoke", {"training.steps": 12, "training.precision": "no"})


@pytest.fixture(scope="module")
def data():
    """Nine images of three classes that differ in brightness, each with a few counterparts."""
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(K), 3)
    source = np.array([0, 0, 0, 1, 2, 2, 4, 5, 7, 8])  # images 3 and 6 have none
    return TrainingData(pictures(labels, rng), labels, pictures(labels[source], rng), source)


def pictures(labels, rng):
    noise = rng.integers(0, 60, (len(labels), 32, 32, 3))
    return (noise + 90 * labels[:, None, None, None]).clip(0, 255).astype(np.uint8)


def method(params, name="diffcoremix"):
    return make_method(name, method_settings(name, params), K)


def weights(classifier):
    return torch.cat([p.detach().flatten() for p in classifier.parameters()])


# ---------------------------------------------------------------------------------------- the model
def test_a_classifier_normalises_by_itself(params):
    classifier = training.build_classifier(params.training, K).eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(classifier(images), classifier.net((images - 0.5) / 0.25))


def test_weights_follow_from_the_seed_and_leave_the_global_generator(params):
    before = torch.get_rng_state()
    first, same, other = (training.build_classifier(params.training, K, s) for s in (1, 1, 2))
    assert torch.equal(weights(first), weights(same))
    assert not torch.equal(weights(first), weights(other))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_unknown_model_is_an_error_that_names_others(params):
    settings = params.training.model_copy(update={"model": "resnet51"})
    with pytest.raises(ValueError, match=r"no model 'resnet51'; near it: .*resnet"):
        training.build_classifier(settings, K)


def test_saved_weights_come_back(params, tmp_path):
    classifier = training.build_classifier(params.training, K, seed=3)
    training.save_classifier(classifier, tmp_path / "it.safetensors")
    back = training.load_classifier(tmp_path / "it.safetensors", params.training, K)
    images = np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3)).astype(np.uint8)
    assert torch.equal(training.predict(back, images), training.predict(classifier, images))
    assert not back.training
    assert classifier.training  # predict left it as it was
    assert [path.name for path in tmp_path.iterdir()] == ["it.safetensors"]


def test_predictions_are_those_of_the_model_in_any_batches(params):
    classifier = training.build_classifier(params.training, K).eval()
    images = torch.rand(7, 3, 32, 32)
    with torch.inference_mode():
        expected = classifier(images)
    for size in (1, 3, 100):
        assert torch.allclose(training.predict(classifier, images, size), expected, atol=1e-5)


@pytest.fixture
def trained(params, tmp_path):
    """Settings that start from a file of weights, and the network that is in it."""
    return start_from(params, "test_resnet", tmp_path / "start.safetensors")


def start_from(params, name, path):
    torch.manual_seed(1)
    net = timm.create_model(name, num_classes=9)
    save_file(net.state_dict(), path)
    changes = {"model": name, "model_args": {}, "weights": str(path)}
    return params.training.model_copy(update=changes), net


@pytest.mark.parametrize("classes", [K, 9])
def test_a_start_from_weights_has_a_last_layer_of_the_seed(trained, classes):
    settings, net = trained
    before = torch.get_rng_state()
    first, same, other = (training.build_classifier(settings, classes, s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(weights(first), weights(same))
    expected, found = net.state_dict(), first.net.state_dict()
    body = [name for name in expected if not name.startswith("fc.")]
    assert all(torch.equal(found[name], expected[name]) for name in body)
    assert found["fc.weight"].shape[0] == classes
    assert not torch.equal(first.net.fc.weight, other.net.fc.weight)


def test_trained_weights_see_images_as_they_were_trained_to(params, tmp_path):
    settings, net = start_from(params, "mobilenetv3_small_050", tmp_path / "it.safetensors")
    classifier = training.build_classifier(settings, K).eval()
    mean, std = (torch.tensor(net.pretrained_cfg[key]) for key in ("mean", "std"))
    assert len(set(mean.tolist())) == 3
    images = torch.rand(2, 3, 32, 32)
    normalised = (images - mean[:, None, None]) / std[:, None, None]
    with torch.inference_mode():
        assert torch.allclose(classifier(images), classifier.net(normalised))


def test_a_trained_classifier_needs_its_start_no_more(trained, tmp_path):
    settings, _ = trained
    classifier = training.build_classifier(settings, K, seed=3)
    training.save_classifier(classifier, tmp_path / "it.safetensors")
    (tmp_path / "start.safetensors").unlink()
    back = training.load_classifier(tmp_path / "it.safetensors", settings, K)
    images = np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3)).astype(np.uint8)
    assert torch.equal(training.predict(back, images), training.predict(classifier, images))
    with pytest.raises(FileNotFoundError, match=r"start\.safetensors does not exist"):
        training.build_classifier(settings, K)


def test_saved_classifiers_hold_the_network_alone(params, tmp_path):
    classifier = training.build_classifier(params.training, K)
    training.save_classifier(classifier, tmp_path / "it.safetensors")
    assert all(name.startswith("net.") for name in load_file(tmp_path / "it.safetensors"))


# ---------------------------------------------------------------------------------------- the pairs
def test_a_batch_holds_images_counterparts_and_labels(data):
    real, other, labels = data.__getitems__([(4, 6), (3, -1), (0, 2)])
    assert np.array_equal(real.numpy(), data.real[[4, 3, 0]])
    assert np.array_equal(other[0].numpy(), data.generated[6])
    assert np.array_equal(other[1].numpy(), data.real[3])  # none: its own
    assert np.array_equal(other[2].numpy(), data.generated[2])
    assert labels.tolist() == [1, 1, 0]


def test_every_image_has_its_turn_once_an_epoch(data):
    sampler = PairSampler(data, batch_size=6, steps=30, seed=0)  # 20 epochs of 9
    places = [place for batch in sampler for place, _ in batch]
    epochs = np.array(places).reshape(-1, 9)
    assert (np.sort(epochs, axis=1) == np.arange(9)).all()
    assert len({tuple(epoch) for epoch in epochs}) > 15  # each in an order of its own


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


def test_a_batch_may_be_larger_than_the_training_set(data):
    (batch,) = PairSampler(data, 20, steps=1, seed=0)
    assert np.bincount([place for place, _ in batch], minlength=9).min() >= 2


def test_steps_are_as_set_or_follow_from_the_epochs(params):
    settings = params.training.model_copy(update={"steps": None, "epochs": 4, "batch_size": 32})
    assert training.total_steps(settings, 100) == 13  # 400 images in batches of 32
    assert training.total_steps(params.training, 100) == 12


# ------------------------------------------------------------------------------------- the training
def fit(params, data, seed=0, folder=None, stop=None, name="diffcoremix"):
    classifier = training.build_classifier(params.training, K, seed)
    losses = []
    steps = training.train(classifier, data, method(params, name), params.training, seed, folder)
    for step, loss in steps:
        losses.append(loss)
        if step == stop:
            break
    return classifier, losses


def test_a_training_learns(params, data):
    settings = {"training.steps": 60, "training.lr": 0.01, "training.precision": "no"}
    classifier, losses = fit(load_params("smoke", settings), data)
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])
    fresh = np.repeat(np.arange(K), 20)
    found = training.predict(classifier, pictures(fresh, np.random.default_rng(9))).argmax(1)
    assert (found.numpy() == fresh).mean() > 0.9


def test_the_same_seed_gives_the_same_weights(params, data):
    (first, one), (again, two) = (fit(params, data, seed=4) for _ in range(2))
    assert one == two
    assert torch.equal(weights(first), weights(again))
    assert fit(params, data, seed=5)[1] != one


@pytest.mark.parametrize("name", ["vanilla", "cutmix", "added"])
def test_methods_share_the_first_weights_and_batches(name, params, data):
    quiet = load_params("smoke", {"training.steps": 2, "training.methods.cutmix.probability": 0.0,
                                  "training.methods.added.probability": 0.0})  # fmt: skip
    assert fit(quiet, data, name=name)[1] == fit(quiet, data, name="vanilla")[1]


def test_a_killed_training_goes_on_as_if_it_had_not_been(params, data, tmp_path):
    params = load_params("smoke", {"training.steps": 12, "training.checkpoint_every": 4,
                                   "training.precision": "no"})  # fmt: skip
    whole, losses = fit(params, data)
    fit(params, data, folder=tmp_path, stop=7)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
    resumed, rest = fit(params, data, folder=tmp_path)
    assert rest == losses[4:]
    assert torch.equal(weights(resumed), weights(whole))
    assert list(tmp_path.iterdir()) == []  # nothing is left behind at the end


def test_the_learning_rate_rises_and_falls(params):
    settings = params.training.model_copy(update={"warmup_share": 0.2, "lr": 0.1})
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    schedule = training._schedule(optimizer, settings, 100)
    rates = []
    for step in range(100):
        schedule.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] < 0.01
    assert max(rates) == pytest.approx(0.1, rel=0.15)
    assert np.argmax(rates) in range(18, 23)
    assert rates[-1] < 0.001
    assert (np.diff(rates[25:]) < 0).all()


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "vit_tiny_patch16_224"])
def test_other_models_of_timm_train_too(name, params, data):
    extra = {"img_size": 32} if "vit" in name else {}
    assert name in timm.list_models()
    changes = {"training": {"model": name, "model_args": {**extra}, "steps": 1}}
    other = load_params("smoke").model_copy()
    settings = other.training.model_copy(update=changes["training"])
    classifier = training.build_classifier(settings, K)
    ((step, loss),) = training.train(classifier, data, method(params), settings, 0)
    assert step == 1
    assert np.isfinite(loss)
