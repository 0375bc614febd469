"""Choose guidance, steps and solver of the shipped model by its images alone, without an oracle.

    diffcore choose --profile demo      (or: make choose)

Images of every species in every context are compared with renders that nothing was trained on, by
the Fréchet distance in the space of the shipped CLIP. First the guidance with the least distance is
taken, then the fewest steps that are about as near at that guidance. The rule stands in
``docs/predictions.md``, from before the model was trained. What is chosen is copied into the
profile by hand, so that a study never chooses in passing; a test holds the two together.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffcore.measure.embeddings import frechet_distance
from diffcore.params import project_root
from diffcore.prompts.plan import plan_generation
from diffcore.store import write_text
from paperbirds.pretrain.models import build_scheduler

GUIDANCES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 12.0)
STEPS = (6, 12, 24)
SOLVERS = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
AS_NEAR = 1.05  # times the least distance: about as near
_DRAWN, _RENDERED = 3, 20  # images of each pair of species and context
_SEED = 20_000  # of images that no study uses

#: `diffcore.study.Study`, which stands above this room.
Study = Any


def plan_pairs(study: Study, count: int, seed: int) -> pd.DataFrame:
    """Plan `count` images of every class in every context of the study's prompt set."""
    names = sorted(study.train.classes)
    sources = pd.DataFrame({"source_id": names, "class_name": names})
    share = count * len(study.prompt_set.contexts)
    return plan_generation(sources, study.prompt_set, generated_share=share, seed=seed)




def choose(studies: dict[str, Study]) -> pd.DataFrame:
    """Measure every candidate, of a study with each solver: a row a candidate, in their order.

    Columns: part ("guidance" or "steps and solver"), guidance_scale, num_inference_steps, solver,
    distance, chosen.
    """
    study = studies[SOLVERS[0]]
    plan = plan_pairs(study, _DRAWN, _SEED)
    renders = render_scenes(sorted(study.train.classes), _RENDERED, _SEED)
    reference = study.encoder.embed_images(np.stack(renders["image"].tolist()))

    def measure(part: str, guidance: float, steps: int, solver: str) -> dict[str, Any]:
        drawn = studies[solver].draw(plan, guidance_scale=guidance, num_inference_steps=steps)
        distance = frechet_distance(drawn.embeddings, reference)
        settings = {"guidance_scale": guidance, "num_inference_steps": steps, "solver": solver}
        return {"part": part, **settings, "distance": distance}

    first = pd.DataFrame([measure("guidance", w, STEPS[1], SOLVERS[0]) for w in GUIDANCES])
    nearest = first["distance"].idxmin()
    guidance = first.loc[nearest, "guidance_scale"]
    second = pd.DataFrame(
        [measure("steps and solver", guidance, n, s) for n in STEPS for s in SOLVERS]
    )
    enough = second["distance"] <= AS_NEAR * second["distance"].min()
    table = pd.concat([first, second], ignore_index=True)
    return table.assign(chosen=table.index.isin([nearest, len(first) + enough.idxmax()]))


def read_choice() -> pd.DataFrame:
    """The committed table of `choose`."""
    return pd.read_csv(_table_path())


def as_curves(table: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, float]]:
    """Points of a figure, a panel a part (x, value, solver, part), and what was chosen in each."""
    names = {"EDMEulerScheduler": "Euler", "EDMDPMSolverMultistepScheduler": "DPM++ 2M"}
    first = table["part"] == "guidance"
    x = table["guidance_scale"].where(first, table["num_inference_steps"])
    part = table["part"].map({"guidance": "guidance scale", "steps and solver": "denoising steps"})
    drawn = pd.DataFrame({"part": part, "x": x, "value": table["distance"]})
    drawn["solver"] = table["solver"].map(names)
    return drawn, drawn[table["chosen"]].set_index("part")["x"].to_dict()


def _table_path() -> Path:
    return project_root() / "params" / "tuning" / "sampler.csv"


def open_studies(name: str, profile: str) -> dict[str, Study]:
    """Open a profile's study on Paperbirds with each of `SOLVERS`, the model's own first.

    They guide every step, whatever the profile says, as what is compared is guided so.
    """
    from diffcore.study import Study  # stands above this room; the commands alone need it

    sigmas = ("sigma_min", "sigma_max", "sigma_data", "prediction_type", "sigma_schedule")
    own = {key: build_scheduler().config[key] for key in sigmas}
    # None is the model's own, which is the first.
    changes = {solver: {"class_name": solver, **own} for solver in SOLVERS} | {SOLVERS[0]: None}
    guided, key = {"generation.unguided_steps": 0}, "generation.pipeline.scheduler"
    return {
        solver: Study.open(name, profile, guided | {key: change})
        for solver, change in changes.items()
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure all candidates of a profile on Paperbirds, and write and print the table."""
    parser = argparse.ArgumentParser(prog="diffcore choose", description=__doc__)
    parser.add_argument("--profile", default="demo", help="file in params/, or path of one")
    options = parser.parse_args(arguments)
    studies = open_studies("choose", options.profile)
    table = choose(studies)
    path = write_text(_table_path(), table.to_csv(index=False, float_format="%.5f"))
    print(table.to_string(index=False, float_format="{:.4f}".format))
    print(f"\nWritten to {path}; copy what is chosen into the profiles of Paperbirds.")
