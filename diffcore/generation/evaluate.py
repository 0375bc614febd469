"""What generated images show, beside what their prompts asked for: tables in, tables out.

An oracle exists for Paperbirds alone, and is used here and nowhere before: neither to filter nor to
train. Everything but `judge_images` asks only for its table.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from diffcore import stats
from diffcore.generation.draw import GeneratedSet
from diffcore.paperbirds.contexts import DISTRACTORS
from diffcore.paperbirds.oracle import Reading
from diffcore.paperbirds.web import expected_errors, is_seen
from diffcore.paperbirds.weights import load_oracle
from diffcore.prompts.book import PromptBook, negatives_for, write_prompt

SWEPT = ("species_right", "context_right", "wellformed", "wrong")  # what a sweep looks at
#: What can be wrong with an image; of several, the first counts.
FAULTS = ("no bird", "another species", "malformed")


def judge(metadata: pd.DataFrame, seen: Reading, book: PromptBook) -> pd.DataFrame:
    """Compare what an oracle sees in N images with what their prompts, from a book, asked for.

    Of distractors only those that the book steers away from in a context count as uninvited; a
    tree is no clutter in a forest.

    Returns a row an image: ``sample_id``, ``class_name`` and ``context`` of the metadata,
    ``seen_species``, ``seen_context`` and the booleans ``species_right``, ``context_right`` (True
    where no context was asked for), ``wellformed``, ``fault`` (of `FAULTS`, or ""), ``wrong`` (any
    of these) and ``uninvited`` (a distractor), besides one ``uninvited: <name>`` each.
    """
    judged = metadata[["sample_id", "class_name", "context"]].reset_index(drop=True)
    judged = judged.assign(seen_species=seen.species, seen_context=seen.context)
    judged["species_right"] = judged["class_name"] == judged["seen_species"]
    asked = judged["context"]
    judged["context_right"] = (asked == judged["seen_context"]) | (asked == "")
    judged["wellformed"] = seen.wellformed
    hits = [seen.empty > 0.5, ~judged["species_right"], ~judged["wellformed"]]
    judged["fault"] = np.select(hits, FAULTS, default="")
    judged["wrong"] = judged["fault"] != ""
    steered = {context: negatives_for(book, context) for context in asked.unique()}
    counted = np.array([[name in steered[context] for name in DISTRACTORS] for context in asked])
    uninvited = (seen.distractors > 0.5) & counted.reshape(-1, len(DISTRACTORS))
    judged["uninvited"] = uninvited.any(axis=1)
    return judged.join(pd.DataFrame(uninvited, columns=DISTRACTORS).add_prefix("uninvited: "))


def judge_images(metadata: pd.DataFrame, images: np.ndarray, book: PromptBook) -> pd.DataFrame:
    """Read images (N, 64, 64, 3) uint8 of Paperbirds with the oracle, and judge them."""
    return judge(metadata, load_oracle().read(images), book)


def ablations(
    plan: pd.DataFrame, book: PromptBook, count: int, seed: int
) -> dict[str, pd.DataFrame]:
    """`count` samples of a plan, by chance, each from the same noise under three prompts."""
    chosen = plan.sample(min(count, len(plan)), random_state=seed).sort_index(ignore_index=True)
    return {
        "plain prompt": without_context(chosen, book).assign(negative_prompt=""),
        "with context": chosen.assign(negative_prompt=""),
        "context and negatives": chosen,
    }


def without_context(plan: pd.DataFrame, book: PromptBook) -> pd.DataFrame:
    """The same samples of a plan, from the same noise, with negatives but without a context."""
    names = plan["class_name"]
    return plan.assign(
        context="",
        prompt=[write_prompt(book, name) for name in names],
        negative_prompt=[", ".join(negatives_for(book, "", name)) for name in names],
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


def seen_in_web(judged: pd.DataFrame) -> np.ndarray:
    """Whether the model has ever seen the species in the context that was asked for, (N,) bool."""
    return np.array([is_seen(*pair) for pair in judged[["class_name", "context"]].to_numpy()])


def fault_rates(judged: pd.DataFrame, by: Sequence[str], confidence: float) -> pd.DataFrame:
    """Share of images with each of `FAULTS` and with any (wrong) within groups, tidy."""
    faults = judged.assign(**{fault: judged["fault"] == fault for fault in FAULTS})
    return stats.tabulate(faults, by, [*FAULTS, "wrong"], stats.proportion, confidence)


def expected_rates(guidances: Sequence[float], by: Sequence[str] = ()) -> pd.DataFrame:
    """What `diffcore.paperbirds.web` expects of a perfect learner, as `fault_rates`.

    Columns: point (of guidance), those of `by` (class_name, context), measure, value.
    """
    tables = [expected_errors(guidance).assign(point=guidance) for guidance in guidances]
    named = {"species": "class_name", "cut": "malformed"}
    table, groups = pd.concat(tables).rename(columns=named), ["point", *by]
    means = table.groupby(groups, sort=False)[[*FAULTS, "wrong"]].mean()
    return means.reset_index().melt(groups, var_name="measure")


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
