"""Processes that end with the one that started them, however that one ended."""

import os
import threading
import time

_EVERY = 1.0  # seconds
_watched: set[int] = set()


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
