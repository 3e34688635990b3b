"""run, status, verify and export, as a person uses them: what they print and how they exit."""

import io
import os
import pty
import shutil
import signal
import socket
import sys
import threading
import time

import pandas as pd
import pytest
import yaml
from conftest import HANG, SMALL

from benchmarks.threads import Threads
from sdd_utils import pruning_loop
from sdd_utils.cli.commands import main
from sdd_utils.config import Experiment
from sdd_utils.errors import DIFFERENT, INTERRUPTED, NO_READER, REFUSED, REQUEUE, Busy, Stopped
from sdd_utils.profiles import load_profile
from sdd_utils.runner.integrity import finished, is_final
from sdd_utils.runner.locks import claimed, lease, try_acquire
from sdd_utils.runner.run import run_experiment
from sdd_utils.runner.stopping import must_stop, parse_duration, stop_on_signals
from sdd_utils.runner.sweep import run_sweep
from sdd_utils.study import Study
from sdd_utils.tables import LEVEL_COLUMNS, MEASURED_ON_THE_CLOCK

MLP = {key: list(v) if isinstance(v, tuple) else v for key, v in SMALL.items() if key not in ("arch", "noise_rate")}
ONE = {"seeds": 1, "noise_rates": [0.3]}
PROFILE = {
    "profile": "mine",
    "about": "three seeds",
    "tour": {"arch": "mlp", "noise_rate": 0.3},
    "base": {},
    "architectures": {"mlp": {"settings": MLP | {"levels": 2}, "seeds": 3, "noise_rates": [0.3]}},
}


@pytest.fixture
def home(home, monkeypatch):
    """That place with the profile ``mine``; its runs go to ``runs``, its reference is in ``reference``."""
    monkeypatch.setattr("sdd_utils.tables.ROOT", home)
    for module in ("tables", "analysis.compare"):
        monkeypatch.setattr(f"sdd_utils.{module}.REFERENCE", home / "reference")
    for folder in ("runs", "reference/mine"):
        (home / folder).mkdir(parents=True)
    write_profile(home, PROFILE)
    return home


def write_profile(home, content):
    (home / "profiles" / "mine.yaml").write_text(yaml.safe_dump(content))


@pytest.fixture
def command(home, monkeypatch, capsys):
    """Run a command on ``mine``; gives its exit status and what it printed."""

    def run(name, *options):
        results = ("--profile", "mine", "--results", str(home / "runs"))
        monkeypatch.setattr("sys.argv", ["sdd_utils", name, *results, *options])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """All three runs, finished."""
    folder = tmp_path_factory.mktemp("trained") / "mine"
    for seed in range(3):
        run_experiment(Experiment.parse(SMALL | {"levels": 2, "seed": seed}), folder)
    return folder


def states(printed):
    return {line.split()[0].rsplit("-", 2)[-2]: line.split()[1] for line in printed.splitlines() if "digits-" in line}


def test_status_names_every_state(home, command, trained, monkeypatch):
    shutil.copytree(trained, home / "runs" / "mine")
    runs = [home / "runs" / "mine" / exp.run_id for exp in load_profile("mine").experiments()]
    code, printed = command("status")
    assert code == 0
    assert states(printed) == {"s0": "done", "s1": "done", "s2": "done"}
    assert printed.endswith("3 runs: 3 done\n")

    (runs[0] / "levels.csv").write_text("x")
    (runs[1] / "SHA256SUMS").unlink()
    shutil.rmtree(runs[2])
    printed = command("status")[1]
    assert states(printed) == {"s0": "damaged", "s1": "stopped", "s2": "waiting"}
    assert "levels.csv differs from its checksum" in printed
    assert "3/3" in printed
    with claimed(runs[2]), monkeypatch.context() as patch:
        patch.setattr("socket.gethostname", lambda: "another-machine")  # a lock is seen from everywhere
        printed = command("status", "--only", "seed=2")[1]
    assert states(printed) == {"s2": "running"}
    assert f"on {socket.gethostname()}" in printed


