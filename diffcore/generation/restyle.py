"""Restyling: training images changed by a style prompt, the first step of DiffuseMix.

Our choice: the study's own text-to-image model restyles, from the noised image (SDEdit, Meng et
al., arXiv 2108.01073), where DiffuseMix (Islam et al., CVPR 2024) takes InstructPix2Pix: so both
methods draw on one model. In DiffuseMix's favour the prompt names the class, of which else little
is left.
"""

from functools import cache
from pathlib import Path

import diffusers
import numpy as np
import pandas as pd
import torch

from diffcore.data.generated import GeneratedSet
from diffcore.data.images import View, as_batch
from diffcore.data.splits import Split
from diffcore.generation.draw import Sampler, checked_pixels, draw_missing
from diffcore.generation.pipelines import LazyPipeline
from diffcore.params import StudyParams
from diffcore.prompts.plan import plan_generation
from diffcore.prompts.prompt_set import choose_prompt_set
from diffcore.store import digest


def plan_restyled(sources: pd.DataFrame, params: StudyParams) -> pd.DataFrame:
    """Plan the restyling of training images (source_id, class_name): a style as the context."""
    styles = {"contexts": params.mixing.edit_prompts, "negatives": ()}
    prompt_set = choose_prompt_set(params.prompts.model_copy(update=styles))
    # As many as other methods have counterparts, and one of each image to be looked at.
    share = max(1.0, params.generation.generated_share)
    return plan_generation(sources, prompt_set, generated_share=share, seed=params.seed)


def restyle_images(
    plan: pd.DataFrame,
    sources: Split,
    pipeline: LazyPipeline | diffusers.DiffusionPipeline,
    out_dir: str | Path,
    *,
    strength: float,
    progress: bool = True,
    **sampler: float,
) -> GeneratedSet:
    """Restyle the source image of every row of `plan_restyled` that a folder lacks.

    Args:
        sources: the images that the plan names; raises KeyError for one that is not there.
        strength: how far back into noise an image is sent, in (0, 1]; at 1 nothing is left of it.
            It is the share of the steps that is run; ValueError if that is none.

    The other arguments and the result are as of `diffcore.generation.generate`.
    """
    pipeline, sampler = LazyPipeline.of(pipeline), Sampler(**sampler)
    steps = sampler.num_inference_steps
    if not (0 < strength <= 1 and int(strength * steps) >= 1):
        raise ValueError(f"strength {strength} leaves none of {steps} steps to run")
    place_of = {source_id: place for place, source_id in enumerate(sources.metadata["source_id"])}
    places = [place_of[source_id] for source_id in plan["source_id"]]
    images = View(sources.images, places, (sampler.height, sampler.width))
    hashes = [digest(pipeline.digest, "edit", strength, image) for image in images]

    @cache
    def load_restyler() -> diffusers.DiffusionPipeline:
        convert = diffusers.AutoPipelineForImage2Image.from_pipe
        restyler = convert(pipeline.load(), add_watermarker=False)
        restyler.set_progress_bar_config(disable=True)
        return restyler

    def restyle_batch(rows: pd.DataFrame) -> np.ndarray:
        guidance = float(sampler.guidance_scale)
        settings = {"num_inference_steps": steps, "guidance_scale": guidance, "strength": strength}
        return _restyle(load_restyler(), rows, images[rows.index], **settings)

    describe = "restyle" if progress else None
    wanted = plan.assign(model_hash=hashes)
    return draw_missing(wanted, restyle_batch, pipeline, sampler, out_dir, describe)


@torch.inference_mode()
def _restyle(
    restyler: diffusers.DiffusionPipeline, rows: pd.DataFrame, images: np.ndarray, **settings: float
) -> np.ndarray:
    """Restyle one batch, (B, H, W, 3) uint8. Each image has a generator of its own."""
    # SDXL's prompts hold the size.
    is_xl = isinstance(restyler, diffusers.StableDiffusionXLImg2ImgPipeline)
    sizes = dict.fromkeys(("original_size", "target_size"), images.shape[1:3]) if is_xl else {}
    restyled = restyler(
        prompt=rows["prompt"].tolist(),
        negative_prompt=rows["negative_prompt"].tolist(),
        image=as_batch(images),
        generator=[torch.Generator().manual_seed(seed) for seed in rows["seed"].tolist()],
        output_type="pt",
        **sizes,
        **settings,
    )
    return checked_pixels(restyled.images)
