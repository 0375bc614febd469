"""What all tests share: no window, no network, and a small study of their own to run."""

import os
import shutil
from pathlib import Path

import matplotlib
import pytest
from hypothesis import settings

PROJECT = Path(__file__).resolve().parents[1]

if "PYTEST_XDIST_WORKER" in os.environ:  # workers, and the kernels they start, share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"  # before any test imports the hub's client, which reads it
# An example may wait for a busy machine. What CI=true sets beside this stays.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
# Not by an environment variable, which a notebook's kernel would inherit: it draws inline.
matplotlib.use("Agg")


def make_study(folder, monkeypatch):
    """Lay out an empty study in a folder, with the project's profiles, and enter it."""
    shutil.copytree(PROJECT / "params", folder / "params")
    (folder / "notebooks").mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))  # a kernel started there finds the package
    return folder


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """The folder of the real photographs, or of pictures that stand for them."""
    from photographs import REAL, make_photographs  # brings torch, which reads what is set above

    return REAL if REAL.is_dir() else make_photographs(tmp_path_factory.mktemp("photographs"))


@pytest.fixture
def study_folder(tmp_path, monkeypatch):
    """An empty study to work in: the project's profiles, and no notebooks or reports yet."""
    return make_study(tmp_path, monkeypatch)
