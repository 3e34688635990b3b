"""Datasets as tensors on the device: the split, the label noise, and batches."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sdd_utils.config import Experiment
from sdd_utils.datasets import digits
from sdd_utils.seeding import generator

DIGITS_TEST_IMAGES = 797
"""The digits come without a split of their own: of 1,797 images each seed holds out this many."""


@dataclass(frozen=True)
class Split:
    """Images (n, channels, height, width) float32, normalised; noisy and clean labels (n,) int64."""

    images: Tensor
    labels: Tensor
    clean: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def corrupted(self) -> Tensor:
        """Which labels are wrong, (n,) bool."""
        return self.labels != self.clean


@dataclass(frozen=True)
class Data:
    """Train and validation carry noisy labels; the test labels are clean."""

    train: Split
    val: Split
    test: Split
    classes: int


def symmetric_noise(labels: Tensor, rate: float, classes: int, rng: torch.Generator) -> Tensor:
    """Replace exactly round(rate·n) labels by a uniformly drawn *different* class (paper, Sec. 4).

    ``labels`` (n,) int64 in [0, classes). Returns a new tensor of the same shape and dtype.
    """
    chosen = torch.randperm(len(labels), generator=rng)[: round(rate * len(labels))]
    # Adding 1 … classes − 1 modulo classes reaches every other class equally often, and never the label itself.
    shift = torch.randint(1, classes, (len(chosen),), generator=rng)
    noisy = labels.clone()
    noisy[chosen] = (labels[chosen] + shift) % classes
    return noisy


def load(exp: Experiment, device: str | torch.device = "cpu") -> Data:
    """The experiment's data on ``device``: split, corrupted and normalised as its seed says.

    Validation labels are as noisy as the training labels, since in practice nobody has clean ones to choose by. Mean
    and standard deviation are those of the training images.
    """
    source = digits()
    images, clean, classes = source.images.float() / 16, source.labels, source.classes

    order = torch.randperm(len(clean), generator=generator(exp.seed, "split"))
    test, pool = order[:DIGITS_TEST_IMAGES], order[DIGITS_TEST_IMAGES:]
    n_val = round(exp.val_share * len(pool))
    val, train = pool[:n_val], pool[n_val:]
    labels, rng = clean.clone(), generator(exp.seed, "noise")
    for part in (train, val):
        labels[part] = symmetric_noise(clean[part], exp.noise_rate, classes, rng)
    images = (images - images[train].mean()) / images[train].std()

    def split(index: Tensor) -> Split:
        return Split(*(t[index].to(device) for t in (images, labels, clean)))

    return Data(split(train), split(val), split(test), classes)


def augment(images: Tensor, crop_padding: int, flip: bool, rng: torch.Generator) -> Tensor:
    """Random crop after zero padding and random horizontal flip, for a whole batch (n, c, h, w) at once."""
    n, _, h, w = images.shape
    if crop_padding:
        padded = F.pad(images, [crop_padding] * 4)
        top, left = torch.randint(0, 2 * crop_padding + 1, (2, n, 1), generator=rng).to(images.device)
        rows = (top + torch.arange(h, device=images.device))[:, None, :, None]
        columns = (left + torch.arange(w, device=images.device))[:, None, None, :]
        sample = torch.arange(n, device=images.device)[:, None, None, None]
        channel = torch.arange(images.shape[1], device=images.device)[None, :, None, None]
        images = padded[sample, channel, rows, columns]
    if flip:
        flipped = (torch.rand(n, generator=rng) < 0.5).to(images.device)
        images = torch.where(flipped[:, None, None, None], images.flip(3), images)
    return images


def batches(split: Split, exp: Experiment, rng: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch in shuffled order: (images, index into the split). The last, smaller batch is kept."""
    order = torch.randperm(len(split), generator=rng).to(split.labels.device)
    for index in order.split(exp.batch_size):
        yield augment(split.images[index], exp.crop_padding, exp.flip, rng), index
