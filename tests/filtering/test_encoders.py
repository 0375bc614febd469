"""Encoders: embeddings as open_clip and timm make them, each once, of any number of images."""

import json
import warnings

import numpy as np
import open_clip
import pytest
import timm
import torch
from open_clip.pretrained import _PRETRAINED
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data import create_transform, resolve_model_data_config

from diffcore.filtering import encoders, load_encoder
from diffcore.params import EncoderSpec

CONFIG = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 12, "width": 8, "heads": 1, "layers": 1},
}


def save_clip(folder, seed=0):
    """A CLIP with random weights as a local folder, with open_clip's own tokenizer."""
    torch.manual_seed(seed)
    folder.mkdir()
    config = {"model_cfg": CONFIG, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.4] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    weights = open_clip.CLIP(**CONFIG).state_dict()
    # Fresh positions and biases are zeros: nothing would depend on them.
    weights = {name: tensor + 0.1 * torch.randn_like(tensor) for name, tensor in weights.items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return EncoderSpec(model_name=f"local-dir:{folder}", pretrained=None, device="cpu")


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    monkeypatch.setattr(encoders, "_BATCH", 4)


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture
def images():
    """Ten random images, of which the last two are the same."""
    images = np.random.default_rng(0).integers(0, 256, (10, 20, 24, 3), np.uint8)
    images[9] = images[8]
    return images


def prepared(prepare, images):
    return torch.stack([prepare(Image.fromarray(image)) for image in images])


def test_embeddings_are_those_of_open_clip_in_unit_length(spec, images):
    model, prepare = open_clip.create_model_from_pretrained(spec.model_name)
    with torch.inference_mode():
        seen = model.eval().encode_image(prepared(prepare, images)).numpy()
        read = model.encode_text(open_clip.get_tokenizer(spec.model_name)(["a jay", "a wren"]))
    encoder = load_encoder(spec)
    for ours, theirs in (
        (encoder.embed_images(images), seen),
        (encoder.embed_texts(["a jay", "a wren"]), read.numpy()),
    ):
        expected = theirs / np.linalg.norm(theirs, axis=1, keepdims=True)
        np.testing.assert_allclose(ours, expected, atol=1e-5)
        assert ours.dtype == np.float32


def test_batches_order_and_sizes_do_not_change_an_embedding(spec, images, monkeypatch):
    several = [*images, images[0][:9, :17]]
    together = load_encoder(spec).embed_images(several)
    monkeypatch.setattr(encoders, "_BATCH", 1)
    single = load_encoder(spec).embed_images(several[::-1])
    np.testing.assert_allclose(together, single[::-1], atol=1e-5)
    assert not np.allclose(together[0], together[-1], atol=1e-3)


def counting(encoder, monkeypatch):
    """Note how many images and texts the model itself embeds."""
    seen = []
    for name in ("encode_image", "encode_text"):
        original = getattr(encoder.model, name)
        counted = lambda x, normalize, f=original: seen.append(len(x)) or f(x, normalize)  # noqa: E731
        monkeypatch.setattr(encoder.model, name, counted)
    return seen


def test_an_image_is_embedded_once_across_calls_and_processes(spec, images, tmp_path, monkeypatch):
    first = load_encoder(spec, tmp_path)
    seen = counting(first, monkeypatch)
    embedded = first.embed_images(image.copy() for image in images)  # made when asked for
    assert seen == [4, 4, 1]  # nine different ones in batches of four
    first.embed_texts(["a jay", "a wren", "a jay"])
    assert seen[3:] == [2]

    second = load_encoder(spec, tmp_path)
    seen = counting(second, monkeypatch)
    np.testing.assert_array_equal(second.embed_images(images[::-1]), embedded[::-1])
    second.embed_texts(["a wren"])
    assert seen == []


def test_a_cache_knows_its_model_and_the_shape_of_an_image(spec, images, tmp_path):
    other = load_encoder(save_clip(tmp_path / "other", seed=1), tmp_path / "cache")
    known = load_encoder(spec, tmp_path / "cache")
    assert other.model_hash != known.model_hash == load_encoder(spec).model_hash
    embedded = known.embed_images(images)
    assert not np.allclose(other.embed_images(images), embedded, atol=1e-3)
    turned = images.reshape(10, 24, 20, 3)  # the same bytes
    assert not np.allclose(known.embed_images(turned), embedded, atol=1e-3)


def test_a_damaged_cache_file_is_named_and_made_again(spec, images, tmp_path, capsys):
    encoder = load_encoder(spec, tmp_path)
    embedded = encoder.embed_images(images)
    (saved,) = (tmp_path / encoder.model_hash).iterdir()
    saved.write_bytes(saved.read_bytes()[:100])
    np.testing.assert_array_equal(load_encoder(spec, tmp_path).embed_images(images), embedded)
    assert f"{saved} is damaged" in capsys.readouterr().out
    load_encoder(spec, tmp_path).embed_images(images)
    assert not capsys.readouterr().out  # it is whole again


def test_weights_that_give_nan_are_no_filter(spec, images):
    encoder = load_encoder(spec)
    next(encoder.model.visual.parameters()).data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="the encoder gives infinities or NaN"):
        encoder.embed_images(images)