def test_verify_tells_identical_from_within_and_different(home, command, trained):
    shutil.copytree(trained, home / "runs" / "mine")
    reference = home / "reference" / "mine" / "levels.csv"
    table = pd.concat([pd.read_csv(path) for path in sorted(trained.glob("*/levels.csv"))])

    table.assign(seconds=9.0, energy_kwh=1.0).to_csv(reference, index=False)
    code, printed = command("verify")
    assert code == 0
    assert printed.endswith("3 finished runs: 3 identical\n")

    table.assign(train_loss=table["train_loss"] + 1e-5).to_csv(reference, index=False)
    code, printed = command("verify")
    assert code == 0
    assert printed.endswith("3 finished runs: 3 within\n")

    table.assign(test_acc=table["test_acc"] / 4).to_csv(reference, index=False)
    code, printed = command("verify")
    assert code == 1
    assert printed.endswith("3 finished runs: 3 different\n")

    table[table["seed"] == 0].assign(train_loss=9.0).to_csv(reference, index=False)
    code, printed = command("verify")
    assert code == 0
    assert printed.endswith("3 finished runs: 3 single seed\n")

    table.assign(noise_rate=0.4).to_csv(reference, index=False)
    code, printed = command("verify")
    assert code == 0
    assert "3 no reference" in printed


def test_verify_without_a_reference_says_whether_the_files_are_sound(home, command, trained):
    shutil.copytree(trained, home / "runs" / "mine")
    code, printed = command("verify")
    assert code == 0
    assert "3 finished runs are sound; there is no committed reference of mine to compare with" in printed
    next((home / "runs" / "mine").glob("*/levels.csv")).write_text("x")
    code, printed = command("verify")
    assert code == DIFFERENT
    assert "levels.csv differs from its checksum" in printed


def test_a_defect_of_ours_has_a_status_of_its_own(command, monkeypatch):
    """Not 1, which Python gives it, and which says here that verify has found something."""
    monkeypatch.setattr("sdd_utils.cli.commands.survey", lambda *_: 1 / 0)
    code, printed = command("status")
    assert code == REFUSED
    assert "ZeroDivisionError" in printed


def test_a_device_that_there_is_not_is_refused(command):
    code, printed = command("run", "--device", "gpu")
    assert code == REFUSED
    assert "error: device: 'gpu'" in printed


@pytest.mark.parametrize("country", ["DE", "Germany", "XXX"])
def test_a_country_that_codecarbon_does_not_know_is_refused_before_training(command, monkeypatch, country):
    monkeypatch.setenv("SDD_COUNTRY", country)
    code, printed = command("run")
    assert code == REFUSED
    assert f"error: SDD_COUNTRY: codecarbon does not know '{country}'; give an ISO code" in printed


def test_verify_names_what_is_damaged(home, command, trained):
    shutil.copytree(trained, home / "runs" / "mine")
    pd.concat([pd.read_csv(path) for path in trained.glob("*/levels.csv")]).to_csv(
        home / "reference" / "mine" / "levels.csv", index=False
    )
    run = next((home / "runs" / "mine").glob("*-s1-*"))
    (run / "weights.csv").unlink()
    code, printed = command("verify")
    assert code == 1
    assert f"damaged: {run.name}: weights.csv is missing" in printed
    assert "2 identical" in printed


def test_export_gives_one_tidy_table_of_what_there_is(home, command, trained):
    shutil.copytree(trained, home / "runs" / "mine")
    run = next((home / "runs" / "mine").glob("*-s1-*"))
    (run / "SHA256SUMS").unlink()  # not finished
    pd.read_csv(run / "levels.csv")[:2].to_csv(run / "levels.csv", index=False)
    code, printed = command("export", "--out", str(home / "all.csv"))
    table = pd.read_csv(home / "all.csv")
    assert code == 0
    assert printed == f"{home / 'all.csv'}: 8 levels of 3 runs\n"
    assert list(table.columns) == LEVEL_COLUMNS
    assert table.groupby("seed")["level"].count().tolist() == [3, 2, 3]
    printed = command("export", "--only", "seed=0,seed=2")[1]
    assert len(printed.splitlines()) == 1 + 6


