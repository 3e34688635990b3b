"""How fast we train beside the conventional way, and what each ingredient is worth: ``make bench``.

All rows of an architecture are measured in one run on one machine, in turn, so that their ratios mean something.
"""

from __future__ import annotations

import math
import tempfile
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path
from statistics import median

import pandas as pd
import torch
from loky import cpu_count
from tqdm import tqdm

from benchmarks.barrier import Barrier
from benchmarks.device import device_name
from benchmarks.timing import Row, Timing, Way, matrix_rate, measure
from sdd_utils.config import Experiment
from sdd_utils.errors import ConfigError
from sdd_utils.execution import Execution
from sdd_utils.metrics.energy import country
from sdd_utils.metrics.flops import training_flops
from sdd_utils.runner.workers import Executor, local_workers


def ways(exp: Experiment, device: torch.device) -> list[Way]:
    """The conventional way, ours, and ours with one ingredient removed in turn, and what cannot be had without it."""
    on_gpu = device.type == "cuda"
    execution = Execution.of(device)
    if not on_gpu and exp.facts.image_shape[1] < 32:
        execution = replace(execution, channels_last=False)  # it changes nothing there
    ours = Way("ours", amp=exp.amp, execution=execution)
    uncaptured = replace(execution, graph=False)
    images, vector = "resident images", "one vector"
    if on_gpu:
        images, vector = f"{images} and CUDA graph", f"{vector}, compiling and CUDA graph"
    without = {
        f"without {images}": {"resident": False, "execution": uncaptured},
        f"without {vector}": {"vector": False, "execution": replace(uncaptured, compiled=False)},
        "without evaluating once a level": {"evaluate_once": False},
        "without experiments side by side": {"side_by_side": False},
    }
    switches = {"channels_last": "channels last", "compiled": "compiling", "graph": "CUDA graph"}
    for field, name in switches.items():
        if getattr(ours.execution, field):
            without[f"without {name}"] = {"execution": replace(ours.execution, **{field: False})}
    if on_gpu:
        without |= {"without bfloat16": {"amp": False}} if exp.amp else {}
        without |= {"without determinism": {"deterministic": False}}
    conventional = {"resident": False, "vector": False, "evaluate_once": False, "side_by_side": False}
    with_workers = Way("conventional", **conventional, deterministic=False)
    without_workers = replace(with_workers, name="conventional, no workers", loader_workers=0)
    variants = [replace(ours, name=name, **fields) for name, fields in without.items()]
    return [with_workers, without_workers, ours, *variants]


def chosen(experiments: list[Experiment], archs: tuple[str, ...] = ()) -> list[Experiment]:
    """Of each architecture of a profile (or of ``archs``), a vanilla curve and one distilled from a dense teacher.

    Raises ConfigError when there is no such architecture.
    """
    found: dict[tuple[str, str], Experiment] = {}
    for exp in experiments:
        if exp.method == "vanilla" or (exp.method == "kd" and exp.teacher.rule == "dense"):
            found.setdefault((exp.arch, exp.method), exp)
    known = {arch for arch, _ in found}
    if unknown := set(archs) - known:
        raise ConfigError(f"arch: the profile has no {min(unknown)!r}; there are {', '.join(sorted(known))}")
    return [exp for (arch, _), exp in found.items() if arch in (archs or known)]


def rows(experiments: list[Experiment], device: torch.device) -> list[Row]:
    """Every experiment dense and sparse, conventionally and our way; without the ingredients where there is no more."""
    found = []
    for exp in experiments:
        every = ways(exp, device)
        compared, without = every[:3], every[3:]
        found += [Row(exp, level, way) for level in (0, sparse_level(exp)) for way in compared]
        found += [Row(exp, 0, way) for way in without if not exp.teacher]
    return found


def sparse_level(exp: Experiment) -> int:
    """The level closest to 99 % sparsity, which stands for a sparse network: 21 where a level removes 20 %."""
    return round(math.log(0.01, 1 - exp.prune_share))


def bench(experiments: list[Experiment], device: str, side_by_side: int | None, rounds: int) -> pd.DataFrame:
    """The table of ``make bench``, one row a (architecture, method, level, path), where a path is a way to train.

    Every row is measured in each of the ``rounds``, the rows in turn, and its median taken. ``times_conventional``
    compares with the faster of the conventional ways, with DataLoader workers or without. ``side_by_side`` is how many
    experiments train at a time where that is an ingredient: by default one for each core, or two on a GPU.
    """
    at_once = side_by_side or (2 if torch.device(device).type == "cuda" else cpu_count())
    todo, measured = rows(experiments, torch.device(device)), {}
    rate = matrix_rate(torch.device(device))
    executor = local_workers(at_once)
    with tqdm(total=rounds * len(todo), desc="bench") as bar:
        for turn in range(rounds):
            for row in todo:
                timings = timed(executor, row, device, at_once if row.way.side_by_side else 1, turn)
                measured.setdefault(row, []).append(timings)
                bar.update()
    executor.stop()
    table = pd.DataFrame([_entry(row, turns, rate, device) for row, turns in measured.items()])
    table = table.astype({"kwh_per_epoch": float, "kg_per_kwh": float})  # also where nothing could be measured
    keys = ["arch", "method", "level"]
    base = table[table["path"].str.startswith("conventional")].groupby(keys)["images_per_second"].max()
    return table.assign(times_conventional=table["images_per_second"] / table[keys].join(base, on=keys)[base.name])


def timed(executor: Executor, row: Row, device: str, number: int, turn: int) -> list[Timing]:
    """Measure a row with so many experiments that train at a time."""
    with tempfile.TemporaryDirectory() as folder:
        barrier = Barrier(Path(folder), number)
        futures = [executor.submit(measure, row, device, barrier, turn * 10 + i) for i in range(number)]
        wait(futures)
    return [future.result() for future in futures]


def _entry(row: Row, turns: list[list[Timing]], rate: float, device: str) -> dict:
    exp, at_once = row.exp, len(turns[0])
    timings = [timing for turn in turns for timing in turn]
    seconds = median(timing.seconds for timing in timings)  # of one of the experiments that train at a time
    images = at_once * exp.training_images / seconds
    flops = images * training_flops(exp, exp.epochs) / (exp.epochs * exp.training_images)
    energy = [timing.kwh for timing in timings if timing.kwh is not None]
    return {
        "device": device_name(device),
        "dataset": exp.dataset,
        "arch": exp.arch,
        "width": exp.width,
        "method": "distilled" if exp.teacher else "vanilla",
        "level": row.level,
        "path": row.way.name,
        "at_a_time": at_once,
        "images_per_epoch": exp.training_images,
        "seconds_per_epoch": seconds,
        "images_per_second": images,
        "tflops": flops / 1e12,
        "share_of_matrix_rate": flops / rate,
        "hours_per_curve": seconds * sum(map(exp.epochs_of, range(exp.levels + 1))) / at_once / 3600,
        "kwh_per_epoch": median(energy) if energy else None,
        "kg_per_kwh": next((timing.kg_per_kwh for timing in timings if timing.kg_per_kwh), None),
        "country": country(),
        "meter_share": median(timing.meter_seconds for timing in timings) / (seconds * exp.epochs),
    }
