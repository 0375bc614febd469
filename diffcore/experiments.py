"""What the first notebook draws and measures, between the tables of the other modules.

Counterparts come from a text-to-image model, or are there already: imported, or photographs that
stand in for them. All of them end as the same records, so that what follows asks no more.

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
from diffcore.data import ImageSet, View, load_split
from diffcore.encoders import Encoder
from diffcore.figures import wrap
from diffcore.generation import (
    ShardImages,
    decode_images,
    generate,
    load_pipeline,
    open_images,
)
from diffcore.importing import import_images, plan_import
from diffcore.metrics import (
    entropy_within,
    judge,
    rate,
    rates,
    unseen_share,
)
from diffcore.paperbirds import CLUTTER, DISTRACTORS, Oracle, load_oracle
from diffcore.params import GenerationParams, StudyParams
from diffcore.pictures import LazyImages
from diffcore.prompts import (
    PromptBook,
    load_prompt_book,
    negatives_for,
    plan_generation,
    write_prompt,
)
from diffcore.stand_ins import judge_stand_ins, make_stand_ins, plan_stand_ins

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


def class_texts(
    params: StudyParams, encoder: Encoder, class_names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Embed the plain prompt of each class, if the encoder reads texts: class -> (D,)."""
    if not encoder.reads_texts:
        return {}
    book = study_book(params)
    found = encoder.embed_texts([write_prompt(book, name) for name in class_names])
    return dict(zip(class_names, found, strict=True))


def training_set(params: StudyParams) -> tuple[ImageSet, pd.DataFrame]:
    """The training images, and their facts with the ``source_id`` that plans go by."""
    train = load_split(params, "train")
    return train, train.facts.rename(columns={"id": "source_id"})


def load_generator(params: StudyParams) -> DiffusionPipeline | None:
    """The text-to-image model of the study, or None if its counterparts are there already."""
    generation = params.generation
    return load_pipeline(generation.pipeline) if generation.can_draw else None


def study_plan(params: StudyParams, sources: pd.DataFrame, attempt: int = 0) -> pd.DataFrame:
    """What the study draws for its training images; a higher attempt draws replacements.

    Images that are there already have a plan too, but no replacements: for these it is empty.
    """
    generation = params.generation
    if not generation.can_draw:
        plan = _plan_of_others(params, sources)
        return plan if attempt == 0 else plan.head(0)
    return plan_generation(
        sources,
        study_book(params),
        generated_share=generation.generated_share,
        seed=params.seed,
        use_context=params.prompts.use_context,
        use_negatives=params.prompts.use_negatives,
        attempt=attempt,
    )


def _plan_of_others(params: StudyParams, sources: pd.DataFrame) -> pd.DataFrame:
    """Plan images from elsewhere: which image is the counterpart of which training image."""
    generation = params.generation
    if generation.pipeline.kind == "import":
        return plan_import(generation.pipeline.location, sources, params.seed)
    return plan_stand_ins(
        sources,
        load_split(params, "spare"),
        generated_share=generation.generated_share,
        planted_share=generation.planted_share,
        seed=params.seed,
    )


def draw_study(
    params: StudyParams,
    plan: pd.DataFrame,
    pipeline: DiffusionPipeline | None,
    run_dir: Path,
    *,
    progress: bool = True,
) -> tuple[pd.DataFrame, ShardImages]:
    """Draw the study's counterparts, or bring in those that are there; done once.

    Args:
        params: of the study.
        plan: of the study, or a part of it, or what a filter accepted of it.
        pipeline: of `load_generator`.
        run_dir: of the study; images lie in its folder ``generation``.
        progress: show a bar.

    Returns:
        Facts of each image, in the plan's order, and the images, which are read when asked for.
    """
    folder = run_dir / "generation"
    if pipeline is None:
        facts = _bring_in(params, folder, progress)
        chosen = facts.set_index("sample_id").loc[plan["sample_id"]].reset_index()
        facts = chosen[facts.columns]
    else:
        options = {"progress": progress, "images": False}
        facts = draw(plan, pipeline, params.generation, folder, **options)
    return facts, open_images(folder, facts)


def _bring_in(params: StudyParams, folder: Path, progress: bool) -> pd.DataFrame:
    """Store images that are there already as if they had been drawn; facts of all of them."""
    generation, (_, sources) = params.generation, training_set(params)
    plan = _plan_of_others(params, sources)
    options = {name: getattr(generation, name) for name in ("height", "width", "shard_size")}
    options["progress"] = progress
    if generation.pipeline.kind == "import":
        return import_images(generation.pipeline.location, plan, folder, **options)
    return make_stand_ins(plan, load_split(params, "spare"), folder, **options)


