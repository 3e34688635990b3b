"""Stop rules on curves with known answers, and recommendations with their edge cases."""

import numpy as np
import pandas as pd
import pytest
from made_up import FLAT, LEVELS, MONOTONE, one_dip

from sdd_utils.analysis.choose import (
    STOP_RULES,
    candidates,
    clean_accuracy,
    recommend,
    sparsest,
    standard_error,
    stopped,
)
from sdd_utils.analysis.cost import COSTS
from sdd_utils.analysis.cost import spent as spent_on
from sdd_utils.errors import Unsatisfiable
from sdd_utils.profiles import load_profile
from sdd_utils.tables import load_levels

MANY = 10_000  # so many validation images that a standard error is 0.4 points
LAST = LEVELS - 1


def at(rule, curve, images=MANY):
    """The last level that a rule of STOP_RULES trains on a curve, and the level that it takes."""
    stop, take = STOP_RULES[rule]
    trained = stop(curve, images)
    return trained, take(curve[: trained + 1], images)


def test_the_standard_error_is_that_of_so_many_coin_tosses():
    tosses = np.random.default_rng(0).random((20_000, 200)) < 0.7
    assert standard_error(0.7, 200) == pytest.approx(tosses.mean(axis=1).std(), rel=0.02)


def test_the_first_drop_ends_a_curve_with_a_dip_in_the_wrong_place():
    dip = one_dip(0.15, 0.15)  # the sweet phase is as accurate as the light one
    assert at("first drop", dip) == (9, 8)
    assert at("full sweep", dip) == (LAST, 23)


def test_without_a_dip_the_first_drop_finds_what_the_full_sweep_finds_for_less():
    level = np.where(np.arange(LEVELS) < 20, 0.85, 0.85 - 0.05 * (np.arange(LEVELS) - 19))
    assert at("first drop", level) == (20, 19)
    assert at("full sweep", level) == (LAST, 19)


def test_a_fall_within_the_noise_of_validation_stops_nothing():
    wobble = FLAT - 0.03 * (np.arange(LEVELS) % 2)
    assert all(at(rule, wobble, 200)[0] == LAST for rule in STOP_RULES)
    assert at("first drop", wobble)[0] == 1


def test_of_levels_that_cannot_be_told_apart_the_sparsest_is_taken():
    assert sparsest(MONOTONE, 200) == 3  # it falls by 0.67 points a level, and a standard error is 2.1
    assert at("validation maximum", FLAT, 200)[1] == LAST  # of equals the sparser


def test_every_rule_is_charged_for_what_it_trains_and_chooses_on_validation():
    curve = one_dip(0.15, 0.15)
    levels = np.arange(LEVELS)
    run = pd.DataFrame({"arch": "mlp", "noise_rate": 0.3, "pipeline": "vanilla", "seed": 0, "level": levels,
                        "sparsity": 1 - 0.8**levels, "remaining_params": 0.8**levels, "val_acc": curve,
                        "val_images": MANY, "test_acc": curve[::-1], **dict.fromkeys(COSTS, levels + 1)})  # fmt: skip
    table = stopped(run.sample(frac=1, random_state=0)).set_index("rule")
    assert list(table.index) == list(STOP_RULES)
    assert table.loc["first drop", "train_flops"] == table.loc["first drop", "trained"] + 1 == 10
    assert table.loc["first drop", "test_acc"] == curve[::-1][8]
    assert table.loc["full sweep", "train_flops"] == LEVELS


@pytest.mark.parametrize(("profile", "images"), [("digits", 200), ("cifar10-subset", 1000)])
def test_the_number_of_validation_images_comes_with_the_table(profile, images):
    assert set(spent_on(load_levels(profile))["val_images"]) == {images}
    assert load_profile(profile).experiments()[0].validation_images == images


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.5])
def test_accuracy_on_clean_labels_is_recovered_from_noisy_ones(rate):
    rng, n = np.random.default_rng(0), 200_000
    truth = rng.integers(10, size=n)
    wrong = (truth + rng.integers(1, 10, size=n)) % 10
    noisy = np.where(rng.random(n) < rate, wrong, truth)
    guess = np.where(rng.random(n) < 0.8, truth, (truth + rng.integers(1, 10, size=n)) % 10)
    assert clean_accuracy(np.mean(guess == noisy), rate, 10) == pytest.approx(0.8, abs=0.01)


