"""The paper's claims, each with a number, a 95 % interval over seeds and a verdict that follows from them by rule.

A claim is one function with ``@claim``; its docstring is the rule, and nowhere else is one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from sdd_utils.analysis.choose import stopped, validation_images
from sdd_utils.analysis.cost import spent
from sdd_utils.analysis.curves import select, setting_name, vanilla_settings
from sdd_utils.analysis.dip import NEGLIGIBLE, Dip, Estimate, curves_of, held_out_valleys, measure_dip
from sdd_utils.analysis.methods import COMPARED
from sdd_utils.datasets import DATASETS

NOT_IN_THE_PAPER = "not in the paper"

CLAIM_COLUMNS = ["claim", "statement", "paper", "measured", "ci_low", "ci_high", "n_seeds", "verdict", "evidence"]


@dataclass(frozen=True, eq=False)
class Setting:
    """One architecture at one noise rate on one dataset: what a claim looks at."""

    levels: pd.DataFrame  # of its dataset, in the columns of levels.csv
    ends: pd.DataFrame  # where each stop rule ends on each of the dataset's curves, see ``choose.stopped``
    arch: str
    noise_rate: float
    prefix: str = ""  # the dataset, where there are several

    def rows(self, method: str) -> pd.DataFrame:
        """The rows of one of the METHODS; may be empty."""
        return COMPARED[method].rows(self.levels, self.arch, self.noise_rate)

    def dip_of(self, method: str) -> Dip:
        """The dip of one of the METHODS that has rows here."""
        return measure_dip(curves_of(self.rows(method)))

    @cached_property
    def plain(self) -> pd.DataFrame:
        """Vanilla's rows."""
        return self.rows("vanilla")

    @cached_property
    def dip(self) -> Dip:
        """Vanilla's."""
        return self.dip_of("vanilla")

    @property
    def teachers(self) -> list[str]:
        """The methods that have students here."""
        return [name for name, method in COMPARED.items() if method.teacher and len(self.rows(name))]

    @property
    def paper(self) -> str:
        """Whether the paper speaks of this architecture."""
        return "yes" if self.arch in ("resnet18", "vit") else NOT_IN_THE_PAPER

    @property
    def dips(self) -> str:
        """The verdict of C1."""
        small = min(self.dip.depth.high, self.dip.rebound.high) < NEGLIGIBLE
        return "holds" if self.dip.is_double_descent else "fails" if small else "inconclusive"

    def if_any(self, verdict: str) -> str:
        """A verdict about a dip, where there may be one."""
        return "not applicable" if self.dips == "fails" else verdict

    def avoided(self, rebound: Estimate) -> str:
        """Whether there is no dip any more, where vanilla has one."""
        verdict = self.if_any(_no_dip(rebound))
        return "inconclusive" if verdict == "holds" and self.dips != "holds" else verdict

    def row(self, statement: str, measured: Estimate, verdict: str, evidence: str, paper: str = "") -> dict:
        """One row of claims.csv, but for the claim's number."""
        statement = f"{self.prefix}{setting_name(self.arch, self.noise_rate)}: {statement}"
        numbers = {"measured": measured.value, "ci_low": measured.low, "ci_high": measured.high, "n_seeds": measured.n}
        said = {"statement": statement, "paper": paper or self.paper}
        return said | numbers | {"verdict": verdict, "evidence": evidence}


Claim = Callable[[Setting], Iterator[dict]]
CLAIMS: dict[str, Claim] = {}  # by number: from a setting to the rows of claims.csv that the rule can speak to


def claim(number: str) -> Callable[[Claim], Claim]:
    """Enter the decorated function into CLAIMS."""

    def enter(rule: Claim) -> Claim:
        CLAIMS[number] = rule
        return rule

    return enter


