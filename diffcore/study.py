"""Run the notebooks of the study, and keep what they find.

A notebook begins with `start_notebook`, which checks its parameters, records on what it ran, and
returns a `Run` that files figures, tables and numbers under ``reports/<profile>/<notebook>/``. The
command line executes a notebook as a whole with papermill and sums up a profile on one page:

    python -m diffcore.study run --profile demo --notebook 01_generation --set seed=3
    python -m diffcore.study index --profile demo

Everything is written aside and renamed when complete, so that a report is old or new, never half.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import math
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from traitlets import default

from diffcore.pages import executed_notebooks, index_page, notebook_page
from diffcore.params import (
    ParamsError,
    StudyParams,
    dump_params,
    load_params,
    parse_assignments,
    project_root,
)
from diffcore.photos import PhotosError, download
from diffcore.preflight import MissingFilesError, require
from diffcore.scope import KNOWLEDGE, known, needs, watch_cells

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# The packages whose versions can change a number.
PACKAGES = (
    *("accelerate", "captum", "datasets", "diffusers", "numpy", "open_clip_torch", "pandas"),
    *("pillow", "pyarrow", "scikit-learn", "scipy", "statsmodels", "timm", "torch"),
    *("torchmetrics", "torchvision", "transformers"),
)


_LARGE = 80_000  # letters of an encoded picture
_TOLD = ("world", "truth", "pipeline", "masks", "side studies")  # what readers may look for


class NotebookError(RuntimeError):
    """A notebook that cannot be run, or stopped; the message names it, the cell and the reason."""


# ------------------------------------------------------------------------------ inside a notebook
@dataclass(frozen=True)
class Run:
    """One notebook under one profile: its parameters, and where its results go.

    Attributes:
        name: file name of the notebook, without suffix.
        params: the resolved parameters.
        report_dir: results for people, ``reports/<profile>/<name>``.
        run_dir: intermediate data that later notebooks and later runs re-use, ``runs/<profile>``.
    """

    name: str
    params: StudyParams
    report_dir: Path
    run_dir: Path

    def save_figure(self, fig: Figure, name: str) -> Path:
        """Save a figure as PNG, whose path is returned, and as SVG; the index shows the first.

        A figure with pictures in it is saved as PNG alone: lines gain by an SVG, pixels do not.
        """
        import matplotlib.pyplot as plt

        folder = self.report_dir / "figures"
        folder.mkdir(exist_ok=True)
        drawn = folder / f"{name}.svg"
        drawn.unlink(missing_ok=True)
        if not any(ax.images for ax in fig.axes):
            # No date and a fixed salt for its ids: an SVG changes only if the figure does.
            with plt.rc_context({"svg.hashsalt": name}):
                fig.savefig(drawn, bbox_inches="tight", metadata={"Date": None})
        options = {"optimize": True}  # a tenth smaller, for a little time
        fig.savefig(folder / f"{name}.png", bbox_inches="tight", dpi=110, pil_kwargs=options)
        return folder / f"{name}.png"

    def save_table(self, table: pd.DataFrame, name: str) -> Path:
        """Save a table as CSV, without its index and with six significant digits."""
        path = self.report_dir / "tables" / f"{name}.csv"
        path.parent.mkdir(exist_ok=True)
        return _write(path, table.to_csv(index=False, float_format="%.6g"))

    def save_metrics(self, metrics: Mapping[str, Any]) -> Path:
        """Save the notebook's numbers as ``metrics.json``, sorted by name.

        Args:
            metrics: numbers, texts, and nested mappings or sequences of them; arrays and tensors
                become lists. Numbers at the top level stand on the notebook's card in the index.

        Raises:
            ValueError: for a number that is not finite, which JSON could not hold.
            TypeError: for anything else.
        """
        text = json.dumps(_plain(metrics, "metrics"), indent=2, sort_keys=True, allow_nan=False)
        return _write(self.report_dir / "metrics.json", text + "\n")


def start_notebook(
    name: str,
    profile: str,
    overrides: Mapping[str, Any] | None = None,
    report_root: Path | None = None,
    run_root: Path | None = None,
) -> Run:
    """Check the parameters, print and save what this run of a notebook rests on, and open it.

    Args:
        name: file name of the notebook, without suffix.
        profile: name of a profile, or path of a YAML file.
        overrides: parameters that differ from the profile's.
        report_root: in place of ``reports/`` of the project.
        run_root: in place of ``runs/`` of the project.

    Cells below it that need what the study does not know are skipped (`diffcore.scope`).

    Raises:
        ParamsError: if a parameter is not legal.
        MissingFilesError: if data or weights are not there; nothing is written then.
    """
    from diffcore.training_study import study_methods  # slow to import, as notebooks need torch

    params = load_params(profile, overrides)
    study_methods(params)  # a wrong one is better found now than after hours of drawing
    require(params)
    download(params.data)
    watch_cells(params)
    report_dir = (report_root or project_root() / "reports") / params.profile / name
    run_dir = (run_root or project_root() / "runs") / params.profile
    for folder in (report_dir, run_dir):
        folder.mkdir(parents=True, exist_ok=True)
    facts = environment(params)
    _write(report_dir / "params.yaml", dump_params(params))
    _write(report_dir / "versions.json", json.dumps(facts, indent=2) + "\n")
    print("\n".join(f"{key}: {value}" for key, value in facts.items() if key != "packages"))
    print(", ".join(f"{package} {version}" for package, version in facts["packages"].items()))
    print("\n" + dump_params(params), end="")
    return Run(name, params, report_dir, run_dir)


def environment(params: StudyParams) -> dict[str, Any]:
    """Collect what a number may depend on: revision, Python, machine, device and versions."""
    wanted = {package.replace("_", "-") for package in PACKAGES}
    found = {dist.name.lower().replace("_", "-"): dist.version for dist in metadata.distributions()}
    return {
        "git revision": _git_revision(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": _device(params.generation.pipeline.device),
        "packages": {package: found[package] for package in sorted(wanted & found.keys())},
    }


def _device(wanted: str) -> str:
    """Name the processor that the models run on."""
    import torch

    if wanted != "cpu" and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU (threads: {torch.get_num_threads()})"


def _git_revision() -> str:
    """Return the commit of the project, marked if any source but the reports has changed since."""
    root = project_root()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", ".", ":(exclude)reports")
        return git("rev-parse", "--short=12", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _plain(value: Any, key: str) -> Any:
    """Turn numpy's and torch's numbers into Python's, at any depth."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(name): _plain(item, f"{key}.{name}") for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{key}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{key} is {value}; a metric must be finite")
    if not isinstance(value, bool | int | float | str):
        raise TypeError(f"{key} is {value!r}; a metric is a number, a text, or several of them")
    return value


