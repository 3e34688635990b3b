"""What must hold whatever the numbers are; hypothesis looks for numbers for which it does not."""

import itertools

import numpy as np
import pytest
import torch
from conftest import SMALL
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from sdd_utils.analysis.dip import find_valley, measure_dip, smoothed_mean
from sdd_utils.config import Experiment
from sdd_utils.data import symmetric_noise
from sdd_utils.pruning import SparseNetwork, prune


@pytest.fixture(scope="module", autouse=True)
def every_float():
    """Training flushes denormal numbers to zero, for the whole process; hypothesis wants to try them."""
    torch.set_flush_denormal(False)


seeds = st.integers(0, 2**32 - 1)
accuracies = st.floats(0, 1, width=32)
curves = st.integers(1, 5).flatmap(
    lambda n: arrays(np.float64, st.tuples(st.just(n), st.integers(3, 30)), elements=accuracies)
)


def network(sizes, seed, ties):
    torch.manual_seed(seed)
    model = nn.Sequential(*(nn.Linear(a, b) for a, b in itertools.pairwise(sizes)))
    net = SparseNetwork(model, dict(model.named_children()))
    if ties:
        net.vector.data.mul_(3).round_()
    return net


@given(st.lists(st.integers(1, 12), min_size=2, max_size=4), seeds, st.floats(0.01, 0.99), st.booleans())
@settings(max_examples=60)
def test_masks_shrink_to_the_formula_and_take_the_smallest(sizes, seed, share, ties):
    net, other = network(sizes, seed, ties), network(sizes, seed, ties)
    exp = Experiment.parse(SMALL | {"prune_share": share})
    for level in range(1, 8):
        before, weights = net.mask.clone(), net.weights.abs().clone()
        prune(net, exp, level, data=None)
        prune(other, exp, level, data=None)
        assert torch.equal(net.mask, other.mask)
        assert net.remaining == round(len(before) * (1 - share) ** level)
        gone = before.bool() & ~net.mask.bool()
        assert (net.mask <= before).all()
        assert not net.weights[~net.mask.bool()].any()
        if gone.any() and net.remaining:
            assert weights[gone].max() <= weights[net.mask.bool()].min()


@given(st.integers(2, 100), st.integers(0, 300), st.floats(0, 1, exclude_max=True), seeds)
def test_noise_is_exact_in_number_and_never_the_label_itself(classes, n, rate, seed):
    labels = torch.randint(0, classes, (n,), generator=torch.Generator().manual_seed(seed))
    noisy = symmetric_noise(labels, rate, classes, torch.Generator().manual_seed(seed))
    assert (noisy != labels).sum() == round(rate * n)
    assert ((noisy >= 0) & (noisy < classes)).all()
    assert noisy.dtype == labels.dtype
    assert torch.equal(noisy, symmetric_noise(labels, rate, classes, torch.Generator().manual_seed(seed)))


@given(curves)
def test_phases_follow_one_another_and_divide_the_levels_of_a_dip_between_them(values):
    dip = measure_dip(values)
    borders = list(dip.phases.values())
    assert [name for name in ("light", "critical", "sweet", "collapsed") if name in dip.phases] == list(dip.phases)
    assert borders[0][0] == 0
    assert borders[-1][1] < values.shape[1]
    assert all(first <= last for first, last in borders)
    assert all(end < start for (_, end), (start, _) in itertools.pairwise(borders))
    if dip.is_double_descent:
        assert borders[-1][1] == values.shape[1] - 1
        assert all(end + 1 == start for (_, end), (start, _) in itertools.pairwise(borders))


@given(curves)
def test_no_rise_of_a_curve_is_larger_than_the_one_that_is_found(values):
    curve = np.round(smoothed_mean(values), 9)
    rises = [after - before for before, after in itertools.combinations(curve[1:], 2)]
    if valley := find_valley(curve):
        assert 1 <= valley.light <= valley.bottom < valley.sweet < len(curve)
        assert curve[valley.sweet] - curve[valley.bottom] == max(rises)
        assert curve[valley.light] == curve[1 : valley.bottom + 1].max()
    else:
        assert max(rises, default=0) <= 0


@given(curves)
def test_curves_that_only_fall_show_no_double_descent(values):
    dip = measure_dip(np.sort(values, axis=1)[:, ::-1])
    assert not dip.is_double_descent
    assert not dip.rebounds.any()


@given(curves, st.randoms())
def test_the_order_of_the_seeds_within_each_half_does_not_matter(values, rng):
    values = np.round(values * 256) / 256  # so that sums are exact in any order
    halves = [list(range(first, len(values), 2)) for first in (0, 1)] if len(values) > 3 else [[*range(len(values))]]
    order = np.arange(len(values))
    for half in halves:
        order[half] = rng.sample(half, len(half))
    one, other = measure_dip(values), measure_dip(values[order])
    assert one.rebounds[order].tolist() == other.rebounds.tolist()
    assert one.valley == other.valley


CHANGES = {
    "seed": st.integers(0, 10**6),
    "val_share": st.floats(0.01, 0.99),
    "noise_rate": st.integers(0, 8).map(lambda tenths: tenths / 10),
    "crop_padding": st.integers(0, 9),
    "flip": st.booleans(),
    "width": st.integers(1, 999),
    "epochs": st.integers(1, 999),
    "batch_size": st.integers(1, 999),
    "lr": st.floats(1e-9, 10),
    "momentum": st.floats(0, 1, exclude_max=True),
    "weight_decay": st.floats(0, 10).map(lambda number: float(f"{number:.6g}")),
    "levels": st.integers(0, 99),
    "prune_share": st.floats(0.01, 0.99),
    "retrain": st.sampled_from(["lr", "init", "random"]),
}
described = st.fixed_dictionaries({}, optional=CHANGES)


@given(described, st.randoms())
def test_equal_settings_have_equal_names_however_they_are_written(changes, rng):
    plain = SMALL | changes
    exp = Experiment.parse(plain)
    items = list(exp.model_dump(mode="json").items())  # all defaults written out, lists for tuples, another order
    rng.shuffle(items)
    assert Experiment.parse(dict(items)).run_id == exp.run_id
    whole = {k: int(v) if isinstance(v, float) and v == int(v) else v for k, v in plain.items()}
    negative = {k: -0.0 if k in ("noise_rate", "momentum", "weight_decay") and v == 0 else v for k, v in whole.items()}
    assert Experiment.parse(negative).run_id == exp.run_id


@given(described, st.sampled_from(sorted(CHANGES)), st.data())
def test_any_change_gives_another_name(changes, field, data):
    exp = Experiment.parse(SMALL | changes)
    other = Experiment.parse(SMALL | changes | {field: data.draw(CHANGES[field])})
    assert (exp == other) == (exp.run_id == other.run_id)
    assert Experiment.parse(SMALL | changes).run_id == exp.run_id


@pytest.mark.parametrize("field", ["width", "epochs", "levels", "crop_padding", "lr", "weight_decay", "prune_share"])
def test_a_student_of_another_teacher_has_another_name(small, field):
    """The teacher's settings are part of the student's, as far as they may differ."""
    value = 1 if field in ("width", "epochs", "levels", "crop_padding") else 0.3125
    one, other = small(), small(**{field: value})
    first, second = (small(teacher={"rule": "dense", "experiment": e}, temperature=4, alpha=0.5) for e in (one, other))
    assert first.run_id != second.run_id
