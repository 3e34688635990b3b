"""Results on disk: tidy CSV a person can open, written atomically, and where each file lies."""

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


class SweepStopped(RuntimeError):
    """A sweep cannot go on in this process; says why and what to do."""


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


def read_csv(path: Path) -> pd.DataFrame:
    """What ``write_csv`` wrote; only an empty field is missing, ``none`` is a word."""
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


def load_levels(results: str | Path, profile: str) -> pd.DataFrame:
    """All curves of a profile, one row a (curve, level), in LEVEL_COLUMNS.

    ``results`` is ``"reference"`` for what is committed, ``"runs"`` for this machine's, or another folder of runs.
    Raises ResultsMissing.
    """
    return _load(results, profile, "levels.csv")


def load_weights(results: str | Path, profile: str) -> pd.DataFrame:
    """Histograms of the surviving weights of the curves without a teacher, summed over seeds, every third level.

    Columns: arch, noise_rate, weight_decay, level, sparsity, bin (left edge), count. Raises ResultsMissing.
    """
    return _load(results, profile, "weights.csv")


def _load(results: str | Path, profile: str, table: str) -> pd.DataFrame:
    path = {"reference": REFERENCE, "runs": RUNS}.get(str(results), Path(results)) / profile / table
    if not path.exists():
        hint = ', then set results = "runs"' if results == "reference" else ""
        raise ResultsMissing(f"{path} is not there; train it: make reproduce PROFILE={profile}{hint}")
    return read_csv(path)


def provenance() -> dict:
    """Where numbers came from: commit, versions, processor. No host name, no path."""
    import torch

    try:
        describe = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
        commit = subprocess.run(describe, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    except OSError:  # no git on this machine
        commit = ""
    return {
        "commit": commit or "unknown",
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