def test_claims_are_judged_on_the_runs_and_shown_beside_the_reference(home, command, trained):
    shutil.copytree(trained, home / "runs" / "mine")
    code, printed = command("claims")
    written = pd.read_csv(home / "runs" / "mine" / "claims.csv")
    assert code == 0
    assert list(written["claim"]) == ["C1", "C6"]  # no other λ, and no students
    assert "There is no committed reference of profile mine to compare with." in printed
    written.assign(verdict="reversed").to_csv(home / "reference" / "mine" / "claims.csv", index=False)
    code, printed = command("claims")
    assert code == 0
    last = f"  C1 {written['statement'][0]}: reversed → {written['verdict'][0]}"
    assert printed.splitlines()[-2] == last


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_a_terminal_that_lacks_a_letter_shows_the_claims_all_the_same(home, command, trained, monkeypatch, encoding):
    """Also the path of a folder whose name is no text at all, which no terminal has letters for."""
    shutil.copytree(trained, home / "runs" / "mine")
    (home / "elsewhere").mkdir()
    (home / "elsewhere" / os.fsdecode(b"\xff")).symlink_to(home / "runs")
    terminal = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr("sys.stdout", terminal)
    assert command("claims")[0] == 0
    assert command("verify", "--results", str(home / "elsewhere" / os.fsdecode(b"\xff") / "nothing"))[0] == REFUSED
    terminal.flush()
    shown = terminal.buffer.getvalue().decode(encoding)
    assert "There is no committed reference of profile mine to compare with." in shown
    assert ("ε" in shown) == (encoding == "utf-8")


def test_a_profile_with_a_grid_of_tau_and_alpha_has_no_claims(home, command):
    students = {"noise_rates": [0.3], "teachers": ["dense"], "temperatures": [2, 4], "alphas": [0.9]}
    write_profile(home, PROFILE | {"architectures": {"mlp": {"settings": MLP} | ONE | {"distillation": students}}})
    code, printed = command("claims")
    assert (code, printed) == (0, "mine compares several τ and α, which the claims do not speak of.\n")
    assert not (home / "runs" / "mine").exists()


def test_run_stops_in_time_and_goes_on_to_the_same_numbers(home, command):
    write_profile(home, PROFILE | {"architectures": {"mlp": {"settings": MLP | {"levels": 27, "epochs": 10}} | ONE}})
    (exp,) = load_profile("mine").experiments()
    whole = run_experiment(exp, home / "whole" / "mine")
    budget, codes = 0.5, []
    while not finished(exp, home / "runs" / "mine"):
        code, printed = command("run", "--time-budget", f"{budget}s")
        codes.append(code)
        if code:
            assert f"Stopped: the time budget of {budget:g} s is used up. 0/1 runs and " in printed
            assert "run the same again to go on" in printed
        budget += 0.5  # however slow the machine is, some day it is enough
    assert codes[:-1] == [REQUEUE] * (len(codes) - 1)
    assert codes[-1] == 0
    tables = [
        pd.read_csv(run / "levels.csv").drop(columns=MEASURED_ON_THE_CLOCK) for run in (whole, runs_of(home, exp))
    ]
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def runs_of(home, exp):
    return home / "runs" / "mine" / exp.run_id


@pytest.mark.parametrize(
    ("number", "status"),
    [("SIGTERM", REQUEUE), ("SIGUSR1", REQUEUE), ("SIGHUP", REQUEUE), ("SIGINT", INTERRUPTED)],
)
def test_signals_stop_at_the_end_of_an_epoch(home, command, monkeypatch, number, status):
    train = pruning_loop.train_level
    monkeypatch.setattr("sdd_utils.runner.stopping.leave_terminal", dict)  # that of the tests stays

    def signalled(*args):
        if args[3] == 1:
            os.kill(os.getpid(), getattr(signal, number))
            until = time.time() + HANG
            while not must_stop(until):  # Python calls the handler in the main thread, at its turn
                time.sleep(0.01)
        return train(*args)

    monkeypatch.setattr(pruning_loop, "train_level", signalled)
    code, printed = command("run", "--only", "seed=0")
    run = runs_of(home, load_profile("mine").experiments()[0])
    assert code == status
    assert f"Stopped: {number} received. 0/1 runs and 1/3 levels are done" in printed
    assert not is_final(run)
    monkeypatch.setattr(pruning_loop, "train_level", train)
    assert command("run", "--only", "seed=0")[0] == 0
    assert is_final(run)


