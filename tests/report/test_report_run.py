"""Notebooks: how they run, how they fail, and the pages made of them."""

import json
import re
import sys
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
from conftest import make_study
from filelock import FileLock
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from diffcore.cli import main
from diffcore.params import change_params, dump_params, load_params
from diffcore.report.claims import CLAIMS, judge_claims
from diffcore.report.pages import index_page, notebook_page
from diffcore.report.results import Report
from diffcore.report.run import NotebookError, build_index, fit, run_notebook
from diffcore.store import write_text

NAME = "01_toy"
PARAMETERS = 'profile = "demo"  # file name in params/\noverrides = {}  # dotted keys'
START = f"""\
from diffcore.study import Study
study = Study.open("{NAME}", profile, overrides)
"""
RESULTS = """\
import matplotlib.pyplot as plt
import pandas as pd
from tqdm.auto import tqdm

list(tqdm([1, 2]))
figure, axes = plt.subplots(figsize=(2, 1))
axes.plot([0, 1])
study.show(figure, "01_line")
study.record(seed=study.params.seed, top1=0.98765, curve={"x": [1, 2]})
study.record_times(seconds=2.0, seconds_low=1.5, seconds_high=2.5)
study.table(pd.DataFrame({"shown": [3]}), "numbers")
"""


def write_notebook(folder, *sources, name=NAME):
    """A notebook as the project has them: title and sentence, parameters, then code."""
    cells = [
        new_markdown_cell("# A [toy](toy.ipynb) & its question\n\nDoes *it* run? It has λ > 0."),
        new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        *(new_code_cell(source) for source in sources),
    ]
    nbformat.write(new_notebook(cells=cells), folder / "notebooks" / f"{name}.ipynb")


class Links(HTMLParser):
    """Collects all that a page would fetch or lead to, and the tags it is made of."""

    def __init__(self, page):
        super().__init__()
        self.addresses, self.tags = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for key, value in attrs if key in {"src", "href"}]


def assert_asks_no_other_host(page):
    assert [a for a in Links(page).addresses if re.match(r"(https?:)?//", a)] == []


