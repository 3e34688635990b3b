"""One experiment from its configuration to its files: prune, train, measure, save, and go on where it stopped."""

import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from sdd_utils.analysis import select_level
from sdd_utils.config import Experiment
from sdd_utils.cost import energy_meter, flop_count
from sdd_utils.data import Data, load
from sdd_utils.models import build_model
from sdd_utils.pruning import SparseNetwork
from sdd_utils.results import LEVEL_COLUMNS, WEIGHT_BIN, WEIGHT_BINS, provenance, read_csv, write_csv, write_json
from sdd_utils.training import measure, train_level

CHECKPOINT = "checkpoint.safetensors"


class TeacherMissing(FileNotFoundError):
    """A student was asked for before its teacher was trained."""


def run_experiment(exp: Experiment, folder: Path, device: str = "cpu") -> Path:
    """Train every level that is not there yet and write ``folder/<run_id>/``; returns that folder.

    The profile is the folder's name; a teacher is looked for beside it. After each level the checkpoint, which carries
    the rows so far, is replaced in one step, so a kill loses at most the level being trained. Raises TeacherMissing
    when the teacher has not been trained, TrainingDiverged when the loss is not a number.
    """
    run = folder / exp.run_id
    if finished(exp, folder):
        return run
    torch.set_num_threads(1)  # the cores are for other experiments, and sums come out the same wherever this one runs
    torch.set_flush_denormal(True)  # decayed weights become denormal numbers, which a CPU multiplies very slowly
    write_json(run / "config.json", exp.model_dump(mode="json"))
    started = {**provenance(), "device": device, "threads": torch.get_num_threads(), "started": _now()}

    data = load(exp, device)
    teacher, teacher_level = load_teacher(exp, folder, data)
    meter = energy_meter()
    net, rows = resume(exp, run, data)
    write_csv(run / "levels.csv", pd.DataFrame(rows, columns=LEVEL_COLUMNS))  # a kill may have come before the last row

    for level in range(len(rows), exp.levels + 1):
        begin = time.perf_counter()
        meter.start(f"{exp.run_id}/{level}")
        if level:
            net.prune(level, exp.prune_share)
            net = retrain_from(net, exp, level, data)
        train_level(net, data, exp, level, teacher)
        rows.append(measure_level(net, data, exp, level, folder.name))
        record = meter.stop()
        rows[-1] |= level_flops(net, data, exp, teacher)
        rows[-1] |= {"energy_kwh": record.get("energy_consumed"), "emissions_kg": record.get("emissions")}
        rows[-1] |= {"seconds": time.perf_counter() - begin}
        save(net, run / f"level-{level:02d}.safetensors")
        save(net, run / CHECKPOINT, rows)
        write_csv(run / "levels.csv", pd.DataFrame(rows, columns=LEVEL_COLUMNS))
        _append_record(run / "emissions.csv", level, record)

    write_csv(run / "weights.csv", pd.DataFrame(_weight_histograms(net, exp, run)))
    taught = {"run_id": exp.teacher.experiment.run_id, "level": teacher_level} if exp.teacher else None
    write_json(run / "provenance.json", {**started, "ended": _now(), "teacher": taught})  # last: it marks the end
    _drop_levels(exp, run)
    return run


def finished(exp: Experiment, folder: Path) -> bool:
    """Whether every level and every file of the run is there."""
    return (folder / exp.run_id / "provenance.json").exists()


