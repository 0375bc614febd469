"""What became of each claim: the numbers of all notebooks, judged by rules that can be read.

A claim is the paper's, in our words, from its abstract and figure captions; or a question that the
study adds. Its rule reads the ``metrics.json`` of the notebooks and says how the claim fared. The
rules are written down beside the verdicts, so that a reader may disagree with them.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd

from diffcore.figures.style import METHODS

HOLDS, PARTLY, FAILS = "holds", "holds partly", "does not hold"
UNTESTED, NOT_RUN = "cannot be tested here", "not run yet"
VERDICTS = (HOLDS, PARTLY, FAILS, UNTESTED, NOT_RUN)

#: Metrics of all notebooks: name of the notebook -> its numbers.
Metrics = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        text: in our words.
        source: the paper's section or figure; "ours" for a question that the study adds.
        rule: when it holds, in words.
        figure: notebook and name of the figure that shows it; empty if there is none.
        judge: metrics -> verdict, and what was measured. A KeyError says that a notebook is
            missing.
        needs_generated: whether it is about generated images, of which photographs that stand in
            for them say nothing.
    """

    text: str
    source: str
    rule: str
    figure: tuple[str, str] | None
    judge: Callable[[Metrics], tuple[str, str]]
    needs_generated: bool = True


def read_metrics(folder: Path) -> dict[str, dict[str, Any]]:
    """Read what the notebooks of a profile found; those not run are missing.

    An earlier report is not among them: it would sum up itself.
    """
    return {
        path.parent.name: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob("[0-9][0-9]_*/metrics.json"))
        if path.parent.name in _NOTEBOOKS
    }


def judge_claims(metrics: Metrics) -> pd.DataFrame:
    """Judge all claims: claim, source, measured, verdict, rule, notebook, figure."""
    rows = []
    for claim in CLAIMS:
        try:
            verdict, measured = claim.judge(metrics)
        except KeyError as missing:
            verdict, measured = _without(missing.args[0], metrics)
        if claim.needs_generated and _stood_in(metrics) and verdict != NOT_RUN:
            verdict, measured = UNTESTED, f"{measured} (photographs stood in for generated images)"
        notebook, figure = claim.figure or ("", "")
        rows.append({
            "claim": claim.text, "source": claim.source, "measured": measured, "verdict": verdict,
            "rule": claim.rule, "notebook": notebook, "figure": figure,
        })  # fmt: skip
    return pd.DataFrame(rows)


def _stood_in(metrics: Metrics) -> bool:
    """Whether photographs stood in for generated images."""
    return metrics.get(_TRAINING, {}).get("counterparts") == "stand_in"


def _without(missing: str, metrics: Metrics) -> tuple[str, str]:
    """Judge a claim for which a notebook, or a number of one that was run, is missing."""
    if missing in _NOTEBOOKS and missing not in metrics:
        return NOT_RUN, f"no {missing}"
    return UNTESTED, "what it takes is not known on this data set"


def links(claims: pd.DataFrame, folder: Path) -> str:
    """List those figures of the claims that a profile has as Markdown, linked to their notebooks.

    Args:
        claims: of `judge_claims`.
        folder: reports of the profile.
    """
    return "\n".join(
        f"- [{row.notebook}]({row.notebook}.ipynb), figure `{row.figure}`: {row.claim.lower()}"
        for row in claims.itertuples()
        if (folder / row.notebook / "figures" / f"{row.figure}.png").exists()
    )


def durations(folder: Path) -> pd.DataFrame:
    """How long each executed notebook of a profile took: notebook, minutes, on (the device)."""
    rows = []
    for path in sorted(folder.glob("[0-9][0-9]_*/[0-9][0-9]_*.ipynb")):
        if path.stem == path.parent.name and path.stem in _NOTEBOOKS:
            notebook = nbformat.read(path, as_version=4)
            facts = json.loads((path.parent / "versions.json").read_text(encoding="utf-8"))
            minutes = notebook.metadata["duration_seconds"] / 60
            rows.append({"notebook": path.stem, "minutes": minutes, "on": facts["device"]})
    return pd.DataFrame(rows, columns=["notebook", "minutes", "on"])


def effects(metrics: Metrics) -> pd.DataFrame:
    """The differences that the study is about, with intervals: effect, gain, low, high.

    All are shares (0.01 is a point), and above 0 where they speak for DiffCoRe-Mix.
    """
    rows = []
    for label, notebook, name in (*_test_effects(metrics), *_EFFECTS):
        found = metrics.get(notebook, {})
        if f"{name}_low" in found:
            numbers = {"gain": found[name], "low": found[f"{name}_low"]}
            rows.append({"effect": label, **numbers, "high": found[f"{name}_high"]})
    return pd.DataFrame(rows, columns=["effect", "gain", "low", "high"])


# --------------------------------------------------------------------------------------- the claims
_GENERATION, _FILTERING, _MIXING = "01_generation", "02_filtering", "03_mixing"
_TRAINING, _SALIENCY, _OVERHEAD = "04_training", "05_saliency", "06_overhead"
_ROBUSTNESS = "07_robustness"

