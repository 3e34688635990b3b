"""What make does with notebooks, whatever lies beside them and whatever the user's environment says."""

import json
import os
import shutil
import subprocess
import sys
import time

import nbformat
import pytest

from scripts.execute import execute_command
from scripts.notebooks import NOTEBOOKS, notebooks_of
from sdd_utils.cli.commands import main
from sdd_utils.files import ROOT
from sdd_utils.profiles import load_profile

# In place of .venv/bin/python -m: notebooks and packages are told apart as ever, the rest is said or done in brief.
RUN = f"""
case $1 in
    scripts.notebooks) PYTHONPATH={ROOT} exec {sys.executable} -m "$@" ;;
    scripts.execute) [[ $2 != *01_baseline* ]] && mkdir -p $(dirname $3) && touch $3 ;;
    benchmarks) touch results/runs/smoke/deployment.csv ;;
    *) echo "$@" ;;
esac
"""


@pytest.fixture
def make(tmp_path):
    """Run make in a copy of the house where a user has a notebook too."""
    for part in ("notebooks", "benchmarks", "sdd_utils", "Makefile"):
        (shutil.copytree if (ROOT / part).is_dir() else shutil.copy)(ROOT / part, tmp_path / part)
    (tmp_path / "notebooks" / "10_mine.ipynb").write_text("{}")
    (tmp_path / "run.sh").write_text(RUN)

    def run(*arguments, **environment):
        outer = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
        command = ["make", "RUN=bash run.sh", "READY=", "PROFILE=smoke", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=outer | environment, capture_output=True, text=True)

    return run


def test_a_folder_for_results_that_make_cannot_name_is_refused(make):
    ended = make("reproduce", "RESULTS=/tmp/my results")
    assert ended.returncode == 2
    assert "RESULTS: make takes no folder with a space in its name; link to it" in ended.stderr


def test_what_was_trained_elsewhere_is_published_from_there(make):
    assert "--profile smoke --results /tmp/elsewhere" in make("reference", "RESULTS=/tmp/elsewhere").stdout


@pytest.mark.parametrize("target", ["notebooks", "test", "reproduce"])
def test_a_notebook_of_the_users_is_neither_executed_nor_checked_with_ours(make, target):
    ended = make("--dry-run", target)
    assert ended.returncode == 0
    assert "09_claims.ipynb" in ended.stdout
    assert "mine" not in ended.stdout
    assert not [line for line in ended.stdout.splitlines() if line.endswith((" notebooks", "*.ipynb"))]


def test_every_notebook_that_is_ours_is_there():
    assert {f"{name}.ipynb" for name in NOTEBOOKS} <= {path.name for path in (ROOT / "notebooks").iterdir()}


def test_one_notebook_that_fails_does_not_stop_the_others(make, tmp_path):
    ended = make("reproduce")
    done = {path.stem for path in (tmp_path / "results" / "runs" / "smoke" / "notebooks").iterdir()}
    assert ended.returncode == 2
    assert "01_baseline.ipynb] Error 1" in ended.stderr
    assert done == {*notebooks_of(load_profile("smoke"))} - {"01_baseline"}


def test_notebooks_are_executed_again_after_a_change_of_the_profile_that_theirs_is_like(make, tmp_path):
    profiles = tmp_path / "notebooks" / "profiles"
    with (profiles / "smoke.yaml").open("a") as file:
        file.write("like: digits\n")
    make("reproduce")
    assert "smoke: 00_tour" not in make("--dry-run", "reproduce").stdout
    os.utime(profiles / "digits.yaml", (time.time() + 60,) * 2)
    assert "smoke: 00_tour" in make("--dry-run", "reproduce").stdout


def test_other_remedies_have_their_notebook_wherever_they_are_tried():
    with_it = {name for name in ("digits", "digits-remedies", "cifar10-remedies") if lists(name, "10_remedies")}
    assert with_it == {"digits-remedies", "cifar10-remedies"}


def lists(profile, notebook):
    return notebook in notebooks_of(load_profile(profile))


def test_without_a_list_of_notebooks_make_does_nothing(make):
    ended = make("reproduce", "PROFILE=nine")
    assert ended.returncode == 2
    assert "error: profile: there is no 'nine'" in ended.stderr
    assert "help" not in ended.stdout


