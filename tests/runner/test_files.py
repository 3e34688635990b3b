"""What is on disk is whole, checked before it is read, and quarantined rather than deleted."""

import errno
import json
import math
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import add_foreign_entries, interrupt_before
from inject import forge
from safetensors.torch import load_file

import sdd_utils
from benchmarks.threads import Threads
from sdd_utils import pruning_loop
from sdd_utils.errors import ConfigError, Damaged, NoSpace, ResultsMissing
from sdd_utils.files import make_folder, sha256, write_bytes, write_csv
from sdd_utils.pruning import new_network
from sdd_utils.runner import checkpoints, integrity
from sdd_utils.runner import run as runs
from sdd_utils.runner.integrity import SUMS, finalise, finished, is_final, quarantine, verify
from sdd_utils.runner.inventory import survey
from sdd_utils.runner.run import run_experiment
from sdd_utils.runner.sweep import Outcome, adopt_finished, run_sweep


def test_a_kill_while_writing_leaves_the_old_file_and_the_next_run_cleans_up(tmp_path, monkeypatch, small):
    path = tmp_path / "a.csv"
    write_bytes(path, b"old")
    with monkeypatch.context() as patch:

        def killed(*_):
            raise SystemExit

        patch.setattr(os, "replace", killed)
        with pytest.raises(SystemExit):
            write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    run = run_experiment(small(levels=1), tmp_path / "p")
    (run / SUMS).unlink()
    (run / ".levels.csv.123").write_text("half")
    run_experiment(small(levels=1), tmp_path / "p")
    assert not list(run.glob(".*"))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_says_what_is_needed_and_where_and_leaves_nothing_half(tmp_path, monkeypatch, code):
    def full(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NoSpace, match=rf"{tmp_path}: no space left: a\.csv needs 3\.00 MB, .* MB are free") as error:
        write_bytes(tmp_path / "a.csv", b"0" * 3_000_000)
    assert "--results" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path):
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(IsADirectoryError):
        write_bytes(tmp_path / "a.csv", b"x")


def test_what_is_quarantined_is_never_overwritten(tmp_path):
    for text in ("one", "two", "three"):
        (tmp_path / "a.csv").write_text(text)
        quarantine(tmp_path / "a.csv", "is wrong")
    aside = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert aside == {"a.csv.damaged": "one", "a.csv.damaged-2": "two", "a.csv.damaged-3": "three"}


def test_the_checksums_are_what_coreutils_read(tmp_path):
    for name in ("levels.csv", "weights.csv"):
        write_csv(tmp_path / name, pd.DataFrame({"x": [1]}))
    finalise(tmp_path)
    assert is_final(tmp_path)
    assert verify(tmp_path) == {}
    if shutil.which("sha256sum"):
        assert subprocess.run(["sha256sum", "--check", "--quiet", SUMS], cwd=tmp_path).returncode == 0
    (tmp_path / "levels.csv").write_text("x\n2\n")
    assert verify(tmp_path) == {"levels.csv": f"differs from its checksum in {SUMS}"}
    (tmp_path / "weights.csv").unlink()
    assert not is_final(tmp_path)


def test_no_temporary_or_damaged_file_is_among_the_checksums(tmp_path):
    for name in ("levels.csv", ".levels.csv.77", "weights.csv.damaged", "weights.csv.damaged-2"):
        (tmp_path / name).write_text("x")
    finalise(tmp_path)
    names = [line.split("  ")[1] for line in (tmp_path / SUMS).read_text().splitlines() if line[0] != "#"]
    assert names == ["levels.csv"]