_NOTEBOOKS = {*(_GENERATION, _FILTERING, _MIXING, _TRAINING, _SALIENCY, _OVERHEAD, _ROBUSTNESS)}
_EFFECTS = (
    ("saliency in the mask, above vanilla", _SALIENCY, "energy_in_mask_gain_vs_vanilla"),
    ("saliency in the mask, above CutMix", _SALIENCY, "energy_in_mask_gain_vs_cutmix"),
    ("top-1 under corruptions, above vanilla", _ROBUSTNESS, "corruption_gain_vs_vanilla"),
    ("top-1 under PGD, above vanilla", _ROBUSTNESS, "pgd_gain_vs_vanilla"),
)


def _test_effects(metrics: Metrics) -> Iterator[tuple[str, str, str]]:
    """Yield what is compared on test sets, the hardest first: label, notebook, metric."""
    *others, hardest = metrics.get(_TRAINING, {}).get("tests", [""])
    named = f"top-1, {hardest}"
    yield f"{named}, above vanilla", _TRAINING, f"{hardest}_gain_vs_vanilla"
    for test in (hardest, *others):
        label = f"top-1, {test}, above the best other"
        yield label, _TRAINING, f"{test}_gain_vs_best_other"
    yield f"{named}, above adding the images", _TRAINING, f"{hardest}_gain_mixed_vs_added"


def _of(*conditions: bool) -> str:
    """All, some or none of the conditions."""
    return HOLDS if all(conditions) else PARTLY if any(conditions) else FAILS


def _points(found: Mapping[str, float], name: str) -> str:
    """Write a difference with its interval, in points."""
    values = (100 * found[key] for key in (name, f"{name}_low", f"{name}_high"))
    return "{:+.1f} points [{:+.1f}, {:+.1f}]".format(*values)


def _label(method: str) -> str:
    """Name a method as the figures do."""
    return METHODS.get(method, (method,))[0]


def _accuracy(metrics: Metrics) -> tuple[str, str]:
    found = metrics[_TRAINING]
    tests = found["tests"][::-1]  # the hardest first
    names = {test: f"{test}_gain_vs_best_other" for test in tests}
    text = "; ".join(
        f"{test}: {_points(found, names[test])} above {_label(found[f'best_other_{test}'])}"
        for test in tests
    )
    return _of(*(found[f"{name}_low"] > 0 for name in names.values())), text


def _mixing_or_adding(metrics: Metrics) -> tuple[str, str]:
    found = metrics[_TRAINING]
    hardest = found["tests"][-1]
    name = f"{hardest}_gain_mixed_vs_added"
    # Other shares are tried in the side studies alone.
    by_share = found.get("mixed_minus_added", {}).get("generated share of a batch", [])
    parts = [f"mixed minus added: {_points(found, name)}"]
    if by_share:
        parts.append(", ".join(
            f"{100 * row['gain']:+.1f} where {row['value']:.0%} of a batch are generated"
            for row in by_share
        ))  # fmt: skip
    parts.append(f"both minus added: {_points(found, f'{hardest}_gain_both_vs_added')}")
    text = "; ".join(parts)
    return _of(found[f"{name}_low"] > 0, *(row["low"] > 0 for row in by_share)), text


def _rejection(metrics: Metrics) -> tuple[str, str]:
    found = metrics[_FILTERING]
    rate = found["rejection_rate"]
    if "auc_best" not in found:
        kept = PARTLY if 0.05 <= rate <= 0.15 else FAILS
        return kept, f"rejected {rate:.1%}; whether these are the wrong ones is not known here"
    area = found["auc_best"]
    text = (
        f"rejected {rate:.1%}; wrong before {found['wrong_rate']:.1%}, after "
        f"{found['wrong_rate_kept']:.1%}; found {found['recall']:.0%} of them, AUC {area:.2f}"
    )
    if _stood_in(metrics):  # how many are wrong was our own choice
        return PARTLY if area >= 0.85 else FAILS, f"planted, not generated: {text}"
    return _of(0.05 <= rate <= 0.15, area >= 0.85), text


def _steering(metrics: Metrics) -> tuple[str, str]:
    found = metrics[_GENERATION]
    context, rarer = found["context_accuracy"], found["distractor_reduction"]
    text = f"context as asked in {context:.1%}; distractors {rarer:.0f} times rarer"
    return _of(context >= 0.9, rarer >= 3), text


def _labels(metrics: Metrics) -> tuple[str, str]:
    found = metrics[_MIXING]
    names = ("pixel", "patch", "mixup", "cutmix")
    seen = {name: found[f"label_seen_{name}"] for name in names}
    text = "class seen at λ = ½: " + ", ".join(f"{_label(n)} {seen[n]:.0%}" for n in names)
    return _of(seen["pixel"] >= 0.95, seen["patch"] >= 0.95), text


