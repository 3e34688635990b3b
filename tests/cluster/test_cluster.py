"""A real Ray cluster of three nodes on this machine: whatever happens to it, results are those of a local sweep."""

import os
import re
import signal
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import psutil
import pytest
from conftest import HANG
from inject import content, snapshot

from benchmarks.threads import Threads
from sdd_utils.cli.commands import experiments_of
from sdd_utils.errors import INTERRUPTED, SweepStopped
from sdd_utils.runner import run as runs
from sdd_utils.runner.stopping import must_stop
from sdd_utils.runner.sweep import Outcome, run_sweep

pytestmark = pytest.mark.cluster

PART = "arch=mlp,noise_rate=0.3,seed=0"  # a teacher, its two students, and another
HEAD = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}  # each a process that takes long
LONGER = "arch=mlp,noise_rate=0.3"  # long enough to be interrupted


@pytest.fixture(scope="module")
def cluster():
    """Three nodes with a core each."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # all of it on the loopback
        monkeypatch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef" * 4)
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        from ray.cluster_utils import Cluster

        made = Cluster(initialize_head=True, head_node_args=HEAD | {"num_cpus": 1})
        for _ in range(2):
            made.add_node(num_cpus=1)
        yield made
        made.shutdown()


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """The results of a sweep without a cluster."""
    folder = tmp_path_factory.mktemp("local")
    assert train(folder, Threads(1)) == Outcome()
    return folder


def train(results, executor, part=PART, **options):
    return run_sweep(experiments_of("smoke", part), Path(results) / "smoke", executor, **options)


def connect(cluster):
    from sdd_utils.runner.cluster import RayWorkers

    return RayWorkers(cluster.address)


def pausing(go):
    """``run_experiment``, which waits after a run's second level until ``go`` exists or it is asked to stop: what is to
    strike while it trains comes in time, however late."""

    def run(exp, folder, device, deadline):
        write = runs.write_tables

        def write_and_wait(run, exp, history):
            write(run, exp, history)
            while history.levels == 2 and not go.exists() and not must_stop(deadline):
                time.sleep(0.05)

        with patch.object(runs, "write_tables", write_and_wait):
            return runs.run_experiment(exp, folder, device, deadline)

    return run


PAUSING = """
import sys
from functools import partial
from pathlib import Path
from test_cluster import pausing
from sdd_utils.cli.commands import main
from sdd_utils.runner import sweep

