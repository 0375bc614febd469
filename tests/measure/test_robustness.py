"""Tables of robustness: classifiers of which the answers are known."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import ttest_1samp
from torch import nn
from torchmetrics.functional.classification import multiclass_calibration_error

from diffcore.data.splits import Split
from diffcore.measure import robustness
from diffcore.measure.perturbations import CORRUPTIONS

EPS = 8 / 255
FACTS = pd.DataFrame({"source_id": range(12), "label": range(12)})
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
FEW = Split("test", tuple("abcdefghijkl"), FACTS, PIXELS)
RUNS = pd.DataFrame(
    {"method": ["vanilla", "vanilla", "added"], "seed": [0, 1, 0], "weights": [0, 1, 2]}
)


class Constant(nn.Module):
    """A classifier that always answers the same class."""

    def __init__(self, answer):
        super().__init__()
        self.scale, self.answer = nn.Parameter(torch.ones(())), answer

    def forward(self, images):
        one = nn.functional.one_hot(torch.full((len(images),), self.answer), 12).float()
        return self.scale * one + 0 * images.mean((1, 2, 3))[:, None]


def test_every_classifier_meets_every_corruption_and_every_attack():
    table = robustness.under_corruption(RUNS, Constant, FEW, [1, 3], seed=0)
    assert len(table) == 3 * (1 + 2 * len(CORRUPTIONS))
    assert table["top1"].tolist() == pytest.approx([1 / 12] * len(table))
    assert list(table) == ["method", "seed", "corruption", "severity", "top1"]
    table = robustness.under_attack(RUNS, Constant, FEW, [EPS], steps=2, seed=0)
    assert table["attack"].tolist() == ["none", "FGSM", "PGD"] * 3
    assert table["eps"].tolist() == [0, EPS, EPS] * 3
    named = ["clean images", "FGSM, ε = 8/255", "PGD, ε = 8/255"]
    assert table["condition"].tolist() == named * 3


def test_gains_under_many_corruptions_are_one_family():
    rng = np.random.default_rng(0)
    rows = product(["vanilla", "added"], range(4), ["fog", "JPEG", "blur"])
    table = pd.DataFrame(rows, columns=["method", "seed", "corruption"])
    table["top1"] = rng.normal(0.5, 0.02, len(table)) + 0.03 * (table["method"] == "added")
    gains = robustness.gains_by(table, "corruption", "vanilla").set_index("corruption")
    wide = table.pivot(index=["corruption", "seed"], columns="method", values="top1")
    differences = (wide["added"] - wide["vanilla"]).unstack()
    expected = ttest_1samp(differences, 0, axis=1).pvalue
    assert gains.loc[differences.index, "p"].to_numpy() == pytest.approx(expected)
    assert gains["p_holm"].min() == pytest.approx(3 * expected.min())


def test_the_error_is_that_of_all_classes_and_the_diagram_adds_up_to_it():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(400, 5, generator=generator)
    confidence, answer = logits.softmax(1).max(1)
    labels = torch.where(torch.rand(400, generator=generator) < 0.6, answer, 0)
    facts = {"confidence": confidence.numpy(), "right": (answer == labels).numpy()}
    answered = pd.DataFrame({"method": "a", "seed": 0, **facts})
    expected = multiclass_calibration_error(logits.softmax(1), labels, 5, n_bins=15).item()
    assert robustness.calibration(answered)["ECE"].item() == pytest.approx(expected)
    bins = robustness.reliability_bins(answered)
    assert bins["count"].sum() == 400
    weighed = ((bins["confidence"] - bins["top1"]).abs() * bins["count"]).sum() / 400
    assert weighed == pytest.approx(expected, abs=1e-6)


def test_modest_and_bold_classifiers_differ_in_sign():
    confidence, right = np.repeat([0.5, 0.9], 4), [True] * 3 + [False] + [True] + [False] * 3
    facts = {"method": np.repeat(["a", "b"], 4), "confidence": confidence, "right": right}
    answered = pd.DataFrame({"seed": 0, **facts})
    table = robustness.calibration(answered).set_index("method")
    assert table["confidence less accuracy"].tolist() == pytest.approx([-0.25, 0.65])
    assert table["ECE"].tolist() == pytest.approx([0.25, 0.65])
    assert robustness.reliability_bins(answered)["count"].tolist() == [4, 4]


def test_answers_are_those_of_the_classifier():
    table = robustness.answers(RUNS, Constant, FEW)
    assert table.groupby("method")["right"].sum().to_dict() == {"vanilla": 2, "added": 1}
    assert table["confidence"].tolist() == pytest.approx([np.e / (np.e + 11)] * 36)
