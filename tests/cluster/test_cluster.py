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

from sdd_utils.errors import INTERRUPTED, REQUEUE, SweepStopped
from sdd_utils.profiles import select
from sdd_utils.reproduce import experiments_of
from sdd_utils.stopping import Outcome

pytestmark = pytest.mark.cluster

PART = "arch=mlp,noise_rate=0.3,seed=0"  # a teacher and students, and others
RUN = [sys.executable, "-m", "sdd_utils", "run", "--profile", "smoke"]


@pytest.fixture(scope="module")
def cluster():
    """Three nodes with a core each, the head with Ray's server for ``ray://``."""
    os.environ |= {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # all of it on the loopback
        "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
        "RAY_AUTH_MODE": "token",
        "GRPC_ENABLE_FORK_SUPPORT": "0",
    }
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "ray_client_server_port": 21001})
    for _ in range(2):
        made.add_node(num_cpus=1)
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """The results of a sweep of this machine's own."""
    folder = tmp_path_factory.mktemp("local")
    subprocess.run([*RUN, "--results", folder], check=True, capture_output=True)
    return folder


def start(results, cluster, *options):
    address = cluster if isinstance(cluster, str) else cluster.address
    command = [*RUN, "--results", results, "--cluster", address, *options]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def end(sweep, status=0):
    _, said = sweep.communicate(timeout=300)
    assert sweep.returncode == status, said
    assert "Traceback" not in said
    return said


def wait_for_levels(results, number):
    deadline = time.monotonic() + 200
    while sum(map(len, snapshot(results).values())) < number:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def at_work(process):
    try:
        return process.cmdline()[0].startswith("ray::work")
    except (psutil.NoSuchProcess, IndexError):
        return False


def kill_a_machine(cluster):
    """One that is training dies, with everything that runs on it."""
    deadline = time.monotonic() + 100
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


def assert_same(results, local, part=""):
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


def test_the_smoke_profile_is_the_same_as_on_one_machine(cluster, local, tmp_path):
    end(start(tmp_path, cluster))
    assert_same(tmp_path, local)


def test_a_node_dies_and_its_runs_are_taken_up_elsewhere(cluster, local, tmp_path):
    sweep = start(tmp_path, cluster)
    wait_for_levels(tmp_path, 40)
    before = snapshot(tmp_path)
    kill_a_machine(cluster)
    said = end(sweep)
    cluster.add_node(num_cpus=1)
    assert "died" in said
    assert_nothing_trained_again(before, tmp_path)
    assert_same(tmp_path, local)


def test_the_driver_is_killed_and_the_next_goes_on(cluster, local, tmp_path):
    sweep = start(tmp_path, cluster, "--only", PART)
    wait_for_levels(tmp_path, 8)
    sweep.send_signal(signal.SIGKILL)
    sweep.wait()
    before = snapshot(tmp_path)
    end(start(tmp_path, cluster, "--only", PART))
    assert_nothing_trained_again(before, tmp_path)
    assert_same(tmp_path, local, PART)


def test_a_worker_is_killed_and_its_run_goes_on(cluster, local, tmp_path):
    sweep = start(tmp_path, cluster, "--only", PART)
    wait_for_levels(tmp_path, 8)
    before = snapshot(tmp_path)
    next(process for process in psutil.process_iter() if at_work(process)).kill()
    assert "died" in end(sweep)
    assert_nothing_trained_again(before, tmp_path)
    assert_same(tmp_path, local, PART)


def test_results_are_sent_home_from_machines_that_share_no_folder(cluster, local, tmp_path, monkeypatch, caplog):
    """``/proc/self/cwd`` is another folder for every process. A node dies on the way as well."""
    import ray

    from sdd_utils.cluster import RayWorkers
    from sdd_utils.sweep import run_sweep

    monkeypatch.chdir(tmp_path)
    here = Path("/proc/self/cwd/smoke")
    hands, before = RayWorkers(cluster.address), []

    def strike():
        wait_for_levels(tmp_path, 4)
        before.append(snapshot(tmp_path))
        kill_a_machine(cluster)

    thread = threading.Thread(target=strike)
    thread.start()
    try:
        assert run_sweep(select(experiments_of("smoke"), PART), here, hands) == Outcome()
    finally:
        hands.stop()
        thread.join()
        cluster.add_node(num_cpus=1)
    assert not ray.is_initialized()
    assert "does not see /proc/self/cwd/smoke; from now on results are sent here" in caplog.text
    assert_nothing_trained_again(before[0], tmp_path)
    assert_same(tmp_path, local, PART)
    assert not [p for p in (tmp_path / "smoke" / "locks").iterdir() if p.suffix == ".lock"]


def test_a_machine_with_another_version_ends_the_sweep_before_it_spoils_anything(cluster, tmp_path, monkeypatch):
    from sdd_utils.cluster import RayWorkers
    from sdd_utils.sweep import run_sweep

    monkeypatch.setattr("sdd_utils.cluster.versions", lambda: {"sdd_utils": "of last week", "torch": "2.11.0"})
    hands = RayWorkers(cluster.address)
    with pytest.raises(SweepStopped, match="has another version of sdd_utils than this machine"):
        run_sweep(select(experiments_of("smoke"), PART), tmp_path / "smoke", hands)
    hands.stop()
    assert not snapshot(tmp_path)


def test_a_driver_outside_of_the_cluster_gets_the_same(cluster, local, tmp_path):
    end(start(tmp_path, "ray://127.0.0.1:21001", "--only", PART))
    assert_same(tmp_path, local, PART)


def test_the_time_budget_and_ctrl_c_stop_a_cluster_too(cluster, local, tmp_path):
    said = end(start(tmp_path, cluster, "--only", PART, "--time-budget", "4s"), REQUEUE)
    assert "Stopped: the time budget of 4 s is used up." in said
    sweep = start(tmp_path, cluster, "--only", PART)
    wait_for_levels(tmp_path, 8)
    os.killpg(sweep.pid, signal.SIGINT)
    end(sweep, INTERRUPTED)
    before = snapshot(tmp_path)
    end(start(tmp_path, cluster, "--only", PART))
    assert_nothing_trained_again(before, tmp_path)
    assert_same(tmp_path, local, PART)


def test_a_cluster_started_here_is_reachable_from_here_alone_and_ends_with_the_sweep(local, tmp_path, monkeypatch):
    for name in ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_AUTH_TOKEN", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    sweep = start(tmp_path, "ray", "--only", PART, "--workers", "2")
    wait_for_levels(tmp_path, 8)
    processes = [psutil.Process(sweep.pid), *psutil.Process(sweep.pid).children(recursive=True)]
    listening = [c.laddr for p in processes for c in p.net_connections() if c.status == psutil.CONN_LISTEN]
    end(sweep)
    assert len(listening) > 3
    assert {address.ip for address in listening} <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    assert 8265 not in {address.port for address in listening}  # the dashboard's
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert not alive
    assert_same(tmp_path, local, PART)
