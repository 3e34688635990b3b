"""Datasets as they come, checked before they are used: no file is read that is not the one that was published."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from sdd_utils.errors import DataError
from sdd_utils.results import ROOT

DATA = Path(os.environ.get("SDD_DATA", ROOT / "data"))
"""Where downloaded datasets are, in torchvision's layout: the environment variable SDD_DATA, or ``data``."""


@dataclass(frozen=True)
class Images:
    """Images (n, channels, height, width) uint8 and their clean labels (n,) int64 in [0, classes)."""

    images: Tensor
    labels: Tensor
    classes: int

    def check(self, where: str) -> "Images":
        """Itself, if shapes, dtypes and labels fit together. Raises DataError."""
        if self.images.ndim != 4 or self.images.dtype != torch.uint8:
            shape, dtype = tuple(self.images.shape), self.images.dtype
            raise DataError(f"{where}: images are {shape} {dtype}, not (n, channels, height, width) uint8")
        check_labels(self.labels, len(self.images), self.classes, where)
        return self


def check_labels(labels: Tensor, n: int, classes: int, where: str) -> Tensor:
    """The labels, if there are ``n`` integers in [0, classes). Raises DataError."""
    if labels.dtype != torch.int64 or labels.shape != (n,):
        raise DataError(f"{where}: labels are {tuple(labels.shape)} {labels.dtype}, not ({n},) int64")
    if n and not (labels.min() >= 0 and labels.max() < classes):
        wrong = labels[(labels < 0) | (labels >= classes)][0].item()
        raise DataError(f"{where}: label {wrong} is out of range; there are {classes} classes, from 0")
    return labels


def digits() -> Images:
    """scikit-learn's 1,797 handwritten digits, 8×8 with values 0 … 16. They come without a split of their own."""
    try:
        raw = load_digits()
    except (OSError, ValueError) as error:
        raise DataError(
            f"digits: scikit-learn's own file cannot be read ({error}); install scikit-learn again"
        ) from None
    images = torch.from_numpy(raw.images)
    if images.shape != (1797, 8, 8) or images.min() < 0 or images.max() > 16:
        raise DataError(f"digits: images are {tuple(images.shape)}, not (1797, 8, 8) with values 0 to 16")
    return Images(images.to(torch.uint8).unsqueeze(1), torch.from_numpy(raw.target).long(), 10).check("digits")
