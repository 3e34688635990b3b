"""In which order experiments are trained: longest work first, by the speed that ``make bench`` has measured here."""

from pathlib import Path

import pandas as pd
import torch

from sdd_utils.config import Experiment
from sdd_utils.errors import ConfigError
from sdd_utils.files import read_csv
from sdd_utils.metrics.flops import dense_flops
from sdd_utils.runner.provenance import device_name, file_name
from sdd_utils.tables import REFERENCE

STAND_IN = "resnet18"
"""Whose speed is taken for an architecture that the bench has not measured."""


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


def bench_row(exp: Experiment, bench: pd.DataFrame | None) -> pd.Series | None:
    """What a bench measured of our way to train such a network, or of STAND_IN, dense; None if neither."""
    if bench is None:
        return None
    method = "distilled" if exp.teacher else "vanilla"
    ours = bench[(bench["path"] == "ours") & (bench["level"] == 0) & (bench["method"] == method)].set_index("arch")
    arch = exp.arch if exp.arch in ours.index else STAND_IN
    return ours.loc[arch] if arch in ours.index else None


def last_bench(device: str) -> tuple[str, pd.DataFrame | None]:
    """This device's name and its table under ``results/reference/bench``, if there is one. Raises ConfigError."""
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise ConfigError(f"device: {device!r} is none; there are cpu, cuda, cuda:1 and so on") from None
    if kind == "cuda" and not torch.cuda.is_available():
        return device, None  # of other machines
    name = device_name(device)
    path: Path = REFERENCE / "bench" / file_name(name)
    return name, read_csv(path) if path.exists() else None
