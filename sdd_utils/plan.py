"""What a profile would take on this machine: ``make plan``. Trains nothing."""

from pathlib import Path

import pandas as pd
import torch

from sdd_utils.config import Experiment
from sdd_utils.errors import ConfigError
from sdd_utils.files import read_csv
from sdd_utils.flops import dense_flops
from sdd_utils.results import REFERENCE, device_name, file_name

STAND_IN = "resnet18"
"""Whose speed is taken for an architecture that the bench has not measured."""


def plan(experiments: list[Experiment], bench: pd.DataFrame | None) -> pd.DataFrame:
    """One row a (dataset, architecture, method), and their sum, empty where a row is.

    ``bench`` is the last table of ``make bench`` on this machine: an architecture's FLOP/s, and its kWh a FLOP, are
    taken to be the same at any width and on any images. Columns that need it are empty without. FLOPs are dense.
    """
    rows = []
    for exp in experiments:
        flops = dense_flops(exp) * (exp.levels + 1)
        row = {"dataset": exp.dataset, "arch": exp.arch, "method": exp.method, "runs": 1, "levels": exp.levels + 1}
        row |= {"epochs": exp.epochs * (exp.levels + 1), "PFLOP": flops / 1e15}
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
