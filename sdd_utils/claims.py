"""The paper's claims, each with a number, a 95 % interval over seeds and a verdict that follows from them by rule.

The rules are in the docstrings of the functions below, one a claim, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from sdd_utils.analysis import Estimate, curves_of, find_valley, measure_dip, select_level, smooth
from sdd_utils.config import REGULAR_WEIGHT_DECAY

CLAIM_COLUMNS = ["claim", "statement", "paper", "measured", "ci_low", "ci_high", "n_seeds", "verdict", "evidence"]
NAMES = {"mlp": "MLP", "resnet18": "ResNet-18", "vit": "ViT", "vgg_like": "VGG-like"}
TEACHERS = ("sparse", "dense")
DELIVERED = 0.9  # sparsity that a pipeline must reach for its network to count as pruned (C5)

NEGLIGIBLE = 3.0
"""Accuracy points below which a dip counts as avoided: about twice the binomial standard error of one accuracy near
85 % on 797 test images (1.3 points), so what a single network's test accuracy can hardly show."""


def claims_table(levels: pd.DataFrame) -> pd.DataFrame:
    """All claims that ``levels`` (one profile) can speak to, in CLAIM_COLUMNS."""
    settings = vanilla_settings(levels)
    rows: list[dict] = []
    for arch, rate in settings:
        rows.append(occurs(levels, arch, rate))
    for arch, rate in settings:
        if len(penalties(levels, arch, rate)) > 1:
            rows += [l2_smooths(levels, arch, rate), l2_avoids(levels, arch, rate)]
    distilled = [(a, r, t) for a, r in settings for t in TEACHERS if len(student(levels, a, r, t))]
    rows += [distillation_avoids(levels, *setting) for setting in distilled]
    rows += [distillation_gains(levels, *setting) for setting in distilled]
    rows += [distillation_costs_less(levels, *setting) for setting in distilled]
    rows.append(
        {
            "claim": "C6",
            "statement": "The same holds with the human label noise of CIFAR-100N",
            "paper": "yes",
            "verdict": "not applicable",
            "evidence": "this profile has no human labels",
        }
    )
    return pd.DataFrame(rows, columns=CLAIM_COLUMNS)


def occurs(levels: pd.DataFrame, arch: str, rate: float) -> dict:
    """C1, sparse double descent occurs. Measured: the rebound of the vanilla curve.

    Holds if the 95 % intervals of the dip's depth and of the rebound both lie above 0; fails if either lies below
    NEGLIGIBLE altogether; else inconclusive.
    """
    dip = measure_dip(curves_of(vanilla(levels, arch, rate)))
    weaker = min(dip.depth, dip.rebound, key=lambda e: e.high)
    verdict = "holds" if dip.is_double_descent else "fails" if weaker.high < NEGLIGIBLE else "inconclusive"
    return _row(
        "C1",
        f"{_setting(arch, rate)}: accuracy falls, then rises again as sparsity grows (rebound, points)",
        "rebound > 0" if arch in ("resnet18", "vit") else "not in the paper",
        dip.rebound,
        verdict,
        "01_baseline",
    )


def l2_smooths(levels: pd.DataFrame, arch: str, rate: float) -> dict:
    """C2a, a larger λ smooths the curve. Measured: rebound at the regular minus rebound at the best λ, by seed.

    The best λ has the highest mean validation accuracy over the curve's levels (see ``best_penalty``). Holds if the
    interval lies above 0, fails if it lies below, else inconclusive.
    """
    best = best_penalty(levels, arch, rate)
    gain = Estimate.of(_rebounds(vanilla(levels, arch, rate)) - _rebounds(penalised(levels, arch, rate, best)))
    statement = (
        f"{_setting(arch, rate)}: λ = {best:g} makes the rebound smaller than λ = {REGULAR_WEIGHT_DECAY[arch]:g}"
    )
    return _row("C2a", f"{statement} (points)", "smaller", gain, _sign(gain), "02_l2_sweep")


