"""Datasets, one entry each in DATASETS: what is known of them without opening them, and how to have them.

No network is used but by ``download``. torch and torchvision are imported by the functions that read: a dataset's name
and its number of classes can be had without.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from sdd_utils import readers
from sdd_utils.errors import DataError, DataMissing
from sdd_utils.files import ROOT, sha256
from sdd_utils.readers import Images, check_labels, read_arrays

if TYPE_CHECKING:
    from torch import Tensor

DATA = Path(os.path.expanduser(os.environ.get("SDD_DATA") or ROOT / "data"))  # in torchvision's layout
HUMAN_URL = "https://raw.githubusercontent.com/UCSC-REAL/cifar-10-100n/main/data"

# Mean and standard deviation by channel, of values in [0, 1], as in the authors' code: ImageNet's for CIFAR, for
# CIFAR-100N those of CIFAR-100's training images; MNIST's as in He et al.'s.
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MNIST = (0.1307,), (0.3081,)
CIFAR100 = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)


def by_torchvision(name: str, root: Path) -> None:
    """Have torchvision download a dataset of its own into ``root``. Raises DataError when it cannot."""
    from torchvision import datasets

    kind = next(getattr(datasets, own) for own in datasets.__all__ if own.lower() == name.replace("_", ""))
    parts = ({"split": "train"}, {"split": "test"}) if name == "svhn" else ({},)
    folder = root / getattr(kind, "base_folder", "its two files" if name == "svhn" else kind.__name__)
    _download(name, folder, root, lambda new: [kind(new, download=True, **part) for part in parts])


@dataclass(frozen=True)
class Human:
    """One of Wei et al.'s files of labels that people gave to CIFAR's training images (ICLR 2022)."""

    of: str  # the dataset whose images they are
    file: str
    sha256: str
    shares: dict[str, float]  # the sets of labels, and the share of each that is wrong (counted by ``make data``)


@dataclass(frozen=True)
class Dataset:
    """What is known of one dataset without opening it, and how it is opened."""

    label: str  # as figures and tables call it
    image_shape: tuple[int, int, int]  # channels, height, width
    classes: int
    train: int  # images, validation included
    test: int
    read: Callable[[Path], tuple[Images, Images | None]]  # from the folder DATA; None: each seed makes its own split
    download: Callable[[str, Path], None] | None = None  # by name, into that folder
    largest: int = 255  # value of a pixel
    moments: tuple[tuple[float, ...], tuple[float, ...]] | None = None  # mean and std; None: the training images' own
    confused: dict[int, int] = field(default_factory=dict, repr=False)  # of asymmetric noise
    human: Human | None = field(default=None, repr=False)


_RGB = (3, 32, 32)
_RANDOM = {"random_label1": 0.1723, "random_label2": 0.1812, "random_label3": 0.1764}
_SHA_10 = "873e69c39cb9b5e97fb6bae2d60bb59b38a5cbc31d2b868f7903dcb2b9dd2310"
_SHA_100 = "bd2d80409754d420292d622e15e25248ba21e37d27429efac49c8da723f44394"
_HUMAN_10 = Human("cifar10", "CIFAR-10_human.pt", _SHA_10, {"worse_label": 0.4021, "aggre_label": 0.0901, **_RANDOM})
_HUMAN_100 = Human("cifar100", "CIFAR-100_human.pt", _SHA_100, {"noisy_label": 0.4020})
_HUMAN_20 = Human("cifar100", "CIFAR-100_human.pt", _SHA_100, {"noisy_coarse_label": 0.2640})
_IN_20 = "CIFAR-100 (20 classes)", _RGB, 20, 50_000, 10_000, readers.cifar100_coarse
_DIGITS = {2: 7, 3: 8, 5: 6, 6: 5}
_OBJECTS = {2: 0, 3: 5, 4: 7, 5: 3, 9: 1}  # bird → airplane, cat ↔ dog, deer → horse, truck → automobile

DATASETS = {
    # Each seed holds out 797 of 1,797
    "digits": Dataset("digits", (1, 8, 8), 10, 1000, 797, readers.digits, largest=16, confused=_DIGITS),
    "mnist": Dataset("MNIST", (1, 28, 28), 10, 60_000, 10_000, readers.mnist, by_torchvision, 255, MNIST, _DIGITS),
    "fashion_mnist": Dataset("Fashion-MNIST", (1, 28, 28), 10, 60_000, 10_000, readers.fashion_mnist, by_torchvision),
    "svhn": Dataset("SVHN", _RGB, 10, 73_257, 26_032, readers.svhn, by_torchvision),
    "cifar10": Dataset("CIFAR-10", _RGB, 10, 50_000, 10_000, readers.cifar10, by_torchvision, 255, IMAGENET, _OBJECTS),
    "cifar100": Dataset("CIFAR-100", _RGB, 100, 50_000, 10_000, readers.cifar100, by_torchvision, moments=IMAGENET),
    "cifar100_coarse": Dataset(*_IN_20, lambda _, root: by_torchvision("cifar100", root), moments=IMAGENET),
    "cifar10n": Dataset("CIFAR-10N", _RGB, 10, 50_000, 10_000, readers.cifar10, moments=IMAGENET, human=_HUMAN_10),
    "cifar100n": Dataset("CIFAR-100N", _RGB, 100, 50_000, 10_000, readers.cifar100, moments=CIFAR100, human=_HUMAN_100),
    "cifar100n_coarse": replace(Dataset(*_IN_20), label="CIFAR-100N (20 classes)", moments=CIFAR100, human=_HUMAN_20),
}
"""By the name that ``dataset`` gives."""

FOLDER = "folder/"  # before the name of a user's own folder of images in DATA


def label_of(name: str) -> str:
    """As figures and tables call a dataset; a folder of images goes by its own name."""
    return DATASETS[name].label if name in DATASETS else name.removeprefix(FOLDER)


def facts_of(name: str, size: int | None = None, root: Path | None = None) -> Dataset:
    """The entry of DATASETS, or one for a folder of images, cut to ``size`` pixels a side. Raises DataError."""
    return _folder(name, size or 1, root or DATA) if name.startswith(FOLDER) else DATASETS[name]


@cache
def _folder(name: str, size: int, root: Path) -> Dataset:
    """What is known of a folder with images in train/<class>/ and test/<class>/ when their names have been listed."""
    import torch
    from torchvision.datasets import ImageFolder
    from torchvision.transforms.v2 import CenterCrop, Compose, PILToTensor, Resize

    folder = root / name.removeprefix(FOLDER)
    try:
        # In colour and, as usual, the shorter side scaled and the middle cut out
        shape = Compose([Resize(size, antialias=True), CenterCrop(size), PILToTensor()])
        train, test = (ImageFolder(str(folder / part), shape) for part in ("train", "test"))
    except FileNotFoundError as error:
        what = f"should have images in train/<class>/ and in test/<class>/ ({error})"
        raise DataMissing(f"{name}: {folder} {what}; SDD_DATA names another place") from None
    if train.classes != test.classes:
        (odd, *_) = set(train.classes) ^ set(test.classes)
        raise DataError(f"{name}: {folder}: {odd} is not a class of both train and test")

    def images(part: ImageFolder) -> Images:
        try:
            pixels = torch.stack([image for image, _ in part])
        except OSError as error:  # PIL's
            raise DataError(f"{name}: an image cannot be read: {error}") from None
        return Images(pixels, torch.tensor(part.targets), len(part.classes)).check(f"{name}: {folder}")

    read, shape = (lambda root: (images(train), images(test))), (3, size, size)
    return Dataset(label_of(name), shape, len(train.classes), len(train), len(test), read)


def source(name: str, size: int | None = None) -> tuple[Images, Images | None]:
    """A dataset as it comes: training images, and test images if there is such a split; those of a folder cut to
    ``size`` pixels a side. Raises DataError."""
    facts = facts_of(name, size)
    pool, test = _read(facts.read, DATA)
    numbers = [facts.train, facts.test]
    found = [len(pool.labels) - facts.test, facts.test] if test is None else [len(pool.labels), len(test.labels)]
    if (pool.images.shape[1:], pool.classes, found) != (facts.image_shape, facts.classes, numbers):
        there = f"{found} images of {tuple(pool.images.shape[1:])} and {pool.classes} classes"
        said = f"{numbers}, {facts.image_shape} and {facts.classes}"
        raise DataError(f"{name}: has {there}, and its entry in DATASETS says {said}")
    return pool, test


@cache
def _read(read: Callable, root: Path) -> tuple[Images, Images | None]:
    return read(root)


def human_labels(name: str, labels: str, root: Path | None = None) -> Tensor:
    """The labels (n,) int64 that people gave to all training images of a dataset, in CIFAR's own order.

    The file is a pickle from elsewhere: it is opened only when its SHA-256 sum is the published one, and then by the
    reader of torch that builds arrays and nothing else. Raises DataError, also when its clean labels are not CIFAR's.
    """
    import numpy as np
    import torch

    root, facts = root or DATA, DATASETS[name]
    path = root / "cifar-n" / facts.human.file
    if labels not in facts.human.shares:
        raise DataError(f"{name}: there are no labels {labels!r}; there are {', '.join(facts.human.shares)}")
    if not path.exists():
        raise DataMissing(f"{name}: {path} is missing; make data DATASET={name} downloads it")
    if sha256(path) != (known := facts.human.sha256):
        raise DataError(f"{name}: {path} is cut or changed: its SHA-256 sum is not {known}; it was not opened")
    arrays, clean = read_arrays(path), _read(facts.read, root)[0].labels
    if not np.array_equal(arrays["clean_coarse_label" if "coarse" in labels else "clean_label"], clean.numpy()):
        raise DataError(f"{name}: {path}: its clean labels are not those of {facts.human.of}'s training images")
    return check_labels(torch.as_tensor(arrays[labels]).long(), len(clean), facts.classes, f"{name}: {path}")


def download(name: str, root: Path | None = None) -> str:
    """Download what is missing of a dataset, check all of it, and say what it is. Nothing else uses a network."""
    root, facts = root or DATA, facts_of(name, root=root)
    base = facts.human.of if facts.human else name
    try:
        pool, test = _read(facts.read, root)
    except DataMissing:
        DATASETS[base].download(base, root)
        pool, test = _read(facts.read, root)
    if not facts.human:
        images = f"training images and {len(test.labels)} test images" if test else "images"
        return f"{name}: {len(pool.labels)} {images}, {pool.classes} classes"
    path = root / "cifar-n" / facts.human.file
    if not path.exists():
        from torchvision.datasets.utils import download_url

        def fetch(new: Path) -> None:
            download_url(f"{HUMAN_URL}/{path.name}", str(new / path.parent.name))
            if sha256(new / path.relative_to(root)) != facts.human.sha256:
                raise OSError("what came is cut or changed")

        _download(name, path, root, fetch)
    given = {labels: human_labels(name, labels, root) != pool.labels for labels in facts.human.shares}
    shares = [f"{labels} {wrong.float().mean().item():.2%} wrong" for labels, wrong in given.items()]
    return f"{name}: {len(pool.labels)} training labels, {', '.join(shares)}"


def _download(name: str, path: Path, root: Path, fetch: Callable[[Path], object]) -> None:
    """Into a folder of its own first, since what is cut there does not keep a name that is looked for."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=root, prefix=".download-") as new:
            fetch(Path(new))
            for file in [file for file in Path(new).rglob("*") if file.is_file()]:
                target = root / file.relative_to(new)
                target.parent.mkdir(parents=True, exist_ok=True)
                file.replace(target)
    except (OSError, RuntimeError) as error:
        raise DataError(f"{name}: cannot be downloaded ({error}); put {path.name} into {path.parent} by hand") from None
