"""Notebooks: what they record, how they run, how they fail, and the pages made of them."""

import json
import re
import sys
from html.parser import HTMLParser
from importlib.metadata import version

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_study
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image

from diffcore.params import ParamsError, load_params
from diffcore.study import main, notebook_page, run_notebook, start_notebook

NAME = "01_toy"
PARAMETERS = 'profile = "demo"  # file name in params/\noverrides = {}  # dotted keys'
START = f"""\
from diffcore.study import start_notebook
run = start_notebook("{NAME}", profile, overrides)
"""
RESULTS = """\
import matplotlib.pyplot as plt
import pandas as pd
from tqdm.auto import tqdm

list(tqdm([1, 2]))
figure, axes = plt.subplots(figsize=(2, 1))
axes.plot([0, 1])
run.save_figure(figure, "line")
run.save_table(pd.DataFrame({"a": [1, 2]}), "numbers")
run.save_metrics({"seed": run.params.seed, "top1": 0.98765, "curve": {"x": [1, 2]}})
pd.DataFrame({"shown": [3]})
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


def outside_addresses(page):
    return [a for a in Links(page).addresses if re.match(r"(https?:)?//", a)]


# ------------------------------------------------------------------------------ inside a notebook
@pytest.fixture
def run(study_folder, capsys):
    run = start_notebook(NAME, "smoke", {"seed": 5})
    capsys.readouterr()
    return run


def test_starting_files_the_parameters_and_what_it_ran_on(study_folder, capsys):
    run = start_notebook(NAME, "smoke", {"seed": 5})
    assert run.report_dir == study_folder / "reports" / "smoke" / NAME
    assert run.run_dir == study_folder / "runs" / "smoke"
    assert load_params(run.report_dir / "params.yaml") == run.params
    facts = json.loads((run.report_dir / "versions.json").read_text())
    assert facts["packages"]["torch"] == version("torch")
    assert facts["device"].startswith("CPU")
    assert facts["git revision"] == "unknown"  # a temporary folder is no repository
    shown = capsys.readouterr().out
    assert "seed: 5" in shown
    assert f"torch {version('torch')}" in shown


def test_other_roots_can_be_given(study_folder, tmp_path):
    run = start_notebook(NAME, "smoke", None, tmp_path / "r", tmp_path / "w")
    assert (run.report_dir, run.run_dir) == (tmp_path / "r" / "smoke" / NAME, tmp_path / "w/smoke")


def test_a_mistake_stops_the_start_before_anything_is_written(study_folder):
    with pytest.raises(ParamsError, match="nearest valid key: seed"):
        start_notebook(NAME, "smoke", {"sead": 5})
    assert not (study_folder / "reports").exists()


def test_metrics_are_sorted_plain_numbers(run):
    nested = {"low": np.int64(3), "ok": True}
    path = run.save_metrics({"b": np.float32(0.5), "a": torch.tensor([1, 2]), "c": nested})
    assert json.loads(path.read_text()) == {"a": [1, 2], "b": 0.5, "c": {"low": 3, "ok": True}}
    assert path.read_text().index('"a"') < path.read_text().index('"b"')


@pytest.mark.parametrize("value", [float("nan"), np.inf, torch.tensor([0.0, torch.nan])])
def test_a_metric_that_is_not_finite_is_refused_and_the_old_ones_stay(run, value):
    run.save_metrics({"top1": 0.5})
    with pytest.raises(ValueError, match=r"metrics\.rates\.top1.* is (nan|inf)"):
        run.save_metrics({"rates": {"top1": value}})
    assert json.loads((run.report_dir / "metrics.json").read_text()) == {"top1": 0.5}


@pytest.mark.parametrize("value", [None, object(), {1, 2}])
def test_a_metric_that_is_no_number_is_refused(run, value):
    with pytest.raises(TypeError, match=r"metrics\.top1 is"):
        run.save_metrics({"top1": value})


def test_figures_are_the_same_bytes_each_time(run):
    figure, axes = plt.subplots()
    axes.plot([0, 1], label="λ")
    axes.legend()
    first = run.save_figure(figure, "line")
    svg, png = first.with_suffix(".svg").read_bytes(), first.read_bytes()
    run.save_figure(figure, "line")
    plt.close(figure)
    assert first == run.report_dir / "figures" / "line.png"
    assert (first.with_suffix(".svg").read_bytes(), first.read_bytes()) == (svg, png)


def test_tables_keep_six_digits(run):
    path = run.save_table(pd.DataFrame({"name": ["λ"], "value": [1 / 3]}), "numbers")
    assert path.read_text(encoding="utf-8") == "name,value\nλ,0.333333\n"


def test_nothing_is_left_beside_what_was_saved(run):
    run.save_metrics({"top1": 0.5})
    names = {path.name for path in run.report_dir.iterdir()}
    assert names == {"metrics.json", "params.yaml", "versions.json"}


# ------------------------------------------------------------------------- executing and summing up
@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The report of a notebook that ran through, made once for all tests that look at it."""
    noisy = 'import sys\nprint("10%\\r100%", file=sys.stderr)\nprint(sys.executable)'
    arguments = ["run", "--profile", "smoke", "--notebook", NAME, "--set", "seed=9"]
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = make_study(tmp_path_factory.mktemp("study"), monkeypatch)
        write_notebook(folder, START, noisy, RESULTS)
        assert main(arguments) == 0
        assert main(["index", "--profile", "smoke"]) == 0
    return folder / "reports" / "smoke" / NAME


