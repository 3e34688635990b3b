"""The paper's claims, each with a number, a 95 % interval over seeds and a verdict that follows from them by rule.

The rules are in the docstrings of the functions in RULES, one a claim, and nowhere else.
"""

from collections.abc import Iterable

import pandas as pd

from sdd_utils.analysis import NEGLIGIBLE, Estimate, curves_of, held_out_valleys, measure_dip, select_level
from sdd_utils.config import REGULAR_WEIGHT_DECAY

CLAIM_COLUMNS = ["claim", "statement", "paper", "measured", "ci_low", "ci_high", "n_seeds", "verdict", "evidence"]
DATASET_NAMES = {
    "digits": "digits",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "cifar10n": "CIFAR-10N",
    "cifar100n": "CIFAR-100N",
}
NAMES = {"mlp": "MLP", "resnet18": "ResNet-18", "vit": "ViT", "vgg_like": "VGG-like"}


def claims_table(levels: pd.DataFrame) -> pd.DataFrame:
    """All claims that ``levels`` (one profile) can speak to, in CLAIM_COLUMNS, sorted by claim."""
    rows = []
    for dataset, part in levels.groupby("dataset", sort=False):
        prefix = f"{DATASET_NAMES[dataset]}, " if levels["dataset"].nunique() > 1 else ""
        rows += _claims_of_dataset(part, prefix)
    if not any(row["claim"] == "C6" for row in rows):
        human = {"claim": "C6", "statement": "the same holds under CIFAR-100N's human label noise", "paper": "yes"}
        rows.append(human | {"verdict": "not applicable", "evidence": "this profile has no human labels"})
    return pd.DataFrame(rows, columns=CLAIM_COLUMNS).sort_values("claim", kind="stable", ignore_index=True)


def _claims_of_dataset(levels: pd.DataFrame, prefix: str) -> list[dict]:
    rows = []
    for arch, rate in vanilla_settings(levels):
        where, plain = f"{prefix}{NAMES[arch]}, ε = {rate:g}: ", vanilla(levels, arch, rate)
        rows.append(occurs(where, plain))
        if len(penalties(levels, arch, rate)) > 1:
            best = penalised(levels, arch, rate, best_penalty(levels, arch, rate))
            rows += [l2_smooths(where, plain, best), l2_avoids(where, best)]
        for teacher in ("sparse", "dense"):
            taught = student(levels, arch, rate, teacher)
            if len(taught):
                rows += [rule(where, plain, taught) for rule in (distillation_avoids, distillation_gains)]
                teaching = vanilla(levels, taught["teacher_arch"].iat[0], rate)
                rows.append(distillation_costs_less(where, plain, taught, teaching))
                if plain["noise_kind"].iat[0] == "human":
                    rows.append(human_noise_too(where, plain, taught))
    return rows


def occurs(where: str, plain: pd.DataFrame) -> dict:
    """**C1**, sparse double descent occurs. Measured: the rebound of the vanilla curve.

    Holds if the 95 % intervals of the dip's depth and of the rebound both lie above 0 and the rebound is not below
    NEGLIGIBLE; fails if either interval lies below NEGLIGIBLE altogether; else inconclusive.
    """
    dip = measure_dip(curves_of(plain))
    small = min(dip.depth.high, dip.rebound.high) < NEGLIGIBLE
    verdict = "holds" if dip.is_double_descent else "fails" if small else "inconclusive"
    statement = "accuracy falls and rises again as sparsity grows (rebound, points)"
    paper = "yes" if plain["arch"].iat[0] in ("resnet18", "vit") else "not in the paper"
    return _row("C1", where + statement, paper, dip.rebound, verdict, "01_baseline")


def l2_smooths(where: str, plain: pd.DataFrame, best: pd.DataFrame) -> dict:
    """**C2a**, a larger λ smooths the curve. Measured: rebound at the regular λ minus rebound at the best, by seed.

    The best λ is the one, other than the regular, whose best pruned level has the highest validation accuracy. Holds
    if the interval lies above 0, fails if it lies below, else inconclusive.
    """
    gain = Estimate.of(measure_dip(curves_of(plain)).rebounds - measure_dip(curves_of(best)).rebounds)
    verdict = "holds" if gain.low > 0 else "fails" if gain.high < 0 else "inconclusive"
    statement = "the best λ makes the rebound smaller than the regular λ does (by, points)"
    return _row("C2a", where + statement, "yes", gain, verdict, f"02_l2_sweep, {_penalty(best)}")


