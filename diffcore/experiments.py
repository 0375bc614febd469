"""What the first notebook draws and measures, between the tables of the other modules.

Generation and oracle know nothing of each other; here the images of the one are read by the other
and laid beside what their prompts asked for. An oracle exists for Paperbirds alone.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from diffusers import DiffusionPipeline

from diffcore.bench import TimeShare, time_share
from diffcore.data import load_split
from diffcore.figures import wrap
from diffcore.generation import decode_images, generate
from diffcore.metrics import (
    entropy_within,
    judge,
    rate,
    rates,
    unseen_share,
)
from diffcore.paperbirds import CLUTTER, DISTRACTORS, Oracle, Paperbirds
from diffcore.params import GenerationParams, StudyParams
from diffcore.prompts import (
    PromptBook,
    load_prompt_book,
    negatives_for,
    plan_generation,
    write_prompt,
)

#: What a sweep looks at.
SWEPT = ("species_right", "context_right", "wellformed", "wrong")


def study_book(params: StudyParams) -> PromptBook:
    """The prompt book of a study, with the parts that its parameters replace."""
    prompts = params.prompts
    return load_prompt_book(
        prompts.domain,
        template=prompts.template,
        contexts=prompts.contexts,
        negatives=prompts.negatives,
    )


def training_set(params: StudyParams) -> tuple[Paperbirds, pd.DataFrame]:
    """The training images, and their facts with the ``source_id`` that plans go by."""
    train = load_split(params, "train")
    return train, train.facts.rename(columns={"id": "source_id"})


def study_plan(params: StudyParams, sources: pd.DataFrame, attempt: int = 0) -> pd.DataFrame:
    """What the study draws for its training images; a higher attempt draws replacements."""
    return plan_generation(
        sources,
        study_book(params),
        generated_share=params.generation.generated_share,
        seed=params.seed,
        use_context=params.prompts.use_context,
        use_negatives=params.prompts.use_negatives,
        attempt=attempt,
    )


def side_plan(params: StudyParams, sources: pd.DataFrame, images: int, number: int) -> pd.DataFrame:
    """About `images` samples from seeds that the study and side plans of other numbers lack."""
    return plan_generation(
        sources,
        study_book(params),
        generated_share=images / len(sources),
        seed=params.seed + number,
    )


def ablations(params: StudyParams, plan: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The same samples of a plan, from the same seeds, under three prompts.

    Returns:
        "plain prompt" without context and negatives, "with context" without negatives, and
        "context and negatives", which is the plan's own wording.
    """
    book, count = study_book(params), min(params.measure.ablation_images, len(plan))
    chosen = plan.sample(count, random_state=params.seed).sort_index(ignore_index=True)
    unsteered = chosen.assign(negative_prompt="")
    plain = [write_prompt(book, name) for name in chosen["class_name"]]
    return {
        "plain prompt": unsteered.assign(prompt=plain, context=""),
        "with context": unsteered,
        "context and negatives": chosen,
    }


def without_context(params: StudyParams, plan: pd.DataFrame) -> pd.DataFrame:
    """The same samples of a plan, from the same seeds, with negatives but without a context."""
    book, names = study_book(params), plan["class_name"]
    return plan.assign(
        context="",
        prompt=[write_prompt(book, name) for name in names],
        negative_prompt=[", ".join(negatives_for(book, "", name)) for name in names],
    )


def draw(
    plan: pd.DataFrame,
    pipeline: DiffusionPipeline,
    settings: GenerationParams,
    folder: Path,
    *,
    progress: bool = True,
    **changes: float,
) -> pd.DataFrame:
    """Draw a plan at a study's settings, some of them changed; what is drawn is not drawn again.

    Args:
        folder: of the shards; each experiment has its own.
        changes: settings of the sampler, like ``guidance_scale=1.0``.
    """
    names = ("guidance_scale", "num_inference_steps", "height", "width", "batch_size", "shard_size")
    used = {name: getattr(settings, name) for name in names} | changes
    return generate(plan, pipeline, folder, progress=progress, **used)


def all_pairs(params: StudyParams, class_names: Sequence[str]) -> pd.DataFrame:
    """A plan with one image of every class in every context, class by class."""
    sources = pd.DataFrame({"source_id": class_names, "class_name": class_names})
    contexts = study_book(params).contexts
    plan = side_plan(params, sources, len(contexts) * len(class_names), number=0)
    place = plan["context"].map(contexts.index)
    return plan.iloc[np.lexsort((place, plan["class_name"].map(list(class_names).index)))]


def examine(generated: pd.DataFrame, oracle: Oracle, book: PromptBook) -> pd.DataFrame:
    """Read generated images with the oracle: the table of `diffcore.metrics.judge`."""
    seen = oracle.read(decode_images(generated))
    contexts = ("", *book.contexts)
    return judge(
        generated,
        species=seen.species,
        context=seen.context,
        wellformed=seen.wellformed,
        distractors=seen.distractors > 0.5,
        distractor_names=DISTRACTORS,
        steered_away={context: negatives_for(book, context) for context in contexts},
    )


