"""Run the notebooks of the study, and put each report in its place as a whole.

A notebook writes its results aside, to the folder that DIFFCORE_REPORT names. When it ran through,
that folder takes the place of the earlier one. A notebook that fails leaves the earlier report as
it was, and itself beside it as ``<name>.failed.ipynb``.
"""

import ast
import contextlib
import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import nbformat
import papermill
from filelock import FileLock, Timeout
from nbclient.exceptions import DeadKernelError
from nbconvert.preprocessors import TagRemovePreprocessor
from nbformat import NotebookNode
from traitlets.config import Config

from diffcore.checks import CAPABILITIES, capabilities, require
from diffcore.params import (
    ParamsError,
    StudyParams,
    UserError,
    load_params,
    project_files,
    project_root,
)
from diffcore.report.pages import ENVIRONMENT, executed_notebooks, index_page, notebook_page
from diffcore.store import folder_whole, naming_folder, write_text

#: Capabilities whose cells a reader may miss.
_MISSED = ("renders", "truth", "pipeline", "masks", "sweeps")
_STUDY = ("profile", "overrides")  # parameters that every notebook has
# What passes between kernel and papermill is kept from other users of the machine.
_ENCRYPTED = Config(KernelManager={"transport_encryption": "auto"})


class NotebookError(UserError, RuntimeError):
    """A notebook that cannot be run, or stopped; the message names it, the cell and the reason."""


def notebooks() -> dict[str, Path]:
    """Return the notebooks of the project by name, in order; without any, the package's."""
    return {path.stem: path for path in project_files("notebooks/*.ipynb", "notebooks")}


def run_notebook(name: str, profile: str, overrides: Mapping[str, Any] | None = None) -> Path:
    """Execute a notebook; return the executed copy in ``runs/<profile>/report/<name>/``.

    A UserError is raised before any kernel starts for parameters that are not legal, and for what
    `diffcore.checks.require` reports. NotebookError names a cell that raises, or another study of
    the profile that is running.
    """
    with contextlib.chdir(project_root()):
        params = load_params(profile, overrides)
        if name not in (paths := notebooks()):
            raise NotebookError(f"no notebook {name}; there are: {', '.join(paths) or 'none'}")
        require(params)
        check_values(params.notebooks, paths)
        notebook = fit(nbformat.read(paths[name], as_version=4), params)
        values = {"profile": profile, "overrides": dict(overrides or {})}
        values |= params.notebooks.get(name, {})
        folder = Path("runs", params.profile, "report", name).resolve()
        with _alone(folder.parents[1]), folder_whole(folder) as aside:
            with _report_in(aside):
                executed = _execute(notebook, values, aside, folder)
            write_text(aside / f"{name}.html", notebook_page(executed))
            write_text(aside / f"{name}.ipynb", nbformat.writes(executed) + "\n")
    return folder / f"{name}.ipynb"


def check_values(values: Mapping[str, dict[str, Any]], paths: Mapping[str, Path]) -> None:
    """Raise ParamsError for a profile's value that does not fit a notebook's ``parameters`` cell.

    Notebook and parameter must exist, and the value must have the type of the default.
    """
    for name, changes in values.items():
        _require_name(name, paths, "notebooks")
        defaults = _own_parameters(nbformat.read(paths[name], as_version=4))
        for key, value in changes.items():
            _require_name(key, defaults, f"notebooks.{name}")
            if not _fits(value, defaults[key]):
                like = f"it must be of the type of its default, {defaults[key]!r}"
                raise ParamsError(f"notebooks.{name}: {key} is {value!r}; {like}")


