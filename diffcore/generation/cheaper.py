"""Cheaper samples: fewer steps, guidance in some of them, an early end for what will fail.

    diffcore cheaper --profile demo

Three ways to draw for less, each with its cost and what it does to quality, over one plan:

- ``steps``: both solvers at up to the study's own number of steps.
- ``guidance``: off in the first or last steps, which then need no unconditional pass. Source:
  Kynkäänniemi et al., Applying Guidance in a Limited Interval, 2024.
- ``look``: after some steps the filter judges the clean image that the model predicts then, and
  what is below a threshold is not drawn to its end. The threshold is such that a stated share of
  the images that the filter would accept falls below it (``limit``); each half of the sources is
  judged by the one that the other half set. The look's own decoding and embedding are paid for.

The rule, from before anything was measured. A way is *free* if all of this holds:

1. An image that the filter accepts costs less: the interval of the ratio of costs ends below 1.
2. The Fréchet distance to fresh renders is at most `AS_NEAR` times the study's own.
3. Of the images, no more are wrong, as the oracle says, who is asked here and nowhere before: the
   interval of the difference to the study's own holds 0 or is below, and ends below `NO_MORE`.

Fewer steps and guidance are judged by all that is drawn, a look by what is accepted, since it
changes no image; and at the limits `JUDGED` alone. The study's own settings from other noise show
what chance does. Nothing follows for the profiles: no default changes.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial, wraps
from itertools import chain
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
from diffusers import DiffusionPipeline
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from diffcore import figures, stats
from diffcore.figures import style
from diffcore.filtering.encoders import load_encoder
from diffcore.filtering.rules import calibrate_threshold, hard_filter
from diffcore.generation.choose import AS_NEAR, SOLVERS, Study, open_studies, render_scenes
from diffcore.generation.draw import (
    SETTING_COLUMNS,
    GeneratedSet,
    _draw,
    _encode,
    checked_pixels,
    fill_shards,
    guide_part,
    in_batches,
)
from diffcore.generation.quality import frechet_distance
from diffcore.params import project_root
from diffcore.prompts.plan import plan_generation
from diffcore.store import write_text, written_whole

NO_MORE = 0.03  # of the images, wrong where the study's own are right
STEPS = {SOLVERS[0]: (4, 6, 8, 10), SOLVERS[1]: (6, 8, 12)}
PARTS = ((0, 3), (0, 5), (0, 7), (2, 0), (3, 0), (2, 5))  # first and last steps without guidance
LOOKS = (2, 3, 4, 6, 8, 10)  # steps before a look
LIMITS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)  # of what would be accepted, dropped by a look
JUDGED = (0.01, 0.05)
_SEED = 30_000  # of images that no study uses
_RENDERED = 20  # of each pair of species and context
_NAMES = {SOLVERS[0]: "Euler", SOLVERS[1]: "DPM++ 2M"}
_LABELS = {  # of the horizontal axis, by way
    "steps": "denoising steps", "guidance": "steps without guidance",
    "look": "wrongly dropped, of what is accepted",
}  # fmt: skip

#: What a way is, the study's own images and its, of `score`, and steps as `cost` takes them.
Ways = Iterator[tuple[dict, pd.DataFrame, pd.DataFrame, tuple[int, int, int]]]
#: A batch from seeds and encoded texts: (B, H, W, 3) uint8.
DrawBatch = Callable[[DiffusionPipeline, list[int], list[dict]], np.ndarray]


# ------------------------------------------------------------------------------------------ drawing
def draw_looks(
    looks: Sequence[int], sampler: dict[str, float],
    pipeline: DiffusionPipeline, seeds: list[int], encoded: list[dict],
) -> np.ndarray:  # fmt: skip
    """Draw a batch, and below each other what is predicted after some steps, and the image.

    Returns (B, (L + 1) H, W, 3) uint8.
    """
    clean, own = [], pipeline.scheduler.step

    @wraps(own)  # the pipeline looks at its signature
    def step(*args: Any, **told: Any) -> tuple:
        found = own(*args, **told)
        clean.append(found[1])  # pred_original_sample
        return found

    with mock.patch.object(pipeline.scheduler, "step", step):
        image = _draw(pipeline, seeds, encoded, **sampler)
    return np.concatenate([*(decode(pipeline, clean[k - 1]) for k in looks), image], axis=1)


@torch.inference_mode()
def decode(pipeline: DiffusionPipeline, latents: torch.Tensor) -> np.ndarray:
    """Decode latents (B, C, h, w) as the pipeline does at its end: (B, H, W, 3) uint8."""
    found = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor, return_dict=False)[0]
    return checked_pixels(pipeline.image_processor.postprocess(found, output_type="pt"))


def fill(study: Study, plan: pd.DataFrame, name: str, draw: DrawBatch, tall: int = 1) -> np.ndarray:
    """Draw a plan in a way of its own, kept under a name: (N, tall, H, W, 3) uint8."""
    asked, pipeline = study.params.generation, study.pipeline
    settings = {key: asked.sampler[key] for key in SETTING_COLUMNS if key in asked.sampler}
    wanted = plan.assign(model=pipeline.name, model_hash=pipeline.digest, **settings)
    wanted["height"] *= tall

    def drawn(rows: pd.DataFrame) -> Iterator[np.ndarray]:
        for batch in in_batches(rows, asked.batch_size):
            pairs = zip(batch["prompt"], batch["negative_prompt"], strict=True)
            encoded = [_encode(pipeline.load(), *pair) for pair in pairs]
            yield from draw(pipeline.load(), batch["seed"].tolist(), encoded)

    folder = study.run_dir / "cheaper" / name
    images = fill_shards(wanted, drawn, folder, asked.batch_size, name).images[:]
    return images.reshape(len(plan), tall, asked.height, asked.width, 3)


# ------------------------------------------------------------------------------- cost and decisions
def measure_seconds(study: Study, plan: pd.DataFrame, images: np.ndarray) -> pd.Series:
    """Seconds an image of guided, unguided (a step), decode and embed, taken in turns.

    The fastest run counts, as whatever else the machine does can only slow it.
    """
    from diffcore.overhead import timing  # stands above this room

    pipeline, sampler = study.pipeline.load(), _sampler(study)
    pairs = plan[["prompt", "negative_prompt"]].itertuples(index=False)
    batch = plan["seed"].tolist(), [_encode(pipeline, *pair) for pair in pairs]

    def draw(name: str, scale: float) -> timing.Seconds:
        run = partial(_draw, pipeline, *batch, **sampler | {"guidance_scale": scale})
        spent = timing.time_drawing(pipeline, run)
        step = spent["UNet"] / sampler["num_inference_steps"]
        return {name: step, "decode": spent["autoencoder"]}

    def embed() -> timing.Seconds:
        encoder = load_encoder(study.params.filtering.encoder)  # that has seen nothing yet
        return timing.laps({"embed": partial(encoder.embed_images, images)})

    scales = {"guided": sampler["guidance_scale"], "unguided": 1.0}
    jobs = {name: partial(draw, name, scale) for name, scale in scales.items()} | {"filter": embed}
    found = timing.take_repeats(jobs, study.params.overhead.own_repeats)
    return found.groupby("part")["seconds"].min() / len(plan)


def cost(
    seconds: pd.Series, steps: int, look: int, guided: int, unguided: int, kept: float = 1.0
) -> float:
    """Seconds an image, of those at `steps` with guidance.

    All are drawn for as many steps as before a `look`, and a share `kept` for the others, with and
    without guidance. Each look and each end has its decoding and embedding.
    """
    end, step = seconds["decode"] + seconds["embed"], seconds["guided"]
    before, after = look * step + (look > 0) * end, guided * step + unguided * seconds["unguided"]
    return (before + kept * (after + end)) / (steps * step + end)


def drop(at_look: np.ndarray, accepted: np.ndarray, half: np.ndarray, limit: float) -> np.ndarray:
    """Which of N images a look drops, each half by the threshold that the other set: (N,) bool.

    Takes similarities at the look and, of the same N, whether the filter would accept them.
    """
    dropped = np.zeros(len(at_look), bool)
    for here in (half, ~half):
        threshold = calibrate_threshold(at_look[~here & accepted], limit)
        dropped[here] = ~hard_filter(at_look[here], threshold)
    return dropped


# --------------------------------------------------------------------------------------- comparison
def compare(
    own: pd.DataFrame, found: pd.DataFrame, cost_of: Callable[[float], float]
) -> dict[str, float]:
    """Compare N images with the study's own of the same rows of the plan.

    Takes of both, as bool, whether an image is ``kept`` at a look, accepted, wrong, and ``judged``,
    one of those whose quality counts; and `cost` by the share that is kept.
    """
    columns = ["kept", "accepted", "judged", "wrong"]
    pairs = np.concatenate([found[columns], own[columns]], axis=1).astype(bool)

    def price(rows: np.ndarray) -> float:
        kept, accepted, accepted_before = rows[:, [0, 1, 5]].T
        return cost_of(kept.mean()) * accepted_before.sum() / max(accepted.sum(), 1)

    def more(rows: np.ndarray) -> float:
        judged, wrong = rows[:, [2, 6]], rows[:, [3, 7]]
        now, before = (judged & wrong).sum(axis=0) / judged.sum(axis=0).clip(min=1)
        return now - before

    rows = {
        "price": stats.bootstrap(price, pairs), "wrong_more": stats.bootstrap(more, pairs),
        "accepted": stats.proportion(found["accepted"]),
        "wrong": stats.proportion(found.loc[found["judged"], "wrong"]),
        "lost": stats.proportion(~found.loc[own["accepted"], "kept"]),
    }  # fmt: skip
    flat = {"cost": cost_of(found["kept"].mean())}
    for name, row in rows.items():
        flat |= stats.flatten(name, row)
    return flat


def is_free(row: pd.Series) -> bool:
    """Judge a row by the rule at the head of this file."""
    judged = row["way"] != "look" or row["limit"] in JUDGED
    no_worse = row["wrong_more_low"] <= 0 and row["wrong_more_high"] < NO_MORE
    return bool(judged and row["price_high"] < 1 and row["distance"] <= AS_NEAR and no_worse)


# ---------------------------------------------------------------------------------- the measurement
def measure(studies: dict[str, Study], per_source: int) -> pd.DataFrame:
    """Measure all ways, a row each: what it is, its cost, its quality, whether it is free.

    Costs and distances are in units of the study's own; ``price`` is the cost of an image that the
    filter accepts, ``lost`` the share of these that a look drops, ``wrong_more`` a difference.
    """
    study = studies[SOLVERS[0]]
    given, sampler = (study.train.metadata, study.book), _sampler(study)
    plan = plan_generation(*given, generated_share=per_source, seed=_SEED)
    renders = render_scenes(sorted(study.train.classes), _RENDERED, _SEED)["image"].tolist()
    reference = study.encoder.embed_images(np.stack(renders))
    looks = [look for look in LOOKS if look < sampler["num_inference_steps"]]
    tall = fill(study, plan, "looks", partial(draw_looks, looks, sampler), len(looks) + 1)
    own, few = score(study, plan, tall[:, -1]), slice(study.params.generation.batch_size)
    seconds = measure_seconds(study, plan[few], tall[few, -1])
    all_ways = chain(draw_ways(studies, plan, own), look_ways(study, plan, own, looks, tall))
    table = pd.DataFrame(
        told
        | {"distance": distance(found, reference) / distance(before, reference)}
        | compare(before, found, partial(cost, seconds, sampler["num_inference_steps"], *calls))
        for told, before, found, calls in all_ways
    )
    facts = seconds.mul(1000).add_prefix("ms_").to_dict() | {"images": len(plan)}
    return table.assign(free=table.apply(is_free, axis=1), **facts)


def distance(images: pd.DataFrame, reference: np.ndarray) -> float:
    """Fréchet distance of the images that are judged to a reference (M, D)."""
    return frechet_distance(np.stack(images.loc[images["judged"], "embedding"].tolist()), reference)


def score(study: Study, plan: pd.DataFrame, images: np.ndarray) -> pd.DataFrame:
    """What filter and oracle say of N images: kept, judged, accepted, wrong; and embedding."""
    drawn = GeneratedSet(plan, images, lambda: study.encoder)
    accepted, wrong = hard_filter(*study.judge_similarity(drawn)), study.judge(drawn)["wrong"]
    seen = {"accepted": accepted, "wrong": wrong.to_numpy(), "embedding": list(drawn.embeddings)}
    return pd.DataFrame({"kept": True, "judged": True} | seen)


def draw_ways(studies: dict[str, Study], plan: pd.DataFrame, own: pd.DataFrame) -> Ways:
    """Draw a plan in each way that changes the images."""
    study = studies[SOLVERS[0]]
    sampler, steps = _sampler(study), study.params.generation.num_inference_steps
    other = study.draw(plan.assign(seed=plan["seed"] ^ 1)).images[:]
    yield {"way": "own, other noise"}, own, score(study, plan, other), (0, steps, 0)
    for first, last in (part for part in PARTS if sum(part) < steps):

        def draw(*batch: Any, part: tuple[int, int] = (first, last)) -> np.ndarray:
            return _draw(*batch, **guide_part(*part, sampler, batch[-1]))

        found = score(study, plan, fill(study, plan, f"guided-{first}-{last}", draw)[:, 0])
        calls = 0, steps - first - last, first + last
        yield {"way": "guidance", "first": first, "last": last}, own, found, calls
    asked = [(solver, count) for solver, counts in STEPS.items() for count in counts]
    for solver, count in ((solver, count) for solver, count in asked if count <= steps):
        images = studies[solver].draw(plan, num_inference_steps=count).images[:]
        told = {"way": "steps", "solver": solver, "steps": count}
        yield told, own, score(study, plan, images), (0, count, 0)


def look_ways(
    study: Study, plan: pd.DataFrame, own: pd.DataFrame, looks: Sequence[int], tall: np.ndarray
) -> Ways:
    """Drop images at each look, of what `draw_looks` drew, and judge what is accepted then."""
    steps, half = _sampler(study)["num_inference_steps"], _half(plan["source_id"])
    before = own.assign(judged=own["accepted"])
    for look, predicted in zip(looks, np.moveaxis(tall, 1, 0), strict=False):
        seen = GeneratedSet(plan, predicted, lambda: study.encoder)
        similarity, _ = study.judge_similarity(seen)
        for limit in LIMITS:
            kept = ~drop(similarity, own["accepted"].to_numpy(), half, limit)
            found = before.assign(kept=kept, **before[["accepted", "judged"]].mul(kept, axis=0))
            told = {"way": "look", "look": look, "limit": limit}
            yield told, before, found, (look, steps - look, 0)


def _half(sources: pd.Series) -> np.ndarray:
    """Every second source of N images, with all of its images: (N,) bool."""
    return pd.factorize(sources)[0] % 2 == 1


def _sampler(study: Study) -> dict[str, float]:
    """The settings of the study's own call of its pipeline."""
    asked = study.params.generation.sampler
    return {name: asked[name] for name in SETTING_COLUMNS if name in asked}


