import os
import signal
import threading
from collections import Counter

import pandas as pd
import pytest

from benchmarks.threads import Threads
from sdd_utils.errors import Stopped, WorkerLost
from sdd_utils.runner.integrity import finished
from sdd_utils.runner.run import run_experiment
from sdd_utils.runner.sweep import LIVES, Outcome, run_sweep, with_teachers
from sdd_utils.runner.workers import local_workers
from sdd_utils.tables import MEASURED_ON_THE_CLOCK


def again(*_):
    pytest.fail("trained again")


def rows(folder, exp):
    return pd.read_csv(folder / exp.run_id / "levels.csv").drop(columns=MEASURED_ON_THE_CLOCK)


def test_teachers_are_run_once_and_before_their_students(student, tmp_path, monkeypatch):
    experiments = [student("dense"), student("sparse")]
    order = []

    def record(exp, *more):
        order.append(exp.method)
        return run_experiment(exp, *more)

    assert run_sweep(experiments, tmp_path / "p", Threads(1), run=record) == Outcome()
    assert order == ["vanilla", "kd", "kd"]
    assert all(finished(e, tmp_path / "p") for e in with_teachers(experiments))


def test_numbers_do_not_depend_on_the_number_or_order_of_workers(small, student, tmp_path):
    experiments = [small(seed=1), student("dense"), student("sparse"), small()]
    assert run_sweep(experiments, tmp_path / "two" / "p", local_workers(2)) == Outcome()
    assert run_sweep(experiments[::-1], tmp_path / "one" / "p", Threads(1)) == Outcome()
    for exp in experiments:
        pd.testing.assert_frame_equal(
            rows(tmp_path / "two" / "p", exp), rows(tmp_path / "one" / "p", exp), check_exact=True
        )


def test_a_failed_experiment_stops_its_students_and_nothing_else(small, student, tmp_path, capsys):
    broken = student(lr=1e30)
    fine = small(seed=1)
    failed = run_sweep([broken, fine], tmp_path / "p", Threads(1)).failed
    assert "TrainingDiverged" in failed[broken.teacher.experiment.run_id]
    assert failed[broken.run_id] == f"its teacher {broken.teacher.experiment.run_id} failed"
    assert finished(fine, tmp_path / "p")
    assert not finished(broken, tmp_path / "p")


def test_finished_experiments_are_not_submitted_again(small, tmp_path):
    run_sweep([small()], tmp_path / "p", Threads(1))
    assert run_sweep([small()], tmp_path / "p", Threads(1), run=again) == Outcome()


def test_a_run_that_another_profile_has_finished_is_taken_from_there(small, tmp_path):
    exp = small()
    run_sweep([exp], tmp_path / "first", Threads(1))
    assert run_sweep([exp], tmp_path / "second", Threads(1), run=again) == Outcome()
    first, second = rows(tmp_path / "first", exp), rows(tmp_path / "second", exp)
    assert set(second["profile"]) == {"second"}
    pd.testing.assert_frame_equal(first.drop(columns="profile"), second.drop(columns="profile"), check_exact=True)


def test_a_run_half_trained_here_and_finished_elsewhere_is_the_one_from_there(small, tmp_path, monkeypatch):
    exp = small()
    run_sweep([exp], tmp_path / "first", Threads(1))
    with monkeypatch.context() as patch:
        patch.setattr("sdd_utils.runner.checkpoints.drop_levels", lambda *args: None)
        run_experiment(exp, tmp_path / "second")
    (tmp_path / "second" / exp.run_id / "SHA256SUMS").unlink()
    assert run_sweep([exp], tmp_path / "second", Threads(1)) == Outcome()
    names = [{path.name for path in (tmp_path / part / exp.run_id).iterdir()} for part in ("first", "second")]
    assert names[0] == names[1]


def test_what_has_most_behind_it_is_trained_first(small, student, tmp_path):
    """A short teacher with a long student goes before a curve that is longer than itself."""
    pupil, longer, short = student(levels=5), small(levels=7), small(levels=1, seed=1)
    order = []

    def record(exp, *more):
        order.append(exp.run_id)
        return run_experiment(exp, *more)

    run_sweep([short, longer, pupil], tmp_path / "p", Threads(1), run=record)
    assert order == [exp.run_id for exp in (pupil.teacher.experiment, longer, pupil, short)]


def test_no_more_is_handed_over_than_there_are_slots(small, tmp_path):
    at_once, most = Counter(), []

    class Counting(Threads):
        def submit(self, *call):
            future = super().submit(*call)
            at_once["now"] += 1
            most.append(at_once["now"])
            future.add_done_callback(lambda _: at_once.subtract(["now"]))
            return future

    run_sweep([small(seed=seed, levels=0) for seed in range(6)], tmp_path / "p", Counting(2))
    assert len(most) == 6
    assert max(most) == 2


def test_a_signal_is_answered_at_once_though_an_epoch_may_take_minutes(small, tmp_path, capsys):
    asked = threading.Event()

    class Asked(Threads):
        def ask_to_stop(self):
            asked.set()

    def epoch(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        asked.wait()
        raise Stopped

    assert run_sweep([small()], tmp_path, Asked(1), run=epoch).stopped.startswith("Stopped: SIGTERM received")
    assert capsys.readouterr().err.count("stopping: what runs saves its state after this epoch; Ctrl-C once") == 1


@pytest.mark.parametrize("deaths", [LIVES - 1, LIVES])
def test_a_run_whose_worker_died_is_taken_up_again_but_not_for_ever(small, student, tmp_path, deaths):
    pupil, fine, left = student(), small(seed=1), [deaths]

    def mortal(exp, *more):
        if exp.method == "vanilla" and exp.seed == 0 and left[0]:
            left[0] -= 1
            raise WorkerLost("its worker on node7 died")
        return run_experiment(exp, *more)

    failed = run_sweep([pupil, fine], tmp_path / "p", Threads(1), run=mortal).failed
    teacher = pupil.teacher.experiment
    assert finished(fine, tmp_path / "p")
    assert finished(teacher, tmp_path / "p") == finished(pupil, tmp_path / "p") == (deaths < LIVES)
    if deaths == LIVES:
        said = "3 workers died at level 0, perhaps for want of memory; the last: its worker on node7 died"
        assert failed == {teacher.run_id: said, pupil.run_id: f"its teacher {teacher.run_id} failed"}


def test_a_run_that_gets_on_between_deaths_is_never_given_up(small, tmp_path):
    exp, deaths = small(levels=9), []

    def slow(exp, folder, *more):
        if len(deaths) < 2 * LIVES:
            deaths.append(1)
            (folder / exp.run_id).mkdir(exist_ok=True)
            (folder / exp.run_id / "levels.csv").write_text("level\n" + "".join(f"{n}\n" for n in range(len(deaths))))
            raise WorkerLost("its machine spot3 died or cannot be reached")
        return run_experiment(exp, folder, *more)

    assert run_sweep([exp], tmp_path / "p", Threads(1), run=slow) == Outcome()
    assert len(deaths) == 2 * LIVES
    assert finished(exp, tmp_path / "p")
