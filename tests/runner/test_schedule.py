import pandas as pd
import pytest

from sdd_utils.metrics.flops import dense_flops
from sdd_utils.runner.schedule import costs, ranks


def test_a_rank_is_the_work_that_has_to_be_done_one_after_the_other(two_families):
    experiments, cost = two_families
    assert sorted(ranks(experiments, cost).values()) == [1, 1, 3, 4, 5]


def test_costs_are_seconds_where_the_bench_knows_the_speed(small):
    row = {"arch": "mlp", "method": "vanilla", "level": 0, "path": "ours", "tflops": 0.5, "at_a_time": 3}
    bench = pd.DataFrame([row])
    exp = small()
    assert costs([exp], bench)[exp.run_id] == pytest.approx(3 * 5 * dense_flops(exp) / 0.5e12)
    assert costs([exp, vgg := small(arch="vgg_like", width=4)], bench)[vgg.run_id] == 5 * dense_flops(vgg)


def test_costs_are_flops_unless_a_bench_knows_all_speeds(small):
    exp = small()
    assert costs([exp], None) == {exp.run_id: 5 * dense_flops(exp)}
