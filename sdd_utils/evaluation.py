"""What a network is worth after a level: accuracies, and how it fits the wrong labels."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from sdd_utils.data import Data, Split
from sdd_utils.execution import channels_last
from sdd_utils.pruning import SparseNetwork


@dataclass(frozen=True)
class Level:
    """One level of a pruning curve: the network after its training, and what was measured of it.

    Every field but ``network`` is a column of levels.csv. Losses are mean cross-entropies, accuracies shares in [0, 1];
    training and validation labels are the noisy ones, test labels clean.
    """

    level: int
    epochs: int  # trained
    best_epoch: int  # whose weights are kept: the last, but for early stopping
    network: SparseNetwork
    sparsity: float  # share of the prunable weights that is pruned
    remaining_params: int
    train_loss: float
    train_acc: float
    val_acc: float
    test_loss: float
    test_acc: float
    clean_fit: float  # of the correctly labelled training examples, the share predicted right
    memorised: float  # of the wrongly labelled ones, the share predicted as their wrong label; nan if there are none
    weight_std: float  # standard deviation of the surviving prunable weights

    @property
    def row(self) -> dict:
        """What was measured, by column."""
        return {name: value for name, value in vars(self).items() if name != "network"}


def measure_level(level: int, net: SparseNetwork, data: Data, amp: bool = False, epochs: tuple = (0, 0)) -> Level:
    """Evaluate on all three splits, without augmentation, in evaluation mode; ``epochs`` are trained and kept ones."""
    train, val, test = (measure(net, split, amp) for split in (data.train, data.val, data.test))
    fit = {"train_loss": train.loss, "train_acc": train.accuracy, "val_acc": val.accuracy}
    fit |= {"test_loss": test.loss, "test_acc": test.accuracy}
    fit |= {"clean_fit": train.clean_fit, "memorised": train.memorised, "weight_std": net.survivors().std().item()}
    return Level(level, *epochs, net, net.sparsity, net.remaining, **fit)


class Measured(NamedTuple):
    """Of one split: mean cross-entropy and accuracy against the labels given, and the two shares of ``Level``."""

    loss: float
    accuracy: float
    clean_fit: float
    memorised: float


def measure(net: SparseNetwork, split: Split, amp: bool = False) -> Measured:
    """Evaluate against ``split.labels``."""
    logits = predict(net.model, split, amp)
    right, wrong = logits.argmax(1) == split.labels, split.corrupted
    shares = [part.float().mean().item() for part in (right, right[~wrong], right[wrong])]
    return Measured(F.cross_entropy(logits, split.labels).item(), *shares)


def predict(model: nn.Module, split: Split, amp: bool = False, batch_size: int = 1000) -> Tensor:
    """Logits (n, classes) float32 of a whole split in evaluation mode, without gradients."""
    model.eval()
    # Not inference_mode: a student differentiates through a loss that holds these.
    with torch.no_grad(), torch.autocast(split.images.device.type, torch.bfloat16, enabled=amp):
        parts = (channels_last(split.normalise(images)) for images in split.images.split(batch_size))
        return torch.cat([model(part).float() for part in parts])
