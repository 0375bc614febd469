"""Jobs side by side, one thread or one GPU each, in processes that end with their parent."""

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
    """End this process when its parent, of that number, ends. Safe to call more than once.

    A process that is killed cannot end its children, and they would train on.
    """
    if parent not in {os.getpid(), *_watched}:
        _watched.add(parent)
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_EVERY)
    os._exit(1)


def side_by_side(jobs: Iterable[Callable[[], Any]], device: str) -> Iterator[Any]:
    """Do jobs for "cpu" or "cuda", and yield what each returns as soon as it does.

    On a CPU there is one job per core, each on one thread, so that sums add up alike on every
    number of cores. On GPUs there is one job per GPU.
    """
    gpus = torch.cuda.device_count() if device == "cuda" else 0
    alone = {"initializer": _take_gpu, "initargs": (_locks().name, gpus)} if gpus else {}
    count = gpus or joblib.cpu_count()
    do = joblib.delayed(partial(_do, os.getpid(), device == "cpu"))
    with joblib.parallel_config("loky", n_jobs=count, inner_max_num_threads=1, **alone):
        yield from joblib.Parallel(return_as="generator_unordered")(do(job) for job in jobs)


def _do(parent: int, on_one_thread: bool, job: Callable[[], Any]) -> Any:
    """Do a job, on one thread also where it has a process to itself."""
    end_with(parent)
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
    """Show this process one GPU alone, which no other process holds; its lock ends with it."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
    for number, name in enumerate(seen.split(",")[:count]):
        lock = FileLock(Path(locks, str(number)))
        with suppress(Timeout):
            lock.acquire(blocking=False)
            _held.append(lock)
            os.environ["CUDA_VISIBLE_DEVICES"] = name
            return
