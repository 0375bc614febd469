"""Overhead: the arithmetic exactly, and the timing by a clock that only the work moves on."""

import math
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from diffcore.data.datasets import load_split
from diffcore.data.generated import GeneratedSet
from diffcore.data.pairs import PairedDataset
from diffcore.filtering.image_filter import ImageFilter
from diffcore.generation.pipelines import LazyPipeline
from diffcore.measure import overhead as evaluate
from diffcore.measure.overhead import Budget, Setting
from diffcore.methods import METHODS
from diffcore.params import TrainingParams, load_params
from diffcore.prompts.plan import plan_generation
from diffcore.prompts.prompt_set import load_prompt_set
from diffcore.store import encode_png
from diffcore.training.train import Step

FETCH, FORWARD, BACKWARD = 0.25, 4.0, 8.0
COSTS = {"vanilla": 0.125, "mixup": 0.5, "diffcoremix": 1.0}


class Pixels:
    """Images that take their time to be fetched."""

    def __init__(self, work):
        self.pixels, self.work = torch.randint(256, (6, 8, 8, 3), dtype=torch.uint8), work

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, rows):
        self.work(FETCH)
        return self.pixels[rows]


class Network(torch.nn.Module):
    """Takes as long as it says, there and back."""

    def __init__(self, work):
        super().__init__()
        self.weight, self.work = torch.nn.Parameter(torch.tensor([[2.0, 0]] * 3)), work

    def forward(self, images):
        self.work(FORWARD)
        logits = images.mean(dim=(2, 3)) @ self.weight
        logits.register_hook(lambda _: self.work(BACKWARD))
        return logits


@pytest.fixture
def setting(monkeypatch):
    """A setting in which every piece of work has its price, and nothing else takes time."""
    clock = [0.0]
    monkeypatch.setattr(evaluate, "now", lambda: clock[0])

    def work(amount):
        clock[0] += amount

    def method(cost):
        def apply(real, other, labels, generator):
            work(cost)
            return real + other, one_hot(labels, 2).float()

        return apply

    methods = {name: method(cost) for name, cost in COSTS.items()}
    training = TrainingParams(batch_size=4, precision="float32", device="cpu")
    images = Pixels(work), Pixels(work), torch.zeros(6, dtype=torch.long)
    return Setting("fake", training, Network(work), methods, *images)


@pytest.fixture(scope="module")
def params():
    return load_params("smoke")


@pytest.fixture(scope="module")
def train(params):
    return load_split(params, "train")


@pytest.fixture(scope="module")
def pairs(train):
    """Each image with itself for a counterpart."""
    return PairedDataset(train, SimpleNamespace(metadata=train.metadata, images=train.images))


def test_an_overhead_is_what_a_method_adds_to_a_vanilla_step(setting):
    times = evaluate.time_steps(setting, repeats=3)
    found = evaluate.step_overheads(times).set_index("method")
    vanilla = FETCH + COSTS["vanilla"] + FORWARD + BACKWARD
    assert found.index.tolist() == list(COSTS)
    assert found.loc["vanilla", ["value", "low", "high", "n"]].tolist() == [0, 0, 0, 3]
    assert found.loc["mixup", "value"] == pytest.approx((0.5 - 0.125) / vanilla)
    assert found.loc["diffcoremix", "value"] == pytest.approx((1 - 0.125 + FETCH) / vanilla)
    assert found.loc["diffcoremix", "own_ms"] == pytest.approx(1125)
    assert (found["step_ms"] == 1000 * vanilla).all()
    whole = evaluate.step_overheads(times, "step").set_index("method")
    assert whole.index.tolist() == ["vanilla", "diffcoremix"]
    columns = found.columns.drop("setting")
    assert whole.loc["diffcoremix", columns].tolist() == pytest.approx(
        found.loc["diffcoremix", columns].tolist()
    )
    ms = evaluate.step_parts(times).set_index(["method", "part"])["ms"]
    assert ms["diffcoremix"].index.tolist() == list(evaluate.STEP_PARTS)
    assert ms["diffcoremix"].tolist() == [250, 250, 1000, 4000, 8000, 0]
    assert ms["vanilla"]["counterparts"] == 0