def measure_level(net: SparseNetwork, data: Data, exp: Experiment, level: int, profile: str) -> dict:
    """The row of levels.csv that says what the network is worth, without its cost."""
    train, val, test = (measure(net, split) for split in (data.train, data.val, data.test))
    as_configured = set(LEVEL_COLUMNS) & set(Experiment.model_fields) - {"teacher"}
    return exp.model_dump(include=as_configured) | {
        "run_id": exp.run_id,
        "profile": profile,
        "method": exp.method,
        "teacher": exp.teacher.rule if exp.teacher else "none",
        "level": level,
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


def level_flops(net: SparseNetwork, data: Data, exp: Experiment, teacher: SparseNetwork | None) -> dict[str, float]:
    """Training FLOPs of a level, teacher included: dense, and counting surviving weights only."""
    count, images = flop_count(exp, data.train.images, data.classes), len(data.train) * exp.epochs
    dense, sparse = images * count.step, images * count.training(net.layer_density())
    if teacher:
        count = flop_count(exp.teacher.experiment, data.train.images, data.classes)
        images = images if exp.augmented else len(data.train)  # see training.train_level
        dense, sparse = dense + images * count.forward, sparse + images * count.inference(teacher.layer_density())
    return {"train_flops": dense, "train_flops_sparse": sparse}


def new_network(exp: Experiment, data: Data, draw: int = 0) -> SparseNetwork:
    """The experiment's dense network at initialisation, on the data's device."""
    model = build_model(exp, tuple(data.train.images.shape[1:]), data.classes, draw)
    return SparseNetwork(model.to(data.train.images.device))


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
    run = folder / exp.teacher.experiment.run_id
    if not finished(exp.teacher.experiment, folder):
        raise TeacherMissing(f"{exp.run_id}: its teacher {run.name} has not been trained in {folder}")
    level = select_level(read_csv(run / "levels.csv"), exp.teacher.rule, exp.selection)
    net = new_network(exp.teacher.experiment, data)
    restore(net, run / f"level-{level:02d}.safetensors")
    return net, level


def save(net: SparseNetwork, path: Path, rows: list[dict] | None = None) -> None:
    """Weights, mask and buffers as safetensors, atomically; the rows so far travel in the metadata."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    metadata = {"rows": json.dumps(rows)} if rows is not None else None
    save_file({name: t.contiguous() for name, t in net.state().items()}, temporary, metadata)
    os.replace(temporary, path)


def restore(net: SparseNetwork, path: Path) -> list[dict]:
    """Load what ``save`` wrote into ``net``; returns the rows."""
    with safe_open(path, "pt") as file:
        net.load_state({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        return json.loads((file.metadata() or {}).get("rows", "[]"))


def resume(exp: Experiment, run: Path, data: Data) -> tuple[SparseNetwork, list[dict]]:
    """The network and rows after the last level that was saved, or a new network and no rows."""
    net = new_network(exp, data)
    checkpoint = run / CHECKPOINT
    return net, restore(net, checkpoint) if checkpoint.exists() else []


def _weight_histograms(net: SparseNetwork, exp: Experiment, run: Path) -> Iterator[dict]:
    """Rows of weights.csv: how many surviving weights lie in [bin, bin + WEIGHT_BIN) at each level."""
    limit = WEIGHT_BIN * WEIGHT_BINS / 2
    for level in range(exp.levels + 1):
        restore(net, run / f"level-{level:02d}.safetensors")
        weights = net.survivors().cpu().clamp(-limit, limit)
        counts = torch.histc(weights, WEIGHT_BINS, -limit, limit).long().tolist()
        for i, count in enumerate(counts):
            if count:
                yield {"level": level, "bin": round(-limit + i * WEIGHT_BIN, 2), "count": count}


def _drop_levels(exp: Experiment, run: Path) -> None:
    """Of the levels' weights keep only those that a student could ask for, which it will by the rounded numbers."""
    rows = read_csv(run / "levels.csv")
    rules = [("dense", "validation")] + [("sparse", s) for s in ("validation", "test") if exp.levels]
    keep = {select_level(rows, rule, selection) for rule, selection in rules}
    for level in range(exp.levels + 1):
        if level not in keep:
            (run / f"level-{level:02d}.safetensors").unlink(missing_ok=True)


def _append_record(path: Path, level: int, record: dict) -> None:
    """Add codecarbon's record of one level, replacing what an interrupted run left for it."""
    table = pd.DataFrame([{"level": level, **record}])
    if level and path.exists():
        before = read_csv(path)
        table = pd.concat([before[before["level"] < level], table], ignore_index=True)
    write_csv(path, table)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
