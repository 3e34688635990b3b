"""Phases of a pruning curve: where its dip lies, how deep it is, and how far the curve comes back.

Names of the phases: He et al. (2022). Accuracies go in as shares in [0, 1]; differences come out in accuracy points.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
from scipy import stats

NEGLIGIBLE = 3.0
"""Accuracy points below which a rebound counts as none: about twice the binomial standard error of one accuracy near
85 % on 797 test images (1.3 points), so what a single network's test accuracy can hardly show."""


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

    def __str__(self) -> str:
        return f"{self.value:.1f} [{self.low:.1f}, {self.high:.1f}]"


@dataclass(frozen=True)
class Valley:
    """Three levels of one curve: the light phase's best, the bottom of the dip, the sweet phase's best."""

    light: int
    bottom: int
    sweet: int


def smooth(curves: np.ndarray) -> np.ndarray:
    """Running mean with weights ¼, ½, ¼ along the last axis; the ends repeat. Levels are close: 0.8 apart in size."""
    padded = np.concatenate([curves[..., :1], curves, curves[..., -1:]], axis=-1)
    return (padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]) / 4


def find_valley(curve: np.ndarray) -> Valley | None:
    """The most prominent dip of one (smoothed) curve (levels,), or None when no level lies below both sides.

    A level's prominence is how far it lies below the best level before it and the best after it, the lower of the two.
    """
    if len(curve) < 3:
        return None
    before = np.maximum.accumulate(curve)[:-2]
    after = np.maximum.accumulate(curve[::-1])[::-1][2:]
    prominence = np.minimum(before, after) - curve[1:-1]
    bottom = int(np.argmax(prominence)) + 1
    if prominence[bottom - 1] <= 0:
        return None
    return Valley(int(np.argmax(curve[:bottom])), bottom, bottom + 1 + int(np.argmax(curve[bottom + 1 :])))


@dataclass(frozen=True)
class Dip:
    """What a pruning curve does, over seeds: depth (light − bottom) and rebound (sweet − bottom) in accuracy points."""

    depth: Estimate
    rebound: Estimate
    depths: np.ndarray  # by seed
    rebounds: np.ndarray
    valley: Valley | None  # of ``mean``
    mean: np.ndarray  # over seeds, smoothed (levels,)

    @property
    def is_double_descent(self) -> bool:
        """Both the fall and the rise are larger than chance (95 % interval above 0), and the rise not NEGLIGIBLE."""
        return bool(self.depth.low > 0 and self.rebound.low > 0 and self.rebound.value >= NEGLIGIBLE)

    @property
    def phases(self) -> dict[str, tuple[int, int]]:
        """First and last level of each phase; each border is where the curve has gone half of the way.

        Light ends half-way down to the bottom, sweet begins half-way up again and ends where the curve falls below that
        height for good. Without a dip that is sure, light ends before the curve is first NEGLIGIBLE points below its
        best, collapsed begins where it falls below half of its range for good, and what lies between has no name.
        """
        curve, valley, last = self.mean, self.valley, len(self.mean) - 1
        if not (self.is_double_descent and valley):
            worse = np.append(curve < np.maximum.accumulate(curve) - NEGLIGIBLE / 100, True)
            light_end = int(np.argmax(worse)) - 1
            half = (curve.max() + curve.min()) / 2
            collapse = max(int(np.flatnonzero(curve >= half).max()), light_end) + 1
            return {"light": (0, light_end)} | ({"collapsed": (collapse, last)} if collapse <= last else {})
        bottom = curve[valley.bottom]
        down, up = (curve[valley.light] + bottom) / 2, (curve[valley.sweet] + bottom) / 2
        light_end = int(np.flatnonzero(curve[: valley.bottom] >= down).max())
        risen = valley.bottom + np.flatnonzero(curve[valley.bottom :] >= up)
        start, end = int(risen.min()), int(risen.max())
        phases = {"light": (0, light_end), "critical": (light_end + 1, start - 1), "sweet": (start, end)}
        return phases | ({"collapsed": (end + 1, last)} if end < last else {})


def held_out_valleys(curves: np.ndarray) -> list[Valley | None]:
    """For each seed of ``curves`` (seeds, levels), the valley in the smoothed mean of the *other* seeds, so that what
    is measured at those levels has not been picked on it. A single seed is its own reference."""
    smoothed = smooth(curves)
    if len(smoothed) == 1:
        return [find_valley(smoothed[0])]
    return [find_valley(np.delete(smoothed, k, axis=0).mean(axis=0)) for k in range(len(smoothed))]


def measure_dip(curves: np.ndarray) -> Dip:
    """Depth and rebound of the dip in ``curves`` (seeds, levels), accuracies in [0, 1].

    Looking for the deepest dip of a noisy curve always finds one, so a dip is never measured on the seed that it was
    found on: for each seed the three levels come from the *other* seeds (``held_out_valleys``), and the differences
    from this seed. On a monotone curve, however noisy, they are 0 or negative on average. A single seed has no such
    guard, and no interval. The price: a dip comes out a little too small where the seeds place it differently, and the
    95 % interval holds the true rebound in about nine cases of ten (a test counts).
    """
    curves = np.atleast_2d(np.asarray(curves, dtype=float))
    depths, rebounds = np.zeros(len(curves)), np.zeros(len(curves))
    for k, valley in enumerate(held_out_valleys(curves)):
        if valley:
            depths[k] = 100 * (curves[k, valley.light] - curves[k, valley.bottom])
            rebounds[k] = 100 * (curves[k, valley.sweet] - curves[k, valley.bottom])
    mean = smooth(curves).mean(axis=0)
    return Dip(Estimate.of(depths), Estimate.of(rebounds), depths, rebounds, find_valley(mean), mean)


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

    ``kept`` is the highest sparsity (%) at which the mean curve is still within one point of its best.
    """
    rows = []
    for setting, part in levels.groupby(["arch", "noise_rate", "weight_decay", "teacher"], sort=True):
        curves = curves_of(part)
        mean, dip = 100 * curves.mean(axis=0), measure_dip(curves)
        sparsity = 100 * part.groupby("level")["sparsity"].first().to_numpy()
        row = dict(zip(["arch", "noise_rate", "weight_decay", "teacher"], setting, strict=True))
        kept = sparsity[mean >= mean.max() - 1].max()
        row |= {"seeds": len(curves), "dense": mean[0], "best": mean.max(), "kept": kept}
        rows.append(row | {"depth": str(dip.depth), "rebound": str(dip.rebound), "dips": dip.is_double_descent})
    return pd.DataFrame(rows).round({"dense": 1, "best": 1, "kept": 2})
