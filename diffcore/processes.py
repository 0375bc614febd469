"""Processes: several side by side, one thread or one GPU each, that end with who started them."""

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import joblib
import torch
from filelock import FileLock, Timeout

_EVERY = 1.0  # seconds
_watched: set[int] = set()
_held: list[FileLock] = []  # of the GPU that this process has taken


def end_with(parent: int) -> None:
    """Have this process end when the one of that number, which started it, has; ask at will.

    Who is killed cannot tell those whom it started, and they would train on, or wait for work with
    a gigabyte each.
    """
    if parent not in {os.getpid(), *_watched}:
        _watched.add(parent)
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_EVERY)
    os._exit(1)  # at once, as nobody is left to hear of it


def side_by_side(
    jobs: Iterable[Callable[[], Any]], device: str, processes: int | None = None
) -> Iterator[Any]:
    """Do jobs for "cpu" or "cuda", and yield what each returns as soon as it does.

    On a CPU so many at a time, None for one a core, on one thread each: sums then add up alike on
    every number of cores. On GPUs one at a time on each of them.
    """
    count = torch.cuda.device_count() if device == "cuda" else processes or joblib.cpu_count()
    alone = {"initializer": _take_gpu, "initargs": (_locks().name, count)}
    do = joblib.delayed(partial(_do, os.getpid(), device == "cpu"))
    with joblib.parallel_config(
        "loky", n_jobs=count, inner_max_num_threads=1, **alone if device == "cuda" else {}
    ):
        yield from joblib.Parallel(return_as="generator_unordered")(do(job) for job in jobs)


def _do(starter: int, on_one_thread: bool, job: Callable[[], Any]) -> Any:
    """Do a job, on one thread also where it has a process to itself."""
    end_with(starter)
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if on_one_thread else threads)
    try:
        return job()
    finally:
        torch.set_num_threads(threads)


@cache
def _locks() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory()


def _take_gpu(locks: str, count: int) -> None:
    """Take a GPU that no process beside holds: the only one that this process then sees.

    The lock goes when the process does, however it ends.
    """
    seen = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
    for number, name in enumerate(seen.split(",")[:count]):
        lock = FileLock(Path(locks, str(number)))
        with suppress(Timeout):
            lock.acquire(blocking=False)
            _held.append(lock)
            os.environ["CUDA_VISIBLE_DEVICES"] = name
            return
