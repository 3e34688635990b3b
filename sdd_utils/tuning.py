"""How much τ and α matter, and what bad teachers do: tables and figures of a profile with a grid of both.

The grid's candidates are ranked on validation (``val``); everything else in the tables is measured on test.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from sdd_utils.analysis import curves_of, measure_dip, select_level
from sdd_utils.curves import select, setting_name, vanilla
from sdd_utils.drawing import BLUE, COLUMN, GREEN, ORANGE, PURPLE, draw_panels

SETTING = ["arch", "noise_rate", "teacher"]
HEAT_MAPS = {
    "rebound": "rebound left (points)",
    "sweet": "test accuracy where vanilla is sweet (%)",
    "kept": "sparsity within one point of the best (%)",
}
BAD_TEACHERS = {"dense": ORANGE, "sparse": BLUE, "critical": PURPLE, "undertrained": GREEN}


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


def heat_map(table: pd.DataFrame, column: str) -> Figure:
    """One of HEAT_MAPS over τ and α: a row a teacher, a column an (architecture, ε), one colour scale for all."""
    settings = list(dict.fromkeys(zip(table["arch"], table["noise_rate"], strict=True)))
    teachers = [rule for rule in ("sparse", "dense") if rule in set(table["teacher"])]
    size = (COLUMN * 2, 1.7 * len(teachers) + 0.4)
    fig, axes = plt.subplots(len(teachers), len(settings), figsize=size, sharex=True, sharey=True, squeeze=False)
    limits = {"vmin": table[column].min(), "vmax": table[column].max()}
    for rule, line in zip(teachers, axes, strict=True):
        for setting, ax in zip(settings, line, strict=True):
            mine = table[(table["arch"] == setting[0]) & (table["noise_rate"] == setting[1])]
            values = mine[mine["teacher"] == rule].pivot(index="alpha", columns="temperature", values=column)
            values = values.rename(index="{:g}".format, columns="{:g}".format).iloc[::-1]
            style = {"annot": True, "fmt": ".1f", "annot_kws": {"size": 7}, "cmap": "viridis", "cbar": False}
            sns.heatmap(values, ax=ax, **style, **limits)
            ax.set(xlabel="", ylabel="")
            if ax in axes[0]:
                ax.set_title(setting_name(*setting), fontsize=8)
            if ax in axes[-1]:
                ax.set_xlabel("τ")
        line[0].set_ylabel(f"{rule} teacher\nα")
    fig.suptitle(HEAT_MAPS[column], fontsize=9)
    return fig


def bad_teachers(levels: pd.DataFrame) -> Figure:
    """Students of good and of bad teachers at the τ and α that all of them have, and vanilla with its phases."""
    bad = levels[levels["teacher"].isin(["critical", "undertrained"])]
    by_setting = bad.groupby(["arch", "noise_rate"])
    shared = {setting: part[["temperature", "alpha"]].min() for setting, part in by_setting}

    def lines(setting: tuple[str, float]) -> list:
        here = select(levels, [setting])
        here = here[(here[["temperature", "alpha"]] == shared[setting]).all(axis=1)]
        taught = [(f"{rule} teacher", here[here["teacher"] == rule], colour) for rule, colour in BAD_TEACHERS.items()]
        return [("no teacher", vanilla(levels, *setting), "0.25"), *(line for line in taught if len(line[1]))]

    return draw_panels({setting_name(*setting): lines(setting) for setting in shared}, "no teacher", columns=2)


def figures(levels: pd.DataFrame) -> dict[str, Figure]:
    """All figures of the study, by name."""
    table = grid(levels)
    return {column: heat_map(table, column) for column in HEAT_MAPS} | {"bad_teachers": bad_teachers(levels)}
