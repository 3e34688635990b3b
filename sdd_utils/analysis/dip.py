"""Phases of a pruning curve: where its dip lies, how deep it is, and how far the curve comes back.

Names of the phases: He et al. (2022). Accuracies go in as shares in [0, 1]; differences come out in accuracy points.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
from scipy import stats

REMOVED = 0.5
"""Of vanilla's rebound, the share below which what a remedy leaves counts as no dip. Simulated with a rebound of 10
points (``tests/analysis/test_verdicts.py``), a remedy that leaves just this is called so in at most 5 of 100 cases,
with 3 to 10 seeds. A flat curve is in at least 80 where levels wobble by up to 1 point and there are 5 seeds, or by
2 and there are 8; with fewer it is often left open."""

BETWEEN = 2.0
"""Points by which a mean has to rise more than at the levels where it does when smoothed, to be measured at its own:
more than levels that wobble by up to 2 points make of 8 seeds that do not rise."""

SEEN = 1.0
"""Points by which a single seed's curve has to rise, or fall, for a phase to be named; that proves nothing."""


@dataclass(frozen=True)
class Estimate:
    """Mean over seeds with a 95 % interval; the interval is nan with fewer than two seeds."""

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: np.ndarray) -> Self:
        """Student's t interval for the mean of one value a seed.

        Not the percentile bootstrap, whose interval holds the mean in about 75 % of cases at n = 3 (a test counts).
        """
        values = np.asarray(values, dtype=float)
        n, mean = len(values), float(np.mean(values))
        if n < 2:
            return cls(mean, np.nan, np.nan, n)
        half = float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
        return cls(mean, mean - half, mean + half, n)

    def p_value(self, above: float | None = None, below: float | None = None) -> float:
        """One-sided p: how often a mean so far beyond the bound, or farther, comes of one at it; nan of one seed."""
        half, distance = (self.high - self.low) / 2, self.value - above if below is None else below - self.value
        if not half:  # all seeds alike; nan stays nan
            return float(distance <= 0)
        return float(stats.t.sf(distance / half * stats.t.ppf(0.975, self.n - 1), self.n - 1))

    def __str__(self) -> str:
        return f"{self.value:z.1f}" + (f" [{self.low:z.1f}, {self.high:z.1f}]" if self.n > 1 else "")


@dataclass(frozen=True)
class Valley:
    """Three pruned levels: the best before the rise, its foot (also the best, if nothing fell), and its top."""

    light: int
    bottom: int
    sweet: int


def smooth(curves: np.ndarray) -> np.ndarray:
    """Running mean with weights ¼, ½, ¼ along the last axis; the ends repeat. Neighbouring levels are close."""
    padded = np.concatenate([curves[..., :1], curves, curves[..., -1:]], axis=-1)
    return (padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]) / 4


def smoothed_mean(curves: np.ndarray) -> np.ndarray:
    """The mean of ``curves`` (seeds, levels), smoothed from level 1 on: (levels,)."""
    return np.concatenate([curves[:, :1].mean(axis=0), smooth(curves[:, 1:]).mean(axis=0)])


def find_valley(curve: np.ndarray) -> Valley | None:
    """The largest rise of one curve (levels,) between pruned levels, from the last of the lowest; None without a rise.

    Level 0, which may have a schedule of its own, is left out: what comes of that is no effect of pruning. Rounded
    first, since a tie between levels is not to be broken by the last bit of a mean.
    """
    pruned = np.round(curve[1:], 9)
    rise = pruned - np.minimum.accumulate(pruned)
    if not rise.any():
        return None
    sweet = int(np.argmax(rise))
    bottom = sweet - int(np.argmin(pruned[sweet::-1]))
    return Valley(1 + int(np.argmax(pruned[: bottom + 1])), 1 + bottom, 1 + sweet)


@dataclass(frozen=True)
class Dip:
    """What a pruning curve does, over seeds: depth (light − bottom) and rebound (sweet − bottom) in accuracy points."""

    depth: Estimate
    rebound: Estimate
    depths: np.ndarray  # by seed
    rebounds: np.ndarray
    valley: Valley | None  # of ``mean``
    mean: np.ndarray  # ``smoothed_mean`` (levels,)

    @property
    def is_double_descent(self) -> bool:
        """Whether the rise is larger than chance (95 % interval above 0); a fall before it is not asked for."""
        return bool(self.rebound.low > 0)

    @property
    def phases(self) -> dict[str, tuple[int, int]]:
        """First and last level of each phase; each border is where the curve has gone half of the way.

        Light ends half-way down to the bottom, or with the rise if no fall is sure; sweet begins half-way up and ends
        where the curve falls below that height for good. Without a rise that is sure, collapsed begins where the curve
        falls below half of its range for good, unless that is less than five times SEEN, and light is what lies before.
        Of a single seed, of which nothing is sure, a rise or a fall of SEEN counts.
        """
        curve, valley, last = self.mean, self.valley, len(self.mean) - 1
        if not (_shows(self.rebound) and valley):
            end = int(np.flatnonzero(curve >= (curve.max() + curve.min()) / 2).max())
            if 100 * np.ptp(curve) < 5 * SEEN:
                end = last
            return {"light": (0, end)} | ({"collapsed": (end + 1, last)} if end < last else {})
        bottom = curve[valley.bottom]
        risen = valley.bottom + np.flatnonzero(curve[valley.bottom :] >= (curve[valley.sweet] + bottom) / 2)
        start, end = int(risen.min()), int(risen.max())
        phases = {"light": (0, start - 1), "sweet": (start, end)}
        if _shows(self.depth) and valley.light < valley.bottom:
            down = (curve[valley.light] + bottom) / 2
            light_end = int(np.flatnonzero(curve[: valley.bottom] >= down).max())
            phases = {"light": (0, light_end), "critical": (light_end + 1, start - 1), "sweet": (start, end)}
        return phases | ({"collapsed": (end + 1, last)} if end < last else {})


