"""Who pays for what, with costs that can be added up by hand."""

import numpy as np
import pandas as pd
import pytest
from made_up import table

from sdd_utils.analysis.cost import COSTS, beside_vanilla, front, minus, spent
from sdd_utils.errors import ConfigError

CURVE = np.linspace(0.9, 0.5, 5)


def rows(method="vanilla", price=1.0, seeds=2, **columns):
    """Curves of five levels; seed k's levels cost ``price``·(k + 1) each, in every currency."""
    parts = [
        table(CURVE, seed, method=method, remaining_params=100.0, **columns).assign(
            **dict.fromkeys(COSTS, price * (seed + 1))
        )
        for seed in range(seeds)
    ]
    return pd.concat(parts)


LEVELS = pd.concat(
    [
        rows(),
        rows("l2", price=3.0, weight_decay=1e-3).assign(val_acc=0.1),
        rows("l2", price=5.0, weight_decay=1e-2),
        rows("kd", price=7.0, teacher="sparse"),
        rows("kd", price=7.0, teacher="dense"),
        rows("early", price=2.0),
        rows("kd", price=7.0, teacher="early_stopped"),
    ],
    ignore_index=True,
)


def paid(charge, pipeline, level, cost="train_flops", levels=LEVELS):
    first, second = spent(levels, charge).query("pipeline == @pipeline and level == @level").sort_values("seed")[cost]
    assert second == pytest.approx(2 * first)  # the seeds' costs are kept apart
    return first


@pytest.mark.parametrize(
    ("charge", "pipeline", "level", "expected"),
    [
        ("full", "vanilla", 0, 1),
        ("full", "vanilla", 4, 5),
        ("full", "l2", 0, 5 + 5 * 1 + 5 * 3),  # its own first level, and the whole curves of both other λ
        ("own", "l2", 4, 5 * 5),
        ("full", "dense", 0, 7 + 1),  # the teacher is vanilla's level 0
        ("full", "sparse", 0, 7 + 5),  # the teacher's rule looks at the whole curve
        ("full", "sparse", 4, 5 * 7 + 5),
        ("own", "sparse", 4, 5 * 7),
        ("full", "early", 4, 5 * 2),
        ("full", "early_stopped", 4, 5 * 7 + 2),  # the teacher is level 0 of the curve that is stopped early
    ],
)
def test_a_pipeline_pays_for_its_levels_its_teacher_and_its_search(charge, pipeline, level, expected):
    for cost in COSTS:
        assert paid(charge, pipeline, level, cost) == pytest.approx(expected)


def test_a_way_to_train_that_is_not_known_here_is_no_search_of_a_weight_decay():
    more = pd.concat([LEVELS, rows("label smoothing", price=11.0)], ignore_index=True)
    pd.testing.assert_frame_equal(spent(more), spent(LEVELS))


def test_curves_that_cannot_be_told_apart_are_not_added_up():
    with pytest.raises(ValueError, match="the same seed and level occur twice"):
        spent(pd.concat([LEVELS, rows()], ignore_index=True))


def test_a_teacher_of_another_architecture_is_charged_at_its_own_cost():
    student = rows("kd", 7.0, teacher="dense", teacher_arch="resnet18")
    levels = pd.concat([rows(), student, rows(price=11.0, arch="resnet18")], ignore_index=True)
    assert paid("full", "dense", 0, levels=levels) == 7 + 11


def test_energy_that_was_not_measured_stays_unknown():
    unknown = LEVELS.assign(energy_kwh=np.nan)
    found = spent(unknown)
    assert found["energy_kwh"].isna().all()
    assert found["train_flops"].notna().all()


def test_a_student_whose_teachers_energy_is_unknown_has_not_cost_less_for_it():
    unmeasured = LEVELS.assign(energy_kwh=LEVELS["energy_kwh"].where(LEVELS["method"] != "vanilla"))
    table = spent(unmeasured).set_index("pipeline")["energy_kwh"]
    assert table[["sparse", "dense", "l2"]].isna().all()


def test_the_front_holds_what_nothing_else_beats_in_both():
    points = pd.DataFrame({"cost": [1, 2, 2, 3, 4, 5], "accuracy": [0.5, 0.4, 0.6, 0.6, 0.9, 0.8]})
    assert front(points, "cost", "accuracy").index.tolist() == [0, 2, 4]


