"""Engines: draw or train a study in units, here, as one part of many, or on a Ray cluster.

    diffcore draw --profile imagenet --part 3/64       the third of 64, as of a Slurm array
    diffcore draw --profile imagenet --engine ray      everything, on all of a cluster
    diffcore train --profile imagenet --engine ray --address auto

All machines read and write one folder with the project; `make study` then needs nothing more. A
unit of drawing is a range of a plan, drawn, embedded and, where rejected images are drawn again,
filtered; one of training is one classifier. A unit may be done twice, or be killed, without harm.
One that fails is tried three times; its last error stands in ``runs/<profile>/failures/``.
"""

import logging
import os
import socket
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from diffcore import sweeps
from diffcore.generation.draw import in_batches
from diffcore.methods import METHODS, study_methods
from diffcore.params import UserError, parse_assignments, project_root, resolve_device
from diffcore.processes import side_by_side
from diffcore.study import Study, check_study, decide
from diffcore.training import runs

Unit = Callable[[], Any]
_TRIES = 3
_BEGUN = "== try "  # begins a line of a record


class UnitsError(UserError, RuntimeError):
    """Units that failed to the last, or that cannot be dealt out as asked."""


# ---------------------------------------------------------------------------------------- the units
def draw_units(study: Study) -> list[Unit]:
    """List what to draw: fixed ranges of each plan, in the order of the plans."""
    size = study.params.generation.shard_size
    return [partial(draw, rows) for draw, plan in _plans(study) for rows in in_batches(plan, size)]


def _plans(study: Study) -> Iterator[tuple[Callable[[pd.DataFrame], Any], pd.DataFrame]]:
    """Yield what every replicate draws before it trains: how a plan is drawn, and the plan."""
    restyles = any(METHODS[name].sees == "restyled" for name in study_methods(study.params))
    for number in range(study.params.runs.replicates):
        replicate = study.replicate(number)
        again = replicate.params.filtering.max_attempts
        yield partial(decide, replicate) if again else replicate.draw, replicate.plan
        for plan, params in sweeps.plan_all_restyled(replicate).values() if restyles else ():
            yield partial(replicate.restyle, params=params), plan


def train_units(study: Study) -> list[Unit]:
    """List the trainings of the main table and of all sweeps, those that are alike once."""
    planned = sweeps.plan_main(study)
    planned += [run for axis in sweeps.axes(study) for run in sweeps.plan_sweep(study, axis)]
    wanted = runs.unique_runs(planned, study.run_dir / "training")
    return [partial(_do_run, run, path) for path, run in wanted.items()]


TASKS = {"draw": draw_units, "train": train_units}


# -------------------------------------------------------------------------------------- one attempt
def _do_run(run: runs.Run, path: Path) -> None:
    """Do a run, unless another process has."""
    if not runs.is_done(run, path):
        runs.do_run(run, path)


def attempt(work: Unit, record: Path) -> str:
    """Do one unit, three times if it fails; return "" or its last error.

    Each try leaves a line in the record before it begins, so that one that takes its process along
    counts too; the record goes when the unit is done.
    """
    record.parent.mkdir(parents=True, exist_ok=True)
    text = record.read_text(encoding="utf-8") if record.exists() else ""
    for number in range(text.count(_BEGUN) + 1, _TRIES + 1):
        text += f"{_BEGUN}{number}, process {os.getpid()} of {socket.gethostname()}\n"
        record.write_text(text, encoding="utf-8")
        try:
            work()
        except Exception:  # whatever it is, the other units go on, and the record holds it
            text += traceback.format_exc() + "\n"
            record.write_text(text, encoding="utf-8")
            continue
        record.unlink(missing_ok=True)
        return ""
    return f"{record.stem}: {text.strip().splitlines()[-1]}"


