import pytest
import torch
import torch.nn.functional as F

from sdd_utils.data import batches, load
from sdd_utils.losses import generalised_cross_entropy, label_smoothing, loss_of_labels, symmetric_cross_entropy
from sdd_utils.pruning import new_network
from sdd_utils.seeding import generator
from sdd_utils.training import train_level

LOGITS = torch.tensor([[1.0, 2.0, -1.0], [0.5, 0.0, 0.3]])
LABELS = torch.tensor([0, 2])
P = LOGITS.softmax(1)[torch.arange(2), LABELS]  # of the labels


def test_smoothed_labels_are_spread_over_all_classes():
    targets = 0.7 * F.one_hot(LABELS, 3) + 0.1
    expected = -(targets * LOGITS.log_softmax(1)).sum(1).mean()
    assert label_smoothing(LOGITS, LABELS, 0.3).item() == pytest.approx(expected.item())


def test_generalised_cross_entropy_goes_from_cross_entropy_to_the_share_of_wrong_answers():
    assert generalised_cross_entropy(LOGITS, LABELS, 0.7).item() == pytest.approx(((1 - P**0.7) / 0.7).mean().item())
    assert generalised_cross_entropy(LOGITS, LABELS, 1).item() == pytest.approx((1 - P).mean().item())
    near = generalised_cross_entropy(LOGITS, LABELS, 1e-4).item()
    assert near == pytest.approx(F.cross_entropy(LOGITS, LABELS).item(), rel=1e-3)


def test_symmetric_cross_entropy_adds_the_reverse_with_minus_four_for_the_logarithm_of_zero():
    targets = F.one_hot(LABELS, 3)
    logarithms = torch.where(targets == 1, 0.0, -4.0)
    reverse = -(LOGITS.softmax(1) * logarithms).sum(1).mean()
    expected = 0.1 * F.cross_entropy(LOGITS, LABELS) + reverse
    assert symmetric_cross_entropy(LOGITS, LABELS, 0.1).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("loss", ["smoothing", "gce", "sce"])
def test_a_label_of_no_probability_at_all_has_a_finite_gradient(small, loss):
    logits = torch.tensor([[500.0, -500.0, 0.0]], requires_grad=True)
    loss_of_labels(logits, torch.tensor([1]), small(loss=loss, loss_parameter=0.7)).backward()
    assert logits.grad.isfinite().all()


def test_robust_losses_hold_on_less_to_a_label_that_the_network_rejects(small):
    """Which is what they are for: the gradient at a wrong label, in proportion to that at an uncertain one."""

    def pull(settings, logit):
        logits = torch.tensor([[logit, 0.0]], requires_grad=True)
        loss_of_labels(logits, torch.tensor([1]), small(**settings)).backward()
        return logits.grad.abs().max().item()

    plain, gce, sce = ({}, {"loss": "gce", "loss_parameter": 0.7}, {"loss": "sce", "loss_parameter": 0.1})
    rejected = [pull(settings, 5.0) / pull(settings, 0.0) for settings in (plain, gce, sce)]
    assert rejected[0] > 1.9
    assert max(rejected[1:]) < 0.5


def test_a_mixture_counts_both_labels_by_their_shares(small):
    exp, share = small(mixup=1.0), torch.tensor([0.3])
    own, before = F.cross_entropy(LOGITS, LABELS), F.cross_entropy(LOGITS, LABELS.roll(1))
    mixed = loss_of_labels(LOGITS, LABELS, exp, share)
    assert mixed.shape == ()
    assert mixed.item() == pytest.approx((0.3 * own + 0.7 * before).item())


def test_images_are_mixed_with_those_whose_labels_count_and_by_the_same_share(small):
    exp = small(mixup=1.0, batch_size=400, epochs=1)
    data, seen = load(exp), []
    net = new_network(exp)
    net.model.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
    train_level(net, data, exp, 0, None)
    plain = batches(data.train, small(batch_size=400), generator(exp.seed, "batches", 0))
    for images, batch, other in zip(
        seen, batches(data.train, exp, generator(exp.seed, "batches", 0)), plain, strict=True
    ):
        assert torch.equal(batch.index, other.index)  # the order does not follow from mixup
        own = data.train.normalise(data.train.images[batch.index])
        expected = batch.share * own + (1 - batch.share) * own.roll(1, 0)
        torch.testing.assert_close(images, expected)


def test_shares_are_drawn_from_beta(small):
    split = load(small()).train
    shares = [batch.share.item() for batch in batches(split, small(mixup=0.2, batch_size=1), generator(0))]
    assert all(0 <= share <= 1 for share in shares)
    assert sum(share < 0.1 or share > 0.9 for share in shares) / len(shares) == pytest.approx(0.67, abs=0.08)
    assert len(set(shares)) > 0.9 * len(shares)


def test_a_student_asks_its_teacher_about_the_mixtures(student):
    exp, asked = student(mixup=1.0, epochs=1), []
    data = load(exp)
    teacher = new_network(exp.teacher.experiment)
    teacher.model.register_forward_hook(lambda _, images, __: asked.append(len(images[0])))
    train_level(new_network(exp), data, exp, 0, teacher)
    assert sum(asked) == 800
    assert max(asked) == exp.batch_size
