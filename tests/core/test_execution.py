"""What runs on a GPU, as far as a CPU can show it; the tests of captured steps need one."""

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from unittest.mock import Mock

import pytest
import torch
from conftest import SMALL, SMALL_VIT, needs_gpu
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from sdd_utils import execution
from sdd_utils.data import Normalise, Split, batches, load
from sdd_utils.evaluation import predict
from sdd_utils.execution import Execution, allow_many_shapes, prepare
from sdd_utils.files import ROOT, read_csv
from sdd_utils.models import build_model, prunable_layers
from sdd_utils.pruning import SparseNetwork, new_network, prune
from sdd_utils.runner import run
from sdd_utils.runner.run import run_experiment
from sdd_utils.tables import MEASURED_ON_THE_CLOCK
from sdd_utils.training import make_step, train_level

NUMBERS = """
import sdd_utils, torch
from sdd_utils.execution import prepare
prepare(torch.device("cpu"))
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 10))
print(torch.backends.cpu.get_cpu_capability(), net(torch.randn(50, 3, 8, 8)).double().sum().item().hex())
"""


@pytest.mark.parametrize(
    "variable", ["ATEN_CPU_CAPABILITY=default", "MKL_CBWR=COMPATIBLE", "ONEDNN_MAX_CPU_ISA=SSE41", "OMP_NUM_THREADS=2"]
)
def test_no_variable_that_chooses_instructions_changes_a_number(variable):
    def numbers(**more):
        env = {name: value for name, value in os.environ.items() if name != variable.split("=")[0]} | more
        code = [sys.executable, "-c", NUMBERS]
        return subprocess.run(code, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout

    assert numbers(**dict([variable.split("=")])) == numbers()


@pytest.fixture
def without_codegen(monkeypatch):
    """torch.compile traces and differentiates, but makes no kernels, which would take a minute."""
    monkeypatch.setattr("torch.compile", partial(torch.compile, backend="aot_eager"))
    torch._dynamo.reset()
    execution._compiled.cache_clear()
    yield
    execution._compiled.cache_clear()


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
    for switches in ({}, {"channels_last": True, "compiled": True}, {"compiled": True}):
        net, teacher = new_network(exp), new_network(exp.model_copy(update={"seed": 9}))
        for level in (0, 1):
            prune(net, exp, level, data)
            train_level(net, data, exp, level, teacher, execution=Execution(**switches))
        outcomes.append(predict(net.model, data.test))
    torch.testing.assert_close(outcomes[0], outcomes[1], rtol=1e-3, atol=1e-4)
    assert torch.equal(outcomes[1], outcomes[2])  # images of the digits' size stay in their layout on a CPU
    assert counters["stats"]["unique_graphs"] == 2  # student and teacher


def test_no_level_is_charged_for_compiling(small, tmp_path, monkeypatch, without_codegen):
    from torch._dynamo.utils import counters

    monkeypatch.setattr(Execution, "of", lambda device: Execution(compiled=True))
    begin, compiled = run.SegmentClock.begin, []

    def noting(segment):
        compiled.append(counters["stats"]["unique_graphs"])
        begin(segment)

    monkeypatch.setattr(run.SegmentClock, "begin", noting)
    counters.clear()
    settings = {"arch": "resnet18", "width": 4, "epochs": 1, "levels": 1, "crop_padding": 1}
    teacher = small(**settings)
    for exp in (teacher, small(**settings, teacher={"rule": "dense", "experiment": teacher}, temperature=2, alpha=0.8)):
        run_experiment(exp, tmp_path)
    assert compiled == [1, 1, 2, 2]  # the student's network is its teacher's; the teacher is asked without gradients
    assert counters["stats"]["unique_graphs"] == 2


def test_a_sweep_of_many_shapes_is_compiled_throughout(without_codegen):
    from torch._dynamo.utils import counters

    counters.clear()
    allow_many_shapes()
    for classes in range(2, 14):
        Execution(compiled=True).logits(torch.nn.Linear(4, classes), torch.ones(3, 4))
    assert counters["stats"]["unique_graphs"] == 12


@pytest.mark.parametrize("augmentation", [{}, {"crop_padding": 1, "flip": True}])
@pytest.mark.parametrize("make", ["small", "student"])
def test_a_step_stays_on_its_device_and_never_waits_for_it(request, monkeypatch, make, augmentation):
    """On tensors without values that claim to be a GPU's: to read one, or to mix it with a CPU's, is an error."""
    exp = request.getfixturevalue(make)(arch="resnet18", width=4, **augmentation)
    data = load(exp)
    monkeypatch.setattr(SparseNetwork, "backward", lambda net, loss: loss)  # a real one needs a GPU's driver
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.device("cuda"):
            models = [build_model(exp) for _ in range(2)]
            net, teacher = (SparseNetwork(model, prunable_layers(model, exp)) for model in models)
        there = {field: getattr(data.train, field).to("cuda") for field in ("images", "labels", "clean")}
        moments = (moment.to("cuda") for moment in (data.train.normalise.mean, data.train.normalise.std))
        train = Split(**there, normalise=Normalise(16, *moments))
        taught_by, data = teacher if exp.teacher else None, replace(data, train=train)
        step = make_step(net, data, exp, taught_by, Mock(), Execution(channels_last=True))
        losses = [step(batch) for batch in batches(train, exp, torch.Generator())]
        assert {str(loss.device) for loss in losses} == {"cuda:0"}
        with pytest.raises(DataDependentOutputException):
            losses[0].item()


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
    prepare(torch.device("cuda"))
    data = load(exp, "cuda")
    outcomes = []
    for graph in (False, True):
        net = new_network(exp, "cuda")
        prune(net, exp, 3, data)
        train_level(net, data, exp, 3, None, execution=Execution(graph=graph))
        assert not net.weights[net.mask == 0].any()
        outcomes.append(predict(net.model, data.test))
    torch.testing.assert_close(*outcomes, rtol=2e-2, atol=2e-2)


@needs_gpu
@pytest.mark.parametrize("settings", [*({**SMALL, "arch": a, "width": 8} for a in ("resnet18", "vgg_like")), SMALL_VIT])
def test_the_same_run_on_a_gpu_gives_the_same_bits(small, tmp_path, settings):
    """In processes that share nothing: what one has compiled, or timed, the other has not."""
    exp = small(settings, crop_padding=1, flip=True, amp=True, levels=2)
    train = (
        "import sys; from pathlib import Path; from sdd_utils.config import Experiment;"
        "from sdd_utils.runner.run import run_experiment;"
        "run_experiment(Experiment.model_validate_json(sys.argv[1]), Path(sys.argv[2]), 'cuda')"
    )
    processes = []
    for name in ("one", "two"):
        env = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / name / "compiled")}
        command = [sys.executable, "-c", train, exp.model_dump_json(), tmp_path / name / "mine"]
        processes.append(subprocess.Popen(command, env=env, cwd=ROOT))
    assert [process.wait() for process in processes] == [0, 0]
    tables = [read_csv(path).drop(columns=MEASURED_ON_THE_CLOCK) for path in tmp_path.glob("*/mine/*/levels.csv")]
    assert len(tables) == 2
    assert tables[0].equals(tables[1])
