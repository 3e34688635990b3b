"""What runs on a GPU, as far as a CPU can show it; the tests of captured steps need one."""

import pytest
import torch
from conftest import SMALL, SMALL_VIT

from sdd_utils.data import load
from sdd_utils.execution import Execution
from sdd_utils.experiment import new_network, run_experiment
from sdd_utils.files import read_csv
from sdd_utils.results import MEASURED_ON_THE_CLOCK
from sdd_utils.training import predict, train_level

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture
def without_codegen(monkeypatch):
    """torch.compile traces and differentiates, but makes no kernels, which would take a minute."""
    from sdd_utils import execution

    compiled = torch.compile(lambda model, images: model(images), dynamic=False, backend="aot_eager")
    monkeypatch.setattr(execution, "_compiled", lambda: compiled)
    torch._dynamo.reset()


@pytest.mark.parametrize("settings", [SMALL | {"arch": "resnet18", "width": 4}, SMALL_VIT])
def test_a_compiled_step_trains_as_a_plain_one_and_is_compiled_once_for_all(small, without_codegen, settings):
    from torch._dynamo.utils import counters

    settings = settings | {"epochs": 1, "crop_padding": 1, "batch_size": 300}
    if "vit" in settings:
        settings["vit"] = settings["vit"] | {"dropout": 0.0}  # compiled dropout draws other numbers
    exp = small(settings, teacher={"rule": "dense", "experiment": small(settings)}, temperature=2, alpha=0.8)
    data = load(exp)
    counters.clear()
    outcomes = []
    for execution in (Execution(), Execution(channels_last=True, compiled=True), Execution(compiled=True)):
        net, teacher = new_network(exp, data), new_network(exp.model_copy(update={"seed": 9}), data)
        for level in (0, 1):
            net.prune(level, exp.prune_share)
            train_level(net, data, exp, level, teacher, execution=execution)
        outcomes.append(predict(net.model, data.test))
    torch.testing.assert_close(outcomes[0], outcomes[1], rtol=1e-3, atol=1e-4)
    assert torch.equal(outcomes[1], outcomes[2])  # images of the digits' size stay in their layout on a CPU
    assert counters["stats"]["unique_graphs"] == 2  # student and teacher


@needs_gpu
@pytest.mark.parametrize("settings", [{"arch": "resnet18", "width": 8, "noise_rate": 0.1}, SMALL_VIT])
@pytest.mark.parametrize("amp", [False, True])
def test_a_captured_step_trains_as_a_plain_one(small, settings, amp):
    settings = settings | {"crop_padding": 1, "flip": True, "amp": amp}
    if "vit" in settings:
        settings["vit"] = settings["vit"] | {"dropout": 0.0}
        exp = small(settings)
    else:
        exp = small(**settings)
    data = load(exp, "cuda")
    outcomes = []
    for execution in (Execution(), Execution(graph=True)):
        net = new_network(exp, data)
        net.prune(3, 0.2)
        train_level(net, data, exp, 3, None, execution=execution)
        assert not net.weights[net.mask == 0].any()
        outcomes.append(predict(net.model, data.test))
    torch.testing.assert_close(*outcomes, rtol=2e-2, atol=2e-2)


@needs_gpu
def test_the_same_run_on_a_gpu_gives_the_same_bits(small, tmp_path):
    exp = small(arch="resnet18", width=8, crop_padding=1, flip=True, amp=True, levels=2)
    runs = [run_experiment(exp, tmp_path / name / "mine", "cuda") for name in ("one", "two")]
    one, two = (read_csv(run / "levels.csv").drop(columns=MEASURED_ON_THE_CLOCK) for run in runs)
    assert one.equals(two)
