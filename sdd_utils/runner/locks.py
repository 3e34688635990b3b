"""Who trains which run, when several sweeps work in one results folder, on one machine or on many."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from filelock import SoftFileLease, Timeout

from sdd_utils.errors import Busy
from sdd_utils.files import FULL, no_space

LOCKS = "locks"  # the folder for locks, beside the runs of a profile
LEASE_SECONDS = 60.0  # a lock not refreshed for so long is nobody's; that of a dead process here is at once


def lease(run: Path) -> SoftFileLease:
    """The lock of one run, which a process holds, whichever of its threads: a file that is refreshed meanwhile, as
    needed where flock does not reach."""
    path = run.parent / LOCKS / f"{run.name}.lock"
    return SoftFileLease(path, lease_duration=LEASE_SECONDS, timeout=0, thread_local=False)


@contextmanager
def claimed(run: Path) -> Iterator[SoftFileLease]:
    """Hold the run's lock. Raises Busy when somebody else does, NoSpace when there is no room for a lock."""
    lock = lease(run)
    if not try_acquire(lock):
        raise Busy(f"{run.name} is being trained by process {lock.pid or '?'}")
    try:
        yield lock
    finally:
        lock.release()


def try_acquire(lock: SoftFileLease) -> bool:
    """Take the lock if nobody has it, or if who had it is gone."""
    try:
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        try:
            stat = Path(lock.lock_file).stat()
        except OSError:
            return False
        if stat.st_size or time.time() - stat.st_mtime < LEASE_SECONDS:
            return False
        lock.force_break()  # of a power cut: it names no owner, and filelock would wait for ever
        return try_acquire(lock)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise no_space(Path(lock.lock_file), 200) from None
    return True


def hold(lock: SoftFileLease) -> None:
    """To be asked before anything is written: raises Busy when this process did not answer and another took over."""
    for _ in range(2):
        owner = lock.owner
        if owner is not None and owner.token == lock.token:
            return
        time.sleep(0.2)  # who looks for a stale lock takes it away for an instant
    raise Busy(f"{lock.lock_file}: another process took over, since this one did not answer for {LEASE_SECONDS:g} s")


def holder(run: Path) -> str:
    """The machine that seems to be at work on the run, or ``""``; for display: only ``try_acquire`` tells for sure."""
    lock = lease(run)
    owner = lock.owner
    try:
        if owner is None or time.time() - Path(lock.lock_file).stat().st_mtime > LEASE_SECONDS:
            return ""
    except OSError:
        return ""
    machine = owner.hostname.split("?")[0]
    return machine if machine != socket.gethostname() or psutil.pid_exists(owner.pid) else ""
