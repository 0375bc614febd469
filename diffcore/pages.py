"""Pages of a study: an executed notebook as HTML, and the index of a profile.

The pages load nothing from other hosts; so maths in a notebook is written in Unicode, not TeX.
"""

import csv
import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

import nbformat
from nbformat import NotebookNode

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
.output_stdout pre { max-height: 16rem; overflow-y: auto; white-space: pre-wrap; }
.output_stderr pre { color: var(--faint); background: none; }
.cards { display: grid; gap: 1.25rem; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr));
  padding: 0; list-style: none; }
.cards li { padding: 1rem; border: 1px solid var(--line); border-radius: .6rem; }
.cards h2 { margin: 0; font-size: 1.15rem; } .cards th { text-align: left; font-weight: normal; }
.claims { padding: 0; list-style: none; }
.claims li { padding: .7rem 0; border-top: 1px solid var(--line); } .claims p { margin: .15rem 0; }
.verdict { display: inline-block; padding: 0 .55rem; border-radius: 1rem; font-size: .85rem;
  color: #fff; background: #5b6b7b; } .verdict.holds { background: #00654a; }
.verdict.holds-partly { background: #8a5a00; } .verdict.does-not-hold { background: #a33a00; }
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

_CLAIM = Template("""<li>
<p><span class="verdict $kind">$verdict</span> $title
<span class="faint">($source)</span></p>
<p>$measured</p>
<p class="faint">Holds if: $rule.</p>
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


def executed_notebooks(folder: Path) -> list[Path]:
    """The executed notebooks of a profile's reports, in order."""
    return sorted(path for path in folder.glob("*/*.ipynb") if path.stem == path.parent.name)


def index_page(folder: Path) -> str:
    """Render the index of a profile's reports: its claims, and a card for each notebook."""
    title = f"DiffCoRe-Mix, a reproducible study: profile {folder.name}"
    cards = "".join(_card(path) for path in executed_notebooks(folder))
    body = (
        f"<h1>{html.escape(title)}</h1>\n{_claims(folder / '08_report' / 'tables' / 'claims.csv')}"
        f'<ul class="cards">\n{cards}</ul>'
    )
    return _PAGE.substitute(title=html.escape(title), style=_STYLE, body=body)


def _claims(path: Path) -> str:
    """Tabulate the claims with their verdicts, once the last notebook has judged them."""
    if not path.is_file():
        return ""
    with path.open(encoding="utf-8", newline="") as file:
        rows = "".join(map(_claim, csv.DictReader(file)))
    return f'<h2>What became of each claim</h2>\n<ul class="claims">\n{rows}</ul>\n'


def _claim(row: dict[str, str]) -> str:
    """Sum up one claim, linked to the notebook that answers it."""
    texts = {name: html.escape(text) for name, text in row.items()}
    page = f"{row['notebook']}/{row['notebook']}.html"
    title = f'<a href="{page}">{texts["claim"]}</a>' if row["notebook"] else texts["claim"]
    return _CLAIM.substitute(texts, title=title, kind=row["verdict"].replace(" ", "-"))


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
        figure="".join(_picture(path) for path in figures[:1]),
        rows=_rows(values),
        minutes=f"Ran in {notebook.metadata['duration_seconds'] / 60:.1f} minutes.",
    )


def _title_and_sentence(notebook: NotebookNode) -> tuple[str, str]:
    """Take the title of a notebook, and the first sentence below it, as plain text."""
    source = next((cell.source for cell in notebook.cells if cell.cell_type == "markdown"), "")
    text = re.sub(r"\[([^]]*)\]\([^)]*\)|[*`]", r"\1", source)
    title, _, rest = text.lstrip("# ").partition("\n")
    sentence = re.match(r"\s*(.*?[.?!])(?=\s|$)", rest, re.DOTALL)
    return title.strip(), " ".join(sentence[1].split()) if sentence else ""


def _picture(image: Path) -> str:
    """Show a figure of a notebook, from the folder where it lies."""
    address = image.relative_to(image.parents[2]).as_posix()
    return f'<img src="{address}" alt="{html.escape(image.stem)}" loading="lazy">'


def _rows(values: Mapping[str, Any]) -> str:
    """Show the numbers of a notebook, each with its interval where it has one."""
    bounds = ("_low", "_high", "_p")
    shown = [n for n, v in values.items() if _is_number(v) and not n.endswith(bounds)]
    return "".join(_row(name, values) for name in shown)


def _row(name: str, values: Mapping[str, Any]) -> str:
    """Show one number with four significant digits, and its interval with three."""
    text = f"{values[name]:.4g}"
    if f"{name}_low" in values:
        text += f" [{values[f'{name}_low']:.3g}, {values[f'{name}_high']:.3g}]"
    return f"<tr><th>{html.escape(name.replace('_', ' '))}</th><td>{text}</td></tr>"


def _is_number(value: Any) -> bool:
    """Tell numbers from texts, flags and nested results."""
    return isinstance(value, int | float) and not isinstance(value, bool)