@pytest.fixture
def execute(tmp_path, monkeypatch, capsys):
    """Execute a notebook of these cells; gives the exit status and what was said on stderr."""

    def run(*cells):
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells], metadata=kernel)
        nbformat.write(notebook, tmp_path / "source.ipynb")
        arguments = [tmp_path / "source.ipynb", tmp_path / "out" / "done.ipynb", "-p", "profile", "2024"]
        monkeypatch.setattr("sys.argv", ["execute", *map(str, arguments)])
        try:
            main(execute_command)
        except SystemExit as end:
            return end.code, capsys.readouterr().err
        return 0, capsys.readouterr().err

    return run


FAILING = [
    ("raise ValueError('a line\\nand another')", "ValueError: a line and another (cell 2 of "),
    ("import os; os._exit(1)", "its kernel is gone (Kernel died), perhaps for want of memory"),
]


@pytest.mark.parametrize(("cell", "message"), FAILING)
def test_a_notebook_that_fails_is_named_in_one_line_and_is_not_done(execute, tmp_path, cell, message):
    code, said = execute(cell)
    assert code == 2
    assert said.splitlines()[-1].startswith(f"error: {tmp_path / 'source.ipynb'}: {message}")
    assert "Traceback" not in said
    assert not (tmp_path / "out" / "done.ipynb").exists()


def test_parameters_are_passed_as_they_are_and_what_is_said_on_stderr_is_shown(execute, tmp_path):
    code, said = execute("import sys; print(profile, file=sys.stderr); assert profile == '2024'")
    assert (code, said) == (0, "2024\n")
    assert (tmp_path / "out" / "done.ipynb").exists()


def test_clean_says_what_it_leaves_where_the_runs_are_elsewhere(make, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "runs").symlink_to(tmp_path / "elsewhere")
    ended = make("clean")
    assert f"results/runs is a link, which is removed; the runs are left in {tmp_path / 'elsewhere'}" in ended.stdout
    assert not (tmp_path / "results" / "runs").is_symlink()
    assert "left" not in make("clean").stdout


SHOWN = """
import json, os, sys, jupyter_client.kernelspec
spec = jupyter_client.kernelspec.KernelSpecManager().get_kernel_spec("python3")
print(json.dumps([spec.argv, {name: os.environ.get(name) for name in ("PIP_USER", "PIP_TARGET", "PIP_PREFIX")}]))
"""


def test_settings_of_the_user_bring_in_no_other_python(make, tmp_path):
    """Of Jupyter, which would start another interpreter, and of pip, which would install elsewhere."""
    foreign = tmp_path / "kernels" / "python3"
    foreign.mkdir(parents=True)
    (foreign / "kernel.json").write_text(json.dumps({"argv": ["/opt/other/python"], "display_name": "x"}))
    (tmp_path / "run.sh").write_text(f"exec {sys.executable} -c '{SHOWN}'")
    pip = {"PIP_USER": "1", "PIP_TARGET": "/elsewhere", "PIP_PREFIX": "/elsewhere"}
    ended = make("--silent", "figures", f"VENV={sys.prefix}", JUPYTER_PATH=str(tmp_path), **pip)
    argv, environment = json.loads(ended.stdout)
    assert argv[:3] == ["python", "-m", "ipykernel_launcher"]  # for jupyter_client this means the Python that asks
    assert environment == {"PIP_USER": "0", "PIP_TARGET": None, "PIP_PREFIX": None}


def test_start_up_files_of_the_user_run_in_jupyterlab_alone(make, tmp_path):
    (tmp_path / "run.sh").write_text('echo "$1 $IPYTHONDIR" >> said; echo notebooks/00_tour.ipynb')
    for target in ("notebooks", "test", "reproduce", "lab"):
        make(target, IPYTHONDIR="/home/user/.ipython")
    said = dict(line.split() for line in (tmp_path / "said").read_text().splitlines())
    ours = str(tmp_path / ".venv" / "ipython")
    assert {said[command] for command in ("nbconvert", "pytest", "sdd_utils")} == {ours}
    assert said["jupyterlab"] == "/home/user/.ipython"
