"""The house: a lock and its conda twin, clean code and notebooks, a build graph that works."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import distributions

import pytest
import yaml
from conftest import PROJECT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))


def read(name):
    return (PROJECT / name).read_text(encoding="utf-8")


def command(*arguments, **options):
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    for name in ("MAKEFLAGS", "MAKELEVEL"):  # these tests may themselves run under make
        environment.pop(name, None)
    return subprocess.run(
        arguments, capture_output=True, text=True, check=False, env=environment, **options
    )


# ----------------------------------------------------------------------------------- environments
@pytest.fixture(scope="module")
def lock():
    """Lines of the lock by package; a package that depends on the Python version has several."""
    lines = [line.strip() for line in read("requirements.lock").splitlines()]
    pinned = {}
    for line in lines:
        if line and not line.startswith("#"):
            pinned.setdefault(canonicalize_name(Requirement(line).name), []).append(line)
    return pinned


@pytest.fixture(scope="module")
def direct():
    """What pyproject.toml asks for, with the development tools, by package."""
    project = tomllib.loads(read("pyproject.toml"))["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    return {canonicalize_name(Requirement(text).name): Requirement(text) for text in wanted}


@pytest.fixture(scope="module")
def conda():
    """The pip section of the conda environment."""
    return next(d["pip"] for d in dependencies() if isinstance(d, dict))


def dependencies():
    return yaml.safe_load(read("environment.yml"))["dependencies"]


def test_the_lock_pins_every_package_and_names_no_host(lock):
    assert all(re.match(r"[\w.-]+={2,3}[\w.]+( ;|$)", line) for ls in lock.values() for line in ls)
    assert not re.search(r"https?:|--(extra-)?index|--find-links", read("requirements.lock"))


def test_torch_is_pinned_to_the_build_that_torchvision_loads_beside(lock):
    assert lock["torch"] == ["torch===2.13.0"]
    assert lock["torchvision"] == ["torchvision==0.28.0"]


def test_the_lock_satisfies_what_the_package_asks_for(lock, direct):
    for name, wanted in direct.items():
        assert lock.get(name), f"{name} is not in the lock"
        for line in lock[name]:
            version = next(iter(Requirement(line).specifier)).version
            assert wanted.specifier.contains(version), f"{wanted} against {line}"


def test_the_conda_twin_has_every_direct_pin_as_the_lock_has_it(lock, direct, conda):
    pins = [line for line in conda if not line.startswith("-")]
    assert sorted(pins) == sorted(line for name in direct for line in lock[name])


def test_the_conda_twin_holds_the_other_packages_by_the_lock(conda):
    assert [line for line in conda if line.startswith("-")] == ["-c requirements.lock", "-e ."]
    assert "python=3.11" in dependencies()


def test_the_environment_is_the_locked_one(lock):
    installed = {canonicalize_name(dist.name): dist.version for dist in distributions()}
    for name, lines in lock.items():
        for requirement in map(Requirement, lines):
            if requirement.marker is None or requirement.marker.evaluate():
                found = installed.get(name, "none").partition("+")[0]
                assert requirement.specifier.contains(found), f"{requirement}, found {found}"


# ------------------------------------------------------------------------------- code and notebooks
def test_the_code_is_clean():
    result = command(sys.executable, "-m", "ruff", "check", "--no-cache", ".", cwd=PROJECT)
    assert result.returncode == 0, result.stdout


def test_the_package_is_written_as_the_formatter_writes():
    check = (sys.executable, "-m", "ruff", "format", "--check", "--no-cache", ".")
    result = command(*check, cwd=PROJECT)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_holds_no_outputs(path):
    result = command(sys.executable, "-m", "nbstripout", "--verify", str(path))
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_can_be_given_parameters(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    tagged = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    lines = "".join(tagged[0]["source"]).splitlines()
    assert len(tagged) == 1
    # Papermill reads `name = literal  # comment`, and stumbles over a second equals sign.
    assert [line.split(" = ")[0] for line in lines] == ["profile", "overrides"]
    assert all(line.count("=") == 1 and "  # " in line for line in lines)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_short_cells(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    lengths = sorted(len(c["source"]) for c in cells if c["cell_type"] == "code")
    assert lengths[len(lengths) // 2] <= 6
    assert lengths[-1] <= 25


# ------------------------------------------------------------------------------------------- make
@pytest.fixture
def graph(study_folder):
    """A study whose `python` only notes what it is asked to do, and writes what make waits for."""
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(PROJECT / name, study_folder)
    (study_folder / "diffcore").mkdir()
    (study_folder / "diffcore" / "params.py").touch()
    for name in ("01_a", "02_b"):
        (study_folder / "notebooks" / f"{name}.ipynb").touch()
    return Graph(study_folder)


class Graph:
    """Runs make with a stand-in for the environment, and tells what it would have run."""

    PYTHON = """#!/bin/sh
