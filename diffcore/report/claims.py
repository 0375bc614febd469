"""What became of each claim: the numbers of all notebooks, judged by rules that can be read.

The claims stand in ``claims.yaml``, each with the rule by which it holds in words; here are the
rules that read what the notebooks recorded. A reader who disagrees with a rule finds it, and the
number that it was applied to, beside the verdict.
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

from diffcore.figures.style import label_of
from diffcore.report.pages import ENVIRONMENT, executed_notebooks, read_numbers

HOLDS, PARTLY, FAILS = "holds", "holds partly", "does not hold"
UNDECIDED = "not decided"
UNTESTED, NOT_RUN = "cannot be tested here", "not run yet"
VERDICTS = (HOLDS, PARTLY, UNDECIDED, FAILS, UNTESTED, NOT_RUN)
#: name -> claim, source, notebook, figure, rule, needs_generated
CLAIMS = yaml.safe_load(Path(__file__).with_name("claims.yaml").read_text(encoding="utf-8"))
_JUDGED = sorted({claim["notebook"] for claim in CLAIMS.values()})

#: What a notebook recorded, by name; and a verdict, with what was measured.
Numbers = Mapping[str, Any]
Judged = tuple[str, str]
#: Whether a condition is met: True or False where a whole interval says so, else None.
Met = bool | None
_CLEAR = 0.05  # p, corrected for the number of comparisons, up to which a difference is clear


def read_metrics(folder: Path) -> dict[str, dict[str, Any]]:
    """Read what the notebooks of a report recorded, times included; those not run are missing."""
    found = (folder / name for name in _JUDGED)  # an earlier summary would sum up itself
    return {at.name: read_numbers(at) for at in found if (at / "metrics.json").is_file()}


def judge_claims(metrics: Mapping[str, Numbers]) -> pd.DataFrame:
    """Judge all claims: claim, source, measured, verdict, rule, notebook, figure."""
    rows = []
    for name, claim in CLAIMS.items():
        verdict, measured = _judge(name, claim, metrics)
        place = {} if "figure" in claim else {"notebook": "", "figure": ""}
        rows.append({**claim, **place, "measured": measured, "verdict": verdict})
    columns = ["claim", "source", "measured", "verdict", "rule", "notebook", "figure"]
    return pd.DataFrame(rows, columns=columns)


def _judge(name: str, claim: Mapping[str, Any], metrics: Mapping[str, Numbers]) -> Judged:
    """Judge one claim, unless its notebook was not run, or a number of it is not known."""
    if claim["notebook"] not in metrics:
        return NOT_RUN, f"no {claim['notebook']}"
    surrogates = metrics.get("04_training", {}).get("counterparts") == "surrogate"
    try:
        verdict, measured = _RULES[name]({"surrogates": surrogates} | metrics[claim["notebook"]])
    except KeyError:
        verdict, measured = UNTESTED, "what it takes is not known on this data set"
    if surrogates and claim.get("needs_generated", True):
        return UNTESTED, f"{measured} (photographs stood in for generated images)"
    return verdict, measured


def links(claims: pd.DataFrame, folder: Path) -> str:
    """List those figures of the claims that a report has as Markdown, linked to their notebooks."""
    return "\n".join(
        f"- [{row.notebook}]({row.notebook}.ipynb), figure `{row.figure}`: {row.claim.lower()}"
        for row in claims.itertuples()
        if (folder / row.notebook / "figures" / f"{row.figure}.png").exists()
    )


def durations(folder: Path) -> pd.DataFrame:
    """How long each executed notebook of a report took: notebook, minutes, on (the device)."""
    rows = []
    for path in (path for path in executed_notebooks(folder) if path.stem in _JUDGED):
        minutes = nbformat.read(path, as_version=4).metadata["duration_seconds"] / 60
        versions = json.loads((path.parent / "versions.json").read_text(encoding="utf-8"))
        rows.append((path.stem, minutes, versions["device"]))
    return pd.DataFrame(rows, columns=["notebook", "minutes", "on"])


def effects(metrics: Mapping[str, Numbers]) -> pd.DataFrame:
    """The differences that the study is about, with intervals: effect, value, low, high.

    All are shares (0.01 is a point), and above 0 where they speak for DiffCoRe-Mix.
    """
    found = ChainMap(*reversed(metrics.values()))
    told = {
        f"top-1, {row['test']}, above the best other, {row['dose']:g} images": row
        for row in found.get("gains_vs_best_other", [])[::-1]
    }
    told |= {
        f"top-1, {row['test']}, {row['method']} above adding, equal mass": row
        for row in found.get("mixed_minus_added", []) if row["method"] == "both levels"
    }  # fmt: skip
    names = {
        "saliency in the mask, above vanilla": "energy_in_mask_gain_vs_vanilla",
        "saliency beyond the centre, above vanilla": "energy_beyond_centre_gain_vs_vanilla",
        "top-1 under corruptions, above vanilla": "corruption_gain_vs_vanilla",
        "top-1 under PGD, above vanilla": "pgd_gain_vs_vanilla",
    }
    told |= {effect: _row(found, name) for effect, name in names.items() if f"{name}_low" in found}
    rows = [(effect, row["value"], row["low"], row["high"]) for effect, row in told.items()]
    return pd.DataFrame(rows, columns=["effect", "value", "low", "high"])


def results_table(folder: Path) -> str:
    """Write the results of a report as Markdown: claims, accuracies, and what was measured."""
    metrics = read_metrics(folder)
    return ENVIRONMENT.get_template("results.md.j2").render(
        n=dict(ChainMap(*reversed(metrics.values()))),
        claims=judge_claims(metrics).to_dict("records"),
        accuracies=pd.read_csv(folder / "04_training" / "tables" / "main.csv").to_dict("records"),
        label=label_of,
    )


def _verdict(*met: Met) -> str:
    """All met, none met, some met and others not; where none of these is clear, not decided."""
    if None not in met and len(set(met)) == 1:
        return HOLDS if met[0] else FAILS
    return PARTLY if {True, False} <= set(met) else UNDECIDED


def _reaches(row: Numbers, bound: float) -> Met:
    """Whether an interval lies above a bound as a whole, or below it, or holds it."""
    return True if row["low"] >= bound else False if row["high"] < bound else None


def _within(row: Numbers, least: float, most: float) -> Met:
    """Whether an interval lies between two bounds as a whole, or outside, or holds one of them."""
    if row["low"] >= least and row["high"] <= most:
        return True
    return False if row["high"] < least or row["low"] > most else None


def _above(row: Numbers) -> Met:
    """Whether a difference is clear of zero, also by its corrected p if it has one."""
    if row.get("p_holm", 0.0) > _CLEAR or row["low"] <= 0 <= row["high"]:
        return None
    return row["low"] > 0


def _row(found: Numbers, name: str) -> dict[str, float]:
    """Gather a row that was recorded as numbers of one name."""
    ends = {key: found[f"{name}_{key}"] for key in ("low", "high")}
    holm = {"p_holm": found[f"{name}_p_holm"]} if f"{name}_p_holm" in found else {}
    return {"value": found[name], **ends, **holm}


def _points(row: Numbers, unit: str = "points") -> str:
    """Write a difference with its interval, in points, or in per cent of something."""
    value, low, high = (100 * row[key] for key in ("value", "low", "high"))
    return f"{value:+.1f} {unit} [{low:+.1f}, {high:+.1f}]"


def _share(row: Numbers) -> str:
    values = (100 * row[key] for key in ("value", "low", "high"))
    return "{:.1f} % [{:.1f}, {:.1f}]".format(*values)


def _steering(found: Numbers) -> Judged:
    context, rarer = found["in_use"]["context_accuracy"], found["negatives"]
    text = (
        f"context as asked in {_share(context)}; distractors {rarer['value']:.0f} times rarer "
        f"[{rarer['low']:.0f}, {rarer['high']:.0f}]"
    )
    return _verdict(_reaches(context, 0.9), _reaches(rarer, 3)), text


def _rejection(found: Numbers) -> Judged:
    at = found.get("at_threshold", {})
    if "wrong_rate" not in at:
        rate = _row(found, "rejection_rate")
        text = f"rejected {_share(rate)}; whether these are the wrong ones is not known here"
        return _verdict(_within(rate, 0.05, 0.15)), text
    area = found["auc_intervals"][found["rule"]] | {"value": found["auc_in_use"]}
    seen = "AUC {value:.2f} [{low:.2f}, {high:.2f}]".format(**area)
    text = (
        f"wrong {_share(at['wrong_rate'])}; `{found['rule']}` rejects "
        f"{_share(at['rejection_rate'])}, finds {_share(at['recall'])} of the wrong ones ({seen}) "
        f"and leaves {_share(at['wrong_rate_kept'])}"
    )
    if found["surrogates"]:  # how many are wrong was our own choice
        return _verdict(_reaches(area, 0.85)), f"injected, not generated: {text}"
    return _verdict(_within(at["wrong_rate"], 0.05, 0.15), _reaches(area, 0.85)), text


def _filter_worth(found: Numbers) -> Judged:
    """Judge the rule in use; the paper's and the oracle's are told beside it."""
    rows = [row for row in found["filter_gains"] if row["test"] == found["tests"][-1]]
    gains = {row["method"]: row for row in rows}
    text = "; ".join(f"`{name}` {_points(row)}" for name, row in gains.items())
    return _verdict(_above(gains[found["rule"]])), f"above no filter: {text}"


def _labels(found: Numbers) -> Judged:
    seen = {row["name"]: row for row in found["label_seen"]}
    text = ", ".join(f"{label_of(name)} {_share(row)}" for name, row in seen.items())
    met = (_reaches(seen[name], 0.95) for name in ("pixel", "patch"))
    return _verdict(*met), f"class seen at λ = ½: {text}"


def _accuracy(found: Numbers) -> Judged:
    """Judge at the paper's dose and at the highest, on every test set."""
    rows = found["gains_vs_best_other"]
    ends = {min(row["dose"] for row in rows), max(row["dose"] for row in rows)}
    text = "; ".join(
        f"{row['test']}, {row['dose']:g} images: {_points(row)} above {label_of(row['best_other'])}"
        for row in rows
    )
    return _verdict(*(_above(row) for row in rows if row["dose"] in ends)), text


