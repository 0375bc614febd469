"""Sizes and directions: a package that grows, or an import that runs upwards, is a decision."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
METHOD = ("prompts", "generation", "filtering", "mixing", "data", "training")
#: Address -> non-blank lines of Python that it may have. The aims are 6,500 lines for diffcore, 500
#: for benchmarks and 8,000 for tests: lower a number whenever lines go.
BUDGETS = {"diffcore": 8100, "paperbirds": 1900, "benchmarks": 560, "tests": 9650}
#: From the ground up: a unit imports from its floor and from those below.
FLOORS = (
    ("params", "stats", "processes", "figures"),
    ("store",),
    ("prompts", "mixing", "data"),
    ("generation", "filtering", "training"),
    ("methods", "measure"),
    ("sweeps", "checks", "report", "study", "engines", "cli"),
)
FLOOR_OF = {unit: number for number, floor in enumerate(FLOORS) for unit in floor}


def files(address: str) -> list[Path]:
    """List the Python files at an address, without those of a virtual environment."""
    return sorted(path for path in (ROOT / address).rglob("*.py") if ".venv" not in path.parts)


def lines(address: str) -> int:
    """Count lines that are not blank."""
    texts = (path.read_text(encoding="utf-8") for path in files(address))
    return sum(bool(line.strip()) for text in texts for line in text.splitlines())


@cache
def imports(path: Path) -> frozenset[str]:
    """Name the modules that a file imports, in functions too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(_imported(tree))


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the whole path"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def unit_of(module: str) -> str:
    """Return the part of diffcore that a module belongs to, such as "data" or "params"."""
    return module.split(".")[1] if module.count(".") else ""


@pytest.mark.parametrize("address", BUDGETS)
def test_an_address_keeps_to_its_budget(address):
    assert lines(address) <= BUDGETS[address]


def test_the_method_keeps_to_its_budget():
    assert sum(lines(f"diffcore/{name}") for name in METHOD) <= 3000


@pytest.mark.parametrize("package", ["diffcore", "paperbirds", "benchmarks"])
def test_a_folder_has_at_most_nine_modules(package):
    for folder in {path.parent for path in files(package)}:
        modules = [path.name for path in folder.glob("*.py") if not path.name.startswith("__")]
        assert len(modules) <= 9, (folder, modules)


def test_every_part_has_a_floor():
    units = {unit_of(module_of(path)) for path in files("diffcore")} - {"", "__main__"}
    assert units == set(FLOOR_OF)


def test_no_import_runs_upwards():
    upwards = [
        (module_of(path), name)
        for path in files("diffcore")
        for name in imports(path)
        if name.startswith("diffcore.") and unit_of(module_of(path)) in FLOOR_OF
        if FLOOR_OF.get(unit_of(name), 0) > FLOOR_OF[unit_of(module_of(path))]
    ]
    assert not upwards


def test_no_cycle():
    modules = {module_of(path): path for path in files("diffcore")}
    graph = {
        module: {
            known
            for name in imports(path)
            for known in [name if name in modules else name.rpartition(".")[0]]
            if known in modules and known not in (module, "diffcore")
        }
        for module, path in modules.items()
    }
    TopologicalSorter(graph).prepare()  # CycleError names a cycle


@pytest.mark.parametrize("outside", ["paperbirds", "benchmarks", "unittest.mock"])
def test_the_library_imports_no(outside):
    for path in files("diffcore"):
        assert not any(name.startswith(outside) for name in imports(path)), path


def test_only_tests_mock():
    for path in files("paperbirds") + files("benchmarks"):
        assert not any(name.startswith("unittest") for name in imports(path)), path


def test_the_library_does_not_know_the_embedded_world():
    for path in files("diffcore"):
        assert "paperbirds" not in path.read_text(encoding="utf-8").lower(), path


def test_private_words_are_gone_and_the_formatter_stays_on():
    texts = {
        path: path.read_text(encoding="utf-8")
        for package in ("diffcore", "paperbirds", "benchmarks")
        for path in files(package)
    }
    assert not [path for path, text in texts.items() if re.search(r"\btold\b", text)]
    assert sum(text.count("fmt: skip") for text in texts.values()) <= 30


def test_a_study_has_at_most_twenty_public_members():
    from diffcore.study import Study

    attributes = {"params", "run_dir", "report", "image_filter"}
    members = {name for name in vars(Study) if not name.startswith("_")} | attributes
    assert len(members) <= 20, sorted(members)
