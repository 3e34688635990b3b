"""One experiment from its configuration to its files: prune, train, measure, save, and go on where it stopped."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import torch
from filelock import SoftFileLease
from torch import Tensor

from sdd_utils.analysis import select_level
from sdd_utils.checkpoints import History, drop_levels, level_file, restore, resume, save
from sdd_utils.config import Experiment
from sdd_utils.data import Data, batches, load
from sdd_utils.energy import energy_meter
from sdd_utils.errors import Damaged, Stopped, TeacherMissing
from sdd_utils.execution import Execution, prepare
from sdd_utils.files import is_sealed, read_csv, repair, seal, unsound, write_csv, write_json
from sdd_utils.flops import dense_flops, flop_count, taught_passes
from sdd_utils.locks import claimed, hold
from sdd_utils.models import build_model
from sdd_utils.pruning import SparseNetwork
from sdd_utils.results import WEIGHT_BIN, WEIGHT_BINS, commit, levels_table, provenance
from sdd_utils.seeding import generator
from sdd_utils.stopping import Until
from sdd_utils.training import make_optimizer, measure, train_level, training_step

SAVE_SECONDS = 120.0
"""Within a long level the state is saved at the end of the first epoch after so much time without a save."""

FOREVER = Until()


def run_experiment(exp: Experiment, folder: Path, device: str = "cpu", until: Until = FOREVER) -> Path:
    """Train every level that is not there yet and write ``folder/<run_id>/``; returns that folder.

    The profile is the folder's name; a teacher is looked for beside it. The checkpoint, which carries all that was
    measured, is replaced in one step after each level and every two minutes within a long one. A kill at any instant
    loses what came after it, and what is then trained again is the same bit for bit. What is found damaged is set
    aside and made again.

    Raises ConfigError when there are more levels than weights to prune, Busy when another process is at it, Stopped
    when ``until`` is reached, TeacherMissing or Damaged when the teacher cannot be used, TrainingDiverged when the loss
    is not a number, NoSpace when the disk is full.
    """
    run = folder / exp.run_id
    if until.reached():
        raise Stopped
    with claimed(run) as lock:
        repair(run)
        if not is_sealed(run):
            _train_levels(exp, run, device, until, lock)
    return run


def finished(exp: Experiment, folder: Path) -> bool:
    """Whether every file of the run is there. Whether they are sound, ``files.unsound`` finds out by reading them."""
    return is_sealed(folder / exp.run_id)


def _train_levels(exp: Experiment, run: Path, device: str, until: Until, lock: SoftFileLease) -> None:
    prepare(torch.device(device))
    write_json(run / "config.json", exp.model_dump(mode="json"))
    started = {**provenance(device), "device": device, "threads": torch.get_num_threads(), "started": _now()}

    data = load(exp, device)
    teacher, teacher_level = load_teacher(exp, run.parent, data)
    net = new_network(exp, data)
    net.check_levels(exp.levels, exp.prune_share)
    history, training = resume(run, exp, net)
    before = history.levels
    write_tables(run, exp, history)  # a kill may have come between the checkpoint and the tables
    sitting = Sitting(history, exp.epochs, device, until, lock)

    def after_epoch(state: Callable[[], dict[str, Tensor]]) -> None:
        if sitting.must_save():
            sitting.end()
            save(run, exp, net, history, state())
            sitting.begin()

    if history.levels <= exp.levels:
        compile_ahead(exp, data, teacher)
    while history.levels <= exp.levels:
        level = history.levels
        sitting.begin()
        if level and not training:
            net.prune(level, exp.prune_share)
            net = retrain_from(net, exp, level, data)
        train_level(net, data, exp, level, teacher, training, after_epoch)
        row = {"level": level} | measure_level(net, data, exp.amp)
        sitting.end()
        history.rows.append(row | level_flops(net, exp, teacher) | level_cost(history.sittings, level))
        history.histograms.append(weight_histogram(net))
        training = {}
        save(run, exp, net, history, training)
        write_tables(run, exp, history)

    hold(lock)
    drop_levels(run, exp, net, history)
    write_json(run / "config.json", exp.model_dump(mode="json"))  # again: it may have been damaged meanwhile
    write_tables(run, exp, history)
    taught = {"run_id": exp.teacher.experiment.run_id, "level": teacher_level} if exp.teacher else None
    if before <= exp.levels or not (run / "provenance.json").exists():  # else this process has trained nothing
        commits = dict.fromkeys(sitting.get("commit") or started["commit"] for sitting in history.sittings)
        started["commit"] = ", ".join(commits)
        write_json(run / "provenance.json", {**started, "ended": _now(), "teacher": taught})
    seal(run)


class Sitting:
    """One stretch of training without interruption: its clock, its energy, and when it has to end.

    A level takes one, or more when it is long or was stopped. What a kill lost was in no sitting.
    """

    def __init__(self, history: History, epochs: int, device: str, until: Until, lock: SoftFileLease):
        self.history, self.until, self.lock = history, until, lock
        self.meter = energy_meter(device)
        self.epoch_seconds = history.rows[-1]["seconds"] / epochs if history.rows else 0.0  # what to expect of the next

    def begin(self) -> None:
        """Start the clock, unless there is no time to go on. Raises Stopped."""
        if self.late:
            raise Stopped
        self.meter.start(f"level {self.history.levels}")  # a process's first start takes seconds
        self.began = self.epoch_began = time.perf_counter()

    @property
    def late(self) -> bool:
        """Whether another epoch would end too late."""
        return self.until.reached(1.5 * self.epoch_seconds)

    def must_save(self) -> bool:
        """To be asked at the end of each epoch: is the state to be saved now?"""
        now = time.perf_counter()
        self.epoch_seconds, self.epoch_began = now - self.epoch_began, now
        return self.late or time.perf_counter() - self.began > SAVE_SECONDS

    def end(self) -> None:
        """Stop the clock and enter what it shows, with codecarbon's record, into the history.

        What comes next is a save, so it raises Busy when the run is no longer this process's.
        """
        hold(self.lock)
        record = self.meter.stop()
        now = time.perf_counter()
        seconds, last = now - self.began, now - self.epoch_began  # last: a level's last epoch has not been asked about
        self.epoch_seconds = max(self.epoch_seconds, last)
        self.history.sittings.append({"level": self.history.levels, "seconds": seconds, "commit": commit(), **record})


def write_tables(run: Path, exp: Experiment, history: History) -> None:
    """levels.csv, weights.csv (counts of surviving weights in [bin, bin + WEIGHT_BIN)) and emissions.csv."""

    def counted() -> Iterator[dict]:
        for level, counts in enumerate(history.histograms):
            for i, count in enumerate(counts):
                if count:
                    yield {"level": level, "bin": round((i - WEIGHT_BINS / 2) * WEIGHT_BIN, 2), "count": count}

    write_csv(run / "levels.csv", levels_table(exp, history.rows, run.parent.name))
    write_csv(run / "weights.csv", pd.DataFrame(counted(), columns=["level", "bin", "count"]))
    if history.sittings:
        write_csv(run / "emissions.csv", pd.DataFrame(history.sittings))


def measure_level(net: SparseNetwork, data: Data, amp: bool = False) -> dict:
    """What the network is worth: the measured columns of levels.csv, without the costs."""
    train, val, test = (measure(net, split, amp) for split in (data.train, data.val, data.test))
    return {
        "sparsity": net.sparsity,
        "remaining_params": net.remaining,
        "train_loss": train.loss,
        "train_acc": train.accuracy,
        "val_acc": val.accuracy,
        "test_loss": test.loss,
        "test_acc": test.accuracy,
        "clean_fit": train.clean_fit,
        "memorised": train.memorised,
        "weight_std": net.survivors().std().item(),
    }


def level_cost(sittings: list[dict], level: int) -> dict[str, float | str | None]:
    """Seconds, energy and emissions of a level over all its sittings, and where they come from.

    Energy and emissions are empty unless codecarbon could measure every sitting.
    """
    mine = pd.DataFrame([s for s in sittings if s["level"] == level])
    names = {"seconds": "seconds", "energy_consumed": "energy_kwh", "emissions": "emissions_kg"}
    cost = {name: mine[column].sum(skipna=False) if column in mine else None for column, name in names.items()}
    return cost | {"energy_source": "; ".join(mine["energy_source"].unique())}


def weight_histogram(net: SparseNetwork) -> list[int]:
    """How many surviving weights lie in each of the WEIGHT_BINS bins."""
    limit = WEIGHT_BIN * WEIGHT_BINS / 2
    return torch.histc(net.survivors().cpu().clamp(-limit, limit), WEIGHT_BINS, -limit, limit).long().tolist()


def level_flops(net: SparseNetwork, exp: Experiment, teacher: SparseNetwork | None) -> dict[str, float]:
    """Training FLOPs of a level, teacher included: dense, and counting surviving weights only."""
    sparse = exp.epochs * flop_count(exp).training(net.layer_density())
    if teacher:
        sparse += taught_passes(exp) * flop_count(exp.teacher.experiment).inference(teacher.layer_density())
    return {"train_flops": dense_flops(exp), "train_flops_sparse": exp.training_images * sparse}


def new_network(exp: Experiment, data: Data, draw: int = 0) -> SparseNetwork:
    """The experiment's dense network at initialisation, on the data's device."""
    model = build_model(exp, draw)
    return SparseNetwork(model.to(data.train.images.device))


def compile_ahead(exp: Experiment, data: Data, teacher: SparseNetwork | None) -> None:
    """On a GPU, take a step with a spare network, so that no level is charged for what is compiled once a process."""
    execution = Execution.of(data.train.images.device)
    if execution.compiled:
        spare = new_network(exp, data)
        spare.model.train()
        optimizer, _ = make_optimizer(spare, exp)
        step = training_step(spare, data, exp, teacher, optimizer, replace(execution, graph=False))
        step(next(batches(data.train, exp, generator(exp.seed, "spare"))))


def retrain_from(net: SparseNetwork, exp: Experiment, level: int, data: Data) -> SparseNetwork:
    """The network to train after a pruning: as it is (``lr``), at its initial weights (``init``), new (``random``)."""
    if exp.retrain == "lr":
        return net
    rewound = new_network(exp, data, draw=0 if exp.retrain == "init" else level)
    rewound.mask.copy_(net.mask)
    rewound.apply_mask()
    return rewound


def load_teacher(exp: Experiment, folder: Path, data: Data) -> tuple[SparseNetwork | None, int | None]:
    """The teacher's network and level, chosen by the rule on the selection split; (None, None) without a teacher."""
    if exp.teacher is None:
        return None, None
    teacher = exp.teacher.experiment
    run = folder / teacher.run_id
    if not is_sealed(run):
        raise TeacherMissing(f"{exp.run_id}: its teacher {run.name} has not been trained in {folder}")
    for name, why in unsound(run).items():
        raise Damaged(f"{exp.run_id}: its teacher cannot be used: {run / name} {why}; run the profile again")
    level = select_level(read_csv(run / "levels.csv"), exp.teacher.rule, exp.selection)
    net = new_network(teacher, data)
    restore(level_file(run, level), teacher, net)
    return net, level


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
