"""The tiny models of the embedded world, built with random weights from the real classes.

The text-to-image model is a small SDXL in all but size: diffusers' autoencoder and UNet with pooled
text and size conditioning, and the EDM Euler scheduler with v-prediction as in CosXL. It has one
text encoder instead of two. CLIP is an open_clip model. ``models.yaml`` has the sizes.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from diffusers import (
    AutoencoderKL,
    EDMEulerScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from open_clip.model import CLIP
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from diffcore.filtering.encoders import Encoder
from paperbirds import CONTEXTS, DISTRACTORS, SPECIES
from paperbirds.contexts import SIZE
from paperbirds.oracle import Oracle
from paperbirds.training_data import FLAWS, full_caption

CONFIGS = yaml.safe_load(Path(__file__).with_name("models.yaml").read_text(encoding="utf-8"))


@dataclass
class Models:
    """The four models of the embedded world; the pipeline holds two of them."""

    pipeline: StableDiffusionXLPipeline
    clip: CLIP | Encoder  # an encoder, once loaded from its folder
    oracle: Oracle


def build_autoencoder() -> AutoencoderKL:
    """Build the KL autoencoder: (B, 3, 64, 64) in [-1, 1] to latents (B, 4, 16, 16)."""
    return AutoencoderKL(**CONFIGS["autoencoder"])


def build_scheduler() -> EDMEulerScheduler:
    """Build the sampler."""
    return EDMEulerScheduler(**CONFIGS["scheduler"])


def clip_config(tokenizer: CLIPTokenizer) -> dict:
    """Return open_clip's configuration of the tiny CLIP."""
    text = {"vocab_size": len(tokenizer), **CONFIGS["clip"]["text_cfg"]}
    return CONFIGS["clip"] | {"text_cfg": text}


def build_vocabulary() -> CLIPTokenizer:
    """Build a CLIP tokenizer of which every word of every caption is one token.

    The end of text gets the highest id, as in CLIP, whose text tower finds it by that.
    """
    scenes = (full_caption(s, c, DISTRACTORS) for s in SPECIES for c in CONTEXTS)
    texts = (f"{scene}, {', '.join(FLAWS.values())}" for scene in scenes)
    blank = CLIPTokenizer(pad_token="<|endoftext|>")
    learned = blank.train_new_from_iterator(texts, vocab_size=1024, show_progress=False)
    model = json.loads(learned.backend_tokenizer.to_str())["model"]
    words = [word for word in model["vocab"] if not word.startswith("<|")]
    # The trainer lists single letters in the order of a hash map, which differs by process.
    letters = [word for word in words if len(word.removesuffix("</w>")) == 1]
    words = [*sorted(letters), *words[len(letters) :]]
    vocab = {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    merges = [tuple(merge) for merge in model["merges"]]
    length = CONFIGS["text_encoder"]["max_position_embeddings"]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=length)


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Return ids (B, 32) of texts, padded or cut to the length of a prompt."""
    options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    return tokenizer(texts, **options).input_ids


class Denoiser(nn.Module):
    """UNet and text encoder as one model: noisy latents and tokens to v-prediction."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModelWithProjection):
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(self, scaled: Tensor, c_noise: Tensor, tokens: Tensor) -> Tensor:
        """(B, 4, 16, 16), (B,), (B, T) -> (B, 4, 16, 16)."""
        text = self.text_encoder(tokens, output_hidden_states=True)
        sizes = torch.tensor([SIZE, SIZE, 0, 0, SIZE, SIZE], device=scaled.device)
        added = {"text_embeds": text.text_embeds, "time_ids": sizes.expand(len(scaled), 6)}
        # SDXL reads the text encoder's last layer but one; so must the training.
        hidden = text.hidden_states[-2]
        return self.unet(scaled, c_noise, hidden, added_cond_kwargs=added).sample


def build_denoiser(tokenizer: CLIPTokenizer) -> Denoiser:
    """Build UNet and text encoder."""
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    ids = {name: getattr(tokenizer, name) for name in names}
    config = CLIPTextConfig(vocab_size=len(tokenizer), **ids, **CONFIGS["text_encoder"])
    unet = UNet2DConditionModel(**CONFIGS["unet"])
    return Denoiser(unet, CLIPTextModelWithProjection(config))


def assemble(
    vae: AutoencoderKL, denoiser: Denoiser, tokenizer: CLIPTokenizer
) -> StableDiffusionXLPipeline:
    """Put the pipeline together that `DiffusionPipeline.from_pretrained` loads back."""
    encoders = {"text_encoder": None, "text_encoder_2": denoiser.text_encoder}
    tokenizers = {"tokenizer": None, "tokenizer_2": tokenizer}
    parts = {"vae": vae, "unet": denoiser.unet, "scheduler": build_scheduler()}
    options = {"add_watermarker": False, "force_zeros_for_empty_prompt": False}
    return StableDiffusionXLPipeline(**parts, **encoders, **tokenizers, **options)
