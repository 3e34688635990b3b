"""In which order experiments are trained: longest work first."""

from sdd_utils.config import Experiment
from sdd_utils.metrics.flops import dense_flops


def ranks(experiments: list[Experiment], cost: dict[str, float] | None = None) -> dict[str, float]:
    """{run_id: what has to be trained one after the other from here on}: its own cost and its costliest student's.

    To train the highest rank first is «longest work first», where a teacher counts as long as what waits for it.
    ``cost`` is by run_id, and training FLOPs by default.
    """
    cost = cost or {exp.run_id: dense_flops(exp) * (exp.levels + 1) for exp in experiments}
    behind = dict.fromkeys(cost, 0.0)
    for exp in experiments:
        if teacher := teacher_of(exp):
            behind[teacher] = max(behind[teacher], cost[exp.run_id])
    return {run: cost[run] + behind[run] for run in cost}


def teacher_of(exp: Experiment) -> str | None:
    """The run_id of the teacher that an experiment waits for."""
    return exp.teacher.experiment.run_id if exp.teacher else None