echo "$@" >> calls
for word; do case $word in
    0*) mkdir -p reports/$PROFILE/$word; touch reports/$PROFILE/$word/$word.ipynb ;;
    index) touch reports/$PROFILE/index.html ;;
esac; done
"""

    def __init__(self, folder):
        self.folder, self.calls = folder, folder / "calls"
        python = folder / "venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(self.PYTHON)
        python.chmod(0o755)

    def make(self, *arguments):
        fixed = ("VENV=venv", "PROFILE=smoke", "-o", "venv/.installed")
        self.calls.write_text("")
        result = command("make", *arguments, *fixed, cwd=self.folder)
        assert result.returncode == 0, result.stderr
        return [re.sub(r"^-m diffcore.study ", "", c) for c in self.calls.read_text().splitlines()]

    def touch(self, name):
        """Date a file after all that has been made so far."""
        made = max(path.stat().st_mtime_ns for path in self.folder.rglob("*")) + 10**6
        os.utime(self.folder / name, ns=(made, made))


EVERYTHING = [
    "run --profile smoke --notebook 01_a",
    "run --profile smoke --notebook 02_b",
    "index --profile smoke",
]


def test_a_second_study_does_nothing(graph):
    assert graph.make("study") == EVERYTHING
    assert graph.make("study") == []


def test_a_changed_notebook_alone_is_run_again(graph):
    graph.make("study")
    graph.touch("notebooks/02_b.ipynb")
    assert graph.make("study") == EVERYTHING[1:]


@pytest.mark.parametrize("name", ["params/smoke.yaml", "diffcore/params.py"])
def test_changed_parameters_and_sources_run_all_again(graph, name):
    graph.make("study")
    graph.touch(name)
    assert graph.make("study") == EVERYTHING
    assert graph.make("study") == []


def test_what_a_notebook_does_not_rest_on_runs_nothing(graph):
    graph.make("study")
    graph.touch("params/demo.yaml")
    graph.touch("Makefile")
    assert graph.make("study") == []


def test_set_reaches_the_notebooks_and_counts_when_it_changes(graph):
    graph.make("study")
    changed = "SET=seed=3 measure.inference_steps=[5,10]"
    runs = [f"{run} --set seed=3 --set measure.inference_steps=[5,10]" for run in EVERYTHING[:2]]
    assert graph.make("study", changed) == [*runs, EVERYTHING[2]]
    assert graph.make("study", changed) == []
    assert graph.make("study") == EVERYTHING


def test_a_report_that_came_with_the_clone_is_made_again(graph):
    graph.make("study")
    shutil.rmtree(graph.folder / "runs")  # which git does not keep
    assert graph.make("study") == EVERYTHING


def test_an_unknown_profile_is_told_those_that_exist(graph):
    arguments = ("make", "study", "VENV=venv", "PROFILE=smok", "-o", "venv/.installed")
    result = command(*arguments, cwd=graph.folder)
    assert result.returncode != 0
    assert "No profile 'smok'. There are: " in result.stderr
    assert {"demo", "smoke", "cub200"} <= set(result.stderr.split())


def test_a_python_that_is_too_old_gets_a_remedy(graph, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("make", "sh", "find", "sed", "mkdir", "echo", "cmp"):
        (tools / tool).symlink_to(shutil.which(tool))
    (tools / "python3").write_text("#!/bin/sh\nexit 1\n")  # the answer of an older Python
    (tools / "python3").chmod(0o755)
    arguments = ("env", f"PATH={tools}", "make", "setup", "VENV=new", "SHELL=/bin/sh")
    result = command(*arguments, cwd=graph.folder)
    assert result.returncode != 0
    assert "needs Python 3.11 or newer" in result.stderr
    assert "make PYTHON=/path/to/python3.12 setup" in result.stderr
    assert not (graph.folder / "new").exists()


def test_help_names_every_target(graph):
    shown = command("make", "help", cwd=graph.folder).stdout
    targets = [line.split()[0] for line in shown.splitlines()]
    assert targets == [
        "help",
        "setup",
        "study",
        "test",
        "lab",
        "tune",
        "bench",
        "pretrain",
        "clean",
    ]


# -------------------------------------------------------------------------- continuous integration
def test_both_pipelines_run_what_a_reader_runs():
    workflow = yaml.safe_load(read(".github/workflows/test.yml"))
    steps = workflow["jobs"]["test"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == ["make test"]
    assert read(".ci/run").splitlines()[-1] == "make test"
    assert os.access(PROJECT / ".ci" / "run", os.X_OK)


def test_hooks_are_local():
    repositories = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    assert [repository["repo"] for repository in repositories] == ["local"]
