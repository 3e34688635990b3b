"""The paper's claims, each with a number, a 95 % interval over seeds and a verdict that follows from them by rule.

The rules are in the docstrings of the functions in RULES, one a claim, and nowhere else.
"""

import numpy as np
import pandas as pd

from sdd_utils.analysis import NEGLIGIBLE, Estimate, curves_of, held_out_valleys, measure_dip
from sdd_utils.choose import stopped, validation_images
from sdd_utils.cost import spent
from sdd_utils.curves import (
    DATASET_NAMES,
    best_penalty,
    penalised,
    penalties,
    select,
    setting_name,
    student,
    vanilla,
    vanilla_settings,
)

NOT_IN_THE_PAPER = "not in the paper"

CLAIM_COLUMNS = ["claim", "statement", "paper", "measured", "ci_low", "ci_high", "n_seeds", "verdict", "evidence"]


def claims_table(levels: pd.DataFrame) -> pd.DataFrame:
    """All claims that ``levels`` (one profile) can speak to, in CLAIM_COLUMNS, sorted by claim."""
    rows = []
    for dataset, part in levels.groupby("dataset", sort=False):
        prefix = f"{DATASET_NAMES.get(dataset, dataset)}, " if levels["dataset"].nunique() > 1 else ""
        rows += _claims_of_dataset(part, prefix)
    if not any(row["claim"] == "C6" for row in rows):
        human = {"claim": "C6", "statement": "the same holds under CIFAR-100N's human label noise", "paper": "yes"}
        rows.append(human | {"verdict": "not applicable", "evidence": "this profile has no human labels"})
    return pd.DataFrame(rows, columns=CLAIM_COLUMNS).sort_values("claim", kind="stable", ignore_index=True)


def _claims_of_dataset(levels: pd.DataFrame, prefix: str) -> list[dict]:
    ends = stopped(spent(levels), validation_images(levels))
    rows = []
    for arch, rate in vanilla_settings(levels):
        where, plain = f"{prefix}{setting_name(arch, rate)}: ", vanilla(levels, arch, rate)
        rows.append(occurs(where, plain))
        if len(penalties(levels, arch, rate)) > 1:
            best = penalised(levels, arch, rate, best_penalty(levels, arch, rate))
            rows += [l2_smooths(where, plain, best), l2_avoids(where, plain, best)]
        for teacher in ("sparse", "dense"):
            taught = student(levels, arch, rate, teacher)
            if len(taught):
                rows += [rule(where, plain, taught) for rule in (distillation_avoids, distillation_gains)]
                rows += distillation_costs_less(where, taught, select(ends, [(arch, rate)]))
                if plain["noise_kind"].iat[0] == "human":
                    rows.append(human_noise_too(where, plain, taught))
    return rows


def occurs(where: str, plain: pd.DataFrame) -> dict:
    """**C1**, sparse double descent occurs. Measured: the rebound of the vanilla curve.

    Holds if the 95 % intervals of the dip's depth and of the rebound both lie above 0 and the rebound is not below
    NEGLIGIBLE; else fails if either interval lies below NEGLIGIBLE altogether; else inconclusive.
    """
    statement = "accuracy falls and rises again as sparsity grows (rebound, points)"
    return _row(
        "C1", where + statement, _paper(plain), measure_dip(curves_of(plain)).rebound, _dips(plain), "01_baseline"
    )


def l2_smooths(where: str, plain: pd.DataFrame, best: pd.DataFrame) -> dict:
    """**C2a**, a larger λ smooths the curve. Measured: rebound at the regular λ minus rebound at the best, by seed.

    The best λ is the one, other than the regular, whose best pruned level has the highest validation accuracy. Not
    applicable where C1 fails, since there is nothing to smooth. Holds if the interval lies above 0, fails if it lies
    below, else inconclusive.
    """
    gain = Estimate.of(measure_dip(curves_of(plain)).rebounds - measure_dip(curves_of(best)).rebounds)
    verdict = "holds" if gain.low > 0 else "fails" if gain.high < 0 else "inconclusive"
    statement = "the best λ makes the rebound smaller than the regular λ does (by, points)"
    return _row(
        "C2a", where + statement, _paper(plain), gain, _if_any(plain, verdict), f"02_l2_sweep, {_penalty(best)}"
    )


