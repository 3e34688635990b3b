"""The loop by itself, in a plain Python session, and the same loop made durable by ``runner``."""

import io
import math

import pandas as pd
import pytest
import torch
from conftest import SMALL_VIT

from sdd_utils.data import load
from sdd_utils.distillation import select_level
from sdd_utils.errors import ConfigError
from sdd_utils.evaluation import measure_level
from sdd_utils.files import as_csv, read_csv
from sdd_utils.pruning import new_network, prune
from sdd_utils.pruning_loop import iterative_pruning, train_teacher
from sdd_utils.runner.run import run_experiment
from sdd_utils.training import train_level


def as_written(levels):
    """What levels.csv would show of them."""
    return read_csv(io.StringIO(as_csv(pd.DataFrame(level.row for level in levels))))


def assert_as_the_runner_writes_it(exp, folder):
    if exp.teacher:
        run_experiment(exp.teacher.experiment, folder)
    written = read_csv(run_experiment(exp, folder) / "levels.csv")
    measured = as_written(iterative_pruning(exp, load(exp)))
    assert len(measured) == exp.levels + 1
    assert {"sparsity", "train_loss", "val_acc", "test_acc", "memorised", "weight_std"} <= set(measured)
    pd.testing.assert_frame_equal(measured, written[list(measured)], check_exact=True)


@pytest.mark.parametrize("settings", [{}, {"retrain": "random"}, {"arch": "resnet18", "width": 4, "levels": 2}])
def test_a_vanilla_curve_in_memory_is_what_the_runner_writes(small, tmp_path, settings):
    assert_as_the_runner_writes_it(small(**settings), tmp_path)


@pytest.mark.parametrize("rule", ["dense", "sparse"])
def test_a_student_trains_its_own_teacher_and_is_what_the_runner_writes(student, tmp_path, rule):
    assert_as_the_runner_writes_it(student(rule, levels=8), tmp_path)


def test_a_student_in_memory_with_dropout_is_what_the_runner_writes(small, tmp_path):
    """The teacher is trained in the same process just before, which must not change what the student draws."""
    vit = {**SMALL_VIT, "levels": 2, "vit": SMALL_VIT["vit"] | {"dropout": 0.1}}
    taught = {"teacher": {"rule": "sparse", "experiment": vit}, "temperature": 4, "alpha": 0.9}
    assert_as_the_runner_writes_it(small(vit, **taught), tmp_path)


def test_the_teacher_is_the_level_that_the_rule_picks_of_its_own_curve(student):
    exp = student("sparse", levels=8)
    data = load(exp)
    curve = [
        (level.row, level.network.vector.detach().clone()) for level in iterative_pruning(exp.teacher.experiment, data)
    ]
    chosen = select_level(pd.DataFrame(row for row, _ in curve), "sparse")
    assert chosen > 0
    assert torch.equal(train_teacher(exp, data).vector, curve[chosen][1])


def test_of_a_dense_teacher_no_pruned_level_is_trained(student, monkeypatch):
    exp, trained = student("dense", levels=8), []
    train = train_level
    monkeypatch.setattr("sdd_utils.pruning_loop.train_level", lambda *given: trained.append(given[3]) or train(*given))
    train_teacher(exp, load(exp))
    assert trained == [0]


def test_a_teacher_that_is_given_is_not_trained(student, monkeypatch):
    exp = student()
    monkeypatch.setattr("sdd_utils.pruning_loop.train_teacher", lambda *_: pytest.fail("trained"))
    teacher = new_network(exp.teacher.experiment)
    assert len(list(iterative_pruning(exp, load(exp), teacher))) == exp.levels + 1


def test_each_level_is_measured_on_the_network_that_comes_with_it(small):
    exp = small(levels=2)
    data, left = load(exp), []
    for number, level in enumerate(iterative_pruning(exp, data)):
        assert level.level == number
        assert measure_level(number, level.network, data, epochs=(2, 2)) == level
        assert not level.network.weights[level.network.mask == 0].any()
        assert level.network.remaining == level.remaining_params
        left.append(level.remaining_params)
    assert left == [1440, round(0.8 * 1440), round(0.64 * 1440)]


def test_a_curve_may_be_left_early_and_gone_on_with_from_a_level(small):
    exp = small(levels=3)
    data = load(exp)
    curve = iterative_pruning(exp, data)
    first = [next(curve) for _ in range(2)]
    net = new_network(exp)
    net.load_state(first[1].network.state())
    rest = list(iterative_pruning(exp, data, resume=(net, 2, {})))
    pd.testing.assert_frame_equal(as_written([*first, *rest]), as_written(iterative_pruning(exp, data)))


def test_one_shot_pruning_takes_every_level_from_the_trained_dense_network(small):
    exp = small(levels=2, one_shot=True)
    data, curve = load(exp), []
    for level in iterative_pruning(exp, data):
        curve.append((level.row, {name: tensor.clone() for name, tensor in level.network.state().items()}))
    net = new_network(exp)
    net.load_state(curve[0][1])
    prune(net, exp, 2, data)
    expected = net.mask.clone()
    train_level(net, data, exp, 2, None)
    assert torch.equal(net.vector, curve[2][1]["vector"])
    assert torch.equal(expected.bool(), curve[2][1]["mask"])


def test_after_each_epoch_but_the_last_it_hands_over_the_network_and_a_state_to_go_on_from(small):
    exp = small(epochs=3, levels=1)
    data, states = load(exp), []

    def keep(net, state):
        net_state = {name: value.clone() for name, value in net.state().items()}
        states.append((net_state, {name: value.clone() for name, value in state().items()}))

    whole = as_written(iterative_pruning(exp, data, after_epoch=keep))
    assert [int(training["epoch"]) for _, training in states] == [1, 2, 1, 2]
    net = new_network(exp)
    net.load_state(states[2][0])
    (last,) = iterative_pruning(exp, data, resume=(net, 1, states[2][1]))
    pd.testing.assert_frame_equal(as_written([last]), whole[1:].reset_index(drop=True))


def test_without_wrong_labels_nothing_is_memorised_and_it_says_so(small):
    exp = small(noise_rate=0.0, levels=0)
    (level,) = iterative_pruning(exp, load(exp))
    assert math.isnan(level.memorised)


def test_more_levels_than_there_are_weights_are_refused_before_anything_is_trained(small, monkeypatch):
    exp = small(prune_share=0.5, levels=20)
    monkeypatch.setattr("sdd_utils.pruning_loop.train_level", lambda *_: pytest.fail("trained"))
    with pytest.raises(ConfigError, match=r"levels: after .* hardly anything left to prune"):
        next(iterative_pruning(exp, load(exp)))
