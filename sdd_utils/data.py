"""Datasets as tensors on the device: the split, the label noise, and batches."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sdd_utils import datasets
from sdd_utils.config import DATASETS, HUMAN_NOISE, Experiment
from sdd_utils.datasets import Images
from sdd_utils.errors import DataError
from sdd_utils.seeding import generator

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation by channel, of values in [0, 1]: the authors' code takes ImageNet's for CIFAR."""

CIFAR100 = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
"""The same of CIFAR-100's own training images, which the authors' code takes for CIFAR-100N."""

MOMENTS = {"cifar10": IMAGENET, "cifar10n": IMAGENET, "cifar100": IMAGENET, "cifar100n": CIFAR100}


@dataclass(frozen=True)
class Normalise:
    """From uint8 images (n, channels, height, width) to float32, (x / ``scale`` − ``mean``) / ``std``."""

    scale: float
    mean: Tensor
    std: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """As the class says."""
        return (images.float() / self.scale - self.mean) / self.std


@dataclass(frozen=True)
class Split:
    """Images (n, channels, height, width) uint8; noisy and clean labels (n,) int64."""

    images: Tensor
    labels: Tensor
    clean: Tensor
    normalise: Normalise

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


NOISE = {"symmetric": symmetric_noise}
"""How wrong labels are drawn, by ``noise_kind``; people's are not drawn."""


def load(exp: Experiment, device: str | torch.device = "cpu") -> Data:
    """The experiment's data on ``device``: split, corrupted and normalised as its seed says.

    Validation labels are as noisy as the training labels, since in practice nobody has clean ones to choose by. The
    digits are normalised by their training images, CIFAR by MOMENTS. Raises DataError when files are missing or wrong.
    """
    pool, test = source(exp.dataset)
    rng = generator(exp.seed, "split")
    order = torch.randperm(len(pool.labels), generator=rng)
    if test is None:  # the digits have no split of their own
        test, order, test_order = pool, order[exp.facts.test :], order[: exp.facts.test]
    else:
        test_order = torch.randperm(len(test.labels), generator=rng)
    order, test_order = order[: exp.train_subset], test_order[: exp.test_subset]
    val, train = order.split([len(order) - exp.training_images, exp.training_images])

    noisy, rng = pool.labels.clone(), generator(exp.seed, "noise")
    if exp.noise_kind == "human":
        noisy = human(exp.dataset, exp.human_labels)
    else:
        for part in (train, val):
            noisy[part] = NOISE[exp.noise_kind](pool.labels[part], exp.noise_rate, pool.classes, rng)
    normalise = _normalise(exp.dataset, pool.images[train], device)

    def split(images: Tensor, labels: Tensor, clean: Tensor, index: Tensor) -> Split:
        return Split(*(t[index].to(device) for t in (images, labels, clean)), normalise)

    parts = [split(pool.images, noisy, pool.labels, index) for index in (train, val)]
    return Data(*parts, split(test.images, test.labels, test.labels, test_order), pool.classes)


def source(dataset: str) -> tuple[Images, Images | None]:
    """A dataset as it comes: training images, and test images if there is such a split. Raises DataError."""
    # CIFAR-N has CIFAR's images.
    pool, test = _read(dataset.removesuffix("n") if dataset in HUMAN_NOISE else dataset, datasets.DATA)
    shape, classes, *numbers = DATASETS[dataset]
    found = [len(pool.labels) - numbers[1], numbers[1]] if test is None else [len(pool.labels), len(test.labels)]
    if (pool.images.shape[1:], pool.classes, found) != (shape, classes, numbers):
        there = f"{found} images of {tuple(pool.images.shape[1:])} and {pool.classes} classes"
        raise DataError(f"{dataset}: has {there}, and config.DATASETS says {numbers}, {shape} and {classes}")
    return pool, test


@cache
def _read(dataset: str, root: Path) -> tuple[Images, Images | None]:
    if dataset == "digits":
        return datasets.digits(), None
    from sdd_utils.cifar import cifar  # torchvision takes seconds, and digits need none of it

    return cifar(dataset, root)


def human(dataset: str, labels: str) -> Tensor:
    """The labels (n,) int64 that people gave to all training images of ``source``. Raises DataError."""
    from sdd_utils.cifar import human_labels

    train, _ = source(dataset)
    return human_labels(dataset, train.labels, train.classes, datasets.DATA, labels)


def check_data(experiments: list[Experiment]) -> None:
    """Read every dataset of the experiments once. Raises DataError when files are missing or wrong."""
    for dataset, labels in sorted({(exp.dataset, exp.human_labels or "") for exp in experiments}):
        if labels:
            human(dataset, labels)
        else:
            source(dataset)


def _normalise(dataset: str, images: Tensor, device: str | torch.device) -> Normalise:
    if dataset == "digits":  # values 0 … 16
        values = images.float() / 16
        return Normalise(16, values.mean().to(device), values.std().to(device))
    return Normalise(255, *(torch.tensor(m, device=device)[:, None, None] for m in MOMENTS[dataset]))


class Batch(NamedTuple):
    """Which examples, (b,) int64, and how each is augmented: the corner of its crop (2, b), and whether it is flipped.

    ``corner`` and ``flipped`` are empty where there is no such augmentation.
    """

    index: Tensor
    corner: Tensor
    flipped: Tensor


def batches(split: Split, exp: Experiment, rng: torch.Generator) -> Iterator[Batch]:
    """One epoch in shuffled order. The last, smaller batch is kept.

    All is drawn on the CPU before the epoch, so that it is the same on every device and nothing waits for it.
    """
    n, device = len(split), split.labels.device
    order = torch.randperm(n, generator=rng).to(device)
    corners = torch.randint(0, 2 * exp.crop_padding + 1, (2, n if exp.crop_padding else 0), generator=rng).to(device)
    flipped = (torch.rand(n if exp.flip else 0, generator=rng) < 0.5).to(device)
    for begin in range(0, n, exp.batch_size):
        part = slice(begin, begin + exp.batch_size)
        yield Batch(order[part], corners[:, part], flipped[part])


def pad(images: Tensor, crop_padding: int) -> Tensor:
    """Images with a black border, once for all epochs: what ``augmented`` cuts from."""
    return F.pad(images, [crop_padding] * 4) if crop_padding else images


def augmented(padded: Tensor, batch: Batch, crop_padding: int) -> Tensor:
    """The batch's images, (b, c, h, w) of ``padded``'s dtype, each cut at its corner and mirrored if flipped.

    Crop and flip are one gather for the whole batch, from images (n, c, h + 2·padding, w + 2·padding).
    """
    index, corner, flipped = batch
    if not corner.numel() and not flipped.numel():
        return padded[index]
    h, w = (size - 2 * crop_padding for size in padded.shape[2:])
    rows, columns = (torch.arange(size, device=padded.device).expand(len(index), -1) for size in (h, w))
    if flipped.numel():
        columns = torch.where(flipped[:, None], w - 1 - columns, columns)
    if corner.numel():
        rows, columns = rows + corner[0][:, None], columns + corner[1][:, None]
    channels = torch.arange(padded.shape[1], device=padded.device)
    return padded[
        index[:, None, None, None], channels[:, None, None], rows[:, None, :, None], columns[:, None, None, :]
    ]
