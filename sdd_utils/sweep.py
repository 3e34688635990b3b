"""Many experiments on many cores: students after their teachers, longest first, with progress and an ETA."""

from __future__ import annotations

import os
import shutil
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Executor, wait
from pathlib import Path

import pandas as pd
from loky import cpu_count, get_reusable_executor
from tqdm import tqdm

from sdd_utils.config import Experiment
from sdd_utils.cost import FlopCount
from sdd_utils.data import load
from sdd_utils.experiment import finished, run_experiment
from sdd_utils.results import write_csv

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
    waiting = sorted((e for e in todo if not finished(e, folder)), key=progress.cost, reverse=True)
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
                if error := future.exception():
                    failed[exp.run_id] = f"{type(error).__name__}: {error}"
                    progress.bar.write(f"failed: {exp.run_id}: {failed[exp.run_id]}")
            progress.update()
    except KeyboardInterrupt:
        executor.shutdown(wait=True, kill_workers=True)
        raise
    finally:
        progress.bar.close()
    return failed


def adopt_finished(experiments: list[Experiment], folder: Path) -> None:
    """Copy runs that another profile beside ``folder`` has finished: equal configurations give equal numbers."""
    for exp in experiments:
        others = [path for path in folder.parent.glob(f"*/{exp.run_id}") if finished(exp, path.parent)]
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
        self.experiments, self.folder = experiments, folder
        self._flops: dict[str, float] = {}
        self._rows: dict[str, int] = {}
        total = sum(self.cost(e) for e in experiments)
        self.bar = tqdm(
            total=total,
            initial=self._done(),
            bar_format="{percentage:3.0f}% {bar} {elapsed}, {remaining} left{postfix}",
            mininterval=POLL_SECONDS,
        )
        self.update()

    def cost(self, exp: Experiment) -> float:
        """Dense training FLOPs of the whole curve."""
        return self._level_flops(exp) * (exp.levels + 1)

    def _level_flops(self, exp: Experiment) -> float:
        same_network = f"{exp.dataset} {exp.arch} {exp.width} {exp.vit}"
        if same_network not in self._flops:
            data = load(exp)
            self._flops[same_network] = FlopCount(exp, tuple(data.train.images.shape[1:]), data.classes).step
            self._flops[exp.dataset] = len(data.train) + len(data.val)
        return self._flops[same_network] * self._flops[exp.dataset] * (1 - exp.val_share) * exp.epochs

    def _levels_done(self, exp: Experiment) -> int:
        if self._rows.get(exp.run_id) != exp.levels + 1:
            table = self.folder / exp.run_id / "levels.csv"
            self._rows[exp.run_id] = table.read_text().count("\n") - 1 if table.exists() else 0
        return self._rows[exp.run_id]

    def _done(self) -> float:
        return sum(self._level_flops(e) * self._levels_done(e) for e in self.experiments)

    def update(self) -> None:
        """Read how far every run is and redraw the bar."""
        self.bar.n = self._done()
        runs = sum(n == e.levels + 1 for e, n in ((e, self._rows[e.run_id]) for e in self.experiments))
        levels, all_levels = sum(self._rows.values()), sum(e.levels + 1 for e in self.experiments)
        self.bar.set_postfix_str(f"{runs}/{len(self.experiments)} runs, {levels}/{all_levels} levels")
