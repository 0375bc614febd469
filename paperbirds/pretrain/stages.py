"""The stages of `diffcore pretrain`: render, autoencoder, denoiser, CLIP, oracle, release.

Each stage starts from a seed and keeps checkpoints in its folder, so that a killed run goes on from
there and a finished stage is not trained again.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from open_clip.model import CLIP
from torch import Tensor, nn
from transformers import CLIPTokenizer

from diffcore.store import folder_whole, written_whole
from paperbirds.birds import SPECIES
from paperbirds.contexts import CONTEXTS, DISTRACTORS
from paperbirds.oracle import Oracle
from paperbirds.pretrain import models as tiny
from paperbirds.pretrain.loop import Schedule, device, train
from paperbirds.pretrain.models import Denoiser, Models
from paperbirds.pretrain.readers import clip_config, clip_loss, oracle_loss
from paperbirds.pretrain.release import export, finish, load, measure
from paperbirds.pretrain.renders import RenderRecipe, RenderSet, WebRecipe, render_set
from paperbirds.pretrain.text_to_image import (
    autoencoder_loss,
    denoiser_loss,
    encode_all,
    redraw,
)
from paperbirds.weights import WEIGHTS


@dataclass(frozen=True)
class Plan:
    """All that a pretraining depends on: what is rendered, and how long each stage trains."""

    studio: WebRecipe  # for the denoiser
    any_style: WebRecipe  # for CLIP
    whole: RenderRecipe  # this and the next for the oracle
    malformed: RenderRecipe
    redrawn_whole: RenderRecipe  # the same, for the sampler to draw once more
    redrawn_malformed: RenderRecipe
    test_whole: RenderRecipe
    test_malformed: RenderRecipe
    autoencoder: Schedule
    denoiser: Schedule
    clip: Schedule
    oracle: Schedule

    def scaled(self, factor: float) -> "Plan":
        """The same plan with `factor` times the renders and steps, for tests."""
        changed = {}
        for name, part in vars(self).items():
            size, floor = ("count", 256) if isinstance(part, RenderRecipe) else ("steps", 2)
            changed[name] = replace(part, **{size: max(floor, int(getattr(part, size) * factor))})
        return Plan(**changed)


#: What the shipped models were trained by and measured on.
PLAN = Plan(
    studio=WebRecipe("web-studio", 64_000, 108, 0.0, extra_distractor=0.10),
    any_style=WebRecipe("web-balanced", 48_000, 105, None, False, 0.15, flawed=0.10, balanced=True),
    whole=RenderRecipe("whole", 32_000, 104, None, extra_distractor=0.15),
    malformed=RenderRecipe("malformed", 32_000, 103, None, True, extra_distractor=0.15),
    redrawn_whole=RenderRecipe("studio-whole", 3_000, 106, 0.0, extra_distractor=0.15),
    redrawn_malformed=RenderRecipe("studio-malformed", 3_000, 107, 0.0, True, 0.15),
    test_whole=RenderRecipe("test-whole", 3_000, 901, None, extra_distractor=0.15),
    test_malformed=RenderRecipe("test-malformed", 3_000, 902, None, True, extra_distractor=0.15),
    autoencoder=Schedule(4_500, batch_size=8, lr=6.0e-3),
    denoiser=Schedule(4_000, batch_size=64, lr=4.0e-3, save_every=100),
    clip=Schedule(1_000, batch_size=128, lr=4.0e-3),
    oracle=Schedule(1_500, batch_size=64, lr=2.0e-3),
)


def pretrain(plan: Plan, folder: Path) -> Models:
    """Train all models, those already trained in `folder` excepted."""
    recipes = (plan.studio, plan.any_style, plan.whole, plan.malformed)
    studio, any_style, whole, malformed = (
        render_set(recipe, folder / "renders") for recipe in recipes
    )
    tokenizer = tiny.build_vocabulary()

    def stage(name: str, build: Callable[[], nn.Module], loss: Callable, *given: Any) -> nn.Module:
        # A loss takes the model, what is given, the size of a batch and the step.
        torch.manual_seed(0)
        schedule = getattr(plan, name)
        model = build().to(device(), memory_format=torch.channels_last)
        loss_fn = partial(loss, model, *given, schedule.batch_size)
        return train(model, loss_fn, schedule, folder / f"{name}.pt")

    image_sets = [studio.images, any_style.images]
    vae = stage("autoencoder", tiny.build_autoencoder, autoencoder_loss, image_sets)
    moments = _latents(vae, plan.studio, studio, folder)
    denoiser = stage(
        "denoiser", lambda: Denoiser(tiny.build_unet(), tiny.build_text_encoder(tokenizer)),
        denoiser_loss, tokenizer, moments, studio.metadata, vae.config.scaling_factor,
    )  # fmt: skip
    clip = stage("clip", lambda: CLIP(**clip_config(tokenizer)), clip_loss, tokenizer, any_style)
    recipes = (plan.redrawn_whole, plan.redrawn_malformed)
    redrawn = [_redrawn(vae, denoiser, tokenizer, recipe, folder) for recipe in recipes]
    oracle = stage("oracle", Oracle, oracle_loss, vae, [whole, malformed, *redrawn])
    return Models(tiny.assemble(vae, denoiser, tokenizer), clip, oracle)


def _latents(
    autoencoder: AutoencoderKL, recipe: RenderRecipe, renders: RenderSet, folder: Path
) -> Tensor:
    """Latents of all studio renders, kept in a file named after them and the autoencoder's weights.

    Tells the autoencoder how to scale them.
    """
    path = folder / f"latents-{recipe.key(*_weights(autoencoder))}.pt"
    if not path.exists():
        with written_whole(path) as aside:
            torch.save(encode_all(autoencoder, renders.images), aside)
    moments = torch.load(path, weights_only=True)
    # Latents of unit variance are what the scheduler's sigma_data = 1 stands for.
    scaling_factor = 1 / float(moments[:4096, :4].float().std())
    autoencoder.register_to_config(scaling_factor=scaling_factor)
    return moments


def _redrawn(
    autoencoder: AutoencoderKL, denoiser: Denoiser, tokenizer: CLIPTokenizer,
    recipe: RenderRecipe, folder: Path,
) -> RenderSet:  # fmt: skip
    """Renders as the sampler gives them back, kept in a file named after the denoiser's weights."""
    renders = render_set(recipe, folder / "renders")
    path = folder / f"redrawn-{recipe.name}-{recipe.key(*_weights(denoiser))}.npy"
    if not path.exists():
        with written_whole(path) as aside, aside.open("wb") as file:
            np.save(file, redraw(autoencoder, denoiser, tokenizer, renders))
    return RenderSet(np.load(path), renders.metadata)


