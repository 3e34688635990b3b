"""Many experiments at a time: students after their teachers, longest first, with progress and an ETA."""

import math
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch
from filelock import SoftFileLease

from sdd_utils.config import Experiment
from sdd_utils.data import check_data
from sdd_utils.errors import Busy, ConfigError, NoSpace, Stopped, SweepStopped, WorkerLost, too_little_memory
from sdd_utils.files import make_folder, write_bytes, write_csv
from sdd_utils.metrics.energy import check_country
from sdd_utils.metrics.flops import curve_flops
from sdd_utils.runner.checkpoints import states, unsound
from sdd_utils.runner.integrity import finalise, finished, own_files, repair
from sdd_utils.runner.locks import claimed, held_by, lease, try_acquire
from sdd_utils.runner.progress import POLL_SECONDS, Progress
from sdd_utils.runner.run import run_experiment
from sdd_utils.runner.stopping import must_stop, stop_on_signals
from sdd_utils.runner.workers import Executor, local_workers

LIVES = 3  # an experiment at one level of which so many workers died is not tried again: it may be what kills them


@dataclass
class Outcome:
    """What became of a sweep: {run_id: error} of what failed, and why and with what left it stopped, if it did."""

    failed: dict[str, str] = field(default_factory=dict)
    stopped: str = ""
    interrupted: bool = False  # by Ctrl-C


def train(
    experiments: list[Experiment],
    folder: Path,
    *,
    device: str = "cpu",
    workers: int | None = None,
    gpu_share: float | None = None,
    cluster: str | None = None,
    seconds: float | None = None,
) -> Outcome:
    """``run_sweep`` for ``seconds`` at most, on ``local_workers(workers, device, gpu_share)`` or, where ``cluster`` is
    the address of one, on ``cluster.RayWorkers``; they end with it."""
    check_country()
    todo = with_teachers(experiments)
    # Before workers are started, which takes seconds. Where a run is missing, the sweep reads the others' checksums.
    if all(finished(exp, folder) for exp in todo) and not any(unsound(folder / exp.run_id, exp) for exp in todo):
        return Outcome()
    if cluster is not None:
        from sdd_utils.runner.cluster import RayWorkers  # Ray is optional

        executor: Executor = RayWorkers(cluster, workers, device, gpu_share)
    else:
        executor = local_workers(workers, device, gpu_share)
    try:
        if cluster is None:
            check_device(device)  # after the workers, which begin to import meanwhile
        return run_sweep(experiments, folder, executor, device, seconds)
    finally:
        executor.stop()


def run_sweep(
    experiments: list[Experiment],
    folder: Path,
    executor: Executor,
    device: str = "cpu",
    seconds: float | None = None,
    run: Callable = run_experiment,
) -> Outcome:
    """Run what is not finished, and the teachers it needs, into ``folder``; ``run`` is what a worker does for each.

    A failed experiment stops its own students and nothing else; one whose machine died is taken up again; one that
    another sweep is training is left to it. After ``seconds``, on Ctrl-C and on the signals of STOPPING, all runs save
    their state at the end of the epoch. Raises SweepStopped when a worker process of this machine died, NoSpace when
    the disk is full, ConfigError when ``folder`` cannot be written, DataError when a dataset is missing or damaged.
    """
    deadline = time.time() + seconds if seconds else math.inf
    check_data(experiments)
    make_folder(folder)

    def start(exp: Experiment) -> Future:
        return executor.submit(run, exp, folder, device, deadline)

    with stop_on_signals() as received:
        outcome = Sweep(with_teachers(experiments), folder, executor, deadline, start).run()
        if outcome.stopped:
            late = f"the time budget of {seconds:g} s is used up" if seconds else "a worker was asked to"
            outcome.stopped = f"Stopped: {f'{received[0]} received' if received else late}. {outcome.stopped}"
            outcome.interrupted = "SIGINT" in received
            executor.stop()  # those that were asked to stop would not train again
    return outcome


