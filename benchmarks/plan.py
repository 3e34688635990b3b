"""What a profile would take on this machine, and on many like it. Trains nothing."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from benchmarks.device import device_name, file_name
from sdd_utils.config import Experiment
from sdd_utils.errors import ConfigError
from sdd_utils.files import read_csv
from sdd_utils.metrics.flops import curve_flops
from sdd_utils.runner.sweep import ranks, teacher_of
from sdd_utils.tables import REFERENCE

STAND_IN = "resnet18"
"""Whose speed is taken for an architecture that the bench has not measured."""

SPEED_COLUMNS = [
    *["arch", "method", "level", "path", "at_a_time", "tflops"],
    *["images_per_epoch", "images_per_second", "kwh_per_epoch", "kg_per_kwh"],
]
"""What a plan reads of a bench's table."""


def plan(experiments: list[Experiment], bench: pd.DataFrame | None) -> pd.DataFrame:
    """One row a (dataset, architecture, method), and their sum, empty where a row is.

    ``bench`` is the last table of ``make bench`` on this machine: an architecture's FLOP/s, and its kWh a FLOP, are
    taken to be the same at any width and on any images. Columns that need it are empty without. FLOPs are dense.
    """
    rows = []
    for exp in experiments:
        flops = curve_flops(exp)
        row = {"dataset": exp.dataset, "arch": exp.arch, "method": exp.method, "runs": 1, "levels": exp.levels + 1}
        row |= {"epochs": sum(map(exp.epochs_of, range(exp.levels + 1))), "PFLOP": flops / 1e15}
        rows.append(row | _expected(exp, flops, bench))
    keys, columns = ["dataset", "arch", "method"], ["runs", "levels", "epochs", "PFLOP", "hours", "kWh", "kg CO2eq"]
    table = pd.DataFrame(rows).groupby(keys, as_index=False, sort=False)[columns].sum(min_count=1)
    total = pd.DataFrame([{"dataset": "all", **table[columns].sum(skipna=False)}])
    return pd.concat([table, total], ignore_index=True)


def _expected(exp: Experiment, flops: float, bench: pd.DataFrame | None) -> dict[str, float | None]:
    row = bench_row(exp, bench)
    if row is None:
        return {"hours": None, "kWh": None, "kg CO2eq": None}
    seconds = flops / (1e12 * row["tflops"])
    epochs = seconds * row["images_per_second"] / row["images_per_epoch"]
    kwh = epochs * row["kwh_per_epoch"]
    return {"hours": seconds / 3600, "kWh": kwh, "kg CO2eq": kwh * row["kg_per_kwh"]}


def bench_row(exp: Experiment, bench: pd.DataFrame | None) -> pd.Series | None:
    """What a bench measured of our way to train such a network, or of STAND_IN, dense; None if neither."""
    if bench is None:
        return None
    method = "distilled" if exp.teacher else "vanilla"
    ours = bench[(bench["path"] == "ours") & (bench["level"] == 0) & (bench["method"] == method)].set_index("arch")
    arch = exp.arch if exp.arch in ours.index else STAND_IN
    return ours.loc[arch] if arch in ours.index else None


def last_bench(device: str) -> tuple[str, pd.DataFrame | None]:
    """This device's name and its table under ``results/reference/bench``, if there is one. Raises ConfigError and
    Damaged."""
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise ConfigError(f"device: {device!r} is none; there are cpu, cuda, cuda:1 and so on") from None
    if kind == "cuda" and not torch.cuda.is_available():
        return device, None  # of other machines
    name = device_name(device)
    path: Path = REFERENCE / "bench" / file_name(name)
    return name, read_csv(path, SPEED_COLUMNS) if path.exists() else None


def costs(experiments: list[Experiment], bench: pd.DataFrame | None) -> dict[str, float]:
    """{run_id: seconds in a slot} at the speed of ``bench``, a table of ``make bench``; without one, training FLOPs.

    Where several experiments train at a time on a device, each has a slot, and is so much slower than alone.
    """
    flops = {exp.run_id: curve_flops(exp) for exp in experiments}
    rows = {exp.run_id: bench_row(exp, bench) for exp in experiments}
    if any(row is None for row in rows.values()):
        return flops
    return {run: flops[run] / (1e12 * row["tflops"]) * row["at_a_time"] for run, row in rows.items()}


@dataclass(frozen=True)
class Makespan:
    """How long a sweep takes; all in the unit of the costs."""

    slots: int
    total: float  # of all experiments one after the other
    critical_path: float  # a teacher, then its student: what no number of slots makes shorter
    makespan: float

    @property
    def busy(self) -> float:
        """Share of the slots' time in which there is training in them."""
        return self.total / (self.slots * self.makespan)


def simulate(experiments: list[Experiment], cost: dict[str, float], slots: int) -> Makespan:
    """The sweep on paper, with equal slots: highest rank first, by these costs, students after their own teacher.

    ``experiments`` holds every teacher that is needed, as ``sweep.with_teachers`` gives them.
    """
    rank = ranks(experiments, cost)
    students: dict[str, list[str]] = {}
    for exp in experiments:
        if teacher := teacher_of(exp):
            students.setdefault(teacher, []).append(exp.run_id)
    ready = [(-rank[exp.run_id], exp.run_id) for exp in experiments if not exp.teacher]
    heapq.heapify(ready)
    running: list[tuple[float, str]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < slots:
            run = heapq.heappop(ready)[1]
            heapq.heappush(running, (now + cost[run], run))
        now, run = heapq.heappop(running)
        for student in students.get(run, []):
            heapq.heappush(ready, (-rank[student], student))
    return Makespan(slots, sum(cost.values()), max(rank.values()), now)


def makespans(experiments: list[Experiment], bench: pd.DataFrame, devices: list[int]) -> pd.DataFrame:
    """One row a number of devices like the bench's, each with as many slots as there trained at a time.

    Columns: devices, slots, hours, critical_path_hours, times_one_device, busy. Raises ConfigError when the bench does
    not know the speed of every network.
    """
    rows = [bench_row(exp, bench) for exp in experiments]
    if any(row is None for row in rows):
        raise ConfigError(
            "devices: how long a sweep takes follows from the speeds that make bench measures; run it first"
        )
    cost, each = costs(experiments, bench), int(rows[0]["at_a_time"])
    one = simulate(experiments, cost, each).makespan
    table = []
    for number in devices:
        paper = simulate(experiments, cost, number * each)
        row = {"devices": number, "slots": paper.slots, "hours": paper.makespan / 3600}
        row |= {"critical_path_hours": paper.critical_path / 3600}
        table.append(row | {"times_one_device": one / paper.makespan, "busy": paper.busy})
    return pd.DataFrame(table)