def test_a_notebook_runs_with_its_parameters_in_this_interpreter(executed):
    notebook = nbformat.read(executed / f"{NAME}.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert json.loads((executed / "metrics.json").read_text())["seed"] == 9
    assert load_params(executed / "params.yaml") == load_params("smoke", {"seed": 9})
    streams = {out.name: out.text for out in code[3].outputs}
    assert streams == {"stderr": "100%\n", "stdout": f"{sys.executable}\n"}


def test_an_executed_notebook_tells_nothing_of_where_it_ran(executed):
    notebook = nbformat.read(executed / f"{NAME}.ipynb", as_version=4)
    assert "papermill" not in notebook.metadata
    assert notebook.metadata["duration_seconds"] > 0
    assert not any("papermill" in cell.metadata for cell in notebook.cells)
    left = {path.name for path in executed.iterdir() if path.is_file()}
    written = {f"{NAME}.ipynb", f"{NAME}.html", "metrics.json", "params.yaml", "versions.json"}
    assert left == written


def test_its_page_stands_alone_with_code_folded(executed):
    page = (executed / f"{NAME}.html").read_text(encoding="utf-8")
    found = Links(page)
    assert outside_addresses(page) == []
    assert "script" not in found.tags
    assert found.tags.count("details") == 5
    assert 'name="viewport"' in page
    assert any(address.startswith("data:image/png;base64,") for address in found.addresses)
    assert 'alt="Figure under the heading: A' in page
    assert "<th>shown</th>" in page
    assert "it/s" not in page  # what a progress bar would leave behind


def test_the_index_shows_title_sentence_numbers_and_figure(executed):
    page = (executed.parent / "index.html").read_text(encoding="utf-8")
    assert outside_addresses(page) == []
    addresses = Links(page).addresses
    assert addresses[0] == f"{NAME}/{NAME}.html"
    assert addresses[1].startswith(f"{NAME}/figures/")
    assert (executed.parent / addresses[1]).is_file()
    assert "A toy &amp; its question</a>" in page
    assert "<p>Does it run?</p>" in page
    assert "<th>top1</th><td>0.9877</td>" in page
    assert "curve" not in page


def test_a_link_to_another_notebook_leads_to_its_page():
    """In JupyterLab the files lie side by side; pages have a folder each."""
    cells = [new_markdown_cell("# A\n\nSee [B](02_other.ipynb) and [C](notes.txt).")]
    links = Links(notebook_page(new_notebook(cells=cells)))
    assert links.addresses[-2:] == ["../02_other/02_other.html", "notes.txt"]


def test_the_index_needs_a_notebook(study_folder, capsys):
    assert main(["index", "--profile", "smoke"]) == 1
    assert "no executed notebook in" in capsys.readouterr().err


def test_a_failed_cell_is_named_and_the_earlier_report_stays(study_folder, capfd):
    report = study_folder / "reports" / "smoke" / NAME
    write_notebook(study_folder, "x = 0")
    before = run_notebook(NAME, "smoke").read_bytes()
    write_notebook(study_folder, "x = 0", "1 / x")
    assert main(["run", "--profile", "smoke", "--notebook", NAME]) == 1
    message = capfd.readouterr().err
    assert f"{NAME}, cell [4]: ZeroDivisionError: division by zero\n" in message
    assert "Traceback" not in message
    assert "WARNING" not in message
    assert (report / f"{NAME}.ipynb").read_bytes() == before
    assert "ZeroDivisionError" in (report / f"{NAME}.failed.ipynb").read_text()


def test_a_success_removes_the_earlier_failure(study_folder):
    write_notebook(study_folder, "x = 0")
    failed = study_folder / "reports" / "smoke" / NAME / f"{NAME}.failed.ipynb"
    failed.parent.mkdir(parents=True)
    failed.touch()
    assert run_notebook(NAME, "smoke").is_file()
    assert not failed.exists()


def test_a_dead_kernel_is_told_as_such(study_folder, capfd):
    write_notebook(study_folder, "import os\nos._exit(1)")
    assert main(["run", "--profile", "smoke", "--notebook", NAME]) == 1
    assert f"{NAME}: the kernel died" in capfd.readouterr().err


def test_a_mistake_in_a_parameter_is_all_that_is_printed(study_folder, capfd):
    write_notebook(study_folder, START)
    arguments = ["run", "--profile", "smoke", "--notebook", NAME, "--set", "sead=9"]
    assert main(arguments) == 1
    message = capfd.readouterr().err
    assert message.splitlines() == [
        "overrides: unknown key sead (value 9); "
        "nearest valid key: seed (a whole number from 0 to 2147483647)"
    ]


def test_a_mistake_that_a_notebook_makes_itself_is_told_by_its_text(study_folder, capfd):
    write_notebook(study_folder, 'from diffcore.params import *; load_params("demo", {"sead": 9})')
    assert main(["run", "--profile", "smoke", "--notebook", NAME]) == 1
    lines = capfd.readouterr().err.splitlines()
    assert any(line.startswith("overrides: unknown key sead (value 9);") for line in lines)


def test_a_notebook_that_does_not_exist_is_told_those_that_do(study_folder, capsys):
    write_notebook(study_folder, START)
    assert main(["run", "--profile", "smoke", "--notebook", "02_toy"]) == 1
    assert capsys.readouterr().err.endswith(f"there are: {NAME}\n")


# ------------------------------------------------------------------------------ other data sets
def test_a_page_leaves_out_what_its_study_cannot_know_and_says_so(study_folder, tmp_path):
    for name in ("crow", "jay"):
        (study_folder / "birds" / name).mkdir(parents=True)
        for place in range(4):
            Image.new("RGB", (8, 8)).save(study_folder / "birds" / name / f"{place}.png")
    write_notebook(
        study_folder, START, "# needs: world\n1 / 0", "# needs: truth\nshown = 2", "shown"
    )
    overrides = {
        "data.dataset": "folder", "data.root": "birds", "generation.pipeline.kind": "stand_in",
    }  # fmt: skip
    notebook = nbformat.read(run_notebook(NAME, "smoke", overrides), as_version=4)
    sources = "\n".join(cell.source for cell in notebook.cells)
    assert "1 / 0" not in sources
    assert "# needs: truth" in sources
    assert notebook.cells[-1].outputs[0]["data"]["text/plain"] == "2"
    assert "Paperbirds, whose renderer and oracle" in notebook.cells[1].source
    assert "stand in for generated images" in notebook.cells[1].source


def test_what_is_missing_stops_a_study_before_it_starts(study_folder, capsys):
    write_notebook(study_folder, START)
    status = main(["run", "--profile", "smoke", "--notebook", NAME, "--set", "data.dataset=folder",
                   "--set", "data.root=nowhere"])  # fmt: skip
    assert status == 1
    assert "smoke cannot start: 1 thing is missing" in capsys.readouterr().err
    assert not (study_folder / "reports").exists()
