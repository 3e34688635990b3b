"""How a sweep scales: throughput with more workers, and what the runner itself costs. ``make bench-scale``."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from loky import cpu_count

from benchmarks.device import device_name
from benchmarks.plan import simulate
from benchmarks.threads import Threads
from sdd_utils.config import Experiment
from sdd_utils.execution import visible_gpus
from sdd_utils.runner.run import run_experiment
from sdd_utils.runner.sweep import run_sweep
from sdd_utils.runner.workers import Executor, local_workers

LEVELS = 4
"""Of the curves that are trained to measure throughput."""

CURVES = 4
"""So many of them for each of the most workers."""

SLEEPERS, SLOTS, SECONDS = 1000, 64, 5.0
"""So many experiments sleep so long in so many slots, to see what the runner adds."""


def bench_scale(exp: Experiment, device: str) -> pd.DataFrame:
    """One row a (what, back end, workers); all measured in this run on this machine.

    ``training``: curves of ``exp`` with different seeds, on 1, 2 and as many workers as there are cores or GPUs; levels
    a minute, and how many times those of one worker. ``sleeping``: SLEEPERS experiments that do nothing for SECONDS
    each, SLOTS at a time, and what that takes beyond the ideal, as a share of it and as milliseconds an experiment.
    """
    from sdd_utils.runner.cluster import RayWorkers  # Ray is optional

    most = cpu_count() if device == "cpu" else len(visible_gpus())
    rows = []
    for back_end in ("local", "ray"):
        for number in sorted({1, min(2, most), most}):
            executor = local_workers(number, device) if back_end == "local" else RayWorkers("ray", number, device)
            rows.append(
                {"what": "training", "back_end": back_end} | _training(exp, number, CURVES * most, executor, device)
            )
    for back_end in ("threads", "ray"):
        executor = Threads(SLOTS) if back_end == "threads" else RayWorkers("ray", SLOTS)
        rows.append({"what": "sleeping", "back_end": back_end} | _sleeping(exp, executor))
    table = pd.DataFrame(rows)
    single = table[table["workers"] == 1].set_index("back_end")["levels_per_minute"]
    table["times_one_worker"] = table["levels_per_minute"] / table["back_end"].map(single)
    return table.assign(device=device_name(device))


def _training(exp: Experiment, workers: int, curves: int, executor: Executor, device: str) -> dict:
    todo = [exp.model_copy(update={"seed": seed, "levels": LEVELS}) for seed in range(curves)]
    seconds = _timed(todo, executor, device, run_experiment)
    row = {"workers": workers, "experiments": curves, "seconds": seconds, "ideal_seconds": None}
    return row | {"levels_per_minute": 60 * curves * (LEVELS + 1) / seconds}


def _sleeping(exp: Experiment, executor: Executor) -> dict:
    todo = [exp.model_copy(update={"seed": seed}) for seed in range(SLEEPERS)]
    seconds = _timed(todo, executor, "cpu", sleeper(SECONDS))
    ideal = simulate(todo, {exp.run_id: SECONDS for exp in todo}, SLOTS).makespan
    row = {"workers": SLOTS, "experiments": SLEEPERS, "seconds": seconds, "ideal_seconds": ideal}
    overhead = {"overhead": seconds / ideal - 1, "overhead_ms": 1e3 * (seconds - ideal) * SLOTS / SLEEPERS}
    return row | {"levels_per_minute": None} | overhead


def _timed(todo: list[Experiment], executor: Executor, device: str, run: Callable) -> float:
    """Seconds of a sweep with workers that are all there, and have done such an experiment before."""
    number = executor.slots()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "barrier").mkdir()
        for start in (barrier(number, Path(folder) / "barrier"), run):
            run_sweep(todo[:number], Path(folder) / "before" / start.__name__, executor, device, run=start)
        begin = time.perf_counter()
        outcome = run_sweep(todo, Path(folder) / "scale", executor, device, run=run)
        seconds = time.perf_counter() - begin
    executor.stop()
    if outcome.failed or outcome.stopped:
        raise RuntimeError(outcome)
    return seconds


# What workers do here in place of training. Ray pickles them whole, so they import what they need.


def sleeper(seconds: float) -> Callable:
    """Hold the run's lock and sleep."""

    def sleep(exp, folder, device, deadline):
        import time

        from sdd_utils.runner.locks import claimed

        with claimed(folder / exp.run_id):
            time.sleep(seconds)

    return sleep


def barrier(number: int, shared: Path) -> Callable:
    """Wait for the others, so that no worker does the work of one that is still starting."""

    def wait(exp, folder, device, deadline):
        from benchmarks.barrier import Barrier

        Barrier(shared, number).wait("here-", every=0.1)  # there can be many of them, and few cores

    return wait