def test_ways_are_compared_where_vanillas_best_pruned_network_is_and_where_they_are_as_accurate():
    dips = LEVELS["method"] == "vanilla"
    dip = [0.9, 0.6, 0.5, 0.7, 0.5]
    levels = LEVELS.assign(test_acc=LEVELS["test_acc"].mask(dips, np.tile(dip, len(LEVELS) // 5)))
    levels["val_acc"] = levels["test_acc"]
    found = beside_vanilla(spent(levels)).set_index("pipeline")
    assert found.loc["early", "sparsity"] == pytest.approx(100 * (1 - 0.8**3))
    assert found.loc["early", ["cost", "gain"]].tolist() == pytest.approx([4 * 2 / 4, -10])  # 0.6 there, not 0.7
    assert found.loc["early", ["first cost", "first sparsity"]].tolist() == pytest.approx([2 * 2 / 4, 20])
    assert found.loc["dense", "cost"] == pytest.approx((4 * 7 + 1) / 4)
    assert found.loc["vanilla", ["cost", "gain", "first cost"]].tolist() == pytest.approx([1, 0, 1])
    worse = beside_vanilla(spent(levels.assign(test_acc=levels["test_acc"].where(dips, 0.1)))).set_index("pipeline")
    assert np.isnan(worse.loc["early", "first cost"])


DIP = np.array([0.9, 0.7, 0.8, 0.2, 0.6, 0.85])  # the mean, smoothed, is lowest at level 3 and highest at 5


def curve(test_acc, seed, price, method="vanilla", **columns):
    """One seed's curve; each of its levels costs ``price``."""
    return table(np.asarray(test_acc), seed, method=method, remaining_params=100.0, **columns).assign(
        **dict.fromkeys(COSTS, price)
    )


def test_ways_are_subtracted_seed_by_seed_where_vanilla_has_its_dip():
    early = np.array([0.6, 0.6, 0.6, 0.5, 0.6, 0.6])  # which rises as well
    levels = [
        curve(DIP, 0, 1.0),
        curve(DIP, 1, 4.0),
        curve(early, 0, 2.0, "early"),
        curve(early + 0.02, 1, 2.0, "early"),
    ]
    levels += [curve(early, seed, price, "kd", teacher="dense") for seed, price in ((0, 3.0), (1, 5.0))]
    found = minus(pd.concat(levels, ignore_index=True), "early").set_index("pipeline")
    assert sorted(found.index) == ["dense", "vanilla"]
    values = {place: found.loc["vanilla", place].value for place in ("dense", "bottom", "peak", "last level", "rise")}
    assert values == pytest.approx({"dense": 29, "bottom": -31, "peak": 24, "last level": 24, "rise": 65 - 10})
    assert found.loc["vanilla", "dense"].high > 31  # by seed 30 and 28
    assert found.loc["dense", "dense"].value == pytest.approx(-1)
    assert found.loc["vanilla", "FLOPs"] == pytest.approx((6 * 1 / 12 + 6 * 4 / 12) / 2)
    assert found.loc["dense", "FLOPs"] == pytest.approx(((6 * 3 + 1) / 12 + (6 * 5 + 4) / 12) / 2)  # with the teacher


def test_ways_of_other_seeds_are_not_subtracted():
    levels = [curve(DIP, seed, 1.0) for seed in range(2)] + [curve(DIP, seed, 1.0, "early") for seed in (0, 2)]
    with pytest.raises(ConfigError, match=r"seed: ways are compared seed by seed; MLP.*early stopping has \[0, 2\]"):
        minus(pd.concat(levels, ignore_index=True), "early")


def test_nothing_is_subtracted_where_a_way_was_not_tried_or_vanilla_never_rises():
    for levels, base in ((LEVELS, "early"), (LEVELS, "gce")):  # LEVELS only fall
        assert minus(levels, base).empty
        assert "bottom" in minus(levels, base)


def test_students_without_a_vanilla_curve_are_refused():
    with pytest.raises(ConfigError, match="levels: have no vanilla curve"):
        spent(curve(DIP, 0, 1.0, "kd", teacher="dense"))


def test_what_is_no_way_to_prune_is_not_subtracted():
    with pytest.raises(ConfigError, match="base: there is no 'erly'; there are vanilla, l2, sparse"):
        minus(LEVELS, "erly")


@pytest.mark.parametrize("charge", ["half", "", None, "Full"])
def test_a_charge_that_is_none_is_refused_by_name(charge):
    with pytest.raises(ConfigError, match="charge: should be one of full, own"):
        spent(LEVELS, charge)
