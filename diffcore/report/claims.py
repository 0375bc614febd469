"""What became of each claim: ``claims.yaml`` has rules in words; here they are applied."""

import math
from collections import ChainMap
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from jinja2 import StrictUndefined, UndefinedError

from diffcore.report.pages import ENVIRONMENT, read_numbers

HOLDS, PARTLY, FAILS = "holds", "holds partly", "does not hold"
UNDECIDED = "not decided"
UNTESTED, NOT_RUN = "cannot be tested here", "not run yet"
VERDICTS = (HOLDS, PARTLY, UNDECIDED, FAILS, UNTESTED, NOT_RUN)
_TEXTS = yaml.safe_load(Path(__file__).with_name("claims.yaml").read_text(encoding="utf-8"))
#: name -> claim, source, notebook, figure, rule, measured (a template), needs_generated
CLAIMS = _TEXTS["claims"]
_JUDGED = sorted({claim["notebook"] for claim in CLAIMS.values()})
_STRICT = ENVIRONMENT.overlay(undefined=StrictUndefined)
_CLEAR = 0.05  # p, corrected for the number of comparisons, up to which a difference is clear

Numbers = Mapping[str, Any]  # what a notebook recorded, by name
#: Whether a condition is met: True or False where a whole interval says so, else None.
Met = bool | None


def read_metrics(folder: Path) -> dict[str, dict[str, Any]]:
    """Read what the notebooks of a report recorded, times included; those not run are missing."""
    folders = (folder / name for name in _JUDGED)  # without the summary that is being made
    return {at.name: read_numbers(at) for at in folders if (at / "metrics.json").is_file()}


def judge_claims(metrics: Mapping[str, Numbers]) -> pd.DataFrame:
    """Judge all claims: claim, source, measured, verdict, rule, notebook, figure."""
    columns = ["claim", "source", "measured", "verdict", "rule", "notebook", "figure"]
    table = pd.DataFrame([{**claim, **_judge(name, metrics)} for name, claim in CLAIMS.items()])
    table.loc[table["figure"].isna(), ["notebook", "figure"]] = ""
    return table[columns]


def _judge(name: str, metrics: Mapping[str, Numbers]) -> dict[str, str]:
    """Return the verdict on a claim, and what was measured."""
    claim = CLAIMS[name]
    if claim["notebook"] not in metrics:
        return {"verdict": NOT_RUN, "measured": f"no {claim['notebook']}"}
    substitutes = metrics.get("04_training", {}).get("counterparts") == "substitute"
    numbers = {"substitutes": substitutes} | metrics[claim["notebook"]]
    text = '{% from "numbers.j2" import share, points %}' + claim["measured"]
    try:
        conditions = _RULES[name](numbers) if name in _RULES else []
        filled = _STRICT.from_string(text).render(numbers, row=partial(_row, numbers))
        measured = " ".join(filled.split())
    except (KeyError, UndefinedError):
        conditions, measured = [], "this data set does not have what the rule needs"
    if substitutes and claim.get("needs_generated", True):
        conditions, measured = [], f"{measured} (photographs stood in for generated images)"
    return {"verdict": _verdict(conditions), "measured": measured}


def _verdict(conditions: list[Met]) -> str:
    """All met, none met, some met and others not; where none of these is clear, not decided."""
    met = set(conditions)
    if not met:
        return UNTESTED
    if met in ({True}, {False}):
        return HOLDS if True in met else FAILS
    return PARTLY if {True, False} <= met else UNDECIDED


def effects(metrics: Mapping[str, Numbers]) -> pd.DataFrame:
    """Return the differences that the study is about, with intervals: effect, value, low, high.

    All are shares (0.01 is a point), and above 0 where they speak for DiffCoRe-Mix.
    """
    numbers, rows = ChainMap(*reversed(metrics.values())), {}
    for row in numbers.get("gains_vs_best_other", [])[::-1]:
        rows[f"top-1, {row['test']}, above the best other, {row['dose']:g} images"] = row
    for row in numbers.get("mixed_minus_added", []):
        if row["method"] == "both levels":
            rows[f"top-1, {row['test']}, above adding, same share of generated pixels"] = row
    for name, effect in _TEXTS["effects"].items():
        if f"{name}_low" in numbers:
            rows[effect] = _row(numbers, name)
    values = [(effect, row["value"], row["low"], row["high"]) for effect, row in rows.items()]
    return pd.DataFrame(values, columns=["effect", "value", "low", "high"])


