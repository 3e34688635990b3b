"""Many experiments on many cores: students after their teachers, longest first, with progress and an ETA."""

import os
import shutil
import threading
import time
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, wait
from pathlib import Path

import pandas as pd
from loky import ProcessPoolExecutor, cpu_count, get_reusable_executor
from tqdm import tqdm

from sdd_utils.config import Experiment
from sdd_utils.cost import flop_count
from sdd_utils.data import Data, load
from sdd_utils.experiment import finished, run_experiment
from sdd_utils.results import SweepStopped, write_csv

POLL_SECONDS = 0.5


def local_workers(workers: int | None = None) -> Executor:
    """loky processes, by default one for each core that this process may use; an experiment runs on one thread."""
    return get_reusable_executor(
        workers or cpu_count(), timeout=None, initializer=_start_worker, initargs=(os.getpid(),)
    )


def _start_worker(parent: int) -> None:
    def leave_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)  # the sweep was killed: a worker left behind would train beside the next one

    threading.Thread(target=leave_with_parent, daemon=True).start()


def run_sweep(experiments: list[Experiment], folder: Path, executor: Executor, device: str = "cpu") -> dict[str, str]:
    """Run what is not finished, and the teachers it needs, into ``folder``; returns {run_id: error} of what failed.

    ``executor`` is any concurrent.futures Executor whose workers see ``folder``: another back end plugs in here. A
    failed experiment stops its own students and nothing else. On KeyboardInterrupt the finished levels are safe.
    """
    todo = with_teachers(experiments)
    adopt_finished(todo, folder)
    progress = Progress(todo, folder)
    waiting = [exp for exp in todo if not finished(exp, folder)]
    waiting.sort(key=lambda exp: progress.flops[exp.run_id] * exp.levels, reverse=True)
    running: dict = {}
    failed: dict[str, str] = {}
    try:
        while waiting or running:
            for exp in list(waiting):
                teacher = exp.teacher.experiment if exp.teacher else None
                if teacher and teacher.run_id in failed:
                    failed[exp.run_id] = f"its teacher {teacher.run_id} failed"
                    waiting.remove(exp)
                elif teacher is None or finished(teacher, folder):
                    running[executor.submit(run_experiment, exp, folder, device)] = exp
                    waiting.remove(exp)
            done, _ = wait(running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            for future in done:
                exp = running.pop(future)
                error = future.exception()
                if isinstance(error, BrokenExecutor):
                    raise error
                if error:
                    failed[exp.run_id] = f"{type(error).__name__}: {error}"
                    progress.bar.write(f"failed: {exp.run_id}: {failed[exp.run_id]}")
            progress.update()
    except BrokenExecutor:
        raise SweepStopped(
            "a worker process was killed, perhaps for want of memory; the same command goes on from the last finished "
            "levels, and --workers 1 needs the least"
        ) from None
    except KeyboardInterrupt:
        if isinstance(executor, ProcessPoolExecutor):
            executor.shutdown(wait=True, kill_workers=True)
        raise
    finally:
        progress.bar.close()
    return failed


def adopt_finished(experiments: list[Experiment], folder: Path) -> None:
    """Copy runs that another profile beside ``folder`` has finished: equal configurations give equal numbers."""
    for exp in experiments:
        others = [path for path in sorted(folder.parent.glob(f"*/{exp.run_id}")) if finished(exp, path.parent)]
        if not others or finished(exp, folder):
            continue
        copy = folder / f".{exp.run_id}"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(others[0], copy)
        levels = pd.read_csv(copy / "levels.csv", dtype=str, keep_default_na=False)
        write_csv(copy / "levels.csv", levels.assign(profile=folder.name))
        shutil.rmtree(folder / exp.run_id, ignore_errors=True)
        copy.rename(folder / exp.run_id)


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
        datasets = {e.dataset: load(e) for e in experiments}
        self.flops = {e.run_id: _level_flops(e, datasets[e.dataset]) for e in experiments}
        total = sum(self.flops[run] * self.levels[run] for run in self.flops)
        self.bar = tqdm(total=total, bar_format="{percentage:3.0f}% {bar} {elapsed}, {remaining} left{postfix}")
        self.update()
        self.bar.initial = self.bar.n  # what was there before says nothing about the speed of now

    def update(self) -> None:
        """Read how far every run is and redraw the bar."""
        for run, table in self.tables.items():
            if self.done[run] < self.levels[run] and table.exists():
                self.done[run] = table.read_text().count("\n") - 1
        self.bar.n = sum(self.flops[run] * done for run, done in self.done.items())
        runs = sum(self.done[run] == self.levels[run] for run in self.done)
        levels = f"{sum(self.done.values())}/{sum(self.levels.values())} levels"
        self.bar.set_postfix_str(f"{runs}/{len(self.done)} runs, {levels}")


def _level_flops(exp: Experiment, data: Data) -> float:
    """Dense training FLOPs of one level, without a teacher."""
    return flop_count(exp, data.train.images, data.classes).step * len(data.train) * exp.epochs
