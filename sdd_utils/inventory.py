"""What is there and what it is worth: the state of every run, and local results beside the committed reference."""

from pathlib import Path

import pandas as pd
from scipy import stats

from sdd_utils.config import Experiment
from sdd_utils.errors import Damaged
from sdd_utils.files import is_aside, is_sealed, read_csv, unsound
from sdd_utils.locks import holder
from sdd_utils.results import MEASURED_ON_THE_CLOCK, check_levels

STATES = ["done", "running", "stopped", "waiting", "damaged"]

WITHIN = 0.9
"""Share of a curve's levels that must lie in the reference's interval: of independent ones 95 % would."""


def survey(experiments: list[Experiment], folder: Path) -> pd.DataFrame:
    """One row an experiment: run_id, state, levels (done/all), note.

    ``done``: finished and every checksum right. ``running``: somebody holds its lock. ``stopped``: some of it is there,
    and the next run goes on with it. ``waiting``: nothing is there. ``damaged``: a finished run whose files are not
    what was written; the next run sets them aside and makes them again. Reads every file of every finished run.
    """
    return pd.DataFrame([_state(exp, folder / exp.run_id) for exp in experiments])


def _state(exp: Experiment, run: Path) -> dict:
    done = levels_done(run)
    aside = sorted(path.name for path in run.glob("*") if is_aside(path))
    note = f"set aside: {', '.join(aside)}" if aside else ""
    if machine := holder(run):
        state, note = "running", "; ".join(filter(None, [f"on {machine}", note]))
    elif wrong := unsound(run):
        state, note = "damaged", "; ".join(f"{name} {why}" for name, why in wrong.items())
    elif is_sealed(run):
        state = "done"
    else:
        state = "stopped" if run.exists() and any(run.iterdir()) else "waiting"
    return {"run_id": exp.run_id, "state": state, "levels": f"{done}/{exp.levels + 1}", "note": note}


def levels_done(run: Path) -> int:
    """How many rows the run's levels.csv has; 0 when there is none that can be read."""
    try:
        return len(read_csv(run / "levels.csv"))
    except (OSError, Damaged):
        return 0


def collect(experiments: list[Experiment], folder: Path, checked: bool = False) -> pd.DataFrame:
    """All levels there are, of finished and unfinished runs alike, in one table. Raises Damaged.

    ``checked`` says that ``survey`` has just read all files, which can be gigabytes of weights.
    """
    tables = []
    for exp in experiments:
        run = folder / exp.run_id
        for name, why in () if checked else unsound(run).items():
            raise Damaged(f"{run / name}: {why}; run the profile again to make it anew")
        if (run / "levels.csv").exists():
            tables.append(check_levels(read_csv(run / "levels.csv"), str(run / "levels.csv")))
    return pd.concat([t for t in tables if len(t)], ignore_index=True) if any(map(len, tables)) else pd.DataFrame()


def compare(local: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """Each local curve beside the reference: columns run_id, verdict, inside (share of levels), largest (points).

    ``identical``: every column but the clock's is equal. ``within``: at WITHIN of the levels or more, test accuracy
    lies where one more seed of the reference's setting would in 95 % of cases (mean ± t·s·√(1 + 1/n)). ``different``:
    neither. ``no reference``: its setting is not in the reference. ``largest`` is the largest distance from the
    reference's run, or from its seeds' mean where the reference lacks this seed.
    """
    setting = ["dataset", "arch", "noise_kind", "noise_rate", "weight_decay"]
    setting += ["teacher", "teacher_arch", "temperature", "alpha"]
    seeds = reference.groupby([*setting, "level"], dropna=False)["test_acc"].agg(["mean", "std", "count"]).reset_index()
    rows = []
    for run, curve in local.groupby("run_id", sort=False):
        same = reference[reference["run_id"] == run]
        clockless = [c for c in reference.columns if c not in MEASURED_ON_THE_CLOCK]
        beside = curve.merge(seeds, on=[*setting, "level"])
        row = {"run_id": run, "verdict": "no reference", "inside": float("nan"), "largest": float("nan")}
        if len(beside):
            known = curve.merge(same[["level", "test_acc"]], on="level", suffixes=("", "_reference"))
            base = known["test_acc_reference"] if len(known) == len(beside) else beside["mean"]
            row["largest"] = 100 * abs(beside["test_acc"].to_numpy() - base.to_numpy()).max()
            n = beside["count"]
            half = stats.t.ppf(0.975, (n - 1).clip(lower=1)) * beside["std"] * (1 + 1 / n) ** 0.5
            row["inside"] = ((beside["test_acc"] - beside["mean"]).abs() <= half).mean()
            row["verdict"] = "within" if row["inside"] >= WITHIN else "different"
        if len(same) == len(curve) and _equal(same[clockless], curve[clockless]):
            row["verdict"] = "identical"
        rows.append(row)
    return pd.DataFrame(rows)


def _equal(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    one, other = one.reset_index(drop=True), other.reset_index(drop=True)
    return bool(((one == other) | (one.isna() & other.isna())).all(axis=None))
