"""Run the notebooks of the study, and keep what they find.

A notebook begins with `start_notebook`, which checks its parameters, records on what it ran, and
returns a `Run` that files figures, tables and numbers under ``reports/<profile>/<notebook>/``. The
command line executes a notebook as a whole with papermill and sums up a profile on one page:

    python -m diffcore.study run --profile demo --notebook 01_generation --set seed=3
    python -m diffcore.study index --profile demo

Everything is written aside and renamed when complete, so that a report is old or new, never half.
The pages load nothing from other hosts; so maths in a notebook is written in Unicode, not TeX.
"""

from __future__ import annotations

import argparse
import base64
import html
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
from string import Template
from typing import TYPE_CHECKING, Any

import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from traitlets import default

from diffcore.params import (
    ParamsError,
    StudyParams,
    dump_params,
    load_params,
    parse_assignments,
    project_root,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# The packages whose versions can change a number.
PACKAGES = (
    *("accelerate", "captum", "datasets", "diffusers", "numpy", "open_clip_torch", "pandas"),
    *("pillow", "pyarrow", "scikit-learn", "scipy", "statsmodels", "timm", "torch"),
    *("torchmetrics", "torchvision", "transformers"),
)


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
        """Save a figure as PNG, whose path is returned, and as SVG; the index shows the first."""
        import matplotlib.pyplot as plt

        folder = self.report_dir / "figures"
        folder.mkdir(exist_ok=True)
        # No date and a fixed salt for its ids: an SVG changes only if the figure does.
        with plt.rc_context({"svg.hashsalt": name}):
            fig.savefig(folder / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
        fig.savefig(folder / f"{name}.png", bbox_inches="tight", dpi=110)
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

    Raises:
        ParamsError: if a parameter is not legal.
    """
    params = load_params(profile, overrides)
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
        NotebookError: if there is no such notebook, or one of its cells raises.
    """
    params, root = load_params(profile, overrides), project_root()
    source, folder = root / "notebooks" / f"{name}.ipynb", root / "reports" / params.profile / name
    if not source.is_file():
        known = ", ".join(sorted(path.stem for path in source.parent.glob("*.ipynb")))
        raise NotebookError(f"no notebook {name} in {source.parent}; there are: {known or 'none'}")
    folder.mkdir(parents=True, exist_ok=True)
    executed = _execute(source, folder, {"profile": profile, "overrides": dict(overrides or {})})
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
    if error.ename == ParamsError.__name__:
        return error.evalue
    return f"{name}, cell [{error.exec_count}]: {error.ename}: {error.evalue}"


def _tidy(notebook: NotebookNode) -> NotebookNode:
    """Drop paths and times of this run, keep its duration, and describe each figure in words."""
    duration = notebook.metadata.pop("papermill")["duration"]
    notebook.metadata["duration_seconds"] = round(duration, 1)
    heading = ""
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        if cell.cell_type == "markdown":
            heading = next(iter(re.findall(r"^#+ *(.+)", cell.source, re.MULTILINE)), heading)
        else:
            cell.metadata["alt"] = f"Figure under the heading: {heading}"
    return notebook


# ------------------------------------------------------------------------------------------ pages
_STYLE = """
:root { color-scheme: light; --ink: #1c2733; --faint: #5b6b7b; --line: #d9e0e7; --link: #0b62a8; }
* { box-sizing: border-box; }
body { max-width: 60rem; margin: 0 auto; padding: 1rem 1.25rem 4rem; color: var(--ink);
  background: #fff; font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", sans-serif;
  overflow-wrap: break-word; }
h1 { font-size: 1.9rem; line-height: 1.2; } h2 { margin-top: 2.5rem; font-size: 1.4rem; }
a { color: var(--link); } .anchor-link { display: none; }
img { max-width: 100%; height: auto; }
pre { overflow-x: auto; padding: .7rem .9rem; border-radius: .4rem; background: #f5f7f9;
  font: .85rem/1.45 ui-monospace, Consolas, "Liberation Mono", monospace; }
code { font-family: ui-monospace, Consolas, "Liberation Mono", monospace; font-size: .9em; }
table { border: 0; border-collapse: collapse; font-size: .9rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border: solid var(--line); border-width: 0 0 1px;
  text-align: right; }
.rendered_html { overflow-x: auto; }
details.code { margin: .8rem 0; } details.code > summary { color: var(--faint);
  font-size: .85rem; cursor: pointer; }
.output_stdout pre { white-space: pre-wrap; }
.output_stderr pre { color: var(--faint); background: none; }
.cards { display: grid; gap: 1.25rem; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr));
  padding: 0; list-style: none; }
.cards li { padding: 1rem; border: 1px solid var(--line); border-radius: .6rem; }
.cards h2 { margin: 0; font-size: 1.15rem; } .cards th { text-align: left; font-weight: normal; }
.cards table { width: 100%; } .faint { color: var(--faint); font-size: .85rem; }
"""

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>$style</style>
</head>
<body>
$body
</body>
</html>
""")

_CARD = Template("""<li>
<h2><a href="$link">$title</a></h2>
<p>$sentence</p>
$figure
<table>$rows</table>
<p class="faint">$minutes</p>
</li>
""")

_NOTEBOOK = """{%- extends 'basic/index.html.j2' -%}
{% block input %}<details class="code"><summary>Code</summary>{{ super() }}</details>{% endblock %}
{% block data_widget_view %}{% endblock %}
{% block footer %}{% endblock %}
"""

# Of several forms of one output the first listed is shown. Widgets, such as progress bars, are left
# out: they would need a host to load their code from, and as text they stand at 0 % for ever.
_SHOWN = (
    *("application/vnd.jupyter.widget-view+json", "image/svg+xml", "image/png", "image/jpeg"),
    *("text/html", "text/markdown", "text/plain"),
)


def notebook_page(notebook: NotebookNode) -> str:
    """Render an executed notebook as one HTML page: code folded, images within, no other host."""
    from nbconvert import HTMLExporter
    from pygments.formatters import HtmlFormatter
    from traitlets.config import Config

    exporter = HTMLExporter(
        config=Config(NbConvertBase={"display_data_priority": list(_SHOWN)}),
        template_name="basic",
        raw_template=_NOTEBOOK,
        embed_images=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    body, _ = exporter.from_notebook_node(notebook)
    # A link to another notebook, right in JupyterLab, leads to that notebook's page.
    body = re.sub(r'href="(\d\d_\w+)\.ipynb"', r'href="../\1/\1.html"', body)
    title, _ = _title_and_sentence(notebook)
    back = '<p class="faint"><a href="../index.html">All notebooks of this profile</a></p>'
    style = _STYLE + HtmlFormatter(style="friendly").get_style_defs(".highlight")
    return _PAGE.substitute(title=html.escape(title), style=style, body=f"{back}\n{body}")


def build_index(profile: str) -> Path:
    """Write ``reports/<profile>/index.html``, with one card for each executed notebook.

    Raises:
        NotebookError: if no notebook has been executed under this profile.
    """
    folder = project_root() / "reports" / load_params(profile).profile
    executed = sorted(path for path in folder.glob("*/*.ipynb") if path.stem == path.parent.name)
    if not executed:
        raise NotebookError(f"no executed notebook in {folder}; run the study first")
    title = f"DiffCoRe-Mix, a reproducible study: profile {folder.name}"
    cards = "".join(_card(path) for path in executed)
    body = f'<h1>{html.escape(title)}</h1>\n<ul class="cards">\n{cards}</ul>'
    page = _PAGE.substitute(title=html.escape(title), style=_STYLE, body=body)
    return _write(folder / "index.html", page)


def _card(executed: Path) -> str:
    """Sum up one executed notebook: its title, first sentence, first figure and key numbers."""
    notebook = nbformat.read(executed, as_version=4)
    title, sentence = _title_and_sentence(notebook)
    figures = sorted((executed.parent / "figures").glob("*.png"))
    metrics = executed.parent / "metrics.json"
    values = json.loads(metrics.read_text(encoding="utf-8")) if metrics.is_file() else {}
    return _CARD.substitute(
        link=f"{executed.stem}/{executed.stem}.html",
        title=html.escape(title),
        sentence=html.escape(sentence),
        figure="".join(_embedded(path) for path in figures[:1]),
        rows="".join(_row(name, value) for name, value in values.items() if _is_number(value)),
        minutes=f"Ran in {notebook.metadata['duration_seconds'] / 60:.1f} minutes.",
    )


def _title_and_sentence(notebook: NotebookNode) -> tuple[str, str]:
    """Take the title of a notebook, and the first sentence below it, as plain text."""
    source = next((cell.source for cell in notebook.cells if cell.cell_type == "markdown"), "")
    text = re.sub(r"\[([^]]*)\]\([^)]*\)|[*`]", r"\1", source)
    title, _, rest = text.lstrip("# ").partition("\n")
    sentence = re.match(r"\s*(.*?[.?!])(?=\s|$)", rest, re.DOTALL)
    return title.strip(), " ".join(sentence[1].split()) if sentence else ""


def _embedded(image: Path) -> str:
    """Put a PNG file into the page itself."""
    data = base64.b64encode(image.read_bytes()).decode("ascii")
    return f'<img src="data:image/png;base64,{data}" alt="{html.escape(image.stem)}">'


def _row(name: str, value: float) -> str:
    """Show one number of a notebook with four significant digits."""
    return f"<tr><th>{html.escape(name.replace('_', ' '))}</th><td>{value:.4g}</td></tr>"


def _is_number(value: Any) -> bool:
    """Tell numbers from texts, flags and nested results."""
    return isinstance(value, int | float) and not isinstance(value, bool)


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
    except (ParamsError, NotebookError) as error:
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
