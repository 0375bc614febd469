"""Encoders: embed images, and texts where they can, in unit length, each of them once.

The part of the paper's hard-cosine filtration that looks: its encoder is CLIP ViT-B/32. Differences
from the authors' released code: images go through the model in batches, and embeddings are kept on
disk by content and model, so that neither a second run nor a changed threshold embeds anything.

Our choice: besides CLIP, a classifier of timm without its last layer, which a machine without the
hub can have (see `diffcore.weights`). It knows nothing of texts, and its cosines are on a scale of
their own, as are those of any encoder but the paper's.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import open_clip
import torch
from open_clip.pretrained import get_pretrained_cfg
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn

from diffcore.pictures import LazyImages
from diffcore.weights import (
    CLIP_REMEDY,
    PACKAGE,
    check_model_name,
    find_weights,
    is_file_name,
    load_backbone,
    refuse_torchscript,
)

if TYPE_CHECKING:
    from diffcore.params import EncoderSpec

_SAVED_TOGETHER = 4096  # embeddings in a file of the cache, the most that a kill can lose


class Encoder:
    """CLIP, or the like, that remembers: embeds images and texts in batches, each of them once.

    Attributes:
        model: in evaluation mode, on `device`.
        preprocess: from a PIL image to the tensor (3, H, W) that the model takes.
        device: "cpu" or "cuda".
        model_hash: of weights and image preprocessing, 16 hexadecimal digits.
        reads_texts: whether `embed_texts` works.
    """

    def __init__(
        self,
        model: nn.Module,
        preprocess: Callable[[Image.Image], Tensor],
        tokenizer: Callable[[list[str]], Tensor] | None,
        *,
        batch_size: int = 64,
        device: str = "cpu",
        cache_dir: str | Path | None = None,
    ):
        """Take what open_clip loads; without `cache_dir`, embeddings live as long as this does."""
        # Last channels first made a ResNet a third faster on a CPU; a transformer does not mind.
        self.model = model.eval().to(device, memory_format=torch.channels_last)
        self.preprocess, self._tokenizer = preprocess, tokenizer
        self._batch_size, self.device = batch_size, device
        self.model_hash = _hash_model(model)
        self.reads_texts = tokenizer is not None
        self._folder = None if cache_dir is None else Path(cache_dir) / self.model_hash

    @cached_property
    def _known(self) -> dict[bytes, np.ndarray]:
        """Every embedding made or read so far; the disk is read when the first is asked for."""
        return dict(_read_cache(self._folder))

    def embed_images(self, images: np.ndarray | Sequence[np.ndarray] | LazyImages) -> np.ndarray:
        """Embed N images (H, W, 3) uint8, of one size or several: (N, D) float32, unit length.

        Lazy images are read once and in order, and no more than two batches are held at a time.

        Raises:
            ValueError: for an image of another type or shape.
        """
        keys: list[bytes] = []
        keyed = ((_image_key(image), image) for image in _in_turn(images, self._batch_size))
        self._embed(self._new(keyed, keys), self._see)
        return np.stack([self._known[key] for key in keys])

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embed N texts: (N, D) float32, unit length.

        Raises:
            TypeError: for an encoder of images alone.
        """
        if self._tokenizer is None:
            raise TypeError(
                f"this encoder ({type(self.model.visual).__name__}) reads no texts, only images; "
                "filtering.encoder.kind open_clip reads both"
            )
        keys: list[bytes] = []
        # The tokens are the text as the model sees it, so the tokenizer needs no hash of its own.
        keyed = ((_key(b"text", row.numpy().tobytes()), row) for row in self._tokenizer([*texts]))
        self._embed(self._new(keyed, keys), self._read)
        return np.stack([self._known[key] for key in keys])

    def _new(
        self, keyed: Iterable[tuple[bytes, Any]], keys: list[bytes]
    ) -> Iterator[tuple[bytes, Any]]:
        """Note every key in `keys`, and pass on what is met for the first time."""
        met = set()
        for key, item in keyed:
            keys.append(key)
            if key not in met and key not in self._known:
                met.add(key)
                yield key, item

    def _embed(
        self, new: Iterator[tuple[bytes, Any]], compute: Callable[[list[Any]], Tensor]
    ) -> None:
        """Embed what is new, a batch at a time; keep it and save it a file at a time."""
        while True:
            keys, parts = [], []
            for batch in _chunks(islice(new, _SAVED_TOGETHER), self._batch_size):
                keys += [key for key, _ in batch]
                parts.append(compute([item for _, item in batch]).float().cpu().numpy())
            if not keys:
                return
            embeddings = np.concatenate(parts)
            self._known.update(zip(keys, embeddings, strict=True))
            if self._folder is not None:
                _write_cache(self._folder, keys, embeddings)

    @torch.inference_mode()
    def _see(self, images: list[np.ndarray]) -> Tensor:
        pixels = torch.stack([self.preprocess(Image.fromarray(image)) for image in images])
        pixels = pixels.to(self.device, memory_format=torch.channels_last)
        return self.model.encode_image(pixels, normalize=True)

    @torch.inference_mode()
    def _read(self, tokens: list[Tensor]) -> Tensor:
        return self.model.encode_text(torch.stack(tokens).to(self.device), normalize=True)


