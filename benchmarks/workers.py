"""How much faster several workers draw than one: parts of a plan, and Ray, one core each."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from diffcore.methods import REQUIRED
from diffcore.params import StudyParams, change_params, dump_params
from diffcore.stats import median_ratio
from diffcore.store import write_text
from paperbirds.birds import SPECIES

_UNITS, _UNIT = 16, 16  # images in a unit
_WAYS = {
    "one process": ["--part=1/1"],
    "two parts": ["--part=1/2", "--part=2/2"],
    "one worker of Ray": ["--engine=ray --workers=1"],
    "two workers of Ray": ["--engine=ray --workers=2"],
}
_PAIRS = [("two parts", "one process"), ("two workers of Ray", "one worker of Ray")]


def bench_workers(params: StudyParams, repeats: int = 2) -> pd.DataFrame:
    """Time two workers against one, in turns: rows as of `benchmarks.bench.compare`."""
    changes = {
        "profile": "workers",
        "generation.generated_share": 1.0,
        "generation.shard_size": _UNIT,
        "data.train_images_per_class": -(-_UNITS * _UNIT // len(SPECIES)),
        "filtering.max_attempts": 0,
        "runs.replicates": 1,
        "runs.shares": [],
        "runs.methods": [*REQUIRED],
    }
    study = change_params(params, changes)
    jobs = tqdm([*_WAYS.values()] * repeats, "workers", unit="job")
    seconds = np.reshape([time_units(study, commands) for commands in jobs], (repeats, -1))
    times = pd.DataFrame(seconds, columns=[*_WAYS])
    return pd.DataFrame(
        {"part": "workers", "ours": ours, "reference": reference, "target": 1 / 1.7}
        | median_ratio(times[ours], times[reference])
        | {"ms": 1000 * times[ours].median(), "reference_ms": 1000 * times[reference].median()}
        for ours, reference in _PAIRS
    )


def time_units(study: StudyParams, commands: list[str]) -> float:
    """Draw with so many commands at a time, a thread each; seconds an image, once all are at work.

    The first third of the units is left out, in which models are still being loaded.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_text(Path(folder, "params", "workers.yaml"), dump_params(study))
        run = [sys.executable, "-m", "diffcore", "draw", "--profile=workers"]
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        started = [
            subprocess.Popen([*run, *options.split()], cwd=folder, env=env, **quiet)
            for options in commands
        ]
        ended = {process.wait() for process in started}
        if ended != {0}:
            raise RuntimeError(f"diffcore draw {commands} failed")
        shards = Path(folder).glob("runs/workers/generation/*.parquet")
        ends = sorted(shard.stat().st_mtime for shard in shards)
    begun = len(ends) // 3
    return (ends[-1] - ends[begun]) / (len(ends) - 1 - begun) / _UNIT
