"""The rule for «the dip is avoided», on simulated sweeps whose truth is known."""

import numpy as np
import pytest

from sdd_utils.analysis.dip import REMOVED, measure_dip, over_the_margin

LEVELS, TIMES = 15, 1000
REBOUND = 10.0  # points, of a vanilla curve


def sweeps(curve, sd, rho, seeds, rng):
    """TIMES sweeps of so many seeds: ``curve`` in points with AR(1) noise from level to level, as shares."""
    noise = rng.normal(0, sd, (TIMES, seeds, LEVELS))
    for level in range(1, LEVELS):
        noise[..., level] = rho * noise[..., level - 1] + np.sqrt(1 - rho**2) * noise[..., level]
    return (curve + noise) / 100


def called_avoided(curve, sd, rho, seeds):
    """The share of sweeps, each beside one of vanilla, whose interval lies below the margin."""
    rng = np.random.default_rng(0)
    pairs = zip(*(sweeps(one, sd, rho, seeds, rng) for one in (curve, with_rebound(REBOUND))), strict=True)
    over = [over_the_margin(*(measure_dip(one, held_out=False) for one in pair)) for pair in pairs]
    return np.mean([estimate.high < 0 for estimate in over])


def with_rebound(points):
    """80 until level 4, 74 at levels 7 and 8, then so many points up, and gone."""
    corners = [(0, 80), (4, 80), (7, 74), (8, 74), (10, 74 + points), (11, 74 + points), (14, 30)]
    return np.interp(range(LEVELS), *zip(*corners, strict=True))


FLAT = np.interp(range(LEVELS), [0, 11, 14], [80, 80, 30])


@pytest.mark.parametrize("seeds", [3, 5, 7, 8, 10])
@pytest.mark.parametrize("rho", [0, 0.5])
@pytest.mark.parametrize("sd", [0.7, 1, 2])
def test_a_remedy_that_leaves_just_too_much_of_the_rebound_is_rarely_said_to_avoid_the_dip(sd, rho, seeds):
    assert called_avoided(with_rebound(REMOVED * REBOUND), sd, rho, seeds) <= 0.05


def test_a_single_level_that_falls_and_comes_back_is_not_smoothed_away():
    """Of students that are else flat, some seeds break down at one level and recover at the next."""
    broken = np.stack([FLAT - 40 * (np.arange(LEVELS) == 8) * (seed < 3) for seed in range(8)])
    rebound = measure_dip(broken / 100, held_out=False).rebound
    assert rebound.value == pytest.approx(15)
    assert rebound.high > REMOVED * REBOUND


@pytest.mark.parametrize(("seeds", "sd"), [(5, 0.7), (5, 1), (7, 1), (8, 0.7), (8, 1), (8, 2), (10, 2)])
@pytest.mark.parametrize("rho", [0, 0.5])
def test_a_flat_curve_is_mostly_said_to_have_no_dip(sd, rho, seeds):
    assert called_avoided(FLAT, sd, rho, seeds) >= 0.8


@pytest.mark.parametrize(("seeds", "sd"), [(3, 1), (5, 2)])
def test_with_few_seeds_of_much_noise_a_flat_curve_is_left_open(sd, seeds):
    assert 0.3 <= called_avoided(FLAT, sd, 0, seeds) <= 0.7
