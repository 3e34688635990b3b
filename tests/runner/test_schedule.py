from sdd_utils.metrics.flops import curve_flops
from sdd_utils.runner.sweep import ranks


def test_a_rank_is_the_work_that_has_to_be_done_one_after_the_other(two_families):
    experiments, cost = two_families
    assert sorted(ranks(experiments, cost).values()) == [1, 1, 3, 4, 5]


def test_work_is_counted_in_training_flops(small):
    exp = small()
    assert ranks([exp]) == {exp.run_id: curve_flops(exp)}
