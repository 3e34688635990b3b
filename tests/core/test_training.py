import math

import pytest
import torch
import torch.nn.functional as F
from conftest import SMALL, SMALL_VIT

from benchmarks import conventional
from sdd_utils.data import augmented, batches, load, pad
from sdd_utils.distillation import distillation_loss
from sdd_utils.errors import TrainingDiverged
from sdd_utils.evaluation import measure, predict
from sdd_utils.execution import Execution
from sdd_utils.models import prunable_layers
from sdd_utils.pruning import new_network, prune
from sdd_utils.pruning_loop import iterative_pruning
from sdd_utils.seeding import generator
from sdd_utils.training import check_training_state, make_optimizer, train_level, train_step


def test_distillation_loss_is_the_papers_formula_written_out():
    student, teacher = (
        torch.tensor([[1.0, 2.0, -1.0], [0.5, 0.0, 0.3]]),
        torch.tensor([[0.0, 3.0, 1.0], [1.0, 1.0, 0.0]]),
    )
    labels, tau, alpha = torch.tensor([0, 2]), 4.0, 0.9
    expected = 0.0
    for s, t, y in zip(student, teacher, labels, strict=True):
        p, q, plain = (t / tau).softmax(0), (s / tau).softmax(0), s.softmax(0)
        kl = sum(p[c] * (p[c].log() - q[c].log()) for c in range(3))
        expected += ((1 - alpha) * -plain[y].log() + alpha * tau**2 * kl) / 2
    hard = F.cross_entropy(student, labels)
    assert distillation_loss(hard, student, teacher, tau, alpha).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_ends_of_alpha_are_plain_training_and_pure_imitation():
    student, teacher = torch.randn(5, 10), torch.randn(5, 10)
    plain = F.cross_entropy(student, torch.arange(5))
    assert distillation_loss(plain, student, teacher, 4, 0).item() == pytest.approx(plain.item())
    assert distillation_loss(plain, teacher, teacher, 4, 1).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("distilled", [False, True])
@pytest.mark.parametrize("settings", [{"arch": "mlp"}, {"arch": "resnet18", "width": 4}, SMALL_VIT])
def test_a_level_equals_the_conventional_loop(small, settings, distilled):
    """The same batches, augmented, through torch.nn.utils.prune's masks and a plain optimiser over the layers."""
    settings = (settings if "vit" in settings else SMALL | settings) | {"crop_padding": 1, "flip": True}
    settings |= {"batch_size": 400}  # few steps: training amplifies rounding
    exp = small(settings)
    if distilled:
        exp = small(settings, teacher={"rule": "dense", "experiment": small(settings)}, temperature=2, alpha=0.8)
    if exp.vit:
        exp = exp.model_copy(update={"vit": exp.vit.model_copy(update={"dropout": 0.0})})
    data = load(exp)
    teacher = new_network(exp.model_copy(update={"seed": 9})) if distilled else None
    net = new_network(exp)
    prune(net, exp, 3, data)
    train_level(net, data, exp, 3, teacher)

    model = conventional.masked_model(exp, net.mask, torch.device("cpu"))
    optimizer, rng = conventional.optimizer_of(model, exp), generator(exp.seed, "batches", 3)
    model.train()
    for epoch in range(exp.epochs):
        for group in optimizer.param_groups:
            cosine = exp.lr * (1 + math.cos(math.pi * epoch / exp.epochs)) / 2
            group["lr"] = cosine if exp.optimizer == "adamw" else exp.lr * 0.1 ** (epoch >= 1)  # the one milestone
        for batch in batches(data.train, exp, rng):
            images = data.train.normalise(augmented(pad(data.train.images, 1), batch, 1))
            labels = data.train.labels[batch.index]
            conventional.step(model, optimizer, images, labels, exp, teacher and teacher.model)
    torch.testing.assert_close(predict(net.model, data.test), predict(model, data.test), rtol=1e-3, atol=1e-4)
    for layer, mask in zip(prunable_layers(model, exp).values(), net.mask.split(net.sizes), strict=True):
        assert not layer.weight[~mask.view_as(layer.weight).bool()].any()


def test_the_conventional_loaders_give_the_same_images(small):
    exp = small()
    data = load(exp)
    images = torch.cat([batch for batch, _ in conventional.loader(data.test, exp, training=False, workers=0)])
    torch.testing.assert_close(images, data.test.normalise(data.test.images), rtol=1e-5, atol=1e-5)


