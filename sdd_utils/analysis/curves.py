"""One setting's curves out of a table of many: vanilla, at another λ, distilled; and which λ and teachers there are.

``levels`` is always one dataset's part of levels.csv. A setting is an (architecture, noise rate).
"""

from collections.abc import Iterable
from functools import partial

import pandas as pd

from sdd_utils.distillation import TEACHERS, select_level
from sdd_utils.models import ARCHITECTURES, label_of


def vanilla_settings(levels: pd.DataFrame) -> list[tuple[str, float]]:
    """(arch, noise_rate) of every vanilla curve, in the order of ARCHITECTURES."""
    plain = levels[levels["method"] == "vanilla"]
    found, order = set(zip(plain["arch"], plain["noise_rate"], strict=True)), architectures(plain)
    return sorted(found, key=lambda s: (order.index(s[0]), s[1]))


def architectures(rows: pd.DataFrame) -> list[str]:
    """Those of the rows, in the order of ARCHITECTURES; others after them."""
    known = list(ARCHITECTURES)
    return sorted(set(rows["arch"]), key=lambda arch: (known.index(arch) if arch in known else len(known), arch))


def setting_name(arch: str, noise_rate: float) -> str:
    """A setting, as figures and tables call it."""
    return f"{label_of(arch)}, ε = {noise_rate:g}"


def distilled_settings(levels: pd.DataFrame) -> list[tuple[str, float]]:
    """Those of them that have students."""
    students = levels[levels["method"] == "kd"]
    return [setting for setting in vanilla_settings(levels) if len(of_settings(students, [setting]))]


def of_settings(rows: pd.DataFrame, settings: Iterable[tuple[str, float]]) -> pd.DataFrame:
    """The rows whose (arch, noise_rate) is among ``settings``, numbered anew."""
    chosen = pd.MultiIndex.from_frame(rows[["arch", "noise_rate"]]).isin([*settings])
    return rows[chosen].reset_index(drop=True)


def of_method(levels: pd.DataFrame, arch: str, noise_rate: float, method: str, teacher: str = "none") -> pd.DataFrame:
    """Rows of one setting, a value of the column ``method``, and the rule that picked the teacher; may be empty."""
    return of_settings(levels[(levels["method"] == method) & (levels["teacher"] == teacher)], [(arch, noise_rate)])


vanilla = partial(of_method, method="vanilla")  # at the regular λ without a teacher


def at_weight_decay(levels: pd.DataFrame, arch: str, noise_rate: float, weight_decay: float) -> pd.DataFrame:
    """Rows without a teacher at one λ, regular or not."""
    rows = undistilled(levels)
    return of_settings(rows[rows["weight_decay"] == weight_decay], [(arch, noise_rate)])


def weight_decays(levels: pd.DataFrame, arch: str, noise_rate: float) -> list[float]:
    """The λ at which there are curves without a teacher, in increasing order."""
    return sorted(of_settings(undistilled(levels), [(arch, noise_rate)])["weight_decay"].unique())


def undistilled(levels: pd.DataFrame) -> pd.DataFrame:
    """The rows that differ in λ alone: vanilla's, and those of the other λ."""
    return levels[levels["method"].isin(["vanilla", "l2"])]


def optimal_weight_decay(levels: pd.DataFrame, arch: str, noise_rate: float) -> float:
    """The λ, other than the regular one, whose best pruned level has the highest validation accuracy, mean over seeds.

    The paper does not say how its optimal λ was tuned.
    """
    rows = of_method(levels, arch, noise_rate, "l2")
    pruned = rows[rows["level"] >= min(1, rows["level"].max())]  # there may be none
    return pruned.groupby(["weight_decay", "level"])["val_acc"].mean().idxmax()[0]


def regular_weight_decay(levels: pd.DataFrame, arch: str) -> float:
    """The λ of the architecture's vanilla curves."""
    return levels.loc[(levels["method"] == "vanilla") & (levels["arch"] == arch), "weight_decay"].iat[0]


def teachers(levels: pd.DataFrame, selection: str = "validation") -> pd.DataFrame:
    """The levels that teach, one row a (arch, noise_rate, seed, rule); ``selection`` is what picked the sparse ones."""
    rows, measured = [], ["level", "sparsity", "best_epoch", "test_acc", "memorised"]
    students = levels.loc[levels["method"] == "kd", ["teacher_arch", "noise_rate", "teacher"]].drop_duplicates()
    for arch, rate, rule in students.sort_values([*students.columns]).itertuples(index=False):
        for seed, curve in of_method(levels, arch, rate, TEACHERS[rule].of).groupby("seed"):
            level = curve[curve["level"] == select_level(curve, rule, selection)].iloc[0]
            rows.append((arch, rate, seed, rule, *level[measured]))
    return pd.DataFrame(rows, columns=["arch", "noise_rate", "seed", "rule", *measured])
