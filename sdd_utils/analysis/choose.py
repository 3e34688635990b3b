"""How far to prune, and which way: stop rules with what they cost and lose, and a recommendation from the evidence.

Everything is chosen on validation accuracy, whose labels are noisy; test accuracy only measures what was chosen.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from sdd_utils.analysis.cost import COSTS
from sdd_utils.analysis.dip import Estimate
from sdd_utils.datasets import facts_of
from sdd_utils.distillation import most_accurate
from sdd_utils.errors import Unsatisfiable

Rule = Callable[[np.ndarray, int], int]  # from one run's validation accuracies (levels,), of so many images, to a level


def standard_error(accuracy: float | np.ndarray, images: int) -> float | np.ndarray:
    """Binomial standard error of an accuracy that was measured on so many images; both are shares."""
    return np.sqrt(accuracy * (1 - accuracy) / images)


def sparsest(curve: np.ndarray, images: int) -> int:
    """The one-standard-error rule: the sparsest level no more than one standard error below the best."""
    return int(np.flatnonzero(curve >= curve.max() - standard_error(curve.max(), images)).max())


def first_drop(curve: np.ndarray, images: int) -> int:
    """The level of the first significant drop, two standard errors below the best so far; without one the last."""
    best = np.maximum.accumulate(curve)
    stop = curve < best - 2 * standard_error(best, images)
    return int(np.argmax(stop)) if stop.any() else last(curve, images)


def last(curve: np.ndarray, images: int) -> int:
    """The last level."""
    return len(curve) - 1


STOP_RULES: dict[str, tuple[Rule, Rule]] = {
    "first drop": (first_drop, sparsest),
    "validation maximum": (last, lambda curve, images: most_accurate(curve)),
    "full sweep": (last, sparsest),
}
"""By name: which level is the last to be trained, and which of those that are is taken."""


def stopped(spent: pd.DataFrame) -> pd.DataFrame:
    """Every rule on every run of ``cost.spent``'s table: one row a (arch, noise_rate, pipeline, seed, rule).

    ``trained`` is the last level that the rule trains, and the COSTS are all spent up to there; what else is measured
    is of the network that the rule takes.
    """
    keys = ["arch", "noise_rate", "pipeline", "seed"]
    rows = []
    for run, curve in spent.groupby(keys, sort=False):
        curve = curve.sort_values("level")
        accuracies, images = curve["val_acc"].to_numpy(), curve["val_images"].iat[0]
        for name, (stop, take) in STOP_RULES.items():
            trained = stop(accuracies, images)
            taken = curve.iloc[take(accuracies[: trained + 1], images)]
            row = dict(zip(keys, run, strict=True)) | {"rule": name, "trained": trained}
            row |= taken[["level", "sparsity", "remaining_params", "val_acc", "test_acc"]].to_dict()
            rows.append(row | curve.iloc[trained][COSTS].to_dict())
    return pd.DataFrame(rows)


def clean_accuracy(val_acc: pd.Series, noise_rate: float, classes: int) -> pd.Series:
    """The accuracy on clean labels that an accuracy on noisy ones amounts to, both shares.

    Of uniform noise a network of clean accuracy c agrees with c·(1 − ε) + (1 − c)·ε/(K − 1); solved for c.
    """
    chance = noise_rate / (classes - 1)
    return (val_acc - chance) / (1 - noise_rate - chance)


def candidates(spent: pd.DataFrame, arch: str, noise_rate: float) -> pd.DataFrame:
    """What there is to choose from in one setting of ``cost.spent``: one row a (pipeline, level), means over seeds.

    ``expected`` is the accuracy (%) to go by, from validation: on clean labels where the wrong ones are uniform, else,
    since it then depends on the classes, on the noisy ones. ``test``, ``low`` and ``high``, on test, take no part.
    """
    rows = spent[(spent["arch"] == arch) & (spent["noise_rate"] == noise_rate)]
    expected, dataset, noise = rows["val_acc"], rows["dataset"].iat[0], rows["noise_kind"].iat[0]
    if noise == "symmetric":
        expected = clean_accuracy(expected, noise_rate, facts_of(dataset).classes)
    rows = rows.assign(expected=100 * expected)
    by = rows.groupby(["pipeline", "level"], sort=False)
    estimates = [Estimate.of(100 * accuracies) for _, accuracies in by["test_acc"]]
    table = by[["expected", "sparsity", "remaining_params", *COSTS]].mean().reset_index()
    return table.join(pd.DataFrame({"test": e.value, "low": e.low, "high": e.high} for e in estimates))


LIMITS = {  # that ``recommend`` takes: the column that each bounds, and its unit for people
    "max_params": ("remaining_params", "prunable weights"),
    "max_flops": ("train_flops", "FLOPs of training"),
    "max_kwh": ("energy_kwh", "kWh of training"),
}


def recommend(table: pd.DataFrame, min_accuracy: float | None = None, **limits: float | None) -> pd.Series:
    """The row of ``candidates`` to go for.

    With ``min_accuracy`` (%) it is the smallest of those expected to reach it; without, the most accurate. ``limits``
    are upper bounds, see LIMITS. Raises Unsatisfiable, which says what comes closest, and TypeError.
    """
    if unknown := set(limits) - set(LIMITS):
        raise TypeError(f"{min(unknown)}: unknown limit; there are min_accuracy, {', '.join(LIMITS)}")
    given = {name: bound for name, bound in limits.items() if bound is not None}
    within = table
    for name, bound in given.items():
        within = within[within[LIMITS[name][0]] <= bound]
    enough = within if min_accuracy is None else within[within["expected"] >= min_accuracy]
    if enough.empty:
        raise Unsatisfiable(_closest(table, within, given, min_accuracy))
    if min_accuracy is not None:
        return enough.sort_values(["remaining_params", "expected"], ascending=[True, False]).iloc[0]
    return enough.sort_values(["expected", "remaining_params"], ascending=[False, True]).iloc[0]


def _closest(table: pd.DataFrame, within: pd.DataFrame, given: dict[str, float], min_accuracy: float | None) -> str:
    bounds = " and ".join(f"at most {bound:g} {LIMITS[name][1]}" for name, bound in given.items())
    if within.empty:
        least = ", ".join(f"{table[LIMITS[name][0]].min():g} {LIMITS[name][1]}" for name in given)
        return f"nothing here has {bounds}; the least there is: {least}"
    best = within["expected"].max()
    wanted = f"nothing here is expected to reach {min_accuracy:g} %" + (f" with {bounds}" if bounds else "")
    return f"{wanted}; the most that is expected is {best:.1f} %"
