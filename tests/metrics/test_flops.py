import pytest
from conftest import SMALL_VIT
from torch import nn

from sdd_utils.metrics.flops import FlopCount, curve_flops, flop_count, training_flops
from sdd_utils.pruning import new_network, prune
from sdd_utils.runner.progress import Progress


def test_flops_of_an_mlp_are_those_counted_by_hand(small):
    # Width 16: 64·16, 16·16 and 16·10 weights, two FLOPs each forward; backward the same again for the weights' and
    # for the inputs' gradients, but none for the images.
    first, rest = 2 * 64 * 16, 2 * (16 * 16 + 16 * 10)
    assert flop_count(small()).forward == first + rest
    assert flop_count(small()).step == 2 * first + 3 * rest


def test_flops_of_a_convolution_are_those_counted_by_hand(small):
    # ResNet-18's stem at width 4: 3×3 kernels, one channel to four, on 8×8 pixels. Backward adds the weights' gradient.
    flops = flop_count(small(arch="resnet18", width=4))
    stem = 2 * 8 * 8 * 4 * 9
    empty_stem = {name: float(name != "0") for name in flops._step_layers}
    assert flops.forward - flops.inference(empty_stem) == stem
    assert flops.step - flops.training(empty_stem) == 2 * stem


def test_flops_of_a_convolutional_network_are_those_counted_by_hand(small):
    # VGG-like, width 2, on 8×8 pixels of one channel: ten 3×3 convolutions, a pool that halves after every second one
    # (8, 4, 2, 1, 1 pixels a side), then 7·7 copies of 32 channels to 10 classes. Two FLOPs a weight and pixel forward,
    # twice that backward, but for the first convolution, whose input needs no gradient.
    channels = [1, 2, 2, 4, 4, 8, 8, 16, 16, 32, 32]
    sides = [8, 8, 4, 4, 2, 2, 1, 1, 1, 1]
    convolutions = [2 * 9 * channels[i] * channels[i + 1] * side**2 for i, side in enumerate(sides)]
    linear = 2 * 32 * 49 * 10
    flops = flop_count(small(arch="vgg_like", width=2))
    assert flops.forward == sum(convolutions) + linear
    assert flops.step == 2 * convolutions[0] + 3 * (sum(convolutions[1:]) + linear)


def test_flops_of_grouped_convolutions_are_those_counted_by_hand(small, monkeypatch):
    # 3×3 kernels on 8×8 pixels: one channel to eight, then each of the eight by itself; then 512 numbers to 10 classes.
    def build(_):
        convolutions = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(512, 10))

    monkeypatch.setattr("sdd_utils.metrics.flops.build_model", build)
    flops, convolution = FlopCount(small()), 2 * 8 * 8 * 8 * 9
    assert flops.forward == 2 * convolution + 2 * 512 * 10
    assert flops.step == 5 * convolution + 3 * 2 * 512 * 10
    assert flops.training(dict.fromkeys(flops._step_layers, 0.0)) == 0


def test_attention_is_counted(small):
    # Depth 1, width 16, five tokens: the two products of attention are 2·5·5·16 each; forward only.
    flops = flop_count(small(SMALL_VIT))
    nothing_left = dict.fromkeys(flops._forward_layers, 0.0)
    patches = 2 * 4 * 16 * 16  # the convolution that embeds four patches of 16 pixels; it is not pruned
    assert flops.inference(nothing_left) == patches + 2 * 2 * 5 * 5 * 16


def test_sparse_flops_scale_with_the_surviving_weights(small):
    flops = flop_count(small())
    half = dict.fromkeys(flops._step_layers, 0.5)
    assert flops.training(half) == flops.step / 2
    assert flops.training(dict.fromkeys(half, 1.0)) == flops.step


@pytest.mark.parametrize("arch", ["mlp", "resnet18", "vgg_like"])
def test_without_weights_nothing_is_left_to_compute(small, arch):
    flops = flop_count(small(arch=arch, width=4))
    nothing_left = dict.fromkeys(flops._step_layers, 0.0)
    assert flops.training(nothing_left) == 0
    assert flops.inference(nothing_left) == 0


def test_a_distilled_level_counts_its_teachers_passes(small, student):
    plain, distilled = small(), student()
    net, teacher = new_network(plain), new_network(plain)
    prune(teacher, small(prune_share=0.5), 1, data=None)
    dense, half = net.layer_density(), teacher.layer_density()
    alone, forward = training_flops(plain, 2), flop_count(plain).forward
    assert training_flops(distilled, 2) - alone == 800 * forward  # one pass serves all epochs
    assert training_flops(distilled, 2, dense, half) - alone == pytest.approx(400 * forward, rel=0.2)
    assert training_flops(student(crop_padding=1), 2) - alone == 2 * 800 * forward


def test_early_stopping_counts_the_epochs_that_were_trained_and_their_validation(small):
    exp, flops = small(epochs=9, patience=2), flop_count(small())
    assert training_flops(exp, 3) == 3 * (800 * flops.step + 200 * flops.forward)


def test_the_dense_level_counts_its_own_epochs(small):
    exp, step = small(dense_epochs=5, levels=3), flop_count(small()).step
    assert [curve_flops(exp, levels) / step / 800 for levels in range(5)] == [0, 5, 7, 9, 11]
    assert curve_flops(exp) == curve_flops(exp, 4)


@pytest.mark.parametrize("arch", ["mlp", "lenet", "resnet18", "vgg_like", "vit"])
def test_a_network_that_no_memory_has_room_for_is_counted_without_being_made(small, arch):
    """Of every architecture, at a width of a million: petabytes of weights."""
    vit = {"vit": {"heads": 1, "mlp_width": 1_000_000, "depth": 2}} if arch == "vit" else {}
    base = SMALL_VIT if arch == "vit" else {}
    exp = small(**({"base": base} if base else {}), **({"arch": arch, "width": 1_000_000} | vit))
    assert curve_flops(exp) > 1e14


def test_the_work_of_a_bar_grows_with_the_levels_and_not_with_their_square(small, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("sdd_utils.metrics.flops.training_flops", lambda *_: asked.append(0) or 1.0)
    bar = Progress([small(levels=1000)], tmp_path)
    bar.close()
    assert bar.bar.total == len(asked) == 1001
