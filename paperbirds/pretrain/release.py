"""Writes the trained models as real ones are written, reads them back and measures them."""

import hashlib
import json
from datetime import date
from pathlib import Path

import jinja2
import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import save_file

from diffcore.filtering.encoders import Encoder, load_encoder
from diffcore.generation.pipelines import load_pipeline
from diffcore.params import EncoderSpec, PipelineSpec
from diffcore.store import SUMS, write_text
from paperbirds.birds import SPECIES
from paperbirds.contexts import CONTEXTS
from paperbirds.oracle import Oracle, load_oracle
from paperbirds.pretrain.losses import encode_targets, psnr
from paperbirds.pretrain.models import Models, clip_config
from paperbirds.training_data import RenderSet


def export(models: Models, root: Path) -> None:
    """Write all models to a folder in half precision."""
    models.pipeline.to(torch.float16).save_pretrained(root / "text_to_image")
    tokenizer = models.pipeline.tokenizer_2
    scale = {"size": 64, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    config = {"model_cfg": clip_config(tokenizer), "preprocess_cfg": scale}
    write_text(root / "clip/open_clip_config.json", json.dumps(config, indent=2) + "\n")
    tokenizer.save_pretrained(root / "clip")
    save_file(_half(models.clip), root / "clip/open_clip_model.safetensors")
    save_file(_half(models.oracle), root / "oracle.safetensors")


def _half(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Weights in half precision, which costs nothing measurable here; counters as they are."""
    return {
        name: (value.half() if value.is_floating_point() else value).contiguous().cpu()
        for name, value in model.state_dict().items()
    }


def load_text_to_image(root: Path) -> StableDiffusionXLPipeline:
    """Load the text-to-image model of a folder, in full precision."""
    location, plain = str(root / "text_to_image"), {"vae": None, "scheduler": None}
    spec = PipelineSpec(kind="folder", location=location, dtype="float32", device="cpu", **plain)
    return load_pipeline(spec)


def load_clip(root: Path) -> Encoder:
    """Load the tiny CLIP of a folder."""
    location = f"local-dir:{root / 'clip'}"
    return load_encoder(EncoderSpec(model_name=location, pretrained=None, device="cpu"))


def measure(root: Path, whole: RenderSet, malformed: RenderSet) -> dict[str, float]:
    """Measure the models of a folder on renders: PSNR in dB, all others rates in [0, 1]."""
    return {
        "psnr_db": float(psnr(load_text_to_image(root).vae, whole.images).mean()),
        **measure_clip(load_clip(root), whole),
        **measure_oracle(load_oracle(root / "oracle.safetensors"), whole, malformed),
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


def measure_oracle(oracle: Oracle, whole: RenderSet, malformed: RenderSet) -> dict[str, float]:
    """Return the share of right answers to each of the oracle's questions."""
    seen, broken = (oracle.read(np.asarray(renders.images)) for renders in (whole, malformed))
    truth, present = whole.metadata, encode_targets(whole.metadata)[2].numpy()
    return {
        "oracle_species": float((seen.species == truth["species"]).mean()),
        "oracle_context": float((seen.context == truth["context"]).mean()),
        "oracle_distractors": float(((seen.distractors > 0.5) == present).mean()),
        "oracle_wellformed_on_whole": float(seen.wellformed.mean()),
        "oracle_malformed_on_malformed": float((~broken.wellformed).mean()),
    }


def finish(root: Path, facts: dict) -> None:
    """Write the facts, the model card made from them, and the sums of all files."""
    facts = {"date": date.today().isoformat(), "torch": torch.__version__, **facts}
    write_text(root / "facts.json", json.dumps(facts, indent=2) + "\n")
    template = Path(__file__).with_name("MODEL_CARD.md.j2").read_text(encoding="utf-8")
    card = jinja2.Template(template, trim_blocks=True, keep_trailing_newline=True)
    write_text(root / "MODEL_CARD.md", card.render(facts))
    write_sums(root)


def write_sums(root: Path) -> None:
    """Write SHA256SUMS, in the format of sha256sum, over all other files of a folder."""
    files = sorted(file for file in root.rglob("*") if file.is_file() and file.name != SUMS)
    sums = {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    lines = [f"{digest}  {file.relative_to(root).as_posix()}\n" for file, digest in sums.items()]
    write_text(root / SUMS, "".join(lines))