def _shows(change: Estimate) -> bool:
    """Whether a rise or a fall is sure, or, of a single seed, large enough to be seen."""
    return change.low > 0 or (change.n == 1 and change.value >= SEEN)


def held_out_valleys(curves: np.ndarray) -> list[Valley | None]:
    """For each seed of ``curves`` (seeds, levels), the valley in the smoothed mean of the *other half* of the seeds (of
    three or two: of the others), so that what is measured at those levels has not been picked on it. A single seed is
    its own reference."""
    seeds = len(curves)
    if seeds == 1:
        return [find_valley(smoothed_mean(curves))]
    fold = np.arange(seeds) % (2 if seeds > 3 else seeds)
    valleys = [find_valley(smoothed_mean(curves[fold != one])) for one in range(fold.max() + 1)]
    return [valleys[one] for one in fold]


def measure_dip(curves: np.ndarray, held_out: bool = True) -> Dip:
    """Depth and rebound of the dip in ``curves`` (seeds, levels), accuracies in [0, 1].

    Looking for the largest rise of a noisy curve always finds one. Whether there is one is therefore measured held out:
    at levels that come from the other half of the seeds (``held_out_valleys``). On a curve that never rises, however
    noisy, the rebound is then 0 or negative on average; one that the halves place differently comes out too small.
    (All other seeds instead of half of them share so much that a flat curve seems to rise nearly twice as often.)
    Whether a dip is *gone* is measured with ``held_out=False``, at the levels of all seeds' own mean, so that it comes
    out too large rather than too small; where that mean, before it is smoothed, rises by BETWEEN points more, at those
    levels: one may fall out of line and come back. A single seed has no interval.
    """
    curves = np.atleast_2d(np.asarray(curves, dtype=float))
    depths, rebounds = np.zeros(len(curves)), np.zeros(len(curves))
    mean = smoothed_mean(curves)
    of_all = find_valley(mean)
    valleys = held_out_valleys(curves) if held_out else [_or_out_of_line(of_all, curves)] * len(curves)
    for k, valley in enumerate(valleys):
        if valley:
            depths[k] = 100 * (curves[k, valley.light] - curves[k, valley.bottom])
            rebounds[k] = 100 * (curves[k, valley.sweet] - curves[k, valley.bottom])
    return Dip(Estimate.of(depths), Estimate.of(rebounds), depths, rebounds, of_all, mean)


def _or_out_of_line(smoothed: Valley | None, curves: np.ndarray) -> Valley | None:
    """The valley of the smoothed mean, or that of the mean itself where it is deeper by BETWEEN."""
    mean = curves.mean(axis=0)
    own = find_valley(mean)
    rises = [100 * (mean[valley.sweet] - mean[valley.bottom]) if valley else 0.0 for valley in (smoothed, own)]
    return own if len(curves) > 1 and rises[1] - rises[0] > BETWEEN else smoothed


def over_the_margin(remedy: Dip, vanilla: Dip) -> Estimate:
    """What a remedy leaves of the rebound, minus REMOVED of vanilla's, by seed (points): below 0 no dip is left."""
    return Estimate.of(remedy.rebounds - REMOVED * vanilla.rebounds)


def curves_of(levels: pd.DataFrame, column: str = "test_acc") -> np.ndarray:
    """One setting's rows as an array (seeds, levels), seeds in increasing order.

    Raises ValueError when a seed lacks a level or has it twice, which means that the rows are not one setting's.
    """
    if levels.duplicated(["seed", "level"]).any():
        raise ValueError("seed, level: the same seed and level occur twice; select one setting before measuring it")
    table = levels.pivot(index="seed", columns="level", values=column)
    if table.isna().any(axis=None):
        raise ValueError(f"level: not every seed has every level of {column}")
    return table.to_numpy()


def summarise(levels: pd.DataFrame) -> pd.DataFrame:
    """One row a setting (arch, noise_rate, weight_decay, teacher): mean accuracies (%), depth and rebound in points.

    ``kept`` is the highest sparsity (%) at which the mean curve is still within one point of its best. Vanilla's dip is
    measured held out, what others leave of it is not; see ``measure_dip``. ``dips``: whether vanilla has one.
    """
    rows = []
    for setting, part in levels.groupby(["arch", "noise_rate", "weight_decay", "teacher"], sort=True):
        curves = curves_of(part)
        plain = part["method"].iat[0] == "vanilla"
        mean, dip = 100 * curves.mean(axis=0), measure_dip(curves, held_out=plain)
        sparsity = 100 * part.groupby("level")["sparsity"].first().to_numpy()
        row = dict(zip(["arch", "noise_rate", "weight_decay", "teacher"], setting, strict=True))
        kept = sparsity[mean >= mean.max() - 1].max()
        row |= {"seeds": len(curves), "dense": mean[0], "best": mean.max(), "kept": kept}
        row |= {"depth": str(dip.depth), "rebound": str(dip.rebound)}
        rows.append(row | {"dips": dip.is_double_descent if plain else ""})
    return pd.DataFrame(rows).round({"dense": 1, "best": 1, "kept": 2})
