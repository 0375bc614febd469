"""Processes side by side: one GPU each, one thread each on a CPU."""

import itertools
import os
import time
from functools import partial

import pytest
import torch

from diffcore import processes
from diffcore.processes import side_by_side


def told(_):
    """What a job sees, with when it began and ended."""
    began = time.time()
    time.sleep(0.3)
    return os.environ.get("CUDA_VISIBLE_DEVICES"), os.getpid(), began, time.time()


@pytest.mark.slow
def test_each_gpu_has_one_job_at_a_time_and_every_gpu_has_some(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    found = list(side_by_side([partial(told, n) for n in range(8)], "cuda"))
    assert {gpu for gpu, *_ in found} == {"4", "7"}
    assert len({(gpu, process) for gpu, process, *_ in found}) == 2
    for gpu in "47":
        times = sorted((began, ended) for name, _, began, ended in found if name == gpu)
        assert len(times) >= 2
        assert all(ended <= began for (_, ended), (began, _) in itertools.pairwise(times))


def test_one_gpu_or_one_process_is_this_process(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert [*side_by_side([os.getpid], "cuda")] == [os.getpid()]
    assert [*side_by_side([os.getpid], "cpu", processes=1)] == [os.getpid()]


def test_a_job_on_a_cpu_has_one_thread_and_leaves_the_others_as_they_were():
    threads = torch.get_num_threads()
    assert [*side_by_side([torch.get_num_threads], "cpu", processes=1)] == [1]
    assert torch.get_num_threads() == threads
    assert processes._held == []
