"""The shipped text-to-image model, a plan for it, and a Stable Diffusion of the same parts."""

import copy
from functools import cache

import numpy as np
import pandas as pd
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from diffcore.generation import generate, load_pipeline
from paperbirds import SPECIES
from diffcore.params import PipelineSpec
from diffcore.prompts import load_prompt_set, plan_generation

SAMPLER = {"guidance_scale": 3.0, "num_inference_steps": 3, "height": 64, "width": 64}


def make_spec(**changes):
    settings = {
        "kind": "paperbirds", "vae": None, "scheduler": None, "dtype": "float32", "device": "cpu",
        "local_files_only": True,
    }  # fmt: skip
    return PipelineSpec(**(settings | changes))


@cache
def load_shipped():
    """Load the shipped model, once for all tests."""
    return load_pipeline(make_spec())


def make_plan(images, **options):
    sources = pd.DataFrame({
        "source_id": [f"train/{place}" for place in range(images)],
        "class_name": [SPECIES[place % 3] for place in range(images)],
    })  # fmt: skip
    prompt_set = load_prompt_set("package:paperbirds/prompts.yaml")
    return plan_generation(sources, prompt_set, generated_share=1, seed=0, **options)


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
    unet = shipped.unet.config | {
        "addition_embed_type": None, "addition_time_embed_dim": None, "cross_attention_dim": width,
        "projection_class_embeddings_input_dim": None,
    }  # fmt: skip
    config = CLIPTextConfig(
        vocab_size=len(shipped.tokenizer_2), hidden_size=width, intermediate_size=width,
        num_hidden_layers=1, num_attention_heads=2, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    pipeline = StableDiffusionPipeline(
        vae=shipped.vae, text_encoder=CLIPTextModel(config).eval(), tokenizer=shipped.tokenizer_2,
        unet=UNet2DConditionModel.from_config(unet), safety_checker=None, feature_extractor=None,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False), requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
