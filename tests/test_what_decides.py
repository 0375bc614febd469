"""Which results a parameter decides about: those are made anew when it changes, and no others."""

from functools import cache
from types import SimpleNamespace

import pytest
import torch

from diffcore.data.pairs import PairedDataset
from diffcore.generation import draw, edit
from paperbirds.weights import pipeline_dir
from diffcore.params import SAVED, StudyParams, _keys, change_params, dump_params, load_params
from diffcore.store import digest, write_text
from diffcore.study import Study
from diffcore.training.runs import run_key
from diffcore.sweeps import plan_main

pytestmark = pytest.mark.slow

SCHEDULER = {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5}
ALL = "plan drawn edits decided trained"
DRAWN, IMAGES = "plan drawn decided", "drawn edits decided"  # asked otherwise; drawn otherwise
#: Parameter -> another value, and what that makes anew.
DECIDES = {
    "seed": (1, ALL),
    "data.style": (0.3, "edits decided trained"),  # the generator draws in its own
    "data.bias": (0.5, "edits decided trained"),
    "data.train_images_per_class": (3, ALL),
    "data.test_images_per_class": (3, "trained"),
    "prompts.domain": ("birds", DRAWN),
    "prompts.use_context": (False, DRAWN),
    "prompts.use_negatives": (False, DRAWN),
    "prompts.template": ("a {class_name}", DRAWN + " edits"),
    "prompts.contexts": (["open desert"], DRAWN),
    "prompts.negatives": (["car"], DRAWN),
    "generation.pipeline.vae": (str(pipeline_dir() / "vae"), IMAGES),
    "generation.pipeline.dtype": ("bfloat16", IMAGES),
    "generation.pipeline.scheduler.class_name": ("EDMDPMSolverMultistepScheduler", IMAGES),
    "generation.pipeline.scheduler.sigma_min": (0.01, IMAGES),
    "generation.pipeline.scheduler.sigma_max": (60.0, IMAGES),
    "generation.pipeline.scheduler.sigma_data": (1.0, IMAGES),
    "generation.pipeline.scheduler.prediction_type": ("epsilon", IMAGES),
    "generation.pipeline.scheduler.sigma_schedule": ("karras", IMAGES),
    "generation.guidance_scale": (3.0, IMAGES),
    "generation.unguided_steps": (2, DRAWN.removeprefix("plan ")),  # edits ignore it
    "generation.num_inference_steps": (5, IMAGES),
    "generation.height": (72, IMAGES + " trained"),  # DiffuseMix's fractals have its size
    "generation.width": (72, IMAGES),
    "generation.generated_share": (2.0, DRAWN + " edits"),
    "filtering.encoder.kind": ("open_clip", "decided"),
    "filtering.encoder.model_name": ("other", "decided"),
    "filtering.encoder.pretrained": ("other", "decided"),
    "filtering.rule": ("class_mean", "decided"),
    "filtering.threshold": (0.5, "decided"),
    "filtering.quantile": (0.1, "decided"),
    "filtering.max_attempts": (2, "decided"),
    "mixing.alpha": (0.5, "trained"),
    "mixing.patch_share": (0.2, "trained"),
    "mixing.probability": (0.5, "trained"),
    "mixing.edit_prompts": (["misty morning"], "edits"),
    "mixing.edit_strength": (0.5, "edits"),
    "mixing.seam": (0.1, "trained"),
    "mixing.fractals": (5, "trained"),
    "mixing.fractal_share": (0.1, "trained"),
    "training.model": ("resnet18", "trained"),
    "training.model_args": ({"stem_width": 16}, "trained"),
    "training.optimizer": ("sgd", "trained"),
    "training.lr": (0.02, "trained"),
    "training.weight_decay": (0.1, "trained"),
    "training.schedule": ("tanh", "trained"),
    "training.warmup_share": (0.5, "trained"),
    "training.batch_size": (4, "trained"),
    "training.epochs": (2, "trained"),
    "training.steps": (4, "trained"),
    "training.crop_scale": (0.9, "trained"),
    "training.label_smoothing": (0.1, "trained"),
    "training.precision": ("bfloat16", "trained"),
    **{f"training.methods.{name}.probability": (0.3, "trained") for name in (
        "mixup", "cutmix", "saliencymix", "randaugment", "trivialaugment", "augmix", "diffusemix",
        "added", "mixed_added")},
    **{f"training.methods.{name}.alpha": (0.3, "trained") for name in (
        "mixup", "cutmix", "saliencymix")},
    "runs.methods": (["vanilla", "cutmix", "added", "diffcoremix", "mixed_added"], "trained"),
    "runs.seeds": (3, "trained"),
}  # fmt: skip
#: Parameters of speed, of what is measured with the results, and of sweeps, which have runs of
#: their own; and another value.
NEUTRAL = {
    "profile": "other", "data.download": True, "generation.batch_size": 3,
    "generation.shard_size": 3, "filtering.encoder.batch_size": 3,
    "training.loader_workers": 2, "training.checkpoint_every": 3, "training.log_with": "aim",
    "training.device": "cpu" if torch.cuda.is_available() else "auto",
    "runs.sweeps": False, "runs.sweep_seeds": 3, "runs.folds": 3, "runs.filter_seeds": 3,
    "runs.filter_arms": ["margin"], "runs.planted_shares": [0.1],
    "runs.processes": 1, "runs.styles": [0.1], "runs.noise_shares": [0.1], "runs.worlds": 3,
    "runs.images_per_class": [2], "runs.world_seeds": 2, "runs.doses": [], "runs.masses": [0.2],
    "runs.lengths": [5], "runs.biases": [0.1], "runs.sources": False, "runs.tuning": "demo",
    "runs.tuning_seeds": 2, "measure.images": 13, "measure.confidence": 0.9,
    "exports": ["pdf"],
}  # fmt: skip
#: Those of a study of photographs, or of a model that is fetched, which other tests look at.
ELSEWHERE = {
    "data.dataset", "data.root", "data.image_size", "data.test_share", "training.weights",
    "generation.noise_share", "runs.doses.share", "runs.doses.changes",
    *(f"generation.pipeline.{name}" for name in ("kind", "location", "config", "device",
                                                 "local_files_only")),
    "filtering.encoder.device",
}  # fmt: skip
ROOMS = ("measure.", "saliency.", "overhead.", "robustness.")  # which look at results


