"""What the labels say of the network's answer, one entry a loss in LOSSES; distillation adds the teacher's part."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from sdd_utils.config import Experiment


def label_smoothing(logits: Tensor, labels: Tensor, share: float) -> Tensor:
    """Cross-entropy with labels of which ``share`` is spread evenly over all classes (Szegedy et al., 2016)."""
    return F.cross_entropy(logits, labels, label_smoothing=share)


def generalised_cross_entropy(logits: Tensor, labels: Tensor, q: float) -> Tensor:
    """(1 − p^q)/q of the label's probability p: cross-entropy for q → 0, 1 − p for 1 (Zhang and Sabuncu, 2018)."""
    log_p = F.log_softmax(logits, 1).gather(1, labels[:, None])
    return ((1 - torch.exp(q * log_p)) / q).mean()


def symmetric_cross_entropy(logits: Tensor, labels: Tensor, weight: float) -> Tensor:
    """``weight``·CE + reverse cross-entropy, in which log 0 is −4, so that it is 4·(1 − p) (Wang et al., 2019)."""
    p = F.softmax(logits, 1).gather(1, labels[:, None])
    return weight * F.cross_entropy(logits, labels) + 4 * (1 - p).mean()


LOSSES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "smoothing": label_smoothing,
    "gce": generalised_cross_entropy,
    "sce": symmetric_cross_entropy,
}
"""By the name that ``loss`` gives: from logits (b, classes), labels (b,) int64 and ``loss_parameter`` to a scalar."""


def loss_of_labels(logits: Tensor, labels: Tensor, exp: Experiment, share: Tensor | None = None) -> Tensor:
    """The experiment's loss of a batch, cross-entropy by default; a scalar.

    With mixup each image is a mixture: ``share`` (1,) of the image that the label at its place is of, and the rest of
    the one before it, whose label counts by that rest (Zhang et al., 2018).
    """

    def loss(labels: Tensor) -> Tensor:
        if exp.loss is None:
            return F.cross_entropy(logits, labels)
        return LOSSES[exp.loss](logits, labels, exp.loss_parameter)

    if share is None:
        return loss(labels)
    return (share * loss(labels) + (1 - share) * loss(labels.roll(1))).squeeze()
