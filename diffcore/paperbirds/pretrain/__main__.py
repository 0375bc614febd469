"""`make pretrain`: train the embedded models and write them to the weights folder.

python -m diffcore.paperbirds.pretrain [--warm-start] [--scale 0.01] [--out FOLDER]
"""

import argparse
import shutil
from pathlib import Path

import torch

from diffcore.paperbirds.contexts import CONTEXTS
from diffcore.paperbirds.distractors import DISTRACTORS
from diffcore.paperbirds.pretrain.export import export, finish, load
from diffcore.paperbirds.pretrain.loop import device
from diffcore.paperbirds.pretrain.quality import measure
from diffcore.paperbirds.pretrain.stages import Models, Plan, pretrain
from diffcore.paperbirds.species import SPECIES
from diffcore.paperbirds.weights import WEIGHTS, verify


def main(arguments: list[str] | None = None) -> None:
    """Train, export, measure what was exported, and replace the weights folder as a whole."""
    options = _parse(arguments)
    plan = Plan().scaled(options.scale)
    if options.warm_start:
        verify(WEIGHTS)
    trained = pretrain(plan, options.work, load(WEIGHTS) if options.warm_start else None)
    aside = options.out.with_name(options.out.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    export(trained, aside)
    # A first set of sums lets the oracle be read back; `finish` writes the final one.
    finish(aside, describe(plan, trained, {}, options))
    quality = measure(load(aside), options.work, options.scale)
    finish(aside, describe(plan, trained, quality, options))
    shutil.rmtree(options.out, ignore_errors=True)
    aside.rename(options.out)
    print(f"The models are in {options.out}; {options.work} may be removed.")


def describe(plan: Plan, models: Models, quality: dict, options: argparse.Namespace) -> dict:
    """Facts for the model card: how each model was trained, and what was measured."""
    parts = {
        "autoencoder": [models.pipeline.vae],
        "denoiser": [models.pipeline.unet, models.pipeline.text_encoder_2],
        "clip": [models.clip],
        "oracle": [models.oracle],
    }
    schedules = {name: getattr(plan, name) for name in parts}
    return {
        "device": str(device()),
        "species": len(SPECIES),
        "contexts": len(CONTEXTS),
        "distractors": len(DISTRACTORS),
        "training": {
            name: {
                "parameters": sum(p.numel() for model in parts[name] for p in model.parameters()),
                "images": schedule.steps * schedule.batch_size,
                "batch_size": schedule.batch_size,
                "lr": schedule.lr,
            }
            for name, schedule in schedules.items()
        },
        "quality": quality,
        "notes": options.note or ["trained in one go, as `make pretrain` does"],
    }


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--warm-start", action="store_true", help="start from the shipped weights")
    parser.add_argument("--scale", type=float, default=1.0, help="share of renders and steps")
    parser.add_argument("--work", type=Path, default=Path("runs/pretrain"), help="checkpoints")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder to write the models to")
    parser.add_argument("--note", action="append", help="a line for the model card")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    return options


if __name__ == "__main__":
    main()
