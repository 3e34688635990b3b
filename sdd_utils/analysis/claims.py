"""The paper's claims, each with a number, a 95 % interval over seeds and a verdict that follows from them by rule.

A claim is one function with ``@claim``; its docstring is the rule, and nowhere else is one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from sdd_utils.analysis.choose import stopped
from sdd_utils.analysis.cost import spent
from sdd_utils.analysis.curves import of_settings, setting_name, vanilla_settings
from sdd_utils.analysis.dip import Dip, Estimate, curves_of, held_out_valleys, measure_dip, over_the_margin
from sdd_utils.analysis.methods import METHODS, Method, paired
from sdd_utils.datasets import label_of

NOT_IN_THE_PAPER = "not in the paper"

CLAIM_COLUMNS = [
    *["claim", "dataset", "arch", "noise_rate", "pipeline", "statement", "paper"],
    *["measured", "ci_low", "ci_high", "n_seeds", "p", "verdict", "evidence"],
]
"""One row a claim about one of the METHODS, its ``pipeline``, in one setting."""


@dataclass(frozen=True, eq=False)
class Setting:
    """One architecture at one noise rate on one dataset: what a claim looks at."""

    levels: pd.DataFrame  # of its dataset, in the columns of levels.csv
    ends: pd.DataFrame  # where each stop rule ends on each of the dataset's curves, see ``choose.stopped``
    arch: str
    noise_rate: float
    prefix: str = ""  # the dataset, where there are several

    @property
    def name(self) -> str:
        """How claims call it."""
        return f"{self.prefix}{setting_name(self.arch, self.noise_rate)}"

    @cached_property
    def rows(self) -> dict[str, pd.DataFrame]:
        """The rows of each of the METHODS that has some. Raises ConfigError where its seeds are not vanilla's."""
        return paired(self.levels, self.arch, self.noise_rate)

    @cached_property
    def left(self) -> dict[str, Dip]:
        """What each of the METHODS that has rows here leaves of the dip."""
        return {name: measure_dip(curves_of(rows), held_out=False) for name, rows in self.rows.items()}

    @property
    def plain(self) -> pd.DataFrame:
        """Vanilla's rows."""
        return self.rows["vanilla"]

    @cached_property
    def dip(self) -> Dip:
        """Vanilla's dip."""
        return measure_dip(curves_of(self.plain))

    @property
    def remedies(self) -> dict[str, Method]:
        """The methods with rows here that are not pruning at some λ: distillation, early stopping, or both."""
        return {name: METHODS[name] for name in self.rows if METHODS[name].subject}

    @property
    def c1(self) -> str:
        """The verdict of C1."""
        return "holds" if self.dip.is_double_descent else "fails" if self.dip.rebound.high <= 0 else "inconclusive"

    def if_any(self, verdict: str) -> str:
        """A verdict about a dip, where there may be one."""
        return "not applicable" if self.c1 == "fails" else verdict

    def over(self, name: str) -> Estimate:
        """By how much what a method leaves of the dip is more than the margin of C3."""
        return over_the_margin(self.left[name], self.left["vanilla"])

    def avoided(self, name: str) -> str:
        """Whether a method leaves no dip, where vanilla has one."""
        if self.c1 != "holds":
            return self.if_any("inconclusive")
        over = self.over(name)
        return "holds" if over.high < 0 else "fails" if over.low > 0 else "inconclusive"

    def row(self, pipeline: str, says: str, measured: Estimate, p: float, verdict: str, evidence: str) -> dict:
        """One row of claims.csv about one of the METHODS, but for the claim's number."""
        theirs = self.arch in ("resnet18", "vit") and METHODS[pipeline].in_the_paper
        of = {"dataset": self.plain["dataset"].iat[0], "arch": self.arch, "noise_rate": self.noise_rate}
        said = {"statement": f"{self.name}: {says}", "paper": "yes" if theirs else NOT_IN_THE_PAPER}
        numbers = {"measured": measured.value, "ci_low": measured.low, "ci_high": measured.high, "n_seeds": measured.n}
        return of | {"pipeline": pipeline} | said | numbers | {"p": p, "verdict": verdict, "evidence": evidence}


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
        prefix = f"{label_of(dataset)}, " if levels["dataset"].nunique() > 1 else ""
        ends = stopped(spent(part))
        settings += [Setting(part, ends, *setting, prefix) for setting in vanilla_settings(part)]
    rows = [{"claim": number} | row for number, rule in CLAIMS.items() for setting in settings for row in rule(setting)]
    if not any(row["claim"] == "C6" for row in rows):
        human = {"claim": "C6", "statement": "the same holds under CIFAR-100N's human label noise", "paper": "yes"}
        why = "no remedy was trained" if "human" in set(levels["noise_kind"]) else "this profile has no human labels"
        rows.append(human | {"verdict": "not applicable", "evidence": why})
    return pd.DataFrame(rows, columns=CLAIM_COLUMNS).sort_values("claim", kind="stable", ignore_index=True)


