"""The loop that everything else is about: train, prune, train again (paper, Sec. 3). ``runner`` makes it durable."""

import copy
import math
from collections.abc import Iterator

import pandas as pd
from torch import Tensor

from sdd_utils.config import Experiment
from sdd_utils.data import Data
from sdd_utils.distillation import TEACHERS, select_level
from sdd_utils.errors import TrainingDiverged
from sdd_utils.evaluation import Level, measure_level
from sdd_utils.pruning import SparseNetwork, check_levels, new_network, prune, rewind
from sdd_utils.training import AfterEpoch, train_level

Resume = tuple[SparseNetwork, int, dict[str, Tensor]]
"""A network, the level to go on with, and within that level the state of its training, else {}."""


def iterative_pruning(
    exp: Experiment,
    data: Data,
    teacher: SparseNetwork | None = None,
    resume: Resume | None = None,
    after_epoch: AfterEpoch | None = None,
    dense: SparseNetwork | None = None,
) -> Iterator[Level]:
    """Yield the experiment's pruning curve, level by level; level 0 is dense.

    ``data`` is ``load(exp, device)``, and that device is trained on. The ``teacher`` of a distilled experiment is
    trained first unless it is given. The network of a level is trained further in place: copy what is to be kept.
    ``dense`` is level 0's, which one-shot pruning needs when it is resumed after it.
    Raises ConfigError when there are more levels than weights to prune, TrainingDiverged when the loss is not finite.
    """
    net, first, partial = resume or (new_network(exp, data.train.images.device), 0, {})
    check_levels(net, exp)
    trained = dense.state() if dense else None
    if exp.teacher and teacher is None:
        teacher = train_teacher(exp, data)
    for level in range(first, exp.levels + 1):
        if level and not partial:  # else it was pruned before its training was interrupted
            if exp.one_shot:
                net.load_state(trained)
            prune(net, exp, level, data)
            net = rewind(net, exp, level)
        epochs = train_level(net, data, exp, level, teacher, partial, after_epoch)
        partial = {}
        if exp.one_shot and level == 0:
            trained = copy.deepcopy(net.state())
        measured = measure_level(level, net, data, exp.amp, epochs)
        if not math.isfinite(measured.train_loss + measured.test_loss):
            raise TrainingDiverged(f"{exp.run_id}: the losses are not finite after level {level}, lr {exp.lr:g}")
        yield measured


def train_teacher(exp: Experiment, data: Data) -> SparseNetwork:
    """Train the teacher of a distilled experiment: as much of its curve as the rule looks at, to pick a level."""
    levels = []
    for level in iterative_pruning(exp.teacher.experiment, data):
        levels.append((copy.deepcopy(level.network.state()), level.row))
        if not TEACHERS[exp.teacher.rule].is_pruned:
            break
    chosen = select_level(pd.DataFrame(row for _, row in levels), exp.teacher.rule, exp.selection)
    net = new_network(exp.teacher.experiment, data.train.images.device)
    net.load_state(levels[chosen][0])
    return net
