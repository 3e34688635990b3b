"""CIFAR-10 and CIFAR-100 as torchvision keeps them, and the labels that people gave to them (CIFAR-N)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import check_md5, download_url

from sdd_utils.datasets import DATA, Images, check_labels, digits
from sdd_utils.errors import DataError
from sdd_utils.files import sha256

CIFAR = {"cifar10": CIFAR10, "cifar100": CIFAR100}
HUMAN_URL = "https://raw.githubusercontent.com/UCSC-REAL/cifar-10-100n/main/data"


@dataclass(frozen=True)
class Human:
    """One of Wei et al.'s files of labels that people gave to CIFAR's training images (ICLR 2022)."""

    of: str
    file: str
    sha256: str
    labels: tuple[str, ...]  # the first is the one meant by default


HUMAN = {
    "cifar10n": Human(
        "cifar10",
        "CIFAR-10_human.pt",
        "873e69c39cb9b5e97fb6bae2d60bb59b38a5cbc31d2b868f7903dcb2b9dd2310",
        ("worse_label", "aggre_label", "random_label1", "random_label2", "random_label3"),
    ),
    "cifar100n": Human(
        "cifar100",
        "CIFAR-100_human.pt",
        "bd2d80409754d420292d622e15e25248ba21e37d27429efac49c8da723f44394",
        ("noisy_label",),
    ),
}
NAMES = ["digits", *CIFAR, *HUMAN]


def cifar(name: str, root: Path = DATA) -> tuple[Images, Images]:
    """CIFAR-10's or CIFAR-100's training and test images, 32×32, from torchvision's folder under ``root``.

    Every file's MD5 sum is checked before torchvision opens it. Raises DataError when one is missing or another.
    """
    kind = CIFAR[name]
    folder = root / kind.base_folder
    for file, md5 in _files(kind):
        if not (folder / file).exists():
            raise DataError(
                f"{name}: {folder / file} is missing; make data DATASET={name} downloads it, or put torchvision's "
                f"folder {kind.base_folder} into {root} (SDD_DATA names another place)"
            )
        if not check_md5(str(folder / file), md5):
            raise DataError(
                f"{name}: {folder / file} is cut or changed: its MD5 sum is not {md5}; remove and download it"
            )
    return tuple(_cifar_images(kind(root, train=train), f"{name}: {folder}") for train in (True, False))


def _files(kind: type[CIFAR10]) -> list[tuple[str, str]]:
    """Names and MD5 sums, as torchvision has them."""
    return [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]


def _cifar_images(part: CIFAR10, where: str) -> Images:
    images = torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous()
    return Images(images, torch.tensor(part.targets), len(part.classes)).check(where)


def human_labels(name: str, clean: Tensor, classes: int, root: Path = DATA, labels: str = "") -> Tensor:
    """Human labels (n,) int64 of CIFAR's training images, in the order of ``clean`` (n,), CIFAR's own labels.

    The file is a pickle from elsewhere: it is opened only when its SHA-256 sum is the published one, and then by the
    reader of torch that builds arrays and nothing else. Raises DataError, also when its clean labels are not ``clean``.
    """
    kind = HUMAN[name]
    path = root / "cifar-n" / kind.file
    if labels and labels not in kind.labels:
        raise DataError(f"{name}: there are no labels {labels!r}; there are {', '.join(kind.labels)}")
    if not path.exists():
        raise DataError(f"{name}: {path} is missing; make data DATASET={name} downloads it")
    if sha256(path) != kind.sha256:
        raise DataError(f"{name}: {path} is cut or changed: its SHA-256 sum is not {kind.sha256}; it was not opened")
    read = _read_arrays(path)
    if not np.array_equal(read["clean_label"], clean.numpy()):
        raise DataError(f"{name}: {path}: its clean labels are not those of {kind.of}'s training images")
    return check_labels(torch.from_numpy(read[labels or kind.labels[0]]).long(), len(clean), classes, f"{name}: {path}")


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    make = np._core.multiarray._reconstruct  # under its name of today and the one from when the files were made
    arrays = [make, (make, "numpy.core.multiarray._reconstruct"), np.ndarray, np.dtype]
    kinds = [type(np.dtype(kind)) for kind in ("int64", "int32", "uint8")]
    try:
        with torch.serialization.safe_globals([*arrays, *kinds]):
            return torch.load(path, weights_only=True)
    except UnpicklingError:
        raise DataError(f"{path}: holds something else than arrays; it was not opened further") from None


def fetch(name: str, root: Path = DATA) -> str:
    """Download what is missing of a dataset, check all of it, and say what it is. Nothing else uses a network."""
    if name == "digits":
        return f"digits: {len(digits().labels)} images, part of scikit-learn"
    human = HUMAN.get(name)
    base = human.of if human else name
    if not all((root / CIFAR[base].base_folder / file).exists() for file, _ in _files(CIFAR[base])):
        _download(name, root / CIFAR[base].base_folder, lambda: CIFAR[base](root, download=True))
    train, test = cifar(base, root)
    if not human:
        return f"{name}: {len(train.labels)} training and {len(test.labels)} test images, {train.classes} classes"
    path = root / "cifar-n" / human.file
    if not path.exists():
        _download(name, path, lambda: download_url(f"{HUMAN_URL}/{human.file}", str(path.parent)))
    shares = []
    for labels in human.labels:
        given = human_labels(name, train.labels, train.classes, root, labels)
        shares.append(f"{labels} {(given != train.labels).float().mean().item():.2%} wrong")
    return f"{name}: {len(train.labels)} training labels, {', '.join(shares)}"


def _download(name: str, path: Path, download: Callable[[], object]) -> None:
    try:
        download()
    except (OSError, RuntimeError) as error:
        raise DataError(f"{name}: cannot be downloaded ({error}); put {path.name} into {path.parent} by hand") from None
