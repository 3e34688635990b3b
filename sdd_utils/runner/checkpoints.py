"""What a run keeps of itself while it goes, and how it goes on from there.

``level-NN.safetensors`` is the network after level NN and everything measured so far, to go on from and for students to
learn from. ``checkpoint.safetensors`` is the same in the middle of a long level, and the state of its training. Every
file carries a checksum of all that it holds.
"""

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd
import torch
from pydantic import BaseModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as as_bytes
from torch import Tensor

from sdd_utils.config import Experiment
from sdd_utils.distillation import TEACHERS, select_level
from sdd_utils.errors import Damaged
from sdd_utils.files import as_csv, write_bytes
from sdd_utils.pruning import SparseNetwork, check_left, new_network
from sdd_utils.runner.integrity import ALWAYS, SUMS, finished, quarantine, verify
from sdd_utils.tables import LEVEL_COLUMNS, WEIGHT_BIN, WEIGHT_BINS, levels_table
from sdd_utils.training import check_training_state, part_of

CHECKPOINT = "checkpoint.safetensors"
MEASURED = LEVEL_COLUMNS[LEVEL_COLUMNS.index("level") :]  # what a row of the history has

KEPT_SPARSITIES = (0.9, 0.99)  # the levels closest to these are kept of every curve


class History(BaseModel):
    """What was measured so far."""

    rows: list[dict] = []  # the measured columns of levels.csv, one a level
    histograms: list[list[int]] = []  # counts of surviving weights by bin, one a level
    segments: list[dict] = []  # seconds and codecarbon's record of uninterrupted training

    @property
    def levels(self) -> int:
        """How many levels are finished, which is also the number of the next one."""
        return len(self.rows)


def level_file(run: Path, level: int) -> Path:
    """Where the network after ``level`` is kept."""
    return run / f"level-{level:02d}.safetensors"


def states(run: Path) -> list[Path]:
    """All files that ``save`` has written."""
    return [path for path in sorted(run.glob("*.safetensors")) if re.fullmatch(r"level-\d+|checkpoint", path.stem)]


def save(run: Path, exp: Experiment, net: SparseNetwork, history: History, training: dict[str, Tensor]) -> None:
    """Write the checkpoint or, at the end of a level, where ``training`` is empty, the level's file."""
    tensors = net.state() | {f"training.{name}": value for name, value in training.items()}
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    metadata = {"run_id": exp.run_id, "history": json.dumps(history.model_dump(), default=float)}
    metadata["sha256"] = _digest(tensors, metadata)
    write_bytes(run / CHECKPOINT if training else level_file(run, history.levels - 1), as_bytes(tensors, metadata))


def read(path: Path, exp: Experiment, net: SparseNetwork) -> tuple[dict[str, Tensor], History]:
    """The tensors and the history in a file that ``save`` wrote for ``exp``; ``net`` is only compared with.

    Raises Damaged when anything in it has changed since, when it is another experiment's or architecture's, and when it
    has a right checksum and cannot have been written by ``save``.
    """
    try:
        if path.is_dir():
            raise ValueError("is a folder")
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
        expected, run_id = metadata.pop("sha256"), metadata["run_id"]
        history = History.model_validate_json(metadata["history"])
    except (SafetensorError, FileNotFoundError, KeyError, ValueError, TypeError) as error:
        said = " ".join(str(error).split())
        raise Damaged(f"{path}: cannot be read as a checkpoint ({type(error).__name__}: {said})") from None
    if _digest(tensors, metadata) != expected:
        raise Damaged(f"{path}: what it holds differs from its checksum")
    if run_id != exp.run_id:
        raise Damaged(f"{path}: is a checkpoint of another experiment, {run_id}")
    within = path.name == CHECKPOINT
    try:
        net.check_state(tensors)
        if not within and path != level_file(path.parent, history.levels - 1):
            raise ValueError(f"is of level {history.levels - 1}")
        _check_history(history)
        check_left(net, exp, history.levels if within else history.levels - 1, int(tensors["mask"].sum()))
        if within:
            check_training_state(tensors, net, exp, history.levels)
        elif part_of(tensors, "training."):
            raise ValueError("has the state of a training, and its level is finished")
    except (ValueError, RuntimeError) as error:
        raise Damaged(f"{path}: {error}") from None
    return tensors, history


def _check_history(history: History) -> None:
    """Raise ValueError unless it is one of levels 0, 1, 2, …, with all that is measured of each and nothing else."""
    for level, row in enumerate(history.rows):
        words = {"energy_source": str}
        odd = [name for name, value in row.items() if type(value) not in (words.get(name, int), float, type(None))]
        if row.keys() != {*MEASURED} or row["level"] != level or odd or not row["epochs"]:
            raise ValueError("its history is not one of levels 0, 1, 2, …, with all that is measured of each")
    if len(history.histograms) != history.levels or any(len(counts) != WEIGHT_BINS for counts in history.histograms):
        raise ValueError(f"its history has not {WEIGHT_BINS} bins of weights for each level")
    if any(not one.keys() >= {"level", "seconds", "commit", "energy_source"} for one in history.segments):
        raise ValueError("its history has a segment without its seconds, commit or energy source")


