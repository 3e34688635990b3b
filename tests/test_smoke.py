"""The whole pipeline from scratch, as ``make reproduce PROFILE=smoke`` runs it, and what must hold of its results."""

import json

import nbformat
import pandas as pd
import pytest
import yaml
from conftest import SMALL
from safetensors.torch import load_file

from sdd_utils.analysis import select_level
from sdd_utils.claims import CLAIM_COLUMNS
from sdd_utils.errors import ResultsMissing
from sdd_utils.profiles import load_profile
from sdd_utils.reproduce import NOTEBOOKS, TUNING, compare_claims, reproduce, tabulate
from sdd_utils.results import LEVEL_COLUMNS, load_levels
from sdd_utils.stopping import Outcome


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    assert reproduce("smoke", 2, folder) == Outcome()
    return folder


@pytest.fixture(scope="module")
def levels(runs):
    return load_levels(runs, "smoke")


def test_every_run_and_level_is_there_with_all_columns(levels):
    expected = {(e.run_id, level) for e in load_profile("smoke").experiments() for level in range(e.levels + 1)}
    assert list(levels.columns) == LEVEL_COLUMNS
    assert set(zip(levels["run_id"], levels["level"], strict=True)) == expected
    optional = ["temperature", "alpha", "energy_kwh", "emissions_kg"]  # the last two where nothing can be measured
    assert levels.drop(columns=optional).notna().all(axis=None)


def test_sparsity_follows_the_formula_and_counts_the_masks(runs, levels):
    assert (levels["sparsity"] - (1 - 0.5 ** levels["level"])).abs().max() < 5e-3
    for run, rows in levels.groupby("run_id"):
        state = load_file(runs / "smoke" / run / "checkpoint.safetensors")
        mask, weights = state["mask"], state["vector"][: len(state["mask"])]
        assert int(mask.sum()) == rows["remaining_params"].iloc[-1]
        assert not weights[~mask].any()


def test_students_were_taught_by_the_level_that_their_rule_names(runs, levels):
    students = [e for e in load_profile("smoke").experiments() if e.teacher]
    assert students
    for exp in students:
        origin = json.loads((runs / "smoke" / exp.run_id / "provenance.json").read_text())["teacher"]
        teacher = levels[levels["run_id"] == exp.teacher.experiment.run_id]
        assert origin["run_id"] == exp.teacher.experiment.run_id
        assert origin["level"] == select_level(teacher, exp.teacher.rule)


def test_every_notebook_ran_on_these_runs(runs):
    for source in (path for path in NOTEBOOKS.glob("*.ipynb") if path.name not in TUNING):
        executed = nbformat.read(runs / "smoke" / "notebooks" / source.name, as_version=4)
        injected = [c.source for c in executed.cells if "injected-parameters" in c.metadata.get("tags", [])]
        assert len(injected) == 1
        assert str(runs) in injected[0]
        assert not any(o.output_type == "error" for c in executed.cells for o in c.get("outputs", []))


def test_figures_and_claims_were_written(runs):
    assert len(list((runs / "smoke" / "figures").glob("*.png"))) == 7
    claims = pd.read_csv(runs / "smoke" / "claims.csv")
    assert list(claims.columns) == CLAIM_COLUMNS
    assert set(claims["claim"]) == {"C1", "C2a", "C2b", "C3", "C4", "C5a", "C5b", "C6"}


def test_the_comparison_names_the_verdicts_that_changed(runs, monkeypatch, tmp_path):
    claims = pd.read_csv(runs / "smoke" / "claims.csv")
    monkeypatch.setattr("sdd_utils.reproduce.REFERENCE", tmp_path)
    assert "no committed reference of profile smoke" in compare_claims(claims, "smoke")
    (tmp_path / "smoke").mkdir()
    claims.to_csv(tmp_path / "smoke" / "claims.csv", index=False)
    assert compare_claims(claims, "smoke").endswith("All verdicts as committed.")
    changed = claims.assign(verdict=["reversed", *claims["verdict"][1:]])
    last = compare_claims(changed, "smoke").splitlines()[-1]
    assert last == f"  C1 {claims['statement'][0]}: {claims['verdict'][0]} → reversed"
    gone = compare_claims(claims[1:], "smoke").splitlines()[-1]
    assert gone == f"  C1 {claims['statement'][0]}: {claims['verdict'][0]} → –"


def test_a_grid_of_tau_and_alpha_has_a_notebook_of_its_own(home):
    """A profile like digits-tau-alpha, as small as possible."""
    settings = {**SMALL, "levels": 2, "prune_share": 0.9}
    settings |= {"arch": None, "noise_rate": None, "milestones": [0.5], "epochs": 2}
    grid = {"noise_rates": [0.3], "teachers": ["sparse", "dense"], "temperatures": [1, 2], "alphas": [0.5, 1.0]}
    bad = {"noise_rates": [0.3], "teachers": ["critical", "undertrained"], "temperatures": [2], "alphas": [0.5]}
    mlp = {"settings": {k: v for k, v in settings.items() if v is not None}, "seeds": 2, "noise_rates": [0.3]}
    mlp["distillation"] = [grid, bad | {"undertrained": {"epochs": 1, "levels": 0}}]
    profile = {"profile": "tuning", "about": "", "tour": {"arch": "mlp", "noise_rate": 0.3}, "base": {}}
    content = yaml.safe_dump(profile | {"architectures": {"mlp": mlp}})
    (home / "profiles" / "tuning.yaml").write_text(content)
    assert reproduce("tuning", 1, home) == Outcome()
    assert sorted(path.name for path in (home / "tuning" / "notebooks").iterdir()) == sorted(TUNING)
    drawn = {path.stem for path in (home / "tuning" / "figures").glob("*.png")}
    assert drawn == {"rebound", "sweet", "kept", "bad_teachers"}
    levels = load_levels(home, "tuning")
    assert set(levels["teacher"]) == {"none", "sparse", "dense", "critical", "undertrained"}
    assert levels["run_id"].nunique() == 2 * (1 + 8 + 2)


def test_results_that_are_not_finished_are_missed_by_name(tmp_path):
    with pytest.raises(ResultsMissing, match=r"23 runs of smoke are not finished \(digits-mlp32"):
        tabulate("smoke", tmp_path)
    with pytest.raises(ResultsMissing, match="train it: make reproduce PROFILE=smoke"):
        load_levels(tmp_path, "smoke")
