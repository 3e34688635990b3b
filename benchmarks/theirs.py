"""He et al.'s own script beside ours, on LeNet-300-100 and MNIST: ``python -m benchmarks theirs --code <a clone>``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import pandas as pd
import torch
from loky import cpu_count

from benchmarks.device import device_name
from benchmarks.speed import timed, ways
from benchmarks.timing import Row
from sdd_utils.config import Experiment
from sdd_utils.datasets import DATA, source
from sdd_utils.errors import ConfigError
from sdd_utils.runner.workers import local_workers

EPOCHS = 3  # that their script trains in each round; the first is a warm-up

DRIVER = """
import sys
import numpy
numpy.product = numpy.prod  # which numpy 2 has no longer
from foundations.local import Platform
here = sys.argv.pop(1)
Platform.root = property(lambda self: here + "/result")
Platform.dataset_root = property(lambda self: here + "/datasets")
import main
main.main()
"""
"""Their ``main.py`` with other folders than those that are written into it."""


def beside_theirs(exp: Experiment, code: Path, rounds: int) -> pd.DataFrame:
    """One row a code: seconds an epoch with evaluation, images a second, and how many times theirs.

    ``exp`` is the profile mnist's; ``code`` a clone of github.com/he-zh/sparse-double-descent, which is not changed.
    Theirs has the whole machine, and evaluates after every epoch; of ours one experiment trains on each core, and is
    evaluated after a level. They are measured in turn, and medians taken. Raises ConfigError, and DataError without
    MNIST.
    """
    if not (code / "foundations" / "local.py").is_file():
        raise ConfigError(f"code: {code} is not a clone of https://github.com/he-zh/sparse-double-descent")
    images, _ = source("mnist")
    (way,) = [way for way in ways(exp, torch.device("cpu")) if way.name == "ours"]
    executor, at_once = local_workers(), cpu_count()
    theirs, ours = [], []
    for turn in range(rounds):
        theirs += their_epochs(code, EPOCHS)[1:]
        ours += [timing.seconds for timing in timed(executor, Row(exp, 0, way), "cpu", at_once, turn)]
    executor.stop()
    seconds = [median(theirs), median(ours)]
    speeds = [len(images.labels) / seconds[0], at_once * exp.training_images / seconds[1]]
    table = pd.DataFrame({"code": ["theirs", "ours"], "seconds_per_epoch": seconds, "images_per_second": speeds})
    return table.assign(times_theirs=table["images_per_second"] / speeds[0], device=device_name("cpu"))


def their_epochs(code: Path, epochs: int) -> list[float]:
    """Seconds of each epoch that their script trains a dense network for, evaluation included. Raises ConfigError."""
    settings = {"default_hparams": "mnist_mlp_300_100", "training_steps": f"{epochs}ep", "levels": 0, "gpu": ""}
    settings |= {"random_labels_fraction": 0.2, "fix_all_random_seeds": 1}
    with tempfile.TemporaryDirectory() as here:
        (Path(here) / "datasets").mkdir()
        (Path(here) / "datasets" / "mnist").symlink_to(DATA.absolute())
        command = [
            sys.executable,
            "-c",
            DRIVER,
            here,
            "rewindLR",
            *(f"--{name}={value}" for name, value in settings.items()),
        ]
        env = os.environ | {"PYTHONPATH": str(code.absolute())}
        ended = subprocess.run(command, cwd=code, env=env, capture_output=True, text=True)
    seconds = re.findall(r"^train\tep (?!000)\d+.*\ttime ([\d.]+)s$", ended.stdout, re.MULTILINE)
    if ended.returncode or len(seconds) != epochs:
        raise ConfigError(f"code: {code} ended with {ended.returncode}: {ended.stderr.strip().splitlines()[-1:]}")
    return [float(second) for second in seconds]
