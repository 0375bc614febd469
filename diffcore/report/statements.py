"""What shows each statement of the README and of the notebooks' takeaways: its file and its cell.

Statements are the bullets under "Takeaways" of each notebook; and under "What it found" in the
README the rows of the table, and the sentences after it that have a figure, or no link to read on.
Each names at its end, in brackets, what shows it: [`04/02_gains`, `04:top1.shifted`] are a figure
or table of notebook 04, by the name of its file, and a number of its metrics.json or times.json.
[`02_gains`, `:seeds`] are of a takeaway's own notebook, `birds:04/02_gains` of another report.

A statement with figures says each single number that it names, in that order, to the figure's own
digits, with sign, and with its interval if it gives one: "+3.2 points [+1.9, +4.6]" (a point or per
cent is recorded as 0.01). Of a row, the last column says it. Words are not checked.
"""

import argparse
import json
import re
from collections.abc import Collection, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from diffcore.params import UserError, project_root
from diffcore.report.verify import numbers
from diffcore.store import write_text

REFERENCE = re.compile(
    r"(?:(?P<report>[a-z]\w*):)?(?:(?P<notebook>\d\d)?(?P<kind>[/:]))?(?P<name>\w[\w .,-]*)"
)
_BRACKET = re.compile(r"\s*\[(`[^`]+`(?:,\s*`[^`]+`)*)\](?!\()")
_LINK = re.compile(r"\[([^]]*)\]\([^)]*\)")
_NUMBER = r"[+−-]?\d+(?:,\d{3})*(?:\.\d+)?"
_FIGURE = re.compile(
    rf"(?<![\w.,])(?<!\w-)({_NUMBER})(\s*(?:%|points?\b|per cent))?"
    rf"(?:\s*\[({_NUMBER}), ({_NUMBER})\])?"
)
_HEAD = (
    "# What shows each statement\n\nWritten by `diffcore statements`; cells as they were executed."
)
_COLUMNS = "| in | statement | shown by |\n|---|---|---|\n"

#: A number with the limits of its interval, where these are known; of anything else nothing.
Number = Sequence[float | None]


class Statement(NamedTuple):
    """One statement: the file that makes it, its text without references, and these."""

    source: str
    text: str
    references: list[str]


def read_statements(root: Path) -> list[Statement]:
    """Read all statements of a project; UserError for a file that makes none."""
    made = {"README.md": list(_findings((root / "README.md").read_text(encoding="utf-8")))}
    for path in sorted(root.glob("notebooks/*.ipynb")):
        prose = "\n".join(source for cell, source in _cells(path) if "outputs" not in cell)
        bullets = re.split(r"^- ", _section(prose, "Takeaways"), flags=re.M)[1:]
        made[f"notebooks/{path.name}"] = [bullet.partition("\n\n")[0] for bullet in bullets]
    if silent := [source for source, texts in made.items() if not texts]:
        raise UserError(f"no statement in {', '.join(silent)}; see `diffcore statements --help`")
    return [_statement(source, text) for source, texts in made.items() for text in texts]


def _statement(source: str, text: str) -> Statement:
    references = re.findall(r"`([^`]+)`", " ".join(_BRACKET.findall(text)))
    return Statement(source, " ".join(_BRACKET.sub("", text).split()), references)


def _cells(notebook: Path) -> Iterator[tuple[dict, str]]:
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        yield cell, "".join(cell["source"])


def _section(text: str, title: str) -> str:
    return "".join(re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.M | re.S))


def _findings(readme: str) -> Iterator[str]:
    """Yield the rows of the table of findings, and the sentences after it that find something."""
    *_, table = re.split(r"\n\|[-|: ]+\|\n", _section(readme, "What it found"), maxsplit=1)
    rows, _, prose = table.partition("\n\n")
    yield from (row.strip("| ") for row in rows.splitlines())
    for sentence in re.split(r"\n\n|^- |(?:(?<=[.!?])|(?<=`\]))\s+(?=[A-Z])", prose, flags=re.M):
        if sentence.strip() and (re.search(r"\d", _plain(sentence)) or not _LINK.search(sentence)):
            yield sentence


def _plain(text: str) -> str:
    """Leave out code, and the addresses of links: their digits say nothing."""
    return re.sub(r"`[^`]*`", "", _LINK.sub(r"\1", text))


def resolve(statement: Statement, reference: str, report: Path) -> tuple[str, Number]:
    """Find what a reference leads to: links, and the number if it is one.

    UserError tells what is not found, and what there is.
    """
    parts = REFERENCE.fullmatch(reference)
    if parts and parts["report"]:
        report = report.with_name(parts["report"])
    own = re.search(r"(?<=/)\d\d(?=_)", statement.source)
    notebook = parts and (parts["notebook"] or (own and own[0]))
    if not (notebook and (folder := next(report.glob(f"{notebook}_*"), None))):
        raise UserError(f"is in no notebook of reports/{report.name}; as 04/figure or 04:number?")
    file, number = (_number if parts["kind"] == ":" else _file)(folder, parts["name"])
    cell, place = _cell(folder, parts["name"]), f"../reports/{report.name}/{folder.name}"
    value = f" = {number[0]:g}" if number else ""
    made = f"[cell {cell['execution_count']}]({place}/{folder.name}.ipynb#cell-id={cell['id']})"
    return f"[`{reference}`]({place}/{file}){value} ({made})", number


