"""Choose guidance, steps and solver of the shipped model by its images alone, without an oracle.

    python -m paperbirds choose --profile demo

Images of every species in every context are compared with renders by the Fréchet distance in the
space of the shipped CLIP. First comes the guidance with the least distance, then the fewest steps
that are about as near. ``docs/predictions.md`` states the rule, from before the model was trained.
A person copies the choice into the profiles; a test compares the two.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffcore.measure.image_quality import frechet_distance
from diffcore.params import project_root
from diffcore.prompts.plan import plan_generation
from diffcore.store import write_text
from diffcore.study import Study
from paperbirds.measure import render_scenes
from paperbirds.pretrain.models import CONFIGS

GUIDANCES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 12.0)
STEPS = (6, 12, 24)
#: Solvers of diffusers; the first is the model's own.
SOLVERS = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
AS_NEAR = 1.05  # times the least distance: about as near
_DRAWN, _RENDERED = 3, 20  # images of each pair of species and context
_SEED = 20_000  # of images that no study uses


def plan_pairs(study: Study, count: int, seed: int) -> pd.DataFrame:
    """Plan `count` images of every class in every context of the study's prompt set."""
    names = sorted(study.train.classes)
    sources = pd.DataFrame({"source_id": names, "class_name": names})
    share = count * len(study.prompt_set.contexts)
    return plan_generation(sources, study.prompt_set, generated_share=share, seed=seed)


def choose(studies: Mapping[str, Study]) -> pd.DataFrame:
    """Measure every candidate, with one study per solver: one row each, in their order.

    Columns: part ("guidance" or "steps and solver"), guidance_scale, num_inference_steps, solver,
    distance, chosen.
    """
    study = studies[SOLVERS[0]]
    plan = plan_pairs(study, _DRAWN, _SEED)
    renders = render_scenes(sorted(study.train.classes), _RENDERED, _SEED)
    reference = study.image_filter.encoder.embed_images(np.stack(renders["image"].tolist()))

    def measure(part: str, guidance: float, steps: int, solver: str) -> dict[str, Any]:
        settings = {"guidance_scale": guidance, "num_inference_steps": steps}
        drawn = studies[solver].draw(plan, **settings)
        distance = frechet_distance(drawn.embeddings, reference)
        return {"part": part, **settings, "solver": solver, "distance": distance}

    first = pd.DataFrame([measure("guidance", scale, STEPS[1], SOLVERS[0]) for scale in GUIDANCES])
    nearest = first["distance"].idxmin()
    candidates = [(first.loc[nearest, "guidance_scale"], n, s) for n in STEPS for s in SOLVERS]
    second = pd.DataFrame([measure("steps and solver", *each) for each in candidates])
    enough = second["distance"] <= AS_NEAR * second["distance"].min()
    table = pd.concat([first, second], ignore_index=True)
    return table.assign(chosen=table.index.isin([nearest, len(first) + enough.idxmax()]))


def read_choice() -> pd.DataFrame:
    """Return the committed table of `choose`."""
    return pd.read_csv(_table_path())


def _table_path() -> Path:
    return project_root() / "params" / "tuning" / "sampler.csv"


def run(profile: str) -> None:
    """Measure all candidates of a profile on Paperbirds; write and print the table."""
    schedulers = {s: {"class_name": s, "settings": CONFIGS["scheduler"]} for s in SOLVERS}
    schedulers[SOLVERS[0]] = None  # the model's own
    studies = {
        solver: Study.open("choose", profile, {"generation.pipeline.scheduler": scheduler})
        for solver, scheduler in schedulers.items()
    }
    table = choose(studies)
    path = write_text(_table_path(), table.to_csv(index=False, float_format="%.5f"))
    print(table.to_string(index=False, float_format="{:.4f}".format))
    print(f"\nWritten to {path}; copy what is chosen into the profiles of Paperbirds.")
