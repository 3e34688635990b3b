import numpy as np
import pandas as pd
import pytest
from made_up import FLAT, LEVELS, MONOTONE, one_dip, table

from sdd_utils.analysis.claims import CLAIM_COLUMNS, claims_table, holm
from sdd_utils.analysis.cost import COSTS
from sdd_utils.analysis.curves import optimal_weight_decay, teachers
from sdd_utils.analysis.dip import REMOVED
from sdd_utils.distillation import select_level
from sdd_utils.errors import ConfigError

SEEDS = 4


def rows(curve, method="vanilla", sd=0.003, **columns):
    """Rows of levels.csv for SEEDS seeds of one setting, with a little noise; a level costs 1 in every currency."""
    rng = np.random.default_rng(len(method))
    parts = [table(curve + rng.normal(0, sd, LEVELS), seed, method=method, **columns) for seed in range(SEEDS)]
    same = {"profile": "digits", **dict.fromkeys(COSTS, 1.0)}
    return pd.concat(parts).assign(remaining_params=lambda t: 1000 * (1 - t["sparsity"]), **same)


def verdicts(*parts):
    claims = claims_table(pd.concat(parts, ignore_index=True))
    assert list(claims.columns) == CLAIM_COLUMNS
    return {(row.claim, *(t for t in ("sparse", "dense") if t in row.statement)): row for row in claims.itertuples()}


VANILLA = rows(one_dip(0.2, 0.1))
CURED = one_dip(0, 0)
DISAGREEING = pd.concat(
    [rows(one_dip(0.2, r), sd=0).query("seed == @seed") for seed, r in enumerate([0, 0.02, 0.15, 0.2])]
)


def test_a_story_as_the_paper_tells_it_holds_throughout():
    seen = verdicts(
        VANILLA,
        rows(CURED, "l2", weight_decay=1e-2),
        rows(CURED, "kd", teacher="sparse"),
        rows(CURED, "kd", teacher="dense"),
    )
    holds = [("C1",), ("C2a",), ("C2b",), ("C3", "sparse"), ("C3", "dense"), ("C4", "sparse"), ("C4", "dense")]
    assert {claim: seen[claim].verdict for claim in holds} == dict.fromkeys(holds, "holds")
    assert seen[("C1",)].measured == pytest.approx(10, abs=2)
    assert seen[("C1",)].n_seeds == SEEDS
    assert seen[("C4", "dense")].measured == pytest.approx(20, abs=2)
    assert seen[("C6",)].verdict == "not applicable"


def test_every_dataset_has_its_own_rows():
    two = [VANILLA.assign(dataset=name) for name in ("folder/flowers", "cifar10")]
    distilled = rows(CURED, "kd", teacher="dense", dataset="cifar10")
    claims = claims_table(pd.concat([*two, distilled], ignore_index=True).assign(profile="paper"))
    assert claims.query("claim == 'C1'")["statement"].str.split(",").str[0].tolist() == ["flowers", "CIFAR-10"]
    assert claims.query("claim == 'C3'")["statement"].str.split(",").str[0].tolist() == ["CIFAR-10"]


def test_students_of_several_temperatures_have_no_verdict():
    two = [rows(CURED, "kd", teacher="dense", temperature=t, alpha=0.8) for t in (1.0, 4.0)]
    with pytest.raises(ConfigError, match="temperature, alpha: dense teacher: one setting has several"):
        claims_table(pd.concat([VANILLA, *two], ignore_index=True))


def test_human_noise_gets_a_verdict_where_there_is_some():
    people = {"profile": "paper", "dataset": "cifar100n", "noise_kind": "human"}
    plain, cured = VANILLA.assign(**people), rows(CURED, "kd", teacher="dense").assign(**people)
    assert verdicts(plain, cured)[("C6", "dense")].verdict == "holds"
    again = rows(one_dip(0.2, 0.1), "kd", teacher="dense").assign(**people)
    assert verdicts(plain, again)[("C6", "dense")].verdict == "fails"
    assert verdicts(rows(MONOTONE, sd=0).assign(**people), cured)[("C6", "dense")].verdict == "fails"  # no dip to avoid


def test_a_story_that_contradicts_the_paper_fails():
    deeper = rows(one_dip(0.3, 0.2), "l2", weight_decay=1e-2)
    seen = verdicts(VANILLA, deeper, rows(one_dip(0.2, 0.1), "kd", teacher="dense"))
    for claim in (("C2a",), ("C2b",), ("C3", "dense"), ("C4", "dense")):
        assert seen[claim].verdict == "fails"