def test_bfloat16_agrees_with_float32_on_a_small_problem(small):
    results = []
    for amp in (False, True):
        exp = small(epochs=8, noise_rate=0.0, amp=amp, width=64)
        data = load(exp)
        net = new_network(exp)
        train_level(net, data, exp, 0, None)
        assert net.vector.dtype == torch.float32
        results.append(measure(net, data.test, amp))
    plain, mixed = results
    assert plain != mixed  # it was on
    assert plain.accuracy > 0.85
    assert mixed.accuracy == pytest.approx(plain.accuracy, abs=0.02)
    assert mixed.loss == pytest.approx(plain.loss, abs=0.05)


def test_sgd_divides_the_rate_at_the_milestones_and_adamw_follows_a_cosine(small):
    def rates(exp):
        optimizer, schedule = make_optimizer(new_network(exp), exp)
        seen = []
        for _ in range(exp.epochs):
            seen.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return seen

    assert rates(small(epochs=8, milestones=(0.5, 0.75))) == pytest.approx([0.1] * 4 + [0.01] * 2 + [0.001] * 2)
    assert rates(small(SMALL_VIT, epochs=4))[0] == pytest.approx(2e-3)
    assert rates(small(SMALL_VIT, epochs=4))[2] == pytest.approx(1e-3)


def test_the_dense_level_has_a_schedule_of_its_own(small):
    exp = small(epochs=2, dense_epochs=8, milestones=(0.5, 0.75))
    for level, milestones in ((0, {4: 1, 6: 1}), (1, {1: 1, 2: 1})):
        _, schedule = make_optimizer(new_network(exp), exp, level)
        assert schedule.milestones == milestones
    data = load(exp)
    assert train_level(new_network(exp), data, exp, 0, None) == (8, 8)
    assert train_level(new_network(exp), data, exp, 1, None) == (2, 2)


def test_early_stopping_keeps_the_epoch_that_validation_likes_best(small):
    exp = small(epochs=12, patience=3, width=64, milestones=(0.9,))
    data, seen = load(exp), []

    def after_epoch(net, _):
        seen.append((measure(net, data.val).accuracy, net.vector.detach().clone()))

    train_level(new_network(exp), data, exp.model_copy(update={"patience": None}), 0, None, after_epoch=after_epoch)
    accuracies = [accuracy for accuracy, _ in seen]
    net = new_network(exp)
    epochs, best = train_level(net, data, exp, 0, None)
    assert epochs == best + 3 < 12
    assert best == 1 + accuracies.index(max(accuracies[:epochs]))  # of equals the first
    assert torch.equal(net.vector.data, seen[best - 1][1])


def test_the_first_epoch_has_the_full_rate_however_few_there_are(small):
    exp = small(epochs=1)
    optimizer, _ = make_optimizer(new_network(exp), exp)
    assert optimizer.param_groups[0]["lr"] == exp.lr


@pytest.mark.parametrize("settings", [SMALL | {"weight_decay": 0.5}, SMALL_VIT | {"weight_decay": 0.5}])
def test_weight_decay_is_the_experiments(small, settings):
    exp = small(settings)
    net = new_network(exp)
    before = net.vector.detach().clone()
    optimizer, _schedule = make_optimizer(net, exp)
    optimizer.step()  # without a gradient
    torch.testing.assert_close(net.vector.data, before * (1 - exp.lr * exp.weight_decay), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("amp", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_the_precision_of_a_step_is_the_experiments(small, amp, dtype):
    exp, seen = small(amp=amp), set()
    data = load(exp)
    net = new_network(exp)
    net.model.register_forward_hook(lambda model, _, logits: seen.add((model.training, logits.dtype)))
    train_level(net, data, exp, 0, None)
    assert seen == {(True, dtype)}


def test_a_teacher_with_statistics_of_its_own_is_left_alone_too(student):
    exp = student(arch="resnet18", width=2, epochs=1, crop_padding=1)
    data = load(exp)
    teacher = new_network(exp.teacher.experiment)
    teacher.model.train()
    before = {name: tensor.clone() for name, tensor in teacher.state().items()}
    train_level(new_network(exp), data, exp, 0, teacher)
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state().items())


def test_a_student_imitates_and_the_teacher_is_left_alone(student):
    exp = student(epochs=10, noise_rate=0.0)
    data = load(exp)
    teacher, distilled = new_network(exp.teacher.experiment), new_network(exp.model_copy(update={"seed": 3}))
    before = {name: tensor.clone() for name, tensor in teacher.state().items()}

    def distance():
        target = predict(teacher.model, data.test).softmax(1)
        return (predict(distilled.model, data.test).softmax(1) - target).abs().mean().item()

    far = distance()
    train_level(distilled, data, exp.model_copy(update={"alpha": 1.0}), 0, teacher)
    assert distance() < far / 2
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state().items())


