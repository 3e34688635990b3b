"""A run is trained by one process at a time, and a lock whose owner is gone holds nobody up for ever."""

import errno
import os
import socket
import time

import psutil
import pytest

from benchmarks.threads import Threads
from sdd_utils.errors import Busy
from sdd_utils.runner import locks
from sdd_utils.runner.integrity import finished
from sdd_utils.runner.inventory import survey
from sdd_utils.runner.locks import claimed, hold, lease, try_acquire
from sdd_utils.runner.sweep import Outcome, run_sweep

ELSEWHERE = "filelock/2\npid=1\nhost=node7\nmode=lease\ntoken=00\nduration=0.5\n"


@pytest.fixture
def short(monkeypatch):
    """Locks go stale after half a second."""
    monkeypatch.setattr(locks, "LEASE_SECONDS", 0.5)


@pytest.fixture(params=["names can be exchanged", errno.EOPNOTSUPP])
def exchange(request, monkeypatch):
    """File systems as they are: NFS and SMB refuse to exchange two names."""
    if isinstance(request.param, int):
        monkeypatch.setattr("filelock._util._rename_call", lambda: (lambda *_: request.param, 2))


def of_a_dead_process(run):
    """Leave the lock of a process of this machine that was killed."""
    if (pid := os.fork()) == 0:
        lock = lease(run)  # it would be released where no name held it
        os._exit(not try_acquire(lock))
    os.waitpid(pid, 0)
    assert lease(run).pid == pid


def eventually(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_dead_process_of_this_machine_holds_nothing_up(tmp_path, small, exchange):
    exp = small(levels=0)
    of_a_dead_process(tmp_path / exp.run_id)
    assert run_sweep([exp], tmp_path, Threads(1)) == Outcome()
    assert finished(exp, tmp_path)
    assert list((tmp_path / "locks").iterdir()) == []


def test_a_sweep_says_whom_it_waits_for_and_goes_on_when_another_machine_is_gone(
    tmp_path, small, short, exchange, capsys
):
    exp = small(levels=0)
    path = tmp_path / "locks" / f"{exp.run_id}.lock"
    path.parent.mkdir()
    path.write_text(ELSEWHERE.replace("node7", "node7\x1b[2J"))
    os.utime(path, (1.6e9, 1.6e9))
    assert run_sweep([exp], tmp_path, Threads(1)) == Outcome()
    said = capsys.readouterr().err
    assert said.count(f"waiting: {exp.run_id} is held by node7[2J, process 1, refreshed ") == 1
    assert f"; 0.5 s without a refresh free it ({path})" in said


ODD = {
    "of another kind": ELSEWHERE.replace("lease", "exclusive"),
    "of a later release": ELSEWHERE.replace("lease", "shared"),
    "with another duration": ELSEWHERE.replace("0.5", "30"),
    "empty after a power cut": "",
    "of another program": "locked by hand\n",
    "a folder": None,
}


@pytest.mark.parametrize("seconds_ahead", [0, 1e6])
@pytest.mark.parametrize("content", ODD.values(), ids=ODD)
def test_an_odd_lock_is_not_waited_for_for_ever(tmp_path, short, exchange, content, seconds_ahead):
    path = tmp_path / "locks" / "run.lock"
    path.parent.mkdir()
    path.mkdir() if content is None else path.write_text(content)
    os.utime(path, (time.time() + seconds_ahead,) * 2)
    with pytest.raises(Busy, match=r"run is held by .*process.*run\.lock\)$"), claimed(tmp_path / "run"):
        pass
    lock = lease(tmp_path / "run")
    eventually(lambda: try_acquire(lock))
    hold(lock)
    lock.release()


def test_a_lock_that_may_not_be_written_is_not_waited_for_for_ever(tmp_path, short, monkeypatch):
    path = tmp_path / "locks" / "run.lock"
    path.parent.mkdir()
    path.write_text(ELSEWHERE)
    path.chmod(0)
    monkeypatch.setattr(os, "access", lambda *_, **__: False)  # as root may write to everything
    lock = lease(tmp_path / "run")
    assert not try_acquire(lock)
    eventually(lambda: try_acquire(lock))
    lock.release()


def test_a_lock_that_is_refreshed_is_never_taken(tmp_path, short, exchange):
    path = tmp_path / "locks" / "run.lock"
    with claimed(tmp_path / "run") as lock:
        refreshed = set()
        while len(refreshed) < 6:  # longer than a lease
            refreshed.add(path.stat().st_mtime_ns)
            with pytest.raises(Busy), claimed(tmp_path / "run"):
                pass
        hold(lock)


def test_a_lock_that_changes_hands_while_it_is_judged_stays_with_its_new_owner(tmp_path, monkeypatch):
    run = tmp_path / "run"
    of_a_dead_process(run)
    monkeypatch.setattr("filelock._util._rename_call", lambda: (lambda *_: errno.EINVAL, 2))
    rename, winner, late = os.rename, lease(run), lease(run)

    def another_is_faster(*names):
        monkeypatch.setattr(os, "rename", rename)
        assert try_acquire(winner)
        rename(*names)

    monkeypatch.setattr(os, "rename", another_is_faster)
    assert not try_acquire(late)
    hold(winner)
    winner.release()
    assert list((tmp_path / "locks").iterdir()) == []


@pytest.mark.parametrize(
    ("host", "age", "state"),
    [
        ("", 0, "waiting"),  # of this machine, where there is no such process
        ("?pidns-f0000abc", 0, "running"),  # of a container, whose processes have numbers of their own
        (".example.org", 0, "running"),
        (".example.org", 3600, "waiting"),
        (".example.org", -3600, "waiting"),  # by a clock that was wrong
    ],
)
def test_status_asks_for_the_process_only_where_it_can_see_it(tmp_path, small, host, age, state):
    exp = small()
    of_a_dead_process(tmp_path / exp.run_id)
    path = tmp_path / "locks" / f"{exp.run_id}.lock"
    path.write_text(
        path.read_text().replace(f"host={locks._here(socket.gethostname())}", f"host={socket.gethostname()}{host}")
    )
    os.utime(path, (time.time() - age,) * 2)
    found = survey([exp], tmp_path).iloc[0]
    assert found["state"] == state
    assert found["note"] == (f"on {socket.gethostname()}{host.split('?')[0]}" if state == "running" else "")


def test_a_lock_is_taken_from_no_process_that_this_one_cannot_see(tmp_path, exchange):
    of_a_dead_process(tmp_path / "run")
    path = tmp_path / "locks" / "run.lock"
    path.write_text(
        path.read_text().replace(
            f"host={locks._here(socket.gethostname())}", f"host={socket.gethostname()}?pidns-f0000abc"
        )
    )
    assert not psutil.pid_exists(lease(tmp_path / "run").pid)
    assert not try_acquire(lease(tmp_path / "run"))
