"""Every notebook runs under the smoke profile, and records what it found."""

import json
import shutil

import pytest
from conftest import PROJECT

from diffcore.study import build_index, run_notebook

METRICS_01 = {
    "species_accuracy": (0, 1), "context_accuracy": (0, 1), "wellformed_rate": (0, 1),
    "species_accuracy_best_guidance": (0, 1), "distractor_reduction": (0, 1000),
    "psnr_db": (30, 60), "clip_zero_shot_species": (0.95, 1), "clip_zero_shot_context": (0.95, 1),
    "shipped_mb": (1, 40), "seconds_per_image": (0.001, 5), "model_time_share": (0.5, 1),
}  # fmt: skip


@pytest.fixture
def run(study_folder):
    """Run one of the project's notebooks under smoke; return the folder of its report."""

    def execute(name):
        shutil.copy(PROJECT / "notebooks" / f"{name}.ipynb", study_folder / "notebooks")
        return run_notebook(name, "smoke").parent

    return execute


def test_01_generation(run):
    report = run("01_generation")
    found = json.loads((report / "metrics.json").read_text())
    for name, (low, high) in METRICS_01.items():
        assert low <= found[name] <= high, name
    assert found["images"] == 12
    assert len(list((report / "figures").glob("*.png"))) == 8
    assert build_index("smoke").read_text().count('href="01_generation/01_generation.html"') == 1


def test_03_mixing(run):
    report = run("03_mixing")
    found = json.loads((report / "metrics.json").read_text())
    assert found["pairs"] == 12
    assert found["filtered"] is False  # the second notebook has not run here
    assert found["lam_mean_pixel"] == pytest.approx(0.5, abs=0.02)
    assert 0.6 < found["lam_mean_patch"] < 0.75
    for name in ("label_seen_pixel", "label_seen_patch"):
        assert found[name] >= found[name.replace("pixel", "mixup").replace("patch", "cutmix")]
    assert found["objects"]["DiffCoRe-Mix, patch"]["label_error"] == 0
    assert 0 < found["label_error_mixup"] < found["label_error_cutmix"]
    assert found["patch_mix_vs_cutmix"] > 0
    assert len(list((report / "figures").glob("*.png"))) == 8