def test_entries_that_are_not_a_runs_own_are_neither_read_nor_sealed_nor_copied_nor_removed(small, tmp_path):
    exp = small(levels=1)
    run, adopted = (tmp_path / name / exp.run_id for name in ("one", "two"))
    run.mkdir(parents=True)
    foreign = add_foreign_entries(run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    (run / ".weights.csv.123").write_text("half")
    run_experiment(exp, tmp_path / "one")
    assert run_sweep([exp], tmp_path / "two", Threads(1), run=None) == Outcome()  # taken from there
    assert {path.name for path in run.iterdir()} - {path.name for path in adopted.iterdir()} == foreign
    assert not any(name in (run / SUMS).read_text() for name in foreign)
    (run / "levels.csv").write_text("damaged")
    run_experiment(exp, tmp_path / "one")
    assert survey([exp], tmp_path / "one")["note"].tolist() == ["quarantined: levels.csv.damaged"]
    assert {path: path.read_bytes() for path in before} == before


def test_a_note_that_was_sealed_once_may_change_and_go(tmp_path):
    (tmp_path / "levels.csv").write_text("x")
    lines = [f"{sha256(tmp_path / 'levels.csv')}  levels.csv", f"{'0' * 64}  notes.txt"]
    (tmp_path / SUMS).write_text(integrity._with_checksum(lines))
    assert is_final(tmp_path)
    assert verify(tmp_path) == {}


def test_a_folder_with_nothing_of_a_run_is_no_run_that_was_stopped(small, tmp_path):
    (tmp_path / small().run_id).mkdir()
    add_foreign_entries(tmp_path / small().run_id)
    assert survey([small()], tmp_path)["state"].tolist() == ["waiting"]


@pytest.mark.parametrize("write", [lambda path: write_bytes(path, b"new"), lambda path: make_folder(path.parent)])
def test_no_name_that_can_be_guessed_leads_elsewhere(tmp_path, write):
    mine, folder = tmp_path / "mine", tmp_path / "folder"
    mine.write_text("mine")
    os.utime(mine, (1e9, 1e9))
    folder.mkdir()
    for name in (f".a.csv.{os.getpid()}", f".probe.{os.getpid()}"):
        (folder / name).symlink_to(mine)
    write(folder / "a.csv")
    assert (mine.read_text(), mine.stat().st_mtime) == ("mine", 1e9)
    assert not (folder / "a.csv").is_symlink()


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    from conftest import SMALL

    from sdd_utils.config import Experiment

    exp = Experiment.parse(SMALL)
    return exp, run_experiment(exp, tmp_path_factory.mktemp("whole") / "p")


FILES = ["levels.csv", "weights.csv", "emissions.csv", "config.json", "provenance.json", SUMS]


@pytest.mark.parametrize("name", [*FILES, "level-00.safetensors", "last level"])
@pytest.mark.parametrize("how", ["cut", "changed", "removed"])
def test_a_damaged_file_of_a_finished_run_is_made_again_as_it_was(finished_run, tmp_path, caplog, name, how):
    exp, whole = finished_run
    run = tmp_path / "p" / exp.run_id
    shutil.copytree(whole, run)
    path = max(run.glob("level-*")) if name == "last level" else run / name
    content = path.read_bytes()
    path.unlink()
    if how != "removed":
        path.write_bytes(content[: len(content) // 2] if how == "cut" else b"#" + content[1:])
    run_experiment(exp, tmp_path / "p")
    if (name, how) != (SUMS, "removed"):
        assert path.name in caplog.text
        assert (how == "removed") != path.with_name(f"{path.name}.damaged").exists()
    assert is_final(run)
    assert not verify(run)
    assert (run / "weights.csv").read_bytes() == (whole / "weights.csv").read_bytes()
    for file in whole.glob("*.safetensors"):
        expected, again = load_file(file), load_file(run / file.name)
        assert all(again[key].equal(expected[key]) for key in expected)
    columns = ["level", "sparsity", "train_loss", "test_acc", "memorised"]
    tables = [pd.read_csv(folder / "levels.csv")[columns] for folder in (run, whole)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def forged(change):
    """Have the last level's file hold something else, with a right checksum; see ``inject.forge``."""

    def spoil(run):
        path = max(run.glob("level-*"))
        forge(path, change)
        return path.name

    return spoil


def history(change):
    """Have the last level's file tell another history."""

    def tell(_, metadata):
        told = json.loads(metadata["history"])
        change(told)
        metadata["history"] = json.dumps(told)

    return forged(tell)


def rewritten(name, content):
    """Have a file hold something else."""

    def spoil(run):
        before = (run / name).read_text()
        (run / name).write_text(content(before))
        assert (run / name).read_text() != before
        return name

    return spoil


def a_folder(run):
    (run / checkpoints.CHECKPOINT).mkdir()
    return checkpoints.CHECKPOINT


ODD = {
    "weights that are nan": forged(lambda tensors, _: tensors["vector"].fill_(torch.nan)),
    "a weight that is infinite": forged(lambda tensors, _: tensors["vector"][:1].fill_(torch.inf)),
    "weights in bfloat16": forged(lambda tensors, _: tensors.update(vector=tensors["vector"].bfloat16())),
    "a mask of floats": forged(lambda tensors, _: tensors.update(mask=tensors["mask"].float())),
    "no run_id": forged(lambda _, metadata: metadata.pop("run_id")),
    "a history that is a number": forged(lambda _, metadata: metadata.update(history="7")),
    "a history of words": forged(lambda _, metadata: metadata.update(history='{"rows": ["a", "b"]}')),
    "a history without its measures": forged(lambda _, metadata: metadata.update(history='{"rows": [{"level": 0}]}')),
    "another level": forged(lambda _, metadata: metadata.update(history='{"rows": []}')),
    "a mask that prunes all": forged(lambda tensors, _: tensors["mask"].fill_(False)),
    "a mask that prunes more than its level": forged(lambda tensors, _: tensors["mask"][:100].fill_(False)),
    "weights under the mask": forged(lambda tensors, _: tensors["vector"][: len(tensors["mask"])].fill_(0.5)),
    "a history that overrules the settings": history(lambda told: told["rows"][0].update(run_id="../x")),
    "a measure that is a word": history(lambda told: told["rows"][1].update(test_acc="many")),
    "a level that is a truth value": history(lambda told: told["rows"][1].update(level=True)),
    "a level of no epoch": history(lambda told: told["rows"][1].update(epochs=0)),
    "histograms of other bins": history(lambda told: told.update(histograms=[[1, 2]] * len(told["rows"]))),
    "a segment without its time": history(lambda told: told["segments"][0].pop("seconds")),
    "another run's levels": rewritten("levels.csv", lambda text: text.replace("-s0-", "-s1-")),
    "levels without accuracies": rewritten("levels.csv", lambda text: re.sub(r"0\.\d+", "", text)),
    "a number of 400 digits": rewritten("levels.csv", lambda text: text.replace(",1440,", f",{'9' * 400},")),
    "no weights": rewritten("weights.csv", lambda text: text.splitlines(keepends=True)[0]),
    "weights that are words": rewritten("weights.csv", lambda text: text.replace(",1\n", ",one\n")),
    "a provenance that is none": rewritten("provenance.json", lambda _: "[]"),
    "a provenance that is no JSON": rewritten("provenance.json", lambda _: "{"),
    "settings without end": rewritten("config.json", lambda _: "[" * 100_000),
    "settings of another experiment": rewritten("config.json", lambda text: text.replace('"lr": 0.1', '"lr": 0.2')),
    "too few rows": rewritten("levels.csv", lambda text: "".join(text.splitlines(keepends=True)[:-1])),
    "no row": rewritten("levels.csv", lambda text: text.splitlines(keepends=True)[0]),
    "no setting": rewritten("config.json", lambda _: "{}"),
    "settings that are a list": rewritten("config.json", lambda _: "[]"),
    "a checkpoint that is a folder": a_folder,
}


@pytest.mark.parametrize("spoil", ODD.values(), ids=ODD)
@pytest.mark.parametrize("state", ["finished", "unfinished"])
def test_what_is_odd_though_its_checksum_is_right_is_quarantined_and_made_again(
    finished_run, tmp_path, caplog, spoil, state
):
    exp, whole = finished_run
    run = tmp_path / "p" / exp.run_id
    shutil.copytree(whole, run)
    name = spoil(run)
    if name != checkpoints.CHECKPOINT:
        finalise(run)
    if state == "unfinished":
        (run / SUMS).unlink()
    else:
        assert survey([exp], tmp_path / "p")["state"].tolist() == ["damaged"]
    run_experiment(exp, tmp_path / "p")
    assert finished(exp, tmp_path / "p")
    assert not checkpoints.unsound(run, exp)
    assert (run / "weights.csv").read_bytes() == (whole / "weights.csv").read_bytes()
    if name.endswith("safetensors") or state == "finished":
        assert f"{run / name}: " in caplog.text
        assert (run / f"{name}.damaged").exists()


KINDS = ["config.json", "levels.csv", "weights.csv", "emissions.csv", "provenance.json", SUMS, "level-00.safetensors"]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("state", ["finished", "unfinished"])
@pytest.mark.parametrize("kind", ["folder", "loop"])
def test_what_has_the_name_of_a_file_and_is_none_is_quarantined(finished_run, tmp_path, name, state, kind):
    exp, whole = finished_run
    run = tmp_path / "p" / exp.run_id
    shutil.copytree(whole, run)
    if state == "unfinished":
        (run / SUMS).unlink()
    (run / name).unlink(missing_ok=True)
    (run / name).mkdir() if kind == "folder" else (run / name).symlink_to(name)
    (there,) = survey([exp], tmp_path / "p")["state"]
    assert there in ("damaged", "stopped")
    run_experiment(exp, tmp_path / "p")
    assert os.path.lexists(run / f"{name}.damaged")
    assert survey([exp], tmp_path / "p")["state"].tolist() == ["done"]


def test_a_run_whose_folder_is_a_file_is_made_beside_it(small, tmp_path):
    exp = small(levels=0)
    (tmp_path / exp.run_id).write_text("mine")
    assert survey([exp], tmp_path)["state"].tolist() == ["damaged"]
    run_experiment(exp, tmp_path)
    assert (tmp_path / f"{exp.run_id}.damaged").read_text() == "mine"
    assert survey([exp], tmp_path)["state"].tolist() == ["done"]


def spoilt(name, value=None):
    """Have one tensor of a training's state be something else; without a value, be gone."""

    def change(tensors, _):
        old = tensors.pop(f"training.{name}", None)
        if value is not None:
            tensors[f"training.{name}"] = value(old) if callable(value) else torch.tensor(value)

    return change


TRAINING = {
    "an epoch before the first": spoilt("epoch", 0),
    "an epoch after the last": spoilt("epoch", 4),
    "no epoch": spoilt("epoch"),
    "epochs": spoilt("epoch", [1, 2]),
    "no learning rate": spoilt("lr"),
    "a rate that climbs": spoilt("lr", lambda lr: -lr),
    "a rate that is nan": spoilt("lr", lambda lr: lr * math.nan),
    "no momentum": spoilt("moment.momentum_buffer"),
    "another network's momentum": spoilt("moment.momentum_buffer", lambda moment: moment[:1].clone()),
    "momentum that is infinite": spoilt("moment.momentum_buffer", lambda moment: moment / 0),
    "no random state": spoilt("random.torch"),
    "a random state that is none": spoilt("random.batches", lambda state: state * 0 + 255),
    "a best epoch without patience": spoilt("best.epoch", 1),
    "a mask of another level": lambda tensors, _: tensors["mask"].fill_(True),
}
BEST = {
    "a best epoch that is still to come": spoilt("best.epoch", 3),
    "a best accuracy beyond all": spoilt("best.accuracy", lambda accuracy: accuracy + 1),
    "no best weights": spoilt("best.vector"),
    "best weights of another level": spoilt("best.mask", torch.ones_like),
    "best weights that are pruned": spoilt("best.vector", lambda vector: vector + 1),
}
FORGED = [(checkpoints.CHECKPOINT, change, {}) for change in TRAINING.values()]
FORGED += [(checkpoints.CHECKPOINT, change, {"patience": 4}) for change in BEST.values()]
FORGED += [("level-00.safetensors", spoilt("epoch", 1), {})]


@pytest.mark.parametrize(("name", "change", "settings"), FORGED, ids=[*TRAINING, *BEST, "a level in the middle"])
def test_a_state_that_no_training_leaves_is_quarantined(small, tmp_path, monkeypatch, caplog, name, change, settings):
    exp = small(epochs=4, levels=1, **settings)
    monkeypatch.setattr(runs, "SAVE_SECONDS", 0)
    with monkeypatch.context() as patch:
        interrupt_before(1, patch, 2)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(exp, tmp_path / "p")
    run = tmp_path / "p" / exp.run_id
    assert checkpoints.resume(run, exp, new_network(exp))[1]["epoch"] == 2
    caplog.clear()
    forge(run / name, change)
    run_experiment(exp, tmp_path / "p")
    assert f"{name}: " in caplog.text
    whole = run_experiment(exp, tmp_path / "whole" / "p")
    assert (run / "weights.csv").read_bytes() == (whole / "weights.csv").read_bytes()


@pytest.mark.parametrize("listed", ["", "# 0\n", "nothing"])
def test_a_list_of_checksums_without_the_files_of_a_run_does_not_make_it_finished(finished_run, tmp_path, listed):
    exp, whole = finished_run
    run = tmp_path / "p" / exp.run_id
    run.mkdir(parents=True)
    shutil.copy(whole / "config.json", run)
    finalise(run)
    if listed != "nothing":
        (run / SUMS).write_text(listed)
    assert survey([exp], tmp_path / "p")["state"].tolist() == ["damaged"]
    run_experiment(exp, tmp_path / "p")
    assert survey([exp], tmp_path / "p")["state"].tolist() == ["done"]


def collide(monkeypatch, small, **settings):
    """Another experiment than SMALL, with its run_id."""
    exp, other = small(), small(**settings)
    name = exp.run_id
    monkeypatch.setattr(type(exp), "run_id", name)
    return exp, other


@pytest.mark.parametrize(("settings", "said"), [({"seed": 1}, "seed is 0 and not 1"), ({"lr": 0.2}, "lr is 0.1 and")])
def test_the_run_of_another_experiment_with_the_same_name_is_neither_done_nor_written_nor_adopted(
    finished_run, tmp_path, monkeypatch, small, settings, said
):
    _, whole = finished_run
    exp, other = collide(monkeypatch, small, **settings)
    run = tmp_path / "p" / exp.run_id
    shutil.copytree(whole, run)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    assert finished(exp, tmp_path / "p")
    for ask in (finished, run_experiment, lambda exp, folder: survey([exp], folder)):
        with pytest.raises(ConfigError, match=f"is of another experiment with the same run_id, whose {said}"):
            ask(other, tmp_path / "p")
    adopt_finished([other], tmp_path / "q")
    assert not (tmp_path / "q").exists()
    adopt_finished([exp], tmp_path / "q")
    assert finished(exp, tmp_path / "q")
    (run / SUMS).unlink()  # nor is one that is not finished gone on with
    with pytest.raises(ConfigError, match=f"whose {said}"):
        run_experiment(other, tmp_path / "p")
    assert {path.name: path.read_bytes() for path in run.iterdir()} == {k: v for k, v in before.items() if k != SUMS}


def test_nobody_learns_from_the_run_of_another_experiment_with_the_teachers_name(
    finished_run, tmp_path, monkeypatch, small
):
    _, whole = finished_run
    shutil.copytree(whole, tmp_path / "p" / whole.name)
    teacher = small(lr=0.2)
    pupil = small(teacher={"rule": "dense", "experiment": teacher}, temperature=4, alpha=0.9)
    monkeypatch.setattr(type(pupil), "run_id", property(lambda exp: "pupil" if exp.teacher else whole.name))
    with pytest.raises(ConfigError, match=r"whose lr is 0\.1 and not 0\.2"):
        run_experiment(pupil, tmp_path / "p")


def test_tables_are_made_again_without_training(finished_run, tmp_path, monkeypatch):
    exp, whole = finished_run
    run = tmp_path / "p" / exp.run_id
    shutil.copytree(whole, run)
    for name in ("levels.csv", "weights.csv", "emissions.csv"):
        (run / name).write_text("nonsense")
    monkeypatch.setattr(pruning_loop, "train_level", lambda *args: pytest.fail("trained again"))
    run_experiment(exp, tmp_path / "p")
    for name in ("levels.csv", "weights.csv", "emissions.csv"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()


def test_an_unfinished_run_goes_back_no_further_than_its_last_sound_level(small, tmp_path, monkeypatch, caplog):
    trained = []
    train = pruning_loop.train_level

    def spy(net, data, exp, level, *more):
        trained.append(level)
        if level == 4 and len(trained) == 5:
            raise KeyboardInterrupt
        return train(net, data, exp, level, *more)

    monkeypatch.setattr(pruning_loop, "train_level", spy)
    with pytest.raises(KeyboardInterrupt):
        run_experiment(small(), tmp_path)
    run = tmp_path / small().run_id
    path = run / "level-03.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    run_experiment(small(), tmp_path)
    assert trained == [0, 1, 2, 3, 4, 3, 4]
    assert f"{path}: cannot be read as a checkpoint" in caplog.text


def test_a_student_does_not_learn_from_a_damaged_teacher(student, tmp_path):
    exp = student("sparse")
    with pytest.raises(ResultsMissing):
        run_experiment(exp, tmp_path)
    teacher = run_experiment(exp.teacher.experiment, tmp_path)
    table = pd.read_csv(teacher / "levels.csv").assign(val_acc=0.5)
    table.to_csv(teacher / "levels.csv", index=False)
    with pytest.raises(Damaged, match=r"its teacher cannot be used: .*levels\.csv differs from its checksum"):
        run_experiment(exp, tmp_path)


def test_nothing_on_disk_is_a_pickle():
    """safetensors, JSON and CSV only; CIFAR-N, which is a pickle, goes through the reader that builds arrays alone.

    What a worker of a cluster is to call comes pickled over Ray's wire, which is not a disk.
    """
    source = "".join(path.read_text() for path in sorted(Path(sdd_utils.__file__).parent.rglob("*.py")))
    source = source.replace("torch.load(path, weights_only=True)", "").replace("pickle.loads(call)", "")
    for call in ("torch.load(", "pickle.load", "pd.read_pickle", "joblib.load", "np.load(", "yaml.unsafe", "yaml.full"):
        assert call not in source


def test_power_lost_between_any_two_writes_costs_nothing_that_was_finished(small, tmp_path):
    """Kill a run after each of its renames in turn, which are the only moments at which anything on disk changes."""
    exp = small(levels=1)
    whole = run_experiment(exp, tmp_path / "whole" / "p")
    for n in range(1, 40):
        pid = os.fork()
        if pid == 0:
            replace, done = os.replace, 0

            def counted(*args, replace=replace, n=n):
                nonlocal done
                replace(*args)
                done += 1
                if done == n:
                    os.kill(os.getpid(), signal.SIGKILL)

            os.replace = counted
            run_experiment(exp, tmp_path / f"cut{n}" / "p")
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        again = run_experiment(exp, tmp_path / f"cut{n}" / "p")
        for file in whole.glob("*.safetensors"):
            expected, found = load_file(file), load_file(again / file.name)
            assert all(found[key].equal(expected[key]) for key in expected)
        if status == 0:
            break
    assert 10 < n < 39