@pytest.fixture(scope="module")
def base():
    return change_params(load_params("smoke"), {"generation.pipeline.scheduler": SCHEDULER})


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Digests of all that decides about each result of a study; nothing is drawn or trained."""
    asked, nowhere = [], tmp_path_factory.mktemp("nowhere")
    patch = pytest.MonkeyPatch()
    for room in (draw, edit):
        patch.setattr(room, "fill_shards", lambda wanted, *_: asked.append(
            wanted[draw._KEYS].to_json()) or draw.GeneratedSet(wanted, wanted.index.to_numpy())
        )  # fmt: skip

    @cache
    def found(text):
        params = load_params(write_text(nowhere / SAVED, text))
        study = Study(params, nowhere / "runs", nowhere / "report")
        if params.filtering.encoder.kind != "paperbirds":  # which is not here
            study.encoder = SimpleNamespace(model_hash=str(params.filtering.encoder))
        pairs = PairedDataset(study.train)
        vars(study).update(pairs=pairs, pair=lambda _: pairs)
        _ = study.generated, study.edits
        drawn, edits = asked[-2:]
        runs = sorted(run_key(run) for run in plan_main(study))
        return {"plan": digest(study.plan.to_json()), "drawn": drawn, "edits": edits,
                "decided": study.decisions_key, "trained": digest(runs)}  # fmt: skip

    yield lambda params: found(dump_params(params))
    patch.undo()


@pytest.mark.parametrize("key", [*DECIDES, *NEUTRAL])
def test_a_parameter_makes_anew_what_it_decides_about_and_nothing_else(key, base, results):
    if key.startswith("filtering.encoder.") and key.rpartition(".")[2] in {
        "model_name",
        "pretrained",
    }:
        base = change_params(base, {"filtering.encoder.kind": "open_clip"})
    value, expected = DECIDES.get(key) or (NEUTRAL[key], "")
    before, after = results(base), results(change_params(base, {key: value}))
    assert {name for name in before if before[name] != after[name]} == {*expected.split()}


def test_every_parameter_is_looked_at():
    sections = {key.rpartition(".")[0] for key in _keys(StudyParams)}
    left = {
        key for key in _keys(StudyParams) if key not in sections and not key.startswith(ROOMS)
    } - {*DECIDES, *NEUTRAL, *ELSEWHERE}
    assert not left
