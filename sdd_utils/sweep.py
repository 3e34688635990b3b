"""Many experiments on many cores: students after their teachers, longest first, with progress and an ETA."""

import sys
import time
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import suppress
from pathlib import Path

import pandas as pd
import torch
from filelock import SoftFileLease
from tqdm import tqdm

from sdd_utils.config import Experiment
from sdd_utils.data import check_data
from sdd_utils.errors import Busy, ConfigError, NoSpace, Stopped, SweepStopped
from sdd_utils.experiment import finished, run_experiment
from sdd_utils.files import SUMS, is_aside, is_sealed, make_folder, repair, seal, unsound, write_bytes, write_csv
from sdd_utils.flops import dense_flops
from sdd_utils.locks import claimed, lease, try_acquire
from sdd_utils.stopping import Outcome, Until, flag_of_this_sweep, stop_on_signals
from sdd_utils.workers import stop_workers

POLL_SECONDS = 0.5
LOG_SECONDS = 30.0  # between two lines of progress in a log file, where no line can be drawn over


def run_sweep(
    experiments: list[Experiment],
    folder: Path,
    executor: Executor,
    device: str = "cpu",
    seconds: float | None = None,
) -> Outcome:
    """Run what is not finished, and the teachers it needs, into ``folder``.

    ``executor`` is any concurrent.futures Executor whose workers see ``folder`` and run one experiment at a time in a
    process: another back end plugs in here. A failed experiment stops its own students and nothing else. After
    ``seconds``, and on Ctrl-C, SIGTERM or SIGUSR1, all runs save their state at the end of the epoch and the sweep
    returns. Runs that another sweep is training are left to it. Raises SweepStopped when a worker died, NoSpace when
    the disk is full, ConfigError when ``folder`` cannot be written, DataError when a dataset is missing or damaged.
    """
    flag = flag_of_this_sweep(folder)
    until = Until(time.time() + seconds if seconds else float("inf"), flag)
    check_data(experiments)
    make_folder(folder)
    with stop_on_signals(flag) as received:
        outcome = Sweep(experiments, folder, executor, device, until).run()
    if outcome.stopped:
        if received:
            why = f"{received[0]} received"
        elif seconds:
            why = f"the time budget of {seconds:g} s is used up"
        else:
            why = f"a worker was asked to, or {flag} was removed"
        outcome.stopped = f"Stopped: {why}. {outcome.stopped}"
        outcome.interrupted = "SIGINT" in received
        stop_workers(executor)  # those that were signalled would not train again
    return outcome


