"""Distillation: the student's loss, and the rules by which a level of another curve becomes the teacher.

The rules need no torch, since analysis asks them too; the loss imports it itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from torch import Tensor


def distillation_loss(hard: Tensor, logits: Tensor, teacher_logits: Tensor, temperature: float, alpha: float) -> Tensor:
    """(1 − α)·hard + α·τ²·KL(softmax(teacher/τ) ‖ softmax(student/τ)), mean over the batch.

    ``hard`` is the loss of the noisy labels, a scalar (the paper's: cross-entropy); ``logits`` and ``teacher_logits``
    (n, classes). Returns a scalar (paper, Sec. 3).
    """
    import torch.nn.functional as F

    student, teacher = (F.log_softmax(part / temperature, 1) for part in (logits, teacher_logits))
    soft = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return (1 - alpha) * hard + alpha * temperature**2 * soft


def dense(accuracy: np.ndarray) -> int:
    """The network before any pruning."""
    return 0


def most_accurate(accuracy: np.ndarray) -> int:
    """The most accurate level, of equals the sparser."""
    return len(accuracy) - 1 - int(np.argmax(accuracy[::-1]))


def sparse(accuracy: np.ndarray) -> int:
    """The most accurate pruned level (paper: «trained in its best-performing regime»)."""
    return 1 + most_accurate(accuracy[1:])


@dataclass(frozen=True)
class TeacherRule:
    """Which level teaches, from one curve's accuracies on the selection split (levels,)."""

    pick: Callable[[np.ndarray], int]
    is_pruned: bool = False  # whether it needs a curve with levels beyond the dense one
    of: str = "vanilla"  # the method of that curve


TEACHERS = {
    "sparse": TeacherRule(sparse, is_pruned=True),
    "dense": TeacherRule(dense),
    "early_stopped": TeacherRule(dense, of="early"),
}
"""By the name that ``teacher.rule`` gives."""


def select_level(levels: pd.DataFrame, rule: str, selection: str = "validation") -> int:
    """Which level of one curve teaches. ``levels`` has one row a level of a single run, in the columns of levels.csv.

    «Accuracy» is that on validation (noisy labels), or on test for ``selection="test"``, the usual practice, rounded as
    levels.csv has it, so that a curve in memory and its file have the same teacher.
    """
    accuracy = levels.sort_values("level")["val_acc" if selection == "validation" else "test_acc"]
    return TEACHERS[rule].pick(np.array([float(f"{x:.6g}") for x in accuracy]))
