import pytest
import torch
from hypothesis import HealthCheck, settings

from benchmarks.threads import Threads
from sdd_utils import pruning_loop
from sdd_utils.config import Experiment
from sdd_utils.runner.sweep import with_teachers
from sdd_utils.tables import load_levels

HANG = 3600
"""Seconds that only what hangs can take: no test fails because the machine is busy, nor waits for the clock."""

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def parameters_of(cells):
    """What a notebook's one cell tagged ``parameters`` sets, by name."""
    (cell,) = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    settings = {}
    exec(cell.source, settings)
    return settings


def answer_of(cells):
    """The Markdown that a notebook's last cell displays."""
    return "\n".join(output["data"]["text/markdown"] for output in cells[-1].outputs)


SMALL = {
    "arch": "mlp",
    "width": 16,
    "noise_rate": 0.3,
    "epochs": 2,
    "batch_size": 100,
    "optimizer": "sgd",
    "lr": 0.1,
    "momentum": 0.9,
    "milestones": (0.5,),
    "weight_decay": 1e-4,
    "levels": 4,
}
SMALL_VIT = {
    **{k: v for k, v in SMALL.items() if k not in ("momentum", "milestones")},
    "arch": "vit",
    "vit": {"patch": 4, "depth": 1, "heads": 2, "mlp_width": 16},
    "optimizer": "adamw",
    "lr": 2e-3,
    "weight_decay": 0.03,
}
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A place with ``profiles`` of its own; sweeps run in a thread of this process."""
    monkeypatch.setattr("sdd_utils.profiles.PROFILES", tmp_path / "profiles")
    monkeypatch.setattr("sdd_utils.profiles.ROOT", tmp_path)
    monkeypatch.setattr("sdd_utils.runner.sweep.local_workers", lambda *_: Threads(1))
    (tmp_path / "profiles").mkdir()
    return tmp_path


@pytest.fixture
def small():
    """Make a small experiment; keyword arguments replace or add settings."""

    def make(base=SMALL, **settings) -> Experiment:
        return Experiment.parse(base | settings)

    return make


@pytest.fixture
def student(small):
    """Make a distilled experiment; its teacher has the same settings."""

    def make(rule="dense", **settings) -> Experiment:
        return small(teacher={"rule": rule, "experiment": small(**settings)}, temperature=4, alpha=0.9, **settings)

    return make


def add_foreign_entries(folder):
    """Put into a run's folder what is nobody's business there; returns their content by name."""
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".ipynb_checkpoints" / "levels-checkpoint.csv").write_text("level\n0\n")
    (folder / ".levels.csv.77").mkdir()
    (folder / "level-1.safetensors.old").mkdir()
    names = ("notes.txt", "my levels.csv", ".bashrc.1", ".DS_Store", "model.safetensors", "a.damaged.txt")
    for name in names:
        (folder / name).write_text("mine")
    (folder / "link").symlink_to("nowhere")
    return {*names, ".ipynb_checkpoints", ".levels.csv.77", "level-1.safetensors.old", "link"}


@pytest.fixture
def two_families(small, student):
    """A teacher (2) with students (3 and 1), and two curves of their own (4 and 1)."""
    long_pupil, short_pupil = student("dense"), student("sparse")
    alone, short = small(seed=1), small(seed=2)
    experiments = with_teachers([long_pupil, short_pupil, alone, short])
    teacher = long_pupil.teacher.experiment
    lengths = {teacher: 2.0, long_pupil: 3.0, short_pupil: 1.0, alone: 4.0, short: 1.0}
    return experiments, {exp.run_id: length for exp, length in lengths.items()}


SLOWEST = ("test_smoke", "test_sweep", "test_faults", "test_files")


def pytest_collection_modifyitems(items):
    """The longest modules first, so that two processes end at about the same time."""
    items.sort(key=lambda item: SLOWEST.index(item.path.stem) if item.path.stem in SLOWEST else len(SLOWEST))


def interrupt_before(level, monkeypatch, epoch=0):
    """Make the training of ``level`` end as a kill would end it, after ``epoch`` epochs and a save."""
    train = pruning_loop.train_level

    def interrupted(net, data, exp, at, teacher, saved, after_epoch):
        if at == level and epoch == 0:
            raise KeyboardInterrupt
        ended = 0

        def count_epochs(net, state):
            nonlocal ended
            after_epoch(net, state)
            ended += 1
            if at == level and ended == epoch:
                raise KeyboardInterrupt

        return train(net, data, exp, at, teacher, saved, count_epochs)

    monkeypatch.setattr(pruning_loop, "train_level", interrupted)


@pytest.fixture
def closed():
    """Close what a test has drawn."""
    from matplotlib import pyplot as plt

    yield
    plt.close("all")


@pytest.fixture(scope="module")
def levels():
    """The committed levels of digits, where a module has no others of its own."""
    return load_levels("digits")