def _weights(model: nn.Module) -> list[np.ndarray]:
    return [p.detach().cpu().numpy() for p in model.parameters()]


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, export, measure what was exported, and replace the weights folder as a whole."""
    options = _parse(arguments)
    plan = PLAN.scaled(options.scale)
    trained = pretrain(plan, options.work)
    recipes = (plan.test_whole, plan.test_malformed)
    fresh = [render_set(recipe, options.work / "renders") for recipe in recipes]
    with folder_whole(options.out) as aside:
        export(trained, aside)
        quality = measure(load(aside), *fresh)
        finish(aside, describe(plan, trained, quality, options.note))
    print(f"The models are in {options.out}; {options.work} may be removed.")


def describe(plan: Plan, models: Models, quality: dict, notes: Sequence[str] | None) -> dict:
    """Facts for the model card: how each model was trained, and what was measured."""
    pipeline, training = models.pipeline, {}
    denoiser = Denoiser(pipeline.unet, pipeline.text_encoder_2)
    stages = {"autoencoder": pipeline.vae, "denoiser": denoiser}
    stages |= {"clip": models.clip, "oracle": models.oracle}
    for name, model in stages.items():
        schedule, parameters = getattr(plan, name), sum(p.numel() for p in model.parameters())
        images = {"images": schedule.steps * schedule.batch_size}
        rate = {"batch_size": schedule.batch_size, "lr": schedule.lr}
        training[name] = {"parameters": parameters, **images, **rate}
    counts = {"species": len(SPECIES), "contexts": len(CONTEXTS), "distractors": len(DISTRACTORS)}
    notes = notes or ["trained in one go, as `make pretrain` does"]
    found = {"training": training, "quality": quality, "notes": notes}
    return {"device": str(device()), **counts, **found}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("diffcore pretrain", description=main.__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="share of renders and steps")
    parser.add_argument("--work", type=Path, default=Path("runs/pretrain"), help="checkpoints")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder to write the models to")
    parser.add_argument("--note", action="append", help="a line for the model card")
    return parser.parse_args(arguments)
