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
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
from diffusers import DiffusionPipeline
from matplotlib.figure import Figure

from diffcore import figures, stats
from diffcore.figures import style
from diffcore.filtering.encoders import load_encoder
from diffcore.filtering.rules import calibrate_threshold, hard_filter
from diffcore.generation import draw
from diffcore.generation.choose import AS_NEAR, SOLVERS, Study, open_studies, render_scenes
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
    "guidance": "steps without guidance", "steps": "denoising steps",
    "look": "wrongly dropped, of what is accepted",
}  # fmt: skip

#: What a way is, the study's own images and its, of `score`, and steps as `cost` takes them.
Ways = Iterator[tuple[dict, pd.DataFrame, pd.DataFrame, tuple[int, int, int]]]


# ------------------------------------------------------------------------------------------ drawing
def draw_looks(
    looks: Sequence[int], sampler: dict[str, float],
    pipeline: DiffusionPipeline, seeds: list[int], encoded: list[dict],
) -> np.ndarray:  # fmt: skip
    """Draw predictions after some steps, and the image below: (B, (L + 1) H, W, 3) uint8."""
    clean, own = [], pipeline.scheduler.step

    @wraps(own)  # the pipeline looks at its signature
    def step(*args: Any, **told: Any) -> tuple:
        found = own(*args, **told)
        clean.append(found[1])  # pred_original_sample
        return found

    with mock.patch.object(pipeline.scheduler, "step", step):
        image = draw._draw(pipeline, seeds, encoded, **sampler)
    return np.concatenate([*(decode(pipeline, clean[k - 1]) for k in looks), image], axis=1)


@torch.inference_mode()
def decode(pipeline: DiffusionPipeline, latents: torch.Tensor) -> np.ndarray:
    """Decode latents (B, C, h, w) as the pipeline does at its end: (B, H, W, 3) uint8."""
    found = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor, return_dict=False)[0]
    return draw.checked_pixels(pipeline.image_processor.postprocess(found, output_type="pt"))


def fill(
    study: Study, plan: pd.DataFrame, looks: Sequence[int] = (), part: tuple[int, int] = (0, 0)
) -> np.ndarray:
    """Draw a plan with some looks, or without guidance in a part: (N, L + 1, H, W, 3) uint8."""
    asked, pipeline = study.params.generation, study.pipeline
    sampler = asked.model_dump(include={*draw.SETTING_COLUMNS})
    wanted = plan.assign(model=pipeline.name, model_hash=pipeline.digest, **sampler)
    wanted["height"] *= len(looks) + 1

    def drawn(rows: pd.DataFrame) -> np.ndarray:
        pairs = zip(rows["prompt"], rows["negative_prompt"], strict=True)
        encoded = [draw._encode(pipeline.load(), *pair) for pair in pairs]
        settings = draw.guide_part(*part, sampler, encoded)
        return draw_looks(looks, settings, pipeline.load(), rows["seed"].tolist(), encoded)

    name = "-".join(map(str, ["looks", *looks] if looks else ["guided", *part]))
    folder = study.run_dir / "cheaper" / name
    images = draw.fill_shards(wanted, drawn, folder, asked.batch_size, name).images[:]
    return images.reshape(len(plan), -1, asked.height, asked.width, 3)


# ------------------------------------------------------------------------------- cost and decisions
def measure_seconds(study: Study, plan: pd.DataFrame, images: np.ndarray) -> pd.Series:
    """Seconds an image of guided, unguided (a step), decode and embed, taken in turns.

    The fastest run counts, as whatever else the machine does can only slow it.
    """
    from diffcore.overhead import timing  # stands above this room

    asked = study.params.generation

    def timed(name: str, scale: float) -> timing.Seconds:
        settings = asked.model_copy(update={"guidance_scale": scale})
        spent = timing.time_generation(plan, study.pipeline, settings)
        return {name: spent["UNet"] / asked.num_inference_steps, "decode": spent["autoencoder"]}

    def embed() -> timing.Seconds:
        encoder = load_encoder(study.params.filtering.encoder)  # that has seen nothing yet
        return timing.laps({"embed": partial(encoder.embed_images, images)})

    scales = {"guided": asked.guidance_scale, "unguided": 1.0}
    jobs = {name: partial(timed, name, scale) for name, scale in scales.items()} | {"filter": embed}
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
    set_by = [calibrate_threshold(at_look[part & accepted], limit) for part in (~half, half)]
    return ~hard_filter(at_look, np.where(half, *set_by))


