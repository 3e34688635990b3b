"""Where numbers come from: commit, versions, machine."""

import importlib.metadata
import os
import platform
import subprocess
from functools import cache
from pathlib import Path

from sdd_utils.files import ROOT
from sdd_utils.metrics.energy import COUNTRY

PACKAGES = ["torch", "torchvision", "timm", "numpy", "pandas", "scikit-learn", "codecarbon"]


def provenance(device: str = "cpu") -> dict:
    """Where numbers came from: commit, versions, processor, GPU if that is the device, country of the grid. No host
    name, no path."""
    import torch

    return {
        "commit": commit(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else None,
        "country": COUNTRY,
    }


@cache
def commit() -> str:
    """The commit whose code this process runs, ``…-dirty`` if changed since; asked once, when the process is young."""
    try:
        describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]  # no tag's name instead
        return subprocess.run(describe, cwd=ROOT, capture_output=True, text=True).stdout.strip() or "unknown"
    except OSError:  # no git on this machine
        return "unknown"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # a run needs few of them
        return None


def cpu_model() -> str:
    """The processor's name as it gives it itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
