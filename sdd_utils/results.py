"""Results on disk: tidy CSV a person can open, written atomically, and where each file lies."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "results" / "runs"
REFERENCE = ROOT / "results" / "reference"
FIGURES = ROOT / "figures"

LEVEL_COLUMNS = [
    *["run_id", "profile", "dataset", "arch", "seed", "noise_kind", "noise_rate", "method", "optimizer"],
    *["weight_decay", "teacher", "temperature", "alpha", "level", "sparsity", "remaining_params", "epochs"],
    *["train_loss", "train_acc", "val_acc", "test_loss", "test_acc", "clean_fit", "memorised", "weight_std"],
    *["seconds", "train_flops", "train_flops_sparse", "energy_kwh", "emissions_kg"],
]
"""One row a (curve, level); the README says what each column means."""

MEASURED_ON_THE_CLOCK = ["seconds", "energy_kwh", "emissions_kg"]
"""The only columns that differ when the same configuration runs again on the same machine."""

WEIGHT_BIN = 0.02
WEIGHT_BINS = 150
"""weights.csv counts surviving weights in bins this wide; weights beyond ±1.5 are counted in the outermost bins."""

PACKAGES = ["torch", "torchvision", "timm", "numpy", "pandas", "scikit-learn", "codecarbon"]


class ResultsMissing(FileNotFoundError):
    """Results that are not there yet; the message says which command makes them."""


def write_atomically(path: Path, text: str) -> None:
    """Write, sync and rename, so that a reader or a killed run never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """A tidy CSV with six significant digits."""
    write_atomically(path, table.to_csv(index=False, float_format="%.6g"))


def write_json(path: Path, value: dict) -> None:
    """Indented JSON, written atomically."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def load_levels(results: str | Path, profile: str) -> pd.DataFrame:
    """All curves of a profile, one row a (curve, level).

    ``results`` is ``"reference"`` for what is committed, ``"runs"`` for this machine's, or a folder of runs.
    Raises ResultsMissing.
    """
    if results == "reference":
        table = REFERENCE / profile / "levels.csv"
        if not table.exists():
            raise ResultsMissing(f"no reference results for profile {profile!r} under {REFERENCE}")
        return pd.read_csv(table, keep_default_na=False, na_values=[""])
    folder = (RUNS if results == "runs" else Path(results)) / profile
    tables = [pd.read_csv(path, keep_default_na=False, na_values=[""]) for path in sorted(folder.glob("*/levels.csv"))]
    if not tables:
        raise ResultsMissing(f"no runs of profile {profile!r} in {folder}: make reproduce PROFILE={profile}")
    return pd.concat(tables, ignore_index=True)


def load_weights(results: str | Path, profile: str) -> pd.DataFrame:
    """Histograms of the surviving weights: arch, noise_rate, weight_decay, level, sparsity, bin (left edge), count."""
    if results == "reference":
        return pd.read_csv(REFERENCE / profile / "weights.csv")
    folder = (RUNS if results == "runs" else Path(results)) / profile
    keys = ["arch", "noise_rate", "weight_decay", "level"]
    tables = []
    for path in sorted(folder.glob("*/weights.csv")):
        levels = pd.read_csv(path.parent / "levels.csv", keep_default_na=False, na_values=[""])
        if levels["method"].iat[0] != "kd":
            tables.append(pd.read_csv(path).merge(levels[[*keys, "sparsity"]], on="level"))
    return pd.concat(tables).groupby([*keys, "sparsity", "bin"], as_index=False)["count"].sum()


def provenance() -> dict:
    """Where numbers came from: commit, versions, processor. No host name, no path."""
    git = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=40"], cwd=ROOT, capture_output=True)
    import torch

    return {
        "commit": git.stdout.decode().strip() or "unknown",
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