def test_where_there_is_no_dip_nothing_has_avoided_it():
    others = [rows(CURED, "l2", weight_decay=1e-2), rows(CURED, "kd", teacher="dense")]
    seen = verdicts(rows(MONOTONE), *others)
    assert seen[("C1",)].verdict == "fails"
    for claim in (("C2a",), ("C2b",), ("C3", "dense"), ("C4", "dense")):
        assert seen[claim].verdict == "not applicable"
    seen = verdicts(DISAGREEING, *others)
    assert seen[("C1",)].verdict == seen[("C2b",)].verdict == seen[("C3", "dense")].verdict == "inconclusive"


def test_seeds_that_disagree_are_inconclusive():
    assert verdicts(DISAGREEING)[("C1",)].verdict == "inconclusive"


def test_a_rise_counts_without_a_fall_before_it():
    rise = verdicts(rows(one_dip(0, 0.1)))[("C1",)]
    assert rise.measured == pytest.approx(10, abs=2)
    assert rise.verdict == "holds"


def test_early_stopping_is_judged_beside_distillation_and_is_not_the_papers():
    early = rows(CURED, "early").assign(arch="vit")
    claims = claims_table(pd.concat([VANILLA.assign(arch="vit"), early])).query("claim in ['C3', 'C4', 'C5a', 'C5b']")
    assert claims["statement"].str.contains("early stopping").all()
    assert claims["claim"].tolist() == ["C3", "C4", "C5a", "C5b"]
    assert set(claims["paper"]) == {"not in the paper"}
    assert claims.set_index("claim")["verdict"][["C3", "C4"]].tolist() == ["holds", "holds"]


def test_holm_asks_more_of_the_smallest_p_the_more_rows_there_are():
    """By hand: 0.025 / 4, / 3, / 2, / 1; the first that fails ends it, and what does not apply is not counted."""
    table = pd.DataFrame({"p": [0.02, 0.009, 0.008, 0.001, 1e-9], "verdict": ["holds"] * 4 + ["not applicable"]})
    assert holm(table) == 4  # 0.00625, 0.00833, 0.0125, 0.025
    assert holm(table.assign(p=[0.02, 0.009, 0.0085, 0.001, 1e-9])) == 1
    assert holm(table.assign(p=[0.03, 0.009, 0.008, 0.007, 1e-9])) == 0


def test_a_weight_decay_that_is_worse_in_some_seeds_alone_leaves_its_claim_open():
    both = pd.concat([VANILLA.query("seed < 2"), rows(one_dip(0.3, 0.25), sd=0).query("seed > 1")])
    seen = verdicts(VANILLA, both.assign(method="l2", weight_decay=1e-2))[("C2a",)]
    assert seen.measured < 0 < seen.ci_high
    assert seen.verdict == "inconclusive"


def test_one_seed_is_never_more_than_inconclusive():
    assert verdicts(VANILLA[VANILLA["seed"] == 0])[("C1",)].verdict == "inconclusive"


def test_for_a_resnet_the_paper_says_that_the_dip_stays():
    resnet = {"arch": "resnet18"}
    cured = verdicts(rows(one_dip(), **resnet), rows(CURED, "l2", weight_decay=1e-2, **resnet))
    kept = verdicts(rows(one_dip(), **resnet), rows(one_dip(), "l2", weight_decay=1e-2, **resnet))
    assert cured[("C2b",)].verdict == "fails"
    assert kept[("C2b",)].verdict == "holds"


def test_the_optimal_weight_decay_is_chosen_on_validation():
    good_on_validation = rows(one_dip(), "l2", weight_decay=1e-2).assign(val_acc=0.9)
    good_on_test = rows(FLAT, "l2", weight_decay=1e-1).assign(val_acc=0.1)
    levels = pd.concat([VANILLA.assign(val_acc=1.0), good_on_validation, good_on_test])
    assert optimal_weight_decay(levels, "mlp", 0.3) == 1e-2