class Sweep:
    """The state of one sweep: what waits, what runs, what others are at, what is done."""

    def __init__(self, todo: list[Experiment], folder: Path, executor: Executor, deadline: float, start: Callable):
        self.folder, self.executor, self.deadline, self.start = folder, executor, deadline, start
        adopt_finished(todo, folder)
        self.progress, rank = Progress(todo, folder), ranks(todo)
        found = {exp.run_id: exp for exp in todo}  # once: a run_id is a digest, and the loop asks for all of them
        self.done = {run for run, exp in found.items() if finished(exp, folder) and not unsound(folder / run, exp)}
        self.todo = {run: found[run] for run in sorted(rank, key=rank.get, reverse=True)}
        self.teachers = {run: teacher_of(exp) for run, exp in found.items()}
        self.running: dict[Future, str] = {}
        self.elsewhere: dict[str, SoftFileLease] = {}  # run_id → its lock, watched until it is free
        self.told: set[str] = set()  # of which of them it has been said who holds it
        self.failed: dict[str, str] = {}
        self.deaths: Counter[tuple[str, int]] = Counter()  # of workers, at a run's level
        self.stopping = False

    @property
    def waiting(self) -> list[str]:
        """What nobody is at here, longest work first."""
        settled = {*self.done, *self.failed, *self.running.values()}
        return [run for run in self.todo if run not in settled]

    def run(self) -> Outcome:
        """Submit, collect, and submit again, until everything is done or the sweep has to stop."""
        try:
            while self.running or (self.waiting and not self.stopping):
                if must_stop(self.deadline):
                    self.stop()
                if not self.stopping:
                    self.submit()
                at_work = [*self.running.values(), *self.elsewhere]
                done, _ = wait(self.running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                if not self.running:
                    self.wait_for_others()
                for future in done:
                    self.collect(future)
                self.progress.update(at_work)
        except BrokenExecutor:
            if self.stopping or must_stop(self.deadline):  # who ended the worker has asked the sweep to stop as well
                return Outcome(self.failed, self.progress.left())
            why = "a worker process was killed, perhaps for want of memory; the same command goes on"
            raise SweepStopped(f"{why} from what was saved, and --workers 1 needs the least") from None
        except (KeyboardInterrupt, NoSpace):
            self.executor.stop()
            raise
        finally:
            self.progress.close()
        return Outcome(self.failed, self.progress.left() if self.waiting else "")

    def stop(self) -> None:
        """Begin nothing more, and have what runs save its state and leave."""
        if not self.stopping:
            self.executor.ask_to_stop()
            if self.running:
                self.progress.say("stopping: what runs saves its state after this epoch; Ctrl-C once more ends it now")
        self.stopping = True

    def submit(self) -> None:
        """Hand over, as long as there is room, experiments whose teacher is there and that nobody else is training."""
        slots = self.executor.slots()
        for run in self.waiting:
            teacher = self.teachers[run]
            if teacher in self.failed:
                self.failed[run] = f"its teacher {teacher} failed"
            elif len(self.running) < slots and (teacher is None or teacher in self.done) and self.is_free(run):
                self.running[self.start(self.todo[run])] = run

    def is_free(self, run: str) -> bool:
        """Whether the run's lock is free, or was free when last seen. A lock must be watched to be known as stale."""
        lock = self.elsewhere.get(run)
        if lock and try_acquire(lock):
            self.elsewhere.pop(run).release()
        return run not in self.elsewhere

    def wait_for_others(self) -> None:
        """All that is left is elsewhere: say whom the sweep waits for, once a run, and let them work."""
        for run, lock in self.elsewhere.items():
            if run not in self.told:
                self.told.add(run)
                self.progress.say(f"waiting: {run} is {held_by(lock)}")
        time.sleep(POLL_SECONDS)

    def collect(self, future: Future) -> None:
        """Enter the end of a run. Raises NoSpace, SweepStopped or BrokenExecutor, which end the sweep."""
        run, error = self.running.pop(future), future.exception()
        if error is None:
            self.done.add(run)
        elif isinstance(error, Busy):
            self.elsewhere[run] = lease(self.folder / run)
        elif isinstance(error, Stopped):
            self.stop()  # it may have been the worker alone that was asked
        elif isinstance(error, WorkerLost):
            self.progress.say(f"{run}: {error}")
            level = self.progress.levels_of(run)
            self.deaths[run, level] += 1
            if self.deaths[run, level] == LIVES:
                died = f"{LIVES} workers died at level {level}, perhaps for want of memory"
                self.failed[run] = f"{died}; the last: {error}"
        elif isinstance(error, (BrokenExecutor, NoSpace, SweepStopped)):
            raise error
        else:
            self.failed[run] = too_little_memory(error) or f"{type(error).__name__}: {error}"
            self.progress.say(f"failed: {run}: {self.failed[run]}")


def adopt_finished(experiments: list[Experiment], folder: Path) -> None:
    """Copy runs that another profile beside ``folder`` has finished: equal configurations give equal numbers."""
    for exp in experiments:
        if finished(exp, folder):
            continue
        run = folder / exp.run_id
        others = [path for path in sorted(folder.parent.glob(f"*/{run.name}")) if path != run]
        source = next((path for path in others if _has_finished(exp, path.parent)), None)
        if source is None:
            continue
        with suppress(Busy), claimed(run):
            repair(run, unsound(run, exp))
            for path in states(run):  # of the run as far as it was
                path.unlink()
            for path in own_files(source):
                write_bytes(run / path.name, path.read_bytes())
            levels = pd.read_csv(source / "levels.csv", dtype=str, keep_default_na=False)
            write_csv(run / "levels.csv", levels.assign(profile=folder.name))
            finalise(run)


def _has_finished(exp: Experiment, folder: Path) -> bool:
    with suppress(ConfigError):  # another experiment's, with the same run_id
        return finished(exp, folder) and not unsound(folder / exp.run_id, exp)
    return False


def check_device(device: str) -> None:
    """Raise ConfigError unless torch can compute on ``device`` (``cpu``, ``cuda``, ``cuda:1``, ``mps``, …) here."""
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        here, said = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))], str(error).splitlines()[0]
        raise ConfigError(f"device: {device!r} cannot be used ({said}); there is {', '.join(here)}") from None


def with_teachers(experiments: list[Experiment]) -> list[Experiment]:
    """The experiments and the teachers they need, each once."""
    every = [one for exp in experiments for one in (exp.teacher and exp.teacher.experiment, exp) if one]
    return list({exp.run_id: exp for exp in every}.values())


def ranks(experiments: list[Experiment], cost: dict[str, float] | None = None) -> dict[str, float]:
    """{run_id: its cost and its costliest student's}: to train the highest rank first is «longest work first», where a
    teacher counts as long as what waits for it. ``cost`` is by run_id, and training FLOPs by default."""
    cost = cost or {exp.run_id: curve_flops(exp) for exp in experiments}
    behind = dict.fromkeys(cost, 0.0)
    for exp in experiments:
        if teacher := teacher_of(exp):
            behind[teacher] = max(behind[teacher], cost[exp.run_id])
    return {run: cost[run] + behind[run] for run in cost}


def teacher_of(exp: Experiment) -> str | None:
    """The run_id of the teacher that an experiment waits for."""
    return exp.teacher.experiment.run_id if exp.teacher else None