def _write(path: Path, text: str) -> Path:
    """Write a text file that appears whole or not at all."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    return aside.replace(path)


# ----------------------------------------------------------------------------- running a notebook
class _ThisInterpreter(AsyncKernelManager):
    """Kernel manager whose kernel is the running Python, whatever kernels are registered."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """Describe the kernel of this very interpreter."""
        return KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            display_name="Python 3",
            language="python",
            metadata={"supported_encryption": "curve"},
        )

    @default("transport_encryption")
    def _encrypted(self) -> str:
        """Keep what passes between kernel and papermill from other users of the machine."""
        return "auto"


def run_notebook(name: str, profile: str, overrides: Mapping[str, Any] | None = None) -> Path:
    """Execute a notebook of the project; return the executed copy, with an HTML page beside it.

    A notebook that fails leaves an earlier report in place, and itself as ``<name>.failed.ipynb``.

    Raises:
        ParamsError: if a parameter is not legal; no kernel is started then.
        MissingFilesError: if data or weights are not there; no kernel is started then.
        NotebookError: if there is no such notebook, or one of its cells raises.
    """
    params, root = load_params(profile, overrides), project_root()
    require(params)
    source, folder = root / "notebooks" / f"{name}.ipynb", root / "reports" / params.profile / name
    if not source.is_file():
        known = ", ".join(sorted(path.stem for path in source.parent.glob("*.ipynb")))
        raise NotebookError(f"no notebook {name} in {source.parent}; there are: {known or 'none'}")
    folder.mkdir(parents=True, exist_ok=True)
    executed = _execute(source, folder, {"profile": profile, "overrides": dict(overrides or {})})
    executed = _fit(executed, params)
    _write(folder / f"{name}.html", notebook_page(executed))
    # Last, as make takes this file for the proof that all of the report is there.
    return _write(folder / f"{name}.ipynb", nbformat.writes(executed) + "\n")


def _execute(source: Path, folder: Path, parameters: dict[str, Any]) -> NotebookNode:
    """Execute a notebook in the project's root, and return it without papermill's bookkeeping."""
    import papermill

    # Papermill saves after every cell: what is here if the kernel dies shows how far it came.
    running = folder / f".{source.stem}.running.ipynb"
    try:
        notebook = papermill.execute_notebook(
            source,
            running,
            parameters,
            kernel_name="python3",
            language="python",
            cwd=project_root(),
            kernel_manager_class=_ThisInterpreter,
            coalesce_streams=True,
        )
    except (papermill.PapermillExecutionError, DeadKernelError) as error:
        failed = running.replace(folder / f"{source.stem}.failed.ipynb")
        raise NotebookError(f"{_reason(source.stem, error)}\nSee {failed}") from None
    running.unlink()
    (folder / f"{source.stem}.failed.ipynb").unlink(missing_ok=True)
    return _tidy(notebook)


def _reason(name: str, error: Exception) -> str:
    """Say in one line which cell of a notebook failed and why; a ParamsError speaks for itself."""
    if isinstance(error, DeadKernelError):
        return f"{name}: the kernel died, which most often means that memory ran out"
    if error.ename in {kind.__name__ for kind in (ParamsError, MissingFilesError, PhotosError)}:
        return error.evalue
    return f"{name}, cell [{error.exec_count}]: {error.ename}: {error.evalue}"


def _tidy(notebook: NotebookNode) -> NotebookNode:
    """Drop paths and times of this run, keep its duration, and describe each figure in words."""
    duration = notebook.metadata.pop("papermill")["duration"]
    notebook.metadata["duration_seconds"] = round(duration, 1)
    heading = ""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            _slim(output)
        cell.metadata.pop("papermill", None)
        if cell.cell_type == "markdown":
            heading = next(iter(re.findall(r"^#+ *(.+)", cell.source, re.MULTILINE)), heading)
        else:
            cell.metadata["alt"] = f"Figure under the heading: {heading}"
    return notebook


def _fit(notebook: NotebookNode, params: StudyParams) -> NotebookNode:
    """Leave out the cells that need what the study does not know, and say so under the title."""
    has = known(params)
    lacking = [name for cell in notebook.cells for name in needs(cell.source) if name not in has]
    if not lacking:
        return notebook
    notebook.cells = [cell for cell in notebook.cells if has.issuperset(needs(cell.source))]
    wanted = "; ".join(KNOWLEDGE[name] for name in dict.fromkeys(lacking) if name in _TOLD)
    note = (
        f"*This page is of the profile {params.profile}. The notebook holds more, which is left "
        f"out here as it needs what this study does not have: {wanted}.*"
    )
    if "stand-ins" in has:
        note += (
            " *Where it says generated, other photographs of the data set are meant, which stand "
            "in for generated images.*"
        )
    notebook.cells.insert(1, nbformat.v4.new_markdown_cell(note, id="left-out"))
    return notebook


def _slim(output: NotebookNode) -> None:
    """Keep a large picture as JPEG where that is less than half of it: galleries, not lines."""
    from PIL import Image

    data = output.get("data", {})
    if len(data.get("image/png", "")) < _LARGE:
        return
    picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("RGB")
    smaller = io.BytesIO()
    picture.save(smaller, "JPEG", quality=82, subsampling=0, optimize=True)
    encoded = base64.b64encode(smaller.getvalue()).decode("ascii")
    if len(encoded) < len(data["image/png"]) / 2:
        data["image/jpeg"] = encoded
        del data["image/png"]
        output.metadata["image/jpeg"] = output.metadata.pop("image/png", {})


def build_index(profile: str) -> Path:
    """Write ``reports/<profile>/index.html``: the claims, and a card for each executed notebook.

    Raises:
        NotebookError: if no notebook has been executed under this profile.
    """
    folder = project_root() / "reports" / load_params(profile).profile
    if not executed_notebooks(folder):
        raise NotebookError(f"no executed notebook in {folder}; run the study first")
    return _write(folder / "index.html", index_page(folder))


# ----------------------------------------------------------------------------------- command line
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 1 after printing why it did not work."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "run":
            written = run_notebook(
                options.notebook, options.profile, parse_assignments(options.assignments)
            )
        else:
            written = build_index(options.profile)
    except (ParamsError, MissingFilesError, NotebookError) as error:
        print(error, file=sys.stderr)
        return 1
    print(written)
    return 0


def _parser() -> argparse.ArgumentParser:
    """Describe the commands `run` and `index`."""
    parser = argparse.ArgumentParser(prog="python -m diffcore.study", description="Run the study.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="execute one notebook")
    index = commands.add_parser("index", help="sum up the executed notebooks on one page")
    for command in (run, index):
        command.add_argument("--profile", default="demo", help="file in params/, or path of one")
    run.add_argument("--notebook", required=True, help="file in notebooks/, without suffix")
    run.add_argument(
        *("--set", "-s"),
        dest="assignments",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one parameter, such as generation.guidance_scale=4; can be repeated",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
