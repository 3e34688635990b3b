"""``scripts/slurm.sh`` between commands that stand in for Slurm's: two nodes, of which the first is this machine."""

import os
import subprocess
import sys
import time

import pytest
from conftest import HANG
from test_cluster import PART, assert_same, train

from benchmarks.threads import Threads
from sdd_utils.errors import REQUEUE
from sdd_utils.files import ROOT

pytestmark = pytest.mark.cluster

SRUN = """#!/bin/bash
echo "srun $*" >> calls
while [[ $1 == --* ]]; do [[ $1 == --exclude=* ]] && exec sleep infinity; shift; done
exec "$@"
"""
JOB = os.getpid()  # its port follows from it: no other test has the same
SCONTROL = """#!/bin/bash
echo "scontrol $*" >> calls
[[ $1 == show ]] && printf 'localhost\\nnode2\\n' || true
"""


@pytest.fixture
def job(tmp_path):
    """Run the script as a job whose time ends in so many seconds; its exit status and what it called."""
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def run(seconds):
        (tmp_path / "calls").unlink(missing_ok=True)
        slurm = {"JOB_ID": str(JOB), "JOB_NODELIST": "node[1-2]", "CPUS_ON_NODE": "2", "SUBMIT_DIR": str(tmp_path)}
        slurm |= {"JOB_END_TIME": str(int(time.time()) + seconds)}
        env = os.environ | {f"SLURM_{name}": value for name, value in slurm.items()}
        env |= {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
        env |= {"MARGIN": "10", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
        script = [ROOT / "scripts" / "slurm.sh", "--profile", "smoke", "--only", PART, "--results", tmp_path]
        done = subprocess.run(script, env=env, capture_output=True, text=True, timeout=HANG)
        return done.returncode, (tmp_path / "calls").read_text().splitlines(), done.stdout + done.stderr

    return run


def test_a_job_queues_itself_again_until_all_is_trained(job, tmp_path):
    status, calls, said = job(0)
    assert status == REQUEUE, said
    assert "the time budget of 1 s is used up" in said
    private = """bash -c exec "$@" --temp-dir="$(mktemp -d /tmp/sdd-XXXXXX)/ray" -"""
    start, port = f"{private} {sys.executable} -m ray.scripts.scripts start", 20_000 + JOB % 20_000
    end = "--num-cpus=2 --include-log-monitor=false --disable-usage-stats --block"
    on = "srun --overlap --cpus-per-task=2"
    assert calls == [
        "scontrol show hostnames node[1-2]",
        f"{on} --nodes=1 --ntasks=1 --nodelist=localhost {start} --head --port={port} --include-dashboard=false {end}",
        f"{on} --nodes=1 --ntasks=1 --exclude=localhost {start} --address=localhost:{port} {end}",
        f"scontrol requeue {JOB}",
    ]
    status, calls, said = job(HANG)
    assert status == 0, said
    assert not [call for call in calls if "requeue" in call]
    train(tmp_path / "local", Threads(1))
    assert_same(tmp_path, tmp_path / "local", PART)
