"""How much τ and α matter: tables of a profile with a grid of both.

The grid's candidates are ranked on validation (``val``); everything else in the tables is measured on test.
"""

import pandas as pd

from sdd_utils.analysis.curves import vanilla
from sdd_utils.analysis.dip import curves_of, measure_dip
from sdd_utils.distillation import select_level

SETTING = ["arch", "noise_rate", "teacher"]


def grid(levels: pd.DataFrame) -> pd.DataFrame:
    """One row a (arch, noise_rate, teacher, temperature, alpha): the students of sparse and dense teachers.

    ``val`` is validation accuracy (%), mean over seeds and levels, by which candidates are ranked. ``rebound``, ``low``
    and ``high`` are the dip's rebound in points with its 95 % interval; ``sweet`` test accuracy (%) at the level of the
    same seed's sparse teacher, which is where vanilla validates best past its critical phase; ``kept`` the highest
    sparsity (%) at which the mean curve is within one point of its best.
    """
    rows = []
    students = levels[levels["teacher"].isin(["sparse", "dense"])]
    for key, part in students.groupby([*SETTING, "temperature", "alpha"]):
        curves = curves_of(part)
        rebound = measure_dip(curves).rebound
        mean, sparsity = curves.mean(axis=0), part.groupby("level")["sparsity"].first().to_numpy()
        row = dict(zip([*SETTING, "temperature", "alpha"], key, strict=True))
        row |= {"val": 100 * part["val_acc"].mean(), "seeds": len(curves)}
        row |= {"rebound": rebound.value, "low": rebound.low, "high": rebound.high}
        row["sweet"] = sweet_accuracy(part, vanilla(levels, *key[:2])).mean()
        rows.append(row | {"kept": 100 * sparsity[mean >= mean.max() - 0.01].max()})
    return pd.DataFrame(rows)


def sweet_accuracy(students: pd.DataFrame, plain: pd.DataFrame) -> pd.Series:
    """Test accuracy (%) by seed of one setting's students, at the level that would be that seed's sparse teacher."""
    levels = {seed: select_level(curve, "sparse") for seed, curve in plain.groupby("seed")}
    there = students[students["level"] == students["seed"].map(levels)]
    return 100 * there.set_index("seed")["test_acc"].sort_index()


def chosen(table: pd.DataFrame, fixed: dict[str, tuple[float, float]]) -> pd.DataFrame:
    """What choosing on validation gives on test, beside candidates that are not chosen but always the same.

    One row a (arch, noise_rate, teacher) of ``grid``'s table and a way to come to τ and α: ``validation``, each of
    ``fixed`` (a name and its τ and α), and, to compare with, the mean and the best of the grid in each column.
    """
    rows = []
    for key, part in table.groupby(SETTING):
        ways = {"chosen on validation": part.loc[part["val"].idxmax()]}
        by_candidate = part.set_index(["temperature", "alpha"], drop=False)
        ways |= {name: by_candidate.loc[candidate] for name, candidate in fixed.items()}
        setting = dict(zip(SETTING, key, strict=True))
        columns = ["temperature", "alpha", "rebound", "sweet", "kept"]
        rows += [setting | {"way": way} | row[columns].to_dict() for way, row in ways.items()]
        rows.append(setting | {"way": "mean of the grid"} | part[["rebound", "sweet", "kept"]].mean().to_dict())
        best = {"rebound": part["rebound"].min(), "sweet": part["sweet"].max(), "kept": part["kept"].max()}
        rows.append(setting | {"way": "best of the grid, column by column"} | best)
    return pd.DataFrame(rows)