def test_what_the_teacher_says_of_all_images_at_once_goes_to_the_right_ones(student):
    exp = student(epochs=1)
    data = load(exp)
    teacher = new_network(exp.teacher.experiment.model_copy(update={"seed": 9}))
    net, other = new_network(exp), new_network(exp)
    train_level(net, data, exp, 0, teacher)
    optimizer, _schedule = make_optimizer(other, exp)
    for batch in batches(data.train, exp, generator(exp.seed, "batches", 0)):
        images, labels = data.train.images[batch.index], data.train.labels[batch.index]
        train_step(other, optimizer, data.train.normalise(images), labels, exp, teacher, Execution())
    torch.testing.assert_close(net.vector, other.vector, rtol=1e-4, atol=1e-5)


def test_augmented_students_ask_the_teacher_about_the_augmented_images(student):
    for padding, expected in ((0, [800]), (1, [100] * 16)):
        exp, asked = student(crop_padding=padding), []
        data = load(exp)
        teacher = new_network(exp.teacher.experiment)
        teacher.model.register_forward_hook(lambda _, images, __, asked=asked: asked.append(len(images[0])))
        train_level(new_network(exp), data, exp, 0, teacher)
        assert asked == expected


def test_divergence_stops_with_run_level_epoch_and_rate(small):
    exp = small(lr=1e30)
    data = load(exp)
    with pytest.raises(TrainingDiverged, match=rf"{exp.run_id}: loss is nan at level 3, epoch \d, lr 1e\+"):
        train_level(new_network(exp), data, exp, 3, None)


def named(training):
    return {f"training.{name}": value for name, value in training.items()}


def test_a_training_that_a_gpu_began_with_its_rounded_rate_may_go_on(small):
    exp, states = small(epochs=3, momentum=0.9, lr=0.1), []
    net = new_network(exp)
    train_level(net, load(exp), exp, 0, None, None, lambda _, state: states.append(state()))
    rounded = states[0] | {"lr": torch.tensor(0.1).double(), "random.cuda": torch.zeros(16, dtype=torch.uint8)}
    assert rounded["lr"] > 0.1
    check_training_state(net.state() | named(rounded), net, exp, 0)
    higher = states[0] | {"lr": torch.tensor(0.11, dtype=torch.float64)}
    with pytest.raises(ValueError, match=r"training\.epoch = 1 and training\.lr = 0\.11"):
        check_training_state(net.state() | named(higher), net, exp, 0)


def test_a_last_step_that_leads_nowhere_is_noticed_though_its_loss_was_of_before(small):
    exp = small(lr=1e300, batch_size=800, epochs=1, levels=0)
    with pytest.raises(TrainingDiverged, match=f"{exp.run_id}: the weights are not finite after level 0, lr 1e"):
        list(iterative_pruning(exp, load(exp)))
    exp = small(lr=1e38, batch_size=800, epochs=1, levels=0)
    with pytest.raises(TrainingDiverged, match=f"{exp.run_id}: the .* are not finite after level 0, lr 1e"):
        list(iterative_pruning(exp, load(exp)))


def test_measures_count_what_they_say(small):
    exp = small(noise_rate=0.5)
    data = load(exp)
    net = new_network(exp)
    logits = F.one_hot(data.train.labels, 10).float()
    logits[:100] = -logits[:100]  # wrong on the first hundred
    net.model.forward = lambda images: logits
    seen = measure(net, data.train)
    wrong = data.train.corrupted
    assert seen.accuracy == pytest.approx(700 / 800)
    assert seen.loss == pytest.approx(F.cross_entropy(logits, data.train.labels).item())
    assert seen.memorised == pytest.approx(int(wrong[100:].sum()) / int(wrong.sum()))
    assert seen.clean_fit == pytest.approx(int((~wrong)[100:].sum()) / int((~wrong).sum()))
    assert math.isnan(measure(net_saying(net, data.test), data.test).memorised)


def net_saying(net, split):
    net.model.forward = lambda images: F.one_hot(split.labels, 10).float()
    return net
