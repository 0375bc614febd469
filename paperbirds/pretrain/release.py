"""Measures the trained models on fresh renders, writes them as real ones are, reads them back."""

import json
from datetime import date
from pathlib import Path

import jinja2
import numpy as np
import open_clip
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import save_file
from transformers import CLIPTokenizer

from diffcore.store import write_text
from paperbirds import weights
from paperbirds.birds import SPECIES
from paperbirds.contexts import CONTEXTS
from paperbirds.oracle import Oracle, as_input
from paperbirds.pretrain.models import Models, tokenize
from paperbirds.pretrain.readers import clip_config, encode_targets
from paperbirds.pretrain.renders import RenderSet
from paperbirds.pretrain.text_to_image import psnr

_CARD = "MODEL_CARD.md"


def measure(models: Models, whole: RenderSet, broken: RenderSet) -> dict[str, float]:
    """Quality figures for the model card: PSNR in dB, all others rates in [0, 1]."""
    return {
        "psnr_db": float(psnr(models.pipeline.vae, whole.images).mean()),
        **measure_clip(models.clip, models.tokenizer, whole),
        **measure_oracle(models.oracle, whole, broken),
    }


@torch.inference_mode()
def measure_clip(
    clip: open_clip.CLIP, tokenizer: CLIPTokenizer, renders: RenderSet
) -> dict[str, float]:
    """Zero-shot accuracy: the nearest of all species' and of all contexts' prompts."""
    batches = torch.arange(len(renders.images)).split(250)
    images = [clip.encode_image(as_input(renders.images, at), normalize=True) for at in batches]
    questions = {"species": (SPECIES, "a {}, a bird"), "context": (CONTEXTS, "a bird, {}")}
    rates = {}
    for question, (names, prompt) in questions.items():
        tokens = tokenize(tokenizer, [prompt.format(name) for name in names])
        words = clip.encode_text(tokens, normalize=True)
        nearest = np.array(names)[(torch.cat(images) @ words.T).argmax(1).numpy()]
        right = nearest == renders.metadata[question]
        rates[f"clip_zero_shot_{question}"] = float(right.mean())
    return rates


def measure_oracle(oracle: Oracle, whole: RenderSet, broken: RenderSet) -> dict[str, float]:
    """Share of right answers to each of the oracle's questions."""
    seen, of_broken = (oracle.read(np.asarray(renders.images)) for renders in (whole, broken))
    told = whole.metadata
    present = encode_targets(told)[2].numpy()
    return {
        "oracle_species": float((seen.species == told["species"]).mean()),
        "oracle_context": float((seen.context == told["context"]).mean()),
        "oracle_distractors": float(((seen.distractors > 0.5) == present).mean()),
        "oracle_wellformed_on_whole": float(seen.wellformed.mean()),
        "oracle_malformed_on_malformed": float((~of_broken.wellformed).mean()),
    }


def export(models: Models, root: Path) -> None:
    """Write all models to `root` in half precision, and their sums, for `load` to verify."""
    models.pipeline.to(torch.float16).save_pretrained(root / weights.PIPELINE_FOLDER)
    scale = {"size": 64, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    config = {"model_cfg": clip_config(models.tokenizer), "preprocess_cfg": scale}
    folder = root / weights.CLIP_FOLDER
    write_text(folder / "open_clip_config.json", json.dumps(config, indent=2) + "\n")
    models.tokenizer.save_pretrained(folder)
    save_file(_half(models.clip), folder / "open_clip_model.safetensors")
    save_file(_half(models.oracle), root / weights.ORACLE_FILE)
    weights.write_sums(root)


def load(root: Path) -> Models:
    """Load what ships, in full precision, through the calls that load the real models."""
    pipeline = DiffusionPipeline.from_pretrained(
        root / weights.PIPELINE_FOLDER, local_files_only=True, dtype=torch.float32
    )
    clip, _ = open_clip.create_model_from_pretrained(f"local-dir:{root / weights.CLIP_FOLDER}")
    return Models(pipeline, clip.eval(), weights.load_oracle(root))


def finish(root: Path, facts: dict) -> None:
    """Write the facts, the model card made from them, and the sums of all files."""
    facts = {"date": date.today().isoformat(), "torch": torch.__version__, **facts}
    write_text(root / weights.FACTS_FILE, json.dumps(facts, indent=2) + "\n")
    template = Path(__file__).with_name(f"{_CARD}.j2").read_text(encoding="utf-8")
    card = jinja2.Template(template, trim_blocks=True, keep_trailing_newline=True)
    write_text(root / _CARD, card.render(facts))
    weights.write_sums(root)


def _half(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Weights in half precision, which costs nothing measurable here; counters as they are."""
    return {
        name: (value.half() if value.is_floating_point() else value).contiguous().cpu()
        for name, value in model.state_dict().items()
    }
