"""The whole pipeline from scratch, as ``make reproduce PROFILE=smoke`` runs it, and what must hold of its results."""

import json
import os
import subprocess
import sys

import nbformat
import pandas as pd
import pytest
from safetensors.torch import load_file

from scripts.notebooks import notebooks_of
from sdd_utils.analysis.claims import CLAIM_COLUMNS
from sdd_utils.analysis.compare import compare_claims
from sdd_utils.distillation import select_level
from sdd_utils.files import ROOT
from sdd_utils.profiles import load_profile
from sdd_utils.study import Study
from sdd_utils.tables import LEVEL_COLUMNS


def make(target, runs, **variables):
    """Run make with this interpreter in place of a .venv of its own; what it printed."""
    settings = {
        "PROFILE": "smoke",
        "RESULTS": runs,
        "WORKERS": 1,
        "RUN": f"{sys.executable} -m",
        "READY": "",
    } | variables
    outer = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    command = ["make", target, *(f"{key}={value}" for key, value in settings.items())]
    return subprocess.run(command, cwd=ROOT, env=outer, capture_output=True, text=True)


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    return runs, make("reproduce", runs)


@pytest.fixture(scope="module")
def runs(reproduced):
    folder, ended = reproduced
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def levels(runs):
    return Study("smoke", runs).levels()


def test_every_run_and_level_is_there_with_all_columns(levels):
    expected = {(e.run_id, level) for e in load_profile("smoke").experiments() for level in range(e.levels + 1)}
    assert list(levels.columns) == LEVEL_COLUMNS
    assert set(zip(levels["run_id"], levels["level"], strict=True)) == expected
    optional = ["temperature", "alpha", "energy_kwh", "emissions_kg"]  # the last two where nothing can be measured
    assert levels.drop(columns=optional).notna().all(axis=None)


def test_sparsity_follows_the_formula_and_counts_the_masks(runs, levels):
    assert (levels["sparsity"] - (1 - 0.5 ** levels["level"])).abs().max() < 5e-3
    for run, rows in levels.groupby("run_id"):
        state = load_file(max((runs / "smoke" / run).glob("level-*.safetensors")))
        mask, weights = state["mask"], state["vector"][: len(state["mask"])]
        assert int(mask.sum()) == rows["remaining_params"].iloc[-1]
        assert not weights[~mask].any()


def test_students_were_distilled_from_the_level_that_their_rule_names(runs, levels):
    students = [e for e in load_profile("smoke").experiments() if e.teacher]
    assert students
    for exp in students:
        origin = json.loads((runs / "smoke" / exp.run_id / "provenance.json").read_text())["teacher"]
        teacher = levels[levels["run_id"] == exp.teacher.experiment.run_id]
        assert origin["run_id"] == exp.teacher.experiment.run_id
        assert origin["level"] == select_level(teacher, exp.teacher.rule)


def test_every_notebook_ran_on_these_runs_and_showed_its_progress(reproduced, runs):
    for name in notebooks_of(load_profile("smoke")):
        executed = nbformat.read(runs / "smoke" / "notebooks" / f"{name}.ipynb", as_version=4)
        (injected,) = [c.source for c in executed.cells if "injected-parameters" in c.metadata.get("tags", [])]
        assert str(runs) in injected
        assert not any(o.output_type == "error" for c in executed.cells for o in c.get("outputs", []))
    assert "smoke: 01_baseline" in reproduced[1].stdout
    assert "100%" in reproduced[1].stderr
    assert "WARNING" not in reproduced[1].stderr
    assert "23 runs" not in reproduced[1].stderr  # each notebook trains its own methods


def test_make_knows_what_is_done_and_ends_with_the_claims(runs):
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file() and path.name != "claims.csv"}
    again = make("reproduce", runs)
    assert again.returncode == 0
    assert "smoke: 01_baseline" not in again.stdout
    assert "There is no committed reference of profile smoke to compare with.\n" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_figures_and_claims_were_written(runs):
    drawn = {path.stem for path in (runs / "smoke" / "figures").glob("*.png")}
    assert drawn == {"tour", "cure", "baseline", "l2_sweep", "weights", "distillation", "frontier"}
    claims = pd.read_csv(runs / "smoke" / "claims.csv")
    assert list(claims.columns) == CLAIM_COLUMNS
    assert set(claims["claim"]) == {"C1", "C2a", "C2b", "C3", "C4", "C5a", "C5b", "C6"}


def test_a_notebook_that_fails_is_not_done(tmp_path):
    (tmp_path / "smoke").write_text("no folder for runs")
    ended = make(f"{tmp_path}/notebooks/01_baseline.ipynb", tmp_path, EXECUTED=f"{tmp_path}/notebooks")
    assert ended.returncode != 0
    assert "smoke" in ended.stderr
    assert not (tmp_path / "notebooks" / "01_baseline.ipynb").exists()


def test_a_budget_trains_ahead_and_the_notebooks_wait_for_the_rest(tmp_path):
    ended = make("reproduce", tmp_path, BUDGET="1s")
    assert ended.returncode != 0
    assert "Stopped: the time budget of 1 s is used up." in ended.stderr
    assert not (tmp_path / "smoke" / "notebooks").exists()


def test_the_comparison_names_the_verdicts_that_changed(runs, monkeypatch, tmp_path):
    claims = pd.read_csv(runs / "smoke" / "claims.csv")
    monkeypatch.setattr("sdd_utils.analysis.compare.REFERENCE", tmp_path)
    assert "no committed reference of profile smoke" in compare_claims(claims, "smoke")
    (tmp_path / "smoke").mkdir()
    claims.to_csv(tmp_path / "smoke" / "claims.csv", index=False)
    assert compare_claims(claims, "smoke").endswith("All verdicts as committed.")
    changed = claims.assign(verdict=["reversed", *claims["verdict"][1:]])
    last = compare_claims(changed, "smoke").splitlines()[-1]
    assert last == f"  C1 {claims['statement'][0]}: {claims['verdict'][0]} → reversed"
    gone = compare_claims(claims[1:], "smoke").splitlines()[-1]
    assert gone == f"  C1 {claims['statement'][0]}: {claims['verdict'][0]} → –"
