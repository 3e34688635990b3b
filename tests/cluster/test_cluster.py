"""A real Ray cluster of three nodes on this machine: whatever happens to it, results are those of a local sweep."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from inject import content, snapshot

from benchmarks.threads import Threads
from sdd_utils.cli.commands import experiments_of
from sdd_utils.errors import INTERRUPTED, SweepStopped
from sdd_utils.runner.sweep import Outcome, run_sweep

pytestmark = pytest.mark.cluster

PART = "arch=mlp,noise_rate=0.3,seed=0"  # a teacher, its two students, and another
LONGER = "arch=mlp,noise_rate=0.3"  # long enough to be interrupted
RUN = [sys.executable, "-m", "sdd_utils", "run", "--profile", "smoke"]


@pytest.fixture(scope="module")
def cluster():
    """Three nodes with a core each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # all of it on the loopback
        patch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef" * 4)
        patch.setenv("RAY_AUTH_MODE", "token")
        from ray.cluster_utils import Cluster

        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
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


def start(results, address, part=PART):
    command = [*RUN, "--only", part, "--results", results, "--cluster", address]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for_levels(results, number):
    wait_until(lambda: sum(map(len, snapshot(results).values())) >= number)


def wait_until(condition):
    deadline = time.monotonic() + 200
    while not condition():
        assert time.monotonic() < deadline
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
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
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
        nodes, before = len(cluster.worker_nodes), []

        def disturb():
            wait_for_levels(tmp_path, 4)
            before.append(snapshot(tmp_path))
            strike(cluster)

        thread = threading.Thread(target=disturb)
        thread.start()
        assert train(self.HERE, executor, LONGER) == Outcome()
        thread.join()
        for _ in range(nodes - len(cluster.worker_nodes)):
            cluster.add_node(num_cpus=1)
        assert "died" in capsys.readouterr().err
        assert_nothing_trained_again(before[0], tmp_path)
        assert_same(tmp_path, local)


def test_a_machine_with_another_version_ends_the_sweep_before_it_spoils_anything(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr("sdd_utils.runner.cluster.versions", lambda: {"sdd_utils": "of last week", "torch": "2.11.0"})
    executor = connect(cluster)
    with pytest.raises(SweepStopped, match="has another version of sdd_utils than this machine"):
        train(tmp_path, executor)
    executor.stop()
    assert not snapshot(tmp_path)


def test_a_time_budget_stops_what_has_not_begun(cluster, tmp_path):
    begin = time.monotonic()
    assert "the time budget of 0.1 s is used up" in train(tmp_path, connect(cluster), seconds=0.1).stopped
    assert time.monotonic() - begin < 30
    assert not snapshot(tmp_path)


def test_the_driver_is_killed_with_its_workers_and_the_next_goes_on(cluster, local, tmp_path):
    sweep = start(tmp_path, cluster.address)
    wait_for_levels(tmp_path, 4)
    sweep.kill()
    sweep.wait()
    before = snapshot(tmp_path)
    wait_until(lambda: not workers_at_work())
    assert train(tmp_path, Threads(1)) == Outcome()
    assert_nothing_trained_again(before, tmp_path)
    assert_same(tmp_path, local)


def test_a_cluster_started_here_is_reachable_from_here_alone_and_ends_with_the_sweep(local, tmp_path, monkeypatch):
    for name in ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_AUTH_TOKEN", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    sweep = start(tmp_path, "ray", LONGER)
    wait_for_levels(tmp_path, 4)
    processes = [psutil.Process(sweep.pid), *psutil.Process(sweep.pid).children(recursive=True)]
    listening = [c.laddr for p in processes for c in p.net_connections() if c.status == psutil.CONN_LISTEN]
    before = snapshot(tmp_path)
    os.killpg(sweep.pid, signal.SIGINT)
    said = sweep.communicate(timeout=200)[1]
    assert sweep.returncode == INTERRUPTED, said
    assert "Stopped: SIGINT received" in said
    assert "Traceback" not in said
    assert len(listening) > 3
    assert {address.ip for address in listening} <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    assert 8265 not in {address.port for address in listening}  # the dashboard's
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert not alive
    assert train(tmp_path, Threads(1)) == Outcome()  # goes on from what the workers saved at last
    assert_nothing_trained_again(before, tmp_path)
    assert_same(tmp_path, local)
