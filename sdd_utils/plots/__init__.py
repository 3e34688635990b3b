"""Figures from tables: ``plots.cure(levels, …)``. ``figures`` and ``tuning`` say what each shows, ``panels`` how."""

from sdd_utils.plots.figures import baseline, cure, distillation, frontier, l2_sweep, remedies, tour, weights
from sdd_utils.plots.panels import use_style
from sdd_utils.plots.tuning import heat_map
