"""What became of each claim: the numbers of all notebooks, judged by rules that can be read.

``claims.yaml`` has the claims, each with its rule in words and the text of what was measured. Here
are the functions that apply the rules to what the notebooks recorded.
"""

import json
import math
from collections import ChainMap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import yaml
from jinja2 import StrictUndefined, UndefinedError

from diffcore.report.pages import ENVIRONMENT, executed_notebooks, read_numbers

HOLDS, PARTLY, FAILS = "holds", "holds partly", "does not hold"
UNDECIDED = "not decided"
UNTESTED, NOT_RUN = "cannot be tested here", "not run yet"
VERDICTS = (HOLDS, PARTLY, UNDECIDED, FAILS, UNTESTED, NOT_RUN)
#: name -> claim, source, notebook, figure, rule, measured (template), needs_generated
CLAIMS = yaml.safe_load(Path(__file__).with_name("claims.yaml").read_text(encoding="utf-8"))
_JUDGED = sorted({claim["notebook"] for claim in CLAIMS.values()})
_TEXTS = ENVIRONMENT.overlay(undefined=StrictUndefined)
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
    rows = []
    for name, claim in CLAIMS.items():
        verdict, measured = _judge(name, claim, metrics)
        place = {} if "figure" in claim else {"notebook": "", "figure": ""}
        rows.append({**claim, **place, "measured": measured, "verdict": verdict})
    return pd.DataFrame(rows, columns=columns)


def _judge(name: str, claim: Mapping[str, Any], metrics: Mapping[str, Numbers]) -> tuple[str, str]:
    """Return the verdict on a claim, and what was measured."""
    if claim["notebook"] not in metrics:
        return NOT_RUN, f"no {claim['notebook']}"
    substitutes = metrics.get("04_training", {}).get("counterparts") == "substitute"
    numbers = {"substitutes": substitutes} | metrics[claim["notebook"]]
    try:
        verdict = _verdict(*_RULES[name](numbers)) if name in _RULES else UNTESTED
        measured = _TEXTS.from_string(claim["measured"]).render(numbers)
    except (KeyError, UndefinedError):
        verdict, measured = UNTESTED, "this data set does not have what the rule needs"
    if substitutes and claim.get("needs_generated", True):
        return UNTESTED, f"{measured} (photographs stood in for generated images)"
    return verdict, measured


def _verdict(*met: Met) -> str:
    """All met, none met, some met and others not; where none of these is clear, not decided."""
    if None not in met and len(set(met)) == 1:
        return HOLDS if met[0] else FAILS
    return PARTLY if {True, False} <= set(met) else UNDECIDED


# ---------------------------------------------------------------------------------- what is shown
def durations(folder: Path) -> pd.DataFrame:
    """Return how long each executed notebook of a report took: notebook, minutes, on (device)."""
    rows = []
    for path in (path for path in executed_notebooks(folder) if path.stem in _JUDGED):
        minutes = nbformat.read(path, as_version=4).metadata["duration_seconds"] / 60
        versions = json.loads((path.parent / "versions.json").read_text(encoding="utf-8"))
        rows.append((path.stem, minutes, versions["device"]))
    return pd.DataFrame(rows, columns=["notebook", "minutes", "on"])


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
    gains = {
        "saliency in the mask, above vanilla": "energy_in_mask_gain_vs_vanilla",
        "saliency beyond the centre, above vanilla": "energy_beyond_centre_gain_vs_vanilla",
        "top-1 under corruptions, above vanilla": "corruption_gain_vs_vanilla",
        "top-1 under PGD, above vanilla": "pgd_gain_vs_vanilla",
    }
    rows |= {effect: _row(numbers, name) for effect, name in gains.items() if name in numbers}
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


def _row(numbers: Numbers, name: str) -> dict[str, float]:
    """Gather a row that was recorded as several numbers with one beginning of their names."""
    parts = {key: f"{name}_{key}" for key in ("low", "high", "p_holm")}
    ends = {key: numbers[part] for key, part in parts.items() if part in numbers}
    return {"value": numbers[name], **ends}


def _on_hardest(numbers: Numbers, name: str) -> list[Numbers]:
    return [row for row in numbers[name] if row["test"] == numbers["tests"][-1]]


# ------------------------------------------------------------------- the rules: conditions by claim
def _steering(numbers: Numbers) -> list[Met]:
    context, negatives = numbers["in_use"]["context_accuracy"], numbers["negatives"]
    return [_within(context, least=0.9), _within(negatives, least=3)]


def _rejection(numbers: Numbers) -> list[Met]:
    if "wrong_rate" not in numbers.get("at_threshold", {}):
        return [_within(_row(numbers, "rejection_rate"), 0.05, 0.15)]
    separates = _within(numbers["auc_intervals"][numbers["rule"]], least=0.85)
    if numbers["substitutes"]:  # how many are wrong was our choice
        return [separates]
    return [_within(numbers["at_threshold"]["wrong_rate"], 0.05, 0.15), separates]


def _filter_worth(numbers: Numbers) -> list[Met]:
    gains = {row["method"]: row for row in _on_hardest(numbers, "filter_gains")}
    return [_above(gains[numbers["rule"]])]


def _labels(numbers: Numbers) -> list[Met]:
    rows = {row["name"]: row for row in numbers["label_seen"]}
    return [_within(rows[level], least=0.95) for level in ("pixel", "patch")]


def _accuracy(numbers: Numbers) -> list[Met]:
    """Judge at the paper's number of generated images and at the highest, on every test set."""
    rows = numbers["gains_vs_best_other"]
    ends = {min(row["dose"] for row in rows), max(row["dose"] for row in rows)}
    return [_above(row) for row in rows if row["dose"] in ends]


def _mixing_or_adding(numbers: Numbers) -> list[Met]:
    """Judge both levels, as the paper mixes."""
    gains = {row["method"]: row for row in _on_hardest(numbers, "mixed_minus_added")}
    return [_above(gains["both levels"])]


def _retrieval(numbers: Numbers) -> list[Met]:
    return [_above(row) for row in _on_hardest(numbers, "drawn_minus_retrieved")]


def _overhead(numbers: Numbers) -> list[Met]:
    names = ("diffcoremix_step_overhead", "diffcoremix_own_step_overhead")
    drawing = numbers["amortised_overhead"][f"{numbers['epochs']:.0f}"]
    return [*(_within(_row(numbers, name), most=0.05) for name in names), drawing <= 0.05]


def _saliency(numbers: Numbers) -> list[Met]:
    if not numbers["sanity_check_passes"]:
        return [False]
    rivals = ("vanilla", "cutmix")
    return [_above(_row(numbers, f"energy_beyond_centre_gain_vs_{name}")) for name in rivals]


def _robustness(numbers: Numbers) -> list[Met]:
    return [_above(_row(numbers, f"{name}_gain_vs_vanilla")) for name in ("corruption", "pgd")]


def _copies(numbers: Numbers) -> list[Met]:
    among_real = numbers["near_copy_rate_real"]
    return [_within(_row(numbers, "near_copy_rate"), most=max(among_real, 0.01))]


#: Claim -> its rule. A claim without one cannot be tested here.
_RULES = {
    "steering": _steering,
    "rejection": _rejection,
    "filter_worth": _filter_worth,
    "labels": _labels,
    "accuracy": _accuracy,
    "mixing_or_adding": _mixing_or_adding,
    "retrieval": _retrieval,
    "overhead": _overhead,
    "saliency": _saliency,
    "robustness": _robustness,
    "copies": _copies,
}
