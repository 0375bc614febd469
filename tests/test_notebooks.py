"""Every notebook runs under the smoke profile, and records the numbers that it recorded before.

Trainings differ on another processor, or with other threads: of their notebooks only the names of
the numbers are compared. All notebooks share one study, as in `make study`: each is run once, after
those before it. Where an intended change makes other numbers, DIFFCORE_WRITE_GOLDEN=1 keeps them.
"""

import json
import os
import re
import shutil

import nbformat
import pytest
from conftest import PROJECT, make_study

from diffcore.checks import CAPABILITIES
from diffcore.report.claims import CLAIMS, results_table
from diffcore.report.run import build_index, notebooks, run_notebook
from diffcore.report.verify import DIFFERENT, MISSING, compare, numbers

GOLDEN = PROJECT / "tests" / "golden" / "smoke"
NAMES = list(notebooks())
FIGURES = {"01": 14, "02": 11, "03": 9, "04": 14, "05": 7, "06": 4, "07": 14, "08": 1}
TRAINED = ("04", "05", "07", "08")


@pytest.fixture(scope="module")
def report_of(tmp_path_factory):
    """Run a notebook after those before it, in a study for all tests; return its report."""
    with pytest.MonkeyPatch.context() as patch:
        folder = make_study(tmp_path_factory.mktemp("study"), patch)
        for name in NAMES:
            shutil.copy(PROJECT / "notebooks" / f"{name}.ipynb", folder / "notebooks")
        reports = folder / "runs" / "smoke" / "report"

        def run(name):
            for needed in NAMES[: NAMES.index(name) + 1]:
                if (reports / needed / f"{needed}.failed.ipynb").exists():
                    pytest.fail(f"{needed} failed before")
                if not (reports / needed / f"{needed}.ipynb").exists():
                    run_notebook(needed, "smoke")
            return reports / name

        yield run


def read(path, key):
    return {(key, name): value for name, value in numbers(json.loads(path.read_text()))}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_records_its_golden_numbers_and_shows_its_figures(name, report_of):
    folder, golden = report_of(name), GOLDEN / f"{name}.json"
    page = (folder / f"{name}.html").read_text(encoding="utf-8")
    figures = sorted(f"figures/{path.name}" for path in (folder / "figures").glob("*.png"))
    assert sorted(re.findall(r'src="(figures/[^"]+)"', page)) == figures
    assert len(figures) == FIGURES[name[:2]]
    if os.environ.get("DIFFCORE_WRITE_GOLDEN"):
        shutil.copy(folder / "metrics.json", golden)
    compared = compare(read(folder / "metrics.json", name), read(golden, name))
    assert len(compared)
    faults = [MISSING] if name[:2] in TRAINED else [DIFFERENT, MISSING]
    wrong = compared[compared["status"].isin(faults)]
    assert wrong.empty, wrong.to_string()


@pytest.mark.slow
def test_the_last_notebook_answers_every_claim_and_the_index_shows_all(report_of):
    folder = report_of("08_report")
    recorded = json.loads((folder / "metrics.json").read_text())
    assert recorded["notebooks"] == 7
    assert "not run yet" not in recorded["verdicts"].values()
    page = build_index("smoke").read_text(encoding="utf-8")
    assert re.findall(r'<h2><a href="(\w+)/\w+\.html">', page) == NAMES
    assert page.count('<span class="verdict') == len(recorded["verdicts"])
    assert results_table(folder.parent).count("\n| **0") == 7  # each notebook, with its numbers
    for claim in (claim for claim in CLAIMS.values() if "figure" in claim):
        figure = folder.parent / claim["notebook"] / "figures" / f"{claim['figure']}.png"
        assert figure.exists(), claim


@pytest.mark.parametrize("name", NAMES)
def test_cells_need_only_what_a_study_can_have(name):
    notebook = nbformat.read(PROJECT / "notebooks" / f"{name}.ipynb", as_version=4)
    tags = {tag for cell in notebook.cells for tag in cell.metadata.get("tags", [])}
    assert tags <= {"parameters"} | {f"needs-{capability}" for capability in CAPABILITIES}
    for cell in notebook.cells:  # the embedded world has a package of its own
        if "import" in cell.source and re.search(r"^(from|import) paperbirds", cell.source, re.M):
            assert "needs-renders" in cell.metadata.get("tags", []), cell.source
