"""Encoders: embed images, and texts where they can, in unit length, each of them once.

The paper's encoder is CLIP ViT-B/32. Our choice: images go through it in batches, and embeddings
are kept on disk by content and model. A machine without the hub can take a classifier of timm
without its last layer, which reads no texts; cosines of each encoder are on a scale of their own.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.pretrained import get_pretrained_cfg
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn

from diffcore import store
from diffcore.data import weights
from diffcore.data.generated import ShardImages
from diffcore.params import EncoderSpec, resolve_device

_BATCH = 64  # images or texts embedded together
_SAVED_TOGETHER = 4096  # embeddings in a file of the cache, about the most that a kill can lose


class Encoder:
    """CLIP, or the like, that remembers: embeds images and texts in batches, each of them once."""

    def __init__(
        self,
        model: nn.Module,
        preprocess: Callable[[Image.Image], Tensor],
        tokenizer: Callable[[list[str]], Tensor] | None,
        device: str,
        cache_dir: str | Path | None = None,
    ):
        """Take what open_clip loads; without `cache_dir`, embeddings live as long as this does."""
        # Last channels first made a ResNet a third faster on a CPU; a transformer does not mind.
        self.model = model.eval().to(device, memory_format=torch.channels_last)
        self.preprocess, self._tokenizer, self.device = preprocess, tokenizer, device
        self.model_hash = _hash_model(model)  # of weights and image preprocessing
        self.reads_texts = tokenizer is not None  # whether `embed_texts` works
        self._folder = None if cache_dir is None else Path(cache_dir) / self.model_hash
        self._unsaved: dict[str, np.ndarray] = {}

    def embed_images(self, images: Iterable[np.ndarray]) -> np.ndarray:
        """Embed N images (H, W, 3) uint8, of one size or several: (N, D) float32, unit length.

        Lazy images are read once, in order, a batch at a time; images in shards may have their
        embeddings beside them. ValueError for another type or shape, FloatingPointError for NaN.
        """
        held = images.embeddings(self.model_hash) if isinstance(images, ShardImages) else None
        if held is not None:
            return held
        return self._embed(((_image_key(image), image) for image in images), self._see)

    def embed_unkept(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Embed images as `embed_images` does, and leave it to the caller to keep the result."""
        starts = range(0, len(images), _BATCH)
        batches = [images[start : start + _BATCH] for start in starts]
        return np.concatenate([_checked(self._see(batch)) for batch in batches])

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embed N texts: (N, D) float32, unit length; TypeError for an encoder of images alone."""
        if self._tokenizer is None:
            raise TypeError(
                f"this encoder ({type(self.model.visual).__name__}) reads no texts, only images; "
                "filtering.encoder.kind open_clip reads both"
            )
        # The tokens are the text as the model sees it, so the tokenizer needs no hash of its own.
        tokens = self._tokenizer([*texts])
        return self._embed(((store.digest("text", row.numpy()), row) for row in tokens), self._read)

    def _embed(
        self, keyed: Iterable[tuple[str, Any]], compute: Callable[[list[Any]], Tensor]
    ) -> np.ndarray:
        """Embed what is new, a batch at a time, and keep it; return all, in order."""
        order, batch = [], {}
        for key, item in keyed:
            order.append(key)
            if key not in self._known:
                batch[key] = item
            if len(batch) == _BATCH:
                self._remember(batch, compute)
        if batch:
            self._remember(batch, compute)
        self._save()
        return np.stack([self._known[key] for key in order])

    def _remember(self, batch: dict[str, Any], compute: Callable[[list[Any]], Tensor]) -> None:
        new = dict(zip(batch, _checked(compute([*batch.values()])), strict=True))
        self._known.update(new)
        self._unsaved.update(new)
        batch.clear()
        if len(self._unsaved) >= _SAVED_TOGETHER:
            self._save()

    @torch.inference_mode()
    def _see(self, images: list[np.ndarray]) -> Tensor:
        pixels = torch.stack([self.preprocess(Image.fromarray(image)) for image in images])
        pixels = pixels.to(self.device, memory_format=torch.channels_last)
        return self.model.encode_image(pixels, normalize=True)

    @torch.inference_mode()
    def _read(self, tokens: list[Tensor]) -> Tensor:
        return self.model.encode_text(torch.stack(tokens).to(self.device), normalize=True)

    @cached_property
    def _known(self) -> dict[str, np.ndarray]:
        """Every embedding made or read so far; those of a damaged file are made again."""
        known = {}
        for path in [] if self._folder is None else sorted(self._folder.glob("[!.]*.npz")):
            known |= store.read_kept(path, _read_embeddings) or {}
        return known

    def _save(self) -> None:
        """Write a file named by its content."""
        if self._unsaved and self._folder is not None:
            path = self._folder / f"{store.digest(*self._unsaved)}.npz"
            with store.written_whole(path) as aside, aside.open("wb") as file:
                np.savez(file, keys=[*self._unsaved], embeddings=[*self._unsaved.values()])
        self._unsaved = {}


def _read_embeddings(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file, np.load(file) as saved:
        return dict(zip(saved["keys"].tolist(), saved["embeddings"], strict=True))


def _checked(embeddings: Tensor) -> np.ndarray:
    """Turn what an encoder gave into (B, D) float32; FloatingPointError for NaN."""
    array = embeddings.float().cpu().numpy()
    if not np.isfinite(array).all():
        raise FloatingPointError(
            "the encoder gives infinities or NaN: its weights are damaged; fetch them anew"
        )
    return array


def _image_key(image: np.ndarray) -> str:
    """Hash an image's content; raises ValueError for what is no image."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"an image is uint8 (H, W, 3), not {image.dtype} {tuple(image.shape)}")
    return store.digest(image)