def test_the_step_that_is_timed_is_the_one_that_trains(setting):
    step = Step(setting.classifier, setting.methods["vanilla"], setting.training)
    phases = evaluate.step_phases(setting, step, "diffcoremix", torch.Generator().manual_seed(0))
    before = setting.classifier.weight.detach().clone()
    evaluate.laps(phases)
    logits = step.images.mean(dim=(2, 3)) @ before
    torch.testing.assert_close(step.loss, cross_entropy(logits, step.targets))
    assert not torch.equal(setting.classifier.weight, before)


LARGE = {"model": "resnet10t", "size": 96, "batch_size": 4, "images": 2}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_settings_hold_every_method_at_their_size_and_each_takes_its_step(params, pairs, precision):
    training = params.training.model_copy(update={"precision": precision})
    changed = params.model_copy(update={"training": training})
    settings = evaluate.make_settings(pairs, changed, **LARGE)
    small, large = settings[:2]
    assert small.training is training
    np.testing.assert_array_equal(small.real.numpy(), pairs.real)
    assert large.name == "resnet10t, 96 × 96, batch 4, CPU"
    assert large.real.shape == large.generated.shape == (2, 96, 96, 3)
    for setting in settings:  # on a GPU too, where there is one
        found = evaluate.step_overheads(evaluate.time_steps(setting, repeats=2))
        assert found["method"].tolist() == list(setting.methods) == list(METHODS)
        assert np.isfinite(found[["value", "low", "high"]].to_numpy()).all()
        assert (found["step_ms"] > 0).all()


IMAGE_TIMES = pd.DataFrame(
    [(repeat, kind, part, value) for repeat in range(3) for kind, part, value in (
        ("counterpart", "UNet", 0.5), ("counterpart", "autoencoder", 0.2),
        ("counterpart", "text and files", 0.1), ("counterpart", "filter", 0.2),
        ("edit", "UNet", 0.3), ("edit", "text and files", 0.1),
    )],
    columns=["repeat", "kind", "part", "seconds"],
)  # fmt: skip


def test_a_kept_image_pays_for_the_rejected():
    costs = evaluate.image_costs(IMAGE_TIMES, 10 / 8).set_index("measure")
    assert costs["value"].to_dict() == pytest.approx({
        "seconds_per_generated": 0.8, "filter_seconds_per_image": 0.2,
        "seconds_per_kept": 1.25, "seconds_per_edit": 0.4,
    })  # fmt: skip
    assert (costs["n"] == 3).all()
    parts = evaluate.image_parts(IMAGE_TIMES, 10 / 8)
    assert parts.groupby("kind")["ms"].sum().to_dict() == pytest.approx(
        {"counterpart": 1250, "edit": 400}
    )
    assert parts["ms"].tolist()[-1] == pytest.approx(250)
    filtered = IMAGE_TIMES[IMAGE_TIMES["part"] == "filter"]  # where nothing was drawn
    costs = evaluate.image_costs(filtered, 2.0).set_index("measure")["value"]
    assert costs.to_dict() == {"filter_seconds_per_image": 0.2, "seconds_per_kept": 0.4}


