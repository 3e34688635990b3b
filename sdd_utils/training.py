"""The training loop: one level of one pruning curve, dense or sparse, with or without a teacher."""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR

from sdd_utils.config import Experiment
from sdd_utils.data import Batch, Data, augmented, batches, pad
from sdd_utils.distillation import distillation_loss
from sdd_utils.errors import TrainingDiverged
from sdd_utils.evaluation import measure, predict
from sdd_utils.execution import CapturedStep, Execution
from sdd_utils.losses import loss_of_labels
from sdd_utils.pruning import SparseNetwork, new_network
from sdd_utils.seeding import derive, generator, random_state, set_random_state

AfterEpoch = Callable[[SparseNetwork, Callable[[], dict[str, Tensor]]], None]
"""Called after each epoch but the last with the network and a function that gives the state of its training."""


def l1(net: SparseNetwork) -> Tensor:
    """Σ|w| over the prunable weights."""
    return sum(weight.abs().sum() for weight in net.parameters[: len(net.layers)])


REGULARISERS: dict[str, Callable[[SparseNetwork], Tensor]] = {"l1": l1}
"""By the name that ``regulariser`` gives: a scalar that, times ``coefficient``, is added to the loss (λ is the
optimiser's). Made of ``net.parameters``, since ``net.weights`` has no gradient."""


def make_optimizer(net: SparseNetwork, exp: Experiment, level: int = 1) -> tuple[Optimizer, LRScheduler]:
    """A fresh optimiser and schedule: SGD ÷10 at the milestones, or AdamW with cosine to 0 over the level."""
    lr, on_gpu, epochs = exp.lr, net.vector.is_cuda, exp.epochs_of(level)
    if on_gpu:
        lr = torch.tensor(lr, device=net.vector.device)  # a number, as λ is, would be frozen in a captured step
    if exp.optimizer == "sgd":
        optimizer = SGD([net.vector], lr, exp.momentum, weight_decay=exp.weight_decay, fused=True)
        # The first drop comes after the first epoch at the earliest.
        return optimizer, MultiStepLR(optimizer, [max(1, round(m * epochs)) for m in exp.milestones], gamma=0.1)
    optimizer = AdamW([net.vector], lr, weight_decay=exp.weight_decay, fused=True, capturable=on_gpu)
    return optimizer, CosineAnnealingLR(optimizer, epochs)


def train_level(
    net: SparseNetwork,
    data: Data,
    exp: Experiment,
    level: int,
    teacher: SparseNetwork | None,
    saved: dict[str, Tensor] | None = None,
    after_epoch: AfterEpoch | None = None,
    execution: Execution | None = None,
) -> tuple[int, int]:
    """Train ``net`` in place from a fresh optimiser and schedule, or go on from ``saved``.

    Returns how many epochs were trained and the epoch whose weights are kept: the last or, with early stopping, the one
    with the best validation accuracy (noisy labels), of equals the first. All randomness (order, augmentation, dropout)
    follows from the seed and the level alone. Raises TrainingDiverged.
    """
    rng, epochs = generator(exp.seed, "batches", level), exp.epochs_of(level)
    torch.manual_seed(derive(exp.seed, "dropout", level))  # of all devices
    optimizer, schedule = make_optimizer(net, exp, level)
    best = part_of(saved or {}, "best.")
    if saved:
        set_training_state(saved, optimizer, schedule, rng)
    step = make_step(net, data, exp, teacher, optimizer, execution or Execution.of(net.vector.device))

    for epoch in range(schedule.last_epoch, epochs):
        net.model.train()
        total = torch.zeros((), device=net.vector.device)
        for batch in batches(data.train, exp, rng):
            total += step(batch)
        if not math.isfinite(total.item()):  # once an epoch: reading the loss every step would make a GPU wait
            lr = float(schedule.get_last_lr()[0])
            raise TrainingDiverged(f"{exp.run_id}: loss is {total.item()} at level {level}, epoch {epoch + 1}, lr {lr}")
        schedule.step()
        if exp.patience:
            accuracy = measure(net, data.val, exp.amp).accuracy
            if not best or accuracy > best["accuracy"]:
                best = {"accuracy": torch.tensor(accuracy, dtype=torch.float64), "epoch": torch.tensor(epoch + 1)}
                best |= {name: tensor.clone() for name, tensor in net.state().items()}
            if epoch + 1 - best["epoch"] >= exp.patience:
                break
        if after_epoch and epoch + 1 < epochs:
            kept = {f"best.{name}": tensor for name, tensor in best.items()}
            after_epoch(net, lambda kept=kept: training_state(optimizer, schedule, rng) | kept)
    if best:
        net.load_state(best)
    if not net.vector.isfinite().all():  # the loss is of before the last step
        raise TrainingDiverged(f"{exp.run_id}: the weights are not finite after level {level}, lr {exp.lr:g}")
    return epoch + 1, int(best["epoch"]) if best else epoch + 1


def make_step(
    net: SparseNetwork,
    data: Data,
    exp: Experiment,
    teacher: SparseNetwork | None,
    optimizer: Optimizer,
    execution: Execution,
) -> Callable[[Batch], Tensor]:
    """The function that takes one step, from a batch to its loss. It never waits for the device."""
    train, padded = data.train, pad(data.train.images, exp.crop_padding)
    # Without augmentation the teacher sees the same images every epoch, so one pass over them serves the whole level.
    soft = predict(teacher.model, train, exp.amp) if teacher and not exp.augmented else None

    def step(batch: Batch) -> Tensor:
        images, labels = train.normalise(augmented(padded, batch, exp.crop_padding)), train.labels[batch.index]
        if exp.mixup:
            images = torch.lerp(images.roll(1, 0), images, batch.share)
        known = soft[batch.index] if soft is not None else None
        share = batch.share if exp.mixup else None
        return train_step(net, optimizer, images, labels, exp, teacher, execution, known, share)

    return CapturedStep(step, exp.batch_size) if execution.graph else step


