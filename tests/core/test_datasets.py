"""Datasets in torchvision's and CIFAR-N's formats on disk, small and made here, and everything that can be wrong."""

import gzip
import hashlib
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import sklearn.datasets
import torch
import torchvision
from PIL import Image
from torchvision.datasets import CIFAR10

from sdd_utils import datasets
from sdd_utils.cli.commands import main
from sdd_utils.data import load
from sdd_utils.datasets import DATA, DATASETS, Human, download, human_labels
from sdd_utils.errors import ConfigError, DataError
from sdd_utils.files import ROOT
from sdd_utils.pruning_loop import iterative_pruning
from sdd_utils.readers import Images, cifar10, cifar100_coarse, digits, fashion_mnist, mnist, svhn


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder with a CIFAR-10 of two training batches of ten images and a test batch of ten."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    files = []
    for name in ("data_batch_1", "data_batch_2", "test_batch"):
        images = rng.integers(0, 256, (10, 3072), dtype=np.uint8)
        files.append([name, dump(folder / name, {"data": images, "labels": list(range(10))})])
    meta = {"filename": "batches.meta", "key": "label_names"}
    meta["md5"] = dump(folder / "batches.meta", {"label_names": list("abcdefghij")})

    class Tiny(CIFAR10):
        train_list, test_list = files[:2], files[2:]

        def download(self):
            raise OSError("no network here")

    Tiny.meta = meta
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Tiny)
    for name in ("cifar10", "cifar10n"):
        monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], train=20, test=10))
    monkeypatch.setattr(datasets, "DATA", tmp_path)
    human(tmp_path, monkeypatch)
    return tmp_path


