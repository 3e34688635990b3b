"""Where numbers come from: commit, versions, machine."""

import importlib.metadata
import os
import platform
import subprocess
from functools import cache
from pathlib import Path

from sdd_utils.files import ROOT
from sdd_utils.metrics.energy import country

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
        "country": country(),
    }


@cache
def commit() -> str:
    """The commit whose code this process runs, ``…-dirty`` if changed since; else ``unknown: `` and why. Asked once,
    when the process is young."""
    try:
        if _git("rev-parse", "--show-cdup"):  # the repository is one further up
            return "unknown: the folder is no repository of its own"
        named = _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")  # no tag's name instead
        # What the user's git ignores is imported all the same
        new = _git("ls-files", "--others", "--", "sdd_utils/*.py")
        hidden = [line for line in _git("ls-files", "-v", "sdd_utils").splitlines() if line[0] != "H"]  # from --dirty
    except (OSError, subprocess.CalledProcessError) as error:  # no git on this machine, or not its owner's repository
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[0]
        return f"unknown: {said.replace(str(ROOT), 'the folder')}"
    return f"{named}-dirty" if (new or hidden) and not named.endswith("-dirty") else named


def _git(*arguments: str) -> str:
    """What git says of this folder: not of what the environment names, nor of a repository further up."""
    elsewhere = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY")
    environment = {name: value for name, value in os.environ.items() if name not in elsewhere}
    environment |= {"GIT_CEILING_DIRECTORIES": str(ROOT.parent), "LC_ALL": "C"}
    how = {"cwd": ROOT, "env": environment, "capture_output": True, "check": True}
    how |= {"encoding": "utf-8", "errors": "backslashreplace"}  # paths may be in any encoding
    return subprocess.run(["git", *arguments], **how).stdout.strip()


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