# ------------------------------------------------------------------------------------------ engines
def run_here(task: str, study: Study, part: int, parts: int) -> list[str]:
    """Do every `parts`-th unit of a task from the `part`-th on; list what failed, and why."""
    units = TASKS[task](study)
    records = _begin(task, study, range(part - 1, len(units), parts))
    jobs = [partial(attempt, units[number], record) for number, record in records.items()]
    done = (job() for job in jobs)  # drawing has this process's device to itself, trainings share
    if task == "train" and jobs:
        done = side_by_side(jobs, resolve_device(study.params.training.device, "training.device"))
    return [error for error in tqdm(done, task, len(jobs), unit="unit") if error]


def run_on_ray(
    task: str, study: Study, opened_by: tuple, address: str | None, workers: int | None
) -> list[str]:
    """Do all units of a task on a Ray cluster; list what failed, and why.

    `opened_by` is what the workers call `open_study` with. Without `address` the cluster is this
    machine; without `workers` there is one per GPU or, where there is none, one per core.
    """
    ray = _start_ray(address)
    records = _begin(task, study, range(len(TASKS[task](study))))
    gpus, cores = (int(ray.cluster_resources().get(kind, 0)) for kind in ("GPU", "CPU"))
    # What travels is numbers and short texts: images go from each worker to the disk. The numbers
    # are given, as tasks that read them would wait for cores that the workers have taken.
    numbers = ray.data.from_items([*records], override_num_blocks=len(records))
    done = numbers.map_batches(
        _Worker,
        fn_constructor_args=(task, str(project_root()), *opened_by),
        batch_size=1,
        num_cpus=1,
        num_gpus=min(gpus, 1),
        concurrency=min(workers or gpus or cores, len(records)),
    )
    rows = tqdm(done.iter_rows(), f"{task} on Ray", len(records), unit="unit")
    return [row["error"] for row in rows if row["error"]]


def _start_ray(address: str | None) -> Any:
    """Join a Ray cluster, or start one of this machine; return the package."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else it would ask the network
    try:
        import ray
        import ray.data
    except ImportError:
        raise UnitsError("--engine ray needs Ray: pip install 'ray[data]'") from None
    quiet = {"log_to_driver": False, "logging_level": "WARNING", "include_dashboard": False}
    ray.init(address, ignore_reinit_error=True, **quiet if address is None else {})
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False  # ours counts units
    return ray


class _Worker:
    """A process of the cluster: it opens the study once, and does units by their numbers."""

    def __init__(self, task: str, root: str, *opened_by: Any):
        os.chdir(root)
        self.task, self.study = task, open_study(*opened_by)
        self.units = TASKS[task](self.study)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        (number,) = batch["item"].tolist()
        return {"error": [attempt(self.units[number], _record(self.task, self.study, number))]}


def _begin(task: str, study: Study, numbers: Iterable[int]) -> dict[int, Path]:
    """Name the record of each unit, without what an earlier run left there."""
    records = {number: _record(task, study, number) for number in numbers}
    for record in records.values():
        record.unlink(missing_ok=True)
    return records


def _record(task: str, study: Study, number: int) -> Path:
    return study.run_dir / "failures" / f"{task}-{number:06d}.txt"


# ---------------------------------------------------------------------------------------- the whole
def open_study(profile: str, assignments: Sequence[str] = ()) -> Study:
    """Open a study without a notebook; raises as `diffcore.study.Study.open`."""
    return Study(*check_study(profile, parse_assignments(assignments)))


def work(task: str, options: Namespace) -> None:
    """Do "draw" or "train" with the options of the command line; UnitsError lists what failed."""
    opened_by = options.profile, options.set
    study = open_study(*opened_by)
    if options.engine == "ray":
        if options.part != (1, 1):
            raise UnitsError("--part is for --engine local: Ray deals the units out by itself")
        errors = run_on_ray(task, study, opened_by, options.address, options.workers)
    else:
        errors = run_here(task, study, *options.part)
    if errors:
        folder = study.run_dir / "failures"
        head = f"{len(errors)} units failed {_TRIES} times; tracebacks: {folder}"
        foot = "What is done stays done; the same command tries the others again."
        if any("out of memory" in error for error in errors):  # a batch is never made smaller
            foot += " With generation.batch_size or training.batch_size lower they may fit."
        raise UnitsError("\n".join([head, *(f"  {error}" for error in errors), foot]))
