"""Computed numbers and verdicts in sentences: what the notebooks' answers are made of."""

from collections.abc import Iterable

import pandas as pd

from sdd_utils.analysis.claims import CLAIMS
from sdd_utils.analysis.dip import Estimate, curves_of, measure_dip
from sdd_utils.analysis.methods import METHODS

VERDICTS = {"holds": "holds", "fails": "fails", "inconclusive": "is open", "not applicable": "does not apply"}


def listed(words: Iterable) -> str:
    """«a, b and c»; «none» of nothing."""
    *most, last = [*map(str, words)] or ["none"]
    return f"{', '.join(most)} and {last}" if most else last


def shown(number: float, digits: int = 1) -> str:
    """A number with so many decimals, rounded from what claims.csv has of it, and a proper minus."""
    return f"{float(f'{number:.6g}'):z.{digits}f}".replace("-", "−")


def share(number: float) -> str:
    """A share (%) with the two digits that count: 0.42, 8, 93, 100."""
    return f"{float(f'{number:.2g}'):g}"


def ranged(numbers: Iterable[float], digits: int | None = 1) -> str:
    """The smallest to the largest, «75 to 93», as shares for None; one number where both are shown alike."""
    numbers = [*numbers]
    ends = [share(end) if digits is None else shown(end, digits) for end in (min(numbers), max(numbers))]
    return " to ".join(dict.fromkeys(ends))


def estimated(one: Estimate, digits: int = 1) -> str:
    """«6.0 [1.1, 10.9]»; the value alone where a single seed gives no interval."""
    return shown(one.value, digits) + (f" [{shown(one.low, digits)}, {shown(one.high, digits)}]" if one.n > 1 else "")


def course(rows: pd.DataFrame) -> str:
    """What one setting's mean test accuracy does: from where it falls to where, and what it comes back to."""
    curves = curves_of(rows)
    mean, left = 100 * curves.mean(axis=0), 100 * (1 - rows.groupby("level")["sparsity"].first())
    dip = measure_dip(curves)
    if not (valley := dip.valley):
        return f"accuracy does not rise anywhere between {mean[0]:.1f} % (dense) and {mean[-1]:.1f} % (last level)"
    light, low, sweet = mean[[valley.light, valley.bottom, valley.sweet]]
    down = f"falls from {light:.1f} % to" if low < light and not dip.depth.low <= 0 else "is"  # nan of one seed
    up = "rises" if sweet > low else "goes on"
    there = f"{low:.1f} % with {share(left[valley.bottom])} % of the weights left"
    return f"accuracy {down} {there} and {up} to {sweet:.1f} % with {share(left[valley.sweet])} % left"


def judged(claims: pd.DataFrame, number: str, cases: bool = True) -> str:
    """What came of a claim: «**C1**, …, holds in 3 of 4 cases: MLP, ε = 0.3 and 0.5; …. It fails in 1: ….»."""
    mine, parts = claims[claims["claim"] == number], []
    for verdict, says in VERDICTS.items():
        if len(rows := mine[mine["verdict"] == verdict]):
            of = "" if parts else f" of {len(mine)} case" + "s" * (len(mine) > 1)
            parts.append(f"{says} in {len(rows)}{of}" + (f": {_cases(rows)}" if cases else ""))
    said = (". It ".join(parts) if cases else listed(parts)) if parts else "has no case here"
    return f"{CLAIMS[number].__doc__.split('. ')[0]}, {said}."


def _cases(claims: pd.DataFrame) -> str:
    """The settings and remedies that claims are about, those with several rates or remedies once."""
    cases = by_case(claims.dropna(subset="arch"))
    cases = cases.assign(rate=cases["noise_rate"].map("{:g}".format), whose=cases["setting"].str.split(", ε").str[0])
    rates = cases.groupby(["whose", "way"], sort=False)["rate"].agg(listed).reset_index()
    both = rates.groupby(["whose", "rate"], sort=False)["way"].agg(listed)
    return "; ".join(f"{whose}, ε = {rate}" + (f" ({ways})" if ways else "") for (whose, rate), ways in both.items())


def by_case(claims: pd.DataFrame) -> pd.DataFrame:
    """Rows of claims.csv with what a table of them needs: ``setting``, ``way`` (a remedy's label, or "") and ``cell``,
    the verdict with what was measured, «holds 5.8 [3.5, 8.2]»."""
    numbers = claims[["verdict", "claim", "measured", "ci_low", "ci_high", "n_seeds"]].itertuples(index=False)
    cells = [f"{verdict} {estimated(Estimate(*one), 1 + number.startswith('C5'))}" for verdict, number, *one in numbers]
    ways = claims["pipeline"].map({name: way.label for name, way in METHODS.items() if way.subject}).fillna("")
    return claims.assign(setting=claims["statement"].str.split(": ").str[0], way=ways, cell=cells)
