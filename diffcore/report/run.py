"""Run the notebooks of the study, and put each report in its place as a whole.

A notebook writes its results aside, to the folder that DIFFCORE_REPORT names. When it ran through,
that folder takes the place of the earlier one. A notebook that fails leaves the earlier report as
it was, and itself beside it as ``<name>.failed.ipynb``.
"""

import ast
import contextlib
import difflib
import os
from collections.abc import Collection, Iterator, Mapping
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
from diffcore.params import ParamsError, UserError, load_params, project_files, project_root
from diffcore.report.pages import ENVIRONMENT, executed_notebooks, index_page, notebook_page
from diffcore.store import naming_folder, write_text, written_whole

_MISSED = ("renders", "truth", "pipeline", "masks", "sweeps")  # whose cells a reader may miss
# What passes between kernel and papermill is kept from other users of the machine.
_ENCRYPTED = Config(KernelManager={"transport_encryption": "auto"})


class NotebookError(UserError, RuntimeError):
    """A notebook that cannot be run, or stopped; the message names it, the cell and the reason."""


def notebooks() -> dict[str, Path]:
    """Return the notebooks of the project by name, in order; without any, the package's."""
    return {path.stem: path for path in project_files("notebooks/*.ipynb", "notebooks")}


def run_notebook(name: str, profile: str, overrides: Mapping[str, Any] | None = None) -> Path:
    """Execute a notebook; return the executed copy in ``runs/<profile>/report/<name>/``.

    Raises a UserError before any kernel starts for illegal parameters and for what
    `diffcore.checks.require` reports; NotebookError for a cell that raises, or a second study.
    """
    with contextlib.chdir(project_root()):
        params, paths = load_params(profile, overrides), notebooks()
        if name not in paths:
            raise NotebookError(f"no notebook {name}; there are: {', '.join(paths) or 'none'}")
        folder = Path("runs", params.profile, "report", name).resolve()
        run_dir = folder.parents[1]
        require(params, run_dir)
        check_values(params.notebooks, paths)
        start = {"profile": profile, "overrides": dict(overrides or {})}
        values = {**params.notebooks.get(name, {}), **start}
        full = nbformat.read(paths[name], as_version=4)
        notebook = fit(full, params.profile, capabilities(params))
        with _alone(run_dir), written_whole(folder, folder=True) as aside:
            executed = _execute(notebook, values, aside, folder)
            write_text(aside / f"{name}.html", notebook_page(executed))
            write_text(aside / f"{name}.ipynb", nbformat.writes(executed) + "\n")
    return folder / f"{name}.ipynb"


def check_values(values: Mapping[str, dict[str, Any]], paths: Mapping[str, Path]) -> None:
    """Raise ParamsError for a value by notebook and name that no ``parameters`` cell has so."""
    changes = {f"{name}.{key}": value for name in values for key, value in values[name].items()}
    defaults = _read_defaults(paths) if changes else {}
    for key, value in changes.items():
        if key not in defaults:
            nearest = "".join(difflib.get_close_matches(key, defaults, n=1, cutoff=0)) or "none"
            raise ParamsError(f"notebooks: unknown key {key}; nearest: {nearest}")
        if not _fits(value, defaults[key]):
            like = f"it must be of the type of its default, {defaults[key]!r}"
            raise ParamsError(f"notebooks: {key} is {value!r}; {like}")


def _read_defaults(paths: Mapping[str, Path]) -> dict[str, Any]:
    """Read the ``parameters`` cells of notebooks: defaults by ``<notebook>.<parameter>``."""
    defaults = {}
    for name, path in paths.items():
        cells = nbformat.read(path, as_version=4).cells
        tagged = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])]
        for line in ast.parse("\n".join(tagged)).body:
            defaults[f"{name}.{line.targets[0].id}"] = ast.literal_eval(line.value)
    return defaults


def _fits(value: Any, default: Any) -> bool:
    """Return whether a value has the type of a default; whole numbers may stand for others."""
    if isinstance(default, list):
        return isinstance(value, list) and all(_fits(item, default[0]) for item in value)
    return type(value) in ((int, float) if isinstance(default, float) else (type(default),))


def fit(notebook: NotebookNode, profile: str, has: Collection[str]) -> NotebookNode:
    """Leave out the cells that need a capability that the study lacks, and say so at the top."""
    tags = {tag for cell in notebook.cells for tag in cell.metadata.get("tags", [])}
    lacking = [name for name in CAPABILITIES if name not in has and f"needs-{name}" in tags]
    remover = TagRemovePreprocessor(remove_cell_tags={f"needs-{name}" for name in lacking})
    notebook, _ = remover.preprocess(notebook, {})
    missed = [CAPABILITIES[name] for name in lacking if name in _MISSED]
    template = ENVIRONMENT.get_template("left_out.md.j2")
    note = template.render(profile=profile, missed=missed, substitutes="substitutes" in has)
    if note.strip():
        notebook.cells.insert(1, nbformat.v4.new_markdown_cell(note.strip(), id="left-out"))
    return notebook


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
    os.environ["DIFFCORE_REPORT"] = str(aside)  # which the kernel inherits
    try:
        executed = papermill.execute_notebook(
            notebook, running, values, cwd=Path.cwd(), coalesce_streams=True, **kernel
        )
    except (papermill.PapermillExecutionError, DeadKernelError) as error:
        if getattr(error, "ename", "") in {kind.__name__ for kind in UserError.__subclasses__()}:
            raise NotebookError(error.evalue) from None  # it says it all
        folder.mkdir(exist_ok=True)
        failed = running.replace(folder / f"{folder.name}.failed.ipynb")
        reason = ": the kernel died, which most often means that memory ran out"
        if isinstance(error, papermill.PapermillExecutionError):
            text = " ".join(error.evalue.split())
            reason = f", cell [{error.exec_count}]: {error.ename}: {text}"
        raise NotebookError(f"{folder.name}{reason}; see {failed}") from None
    finally:
        del os.environ["DIFFCORE_REPORT"]
    executed.metadata["duration_seconds"] = round(executed.metadata.pop("papermill")["duration"], 1)
    for cell in executed.cells:
        cell.metadata.pop("papermill", None)
    return executed


def build_index(profile: str) -> Path:
    """Write ``runs/<profile>/report/index.html``; NotebookError if no notebook was executed."""
    profile = Path(profile).stem
    folder = project_root() / "runs" / profile / "report"
    if not executed_notebooks(folder):
        raise NotebookError(f"no executed notebook in {folder}; run the study first")
    return write_text(folder / "index.html", index_page(folder, profile))
