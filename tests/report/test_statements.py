"""Each statement leads to a file and a cell; what is missing, misnamed or wrong is told."""

import json
import re

import nbformat
import pytest
from conftest import PROJECT
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from diffcore.cli import main
from diffcore.report import statements
from diffcore.report.statements import REFERENCE, Statement, check, read_statements

NOTEBOOK = "notebooks/04_training.ipynb"
README = """\
# A study

3 points of a page that makes no statement.

## What it found

| claim | measured |
|---|---|
| up to 9 points (a paper) | holds: +3.2 points [+1.9, +4.6] [`04:gain`, `04/01_main`] |

Every claim is in [docs/results.md](docs/results.md). It took 5 seeds. [`04:seeds`] None was lost
[`birds:04/main`].

## Elsewhere

Here 7 things are no statement.
"""
TAKEAWAYS = """\
Some prose.

## Takeaways

- Mixing gains a few points, `class_mean` too, and
  on shifted contexts none. [`01_main`, `main`, `:top1`]
- The share is 62 %, for 1,020 images, and −9.8 points. [`:top1.shifted`, `:images`, `:fall`]

## Exercises

- Of 3 exercises none is a statement.
"""
CODE = """\
study.show(fig, "01_main")
study.table(gains, "main")
for test in tests:
    study.record(**{f"gain": 0, f"fa{test}l_is_another": 0})
study.record(top1=means, images=1, seeds=5, fall=0)
study.record(**stats.flatten(f"{test}_gain_vs_vanilla", gain))
"""
METRICS = {
    "gain": 0.0323333, "gain_low": 0.0189538, "gain_high": 0.0457129, "seeds": 5, "images": 1020,
    "top1": {"shifted": 0.621667, "matched": 0.9}, "fall": -0.0983333, "unnamed": 1.0,
    "shifted_gain_vs_vanilla": {"value": 0.1, "low": 0.05, "high": 0.15},
}  # fmt: skip


@pytest.fixture
def project(study_folder):
    """A project of one notebook, in which each statement is shown."""
    (study_folder / "docs").mkdir()
    (study_folder / "README.md").write_text(README, encoding="utf-8")
    cells = [
        new_markdown_cell("`01_main` in prose is no cell that makes it"),
        new_code_cell('labels = {"main": "a name that is not kept here", "top1": 1}'),
        new_code_cell(CODE, id="21", execution_count=3),
        new_markdown_cell(TAKEAWAYS),
    ]
    for report in ("demo", "birds"):
        folder = study_folder / "reports" / report / "04_training"
        for file in ("figures/01_main.png", "tables/main.csv"):
            (folder / file).parent.mkdir(parents=True)
            (folder / file).touch()
        (folder / "metrics.json").write_text(json.dumps(METRICS))
        nbformat.write(new_notebook(cells=cells), folder / "04_training.ipynb")
    nbformat.write(new_notebook(cells=cells), study_folder / NOTEBOOK)
    return study_folder


