"""The shipped text-to-image model, a plan for it, and a Stable Diffusion of the same parts."""

import copy
from functools import cache

import numpy as np
import pandas as pd
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from diffcore.generation import generate, load_pipeline
from diffcore.params import PipelineSpec
from diffcore.prompts import load_prompt_set, plan_generation
from paperbirds import SPECIES

SAMPLER = {"guidance_scale": 3.0, "num_inference_steps": 2, "height": 64, "width": 64}


def make_spec(**changes):
    settings = {"kind": "folder", "location": "package:paperbirds/weights/text_to_image"}
    settings |= {"vae": None, "scheduler": None, "dtype": "float32", "device": "cpu"}
    return PipelineSpec(**(settings | changes))


@cache
def load_shipped():
    """Load the shipped model, once for all tests."""
    return load_pipeline(make_spec())


def make_plan(images, **parts):
    sources = [(f"train/{place}", SPECIES[place % 3]) for place in range(images)]
    table = pd.DataFrame(sources, columns=["source_id", "class_name"])
    prompt_set = load_prompt_set("package:paperbirds/prompts.yaml", **parts)
    return plan_generation(table, prompt_set, generated_share=1, seed=0)


def draw(plan, pipeline, folder, **options):
    return generate(plan, pipeline, folder, progress=False, **(SAMPLER | options))


def assert_same(one, other, atol=1):
    """Same facts in the same order, and pixels that differ by rounding at most."""
    facts = [each.metadata.drop(columns=["shard", "row"]) for each in (one, other)]
    pd.testing.assert_frame_equal(*facts)
    np.testing.assert_allclose(one.images[:].astype(int), other.images[:].astype(int), atol=atol)


def changed(pipeline):
    """A model of other weights."""
    other = copy.deepcopy(pipeline)
    with torch.no_grad():
        other.unet.conv_out.bias += 0.1
    return other


def make_sd(shipped):
    """Build a pipeline of the make of Stable Diffusion 1.5 around the shipped autoencoder."""
    torch.manual_seed(0)
    width = shipped.text_encoder_2.config.hidden_size
    without = ("addition_embed_type", "addition_time_embed_dim")
    without += ("projection_class_embeddings_input_dim",)
    unet = shipped.unet.config | dict.fromkeys(without) | {"cross_attention_dim": width}
    text = {"vocab_size": len(shipped.tokenizer_2), "bos_token_id": 0, "eos_token_id": 1}
    text |= {"hidden_size": width, "intermediate_size": width, "num_hidden_layers": 1}
    pipeline = StableDiffusionPipeline(
        vae=shipped.vae,
        text_encoder=CLIPTextModel(CLIPTextConfig(**text, num_attention_heads=2)).eval(),
        tokenizer=shipped.tokenizer_2,
        unet=UNet2DConditionModel.from_config(unet),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
