"""What is cut out of a network changes nothing that it computes, and what is exported computes the same."""

import pytest
import torch
import yaml
from conftest import SMALL, SMALL_VIT

from benchmarks.deploy import Session, deployment, to_onnx, without_dead_units
from sdd_utils.errors import Damaged
from sdd_utils.files import write_csv
from sdd_utils.models import build_model, prunable_layers
from sdd_utils.profiles import load_profile
from sdd_utils.pruning import SparseNetwork, prune
from sdd_utils.study import Study
from sdd_utils.tables import DEPLOYMENT_COLUMNS

ARCHITECTURES = {
    "mlp": SMALL,
    "resnet18": SMALL | {"arch": "resnet18", "width": 4},
    "vgg_like": SMALL | {"arch": "vgg_like", "width": 4},
    "vit": SMALL_VIT,
    # Its GELU is timm's own, by tanh
    "timm/test_convnext": SMALL | {"arch": "timm/test_convnext", "width": None, "timm": {"patch_size": 1}},
}


def pruned(exp, level):
    """A network with everything at random, statistics and biases too, pruned as after so many levels."""
    model = build_model(exp)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(0.1, 1.0) if tensor.dim() < 2 else tensor.normal_()
                tensor.mul_(torch.rand_like(tensor).sub(0.5).sign() if tensor.dim() < 2 and tensor.requires_grad else 1)
    net = SparseNetwork(model, prunable_layers(model, exp))
    prune(net, exp.model_copy(update={"prune_share": 0.5}), level, data=None)
    return net.model.eval()


def images(n=8):
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def same(one, other):
    """Up to rounding, which grows with the largest of the logits."""
    return bool((one - other).abs().max() <= 1e-5 * other.abs().max())


@pytest.mark.parametrize("level", [1, 5, 8])
@pytest.mark.parametrize("arch", ARCHITECTURES)
@torch.no_grad()
def test_cutting_dead_units_changes_no_output(small, arch, level):
    model = pruned(small(ARCHITECTURES[arch]), level)
    cut, removed = without_dead_units(model)
    before, after = (sum(p.numel() for p in m.parameters()) for m in (model, cut))
    assert same(cut(images()), model(images()))
    assert (after < before) == (removed > 0)
    if level == 8:
        assert removed > 0


@torch.no_grad()
def test_a_constant_unit_is_added_to_its_readers_bias(small):
    model = build_model(small(width=4)).eval()
    model[1].weight[0], model[1].bias[0] = 0.0, 2.0  # always 2
    model[1].weight[1], model[1].bias[1] = 0.0, -2.0  # always 0, after ReLU
    model[3].weight[:, 2] = 0.0  # nothing reads the third
    cut, removed = without_dead_units(model)
    assert removed == 3
    assert cut[1].out_features == 1
    assert torch.allclose(cut(images()), model(images()), atol=1e-6)


@torch.no_grad()
def test_what_pads_with_zeros_cannot_be_given_a_constant(small):
    """A channel that is constant but not 0 ends at the border of a padded convolution, so it has to stay."""
    model = build_model(small(ARCHITECTURES["resnet18"])).eval()
    block = model[3]
    block.conv1.weight[0], block.bn1.bias[0] = 0.0, 1.0
    assert without_dead_units(model)[1] == 0
    block.bn1.bias[0] = -1.0  # ReLU makes it 0
    assert without_dead_units(model)[1] == 1


@pytest.mark.parametrize("arch", ["mlp", "vgg_like"])
@torch.no_grad()
def test_the_exported_network_computes_the_same_for_any_number_of_images(small, arch):
    model = pruned(small(ARCHITECTURES[arch]), 3)
    file = to_onnx(model, images())
    for n in (1, 5):
        assert same(torch.from_numpy(Session(file)(images(n))), model(images(n)))
    assert b"sdd_utils" not in file  # no trace of whose source it came from


def test_a_profiles_first_vanilla_curve_of_each_architecture_with_students_is_weighed_at_its_sparsities(
    home, monkeypatch
):
    monkeypatch.setattr("benchmarks.deploy.SECONDS", 0.01)
    settings = {k: v for k, v in SMALL.items() if k not in ("arch", "noise_rate")} | {"milestones": [0.5]}
    settings |= {"levels": 7, "prune_share": 0.5}
    students = {"noise_rates": [0.3], "teachers": ["dense"], "temperatures": [4], "alphas": [0.9]}
    mlp = {"settings": settings, "seeds": 2, "noise_rates": [0.3], "distillation": students}
    alone = {"settings": settings | {"width": 2}, "seeds": 1, "noise_rates": [0.3]}
    profile = {"profile": "mine", "about": "x", "tour": {"arch": "mlp", "noise_rate": 0.3}, "base": {}}
    profile |= {"architectures": {"mlp": mlp, "resnet18": alone}}
    (home / "profiles" / "mine.yaml").write_text(yaml.safe_dump(profile))
    Study("mine", home, only="arch=mlp,seed=0").run("vanilla")

    table = deployment(load_profile("mine").experiments(), home / "mine")
    assert list(table.columns) == DEPLOYMENT_COLUMNS
    assert set(table["arch"]) == {"mlp"}
    masked = table[table["variant"] == "masked"].set_index("level")
    assert masked.index.tolist() == [0, 3, 7]  # dense, nearest to 90 % and to 99 %, which here is the last
    assert masked["sparsity"].tolist() == pytest.approx([0, 0.875, 0.992], abs=1e-3)
    assert masked["onnx_bytes"].nunique() == 1  # zeros take as much room as anything else,
    assert masked["gzip_bytes"].is_monotonic_decreasing  # unless they are compressed
    assert masked["max_difference"].max() < 1e-4
    cut = table[table["variant"] == "cut"].set_index("level")
    assert (cut["onnx_bytes"] < masked.loc[cut.index, "onnx_bytes"]).all()
    assert (cut["units_removed"] > 0).all()

    write_csv(home / "mine" / "deployment.csv", table)
    assert Study("mine", home).deployment()["onnx_bytes"].tolist() == table["onnx_bytes"].tolist()
    write_csv(home / "mine" / "deployment.csv", table.drop(columns="ms_batch_64"))
    with pytest.raises(Damaged, match=r"column ms_batch_64 is missing; python -m benchmarks deploy .* makes it again"):
        Study("mine", home).deployment()
