"""Writes the trained models in the formats of the real ones, and reads them back."""

import json
from datetime import date
from pathlib import Path

import open_clip
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import save_file

from diffcore.paperbirds.pretrain.clip import clip_config
from diffcore.paperbirds.pretrain.stages import Models
from diffcore.paperbirds.weights import (
    CLIP_FOLDER,
    FACTS_FILE,
    ORACLE_FILE,
    PIPELINE_FOLDER,
    load_oracle,
    write_sums,
)

CARD = "MODEL_CARD.md"


def export(models: Models, root: Path) -> None:
    """Write all models to `root` in half precision; sums are written last, by `finish`."""
    models.pipeline.to(torch.float16).save_pretrained(root / PIPELINE_FOLDER)
    _export_clip(models, root / CLIP_FOLDER)
    save_file(_half(models.oracle), root / ORACLE_FILE)


def load(root: Path) -> Models:
    """Load what ships, in full precision, through the calls that load the real models."""
    pipeline = DiffusionPipeline.from_pretrained(
        root / PIPELINE_FOLDER, local_files_only=True, dtype=torch.float32
    )
    clip, _ = open_clip.create_model_from_pretrained(f"local-dir:{root / CLIP_FOLDER}")
    return Models(pipeline, clip.eval(), load_oracle(root))


def finish(root: Path, facts: dict) -> None:
    """Write the facts, the model card made from them, and the sums of all files."""
    facts = {"date": date.today().isoformat(), "torch": torch.__version__, **facts}
    (root / FACTS_FILE).write_text(json.dumps(facts, indent=2) + "\n")
    (root / CARD).write_text(_card(facts))
    write_sums(root)


def _export_clip(models: Models, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    scale = {"size": 64, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    config = {"model_cfg": clip_config(models.tokenizer), "preprocess_cfg": scale}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    models.tokenizer.save_pretrained(folder)
    save_file(_half(models.clip), folder / "open_clip_model.safetensors")


def _half(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Weights in half precision, which costs nothing measurable here; counters as they are."""
    state = model.state_dict()
    return {
        name: (value.half() if value.is_floating_point() else value).contiguous().cpu()
        for name, value in state.items()
    }


def _card(facts: dict) -> str:
    training = "\n".join(
        f"| {stage} | {x['parameters']:,} | {x['images']:,} | {x['batch_size']} | {x['lr']:g} |"
        for stage, x in facts["training"].items()
    )
    quality = "\n".join(f"| `{name}` | {value:.4g} |" for name, value in facts["quality"].items())
    notes = "\n".join(f"- {note}" for note in facts["notes"])
    return f"""# Model card: the tiny models of Paperbirds

Trained by `make pretrain` ({facts["date"]}, torch {facts["torch"]}, {facts["device"]}) on rendered
cut-paper birds alone: no photograph, no person's data, no weights from elsewhere. MIT licence.

**Use:** to run every step of the study without a download. **Not for** anything outside the world
of Paperbirds: the models know {facts["species"]} species, {facts["contexts"]} contexts and
{facts["distractors"]} distractors, and the words of their captions.

| part | what it is |
|---|---|
| `text_to_image/` | latent diffusion of SDXL's make (diffusers folder), EDM Euler, v-prediction |
| `clip/` | open_clip model, image tower ResNet, text tower of two layers |
| `oracle.safetensors` | classifier of species, context, distractors and form, for evaluation only |

## Training

Muon for matrices and filters, AdamW for the rest, cosine schedule, averaged weights.

| model | parameters | training images seen | batch | peak learning rate |
|---|---|---|---|---|
{training}

## Quality on fresh renders of all styles

| measure | value |
|---|---|
{quality}

What the text-to-image model draws is measured in `reports/demo/01_generation`.

## Notes

{notes}
"""
