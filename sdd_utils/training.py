"""The training loop: one level of one pruning curve, dense or sparse, with or without a teacher."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR

from sdd_utils.config import Experiment
from sdd_utils.data import Batch, Data, Split, augmented, batches, pad
from sdd_utils.errors import TrainingDiverged
from sdd_utils.execution import CapturedStep, Execution, channels_last
from sdd_utils.pruning import SparseNetwork
from sdd_utils.seeding import derive, generator, random_state, seed_everything, set_random_state

AfterEpoch = Callable[[Callable[[], dict[str, Tensor]]], None]
"""Called after each epoch but the last with a function that gives the state of the training, to go on from."""


def distillation_loss(logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float, alpha: float):
    """(1 − α)·CE(student, noisy label) + α·τ²·KL(softmax(teacher/τ) ‖ softmax(student/τ)), mean over the batch.

    ``logits`` and ``teacher_logits`` (n, classes), ``labels`` (n,) int64. Returns a scalar (paper, Sec. 3).
    """
    hard = F.cross_entropy(logits, labels)
    soft = F.kl_div(
        F.log_softmax(logits / temperature, 1),
        F.log_softmax(teacher_logits / temperature, 1),
        reduction="batchmean",
        log_target=True,
    )
    return (1 - alpha) * hard + alpha * temperature**2 * soft


def make_optimizer(net: SparseNetwork, exp: Experiment) -> tuple[Optimizer, LRScheduler]:
    """A fresh optimiser and schedule: SGD ÷10 at the milestones, or AdamW with cosine to 0 over the level."""
    lr, on_gpu = exp.lr, net.vector.is_cuda
    if on_gpu:
        lr = torch.tensor(lr, device=net.vector.device)  # read by a captured step, where a number would be frozen
    if exp.optimizer == "sgd":
        optimizer = SGD([net.vector], lr, exp.momentum, weight_decay=exp.weight_decay, fused=True)
        # Not before the first epoch has been trained at the full rate, however few there are.
        return optimizer, MultiStepLR(optimizer, [max(1, round(m * exp.epochs)) for m in exp.milestones], gamma=0.1)
    optimizer = AdamW([net.vector], lr, weight_decay=exp.weight_decay, fused=True, capturable=on_gpu)
    return optimizer, CosineAnnealingLR(optimizer, exp.epochs)


def train_level(
    net: SparseNetwork,
    data: Data,
    exp: Experiment,
    level: int,
    teacher: SparseNetwork | None,
    saved: dict[str, Tensor] | None = None,
    after_epoch: AfterEpoch | None = None,
    execution: Execution | None = None,
) -> None:
    """Train ``net`` in place for ``exp.epochs`` epochs from a fresh optimiser and schedule, or go on from ``saved``.

    All randomness (order, augmentation, dropout) follows from the seed and the level alone. ``execution`` is what is
    best for the device unless given. Raises TrainingDiverged.
    """
    rng = generator(exp.seed, "batches", level)
    seed_everything(derive(exp.seed, "dropout", level))
    optimizer, schedule = make_optimizer(net, exp)
    if saved:
        set_training_state(saved, optimizer, schedule, rng)
    step = training_step(net, data, exp, teacher, optimizer, execution or Execution.of(net.vector.device))

    for epoch in range(schedule.last_epoch, exp.epochs):
        net.model.train()
        total = torch.zeros((), device=net.vector.device)
        for batch in batches(data.train, exp, rng):
            total += step(batch)
        if not math.isfinite(total.item()):  # once an epoch: reading the loss every step would make a GPU wait
            lr = float(schedule.get_last_lr()[0])
            raise TrainingDiverged(f"{exp.run_id}: loss is {total.item()} at level {level}, epoch {epoch + 1}, lr {lr}")
        schedule.step()
        if after_epoch and epoch + 1 < exp.epochs:
            after_epoch(lambda: training_state(optimizer, schedule, rng))


def training_step(
    net: SparseNetwork,
    data: Data,
    exp: Experiment,
    teacher: SparseNetwork | None,
    optimizer: Optimizer,
    execution: Execution,
) -> Callable[[Batch], Tensor]:
    """The function that takes one step, from a batch to its loss, a scalar without gradient.

    It never waits for the device, so that on a GPU it can be captured as it is.
    """
    train, padded = data.train, pad(data.train.images, exp.crop_padding)
    # Without augmentation the teacher sees the same images every epoch, so one pass over them serves the whole level.
    soft = predict(teacher.model, train, exp.amp) if teacher and not exp.augmented else None

    def step(batch: Batch) -> Tensor:
        images = train.normalise(augmented(padded, batch, exp.crop_padding))
        taught = soft[batch.index] if soft is not None else None
        return learn(net, optimizer, images, train.labels[batch.index], exp, teacher, execution, taught)

    return CapturedStep(step, exp.batch_size) if execution.graph else step


def learn(
    net: SparseNetwork,
    optimizer: Optimizer,
    images: Tensor,
    labels: Tensor,
    exp: Experiment,
    teacher: SparseNetwork | None,
    execution: Execution,
    taught: Tensor | None = None,
) -> Tensor:
    """Forward, backward, update, mask. Returns the loss, a scalar without gradient.

    ``images`` (b, c, h, w) float32, ``labels`` (b,) int64, ``taught`` the teacher's logits (b, classes) if they are
    known already.
    """

    def logits_of(network: SparseNetwork) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=exp.amp):
            return execution.logits(network.model, images, full=len(labels) == exp.batch_size).float()

    logits = logits_of(net)
    if teacher is None:
        loss = F.cross_entropy(logits, labels)
    else:
        if taught is None:
            teacher.model.eval()
            with torch.no_grad():
                taught = logits_of(teacher)
        loss = distillation_loss(logits, taught, labels, exp.temperature, exp.alpha)
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


def set_training_state(saved: dict[str, Tensor], optimizer: Optimizer, schedule: LRScheduler, rng: torch.Generator):
    """Inverse of ``training_state``, into a fresh optimiser, schedule and generator."""

    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in saved.items() if name.startswith(prefix)}

    epoch, lr = int(saved["epoch"]), saved["lr"].item()
    groups = optimizer.state_dict()["param_groups"]
    groups[0]["lr"] = torch.full_like(groups[0]["lr"], lr) if torch.is_tensor(groups[0]["lr"]) else lr
    moments = part("moment.")
    optimizer.load_state_dict({"state": {0: moments} if moments else {}, "param_groups": groups})
    schedule.load_state_dict({"last_epoch": epoch, "_step_count": epoch + 1, "_last_lr": [groups[0]["lr"]]})
    set_random_state(part("random."), rng, optimizer.param_groups[0]["params"][0].device)


@dataclass(frozen=True)
class Measured:
    """Mean cross-entropy and accuracy against the labels given, and how the training labels split."""

    loss: float
    accuracy: float
    clean_fit: float  # of the correctly labelled examples, the share predicted right
    memorised: float  # of the wrongly labelled ones, the share predicted as their wrong label; nan if there are none


def measure(net: SparseNetwork, split: Split, amp: bool = False) -> Measured:
    """Evaluate without augmentation, in evaluation mode, against ``split.labels``."""
    logits = predict(net.model, split, amp)
    right, wrong = logits.argmax(1) == split.labels, split.corrupted
    return Measured(
        loss=F.cross_entropy(logits, split.labels).item(),
        accuracy=right.float().mean().item(),
        clean_fit=right[~wrong].float().mean().item(),
        memorised=right[wrong].float().mean().item(),
    )


def predict(model: nn.Module, split: Split, amp: bool = False, batch_size: int = 1000) -> Tensor:
    """Logits (n, classes) float32 of a whole split in evaluation mode, without gradients."""
    model.eval()
    # Not inference_mode: a student differentiates through a loss that holds these.
    with torch.no_grad(), torch.autocast(split.images.device.type, torch.bfloat16, enabled=amp):
        parts = (channels_last(split.normalise(images)) for images in split.images.split(batch_size))
        return torch.cat([model(part).float() for part in parts])
