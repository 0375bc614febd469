"""Notebooks: how they run, how they fail, and the pages made of them."""

import json
import re
import sys
from html.parser import HTMLParser

import nbformat
import pytest
from conftest import make_study
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from diffcore.cli import main
from diffcore.params import ParamsError, dump_params, load_params
from diffcore.report.claims import CLAIMS, judge_claims
from diffcore.report.pages import index_page, notebook_page
from diffcore.report.results import Report
from diffcore.report.run import NotebookError, build_index, check_values, fit, run_notebook
from diffcore.store import write_text

NAME = "01_toy"
PARAMETERS = """\
profile = "demo"  # str, a file name in params/
overrides = {}  # dict, dotted keys
scales = [1.0, 6.0]  # list, guidance
images = 96  # int, per point
"""
START = f"""\
from diffcore.study import Study
report = Study.open("{NAME}", profile, overrides).report
"""
RESULTS = """\
import matplotlib.pyplot as plt
import pandas as pd
from tqdm.auto import tqdm

list(tqdm([1, 2]))
figure, axes = plt.subplots(figsize=(2, 1))
axes.plot([0, 1])
report.show(figure, "01_line")
report.record(top1=0.98765, curve={"x": scales}, images=images)
report.record_times(seconds=2.0, seconds_low=1.5, seconds_high=2.5)
report.table(pd.DataFrame({"shown": [3]}), "numbers")
"""


def write_notebook(folder, *sources):
    """A notebook as the project has them: title and sentence, parameters, then code."""
    cells = [
        new_markdown_cell("# A [toy](toy.ipynb) & its question\n\nDoes *it* run? It has λ > 0."),
        new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        *(new_code_cell(source) for source in sources),
    ]
    nbformat.write(new_notebook(cells=cells), folder / "notebooks" / f"{NAME}.ipynb")


class Links(HTMLParser):
    """Collects all that a page would fetch or lead to, and the tags it is made of."""

    def __init__(self, page):
        super().__init__()
        self.addresses, self.tags = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for key, value in attrs if key in {"src", "href"}]


def assert_loads_nothing_from_other_hosts(page):
    assert [a for a in Links(page).addresses if re.match(r"(https?:)?//", a)] == []


