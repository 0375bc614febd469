"""The tiny models of the embedded world, built with random weights from the real classes.

Text-to-image: a small SDXL in all but size (diffusers' AutoencoderKL and UNet2DConditionModel with
pooled text and size conditioning, EDM Euler scheduler with v-prediction as CosXL), with one text
encoder instead of two. CLIP: an open_clip model from its own configuration.
"""

import json
from dataclasses import dataclass

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    EDMEulerScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from open_clip.model import CLIP
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from paperbirds.birds import SPECIES
from paperbirds.captions import FLAWS, full_caption
from paperbirds.contexts import CONTEXTS, DISTRACTORS, SIZE
from paperbirds.oracle import Oracle

TOKENS = 32  # length of a tokenised prompt
TEXT_WIDTH = 128
_TIME_WIDTH = 16  # width of each of SDXL's six size conditions


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


def build_autoencoder() -> AutoencoderKL:
    """KL autoencoder: (B, 3, 64, 64) in [-1, 1] to latents (B, 4, 16, 16)."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64), norm_num_groups=8, sample_size=64,
        mid_block_add_attention=False, force_upcast=False,
    )  # fmt: skip


def build_vocabulary() -> CLIPTokenizer:
    """CLIP tokenizer of which every word of every caption is one token.

    The end of text gets the highest id, as in CLIP, whose text tower finds it by that.
    """
    scenes = (full_caption(s, c, DISTRACTORS) for s in SPECIES for c in CONTEXTS)
    texts = (f"{scene}, {', '.join(FLAWS.values())}" for scene in scenes)
    blank = CLIPTokenizer(pad_token="<|endoftext|>")
    learned = blank.train_new_from_iterator(texts, vocab_size=1024, show_progress=False)
    model = json.loads(learned.backend_tokenizer.to_str())["model"]
    words = [word for word in model["vocab"] if not word.startswith("<|")]
    # The trainer lists single letters as a hash map does, differently in every process.
    letters = [word for word in words if len(word.removesuffix("</w>")) == 1]
    words = [*sorted(letters), *words[len(letters) :]]
    vocab = {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    merges = [tuple(merge) for merge in model["merges"]]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=TOKENS)


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Ids (B, 32) of texts, padded or cut to the length of a prompt."""
    options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    return tokenizer(texts, **options).input_ids


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """CLIP text tower of two layers, learned together with the UNet."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), max_position_embeddings=TOKENS, projection_dim=TEXT_WIDTH,
        hidden_size=TEXT_WIDTH, intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=2, num_attention_heads=4, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return CLIPTextModelWithProjection(config)


def build_unet() -> UNet2DConditionModel:
    """SDXL's UNet at 16x16 latents: text attention in the lower two of three levels."""
    return UNet2DConditionModel(
        sample_size=16, block_out_channels=(64, 96, 128), layers_per_block=1, norm_num_groups=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=(2, 3, 4),  # diffusers' name for the number of heads
        use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=_TIME_WIDTH,
        projection_class_embeddings_input_dim=TEXT_WIDTH + 6 * _TIME_WIDTH,
    )  # fmt: skip


def build_scheduler() -> EDMEulerScheduler:
    """CosXL's sampler; a narrower noise range, as 20 steps must do for 16x16 latents."""
    kinds = {"sigma_schedule": "exponential", "prediction_type": "v_prediction"}
    return EDMEulerScheduler(sigma_min=0.02, sigma_max=40.0, sigma_data=1.0, **kinds)


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


def assemble(vae: AutoencoderKL, denoiser: Denoiser, tokenizer: CLIPTokenizer) -> DiffusionPipeline:
    """The pipeline that `DiffusionPipeline.from_pretrained` loads back."""
    return StableDiffusionXLPipeline(
        vae=vae, unet=denoiser.unet, scheduler=build_scheduler(),
        text_encoder=None, text_encoder_2=denoiser.text_encoder,
        tokenizer=None, tokenizer_2=tokenizer,
        add_watermarker=False, force_zeros_for_empty_prompt=False,
    )  # fmt: skip