def test_derived_files_that_are_damaged_stop_no_training_and_no_verdicts(home, command, tmp_path):
    for table in ("levels", "claims", "weights"):
        (home / "reference" / "mine" / f"{table}.csv").write_text("claim,verdict\n")
        (home / "runs" / "mine").mkdir(exist_ok=True)
        (home / "runs" / "mine" / f"{table}.csv").write_text("nonsense")
    assert command("run")[0] == 0
    assert Study("mine", home / "runs").experiments()["minutes"].isna().all()
    code, printed = command("claims")
    assert code == 0
    assert "C1" in printed
    reference = home / "reference" / "mine" / "claims.csv"
    assert f"cannot be compared with the committed verdicts: {reference}: column statement is missing" in printed
    written = pd.read_csv(home / "runs" / "mine" / "claims.csv")
    written.assign(measured="a little", ci_low="less", ci_high="more").to_csv(reference, index=False)
    code, printed = command("claims")
    assert (code, "cannot be compared with the committed verdicts: " in printed) == (0, True)


HUNG_UP = """
import sys, time
from sdd_utils.runner.stopping import must_stop, stop_on_signals

with stop_on_signals() as received:
    print("ready", flush=True)
    while not must_stop(float("inf")):
        time.sleep(0.01)
    print("said to nobody", flush=True)
    print("said to nobody", file=sys.stderr)
    sys.exit(75)
"""


def test_a_terminal_that_is_closed_stops_a_sweep_like_any_other_signal():
    process, terminal = pty.fork()
    if not process:
        os.execv(sys.executable, [sys.executable, "-c", HUNG_UP])
    assert b"ready" in os.read(terminal, 100)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == REQUEUE


def test_under_nohup_a_closed_terminal_stops_nothing(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals() as received:
            os.kill(os.getpid(), signal.SIGHUP)
            assert received == []
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("name", ["status", "verify", "export"])
def test_a_reader_that_has_gone_is_not_a_difference_found(home, command, trained, monkeypatch, name):
    shutil.copytree(trained, home / "runs" / "mine")
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as nobody:
        monkeypatch.setattr("sys.stdout", nobody)
        assert command(name)[0] == NO_READER


def test_names_from_a_lock_are_printed_without_what_a_terminal_obeys(home, command, monkeypatch):
    run = runs_of(home, load_profile("mine").experiments()[0])
    with monkeypatch.context() as patch:
        patch.setattr("socket.gethostname", lambda: "host\x1b[2J")
        lock = lease(run)
        assert try_acquire(lock)
    try:
        printed = command("status", "--only", "seed=0")[1]
    finally:
        lock.release()
    assert "running" in printed
    assert "\x1b" not in printed


def test_a_run_that_may_not_begin_leaves_everything_as_it_is(small, tmp_path):
    with pytest.raises(Stopped):
        run_experiment(small(), tmp_path, deadline=time.time())
    assert not list(tmp_path.iterdir())


def test_a_run_that_another_sweep_trains_is_left_to_it(home):
    first, *others = load_profile("mine").experiments()
    folder = home / "runs" / "mine"
    with claimed(folder / first.run_id) as lock:
        with pytest.raises(Busy):
            run_experiment(first, folder)
        outcomes = []
        sweep = threading.Thread(target=lambda: outcomes.append(run_sweep([first, *others], folder, Threads(1))))
        sweep.start()
        while not all(finished(exp, folder) for exp in others):
            assert sweep.is_alive()
        assert not finished(first, folder)
        lock.release()
        sweep.join()
    assert outcomes[0].failed == {}
    assert finished(first, folder)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("9m", 540), ("1h30m", 5400), ("2d", 172800), ("0.5h", 1800)]
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


def test_help_has_examples(monkeypatch, capsys):
    for arguments, example in (([], "status --profile digits"), (["run"], "run --profile digits --only method=kd")):
        monkeypatch.setattr("sys.argv", ["sdd_utils", *arguments, "--help"])
        main()
        assert example in capsys.readouterr().out