# ----------------------------------------------------------------------------- a notebook that runs
@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The report of a notebook that ran through, made once for all tests that look at it."""
    noisy = 'import sys\nprint("10%\\r100%", file=sys.stderr)\nprint(sys.executable)'
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = make_study(tmp_path_factory.mktemp("study"), monkeypatch)
        write_notebook(folder, START, noisy, RESULTS)
        written = run_notebook(NAME, "demo", {"seed": 9, f"notebooks.{NAME}.images": 2})
        assert written == folder / "runs" / "demo" / "report" / NAME / f"{NAME}.ipynb"
        build_index("demo")
    return written.parent


@pytest.mark.slow
def test_a_notebook_runs_with_its_parameters_in_this_environment(executed):
    notebook = nbformat.read(executed / f"{NAME}.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    recorded = json.loads((executed / "metrics.json").read_text())
    assert recorded == {"curve": {"x": [1.0, 6.0]}, "images": 2, "top1": 0.98765}
    assert load_params(executed / "params.yaml").seed == 9
    streams = {out.name: out.text for out in code[3].outputs}
    assert streams == {"stderr": "100%\n", "stdout": f"{sys.executable}\n"}


@pytest.mark.slow
def test_a_report_is_whole_and_without_traces_of_how_it_was_made(executed):
    notebook = nbformat.read(executed / f"{NAME}.ipynb", as_version=4)
    assert "papermill" not in notebook.metadata
    assert notebook.metadata["duration_seconds"] > 0
    assert not any("papermill" in cell.metadata for cell in notebook.cells)
    files = {f"{NAME}.ipynb", f"{NAME}.html", "metrics.json", "params.yaml", "times.json"}
    files |= {"figures", "tables", "versions.json"}
    assert {path.name for path in executed.iterdir()} == files
    assert {path.name for path in executed.parent.iterdir()} == {NAME, "index.html"}
    assert {path.suffix for path in (executed / "figures").iterdir()} == {".png", ".svg"}


@pytest.mark.slow
def test_its_page_links_its_figure_and_folds_the_code(executed):
    page = (executed / f"{NAME}.html").read_text(encoding="utf-8")
    assert_loads_nothing_from_other_hosts(page)
    links = Links(page)
    assert "script" not in links.tags
    assert links.tags.count("details") == 5
    assert [a for a in links.addresses if "figures" in a] == ["figures/01_line.png"]
    assert "base64" not in page
    assert 'alt="Figure 01_line"' in page
    assert ">shown</th>" in page
    assert "it/s" not in page  # what a progress bar would leave behind


@pytest.mark.slow
def test_the_index_shows_title_sentence_numbers_and_figure(executed):
    page = (executed.parent / "index.html").read_text(encoding="utf-8")
    assert_loads_nothing_from_other_hosts(page)
    assert Links(page).addresses == [f"{NAME}/{NAME}.html", f"{NAME}/figures/01_line.png"]
    for text in (
        "A toy &amp; its question</a>", "<p>Does it run?</p>", "<th>top1</th><td>0.9877</td>",
        "<th>seconds</th><td>2 [1.5, 2.5]</td>",
    ):  # fmt: skip
        assert text in page
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


def test_a_recorded_number_is_finite_but_for_an_upper_end(tmp_path):
    Report(tmp_path).record(row={"high": float("inf")})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"row": {"high": "inf"}}
    with pytest.raises(ValueError, match=r"curve\[1\] is nan; a recorded number must be finite"):
        Report(tmp_path).record(curve=[1.0, float("nan")])


# ------------------------------------------------------------------------- a notebook that does not
@pytest.mark.slow
def test_a_failed_cell_is_named_and_the_earlier_report_stays(study_folder, capfd):
    report = study_folder / "runs" / "demo" / "report" / NAME
    before = write_text(report / f"{NAME}.ipynb", "an earlier report")
    write_notebook(study_folder, "x = 0", "1 / x")
    with pytest.raises(NotebookError) as raised:
        run_notebook(NAME, "demo")
    failed = report / f"{NAME}.failed.ipynb"
    reason = f"{NAME}, cell [4]: ZeroDivisionError: division by zero; see {failed}"
    assert str(raised.value) == reason
    assert "WARNING" not in capfd.readouterr().err
    assert before.read_text() == "an earlier report"
    assert "ZeroDivisionError" in failed.read_text()
    assert [path.name for path in report.parent.iterdir()] == [NAME]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import os\nos._exit(1)", f"{NAME}: the kernel died"),
        # A mistake of the person's is shown by its text alone.
        ("from diffcore.params import *; load_params('no')", r"^no profile 'no'; nearest"),
    ],
)
def test_a_kernel_that_stops_is_reported_in_one_line(study_folder, source, message):
    write_notebook(study_folder, source)
    with pytest.raises(NotebookError, match=message):
        run_notebook(NAME, "demo")


def test_a_report_of_other_parameters_is_not_published(study_folder, capsys):
    report = study_folder / "runs" / "smoke" / "report"
    for seed, status in ((1, 1), (0, 0)):
        params = dump_params(load_params("smoke", {"seed": seed}))
        saved = write_text(report / NAME / "params.yaml", params)
        write_text(report / "index.html", "")
        assert main(["publish", "--profile", "smoke"]) == status
    assert f"{saved} differs from the profile smoke; run `make study`" in capsys.readouterr().err
    assert (study_folder / "reports" / "smoke" / NAME / "params.yaml").exists()


# ---------------------------------------------------------------------- a notebook's own parameters
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"01_toys": {"images": 3}}, f"unknown key 01_toys.images; nearest: {NAME}.images"),
        ({NAME: {"scale": [1.0]}}, f"unknown key {NAME}.scale; nearest: {NAME}.scales"),
        ({NAME: {"scales": 1.0}}, "scales is 1.0; it must be of the type of its default, [1.0"),
        ({NAME: {"scales": ["1"]}}, "scales is ['1']; it must be of the type of its default"),
        ({NAME: {"images": 1.5}}, "images is 1.5; it must be of the type of its default, 96"),
        ({NAME: {"images": True}}, "images is True; it must be of the type of its default, 96"),
    ],
)
def test_a_value_of_a_notebook_fits_its_parameters_cell(study_folder, values, message):
    write_notebook(study_folder)
    paths = {NAME: study_folder / "notebooks" / f"{NAME}.ipynb"}
    check_values({NAME: {"scales": [1, 2.5], "images": 3}}, paths)
    with pytest.raises(ParamsError, match=re.escape(message)):
        check_values(values, paths)


# ------------------------------------------------------------------------------- what a study lacks
def test_a_page_leaves_out_what_its_study_lacks_and_says_so():
    needed = {
        "a": "renders", "b": "truth", "c": "masks truth", "d": "imports", "e": "texts", "f": "",
    }  # fmt: skip
    cells = [new_markdown_cell("# Title")]
    for name, capabilities in needed.items():
        tags = [f"needs-{capability}" for capability in capabilities.split()]
        cells.append(new_code_cell(name, metadata={"tags": tags}))
    fitted = fit(new_notebook(cells=cells), "photos", {"truth", "substitutes"})
    assert [cell.source for cell in fitted.cells if cell.cell_type == "code"] == ["b", "f"]
    note = fitted.cells[1].source
    assert "does not have: a data set that can render its scenes anew" in note
    assert "; masks or boxes of the objects" in note
    assert "encoder" not in note  # which no reader would miss
    assert "stand in for generated" in note
    nbformat.validate(fitted)
