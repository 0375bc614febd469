"""The lock, its conda twin and declarations agree; code and notebooks are clean; make builds."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions

import pytest
import yaml
from conftest import PROJECT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))


def command(*arguments, cwd=PROJECT):
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    for name in ("MAKEFLAGS", "MAKELEVEL"):  # these tests may themselves run under make
        environment.pop(name, None)
    options = {"capture_output": True, "text": True, "check": False, "env": environment}
    return subprocess.run(arguments, cwd=cwd, **options)


# -------------------------------------------------------------------------------- the environment
@pytest.fixture(scope="module")
def lock():
    """Lines of the lock by package; a package that depends on the Python version has several."""
    pinned = {}
    for line in (PROJECT / "requirements.lock").read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            pinned.setdefault(canonicalize_name(Requirement(line).name), []).append(line.strip())
    return pinned


@pytest.fixture(scope="module")
def declared():
    """What pyproject.toml asks for, with the development tools, by package."""
    project = PYPROJECT["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    return {canonicalize_name(Requirement(text).name): Requirement(text) for text in wanted}


def test_the_lock_pins_what_the_package_asks_for_and_names_no_host(lock, declared):
    text = (PROJECT / "requirements.lock").read_text(encoding="utf-8")
    assert not re.search(r"https?:|--(extra-)?index|--find-links", text)
    assert lock["torch"] == ["torch===2.13.0"]  # with == another build comes that does not fit
    for name, wanted in declared.items():
        for line in lock[name]:
            assert wanted.specifier.contains(next(iter(Requirement(line).specifier)).version)


def test_the_conda_twin_has_the_pins_of_the_lock(lock, declared):
    dependencies = yaml.safe_load((PROJECT / "environment.yml").read_text())["dependencies"]
    conda = next(part["pip"] for part in dependencies if isinstance(part, dict))
    pins = [line for line in conda if not line.startswith("-")]
    assert sorted(pins) == sorted(line for name in declared for line in lock[name])
    assert [line for line in conda if line.startswith("-")] == ["-c requirements.lock", "-e ."]


def test_every_import_is_declared(declared):
    imported = set()
    for path in (PROJECT / "diffcore").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.partition(".")[0])
    owners = packages_distributions()
    for name in imported - set(sys.stdlib_module_names) - {"diffcore", "IPython"}:
        owned = {canonicalize_name(owner) for owner in owners[name]}
        assert owned & declared.keys(), f"{name} is imported, and {owned} not declared"


@pytest.mark.slow
def test_a_wheel_holds_profiles_prompt_books_templates_and_weights(tmp_path):
    build = ("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path)
    copy = tmp_path / "copy"
    for name in ("diffcore", "params"):
        shutil.copytree(PROJECT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, copy)
    result = command(sys.executable, *map(str, build), str(copy))
    assert result.returncode == 0, result.stderr
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    site = tmp_path / "site" / "diffcore"
    ours = {path.relative_to(PROJECT) for path in (PROJECT / "diffcore").rglob("*.py")}
    assert {path.relative_to(site.parent) for path in site.rglob("*.py")} == ours
    wanted = ("profiles/demo.yaml", "prompts/books/birds.yaml", "paperbirds/weights/SHA256SUMS")
    assert all((site / name).is_file() for name in wanted)
    templates = [path.relative_to(PROJECT) for path in (PROJECT / "diffcore").rglob("*.j2")]
    assert templates
    assert all((site.parent / path).is_file() for path in templates)
    code = "from diffcore.params import load_params; print(load_params('demo').profile)"
    environment = {**os.environ, "PYTHONPATH": str(site.parent)}
    options = {"cwd": tmp_path / "site", "env": environment, "capture_output": True, "text": True}
    found = subprocess.run([sys.executable, "-c", code], check=False, **options)
    assert found.stdout == "demo\n", found.stderr


# ------------------------------------------------------------------------------ code and notebooks
@pytest.mark.parametrize("arguments", [("check",), ("format", "--check")])
def test_the_code_is_clean(arguments):
    result = command(sys.executable, "-m", "ruff", *arguments, "--no-cache", ".")
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stripped_short_and_takes_parameters(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    (tagged,) = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    lines = "".join(tagged["source"]).splitlines()
    # Papermill reads `name = literal  # comment`, and stumbles over a second equals sign.
    assert [line.split(" = ")[0] for line in lines] == ["profile", "overrides"]
    assert all(line.count("=") == 1 and "  # " in line for line in lines)
    lengths = sorted(len("".join(cell["source"]).splitlines()) for cell in code)
    assert lengths[len(lengths) // 2] <= 6
    assert lengths[-1] <= 25


# -------------------------------------------------------------------------------------------- make
@pytest.fixture
def make(study_folder):
    """Run make with a `python` that only notes what it is asked to do, and makes its files."""
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(PROJECT / name, study_folder)
    (study_folder / "diffcore").mkdir()
    (study_folder / "diffcore" / "params.py").touch()
    for name in ("01_a", "02_b"):
        (study_folder / "notebooks" / f"{name}.ipynb").touch()
    python = study_folder / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("""#!/bin/sh
echo "$@" >> calls
report=runs/$PROFILE/report
for word; do case $word in
    0*) mkdir -p $report/$word; touch $report/$word/$word.ipynb ;;
    index) touch $report/index.html ;;
esac; done
""")
    python.chmod(0o755)
    calls = study_folder / "calls"

    def run(*arguments):
        calls.write_text("")
        fixed = ("VENV=venv", "PROFILE=smoke", "-o", "venv/.installed")
        result = command("make", "study", *arguments, *fixed, cwd=study_folder)
        assert result.returncode == 0, result.stderr
        return [call.removeprefix("-m diffcore ") for call in calls.read_text().splitlines()]

    return run


ALL = [
    "study --profile smoke --notebook 01_a",
    "study --profile smoke --notebook 02_b",
    "index --profile smoke",
]


def touch(path):
    """Date a file after all that has been made so far."""
    made = max(other.stat().st_mtime_ns for other in path.parents[1].rglob("*")) + 10**6
    os.utime(path, ns=(made, made))


@pytest.mark.slow
def test_make_runs_again_what_a_change_concerns_and_nothing_else(make, study_folder):
    assert make() == ALL
    assert make() == []
    touch(study_folder / "notebooks" / "02_b.ipynb")
    assert make() == ALL[1:]
    touch(study_folder / "params" / "smoke.yaml")
    assert make() == ALL
    assert make("SET=seed=3") == [f"{call} --set seed=3" for call in ALL[:2]] + ALL[2:]
    assert make("SET=seed=3") == []
