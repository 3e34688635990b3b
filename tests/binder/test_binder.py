"""The environment that binder/ describes: without torch, and every notebook can be executed in it on the references."""

import os
import subprocess
import sys

import nbformat
import pytest

from scripts.notebooks import NOTEBOOKS
from sdd_utils.files import ROOT

pytestmark = pytest.mark.binder
NAMES = sorted(NOTEBOOKS)


def run(*command, **env):
    mine = {name: value for name, value in os.environ.items() if not name.startswith("JUPYTER_")}
    return subprocess.run([*map(str, command)], env=mine | env, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The folder of all notebooks, executed there by a Python that has binder's requirements alone."""
    folder = tmp_path_factory.mktemp("binder")
    run(sys.executable, "-m", "venv", folder / "venv")
    python = folder / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "-r", ROOT / "binder" / "requirements.txt")  # as mybinder.org does
    assert run(python, "-c", "import importlib.util; print(importlib.util.find_spec('torch'))") == "None\n"
    sources = [ROOT / "notebooks" / f"{name}.ipynb" for name in NAMES]
    to = ["--to", "notebook", "--output-dir", folder / "done"]
    run(python, "-m", "nbconvert", "--execute", *to, *sources, PYTHONPATH=str(ROOT))
    return folder / "done"


def test_pip_accepts_what_make_installs_by_uv(executed):
    python = executed.parent / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--dry-run", "-r", ROOT / "requirements.lock")


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_gives_its_answer_there(executed, name):
    there, here = (
        nbformat.read(folder / f"{name}.ipynb", as_version=4).cells[-1].outputs
        for folder in (executed, ROOT / "notebooks")
    )
    assert there
    assert [output["data"]["text/markdown"] for output in there] == [output["data"]["text/markdown"] for output in here]
