"""Dummies of the models that the paper's profiles name: the same formats and parts, but tiny.

CosXL is a checkpoint of SDXL's make in one file, with Stability's own names for its weights. The
dummy is written with those names by hand, as the published file has them, so that reading it is a
test of everything between such a file and an image. Beside it lie what a person fetches with it:
the configuration and tokenizers of SDXL, an autoencoder of its own, and a CLIP of ViT-B/32's shape.
"""

import json
import re
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import open_clip
import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from diffcore.params import load_params

#: Widths of the text encoders, by which diffusers tells them apart, as 768 and 1280 of SDXL's.
FIRST, SECOND = 16, 32
LAYERS = 2  # of residual blocks on each level of the UNet: SDXL's own number
#: Parts of a residual block of the UNet: what diffusers calls them, and Stability.
RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
ENDS = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
#: Parts of a layer of a text encoder in the names of OpenCLIP; its attention has one matrix for
#: query, key and value.
OPEN_CLIP = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}  # fmt: skip
#: Parts of the attention of an autoencoder.
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}

#: What SDXL's tokenizers say of the marks of a text.
PLAIN = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}


@dataclass(frozen=True)
class DummyModels:
    """Where everything lies that a profile of the paper names."""

    folder: Path  # the pipeline in the format of diffusers
    file: Path  # the same as one file
    config: Path  # what the file lacks
    vae: Path  # an autoencoder that replaces the pipeline's own
    clip: Path  # a folder of open_clip


def make_dummy_models(home: Path, seed: int = 0) -> DummyModels:
    """Make all of them in a folder, in a second or two."""
    models = DummyModels(home / "pipeline", home / "cosxl.safetensors", home / "sdxl-config",
                  home / "sdxl-vae-fp16-fix", home / "clip")  # fmt: skip
    torch.manual_seed(seed)
    pipeline = make_pipeline()
    pipeline.save_pretrained(models.folder)
    save_file(as_one_file(pipeline), models.file)
    shutil.copytree(models.folder, models.config, ignore=shutil.ignore_patterns("*.safetensors"))
    for name in ("tokenizer", "tokenizer_2"):
        write_tokenizer(getattr(pipeline, name), models.config / name)
    make_autoencoder(force_upcast=False).save_pretrained(models.vae)
    make_clip(models.clip)
    return models


def overrides(models: DummyModels, data: dict[str, str], image_size: int = 32) -> dict:
    """Turn a profile of the paper into one for a CPU, with no change but in its parameters.

    Args:
        models: stand for those that a person fetches.
        data: parameters that open a small set, as from `layouts.lay_out`.
        image_size: of the photographs, pixels.
    """
    smoke = load_params("smoke").model_dump(mode="json")  # as a notebook takes them
    few = {name: smoke[name] for name in ("mixing", "training", "runs", "notebooks")}
    return few | data | places(models) | {
        "data.image_size": image_size, "data.download": False,
        "generation.pipeline.dtype": "float32", "generation.pipeline.device": "cpu",
        "generation.num_inference_steps": 2, "generation.image_size": 64,
        "generation.generated_share": 1.0, "generation.batch_size": 4, "generation.shard_size": 8,
        "filtering.encoder.device": "cpu", "mixing.edit_strength": 0.6,
    }  # fmt: skip


def places(models: DummyModels) -> dict:
    """Name the dummies where the profiles name the models that a person fetches."""
    return {
        "generation.pipeline.location": str(models.file),
        "generation.pipeline.config": str(models.config),
        "generation.pipeline.vae": str(models.vae),
        "filtering.encoder.model_name": f"local-dir:{models.clip}",
        "filtering.encoder.pretrained": None,
    }


