"""Verdicts follow from the numbers, by the rules that stand beside them."""

import copy
import json

import nbformat
import pytest
from conftest import PROJECT
from nbformat.v4 import new_notebook

from diffcore.report import claims
from diffcore.report.claims import CLAIMS, FAILS, HOLDS, NOT_RUN, PARTLY, UNTESTED


def gain(name, value, reach=0.01):
    return {name: value, f"{name}_low": value - reach, f"{name}_high": value + reach}


def share(value, **more):
    return {"value": value, "low": value - 0.01, "high": value + 0.01, **more}


#: Numbers under which every claim holds.
GOOD = {
    "01_generation": {"context_accuracy": 0.97, "distractor_reduction": 40.0},
    "02_filtering": {
        "rejection_rate": 0.1, "auc_in_use": 0.9, "wrong_rate": 0.12, "wrong_rate_kept": 0.03,
        "recall": 0.8,
    },
    "03_mixing": {f"label_seen_{name}": 0.99 for name in ("pixel", "patch", "mixup", "cutmix")},
    "04_training": {
        **gain("shifted_gain_vs_best_other", 0.05), **gain("matched_gain_vs_best_other", 0.02),
        **gain("shifted_gain_mixed_vs_added", 0.03), **gain("shifted_gain_both_vs_added", 0.04),
        "best_other_shifted": "mixup", "best_other_matched": "cutmix",
        "tests": ["matched", "shifted"], "top1": {"matched": {}, "shifted": {}},
        "mixed_minus_added": {"generated share of a batch": [share(0.02, point=0.5)]},
    },
    "05_saliency": {
        **gain("energy_in_mask_gain_vs_vanilla", 0.05),
        **gain("energy_in_mask_gain_vs_cutmix", 0.05), "sanity_check_passes": True,
    },
    "06_overhead": {
        **gain("diffcoremix_step_overhead", 0.01), "amortised_overhead": {"1": 3.0, "100": 0.04},
        "epochs": 100.2,
    },
    "07_robustness": {
        **gain("corruption_gain_vs_vanilla", 0.05), **gain("pgd_gain_vs_vanilla", 0.02),
        "near_copy_rate": 0.0, "near_copy_rate_real": 0.01,
    },
}  # fmt: skip


def verdicts(metrics):
    return claims.judge_claims(metrics)["verdict"].tolist()


def changed(notebook, **numbers):
    metrics = copy.deepcopy(GOOD)
    metrics[notebook].update(numbers)
    return metrics


def test_under_good_numbers_all_holds_that_can_be_tested():
    assert verdicts(GOOD) == [HOLDS] * (len(CLAIMS) - 1) + [UNTESTED]


@pytest.mark.parametrize(
    ("place", "notebook", "numbers", "verdict"),
    [
        (0, "01_generation", {"distractor_reduction": 2.0}, PARTLY),
        (1, "02_filtering", {"auc_in_use": 0.55}, PARTLY),
        (1, "02_filtering", {"auc_in_use": 0.55, "rejection_rate": 0.3}, FAILS),
        (2, "03_mixing", {"label_seen_patch": 0.8}, PARTLY),
        (3, "04_training", gain("matched_gain_vs_best_other", 0.005), PARTLY),
        (3, "04_training", {**gain("matched_gain_vs_best_other", -0.1),
                            **gain("shifted_gain_vs_best_other", -0.1)}, FAILS),
        (4, "04_training", gain("shifted_gain_mixed_vs_added", -0.1), PARTLY),
        (5, "06_overhead", {"amortised_overhead": {"100": 3.0}}, PARTLY),
        (5, "06_overhead", {**gain("diffcoremix_step_overhead", 0.2),
                            "amortised_overhead": {"100": 3.0}}, FAILS),
        (6, "05_saliency", gain("energy_in_mask_gain_vs_cutmix", -0.1), PARTLY),
        (6, "05_saliency", {"sanity_check_passes": False}, PARTLY),
        (7, "07_robustness", gain("pgd_gain_vs_vanilla", 0.0), PARTLY),
        (8, "07_robustness", {"near_copy_rate": 0.2}, FAILS),
    ],
)  # fmt: skip
def test_a_verdict_follows_from_the_numbers(place, notebook, numbers, verdict):
    found, expected = verdicts(changed(notebook, **numbers)), verdicts(GOOD)
    assert found == [*expected[:place], verdict, *expected[place + 1 :]]