def claims_table(levels: pd.DataFrame) -> pd.DataFrame:
    """All claims that ``levels`` (one profile) can speak to, in CLAIM_COLUMNS, sorted by claim."""
    settings = []
    for dataset, part in levels.groupby("dataset", sort=False):
        label = DATASETS[dataset].label if dataset in DATASETS else dataset
        prefix = f"{label}, " if levels["dataset"].nunique() > 1 else ""
        ends = stopped(spent(part), validation_images(part))
        settings += [Setting(part, ends, *setting, prefix) for setting in vanilla_settings(part)]
    rows = [{"claim": number} | row for number, rule in CLAIMS.items() for setting in settings for row in rule(setting)]
    if not any(row["claim"] == "C6" for row in rows):
        human = {"claim": "C6", "statement": "the same holds under CIFAR-100N's human label noise", "paper": "yes"}
        rows.append(human | {"verdict": "not applicable", "evidence": "this profile has no human labels"})
    return pd.DataFrame(rows, columns=CLAIM_COLUMNS).sort_values("claim", kind="stable", ignore_index=True)


@claim("C1")
def occurs(setting: Setting) -> Iterator[dict]:
    """**C1**, sparse double descent occurs. Measured: the rebound of the vanilla curve.

    Holds if the 95 % intervals of the dip's depth and of the rebound both lie above 0 and the rebound is not below
    NEGLIGIBLE; else fails if either interval lies below NEGLIGIBLE altogether; else inconclusive.
    """
    statement = "accuracy falls and rises again as sparsity grows (rebound, points)"
    yield setting.row(statement, setting.dip.rebound, setting.dips, "01_baseline")


@claim("C2a")
def l2_smooths(setting: Setting) -> Iterator[dict]:
    """**C2a**, a larger λ smooths the curve. Measured: rebound at the regular λ minus rebound at the best, by seed.

    The best λ is the one, other than the regular, whose best pruned level has the highest validation accuracy. Not
    applicable where C1 fails, since there is nothing to smooth. Holds if the interval lies above 0, fails if it lies
    below, else inconclusive.
    """
    if len(best := setting.rows("l2")):
        gain = Estimate.of(setting.dip.rebounds - setting.dip_of("l2").rebounds)
        verdict = "holds" if gain.low > 0 else "fails" if gain.high < 0 else "inconclusive"
        statement = "the best λ makes the rebound smaller than the regular λ does (by, points)"
        yield setting.row(statement, gain, setting.if_any(verdict), f"02_l2_sweep, λ = {best['weight_decay'].iat[0]:g}")


@claim("C2b")
def l2_avoids(setting: Setting) -> Iterator[dict]:
    """**C2b**, the best λ avoids the dip (of a ResNet-18: does not). Measured: the rebound at the best λ.

    Verdict as for C3, or, for a ResNet-18, the opposite of it.
    """
    if len(best := setting.rows("l2")):
        rebound = setting.dip_of("l2").rebound
        verdict, does = setting.avoided(rebound), "avoids"
        if setting.arch == "resnet18":
            verdict, does = {"holds": "fails", "fails": "holds"}.get(verdict, verdict), "does not avoid"
        statement = f"the best λ {does} the dip (remaining rebound, points)"
        yield setting.row(statement, rebound, verdict, f"02_l2_sweep, λ = {best['weight_decay'].iat[0]:g}")


@claim("C3")
def distillation_avoids(setting: Setting) -> Iterator[dict]:
    """**C3**, a distilled student avoids the dip. Measured: the rebound of the student's curve.

    Not applicable where C1 fails, since there is no dip to avoid. Holds if C1 does and the 95 % interval lies below
    NEGLIGIBLE; fails if the interval lies above 0 and the rebound is not below NEGLIGIBLE; else inconclusive. A student
    may still lose accuracy on the way down; a dip is what comes back.
    """
    for teacher in setting.teachers:
        rebound = setting.dip_of(teacher).rebound
        statement = f"a student of the {teacher} teacher has no dip (remaining rebound, points)"
        yield setting.row(statement, rebound, setting.avoided(rebound), "03_distillation")


