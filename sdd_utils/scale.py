"""How a sweep scales: throughput with more workers, and what the runner itself costs. ``make bench-scale``."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from loky import cpu_count

from sdd_utils.cluster import RayWorkers
from sdd_utils.config import Experiment
from sdd_utils.experiment import run_experiment
from sdd_utils.results import device_name
from sdd_utils.schedule import simulate
from sdd_utils.sweep import run_sweep
from sdd_utils.workers import Threads, Workers, local_workers, visible_gpus

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
    most = cpu_count() if device == "cpu" else len(visible_gpus())
    rows = []
    for back_end in ("local", "ray"):
        for number in sorted({1, min(2, most), most}):
            hands = local_workers(number, device) if back_end == "local" else RayWorkers("ray", number, device)
            rows.append(
                {"what": "training", "back_end": back_end} | _training(exp, number, CURVES * most, hands, device)
            )
    for back_end in ("threads", "ray"):
        hands = Threads(SLOTS) if back_end == "threads" else RayWorkers("ray", SLOTS)
        rows.append({"what": "sleeping", "back_end": back_end} | _sleeping(exp, hands))
    table = pd.DataFrame(rows)
    single = table[table["workers"] == 1].set_index("back_end")["levels_per_minute"]
    table["times_one_worker"] = table["levels_per_minute"] / table["back_end"].map(single)
    return table.assign(device=device_name(device))


def _training(exp: Experiment, workers: int, curves: int, hands: Workers, device: str) -> dict:
    todo = [exp.model_copy(update={"seed": seed, "levels": LEVELS}) for seed in range(curves)]
    seconds = _timed(todo, hands, device, run_experiment)
    row = {"workers": workers, "experiments": curves, "seconds": seconds, "ideal_seconds": None}
    return row | {"levels_per_minute": 60 * curves * (LEVELS + 1) / seconds}


def _sleeping(exp: Experiment, hands: Workers) -> dict:
    todo = [exp.model_copy(update={"seed": seed}) for seed in range(SLEEPERS)]
    seconds = _timed(todo, hands, "cpu", sleeper(SECONDS))
    ideal = simulate(todo, {exp.run_id: SECONDS for exp in todo}, SLOTS).makespan
    row = {"workers": SLOTS, "experiments": SLEEPERS, "seconds": seconds, "ideal_seconds": ideal}
    overhead = {"overhead": seconds / ideal - 1, "overhead_ms": 1e3 * (seconds - ideal) * SLOTS / SLEEPERS}
    return row | {"levels_per_minute": None} | overhead


def _timed(todo: list[Experiment], hands: Workers, device: str, train: Callable) -> float:
    """Seconds of a sweep with workers that are all there, and have done such an experiment before."""
    number = hands.slots()
    with tempfile.TemporaryDirectory() as folder:
        for start in (meeting(number), train):
            run_sweep(todo[:number], Path(folder) / "before" / start.__name__, hands, device, train=start)
        begin = time.perf_counter()
        outcome = run_sweep(todo, Path(folder) / "scale", hands, device, train=train)
        seconds = time.perf_counter() - begin
    hands.stop()
    if outcome.failed or outcome.stopped:
        raise RuntimeError(outcome)
    return seconds


# What workers do here in place of training. Ray pickles them whole, so they import what they need.


def sleeper(seconds: float) -> Callable:
    """Hold the run's lock and sleep."""

    def sleep(exp, folder, device, until):
        import time

        from sdd_utils.locks import claimed

        with claimed(folder / exp.run_id):
            time.sleep(seconds)

    return sleep


def meeting(number: int) -> Callable:
    """Wait for the others, so that no worker does the work of one that is still starting."""

    def meet(exp, folder, device, until):
        from sdd_utils.workers import Meeting

        Meeting(folder, number).wait("here-", every=0.1)  # there can be many of them, and few cores

    return meet
