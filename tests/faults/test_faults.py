"""A short run of the fault injection; ``make faults`` is the long one."""

import json
import subprocess
import sys
from pathlib import Path

INJECT = Path(__file__).with_name("inject.py")


def test_no_fault_costs_or_changes_a_result(tmp_path):
    part = "arch=mlp,noise_rate=0.3,seed=0"  # with students, and nothing that takes long to import
    command = [sys.executable, INJECT, "--faults", "4", "--seed", "8", "--record", tmp_path, "--parts", part]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    facts = json.loads((tmp_path / "provenance.json").read_text())
    assert (facts["faults"], facts["lost"], facts["altered"], facts["untidy"]) == (4, 0, 0, 0)