def _mixing_or_adding(found: Numbers) -> Judged:
    """Judge both levels, as the paper mixes; the others are told beside it."""
    rows = [row for row in found["mixed_minus_added"] if row["test"] == found["tests"][-1]]
    text = "; ".join(f"{row['method']} {_points(row)}" for row in rows)
    judged = next(row for row in rows if row["method"] == "both levels")
    return _verdict(_above(judged)), f"above adding, mean over masses: {text}"


def _retrieval(found: Numbers) -> Judged:
    rows = [row for row in found["drawn_minus_retrieved"] if row["test"] == found["tests"][-1]]
    text = "; ".join(
        f"{label_of(row['method'])} {_points(row)} above {row['against']}" for row in rows
    )
    return _verdict(*map(_above, rows)), f"drawn: {text}"


def _overhead(found: Numbers) -> Judged:
    step, own_step = (_row(found, f"diffcoremix_{name}_overhead") for name in ("step", "own_step"))
    spread = {int(epochs): share for epochs, share in found["amortised_overhead"].items()}
    own, most = round(found["epochs"]), max(spread)
    text = (
        f"own step {_points(step, '%')} of ResNet-50's, {_points(own_step, '%')} of this study's "
        f"small network; with the drawing of its images {spread[own]:+,.0%} of this training "
        f"({own} epochs), {spread[most]:+,.0%} of one of {most:,} epochs"
    )
    steps = (_within(row, -math.inf, 0.05) for row in (step, own_step))
    return _verdict(*steps, spread[own] <= 0.05), text


