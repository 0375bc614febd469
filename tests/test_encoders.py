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

from diffcore import encoders, filtering
from diffcore.encoders import load_encoder
from diffcore.params import EncoderSpec, load_params

CONFIG = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 12, "width": 8, "heads": 1, "layers": 1},
}


# ------------------------------------------------------------------------------------------- CLIP
def save_clip(folder, seed=0):
    """A CLIP with random weights as a local folder, with open_clip's own tokenizer."""
    torch.manual_seed(seed)
    folder.mkdir()
    config = {"model_cfg": CONFIG, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.4] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    parts = {"vision_cfg": CONFIG["vision_cfg"], "text_cfg": CONFIG["text_cfg"]}
    weights = open_clip.CLIP(CONFIG["embed_dim"], **parts).state_dict()
    # Fresh positions and biases are zeros: nothing would depend on them.
    weights = {name: tensor + 0.1 * torch.randn_like(tensor) for name, tensor in weights.items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return EncoderSpec(model_name=f"local-dir:{folder}", device="cpu", batch_size=4)


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture
def pictures():
    """Ten random images, of which the last two are the same."""
    images = np.random.default_rng(0).integers(0, 256, (10, 20, 24, 3), np.uint8)
    images[9] = images[8]
    return images


def test_embeddings_are_those_of_open_clip_in_unit_length(spec, pictures):
    model, prepare = open_clip.create_model_from_pretrained(spec.model_name)
    with torch.inference_mode():
        prepared = torch.stack([prepare(Image.fromarray(image)) for image in pictures])
        images = model.eval().encode_image(prepared).numpy()
        texts = model.encode_text(open_clip.get_tokenizer(spec.model_name)(["a jay", "a wren"]))
    encoder = load_encoder(spec)
    for ours, theirs in (
        (encoder.embed_images(pictures), images),
        (encoder.embed_texts(["a jay", "a wren"]), texts.numpy()),
    ):
        expected = theirs / np.linalg.norm(theirs, axis=1, keepdims=True)
        np.testing.assert_allclose(ours, expected, atol=1e-5)
        assert ours.dtype == np.float32


def test_batch_size_order_and_differing_sizes_do_not_change_an_embedding(spec, pictures):
    several = [*pictures, pictures[0][:9, :17]]
    together = load_encoder(spec).embed_images(several)
    single = load_encoder(spec.model_copy(update={"batch_size": 1})).embed_images(several[::-1])
    np.testing.assert_allclose(together, single[::-1], atol=1e-5)
    assert not np.allclose(together[0], together[-1], atol=1e-3)


def counting(encoder, monkeypatch):
    """Note how many images and texts the model itself is given."""
    seen = []
    for name in ("encode_image", "encode_text"):
        original = getattr(encoder.model, name)
        monkeypatch.setattr(
            encoder.model, name,
            lambda x, normalize, f=original: seen.append(len(x)) or f(x, normalize=normalize),
        )  # fmt: skip
    return seen


def test_an_image_is_embedded_once_across_calls_and_processes(
    spec, pictures, tmp_path, monkeypatch
):
    first = load_encoder(spec, tmp_path)
    seen = counting(first, monkeypatch)
    embedded = first.embed_images(pictures)
    assert seen == [4, 4, 1]  # nine different ones in batches of four
    first.embed_texts(["a jay", "a wren", "a jay"])
    assert seen[3:] == [2]

    second = load_encoder(spec, tmp_path)
    seen = counting(second, monkeypatch)
    np.testing.assert_array_equal(second.embed_images(pictures[::-1]), embedded[::-1])
    second.embed_texts(["a wren"])
    assert seen == []


def test_a_cache_knows_its_model_and_the_shape_of_an_image(spec, pictures, tmp_path):
    other = load_encoder(save_clip(tmp_path / "other", seed=1), tmp_path / "cache")
    known = load_encoder(spec, tmp_path / "cache")
    assert other.model_hash != known.model_hash
    assert known.model_hash == load_encoder(spec).model_hash
    embedded = known.embed_images(pictures)
    assert not np.allclose(other.embed_images(pictures), embedded, atol=1e-3)
    turned = pictures.reshape(10, 24, 20, 3)  # the same bytes
    assert not np.allclose(known.embed_images(turned), embedded, atol=1e-3)


def test_a_cache_file_is_whole_or_an_error_that_names_it(spec, pictures, tmp_path):
    encoder = load_encoder(spec, tmp_path)
    encoder.embed_images(pictures)
    (saved,) = (tmp_path / encoder.model_hash).iterdir()
    saved.with_name(".half.123").write_bytes(b"what a kill leaves")
    load_encoder(spec, tmp_path).embed_images(pictures)
    saved.write_bytes(saved.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"{saved.name} is damaged; delete it"):
        load_encoder(spec, tmp_path).embed_images(pictures)


@pytest.mark.parametrize("image", [np.zeros((8, 8, 3)), np.zeros((8, 8), np.uint8)])
def test_only_rgb_bytes_are_images(spec, image):
    with pytest.raises(ValueError, match=r"an image is uint8 \(H, W, 3\), not "):
        load_encoder(spec).embed_images([image])


def test_a_missing_model_or_gpu_is_named(spec, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_encoder(EncoderSpec(model_name=f"local-dir:{tmp_path / 'nowhere'}"))
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"filtering\.encoder\.device is cuda"):
            load_encoder(spec.model_copy(update={"device": "cuda"}))


def test_the_shipped_clip_is_the_demo_s_encoder():
    encoder = load_encoder(load_params("demo").filtering.encoder)
    images = np.zeros((2, 64, 64, 3), np.uint8)
    assert encoder.embed_images(images).shape == encoder.embed_texts(["a jay", "snow"]).shape


def test_the_filter_has_the_encoder_too():
    assert (filtering.Encoder, filtering.load_encoder) == (encoders.Encoder, load_encoder)


# ----------------------------------------------------------------------------- open_clip's sources
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
    monkeypatch.setitem(_PRETRAINED, name, {"quick": quick, "plain": quick | {"quick_gelu": False}})
    return EncoderSpec(model_name=name, pretrained="quick", device="cpu"), file


def activations(encoder):
    return {type(block.mlp.gelu).__name__ for block in encoder.model.visual.transformer.resblocks}


def test_a_tag_has_the_activation_that_it_was_trained_with(known_clip, pictures):
    quick, _ = known_clip
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # open_clip warns of the wrong one
        encoder = load_encoder(quick)
        plain = load_encoder(quick.model_copy(update={"pretrained": "plain"}))
    assert (activations(encoder), activations(plain)) == ({"QuickGELU"}, {"GELU"})
    assert encoder.model_hash != plain.model_hash
    found = encoder.embed_images(pictures)
    assert not np.allclose(found, plain.embed_images(pictures), atol=1e-4)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_clip_may_be_a_file(known_clip, pictures, tmp_path, suffix):
    quick, file = known_clip
    path = tmp_path / f"clip{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(load_file(file), path)
    encoder = load_encoder(quick.model_copy(update={"pretrained": str(path)}))
    model = open_clip.create_model(quick.model_name, pretrained=file)
    with torch.inference_mode():
        prepared = torch.stack([encoder.preprocess(Image.fromarray(p)) for p in pictures])
        expected = model.eval().encode_image(prepared, normalize=True).numpy()
    np.testing.assert_allclose(encoder.embed_images(pictures), expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_openai_s_archives_are_refused_with_a_remedy(known_clip, tmp_path):
    torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(str(tmp_path / "ViT-B-32.pt"))
    archive = known_clip[0].model_copy(update={"pretrained": str(tmp_path / "ViT-B-32.pt")})
    with pytest.raises(ValueError, match="a TorchScript archive, which holds code") as error:
        load_encoder(archive)
    assert "safetensors instead: for OpenAI's ViT-B-32 those of timm/vit_base" in str(error.value)
    assert "ViT-B-32-quickgelu" in str(error.value)


def test_a_missing_file_or_unknown_tag_is_named(known_clip):
    with pytest.raises(FileNotFoundError, match=r"nowhere/clip\.safetensors does not exist"):
        load_encoder(known_clip[0].model_copy(update={"pretrained": "nowhere/clip.safetensors"}))
    with pytest.raises(RuntimeError, match="'quik' is not a known tag"):
        load_encoder(known_clip[0].model_copy(update={"pretrained": "quik"}))


# ------------------------------------------------------------------------------------------- timm
@pytest.fixture(scope="module")
def net():
    torch.manual_seed(5)
    return timm.create_model("test_resnet", num_classes=9).eval()


@pytest.fixture
def timm_spec(net, tmp_path):
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    return EncoderSpec(
        kind="timm", model_name="test_resnet", pretrained=str(tmp_path / "net.safetensors"),
        device="cpu", batch_size=4,
    )  # fmt: skip


def test_a_classifier_embeds_by_its_pooled_features(net, timm_spec, pictures):
    prepare = create_transform(**resolve_model_data_config(net), is_training=False)
    with torch.inference_mode():
        prepared = torch.stack([prepare(Image.fromarray(image)) for image in pictures])
        pooled = net.forward_features(prepared).mean(dim=(2, 3)).numpy()
    expected = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    found = load_encoder(timm_spec).embed_images(pictures)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.dtype == np.float32
    assert np.ptp(found, axis=0).max() > 0.01  # the images differ, and so do their embeddings


def test_an_encoder_of_images_reads_no_texts(timm_spec, spec):
    encoder = load_encoder(timm_spec)
    assert not encoder.reads_texts
    with pytest.raises(TypeError, match=r"this encoder \(ResNet\) reads no texts, only images"):
        encoder.embed_texts(["a jay"])
    assert load_encoder(spec).reads_texts


def test_its_cache_is_its_weights_own(net, timm_spec, pictures, tmp_path):
    encoder = load_encoder(timm_spec, tmp_path / "cache")
    found = encoder.embed_images(pictures)
    (saved,) = (tmp_path / "cache").iterdir()
    assert saved.name == encoder.model_hash
    again = load_encoder(timm_spec, tmp_path / "cache")
    again.model.encode_image = None  # not needed
    np.testing.assert_array_equal(again.embed_images(pictures), found)
    state = net.state_dict()
    first = next(iter(state))
    state[first] = state[first] + 1
    save_file(state, timm_spec.pretrained)
    assert load_encoder(timm_spec).model_hash != encoder.model_hash


def test_a_model_without_weights_or_name_is_an_error(timm_spec):
    with pytest.raises(ValueError, match=r"pretrained must name weights: a file or package:<name>"):
        load_encoder(timm_spec.model_copy(update={"pretrained": None}))
    with pytest.raises(ValueError, match=r"filtering\.encoder\.model_name: timm has no model 'x'"):
        load_encoder(timm_spec.model_copy(update={"model_name": "x"}))


# ---------------------------------------------------------------------------------------- the scale
class Lazy:
    """Images that are made when asked for; notes which, and how many live at a time."""

    def __init__(self, images):
        self.images, self.asked = images, []

    def __len__(self):
        return len(self.images)

    def __getitem__(self, places):
        self.asked.append(places)
        return [self.images[place].copy() for place in places]


def files(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*.npz")}


@pytest.mark.parametrize("together", [6, 4096])
def test_lazy_images_are_read_once_in_order_and_saved_alike(
    spec, pictures, tmp_path, monkeypatch, together
):
    monkeypatch.setattr(encoders, "_SAVED_TOGETHER", together)
    images = np.concatenate([pictures, pictures[:3], 255 - pictures])
    expected = load_encoder(spec, tmp_path / "whole").embed_images(images)
    lazy = Lazy(images)
    found = load_encoder(spec, tmp_path / "lazy").embed_images(lazy)
    np.testing.assert_array_equal(found, expected)
    assert files(tmp_path / "lazy") == files(tmp_path / "whole")
    assert len(files(tmp_path / "lazy")) == (3 if together == 6 else 1)
    assert [place for places in lazy.asked for place in places] == list(range(len(images)))
    assert max(map(len, lazy.asked)) == 4  # the batch size


def test_what_a_kill_leaves_is_not_embedded_again(spec, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(encoders, "_SAVED_TOGETHER", 4)
    broken = [*pictures[:6], np.zeros((2, 2), np.uint8)]
    with pytest.raises(ValueError, match="an image is uint8"):
        load_encoder(spec, tmp_path).embed_images(broken)
    encoder = load_encoder(spec, tmp_path)
    seen = counting(encoder, monkeypatch)
    encoder.embed_images(pictures)
    assert sum(seen) == 5  # of nine different ones