# --------------------------------------------------------------------------------------- the parts
def make_pipeline():
    """Build SDXL with everything that its base has but the size, and the scheduler of the base."""
    return StableDiffusionXLPipeline(
        vae=make_autoencoder(force_upcast=True),
        text_encoder=CLIPTextModel(text_config(FIRST, "quick_gelu")),
        tokenizer=make_tokenizer("<|endoftext|>"),
        text_encoder_2=CLIPTextModelWithProjection(text_config(SECOND, "gelu")),
        tokenizer_2=make_tokenizer("!"),
        unet=make_unet(),
        scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear", steps_offset=1),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )


def make_unet():
    """Build SDXL's UNet: three levels, the outer one without attention."""
    return UNet2DConditionModel(
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16, 32),
        layers_per_block=LAYERS,
        transformer_layers_per_block=(1, 1, 2),
        attention_head_dim=(1, 2, 4),
        cross_attention_dim=FIRST + SECOND,
        norm_num_groups=8,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + SECOND,
    )


def make_autoencoder(force_upcast):
    """Build SDXL's autoencoder, of eight pixels a side for each latent."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=2,
        norm_num_groups=8,
        sample_size=64,
        scaling_factor=0.13025,
        force_upcast=force_upcast,
    )


def text_config(width, activation):
    # The end of a text is 2 in SDXL's files, which means the greatest of its tokens, not the third.
    return CLIPTextConfig(
        vocab_size=len(vocabulary()[0]),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=width,
        hidden_act=activation,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
    )


@cache
def vocabulary():
    """CLIP's own, by which a prompt is as long as it is for SDXL: tokens, and pairs that merge."""
    tokenizer = open_clip.SimpleTokenizer()
    marks = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    tokens = {marks.get(token, token): place for token, place in tokenizer.encoder.items()}
    return tokens, list(tokenizer.bpe_ranks)


def make_tokenizer(padding):
    tokens, merges = vocabulary()
    return CLIPTokenizer(vocab=tokens, merges=merges, pad_token=padding, model_max_length=77)


def write_tokenizer(tokenizer, folder):
    """Write a tokenizer as SDXL's repository has it: vocabulary and merges in own files."""
    shutil.rmtree(folder)
    folder.mkdir()
    tokens, merges = vocabulary()
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "vocab.json").write_text(json.dumps(tokens), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    names = ("bos_token", "eos_token", "unk_token")
    marks = {name: {"content": getattr(tokenizer, name), **PLAIN} for name in names}
    padding = {"pad_token": tokenizer.pad_token}
    (folder / "special_tokens_map.json").write_text(json.dumps(marks | padding))
    typed = {name: {"__type": "AddedToken", **mark} for name, mark in marks.items()}
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | typed | padding))


# ------------------------------------------------------------------------------------ the one file
def as_one_file(pipeline):
    """Name the weights of a pipeline as Stability does in one file."""
    unet = {unet_key(key): weight for key, weight in pipeline.unet.state_dict().items()}
    first, second = pipeline.text_encoder.state_dict(), pipeline.text_encoder_2.state_dict()
    parts = {
        "model.diffusion_model.": unet,
        "first_stage_model.": autoencoder_weights(pipeline.vae.state_dict()),
        "conditioner.embedders.0.transformer.text_model.": {
            key.removeprefix("text_model."): weight for key, weight in first.items()
        },
        "conditioner.embedders.1.model.": open_clip_weights(second),
    }
    # Which are in the published file too, and of no use to diffusers.
    more = {
        "conditioner.embedders.0.transformer.text_model.embeddings.position_ids":
            torch.arange(77)[None],
        "conditioner.embedders.1.model.logit_scale": torch.tensor(4.6),
        "edm_vpred.sigma_max": torch.tensor(120.0),
        "edm_vpred.sigma_min": torch.tensor(0.002),
    }  # fmt: skip
    named = {start + key: weight for start, part in parts.items() for key, weight in part.items()}
    return {key: weight.contiguous().clone() for key, weight in (named | more).items()}