def _saliency(found: Numbers) -> Judged:
    names = {other: f"energy_beyond_centre_gain_vs_{other}" for other in ("vanilla", "cutmix")}
    rows = {other: _row(found, name) for other, name in names.items()}
    text = "; ".join(f"above {label_of(other)} {_points(row)}" for other, row in rows.items())
    if not found["sanity_check_passes"]:
        return FAILS, f"the maps fail the check with randomised weights; {text}"
    return _verdict(*map(_above, rows.values())), f"energy beyond the centre's: {text}"


def _robustness(found: Numbers) -> Judged:
    names = {"corruptions": "corruption_gain_vs_vanilla", "PGD": "pgd_gain_vs_vanilla"}
    rows = {label: _row(found, name) for label, name in names.items()}
    text = "; ".join(f"{label}: {_points(row)}" for label, row in rows.items())
    return _verdict(*map(_above, rows.values())), text


def _copies(found: Numbers) -> Judged:
    generated, real = _row(found, "near_copy_rate"), found["near_copy_rate_real"]
    text = f"near-copies: {_share(generated)} of the generated images, {real:.1%} of real ones"
    return _verdict(_within(generated, -math.inf, max(real, 0.01))), text


def _real_sets(found: Numbers) -> Judged:
    if "test" not in found["top1"]:
        return UNTESTED, "needs its data sets, CosXL and GPUs; profiles for all seven are there"
    tops = (f"{label_of(name)} {value:.1%}" for name, value in found["top1"]["test"].items())
    return UNTESTED, f"top-1 here: {', '.join(tops)}; the paper's table is not at hand"


_RULES = {name: globals()[f"_{name}"] for name in CLAIMS}  # what judges each claim