def test_what_was_not_run_is_said_to_be_missing():
    table = claims.judge_claims({"01_generation": GOOD["01_generation"]})
    assert table["verdict"].tolist()[:2] == [HOLDS, NOT_RUN]
    assert table["measured"][1] == "no 02_filtering"


def photographs():
    """Numbers of a study of photographs, which knows less."""
    metrics = copy.deepcopy(GOOD)
    metrics["01_generation"] = {"images": 12}
    metrics["03_mixing"] = {"pairs": 12}
    del metrics["02_filtering"]["auc_in_use"]
    metrics["04_training"] = {
        "tests": ["test"], "top1": {"test": {"vanilla": 0.5, "diffcoremix": 0.6}},
        **gain("test_gain_vs_best_other", 0.05), "best_other_test": "mixup",
        **gain("test_gain_mixed_vs_added", -0.03), **gain("test_gain_both_vs_added", 0.04),
        **gain("test_gain_vs_vanilla", 0.1),
    }  # fmt: skip
    return metrics


def test_photographs_leave_untested_what_only_a_known_world_shows():
    table = claims.judge_claims(photographs())
    assert table["verdict"].tolist()[:5] == [UNTESTED, PARTLY, UNTESTED, HOLDS, FAILS]
    assert "not known on this data set" in table["measured"][0]
    assert "DiffCoRe-Mix 60.0%" in table["measured"].iloc[-1]
    effects = claims.effects(photographs())["effect"].tolist()
    assert effects[:3] == [
        "top-1, test, above vanilla", "top-1, test, above the best other",
        "top-1, test, above adding the images",
    ]  # fmt: skip


def test_surrogates_say_nothing_of_generated_images():
    metrics = photographs()
    metrics["02_filtering"]["auc_in_use"] = 0.9
    metrics["04_training"]["counterparts"] = "surrogate"
    table = claims.judge_claims(metrics)
    tested = table[table["verdict"] != UNTESTED]
    assert tested["verdict"].tolist() == [PARTLY, FAILS]
    assert "injected" in tested["measured"].iloc[0]
    assert "(photographs stood in" in table["measured"][3]


def test_effects_have_their_intervals():
    table = claims.effects(GOOD)
    row = table[table["effect"] == "top-1, shifted, above the best other"].iloc[0]
    assert (row["value"], row["low"], row["high"]) == pytest.approx((0.05, 0.04, 0.06))
    assert claims.effects({}).empty


@pytest.fixture
def folder(tmp_path):
    """A report; its numbers on overhead are times."""
    for name, numbers in (GOOD | {"08_report": {"minutes": 7}}).items():
        (tmp_path / name / "figures").mkdir(parents=True)
        kept = {"metrics": {}, "times": numbers} if "overhead" in name else {"metrics": numbers}
        for kind, found in kept.items():
            (tmp_path / name / f"{kind}.json").write_text(json.dumps(found))
        (tmp_path / name / "versions.json").write_text(json.dumps({"device": "CPU"}))
        notebook = new_notebook(metadata={"duration_seconds": 90})
        for end in ("ipynb", "failed.ipynb"):
            nbformat.write(notebook, tmp_path / name / f"{name}.{end}")
    return tmp_path


def test_numbers_and_durations_are_read_but_not_those_of_an_earlier_summary(folder):
    assert claims.read_metrics(folder) == GOOD
    found = claims.durations(folder)
    assert found["notebook"].tolist() == list(GOOD)
    assert (found["minutes"] == 1.5).all()


def test_links_name_each_claims_figure_if_it_is_there(folder):
    judged = claims.judge_claims(GOOD)
    for row in judged[judged["notebook"] != ""].itertuples():
        (folder / row.notebook / "figures" / f"{row.figure}.png").touch()
    text = claims.links(judged, folder)
    assert text.count("\n- ") == len(CLAIMS) - 2
    assert "- [04_training](04_training.ipynb), figure `01_main`: accuracy above" in text
    (folder / "04_training" / "figures" / "01_main.png").unlink()
    assert "`01_main`" not in claims.links(judged, folder)


def test_the_results_in_the_documents_are_those_of_the_committed_report():
    report = PROJECT / "reports" / "demo"
    if not (report / "08_report" / "times.json").is_file():
        pytest.skip("no report of the demo in its present form")
    written = (PROJECT / "docs" / "results.md").read_text(encoding="utf-8")
    assert claims.results_table(report) == written
