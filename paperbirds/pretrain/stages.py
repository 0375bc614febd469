"""The stages of ``python -m paperbirds pretrain``: render, train four models, release them.

The autoencoder is first, then the denoiser, CLIP and the oracle. Each stage starts from a seed and
keeps a checkpoint in its folder. A killed run goes on from there.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from diffusers import AutoencoderKL
from open_clip.model import CLIP
from safetensors.torch import save_file
from torch import Tensor, nn

from diffcore.filtering.encoders import Encoder, load_encoder
from diffcore.generation.pipelines import load_pipeline
from diffcore.params import EncoderSpec, PipelineSpec
from diffcore.store import SUMS, digest, write_text, written_whole
from paperbirds import CONTEXTS, DISTRACTORS, SPECIES, load_oracle
from paperbirds.oracle import Oracle
from paperbirds.pretrain import losses
from paperbirds.pretrain import models as tiny
from paperbirds.pretrain.loop import Schedule, device, train
from paperbirds.training_data import GENERATOR_DATA, Recipe, RenderSet, keep, render_set

RECIPES = (GENERATOR_DATA, *(Recipe(**fields) for fields in tiny.CONFIGS["renders"]))
SCHEDULES = {name: Schedule(**fields) for name, fields in tiny.CONFIGS["schedules"].items()}


def pretrain(scale: float, work: Path, out: Path, notes: Sequence[str] | None = None) -> None:
    """Train all models in a folder, export and measure them, and replace the folder `out`.

    `scale` is the share of renders and steps, for tests; `notes` are lines for the model card.
    """
    recipes = [replace(r, count=max(128, int(r.count * scale))) for r in RECIPES]
    schedules = {n: replace(s, steps=max(2, int(s.steps * scale))) for n, s in SCHEDULES.items()}
    renders = {recipe.name: render_set(recipe, work / "renders") for recipe in recipes}
    models = train_models(renders, schedules, work)
    with written_whole(out, folder=True) as aside:
        export(models, aside)
        quality = measure(load_models(aside), renders["test-whole"], renders["test-malformed"])
        notes = notes or ["trained in one go, as `make pretrain` does"]
        finish(aside, describe(models, schedules) | {"quality": quality, "notes": notes})
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
    moments = torch.tensor(keep(path, lambda: losses.encode_all(autoencoder, renders.images)))
    # Latents of unit variance are what the scheduler's sigma_data = 1 stands for.
    scaling_factor = 1 / float(moments[:4096, :4].float().std())
    autoencoder.register_to_config(scaling_factor=scaling_factor)
    return moments


def _key(model: nn.Module, renders: RenderSet) -> str:
    """Return a digest of a model's weights and of a set of renders."""
    return digest(renders.key, *(p.detach().cpu().numpy() for p in model.parameters()))


# ---------------------------------------------------------------------------------------- release
def export(models: tiny.Models, root: Path) -> None:
    """Write all models to a folder in half precision."""
    models.pipeline.to(torch.float16).save_pretrained(root / "text_to_image")
    tokenizer = models.pipeline.tokenizer_2
    scale = {"size": 64, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    config = {"model_cfg": tiny.clip_config(tokenizer), "preprocess_cfg": scale}
    write_text(root / "clip/open_clip_config.json", json.dumps(config, indent=2) + "\n")
    tokenizer.save_pretrained(root / "clip")
    files = {"clip/open_clip_model": models.clip, "oracle": models.oracle}
    for name, model in files.items():
        model.half().to("cpu", memory_format=torch.contiguous_format)
        save_file(model.state_dict(), root / f"{name}.safetensors")


def load_models(root: Path) -> tiny.Models:
    """Load what was exported, in full precision, as the study loads any model."""
    location, plain = str(root / "text_to_image"), {"vae": None, "scheduler": None}
    spec = PipelineSpec(kind="folder", location=location, dtype="float32", device="cpu", **plain)
    clip = EncoderSpec(model_name=f"local-dir:{root / 'clip'}", pretrained=None, device="cpu")
    oracle = load_oracle(root / "oracle.safetensors")
    return tiny.Models(load_pipeline(spec), load_encoder(clip), oracle)


def measure(models: tiny.Models, whole: RenderSet, malformed: RenderSet) -> dict[str, float]:
    """Measure loaded models on renders: PSNR in dB, all others rates in [0, 1]."""
    seen, broken = (models.oracle.read(np.asarray(each.images)) for each in (whole, malformed))
    truth, present = whole.metadata, losses.encode_targets(whole.metadata)[2].numpy()
    return {
        "psnr_db": float(losses.psnr(models.pipeline.vae, whole.images).mean()),
        **measure_clip(models.clip, whole),
        "oracle_species": float((seen.species == truth["species"]).mean()),
        "oracle_context": float((seen.context == truth["context"]).mean()),
        "oracle_distractors": float(((seen.distractors > 0.5) == present).mean()),
        "oracle_wellformed_on_whole": float(seen.wellformed.mean()),
        "oracle_malformed_on_malformed": float((~broken.wellformed).mean()),
    }


def measure_clip(encoder: Encoder, renders: RenderSet) -> dict[str, float]:
    """Return the zero-shot accuracy: the nearest of all species' and of all contexts' prompts."""
    images, rates = encoder.embed_images(renders.images), {}
    questions = {"species": (SPECIES, "a {}, a bird"), "context": (CONTEXTS, "a bird, {}")}
    for question, (names, prompt) in questions.items():
        words = encoder.embed_texts([prompt.format(name) for name in names])
        right = np.array(names)[(images @ words.T).argmax(1)] == renders.metadata[question]
        rates[f"clip_zero_shot_{question}"] = float(right.mean())
    return rates


def finish(root: Path, facts: dict) -> None:
    """Write the facts, the model card made from them, and the sums of all files."""
    facts = {"date": date.today().isoformat(), "torch": torch.__version__, **facts}
    write_text(root / "facts.json", json.dumps(facts, indent=2) + "\n")
    template = Path(__file__).with_name("MODEL_CARD.md.j2").read_text(encoding="utf-8")
    card = jinja2.Template(template, trim_blocks=True, keep_trailing_newline=True)
    write_text(root / "MODEL_CARD.md", card.render(facts))
    files = sorted(file for file in root.rglob("*") if file.is_file())
    sums = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    names = [file.relative_to(root).as_posix() for file in files]
    lines = [f"{digest}  {name}\n" for digest, name in zip(sums, names, strict=True)]
    write_text(root / SUMS, "".join(lines))


def describe(models: tiny.Models, schedules: Mapping[str, Schedule]) -> dict[str, Any]:
    """Return facts for the model card: the device, the world, how each model was trained."""
    denoiser = tiny.Denoiser(models.pipeline.unet, models.pipeline.text_encoder_2)
    trained, training = (models.pipeline.vae, denoiser, models.clip, models.oracle), {}
    for (name, schedule), model in zip(schedules.items(), trained, strict=True):
        facts = {"parameters": sum(p.numel() for p in model.parameters())}
        facts["images"] = schedule.steps * schedule.batch_size
        training[name] = facts | {"batch_size": schedule.batch_size, "lr": schedule.lr}
    counts = {"species": len(SPECIES), "contexts": len(CONTEXTS), "distractors": len(DISTRACTORS)}
    return {"device": str(device()), **counts, "training": training}
