"""How much τ and α matter: tables of a profile with a grid of both, ranked on validation and measured on test."""

import pandas as pd

from sdd_utils.analysis.curves import vanilla
from sdd_utils.analysis.dip import curves_of, measure_dip, over_the_margin
from sdd_utils.distillation import select_level

SETTING = ["arch", "noise_rate", "teacher"]


def grid(levels: pd.DataFrame) -> pd.DataFrame:
    """One row a (arch, noise_rate, teacher, temperature, alpha): of its students.

    ``val`` is validation accuracy (%), mean over seeds and levels; ``rebound`` the dip's, in points, and ``estimate``
    the same with its interval; ``gone`` whether less than half of vanilla's is left, as in C3; ``sweet`` test accuracy
    (%) at the level of the same seed's sparse teacher.
    """
    rows = []
    for setting, of_setting in levels[levels["method"] == "kd"].groupby(SETTING):
        plain = vanilla(levels, *setting[:2])
        usual = measure_dip(curves_of(plain), held_out=False)
        for pair, part in of_setting.groupby(["temperature", "alpha"]):
            left = measure_dip(curves_of(part), held_out=False)
            row = dict(zip([*SETTING, "temperature", "alpha"], [*setting, *pair], strict=True))
            row |= {"val": 100 * part["val_acc"].mean(), "sweet": sweet_accuracy(part, plain).mean()}
            gone = over_the_margin(left, usual).high < 0
            rows.append(row | {"rebound": left.rebound.value, "estimate": left.rebound, "gone": gone})
    return pd.DataFrame(rows)


def sweet_accuracy(students: pd.DataFrame, plain: pd.DataFrame) -> pd.Series:
    """Test accuracy (%) by seed of one setting's students, at the level that would be that seed's sparse teacher."""
    levels = {seed: select_level(curve, "sparse") for seed, curve in plain.groupby("seed")}
    there = students[students["level"] == students["seed"].map(levels)]
    return 100 * there.set_index("seed")["test_acc"].sort_index()


def chosen(table: pd.DataFrame, fixed: dict[str, tuple[float, float]]) -> pd.DataFrame:
    """What choosing τ and α on validation gives on test, by (arch, noise_rate, teacher) of ``grid``'s table.

    Beside it: candidates that are always the same (``fixed``: a name and its τ and α), the grid's mean, and its best.
    """
    rows = []
    for key, part in table.groupby(SETTING):
        ways = {"chosen on validation": part.loc[part["val"].idxmax()]}
        by_candidate = part.set_index(["temperature", "alpha"], drop=False)
        ways |= {name: by_candidate.loc[candidate] for name, candidate in fixed.items()}
        setting = dict(zip(SETTING, key, strict=True))
        columns = ["temperature", "alpha", "rebound", "sweet"]
        rows += [setting | {"way": way} | row[columns].to_dict() for way, row in ways.items()]
        rows.append(setting | {"way": "mean of the grid"} | part[["rebound", "sweet"]].mean().to_dict())
        best = {"rebound": part["rebound"].min(), "sweet": part["sweet"].max()}
        rows.append(setting | {"way": "best of the grid, column by column"} | best)
    return pd.DataFrame(rows)
