"""Overhead: the arithmetic exactly, and the timing by a clock that only the work moves on."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from twin import make_twin

from diffcore import overhead
from diffcore.bench import laps, take_turns
from diffcore.filtering import save_decisions
from diffcore.methods import METHODS
from diffcore.mixing_study import load_pairs
from diffcore.overhead import Budget, Setting
from diffcore.params import OverheadParams, TrainingParams, load_params

FETCH, FORWARD, BACKWARD = 0.25, 4.0, 8.0
COSTS = {"vanilla": 0.125, "mixup": 0.5, "diffcoremix": 1.0}
EFFORT = OverheadParams(
    model="resnet10t", size=64, batch_size=2, num_classes=5, turns=2, own_turns=2, repeats=1,
    images=2, image_turns=2,
)  # fmt: skip
seconds = st.floats(0.001, 1000)


class Clock:
    """A clock that stands still but for `work`."""

    time = 0.0

    def __call__(self):
        return self.time

    def work(self, amount):
        self.time += amount


class Network(torch.nn.Module):
    """Takes as long as it says, there and back."""

    def __init__(self, clock):
        super().__init__()
        self.weight, self.clock = torch.nn.Parameter(torch.ones(3, 2)), clock

    def forward(self, images):
        self.clock.work(FORWARD)
        logits = images.mean(dim=(2, 3)) @ self.weight
        logits.register_hook(lambda _: self.clock.work(BACKWARD))
        return logits


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def setting(clock, monkeypatch):
    """A setting in which every piece of work has its price."""

    def crop(images, scale, generator):
        clock.work(FETCH)
        return images

    def method(cost):
        def apply(real, other, labels, generator):
            clock.work(cost)
            return real + other, torch.nn.functional.one_hot(labels, 2).float()

        return apply

    monkeypatch.setattr(overhead, "crop_and_flip", crop)
    pixels = torch.randint(256, (6, 8, 8, 3), dtype=torch.uint8)
    methods = {name: method(cost) for name, cost in COSTS.items()}
    return Setting(
        "fake", Network(clock), pixels, pixels.clone(), torch.arange(6) % 2, methods,
        TrainingParams(batch_size=4),
    )  # fmt: skip


@pytest.fixture(scope="module")
def params():
    return load_params("smoke")


@pytest.fixture(scope="module")
def twin():
    return make_twin()


@pytest.fixture(scope="module")
def pairs(params, twin, tmp_path_factory):
    return load_pairs(params, twin, tmp_path_factory.mktemp("run"))


# --------------------------------------------------------------------------------- the arithmetic
@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(seconds, seconds), min_size=2, max_size=9))
def test_a_ratio_of_medians_lies_in_its_interval_and_among_the_ratios_that_can_be(turns):
    above, below = map(np.array, zip(*turns, strict=True))
    found = overhead.ratio_of_medians(above, below)
    assert found["value"] == np.median(above) / np.median(below)
    rounding = 1 + 1e-12  # percentiles are interpolated, and may pass their ends by a last digit
    assert above.min() / below.max() <= found["low"] * rounding
    assert found["low"] <= found["high"] <= above.max() / below.min() * rounding
    assert found["n"] == len(turns)


def test_what_slows_both_leaves_the_interval_narrow():
    slowed = np.array([1.0, 1.0, 5.0, 1.0, 9.0, 2.0])
    found = overhead.ratio_of_medians(0.25 * slowed, slowed)
    assert found["low"] == found["value"] == found["high"] == 0.25
    alone = overhead.ratio_of_medians(0.25 * slowed, np.ones(6))
    assert alone["high"] > alone["low"]


def test_an_interval_follows_from_its_seed_and_its_confidence():
    above, below = np.random.default_rng(0).uniform(1, 2, (2, 12))
    wide, narrow = (overhead.ratio_of_medians(above, below, level) for level in (0.99, 0.5))
    assert wide == overhead.ratio_of_medians(above, below, 0.99)
    assert wide["low"] < narrow["low"] < narrow["high"] < wide["high"]


@pytest.mark.parametrize(("above", "below"), [([], []), ([1.0], [1.0]), ([1.0, 2.0], [1.0])])
def test_a_ratio_needs_turns_of_both(above, below):
    with pytest.raises(ValueError, match=f"two turns or more.*got {len(above)}, {len(below)}"):
        overhead.ratio_of_medians(above, below)


def test_a_kept_image_pays_for_the_rejected():
    assert overhead.seconds_per_kept(0.3, 0.1, drawn=1, kept=1) == pytest.approx(0.4)
    assert overhead.seconds_per_kept(0.3, 0.1, drawn=100, kept=50) == pytest.approx(0.8)


@pytest.mark.parametrize("kept", [0, 11])
def test_a_share_that_cannot_be_kept_is_an_error(kept):
    with pytest.raises(ValueError, match=f"kept is {kept}; .* the 10 drawn"):
        overhead.seconds_per_kept(0.3, 0.1, drawn=10, kept=kept)


def test_a_budget_is_spread_over_the_epochs():
    budget = Budget(once_s=3.0, epoch_s=0.5, own=0.25)
    assert [budget.overhead(epochs) for epochs in (1, 2, 6)] == [6.25, 3.25, 1.25]
    assert budget.epochs_to(0.75) == 12.0
    assert budget.epochs_to(0.25) == budget.epochs_to(0.1) == math.inf


@given(seconds, seconds, st.floats(0, 2), st.floats(0.01, 2))
def test_after_the_epochs_to_an_overhead_it_is_reached(once, epoch, own, beyond):
    budget = Budget(once, epoch, own)
    assert budget.overhead(budget.epochs_to(own + beyond)) == pytest.approx(own + beyond)


def test_a_budget_without_images_is_the_same_at_any_time():
    budget = Budget(once_s=0.0, epoch_s=0.5, own=0.25)
    assert budget.overhead(1) == budget.overhead(1000) == 0.25
    assert (budget.epochs_to(0.25), budget.epochs_to(0.2)) == (0.0, math.inf)


def test_epochs_are_passes_over_the_real_images():
    assert overhead.study_epochs(TrainingParams(steps=300, batch_size=32), 120) == 80.0
    assert overhead.study_epochs(TrainingParams(epochs=7, batch_size=10), 120) == 7.0


# ------------------------------------------------------------------------------------- the clocks
def test_laps_are_timed_apart(clock):
    parts = {"a": lambda: clock.work(2.0), "b": lambda: clock.work(3.0)}
    assert laps(parts, clock) == {"a": 2.0, "b": 3.0}


def test_contenders_take_turns_in_changing_order():
    order = []
    contenders = {name: lambda name=name: order.append(name) or {"p": 1.0} for name in "abc"}
    table = take_turns(contenders, turns=8)
    rounds = ["".join(order[start : start + 3]) for start in range(0, 24, 3)]
    assert {"".join(sorted(each)) for each in rounds} == {"abc"}
    assert len(set(rounds)) > 1
    assert table["contender"].tolist() == list("abc") * 8
    assert table["turn"].tolist() == np.repeat(range(8), 3).tolist()


# -------------------------------------------------------------------------------------- the steps
def test_an_overhead_is_what_a_method_adds_to_a_vanilla_step(setting, clock):
    times = overhead.time_steps(setting, turns=3, repeats=2, clock=clock)
    found = overhead.step_overheads(times).set_index("method")
    vanilla = FETCH + COSTS["vanilla"] + FORWARD + BACKWARD
    assert found.index.tolist() == list(COSTS)
    assert found.loc["vanilla", ["overhead", "low", "high"]].tolist() == [0, 0, 0]
    assert found.loc["mixup", "overhead"] == pytest.approx((0.5 - 0.125) / vanilla)
    assert found.loc["diffcoremix", "overhead"] == pytest.approx((1 - 0.125 + FETCH) / vanilla)
    assert found.loc["diffcoremix", "own_ms"] == pytest.approx(1125)
    assert (found["step_ms"] == 1000 * vanilla).all()


def test_whole_steps_agree_with_the_parts(setting, clock):
    times = overhead.time_steps(setting, turns=3, clock=clock)
    whole, own = overhead.whole_step_overheads(times), overhead.step_overheads(times)
    assert whole["method"].tolist() == ["diffcoremix"]
    expected = own.set_index("method").loc["diffcoremix", "overhead"]
    assert whole["overhead"].tolist() == pytest.approx([expected])


def test_the_time_of_a_step_is_told_by_part(setting, clock):
    parts = overhead.step_parts(overhead.time_steps(setting, turns=2, clock=clock))
    ms = parts.set_index(["method", "part"])["ms"]
    assert ms["diffcoremix"].to_dict() == {
        "real images": 250, "counterparts": 250, "method": 1000, "forward": 4000,
        "backward": 8000, "update": 0,
    }  # fmt: skip
    assert "counterparts" not in ms["vanilla"]
    assert parts.loc[parts["method"] == "vanilla", "share"].sum() == pytest.approx(1)


def test_a_method_costs_the_mean_of_its_draws(setting, clock):
    prices = iter([9.0] + [1.0, 3.0] * 3)  # the first warms up
    vanilla = setting.methods["vanilla"]

    def varying(*batch):
        clock.work(next(prices) - COSTS["vanilla"])
        return vanilla(*batch)

    setting.methods["mixup"] = varying
    times = overhead.time_steps(setting, turns=3, repeats=2, whole=(), clock=clock)
    assert overhead.by_turn(times, "own", "mixup").tolist() == [2.0, 2.0, 2.0]


def test_counterparts_are_cropped_as_their_real_images_are(setting, monkeypatch):
    seeds = []
    monkeypatch.setattr(
        overhead, "crop_and_flip", lambda images, _, g: seeds.append(g.initial_seed()) or images
    )
    step = overhead.Step(setting, "diffcoremix")
    step.real()
    step.counterparts()
    step.real()
    assert seeds[0] == seeds[1] != seeds[2]
    torch.testing.assert_close(step.images, setting.real[step.rows].permute(0, 3, 1, 2) / 255)


def test_a_step_trains(setting, clock):
    before = setting.network.weight.detach().clone()
    laps(overhead.Step(setting, "vanilla").phases(), clock)
    assert not torch.equal(setting.network.weight, before)


def test_settings_hold_every_method_at_their_size(params, pairs):
    own, large = overhead.own_setting(pairs, params), overhead.large_settings(pairs, params, EFFORT)
    assert own.size == 64
    assert own.training is params.training
    assert tuple(own.methods) == tuple(large[0].methods) == METHODS
    assert len(large) == 1 + torch.cuda.is_available()
    assert large[0].name == "resnet10t, 64 × 64, batch 2, CPU"
    bigger = overhead.large_settings(pairs, params, EFFORT.model_copy(update={"size": 96}))[0]
    assert bigger.real.shape == (2, 96, 96, 3)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_every_method_takes_its_step(params, pairs, precision):
    setting = overhead.large_settings(pairs, params, EFFORT)[0]
    training = setting.training.model_copy(update={"precision": precision})
    setting = replace(setting, training=training)
    found = overhead.step_overheads(overhead.time_steps(setting, turns=2, repeats=1))
    assert found["method"].tolist() == list(METHODS)
    assert np.isfinite(found[["overhead", "low", "high"]].to_numpy()).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_steps_are_timed_on_a_gpu(params, pairs):
    setting = overhead.large_settings(pairs, params, EFFORT)[1]
    assert setting.name.endswith("GPU")
    found = overhead.step_overheads(overhead.time_steps(setting, turns=2, repeats=1))
    assert (found["step_ms"] > 0).all()


# ------------------------------------------------------------------------------------- the images
IMAGE_TIMES = pd.DataFrame(
    [(turn, kind, part, value) for turn in range(3) for kind, part, value in (
        ("counterpart", "UNet", 0.5), ("counterpart", "autoencoder", 0.2),
        ("counterpart", "text and files", 0.1), ("counterpart", "filter", 0.2),
        ("edit", "UNet", 0.3), ("edit", "text and files", 0.1),
    )],
    columns=["turn", "kind", "part", "seconds"],
)  # fmt: skip


def test_costs_of_images_add_up():
    costs = overhead.image_costs(IMAGE_TIMES, drawn=10, kept=8).set_index("measure")["seconds"]
    assert costs.to_dict() == pytest.approx({
        "seconds_per_generated": 0.8, "filter_seconds_per_image": 0.2,
        "seconds_per_kept": 1.25, "seconds_per_edit": 0.4,
    })  # fmt: skip


def test_parts_of_a_counterpart_add_up_to_a_kept_one():
    parts = overhead.image_parts(IMAGE_TIMES, drawn=10, kept=8)
    assert parts.groupby("kind")["ms"].sum().to_dict() == pytest.approx(
        {"counterpart": 1250, "edit": 400}
    )
    assert set(parts["part"]) <= set(overhead.IMAGE_PARTS)
    assert parts["ms"].tolist()[-1] == pytest.approx(250)


def test_what_is_paid_once_depends_on_what_a_method_uses(params):
    costs = overhead.image_costs(IMAGE_TIMES, drawn=10, kept=8)
    assert overhead.once_seconds("cutmix", costs, params) == 0
    edits = params.mixing.edits_per_image * 0.4
    assert overhead.once_seconds("diffusemix", costs, params) == pytest.approx(edits)
    drawn = params.generation.generated_share * 1.25 + 0.2
    for method in ("added", "diffcoremix", "mixed_added"):
        assert overhead.once_seconds(method, costs, params) == pytest.approx(drawn)


def test_budgets_are_compared_over_epochs():
    found = {
        "vanilla": Budget(0.0, 0.5, 0.0), "augmix": Budget(0.0, 0.5, 1.25),
        "diffusemix": Budget(1.0, 0.5, 0.5), "diffcoremix": Budget(4.0, 0.5, 0.25),
    }  # fmt: skip
    table = overhead.amortise(found, [1, 8]).pivot(index="method", columns="epochs")["overhead"]
    assert table.loc["diffcoremix"].tolist() == [8.25, 1.25]
    even = overhead.break_even(found).set_index("against")["epochs"]
    assert even.to_dict() == {"vanilla": math.inf, "augmix": 8.0}


def test_budgets_are_made_for_one_image(params):
    overheads = pd.DataFrame({"method": ["mixup"], "overhead": [0.5], "step_ms": [800.0]})
    costs = overhead.image_costs(IMAGE_TIMES, 1, 1)
    assert overhead.budgets(overheads, costs, params, batch_size=16) == {
        "mixup": Budget(once_s=0.0, epoch_s=0.05, own=0.5)
    }


def test_images_are_timed_by_part_and_none_is_left(params, pairs, twin, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    times = overhead.time_images(pairs, params, twin, images=2, turns=2)
    assert not list(tmp_path.iterdir())
    assert times.groupby(["kind", "part"]).size().to_dict() == {
        (kind, part): 2
        for kind, parts in (("counterpart", overhead.IMAGE_PARTS[:4]),
                            ("edit", overhead.IMAGE_PARTS[:3]))
        for part in parts
    }  # fmt: skip
    assert (times["seconds"] > 0).all()


def test_images_are_counted_by_the_decisions_about_them(pairs, tmp_path):
    assert overhead.filter_counts(pairs, tmp_path) == (1, 1)
    save_decisions(pd.DataFrame({"accepted": [True, False, True]}), tmp_path)
    assert overhead.filter_counts(replace(pairs, filtered=True), tmp_path) == (3, 2)


# ----------------------------------------------------------------------------------- the decoding
def test_decoding_is_timed_in_every_format(setting):
    found = overhead.time_decoding(setting, step_ms=500.0, images=3, turns=2).set_index("format")
    assert found.index.tolist() == list(overhead.FORMATS)
    assert (found["kilobytes"] > 0).all()
    assert found["overhead"].tolist() == pytest.approx((found["ms"] * 4 / 500).tolist())


def test_png_keeps_the_pixels_and_jpeg_the_size():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    png, jpeg = (overhead._encode(pixels, name) for name in overhead.FORMATS)
    np.testing.assert_array_equal(overhead._decode([png])[0], pixels)
    assert overhead._decode([jpeg])[0].shape == pixels.shape
