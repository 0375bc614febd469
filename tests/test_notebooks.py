"""Every notebook runs under the smoke profile, and records what it found.

They share one study, as they do in `make study`: a notebook is run once, after those before it.
"""

import json
import shutil

import pytest
from conftest import PROJECT, make_study

from diffcore.methods import METHODS
from diffcore.report import VERDICTS
from diffcore.study import build_index, run_notebook

NAMES = sorted(path.stem for path in (PROJECT / "notebooks").glob("*.ipynb"))
METRICS_01 = {
    "species_accuracy": (0, 1), "context_accuracy": (0, 1), "wellformed_rate": (0, 1),
    "species_accuracy_best_guidance": (0, 1), "distractor_reduction": (0, 1000),
    "psnr_db": (30, 60), "clip_zero_shot_species": (0.95, 1), "clip_zero_shot_context": (0.95, 1),
    "shipped_mb": (1, 40), "seconds_per_image": (0.001, 5), "model_time_share": (0.5, 1),
}  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of its own, in which nothing has been run."""
    with pytest.MonkeyPatch.context() as patch:
        yield make_study(tmp_path_factory.mktemp("study"), patch)


@pytest.fixture
def find(study):
    """Run a notebook, and what it needs before it; return its metrics and its figures."""

    def run(name):
        for needed in NAMES[: NAMES.index(name) + 1]:
            executed = study / "reports" / "smoke" / needed / f"{needed}.ipynb"
            if not executed.exists():
                shutil.copy(PROJECT / "notebooks" / f"{needed}.ipynb", study / "notebooks")
                run_notebook(needed, "smoke")
        report = study / "reports" / "smoke" / name
        figures = sorted(path.stem for path in (report / "figures").glob("*.png"))
        return json.loads((report / "metrics.json").read_text()), figures

    return run


def assert_interval(found, name):
    assert found[f"{name}_low"] <= found[name] <= found[f"{name}_high"], name


def test_01_generation(find):
    found, figures = find("01_generation")
    for name, (low, high) in METRICS_01.items():
        assert low <= found[name] <= high, name
    assert found["images"] == 12
    assert len(figures) == 8


def test_02_filtering(find):
    found, figures = find("02_filtering")
    assert 0 <= found["rejection_rate"] <= 1
    assert -1 < found["threshold"] < 1
    assert set(found["auc"]) == {"source", "class_mean", "class_nearest", "class_first", "text"}
    assert 0 <= found["wrong_rate_kept"] <= 1
    assert found["filter_speedup"] > 0
    assert len(figures) == 9


def test_03_mixing(find):
    found, figures = find("03_mixing")
    assert 0 < found["pairs"] <= 12
    assert found["filtered"] is True
    assert found["lam_mean_pixel"] == pytest.approx(0.5, abs=0.02)
    assert 0.6 < found["lam_mean_patch"] < 0.75
    for name in ("label_seen_pixel", "label_seen_patch"):
        assert found[name] >= found[name.replace("pixel", "mixup").replace("patch", "cutmix")]
    assert found["objects"]["DiffCoRe-Mix, patch"]["label_error"] == 0
    assert 0 < found["label_error_mixup"] < found["label_error_cutmix"]
    assert found["patch_mix_vs_cutmix"] > 0
    assert len(figures) == 8


def test_04_training(find):
    found, figures = find("04_training")
    for name in ("shifted_gain_vs_best_other", "matched_gain_vs_best_other",
                 "shifted_gain_vs_vanilla", "shifted_gain_mixed_vs_added"):  # fmt: skip
        assert_interval(found, name)
    for top1 in found["top1"].values():
        assert set(top1) == set(METHODS)
        assert all(0 <= value <= 1 for value in top1.values())
    shifted = found["top1"]["shifted"]
    others = set(METHODS) - {"added", "diffcoremix", "mixed_added"}
    best = max(shifted[name] for name in others)
    assert found["shifted_gain_vs_best_other"] == pytest.approx(shifted["diffcoremix"] - best)
    assert found["trainings"] == 2 * len(METHODS)
    assert set(found["ablation"]) == {
        "full method", "no context", "no negatives", "no filter", "pixel only", "patch only",
    }  # fmt: skip
    assert len(figures) == 7


def test_05_saliency(find):
    found, figures = find("05_saliency")
    assert_interval(found, "energy_in_mask_gain_vs_vanilla")
    assert_interval(found, "energy_in_mask_gain_vs_cutmix")
    assert isinstance(found["sanity_check_passes"], bool)
    assert all(0 <= row["value"] <= 1 for row in found["levels"])
    assert len(figures) == 6


def test_06_overhead(find):
    found, figures = find("06_overhead")
    assert_interval(found, "diffcoremix_step_overhead")
    assert set(found["step_overhead"]) <= set(METHODS)
    assert found["seconds_per_kept"] >= found["seconds_per_generated"] > 0
    spread = list(found["amortised_overhead"].values())
    assert spread == sorted(spread, reverse=True)  # the more epochs, the less each costs
    assert len(figures) == 4


def test_07_robustness(find):
    found, figures = find("07_robustness")
    assert_interval(found, "corruption_gain_vs_vanilla")
    assert_interval(found, "pgd_gain_vs_vanilla")
    assert found["near_copy_rate_low"] <= found["near_copy_rate"] <= found["near_copy_rate_high"]
    assert found["context_entropy_after"] > 0
    assert found["filtered"] is True
    assert len(figures) == 13


def test_08_report(find, study):
    found, figures = find("08_report")
    assert found["notebooks"] == 7
    assert "not run yet" not in found["verdicts"].values()
    assert set(found["verdicts"].values()) <= set(VERDICTS)
    assert figures == ["01_overview"]
    page = build_index("smoke").read_text()
    for name in NAMES:
        assert page.count(f'<h2><a href="{name}/{name}.html">') == 1
    assert page.count('<span class="verdict') == len(found["verdicts"])


def test_a_second_run_finds_the_same(find, study):
    before, _ = find("04_training")
    table = study / "reports" / "smoke" / "04_training" / "tables" / "main.csv"
    old = table.read_bytes()
    shutil.rmtree(study / "runs" / "smoke" / "training")
    table.unlink()
    run_notebook("04_training", "smoke")
    assert table.read_bytes() == old
    after, _ = find("04_training")
    timed = {"seconds_per_training"}
    assert {k: v for k, v in after.items() if k not in timed} == {
        k: v for k, v in before.items() if k not in timed
    }
