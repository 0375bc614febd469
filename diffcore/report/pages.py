"""Pages of a report: an executed notebook as HTML, and the index of a profile.

They load nothing from other hosts, so notebooks write maths in Unicode, not TeX. A page links the
figures in the folder beside it.
"""

import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
from jinja2 import Environment, FileSystemLoader, select_autoescape
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from pygments.formatters import HtmlFormatter

from diffcore.figures.style import label_of

TEMPLATES = Path(__file__).with_name("templates")
ENVIRONMENT = Environment(
    loader=FileSystemLoader(TEMPLATES),
    autoescape=select_autoescape(["html.j2"], default_for_string=False),
    trim_blocks=True,
)
ENVIRONMENT.filters["label"] = label_of


def notebook_page(notebook: NotebookNode) -> str:
    """Render an executed notebook as one HTML page: code folded, figures linked, no other host."""
    linked = nbformat.from_dict(notebook)
    for output in (output for cell in linked.cells for output in cell.get("outputs", [])):
        # `Report.show` named the figure, whose file lies beside the page.
        if name := output.get("metadata", {}).get("image/png", {}).get("figure"):
            output.metadata["filenames"] = {"image/png": f"figures/{name}.png"}
    cells = (TEMPLATES / "cells.html.j2").read_text(encoding="utf-8")
    exporter = HTMLExporter(template_name="basic", raw_template=cells)
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    body, _ = exporter.from_notebook_node(linked)
    # A link to another notebook, right in JupyterLab, leads to that notebook's page.
    body = re.sub(r'href="(\d\d_\w+)\.ipynb"', r'href="../\1/\1.html"', body)
    style = HtmlFormatter(style="friendly").get_style_defs(".highlight")
    title, _ = _title_and_sentence(notebook)
    return ENVIRONMENT.get_template("page.html.j2").render(title=title, body=body, more_style=style)


def executed_notebooks(folder: Path) -> list[Path]:
    """List the executed notebooks of a profile's report, in order."""
    return sorted(path for path in folder.glob("[!.]*/*.ipynb") if path.stem == path.parent.name)


def index_page(folder: Path, profile: str) -> str:
    """Render the index of a report: its claims, and a card for each executed notebook."""
    judged = folder / "08_report" / "tables" / "claims.csv"
    claims = pd.read_csv(judged, na_filter=False).to_dict("records") if judged.is_file() else []
    cards = [_card(path) for path in executed_notebooks(folder)]
    title = f"DiffCoRe-Mix, a reproducible study: profile {profile}"
    return ENVIRONMENT.get_template("index.html.j2").render(title=title, claims=claims, cards=cards)


def _card(executed: Path) -> dict[str, Any]:
    """Sum up one executed notebook: its title, first sentence, first figure and key numbers."""
    notebook = nbformat.read(executed, as_version=4)
    title, sentence = _title_and_sentence(notebook)
    figures = sorted(path.name for path in executed.parent.glob("figures/*.png"))
    numbers, minutes = read_numbers(executed.parent), notebook.metadata["duration_seconds"] / 60
    card = {"name": executed.stem, "title": title, "sentence": sentence, "minutes": minutes}
    return card | {"figure": next(iter(figures), None), "numbers": numbers}


def read_numbers(folder: Path) -> dict[str, Any]:
    """Read what a notebook recorded: its metrics, and the times beside them."""
    files = (folder / "metrics.json", folder / "times.json")
    read = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]
    return {name: value for numbers in read for name, value in numbers.items()}


def _title_and_sentence(notebook: NotebookNode) -> tuple[str, str]:
    """Take the title of a notebook, and the first sentence below it, as plain text."""
    source = next((cell.source for cell in notebook.cells if cell.cell_type == "markdown"), "")
    text = re.sub(r"\[([^]]*)\]\([^)]*\)|[*`]", r"\1", source)
    title, _, rest = text.lstrip("# ").partition("\n")
    sentence = re.match(r"\s*(.*?[.?!])(?=\s|$)", rest, re.DOTALL)
    return title.strip(), " ".join(sentence[1].split()) if sentence else ""
