"""The report: verdicts follow from the numbers, by the rules that stand beside them."""

import copy
import json

import nbformat
import pytest
from nbformat.v4 import new_notebook

from diffcore import pages, report


def gain(name, value, reach=0.01):
    return {name: value, f"{name}_low": value - reach, f"{name}_high": value + reach}


#: Numbers under which every claim holds.
GOOD = {
    "01_generation": {"context_accuracy": 0.97, "distractor_reduction": 40.0},
    "02_filtering": {
        "rejection_rate": 0.1, "auc_best": 0.9, "wrong_rate": 0.12, "wrong_rate_kept": 0.03,
        "recall": 0.8,
    },
    "03_mixing": {f"label_seen_{name}": 0.99 for name in ("pixel", "patch", "mixup", "cutmix")},
    "04_training": {
        **gain("shifted_gain_vs_best_other", 0.05), **gain("matched_gain_vs_best_other", 0.02),
        **gain("shifted_gain_mixed_vs_added", 0.03), **gain("shifted_gain_both_vs_added", 0.04),
        "best_other_shifted": "mixup", "best_other_matched": "cutmix",
        "tests": ["matched", "shifted"], "top1": {"matched": {}, "shifted": {}},
        "mixed_minus_added": {"generated share of a batch": [{"value": 0.5, **gain("gain", 0.02),
                                                              "low": 0.01}]},
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
    return report.judge_claims(metrics)["verdict"].tolist()


def changed(notebook, **numbers):
    metrics = copy.deepcopy(GOOD)
    metrics[notebook].update(numbers)
    return metrics


def test_under_good_numbers_all_holds_that_can_be_tested():
    assert verdicts(GOOD) == [report.HOLDS] * (len(report.CLAIMS) - 1) + [report.UNTESTED]


@pytest.mark.parametrize(
    ("place", "notebook", "numbers", "verdict"),
    [
        (0, "01_generation", {"distractor_reduction": 2.0}, report.PARTLY),
        (1, "02_filtering", {"auc_best": 0.55}, report.PARTLY),
        (1, "02_filtering", {"auc_best": 0.55, "rejection_rate": 0.3}, report.FAILS),
        (2, "03_mixing", {"label_seen_patch": 0.8}, report.PARTLY),
        (3, "04_training", gain("matched_gain_vs_best_other", 0.005), report.PARTLY),
        (3, "04_training", {**gain("matched_gain_vs_best_other", -0.1),
                            **gain("shifted_gain_vs_best_other", -0.1)}, report.FAILS),
        (4, "04_training", gain("shifted_gain_mixed_vs_added", -0.1), report.PARTLY),
        (5, "06_overhead", {"amortised_overhead": {"100": 3.0}}, report.PARTLY),
        (5, "06_overhead", {**gain("diffcoremix_step_overhead", 0.2),
                            "amortised_overhead": {"100": 3.0}}, report.FAILS),
        (6, "05_saliency", gain("energy_in_mask_gain_vs_cutmix", -0.1), report.PARTLY),
        (6, "05_saliency", {"sanity_check_passes": False}, report.PARTLY),
        (7, "07_robustness", gain("pgd_gain_vs_vanilla", 0.0), report.PARTLY),
        (8, "07_robustness", {"near_copy_rate": 0.2}, report.FAILS),
    ],
)  # fmt: skip
def test_a_verdict_follows_from_the_numbers(place, notebook, numbers, verdict):
    found = verdicts(changed(notebook, **numbers))
    assert found[place] == verdict
    expected = verdicts(GOOD)
    assert found[:place] + found[place + 1 :] == expected[:place] + expected[place + 1 :]


def test_what_was_not_run_is_said_to_be_missing():
    table = report.judge_claims({"01_generation": GOOD["01_generation"]})
    assert table["verdict"].tolist()[:2] == [report.HOLDS, report.NOT_RUN]
    assert table["measured"][1] == "no 02_filtering"


def photographs():
    """Numbers of a study of photographs, which knows less."""
    metrics = copy.deepcopy(GOOD)
    metrics["01_generation"] = {"images": 12}
    metrics["03_mixing"] = {"pairs": 12}
    del metrics["02_filtering"]["auc_best"]
    metrics["04_training"] = {
        "tests": ["test"], "top1": {"test": {"vanilla": 0.5, "diffcoremix": 0.6}},
        **gain("test_gain_vs_best_other", 0.05), "best_other_test": "mixup",
        **gain("test_gain_mixed_vs_added", -0.03), **gain("test_gain_both_vs_added", 0.04),
        **gain("test_gain_vs_vanilla", 0.1),
    }  # fmt: skip
    return metrics


def test_photographs_leave_untested_what_only_a_known_world_shows():
    table = report.judge_claims(photographs())
    assert table["verdict"].tolist()[:5] == [
        report.UNTESTED, report.PARTLY, report.UNTESTED, report.HOLDS, report.FAILS,
    ]  # fmt: skip
    assert "not known on this data set" in table["measured"][0]
    assert "DiffCoRe-Mix 60.0%" in table["measured"].iloc[-1]
    effects = report.effects(photographs())["effect"].tolist()
    assert effects[:3] == [
        "top-1, test, above vanilla", "top-1, test, above the best other",
        "top-1, test, above adding the images",
    ]  # fmt: skip


def test_stand_ins_say_nothing_of_generated_images():
    metrics = photographs()
    metrics["02_filtering"]["auc_best"] = 0.9
    metrics["04_training"]["counterparts"] = "stand_in"
    table = report.judge_claims(metrics)
    tested = table[table["verdict"] != report.UNTESTED]
    assert tested["verdict"].tolist() == [report.PARTLY, report.FAILS]
    assert "planted" in tested["measured"].iloc[0]
    assert "(photographs stood in" in table["measured"][3]


def test_effects_have_their_intervals():
    table = report.effects(GOOD)
    row = table[table["effect"] == "top-1, shifted, above the best other"].iloc[0]
    assert (row["gain"], row["low"], row["high"]) == pytest.approx((0.05, 0.04, 0.06))
    assert report.effects({}).empty


@pytest.fixture
def folder(tmp_path):
    for name, numbers in GOOD.items():
        report_dir = tmp_path / name
        report_dir.mkdir()
        (report_dir / "metrics.json").write_text(json.dumps(numbers))
        (report_dir / "versions.json").write_text(json.dumps({"device": "CPU"}))
        notebook = new_notebook(metadata={"duration_seconds": 90})
        nbformat.write(notebook, report_dir / f"{name}.ipynb")
        nbformat.write(notebook, report_dir / f"{name}.failed.ipynb")
    return tmp_path


def test_numbers_and_durations_are_read_from_the_reports(folder):
    assert report.read_metrics(folder) == GOOD
    found = report.durations(folder)
    assert found["notebook"].tolist() == list(GOOD)
    assert (found["minutes"] == 1.5).all()


def test_a_report_does_not_sum_up_an_earlier_one(folder):
    (folder / "08_report").mkdir()
    (folder / "08_report" / "metrics.json").write_text('{"minutes": 7}')
    nbformat.write(new_notebook(metadata={"duration_seconds": 90}),
                   folder / "08_report" / "08_report.ipynb")  # fmt: skip
    assert set(report.read_metrics(folder)) == set(GOOD)
    assert "08_report" not in set(report.durations(folder)["notebook"])


def test_the_index_shows_the_claims(folder):
    assert "What became" not in pages.index_page(folder)
    claims = report.judge_claims(changed("02_filtering", auc_best=0.5))
    (folder / "08_report" / "tables").mkdir(parents=True)
    claims.to_csv(folder / "08_report" / "tables" / "claims.csv", index=False)
    page = pages.index_page(folder)
    assert page.count('class="verdict holds"') == len(report.CLAIMS) - 2
    assert page.count('class="verdict holds-partly"') == 1
    assert 'href="02_filtering/02_filtering.html">About 10 %' in page
    assert "“responsible”" in page


def test_links_name_each_claims_figure_if_it_is_there(tmp_path):
    claims = report.judge_claims(GOOD)
    for row in claims[claims["notebook"] != ""].itertuples():
        figure = tmp_path / row.notebook / "figures" / f"{row.figure}.png"
        figure.parent.mkdir(parents=True, exist_ok=True)
        figure.touch()
    text = report.links(claims, tmp_path)
    assert text.count("\n- ") == len(report.CLAIMS) - 2
    assert "- [04_training](04_training.ipynb), figure `01_main`: accuracy above" in text
    (tmp_path / "04_training" / "figures" / "01_main.png").unlink()
    assert "`01_main`" not in report.links(claims, tmp_path)