def train_step(
    net: SparseNetwork,
    optimizer: Optimizer,
    images: Tensor,
    labels: Tensor,
    exp: Experiment,
    teacher: SparseNetwork | None,
    execution: Execution,
    teacher_logits: Tensor | None = None,
    share: Tensor | None = None,
) -> Tensor:
    """Forward, backward, update, mask. Returns the loss, a scalar without gradient.

    ``images`` (b, c, h, w) float32, ``labels`` (b,) int64, ``teacher_logits`` (b, classes) if they are known already,
    ``share`` (1,) of each image that is its own with mixup.
    """

    def logits_of(network: SparseNetwork) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=exp.amp):
            return execution.logits(network.model, images, full=len(labels) == exp.batch_size).float()

    logits = logits_of(net)
    loss = loss_of_labels(logits, labels, exp, share)
    if teacher:
        if teacher_logits is None:
            teacher.model.eval()
            with torch.no_grad():
                teacher_logits = logits_of(teacher)
        loss = distillation_loss(loss, logits, teacher_logits, exp.temperature, exp.alpha)
    if exp.regulariser:
        loss = loss + exp.coefficient * REGULARISERS[exp.regulariser](net)
    net.backward(loss)
    optimizer.step()
    net.apply_mask()
    return loss.detach()


def training_state(optimizer: Optimizer, schedule: LRScheduler, rng: torch.Generator) -> dict[str, Tensor]:
    """What a level in the middle needs besides the network: epochs done, learning rate, moments, random states."""
    (vector,) = optimizer.param_groups[0]["params"]
    moments = optimizer.state.get(vector, {})  # none without momentum
    return {
        "epoch": torch.tensor(schedule.last_epoch),
        "lr": torch.tensor(float(schedule.get_last_lr()[0]), dtype=torch.float64),
        **{f"moment.{name}": value for name, value in moments.items() if value is not None},
        **{f"random.{name}": value for name, value in random_state(rng, vector.device).items()},
    }


def set_training_state(
    saved: dict[str, Tensor], optimizer: Optimizer, schedule: LRScheduler, rng: torch.Generator
) -> None:
    """Inverse of ``training_state``, into a fresh optimiser, schedule and generator."""
    epoch, lr = int(saved["epoch"]), saved["lr"].item()
    groups = optimizer.state_dict()["param_groups"]
    groups[0]["lr"] = torch.full_like(groups[0]["lr"], lr) if torch.is_tensor(groups[0]["lr"]) else lr
    moments = part_of(saved, "moment.")
    optimizer.load_state_dict({"state": {0: moments} if moments else {}, "param_groups": groups})
    schedule.load_state_dict({"last_epoch": epoch, "_step_count": epoch + 1, "_last_lr": [groups[0]["lr"]]})
    set_random_state(part_of(saved, "random."), rng, optimizer.param_groups[0]["params"][0].device)


def check_training_state(tensors: dict[str, Tensor], net: SparseNetwork, exp: Experiment, level: int) -> None:
    """Raise ValueError or RuntimeError unless ``train_level`` can have left a checkpoint's ``training.…`` there."""
    saved = part_of(tensors, "training.")
    expected = training_state(*make_optimizer(net, exp, level), torch.Generator())
    adam = {"exp_avg": net.vector, "exp_avg_sq": net.vector, "step": torch.zeros(())}
    moments = adam if exp.optimizer == "adamw" else {"momentum_buffer": net.vector} if exp.momentum else {}
    best = {"accuracy": expected["lr"], "epoch": expected["epoch"]} | net.state() if exp.patience else {}
    expected |= {f"moment.{name}": value for name, value in moments.items()}
    expected |= {f"best.{name}": value for name, value in best.items()}
    for name in (expected.keys() | saved.keys()) - {"random.cuda"}:  # where the level may have begun, or go on
        here, there = expected.get(name, torch.empty(0)), saved.get(name, torch.empty(0))
        if (here.shape, here.dtype) != (there.shape, there.dtype) or not there.isfinite().all():
            raise ValueError(f"training.{name} is not what this experiment's training leaves")
    epoch, lr, most = saved["epoch"], saved["lr"], exp.lr * (1 + 1e-6)  # a GPU rounds it to float32
    if not 1 <= epoch < exp.epochs_of(level) or not 0 <= lr <= most:
        raise ValueError(f"training.epoch = {epoch} and training.lr = {lr} are not of this experiment")
    if best := part_of(saved, "best."):
        net.check_state(best)
        if not (1 <= best["epoch"] <= epoch and 0 <= best["accuracy"] <= 1 and best["mask"].equal(tensors["mask"])):
            raise ValueError("training.best is of no epoch of this level")
    for name in ("random.batches", "random.torch"):
        torch.Generator().set_state(saved[name])


def part_of(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``, without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def compile_ahead(exp: Experiment, data: Data, teacher: SparseNetwork | None) -> None:
    """On a GPU, take a step with a spare network, so that no level is charged for what is compiled once a process."""
    execution = Execution.of(data.train.images.device)
    if execution.compiled:
        spare = new_network(exp, data.train.images.device)
        spare.model.train()
        optimizer, _ = make_optimizer(spare, exp)
        step = make_step(spare, data, exp, teacher, optimizer, replace(execution, graph=False))
        step(next(batches(data.train, exp, generator(exp.seed, "spare"))))