class Sweep:
    """The state of one sweep: what waits, what runs, what others are at, what is done."""

    def __init__(self, experiments: list[Experiment], folder: Path, executor: Executor, device: str, until: Until):
        self.folder, self.executor, self.device, self.until = folder, executor, device, until
        todo = with_teachers(experiments)
        adopt_finished(todo, folder)
        self.done = {exp.run_id for exp in todo if finished(exp, folder) and not unsound(folder / exp.run_id)}
        self.progress = Progress(todo, folder)
        self.waiting = [exp for exp in todo if exp.run_id not in self.done]
        self.waiting.sort(key=lambda exp: self.progress.flops[exp.run_id] * exp.levels, reverse=True)
        self.running: dict[Future, Experiment] = {}
        self.elsewhere: dict[str, SoftFileLease] = {}  # run_id → its lock, watched until it is free
        self.failed: dict[str, str] = {}
        self.stopping = False

    def run(self) -> Outcome:
        """Submit, collect, and submit again, until everything is done or the sweep has to stop."""
        try:
            while self.running or (self.waiting and not self.stopping):
                self.stopping = self.stopping or self.until.reached()
                if not self.stopping:
                    self.submit()
                done, _ = wait(self.running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                if not self.running:
                    time.sleep(POLL_SECONDS)  # all that is left is elsewhere
                for future in done:
                    self.collect(future)
                self.progress.update()
        except BrokenExecutor:
            if self.until.reached():  # a worker was still starting, and does not know signals then
                return Outcome(self.failed, self.progress.left())
            raise SweepStopped(
                "a worker process was killed, perhaps for want of memory; the same command goes on from the last saved "
                "states, and --workers 1 needs the least"
            ) from None
        except (KeyboardInterrupt, NoSpace):
            stop_workers(self.executor)
            raise
        finally:
            self.progress.bar.close()
        left = self.progress.left() if self.waiting else ""
        return Outcome(self.failed, left)

    def submit(self) -> None:
        """Hand over every experiment whose teacher is there and that nobody else is training."""
        for exp in list(self.waiting):
            teacher = exp.teacher.experiment.run_id if exp.teacher else None
            if teacher in self.failed:
                self.failed[exp.run_id] = f"its teacher {teacher} failed"
                self.waiting.remove(exp)
            elif (teacher is None or teacher in self.done) and self.is_free(exp):
                self.running[self.executor.submit(run_experiment, exp, self.folder, self.device, self.until)] = exp
                self.waiting.remove(exp)

    def is_free(self, exp: Experiment) -> bool:
        """Whether the run's lock is free, or was free when last seen. A lock must be watched to be known as stale."""
        lock = self.elsewhere.get(exp.run_id)
        if lock is None:
            return True
        if not try_acquire(lock):
            return False
        lock.release()
        del self.elsewhere[exp.run_id]
        return True

    def collect(self, future: Future) -> None:
        """Enter the end of a run. Raises NoSpace or BrokenExecutor, which end the sweep."""
        exp, error = self.running.pop(future), future.exception()
        if error is None:
            self.done.add(exp.run_id)
        elif isinstance(error, Busy):
            self.elsewhere[exp.run_id] = lease(self.folder / exp.run_id)
            self.waiting.append(exp)
        elif isinstance(error, Stopped):
            self.until.flag.unlink(missing_ok=True)  # it may have been the worker alone that was asked
            self.stopping = True
            self.waiting.append(exp)
        elif isinstance(error, (BrokenExecutor, NoSpace)):
            raise error
        else:
            self.failed[exp.run_id] = f"{type(error).__name__}: {error}"
            self.progress.bar.write(f"failed: {exp.run_id}: {self.failed[exp.run_id]}")


def adopt_finished(experiments: list[Experiment], folder: Path) -> None:
    """Copy runs that another profile beside ``folder`` has finished: equal configurations give equal numbers."""
    for exp in experiments:
        if finished(exp, folder):
            continue
        run, others = folder / exp.run_id, sorted(folder.parent.glob(f"*/{exp.run_id}"))
        source = next((path for path in others if is_sealed(path) and not unsound(path)), None)
        if source is None:
            continue
        try:
            with claimed(run):
                repair(run)
                files = {p.name for p in source.iterdir() if not is_aside(p)} - {SUMS, "levels.csv"}
                for name in files:
                    write_bytes(run / name, (source / name).read_bytes())
                for path in run.glob("level-*.safetensors"):  # of the run as far as it was
                    if path.name not in files:
                        path.unlink()
                levels = pd.read_csv(source / "levels.csv", dtype=str, keep_default_na=False)
                write_csv(run / "levels.csv", levels.assign(profile=folder.name))
                seal(run)
        except Busy:
            continue


def check_device(device: str) -> None:
    """Raise ConfigError unless torch can compute on ``device`` (``cpu``, ``cuda``, ``cuda:1``, ``mps``, …) here."""
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        here = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        said = str(error).splitlines()[0]
        raise ConfigError(f"device: {device!r} cannot be used ({said}); there is {', '.join(here)}") from None


def with_teachers(experiments: list[Experiment]) -> list[Experiment]:
    """The experiments and the teachers they need, each once."""
    found = {}
    for exp in experiments:
        if exp.teacher:
            found.setdefault(exp.teacher.experiment.run_id, exp.teacher.experiment)
        found.setdefault(exp.run_id, exp)
    return list(found.values())


class Progress:
    """A bar over training FLOPs, so that the ETA knows that a level of a ResNet is longer than one of an MLP.

    Reads how far each run is from its levels.csv, which works for any back end that shares the folder.
    """

    def __init__(self, experiments: list[Experiment], folder: Path):
        self.tables = {e.run_id: folder / e.run_id / "levels.csv" for e in experiments}
        self.levels = {e.run_id: e.levels + 1 for e in experiments}
        self.done = dict.fromkeys(self.tables, 0)
        self.flops = {e.run_id: dense_flops(e) for e in experiments}
        total = sum(self.flops[run] * self.levels[run] for run in self.flops)
        self.bar = tqdm(total=total, bar_format="{percentage:3.0f}% {bar} {elapsed}, {remaining} left{postfix}")
        self.interval = 0.0 if sys.stderr.isatty() else LOG_SECONDS
        self.drawn = 0.0
        self.update()
        self.bar.initial = self.bar.n  # what was there before says nothing about the speed of now

    def update(self) -> None:
        """Read how far every run is and redraw the bar."""
        for run, table in self.tables.items():
            if self.done[run] < self.levels[run]:
                with suppress(OSError):
                    self.done[run] = max(table.read_bytes().count(b"\n") - 1, 0)
        self.bar.n = sum(self.flops[run] * done for run, done in self.done.items())
        self.bar.set_postfix_str(f"{self._runs()} runs, {self._levels()} levels", refresh=False)
        if time.monotonic() - self.drawn >= self.interval:
            self.bar.refresh()
            self.drawn = time.monotonic()

    def left(self) -> str:
        """What is not done, for a person who has to decide when to go on."""
        speed = (self.bar.n - self.bar.initial) / max(self.bar.format_dict["elapsed"], 1e-9)
        text = f"{self._runs()} runs and {self._levels()} levels are done"
        if speed <= 0:
            return f"{text}; the same command goes on"
        left = tqdm.format_interval((self.bar.total - self.bar.n) / speed)
        return f"{text}, about {left} more at this speed; the same command goes on"

    def _runs(self) -> str:
        return f"{sum(self.done[run] == self.levels[run] for run in self.done)}/{len(self.done)}"

    def _levels(self) -> str:
        return f"{sum(self.done.values())}/{sum(self.levels.values())}"