@claim("C1")
def occurs(setting: Setting) -> Iterator[dict]:
    """**C1**, sparse double descent occurs. Measured: the rebound of the vanilla curve.

    Holds if its 95 % interval lies above 0, fails if it does not reach above 0, else inconclusive. A fall before the
    rise is part of the picture and not asked for: a network that has memorised all wrong labels has little to lose.
    """
    says, rebound = "accuracy rises again as sparsity grows (rebound, points)", setting.dip.rebound
    yield setting.row("vanilla", says, rebound, rebound.p_value(above=0), setting.c1, "01_baseline")


@claim("C2a")
def l2_smooths(setting: Setting) -> Iterator[dict]:
    """**C2a**, a larger λ smooths the curve. Measured: rebound at the regular λ minus rebound at the best, by seed,
    both held out, as vanilla's is.

    The best λ is the one, other than the regular, whose best pruned level has the highest validation accuracy. Not
    applicable where C1 fails, since there is nothing to smooth. Holds if the interval lies above 0, fails if it lies
    below, else inconclusive.
    """
    if (best := setting.rows.get("l2")) is not None:
        gain = Estimate.of(setting.dip.rebounds - measure_dip(curves_of(best)).rebounds)
        verdict = "holds" if gain.low > 0 else "fails" if gain.high < 0 else "inconclusive"
        statement = "the best λ makes the rebound smaller than the regular λ does (by, points)"
        evidence = f"02_l2_sweep, λ = {best['weight_decay'].iat[0]:g}"
        yield setting.row("l2", statement, gain, gain.p_value(above=0), setting.if_any(verdict), evidence)


@claim("C2b")
def l2_avoids(setting: Setting) -> Iterator[dict]:
    """**C2b**, the best λ avoids the dip (of a ResNet-18: does not). Measured: the rebound at the best λ.

    Verdict as for C3, or, for a ResNet-18, the opposite of it.
    """
    if (best := setting.rows.get("l2")) is not None:
        verdict, over, does = setting.avoided("l2"), setting.over("l2"), "avoids"
        p = over.p_value(below=0)
        if setting.arch == "resnet18":
            verdict, does = {"holds": "fails", "fails": "holds"}.get(verdict, verdict), "does not avoid"
            p = over.p_value(above=0)
        statement = f"the best λ {does} the dip (remaining rebound, points)"
        evidence = f"02_l2_sweep, λ = {best['weight_decay'].iat[0]:g}; minus the margin {over}"
        yield setting.row("l2", statement, setting.left["l2"].rebound, p, verdict, evidence)


@claim("C3")
def distillation_avoids(setting: Setting, says: str = "{} has no dip (remaining rebound, points)") -> Iterator[dict]:
    """**C3**, a remedy avoids the dip. Measured: the rebound of the student's curve, and of early stopping's.

    Not applicable where C1 fails, since there is no dip to avoid; where C1 is inconclusive, so is this. Else what is
    left is compared, seed by seed, with a margin: REMOVED of vanilla's rebound, measured alike. It holds if the 95 %
    interval of the difference lies below 0, fails if it lies above, else inconclusive. Evidence has that difference.
    A student may still lose accuracy on the way down; a dip is what comes back.
    """
    for name, method in setting.remedies.items():
        rebound, over = setting.left[name].rebound, setting.over(name)
        p, evidence = over.p_value(below=0), f"03_distillation, minus the margin {over}"
        yield setting.row(name, says.format(method.subject), rebound, p, setting.avoided(name), evidence)


@claim("C4")
def distillation_gains(setting: Setting) -> Iterator[dict]:
    """**C4**, a remedy gains 10 points or more. Measured: student − vanilla, at vanilla's lowest.

    Where vanilla is lowest before it rises comes, for each seed, from the other half of the seeds (level 0 if they show
    no rise); evidence has its sparsity. Not applicable where C1 fails, since there is no such place. Holds if the 95 %
    interval lies at or above 10, fails if it lies below 10, else inconclusive. Early stopping is measured alike.
    """
    own = curves_of(setting.plain)
    bottoms = [valley.bottom if valley else 0 for valley in held_out_valleys(own)]
    pruned = 100 * setting.plain.groupby("level")["sparsity"].first()[bottoms]
    evidence = "03_distillation, at " + " to ".join(dict.fromkeys(f"{s:.3g}" for s in (pruned.min(), pruned.max())))
    for name, method in setting.remedies.items():
        other = curves_of(setting.rows[name])
        gain = Estimate.of([100 * (other[k, b] - own[k, b]) for k, b in enumerate(bottoms)])
        verdict = setting.if_any("holds" if gain.low >= 10 else "fails" if gain.high < 10 else "inconclusive")
        statement = f"{method.subject} gains 10 points or more at the bottom of the dip (points)"
        yield setting.row(name, statement, gain, gain.p_value(above=10), verdict, f"{evidence} % sparsity")