def dump(path, content):
    path.write_bytes(pickle.dumps(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


def human(root, monkeypatch, **changes):
    """Write the human labels, and make their checksum the published one."""
    clean = np.tile(np.arange(10), 2)
    arrays = {"clean_label": clean, "worse_label": (clean + (clean % 2)) % 10, "aggre_label": clean} | changes
    (root / "cifar-n").mkdir(exist_ok=True)
    path = root / "cifar-n" / "CIFAR-10_human.pt"
    torch.save(arrays, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    made = Human("cifar10", path.name, digest, {"worse_label": 0.4021, "aggre_label": 0.0901})
    monkeypatch.setitem(DATASETS, "cifar10n", replace(DATASETS["cifar10n"], human=made))


@pytest.fixture
def say(root, monkeypatch, capsys):
    """Run ``data`` and give the one line that it was refused with."""

    def run(dataset):
        monkeypatch.setattr("sys.argv", ["sdd_utils", "data", "--dataset", dataset, "--root", str(root)])
        with pytest.raises(SystemExit) as end:
            main()
        (line,) = capsys.readouterr().err.splitlines()
        assert end.value.code == 2
        return line.removeprefix("error: ")

    return run


def test_images_and_labels_come_as_they_are_on_disk(root):
    train, test = cifar10(root)
    raw = pickle.loads((root / "cifar-10-batches-py" / "data_batch_2").read_bytes())
    assert train.images.shape == (20, 3, 32, 32)
    assert train.images.dtype == torch.uint8
    assert torch.equal(train.images[10:].flatten(1), torch.from_numpy(raw["data"]))
    assert test.labels.tolist() == list(range(10))


def test_human_labels_are_in_the_order_of_the_images(root):
    assert human_labels("cifar10n", "worse_label", root).tolist() == [0, 2, 2, 4, 4, 6, 6, 8, 8, 0] * 2
    assert human_labels("cifar10n", "aggre_label", root).tolist() == [*range(10)] * 2


def test_an_experiment_takes_its_share_of_the_images_and_leaves_the_test_set_alone(root, small):
    data = load(small(dataset="cifar10", noise_rate=0.25))
    everything = torch.cat([data.train.images, data.val.images]).flatten(1)
    assert sorted(everything.tolist()) == sorted(cifar10(root)[0].images.flatten(1).tolist())
    assert [len(part) for part in (data.train, data.val, data.test)] == [16, 4, 10]
    assert [int(part.corrupted.sum()) for part in (data.train, data.val, data.test)] == [4, 1, 0]
    black = torch.zeros(1, 3, 1, 1, dtype=torch.uint8)
    assert data.train.normalise(black).flatten().tolist() == pytest.approx(
        [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225]
    )


def test_a_subset_follows_the_seed(root, small):
    exp = small(dataset="cifar10", train_subset=10, test_subset=4)
    data, same, other = load(exp), load(exp), load(exp.model_copy(update={"seed": 1}))
    assert [len(part) for part in (data.train, data.val, data.test)] == [8, 2, 4]
    assert torch.equal(data.train.images, same.train.images)
    assert not torch.equal(data.train.images, other.train.images)


def test_an_experiment_on_human_labels_trains_on_what_people_said(root, small):
    exp = small(dataset="cifar10n", noise_kind="human", human_labels="worse_label", noise_rate=0.4021)
    data = load(exp)
    for part in (data.train, data.val):
        assert torch.equal(part.labels, (part.clean + part.clean % 2) % 10)
    assert not data.test.corrupted.any()
    agreed = load(small(dataset="cifar10n", noise_kind="human", human_labels="aggre_label", noise_rate=0.0901))
    assert torch.equal(agreed.train.labels, agreed.train.clean)  # here, what most people say is right


def test_the_command_says_what_is_there(root, monkeypatch, capsys):
    for name, said in (
        ("cifar10", "cifar10: 20 training images and 10 test images, 10 classes"),
        ("cifar10n", "cifar10n: 20 training labels, worse_label 50.00% wrong, aggre_label 0.00% wrong"),
        ("digits", "digits: 1797 images, 10 classes"),
    ):
        monkeypatch.setattr("sys.argv", ["sdd_utils", "data", "--dataset", name, "--root", str(root)])
        main()
        assert capsys.readouterr().out.strip() == said


def spoil(root, name, how):
    path = root / name
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:-7] if how == "cut" else bytes([content[0] ^ 1]) + content[1:])


@pytest.mark.parametrize("how", ["missing", "cut", "changed"])
@pytest.mark.parametrize("file", ["data_batch_1", "data_batch_2", "test_batch", "batches.meta"])
def test_a_file_of_cifar_that_is_not_what_was_published(root, say, file, how):
    spoil(root, f"cifar-10-batches-py/{file}", how)
    if how == "missing":
        assert say("cifar10").startswith(
            "cifar10: cannot be downloaded (no network here); put cifar-10-batches-py into"
        )
        with pytest.raises(DataError, match=f"{file} is missing; make data DATASET=cifar10 downloads it"):
            cifar10(root)
    else:
        assert say("cifar10").startswith(
            f"cifar10: {root}/cifar-10-batches-py/{file} is cut or changed: its MD5 sum is"
        )


@pytest.fixture
def mnist_root(tmp_path, monkeypatch):
    """MNIST's four files in the small: 20 training and 10 test images, under checksums of their own."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    sums = {}
    for part, n in (("train", 20), ("t10k", 10)):
        pixels, labels = np.arange(n * 784, dtype=np.uint8), np.arange(n, dtype=np.uint8) % 10
        for kind, head, content in (("images-idx3", [2051, n, 28, 28], pixels), ("labels-idx1", [2049, n], labels)):
            content = np.array(head, dtype=">i4").tobytes() + content.tobytes()
            (folder / f"{part}-{kind}-ubyte").write_bytes(content)
            sums[f"{part}-{kind}-ubyte"] = hashlib.md5(content).hexdigest()
    monkeypatch.setattr("sdd_utils.readers.MNIST_FILES", sums)
    return tmp_path


def test_mnist_is_read_as_it_lies_in_its_files(mnist_root):
    train, test = mnist(mnist_root)
    assert (train.images.shape, test.images.shape) == ((20, 1, 28, 28), (10, 1, 28, 28))
    assert train.images.flatten().tolist() == [i % 256 for i in range(20 * 784)]
    assert (train.labels.tolist(), test.labels.tolist()) == ([*range(10)] * 2, [*range(10)])


@pytest.mark.parametrize(("how", "message"), [("missing", "is missing; make data DATASET=mnist"), ("cut", "is cut or")])
def test_mnist_that_is_not_what_was_published_is_not_read(mnist_root, how, message):
    path = mnist_root / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    path.unlink() if how == "missing" else path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=f"mnist: {path} {message}"):
        mnist(mnist_root)


@pytest.fixture
def fashion_root(tmp_path, monkeypatch):
    """A Fashion-MNIST of 20 training and 10 test images in the files that torchvision downloads."""
    folder, resources = tmp_path / "FashionMNIST" / "raw", []
    folder.mkdir(parents=True)
    for part, n in (("train", 20), ("t10k", 10)):
        pixels, labels = np.arange(n * 784) % 256, np.arange(n) % 10
        header = [0, 0, 8, 3, 0, 0, 0, n, 0, 0, 0, 28, 0, 0, 0, 28]
        for kind, values in (("images-idx3", [*header, *pixels]), ("labels-idx1", [0, 0, 8, 1, 0, 0, 0, n, *labels])):
            path = folder / f"{part}-{kind}-ubyte.gz"
            path.write_bytes(gzip.compress(bytes(int(value) for value in values)))
            resources.append((path.name, hashlib.md5(path.read_bytes()).hexdigest()))
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "resources", resources)
    return tmp_path


def test_fashion_mnist_is_read_as_it_lies_in_its_files(fashion_root):
    train, test = fashion_mnist(fashion_root)
    assert (train.images.shape, test.images.shape) == ((20, 1, 28, 28), (10, 1, 28, 28))
    assert train.images.flatten().tolist() == [i % 256 for i in range(20 * 784)]
    assert (train.labels.tolist(), test.labels.tolist()) == ([*range(10)] * 2, [*range(10)])
    path = fashion_root / "FashionMNIST" / "raw" / "train-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=f"fashion_mnist: {path} is cut or changed"):
        fashion_mnist(fashion_root)


def test_svhn_is_read_as_it_lies_in_its_files_with_ten_for_zero(tmp_path, monkeypatch):
    rng, listed = np.random.default_rng(0), {}
    given = {part: rng.integers(0, 256, (32, 32, 3, 10), dtype=np.uint8) for part in ("train", "test")}
    for part, images in given.items():
        path = tmp_path / f"{part}_32x32.mat"
        scipy.io.savemat(path, {"X": images, "y": np.arange(1, 11, dtype=np.uint8)[:, None]})
        listed[part] = ["", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", listed)
    train, test = svhn(tmp_path)
    assert torch.equal(train.images, torch.from_numpy(given["train"].transpose(3, 2, 0, 1)))
    assert test.labels.tolist() == [*range(1, 10), 0]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=f"svhn: {path} is cut or changed"):
        svhn(tmp_path)


@pytest.fixture
def flowers(tmp_path, monkeypatch, small):
    """A folder of images of any size, red ones and blue ones, and an experiment on them."""
    for part, n in (("train", 12), ("test", 4)):
        for name, colour in (("blue", (0, 0, 250)), ("red", (250, 0, 0))):
            folder = tmp_path / "flowers" / part / name
            folder.mkdir(parents=True)
            for i in range(n):
                Image.new("RGB", (20 + i, 30), colour).save(folder / f"{i}.png")
    monkeypatch.setattr(datasets, "DATA", tmp_path)
    return lambda **more: small(dataset="folder/flowers", image_size=8, noise_rate=0.2, batch_size=5, **more)


def test_a_folder_of_images_is_a_dataset(flowers):
    exp = flowers(epochs=3, levels=1)
    data = load(exp)
    assert [len(part) for part in (data.train, data.val, data.test)] == [19, 5, 8]
    assert data.train.images.shape == (19, 3, 8, 8)
    assert (exp.facts.classes, exp.run_id.split("-")[:2]) == (2, ["flowers", "mlp16"])
    assert download("folder/flowers") == "folder/flowers: 24 training images and 8 test images, 2 classes"
    red = data.test.labels == 1
    assert (data.test.images[red, 0] == 250).all()
    assert (data.test.images[~red, 0] == 0).all()
    *_, level = iterative_pruning(exp, data)
    assert level.test_acc == 1.0


def test_a_folder_that_is_none_is_refused_by_name(flowers, small, tmp_path):
    with pytest.raises(ConfigError, match="image_size: missing; it must be given when dataset is a folder"):
        small(dataset="folder/flowers")
    with pytest.raises(ConfigError, match="image_size: given, but it means something only when dataset is a folder"):
        small(image_size=8)
    with pytest.raises(ConfigError, match=r"folder/trees: .*trees should have images in train/<class>/ and in test/"):
        small(dataset="folder/trees", image_size=8)
    with pytest.raises(ConfigError, match=r"dataset: should be one of .* \(got 'folder/../flowers'\)"):
        small(dataset="folder/../flowers", image_size=8)
    (tmp_path / "flowers" / "test" / "red" / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="folder/flowers: an image cannot be read: cannot identify image file"):
        load(flowers())
    shutil.rmtree(tmp_path / "flowers" / "test" / "red")
    datasets._folder.cache_clear()
    with pytest.raises(ConfigError, match=r"folder/flowers: .*: red is not a class of both train and test"):
        flowers()


def test_no_network_and_nothing_there(root, say):
    (root / "cifar-10-batches-py").rename(root / "elsewhere")
    said = say("cifar10")
    assert said == f"cifar10: cannot be downloaded (no network here); put cifar-10-batches-py into {root} by hand"


@pytest.mark.parametrize("end", [OSError("connection lost"), KeyboardInterrupt()])
def test_a_download_that_is_cut_leaves_no_file_that_is_looked_for(root, monkeypatch, end):
    whole = root / "elsewhere"
    (root / "cifar-10-batches-py").rename(whole)

    def cut(self):
        folder = self.root / self.base_folder
        shutil.copytree(whole, folder)
        (folder / "test_batch").write_bytes(b"half of it")
        raise end

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", cut)
    with pytest.raises((DataError, KeyboardInterrupt)):
        datasets.download("cifar10", root)
    assert {path.name for path in root.iterdir()} == {"elsewhere", "cifar-n"}
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", lambda s: shutil.copytree(whole, s.root / whole.name))
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "base_folder", whole.name)
    assert datasets.download("cifar10", root) == "cifar10: 20 training images and 10 test images, 10 classes"


def test_human_labels_that_came_cut_are_not_kept(root, say, monkeypatch):
    def cut(url, folder):
        os.makedirs(folder)
        (Path(folder) / Path(url).name).write_bytes(content[:-1])

    path = root / "cifar-n" / "CIFAR-10_human.pt"
    content = path.read_bytes()
    path.unlink()
    monkeypatch.setattr(torchvision.datasets.utils, "download_url", cut)
    assert say("cifar10n").startswith("cifar10n: cannot be downloaded (what came is cut or changed); put CIFAR-10_hum")
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize(("given", "meant"), [("", ROOT / "data"), ("~/images", "/home/me/images"), ("/a/b", "/a/b")])
def test_the_folder_of_datasets_is_the_one_that_the_environment_means(given, meant):
    code = [sys.executable, "-c", "from sdd_utils.datasets import DATA; print(DATA)"]
    environment = os.environ | {"SDD_DATA": given, "HOME": "/home/me"}
    shown = subprocess.run(code, env=environment, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert shown == f"{meant}\n"


CONTENT = [
    ({"labels": list(range(9))}, "labels are (19,) torch.int64, not (20,) int64"),
    ({"labels": [*range(9), 10]}, "label 10 is out of range; there are 10 classes, from 0"),
    ({"labels": [*range(9), -1]}, "label -1 is out of range; there are 10 classes, from 0"),
    (
        {"data": np.zeros((10, 3072))},
        "images are (20, 3, 32, 32) torch.float64, not (n, channels, height, width) uint8",
    ),
]


@pytest.mark.parametrize(("change", "message"), CONTENT)
def test_content_that_cannot_be_images_and_labels(root, say, change, message):
    """With the right checksum: as if another dataset were published under the name."""
    for file in torchvision.datasets.CIFAR10.train_list[: 1 if "labels" in change else 2]:
        path = root / "cifar-10-batches-py" / file[0]
        file[1] = dump(path, pickle.loads(path.read_bytes()) | change)
    assert say("cifar10") == f"cifar10: {root}/cifar-10-batches-py: {message}"


@pytest.mark.parametrize("how", ["cut", "changed"])
def test_human_labels_that_are_not_what_was_published_are_not_opened(root, say, monkeypatch, how):
    spoil(root, "cifar-n/CIFAR-10_human.pt", how)
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("opened"))
    said = say("cifar10n")
    assert said.startswith(f"cifar10n: {root}/cifar-n/CIFAR-10_human.pt is cut or changed: its SHA-256 sum is not ")


class Harm:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def test_human_labels_that_hold_code_do_not_run_it(root, say, monkeypatch):
    monkeypatch.chdir(root)
    human(root, monkeypatch, clean_label=Harm())
    assert say("cifar10n").endswith("holds something else than arrays; it was not opened further")
    assert not (root / "harm").exists()


def test_human_labels_of_other_images(root, say, monkeypatch):
    human(root, monkeypatch, clean_label=np.arange(20) % 10 + np.eye(1, 20, 3, dtype=int)[0])
    assert say("cifar10n").endswith("its clean labels are not those of cifar10's training images")


def test_human_labels_out_of_range(root, say, monkeypatch):
    human(root, monkeypatch, worse_label=np.full(20, 10))
    assert say("cifar10n").endswith("label 10 is out of range; there are 10 classes, from 0")


def test_human_labels_by_another_name(root):
    with pytest.raises(DataError, match="no labels 'best'; there are worse_label, aggre_label"):
        human_labels("cifar10n", "best", root)


def test_unknown_datasets(say):
    known = (
        "digits, mnist, fashion_mnist, svhn, cifar10, cifar100, cifar100_coarse, cifar10n, cifar100n, cifar100n_coarse"
    )
    assert say("stl10") == f"dataset: there is no 'stl10'; known are {known}"
    assert say("folder/trees").startswith(
        f"folder/trees: {datasets.DATA}/trees should have images in train/<class>/ and"
    )


def test_digits_are_those_that_scikit_learn_gives():
    given, (images, _) = sklearn.datasets.load_digits(), digits(DATA)
    assert images.images[:, 0].tolist() == given.images.tolist()
    assert images.labels.tolist() == given.target.tolist()


@pytest.mark.parametrize("change", [lambda raw: raw[:, 1:], lambda raw: raw[1:], lambda raw: raw + 9])
def test_digits_that_are_not_scikit_learns(monkeypatch, change):
    read = np.loadtxt
    monkeypatch.setattr(np, "loadtxt", lambda *args, **options: change(read(*args, **options)))
    with pytest.raises(DataError, match=r"digits: images and labels are \(179., 6.\), not \(1797, 65\) with"):
        digits(DATA)


def test_each_superclass_of_cifar100_has_five_classes_and_their_images(monkeypatch):
    fine = Images(torch.zeros(100, 3, 32, 32, dtype=torch.uint8), torch.arange(100), 100)
    monkeypatch.setattr("sdd_utils.readers.cifar100", lambda root: (fine, fine))
    coarse, _ = cifar100_coarse(DATA)
    assert torch.bincount(coarse.labels).tolist() == [5] * 20
    trees = [47, 52, 56, 59, 96]  # maple, oak, palm, pine and willow
    assert coarse.labels[trees].unique().tolist() == [17]
    assert coarse.check("").images is fine.images


@pytest.mark.skipif(not (DATA / "cifar-n").exists(), reason="CIFAR and CIFAR-N are not on this machine")
@pytest.mark.parametrize(("name", "classes"), [("cifar10n", 10), ("cifar100n", 100), ("cifar100n_coarse", 20)])
def test_the_real_files_are_what_the_registry_says_of_them(name, classes):
    facts = DATASETS[name]
    train, test = facts.read(DATA)
    assert (len(train.labels), len(test.labels), train.classes) == (50_000, 10_000, classes)
    for labels, rate in facts.human.shares.items():
        given = human_labels(name, labels)
        assert (given != train.labels).float().mean().item() == pytest.approx(rate, abs=5e-5)
    if name == "cifar100n":
        means = train.images.float().mean((0, 2, 3)) / 255
        assert means.tolist() == pytest.approx(facts.moments[0], abs=2e-4)