def l2_avoids(where: str, plain: pd.DataFrame, best: pd.DataFrame) -> dict:
    """**C2b**, the best λ avoids the dip (of a ResNet-18: does not). Measured: the rebound at the best λ.

    Verdict as for C3, or, for a ResNet-18, the opposite of it.
    """
    rebound = measure_dip(curves_of(best)).rebound
    verdict, does = _avoided(plain, rebound), "avoids"
    if best["arch"].iat[0] == "resnet18":
        verdict, does = {"holds": "fails", "fails": "holds"}.get(verdict, verdict), "does not avoid"
    statement = f"the best λ {does} the dip (remaining rebound, points)"
    return _row("C2b", where + statement, _paper(plain), rebound, verdict, f"02_l2_sweep, {_penalty(best)}")


def distillation_avoids(where: str, plain: pd.DataFrame, taught: pd.DataFrame) -> dict:
    """**C3**, a distilled student avoids the dip. Measured: the rebound of the student's curve.

    Not applicable where C1 fails, since there is no dip to avoid. Holds if C1 does and the 95 % interval lies below
    NEGLIGIBLE; fails if the interval lies above 0 and the rebound is not below NEGLIGIBLE; else inconclusive. A student
    may still lose accuracy on the way down; a dip is what comes back.
    """
    rebound = measure_dip(curves_of(taught)).rebound
    statement = f"a student of the {_teacher(taught)} has no dip (remaining rebound, points)"
    return _row("C3", where + statement, _paper(plain), rebound, _avoided(plain, rebound), "03_distillation")


def distillation_gains(where: str, plain: pd.DataFrame, taught: pd.DataFrame) -> dict:
    """**C4**, distillation gains 10 points or more at high sparsity. Measured: student − vanilla, at vanilla's lowest.

    Where vanilla is lowest comes, for each seed, from the other seeds' mean (level 0 if they show no dip). Not
    applicable where C1 fails, since there is no such place. Holds if the 95 % interval lies at or above 10, fails if it
    lies below 10, else inconclusive.
    """
    own, other = curves_of(plain), curves_of(taught)
    bottoms = [valley.bottom if valley else 0 for valley in held_out_valleys(own)]
    gain = Estimate.of([100 * (other[k, b] - own[k, b]) for k, b in enumerate(bottoms)])
    verdict = "holds" if gain.low >= 10 else "fails" if gain.high < 10 else "inconclusive"
    statement = f"the {_teacher(taught)}'s student gains 10 points or more at the bottom of the dip (points)"
    return _row("C4", where + statement, _paper(plain), gain, _if_any(plain, verdict), "03_distillation")


def distillation_costs_less(where: str, taught: pd.DataFrame, ends: pd.DataFrame) -> list[dict]:
    """**C5**, distillation costs less: **C5a** FLOPs, **C5b** kg of CO₂eq. Measured: its cost as a share of vanilla's.

    Each way is charged until it is known what comes out of it. Vanilla has to be pruned to the end, since its curve may
    come back after a drop. A student whose curve does not come back (its rebound's interval lies below NEGLIGIBLE) may
    stop at the first significant drop of validation accuracy, two standard errors below the best so far; one whose
    curve does has to be pruned to the end as well; where it is open which, the first drop is shown, and the verdict
    given that both have in common. A student is charged for its teacher: a dense network, or a vanilla curve, all of
    it, to choose the sparse teacher from. All take the sparsest network within one standard error of the best. FLOPs
    count pruned weights as if they were there. The mean share is a geometric one, so that it does not matter which of
    the two costs is divided by which.

    Holds if the 95 % interval lies below 1 and the network is not worse than vanilla's; fails if the interval lies
    above 1, or if it is worse; else inconclusive. Worse is less accurate on test without being smaller, or larger
    without being more accurate, each with its whole interval.
    """
    no_dip = _no_dip(measure_dip(curves_of(taught)).rebound)
    rules = {"holds": ["first drop"], "fails": ["full sweep"]}.get(no_dip, ["first drop", "full sweep"])
    by_seed, teacher = ends.set_index("seed").sort_index(), taught["teacher"].iat[0]
    plain = by_seed[(by_seed["pipeline"] == "vanilla") & (by_seed["rule"] == "full sweep")]
    students = by_seed[by_seed["pipeline"] == teacher]
    rows = []
    for claim, unit, cost in (("C5a", "FLOPs", "train_flops"), ("C5b", "kg CO₂eq", "emissions_kg")):
        found = [_costs_less(students[students["rule"] == rule], plain, cost) for rule in rules]
        share, verdicts = found[0][0], {verdict for _, verdict in found}
        verdict = verdicts.pop() if len(verdicts) == 1 else "inconclusive"
        statement = f"{unit} of distilling from the {teacher} teacher, its cost included, as a share of vanilla's"
        paper = _paper(taught, "less")
        rows.append(_row(claim, where + statement, paper, share, verdict, f"04_cost, {rules[0]}"))
    return rows