def _cost(setting: Setting, unit: str, cost: str) -> Iterator[dict]:
    """The rows of C5a or C5b; the rule is in ``costs_fewer_flops``."""
    by_seed = of_settings(setting.ends, [(setting.arch, setting.noise_rate)]).set_index("seed").sort_index()
    plain = by_seed[(by_seed["pipeline"] == "vanilla") & (by_seed["rule"] == "full sweep")]
    for name, method in setting.remedies.items():
        either = ["first drop", "full sweep"]
        rules = {"holds": either[:1], "fails": either[1:]}.get(setting.avoided(name), either)
        mine = by_seed[by_seed["pipeline"] == name]
        found = [_costs_less(mine[mine["rule"] == rule], plain, cost) for rule in rules]
        verdicts, p = [verdict for _, _, verdict in found], max(p for _, p, _ in found)
        verdict = verdicts[0] if len(set(verdicts)) == 1 else "inconclusive"
        statement = f"{unit} of {method.subject}, what it needs included, as a share of vanilla's"
        ways = "; ".join(f"{rule}: {said}" for rule, said in zip(rules, verdicts, strict=True))
        yield setting.row(name, statement, found[0][0], p, verdict, f"04_cost, {ways}")


@claim("C5a")
def costs_fewer_flops(setting: Setting) -> Iterator[dict]:
    """**C5a**, a remedy costs fewer FLOPs. Measured: its cost as a share of vanilla's.

    Each way is charged until it is known what comes out of it. Vanilla has to be pruned to the end, since its curve may
    come back after a drop. A student whose dip is avoided (C3) may stop at the first significant drop of validation
    accuracy, two standard errors below the best so far; one whose dip is not has to be pruned to the end as well. Where
    C3 is open, both stop rules are tried, and this is open unless they agree; the number is the first drop's. A student
    is charged for its teacher: a dense network, or a vanilla curve, all of it, to choose the sparse teacher from. Early
    stopping is judged alike. All take the sparsest network within one standard error of the best. FLOPs count pruned
    weights as if they were there. The mean share is a geometric one, so that it does not matter which of the two costs
    is divided by which.

    Holds if the 95 % interval lies below 1 and the network is not seen to be worse than vanilla's; fails if the
    interval lies above 1, or if it is worse; else inconclusive. Worse is less accurate on test without being smaller,
    or larger without being more accurate, each with its whole interval; then p is 1. Evidence has the verdict by each
    stop rule that counts.
    """
    yield from _cost(setting, "FLOPs", "train_flops")


@claim("C5b")
def emits_less(setting: Setting) -> Iterator[dict]:
    """**C5b**, a remedy emits less. Measured and judged as C5a, in kg of CO₂eq."""
    yield from _cost(setting, "kg CO₂eq", "emissions_kg")


@claim("C6")
def human_noise_too(setting: Setting) -> Iterator[dict]:
    """**C6**, the same holds where people gave the wrong labels. Measured: the rebound of the student's curve.

    Verdict as for C3, but fails where C1 fails, since the dip is part of the claim.
    """
    if setting.plain["noise_kind"].iat[0] != "human":
        return
    for row in distillation_avoids(setting, "under human label noise too, {} has no dip (rebound, points)"):
        fails = {"verdict": "fails"} if setting.c1 == "fails" else {}
        paper = {} if setting.plain["dataset"].iat[0] == "cifar100n" else {"paper": NOT_IN_THE_PAPER}
        yield row | fails | paper


def _costs_less(mine: pd.DataFrame, plain: pd.DataFrame, cost: str) -> tuple[Estimate, float, str]:
    """The share of ``plain``'s cost, its p, and the verdict; both tables have one row a seed."""
    share, size = (Estimate.of(np.log(mine[column] / plain[column])) for column in (cost, "remaining_params"))
    accuracy = Estimate.of(mine["test_acc"] - plain["test_acc"])
    worse = (accuracy.high < 0 and not size.high < 0) or (size.low > 0 and not accuracy.low > 0)
    verdict = "fails" if worse or share.low > 0 else "holds" if share.high < 0 else "inconclusive"
    p = 1.0 if worse else share.p_value(below=0)
    return Estimate(*np.exp([share.value, share.low, share.high]).tolist(), share.n), p, verdict


def holm(claims: pd.DataFrame, level: float = 0.025) -> int:
    """How many verdicts «holds» remain when each row's p is corrected for the number of rows (Holm, 1979).

    ``level`` is one-sided: the chance that any of them would hold if all were just false and 95 % intervals exact.
    """
    judged = claims[claims["verdict"] != "not applicable"].sort_values("p")
    passed = (judged["p"] <= level / np.arange(len(judged), 0, -1)).cummin()
    return int((passed & (judged["verdict"] == "holds")).sum())
