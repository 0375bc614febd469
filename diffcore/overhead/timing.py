"""Clocks: what the parts of a job take, jobs in turn, and the time inside a pipeline's networks.

Times differ from machine to machine and minute to minute; ratios of jobs in turn can be compared.
"""

import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
from diffusers import DiffusionPipeline
from tqdm.auto import tqdm

from diffcore.generation.draw import generate
from diffcore.generation.pipelines import LazyPipeline
from diffcore.params import GenerationParams

Jobs = Mapping[str, Callable[[], Any]]  # or the parts of one
Seconds = dict[str, float]  # of the parts of a job


def now() -> float:
    """Return the time in seconds when all work given to a GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def gpu_gigabytes() -> float:
    """Return the most GPU memory that tensors took since the last call, in 10^9 bytes, or 0."""
    if not torch.cuda.is_available():
        return 0.0
    most = torch.cuda.max_memory_allocated() / 1e9
    torch.cuda.reset_peak_memory_stats()
    return most


def laps(parts: Jobs) -> Seconds:
    """Run the parts of one job in order: part -> seconds that it took."""
    seconds = {}
    for name, part in parts.items():
        start = now()
        part()
        seconds[name] = now() - start
    return seconds


def take_repeats(jobs: Jobs, repeats: int, seed: int = 0, describe: str = "time") -> pd.DataFrame:
    """Run jobs that return their `Seconds` in turns: a tidy table of repeat, job, part, seconds.

    They change their order, so that whatever else the machine does meets all alike.
    """
    rng, rows = np.random.default_rng(seed), []
    for repeat in tqdm(range(repeats), describe, unit="repeat"):
        runs = {str(name): jobs[name]() for name in rng.permutation(list(jobs))}
        rows += [(repeat, name, *part) for name in jobs for part in runs[name].items()]
    return pd.DataFrame(rows, columns=["repeat", "job", "part", "seconds"])


def median_seconds(jobs: Jobs, repeats: int, describe: str) -> pd.Series:
    """Median seconds of each of several jobs that take turns."""
    timed = {name: partial(laps, {"all": job}) for name, job in jobs.items()}
    return take_repeats(timed, repeats, describe=describe).groupby("job")["seconds"].median()


@dataclass(frozen=True)
class TimeShare:
    """Seconds of a call, and how many of them went to the two networks that draw."""

    total_s: float
    unet_s: float
    vae_s: float

    @property
    def share(self) -> float:
        """Part of the time inside UNet and autoencoder, in [0, 1]: no code of ours can save it."""
        return (self.unet_s + self.vae_s) / self.total_s

    def parts(self, images: int) -> Seconds:
        """Seconds for one of so many images, by part."""
        rest = self.total_s - self.unet_s - self.vae_s
        parts = {"UNet": self.unet_s, "autoencoder": self.vae_s, "text and files": rest}
        return {part: seconds / images for part, seconds in parts.items()}


def time_share(pipeline: DiffusionPipeline, draw: Callable[[], Any]) -> TimeShare:
    """Time a function that draws with a pipeline, and its networks, each waited for on a GPU."""
    spent = {"forward": 0.0, "decode": 0.0}

    def measured(method: Callable[..., Any], name: str, *args: Any, **kwargs: Any) -> Any:
        start = now()
        result = method(*args, **kwargs)
        spent[name] += now() - start
        return result

    def watched(net: torch.nn.Module, name: str) -> AbstractContextManager:
        return mock.patch.object(net, name, partial(measured, getattr(net, name), name))

    with watched(pipeline.unet, "forward"), watched(pipeline.vae, "decode"):
        total = laps({"all": draw})["all"]
    return TimeShare(total, spent["forward"], spent["decode"])


def time_generation(
    plan: pd.DataFrame, pipeline: LazyPipeline | DiffusionPipeline, settings: GenerationParams
) -> TimeShare:
    """Time the drawing of a plan from nothing, after a first small batch has warmed up."""
    pipeline, sampler = LazyPipeline.of(pipeline), settings.sampler
    with tempfile.TemporaryDirectory() as warm, tempfile.TemporaryDirectory() as cold:
        generate(plan.head(2), pipeline, warm, **sampler, progress=False)
        draw = partial(generate, plan, pipeline, cold, **sampler, progress=False)
        return time_share(pipeline.load(), draw)
