"""Worker processes on this machine: they start beside the sweep, stop with it, and know its signals."""

import os
import signal
import threading
import time
from concurrent.futures import Executor
from multiprocessing import resource_tracker as tracker_of_python

from loky import ProcessPoolExecutor, cpu_count, get_reusable_executor
from loky.backend import resource_tracker as loky_tracker

from sdd_utils.energy import AT_A_TIME
from sdd_utils.stopping import note_signal

SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1}


def local_workers(workers: int | None = None) -> Executor:
    """loky processes, by default one for each core that this process may use; an experiment runs on one thread.

    They begin at once to import what they need, which takes seconds in which the sweep does the same.
    """
    number = workers or cpu_count()
    # What is blocked stays blocked in a new process: in a tracker for good (it knows SIGINT and SIGTERM, SIGUSR1 would
    # end it), in a worker until _start_worker is ready.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    for tracker in (loky_tracker, tracker_of_python):
        tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # again: to start a tracker unblocks SIGINT and SIGTERM here
    try:
        executor = get_reusable_executor(
            number, timeout=None, initializer=_start_worker, initargs=(os.getpid(), number)
        )
        for _ in range(number):
            executor.submit(_warm_up)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return executor


def stop_workers(executor: Executor) -> None:
    """End local workers at once; other executors are left to whoever made them."""
    if isinstance(executor, ProcessPoolExecutor):
        executor.shutdown(wait=True, kill_workers=True)


def _start_worker(parent: int, at_a_time: int) -> None:
    def leave_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)  # the sweep was killed: a worker left behind would train beside the next one

    threading.Thread(target=leave_with_parent, daemon=True).start()
    os.environ[AT_A_TIME] = str(at_a_time)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the sweep decides what it means
    for number in (signal.SIGTERM, signal.SIGUSR1):  # Slurm sends these to every process of a step
        signal.signal(number, note_signal)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _warm_up() -> None:
    import sdd_utils.experiment  # noqa: F401
