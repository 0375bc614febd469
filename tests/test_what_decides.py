"""Which results a parameter decides about: those are made anew when it changes, and no others."""

from functools import cache
from types import SimpleNamespace

import pytest
import torch

from diffcore.data.generated import SETTING_COLUMNS, GeneratedSet
from diffcore.data.pairs import PairedDataset
from diffcore.generation import draw
from diffcore.params import SAVED, change_params, dump_params, load_params, parameter_keys
from diffcore.prompts.plan import PLAN_COLUMNS
from diffcore.store import digest, locate, write_text
from diffcore.study import Study
from diffcore.sweeps import plan_methods
from diffcore.training.runs import run_key

pytestmark = pytest.mark.slow

SCHEDULER = {"class_name": "EDMEulerScheduler", "settings": {"sigma_data": 0.5}}
SHIPPED = "package:paperbirds/weights/text_to_image"
ALL = "plan drawn edits decided trained"
DRAWN, IMAGES = "plan drawn decided", "drawn edits decided"  # asked otherwise; drawn otherwise
#: Parameter -> another value, and what that makes anew.
DECIDES = {
    "seed": (1, ALL),
    "data.options": ({"style": 0.3}, "edits decided trained"),  # the generator draws in its own
    "data.train_images_per_class": (3, ALL),
    "data.test_images_per_class": (3, "trained"),
    "prompts.domain": ("birds", DRAWN),
    "prompts.template": ("a {class_name}", DRAWN + " edits"),
    "prompts.contexts": (["open desert"], DRAWN),
    "prompts.negatives": (["car"], DRAWN),
    "generation.pipeline.vae": (str(locate(SHIPPED) / "vae"), IMAGES),
    "generation.pipeline.dtype": ("bfloat16", IMAGES),
    "generation.pipeline.scheduler.settings": ({"sigma_data": 1.0}, IMAGES),
    "generation.pipeline.scheduler.class_name": ("EDMDPMSolverMultistepScheduler", IMAGES),
    "generation.guidance_scale": (3.0, IMAGES),
    "generation.num_inference_steps": (5, IMAGES),
    "generation.image_size": (72, IMAGES),
    "generation.generated_share": (2.0, DRAWN + " edits"),
    "filtering.encoder.kind": ("timm", "decided"),
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
    "training.model": ("resnet18", "trained"),
    "training.model_args": ({"stem_width": 16}, "trained"),
    "training.optimizer": ("sgd", "trained"),
    "training.lr": (0.02, "trained"),
    "training.weight_decay": (0.1, "trained"),
    "training.warmup_share": (0.5, "trained"),
    "training.batch_size": (4, "trained"),
    "training.epochs": (2, "trained"),
    "training.steps": (4, "trained"),
    "training.crop_scale": (0.9, "trained"),
    "training.precision": ("bfloat16", "trained"),
    "training.methods": ({"mixup": {"probability": 0.3}}, "trained"),
    "runs.methods": (["vanilla", "cutmix", "added", "diffcoremix", "mixed_added"], "trained"),
    "runs.seeds": (3, "trained"),
}  # fmt: skip
#: Parameters of speed, of what is measured with the results, and of sweeps, which have runs of
#: their own; and another value.
NEUTRAL = {
    "profile": "other", "data.download": True, "generation.batch_size": 3,
    "generation.shard_size": 3, "training.loader_workers": 2,
    "training.device": "cpu" if torch.cuda.is_available() else "auto",
    "runs.sweep_seeds": None, "runs.filter_seeds": 3, "runs.filter_conditions": ["margin"],
    "runs.ablation_images": 7, "runs.noise_shares": [0.1], "runs.replicates": 3, "runs.shares": [],
    "runs.pixel_shares": [0.2], "runs.steps": [5], "runs.conditions": {"style": [0.1]},
    "runs.tuning": "demo", "notebooks": {"05_saliency": {"few_per_class": 2}},
}  # fmt: skip
#: Those of a study of photographs, or of a model that is fetched, which other tests look at.
ELSEWHERE = {
    "data.dataset", "data.root", "data.image_size", "training.weights", "runs.shares.share",
    "runs.shares.changes", "filtering.encoder.device",
    *(f"generation.pipeline.{name}" for name in ("kind", "location", "config", "device")),
}  # fmt: skip


@pytest.fixture(scope="module")
def base():
    return change_params(load_params("smoke"), {"generation.pipeline.scheduler": SCHEDULER})


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Digests of all that decides about each result of a study; nothing is drawn or trained."""
    wanted_rows, nowhere = [], tmp_path_factory.mktemp("nowhere")
    patch = pytest.MonkeyPatch()

    def fill(wanted, *_):
        wanted_rows.append(wanted[[*PLAN_COLUMNS, *SETTING_COLUMNS]].to_json())
        return GeneratedSet(wanted, wanted.index.to_numpy())

    patch.setattr(draw, "fill_shards", fill)

    @cache
    def digests(text):
        params = load_params(write_text(nowhere / SAVED, text))
        study = Study(params, nowhere / "runs", nowhere / "report")
        encoder = SimpleNamespace(model_hash=str(params.filtering.encoder))
        vars(study.image_filter).update(encoder=encoder)
        pairs = PairedDataset(study.train)
        vars(study).update(pairs=pairs, pair=lambda _: pairs)
        _ = study.generated, study.restyle()
        drawn, edits = wanted_rows[-2:]
        runs = sorted(run_key(run) for run in plan_methods(study))
        return {"plan": digest(study.plan.to_json()), "drawn": drawn, "edits": edits,
                "decided": study._decisions_key, "trained": digest(runs)}  # fmt: skip

    yield lambda params: digests(dump_params(params))
    patch.undo()


@pytest.mark.parametrize("key", [*DECIDES, *NEUTRAL])
def test_a_parameter_makes_anew_what_it_decides_about_and_nothing_else(key, base, results):
    value, expected = DECIDES.get(key) or (NEUTRAL[key], "")
    before, after = results(base), results(change_params(base, {key: value}))
    assert {name for name in before if before[name] != after[name]} == {*expected.split()}


def test_every_parameter_is_looked_at():
    sections = {key.rpartition(".")[0] for key in parameter_keys()}
    assert not {*parameter_keys()} - sections - {*DECIDES, *NEUTRAL, *ELSEWHERE}
