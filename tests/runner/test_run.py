import json
import socket
import time
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import HANG, SMALL_VIT, interrupt_before, needs_gpu
from safetensors.torch import load_file

from sdd_utils import pruning_loop, training
from sdd_utils.distillation import select_level
from sdd_utils.errors import ConfigError, ResultsMissing, Stopped
from sdd_utils.metrics import energy
from sdd_utils.runner import checkpoints
from sdd_utils.runner import run as runs
from sdd_utils.runner.integrity import finished
from sdd_utils.runner.locks import claimed
from sdd_utils.runner.provenance import provenance
from sdd_utils.runner.run import run_experiment
from sdd_utils.tables import LEVEL_COLUMNS, MEASURED_ON_THE_CLOCK


def rows(run):
    return pd.read_csv(run / "levels.csv", keep_default_na=False).drop(columns=MEASURED_ON_THE_CLOCK)


def weights(run):
    return {path.name: load_file(path) for path in run.glob("*.safetensors")}


def assert_same(one, other):
    pd.testing.assert_frame_equal(rows(one), rows(other), check_exact=True)
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[f][name], second[f][name]) for f in first for name in first[f])
    assert (one / "weights.csv").read_bytes() == (other / "weights.csv").read_bytes()


KINDS = [{}, {"retrain": "init"}, {"retrain": "random"}, SMALL_VIT, {"arch": "resnet18", "width": 4}, {"flip": True}]
KINDS += [{"patience": 9, "dense_epochs": 5}, {"mixup": 0.4, "dropout": 0.2, "criterion": "random"}]
KINDS += [{"one_shot": True, "structure": "units"}]


def of_kind(small, settings, **more):
    return small(settings | more) if "vit" in settings else small(**(settings | more))


@pytest.mark.parametrize("settings", KINDS)
def test_a_run_resumed_between_levels_equals_an_uninterrupted_one(small, tmp_path, monkeypatch, settings):
    exp = of_kind(small, settings)
    whole = run_experiment(exp, tmp_path / "whole" / "p")
    for level in (0, 1, 3):
        with monkeypatch.context() as patch:
            interrupt_before(level, patch)
            with pytest.raises(KeyboardInterrupt):
                run_experiment(exp, tmp_path / "cut" / "p")
        assert not finished(exp, tmp_path / "cut" / "p")
    assert_same(whole, run_experiment(exp, tmp_path / "cut" / "p"))


ON_A_GPU = [pytest.param("cuda", settings, marks=needs_gpu) for settings in (SMALL_VIT, {"arch": "resnet18"})]


@pytest.mark.parametrize(("device", "settings"), [*(("cpu", settings) for settings in KINDS), *ON_A_GPU])
def test_a_run_resumed_within_levels_equals_an_uninterrupted_one(small, tmp_path, monkeypatch, device, settings):
    """Optimiser moments, learning rate, shuffled order and the states of torch's random generators included."""
    monkeypatch.setattr(runs, "SAVE_SECONDS", 0)
    exp = of_kind(small, settings, epochs=4, levels=2)
    whole = run_experiment(exp, tmp_path / "whole" / "p", device)
    expected = torch.rand(3).tolist()
    for level, epoch in ((0, 1), (1, 2), (2, 3)):
        with monkeypatch.context() as patch:
            interrupt_before(level, patch, epoch)
            with pytest.raises(KeyboardInterrupt):
                run_experiment(exp, tmp_path / "cut" / "p", device)
        torch.rand(1, device=device)
    cut = run_experiment(exp, tmp_path / "cut" / "p", device)
    assert torch.rand(3).tolist() == expected
    assert_same(whole, cut)


