import re
import sys

import pytest
import torch
from conftest import SMALL_VIT
from torch import nn
from torch.nn.utils import prune as torchs

from benchmarks.deploy import without_dead_units
from sdd_utils.config import Arguments, Experiment
from sdd_utils.data import load
from sdd_utils.errors import ConfigError
from sdd_utils.evaluation import predict
from sdd_utils.metrics.flops import flop_count
from sdd_utils.models import build_model, label_of, unit_links
from sdd_utils.pruning import CRITERIA, check_levels, kept, new_network, prune, rewind
from sdd_utils.training import make_optimizer

NO_DATA = None
"""Magnitude looks at none."""


@pytest.fixture(params=["mlp", "resnet18", "vgg_like", "vit"])
def exp(request, small):
    if request.param == "vit":
        return small(SMALL_VIT)
    return small(arch=request.param, width=8)


def test_sparsity_follows_the_formula_to_one_weight(exp):
    net = new_network(exp)
    total = len(net.mask)
    for level in range(1, 31):
        prune(net, exp, level, NO_DATA)
        assert abs(net.remaining - total * 0.8**level) <= 0.5
        assert net.sparsity == 1 - net.remaining / total


def test_a_level_removes_what_torchs_own_global_pruning_removes(exp):
    net = new_network(exp)
    prune(net, exp, 1, NO_DATA)
    model = build_model(exp)
    layers = [dict(model.named_modules())[name] for name in net.layers]
    torchs.global_unstructured([(layer, "weight") for layer in layers], torchs.L1Unstructured, amount=0.2)
    assert torch.equal(net.mask, torch.cat([layer.weight_mask.flatten() for layer in layers]))


def test_pruned_weights_stay_pruned(small):
    exp = small(prune_share=0.3)
    net = new_network(exp)
    before = net.mask.clone()
    for level in range(1, 10):
        net.vector.data.normal_()  # whatever training did
        net.apply_mask()
        prune(net, exp, level, NO_DATA)
        assert (net.mask <= before).all()
        before = net.mask.clone()


def test_the_gradient_criterion_is_weight_times_gradient_over_all_training_images(exp):
    data, exp = load(exp), exp.model_copy(update={"criterion": "gradient"})
    net, model = new_network(exp), build_model(exp).eval()
    score = CRITERIA["gradient"](net, data, exp)
    logits = model(data.train.normalise(data.train.images))
    nn.functional.cross_entropy(logits, data.train.labels).backward()
    layers = [dict(model.named_modules())[name].weight for name in net.layers]
    expected = torch.cat([(weight * weight.grad).abs().flatten() for weight in layers]).detach()
    torch.testing.assert_close(score, expected, rtol=1e-3, atol=1e-7)


def test_random_pruning_follows_the_seed_and_the_level_and_no_weight(small):
    def masks(seed):
        exp = small(criterion="random", prune_share=0.5, seed=seed)
        net = new_network(exp)
        found = []
        for level in (1, 2):
            prune(net, exp, level, NO_DATA)
            found.append(net.mask.clone())
            net.vector.data.normal_()
        return found

    first, second = masks(0)
    assert torch.equal(first, masks(0)[0])
    assert torch.equal(second, masks(0)[1])
    assert not torch.equal(first, masks(1)[0])
    halves = first.split(len(first) // 2)
    assert abs(halves[0].mean() - halves[1].mean()).item() < 0.15  # neither layer nor place matters


def test_equal_magnitudes_fall_in_the_order_of_the_vector(small):
    exp = small(prune_share=0.25)
    net = new_network(exp)
    net.vector.data.fill_(0.5)
    prune(net, exp, 1, NO_DATA)
    cut = len(net.mask) - net.remaining
    assert not net.mask[:cut].any()
    assert net.mask[cut:].all()


def test_weights_that_have_decayed_to_zero_are_pruned_no_faster(small):
    """They are as small as the pruned ones, and more of them than the level removes."""
    exp = small()
    net = new_network(exp)
    prune(net, exp, 1, NO_DATA)
    net.weights[net.mask.nonzero()[::2]] = 0
    prune(net, exp, 2, NO_DATA)
    assert net.remaining == kept(net, exp, 2) == round(0.8**2 * len(net.mask))


def test_a_level_that_would_remove_nothing_is_refused_with_all_before_it_allowed(small):
    net = new_network(small())  # 1,440 weights: halved ten times, one is left, and 0.7 are one as well
    check_levels(net, small(levels=10, prune_share=0.5))
    with pytest.raises(ConfigError, match="levels: after 10 of 11 there is hardly anything left to prune: 1 of 1440"):
        check_levels(net, small(levels=11, prune_share=0.5))


def test_the_density_of_a_layer_is_the_share_of_its_weights_that_survive(exp):
    net = new_network(exp)
    first, *others = net.layers
    net.mask[: net.sizes[0] // 4] = 0
    density = net.layer_density()
    assert density.pop(first) == pytest.approx(1 - net.sizes[0] // 4 / net.sizes[0])
    assert density == dict.fromkeys(others, 1.0)


@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.5}])
def test_a_pruned_weight_is_exactly_zero_after_every_step(exp, settings):
    """Momentum and weight decay move pruned weights too; the model must never see it."""
    data = load(exp)
    exp = exp.model_copy(update={"prune_share": 0.5} | settings)
    net = new_network(exp)
    optimizer, _ = make_optimizer(net, exp)
    images, labels = data.train.normalise(data.train.images[:50]), data.train.labels[:50]
    for step in range(6):
        if step in (2, 4):  # prune in the middle, when the momentum of the pruned weights is not zero
            prune(net, exp, step, data)
        net.backward(nn.functional.cross_entropy(net.model(images), labels))
        optimizer.step()
        net.apply_mask()
        weights = torch.cat([layer.weight.detach().flatten() for layer in net.layers.values()])
        assert not weights[net.mask == 0].any()
    assert net.weights[net.mask == 1].all()