def l2_avoids(where: str, best: pd.DataFrame) -> dict:
    """**C2b**, the best λ avoids the dip (of a ResNet-18: does not). Measured: the rebound at the best λ.

    Verdict as for C3, or, for a ResNet-18, the opposite of it.
    """
    rebound = measure_dip(curves_of(best)).rebound
    verdict, does, paper = _avoided(rebound), "avoids", "not in the paper"
    if best["arch"].iat[0] == "resnet18":
        verdict, does = {"holds": "fails", "fails": "holds"}.get(verdict, verdict), "does not avoid"
    if best["arch"].iat[0] in ("resnet18", "vit"):
        paper = "yes"
    statement = f"the best λ {does} the dip (remaining rebound, points)"
    return _row("C2b", where + statement, paper, rebound, verdict, f"02_l2_sweep, {_penalty(best)}")


def distillation_avoids(where: str, plain: pd.DataFrame, taught: pd.DataFrame) -> dict:
    """**C3**, a distilled student avoids the dip. Measured: the rebound of the student's curve.

    Holds if the 95 % interval lies below NEGLIGIBLE, fails if it lies above 0 and the rebound is not below NEGLIGIBLE,
    else inconclusive. A student may still lose accuracy on the way down; a dip is what comes back.
    """
    rebound = measure_dip(curves_of(taught)).rebound
    statement = f"a student of the {_teacher(taught)} has no dip (remaining rebound, points)"
    return _row("C3", where + statement, "yes", rebound, _avoided(rebound), "03_distillation")


def distillation_gains(where: str, plain: pd.DataFrame, taught: pd.DataFrame) -> dict:
    """**C4**, distillation gains 10 points or more at high sparsity. Measured: student − vanilla, at vanilla's lowest.

    Where vanilla is lowest comes, for each seed, from the other seeds' mean (level 0 if they show no dip). Holds if
    the 95 % interval lies at or above 10, fails if it lies below 10, else inconclusive.
    """
    own, other = curves_of(plain), curves_of(taught)
    bottoms = [valley.bottom if valley else 0 for valley in held_out_valleys(own)]
    gain = Estimate.of([100 * (other[k, b] - own[k, b]) for k, b in enumerate(bottoms)])
    verdict = "holds" if gain.low >= 10 else "fails" if gain.high < 10 else "inconclusive"
    statement = f"the {_teacher(taught)}'s student gains 10 points or more at the bottom of the dip (points)"
    return _row("C4", where + statement, "yes", gain, verdict, "03_distillation")


def distillation_costs_less(where: str, plain: pd.DataFrame, taught: pd.DataFrame, teaching: pd.DataFrame) -> dict:
    """**C5**, distillation is the cheaper pipeline. Measured: its training FLOPs at equal sparsity, as vanilla's share.

    Both are pruned to vanilla's level past the critical phase with the best validation accuracy, and charged for every
    level up to there, pruned weights counted as dense; distillation also for its teacher, the dense network or the
    vanilla curve ``teaching`` up to the sparse teacher. Level for level that share is above 1 by construction: whatever
    distillation saves, it saves by stopping earlier, which is not measured here. So this number is accounting, and the
    verdict is always inconclusive.
    """
    rule, shares = taught["teacher"].iat[0], []
    for seed in sorted(plain["seed"].unique()):
        curves = [t[t["seed"] == seed].sort_values("level") for t in (plain, taught, teaching)]
        paid, paid_taught, paid_teacher = (t["train_flops"].cumsum().to_numpy() for t in curves)
        level, teacher = select_level(curves[0], "sparse"), select_level(curves[2], rule)
        shares.append((paid_taught[level] + paid_teacher[teacher]) / paid[level])
    statement = f"FLOPs of distilling from the {_teacher(taught)}, its cost included, at vanilla's sparsity (share)"
    return _row("C5", where + statement, "less", Estimate.of(shares), "inconclusive", "03_distillation")


def human_noise_too(where: str, plain: pd.DataFrame, taught: pd.DataFrame) -> dict:
    """**C6**, the same holds where people gave the wrong labels. Measured: the rebound of the student's curve.

    Verdict as for C3 where C1 holds; fails where C1 fails, since there is no dip to avoid; else inconclusive.
    """
    happens, rebound = occurs(where, plain)["verdict"], measure_dip(curves_of(taught)).rebound
    verdict = _avoided(rebound) if happens == "holds" else happens
    statement = f"under human label noise too, a dip that a student of the {_teacher(taught)} has not (rebound, points)"
    return _row("C6", where + statement, "yes", rebound, verdict, "03_distillation")