@claim("C4")
def distillation_gains(setting: Setting) -> Iterator[dict]:
    """**C4**, distillation gains 10 points or more at high sparsity. Measured: student − vanilla, at vanilla's lowest.

    Where vanilla is lowest comes, for each seed, from the other seeds' mean (level 0 if they show no dip). Not
    applicable where C1 fails, since there is no such place. Holds if the 95 % interval lies at or above 10, fails if it
    lies below 10, else inconclusive.
    """
    for teacher in setting.teachers:
        own, other = curves_of(setting.plain), curves_of(setting.rows(teacher))
        bottoms = [valley.bottom if valley else 0 for valley in held_out_valleys(own)]
        gain = Estimate.of([100 * (other[k, b] - own[k, b]) for k, b in enumerate(bottoms)])
        verdict = "holds" if gain.low >= 10 else "fails" if gain.high < 10 else "inconclusive"
        statement = f"the {teacher} teacher's student gains 10 points or more at the bottom of the dip (points)"
        yield setting.row(statement, gain, setting.if_any(verdict), "03_distillation")


def _cost(setting: Setting, unit: str, cost: str) -> Iterator[dict]:
    """The rows of C5a or C5b; the rule is in ``costs_fewer_flops``."""
    by_seed = select(setting.ends, [(setting.arch, setting.noise_rate)]).set_index("seed").sort_index()
    plain = by_seed[(by_seed["pipeline"] == "vanilla") & (by_seed["rule"] == "full sweep")]
    for teacher in setting.teachers:
        no_dip = _no_dip(setting.dip_of(teacher).rebound)
        rules = {"holds": ["first drop"], "fails": ["full sweep"]}.get(no_dip, ["first drop", "full sweep"])
        students = by_seed[by_seed["pipeline"] == teacher]
        found = [_costs_less(students[students["rule"] == rule], plain, cost) for rule in rules]
        share, verdicts = found[0][0], {verdict for _, verdict in found}
        verdict = verdicts.pop() if len(verdicts) == 1 else "inconclusive"
        statement = f"{unit} of distilling from the {teacher} teacher, its cost included, as a share of vanilla's"
        paper = "less" if setting.paper == "yes" else setting.paper
        yield setting.row(statement, share, verdict, f"04_cost, {rules[0]}", paper)


@claim("C5a")
def costs_fewer_flops(setting: Setting) -> Iterator[dict]:
    """**C5a**, distillation costs fewer FLOPs. Measured: its cost as a share of vanilla's.

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
    yield from _cost(setting, "FLOPs", "train_flops")


@claim("C5b")
def emits_less(setting: Setting) -> Iterator[dict]:
    """**C5b**, distillation emits less. Measured and judged as C5a, in kg of CO₂eq."""
    yield from _cost(setting, "kg CO₂eq", "emissions_kg")


@claim("C6")
def human_noise_too(setting: Setting) -> Iterator[dict]:
    """**C6**, the same holds where people gave the wrong labels. Measured: the rebound of the student's curve.

    Verdict as for C3, but fails where C1 fails, since the dip is part of the claim.
    """
    if setting.plain["noise_kind"].iat[0] != "human":
        return
    for teacher in setting.teachers:
        rebound = setting.dip_of(teacher).rebound
        verdict = "fails" if setting.dips == "fails" else setting.avoided(rebound)
        statement = (
            f"under human label noise too, a dip that a student of the {teacher} teacher has not (rebound, points)"
        )
        paper = "" if setting.plain["dataset"].iat[0] == "cifar100n" else NOT_IN_THE_PAPER
        yield setting.row(statement, rebound, verdict, "03_distillation", paper)


def _no_dip(rebound: Estimate) -> str:
    if rebound.high < NEGLIGIBLE:
        return "holds"
    return "fails" if rebound.low > 0 and rebound.value >= NEGLIGIBLE else "inconclusive"


def _costs_less(students: pd.DataFrame, plain: pd.DataFrame, cost: str) -> tuple[Estimate, str]:
    """The share of ``plain``'s cost, and the verdict; both tables have one row a seed."""
    share = _geometric(students[cost] / plain[cost])
    accuracy = Estimate.of(students["test_acc"] - plain["test_acc"])
    size = _geometric(students["remaining_params"] / plain["remaining_params"])
    worse = (accuracy.high < 0 and not size.high < 1) or (size.low > 1 and not accuracy.low > 0)
    return share, "fails" if worse or share.low > 1 else "holds" if share.high < 1 else "inconclusive"


def _geometric(ratios: pd.Series) -> Estimate:
    log = Estimate.of(np.log(ratios))
    return Estimate(*np.exp([log.value, log.low, log.high]).tolist(), log.n)
