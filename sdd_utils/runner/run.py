"""One experiment made durable: its curve, level by level, into files, and on from where it stopped."""

import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import torch
from filelock import SoftFileLease
from torch import Tensor

from sdd_utils.config import Experiment
from sdd_utils.data import load
from sdd_utils.distillation import select_level
from sdd_utils.errors import Damaged, ResultsMissing, Stopped
from sdd_utils.execution import prepare
from sdd_utils.files import read_csv, write_csv, write_json
from sdd_utils.metrics.energy import energy_meter
from sdd_utils.metrics.flops import training_flops
from sdd_utils.pruning import SparseNetwork, new_network
from sdd_utils.pruning_loop import iterative_pruning
from sdd_utils.runner import checkpoints
from sdd_utils.runner.integrity import finalise, finished, repair
from sdd_utils.runner.locks import claimed, hold
from sdd_utils.runner.provenance import commit, provenance
from sdd_utils.runner.stopping import must_stop
from sdd_utils.tables import WEIGHT_BIN, WEIGHT_BINS
from sdd_utils.training import compile_ahead

SAVE_SECONDS = 120.0  # within a long level the state is saved at the end of the first epoch after so much time
AfterLevel = Callable[[pd.DataFrame], object]  # called with the levels so far


def run_experiment(
    exp: Experiment,
    folder: Path,
    device: str = "cpu",
    deadline: float = math.inf,
    after_level: AfterLevel | None = None,
) -> Path:
    """Train every level that is not there yet and write ``folder/<run_id>/``; returns that folder.

    The profile is the folder's name; a teacher is looked for beside it. The state, which carries all that was measured,
    is saved after each level (``after_level`` is then called with the levels so far) and every two minutes within a
    long one. A kill at any instant loses what came after it, and what is then trained again is the same bit for bit.
    Damaged files are quarantined and made again.

    Raises ConfigError when there are more levels than weights to prune, Busy when another process is at it, Stopped
    at ``deadline`` (seconds since the epoch) or when asked to, ResultsMissing or Damaged when the teacher cannot be
    used, TrainingDiverged when the loss is not finite, NoSpace when the disk is full.
    """
    run = folder / exp.run_id
    if must_stop(deadline):
        raise Stopped
    with claimed(run) as lock:
        repair(run, checkpoints.unsound(run, exp))
        if not finished(exp, folder):
            _train(exp, run, device, deadline, lock, after_level or (lambda levels: None))
    return run


def _train(
    exp: Experiment, run: Path, device: str, deadline: float, lock: SoftFileLease, after_level: AfterLevel
) -> None:
    prepare(torch.device(device))
    write_json(run / "config.json", exp.model_dump(mode="json"))
    record = {**provenance(device), "device": device, "threads": torch.get_num_threads(), "started": _now()}

    data = load(exp, device)
    teacher, teacher_level = load_teacher(exp, run.parent, device)
    net = new_network(exp, device)
    history, partial = checkpoints.resume(run, exp, net)
    dense = None
    if exp.one_shot and history.levels:
        checkpoints.restore(checkpoints.level_file(run, 0), exp, dense := new_network(exp, device))
    before = history.levels
    write_tables(run, exp, history)  # a kill may have come between the state and the tables
    segment = SegmentClock(history, device, deadline, lock)

    def after_epoch(net: SparseNetwork, state: Callable[[], dict[str, Tensor]]) -> None:
        if segment.must_save():
            segment.end()
            checkpoints.save(run, exp, net, history, state())
            segment.begin()

    curve = iterative_pruning(exp, data, teacher, (net, history.levels, partial), after_epoch, dense)
    if history.levels <= exp.levels:
        compile_ahead(exp, data, teacher)
    while history.levels <= exp.levels:
        segment.begin()
        level = next(curve)
        segment.end()
        densities = level.network.layer_density(), teacher.layer_density() if teacher else None
        flops = {"train_flops": training_flops(exp, level.epochs)}
        flops["train_flops_sparse"] = training_flops(exp, level.epochs, *densities)
        history.rows.append(level.row | flops | level_cost(history.segments, level.level))
        history.histograms.append(weight_histogram(level.network))
        checkpoints.save(run, exp, level.network, history, {})
        after_level(write_tables(run, exp, history))

    hold(lock)
    checkpoints.drop_levels(run, exp, net, history)
    write_json(run / "config.json", exp.model_dump(mode="json"))  # again: it may have been damaged meanwhile
    write_tables(run, exp, history)
    if before <= exp.levels or not checkpoints.has_provenance(run):  # else this process has trained nothing
        record["commit"] = ", ".join(dict.fromkeys(s.get("commit") or record["commit"] for s in history.segments))
        teaches = {"run_id": exp.teacher.experiment.run_id, "level": teacher_level} if exp.teacher else None
        write_json(run / "provenance.json", {**record, "ended": _now(), "teacher": teaches})
    finalise(run)


