"""The lock, its conda twin and declarations agree; code and notebooks are clean; make builds."""

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
    for name in ("MAKEFLAGS", "MAKELEVEL", "RUN", "TORCH_INDEX"):  # these tests may run under make
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
    """What pyproject.toml asks for, with all extras of the lock, by package."""
    project = PYPROJECT["project"]
    extras = {**project["optional-dependencies"], "mutants": []}  # which `make mutants` installs
    wanted = sum(extras.values(), project["dependencies"])
    asked = {canonicalize_name(Requirement(text).name): Requirement(text) for text in wanted}
    del asked["diffcore"]  # an extra that takes in another one
    return asked


def test_the_lock_pins_what_the_package_asks_for_and_names_no_host(lock, declared):
    text = (PROJECT / "requirements.lock").read_text(encoding="utf-8")
    assert not re.search(r"https?:|--(extra-)?index|--find-links", text)
    assert lock["torch"] == ["torch===2.13.0"]  # with == another build comes that does not fit
    for name, wanted in declared.items():
        for line in lock[name]:
            assert wanted.specifier.contains(next(iter(Requirement(line).specifier)).version)


def test_the_conda_twin_takes_the_lock_as_it_is():
    dependencies = yaml.safe_load((PROJECT / "environment.yml").read_text())["dependencies"]
    conda = next(part["pip"] for part in dependencies if isinstance(part, dict))
    assert conda == ["-r requirements.lock", "-e ."]


CORE = """
import sys
from diffcore import DiffCoReMix, PairedDataset, load_params, patch_mix, pixel_mix, plan_generation
print(*sys.modules)
"""


@pytest.mark.slow
def test_mixing_and_pairing_need_no_extra(declared):
    core = {canonicalize_name(Requirement(t).name) for t in PYPROJECT["project"]["dependencies"]}
    of_extras = declared.keys() - core - {"jinja2", "setuptools"}
    extras = {
        name for name, owners in packages_distributions().items()
        if {canonicalize_name(owner) for owner in owners} & of_extras
    }  # fmt: skip
    found = command(sys.executable, "-c", CORE)
    assert found.returncode == 0, found.stderr
    assert {"torch", "scipy"} <= set(found.stdout.split())
    assert not extras & set(found.stdout.split())  # but jinja2, of torch, and what starts Python


@pytest.mark.slow
def test_a_wheel_runs_the_study_in_an_empty_folder(tmp_path):
    build = ("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path)
    copy = tmp_path / "copy"
    for name in ("diffcore", "notebooks", "params"):
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
    assert [path.stem for path in sorted(site.glob("notebooks/*.ipynb"))] == [
        path.stem for path in NOTEBOOKS
    ]
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(site.parent)}
    study = ("-m", "diffcore", "study", "--profile", "smoke", "--notebook", "03_mixing")
    options = {"cwd": empty, "env": environment, "capture_output": True, "text": True}
    found = subprocess.run([sys.executable, *study], check=False, **options)
    assert found.returncode == 0, found.stderr
    assert (empty / "runs/smoke/report/03_mixing/03_mixing.html").is_file()


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


@pytest.mark.slow
def test_an_active_environment_and_builds_for_cpus_can_be_asked_for():
    assert "pip" not in command("make", "-n", "study", "RUN=python", "VENV=none").stdout
    asked = ("-n", "setup", "VENV=none", "TORCH_INDEX=index")
    lines = command("make", *asked).stdout.splitlines()
    lists = [line for line in lines if line.startswith("sed")]
    torch, others = (command("sh", "-c", line.partition(" > ")[0]).stdout for line in lists)
    assert torch.split() == ["torch==2.13.0", "torchvision==0.28.0"]
    assert not re.search(r"^(nvidia|cuda|triton|torch=|torchvision)", others, re.M)
    assert {"torchmetrics", "open-clip-torch", "numpy"} <= set(re.findall(r"^[\w-]+", others, re.M))