# ----------------------------------------------------------------------------- a notebook that runs
@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The report of a notebook that ran through, made once for all tests that look at it."""
    noisy = 'import sys\nprint("10%\\r100%", file=sys.stderr)\nprint(sys.executable)'
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = make_study(tmp_path_factory.mktemp("study"), monkeypatch)
        write_notebook(folder, START, noisy, RESULTS)
        written = run_notebook(NAME, "smoke", {"seed": 9})
        assert written == folder / "runs" / "smoke" / "report" / NAME / f"{NAME}.ipynb"
        build_index("smoke")
    return written.parent


@pytest.mark.slow
def test_a_notebook_runs_with_its_parameters_in_this_environment(executed):
    notebook = nbformat.read(executed / f"{NAME}.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert json.loads((executed / "metrics.json").read_text())["seed"] == 9
    assert load_params(executed / "params.yaml") == load_params("smoke", {"seed": 9})
    streams = {out.name: out.text for out in code[3].outputs}
    assert streams == {"stderr": "100%\n", "stdout": f"{sys.executable}\n"}


@pytest.mark.slow
def test_a_report_is_whole_and_tells_nothing_of_where_it_was_made(executed):
    notebook = nbformat.read(executed / f"{NAME}.ipynb", as_version=4)
    assert "papermill" not in notebook.metadata
    assert notebook.metadata["duration_seconds"] > 0
    assert not any("papermill" in cell.metadata for cell in notebook.cells)
    assert {path.name for path in executed.iterdir()} == {
        f"{NAME}.ipynb", f"{NAME}.html", "figures", "metrics.json", "params.yaml", "tables",
        "times.json", "versions.json",
    }  # fmt: skip
    assert {path.name for path in executed.parent.iterdir()} == {NAME, "index.html"}


@pytest.mark.slow
def test_its_page_links_its_figure_and_folds_the_code(executed):
    page = (executed / f"{NAME}.html").read_text(encoding="utf-8")
    assert_asks_no_other_host(page)
    found = Links(page)
    assert "script" not in found.tags
    assert found.tags.count("details") == 5
    assert [a for a in found.addresses if "figures" in a] == ["figures/01_line.png"]
    assert "base64" not in page
    assert 'alt="Figure 01_line"' in page
    assert ">shown</th>" in page
    assert "it/s" not in page  # what a progress bar would leave behind


@pytest.mark.slow
def test_the_index_shows_title_sentence_numbers_and_figure(executed):
    page = (executed.parent / "index.html").read_text(encoding="utf-8")
    assert_asks_no_other_host(page)
    assert Links(page).addresses == [f"{NAME}/{NAME}.html", f"{NAME}/figures/01_line.png"]
    assert "A toy &amp; its question</a>" in page
    assert "<p>Does it run?</p>" in page
    assert "<th>top1</th><td>0.9877</td>" in page
    assert "<th>seconds</th><td>2 [1.5, 2.5]</td>" in page
    assert "curve" not in page


def test_the_index_shows_the_claims(tmp_path):
    assert "What became" not in index_page(tmp_path, "demo")
    (tmp_path / "08_report" / "tables").mkdir(parents=True)
    (tmp_path / "01_generation").mkdir()
    notebook = new_notebook(metadata={"duration_seconds": 90})
    nbformat.write(notebook, tmp_path / "01_generation" / "01_generation.ipynb")
    good, bad = ({"value": x, "low": x - 0.01, "high": x + 0.01} for x in (0.97, 2.0))
    numbers = {"01_generation": {"in_use": {"context_accuracy": good}, "negatives": bad}}
    judge_claims(numbers).to_csv(tmp_path / "08_report" / "tables" / "claims.csv", index=False)
    page = index_page(tmp_path, "demo")
    assert page.count('class="verdict holds-partly"') == 1
    assert page.count('class="verdict not-run-yet"') == len(CLAIMS) - 1
    assert 'href="01_generation/01_generation.html">Contextual' in page
    assert 'href="02_filtering' not in page  # which was not run
    assert "“responsible”" in page


def test_a_link_to_another_notebook_leads_to_its_page():
    """In JupyterLab the files lie side by side; pages have a folder each."""
    cells = [new_markdown_cell("# A\n\nSee [B](02_other.ipynb) and [C](notes.txt).")]
    links = Links(notebook_page(new_notebook(cells=cells)))
    assert links.addresses[-2:] == ["../02_other/02_other.html", "notes.txt"]


# ------------------------------------------------------------------------- a notebook that does not
@pytest.mark.slow
def test_a_failed_cell_is_named_and_the_earlier_report_stays(study_folder, capfd):
    report = study_folder / "runs" / "smoke" / "report" / NAME
    write_notebook(study_folder, "x = 0")
    before = run_notebook(NAME, "smoke").read_bytes()
    write_notebook(study_folder, "x = 0", "1 / x")
    with pytest.raises(NotebookError) as raised:
        run_notebook(NAME, "smoke")
    failed = report / f"{NAME}.failed.ipynb"
    assert str(raised.value) == (
        f"{NAME}, cell [4]: ZeroDivisionError: division by zero; see {failed}"
    )
    assert "WARNING" not in capfd.readouterr().err
    assert (report / f"{NAME}.ipynb").read_bytes() == before
    assert "ZeroDivisionError" in failed.read_text()
    assert [path.name for path in report.parent.iterdir()] == [NAME]
    write_notebook(study_folder, "x = 0")
    run_notebook(NAME, "smoke")
    assert not failed.exists()


def test_a_second_study_of_a_profile_is_refused_before_a_kernel_starts(study_folder):
    write_notebook(study_folder, "x = 0")
    (study_folder / "runs" / "smoke").mkdir(parents=True)
    with FileLock(study_folder / "runs" / "smoke" / ".lock"):
        with pytest.raises(NotebookError, match=r"another study of smoke is at work in .*mine"):
            run_notebook(NAME, "smoke")
        assert not (study_folder / "runs" / "smoke" / "report").exists()


def test_a_report_of_other_parameters_is_not_published(study_folder, capsys):
    report = study_folder / "runs" / "smoke" / "report"
    for seed, status in ((1, 1), (0, 0)):
        params = dump_params(load_params("smoke", {"seed": seed}))
        saved = write_text(report / NAME / "params.yaml", params)
        write_text(report / "index.html", "")
        assert main(["publish", "--profile", "smoke"]) == status
    assert f"{saved} differs from the profile smoke; run `make study`" in capsys.readouterr().err
    assert (study_folder / "reports" / "smoke" / NAME / "params.yaml").exists()


@pytest.mark.slow
def test_a_dead_kernel_is_told_as_such(study_folder):
    write_notebook(study_folder, "import os\nos._exit(1)")
    with pytest.raises(NotebookError, match=f"{NAME}: the kernel died"):
        run_notebook(NAME, "smoke")


@pytest.mark.slow
def test_a_mistake_that_a_notebook_makes_itself_is_told_by_its_text(study_folder):
    write_notebook(study_folder, 'from diffcore.params import *; load_params("demo", {"sead": 9})')
    with pytest.raises(NotebookError, match=r"^overrides: unknown key sead"):
        run_notebook(NAME, "smoke")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["study", "--notebook", NAME, "--set", "sead=9"], "nearest valid key: seed"),
        (["study", "--notebook", "02_toy"], f"no notebook 02_toy; there are: {NAME}"),
        (["study", "--notebook", NAME, "-s", "data.dataset=folder", "-s", "data.root=nowhere"],
         "smoke cannot start: 1 thing is missing"),
        (["index"], "no executed notebook in"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_before_anything_is_run(study_folder, capsys, arguments, message):
    write_notebook(study_folder, START)
    assert main([*arguments, "--profile", "smoke"]) == 1
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told
    assert not (study_folder / "runs").exists()


# ------------------------------------------------------------------------------- what a study lacks
def tagged(**cells):
    """A notebook with a title, and a cell for each tag."""
    made = [new_code_cell(name, metadata={"tags": tags}) for name, tags in cells.items()]
    return new_notebook(cells=[new_markdown_cell("# Title"), *made])


def lacking(**changes):
    """Parameters of a study of photographs, with surrogates unless changed."""
    photographs = {
        "data.dataset": "folder",
        "data.root": "x",
        "generation.pipeline.kind": "surrogate",
    }
    return change_params(load_params("demo"), photographs | changes)


def test_a_page_leaves_out_what_its_study_cannot_know_and_says_so():
    notebook = tagged(
        a=["needs-paperbirds"], b=["needs-truth"], c=["needs-masks", "needs-truth"], d=[]
    )
    fitted = fit(notebook, lacking())
    assert [cell.source for cell in fitted.cells if cell.cell_type == "code"] == ["b", "d"]
    note = fitted.cells[1].source
    assert "does not have: Paperbirds, whose renderer and oracle" in note
    assert "; masks or boxes of the objects" in note
    assert "stand in for generated images" in note


def test_a_note_never_names_nothing():
    """What no reader would look for, as what only surrogates can show, is left out in silence."""
    notebook = tagged(a=["needs-surrogates"], b=["needs-imports"], c=["needs-texts"])
    for params in (load_params("demo"), lacking(**{"filtering.encoder.kind": "timm"})):
        fitted = fit(tagged(a=["needs-imports"], c=["needs-texts"]), params)
        assert not any("does not have" in cell.source for cell in fitted.cells)
    assert [cell.source for cell in fit(notebook, load_params("demo")).cells] == ["# Title", "c"]


# ---------------------------------------------------------------------------------- other forms
def test_tables_and_figures_are_written_in_the_forms_that_are_asked_for(tmp_path):
    table, names = pd.DataFrame({"a_b": ["50 %"], "value": [0.12345]}), ("csv", "png", "svg")
    for report in (Report(tmp_path / "plain"), Report(tmp_path / "all", ["latex", "pdf"])):
        report.table(table, "one")
        report.show(plt.figure(), "two")
    assert {path.suffix[1:] for path in (tmp_path / "plain").rglob("*.*")} == set(names)
    found = {path.suffix[1:]: path for path in (tmp_path / "all").rglob("*.*")}
    assert set(found) == {*names, "tex", "pdf"}
    assert r"50 \% & 0.123" in found["tex"].read_text()
    assert r"\toprule" in found["tex"].read_text()
    assert found["pdf"].read_bytes().startswith(b"%PDF")