def test_the_models_parameters_are_views_of_the_vector(exp):
    net = new_network(exp)
    assert sum(p.numel() for p in net.model.parameters()) == len(net.vector)
    net.vector.data.zero_()
    assert all(not p.detach().any() for p in net.model.parameters())


def test_flattening_does_not_change_the_function(exp):
    data = load(exp)
    plain = build_model(exp)
    expected = predict(plain, data.test)
    assert torch.equal(predict(new_network(exp).model, data.test), expected)


def test_a_saved_state_restores_weights_mask_and_statistics(exp):
    data = load(exp)
    net, other = new_network(exp), new_network(exp.model_copy(update={"seed": 5}))
    net.model.train()
    net.model(data.train.normalise(data.train.images))  # moves the batch-norm statistics
    prune(net, exp, 3, data)
    other.load_state(net.state())
    assert torch.equal(other.mask, net.mask)
    assert torch.equal(predict(other.model, data.test), predict(net.model, data.test))


def test_only_linear_layers_of_a_vit_are_pruned_and_convolutions_elsewhere_too(small):
    vit = new_network(small(SMALL_VIT))
    assert {type(layer) for layer in vit.layers.values()} == {nn.Linear}
    odd = {**SMALL_VIT["vit"], "mlp_width": 488}  # 488 / 56 · 56 is a bit less than 488
    assert {488, 56} <= {
        layer.out_features for layer in new_network(small(SMALL_VIT, width=56, vit=odd)).layers.values()
    }
    resnet = new_network(small(arch="resnet18", width=4))
    assert {type(layer) for layer in resnet.layers.values()} == {nn.Conv2d, nn.Linear}


def test_the_last_layer_of_a_lenet_is_not_pruned(small):
    lenet = new_network(small(arch="lenet", width=300, dataset="mnist", weight_decay=0))
    assert [layer.weight.shape for layer in lenet.layers.values()] == [(300, 784), (100, 300)]
    assert len(lenet.vector) - len(lenet.mask) == 300 + 100 + 10 * 100 + 10
    deviation = lenet.weights.view(-1)[: 300 * 784].std().item()
    assert deviation == pytest.approx((2 / 784) ** 0.5, rel=0.02)  # Kaiming normal


def test_parameter_counts_at_the_papers_size(small):
    # ResNet-18, 3×3 stem, width 64, 10 classes. Convolutions: stem 3·64·9 = 1,728; stage 1: 4·64²·9 = 147,456; stages
    # 2 to 4, with c the width before: 9·(c·2c + 3·(2c)²) + c·2c = 128c², times 64² + 128² + 256² = 86,016 → 11,010,048.
    # Linear 5,120 + 10 biases. Batch norm: 2·(64 + 4·64 + 5·(128 + 256 + 512)) = 9,600.
    resnet = new_network(small(arch="resnet18", width=64, dataset="cifar10"))
    assert len(resnet.mask) == 1_728 + 147_456 + 11_010_048 + 5_120
    assert len(resnet.vector) == len(resnet.mask) + 10 + 9_600
    # ViT. A block: qkv 3·512², projection 512², MLP 2·512², together 1,572,864 weights, and biases 512 + 512 + 512,
    # norms 4·512. Patches 3·16·512 + 512, class token 512, 65 positions of 512, final norm 1,024, head 5,120 + 10.
    shape = {"patch": 4, "depth": 6, "heads": 8, "mlp_width": 512}
    vit = new_network(small(SMALL_VIT, width=512, vit=shape, dataset="cifar10"))
    assert len(vit.mask) == 6 * 1_572_864 + 5_120
    assert len(vit.vector) == len(vit.mask) + 6 * 7 * 512 + 24_576 + 512 + 512 + 65 * 512 + 1_024 + 10
    # VGG-like, width 32: 9·(3·32 + 32²) + 9·(c·2c + (2c)²) for c = 32, 64, 128, 256 (54c²) = 10,080 + 54·87,040 =
    # 4,710,240; linear 512·49·10. Biases: 2·992 of the convolutions, 10 of the linear layer. Batch norm: 2·2·992.
    vgg = new_network(small(arch="vgg_like", width=32, dataset="cifar10"))
    assert len(vgg.mask) == 4_710_240 + 250_880
    assert len(vgg.vector) == len(vgg.mask) + 1_984 + 10 + 3_968


