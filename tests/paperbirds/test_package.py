"""The package as others meet it: its README runs, its wheel is whole, importing it is cheap."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import paperbirds

HOME = Path(paperbirds.__file__).parent


@pytest.mark.slow
def test_the_lines_of_the_readme_run(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (HOME / "README.md").read_text("utf-8"), re.DOTALL)
    found: dict = {}
    exec(code, found)
    assert found["bird"].image.shape == (64, 64, 3)
    assert len(found["train"]) == 120
    assert found["train"].masks.any(axis=(1, 2)).mean() > 0.95
    assert found["drawn"].shape == (1, 64, 64, 3)
    assert capsys.readouterr().out == "['blue jay']\n"
    assert np.ptp(found["drawn"]) > 0.3


def test_a_wheel_holds_the_weights_the_tables_and_the_pretraining():
    settings = tomllib.loads((HOME / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    folders = {name: HOME / settings["package-dir"][name] for name in settings["packages"]}
    assert {path.parent for path in HOME.rglob("*.py")} == {*folders.values()}
    patterns = settings["package-data"].items()
    data = {f for name, globs in patterns for glob in globs for f in folders[name].glob(glob)}
    wanted = [*HOME.rglob("*.yaml"), *HOME.rglob("*.j2"), *HOME.glob("weights/**/*")]
    assert data == set(wanted)


def test_the_data_set_imports_no_model():
    code = "import sys, paperbirds.dataset; print(*{'diffusers', 'open_clip'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