def _overhead(metrics: Metrics) -> tuple[str, str]:
    found = metrics[_OVERHEAD]
    step, high = found["diffcoremix_step_overhead"], found["diffcoremix_step_overhead_high"]
    spread = {int(epochs): share for epochs, share in found["amortised_overhead"].items()}
    own, most = round(found["epochs"]), max(spread)
    text = (
        f"own step {step:+.1%}; with the drawing of its images {spread[own]:+,.0%} of this study's "
        f"small training ({own} epochs), {spread[most]:+,.0%} of one of {most:,} epochs"
    )
    return _of(high <= 0.05, spread[own] <= 0.05), text


def _saliency(metrics: Metrics) -> tuple[str, str]:
    found = metrics[_SALIENCY]
    names = {other: f"energy_in_mask_gain_vs_{other}" for other in ("vanilla", "cutmix")}
    text = "; ".join(
        f"above {_label(other)}: {_points(found, name)}" for other, name in names.items()
    )
    clear = [found[f"{name}_low"] > 0 for name in names.values()]
    return _of(*clear, bool(found["sanity_check_passes"]) and any(clear)), text


def _robustness(metrics: Metrics) -> tuple[str, str]:
    found = metrics[_ROBUSTNESS]
    names = {"corruptions": "corruption_gain_vs_vanilla", "PGD": "pgd_gain_vs_vanilla"}
    text = "; ".join(f"{label}: {_points(found, name)}" for label, name in names.items())
    return _of(*(found[f"{name}_low"] > 0 for name in names.values())), text


def _copies(metrics: Metrics) -> tuple[str, str]:
    found = metrics[_ROBUSTNESS]
    generated, real = found["near_copy_rate"], found["near_copy_rate_real"]
    text = f"near-copies: {generated:.1%} of the generated images, {real:.1%} of real ones"
    return _of(generated <= max(real, 0.01)), text


def _real_sets(metrics: Metrics) -> tuple[str, str]:
    found = metrics[_TRAINING]
    if "test" not in found["top1"]:
        return UNTESTED, "needs its data sets, CosXL and GPUs; profiles for all seven are there"
    tops = (f"{_label(name)} {value:.1%}" for name, value in found["top1"]["test"].items())
    return UNTESTED, f"top-1 here: {', '.join(tops)}; the paper's table is not at hand"


CLAIMS = (
    Claim(
        "Contextual and negative prompts steer what is drawn",
        "abstract, Figure 1",
        "the context is right in 90 % or more, and negatives make distractors 3 times rarer",
        (_GENERATION, "08_negatives"),
        _steering,
    ),
    Claim(
        "About 10 % of the generated images are misaligned, and the filter finds them",
        "Figure 3",
        "between 5 and 15 % are rejected, and an AUC of 0.85 says that they are the wrong ones",
        (_FILTERING, "06_roc"),
        _rejection,
        needs_generated=False,
    ),
    Claim(
        "Mixing within a class leaves the label as it is",
        "Figures 1 and 2",
        "at λ = ½ the oracle sees the class in 95 % or more, at pixel and at patch level",
        (_MIXING, "08_labels"),
        _labels,
    ),
    Claim(
        "Accuracy above the state of the art in mixing, by up to about 3 points",
        "abstract",
        "above the best other method on every test set, with intervals clear of zero",
        (_TRAINING, "01_main"),
        _accuracy,
    ),
    Claim(
        "It is the mixing that helps, more than the generated images as such",
        "ours",
        "mixing beats adding the same images, at the share of a batch that was chosen for adding "
        "and at every other share that was tried, with intervals clear of zero",
        (_TRAINING, "06_mixed_or_added"),
        _mixing_or_adding,
        needs_generated=False,
    ),
    Claim(
        "An overhead comparable to that of other methods",
        "Figure 4",
        "the own step adds at most 5 % to ResNet-50's, and the drawing at most 5 % to a training",
        (_OVERHEAD, "01_overhead_accuracy"),
        _overhead,
    ),
    Claim(
        "Saliency sits more precisely on the object",
        "Figure 5",
        "more energy in the mask than vanilla and CutMix, intervals clear of zero, and the maps "
        "pass the check with randomised weights",
        (_SALIENCY, "01_saliency"),
        _saliency,
    ),
    Claim(
        "Classifiers become steadier against corruptions and attacks",
        "ours",
        "above vanilla under both, with intervals clear of zero",
        (_ROBUSTNESS, "01_corruptions"),
        _robustness,
    ),
    Claim(
        "The generated images are no copies of training images",
        "ours: “responsible”",
        "near-copies are no more frequent than among real images, or below 1 %",
        (_ROBUSTNESS, "11_nearest"),
        _copies,
    ),
    Claim(
        "The paper's accuracies on its seven data sets",
        "abstract",
        "accuracies as high as in the paper's table, which its public text at hand does not hold",
        None,
        _real_sets,
        needs_generated=False,
    ),
)
