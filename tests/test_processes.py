"""Jobs side by side: one GPU each, one thread each on a CPU."""

import itertools
import os
import time

import pytest
import torch

from diffcore import processes
from diffcore.processes import side_by_side


def report():
    """Return what a job sees, with when it began and ended."""
    began = time.time()
    time.sleep(0.3)
    return os.environ.get("CUDA_VISIBLE_DEVICES"), os.getpid(), began, time.time()


@pytest.mark.slow
def test_each_gpu_has_one_job_at_a_time_and_every_gpu_has_some(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    reports = list(side_by_side([report] * 8, "cuda"))
    assert {gpu for gpu, *_ in reports} == {"4", "7"}
    assert len({(gpu, process) for gpu, process, *_ in reports}) == 2
    for gpu in "47":
        times = sorted((began, ended) for name, _, began, ended in reports if name == gpu)
        assert len(times) >= 2
        assert all(ended <= began for (_, ended), (began, _) in itertools.pairwise(times))


def test_a_job_on_one_gpu_or_one_core_stays_in_this_process(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    threads = torch.get_num_threads()
    assert [*side_by_side([os.getpid], "cuda")] == [os.getpid()]
    assert [*side_by_side([os.getpid, torch.get_num_threads], "cpu")] == [os.getpid(), 1]
    assert torch.get_num_threads() == threads
    assert processes._held == []
