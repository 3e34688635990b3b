import pandas as pd
import pytest

from benchmarks.plan import costs, makespans, plan, simulate
from sdd_utils.errors import ConfigError
from sdd_utils.metrics.flops import curve_flops


def test_without_a_bench_a_plan_has_no_hours(small):
    assert plan([small()], None)[["hours", "kWh", "kg CO2eq"]].isna().all(axis=None)


@pytest.mark.parametrize(
    ("slots", "makespan"),
    [
        (1, 11),  # all of it
        (2, 6),  # teacher 0–2, long student 2–5, a short one 5–6; alone 0–4, the other short one 4–5
        (3, 5),  # the critical path
        (64, 5),
    ],
)
def test_the_sweep_on_paper(two_families, slots, makespan):
    experiments, cost = two_families
    found = simulate(experiments, cost, slots)
    assert (found.total, found.critical_path, found.makespan) == (11, 5, makespan)
    assert found.busy == 11 / (slots * makespan)


def test_more_devices_are_faster_until_the_critical_path_is_all_that_is_left(two_families):
    ours = {"arch": "mlp", "level": 0, "path": "ours", "tflops": 0.5, "at_a_time": 2}
    bench = pd.DataFrame([ours | {"method": "vanilla"}, ours | {"method": "distilled"}])
    table = makespans(two_families[0], bench, [1, 2, 64])
    assert table["slots"].tolist() == [2, 4, 128]
    assert table["times_one_device"][0] == 1
    assert table["hours"].is_monotonic_decreasing
    assert table["hours"][2] == table["critical_path_hours"][2] < table["hours"][0]
    with pytest.raises(ConfigError, match="follows from the speeds that make bench measures; run it first"):
        makespans(two_families[0], None, [1])


def test_costs_are_seconds_where_the_bench_knows_the_speed(small):
    row = {"arch": "mlp", "method": "vanilla", "level": 0, "path": "ours", "tflops": 0.5, "at_a_time": 3}
    bench = pd.DataFrame([row])
    exp = small()
    assert costs([exp], bench)[exp.run_id] == pytest.approx(3 * curve_flops(exp) / 0.5e12)
    assert costs([exp, vgg := small(arch="vgg_like", width=4)], bench)[vgg.run_id] == curve_flops(vgg)


def test_costs_are_flops_unless_a_bench_knows_all_speeds(small):
    exp = small()
    assert costs([exp], None) == {exp.run_id: curve_flops(exp)}
