"""When to stop: at a deadline, or on a signal. Asked between epochs, so that a run can save its state and leave."""

import math
import os
import signal
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pandas as pd

from sdd_utils.errors import ConfigError

STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)  # beside Ctrl-C
_asked: list[str] = []  # the signals that have asked this process to stop


def must_stop(deadline: float, needed: float = 0.0) -> bool:
    """Whether a signal came, or ``needed`` more seconds would end after ``deadline`` (seconds since the epoch)."""
    return bool(_asked) or time.time() + needed > deadline


def note_signal(number: int, _frame: object = None) -> None:
    """A signal handler that asks this process to stop at the next epoch's end."""
    if number == signal.SIGHUP:
        leave_terminal()
    _asked.append(signal.Signals(number).name)


def heed(number: int, handler: Callable) -> object:
    """Handle a signal, unless it is SIGHUP and nohup has it ignored. Returns what handled it before."""
    if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
        return signal.SIG_IGN
    return signal.signal(number, handler)


def leave_terminal() -> None:
    """Have nothing written to a terminal that is closed, since that fails."""
    for stream in (1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(stream).st_mode):
                silence(stream)


def silence(stream: int) -> None:
    """Have what is written to this file descriptor go nowhere."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream)


@contextmanager
def unasked() -> Iterator[list[str]]:
    """Where nobody has asked this process to stop yet; yields the list of those who do, and forgets them after."""
    _asked.clear()
    try:
        yield _asked
    finally:
        _asked.clear()


@contextmanager
def stop_on_signals() -> Iterator[list[str]]:
    """Have Ctrl-C and STOPPING ask this process to stop; a second Ctrl-C interrupts at once.

    Yields the signals received so far, none yet. Outside the main thread, Python has no signals.
    """

    def stop(number: int, _frame: object) -> None:
        if _asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        note_signal(number)

    with unasked() as received:
        before = {}
        with suppress(ValueError):
            before = {number: heed(number, stop) for number in (signal.SIGINT, *STOPPING)}
        try:
            yield received
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def parse_duration(text: str | float | None, name: str = "time-budget") -> float | None:
    """Seconds of ``90s``, ``9m``, ``1h30m`` or ``2d``; a number is seconds, and None is None. Raises ConfigError,
    which names the parameter ``name``."""
    if text is None:
        return None
    try:
        seconds = (pd.Timedelta(text) if isinstance(text, str) else pd.Timedelta(seconds=text)).total_seconds()
    except (ValueError, TypeError):
        seconds = math.nan
    if math.isnan(seconds) or (isinstance(text, str) and text[-1:].isdigit()):  # "9" would be nine nanoseconds
        raise ConfigError(f"{name}: {text!r} is not a duration such as 90s, 9m, 1h30m or 2d")
    if seconds <= 0:
        raise ConfigError(f"{name}: {text!r} must be more than 0")
    return seconds
