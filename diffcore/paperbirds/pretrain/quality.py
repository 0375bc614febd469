"""Measures the trained models on fresh renders that no stage has seen."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import torch
from transformers import CLIPTokenizer

from diffcore.paperbirds.contexts import CONTEXTS
from diffcore.paperbirds.distractors import DISTRACTORS
from diffcore.paperbirds.oracle import Oracle
from diffcore.paperbirds.pretrain.autoencoder import psnr, scaled
from diffcore.paperbirds.pretrain.renders import RenderRecipe, RenderSet, render_set
from diffcore.paperbirds.pretrain.stages import Models
from diffcore.paperbirds.species import SPECIES

#: Seeds of their own; images of all styles.
WHOLE = RenderRecipe("test-whole", 3_000, 901, None, extra_distractor=0.15)
BROKEN = RenderRecipe("test-malformed", 3_000, 902, None, malformed=True, extra_distractor=0.15)


def measure(models: Models, folder: Path, scale: float = 1.0) -> dict[str, float]:
    """Quality figures for the model card: PSNR in dB, all others rates in [0, 1].

    `scale` times as many renders are measured, but at least 256 of each set.
    """
    recipes = [replace(r, count=max(256, int(r.count * scale))) for r in (WHOLE, BROKEN)]
    whole, broken = (render_set(recipe, folder / "renders") for recipe in recipes)
    return {
        "psnr_db": float(psnr(models.pipeline.vae, whole.images).mean()),
        **measure_clip(models.clip, models.tokenizer, whole),
        **measure_oracle(models.oracle, whole, broken),
    }


def measure_clip(
    clip: open_clip.CLIP, tokenizer: CLIPTokenizer, renders: RenderSet
) -> dict[str, float]:
    """Zero-shot accuracy: the nearest of all species' and of all contexts' prompts."""
    images = _embed(clip, np.asarray(renders.images))
    questions = {"species": (SPECIES, "a {}, a bird"), "context": (CONTEXTS, "a bird, {}")}
    rates = {}
    for fact, (names, prompt) in questions.items():
        tokens = tokenizer([prompt.format(name) for name in names], padding="max_length",
                           truncation=True, return_tensors="pt").input_ids  # fmt: skip
        with torch.inference_mode():
            words = clip.encode_text(tokens, normalize=True)
        nearest = np.array(names)[(images @ words.T).argmax(1).numpy()]
        rates[f"clip_zero_shot_{fact}"] = float((nearest == renders.facts[fact]).mean())
    return rates


def measure_oracle(oracle: Oracle, whole: RenderSet, broken: RenderSet) -> dict[str, float]:
    """Share of right answers to each of the oracle's questions."""
    seen, broken_seen = (
        oracle.read(np.asarray(whole.images)),
        oracle.read(np.asarray(broken.images)),
    )
    present = np.array([[d in shown for d in DISTRACTORS] for shown in whole.facts["distractors"]])
    return {
        "oracle_species": float((seen.species == whole.facts["species"]).mean()),
        "oracle_context": float((seen.context == whole.facts["context"]).mean()),
        "oracle_distractors": float(((seen.distractors > 0.5) == present).mean()),
        "oracle_wellformed_on_whole": float(seen.wellformed.mean()),
        "oracle_malformed_on_malformed": float((~broken_seen.wellformed).mean()),
    }


@torch.inference_mode()
def _embed(clip: open_clip.CLIP, images: np.ndarray) -> torch.Tensor:
    batches = torch.arange(len(images)).split(250)
    return torch.cat([clip.encode_image(scaled(images, at), normalize=True) for at in batches])