sweep.run_sweep = partial(sweep.run_sweep, run=pausing(Path(sys.argv.pop(1))))
main()
"""


def start(results, address, part=PART, *options):
    """The command in a process of its own, whose runs pause for good after their second level."""
    command = [sys.executable, "-c", PAUSING, results / "never", "run", "--profile", "smoke", "--only", part]
    here = {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [*command, "--results", results, "--cluster", address, *options],
        env=os.environ | here,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_levels(results, number, is_alive):
    wait_until(lambda: sum(map(len, snapshot(results).values())) >= number, is_alive)


def wait_until(condition, is_alive=lambda: True):
    """Wait until it is so, for as long as what is to bring it about is alive."""
    until = time.monotonic() + HANG
    alive = True
    while not condition():
        assert alive
        alive = is_alive() and time.monotonic() < until
        time.sleep(0.05)


def at_work(process):
    try:
        return process.cmdline()[0].startswith("ray::work")
    except (psutil.NoSuchProcess, IndexError):
        return False


def workers_at_work():
    return [process for process in psutil.Process().children(recursive=True) if at_work(process)]


def kill_a_worker(cluster):
    workers_at_work()[0].kill()


def kill_a_machine(cluster):
    """One that is training dies, with everything that runs on it."""
    for node in [*cluster.worker_nodes]:
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        processes = [raylet, *raylet.children(recursive=True)]
        if any(map(at_work, processes)):
            for process in processes:
                process.kill()
            cluster.remove_node(node, allow_graceful=False)
            return
    raise AssertionError("no machine is training")


def assert_same(results, local, part=PART):
    runs = [exp.run_id for exp in experiments_of("smoke", part)]
    assert runs
    for run in runs:
        assert content(results / "smoke" / run) == content(local / "smoke" / run)


def assert_nothing_trained_again(before, results):
    """Levels that were finished before still carry the seconds that they took then."""
    after = snapshot(results)
    assert sum(map(len, before.values()))
    for run, levels in before.items():
        assert after[run][: len(levels)] == levels


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="needs Linux's /proc")
class TestOneDriver:
    """``/proc/self/cwd`` is another folder for every process: the driver alone can write the results."""

    HERE = "/proc/self/cwd"

    @pytest.fixture(scope="class")
    def executor(self, cluster):
        workers = connect(cluster)
        yield workers
        workers.stop()

    def test_the_driver_alone_writes_results_and_they_are_those_of_one_machine(
        self, executor, local, tmp_path, monkeypatch
    ):
        before = Path.cwd()
        monkeypatch.chdir(tmp_path)
        assert train(self.HERE, executor) == Outcome()
        assert_same(tmp_path, local)
        assert not (before / "smoke").exists()
        assert [path.name for path in (tmp_path / "smoke" / "locks").iterdir()] == []

    @pytest.mark.parametrize("strike", [kill_a_worker, kill_a_machine])
    def test_a_worker_or_a_machine_dies_and_its_run_goes_on(
        self, strike, executor, cluster, local, tmp_path, monkeypatch, capsys
    ):
        monkeypatch.chdir(tmp_path)
        nodes, go = len(cluster.worker_nodes), tmp_path / "go"
        with ThreadPoolExecutor(1) as thread:
            training = thread.submit(train, self.HERE, executor, LONGER, run=pausing(go))
            try:
                wait_for_levels(tmp_path, 2 * (nodes + 1), lambda: not training.done())
                before = snapshot(tmp_path)
                strike(cluster)
            finally:
                go.touch()
        assert training.result() == Outcome()
        for _ in range(nodes - len(cluster.worker_nodes)):
            cluster.add_node(num_cpus=1)
        assert "died" in capsys.readouterr().err
        assert_nothing_trained_again(before, tmp_path)
        assert_same(tmp_path, local)


def test_a_machine_with_another_version_ends_the_sweep_before_it_spoils_anything(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr("sdd_utils.runner.cluster.versions", lambda: {"sdd_utils": "of last week", "torch": "2.11.0"})
    executor = connect(cluster)
    with pytest.raises(SweepStopped, match="has another version of sdd_utils than this machine"):
        train(tmp_path, executor)
    executor.stop()
    assert not snapshot(tmp_path)


def test_a_time_budget_stops_what_has_not_begun(cluster, tmp_path):
    assert "the time budget of 0.1 s is used up" in train(tmp_path, connect(cluster), seconds=0.1).stopped
    assert not snapshot(tmp_path)


def test_the_driver_is_killed_with_its_workers_and_the_next_goes_on(cluster, local, tmp_path):
    sweep = start(tmp_path, cluster.address)
    wait_for_levels(tmp_path, 4, lambda: sweep.poll() is None)
    sweep.kill()
    sweep.wait()
    before = snapshot(tmp_path)
    wait_until(lambda: not workers_at_work())
    assert train(tmp_path, Threads(1)) == Outcome()
    assert_nothing_trained_again(before, tmp_path)
    assert_same(tmp_path, local)


def listening_sockets(process):
    with suppress(psutil.NoSuchProcess):
        return [c.laddr for c in process.net_connections() if c.status == psutil.CONN_LISTEN]
    return []


def session_folders(process):
    with suppress(psutil.NoSuchProcess):
        return re.findall(r"(/[^ =,]*)/session_[^ /,]*", " ".join(process.cmdline()))
    return []


def test_a_cluster_started_here_is_reachable_by_its_user_alone_and_ends_with_the_sweep(local, tmp_path, monkeypatch):
    for name in ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_AUTH_TOKEN", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    sweep = start(tmp_path, "ray", LONGER, "--workers", "2")
    wait_for_levels(tmp_path, 4, lambda: sweep.poll() is None)
    processes = [psutil.Process(sweep.pid), *psutil.Process(sweep.pid).children(recursive=True)]
    listening = [address for process in processes for address in listening_sockets(process)]
    folders = {Path(folder).parent for process in processes for folder in session_folders(process)}
    closed = [tmp_path / ".ray" / "auth_token", *folders]
    modes = [stat.S_IMODE(path.stat().st_mode) & 0o077 for path in closed]
    before = snapshot(tmp_path)
    os.killpg(sweep.pid, signal.SIGINT)
    said = sweep.communicate(timeout=HANG)[1]
    assert sweep.returncode == INTERRUPTED, said
    assert "Stopped: SIGINT received" in said
    assert "Traceback" not in said
    assert len(listening) > 3
    assert {address.ip for address in listening} <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    assert 8265 not in {address.port for address in listening}  # the dashboard's
    assert modes == [0, 0]
    _, alive = psutil.wait_procs(processes, timeout=HANG)
    assert not alive
    assert train(tmp_path, Threads(1)) == Outcome()  # goes on from what the workers saved at last
    assert_nothing_trained_again(before, tmp_path)
    assert_same(tmp_path, local)
