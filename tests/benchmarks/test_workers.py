"""Two workers against one: each draws what is asked, and a failure is no time."""

import pytest

from benchmarks import workers
from diffcore.params import load_params


@pytest.mark.slow
def test_parts_are_timed_once_all_are_at_work(monkeypatch):
    monkeypatch.setattr(workers, "_UNITS", 3)
    monkeypatch.setattr(workers, "_UNIT", 8)
    parts = {name: way for name, way in workers._WAYS.items() if "Ray" not in name}
    monkeypatch.setattr(workers, "_WAYS", parts)
    monkeypatch.setattr(workers, "_PAIRS", workers._PAIRS[:1])
    (row,) = workers.bench_workers(load_params("smoke")).to_dict("records")
    assert (row["ours"], row["reference"], row["n"]) == ("two parts", "one process", 2)
    assert min(row["ms"], row["reference_ms"]) > 1


@pytest.mark.slow
def test_what_fails_is_not_timed():
    with pytest.raises(RuntimeError, match="--part=2/1"):
        workers.time_units(load_params("smoke"), ["--part=2/1"])
