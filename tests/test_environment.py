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
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CORE, EXTRAS = PYPROJECT["dependencies"], PYPROJECT["optional-dependencies"]


def command(*arguments, cwd=PROJECT, **variables):
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), **variables}
    for name in ("MAKEFLAGS", "MAKELEVEL", "RUN", "TORCH_INDEX"):  # these tests may run under make
        environment.pop(name, None)
    options = {"capture_output": True, "text": True, "check": False, "env": environment}
    return subprocess.run(arguments, cwd=cwd, **options)


# -------------------------------------------------------------------------------- the environment
def test_the_lock_pins_what_the_package_needs_and_names_no_host():
    text = (PROJECT / "requirements.lock").read_text(encoding="utf-8")
    assert not re.search(r"https?:|--(extra-)?index|--find-links", text)
    assert "\ntorch===2.13.0\n" in text  # with == another build comes that does not fit
    pinned = {}  # a package that depends on the Python version has several lines
    for line in text.splitlines():
        if line and not line.startswith("#"):
            pinned.setdefault(canonicalize_name(Requirement(line).name), []).append(line)
    needed = sum((EXTRAS[name] for name in EXTRAS if name != "mutants"), CORE)
    for wanted in map(Requirement, needed):
        for line in pinned[canonicalize_name(wanted.name)] if wanted.name != "diffcore" else ():
            assert wanted.specifier.contains(next(iter(Requirement(line).specifier)).version)


def test_the_conda_twin_takes_the_lock_as_it_is():
    dependencies = yaml.safe_load((PROJECT / "environment.yml").read_text())["dependencies"]
    conda = next(each["pip"] for each in dependencies if isinstance(each, dict))
    assert conda == ["-r requirements.lock", "-e .", "-e ./paperbirds"]


IMPORTS = """
import sys
from diffcore import DiffCoReMix, PairedDataset, load_params, patch_mix, pixel_mix, plan_generation
print(*sys.modules)
"""


@pytest.mark.slow
def test_mixing_and_pairing_need_no_extra():
    extras = {Requirement(text).name for name in ("draw", "study") for text in EXTRAS[name]}
    extras -= {"diffcore", "jinja2"}  # torch brings jinja2
    modules = {name for name, owners in packages_distributions().items() if extras & {*owners}}
    result = command(sys.executable, "-c", IMPORTS)
    assert result.returncode == 0, result.stderr
    assert {"torch", "scipy"} <= set(result.stdout.split())
    assert not modules & set(result.stdout.split())


@pytest.mark.slow
def test_wheels_run_the_study_in_an_empty_folder(tmp_path):
    copy, site, empty = tmp_path / "copy", tmp_path / "site", tmp_path / "empty"
    caches = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    for name in ("diffcore", "paperbirds", "notebooks", "params"):
        shutil.copytree(PROJECT / name, copy / name, ignore=caches)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, copy)
    sources = [path.relative_to(copy) for path in copy.rglob("*.*") if path.is_file()]
    build = ("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path)
    result = command(sys.executable, *map(str, build), str(copy), str(copy / "paperbirds"))
    assert result.returncode == 0, result.stderr
    for wheel in tmp_path.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(site)
    moved = {"params": "diffcore/profiles", "notebooks": "diffcore/notebooks"}
    for path in sources:
        top, *inside = path.parts
        packed = site.joinpath(moved.get(top, top), *inside)
        outside = {"pyproject.toml", "README.md", "LICENSE", "MODEL_CARD.md", "picture.png"}
        assert packed.is_file() or path.name in outside or path.suffix == ".csv", path
    empty.mkdir()
    study = ("-m", "diffcore", "study", "--profile", "smoke", "--notebook", "08_report")
    result = command(sys.executable, *study, cwd=empty, PYTHONPATH=str(site))
    assert result.returncode == 0, result.stderr
    assert (empty / "runs/smoke/report/08_report/08_report.html").is_file()


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
    assert [line.split(" = ")[0] for line in lines][:2] == ["profile", "overrides"]
    assert all(line.count("=") == 1 and "  # " in line for line in lines)
    lengths = sorted(len("".join(cell["source"]).splitlines()) for cell in code)
    assert lengths[len(lengths) // 2] <= 6
    assert lengths[-1] <= 25


# -------------------------------------------------------------------------------------------- make
@pytest.fixture
def make(study_folder):
    """Run make with a `python` that only notes its arguments, and makes the files."""
    for name in ("diffcore", "paperbirds"):
        (study_folder / name).mkdir()
    for name in ("Makefile", "requirements.lock", "pyproject.toml", "paperbirds/pyproject.toml"):
        shutil.copy(PROJECT / name, study_folder / name)
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
    touch(study_folder / "params" / "demo.yaml")  # which smoke inherits from
    assert make() == ALL
    assert make("SET=seed=3") == [f"{call} --set seed=3" for call in ALL[:2]] + ALL[2:]
    assert make("SET=seed=3") == []


def test_make_names_the_profiles_where_one_is_missing(study_folder):
    shutil.copy(PROJECT / "Makefile", study_folder)
    result = command("make", "study", "PROFILE=demmo", "RUN=python", cwd=study_folder)
    assert result.returncode != 0
    assert "No profile 'demmo'. There are: birds" in result.stderr


@pytest.mark.slow
def test_an_active_environment_and_builds_for_cpus_can_be_chosen():
    assert "pip" not in command("make", "-n", "study", "RUN=python", "VENV=none").stdout
    lines = command("make", "-n", "setup", "VENV=none", "TORCH_INDEX=index").stdout.splitlines()
    lists = [line for line in lines if line.startswith("sed")]
    torch, others = (command("sh", "-c", line.partition(" > ")[0]).stdout for line in lists)
    assert torch.split() == ["torch==2.13.0", "torchvision==0.28.0"]
    assert not re.search(r"^(nvidia|cuda|triton|torch=|torchvision)", others, re.M)
    assert {"torchmetrics", "open-clip-torch", "numpy"} <= set(re.findall(r"^[\w-]+", others, re.M))