def test_a_state_within_a_level_is_used(small, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "SAVE_SECONDS", 0)
    exp = small(epochs=4, levels=0)
    with monkeypatch.context() as patch:
        interrupt_before(0, patch, epoch=3)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(exp, tmp_path)
    seen = []
    shuffle = training.batches
    monkeypatch.setattr(training, "batches", lambda *args: seen.append(1) or shuffle(*args))
    run = run_experiment(exp, tmp_path)
    assert len(seen) == 1
    assert len(pd.read_csv(run / "emissions.csv")) == 4  # three that were saved, and the last


def test_a_state_within_a_level_that_is_trained_again_is_used_too(small, tmp_path, monkeypatch):
    """Level 0 of a finished run is damaged; the levels after it are sound, and of no use without it."""
    monkeypatch.setattr(runs, "SAVE_SECONDS", 0)
    exp = small(epochs=4, levels=2)
    run = run_experiment(exp, tmp_path)
    whole = rows(run)
    (run / "level-00.safetensors").write_bytes(b"damaged")
    for epochs in (2, 3):  # two, and one more from there
        with monkeypatch.context() as patch:
            interrupt_before(0, patch, epoch=2 if epochs == 2 else 1)
            with pytest.raises(KeyboardInterrupt):
                run_experiment(exp, tmp_path)
        assert load_file(run / "checkpoint.safetensors")["training.epoch"] == epochs
    pd.testing.assert_frame_equal(rows(run_experiment(exp, tmp_path)), whole)


def test_a_state_within_a_level_is_of_no_use_when_a_level_before_it_is_lost(small, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "SAVE_SECONDS", 0)
    exp = small(epochs=4, levels=3)
    whole = run_experiment(exp, tmp_path / "whole" / "p")
    with monkeypatch.context() as patch:
        interrupt_before(2, patch, epoch=2)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(exp, tmp_path / "cut" / "p")
    (tmp_path / "cut" / "p" / exp.run_id / "level-00.safetensors").write_bytes(b"damaged")
    assert_same(whole, run_experiment(exp, tmp_path / "cut" / "p"))


def test_provenance_is_of_all_that_have_trained_and_of_nobody_else(small, tmp_path, monkeypatch):
    exp = small(levels=2)
    monkeypatch.setattr(runs, "commit", lambda: "a" * 40)
    with monkeypatch.context() as patch:
        interrupt_before(1, patch)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(exp, tmp_path)
    monkeypatch.setattr(runs, "commit", lambda: "b" * 40)
    run = run_experiment(exp, tmp_path)
    record = (run / "provenance.json").read_text()
    assert json.loads(record)["commit"] == f"{'a' * 40}, {'b' * 40}"
    monkeypatch.setattr(runs, "commit", lambda: "c" * 40)
    (run / "weights.csv").write_text("damaged")
    run_experiment(exp, tmp_path)  # writes the tables again, and trains nothing
    assert (run / "provenance.json").read_text() == record