# --------------------------------------------------------------------------------------- comparison
def compare(
    own: pd.DataFrame, found: pd.DataFrame, cost_of: Callable[[float], float]
) -> dict[str, float]:
    """Compare N images with the study's own of the same rows of the plan.

    Takes of both, as bool, whether an image is ``kept`` at a look, accepted, wrong, and ``judged``,
    one of those whose quality counts; and `cost` by the share that is kept.
    """
    columns = ["kept", "accepted", "judged", "wrong"]
    pairs = np.stack([found[columns], own[columns]], axis=2).astype(bool)  # (N, 4, 2)

    def price(pairs: np.ndarray) -> float:
        accepted, before = pairs[:, 1].sum(axis=0)
        return cost_of(pairs[:, 0, 0].mean()) * before / max(accepted, 1)

    def more(pairs: np.ndarray) -> float:
        judged, wrong = pairs[:, 2], pairs[:, 3]
        return -np.diff((judged & wrong).sum(axis=0) / judged.sum(axis=0).clip(min=1))[0]

    return {
        "cost": cost_of(found["kept"].mean()),
        **stats.flatten("price", stats.bootstrap(price, pairs)),
        **stats.flatten("wrong_more", stats.bootstrap(more, pairs)),
        **stats.flatten("accepted", stats.proportion(found["accepted"])),
        **stats.flatten("wrong", stats.proportion(found.loc[found["judged"], "wrong"])),
        **stats.flatten("lost", stats.proportion(~found.loc[own["accepted"], "kept"])),
    }


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
    asked, given = study.params.generation, (study.train.metadata, study.book)
    plan = plan_generation(*given, generated_share=per_source, seed=_SEED)
    renders = render_scenes(sorted(study.train.classes), _RENDERED, _SEED)["image"].tolist()
    reference = study.encoder.embed_images(np.stack(renders))
    looks = [look for look in LOOKS if look < asked.num_inference_steps]
    tall = fill(study, plan, looks)
    own, few = score(study, plan, tall[:, -1]), slice(asked.batch_size)
    seconds = measure_seconds(study, plan[few], tall[few, -1])
    all_ways = chain(draw_ways(studies, plan, own), look_ways(study, plan, own, looks, tall))
    table = pd.DataFrame(
        told
        | {"distance": distance(found, reference) / distance(before, reference)}
        | compare(before, found, partial(cost, seconds, asked.num_inference_steps, *calls))
        for told, before, found, calls in all_ways
    )
    facts = seconds.mul(1000).add_prefix("ms_").to_dict() | {"images": len(plan)}
    return table.assign(free=table.apply(is_free, axis=1), **facts)


def distance(images: pd.DataFrame, reference: np.ndarray) -> float:
    """Fréchet distance of the images that are judged to a reference (M, D)."""
    return frechet_distance(np.stack(images.loc[images["judged"], "embedding"].tolist()), reference)


def score(study: Study, plan: pd.DataFrame, images: np.ndarray) -> pd.DataFrame:
    """What filter and oracle say of N images: kept, judged, accepted, wrong; and embedding."""
    drawn = draw.GeneratedSet(plan, images, lambda: study.encoder)
    accepted, wrong = hard_filter(*study.judge_similarity(drawn)), study.judge(drawn)["wrong"]
    seen = {"accepted": accepted, "wrong": wrong.to_numpy(), "embedding": list(drawn.embeddings)}
    return pd.DataFrame({"kept": True, "judged": True} | seen)