def _own_parameters(notebook: NotebookNode) -> dict[str, Any]:
    """Return the defaults in a notebook's ``parameters`` cell, without profile and overrides."""
    tagged = (c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    lines = [line for cell in tagged for line in ast.parse(cell.source).body]
    values = {line.targets[0].id: ast.literal_eval(line.value) for line in lines}
    return {name: value for name, value in values.items() if name not in _STUDY}


def _require_name(name: str, known: Iterable[str], place: str) -> None:
    if name not in known:
        nearest = " ".join(difflib.get_close_matches(name, known, n=1, cutoff=0)) or "none"
        raise ParamsError(f"{place}: unknown name {name!r}; nearest: {nearest}")


def _fits(value: Any, default: Any) -> bool:
    """Return whether a value has the type of a default; whole numbers may stand for others."""
    if isinstance(default, list):
        return isinstance(value, list) and all(_fits(item, default[0]) for item in value)
    return type(value) in ((int, float) if isinstance(default, float) else (type(default),))


def fit(notebook: NotebookNode, params: StudyParams) -> NotebookNode:
    """Leave out the cells that need what the study lacks, and say so under the title."""
    has = capabilities(params)
    tags = {tag for cell in notebook.cells for tag in cell.metadata.get("tags", [])}
    lacking = [name for name in CAPABILITIES if name not in has and f"needs-{name}" in tags]
    remover = TagRemovePreprocessor(remove_cell_tags={f"needs-{name}" for name in lacking})
    notebook, _ = remover.preprocess(notebook, {})
    missed = [CAPABILITIES[name] for name in lacking if name in _MISSED]
    template = ENVIRONMENT.get_template("left_out.md.j2")
    note = template.render(profile=params.profile, missed=missed, substitutes="substitutes" in has)
    if note.strip():
        notebook.cells.insert(1, nbformat.v4.new_markdown_cell(note.strip(), id="left-out"))
    return notebook


@contextlib.contextmanager
def _report_in(folder: Path) -> Iterator[None]:
    """Name the folder that `Study.open` takes for the report, while the block runs."""
    before = dict(os.environ)
    os.environ["DIFFCORE_REPORT"] = str(folder)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _alone(run_dir: Path) -> Iterator[None]:
    """Refuse a second study of a profile, whose report would replace that of the first."""
    with naming_folder(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(run_dir / ".lock", timeout=0):  # the system releases it with the process
            yield
    except Timeout:
        raise NotebookError(
            f"another study of {run_dir.name} is at work in {run_dir}; wait for it, or give this "
            "one a name of its own, as with --set profile=mine"
        ) from None


def _execute(notebook: NotebookNode, values: dict, aside: Path, folder: Path) -> NotebookNode:
    """Execute a notebook in the working directory; return it without papermill's bookkeeping."""
    running = aside / f"{folder.name}.ipynb"  # saved after every cell, so it shows how far it came
    kernel = {"kernel_name": "python3", "language": "python", "config": _ENCRYPTED}
    try:
        executed = papermill.execute_notebook(
            notebook, running, values, cwd=Path.cwd(), coalesce_streams=True, **kernel
        )
    except (papermill.PapermillExecutionError, DeadKernelError) as error:
        if getattr(error, "ename", "") in {kind.__name__ for kind in UserError.__subclasses__()}:
            raise NotebookError(error.evalue) from None  # it says it all
        folder.mkdir(exist_ok=True)
        failed = running.replace(folder / f"{folder.name}.failed.ipynb")
        raise NotebookError(f"{_reason(folder.name, error)}; see {failed}") from None
    executed.metadata["duration_seconds"] = round(executed.metadata.pop("papermill")["duration"], 1)
    for cell in executed.cells:
        cell.metadata.pop("papermill", None)
    return executed


def _reason(name: str, error: Exception) -> str:
    """Say in one line which cell of a notebook failed and why."""
    if isinstance(error, DeadKernelError):
        return f"{name}: the kernel died, which most often means that memory ran out"
    what = re.sub(r"\s+", " ", error.evalue)
    return f"{name}, cell [{error.exec_count}]: {error.ename}: {what}"


def build_index(profile: str) -> Path:
    """Write ``runs/<profile>/report/index.html``; NotebookError if no notebook was executed."""
    profile = Path(profile).stem
    folder = project_root() / "runs" / profile / "report"
    if not executed_notebooks(folder):
        raise NotebookError(f"no executed notebook in {folder}; run the study first")
    return write_text(folder / "index.html", index_page(folder, profile))
