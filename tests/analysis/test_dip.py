import numpy as np
import pandas as pd
import pytest
from made_up import FLAT, LEVELS, MONOTONE, one_dip, table
from scipy import stats

from sdd_utils.analysis.dip import (
    REMOVED,
    Estimate,
    curves_of,
    find_valley,
    measure_dip,
    smooth,
    smoothed_mean,
    summarise,
)
from sdd_utils.distillation import select_level


def noisy(curve, seeds, sd, rng):
    return np.asarray(curve) + rng.normal(0, sd, (seeds, len(curve)))


def test_one_dip_is_found_where_it_is_and_measured_right():
    dip = measure_dip(noisy(one_dip(), 5, 0.005, np.random.default_rng(0)))
    assert dip.is_double_descent
    assert abs(dip.valley.bottom - 16) <= 1
    assert abs(dip.valley.sweet - 22) <= 1
    assert dip.depth.value == pytest.approx(15, abs=1.5)
    assert dip.rebound.value == pytest.approx(10, abs=1.5)
    assert dip.rebound.low < dip.rebound.value < dip.rebound.high
    assert list(dip.phases) == ["light", "critical", "sweet", "collapsed"]
    assert dip.phases["light"][1] == pytest.approx(12, abs=1)  # half-way between the levels 8 and 15
    assert dip.phases["critical"][1] == pytest.approx(18, abs=1)  # half-way between the levels 17 and 21
    borders = [level for phase in dip.phases.values() for level in phase]
    assert borders[0] == 0
    assert borders[-1] == LEVELS - 1
    assert all(borders[i] + 1 == borders[i + 1] for i in (1, 3, 5))


def test_what_the_schedule_of_level_0_does_is_no_dip():
    """It may be the longer one: with it a network memorises what it forgets again in the shorter ones that follow."""
    worse = FLAT - 0.2 * (np.arange(LEVELS) == 0)
    assert measure_dip(np.stack([worse] * 3)).valley is None
    assert measure_dip(np.stack([worse] * 3)).rebound.value == 0


@pytest.mark.parametrize("curve", [MONOTONE, FLAT], ids=["falling", "flat"])
def test_a_curve_without_noise_and_without_a_dip_has_none(curve):
    dip = measure_dip(np.stack([curve] * 3))
    assert not dip.is_double_descent
    assert dip.rebound.value == 0
    assert "critical" not in dip.phases


def test_where_no_fall_is_sure_light_lasts_until_the_rise():
    """Some seeds fall far and some rise from the start, so that only the rise is sure."""
    higher = np.array([0.15, 0.15, -0.2, -0.2])[:, None] * (np.arange(LEVELS) < 12)
    dip = measure_dip(one_dip() + higher)
    assert dip.is_double_descent
    assert dip.depth.low < 0
    assert list(dip.phases) == ["light", "sweet", "collapsed"]
    assert dip.phases["sweet"][0] == pytest.approx(19, abs=1)  # half-way between the levels 17 and 21


def test_what_has_fallen_is_not_called_light_where_the_dip_is_not_sure():
    phases = measure_dip(np.stack([one_dip(), MONOTONE])).phases
    assert list(phases) == ["light", "collapsed"]
    assert phases["collapsed"][0] == pytest.approx(26, abs=1)
    assert measure_dip(np.stack([FLAT] * 3)).phases == {"light": (0, LEVELS - 1)}


def test_the_phases_of_a_single_seed_are_recognised_as_its_curve_grows():
    """Nothing of it is sure, and a curve that hardly moves is light."""
    wobbling = FLAT + 0.003 * (-1.0) ** np.arange(LEVELS)
    assert measure_dip(wobbling).phases == {"light": (0, LEVELS - 1)}
    found = [list(measure_dip(one_dip()[:levels]).phases) for levels in range(1, LEVELS + 1)]
    orders = list(dict.fromkeys(map(tuple, found)))
    assert orders == [
        ("light",),
        ("light", "collapsed"),  # or a dip: nobody knows yet
        ("light", "critical", "sweet"),
        ("light", "critical", "sweet", "collapsed"),
    ]