def l2_avoids(levels: pd.DataFrame, arch: str, rate: float) -> dict:
    """C2b, the best λ avoids the dip (of a ResNet-18: does not). Measured: the rebound at the best λ.

    Verdict as in ``distillation_avoids``, or, for a ResNet-18, the opposite of it.
    """
    best = best_penalty(levels, arch, rate)
    rebound = measure_dip(curves_of(penalised(levels, arch, rate, best))).rebound
    verdict, does = _avoided(rebound), "avoids the dip"
    if arch == "resnet18":
        verdict, does = {"holds": "fails", "fails": "holds"}.get(verdict, verdict), "does not avoid the dip"
    statement = f"{_setting(arch, rate)}: the best λ ({best:g}) {does} (remaining rebound, points)"
    paper = "yes" if arch in ("vit", "resnet18") else "not in the paper"
    return _row("C2b", statement, paper, rebound, verdict, "02_l2_sweep")


def distillation_avoids(levels: pd.DataFrame, arch: str, rate: float, teacher: str) -> dict:
    """C3, a distilled student avoids the dip. Measured: the rebound of the student's curve.

    Holds if the 95 % interval lies below NEGLIGIBLE, fails if it lies above 0 and reaches beyond, else inconclusive.
    """
    rebound = measure_dip(curves_of(student(levels, arch, rate, teacher))).rebound
    statement = f"{_setting(arch, rate)}: a student of the {teacher} teacher has no dip (remaining rebound, points)"
    return _row("C3", statement, "no dip", rebound, _avoided(rebound), "03_distillation")


def distillation_gains(levels: pd.DataFrame, arch: str, rate: float, teacher: str) -> dict:
    """C4, distillation gains 10 points or more at high sparsity. Measured: student − vanilla at vanilla's lowest point.

    Where that is comes, for each seed, from the other seeds' mean. Holds if the 95 % interval reaches 10 from above
    (low ≥ 10), fails if it lies below 10, else inconclusive.
    """
    plain, taught = (smooth(curves_of(t)) for t in (vanilla(levels, arch, rate), student(levels, arch, rate, teacher)))
    bottoms = [_bottom(plain, k) for k in range(len(plain))]
    gain = Estimate.of([100 * (taught[k, b] - plain[k, b]) for k, b in enumerate(bottoms)])
    verdict = "holds" if gain.low >= 10 else "fails" if gain.high < 10 else "inconclusive"
    statement = f"{_setting(arch, rate)}: the {teacher} teacher's student gains over vanilla at the bottom of its dip"
    return _row("C4", f"{statement} (points)", "≥ 10", gain, verdict, "03_distillation")


def distillation_costs_less(levels: pd.DataFrame, arch: str, rate: float, teacher: str) -> dict:
    """C5 in FLOPs, distillation is the cheaper pipeline. Measured: its training FLOPs as a share of vanilla's.

    Either pipeline delivers the level with the best (smoothed) validation accuracy among those with at least
    DELIVERED of the weights gone, and is charged for every level up to there, pruned weights counted as dense.
    Distillation also pays for its teacher: level 0 of the vanilla curve, or the curve up to the sparse teacher's level.
    Holds if the interval lies below 1 and the network delivered is not less accurate (interval of student − vanilla on
    the test set not wholly below 0), fails if the interval lies above 1 or the network is less accurate, else
    inconclusive. Seconds, energy and the cost of not knowing where to stop are not in it.
    """
    shares, gains = [], []
    plain, taught = vanilla(levels, arch, rate), student(levels, arch, rate, teacher)
    for seed in sorted(plain["seed"].unique()):
        own, other = (t[t["seed"] == seed].sort_values("level") for t in (plain, taught))
        last_own, last_other = _delivered(own), _delivered(other)
        paid = other["train_flops"].iloc[: last_other + 1].sum()
        paid += own["train_flops"].iloc[: select_level(own, teacher) + 1].sum()
        shares.append(paid / own["train_flops"].iloc[: last_own + 1].sum())
        gains.append(other["test_acc"].iloc[last_other] - own["test_acc"].iloc[last_own])
    share, gain = Estimate.of(shares), Estimate.of(gains)
    verdict = "inconclusive"
    if share.low > 1 or gain.high < 0:
        verdict = "fails"
    elif share.high < 1:
        verdict = "holds"
    statement = (
        f"{_setting(arch, rate)}: distilling from the {teacher} teacher, its training included, takes fewer FLOPs"
    )
    return _row("C5", f"{statement} (share of vanilla's)", "< 1", share, verdict, "03_distillation")


