from dataclasses import replace

import pytest
import torch

from sdd_utils.data import Normalise, Split, augmented, batches, load, pad, symmetric_noise
from sdd_utils.datasets import DATASETS
from sdd_utils.errors import DataError
from sdd_utils.seeding import generator


def test_noise_changes_exactly_the_share_and_never_to_the_same_class():
    labels = torch.randint(0, 10, (1000,), generator=generator(0))
    for rate in (0.0, 0.1, 0.333, 0.999):
        noisy = symmetric_noise(labels, rate, 10, generator(1))
        assert int((noisy != labels).sum()) == round(rate * 1000)
        assert noisy.min() >= 0
        assert noisy.max() < 10


def test_wrong_classes_are_drawn_uniformly():
    labels = torch.zeros(90_000, dtype=torch.int64)
    counts = symmetric_noise(labels, 0.9999999, 10, generator(0)).bincount(minlength=10)
    assert counts[0] == 0
    assert (counts[1:] - 10_000).abs().max() < 500  # five standard deviations of a binomial


@pytest.mark.parametrize(
    ("kind", "taken_for"),
    [("pair_flip", {label: (label + 1) % 10 for label in range(10)}), ("asymmetric", {2: 7, 3: 8, 5: 6, 6: 5})],
)
def test_labels_are_taken_for_one_other_class_and_as_many_as_asked_are_wrong(small, kind, taken_for):
    data = load(small(noise_kind=kind, noise_rate=0.15))
    for part, wrong in ((data.train, 120), (data.val, 30)):
        assert int(part.corrupted.sum()) == wrong
        pairs = zip(part.clean[part.corrupted].tolist(), part.labels[part.corrupted].tolist(), strict=True)
        assert all(taken_for[clean] == label for clean, label in pairs)


def test_more_labels_than_can_be_taken_for_another_class_are_refused(small, monkeypatch):
    monkeypatch.setitem(DATASETS, "digits", replace(DATASETS["digits"], confused={5: 6}))
    exp = small(noise_kind="asymmetric", noise_rate=0.05).model_copy(update={"noise_rate": 0.2})
    with pytest.raises(DataError, match=r"noise_rate: 160 labels of 800 are to be wrong, and \d+ can be"):
        load(exp)


def test_a_kind_of_noise_that_nothing_draws_is_not_taken_for_another(small):
    with pytest.raises(KeyError, match="pair"):
        load(small().model_copy(update={"noise_kind": "pair"}))


def test_a_dataset_is_what_the_settings_take_it_for(small, monkeypatch):
    monkeypatch.setitem(DATASETS, "digits", replace(DATASETS["digits"], train=900))
    with pytest.raises(DataError, match=r"digits: has \[1000, 797\] images .*entry in DATASETS says \[900, 797\]"):
        load(small())


def test_split_is_disjoint_sized_and_follows_the_seed(small):
    data, same, other = load(small()), load(small()), load(small(seed=1))
    assert (len(data.train), len(data.val), len(data.test)) == (800, 200, 797)
    everything = torch.cat([part.images for part in (data.train, data.val, data.test)]).flatten(1)
    assert len(everything.unique(dim=0)) == len(load_all_distinct())
    assert torch.equal(data.train.images, same.train.images)
    assert torch.equal(data.train.labels, same.train.labels)
    assert not torch.equal(data.train.clean, other.train.clean)


def load_all_distinct():
    from sklearn.datasets import load_digits

    return torch.from_numpy(load_digits().data).unique(dim=0)


def test_train_and_validation_are_noisy_and_test_is_clean(small):
    data = load(small(noise_rate=0.3))
    assert int(data.train.corrupted.sum()) == 240
    assert int(data.val.corrupted.sum()) == 60
    assert not data.test.corrupted.any()


def test_which_labels_are_wrong_follows_the_seed(small):
    one, other = (load(small(seed=seed)).train.corrupted for seed in (0, 1))
    assert not torch.equal(one, other)


def test_methods_of_one_seed_see_the_same_data(small, student):
    plain, taught = load(small()), load(student())
    assert torch.equal(plain.train.labels, taught.train.labels)
    assert torch.equal(plain.test.images, taught.test.images)


def test_training_images_are_normalised(small):
    train = load(small()).train
    images = train.normalise(train.images)
    assert train.images.dtype == torch.uint8
    assert abs(images.mean().item()) < 1e-5
    assert abs(images.std().item() - 1) < 1e-5


def test_an_epoch_holds_every_example_once_in_a_new_order(small):
    exp, rng = small(batch_size=300), generator(0)
    split = load(exp).train
    first, second = (torch.cat([batch.index for batch in batches(split, exp, rng)]) for _ in range(2))
    assert first.sort().values.tolist() == list(range(800))
    assert not torch.equal(first, second)


@pytest.fixture
def epoch(small):
    """One epoch of 4,000 copies of a 2×4×4 image, augmented as given, and the image."""

    def run(**augmentation):
        image = torch.arange(1, 33, dtype=torch.uint8).reshape(2, 4, 4)
        copies, labels = image.expand(4000, -1, -1, -1), torch.zeros(4000, dtype=torch.int64)
        exp = small(batch_size=300, **augmentation)
        split = Split(copies, labels, labels, Normalise(1, torch.tensor(0), torch.tensor(1)))
        padded = pad(copies, exp.crop_padding)
        drawn = [augmented(padded, batch, exp.crop_padding) for batch in batches(split, exp, generator(0))]
        return torch.cat(drawn), image

    return run


def test_crops_are_whole_windows_of_the_padded_image_each_as_often(epoch):
    images, image = epoch(crop_padding=1)
    padded = torch.nn.functional.pad(image, [1] * 4)
    windows = [padded[:, i : i + 4, j : j + 4] for i in range(3) for j in range(3)]
    counts = [int((images == window).flatten(1).all(1).sum()) for window in windows]
    assert sum(counts) == 4000
    assert max(abs(count - 4000 / 9) for count in counts) < 100  # five standard deviations of a binomial


def test_flip_mirrors_about_half_of_the_images(epoch):
    images, image = epoch(flip=True)
    plain, mirrored = ((images == one).flatten(1).all(1).sum().item() for one in (image, image.flip(2)))
    assert plain + mirrored == 4000
    assert abs(plain - 2000) < 160  # five standard deviations


def test_crop_and_flip_are_drawn_independently(epoch):
    images, image = epoch(crop_padding=1, flip=True)
    padded = torch.nn.functional.pad(image, [1] * 4)
    windows = [padded[:, i : i + 4, j : j + 4] for i in range(3) for j in range(3)]
    counts = [int((images == w).flatten(1).all(1).sum()) for one in windows for w in (one, one.flip(2))]
    assert sum(counts) == 4000
    assert max(abs(count - 4000 / 18) for count in counts) < 75


def test_augmentation_equals_torchvisions_on_the_same_image(epoch):
    """Every image that torchvision's RandomCrop and RandomHorizontalFlip can give is among ours, and no other."""
    from torchvision.transforms import v2

    images, image = epoch(crop_padding=1, flip=True)
    theirs = v2.Compose([v2.RandomCrop(4, padding=1), v2.RandomHorizontalFlip()])
    torch.manual_seed(0)
    expected = {theirs(image).numpy().tobytes() for _ in range(1000)}
    assert {one.numpy().tobytes() for one in images} == expected
