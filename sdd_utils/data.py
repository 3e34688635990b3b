"""Datasets as tensors on the device: the split, the label noise, and batches."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sdd_utils.config import Experiment
from sdd_utils.datasets import Dataset, human_labels, source
from sdd_utils.errors import DataError
from sdd_utils.readers import Images
from sdd_utils.seeding import generator


@dataclass(frozen=True)
class Normalise:
    """From uint8 images (n, channels, height, width) to float32, (x / ``scale`` − ``mean``) / ``std``."""

    scale: float
    mean: Tensor
    std: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """As the class says."""
        return (images / self.scale).sub_(self.mean).div_(self.std)


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


def symmetric(pool: Images, parts: list[Tensor], exp: Experiment, rng: torch.Generator) -> Tensor:
    """In each part round(ε·n) labels are replaced by a uniformly drawn *different* class (paper, Sec. 4)."""
    noisy = pool.labels.clone()
    for part in parts:
        noisy[part] = symmetric_noise(pool.labels[part], exp.noise_rate, pool.classes, rng)
    return noisy


def symmetric_noise(labels: Tensor, rate: float, classes: int, rng: torch.Generator) -> Tensor:
    """Labels (n,) int64 in [0, classes), round(rate·n) of them replaced by a uniformly drawn *different* class."""
    chosen = torch.randperm(len(labels), generator=rng)[: round(rate * len(labels))]
    # Adding 1 … classes − 1 modulo classes reaches every other class equally often, and never the label itself.
    shift = torch.randint(1, classes, (len(chosen),), generator=rng)
    noisy = labels.clone()
    noisy[chosen] = (labels[chosen] + shift) % classes
    return noisy


def pair_flip(pool: Images, parts: list[Tensor], exp: Experiment, rng: torch.Generator) -> Tensor:
    """In each part round(ε·n) labels become the next class, those of the last class the first (He et al.)."""
    return _confused(pool, parts, exp, rng, {label: (label + 1) % pool.classes for label in range(pool.classes)})


def asymmetric(pool: Images, parts: list[Tensor], exp: Experiment, rng: torch.Generator) -> Tensor:
    """In each part round(ε·n) labels become the class that they are taken for, by ``Dataset.confused``.

    ε is the share of all labels, not of those of the classes that are confused, as in He et al.
    """
    return _confused(pool, parts, exp, rng, exp.facts.confused)


def _confused(pool: Images, parts: list[Tensor], exp: Experiment, rng: torch.Generator, new: dict[int, int]) -> Tensor:
    taken_for = torch.tensor([new.get(label, label) for label in range(pool.classes)])[pool.labels]
    noisy = pool.labels.clone()
    for part in parts:
        may, wrong = part[taken_for[part] != pool.labels[part]], round(exp.noise_rate * len(part))
        if wrong > len(may):
            raise DataError(f"noise_rate: {wrong} labels of {len(part)} are to be wrong, and {len(may)} can be")
        chosen = may[torch.randperm(len(may), generator=rng)[:wrong]]
        noisy[chosen] = taken_for[chosen]
    return noisy


def human(pool: Images, parts: list[Tensor], exp: Experiment, rng: torch.Generator) -> Tensor:
    """The labels that people gave (CIFAR-N). Raises DataError."""
    return human_labels(exp.dataset, exp.human_labels)


Noise = Callable[[Images, list[Tensor], Experiment, torch.Generator], Tensor]
NOISE: dict[str, Noise] = {"symmetric": symmetric, "pair_flip": pair_flip, "asymmetric": asymmetric, "human": human}
"""By the name that ``noise_kind`` gives: from a dataset's images and the indices of its training and validation parts
to noisy labels (n,) int64 for all of its images."""


def load(exp: Experiment, device: str | torch.device = "cpu") -> Data:
    """The experiment's data on ``device``: split, corrupted and normalised as its seed says.

    Validation labels are as noisy as the training labels, since in practice nobody has clean ones to choose by. Raises
    DataError when files are missing or wrong.
    """
    pool, test = source(exp.dataset, exp.image_size)
    order = torch.randperm(len(pool.labels), generator=(rng := generator(exp.seed, "split")))
    if test is None:  # the dataset has no split of its own
        test, order, test_order = pool, order[exp.facts.test :], order[: exp.facts.test]
    else:
        test_order = torch.randperm(len(test.labels), generator=rng)
    order, test_order = order[: exp.train_subset], test_order[: exp.test_subset]
    val, train = order.split([len(order) - exp.training_images, exp.training_images])
    noisy = NOISE[exp.noise_kind](pool, [train, val], exp, generator(exp.seed, "noise"))
    normalise = _normalise(exp.facts, pool.images[train], device)

    def split(images: Tensor, labels: Tensor, clean: Tensor, index: Tensor) -> Split:
        return Split(*(t[index].to(device) for t in (images, labels, clean)), normalise)

    parts = [split(pool.images, noisy, pool.labels, index) for index in (train, val)]
    return Data(*parts, split(test.images, test.labels, test.labels, test_order), pool.classes)


def check_data(experiments: list[Experiment]) -> None:
    """Read every dataset of the experiments once. Raises DataError when files are missing or wrong."""
    for dataset, size, labels in sorted({(e.dataset, e.image_size or 0, e.human_labels or "") for e in experiments}):
        source(dataset, size)
        if labels:
            human_labels(dataset, labels)


def _normalise(facts: Dataset, images: Tensor, device: str | torch.device) -> Normalise:
    """By the dataset's published moments, or by its training images' own where there are none."""
    if facts.moments is None:
        values = images.float() / facts.largest
        return Normalise(facts.largest, values.mean().to(device), values.std().to(device))
    return Normalise(facts.largest, *(torch.tensor(m, device=device)[:, None, None] for m in facts.moments))


class Batch(NamedTuple):
    """Which examples, (b,) int64, and how each is augmented; the rest is empty where none is."""

    index: Tensor
    corner: Tensor  # of its crop, (2, b)
    flipped: Tensor  # (b,) bool
    share: Tensor  # (1,) of mixup: what each image keeps of itself


def batches(split: Split, exp: Experiment, rng: torch.Generator) -> Iterator[Batch]:
    """One epoch in shuffled order, the last, smaller batch included. All is drawn on the CPU before the epoch, so
    that it is the same on every device and nothing waits for it."""
    n, device = len(split), split.labels.device
    order = torch.randperm(n, generator=rng).to(device)
    corners = torch.randint(0, 2 * exp.crop_padding + 1, (2, n if exp.crop_padding else 0), generator=rng).to(device)
    flipped = (torch.rand(n if exp.flip else 0, generator=rng) < 0.5).to(device)
    shares = _beta(exp.mixup, -(-n // exp.batch_size), rng).to(device) if exp.mixup else order[:0]
    for number, begin in enumerate(range(0, n, exp.batch_size)):
        part = slice(begin, begin + exp.batch_size)
        yield Batch(order[part], corners[:, part], flipped[part], shares[number : number + 1])


def _beta(alpha: float, n: int, rng: torch.Generator) -> Tensor:
    """``n`` draws of Beta(α, α), which torch draws from no generator but its own."""
    seed = int(torch.randint(2**62, (), generator=rng))
    return torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, n)).float()


def pad(images: Tensor, crop_padding: int) -> Tensor:
    """Images with a black border, which ``augmented`` cuts from."""
    return F.pad(images, [crop_padding] * 4) if crop_padding else images


def augmented(padded: Tensor, batch: Batch, crop_padding: int) -> Tensor:
    """The batch's images (b, c, h, w) in one gather from (n, c, h + 2·padding, w + 2·padding): each cut at its corner,
    and mirrored if flipped."""
    index, corner, flipped, _ = batch
    if not corner.numel() and not flipped.numel():
        return padded.index_select(0, index)  # whole images: many times as fast as padded[index]
    h, w = (size - 2 * crop_padding for size in padded.shape[2:])
    rows, columns = (torch.arange(size, device=padded.device).expand(len(index), -1) for size in (h, w))
    if flipped.numel():
        columns = torch.where(flipped[:, None], w - 1 - columns, columns)
    if corner.numel():
        rows, columns = rows + corner[0][:, None], columns + corner[1][:, None]
    channels = torch.arange(padded.shape[1], device=padded.device)
    where = index[:, None, None, None], channels[:, None, None], rows[:, None, :, None], columns[:, None, None, :]
    return padded[where]
