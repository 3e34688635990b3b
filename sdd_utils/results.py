"""Results as tables: their columns, where they lie, and where they come from."""

import importlib.metadata
import io
import os
import platform
import re
import subprocess
from functools import cache
from pathlib import Path

import pandas as pd

from sdd_utils.config import PROFILE_NAME, Experiment
from sdd_utils.energy import COUNTRY
from sdd_utils.errors import ConfigError, Damaged, ResultsMissing
from sdd_utils.files import as_csv, read_csv

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "results" / "runs"
REFERENCE = ROOT / "results" / "reference"
FIGURES = ROOT / "figures"

LEVEL_COLUMNS = [
    *["run_id", "profile", "dataset", "arch", "seed", "noise_kind", "noise_rate", "method", "optimizer"],
    *["weight_decay", "teacher", "teacher_arch", "temperature", "alpha", "level", "sparsity", "remaining_params"],
    *["epochs", "train_loss", "train_acc", "val_acc", "test_loss", "test_acc", "clean_fit", "memorised", "weight_std"],
    *["seconds", "train_flops", "train_flops_sparse", "energy_kwh", "emissions_kg", "energy_source"],
]
"""One row a (curve, level); the README says what each column means."""

MEASURED_ON_THE_CLOCK = ["seconds", "energy_kwh", "emissions_kg", "energy_source"]
"""The only columns that differ when the same configuration runs again on the same machine."""

WORDS = {
    *["run_id", "profile", "dataset", "arch", "noise_kind", "method", "optimizer", "teacher", "teacher_arch"],
    "energy_source",
}
SHARES = {"noise_rate", "sparsity", "train_acc", "val_acc", "test_acc", "clean_fit", "memorised"}

WEIGHT_BIN = 0.02
WEIGHT_BINS = 150
"""weights.csv counts surviving weights in bins this wide; weights beyond ±1.5 are counted in the outermost bins."""

PACKAGES = ["torch", "torchvision", "timm", "numpy", "pandas", "scikit-learn", "codecarbon"]


def levels_table(exp: Experiment, rows: list[dict], profile: str = "") -> pd.DataFrame:
    """One run's levels.csv: the measured ``rows`` and beside them what the configuration says, in LEVEL_COLUMNS."""
    configured = exp.model_dump(include=set(LEVEL_COLUMNS) & set(Experiment.model_fields) - {"teacher"}) | {
        "run_id": exp.run_id,
        "profile": profile,
        "method": exp.method,
        "teacher": exp.teacher.rule if exp.teacher else "none",
        "teacher_arch": exp.teacher.experiment.arch if exp.teacher else "none",
    }
    return pd.DataFrame([configured | row for row in rows], columns=LEVEL_COLUMNS)


def rounded(table: pd.DataFrame) -> pd.DataFrame:
    """The table as it is read back after it was written."""
    return read_csv(io.StringIO(as_csv(table)))


def load_levels(results: str | Path, profile: str) -> pd.DataFrame:
    """All curves of a profile, one row a (curve, level), in LEVEL_COLUMNS.

    ``results`` is ``"reference"`` for what is committed, ``"runs"`` for this machine's, or another folder of runs.
    Raises ResultsMissing, and Damaged when the table is not one of levels.
    """
    path = _find(results, profile, "levels.csv")
    return check_levels(read_csv(path), str(path))


def check_levels(levels: pd.DataFrame, where: str) -> pd.DataFrame:
    """The table itself, if it has LEVEL_COLUMNS, numbers where they belong, and sparsity that grows with each level.

    Raises Damaged, naming ``where``, the column and the row.
    """
    for column in LEVEL_COLUMNS:
        if column not in levels:
            raise Damaged(f"{where}: column {column} is missing")
        if column in WORDS:
            continue
        numbers = pd.to_numeric(levels[column], errors="coerce")
        if (wrong := numbers.isna() & levels[column].notna()).any():
            value = levels.loc[wrong, column].iloc[0]
            raise Damaged(f"{where}: {column}: {value!r} in line {wrong.idxmax() + 2} is not a number")
        if column in SHARES and not (inside := numbers.dropna().between(0, 1)).all():
            line = inside.idxmin()
            raise Damaged(f"{where}: {column}: {numbers[line]:g} in line {line + 2} is not between 0 and 1")
    for run, rows in levels.groupby("run_id", sort=False):
        if rows["level"].tolist() != list(range(len(rows))):
            raise Damaged(f"{where}: level: those of {run} are not 0, 1, 2, …")
        if not rows["sparsity"].is_monotonic_increasing or not rows["sparsity"].is_unique:
            raise Damaged(f"{where}: sparsity: does not increase from level to level in {run}")
    return levels


def of_dataset(table: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """The rows of one dataset; ``""`` is the profile's only or first one. Raises ConfigError."""
    known = table["dataset"].unique().tolist()
    if dataset and dataset not in known:
        raise ConfigError(f"dataset: there is no {dataset!r} in these results; there are {', '.join(known)}")
    return table[table["dataset"] == (dataset or known[0])].reset_index(drop=True)


def load_weights(results: str | Path, profile: str) -> pd.DataFrame:
    """Histograms of the surviving weights of the curves without a teacher, summed over seeds, every third level.

    Columns: dataset, arch, noise_rate, weight_decay, level, sparsity, bin (left edge), count. Raises ResultsMissing.
    """
    return read_csv(_find(results, profile, "weights.csv"))


def load_deployment(results: str | Path, profile: str) -> pd.DataFrame:
    """Size and speed of exported networks, in ``deploy.DEPLOYMENT_COLUMNS``. Raises ResultsMissing."""
    return read_csv(_find(results, profile, "deployment.csv"))


def _find(results: str | Path, profile: str, table: str) -> Path:
    if not re.fullmatch(PROFILE_NAME, profile):
        raise ConfigError(f"profile: {profile!r} is not the name of a profile, which has letters, digits and hyphens")
    path = {"reference": REFERENCE, "runs": RUNS}.get(str(results), Path(results)) / profile / table
    if not path.exists():
        hint = ', then set results = "runs"' if results == "reference" else ""
        raise ResultsMissing(f"{path} is not there; train it: make reproduce PROFILE={profile}{hint}")
    return path


def provenance(device: str = "cpu") -> dict:
    """Where numbers came from: commit, versions, processor, GPU if that is the device, country of the grid. No host
    name, no path."""
    import torch

    return {
        "commit": commit(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else None,
        "country": COUNTRY,
    }


@cache
def commit() -> str:
    """The commit whose code this process runs, ``…-dirty`` if changed since; asked once, when the process is young."""
    try:
        describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]  # no tag's name instead
        return subprocess.run(describe, cwd=ROOT, capture_output=True, text=True).stdout.strip() or "unknown"
    except OSError:  # no git on this machine
        return "unknown"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # a run needs few of them
        return None


def cpu_model() -> str:
    """The processor's name as it gives it itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def device_name(device: str) -> str:
    """Of the GPU, or of the processor with the number of cores that this process may use."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_model()} {len(os.sched_getaffinity(0))} cores"


def file_name(name: str) -> str:
    """Of a device's table: ``NVIDIA H200`` → ``nvidia-h200.csv``."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") + ".csv"
