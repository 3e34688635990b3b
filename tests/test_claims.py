import numpy as np
import pandas as pd
import pytest
from test_analysis import FLAT, LEVELS, one_dip, table

from sdd_utils.analysis import NEGLIGIBLE
from sdd_utils.claims import CLAIM_COLUMNS, best_penalty, claims_table

SEEDS = 4


def rows(curve, method="vanilla", sd=0.003, **columns):
    """Rows of levels.csv for SEEDS seeds of one setting, with a little noise; one level costs one FLOP."""
    rng = np.random.default_rng(len(method))
    parts = [table(curve + rng.normal(0, sd, LEVELS), seed, method=method, **columns) for seed in range(SEEDS)]
    return pd.concat(parts).assign(train_flops=columns.get("train_flops", 1.0))


def verdicts(*parts):
    claims = claims_table(pd.concat(parts, ignore_index=True))
    assert list(claims.columns) == CLAIM_COLUMNS
    return {(row.claim, *(t for t in ("sparse", "dense") if t in row.statement)): row for row in claims.itertuples()}


VANILLA = rows(one_dip(0.2, 0.1))
CURED = one_dip(0, 0)


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
    two = [VANILLA, VANILLA.assign(dataset="cifar10"), rows(CURED, "kd", teacher="dense", dataset="cifar10")]
    claims = claims_table(pd.concat(two, ignore_index=True))
    assert claims.query("claim == 'C1'")["statement"].str.split(",").str[0].tolist() == ["digits", "CIFAR-10"]
    assert claims.query("claim == 'C3'")["statement"].str.split(",").str[0].tolist() == ["CIFAR-10"]


def test_human_noise_gets_a_verdict_where_there_is_some():
    people = {"dataset": "cifar100n", "noise_kind": "human"}
    plain, cured = VANILLA.assign(**people), rows(CURED, "kd", teacher="dense", **people)
    assert verdicts(plain, cured)[("C6", "dense")].verdict == "holds"
    again = rows(one_dip(0.2, 0.1), "kd", teacher="dense", **people)
    assert verdicts(plain, again)[("C6", "dense")].verdict == "fails"
    assert verdicts(rows(CURED).assign(**people), cured)[("C6", "dense")].verdict == "fails"  # no dip to avoid


def test_a_teacher_of_another_architecture_is_charged_at_its_own_cost():
    student = rows(CURED, "kd", teacher="dense", teacher_arch="resnet18")
    big = rows(one_dip(0.2, 0.1), arch="resnet18").assign(train_flops=10.0)
    claims = claims_table(pd.concat([rows(one_dip(0.2, 0.1), sd=0), student, big]))
    (share,) = claims.loc[claims["claim"] == "C5", "measured"]
    levels = 24  # 0 … 23, where this vanilla curve is best past its dip
    assert share == pytest.approx((levels + 10) / levels)


def test_a_story_that_contradicts_the_paper_fails():
    again = rows(one_dip(0.2, 0.1), "kd", teacher="dense")
    seen = verdicts(rows(CURED), rows(one_dip(0.2, 0.1), "l2", weight_decay=1e-2), again)
    assert seen[("C1",)].verdict == "fails"
    assert seen[("C2a",)].verdict == "fails"
    assert seen[("C2b",)].verdict == "fails"
    assert seen[("C3", "dense")].verdict == "fails"
    assert seen[("C4", "dense")].verdict == "fails"


def test_seeds_that_disagree_are_inconclusive():
    spread = pd.concat(
        [table(one_dip(0.2, r), seed, method="vanilla", train_flops=1.0) for seed, r in enumerate([0, 0.02, 0.15, 0.2])]
    )
    assert verdicts(spread)[("C1",)].verdict == "inconclusive"


def test_one_seed_is_never_more_than_inconclusive():
    assert verdicts(VANILLA[VANILLA["seed"] == 0])[("C1",)].verdict == "inconclusive"


def test_for_a_resnet_the_paper_says_that_the_dip_stays():
    resnet = {"arch": "resnet18"}
    cured = verdicts(rows(one_dip(), **resnet), rows(CURED, "l2", weight_decay=1e-2, **resnet))
    kept = verdicts(rows(one_dip(), **resnet), rows(one_dip(), "l2", weight_decay=1e-2, **resnet))
    assert cured[("C2b",)].verdict == "fails"
    assert kept[("C2b",)].verdict == "holds"


def test_the_best_penalty_is_chosen_on_validation():
    good_on_validation = rows(one_dip(), "l2", weight_decay=1e-2).assign(val_acc=0.9)
    good_on_test = rows(FLAT, "l2", weight_decay=1e-1).assign(val_acc=0.1)
    levels = pd.concat([VANILLA.assign(val_acc=1.0), good_on_validation, good_on_test])
    assert best_penalty(levels, "mlp", 0.3) == 1e-2


def test_the_cost_is_compared_at_equal_sparsity_and_charges_the_teacher():
    """A level costs vanilla 1 and the student 1.1; vanilla is best past its dip at level 23, its 24th."""
    vanilla = rows(one_dip(0.2, 0.1), sd=0)
    dense = rows(CURED, "kd", sd=0, teacher="dense", train_flops=1.1)
    seen = verdicts(vanilla, dense, dense.assign(teacher="sparse"))
    assert seen[("C5", "dense")].measured == pytest.approx((24 * 1.1 + 1) / 24)
    assert seen[("C5", "sparse")].measured == pytest.approx((24 * 1.1 + 24) / 24)
    assert seen[("C5", "dense")].verdict == "inconclusive"  # above 1 by construction


def test_a_dip_just_under_the_limit_counts_as_avoided():
    small = rows(one_dip(0.05, (NEGLIGIBLE - 0.5) / 100), "kd", sd=0, teacher="dense")
    large = rows(one_dip(0.05, (NEGLIGIBLE + 1) / 100), "kd", sd=0, teacher="dense")
    assert verdicts(VANILLA, small)[("C3", "dense")].verdict == "holds"
    assert verdicts(VANILLA, large)[("C3", "dense")].verdict == "fails"
