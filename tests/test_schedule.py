import pandas as pd
import pytest

from sdd_utils.errors import ConfigError
from sdd_utils.flops import dense_flops
from sdd_utils.schedule import costs, makespans, ranks, simulate
from sdd_utils.sweep import with_teachers


@pytest.fixture
def two_families(small, student):
    """A teacher (2) with students (3 and 1), and two curves of their own (4 and 1)."""
    long_pupil, short_pupil = student("dense"), student("sparse")
    alone, short = small(seed=1), small(seed=2)
    experiments = with_teachers([long_pupil, short_pupil, alone, short])
    teacher = long_pupil.teacher.experiment
    lengths = {teacher: 2.0, long_pupil: 3.0, short_pupil: 1.0, alone: 4.0, short: 1.0}
    return experiments, {exp.run_id: length for exp, length in lengths.items()}


def test_a_rank_is_the_work_that_has_to_be_done_one_after_the_other(two_families):
    experiments, cost = two_families
    assert sorted(ranks(experiments, cost).values()) == [1, 1, 3, 4, 5]


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


def test_costs_are_seconds_where_the_bench_knows_the_speed(small):
    row = {"arch": "mlp", "method": "vanilla", "level": 0, "path": "ours", "tflops": 0.5, "at_a_time": 3}
    bench = pd.DataFrame([row])
    exp = small()
    assert costs([exp], bench)[exp.run_id] == pytest.approx(3 * 5 * dense_flops(exp) / 0.5e12)
    assert costs([exp, vgg := small(arch="vgg_like", width=4)], bench)[vgg.run_id] == 5 * dense_flops(vgg)


def test_costs_are_flops_unless_a_bench_knows_all_speeds(small):
    exp = small()
    assert costs([exp], None) == {exp.run_id: 5 * dense_flops(exp)}


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
