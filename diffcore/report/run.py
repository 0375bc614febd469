"""Run the notebooks of the study, and put each report in its place as a whole.

A notebook writes its results aside, to the folder that DIFFCORE_REPORT names; when it ran through,
that folder takes the place of the earlier one. A notebook that fails leaves the earlier report as
it was, and itself beside it as ``<name>.failed.ipynb``.
"""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import nbformat
import papermill
from filelock import FileLock, Timeout
from nbclient.exceptions import DeadKernelError
from nbconvert.preprocessors import TagRemovePreprocessor
from nbformat import NotebookNode
from traitlets.config import Config

from diffcore.checks import CAPABILITIES, capabilities, require
from diffcore.params import StudyParams, UserError, load_params, project_files, project_root
from diffcore.report.pages import executed_notebooks, index_page, notebook_page
from diffcore.store import folder_whole, naming_folder, write_text

_TOLD = ("paperbirds", "truth", "pipeline", "masks", "sweeps")  # what a reader may look for
# What passes between kernel and papermill is kept from other users of the machine.
_ENCRYPTED = Config(KernelManager={"transport_encryption": "auto"})


class NotebookError(UserError, RuntimeError):
    """A notebook that cannot be run, or stopped; the message names it, the cell and the reason."""


def notebooks() -> dict[str, Path]:
    """Find the notebooks of the project by name, in order: or, without any, the package's own."""
    return {path.stem: path for path in project_files("notebooks/*.ipynb", "notebooks")}


def run_notebook(name: str, profile: str, overrides: Mapping[str, Any] | None = None) -> Path:
    """Execute a notebook; return the executed copy in ``runs/<profile>/report/<name>/``.

    No kernel is started, but a UserError raised, for what `diffcore.checks.require` finds wrong;
    NotebookError names a cell that raises, or another study of the profile that is at work.
    """
    with contextlib.chdir(project_root()):
        params = load_params(profile, overrides)
        if name not in (known := notebooks()):
            raise NotebookError(f"no notebook {name}; there are: {', '.join(known) or 'none'}")
        notebook = fit(nbformat.read(known[name], as_version=4), params)
        given = {"profile": profile, "overrides": dict(overrides or {})}
        folder = Path("runs", params.profile, "report", name).resolve()
        require(params)
        with _alone(folder.parents[1]), folder_whole(folder) as aside:
            with mock.patch.dict(os.environ, DIFFCORE_REPORT=str(aside)):  # `Study.open` reads it
                executed = _execute(notebook, given, aside, folder)
            write_text(aside / f"{name}.html", notebook_page(executed))
            write_text(aside / f"{name}.ipynb", nbformat.writes(executed) + "\n")
    return folder / f"{name}.ipynb"


def fit(notebook: NotebookNode, params: StudyParams) -> NotebookNode:
    """Leave out the cells that need what the study lacks, and say so under the title."""
    has = capabilities(params)
    tags = {tag for cell in notebook.cells for tag in cell.metadata.get("tags", [])}
    lacking = [name for name in CAPABILITIES if name not in has and f"needs-{name}" in tags]
    remover = TagRemovePreprocessor(remove_cell_tags={f"needs-{name}" for name in lacking})
    notebook, _ = remover.preprocess(notebook, {})
    notes = []
    if told := [CAPABILITIES[name] for name in lacking if name in _TOLD]:
        notes.append(
            f"*This page is of the profile {params.profile}. The notebook holds more, which is "
            f"left out here as it needs what this study does not have: {'; '.join(told)}.*"
        )
    if "surrogates" in has:
        notes.append(
            "*Where it says generated, other photographs of the data set are meant, which stand in "
            "for generated images.*"
        )
    if notes:
        notebook.cells.insert(1, nbformat.v4.new_markdown_cell("\n\n".join(notes), id="left-out"))
    return notebook


@contextlib.contextmanager
def _alone(run_dir: Path) -> Iterator[None]:
    """Refuse a second study of a profile, whose report would replace that of the first."""
    with naming_folder(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = FileLock(run_dir / ".lock", timeout=0)  # the system lets it go with the process
    try:
        held = lock.acquire()
    except Timeout:
        raise NotebookError(
            f"another study of {run_dir.name} is at work in {run_dir}; wait for it, or give this "
            "one a name of its own, as with --set profile=mine"
        ) from None
    with held:
        yield


def _execute(notebook: NotebookNode, given: dict, aside: Path, folder: Path) -> NotebookNode:
    """Execute a notebook in the working directory; return it without papermill's bookkeeping."""
    running = aside / f"{folder.name}.ipynb"  # saved after every cell, so it shows how far it came
    try:
        executed = papermill.execute_notebook(
            notebook, running, given, kernel_name="python3", language="python", cwd=Path.cwd(),
            coalesce_streams=True, config=_ENCRYPTED,
        )  # fmt: skip
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
