"""A short run of the fault injection; ``make faults`` is the long one."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from inject import KINDS

from sdd_utils.tables import REFERENCE

INJECT = Path(__file__).with_name("inject.py")


@pytest.mark.parametrize("kinds", [[], ["--kinds", *KINDS[-4:]]], ids=["any", "rare ones"])
def test_no_fault_costs_or_changes_a_result(tmp_path, kinds):
    part = "arch=mlp,noise_rate=0.3,seed=0"  # with students, and nothing that takes long to import
    command = [sys.executable, INJECT, "--faults", "4", "--seed", "8", "--record", tmp_path, "--parts", part, *kinds]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    facts = json.loads((tmp_path / "provenance.json").read_text())
    assert (facts["faults"], facts["lost"], facts["altered"], facts["untidy"]) == (4, 0, 0, 0)


def test_the_record_of_the_long_run_is_complete_and_clean():
    facts = json.loads((REFERENCE / "faults" / "provenance.json").read_text())
    table = pd.read_csv(REFERENCE / "faults" / "faults.csv")
    assert len(table) == facts["faults"] >= 300
    assert not table[["lost", "altered", "untidy"]].any(axis=None)
    assert table["fault"].tolist() == list(range(1, len(table) + 1))
    assert set(table["kind"]) == {kind.strip() for kind in KINDS}
