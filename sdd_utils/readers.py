"""From a dataset's published files to images: one function each, named by the entry of ``datasets.DATASETS``.

No file is opened that is not the one that was published. torch and torchvision are imported by the functions.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import distribution
from pickle import UnpicklingError
from typing import TYPE_CHECKING

from sdd_utils.errors import DataError, DataMissing

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from torch import Tensor


@dataclass(frozen=True)
class Images:
    """Images (n, channels, height, width) uint8 and their clean labels (n,) int64 in [0, classes)."""

    images: Tensor
    labels: Tensor
    classes: int

    def check(self, where: str) -> Images:
        """Itself, if shapes, dtypes and labels fit together. Raises DataError."""
        if self.images.ndim != 4 or str(self.images.dtype) != "torch.uint8":
            shape, dtype = tuple(self.images.shape), self.images.dtype
            raise DataError(f"{where}: images are {shape} {dtype}, not (n, channels, height, width) uint8")
        check_labels(self.labels, len(self.images), self.classes, where)
        return self


def check_labels(labels: Tensor, n: int, classes: int, where: str) -> Tensor:
    """The labels, if there are ``n`` integers in [0, classes). Raises DataError."""
    if str(labels.dtype) != "torch.int64" or labels.shape != (n,):
        raise DataError(f"{where}: labels are {tuple(labels.shape)} {labels.dtype}, not ({n},) int64")
    if n and not (labels.min() >= 0 and labels.max() < classes):
        wrong = labels[(labels < 0) | (labels >= classes)][0].item()
        raise DataError(f"{where}: label {wrong} is out of range; there are {classes} classes, from 0")
    return labels


def digits(root: Path) -> tuple[Images, None]:
    """scikit-learn's 1,797 handwritten digits, 8×8 with values 0 … 16. They come without a split of their own."""
    import numpy as np
    import torch

    # What load_digits reads, which imports SciPy for it first: a second at the start of every worker.
    file = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    try:
        raw = torch.from_numpy(np.loadtxt(file, delimiter=","))
    except (OSError, ValueError, EOFError) as error:
        why = f"scikit-learn's own file cannot be read ({error})"
        raise DataError(f"digits: {why}; install scikit-learn again") from None
    if raw.shape != (1797, 65) or raw.min() < 0 or raw.max() > 16:
        raise DataError(f"digits: images and labels are {tuple(raw.shape)}, not (1797, 65) with values 0 to 16")
    images = raw[:, :-1].to(torch.uint8).reshape(-1, 1, 8, 8)
    return Images(images, raw[:, -1].long(), 10).check("digits"), None


MNIST_FILES = {  # as torchvision unpacks them, and their MD5 sums
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


def _in_mnists_format(name: str, folder: str, root: Path) -> tuple[Images, Images]:
    """Training and test images from torchvision's folder in ``root``. Raises DataError as ``cifar`` does."""
    import torch
    from torchvision.datasets import FashionMNIST

    raw, parts = root / folder / "raw", []
    for file, md5 in MNIST_FILES.items() if name == "mnist" else FashionMNIST.resources:
        _check_file(name, raw / file, md5, f"torchvision's folder {folder} into {root}")
        content = (raw / file).read_bytes()
        content = gzip.decompress(content) if file.endswith(".gz") else content
        values = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        parts.append(values[16:].reshape(-1, 1, 28, 28) if "images" in file else values[8:].long())  # after a header
    return tuple(Images(*parts[i : i + 2], 10).check(f"{name}: {raw}") for i in (0, 2))


mnist = partial(_in_mnists_format, "mnist", "MNIST")
fashion_mnist = partial(_in_mnists_format, "fashion_mnist", "FashionMNIST")


def svhn(root: Path) -> tuple[Images, Images]:
    """SVHN's cropped digits, without its extra part, from two files in ``root``. Raises DataError as ``cifar`` does."""
    import torch
    from torchvision.datasets import SVHN

    def images(part: str) -> Images:
        _, file, md5 = SVHN.split_list[part]
        _check_file("svhn", root / file, md5, f"{file} into {root}")
        read = SVHN(root, part)
        return Images(torch.from_numpy(read.data), torch.from_numpy(read.labels).long(), 10).check(f"svhn: {root}")

    return images("train"), images("test")


def cifar(name: str, root: Path) -> tuple[Images, Images]:
    """CIFAR-10's or CIFAR-100's training and test images from torchvision's folder in ``root``. Raises DataError when a
    file is missing or its MD5 sum is another, before torchvision opens it."""
    import torch
    from torchvision import datasets

    kind = getattr(datasets, name.upper())
    folder = root / kind.base_folder
    for file, md5 in [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]:
        _check_file(name, folder / file, md5, f"torchvision's folder {kind.base_folder} into {root}")

    def images(train: bool) -> Images:
        part = kind(root, train=train)
        pixels = torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous()
        return Images(pixels, torch.tensor(part.targets), len(part.classes)).check(f"{name}: {folder}")

    return images(True), images(False)


def _check_file(name: str, path: Path, md5: str, what_by_hand: str) -> None:
    from torchvision.datasets.utils import check_md5

    if not path.exists():
        by_hand = f"put {what_by_hand} (SDD_DATA names another place)"
        raise DataMissing(f"{name}: {path} is missing; make data DATASET={name} downloads it, or {by_hand}")
    if not check_md5(str(path), md5):
        raise DataError(f"{name}: {path} is cut or changed: its MD5 sum is not {md5}; remove and download it")


cifar10, cifar100 = partial(cifar, "cifar10"), partial(cifar, "cifar100")  # of the latter the 100 fine classes

# The superclass of each of them, from A
COARSE = "EBOIAGHHSDDOJSHLDJHLGLFKHGNPDPALBKMOQJLFFTIIPNORSKQERECARESRKDCMMQMBJTCKABQMJNPNQTCEGTFFITSBCPGARION"


def cifar100_coarse(root: Path) -> tuple[Images, Images]:
    """CIFAR-100's images with their 20 superclasses. Raises DataError as ``cifar`` does."""
    import torch

    superclass = torch.tensor([ord(letter) - ord("A") for letter in COARSE])
    train, test = (replace(part, labels=superclass[part.labels], classes=20) for part in cifar100(root))
    return train, test


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays by name in a file of torch's that holds nothing else. Raises DataError."""
    import numpy as np
    import torch

    make = np._core.multiarray._reconstruct  # under its name of today and the one from when the files were made
    arrays = [make, (make, "numpy.core.multiarray._reconstruct"), np.ndarray, np.dtype]
    kinds = [type(np.dtype(kind)) for kind in ("int64", "int32", "uint8")]
    try:
        with torch.serialization.safe_globals([*arrays, *kinds]):
            return torch.load(path, weights_only=True)
    except UnpicklingError:
        raise DataError(f"{path}: holds something else than arrays; it was not opened further") from None
