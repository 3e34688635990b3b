"""What is there: the state of every run, and the levels of all."""

from pathlib import Path

import pandas as pd

from sdd_utils.config import Experiment
from sdd_utils.errors import Damaged
from sdd_utils.files import read_csv
from sdd_utils.runner.integrity import finished, is_quarantined, own_files, verify
from sdd_utils.runner.locks import holder
from sdd_utils.tables import LEVEL_COLUMNS, check_levels


def survey(experiments: list[Experiment], folder: Path) -> pd.DataFrame:
    """One row an experiment: run_id, state, levels (done/all), note.

    ``done``: finished and every checksum right. ``running``: somebody holds its lock. ``stopped``: the next run goes on
    with it. ``waiting``: nothing is there. ``damaged``: finished, and files are not what was written; the next run
    quarantines them and makes them again. Reads every file of every finished run.
    """
    return pd.DataFrame([_state(exp, folder) for exp in experiments])


def _state(exp: Experiment, folder: Path) -> dict:
    from sdd_utils.runner.checkpoints import unsound  # it needs torch, as nothing else here does

    run = folder / exp.run_id
    done = levels_done(run)
    aside = sorted(path.name for path in run.glob("*") if is_quarantined(path))
    note = f"quarantined: {', '.join(aside)}" if aside else ""
    if machine := holder(run):
        state, note = "running", "; ".join(filter(None, [f"on {machine}", note]))
    elif wrong := unsound(run, exp):
        state, note = "damaged", "; ".join(f"{name} {why}" for name, why in wrong.items())
    elif finished(exp, folder):
        state = "done"
    else:
        state = "stopped" if own_files(run) else "waiting"
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
        for name, why in () if checked else verify(run).items():
            raise Damaged(f"{run / name}: {why}; run the profile again to make it anew")
        if (run / "levels.csv").is_file():
            tables.append(check_levels(read_csv(run / "levels.csv"), str(run / "levels.csv")))
    tables = [table for table in tables if len(table)] or [pd.DataFrame(columns=LEVEL_COLUMNS)]
    return pd.concat(tables, ignore_index=True)
