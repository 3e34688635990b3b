"""When to stop: a time budget, or a signal. Asked between epochs, so that a run can save its state and leave."""

import math
import os
import re
import secrets
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import psutil

from sdd_utils.errors import ConfigError
from sdd_utils.files import FULL, no_space
from sdd_utils.runner.locks import LOCKS

_asked: list[str] = []  # the signals that this process has received


@dataclass(frozen=True)
class Until:
    """Until when a run may go on; travels to the workers.

    ``deadline`` is in seconds since the epoch; ``flag`` a file in the shared folder that is there as long as the sweep
    wants to go on. (Removed rather than made to stop, since that works on a full disk.)
    """

    deadline: float = math.inf
    flag: Path | None = None

    def reached(self, needed: float = 0.0) -> bool:
        """Whether to stop now because ``needed`` more seconds do not fit, or because somebody asked to."""
        return bool(_asked) or time.time() + needed > self.deadline or bool(self.flag and not self.flag.exists())


@dataclass
class Outcome:
    """What became of a sweep: {run_id: error} of what failed, and why and with what left it stopped, if it did."""

    failed: dict[str, str] = field(default_factory=dict)
    stopped: str = ""
    interrupted: bool = False  # by Ctrl-C


def parse_duration(text: str) -> float:
    """Seconds of ``90s``, ``9m``, ``1h30m`` or ``2d``. Raises ConfigError."""
    try:
        seconds = pd.Timedelta(text).total_seconds()
    except ValueError:
        seconds = math.nan
    if text[-1:].isdigit() or math.isnan(seconds):  # a number alone would be nanoseconds
        raise ConfigError(f"time-budget: {text!r} is not a duration such as 90s, 9m, 1h30m or 2d")
    if seconds <= 0:
        raise ConfigError(f"time-budget: {text!r} must be more than 0")
    return seconds


def note_signal(number: int, _frame: object = None) -> None:
    """A signal handler that asks this process to stop at the next epoch's end."""
    _asked.append(signal.Signals(number).name)


@contextmanager
def stop_on_signals(flag: Path) -> Iterator[list[str]]:
    """Turn Ctrl-C, SIGTERM and SIGUSR1 into the removal of ``flag``; a second Ctrl-C interrupts at once.

    Yields the list of the signals received so far. Outside the main thread, where Python has no signals, only ``flag``
    is made and removed.
    """
    received: list[str] = []

    def stop(number: int, _frame: object) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(signal.Signals(number).name)
        flag.unlink(missing_ok=True)

    _make_flag(flag)
    before = {}
    with suppress(ValueError):
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        flag.unlink(missing_ok=True)


def flag_of_this_sweep(folder: Path) -> Path:
    """A name of its own for the flag of a sweep of this process."""
    return folder / LOCKS / f"sweep-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


def _make_flag(flag: Path) -> None:
    try:
        flag.parent.mkdir(parents=True, exist_ok=True)
        for old in flag.parent.glob("sweep-*"):  # of sweeps that were killed
            ours = re.fullmatch(rf"sweep-{re.escape(socket.gethostname())}-(\d+)-[0-9a-f]+", old.name)
            with suppress(FileNotFoundError):  # its sweep may end just now
                # Another container can have our name, and other processes.
                if ours and time.time() - old.stat().st_mtime > 86400 and not psutil.pid_exists(int(ours[1])):
                    old.unlink()
        flag.touch()
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise no_space(flag, 0) from None