def test_a_tie_between_levels_is_not_broken_by_rounding():
    """100 times the accuracies have other last bits, and the same valley."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        curves = rng.integers(20, 25, (3, 8)) / 29
        one, other = find_valley(smoothed_mean(curves)), find_valley(smoothed_mean(curves[::-1]))
        assert one == other


@pytest.mark.parametrize("curve", [MONOTONE, FLAT], ids=["monotone", "flat"])
@pytest.mark.parametrize("seeds", [3, 8])
def test_noise_alone_is_not_called_double_descent(curve, seeds):
    """Picking the largest rise of a noisy curve on the same seeds would call nearly all of these one, and picking it on
    all other seeds nine of a hundred flat curves of eight seeds."""
    rng = np.random.default_rng(1)
    called = sum(measure_dip(noisy(curve, seeds, 0.02, rng)).is_double_descent for _ in range(1000))
    assert called <= 0.06 * 1000


@pytest.mark.parametrize("seeds", [3, 5])
def test_noise_does_not_make_a_rebound_larger_than_it_is(seeds):
    rng = np.random.default_rng(2)
    rebounds = [measure_dip(noisy(FLAT, seeds, 0.02, rng)).rebound.value for _ in range(400)]
    assert abs(np.mean(rebounds)) < 0.3


def test_a_real_dip_is_found_under_noise():
    rng = np.random.default_rng(3)
    found = sum(measure_dip(noisy(one_dip(), 4, 0.01, rng)).is_double_descent for _ in range(200))
    assert found >= 0.9 * 200


def test_a_single_seed_is_measured_without_an_interval():
    dip = measure_dip(one_dip())
    assert dip.rebound.value == pytest.approx(10, abs=1.5)
    assert np.isnan(dip.rebound.low)
    assert not dip.is_double_descent
    wobbling = one_dip() + 0.02 * (-1.0) ** np.arange(LEVELS)
    assert (
        measure_dip(wobbling).rebounds == measure_dip(wobbling, held_out=False).rebounds
    )  # there is nothing to hold out


def test_the_interval_holds_the_mean_as_often_as_it_says_and_a_percentile_bootstrap_does_not():
    rng = np.random.default_rng(4)
    samples = rng.normal(0, 1, (2000, 3))
    covered = np.mean([e.low <= 0 <= e.high for e in map(Estimate.of, samples)])
    assert 0.935 < covered < 0.965
    indices = np.array(np.meshgrid(*[range(3)] * 3)).reshape(3, -1).T  # all 27 resamples of three seeds
    low, high = np.quantile(samples[:, indices].mean(axis=2), [0.025, 0.975], axis=1)
    assert np.mean((low <= 0) & (high >= 0)) < 0.8


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("sd", [0.01, 0.03])
def test_the_interval_of_a_rebound_holds_it_in_about_nine_cases_of_ten(seeds, sd):
    """At the margin of a rebound of ten points, which is where it matters most."""
    rng, true = np.random.default_rng(6), 10 * REMOVED
    rebounds = [measure_dip(noisy(one_dip(0.15, true / 100), seeds, sd, rng)).rebound for _ in range(400)]
    assert 0.86 < np.mean([r.low <= true <= r.high for r in rebounds]) < 0.96


def test_a_chance_is_that_of_a_t_test():
    values = np.array([1.0, 2.5, 0.5, 3.0])
    assert Estimate.of(values).p_value(above=1) == pytest.approx(
        stats.ttest_1samp(values, 1, alternative="greater").pvalue
    )
    assert Estimate.of(values).p_value(below=2) == pytest.approx(
        stats.ttest_1samp(values, 2, alternative="less").pvalue
    )
    assert np.isnan(Estimate.of([1.0]).p_value(above=0))
    assert Estimate.of([1.0, 1.0]).p_value(above=0) == 0
    assert Estimate.of([1.0, 1.0]).p_value(above=1) == 1


def test_valley_of_short_and_monotone_curves_is_none():
    assert find_valley(np.array([0.9, 0.1])) is None
    assert find_valley(MONOTONE) is None
    assert find_valley(np.array([0.9, 0.5, 0.8])).bottom == 1
    assert find_valley(np.array([0.9])) is None


def test_smoothing_keeps_a_constant_and_the_number_of_levels():
    assert smooth(FLAT) == pytest.approx(FLAT)
    assert smooth(np.stack([MONOTONE, FLAT])).shape == (2, LEVELS)


def test_the_sparse_teacher_is_the_best_pruned_level_even_if_the_dense_network_is_better():
    assert select_level(table(np.array([0.9, 0.7, 0.6, 0.8, 0.5])), "sparse") == 3
    assert select_level(table(np.array([0.9, 0.7, 0.6, 0.8, 0.5])), "dense") == 0


def test_of_equally_good_levels_the_sparser_teaches():
    assert select_level(table(FLAT), "sparse") == LEVELS - 1
    assert select_level(table(np.array([0.9, 0.8, 0.6, 0.8, 0.5])), "sparse") == 3


def test_the_sparse_teacher_is_chosen_by_validation_unless_told_otherwise():
    rows = table(one_dip(0.15, 0.16), test_acc=np.concatenate([[0.85] * 3, one_dip(0.15, 0.16)[:-3]]))
    assert select_level(rows, "sparse", "validation") == 23
    assert select_level(rows, "sparse", "test") == 26


def test_rows_of_two_settings_are_not_one_curve():
    with pytest.raises(ValueError, match="the same seed and level occur twice"):
        curves_of(pd.concat([table(FLAT), table(FLAT)]))
    with pytest.raises(ValueError, match="not every seed has every level"):
        curves_of(pd.concat([table(FLAT), table(FLAT[:-1], seed=1)]))


def test_the_summary_says_how_sparse_one_can_go_within_a_point_of_the_best():
    rows = summarise(pd.concat([table(one_dip(0, 0), seed=s) for s in range(3)]))
    assert rows.loc[0, "best"] == 85.0
    assert rows.loc[0, "kept"] == pytest.approx(100 * (1 - 0.8**23), abs=0.01)
    assert not rows.loc[0, "dips"]


def test_what_is_kept_is_measured_from_the_best_level_not_from_the_dense_one():
    levels = pd.concat([table([0.5, 0.9, 0.6, 0.3], seed) for seed in range(2)])
    (row,) = summarise(levels.assign(teacher="none", weight_decay=1e-4)).itertuples()
    assert row.best == pytest.approx(90)
    assert row.kept == pytest.approx(100 * levels["sparsity"].unique()[1], abs=0.01)
