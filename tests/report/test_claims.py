"""Verdicts follow from the numbers, by the rules that stand beside them."""

import copy
import json

import pytest
from conftest import PROJECT

from diffcore.report import claims
from diffcore.report.claims import CLAIMS, FAILS, HOLDS, NOT_RUN, PARTLY, UNDECIDED, UNTESTED
from diffcore.store import write_text


def gain(name, value, reach=0.01, **more):
    ends = {f"{name}_low": value - reach, f"{name}_high": value + reach}
    return {name: value, **ends, **{f"{name}_{key}": number for key, number in more.items()}}


def share(value, reach=0.01, **more):
    return {"value": value, "low": value - reach, "high": value + reach, **more}


def over(name, *rows):
    """What notebook 04 recorded of differences, on the shifted test."""
    return {name: [share(value, test="shifted", p_holm=p, **more) for value, p, more in rows]}


def best(*values):
    """Gains over the best other at two doses on two tests."""
    places = [(dose, test) for dose in (0.3, 8.5) for test in ("matched", "shifted")]
    rows = zip(places, values, strict=True)
    return {"gains_vs_best_other": [
        share(value, dose=dose, test=test, best_other="mixup", p_holm=0.001)
        for (dose, test), value in rows
    ]}  # fmt: skip


def at(**rates):
    return {"at_threshold": {name: share(value) for name, value in rates.items()}}


RETRIEVED = {"method": "added", "against": "retrieved"}
#: Numbers under which every claim holds.
GOOD = {
    "01_generation": {
        "in_use": {"context_accuracy": share(0.97)}, "negatives": share(40.0, 5.0),
    },
    "02_filtering": {
        **at(wrong_rate=0.1, rejection_rate=0.3, recall=0.8, wrong_rate_kept=0.03),
        "rule": "margin", "auc_in_use": 0.9, "auc_intervals": {"margin": share(0.9)},
    },
    "03_mixing": {
        "label_seen": [share(0.98, name=name) for name in ("pixel", "patch", "mixup", "cutmix")],
    },
    "04_training": {
        **best(0.02, 0.05, 0.02, 0.05), "rule": "margin",
        **over("filter_gains", (0.03, 0.01, {"method": "margin"}), (0.0, 1, {"method": "source"})),
        **over("mixed_minus_added", (0.03, 0.01, {"method": "both levels"})),
        **over("drawn_minus_retrieved", (0.03, 0.01, RETRIEVED)),
        "tests": ["matched", "shifted"], "top1": {"matched": {}, "shifted": {}},
    },
    "05_saliency": {
        **gain("energy_beyond_centre_gain_vs_vanilla", 0.05),
        **gain("energy_beyond_centre_gain_vs_cutmix", 0.05), "sanity_check_passes": True,
    },
    "06_overhead": {
        **gain("diffcoremix_step_overhead", 0.01), **gain("diffcoremix_own_step_overhead", 0.03),
        "amortised_overhead": {"1": 3.0, "100": 0.04}, "epochs": 100.2,
    },
    "07_robustness": {
        **gain("corruption_gain_vs_vanilla", 0.05, p_holm=0.01),
        **gain("pgd_gain_vs_vanilla", 0.02, p_holm=0.01),
        **gain("near_copy_rate", 0.0, 0.001), "near_copy_rate_real": 0.01,
    },
}  # fmt: skip
NAMES = list(CLAIMS)


def verdicts(metrics):
    return claims.judge_claims(metrics)["verdict"].tolist()


def changed(notebook, **numbers):
    metrics = copy.deepcopy(GOOD)
    metrics[notebook].update(numbers)
    return metrics


def test_under_good_numbers_all_holds_that_can_be_tested():
    assert verdicts(GOOD) == [HOLDS] * (len(CLAIMS) - 1) + [UNTESTED]


