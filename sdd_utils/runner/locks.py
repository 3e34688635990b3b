"""Who trains which run, when several sweeps work in one results folder, on one machine or on many."""

import math
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from filelock import LeaseSettingsMismatch, OwnerRecord, SoftFileLease, Timeout

from sdd_utils.errors import Busy
from sdd_utils.files import FULL, no_space

LOCKS = "locks"  # the folder for locks, beside the runs of a profile
LEASE_SECONDS = 60.0  # a lock not refreshed for so long is nobody's; that of a dead process here is at once

_seen: dict[str, tuple[tuple, float]] = {}  # lock file → how it looked last, and since when on this process's clock


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
        raise Busy(f"{run.name} is {held_by(lock)}")
    try:
        yield lock
    finally:
        lock.release()


def try_acquire(lock: SoftFileLease) -> bool:
    """Take the lock if nobody has it, or if who had it is gone."""
    path = Path(lock.lock_file)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (Timeout, LeaseSettingsMismatch, PermissionError, IsADirectoryError) as error:
        there = os.path.lexists(path)
        if isinstance(error, PermissionError) and not there:  # it is the folder that we may not write to
            raise
        return _remove_stale(lock) and try_acquire(lock)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise no_space(path, 200) from None
    return True


def _remove_stale(lock: SoftFileLease) -> bool:
    """Remove the lock if its process here is gone, or if nobody has refreshed it for LEASE_SECONDS before our eyes.

    filelock does so where it can exchange two names at once and understands the lock. It cannot on NFS or SMB, and it
    leaves odd locks alone for ever: an empty one of a power cut, one of another program, one that nobody may write.
    """
    path, now = lock.lock_file, time.monotonic()
    try:
        stat = os.lstat(path)
        look = stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns
        if _seen.setdefault(path, (look, now))[0] != look:
            _seen[path] = look, now
        if now - _seen[path][1] < LEASE_SECONDS and not _is_gone(lock.owner):
            return False
        os.rename(path, aside := f"{path}.{secrets.token_hex(8)}")
        found = os.lstat(aside)
        if (found.st_ino, found.st_mtime_ns) != look[:2]:
            os.replace(aside, path)  # it was refreshed, or is somebody else's by now; whoever it is looks with hold()
            return False
        os.unlink(aside)
    except OSError:  # released just now, or not ours to remove
        return False
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
    at_work = owner is not None and not _is_gone(owner) and abs(_seconds_old(lock)) < LEASE_SECONDS
    return _machine(owner) if at_work else ""


def held_by(lock: SoftFileLease) -> str:
    """Whose the lock is, its last sign of life, and where it is, for who has to wait for it."""
    owner = lock.owner
    who = f"{_machine(owner)}, process {owner.pid}" if owner else "an unknown process"
    when = f"refreshed {_seconds_old(lock):.0f} s ago; {LEASE_SECONDS:g} s without a refresh free it"
    return f"held by {who}, {when} ({lock.lock_file})"


def _seconds_old(lock: SoftFileLease) -> float:
    try:
        return time.time() - os.lstat(lock.lock_file).st_mtime
    except OSError:  # released just now
        return math.nan


def _machine(owner: OwnerRecord) -> str:
    name = owner.hostname.split("?")[0]  # filelock adds the process namespace
    return "".join(filter(str.isprintable, name))


def _is_gone(owner: OwnerRecord | None) -> bool:
    """Whether the owner was a process of this machine, and of this namespace, that has ended."""
    return owner is not None and owner.hostname == _here(socket.gethostname()) and not psutil.pid_exists(owner.pid)


@cache
def _here(_host: str) -> str:
    """How filelock calls this machine: where containers share a host's name, with the process namespace."""
    with TemporaryDirectory() as folder, SoftFileLease(Path(folder) / "lock") as lock:
        return lock.owner.hostname
