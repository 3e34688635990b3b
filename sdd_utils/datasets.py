"""Datasets, one entry each in DATASETS, and from their files to images.

No file is opened that is not the one that was published, and no network is used but by ``download``. torch and
torchvision are imported by the functions that read: a dataset's name and its number of classes can be had without.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, partial
from importlib.metadata import distribution
from pathlib import Path
from pickle import UnpicklingError
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from sdd_utils.errors import DataError, DataMissing
from sdd_utils.files import ROOT, sha256

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

# Where datasets are, in torchvision's layout
DATA = Path(os.path.expanduser(os.environ.get("SDD_DATA") or ROOT / "data"))
HUMAN_URL = "https://raw.githubusercontent.com/UCSC-REAL/cifar-10-100n/main/data"

# Mean and standard deviation by channel, of values in [0, 1], as in the authors' code: ImageNet's for CIFAR, for
# CIFAR-100N those of CIFAR-100's training images; MNIST's as in He et al.'s.
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MNIST = (0.1307,), (0.3081,)
CIFAR100 = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)


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


def digits(root: Path = DATA) -> tuple[Images, None]:
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
_IN_20 = "CIFAR-100 (20 classes)", _RGB, 20, 50_000, 10_000, cifar100_coarse
_DIGITS = {2: 7, 3: 8, 5: 6, 6: 5}
_OBJECTS = {2: 0, 3: 5, 4: 7, 5: 3, 9: 1}  # bird → airplane, cat ↔ dog, deer → horse, truck → automobile

DATASETS = {
    # Each seed holds out 797 of 1,797
    "digits": Dataset("digits", (1, 8, 8), 10, 1000, 797, digits, largest=16, confused=_DIGITS),
    "mnist": Dataset("MNIST", (1, 28, 28), 10, 60_000, 10_000, mnist, by_torchvision, 255, MNIST, _DIGITS),
    "fashion_mnist": Dataset("Fashion-MNIST", (1, 28, 28), 10, 60_000, 10_000, fashion_mnist, by_torchvision),
    "svhn": Dataset("SVHN", _RGB, 10, 73_257, 26_032, svhn, by_torchvision),
    "cifar10": Dataset("CIFAR-10", _RGB, 10, 50_000, 10_000, cifar10, by_torchvision, 255, IMAGENET, _OBJECTS),
    "cifar100": Dataset("CIFAR-100", _RGB, 100, 50_000, 10_000, cifar100, by_torchvision, moments=IMAGENET),
    "cifar100_coarse": Dataset(*_IN_20, lambda _, root: by_torchvision("cifar100", root), moments=IMAGENET),
    "cifar10n": Dataset("CIFAR-10N", _RGB, 10, 50_000, 10_000, cifar10, moments=IMAGENET, human=_HUMAN_10),
    "cifar100n": Dataset("CIFAR-100N", _RGB, 100, 50_000, 10_000, cifar100, moments=CIFAR100, human=_HUMAN_100),
    "cifar100n_coarse": replace(Dataset(*_IN_20), label="CIFAR-100N (20 classes)", moments=CIFAR100, human=_HUMAN_20),
}
"""By the name that ``dataset`` gives."""

FOLDER = "folder/"  # before the name of a user's own folder of images in DATA


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
    return Dataset(name.removeprefix(FOLDER), shape, len(train.classes), len(train), len(test), read)


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
    arrays, clean = _read_arrays(path), _read(facts.read, root)[0].labels
    if not np.array_equal(arrays["clean_coarse_label" if "coarse" in labels else "clean_label"], clean.numpy()):
        raise DataError(f"{name}: {path}: its clean labels are not those of {facts.human.of}'s training images")
    return check_labels(torch.as_tensor(arrays[labels]).long(), len(clean), facts.classes, f"{name}: {path}")


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
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
