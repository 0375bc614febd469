"""What generated images show, beside what their prompts asked for: tables in, tables out.

An oracle exists for Paperbirds alone, and is used here and nowhere before: neither to filter nor to
train. Everything but `judge_images` asks only for its table.
"""

from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from diffcore import stats
from diffcore.generation.draw import GeneratedSet
from diffcore.prompts.prompt_set import PromptSet, negatives_for, write_prompt

SWEPT = ("species_right", "context_right", "wellformed", "wrong")  # what a sweep looks at






def ablations(
    plan: pd.DataFrame, prompt_set: PromptSet, count: int, seed: int
) -> dict[str, pd.DataFrame]:
    """`count` samples of a plan, by chance, each from the same noise under three prompts."""
    chosen = plan.sample(min(count, len(plan)), random_state=seed).sort_index(ignore_index=True)
    return {
        "plain prompt": without_context(chosen, prompt_set).assign(negative_prompt=""),
        "with context": chosen.assign(negative_prompt=""),
        "context and negatives": chosen,
    }


def without_context(plan: pd.DataFrame, prompt_set: PromptSet) -> pd.DataFrame:
    """The same samples of a plan, from the same noise, with negatives but without a context."""
    names = plan["class_name"]
    return plan.assign(
        context="",
        prompt=[write_prompt(prompt_set, name) for name in names],
        negative_prompt=[", ".join(negatives_for(prompt_set, "", name)) for name in names],
    )


def sweep(
    plan: pd.DataFrame,
    draw: Callable[..., GeneratedSet],
    judge: Callable[[GeneratedSet], pd.DataFrame],
    points: Mapping[str, Sequence[float]],
) -> pd.DataFrame:
    """Draw the same plan at several settings, one changed at a time, and judge, as a `Study` does.

    Takes setting -> its values. Returns the judged images of all, with columns setting and point.
    """
    return pd.concat(
        judge(draw(plan, **{setting: point})).assign(setting=setting, point=point)
        for setting, values in points.items()
        for point in values
    )








def compare(
    tables: Mapping[str, pd.DataFrame], measures: Sequence[str], confidence: float
) -> pd.DataFrame:
    """Rates of measures under several conditions, tidy: condition, measure, value, low, high, n."""
    named = pd.concat(table.assign(condition=name) for name, table in tables.items())
    return stats.tabulate(named, "condition", measures, stats.proportion, confidence)


def context_statistics(
    seen: dict[str, pd.DataFrame], training: pd.DataFrame, confidence: float
) -> pd.DataFrame:
    """How varied contexts are, and how many pairs of class and context the training set lacks.

    Takes condition -> table of `judge`. Returns a tidy table: condition, the training set first,
    measure ("entropy" of the contexts within a class in bits, "new_pairs" as a share), value, low,
    high, n.
    """
    known = set(zip(training["class_name"], training["context"], strict=True))
    tables, rows = {"training set": training.assign(seen_context=training["context"])} | seen, []
    for name, table in tables.items():
        pairs = zip(table["class_name"], table["seen_context"], strict=True)
        found = {
            "entropy": stats.entropy_within(table["seen_context"], table["class_name"], confidence),
            "new_pairs": stats.proportion([pair not in known for pair in pairs], confidence),
        }
        rows += [{"condition": name, "measure": measure, **row} for measure, row in found.items()]
    return pd.DataFrame(rows)