def unet_key(key):
    """Name a weight of the UNet: `down_blocks.1.attentions.0.norm` is `input_blocks.4.1.norm`."""
    name, kind = key.rsplit(".", 1)
    if name in ENDS:
        return f"{ENDS[name]}.{kind}"
    side, *rest = re.match(r"(down|mid|up)_block(?:s\.(\d))?\.(\w+)\.(\d)\.(.+)", key).groups()
    level, part, place, inner = int(rest[0] or 0), rest[1], int(rest[2]), rest[3]
    if part == "resnets":
        outer, _, kind = inner.rpartition(".")
        inner = f"{RESNET[outer]}.{kind}"
    if side == "mid":
        return f"middle_block.{2 * place if part == 'resnets' else 1}.{inner}"
    if side == "down":
        first = 1 + (LAYERS + 1) * level  # input_blocks.0 is the first convolution
        if part == "downsamplers":
            return f"input_blocks.{first + LAYERS}.0.{inner.replace('conv', 'op')}"
        return f"input_blocks.{first + place}.{int(part == 'attentions')}.{inner}"
    first = (LAYERS + 1) * level
    if part == "upsamplers":
        return f"output_blocks.{first + LAYERS}.2.{inner}"
    return f"output_blocks.{first + place}.{int(part == 'attentions')}.{inner}"


def open_clip_weights(weights):
    """Name the weights of a text encoder as OpenCLIP does, with one matrix for three."""
    own = {
        "positional_embedding": weights["text_model.embeddings.position_embedding.weight"],
        "token_embedding.weight": weights["text_model.embeddings.token_embedding.weight"],
        "text_projection": weights["text_projection.weight"].T,
    }
    for key, weight in weights.items():
        name, kind = key.removeprefix("text_model.").rsplit(".", 1)
        if name == "final_layer_norm":
            own[f"ln_final.{kind}"] = weight
        elif layer := re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)", name):
            block, part = f"transformer.resblocks.{layer[1]}", layer[2]
            if part in OPEN_CLIP:
                own[f"{block}.{OPEN_CLIP[part]}.{kind}"] = weight
            elif part.endswith("q_proj"):
                three = [weights[key.replace("q_proj", f"{one}_proj")] for one in "qkv"]
                own[f"{block}.attn.in_proj_{kind}"] = torch.cat(three)
    return own


def autoencoder_weights(weights):
    """Name the weights of an autoencoder as Stability does; its attention is of convolutions."""
    own = {}
    for key, weight in weights.items():
        new = autoencoder_key(key)
        is_matrix = ".attn_1." in new and weight.ndim == 2
        own[new] = weight[:, :, None, None] if is_matrix else weight
    return own


def autoencoder_key(key):
    """Name a weight of the autoencoder: `down_blocks.0.resnets.1` is `down.0.block.1`."""
    key = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda at: f"mid.block_{int(at[1]) + 1}", key)
    key = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", key)
    key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
    # Counted from the outside, in the decoder too.
    key = re.sub(r"up_blocks\.(\d)\.resnets", lambda at: f"up.{3 - int(at[1])}.block", key)
    key = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda at: f"up.{3 - int(at[1])}.upsample", key)
    for part, name in ATTENTION.items():
        key = key.replace(f"mid_block.attentions.0.{part}", f"mid.attn_1.{name}")
    return key


# ---------------------------------------------------------------------------------------- the CLIP
def make_clip(folder):
    """Write a CLIP of ViT-B/32's shape, narrow and shallow, as a folder of open_clip.

    The activation and the preprocessing are those of OpenAI's weights, the vocabulary is the one
    that open_clip has with it.
    """
    settings = {
        "embed_dim": 32,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 224, "patch_size": 32, "width": 64, "layers": 2},
        "text_cfg": {
            "context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2,
        },
    }  # fmt: skip
    model = open_clip.CLIP(**settings)
    centre(model.visual)
    preprocessing = {
        "mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD,
        "interpolation": "bicubic", "resize_mode": "shortest",
    }  # fmt: skip
    folder.mkdir()
    text = json.dumps({"model_cfg": settings, "preprocess_cfg": preprocessing})
    (folder / "open_clip_config.json").write_text(text)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")


@torch.no_grad()
def centre(tower):
    """Let embeddings of images lie about zero, or all would look alike and none be rejected."""
    found = []
    watch = tower.ln_post.register_forward_hook(lambda *call: found.append(call[-1]))
    tower.eval()(torch.randn(64, 3, 1, 1).expand(-1, -1, 224, 224))  # of a single colour each
    watch.remove()
    tower.ln_post.bias -= found[0][:, 0].mean(0)  # of the place that stands for the image