def draw_ways(studies: dict[str, Study], plan: pd.DataFrame, own: pd.DataFrame) -> Ways:
    """Draw a plan in each way that changes the images."""
    study = studies[SOLVERS[0]]
    steps = study.params.generation.num_inference_steps
    other = study.draw(plan.assign(seed=plan["seed"] ^ 1)).images[:]
    yield {"way": "own, other noise"}, own, score(study, plan, other), (0, steps, 0)
    for first, last in (part for part in PARTS if sum(part) < steps):
        found = score(study, plan, fill(study, plan, part=(first, last))[:, 0])
        calls = 0, steps - first - last, first + last
        yield {"way": "guidance", "first": first, "last": last}, own, found, calls
    asked = [(solver, n) for solver, counts in STEPS.items() for n in counts if n <= steps]
    for solver, count in asked:
        images = studies[solver].draw(plan, num_inference_steps=count).images[:]
        told, found = {"solver": solver, "steps": count}, score(study, plan, images)
        yield {"way": "steps"} | told, own, found, (0, count, 0)


def look_ways(
    study: Study, plan: pd.DataFrame, own: pd.DataFrame, looks: Sequence[int], tall: np.ndarray
) -> Ways:
    """Drop images at each look, of what `draw_looks` drew, and judge what is accepted then."""
    steps = study.params.generation.num_inference_steps
    half = pd.factorize(plan["source_id"])[0] % 2 == 1  # every second source, with all its images
    before = own.assign(judged=own["accepted"])
    for look, predicted in zip(looks, np.moveaxis(tall, 1, 0), strict=False):
        similarity, _ = study.judge_similarity(
            draw.GeneratedSet(plan, predicted, lambda: study.encoder)
        )
        for limit in LIMITS:
            kept = ~drop(similarity, own["accepted"].to_numpy(), half, limit)
            found = before.assign(kept=kept, **before[["accepted", "judged"]].mul(kept, axis=0))
            calls = look, steps - look, 0
            yield {"way": "look", "look": look, "limit": limit}, before, found, calls


def show(table: pd.DataFrame) -> Figure:
    """Draw the table: distances over steps without guidance, over steps, and what looks save."""
    look, part = table["way"] == "look", table["way"] == "guidance"
    where = np.select([table["last"] == 0, table["first"] == 0], ["the first", "the last"], "both")
    after = "look after step " + table["look"].astype("Int64").astype(str)
    shown = table.assign(
        x=table["steps"].fillna(table["first"] + table["last"]).fillna(table["lost"]),
        value=table["distance"].mask(look, 1 - table["cost"]),
        hue=table["solver"].replace(_NAMES).fillna(after).mask(part, where),
    ).query("way in @_LABELS")
    fig, panels = style.lay_panels(shown, "way", (3.9, 3.5), 3, xlabel=_LABELS, sharey=False)
    for ax, way, rows in panels:
        for name, colour in style.colours(rows["hue"]).items():
            line = rows[rows["hue"] == name]
            ax.plot(line["x"], line["value"], "o-", ms=4, color=colour, label=name)
        if len(free := rows[rows["free"]]):
            ax.plot(free["x"], free["value"], "o", ms=10, mfc="none", color="0.2", label="free")
        if way == "look":
            style.as_percent(ax.xaxis, ax.yaxis)
        else:
            ax.axhline(AS_NEAR, label=f"{AS_NEAR} times the own", **style.DASHED)
        if way == "steps":
            style.scale_log(ax, "y")
        ax.set_ylabel("time saved" if way == "look" else "Fréchet distance, own = 1")
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.21), ncol=2, frameon=False)
    return fig


def main(arguments: list[str] | None = None) -> int:
    """Measure what cheaper ways of drawing do to quality: reports/bench/cheaper.csv, .svg, .png."""
    parser = argparse.ArgumentParser(prog="diffcore cheaper", description=main.__doc__)
    parser.add_argument("--profile", default="demo", help="file in params/, or path of one")
    parser.add_argument("--per-source", type=int, default=5, help="images a training image")
    options = parser.parse_args(arguments)
    table = measure(open_studies("cheaper", options.profile), options.per_source)
    path = project_root() / "reports" / "bench" / "cheaper.csv"
    print(write_text(path, table.to_csv(index=False, float_format="%.5f")))
    figures.use_style()
    fig = show(table)
    for kind, told in (("svg", {"metadata": {"Date": None}}), ("png", {"dpi": 110})):
        with written_whole(path.with_suffix(f".{kind}")) as aside:
            fig.savefig(aside, format=kind, bbox_inches="tight", **told)
    return 0
