"""In which order experiments are trained, and how long that takes with so many slots."""

import heapq
from dataclasses import dataclass

import pandas as pd

from sdd_utils.config import Experiment
from sdd_utils.errors import ConfigError
from sdd_utils.flops import dense_flops
from sdd_utils.plan import bench_row


def costs(experiments: list[Experiment], bench: pd.DataFrame | None) -> dict[str, float]:
    """{run_id: seconds in a slot} at the speed of ``bench``, a table of ``make bench``; without one, training FLOPs.

    Where several experiments train at a time on a device, each has a slot, and is so much slower than alone.
    """
    flops = {exp.run_id: dense_flops(exp) * (exp.levels + 1) for exp in experiments}
    rows = {exp.run_id: bench_row(exp, bench) for exp in experiments}
    if any(row is None for row in rows.values()):
        return flops
    return {run: flops[run] / (1e12 * row["tflops"]) * row["at_a_time"] for run, row in rows.items()}


def ranks(experiments: list[Experiment], cost: dict[str, float]) -> dict[str, float]:
    """{run_id: what has to be trained one after the other from here on}: its own cost and its costliest student's.

    To train the highest rank first is «longest work first», where a teacher counts as long as what waits for it.
    """
    behind = dict.fromkeys(cost, 0.0)
    for exp in experiments:
        if teacher := teacher_of(exp):
            behind[teacher] = max(behind[teacher], cost[exp.run_id])
    return {run: cost[run] + behind[run] for run in cost}


def teacher_of(exp: Experiment) -> str | None:
    """The run_id of the teacher that an experiment waits for."""
    return exp.teacher.experiment.run_id if exp.teacher else None


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
    """The sweep on paper, with equal slots: highest rank first, students after their own teacher.

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