def sweep(
    plan: pd.DataFrame,
    pipeline: DiffusionPipeline,
    params: StudyParams,
    folder: Path,
    oracle: Oracle,
) -> pd.DataFrame:
    """Draw the same plan over guidance and over steps, one changed at a time.

    Returns:
        Tidy table: setting, value, measure, rate, low, high, n.
    """
    book, confidence = study_book(params), params.measure.confidence
    points = {
        "guidance_scale": params.measure.guidance_scales,
        "num_inference_steps": params.measure.inference_steps,
    }
    tables = []
    for setting, values in points.items():
        for value in values:
            drawn = draw(plan, pipeline, params.generation, folder, **{setting: value})
            judged = examine(drawn, oracle, book).assign(value=value)
            tables.append(rates(judged, SWEPT, "value", confidence).assign(setting=setting))
    return pd.concat(tables, ignore_index=True)


def best_guidance(swept: pd.DataFrame) -> float:
    """The guidance at which the fewest images are wrong; of equals, the weakest."""
    rows = swept[(swept["setting"] == "guidance_scale") & (swept["measure"] == "wrong")]
    return float(rows.sort_values(["rate", "value"]).iloc[0]["value"])


def time_generation(
    plan: pd.DataFrame, pipeline: DiffusionPipeline, settings: GenerationParams
) -> TimeShare:
    """Time the drawing of a plan from nothing, after a first small batch has warmed up."""
    with tempfile.TemporaryDirectory() as warm, tempfile.TemporaryDirectory() as cold:
        draw(plan.head(2), pipeline, settings, Path(warm), progress=False)
        return time_share(
            pipeline, lambda: draw(plan, pipeline, settings, Path(cold), progress=False)
        )


def context_shares(table: pd.DataFrame, context: str, contexts: Sequence[str]) -> pd.DataFrame:
    """Share of each context within each class: (classes, contexts), rows sum to 1."""
    counts = pd.crosstab(table["class_name"], table[context], normalize="index")
    return counts.reindex(columns=list(contexts), fill_value=0.0)


def describe_failures(judged: pd.DataFrame, count: int, seed: int) -> tuple[np.ndarray, list[str]]:
    """Places of `count` wrong images drawn at random, and what was asked for and seen in each."""
    wrong = np.flatnonzero(judged["wrong"].to_numpy())
    chosen = np.random.default_rng(seed).choice(wrong, min(count, len(wrong)), replace=False)
    captions = []
    for _, row in judged.iloc[chosen].iterrows():
        seen = "malformed" if row["species_right"] else f"seen: {row['seen_species']}"
        captions.append(f"{wrap(row['class_name'], 15)}\n{wrap(seen, 15)}")
    return chosen, captions


def cluttered(plan: pd.DataFrame) -> list[int]:
    """Place of the first sample of each class whose context brings two kinds of clutter or more."""
    rich = plan["context"].map(lambda context: len(CLUTTER.get(context, {})) > 1)
    first = plan.index.isin(plan[rich].drop_duplicates("class_name").index)
    return np.flatnonzero(first).tolist()


def counterparts(
    train: Paperbirds, generated: pd.DataFrame, classes: Sequence[str], each: int
) -> dict[str, list]:
    """The first training image of each class, then its first counterparts, for `image_grid`."""
    rows = []
    for name in classes:
        place = int(train.facts.index[train.facts["class_name"] == name][0])
        drawn = generated[generated["source_id"] == train.facts["id"][place]].head(each)
        images = [train[place]["image"], *decode_images(drawn)]
        rows.append((images, ["(real)", *drawn["context"].map(wrap)]))
    return {
        "images": [images for images, _ in rows],
        "captions": [captions for _, captions in rows],
        "rows": list(classes),
    }


def context_statistics(
    seen: dict[str, pd.DataFrame], training: pd.DataFrame, confidence: float
) -> pd.DataFrame:
    """How varied contexts are, and how many of the pairs of class and context are new.

    Args:
        seen: condition -> table of `examine`.
        training: facts of the training set.

    Returns:
        One row a condition, the training set first: entropy_bits (of the contexts within a class;
        4 is the most that sixteen can have) and new_pairs (a share, by definition 0 for the
        training set), each with ``_low`` and ``_high``.
    """
    tables = {"training set": training.rename(columns={"context": "seen_context"}), **seen}
    rows = []
    for name, table in tables.items():
        entropy = entropy_within(table["seen_context"], table["class_name"], confidence)
        new = rate(unseen_share(table, training, "seen_context"), confidence)
        rows.append({
            "condition": name, "images": len(table),
            "entropy_bits": entropy["value"], "entropy_low": entropy["low"],
            "entropy_high": entropy["high"], "new_pairs": new["rate"],
            "new_low": new["low"], "new_high": new["high"],
        })  # fmt: skip
    return pd.DataFrame(rows)