def _hash_model(model: nn.Module) -> str:
    """Hash all that decides about embeddings, but for the versions of libraries."""
    state = sorted(model.state_dict().items())
    tensors = (np.atleast_1d(tensor.cpu().numpy()) for _, tensor in state)
    architecture = str(model), [name for name, _ in state]  # its activations have no weights
    return store.digest(model.visual.preprocess_cfg, architecture, *tensors)


def load_encoder(spec: EncoderSpec, cache_dir: str | Path | None = None) -> Encoder:
    """Load an encoder on its device; encoders may share a `cache_dir`.

    Raises ValueError for an absent GPU and weights that cannot be used, FileNotFoundError for a
    folder, file or package that is not there, and open_clip's RuntimeError for unknown names.
    """
    device = resolve_device(spec.device, "filtering.encoder.device")
    clip = spec.model_name, spec.pretrained
    parts = _load_timm(spec) if spec.kind == "timm" else _load_clip(*clip)
    return Encoder(*parts, device, cache_dir)


class _ImageTower(nn.Module):
    """A timm model without its last layer, behind the face of an open_clip model."""

    def __init__(self, net: nn.Module, preprocess_cfg: dict[str, Any]):
        super().__init__()
        self.visual = net
        self.visual.preprocess_cfg = preprocess_cfg

    def encode_image(self, pixels: Tensor, normalize: bool) -> Tensor:
        return nn.functional.normalize(self.visual(pixels), dim=-1)


def _load_timm(spec: EncoderSpec) -> tuple:
    """Load a timm model as an image tower, with the preprocessing it was trained with."""
    weights.check_model_name(spec.model_name, "filtering.encoder.model_name")
    if spec.pretrained is None:
        raise ValueError("filtering.encoder.pretrained must name weights: a file or package:<name>")
    net = weights.load_backbone(spec.model_name, spec.pretrained, num_classes=0)
    config = resolve_model_data_config(net)
    return _ImageTower(net, config), create_transform(**config, is_training=False), None


def _load_clip(name: str, pretrained: str | None) -> tuple:
    """Load a model of open_clip with its preprocessing and tokenizer."""
    if name.startswith(store.PACKAGE):
        folder = store.locate(name)
        store.verify_sums(folder)
        name = f"local-dir:{folder}"
    if ":" in name:  # a folder or a repository holds both model and weights
        pretrained = None
    elif pretrained is not None and weights.is_file_name(pretrained):
        path = weights.find_weights(pretrained)
        weights.refuse_torchscript(path)
        pretrained = str(path)
    # open_clip only warns where weights of a tag were trained with another activation than its
    # configuration has, as OpenAI's ViT-B-32; with the wrong one its embeddings differ.
    tag = get_pretrained_cfg(name.replace("/", "-"), pretrained) if pretrained else {}
    model, preprocess = open_clip.create_model_from_pretrained(
        name, pretrained, force_quick_gelu=tag.get("quick_gelu", False)
    )
    return model, preprocess, open_clip.get_tokenizer(name)