def at_data_size(images: LazyImages, dataset: ImageSet) -> View:
    """The same generated images, brought to the size of the real ones when they are read."""
    return View(images, size=dataset[0]["image"].shape[:2])


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
    images: bool = True,
    **changes: float,
) -> pd.DataFrame:
    """Draw a plan at a study's settings, some of them changed; what is drawn is not drawn again.

    Args:
        folder: of the shards; each experiment has its own.
        images: False leaves them on disk.
        changes: settings of the sampler, like ``guidance_scale=1.0``.
    """
    names = ("guidance_scale", "num_inference_steps", "height", "width", "batch_size", "shard_size")
    used = {name: getattr(settings, name) for name in names} | changes
    return generate(plan, pipeline, folder, progress=progress, images=images, **used)


def all_pairs(params: StudyParams, class_names: Sequence[str]) -> pd.DataFrame:
    """A plan with one image of every class in every context, class by class."""
    sources = pd.DataFrame({"source_id": class_names, "class_name": class_names})
    contexts = study_book(params).contexts
    plan = side_plan(params, sources, len(contexts) * len(class_names), number=0)
    place = plan["context"].map(contexts.index)
    return plan.iloc[np.lexsort((place, plan["class_name"].map(list(class_names).index)))]


def examine(generated: pd.DataFrame, oracle: Oracle, book: PromptBook) -> pd.DataFrame:
    """Read generated images of Paperbirds with the oracle: the table of `diffcore.metrics.judge`.

    Args:
        generated: with the images.
        oracle: reads them.
        book: says what each context steers away from.
    """
    return examine_images(generated, decode_images(generated), oracle, book)


def examine_images(
    generated: pd.DataFrame, images: np.ndarray, oracle: Oracle, book: PromptBook
) -> pd.DataFrame:
    """Do what `examine` does with images (N, 64, 64, 3) uint8 beside their facts."""
    seen = oracle.read(images)
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


def judge_study(params: StudyParams, facts: pd.DataFrame, images: ShardImages) -> pd.DataFrame:
    """Tell which of the study's counterparts are wrong, where that is known.

    Of Paperbirds an oracle sees it; of stand-ins the plan says which are planted.

    Args:
        params: of a study that has the truth (`diffcore.scope.known`).
        facts: of images, from `draw_study`.
        images: the same.

    Returns:
        As many rows: class_name, context, seen_species, species_right, wellformed, wrong.
    """
    if params.generation.can_draw:
        return examine_images(facts, images[:], load_oracle(), study_book(params))
    judged = judge_stand_ins(_plan_of_others(params, training_set(params)[1]))
    return judged.set_index("sample_id").loc[facts["sample_id"]].reset_index()


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


def cluttered(plan: pd.DataFrame, most: int = 12) -> list[int]:
    """Place of the first sample of each class whose context brings two kinds of clutter or more.

    Where no context of the plan is known to, of the first sample of each class; of at most `most`
    classes.
    """
    rich = plan["context"].map(lambda context: len(CLUTTER.get(context, {})) > 1)
    chosen = plan[rich] if rich.any() else plan
    first = plan.index.isin(chosen.drop_duplicates("class_name").index)
    return np.flatnonzero(first)[:most].tolist()


def counterparts(
    train: ImageSet,
    generated: pd.DataFrame,
    images: LazyImages,
    classes: Sequence[str],
    each: int,
) -> dict[str, list]:
    """The first training image of each class, then its first counterparts, for `image_grid`.

    Classes without a counterpart are left out. A training image that has none gives way to the
    first of its class that has.
    """
    rows = []
    for name in classes:
        own = train.facts[train.facts["class_name"] == name]
        has = own[own["id"].isin(generated["source_id"])]
        if has.empty:
            continue
        drawn = np.flatnonzero(generated["source_id"] == has["id"].iloc[0])[:each]
        captions = generated["context"].iloc[drawn].map(wrap)
        rows.append((name, [train[int(has.index[0])]["image"], *images[drawn]],
                     ["(real)", *captions]))  # fmt: skip
    names, shown, captions = ([row[part] for row in rows] for part in range(3))
    return {"images": shown, "captions": captions, "rows": names}


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