# ------------------------------------------------------------------------------------- the loading
class ImageTower(nn.Module):
    """A timm model without its last layer, behind the face of an open_clip model."""

    def __init__(self, net: nn.Module, preprocess_cfg: dict[str, Any]):
        """Wrap pooled features; `preprocess_cfg` says how images are prepared for them."""
        super().__init__()
        self.visual = net
        self.visual.preprocess_cfg = preprocess_cfg

    def encode_image(self, pixels: Tensor, normalize: bool = False) -> Tensor:
        """Turn prepared images (B, 3, H, W) into features (B, D), in unit length if asked for."""
        features = self.visual(pixels)
        return nn.functional.normalize(features, dim=-1) if normalize else features


def load_encoder(spec: "EncoderSpec", cache_dir: str | Path | None = None) -> Encoder:
    """Load an encoder on its device, with its own preprocessing and, if it has one, tokenizer.

    Args:
        spec: the shipped CLIP, what open_clip calls another, or a timm model and its weights.
        cache_dir: folder for embeddings, shared by all encoders; None keeps them in memory.

    Raises:
        ValueError: for a GPU that is not there, and weights that cannot be used.
        FileNotFoundError: for a local folder, a file or a package that is not there.
        RuntimeError: from open_clip, for a model or weights that it does not know.
    """
    if spec.device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "filtering.encoder.device is cuda, but torch finds no GPU; set it to auto or cpu"
        )
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    parts = _load_timm(spec) if spec.kind == "timm" else _load_clip(*_locate(spec))
    return Encoder(
        *parts, batch_size=spec.batch_size,
        device=auto if spec.device == "auto" else spec.device, cache_dir=cache_dir,
    )  # fmt: skip


def _load_timm(spec: "EncoderSpec") -> tuple[ImageTower, Callable[[Image.Image], Tensor], None]:
    """Load a timm model as an image tower, with the preprocessing it was trained with."""
    setting = "filtering.encoder"
    check_model_name(spec.model_name, f"{setting}.model_name")
    if spec.pretrained is None:
        raise ValueError(f"{setting}.pretrained must name weights: a file or {PACKAGE}<name>")
    net = load_backbone(spec.model_name, spec.pretrained, num_classes=0)
    config = resolve_model_data_config(net)
    return ImageTower(net, config), create_transform(**config, is_training=False), None


def _load_clip(
    name: str, pretrained: str | None
) -> tuple[open_clip.CLIP, Callable[[Image.Image], Tensor], Callable[[list[str]], Tensor]]:
    """Load a model of open_clip with its preprocessing and tokenizer."""
    if pretrained is not None and is_file_name(pretrained):
        path = find_weights(pretrained)
        refuse_torchscript(path, CLIP_REMEDY)
        pretrained = str(path)
    # open_clip only warns where weights of a tag were trained with another activation than its
    # configuration has, as OpenAI's ViT-B-32; with the wrong one its embeddings differ.
    tag = get_pretrained_cfg(name.replace("/", "-"), pretrained) if pretrained else {}
    model, preprocess = open_clip.create_model_from_pretrained(
        name, pretrained, force_quick_gelu=tag.get("quick_gelu", False)
    )
    return model, preprocess, open_clip.get_tokenizer(name)


def _locate(spec: "EncoderSpec") -> tuple[str, str | None]:
    """Return model and weights as open_clip names them; a local folder holds both."""
    if spec.kind == "paperbirds":
        from diffcore.paperbirds import clip_dir  # only this kind needs the embedded world

        return f"local-dir:{clip_dir()}", None
    return spec.model_name, None if ":" in spec.model_name else spec.pretrained


# --------------------------------------------------------------------------------------- the memory
def _hash_model(model: nn.Module) -> str:
    """Hash all that turns prepared pixels or tokens into embeddings, and how pixels are prepared.

    The libraries' versions are left out: one that changed results would be the exception.
    """
    digest = hashlib.sha256(json.dumps(model.visual.preprocess_cfg, sort_keys=True).encode())
    digest.update(str(model).encode())  # the architecture, as its activations have no weights
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _image_key(image: np.ndarray) -> bytes:
    """Make a key of an image's content; raises ValueError for what is no image."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"an image is uint8 (H, W, 3), not {image.dtype} {tuple(image.shape)}")
    return _key(str(image.shape).encode(), image.tobytes())


def _key(*parts: bytes) -> bytes:
    return hashlib.blake2b(b"\0".join(parts), digest_size=16).digest()


def _in_turn(
    images: np.ndarray | Sequence[np.ndarray] | LazyImages, size: int
) -> Iterator[np.ndarray]:
    """Go through images; those that are not in memory are fetched `size` at a time."""
    if isinstance(images, np.ndarray | list | tuple):
        yield from images
    else:
        for places in _chunks(range(len(images)), size):
            yield from images[places]


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _read_cache(folder: Path | None) -> Iterator[tuple[bytes, np.ndarray]]:
    """Yield every key and embedding of a cache; raises ValueError naming a damaged file."""
    for path in [] if folder is None else sorted(folder.glob("*.npz")):
        try:
            with np.load(path) as saved:
                keys, embeddings = saved["keys"], saved["embeddings"]
        except Exception as error:  # zip, header and array each fail in their own way
            raise ValueError(f"{path} is damaged; delete it and run again ({error})") from error
        yield from zip((key.tobytes() for key in keys), embeddings, strict=True)


def _write_cache(folder: Path, keys: list[bytes], embeddings: np.ndarray) -> None:
    """Write a file named by its content, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    name = _key(*keys).hex()
    aside = folder / f".{name}.{os.getpid()}"
    with aside.open("wb") as file:
        stacked = np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), -1)
        np.savez(file, keys=stacked, embeddings=embeddings)
    aside.replace(folder / f"{name}.npz")
