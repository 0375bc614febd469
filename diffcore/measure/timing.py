"""Clocks: what the parts of a job take, jobs in turn, and the time inside a pipeline's networks.

Times differ from machine to machine and minute to minute; ratios of jobs in turn can be compared.
"""

import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
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
REST = "text and files"  # what drawing does outside the networks, where our code can save time


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
    with tqdm(total=repeats * len(jobs), desc=describe, unit="job") as bar:
        for repeat in range(repeats):
            runs = {}
            for name in rng.permutation(list(jobs)).tolist():
                runs[name] = jobs[name]()
                bar.update()
            rows += [(repeat, name, *part) for name in jobs for part in runs[name].items()]
    return pd.DataFrame(rows, columns=["repeat", "job", "part", "seconds"])


def time_drawing(pipeline: DiffusionPipeline, draw: Callable[[], Any]) -> Seconds:
    """Time a function that draws with a pipeline: in its two networks, and besides (`REST`).

    Each network is waited for on a GPU.
    """
    spent = {"UNet": 0.0, "autoencoder": 0.0}

    def measured(part: str, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        start = now()
        result = method(*args, **kwargs)
        spent[part] += now() - start
        return result

    def watched(part: str, net: torch.nn.Module, name: str) -> AbstractContextManager:
        return mock.patch.object(net, name, partial(measured, part, getattr(net, name)))

    unet, vae = pipeline.unet, pipeline.vae
    with watched("UNet", unet, "forward"), watched("autoencoder", vae, "decode"):
        total = laps({"all": draw})["all"]
    return spent | {REST: total - sum(spent.values())}


def time_generation(
    plan: pd.DataFrame, pipeline: LazyPipeline, settings: GenerationParams
) -> Seconds:
    """Time the drawing of a plan from nothing, after a first small batch has warmed up."""
    sampler = settings.sampler
    with tempfile.TemporaryDirectory() as warm, tempfile.TemporaryDirectory() as cold:
        generate(plan.head(2), pipeline, warm, **sampler, progress=False)
        draw = partial(generate, plan, pipeline, cold, **sampler, progress=False)
        return time_drawing(pipeline.load(), draw)