def results_table(folder: Path) -> str:
    """Write the results of a report as Markdown: claims, accuracies, and what was measured."""
    metrics = read_metrics(folder)
    accuracies = pd.read_csv(folder / "04_training" / "tables" / "main.csv")
    return ENVIRONMENT.get_template("results.md.j2").render(
        n=dict(ChainMap(*reversed(metrics.values()))),
        claims=judge_claims(metrics).to_dict("records"),
        accuracies=accuracies.to_dict("records"),
    )


# -------------------------------------------------------------------------------------- conditions
def _row(numbers: Numbers, name: str) -> dict[str, float]:
    """Gather a row that was recorded as several numbers with one beginning of their names."""
    keys = [key for key in ("low", "high", "p_holm") if f"{name}_{key}" in numbers]
    return {"value": numbers[name], **{key: numbers[f"{name}_{key}"] for key in keys}}


def _within(row: Numbers, least: float = -math.inf, most: float = math.inf) -> Met:
    """Return whether an interval lies between two bounds as a whole, or outside as a whole."""
    low, high = float(row["low"]), float(row["high"])  # the text "inf" is infinity
    if low >= least and high <= most:
        return True
    return False if high < least or low > most else None


def _above(row: Numbers) -> Met:
    """Return whether a difference is clear of zero, also by its corrected p if it has one."""
    if row.get("p_holm", 0.0) > _CLEAR or row["low"] <= 0 <= row["high"]:
        return None
    return row["low"] > 0


def _above_on_hardest(numbers: Numbers, name: str, method: str = "") -> list[Met]:
    """Return whether differences on the hardest test are clear of zero: one method's, or all."""
    rows = [row for row in numbers[name] if row["test"] == numbers["tests"][-1]]
    return [_above(row) for row in rows if method in ("", row["method"])]


# --------------------------------------------------------------------- rules: conditions of a claim
def _steering(numbers: Numbers) -> list[Met]:
    context, negatives = numbers["in_use"]["context_accuracy"], numbers["negatives"]
    return [_within(context, least=0.9), _within(negatives, least=3)]


def _rejection(numbers: Numbers) -> list[Met]:
    if "wrong_rate" not in numbers.get("at_threshold", {}):
        return [_within(_row(numbers, "rejection_rate"), 0.05, 0.15)]
    wrong = _within(numbers["at_threshold"]["wrong_rate"], 0.05, 0.15)
    separates = _within(numbers["auc_intervals"][numbers["rule"]], least=0.85)
    return [separates] if numbers["substitutes"] else [wrong, separates]  # whose share we chose


def _filter_worth(numbers: Numbers) -> list[Met]:
    return _above_on_hardest(numbers, "filter_gains", numbers["rule"])


def _labels(numbers: Numbers) -> list[Met]:
    rows = [row for row in numbers["label_seen"] if row["name"] in ("pixel", "patch")]
    return [_within(row, least=0.95) for row in rows]


def _accuracy(numbers: Numbers) -> list[Met]:
    """Judge at the paper's number of generated images and at the highest, on every test set."""
    rows = numbers["gains_vs_best_other"]
    ends = {min(row["dose"] for row in rows), max(row["dose"] for row in rows)}
    return [_above(row) for row in rows if row["dose"] in ends]


def _overhead(numbers: Numbers) -> list[Met]:
    steps = ("diffcoremix_step_overhead", "diffcoremix_own_step_overhead")
    drawing = numbers["amortised_overhead"][f"{numbers['epochs']:.0f}"]
    return [*(_within(_row(numbers, name), most=0.05) for name in steps), drawing <= 0.05]


def _saliency(numbers: Numbers) -> list[Met]:
    names = (f"energy_beyond_centre_gain_vs_{rival}" for rival in ("vanilla", "cutmix"))
    gains = [_above(_row(numbers, name)) for name in names]
    return gains if numbers["sanity_check_passes"] else [False]


def _robustness(numbers: Numbers) -> list[Met]:
    return [_above(_row(numbers, f"{name}_gain_vs_vanilla")) for name in ("corruption", "pgd")]


def _copies(numbers: Numbers) -> list[Met]:
    most = max(numbers["near_copy_rate_real"], 0.01)
    return [_within(_row(numbers, "near_copy_rate"), most=most)]


#: Claim -> its rule. A claim without one cannot be tested here. Both levels: as the paper mixes.
_RULES = {
    "steering": _steering,
    "rejection": _rejection,
    "filter_worth": _filter_worth,
    "labels": _labels,
    "accuracy": _accuracy,
    "mixing_or_adding": partial(_above_on_hardest, name="mixed_minus_added", method="both levels"),
    "retrieval": partial(_above_on_hardest, name="drawn_minus_retrieved"),
    "overhead": _overhead,
    "saliency": _saliency,
    "robustness": _robustness,
    "copies": _copies,
}
