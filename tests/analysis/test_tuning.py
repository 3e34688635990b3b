"""The study of τ and α: ranked on validation, measured on test, on curves with known answers."""

import numpy as np
import pandas as pd
import pytest
from made_up import FLAT, LEVELS, one_dip, table

from sdd_utils.analysis import tuning

DIP = one_dip(0.2, 0.25)
SEEDS = 3


def rows(curve, val=None, **columns):
    rng = np.random.default_rng(0)
    parts = [table(curve + rng.normal(0, 0.001, LEVELS), seed, **columns) for seed in range(SEEDS)]
    return pd.concat(parts).assign(val_acc=lambda t: t["test_acc"] if val is None else val)


def student(curve, temperature, alpha, val, teacher="dense"):
    return rows(curve, val, method="kd", teacher=teacher, temperature=temperature, alpha=alpha)


STUDY = pd.concat(
    [
        rows(DIP, method="vanilla"),
        student(DIP, 1.0, 0.2, val=0.5),  # the dip is still there
        student(FLAT, 2.0, 0.8, val=0.6),
        student(FLAT + 0.1, 10.0, 0.8, val=0.4),  # better on test than validation says
    ],
    ignore_index=True,
)
GRID = tuning.grid(STUDY).set_index(["temperature", "alpha"])


def test_each_candidate_is_measured_as_curves_are_elsewhere():
    assert set(GRID["teacher"]) == {"dense"}
    assert GRID.loc[(1, 0.2), "rebound"] == pytest.approx(25, abs=1)
    assert GRID.loc[(2, 0.8), "rebound"] == pytest.approx(0, abs=0.5)
    assert GRID.loc[(1, 0.2), "sweet"] == pytest.approx(90, abs=0.5)  # at level 23, the sparse teacher's
    assert GRID["val"].tolist() == pytest.approx([50, 60, 40])


def test_validation_chooses_and_test_confirms():
    ways = tuning.chosen(GRID.reset_index(), {"default": (10, 0.8)}).set_index("way")
    assert ways.loc["chosen on validation", ["temperature", "alpha"]].tolist() == [2, 0.8]
    assert ways.loc["default", "sweet"] == pytest.approx(90, abs=0.5)
    assert ways.loc["mean of the grid", "sweet"] == pytest.approx((90 + 80 + 90) / 3, abs=0.5)
    assert ways.loc["best of the grid, column by column", "rebound"] == GRID["rebound"].min()