RULES = (occurs, l2_smooths, l2_avoids, distillation_avoids, distillation_gains, distillation_costs_less)


def vanilla_settings(levels: pd.DataFrame) -> list[tuple[str, float]]:
    """(arch, noise rate) of every vanilla curve, in the order of NAMES."""
    plain = levels[levels["method"] == "vanilla"]
    found = set(zip(plain["arch"], plain["noise_rate"], strict=True))
    return sorted(found, key=lambda s: (list(NAMES).index(s[0]), s[1]))


def select(rows: pd.DataFrame, settings: Iterable[tuple[str, float]]) -> pd.DataFrame:
    """The rows whose (arch, noise_rate) is among ``settings``, numbered anew."""
    wanted = set(settings)
    chosen = [setting in wanted for setting in zip(rows["arch"], rows["noise_rate"], strict=True)]
    return rows[chosen].reset_index(drop=True)


def vanilla(levels: pd.DataFrame, arch: str, rate: float) -> pd.DataFrame:
    """Rows pruned at the regular λ without a teacher."""
    return levels[(levels["method"] == "vanilla") & (levels["arch"] == arch) & (levels["noise_rate"] == rate)]


def student(levels: pd.DataFrame, arch: str, rate: float, teacher: str) -> pd.DataFrame:
    """Rows distilled from the ``sparse`` or ``dense`` teacher; may be empty."""
    return levels[(levels["teacher"] == teacher) & (levels["arch"] == arch) & (levels["noise_rate"] == rate)]


def penalised(levels: pd.DataFrame, arch: str, rate: float, weight_decay: float) -> pd.DataFrame:
    """Rows without a teacher at one λ, regular or not."""
    rows = levels[(levels["method"] != "kd") & (levels["arch"] == arch) & (levels["noise_rate"] == rate)]
    return rows[rows["weight_decay"] == weight_decay]


def penalties(levels: pd.DataFrame, arch: str, rate: float) -> list[float]:
    """The λ at which there are curves without a teacher, in increasing order."""
    rows = levels[(levels["method"] != "kd") & (levels["arch"] == arch) & (levels["noise_rate"] == rate)]
    return sorted(rows["weight_decay"].unique())


def best_penalty(levels: pd.DataFrame, arch: str, rate: float) -> float:
    """The λ, other than the regular one, with the highest validation accuracy, mean over seeds and levels.

    The paper does not say how its optimal λ was tuned; the mean over the curve rewards a λ that serves at every
    sparsity rather than at one.
    """
    others = [d for d in penalties(levels, arch, rate) if d != REGULAR_WEIGHT_DECAY[arch]]
    return max(others, key=lambda d: penalised(levels, arch, rate, d)["val_acc"].mean())


def _rebounds(rows: pd.DataFrame) -> np.ndarray:
    return measure_dip(curves_of(rows)).rebounds


def _bottom(curves: np.ndarray, seed: int) -> int:
    """Level of the dip's bottom in the mean of the other seeds; 0 without a dip."""
    others = np.delete(curves, seed, axis=0) if len(curves) > 1 else curves
    valley = find_valley(others.mean(axis=0))
    return valley.bottom if valley else 0


def _delivered(rows: pd.DataFrame) -> int:
    accuracy = smooth(rows["val_acc"].to_numpy())
    accuracy[rows["sparsity"].to_numpy() < DELIVERED] = -np.inf
    return int(np.argmax(accuracy))


def _avoided(rebound: Estimate) -> str:
    if rebound.high < NEGLIGIBLE:
        return "holds"
    return "fails" if rebound.low > 0 else "inconclusive"


def _sign(estimate: Estimate) -> str:
    return "holds" if estimate.low > 0 else "fails" if estimate.high < 0 else "inconclusive"


def _setting(arch: str, rate: float) -> str:
    return f"{NAMES[arch]}, ε = {rate:g}"


def _row(claim: str, statement: str, paper: str, measured: Estimate, verdict: str, evidence: str) -> dict:
    numbers = {"measured": measured.value, "ci_low": measured.low, "ci_high": measured.high, "n_seeds": measured.n}
    return {"claim": claim, "statement": statement, "paper": paper, **numbers, "verdict": verdict, "evidence": evidence}