@pytest.mark.parametrize(
    ("claim", "numbers", "verdict"),
    [
        ("steering", {"negatives": share(2.0, 0.5)}, PARTLY),
        ("steering", {"negatives": share(4.0, 2.0)}, UNDECIDED),
        ("rejection", {"auc_intervals": {"margin": share(0.55)}}, PARTLY),
        ("rejection", {"auc_intervals": {"margin": share(0.55)}, **at(
            wrong_rate=0.3, rejection_rate=0.3, recall=0.8, wrong_rate_kept=0.1)}, FAILS),
        # An interval that holds 5 % decides nothing.
        ("rejection", at(wrong_rate=0.053, rejection_rate=0.1, recall=0.8, wrong_rate_kept=0),
         UNDECIDED),
        ("filter_worth", over("filter_gains", (0.03, 0.2, {"method": "margin"})), UNDECIDED),
        ("filter_worth", over("filter_gains", (-0.03, 0.01, {"method": "margin"})), FAILS),
        ("labels", {"label_seen": [share(0.98, name="pixel"), share(0.8, name="patch")]}, PARTLY),
        ("accuracy", best(-0.02, 0.05, 0.02, 0.05), PARTLY),
        ("accuracy", best(0.005, 0.05, 0.02, 0.05), UNDECIDED),
        ("accuracy", best(-0.02, -0.05, -0.02, -0.05), FAILS),
        ("mixing_or_adding", over("mixed_minus_added", (-0.1, 0.01, {"method": "both levels"})),
         FAILS),
        ("retrieval", over("drawn_minus_retrieved", *((x, 0.01, RETRIEVED) for x in (0.03, -0.03))),
         PARTLY),
        ("overhead", {"amortised_overhead": {"100": 3.0}}, PARTLY),
        ("overhead", gain("diffcoremix_own_step_overhead", 0.05), UNDECIDED),
        ("overhead", {**gain("diffcoremix_step_overhead", 0.2), **gain(
            "diffcoremix_own_step_overhead", 0.2), "amortised_overhead": {"100": 3.0}}, FAILS),
        ("saliency", gain("energy_beyond_centre_gain_vs_cutmix", -0.1), PARTLY),
        ("saliency", gain("energy_beyond_centre_gain_vs_cutmix", 0.0), UNDECIDED),
        ("saliency", {"sanity_check_passes": False}, FAILS),
        ("robustness", gain("pgd_gain_vs_vanilla", 0.02, p_holm=0.3), UNDECIDED),
        ("copies", gain("near_copy_rate", 0.2), FAILS),
    ],
)  # fmt: skip
def test_a_verdict_follows_from_the_numbers(claim, numbers, verdict):
    found = verdicts(changed(CLAIMS[claim]["notebook"], **numbers))
    expected, place = verdicts(GOOD), NAMES.index(claim)
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
    metrics["02_filtering"] = {**gain("rejection_rate", 0.1), "rule": "source"}
    metrics["04_training"] = {
        "tests": ["test"], "top1": {"test": {"vanilla": 0.5, "diffcoremix": 0.6}},
        "gains_vs_best_other": [share(0.05, dose=0.3, test="test", best_other="mixup")],
        **gain("test_gain_vs_vanilla", 0.1),
    }  # fmt: skip
    return metrics


def test_photographs_leave_untested_what_only_a_known_world_shows():
    table = claims.judge_claims(photographs())
    found = dict(zip(NAMES, table["verdict"], strict=True))
    left = {"steering", "filter_worth", "labels", "mixing_or_adding", "retrieval", "real_sets"}
    assert {name for name, verdict in found.items() if verdict == UNTESTED} == left
    assert (found["rejection"], found["accuracy"]) == (HOLDS, HOLDS)
    assert "does not have what the rule needs" in table["measured"][0]
    assert "DiffCoRe-Mix 60.0%" in table["measured"].iloc[-1]
    effects = claims.effects(photographs())["effect"].tolist()
    assert effects[0] == "top-1, test, above the best other, 0.3 images"


def test_substitutes_say_nothing_of_generated_images():
    metrics = copy.deepcopy(GOOD)
    metrics["04_training"]["counterparts"] = "substitute"
    table = claims.judge_claims(metrics)
    tested = table[table["verdict"] != UNTESTED]
    assert tested["verdict"].tolist() == [HOLDS, HOLDS]  # of the filter, and of mixing or adding
    assert "injected" in tested["measured"].iloc[0]
    assert "(photographs stood in" in table.loc[NAMES.index("accuracy"), "measured"]


def test_effects_have_their_intervals():
    table = claims.effects(GOOD).set_index("effect")
    row = table.loc["top-1, shifted, above the best other, 8.5 images"]
    assert row.tolist() == pytest.approx([0.05, 0.04, 0.06])
    assert claims.effects({}).empty


def test_numbers_and_times_are_read_but_not_those_of_an_earlier_summary(tmp_path):
    for name, numbers in (GOOD | {"08_report": {"minutes": 7}}).items():
        kept = {"metrics": {}, "times": numbers} if "overhead" in name else {"metrics": numbers}
        for kind, values in kept.items():
            write_text(tmp_path / name / f"{kind}.json", json.dumps(values))
    assert claims.read_metrics(tmp_path) == GOOD


def test_the_results_in_the_documents_are_those_of_the_committed_report():
    report = PROJECT / "reports" / "demo"
    if not (report / "08_report" / "times.json").is_file():
        pytest.skip("no report of the demo in its present form")
    written = (PROJECT / "docs" / "results.md").read_text(encoding="utf-8")
    assert claims.results_table(report) == written
