"""Two workers against one: each draws what is asked, and a failure is no time."""

import pytest

from benchmarks import workers
from diffcore.params import load_params


@pytest.mark.slow
def test_parts_are_timed_once_all_are_at_work(monkeypatch):
    monkeypatch.setattr(workers, "_UNITS", 3)
    monkeypatch.setattr(workers, "_UNIT", 8)
    timed, time_units = [], workers.time_units

    def time_once(study, commands):  # each command takes seconds to start
        if commands == workers._WAYS["two parts"] and not timed:
            timed.append(time_units(study, commands))
        return 0.5 if commands == workers._WAYS["two parts"] else 1.0

    monkeypatch.setattr(workers, "time_units", time_once)
    rows = workers.bench_workers(load_params("smoke"))
    assert rows["ours"].tolist() == ["two parts", "two workers of Ray"]
    assert rows["value"].tolist() == [0.5, 1.0]
    assert 0.001 < timed[0] < 60


@pytest.mark.slow
def test_what_fails_is_not_timed():
    with pytest.raises(RuntimeError, match="--part=2/1"):
        workers.time_units(load_params("smoke"), ["--part=2/1"])