def table_path() -> Path:
    """The committed table of `measure`."""
    return project_root() / "reports" / "bench" / "cheaper.csv"


def show(table: pd.DataFrame) -> Figure:
    """Draw the table: distances over steps, over steps without guidance, and what looks save."""
    where = np.select([table["last"] == 0, table["first"] == 0], ["the first", "the last"], "both")
    x = (
        table["steps"]
        .fillna(table["lost"])
        .where(table["first"].isna(), table["first"] + table["last"])
    )
    look = "look after step " + table["look"].fillna(0).astype(int).astype(str)
    hue = table["solver"].replace(_NAMES).fillna(look).where(table["first"].isna(), where)
    value = table["distance"].where(table["look"].isna(), 1 - table["cost"])
    shown = table.assign(x=x, value=value, hue=hue).query("way in @_LABELS")
    fig, panels = style.lay_panels(
        shown.sort_values("way", key=lambda way: way.map([*_LABELS].index), kind="stable"),
        "way", (3.9, 3.5), 3, xlabel=_LABELS, sharey=False,
    )  # fmt: skip
    for ax, way, rows in panels:
        for name, colour in style.colours(rows["hue"]).items():
            points = rows[rows["hue"] == name]
            ax.plot(points["x"], points["value"], "o-", ms=4, color=colour, label=name)
        if len(free := rows[rows["free"]]):
            ax.plot(free["x"], free["value"], "o", ms=10, mfc="none", color="0.2", label="free")
        ax.set_ylabel("time saved" if way == "look" else "Fréchet distance, own = 1")
        if way == "look":
            style.as_percent(ax.xaxis, ax.yaxis)
        else:
            ax.axhline(AS_NEAR, label=f"{AS_NEAR} times the own", **style.DASHED)
            ax.set_yscale("log")
            top = 1.15 * rows["value"].max()
            ticks = (1.0, 2.0, 3.0, 5.0, 10.0, 20.0) if top > 4 else (0.8, 0.9, 1.0, 1.2, 1.5, 2.0)
            ax.set_yticks([tick for tick in ticks if tick < top])
            ax.yaxis.set(major_formatter="{x:g}", minor_locator=NullLocator())
            ax.set_ylim(min(0.93, rows["value"].min() / 1.1), top)
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.21), ncol=2, frameon=False)
    return fig


def main(arguments: list[str] | None = None) -> int:
    """Measure what cheaper ways of drawing do to quality: reports/bench/cheaper.csv, .svg, .png."""
    parser = argparse.ArgumentParser(prog="diffcore cheaper", description=main.__doc__)
    parser.add_argument("--profile", default="demo", help="file in params/, or path of one")
    parser.add_argument("--per-source", type=int, default=5, help="images a training image")
    options = parser.parse_args(arguments)
    table = measure(open_studies("cheaper", options.profile), options.per_source)
    print(write_text(table_path(), table.to_csv(index=False, float_format="%.5f")))
    figures.use_style()
    fig = show(table)
    for kind, told in (("svg", {"metadata": {"Date": None}}), ("png", {"dpi": 110})):
        with written_whole(table_path().with_suffix(f".{kind}")) as aside:
            fig.savefig(aside, format=kind, bbox_inches="tight", **told)
    return 0
