"""Worker processes on this machine: they start beside the sweep, stop with it, and know its signals."""

import errno
import os
import shutil
import signal
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from multiprocessing import resource_tracker as tracker_of_python
from typing import Protocol

from loky import ProcessPoolExecutor, cpu_count, get_reusable_executor
from loky.backend import resource_tracker as loky_tracker

from sdd_utils.errors import ConfigError, SweepStopped
from sdd_utils.execution import visible_gpus
from sdd_utils.metrics.energy import AT_A_TIME, ON_ONE_GPU
from sdd_utils.runner.stopping import STOPPING, heed, note_signal

SIGNALS = {signal.SIGINT, *STOPPING}
SHARED_MEMORY = "/dev/shm"  # where Linux has it


class Executor(Protocol):
    """Where experiments are trained: ``LocalWorkers`` or ``cluster.RayWorkers``."""

    def slots(self) -> int:
        """How many experiments to hand over at a time, as of now: a cluster grows and shrinks."""

    def submit(self, function, /, *args) -> Future:
        """Have a worker call ``function(*args)``; WorkerLost in the future says that it may be submitted again."""

    def ask_to_stop(self) -> None:
        """Have all workers save the state of what they train, and leave the rest."""

    def stop(self) -> None:
        """End all workers at once."""


class LocalWorkers:
    """Pools of loky processes, each of which trains one experiment at a time: a pool a GPU where there are several."""

    def __init__(self, pools: list[ProcessPoolExecutor], each: int):
        self.each = each
        self.working: dict[ProcessPoolExecutor, set[Future]] = {pool: set() for pool in pools}

    def slots(self) -> int:
        """The number of processes."""
        return len(self.working) * self.each

    def submit(self, function, /, *args) -> Future:
        """To the pool that has least to do."""
        pool, futures = min(self.working.items(), key=lambda item: len(item[1]))
        future = pool.submit(function, *args)
        futures.add(future)
        future.add_done_callback(futures.discard)
        return future

    def ask_to_stop(self) -> None:
        """By a signal, which waits for a process that is still starting."""
        for process in (process for pool in self.working for process in list(pool._processes)):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGUSR1)

    def stop(self) -> None:
        """End the processes, whatever they are at."""
        for pool in self.working:
            pool.shutdown(wait=True, kill_workers=True)


def local_workers(workers: int | None = None, device: str = "cpu", gpu_share: float | None = None) -> LocalWorkers:
    """Processes of this machine, by default one for each core that this process may use, or one for each GPU.

    ``gpu_share`` is the share of a GPU that an experiment gets. On ``cuda`` all visible GPUs are used, on ``cuda:1``
    that one. Processes import what they need at once, beside the sweep. Raises ConfigError.
    """
    gpus, number = _shared_out(workers, device, gpu_share)
    # Else loky takes a dataset, or CUDA, for a memory leak, and replaces the worker that has loaded it.
    os.environ.setdefault("LOKY_MAX_MEMORY_LEAK_SIZE", "1e12")
    # What is blocked stays blocked in a new process: in a tracker for good (it knows SIGINT and SIGTERM, SIGUSR1 would
    # end it), in a worker until _start_worker is ready.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    for tracker in (loky_tracker, tracker_of_python):
        tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # again: to start a tracker unblocks SIGINT and SIGTERM here
    try:
        start = [{"initializer": _start_worker, "initargs": (os.getpid(), number * len(gpus), number, g)} for g in gpus]
        if len(gpus) == 1:
            pools = [get_reusable_executor(number, timeout=None, **start[0])]
        else:
            pools = [ProcessPoolExecutor(number, **how) for how in start]
        for pool in pools * number:
            pool.submit(_warm_up)
    except OSError as error:
        if error.filename or error.errno not in (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.ENOENT):
            raise
        free = shutil.disk_usage(SHARED_MEMORY).free if os.path.exists(SHARED_MEMORY) else 0
        need = f"workers need a few kB of shared memory, and {free / 1000:.0f} kB are free"
        raise SweepStopped(f"{SHARED_MEMORY}: {error.strerror}: {need}; make room there, or make it writable") from None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return LocalWorkers(pools, number)


def _shared_out(workers: int | None, device: str, gpu_share: float | None) -> tuple[list[str | None], int]:
    """The GPUs to pin a pool to (None: nothing to pin), and how many processes each pool has."""
    each = experiments_a_gpu(gpu_share, device)
    if not device.startswith("cuda"):
        return [None], workers or (cpu_count() if device == "cpu" else 1)
    if workers and gpu_share is not None:
        raise ConfigError(f"workers: {workers} and gpu-share {gpu_share:g} say the same thing twice; give one of them")
    gpus = visible_gpus() if device == "cuda" else []
    if len(gpus) < 2:
        return [None], workers or each
    if workers and workers < len(gpus):
        gpus = gpus[:workers]
    elif workers and workers % len(gpus):
        raise ConfigError(f"workers: {workers} cannot be shared out evenly among {len(gpus)} GPUs")
    return list(gpus), workers // len(gpus) if workers else each


def experiments_a_gpu(gpu_share: float | None, device: str) -> int:
    """How many experiments train on a GPU at a time. Raises ConfigError."""
    if gpu_share is None:
        return 1
    if not device.startswith("cuda"):
        raise ConfigError(f"gpu-share: {gpu_share:g} was given, but the device is {device}")
    if not 0.01 <= gpu_share <= 1:
        raise ConfigError(f"gpu-share: should be from 0.01 to 1 (got {gpu_share:g})")
    return int(1 / gpu_share + 1e-9)


def _start_worker(parent: int, at_a_time: int, on_one_gpu: int, gpu: str | None) -> None:
    def leave_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)  # the sweep was killed: a worker left behind would train beside the next one

    threading.Thread(target=leave_with_parent, daemon=True).start()
    os.environ |= {AT_A_TIME: str(at_a_time), ON_ONE_GPU: str(on_one_gpu)}
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the sweep decides what it means
    for number in STOPPING:  # Slurm sends them to every process of a step, and a terminal that is closed does
        heed(number, note_signal)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _warm_up() -> None:
    import sdd_utils.runner.run  # noqa: F401
    from sdd_utils.runner.provenance import commit

    commit()
