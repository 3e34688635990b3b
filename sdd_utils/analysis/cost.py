"""What it costs to get to a pruned network: its levels, its teacher, and the search for λ."""

import numpy as np
import pandas as pd

from sdd_utils.analysis.curves import at_weight_decay, of_method, vanilla_settings, weight_decays
from sdd_utils.analysis.dip import Estimate, curves_of, measure_dip
from sdd_utils.analysis.methods import METHODS, paired, pipelines
from sdd_utils.distillation import TEACHERS
from sdd_utils.errors import ConfigError

COSTS = ["train_flops", "train_flops_sparse", "seconds", "energy_kwh", "emissions_kg"]  # they add up over levels
KEYS = ["arch", "noise_rate", "pipeline", "weight_decay", "seed", "level"]
KNOWN = ["dataset", "noise_kind", "val_images"]
MEASURED = ["sparsity", "remaining_params", "val_acc", "test_acc"]


def spent(levels: pd.DataFrame, charge: str = "full") -> pd.DataFrame:
    """One row a (arch, noise_rate, pipeline, seed, level): what that network is worth, and all that was spent on it.

    The COSTS are sums over the levels up to the row's and, where ``charge`` is "full" rather than "own", over all that
    was trained before. ``l2`` is the curve of the λ that validation prefers; its search is every other λ's whole curve.
    A dense teacher is level 0 of a vanilla curve; a sparse one's rule looks at all of it. The teacher's forward passes
    are in the student's levels already. Raises ConfigError.
    """
    if charge not in ("full", "own"):
        raise ConfigError(f"charge: should be one of full, own (got {charge!r})")
    ways = [way for setting in vanilla_settings(levels) for way in pipelines(levels, *setting).items()]
    if not ways:
        raise ConfigError("levels: have no vanilla curve, beside which costs are counted")
    tables = [_spent(rows, name, _before(levels, rows, name, charge)) for name, rows in ways]
    return pd.concat(tables, ignore_index=True)


def _before(levels: pd.DataFrame, rows: pd.DataFrame, name: str, charge: str) -> pd.DataFrame | int:
    """What had to be trained before a method's own levels, one row a seed: the search for λ, or the teacher."""
    arch, rate, rule = (rows[column].iat[0] for column in ("teacher_arch", "noise_rate", "teacher"))
    if charge != "own" and name == "l2":
        setting, best = (rows["arch"].iat[0], rate), rows["weight_decay"].iat[0]
        others = [at_weight_decay(levels, *setting, d) for d in weight_decays(levels, *setting) if d != best]
        return _by_seed(pd.concat(others))
    if charge == "own" or rule == "none":
        return 0
    curve = of_method(levels, arch, rate, TEACHERS[rule].of)
    return _by_seed(curve if TEACHERS[rule].is_pruned else curve[curve["level"] == 0])


def beside_vanilla(table: pd.DataFrame, cost: str = "train_flops") -> pd.DataFrame:
    """What each way costs to be as sparse, and as accurate, as vanilla's most accurate pruned network (by validation).

    One row a (arch, noise_rate, pipeline) of ``spent``'s table, means over seeds. ``sparsity`` (%) is that network's;
    ``cost`` all that the way spends up to there, over what vanilla does, ``gain`` its test accuracy over vanilla's
    there (points); ``first cost`` and ``first sparsity`` are of its first pruned level as accurate on test, else nan.
    """
    rows = []
    for (arch, rate), part in table.groupby(["arch", "noise_rate"], sort=False):
        ways = part.groupby(["pipeline", "level"], sort=False)[["sparsity", "val_acc", "test_acc", cost]].mean()
        best = ways.loc["vanilla", "val_acc"].iloc[1:].idxmax()
        goal = ways.loc["vanilla", best]
        for name in part["pipeline"].unique():
            way = ways.loc[name]
            first = way[(way.index > 0) & (way["test_acc"] >= goal["test_acc"])].head(1).mean()  # nan of none
            row = {"arch": arch, "noise_rate": rate, "pipeline": name, "sparsity": 100 * goal["sparsity"]}
            row |= {"cost": way[cost][best] / goal[cost], "gain": 100 * (way["test_acc"][best] - goal["test_acc"])}
            rows.append(row | {"first cost": first[cost] / goal[cost], "first sparsity": 100 * first["sparsity"]})
    return pd.DataFrame(rows)


def minus(levels: pd.DataFrame, base: str) -> pd.DataFrame:
    """The other ways to prune minus ``base``, seed by seed: one row a (arch, noise_rate, pipeline) where vanilla's mean
    has a valley. Test accuracy (points) of the dense network, at the valley's ``bottom`` and ``peak``, and at the
    ``last level``; ``rise``, what is left of it (points). ``FLOPs``: all that is spent, the teacher's too, over base's.
    Raises ConfigError."""
    if base not in METHODS:
        raise ConfigError(f"base: there is no {base!r}; there are {', '.join(METHODS)}")
    paid = spent(levels).groupby([*KEYS[:3], "seed"])["train_flops"].max()
    rows = []
    for setting in vanilla_settings(levels):
        here = {name: curves_of(mine) for name, mine in paired(levels, *setting).items()}
        rises = {name: measure_dip(curves, held_out=False).rebounds for name, curves in here.items()}
        valley = measure_dip(here["vanilla"]).valley
        for name in [other for other in here if other != base] if valley and base in here else []:
            gains = 100 * (here[name] - here[base])
            apart = [*gains[:, [0, valley.bottom, valley.sweet, -1]].T, rises[name] - rises[base]]
            times = (paid[*setting, name] / paid[*setting, base]).mean()
            rows.append((*setting, name, *map(Estimate.of, apart), times))
    return pd.DataFrame(rows, columns=[*KEYS[:3], "dense", "bottom", "peak", "last level", "rise", "FLOPs"])


def front(table: pd.DataFrame, cost: str, accuracy: str) -> pd.DataFrame:
    """The Pareto front: rows for which no other is both cheaper and at least as accurate; cheapest first."""
    ordered = table.sort_values([cost, accuracy], ascending=[True, False])
    return ordered[ordered[accuracy] > ordered[accuracy].cummax().shift(fill_value=-np.inf)]


def _by_seed(rows: pd.DataFrame) -> pd.DataFrame:
    if rows.duplicated(["seed", "level", "weight_decay"]).any():
        raise ValueError("seed, level: the same seed and level occur twice; a setting's curves are to be summed once")
    # What was not measured is unknown, not free.
    return rows.groupby("seed")[COSTS].apply(lambda part: part.sum(skipna=False))


def _spent(rows: pd.DataFrame, pipeline: str, before: pd.DataFrame | int = 0) -> pd.DataFrame:
    rows = rows.sort_values(["seed", "level"]).assign(pipeline=pipeline)
    paid = rows.groupby("seed")[COSTS].cumsum(skipna=False)  # what was not measured stays unknown from there on
    paid = paid.set_axis(pd.MultiIndex.from_frame(rows[["seed", "level"]]))
    paid = paid.add(before, level="seed") if isinstance(before, pd.DataFrame) else paid
    return pd.concat([rows[KEYS + KNOWN + MEASURED].reset_index(drop=True), paid.reset_index(drop=True)], axis=1)
