"""The command line's options, each once, under the names that ``runner.sweep.train`` knows them by."""

from collections.abc import Callable
from pathlib import Path

import click

from sdd_utils.runner.stopping import parse_duration
from sdd_utils.tables import RUNS

FOLDER = click.Path(path_type=Path, resolve_path=True)

profile_option = click.option("--profile", default="digits", show_default=True, help="A file of notebooks/profiles.")
results_option = click.option("--results", type=FOLDER, default=RUNS, help="Instead of results/runs.")
only_option = click.option("--only", default="", help="Some of the runs, such as method=kd,arch=vit.")
workers_help = "Experiments at a time; by default one for each core, or one for each GPU."
workers_option = click.option("--workers", type=click.IntRange(min=1), help=workers_help)
device_option = click.option("--device", default="cpu", show_default=True, help="Such as cuda or cuda:1.")
share_help = "Of a GPU, for each experiment: with 0.5, two train on each at a time."
share_option = click.option("--gpu-share", type=float, help=share_help)
cluster_help = "Train on a Ray cluster: host:port joins it, ray starts one here (or joins RAY_ADDRESS)."
cluster_option = click.option("--cluster", metavar="ADDRESS", help=cluster_help)
budget_help = "Train for so long at most: 90s, 9m, 1h30m, 2d."
budget_option = click.option("--time-budget", callback=lambda *a: a[-1] and parse_duration(a[-1]), help=budget_help)


def training_options(command: Callable) -> Callable:
    """Who trains, on what, for how long, and into which folder; all but the last two under the names of ``train``."""
    for option in (workers_option, device_option, share_option, cluster_option, budget_option, results_option)[::-1]:
        command = option(command)
    return command