def test_the_optimal_weight_decay_is_that_of_the_best_pruned_network_not_of_the_dense_one():
    steady = rows(FLAT, "l2", weight_decay=1e-2).assign(val_acc=0.5)
    collapsing = rows(FLAT, "l2", weight_decay=1e-1).assign(val_acc=lambda t: np.where(t["level"] == 0, 0.9, 0.1))
    assert optimal_weight_decay(pd.concat([VANILLA, steady, collapsing]), "mlp", 0.3) == 1e-2


def test_the_optimal_weight_decay_is_that_of_the_best_level_not_of_the_best_curve():
    steady = rows(FLAT, "l2", weight_decay=1e-2).assign(val_acc=0.5)
    peaked = rows(FLAT, "l2", weight_decay=1e-1).assign(val_acc=lambda t: np.where(t["level"] == 5, 0.6, 0.1))
    assert optimal_weight_decay(pd.concat([VANILLA, steady, peaked]), "mlp", 0.3) == 1e-1


def test_of_dense_networks_alone_the_optimal_weight_decay_is_chosen_on_them():
    worse, better = rows(MONOTONE, "l2", weight_decay=1e-2), rows(MONOTONE + 0.05, "l2", weight_decay=1e-1)
    dense = pd.concat([VANILLA, worse, better], ignore_index=True).query("level == 0")
    assert optimal_weight_decay(dense, "mlp", 0.3) == 1e-1
    assert set(claims_table(dense).query("claim == 'C2a'")["verdict"]) == {"not applicable"}


def test_the_optimal_weight_decay_is_not_chosen_on_the_test_set():
    better = rows(FLAT, "l2", weight_decay=1e-2).assign(val_acc=0.6, test_acc=0.1)
    worse = rows(FLAT, "l2", weight_decay=1e-1).assign(val_acc=0.5, test_acc=0.9)
    assert optimal_weight_decay(pd.concat([VANILLA, better, worse]), "mlp", 0.3) == 1e-2


def test_the_teachers_shown_are_those_that_the_profile_selects():
    right = 0.5 + 0.01 * np.arange(LEVELS)
    seen = {"val_acc": np.tile(right, SEEDS), "test_acc": np.tile(right[::-1], SEEDS), "memorised": 0.0}
    plain = rows(FLAT).assign(**seen)
    one = plain.query("seed == 0")
    levels = pd.concat([plain, rows(FLAT, "kd", teacher="sparse", teacher_arch="mlp")])
    for selection in ("validation", "test"):
        shown = teachers(levels, selection).query("rule == 'sparse'")["level"]
        assert shown.tolist() == [select_level(one, "sparse", selection)] * SEEDS
    assert select_level(one, "sparse") != select_level(one, "sparse", "test")


def costs(distilled, plain=None, teacher="dense"):
    """The verdicts on cost of a story in which a level costs vanilla 1 and the student 1.1."""
    plain = rows(one_dip(0.2, 0.1), sd=0) if plain is None else plain
    return verdicts(plain, distilled.assign(**dict.fromkeys(COSTS, 1.1), teacher=teacher))


def cured(until, best=0.85, **columns):
    """A student's curve without a dip: level until a level, then gone."""
    return rows(np.where(np.arange(LEVELS) <= until, best, 0.2), "kd", sd=0, **{"teacher": "dense", **columns})


def test_vanilla_is_charged_to_the_end_and_a_student_to_its_first_drop_with_its_teacher():
    seen = costs(cured(until=19))
    assert seen[("C5a", "dense")].measured == pytest.approx((21 * 1.1 + 1) / LEVELS)  # levels 0 … 20 and the teacher
    assert seen[("C5a", "dense")].verdict == "holds"
    assert seen[("C5b", "dense")].verdict == "holds"
    whole_curve = costs(cured(until=19), teacher="sparse")
    assert whole_curve[("C5a", "sparse")].measured == pytest.approx((21 * 1.1 + LEVELS) / LEVELS)
    assert whole_curve[("C5a", "sparse")].verdict == "fails"


def test_a_student_that_dips_too_is_charged_to_the_end():
    again = rows(one_dip(0.2, 0.2), "kd", sd=0, teacher="dense")
    seen = costs(again)
    assert seen[("C3", "dense")].verdict == "fails"
    assert seen[("C5a", "dense")].measured == pytest.approx((LEVELS * 1.1 + 1) / LEVELS)
    assert seen[("C5a", "dense")].verdict == "fails"
    open_which = pd.concat([again.query("seed < 2"), cured(until=19).query("seed > 1")])
    seen = costs(open_which)
    assert seen[("C3", "dense")].verdict == "inconclusive"
    assert seen[("C5a", "dense")].measured < 1
    assert seen[("C5a", "dense")].verdict == "inconclusive"