def test_spread_is_what_vggs_adaptive_pooling_does_to_maps_of_one_pixel(small):
    (spread,) = (m for m in build_model(small(arch="vgg_like", width=4)).modules() if type(m).__name__ == "Spread")
    maps = torch.randn(2, 5, 1, 1)
    assert torch.equal(spread(maps), nn.AdaptiveAvgPool2d(7)(maps))


def test_any_model_of_timm_is_an_architecture(small):
    exp = small(arch="timm/mobilenetv3_small_050", width=None, timm={"drop_rate": 0.1}, levels=1)
    assert exp.method == "vanilla"
    assert exp.run_id.startswith("digits-mobilenetv3_small_050-sym0.3-vanilla-wd0.0001-s0-")
    assert Experiment.parse(exp.model_dump(mode="json")) == exp
    net, without = new_network(exp), new_network(exp.model_copy(update={"prune_depthwise": False}))
    depthwise = {name for name, layer in net.layers.items() if getattr(layer, "groups", 1) > 1}
    assert depthwise
    assert net.layers.keys() - without.layers.keys() == depthwise
    assert net.model.drop_rate == 0.1
    assert label_of(exp.arch) == "mobilenetv3_small_050"
    prune(net, exp, 1, NO_DATA)
    assert net.sparsity == pytest.approx(0.2, abs=1e-5)
    assert 0 < flop_count(exp).inference(net.layer_density()) < flop_count(exp).forward


def test_dropout_of_a_network_of_timm_is_timms_own(small):
    exp = small(arch="timm/mobilenetv3_small_050", width=None, dropout=0.5)
    assert exp.method == "dropout"
    assert new_network(exp).model.drop_rate == 0.5
    with pytest.raises(ConfigError, match=r"timm: .* multiple values for keyword argument 'drop_rate'"):
        new_network(exp.model_copy(update={"timm": Arguments(drop_rate=0.1)}))


def test_a_network_of_timm_is_read_of_where_there_is_neither_timm_nor_torch(small, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    assert small(arch="timm/whatever", width=None).run_id.startswith("digits-whatever-sym0.3-vanilla")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"arch": "timm/mobilenetv3_smal"}, "arch: timm has no model 'mobilenetv3_smal'; it has, among others, mobile"),
        ({"arch": "timm/resnet10t"}, "width: given, but it means something only when arch is not one of timm's"),
        ({"timm": {}}, "timm: given, but it means something only when arch is one of timm/…"),
        ({"width": None}, "width: missing; it must be given when arch is not one of timm's"),
    ],
)
def test_models_that_timm_has_not_are_refused(small, settings, message):
    with pytest.raises(ConfigError) as error:
        small(**settings)
    assert message in str(error.value)


def test_what_timm_cannot_build_or_not_for_these_images_is_refused_before_training(small):
    exp = small(arch="timm/convnext_atto", width=None)
    with pytest.raises(ConfigError, match=r"arch: timm/convnext_atto takes no images of \(1, 8, 8\), which digits has"):
        flop_count(exp)
    with pytest.raises(
        ConfigError, match=r"arch: timm/vit_tiny_patch16_224 takes no images .*doesn't match model \(224"
    ):
        flop_count(small(arch="timm/vit_tiny_patch16_224", width=None))
    exp = small(arch="timm/convnext_atto", width=None, timm={"depht": 3})
    with pytest.raises(ConfigError, match=r"timm: timm/convnext_atto: .* unexpected keyword argument 'depht'"):
        new_network(exp)


def test_structured_pruning_removes_whole_units_for_good(exp):
    """What is left is a smaller network: cutting the units out changes nothing of what it says, and no weight stays."""
    exp = exp.model_copy(update={"structure": "units", "prune_share": 0.3})
    net, links = new_network(exp), unit_links(build_model(exp))
    for level in (1, 2, 3):
        net.vector.data.normal_(std=0.2)  # whatever training did
        net.apply_mask()
        before = net.mask.clone()
        prune(net, exp, level, NO_DATA)
        assert (net.mask <= before).all()
        assert net.remaining <= kept(net, exp, level)
    smaller, cut = without_dead_units(net.model)
    assert cut > 0
    weights = [dict(smaller.named_modules())[name].weight for name in {name for link in links for name in link}]
    assert sum(weight.numel() for weight in weights) == net.remaining
    images = torch.randn(4, *exp.facts.image_shape)
    torch.testing.assert_close(smaller(images), net.model.eval()(images), rtol=1e-3, atol=1e-4)


