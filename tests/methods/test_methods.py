"""Every method: what it does to a batch and its labels, and that it still does the very same."""

import pytest
import torch
from torch import Generator
from torch.nn.functional import one_hot

from diffcore.methods import METHODS, method_of, study_methods
from diffcore.methods import baselines as b
from diffcore.methods.diffusemix import DiffuseMix
from diffcore.methods.generated import Added, DiffCoReMixing, MixedAdded
from diffcore.methods.pixel_share import at_pixel_share
from diffcore.params import ParamsError, load_params

K = 12
LABELS = torch.arange(64) % K
REAL, OTHER = torch.rand(2, 64, 3, 32, 32, generator=Generator().manual_seed(0))


def run(method, generator=None):
    return method.step(K)(REAL, OTHER, LABELS, generator or Generator().manual_seed(1))


def times_noise(values):
    noise = torch.randn(values.shape, generator=Generator().manual_seed(7))
    return (values * noise).sum().item()


#: Images and targets, each times noise, and the next draw, as when methods were no objects yet.
GOLDEN = {
    b.Vanilla(): (226.727, 2.441, 2135392491),
    b.MixUp(0.7, alpha=0.7): (198.180, 1.608, 848474627),
    b.CutMix(0.7, alpha=0.7): (158.602, 2.007, 848474627),
    b.SaliencyMix(0.7, alpha=0.7): (275.724, 1.928, 1166491623),
    b.RandAugment(0.7): (30.401, 2.441, 848474627),
    b.TrivialAugment(0.7): (112.787, 2.441, 848474627),
    b.AugMix(0.7): (243.95, 2.441, 848474627),  # varies with the CPU by 0.02
    DiffuseMix(0.7, seed=3): (36.591, 2.441, 1166491623),
    Added(0.7): (26.537, 2.441, 1768615473),
    DiffCoReMixing(0.7, probability=0.7): (54.775, 2.441, 1792645448),
    MixedAdded(0.7, DiffCoReMixing(0.7, 0.5, 0.8)): (90.423, 2.441, 358828827),
    at_pixel_share("pixel", 0.7): (148.831, 2.441, 358828827),
    at_pixel_share("patch", 0.45, alpha=0.2): (22.193, 2.441, 358828827),
    at_pixel_share("mixed and added", 0.9, alpha=4.0): (83.592, 2.441, 676799350),
}


@pytest.mark.parametrize("method", GOLDEN, ids=str)
def test_draws_stay_those_of_earlier_studies(method):
    generator = Generator().manual_seed(1)
    images, targets = run(method, generator)
    *sums, drawn = GOLDEN[method]
    assert [times_noise(images), times_noise(targets)] == pytest.approx(sums, abs=0.03)
    assert torch.randint(2**31, (), generator=generator).item() == drawn
    assert images.dtype == torch.float32
    assert 0 <= images.min() <= images.max() <= 1
    torch.testing.assert_close(targets.sum(1), torch.ones(64))
    if method.sees != "real":
        assert torch.equal(targets, one_hot(LABELS, K).float())


@pytest.mark.parametrize("name", [name for name in METHODS if name != "vanilla"])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_share_of_the_images_is_changed_and_the_other_labels_stay(name, share):
    unmixed = {"mixing": DiffCoReMixing(probability=0.0)} if name == "mixed_added" else {}
    images, targets = run(METHODS[name](probability=share, **unmixed))
    moved = (images != REAL).flatten(1).any(1)
    assert torch.equal(targets[~moved], one_hot(LABELS, K).float()[~moved])
    assert moved.sum() == 0 if share == 0 else 8 <= moved.sum() <= 48


# ------------------------------------------------------------------------------------- the settings
def test_settings_come_from_the_study():
    changes = {"mixing.alpha": 0.3, "mixing.probability": 0.8, "seed": 5}
    methods = {"cutmix": {"alpha": 0.2}, "mixed_added": {"probability": 0.25}}
    params = load_params("smoke", changes | {"training.methods": methods})
    assert method_of("cutmix", params) == METHODS["cutmix"](alpha=0.2)
    assert method_of("diffusemix", params).seed == 5
    mixing = DiffCoReMixing(0.3, params.mixing.patch_share, 0.8)
    assert method_of("diffcoremix", params) == mixing
    assert method_of("mixed_added", params) == MixedAdded(0.25, mixing)


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"cutmix": {"alpa": 1.0}}, r"training\.methods\.cutmix\.alpa; nearest: alpha; there are"),
        ({"diffusemix": {"seed": 1.0}}, r"methods\.diffusemix\.seed; nearest: probability"),
        ({"diffcoremix": {"alpha": 1.0}}, r"methods\.diffcoremix\.alpha; there are none"),
        ({"added": {"probability": 1.5}}, r"methods\.added\.probability is 1\.5; it must"),
        ({"mixup": {"alpha": 0.0}}, r"training\.methods\.mixup\.alpha is 0\.0; it must be above 0"),
        ({"mixupp": {}}, "no method 'mixupp'; nearest: mixup; there are vanilla, mixup"),
    ],
)
def test_settings_that_are_not_legal_are_named(methods, message):
    with pytest.raises(ParamsError, match=message):
        study_methods(load_params("smoke", {"training.methods": methods}))


def test_settings_at_another_number_of_generated_images_are_checked_too():
    share = {"share": 0.2, "changes": {"training.methods.added.probability": 1.5}}
    with pytest.raises(ParamsError, match=r"added\.probability is 1\.5; it must"):
        study_methods(load_params("smoke", {"runs.shares": [share]}))


def test_the_methods_of_a_study_are_those_that_it_names_and_can_draw_for():
    assert study_methods(load_params("smoke")) == [*METHODS]
    substitute = {"generation.pipeline.kind": "substitute"}
    drawable = study_methods(load_params("smoke", substitute))
    assert {*METHODS} - {*drawable} == {"diffusemix"}
    few = ["mixed_added", "diffcoremix", "added", "cutmix", "vanilla"]
    assert study_methods(load_params("smoke", {"runs.methods": few})) == [*reversed(few)]
    wrong = {"runs.methods": ["mixupp", *few[1:], "diffusemix"]}
    with pytest.raises(ParamsError, match="'mixupp' is no method; 'diffusemix' needs a pipe") as e:
        study_methods(load_params("smoke", wrong | substitute))
    assert "'mixed_added' must be there" in str(e.value)