RULES = (
    occurs,
    l2_smooths,
    l2_avoids,
    distillation_avoids,
    distillation_gains,
    distillation_costs_less,
    human_noise_too,
)


def vanilla_settings(levels: pd.DataFrame) -> list[tuple[str, float]]:
    """(arch, noise_rate) of every vanilla curve, in the order of NAMES."""
    plain = levels[levels["method"] == "vanilla"]
    found = set(zip(plain["arch"], plain["noise_rate"], strict=True))
    return sorted(found, key=lambda s: (list(NAMES).index(s[0]), s[1]))


def select(rows: pd.DataFrame, settings: Iterable[tuple[str, float]]) -> pd.DataFrame:
    """The rows whose (arch, noise_rate) is among ``settings``, numbered anew."""
    wanted = set(settings)
    chosen = [setting in wanted for setting in zip(rows["arch"], rows["noise_rate"], strict=True)]
    return rows[chosen].reset_index(drop=True)


def vanilla(levels: pd.DataFrame, arch: str, noise_rate: float) -> pd.DataFrame:
    """Rows pruned at the regular λ without a teacher."""
    return select(levels[levels["method"] == "vanilla"], [(arch, noise_rate)])


def student(levels: pd.DataFrame, arch: str, noise_rate: float, teacher: str) -> pd.DataFrame:
    """Rows distilled from the ``sparse`` or ``dense`` teacher; may be empty."""
    return select(levels[levels["teacher"] == teacher], [(arch, noise_rate)])


def penalised(levels: pd.DataFrame, arch: str, noise_rate: float, weight_decay: float) -> pd.DataFrame:
    """Rows without a teacher at one λ, regular or not."""
    rows = levels[(levels["method"] != "kd") & (levels["weight_decay"] == weight_decay)]
    return select(rows, [(arch, noise_rate)])


def penalties(levels: pd.DataFrame, arch: str, noise_rate: float) -> list[float]:
    """The λ at which there are curves without a teacher, in increasing order."""
    return sorted(select(levels[levels["method"] != "kd"], [(arch, noise_rate)])["weight_decay"].unique())


def best_penalty(levels: pd.DataFrame, arch: str, noise_rate: float) -> float:
    """The λ, other than the regular one, whose best pruned level has the highest validation accuracy, mean over seeds.

    The paper does not say how its optimal λ was tuned. This is what one does who looks for a good pruned network.
    """

    def best_level(weight_decay: float) -> float:
        rows = penalised(levels, arch, noise_rate, weight_decay)
        return rows[rows["level"] > 0].groupby("level")["val_acc"].mean().max()

    others = [d for d in penalties(levels, arch, noise_rate) if d != REGULAR_WEIGHT_DECAY[arch]]
    return max(others, key=best_level)


def teachers(levels: pd.DataFrame) -> pd.DataFrame:
    """The levels that teach, one row a (arch, noise_rate, seed, rule): which level, and how good it is."""
    rows = []
    taught = levels[levels["method"] == "kd"]
    settings = zip(taught["teacher_arch"], taught["noise_rate"], strict=True)
    plain = select(levels[levels["method"] == "vanilla"], settings)
    for (arch, rate, seed), curve in plain.groupby(["arch", "noise_rate", "seed"]):
        for rule in ("sparse", "dense"):
            level = curve[curve["level"] == select_level(curve, rule)].iloc[0]
            row = {"arch": arch, "noise_rate": rate, "seed": seed, "rule": rule}
            rows.append(row | level[["level", "sparsity", "test_acc", "memorised"]].to_dict())
    return pd.DataFrame(rows)


def _avoided(rebound: Estimate) -> str:
    if rebound.high < NEGLIGIBLE:
        return "holds"
    return "fails" if rebound.low > 0 and rebound.value >= NEGLIGIBLE else "inconclusive"


def _penalty(rows: pd.DataFrame) -> str:
    return f"λ = {rows['weight_decay'].iat[0]:g}"


def _teacher(rows: pd.DataFrame) -> str:
    return f"{rows['teacher'].iat[0]} teacher"


def _row(claim: str, statement: str, paper: str, measured: Estimate, verdict: str, evidence: str) -> dict:
    numbers = {"measured": measured.value, "ci_low": measured.low, "ci_high": measured.high, "n_seeds": measured.n}
    return {"claim": claim, "statement": statement, "paper": paper, **numbers, "verdict": verdict, "evidence": evidence}
