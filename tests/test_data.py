import torch

from sdd_utils.data import augment, batches, load, symmetric_noise
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


def test_methods_of_one_seed_see_the_same_data(small, student):
    plain, taught = load(small()), load(student())
    assert torch.equal(plain.train.labels, taught.train.labels)
    assert torch.equal(plain.test.images, taught.test.images)


def test_training_images_are_normalised(small):
    images = load(small()).train.images
    assert abs(images.mean().item()) < 1e-5
    assert abs(images.std().item() - 1) < 1e-5


def test_an_epoch_holds_every_example_once_in_a_new_order(small):
    exp, rng = small(batch_size=300), generator(0)
    split = load(exp).train
    first, second = (torch.cat([index for _, index in batches(split, exp, rng)]) for _ in range(2))
    assert first.sort().values.tolist() == list(range(800))
    assert not torch.equal(first, second)


def test_crop_shifts_each_image_as_a_whole_within_the_padding():
    images = torch.arange(1.0, 17.0).reshape(1, 1, 4, 4).repeat(200, 1, 1, 1)
    cropped = augment(images, 1, False, generator(0))
    padded = torch.nn.functional.pad(images[0, 0], [1] * 4)
    windows = [padded[i : i + 4, j : j + 4] for i in range(3) for j in range(3)]
    seen = [next(k for k, w in enumerate(windows) if torch.equal(w, image[0])) for image in cropped]
    assert set(seen) == set(range(9))


def test_flip_mirrors_about_half_of_the_images():
    images = torch.arange(16.0).reshape(1, 1, 4, 4).repeat(1000, 1, 1, 1)
    flipped = augment(images, 0, True, generator(0))
    mirrored = (flipped == images.flip(3)).flatten(1).all(1)
    assert ((flipped == images).flatten(1).all(1) | mirrored).all()
    assert 420 < int(mirrored.sum()) < 580  # five standard deviations
