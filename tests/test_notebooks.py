"""Every notebook runs under the smoke profile, and finds the numbers that it found before.

Those that rest on a training go their own ways on another processor, or with other threads: of them
the names are compared.

They share one study, as they do in `make study`: a notebook is run once, after those before it.
Where an intended change makes other numbers, DIFFCORE_WRITE_GOLDEN=1 keeps them.
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
FIGURES = {"01": 14, "02": 11, "03": 9, "04": 15, "05": 7, "06": 4, "07": 14, "08": 1}
TRAINED = ("04", "05", "07", "08")
TOLERANCE = 1e-3  # relative: float32 on another processor


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of its own, in which nothing has been run; its reports."""
    with pytest.MonkeyPatch.context() as patch:
        folder = make_study(tmp_path_factory.mktemp("study"), patch)
        for name in NAMES:
            shutil.copy(PROJECT / "notebooks" / f"{name}.ipynb", folder / "notebooks")
        yield folder / "runs" / "smoke" / "report"


@pytest.fixture
def find(study):
    """Run a notebook, and what it needs before it; return the folder of its report."""

    def run(name):
        for needed in NAMES[: NAMES.index(name) + 1]:
            if (study / needed / f"{needed}.failed.ipynb").exists():
                pytest.fail(f"{needed} failed before")
            if not (study / needed / f"{needed}.ipynb").exists():
                run_notebook(needed, "smoke")
        return study / name

    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_finds_its_golden_numbers(name, find):
    folder, golden = find(name), GOLDEN / f"{name}.json"
    assert len(list((folder / "figures").glob("*.png"))) == FIGURES[name[:2]]
    if os.environ.get("DIFFCORE_WRITE_GOLDEN"):
        shutil.copy(folder / "metrics.json", golden)
    fresh, expected = (
        {(name, key): value for key, value in numbers(json.loads(path.read_text()))}
        for path in (folder / "metrics.json", golden)
    )
    found = compare(fresh, expected, TOLERANCE)
    assert len(found)
    faults = [MISSING] if name[:2] in TRAINED else [DIFFERENT, MISSING]
    wrong = found[found["status"].isin(faults)]
    assert wrong.empty, wrong.to_string()


@pytest.mark.slow
def test_the_last_notebook_answers_every_claim_and_the_index_shows_all(find, study):
    found = json.loads((find("08_report") / "metrics.json").read_text())
    assert found["notebooks"] == 7
    assert "not run yet" not in found["verdicts"].values()
    page = build_index("smoke").read_text(encoding="utf-8")
    for name in NAMES:
        assert page.count(f'<h2><a href="{name}/{name}.html">') == 1
    assert page.count('<span class="verdict') == len(found["verdicts"])
    assert results_table(study).count("\n| **0") == 7  # a notebook each, with all its numbers
    for claim in (claim for claim in CLAIMS.values() if "figure" in claim):
        assert (study / claim["notebook"] / "figures" / f"{claim['figure']}.png").exists(), claim


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_page_shows_every_figure_and_only_figures_that_are_there(name, find):
    folder = find(name)
    page = (folder / f"{name}.html").read_text(encoding="utf-8")
    linked = re.findall(r'src="(figures/[^"]+)"', page)
    assert sorted(linked) == sorted(f"figures/{p.name}" for p in (folder / "figures").glob("*.png"))


@pytest.mark.parametrize("name", NAMES)
def test_cells_need_only_what_a_study_can_have(name):
    notebook = nbformat.read(PROJECT / "notebooks" / f"{name}.ipynb", as_version=4)
    tags = {tag for cell in notebook.cells for tag in cell.metadata.get("tags", [])}
    assert tags <= {"parameters"} | {f"needs-{capability}" for capability in CAPABILITIES}