def test_provenance_needs_no_package_that_training_does_not(monkeypatch):
    def version(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", version)
    assert set(provenance()["packages"].values()) == {None}


def test_more_levels_than_there_are_weights_are_refused_before_training(small, tmp_path):
    with pytest.raises(ConfigError, match=r"levels: after \d+ of 20 there is hardly anything left to prune: 1 of 1440"):
        run_experiment(small(prune_share=0.5, levels=20), tmp_path)


def test_no_epoch_is_begun_that_would_end_after_the_deadline(tmp_path, monkeypatch):
    meter = SimpleNamespace(start=lambda name: None, stop=dict)
    monkeypatch.setattr(runs, "energy_meter", lambda device: meter)
    with claimed(tmp_path / "run") as lock:
        segment = runs.SegmentClock(checkpoints.History(), "cpu", time.time() + HANG, lock)
        segment.begin()
        segment.epoch_began -= 0.7 * HANG
        assert segment.must_save()
        segment.end()
        with pytest.raises(Stopped):
            segment.begin()


def test_a_kill_between_the_checkpoint_and_the_table_loses_no_row(small, tmp_path, monkeypatch):
    whole = run_experiment(small(), tmp_path / "whole" / "p")
    with monkeypatch.context() as patch:
        write = runs.write_csv

        def killed(path, table):
            if path.name == "levels.csv" and len(table) == 5:
                raise KeyboardInterrupt
            write(path, table)

        patch.setattr(runs, "write_csv", killed)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(small(), tmp_path / "cut" / "p")
    assert_same(whole, run_experiment(small(), tmp_path / "cut" / "p"))


def test_finished_levels_are_not_trained_again(small, tmp_path, monkeypatch):
    trained = []
    train = pruning_loop.train_level
    monkeypatch.setattr(
        pruning_loop,
        "train_level",
        lambda net, data, exp, level, *more: trained.append(level) or train(net, data, exp, level, *more),
    )
    with monkeypatch.context() as patch:
        interrupt_before(2, patch)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(small(), tmp_path)
    run_experiment(small(), tmp_path)
    run_experiment(small(), tmp_path)
    assert trained == [0, 1, 2, 3, 4]


def test_numbers_do_not_depend_on_what_ran_before(small, tmp_path):
    alone = run_experiment(small(SMALL_VIT), tmp_path / "alone" / "p")
    run_experiment(small(seed=7), tmp_path / "after" / "p")
    torch.rand(100)
    torch.set_num_threads(2)
    assert_same(alone, run_experiment(small(SMALL_VIT), tmp_path / "after" / "p"))


def test_a_run_has_the_files_and_columns_of_the_contract(small, tmp_path):
    exp = small()
    run = run_experiment(exp, tmp_path / "mine")
    table = pd.read_csv(run / "levels.csv", keep_default_na=False)
    assert list(table.columns) == LEVEL_COLUMNS
    assert table["level"].tolist() == [0, 1, 2, 3, 4]
    assert set(table["run_id"]) == {exp.run_id}
    assert set(table["profile"]) == {"mine"}
    assert set(table["teacher"]) == {"none"}
    assert set(table["temperature"]) == {""}
    assert table["sparsity"].tolist() == pytest.approx([1 - 0.8**i for i in range(5)], abs=1e-3)
    state = load_file(run / "level-04.safetensors")
    assert int(state["mask"].sum()) == table["remaining_params"].iat[-1]
    assert not state["vector"][: len(state["mask"])][~state["mask"]].any()
    assert json.loads((run / "config.json").read_text()) == exp.model_dump(mode="json")
    assert {"commit", "packages", "started", "ended"} <= json.loads((run / "provenance.json").read_text()).keys()
    histogram = pd.read_csv(run / "weights.csv").groupby("level")["count"].sum()
    assert histogram.tolist() == table["remaining_params"].tolist()


@pytest.mark.parametrize("rule", ["dense", "sparse"])
def test_a_student_learns_from_the_level_that_the_rule_names(student, tmp_path, monkeypatch, rule):
    exp = student(rule)
    parent = run_experiment(exp.teacher.experiment, tmp_path)
    expected = select_level(pd.read_csv(parent / "levels.csv"), rule)
    state = load_file(parent / f"level-{expected:02d}.safetensors")
    seen = []
    train = pruning_loop.train_level

    def spy(net, data, exp, level, teacher, *more):
        seen.append(teacher.vector.detach().clone())
        return train(net, data, exp, level, teacher, *more)

    monkeypatch.setattr(pruning_loop, "train_level", spy)
    run = run_experiment(exp, tmp_path)
    assert len(seen) == 5
    assert all(torch.equal(vector, state["vector"]) for vector in seen)
    assert json.loads((run / "provenance.json").read_text())["teacher"] == {"run_id": parent.name, "level": expected}
    assert set(rows(run)["teacher"]) == {rule}


def test_a_student_without_its_teacher_is_refused(student, tmp_path):
    exp = student()
    with pytest.raises(ResultsMissing, match=rf"its teacher {exp.teacher.experiment.run_id} has not been trained"):
        run_experiment(exp, tmp_path)


def test_rewinding_starts_each_level_from_other_weights(small, tmp_path, monkeypatch):
    starts = {}
    monkeypatch.setattr(
        pruning_loop,
        "train_level",
        lambda net, data, exp, *_: starts.setdefault(exp.retrain, []).append(net.vector.detach().clone()) or (1, 1),
    )
    for retrain in ("lr", "init", "random"):
        run_experiment(small(retrain=retrain, levels=2), tmp_path)
    dense, pruned, further = starts["init"]
    assert torch.equal(pruned[pruned != 0], dense[pruned != 0])
    assert [int((weights == 0).sum()) for weights in (pruned, further)] == [1440 - 1152, 1440 - 922]  # of 1,440, 20 %
    one, other = starts["random"][1:]
    both = (one != 0) & (other != 0)
    assert not torch.equal(one[both], other[both])
    assert not torch.equal(starts["random"][1], starts["init"][1])


def test_the_teachers_level_is_chosen_on_the_split_that_the_settings_name(student, tmp_path, monkeypatch):
    chosen_on = []

    def spy(rows, rule, selection="validation"):
        chosen_on.append(selection)
        return select_level(rows, rule, selection)

    monkeypatch.setattr(runs, "select_level", spy)
    for exp in (student("sparse"), student("sparse").model_copy(update={"selection": "test"})):
        run_experiment(exp.teacher.experiment, tmp_path)
        run_experiment(exp, tmp_path)
    assert chosen_on == ["validation", "test"]


def test_levels_that_nobody_can_ask_for_are_removed(small, tmp_path):
    run = run_experiment(small(levels=20), tmp_path)
    table = pd.read_csv(run / "levels.csv")
    sparse = [select_level(table, "sparse", selection) for selection in ("validation", "test")]
    shown = [(table["sparsity"] - share).abs().idxmin() for share in (0.9, 0.99)]
    keep = {0, *sparse, *shown}
    assert {int(path.stem.split("-")[1]) for path in run.glob("level-*.safetensors")} == keep


def test_the_best_level_by_the_test_set_is_kept_for_students_that_learn_from_it(small):
    exp, level = small(levels=20), np.arange(21)
    measured = {"level": level, "sparsity": 1 - 0.8**level, "val_acc": 0.5 + level / 100}
    table = pd.DataFrame(measured | {"test_acc": 0.9 - abs(level - 5) / 100})
    history = checkpoints.History(rows=table.to_dict("records"))
    assert select_level(table, "sparse", "test") == 5
    assert checkpoints.wanted_levels(exp, history) == {0, 5, 10, 20}  # dense, by test, 90 %, best and 99 %


def test_levels_are_kept_by_the_numbers_that_students_will_read(small, tmp_path):
    """Rounding can make a tie between levels, so the choice must be made on the rounded numbers both times."""
    exp, level = small(levels=20), np.arange(21)
    measured = {"level": level, "sparsity": 1 - 0.8**level}
    better = 0.7 + 1e-8 * (level == 8)  # by less than levels.csv shows
    table = pd.DataFrame(measured | {"val_acc": better, "test_acc": better})
    assert table["val_acc"].idxmax() == 8
    history = checkpoints.History(rows=table.to_dict("records"))
    runs.write_tables(tmp_path, exp, history)
    written = pd.read_csv(tmp_path / "levels.csv")
    assert select_level(written, "sparse") == 20  # of equals the sparser
    assert checkpoints.wanted_levels(exp, history) == {0, 10, 20}  # dense, 90 %, sparse


def test_a_run_opens_no_connection(small, tmp_path, monkeypatch):
    """Not even codecarbon's tracker, which is made anew here."""
    asked = []

    def refuse(*args, **kwargs):
        asked.append(args)
        raise OSError("no network")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    energy.energy_meter.cache_clear()
    table = pd.read_csv(run_experiment(small(), tmp_path) / "levels.csv")
    assert asked == []
    assert len(table) == 5
