"""The training loop: one level of one pruning curve, dense or sparse, with or without a teacher."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR

from sdd_utils.config import Experiment
from sdd_utils.data import Data, Split, batches
from sdd_utils.models import predict
from sdd_utils.pruning import SparseNetwork
from sdd_utils.seeding import derive, generator


class TrainingDiverged(RuntimeError):
    """The loss is no longer a number; says at which level, epoch and learning rate."""


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
    if exp.optimizer == "sgd":
        optimizer = SGD([net.vector], exp.lr, exp.momentum, weight_decay=exp.weight_decay, fused=True)
        return optimizer, MultiStepLR(optimizer, [round(m * exp.epochs) for m in exp.milestones], gamma=0.1)
    optimizer = AdamW([net.vector], exp.lr, weight_decay=exp.weight_decay, fused=True)
    return optimizer, CosineAnnealingLR(optimizer, exp.epochs)


def train_level(net: SparseNetwork, data: Data, exp: Experiment, level: int, teacher: SparseNetwork | None) -> None:
    """Train ``net`` in place for ``exp.epochs`` epochs from a fresh optimiser and schedule.

    All randomness (order, augmentation, dropout) follows from the seed and the level alone. Raises TrainingDiverged.
    """
    rng = generator(exp.seed, "batches", level)
    torch.manual_seed(derive(exp.seed, "dropout", level))
    optimizer, schedule = make_optimizer(net, exp)
    # Without augmentation the teacher sees the same images every epoch, so one pass over them serves the whole level.
    soft = predict(teacher.model, data.train.images) if teacher and not exp.augmented else None

    for epoch in range(exp.epochs):
        net.model.train()
        total = torch.zeros((), device=net.vector.device)
        for images, index in batches(data.train, exp, rng):
            logits, labels = net.model(images), data.train.labels[index]
            if teacher is None:
                loss = F.cross_entropy(logits, labels)
            else:
                taught = soft[index] if soft is not None else predict(teacher.model, images)
                loss = distillation_loss(logits, taught, labels, exp.temperature, exp.alpha)
            net.vector.grad.zero_()
            loss.backward()
            optimizer.step()
            net.apply_mask()
            total += loss.detach()
        if not math.isfinite(total.item()):  # once an epoch: reading the loss every step would make a GPU wait
            lr = schedule.get_last_lr()[0]
            raise TrainingDiverged(f"{exp.run_id}: loss is {total.item()} at level {level}, epoch {epoch + 1}, lr {lr}")
        schedule.step()


@dataclass(frozen=True)
class Measured:
    """Mean cross-entropy and accuracy against the labels given, and how the training labels split."""

    loss: float
    accuracy: float
    clean_fit: float  # of the correctly labelled examples, the share predicted right
    memorised: float  # of the wrongly labelled ones, the share predicted as their wrong label; nan if there are none


def measure(net: SparseNetwork, split: Split) -> Measured:
    """Evaluate without augmentation, in evaluation mode, against ``split.labels``."""
    logits = predict(net.model, split.images)
    right, wrong = logits.argmax(1) == split.labels, split.corrupted
    return Measured(
        loss=F.cross_entropy(logits, split.labels).item(),
        accuracy=right.float().mean().item(),
        clean_fit=right[~wrong].float().mean().item(),
        memorised=right[wrong].float().mean().item(),
    )