def test_what_a_kill_leaves_is_not_embedded_again(spec, images, tmp_path, monkeypatch):
    monkeypatch.setattr(encoders, "_SAVED_TOGETHER", 4)
    broken = [*images[:6], np.zeros((2, 2), np.uint8)]
    with pytest.raises(ValueError, match=r"an image is uint8 \(H, W, 3\), not uint8 \(2, 2\)"):
        load_encoder(spec, tmp_path).embed_images(broken)
    encoder = load_encoder(spec, tmp_path)
    seen = counting(encoder, monkeypatch)
    encoder.embed_images(images)
    assert sum(seen) == 5  # of nine different ones


@pytest.fixture
def known_clip(spec, tmp_path, monkeypatch):
    """The folder's model under a name and a tag of open_clip's, trained with quick GELU."""
    name, folder = "tiny-known", spec.model_name.partition(":")[2]
    (tmp_path / f"{name}.json").write_text(json.dumps(CONFIG))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", [])
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", {})
    open_clip.add_model_config(tmp_path / f"{name}.json")
    file = f"{folder}/open_clip_model.safetensors"
    tag = {"file": file, "mean": (0.5,) * 3, "std": (0.4,) * 3, "interpolation": "bicubic"}
    quick = tag | {"quick_gelu": True, "resize_mode": "shortest"}
    others = {"plain": quick | {"quick_gelu": False}, "dark": quick | {"mean": (0.1,) * 3}}
    monkeypatch.setitem(_PRETRAINED, name, {"quick": quick} | others)
    return EncoderSpec(model_name=name, pretrained="quick", device="cpu"), file


def activations(encoder):
    return {type(block.mlp.gelu).__name__ for block in encoder.model.visual.transformer.resblocks}


def test_a_tag_has_the_activation_that_it_was_trained_with(known_clip):
    quick, _ = known_clip
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # open_clip warns of the wrong one
        encoder = load_encoder(quick)
        plain = load_encoder(quick.model_copy(update={"pretrained": "plain"}))
    assert (activations(encoder), activations(plain)) == ({"QuickGELU"}, {"GELU"})
    dark = load_encoder(quick.model_copy(update={"pretrained": "dark"}))  # of the same weights
    assert len({each.model_hash for each in (encoder, plain, dark)}) == 3


def test_a_clip_may_be_a_file(known_clip, images, tmp_path):
    quick, file = known_clip
    path = tmp_path / "clip.pt"
    torch.save(load_file(file), path)
    encoder = load_encoder(quick.model_copy(update={"pretrained": str(path)}))
    model = open_clip.create_model(quick.model_name, pretrained=file)
    with torch.inference_mode():
        pixels = prepared(encoder.preprocess, images)
        expected = model.eval().encode_image(pixels, normalize=True).numpy()
    np.testing.assert_allclose(encoder.embed_images(images), expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_openai_s_archives_missing_files_and_unknown_tags_are_refused(known_clip, tmp_path):
    path = tmp_path / "ViT-B-32.pt"
    torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(str(path))
    for pretrained, kind, told in (
        (str(path), ValueError, "TorchScript .* safetensors instead: for OpenAI's ViT-B-32 those"),
        ("nowhere/clip.pt", FileNotFoundError, r"nowhere/clip\.pt does not exist"),
        ("quik", RuntimeError, "'quik' is not a known tag"),
    ):
        with pytest.raises(kind, match=told):
            load_encoder(known_clip[0].model_copy(update={"pretrained": pretrained}))


@pytest.fixture
def net():
    torch.manual_seed(5)
    return timm.create_model("test_resnet", num_classes=9).eval()


@pytest.fixture
def timm_spec(net, tmp_path):
    path = tmp_path / "net.safetensors"
    save_file(net.state_dict(), path)
    return EncoderSpec(kind="timm", model_name="test_resnet", pretrained=str(path), device="cpu")


def test_a_classifier_embeds_by_its_pooled_features_and_reads_no_texts(net, timm_spec, images):
    prepare = create_transform(**resolve_model_data_config(net), is_training=False)
    with torch.inference_mode():
        pooled = net.forward_features(prepared(prepare, images)).mean(dim=(2, 3)).numpy()
    expected = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    encoder = load_encoder(timm_spec)
    np.testing.assert_allclose(encoder.embed_images(images), expected, atol=1e-5)
    assert np.ptp(expected, axis=0).max() > 0.01  # the images differ, and so do their embeddings
    with pytest.raises(TypeError, match=r"this encoder \(ResNet\) reads no texts, only images"):
        encoder.embed_texts(["a jay"])


def test_a_model_without_weights_or_name_is_an_error(timm_spec):
    with pytest.raises(ValueError, match=r"pretrained must name weights: a file or package:<name>"):
        load_encoder(timm_spec.model_copy(update={"pretrained": None}))
    with pytest.raises(ValueError, match=r"filtering\.encoder\.model_name: timm has no model 'x'"):
        load_encoder(timm_spec.model_copy(update={"model_name": "x"}))
