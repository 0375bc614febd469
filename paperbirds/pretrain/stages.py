"""The stages of ``python -m paperbirds pretrain``: render, train four models, release them.

The autoencoder is first, then the denoiser, CLIP and the oracle. Each stage starts from a seed and
keeps a checkpoint in its folder. A killed run goes on from there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from open_clip.model import CLIP
from torch import Tensor, nn

from diffcore.store import digest, written_whole
from paperbirds.birds import SPECIES
from paperbirds.contexts import CONTEXTS, DISTRACTORS
from paperbirds.oracle import Oracle
from paperbirds.pretrain import losses, release
from paperbirds.pretrain import models as tiny
from paperbirds.pretrain.loop import Schedule, device, train
from paperbirds.training_data import GENERATOR_DATA, Recipe, RenderSet, keep, render_set

RECIPES = (GENERATOR_DATA, *(Recipe(**fields) for fields in tiny.CONFIGS["renders"]))
SCHEDULES = {name: Schedule(**fields) for name, fields in tiny.CONFIGS["schedules"].items()}


def pretrain(scale: float, work: Path, out: Path, notes: Sequence[str] | None = None) -> None:
    """Train all models in a folder, export and measure them, and replace the folder `out`.

    `scale` is the share of renders and steps, for tests; `notes` are lines for the model card.
    """
    recipes = [replace(r, count=max(256, int(r.count * scale))) for r in RECIPES]
    schedules = {n: replace(s, steps=max(2, int(s.steps * scale))) for n, s in SCHEDULES.items()}
    renders = {recipe.name: render_set(recipe, work / "renders") for recipe in recipes}
    models = train_models(renders, schedules, work)
    with written_whole(out, folder=True) as aside:
        release.export(models, aside)
        quality = release.measure(aside, renders["test-whole"], renders["test-malformed"])
        notes = notes or ["trained in one go, as `make pretrain` does"]
        release.finish(aside, describe(models, schedules) | {"quality": quality, "notes": notes})
    print(f"The models are in {out}; {work} may be removed.")


def train_models(
    renders: Mapping[str, RenderSet], schedules: Mapping[str, Schedule], folder: Path
) -> tiny.Models:
    """Train all models, except those already trained in `folder`."""
    tokenizer = tiny.build_vocabulary()

    def stage(name: str, build: Callable[[], nn.Module], loss: Callable, *inputs: Any) -> nn.Module:
        # A loss takes the model, the inputs, the size of a batch and the step.
        torch.manual_seed(0)
        model = build().to(device(), memory_format=torch.channels_last)
        loss_fn = partial(loss, model, *inputs, schedules[name].batch_size)
        return train(model, loss_fn, schedules[name], folder / f"{name}.pt")

    image_sets = [renders["generator"].images, renders["clip"].images]
    vae = stage("autoencoder", tiny.build_autoencoder, losses.autoencoder_loss, image_sets)
    moments = _latents(vae, renders["generator"], folder)
    inputs = tokenizer, moments, renders["generator"].metadata, vae.config.scaling_factor
    denoiser = stage(
        "denoiser", partial(tiny.build_denoiser, tokenizer), losses.denoiser_loss, *inputs
    )
    build_clip = partial(CLIP, **tiny.clip_config(tokenizer))
    clip = stage("clip", build_clip, losses.clip_loss, tokenizer, renders["clip"])
    oracle_sets = [renders["whole"], renders["malformed"]]
    for name in ("redrawn-whole", "redrawn-malformed"):
        path = folder / f"{name}-{_key(denoiser, renders[name])}.npy"
        redrawn = keep(path, partial(losses.redraw, vae, denoiser, tokenizer, renders[name]))
        oracle_sets.append(RenderSet(redrawn, renders[name].metadata))
    oracle = stage("oracle", Oracle, losses.oracle_loss, vae, oracle_sets)
    return tiny.Models(tiny.assemble(vae, denoiser, tokenizer), clip, oracle)


def _latents(autoencoder: AutoencoderKL, renders: RenderSet, folder: Path) -> Tensor:
    """Encode renders, once, and set the autoencoder's scale for their latents."""
    path = folder / f"latents-{_key(autoencoder, renders)}.npy"
    moments = torch.tensor(
        keep(path, lambda: losses.encode_all(autoencoder, renders.images).numpy())
    )
    # Latents of unit variance are what the scheduler's sigma_data = 1 stands for.
    scaling_factor = 1 / float(moments[:4096, :4].float().std())
    autoencoder.register_to_config(scaling_factor=scaling_factor)
    return moments


def _key(model: nn.Module, renders: RenderSet) -> str:
    """Return a digest of a model's weights and of a set of renders."""
    return digest(renders.key, *(p.detach().cpu().numpy() for p in model.parameters()))


def describe(models: tiny.Models, schedules: Mapping[str, Schedule]) -> dict[str, Any]:
    """Return facts for the model card: the device, the world, how each model was trained."""
    pipeline, training = models.pipeline, {}
    denoiser = tiny.Denoiser(pipeline.unet, pipeline.text_encoder_2)
    trained = {"autoencoder": pipeline.vae, "denoiser": denoiser}
    for name, model in (trained | {"clip": models.clip, "oracle": models.oracle}).items():
        schedule = asdict(schedules[name])
        training[name] = {
            "parameters": sum(p.numel() for p in model.parameters()),
            "images": schedule["steps"] * schedule["batch_size"],
            **{setting: schedule[setting] for setting in ("batch_size", "lr")},
        }
    counts = {"species": len(SPECIES), "contexts": len(CONTEXTS), "distractors": len(DISTRACTORS)}
    return {"device": str(device()), **counts, "training": training}