def test_a_share_is_as_far_from_one_as_its_inverse():
    """Twice and half as much are 1 on average; the mean of such ratios is 1.25, and so is that of their inverses."""
    plain = rows(one_dip(0.2, 0.1), sd=0)
    distilled = [cured(until=19).query("seed == @seed").assign(train_flops=c) for seed, c in ((0, 2.0), (1, 0.5))]
    seen = verdicts(plain.query("seed < 2"), *distilled)
    cost = [(21 * c + 1) / LEVELS for c in (2.0, 0.5)]
    assert seen[("C5a", "dense")].measured == pytest.approx(np.sqrt(cost[0] * cost[1]))


def test_what_the_paper_says_is_not_said_of_other_networks():
    mlp, resnet = ([rows(one_dip(), arch=a), rows(CURED, "kd", teacher="dense", arch=a)] for a in ("mlp", "resnet18"))
    assert set(claims_table(pd.concat(mlp)).query("claim != 'C6'")["paper"]) == {"not in the paper"}
    assert set(claims_table(pd.concat(resnet)).query("claim != 'C6'")["paper"]) == {"yes"}


def test_what_is_cheaper_but_worse_has_not_saved_anything():
    assert costs(cured(until=3, best=0.85))[("C5a", "dense")].verdict == "fails"  # larger, and no more accurate
    assert costs(cured(until=8, best=0.8))[("C5a", "dense")].verdict == "fails"  # less accurate, and no smaller
    assert costs(cured(until=19, best=0.8))[("C5a", "dense")].verdict == "holds"  # less accurate, but much smaller
    assert costs(cured(until=3, best=0.95))[("C5a", "dense")].verdict == "holds"  # larger, but more accurate


def test_emissions_that_were_not_measured_leave_their_claim_open():
    distilled = cured(until=19).assign(teacher="dense")
    seen = verdicts(*(part.assign(emissions_kg=np.nan) for part in (rows(one_dip(0.2, 0.1), sd=0), distilled)))
    assert seen[("C5b", "dense")].verdict == "inconclusive"
    assert seen[("C5a", "dense")].verdict == "holds"


def test_a_rebound_just_under_the_margin_counts_as_avoided():
    plain, margin = rows(one_dip(0.2, 0.1), sd=0), 0.1 * REMOVED
    small = rows(one_dip(0.05, margin - 0.001), "kd", sd=0, teacher="dense")
    large = rows(one_dip(0.05, margin + 0.001), "kd", sd=0, teacher="dense")
    assert verdicts(plain, small)[("C3", "dense")].verdict == "holds"
    assert verdicts(plain, large)[("C3", "dense")].verdict == "fails"


def test_what_is_left_is_compared_with_the_margin_seed_by_seed():
    """Seeds whose rebounds differ much, of each of which the student leaves a little less than the margin."""
    rebounds = [0.04, 0.08, 0.12, 0.16]
    plain, student = (
        pd.concat(
            [rows(one_dip(0.2, share * r), sd=0, **how).query("seed == @seed") for seed, r in enumerate(rebounds)]
        )
        for share, how in ((1, {}), (0.8 * REMOVED, {"method": "kd", "teacher": "dense"}))
    )
    seen = verdicts(plain, student)[("C3", "dense")]
    assert seen.ci_high > 100 * REMOVED * np.mean(rebounds)  # of the mean alone nothing would follow
    assert seen.verdict == "holds"


def test_curves_of_other_seeds_than_vanillas_are_refused():
    """Paired by position, seed 1 of one would be compared with seed 0 of the other."""
    student = rows(CURED, "kd", teacher="dense")
    for others in (student.assign(seed=student["seed"] + 1), student[student["seed"] > 0]):
        with pytest.raises(
            ConfigError, match=r"seed: .*MLP, ε = 0.3, dense teacher has \[1, 2, 3(, 4)?\], vanilla \[0, 1,"
        ):
            verdicts(VANILLA, others)


def test_human_noise_without_a_remedy_is_not_said_to_be_missing():
    claims = claims_table(VANILLA.assign(noise_kind="human"))
    assert claims.set_index("claim").loc["C6", "evidence"] == "no remedy was trained"