def change(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_every_statement_is_found_with_its_file_and_cell(project, capsys):
    assert main(["statements"]) == 0
    assert "5 statements, 0 faults" in capsys.readouterr().out
    written = (project / "docs" / "statements.md").read_text(encoding="utf-8")
    rows = [line for line in written.splitlines() if line.startswith(("| README", "| notebooks"))]
    assert len(rows) == 5
    assert rows[0].startswith(
        "| README.md | up to 9 points (a paper): holds: +3.2 points [+1.9, +4.6]"
    )
    place = "../reports/demo/04_training"
    assert f"[`04:gain`]({place}/metrics.json) = 0.0323333 ([cell 3]({place}/" in rows[0]
    assert f"[`04/01_main`]({place}/figures/01_main.png) ([cell 3](" in rows[0]
    assert "../reports/birds/04_training/tables/main.csv" in rows[2]
    assert "[`:top1`](../reports/demo/04_training/metrics.json) (" in rows[3]
    assert set(re.findall(r"\(\[cell (\w+)\]", written)) == {"3"}  # not that which names it first
    for link in re.findall(r"\]\(([^)#]+)", "".join(rows)):
        assert (project / "docs" / link).is_file(), link


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        ("README.md", " [`04:seeds`]", "", "5 seeds.”: names nothing that shows it"),
        ("README.md", "seeds. [", "seeds. None is left. [", "“It took 5 seeds.”: names nothing"),
        ("README.md", "04/01_main", "04/01_mian", "`04/01_mian` is not there; nearest: 01_main, "),
        ("README.md", "04/01_main", "01_main", "`01_main` is in no notebook of reports/demo"),
        ("README.md", "birds:", "cars:", "`cars:04/main` is in no notebook of reports/cars"),
        ("README.md", "04:seeds", "04:seed", "`04:seed` is not there; nearest: seeds"),
        ("README.md", "04:seeds", "04:unnamed", "`04:unnamed` is named by no cell of 04_training"),
        ("README.md", "+3.2", "+3.3", "`04:gain` is (0.0323333, 0.0189538, 0.0457129)"),
        ("README.md", "+3.2", "-3.2", "`04:gain` is"),
        ("README.md", "+4.6", "+4.7", "`04:gain` is"),
        ("README.md", "5 seeds", "6 seeds", "is not said, in its turn, by: 6"),
        ("README.md", "[docs/results.md](docs/results.md)", "there", "“Every claim is in there.”"),
        ("README.md", "What it found", "What was found", "no statement in README.md"),
        (NOTEBOOK, "62 %", "63 %", "`:top1.shifted` is (0.621667, None, None)"),
        (NOTEBOOK, "[`01_main`, `main`, `:top1`]", "", "“Mixing gains a few"),
        (NOTEBOOK, "Takeaways", "Lessons", "no statement in notebooks/04_trai"),
    ],
)  # fmt: skip
def test_a_fault_is_told_and_nothing_is_written(project, file, old, new, told, capsys):
    change(project / file, old, new)
    assert main(["statements"]) == 1
    assert told in capsys.readouterr().err
    assert not (project / "docs" / "statements.md").exists()


def test_a_name_with_gaps_leads_to_its_cell(project):
    change(project / "README.md", "[`birds:04/main`]", "[`04:shifted_gain_vs_vanilla`]")
    assert main(["statements"]) == 0


@pytest.mark.parametrize(
    ("said", "number", "fault"),
    [
        ("0.91", (0.9149, None, None), False),
        ("0.91", (0.9151, None, None), True),
        ("43 times", (42.7067, None, None), False),
        ("0.2 %", (0.00225, None, None), False),
        ("2 %", (2.0, None, None), True),  # a share is meant, which is recorded as 0.02
        ("+17.3 [+12.5, +22.2]", (0.173333, 0.125044, 0.221623), False),
        ("+17.3 [+12.5, +22.2]", (0.173333, None, None), True),  # of which no interval is known
        ("9.8 points", (-0.0983, None, None), True),
        ("ResNet-50 of `v0.5`", (0.5, None, None), False),  # has no figure
    ],
)
def test_a_figure_is_compared_to_its_own_digits(said, number, fault):
    assert bool(check(Statement("README.md", said, ["04:a"]), {"04:a": number})) is fault


def test_numbers_are_said_in_the_order_of_their_references():
    numbers = {":a": (0.1, None, None), ":b": (0.2, None, None)}
    assert not check(Statement("", "first 10 %, then 20 %", [*numbers]), numbers)
    assert len(check(Statement("", "first 20 %, then 10 %", [*numbers]), numbers)) == 1


def test_references_in_the_project_are_written_as_they_are_read():
    made = read_statements(PROJECT)
    notebooks = {path.name[:2] for path in (PROJECT / "notebooks").glob("*.ipynb")}
    assert len(made) > 8 * len(notebooks) / 2
    for source, text, references in made:
        for reference in references:
            parts = REFERENCE.fullmatch(reference)
            assert parts, (source, reference)
            assert parts["notebook"] in notebooks or source != "README.md", (source, reference)
        lost = re.search(r"`(\w+:)?\d\d[/:]|\[`[^`]+`[^]]*\](?!\()", text)
        assert not lost, (source, text)


def test_every_statement_of_the_project_is_shown_by_a_committed_report():
    faults = {
        statement: wrong
        for statement in read_statements(PROJECT)
        if (wrong := statements._shown(statement, PROJECT / "reports" / "demo")[1])
    }
    assert not faults