def unsound(run: Path, exp: Experiment) -> dict[str, str]:
    """What is wrong with each file of a finished run: ``verify``'s answer or, where all checksums are right, what no
    run has written. Raises ConfigError as ``finished`` does."""
    if (wrong := verify(run)) or not finished(exp, run.parent):
        return wrong
    if lacking := [name for name in ALWAYS if not (run / name).exists()]:
        return {SUMS: f"lacks {lacking[0]}"}
    net, histories = new_network(exp), {}

    def config(path: Path) -> None:
        if Experiment.parse(json.loads(path.read_bytes())) != exp:
            raise Damaged("is of another experiment")

    def state(path: Path) -> None:
        histories[path] = read(path, exp, net)[1]

    def table(path: Path) -> None:
        expected = as_csv(tables[path.stem])
        if path.read_bytes() != expected.encode() and not _cells(path).equals(_cells(io.StringIO(expected))):
            raise Damaged(f"is not what {level_file(run, exp.levels).name} has measured")

    def look(paths: Iterable[Path], check: Callable[[Path], None]) -> None:
        for path in paths:
            try:
                check(path)
            except (ValueError, RecursionError) as error:
                wrong[path.name] = " ".join(str(error).removeprefix(f"{path}: ").split())

    look([run / "config.json"], config)
    if not has_provenance(run):
        wrong["provenance.json"] = "does not say where the numbers come from"
    look(states(run), state)
    if history := histories.get(level_file(run, exp.levels)):
        tables = tables_of(exp, history, run.parent.name)
        look([run / f"{name}.csv" for name in tables if (run / f"{name}.csv").exists()], table)
    elif not wrong:
        wrong[SUMS] = f"lacks {level_file(run, exp.levels).name}"
    return wrong


def has_provenance(run: Path) -> bool:
    """Whether the run has a provenance.json that says where its numbers come from."""
    try:
        record = json.loads((run / "provenance.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(record, dict) and {"commit", "started", "ended", "packages"} <= record.keys()


def _cells(table: Path | io.StringIO) -> pd.DataFrame:
    return pd.read_csv(table, dtype=str, keep_default_na=False)


def tables_of(exp: Experiment, history: History, profile: str) -> dict[str, pd.DataFrame]:
    """What a run's tables hold, by name: levels, weights (counts of surviving weights in [bin, bin + WEIGHT_BIN)) and,
    once something has been trained, emissions."""
    edges = [round((i - WEIGHT_BINS / 2) * WEIGHT_BIN, 2) for i in range(WEIGHT_BINS)]
    counted = [(n, *pair) for n, counts in enumerate(history.histograms) for pair in zip(edges, counts, strict=True)]
    weights = pd.DataFrame(counted, columns=["level", "bin", "count"])
    tables = {"levels": levels_table(exp, history.rows, profile), "weights": weights[weights["count"] > 0]}
    return tables | ({"emissions": pd.DataFrame(history.segments)} if history.segments else {})


def restore(path: Path, exp: Experiment, net: SparseNetwork) -> tuple[History, dict[str, Tensor]]:
    """Load a file into ``net``; returns its history and its training state. Raises Damaged and leaves ``net`` then."""
    tensors, history = read(path, exp, net)
    net.load_state(tensors)
    return history, part_of(tensors, "training.")


def resume(run: Path, exp: Experiment, net: SparseNetwork) -> tuple[History, dict[str, Tensor]]:
    """Load the latest state that is sound into ``net``; returns an empty history where there is none.

    A damaged file is quarantined. A state is of no use when a level before it is lost that a student may ask for.
    """
    found: dict[Path, History] = {}
    for path in states(run):
        try:
            found[path] = read(path, exp, net)[1]
        except Damaged as error:
            quarantine(path, str(error).removeprefix(f"{path}: "))
    kept = {history.levels - 1: history for path, history in found.items() if path.name != CHECKPOINT}
    level = max((n for n, history in kept.items() if wanted_levels(exp, history) <= kept.keys()), default=-1)
    within = found.get(run / CHECKPOINT)
    if within and within.levels == level + 1:
        return restore(run / CHECKPOINT, exp, net)
    (run / CHECKPOINT).unlink(missing_ok=True)
    return restore(level_file(run, level), exp, net) if level >= 0 else (History(), {})


def wanted_levels(exp: Experiment, history: History) -> set[int]:
    """The levels whose networks are kept: all as long as the run goes on, then those that may teach or are shown."""
    if history.levels <= exp.levels:
        return set(range(history.levels))
    rows = levels_table(exp, history.rows)
    rules = [(rule, "validation") for rule in TEACHERS if exp.levels or not TEACHERS[rule].is_pruned]
    rules += [("sparse", "test")] if exp.levels else []  # the one rule that may look at the test set
    return shown_levels(rows) | {select_level(rows, *rule) for rule in rules}


def shown_levels(levels: pd.DataFrame) -> set[int]:
    """Of the levels.csv of a finished run: dense, closest to KEPT_SPARSITIES, and last."""
    closest = {int((levels["sparsity"] - share).abs().idxmin()) for share in KEPT_SPARSITIES}
    return {0, len(levels) - 1} | closest


def drop_levels(run: Path, exp: Experiment, net: SparseNetwork, history: History) -> None:
    """Remove the states that nobody will ask for. Raises Damaged when a network that is kept is not sound."""
    wanted = wanted_levels(exp, history)
    for level in wanted:
        read(level_file(run, level), exp, net)
    for level in set(range(exp.levels + 1)) - wanted:
        level_file(run, level).unlink(missing_ok=True)
    (run / CHECKPOINT).unlink(missing_ok=True)


def _digest(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        t = tensors[name]
        digest.update(f"{name} {t.dtype} {tuple(t.shape)}".encode())
        digest.update(t.reshape(-1).view(torch.uint8).numpy().tobytes())  # numpy has no bfloat16
    return digest.hexdigest()
