"""Two reports are compared number by number, and what a clock decided is left out."""

import json
import shutil

import pandas as pd
import pytest

from diffcore.params import UserError
from diffcore.report.verify import DIFFERENT, EQUAL, MISSING, NEW, WITHIN, verify, verify_profile


@pytest.fixture
def reports(tmp_path):
    """A committed report, and a fresh one that equals it."""
    folder = tmp_path / "committed" / "04_training"
    for name in ("tables", "times"):
        (folder / name).mkdir(parents=True)
        table = pd.DataFrame({"method": ["a", "b"], "value": [0.5, None]})
        table.to_csv(folder / name / "main.csv", index=False)
    numbers = {"top1": {"a": 0.5}, "best": "a", "curve": [1.0, 2.0], "passes": True}
    for name in ("metrics", "times"):
        (folder / f"{name}.json").write_text(json.dumps(numbers))
    shutil.copytree(tmp_path / "committed", tmp_path / "fresh")
    return tmp_path / "fresh", tmp_path / "committed"


def change(folder, kind="metrics", **numbers):
    path = folder / "04_training" / f"{kind}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | numbers))


def statuses(reports):
    table = verify(*reports)
    return table[table["status"] != EQUAL].set_index("number")["status"].to_dict()


def test_equal_reports_are_equal(reports):
    assert statuses(reports) == {}
    found = verify(*reports)
    assert len(found) == 6  # four metrics, and two cells, of which one is empty
    assert "tables/main.csv" in found["file"].iloc[-1]


@pytest.mark.parametrize(
    ("factor", "status"),
    [(1 + 1e-8, EQUAL), (1 + 1e-4, WITHIN), (1.01, DIFFERENT), (-1, DIFFERENT)],
)
def test_numbers_may_differ_by_rounding_or_within_a_tolerance(reports, factor, status):
    change(reports[0], curve=[1.0, 2.0 * factor])
    assert statuses(reports).get("curve.1", EQUAL) == status


def test_what_is_not_there_is_missing_and_what_was_not_is_new(reports):
    change(reports[0], more=1, passes=False)
    (reports[0] / "04_training" / "tables" / "main.csv").write_text("value\n0.5\n")
    assert statuses(reports) == {"more": NEW, "passes": DIFFERENT, "row 2.value": MISSING}


def test_times_and_texts_are_no_part_of_it(reports):
    change(reports[0], "times", curve=[7.0])
    change(reports[0], best="b")
    (reports[0] / "04_training" / "times" / "main.csv").write_text("value\n9\n")
    assert statuses(reports) == {}


def test_the_command_prints_what_is_unequal_and_fails_for_it(reports, monkeypatch, capsys):
    fresh, committed = reports
    root = fresh.parent
    for folder in ("params", "runs/mine", "reports"):
        (root / folder).mkdir(parents=True)
    (root / "params" / "mine.yaml").touch()
    fresh = fresh.rename(root / "runs" / "mine" / "report")
    committed.rename(root / "reports" / "mine")
    monkeypatch.chdir(root)
    change(fresh, curve=[1.0, 2.0002])
    assert verify_profile("mine") == 0
    assert "5 equal, 1 within tolerance, 0 different, 0 missing, 0 new" in capsys.readouterr().out
    change(fresh, curve=[1.0, 3.0])
    assert verify_profile("mine") == 1
    shown = capsys.readouterr().out
    assert "curve.1" in shown
    assert "different" in shown


def test_reports_without_a_number_verify_nothing(tmp_path, reports):
    with pytest.raises(UserError, match=f"{tmp_path}/none holds no numbers to compare"):
        verify(tmp_path / "none", reports[1])
