"""What became of each claim: the numbers of all notebooks, judged by rules that can be read.

The claims stand in ``claims.yaml``, each with the rule by which it holds in words; here are the
rules that read what the notebooks recorded. A reader who disagrees with a rule finds it, and the
number that it was applied to, beside the verdict.
"""

import json
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
UNTESTED, NOT_RUN = "cannot be tested here", "not run yet"
VERDICTS = (HOLDS, PARTLY, FAILS, UNTESTED, NOT_RUN)
#: name -> claim, source, notebook, figure, rule, needs_generated
CLAIMS = yaml.safe_load(Path(__file__).with_name("claims.yaml").read_text(encoding="utf-8"))
_JUDGED = sorted({claim["notebook"] for claim in CLAIMS.values()})

#: What a notebook recorded, by name; and a verdict, with what was measured.
Numbers = Mapping[str, Any]
Judged = tuple[str, str]


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
    *others, hardest = metrics.get("04_training", {}).get("tests", [""])
    names = {f"top-1, {hardest}, above vanilla": f"{hardest}_gain_vs_vanilla"}
    for test in (hardest, *others):
        names[f"top-1, {test}, above the best other"] = f"{test}_gain_vs_best_other"
    names |= {
        f"top-1, {hardest}, above adding the images": f"{hardest}_gain_mixed_vs_added",
        "saliency in the mask, above vanilla": "energy_in_mask_gain_vs_vanilla",
        "saliency in the mask, above CutMix": "energy_in_mask_gain_vs_cutmix",
        "top-1 under corruptions, above vanilla": "corruption_gain_vs_vanilla",
        "top-1 under PGD, above vanilla": "pgd_gain_vs_vanilla",
    }
    found = ChainMap(*reversed(metrics.values()))
    rows = [
        (effect, found[name], found[f"{name}_low"], found[f"{name}_high"])
        for effect, name in names.items()
        if f"{name}_low" in found
    ]
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


def _of(*conditions: bool) -> str:
    """All, some or none of the conditions."""
    return HOLDS if all(conditions) else PARTLY if any(conditions) else FAILS


def _points(found: Numbers, name: str) -> str:
    """Write a difference with its interval, in points."""
    values = (100 * found[key] for key in (name, f"{name}_low", f"{name}_high"))
    return "{:+.1f} points [{:+.1f}, {:+.1f}]".format(*values)


def _steering(found: Numbers) -> Judged:
    context, rarer = found["context_accuracy"], found["distractor_reduction"]
    text = f"context as asked in {context:.1%}; distractors {rarer:.0f} times rarer"
    return _of(context >= 0.9, rarer >= 3), text


def _rejection(found: Numbers) -> Judged:
    rate = found["rejection_rate"]
    if "auc_in_use" not in found:
        kept = PARTLY if 0.05 <= rate <= 0.15 else FAILS
        return kept, f"rejected {rate:.1%}; whether these are the wrong ones is not known here"
    area = found["auc_in_use"]
    text = (
        f"rejected {rate:.1%}; wrong before {found['wrong_rate']:.1%}, after "
        f"{found['wrong_rate_kept']:.1%}; found {found['recall']:.0%} of them, AUC {area:.2f}"
    )
    if found["surrogates"]:  # how many are wrong was our own choice
        return PARTLY if area >= 0.85 else FAILS, f"injected, not generated: {text}"
    return _of(0.05 <= rate <= 0.15, area >= 0.85), text


def _labels(found: Numbers) -> Judged:
    seen = {name: found[f"label_seen_{name}"] for name in ("pixel", "patch", "mixup", "cutmix")}
    text = "class seen at λ = ½: " + ", ".join(f"{label_of(n)} {seen[n]:.0%}" for n in seen)
    return _of(seen["pixel"] >= 0.95, seen["patch"] >= 0.95), text


def _accuracy(found: Numbers) -> Judged:
    names = {test: f"{test}_gain_vs_best_other" for test in found["tests"][::-1]}
    text = "; ".join(
        f"{test}: {_points(found, name)} above {label_of(found[f'best_other_{test}'])}"
        for test, name in names.items()
    )
    return _of(*(found[f"{name}_low"] > 0 for name in names.values())), text


def _mixing_or_adding(found: Numbers) -> Judged:
    """Judge mixing against adding the same images, also at the shares that the sweeps tried."""
    hardest = found["tests"][-1]
    mixed, both = f"{hardest}_gain_mixed_vs_added", f"{hardest}_gain_both_vs_added"
    by_share = found.get("mixed_minus_added", {}).get("generated share of a batch", [])
    at_shares = ", ".join(
        f"{100 * row['value']:+.1f} where {row['point']:.0%} of a batch are generated"
        for row in by_share
    )
    texts = (f"mixed minus added: {_points(found, mixed)}", at_shares,
             f"both minus added: {_points(found, both)}")  # fmt: skip
    clear = [found[f"{mixed}_low"] > 0, *(row["low"] > 0 for row in by_share)]
    return _of(*clear), "; ".join(filter(None, texts))


def _overhead(found: Numbers) -> Judged:
    step, high = found["diffcoremix_step_overhead"], found["diffcoremix_step_overhead_high"]
    spread = {int(epochs): share for epochs, share in found["amortised_overhead"].items()}
    own, most = round(found["epochs"]), max(spread)
    text = (
        f"own step {step:+.1%}; with the drawing of its images {spread[own]:+,.0%} of this study's "
        f"small training ({own} epochs), {spread[most]:+,.0%} of one of {most:,} epochs"
    )
    return _of(high <= 0.05, spread[own] <= 0.05), text


def _saliency(found: Numbers) -> Judged:
    names = {other: f"energy_in_mask_gain_vs_{other}" for other in ("vanilla", "cutmix")}
    text = "; ".join(f"above {label_of(other)}: {_points(found, n)}" for other, n in names.items())
    clear = [found[f"{name}_low"] > 0 for name in names.values()]
    return _of(*clear, bool(found["sanity_check_passes"]) and any(clear)), text


def _robustness(found: Numbers) -> Judged:
    names = {"corruptions": "corruption_gain_vs_vanilla", "PGD": "pgd_gain_vs_vanilla"}
    text = "; ".join(f"{label}: {_points(found, name)}" for label, name in names.items())
    return _of(*(found[f"{name}_low"] > 0 for name in names.values())), text


def _copies(found: Numbers) -> Judged:
    generated, real = found["near_copy_rate"], found["near_copy_rate_real"]
    text = f"near-copies: {generated:.1%} of the generated images, {real:.1%} of real ones"
    return _of(generated <= max(real, 0.01)), text


def _real_sets(found: Numbers) -> Judged:
    if "test" not in found["top1"]:
        return UNTESTED, "needs its data sets, CosXL and GPUs; profiles for all seven are there"
    tops = (f"{label_of(name)} {value:.1%}" for name, value in found["top1"]["test"].items())
    return UNTESTED, f"top-1 here: {', '.join(tops)}; the paper's table is not at hand"


_RULES = {name: globals()[f"_{name}"] for name in CLAIMS}  # what judges each claim