@pytest.mark.slow
def test_images_are_timed_by_part_and_none_is_left(params, train, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    few, image_filter = train.take(slice(2)), ImageFilter(params.filtering, lambda: train)
    prompt_set = load_prompt_set("package:paperbirds/prompts.yaml")
    plan = plan_generation(few.metadata, prompt_set, generated_share=1, seed=0)
    shown = GeneratedSet(few.metadata, few.images)
    pipeline = LazyPipeline(params.generation.pipeline)
    times = evaluate.time_images(params, plan, few, shown, image_filter, pipeline, 2)
    assert not list(tmp_path.iterdir())
    drawing = ["UNet", "autoencoder", "text and files"]
    found = times.groupby("kind")["part"].apply(list).to_dict()
    assert found == {"counterpart": 2 * [*drawing, "filter"], "edit": 2 * drawing}
    assert (times["seconds"] > 0).all()
    filtered = evaluate.time_images(params, plan, few, shown, image_filter, None, 2)
    assert filtered["part"].tolist() == ["filter", "filter"]


def test_a_budget_is_spread_over_the_epochs():
    budget = Budget(once_s=3.0, epoch_s=0.5, own=0.25)
    assert [budget.overhead(epochs) for epochs in (1, 2, 6)] == [6.25, 3.25, 1.25]
    assert budget.epochs_to(0.75) == 12.0
    assert budget.epochs_to(0.25) == budget.epochs_to(0.1) == math.inf
    free = Budget(once_s=0.0, epoch_s=0.5, own=0.25)
    assert free.overhead(1) == free.overhead(1000) == 0.25
    assert (free.epochs_to(0.25), free.epochs_to(0.2)) == (0.0, math.inf)


def test_what_is_paid_once_depends_on_what_a_method_uses(params):
    costs = evaluate.image_costs(IMAGE_TIMES, 10 / 8)
    methods = ["cutmix", "diffusemix", "added", "diffcoremix", "mixed_added"]
    overheads = pd.DataFrame({"method": methods, "value": 0.5, "step_ms": 800.0})
    budgets = evaluate.make_budgets(overheads, costs, params, batch_size=16)
    assert budgets["cutmix"] == Budget(once_s=0.0, epoch_s=0.05, own=0.5)
    edits = params.generation.generated_share * 0.4
    assert budgets["diffusemix"].once_s == pytest.approx(edits)
    drawn = params.generation.generated_share * 1.25 + 0.2
    assert [budgets[name].once_s for name in methods[2:]] == pytest.approx([drawn] * 3)


def test_ours_costs_no_more_after_some_epochs_or_never():
    budgets = {
        "vanilla": Budget(0.0, 0.5, 0.0), "augmix": Budget(0.0, 0.5, 1.25),
        "diffusemix": Budget(1.0, 0.5, 0.5), "diffcoremix": Budget(4.0, 0.5, 0.25),
    }  # fmt: skip
    even = evaluate.break_even(budgets).set_index("against")["epochs"]
    assert even.to_dict() == {"vanilla": math.inf, "augmix": 8.0}


def test_decoding_is_timed_for_an_image_and_set_against_a_step(params, pairs):
    small = evaluate.make_settings(pairs, params, **LARGE)[0]
    row = evaluate.time_decoding(small, step_ms=500.0, images=3)
    files = [len(encode_png(image)) for image in small.generated[:3].numpy()]
    assert row["kilobytes"] == pytest.approx(np.mean(files) / 1000)
    assert 0 < row["ms"] < 100
    assert row["overhead"] == pytest.approx(row["ms"] * 8 / 500)


def test_jobs_take_turns_in_changing_order():
    order = []
    jobs = {name: lambda name=name: order.append(name) or {"p": 1.0} for name in "abc"}
    table = evaluate.take_repeats(jobs, repeats=8)
    rounds = ["".join(order[start : start + 3]) for start in range(0, 24, 3)]
    assert {"".join(sorted(each)) for each in rounds} == {"abc"}
    assert len(set(rounds)) > 1
    assert table["job"].tolist() == list("abc") * 8
    assert table["repeat"].tolist() == np.repeat(range(8), 3).tolist()


def test_time_in_the_networks_is_counted_and_they_are_left_as_they_were(params):
    pipeline = LazyPipeline(params.generation.pipeline).load()
    hook = pipeline.unet.conv_in.register_forward_pre_hook(lambda *_: time.sleep(0.03))

    def draw():
        pipeline("a blue jay", num_inference_steps=2, height=64, width=64)
        time.sleep(0.1)

    started = time.perf_counter()
    spent = evaluate.time_drawing(pipeline, draw)
    took = time.perf_counter() - started
    hook.remove()
    assert spent["UNet"] >= 0.06
    assert spent["autoencoder"] > 0
    assert spent[evaluate.REST] >= 0.1
    assert took - 0.1 < sum(spent.values()) <= took
    with pytest.raises(ZeroDivisionError):
        evaluate.time_drawing(pipeline, lambda: 1 / 0)
    for network in (pipeline.unet, pipeline.vae.decoder):
        assert not network._forward_hooks
        assert not network._forward_pre_hooks