def test_of_each_layer_the_units_with_the_smallest_weights_go_at_the_same_pace_and_one_stays(small):
    exp = small(structure="units", prune_share=0.1)
    net = new_network(exp)
    masks, weights = net.by_layer(net.mask), net.by_layer(net.weights)
    weights["1"].fill_(0.5)
    weights["3"].fill_(0.001)  # all of them smaller than the other layer's, which does not matter
    weights["1"][7] = 0.3
    weights["3"][4] = 0.0001
    for level in range(1, 20):
        prune(net, exp, level, NO_DATA)
        first, second = (masks[name].any(1) for name in ("1", "3"))
        assert not first[7]
        assert not masks["3"][:, ~first].any()
        assert abs(first.sum() - second.sum()) <= 1
        assert first.sum() == 15 or not second[4]
    with pytest.raises(ConfigError, match="levels: no layer has a unit more to prune; give fewer"):
        prune(net, exp, 99, NO_DATA)
    assert masks["1"].any(1).sum() == masks["3"].any(1).sum() == 1


def test_more_levels_than_there_are_units_are_refused(small):
    least = 64 + 1 + 10  # one unit in each of the two layers
    exp = small(structure="units", prune_share=0.5, levels=20)
    net = new_network(exp)
    with pytest.raises(ConfigError, match=r"levels: after (\d+) of 20 there is hardly anything left to prune") as error:
        check_levels(net, exp)
    last = int(re.search(r"after (\d+)", str(error.value))[1])
    assert kept(net, exp, last) >= least > kept(net, exp, last + 1)
    for level in range(1, last + 1):
        prune(net, exp, level, NO_DATA)


@pytest.mark.parametrize(
    "settings",
    [
        {"arch": "mlp", "width": 8, "prune_share": 0.05, "levels": 4, "one_shot": True},
        {"arch": "mlp", "width": 32, "prune_share": 0.2, "levels": 16},
        {"arch": "resnet18", "width": 8, "prune_share": 0.2, "levels": 17},
        {"arch": "resnet18", "width": 8, "prune_share": 0.2, "levels": 17, "one_shot": True},
    ],
)
def test_levels_that_units_cannot_make_are_refused_before_anything_is_trained(small, settings):
    """Up to there each level has fewer weights than the one before; the one that is refused has not, or cannot be."""
    exp = small(structure="units", **settings)
    with pytest.raises(ConfigError, match=r"levels: after \d+ of") as error:
        check_levels(new_network(exp), exp)
    last, left = int(re.search(r"after (\d+)", str(error.value))[1]), []
    assert last < exp.levels
    check_levels(new_network(exp), exp.model_copy(update={"levels": last}))
    net = new_network(exp)
    for level in range(1, last + 1):
        net = new_network(exp) if exp.one_shot else net
        prune(net, exp, level, NO_DATA)
        left.append(net.remaining)
    assert left == sorted(set(left), reverse=True)
    if exp.one_shot:
        prune(net := new_network(exp), exp, last + 1, NO_DATA)
        assert net.remaining == left[-1]
    else:
        with pytest.raises(ConfigError, match="no layer has a unit more"):
            prune(net, exp, last + 1, NO_DATA)


def test_units_of_a_network_that_has_none_are_not_looked_for(small, monkeypatch):
    monkeypatch.setattr("sdd_utils.models.unit_links", lambda model: [])
    with pytest.raises(ConfigError, match="structure: mlp has no units that a single layer reads; prune its weights"):
        new_network(small(structure="units"))


def test_a_rewound_network_keeps_the_mask_and_has_the_weights_that_retrain_says(small):
    def rewound(retrain, level):
        exp = small(retrain=retrain)
        net = new_network(exp)
        net.vector.data.add_(1.0)  # as if it had been trained
        prune(net, exp, level, NO_DATA)
        again = rewind(net, exp, level)
        assert torch.equal(again.mask, net.mask)
        assert not again.weights[~again.mask.bool()].any()
        return net, again, again.mask.bool()

    trained, again, _ = rewound("lr", 2)
    assert again is trained
    _, again, left = rewound("init", 2)
    assert torch.equal(again.weights[left], new_network(small()).weights[left])
    drawn = [rewound("random", level)[1].vector[-10:] for level in (1, 2)]  # the last biases, which are never pruned
    assert not torch.equal(*drawn)
    assert torch.equal(drawn[1], new_network(small(), draw=2).vector[-10:])
