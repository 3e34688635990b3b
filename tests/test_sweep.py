from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest

from sdd_utils import sweep
from sdd_utils.experiment import finished, run_experiment
from sdd_utils.results import MEASURED_ON_THE_CLOCK
from sdd_utils.stopping import Outcome
from sdd_utils.sweep import run_sweep, with_teachers
from sdd_utils.workers import local_workers


def one_worker():
    return ThreadPoolExecutor(1)


def rows(folder, exp):
    return pd.read_csv(folder / exp.run_id / "levels.csv").drop(columns=MEASURED_ON_THE_CLOCK)


def test_teachers_are_run_once_and_before_their_students(student, tmp_path, monkeypatch):
    experiments = [student("dense"), student("sparse")]
    order = []

    def record(exp, *more):
        order.append(exp.method)
        return run_experiment(exp, *more)

    monkeypatch.setattr(sweep, "run_experiment", record)
    assert run_sweep(experiments, tmp_path / "p", one_worker()) == Outcome()
    assert order == ["vanilla", "kd", "kd"]
    assert all(finished(e, tmp_path / "p") for e in with_teachers(experiments))


def test_numbers_do_not_depend_on_the_number_or_order_of_workers(small, student, tmp_path):
    experiments = [small(seed=1), student("dense"), student("sparse"), small()]
    assert run_sweep(experiments, tmp_path / "two" / "p", local_workers(2)) == Outcome()
    assert run_sweep(experiments[::-1], tmp_path / "one" / "p", one_worker()) == Outcome()
    for exp in experiments:
        pd.testing.assert_frame_equal(
            rows(tmp_path / "two" / "p", exp), rows(tmp_path / "one" / "p", exp), check_exact=True
        )


def test_a_failed_experiment_stops_its_students_and_nothing_else(small, student, tmp_path, capsys):
    broken = student(lr=1e30)
    fine = small(seed=1)
    failed = run_sweep([broken, fine], tmp_path / "p", one_worker()).failed
    assert "TrainingDiverged" in failed[broken.teacher.experiment.run_id]
    assert failed[broken.run_id] == f"its teacher {broken.teacher.experiment.run_id} failed"
    assert finished(fine, tmp_path / "p")
    assert not finished(broken, tmp_path / "p")


def test_finished_experiments_are_not_submitted_again(small, tmp_path, monkeypatch):
    run_sweep([small()], tmp_path / "p", one_worker())
    monkeypatch.setattr(sweep, "run_experiment", lambda *args: pytest.fail("trained again"))
    assert run_sweep([small()], tmp_path / "p", one_worker()) == Outcome()


def test_a_run_that_another_profile_has_finished_is_taken_from_there(small, tmp_path, monkeypatch):
    exp = small()
    run_sweep([exp], tmp_path / "first", one_worker())
    monkeypatch.setattr(sweep, "run_experiment", lambda *args: pytest.fail("trained again"))
    assert run_sweep([exp], tmp_path / "second", one_worker()) == Outcome()
    first, second = rows(tmp_path / "first", exp), rows(tmp_path / "second", exp)
    assert set(second["profile"]) == {"second"}
    pd.testing.assert_frame_equal(first.drop(columns="profile"), second.drop(columns="profile"), check_exact=True)


def test_a_run_half_trained_here_and_finished_elsewhere_is_the_one_from_there(small, tmp_path, monkeypatch):
    exp = small()
    run_sweep([exp], tmp_path / "first", one_worker())
    with monkeypatch.context() as patch:
        patch.setattr("sdd_utils.experiment.drop_levels", lambda *args: None)
        run_experiment(exp, tmp_path / "second")
    (tmp_path / "second" / exp.run_id / "SHA256SUMS").unlink()
    assert run_sweep([exp], tmp_path / "second", one_worker()) == Outcome()
    names = [{path.name for path in (tmp_path / part / exp.run_id).iterdir()} for part in ("first", "second")]
    assert names[0] == names[1]