class SegmentClock:
    """The clock and the energy meter of a run's segments, one or more a level. What a kill lost is not counted."""

    def __init__(self, history: checkpoints.History, device: str, deadline: float, lock: SoftFileLease):
        self.history, self.deadline, self.lock = history, deadline, lock
        self.meter = energy_meter(device)
        last = history.rows[-1] if history.rows else {}
        self.epoch_seconds = last["seconds"] / last["epochs"] if "epochs" in last else 0.0  # what to expect of the next

    def begin(self) -> None:
        """Start the clock, unless there is no time to go on. Raises Stopped."""
        if self.late:
            raise Stopped
        self.meter.start(f"level {self.history.levels}")  # a process's first start takes seconds
        self.began = self.epoch_began = time.perf_counter()

    @property
    def late(self) -> bool:
        """Whether another epoch would end too late."""
        return must_stop(self.deadline, 1.5 * self.epoch_seconds)

    def must_save(self) -> bool:
        """To be asked at the end of each epoch: is the state to be saved now?"""
        now = time.perf_counter()
        self.epoch_seconds, self.epoch_began = now - self.epoch_began, now
        return self.late or now - self.began > SAVE_SECONDS

    def end(self) -> None:
        """Enter what clock and meter show into the history. Raises Busy when the run is no longer this process's."""
        hold(self.lock)
        record = self.meter.stop()
        now = time.perf_counter()
        seconds, last = now - self.began, now - self.epoch_began  # must_save is not asked after a level's last epoch
        self.epoch_seconds = max(self.epoch_seconds, last)
        self.history.segments.append({"level": self.history.levels, "seconds": seconds, "commit": commit(), **record})


def write_tables(run: Path, exp: Experiment, history: checkpoints.History) -> pd.DataFrame:
    """levels.csv, which it returns, weights.csv and emissions.csv; see ``checkpoints.tables_of``."""
    tables = checkpoints.tables_of(exp, history, run.parent.name)
    for name, table in tables.items():
        write_csv(run / f"{name}.csv", table)
    return tables["levels"]


def level_cost(segments: list[dict], level: int) -> dict[str, float | str | None]:
    """Seconds, energy and emissions of a level; the latter two are empty where codecarbon missed a segment."""
    mine = pd.DataFrame([s for s in segments if s["level"] == level])
    names = {"seconds": "seconds", "energy_consumed": "energy_kwh", "emissions": "emissions_kg"}
    cost = {name: mine[column].sum(skipna=False) if column in mine else None for column, name in names.items()}
    return cost | {"energy_source": "; ".join(mine["energy_source"].unique())}


def weight_histogram(net: SparseNetwork) -> list[int]:
    """How many surviving weights lie in each of the WEIGHT_BINS bins."""
    limit = WEIGHT_BIN * WEIGHT_BINS / 2
    return torch.histc(net.survivors().cpu().clamp(-limit, limit), WEIGHT_BINS, -limit, limit).long().tolist()


def load_teacher(exp: Experiment, folder: Path, device: str = "cpu") -> tuple[SparseNetwork | None, int | None]:
    """The teacher's network and level, chosen by the rule on the selection split; (None, None) without a teacher."""
    if exp.teacher is None:
        return None, None
    teacher = exp.teacher.experiment
    run = folder / teacher.run_id
    if not finished(teacher, folder):
        raise ResultsMissing(f"{exp.run_id}: its teacher {run.name} has not been trained in {folder}")
    for name, why in checkpoints.unsound(run, teacher).items():
        raise Damaged(f"{exp.run_id}: its teacher cannot be used: {run / name} {why}; run the profile again")
    level = select_level(read_csv(run / "levels.csv"), exp.teacher.rule, exp.selection)
    if not checkpoints.level_file(run, level).exists():
        raise ResultsMissing(f"{exp.run_id}: level {level} of its teacher was not kept; remove {run}, train it again")
    net = new_network(teacher, device)
    checkpoints.restore(checkpoints.level_file(run, level), teacher, net)
    return net, level


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
