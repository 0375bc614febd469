"""Tables of robustness: classifiers of which the answers are known."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import ttest_1samp
from torch import nn
from torchmetrics.functional.classification import multiclass_calibration_error

from diffcore.data.images import some_of_each_class
from diffcore.data.splits import load_split
from diffcore.measure import robustness as evaluate
from diffcore.measure.corruptions import CORRUPTIONS
from diffcore.params import load_params

EPS = 8 / 255


@pytest.fixture(scope="module")
def few():
    split = load_split(load_params("smoke", {"data.style": 0.6}), "test_matched")
    return split.take(some_of_each_class(split.labels, 1))


class Constant(nn.Module):
    """A classifier that always answers the same class."""

    def __init__(self, answer):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.answer = answer

    def forward(self, images):
        one = nn.functional.one_hot(torch.full((len(images),), self.answer), 12).float()
        return self.scale * one + 0 * images.mean((1, 2, 3))[:, None]


RUNS = pd.DataFrame(
    {"method": ["vanilla", "vanilla", "added"], "seed": [0, 1, 0], "weights": [0, 1, 2]}
)


def test_every_classifier_meets_every_corruption(few):
    found = evaluate.under_corruption(RUNS, Constant, few, [1, 3], seed=0)
    assert len(found) == 3 * (1 + 2 * len(CORRUPTIONS))
    assert found["top1"].tolist() == pytest.approx([1 / 12] * len(found))
    assert list(found) == ["method", "seed", "corruption", "severity", "top1"]


def test_clean_images_are_not_among_the_corrupted():
    table = pd.DataFrame(
        {"method": "a", "seed": 0, "corruption": ["none", "fog", "JPEG"], "top1": [1.0, 0.4, 0.6]}
    )
    (row,) = evaluate.clean_and_corrupted(table).to_dict("records")
    assert row["clean images"] == 1
    assert row["mean over corruptions"] == pytest.approx(0.5)


def test_gains_under_many_corruptions_are_one_family():
    rng = np.random.default_rng(0)
    rows = [
        {"method": method, "seed": seed, "corruption": kind, "top1": 0.5 + up + rng.normal(0, 0.02)}
        for method, up in (("vanilla", 0.0), ("added", 0.03))
        for seed in range(4)
        for kind in ("fog", "JPEG", "blur")
    ]
    table = pd.DataFrame(rows)
    found = evaluate.gains_by(table, "corruption", "vanilla", 0.95).set_index("corruption")
    wide = table.pivot(index=["corruption", "seed"], columns="method", values="top1")
    differences = (wide["added"] - wide["vanilla"]).unstack()
    expected = ttest_1samp(differences, 0, axis=1).pvalue
    assert found.loc[differences.index, "p"].to_numpy() == pytest.approx(expected)
    # Holm by hand: the least of three p counts threefold, the next twice, none less than the last.
    least, middle, most = np.argsort(expected)
    steps = np.maximum.accumulate(
        [3 * expected[least], 2 * expected[middle], expected[most]]
    ).clip(max=1)  # fmt: skip
    corrected = found.loc[differences.index[[least, middle, most]], "p_holm"]
    assert corrected.to_numpy() == pytest.approx(steps)


def test_every_classifier_is_attacked(few):
    found = evaluate.under_attack(RUNS, Constant, few, [EPS], steps=2, seed=0)
    assert found["attack"].tolist() == ["none", "FGSM", "PGD"] * 3
    assert found["eps"].tolist() == [0, EPS, EPS] * 3
    named = ["clean images", "FGSM, ε = 8/255", "PGD, ε = 8/255"]
    assert found["condition"].tolist() == named * 3


# -------------------------------------------------------------------------------------- calibration
def test_the_error_is_that_of_all_classes_and_the_diagram_adds_up_to_it():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(400, 5, generator=generator)
    confidence, answer = logits.softmax(1).max(1)
    labels = torch.where(torch.rand(400, generator=generator) < 0.6, answer, 0)
    told = {"confidence": confidence.numpy(), "right": (answer == labels).numpy()}
    given = pd.DataFrame({"method": "a", "seed": 0, **told})
    expected = multiclass_calibration_error(logits.softmax(1), labels, 5, n_bins=15).item()
    assert evaluate.calibration(given)["ECE"].item() == pytest.approx(expected)
    bins = evaluate.reliability_bins(given)
    assert bins["count"].sum() == 400
    weighed = ((bins["confidence"] - bins["top1"]).abs() * bins["count"]).sum() / 400
    assert weighed == pytest.approx(expected, abs=1e-6)


def test_modest_and_bold_classifiers_are_told_apart():
    given = pd.DataFrame({
        "method": np.repeat(["a", "b"], 4), "seed": 0, "confidence": np.repeat([0.5, 0.9], 4),
        "right": [True] * 3 + [False] + [True] + [False] * 3,
    })  # fmt: skip
    found = evaluate.calibration(given).set_index("method")
    assert found["confidence less accuracy"].tolist() == pytest.approx([-0.25, 0.65])
    assert found["ECE"].tolist() == pytest.approx([0.25, 0.65])
    assert evaluate.reliability_bins(given)["count"].tolist() == [4, 4]


def test_answers_are_those_of_the_classifier(few):
    found = evaluate.answers(RUNS, Constant, few)
    assert found.groupby("method")["right"].sum().to_dict() == {"vanilla": 2, "added": 1}
    assert found["confidence"].tolist() == pytest.approx([np.e / (np.e + 11)] * 36)