def _costs_less(taught: pd.DataFrame, plain: pd.DataFrame, cost: str) -> tuple[Estimate, str]:
    """The share of ``plain``'s cost, and the verdict; both tables have one row a seed."""
    share = _geometric(taught[cost] / plain[cost])
    accuracy = Estimate.of(taught["test_acc"] - plain["test_acc"])
    size = _geometric(taught["remaining_params"] / plain["remaining_params"])
    worse = (accuracy.high < 0 and not size.high < 1) or (size.low > 1 and not accuracy.low > 0)
    return share, "fails" if worse or share.low > 1 else "holds" if share.high < 1 else "inconclusive"


def _geometric(ratios: pd.Series) -> Estimate:
    log = Estimate.of(np.log(ratios))
    return Estimate(*np.exp([log.value, log.low, log.high]).tolist(), log.n)


def human_noise_too(where: str, plain: pd.DataFrame, taught: pd.DataFrame) -> dict:
    """**C6**, the same holds where people gave the wrong labels. Measured: the rebound of the student's curve.

    Verdict as for C3, but fails where C1 fails, since the dip is part of the claim.
    """
    rebound = measure_dip(curves_of(taught)).rebound
    verdict = "fails" if _dips(plain) == "fails" else _avoided(plain, rebound)
    statement = f"under human label noise too, a dip that a student of the {_teacher(taught)} has not (rebound, points)"
    paper = _paper(plain) if plain["dataset"].iat[0] == "cifar100n" else NOT_IN_THE_PAPER
    return _row("C6", where + statement, paper, rebound, verdict, "03_distillation")


RULES = (
    occurs,
    l2_smooths,
    l2_avoids,
    distillation_avoids,
    distillation_gains,
    distillation_costs_less,
    human_noise_too,
)


def _dips(plain: pd.DataFrame) -> str:
    """The verdict of C1."""
    dip = measure_dip(curves_of(plain))
    small = min(dip.depth.high, dip.rebound.high) < NEGLIGIBLE
    return "holds" if dip.is_double_descent else "fails" if small else "inconclusive"


def _if_any(plain: pd.DataFrame, verdict: str) -> str:
    """A verdict about a dip, where there may be one."""
    return "not applicable" if _dips(plain) == "fails" else verdict


def _no_dip(rebound: Estimate) -> str:
    if rebound.high < NEGLIGIBLE:
        return "holds"
    return "fails" if rebound.low > 0 and rebound.value >= NEGLIGIBLE else "inconclusive"


def _avoided(plain: pd.DataFrame, rebound: Estimate) -> str:
    """Whether there is no dip any more, where ``plain`` has one."""
    verdict = _if_any(plain, _no_dip(rebound))
    return "inconclusive" if verdict == "holds" and _dips(plain) != "holds" else verdict


def _paper(rows: pd.DataFrame, says: str = "yes") -> str:
    """What the paper says of this architecture, if it does."""
    return says if rows["arch"].iat[0] in ("resnet18", "vit") else NOT_IN_THE_PAPER


def _penalty(rows: pd.DataFrame) -> str:
    return f"λ = {rows['weight_decay'].iat[0]:g}"


def _teacher(rows: pd.DataFrame) -> str:
    return f"{rows['teacher'].iat[0]} teacher"


def _row(claim: str, statement: str, paper: str, measured: Estimate, verdict: str, evidence: str) -> dict:
    numbers = {"measured": measured.value, "ci_low": measured.low, "ci_high": measured.high, "n_seeds": measured.n}
    return {"claim": claim, "statement": statement, "paper": paper, **numbers, "verdict": verdict, "evidence": evidence}
