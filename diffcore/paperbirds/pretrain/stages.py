"""The stages of `make pretrain`: render, autoencoder, denoiser, CLIP, oracle.

Each stage starts from a seed or from the shipped weights, and keeps checkpoints in its folder, so
that a killed run goes on where it was and a finished stage is not trained again.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TypeVar

import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from open_clip.model import CLIP
from torch import Tensor, nn
from transformers import CLIPTokenizer

from diffcore.paperbirds.captions import full_caption
from diffcore.paperbirds.contexts import CONTEXTS
from diffcore.paperbirds.distractors import DISTRACTORS
from diffcore.paperbirds.oracle import Oracle
from diffcore.paperbirds.pretrain.autoencoder import encode_all, train_autoencoder
from diffcore.paperbirds.pretrain.clip import build_clip, train_clip
from diffcore.paperbirds.pretrain.denoiser import Denoiser, train_denoiser
from diffcore.paperbirds.pretrain.loop import Schedule, device
from diffcore.paperbirds.pretrain.models import (
    assemble,
    build_autoencoder,
    build_text_encoder,
    build_tokenizer,
    build_unet,
)
from diffcore.paperbirds.pretrain.oracle import train_oracle
from diffcore.paperbirds.pretrain.renders import RenderRecipe, RenderSet, render_set
from diffcore.paperbirds.species import SPECIES

Model = TypeVar("Model", bound=nn.Module)


_STUDIO = RenderRecipe("studio", 64_000, 101, 0.0, extra_distractor=0.10)
_ANY_STYLE = RenderRecipe("any-style", 48_000, 102, None, extra_distractor=0.15)
_MALFORMED = RenderRecipe("malformed", 32_000, 103, None, malformed=True, extra_distractor=0.15)
_AUTOENCODER = Schedule(4_500, batch_size=8, lr=6.0e-3)
_DENOISER = Schedule(1_700, batch_size=64, lr=4.0e-3, save_every=100)
_CLIP = Schedule(600, batch_size=128, lr=4.0e-3)
_ORACLE = Schedule(1_500, batch_size=64, lr=2.0e-3)


@dataclass(frozen=True)
class Plan:
    """All that a pretraining depends on: what is rendered, and how long each stage trains."""

    studio: RenderRecipe = _STUDIO
    any_style: RenderRecipe = _ANY_STYLE
    malformed: RenderRecipe = _MALFORMED
    autoencoder: Schedule = _AUTOENCODER
    denoiser: Schedule = _DENOISER
    clip: Schedule = _CLIP
    oracle: Schedule = _ORACLE
    seed: int = 0

    def scaled(self, factor: float) -> "Plan":
        """The same plan with `factor` times the renders and steps, for trials and tests."""
        changed = {}
        for name in (f.name for f in fields(self) if f.name != "seed"):
            part = getattr(self, name)
            size = "count" if isinstance(part, RenderRecipe) else "steps"
            floor = 256 if size == "count" else 2
            changed[name] = replace(part, **{size: max(floor, int(getattr(part, size) * factor))})
        return replace(self, **changed)


@dataclass
class Models:
    """The four models of the embedded world; the pipeline holds two of them."""

    pipeline: DiffusionPipeline
    clip: CLIP
    oracle: Oracle

    @property
    def tokenizer(self) -> CLIPTokenizer:
        """The vocabulary that text-to-image model and CLIP share."""
        return self.pipeline.tokenizer_2


def pretrain(plan: Plan, folder: Path, start: Models | None = None) -> Models:
    """Train all models, those already trained in `folder` excepted, from `start` where given."""
    studio = render_set(plan.studio, folder / "renders")
    any_style = render_set(plan.any_style, folder / "renders")
    malformed = render_set(plan.malformed, folder / "renders")
    tokenizer = start.tokenizer if start else build_vocabulary()

    autoencoder = _begin(build_autoencoder, plan.seed, start and start.pipeline.vae)
    autoencoder = train_autoencoder(
        autoencoder, [studio.images, any_style.images], plan.autoencoder, folder / "autoencoder.pt"
    )
    denoiser = _train_denoiser(plan, folder, start, tokenizer, autoencoder, studio)
    clip = _begin(lambda: build_clip(tokenizer), plan.seed, start and start.clip)
    clip = train_clip(clip, tokenizer, any_style, plan.clip, folder / "clip.pt")
    oracle = _begin(Oracle, plan.seed, start and start.oracle)
    oracle = train_oracle(oracle, [any_style, malformed], plan.oracle, folder / "oracle.pt")
    pipeline = assemble(autoencoder, denoiser.text_encoder, tokenizer, denoiser.unet)
    return Models(pipeline, clip, oracle)


def build_vocabulary() -> CLIPTokenizer:
    """The tokenizer that knows every word of every caption."""
    return build_tokenizer(full_caption(s, c, DISTRACTORS) for s in SPECIES for c in CONTEXTS)


def _train_denoiser(
    plan: Plan,
    folder: Path,
    start: Models | None,
    tokenizer: CLIPTokenizer,
    autoencoder: AutoencoderKL,
    studio: RenderSet,
) -> Denoiser:
    moments = _latents(autoencoder, studio, folder)
    # Latents of unit variance are what the scheduler's sigma_data = 1 stands for.
    scaling_factor = 1 / float(moments[:4096, :4].float().std())
    autoencoder.register_to_config(scaling_factor=scaling_factor)
    before = start and Denoiser(start.pipeline.unet, start.pipeline.text_encoder_2)
    denoiser = _begin(
        lambda: Denoiser(build_unet(), build_text_encoder(tokenizer)), plan.seed, before
    )
    return train_denoiser(
        denoiser, tokenizer, moments, studio.facts, scaling_factor, plan.denoiser,
        folder / "denoiser.pt",
    )  # fmt: skip


def _latents(autoencoder: AutoencoderKL, renders: RenderSet, folder: Path) -> Tensor:
    """Latents of all studio renders, kept in a file named after the autoencoder's weights."""
    weights = torch.cat([p.detach().flatten().cpu() for p in autoencoder.parameters()])
    digest = hashlib.sha256(weights.numpy().tobytes()).hexdigest()[:12]
    path = folder / f"latents-{len(renders.images)}-{digest}.pt"
    if not path.exists():
        moments = encode_all(autoencoder, renders.images)
        torch.save(moments, path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)
    return torch.load(path, weights_only=True)


def _begin(build: Callable[[], Model], seed: int, start: Model | None) -> Model:
    """A new model from the seed, or with the weights of `start`, on the training device."""
    torch.manual_seed(seed)
    model = build()
    if start is not None:
        model.load_state_dict({name: value.float() for name, value in start.state_dict().items()})
    return model.to(device(), memory_format=torch.channels_last)
