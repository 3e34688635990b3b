"""Sparse double descent: prune, retrain, measure. The loop is in ``pruning_loop``; notebooks use ``Study``.

Importing it removes the environment variables by which torch's libraries compute with other instructions.
"""

import os
import re
from importlib import import_module

for _name in [*os.environ]:  # before torch computes anything: these choose other instructions, which give other bits
    if re.match("ATEN_CPU_CAPABILITY|MKL_CBWR|MKL_ENABLE_INSTRUCTIONS|ONEDNN_|DNNL_|NVIDIA_TF32_OVERRIDE", _name):
        del os.environ[_name]

_HOMES = {
    "Study": "study",
    "Experiment": "config",
    "iterative_pruning": "pruning_loop",
    "load": "data",
    "measure_dip": "analysis.dip",
    "curves_of": "analysis.dip",
}

__all__ = ["Experiment", "Study", "curves_of", "iterative_pruning", "load", "measure_dip"]


def __getattr__(name: str):
    """Import what is asked for when it is: whoever reads tables need not wait for torch, or have it."""
    if name in _HOMES:
        return getattr(import_module(f"sdd_utils.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'sdd_utils' has no attribute {name!r}")