def spent(pipeline, accuracies, price):
    """What ``cost.spent`` would give for one pipeline of two seeds: ten times fewer weights a level."""
    level = np.arange(len(accuracies))
    one = {"arch": "mlp", "dataset": "digits", "noise_kind": "symmetric", "noise_rate": 0.0,
           "pipeline": pipeline, "level": level, "sparsity": 1 - 0.1**level,
           "remaining_params": 1000 * 0.1**level, "val_acc": accuracies, "test_acc": np.asarray(accuracies) - 0.01,
           **dict.fromkeys(COSTS, price * (level + 1.0))}  # fmt: skip
    return pd.concat([pd.DataFrame(one).assign(seed=seed) for seed in (0, 1)])


TABLE = candidates(pd.concat([spent("vanilla", [0.9, 0.7, 0.6], 1), spent("dense", [0.88, 0.88, 0.5], 2)]), "mlp", 0.0)


def pick(**demands):
    row = recommend(TABLE, **demands)
    return row["pipeline"], row["level"]


@pytest.mark.parametrize(
    ("demands", "expected"),
    [
        ({}, ("vanilla", 0)),
        ({"max_params": 100}, ("dense", 1)),
        ({"max_params": 100, "max_flops": 3}, ("vanilla", 1)),
        ({"max_kwh": 1}, ("vanilla", 0)),
        ({"min_accuracy": 85}, ("dense", 1)),  # the smallest that reaches it
        ({"min_accuracy": 85, "max_flops": 2}, ("vanilla", 0)),
        ({"min_accuracy": 55}, ("vanilla", 2)),
        ({"min_accuracy": 65}, ("dense", 1)),  # of two as small the more accurate
        ({"min_accuracy": 90, "max_params": None}, ("vanilla", 0)),
    ],
)
def test_the_recommendation_satisfies_every_demand(demands, expected):
    assert pick(**demands) == expected


def test_of_equally_good_networks_the_smaller_is_recommended():
    assert recommend(TABLE[TABLE["pipeline"] == "dense"])["level"] == 1


def test_it_goes_by_validation_and_reports_test():
    assert TABLE["test"].tolist() == pytest.approx((TABLE["expected"] - 1).tolist())
    flattering = TABLE.assign(test=100.0 * (TABLE["pipeline"] == "dense"))
    assert recommend(flattering)["pipeline"] == "vanilla"


@pytest.mark.parametrize(
    ("demands", "message"),
    [
        ({"min_accuracy": 95}, "nothing here is expected to reach 95 %; the most that is expected is 90.0 %"),
        (
            {"min_accuracy": 89, "max_params": 100},
            "nothing here is expected to reach 89 % with at most 100 prunable weights; "
            "the most that is expected is 88.0 %",
        ),
        (
            {"max_params": 5, "max_flops": 2},
            "nothing here has at most 5 prunable weights and at most 2 FLOPs of training; "
            "the least there is: 10 prunable weights, 1 FLOPs of training",
        ),
    ],
)
def test_when_nothing_satisfies_it_says_so_and_what_comes_closest(demands, message):
    with pytest.raises(Unsatisfiable) as error:
        recommend(TABLE, **demands)
    assert str(error.value) == message


def test_a_limit_that_was_never_measured_is_not_satisfied():
    with pytest.raises(Unsatisfiable, match="nothing here has at most 1 kWh of training"):
        recommend(TABLE.assign(energy_kwh=np.nan), max_kwh=1)


def test_an_unknown_limit_is_refused_with_those_that_exist():
    with pytest.raises(TypeError, match="max_time: unknown limit; there are min_accuracy, max_params, max_flops"):
        recommend(TABLE, max_time=3)


@pytest.mark.parametrize("noise", ["pair_flip", "asymmetric", "human"])
def test_of_noise_that_depends_on_the_class_validation_is_shown_as_it_is(noise):
    table = candidates(spent("vanilla", [0.6, 0.5], 1).assign(noise_rate=0.3, noise_kind=noise), "mlp", 0.3)
    assert table["expected"].tolist() == pytest.approx([60, 50])