def _file(folder: Path, name: str) -> tuple[str, Number]:
    """Find a figure, or a table."""
    paths = [*folder.glob("t*/*.csv"), *folder.glob("figures/*.png")]
    files = {path.stem: path.relative_to(folder).as_posix() for path in paths}
    return files.get(name) or _missing(name, files), ()


def _number(folder: Path, name: str) -> tuple[str, Number]:
    """Find one number, or several by what their names begin with."""
    known = {}
    for path in (path for path in folder.glob("*.json") if path.stem in ("metrics", "times")):
        found = dict(numbers(json.loads(path.read_text(encoding="utf-8"))))
        for value, low, high in ("", "_low", "_high"), (".value", ".low", ".high"):
            if name + value in found:
                return path.name, (
                    found[name + value],
                    found.get(name + low),
                    found.get(name + high),
                )
        if any(key.startswith(f"{name}.") for key in found):
            return path.name, ()
        known |= found
    return _missing(name, known)


def _missing(name: str, known: Collection[str]) -> None:
    nearest = get_close_matches(name, known, n=3, cutoff=0)
    raise UserError(f"is not there; nearest: {', '.join(nearest) or 'nothing'}")


def _cell(folder: Path, name: str) -> dict:
    """Find the code cell that names a result in a string, which may have gaps, or as a keyword."""
    top = name.partition(".")[0]
    wanted, ranked = {name, top, re.sub(r"_(low|high|p)$", "", top)}, []
    for cell, source in _cells(folder / f"{folder.name}.ipynb"):
        keeps = re.search(r"\.(show|table|record)", source)
        for pair in re.findall(r'"([^"\n]*)"|\b(\w+)=(?!=)', source) if "outputs" in cell else ():
            fixed = re.split(r"\{[^}]*\}", "".join(pair).replace(" ", "_"))
            pattern = ".+".join(map(re.escape, fixed))
            if len("".join(fixed)) > 2 and any(re.fullmatch(pattern, each) for each in wanted):
                ranked.append((len(fixed), not keeps, cell))
    if not ranked:
        raise UserError(f"is named by no cell of {folder.name}; refer to what a cell names")
    return min(ranked, key=lambda row: row[:2])[-1]


def check(statement: Statement, named: dict[str, Number]) -> list[str]:
    """List the single numbers, by reference, that a statement with figures does not say."""
    figures, unsaid = list(_FIGURE.finditer(_plain(statement.text.split(" | ")[-1]))), []
    told, left = ", ".join(figure[0].strip() for figure in figures), iter(figures)
    for reference, number in named.items() if figures else ():
        if not any(_says(figure, number) for figure in left):
            unsaid.append(f"`{reference}` is {number}, which is not said, in its turn, by: {told}")
    return unsaid


def _says(figure: re.Match, number: Number) -> bool:
    """Whether a figure, and its interval if it has one, is the number, or it in per cent."""
    value, unit, *limits = figure.groups()
    pairs = [pair for pair in zip((value, *limits), number, strict=True) if pair[0]]
    return any(
        all(known is not None and _rounds(text, factor * known) for text, known in pairs)
        for factor in ((100,) if unit else (1, 100))
    )


def _rounds(text: str, value: float) -> bool:
    digits = len(text.partition(".")[2])
    return abs(float(text.replace(",", "").replace("−", "-")) - value) <= 0.500001 * 10**-digits


def _shown(statement: Statement, report: Path) -> tuple[list[str], list[str]]:
    """Find what shows a statement: links, and what is wrong."""
    links, named, wrong = [], {}, []
    if not statement.references:
        wrong.append("names nothing that shows it; end it as in [`04/02_gains`, `04:seeds`]")
    for reference in statement.references:
        try:
            link, number = resolve(statement, reference, report)
        except UserError as error:
            wrong.append(f"`{reference}` {error}")
            continue
        links.append(link)
        named |= {reference: number} if number else {}
    return links, wrong + check(statement, named)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write docs/statements.md; or raise UserError with all that is wrong, and write nothing."""
    parser = argparse.ArgumentParser(
        "diffcore statements", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--profile", default="demo", help="whose committed report shows them")
    root, profile = project_root(), parser.parse_args(arguments).profile
    rows, faults = [], []
    for statement in read_statements(root):
        links, wrong = _shown(statement, root / "reports" / profile)
        faults += [f"{statement.source}, “{statement.text[:60]}”: {each}" for each in wrong]
        text = _LINK.sub(r"\1", statement.text).replace(" | ", ": ")
        rows.append(f"| {statement.source} | {text} | {'; '.join(links)} |\n")
    print(f"{len(rows)} statements, {len(faults)} faults")
    if faults:
        raise UserError("\n".join(faults))
    print(write_text(root / "docs" / "statements.md", f"{_HEAD}\n\n{_COLUMNS}{''.join(rows)}"))
    return 0
