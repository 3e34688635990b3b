"""Results as tables: columns, where they lie, how they are read. Nothing else stands between training and analysis."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from sdd_utils.errors import ConfigError, Damaged, ResultsMissing
from sdd_utils.files import ROOT, read_csv
from sdd_utils.settings import PROFILE_NAME

if TYPE_CHECKING:
    from sdd_utils.config import Experiment

RUNS = ROOT / "results" / "runs"
REFERENCE = ROOT / "results" / "reference"
FIGURES = ROOT / "figures"

LEVEL_COLUMNS = [
    *["run_id", "profile", "dataset", "arch", "seed", "noise_kind", "noise_rate", "method", "optimizer"],
    *["weight_decay", "teacher", "teacher_arch", "temperature", "alpha", "val_images", "level"],
    *["sparsity", "remaining_params", "epochs", "best_epoch"],
    *["train_loss", "train_acc", "val_acc", "test_loss", "test_acc", "clean_fit", "memorised", "weight_std"],
    *["seconds", "train_flops", "train_flops_sparse", "energy_kwh", "emissions_kg", "energy_source"],
]
"""One row a (curve, level); results/README.md says what each column means."""

MEASURED_ON_THE_CLOCK = ["seconds", "energy_kwh", "emissions_kg", "energy_source"]  # all that a run here again changes

WORDS = {"run_id", "profile", "dataset", "arch", "noise_kind", "method", "optimizer", "teacher", "teacher_arch"}
WORDS |= {"energy_source"}
SHARES = {"noise_rate", "sparsity", "train_acc", "val_acc", "test_acc", "clean_fit", "memorised"}

WEIGHT_COLUMNS = ["dataset", "arch", "noise_rate", "weight_decay", "level", "sparsity", "bin", "count"]

DEPLOYMENT_COLUMNS = [
    *["dataset", "arch", "width", "noise_rate", "level", "sparsity", "variant", "weights", "nonzero", "units_removed"],
    *["onnx_bytes", "gzip_bytes", "ms_batch_1", "ms_batch_64", "max_difference"],
]

WEIGHT_BIN = 0.02
WEIGHT_BINS = 150
"""weights.csv counts surviving weights in bins this wide; weights beyond ±1.5 are counted in the outermost bins."""


def levels_table(exp: Experiment, rows: list[dict], profile: str = "") -> pd.DataFrame:
    """One run's levels.csv: the measured ``rows`` and beside them what the configuration says, in LEVEL_COLUMNS."""
    rule, arch = (exp.teacher.rule, exp.teacher.experiment.arch) if exp.teacher else ("none", "none")
    known = {"run_id": exp.run_id, "profile": profile, "method": exp.method, "val_images": exp.validation_images}
    known |= exp.model_dump(include=set(LEVEL_COLUMNS) & set(type(exp).model_fields) - {"teacher"})
    known |= {"teacher": rule, "teacher_arch": arch}
    return pd.DataFrame([known | row for row in rows], columns=LEVEL_COLUMNS)


def load_levels(profile: str) -> pd.DataFrame:
    """All curves of a committed reference, in LEVEL_COLUMNS. Raises ResultsMissing and Damaged."""
    path = _reference(profile, "levels.csv")
    if (levels := check_levels(read_csv(path), str(path))).empty:
        raise Damaged(f"{path}: has no row")
    return levels


def check_levels(levels: pd.DataFrame, where: str) -> pd.DataFrame:
    """The table, with LEVEL_COLUMNS, numbers where they belong, and sparsity that grows. Raises Damaged, which names
    ``where``, the column and the row."""
    for column in LEVEL_COLUMNS:
        if column not in levels:
            raise Damaged(f"{where}: column {column} is missing")
        if column in WORDS:
            continue
        try:
            numbers = pd.to_numeric(levels[column], errors="coerce").astype(float)
        except OverflowError:  # an integer of hundreds of digits
            raise Damaged(f"{where}: {column}: has a number that is far too large") from None
        if (wrong := (numbers.isna() & levels[column].notna()) | np.isinf(numbers)).any():
            value = levels.loc[wrong, column].tolist()[0]
            raise Damaged(f"{where}: {column}: {value!r} in line {wrong.idxmax() + 2} is not a number")
        if column in SHARES - {"memorised"} and numbers.isna().any():  # without wrong labels none is memorised
            raise Damaged(f"{where}: {column}: is missing in line {numbers.isna().idxmax() + 2}")
        if column in SHARES and not (inside := numbers.dropna().between(0, 1)).all():
            line = inside.idxmin()
            raise Damaged(f"{where}: {column}: {numbers[line]:g} in line {line + 2} is not between 0 and 1")
    for run, rows in levels.groupby("run_id", sort=False):
        if rows["level"].tolist() != list(range(len(rows))):
            raise Damaged(f"{where}: level: those of {run} are not 0, 1, 2, …")
        if not rows["sparsity"].is_monotonic_increasing or not rows["sparsity"].is_unique:
            raise Damaged(f"{where}: sparsity: does not increase from level to level in {run}")
    return levels


def load_weights(profile: str) -> pd.DataFrame:
    """Histograms of the surviving weights of a reference's undistilled curves at every third level, summed over seeds.

    ``bin`` is a left edge. Raises ResultsMissing and Damaged.
    """
    return read_csv(_reference(profile, "weights.csv"), WEIGHT_COLUMNS)


def load_deployment(profile: str, runs: Path | None = None) -> pd.DataFrame:
    """Size and speed of exported networks, of a committed reference or of ``runs``; ``benchmarks.deploy`` says what the
    columns are. Raises ResultsMissing and Damaged."""
    if runs is None:
        return read_csv(_reference(profile, "deployment.csv"), DEPLOYMENT_COLUMNS)
    path, command = runs / "deployment.csv", f"python -m benchmarks deploy --profile {profile} --results {runs.parent}"
    if not path.exists():
        raise ResultsMissing(f"{path} is not there; {command} makes it")
    try:
        return read_csv(path, DEPLOYMENT_COLUMNS)
    except Damaged as error:
        raise Damaged(f"{error}; {command} makes it again") from None


def _reference(profile: str, table: str) -> Path:
    if not re.fullmatch(PROFILE_NAME, profile):
        raise ConfigError(f"profile: {profile!r} is not the name of a profile, which has letters, digits and hyphens")
    path = REFERENCE / profile / table
    if not path.exists():
        what = f"{path.relative_to(ROOT)} is not there: no reference of {profile} is committed"
        raise ResultsMissing(f'{what}; train it, make reproduce PROFILE={profile}, or set results = "runs"')
    return path
