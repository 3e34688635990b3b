"""The commands ``python -m benchmarks speed``, ``scale``, ``plan``, ``deploy`` and ``theirs``."""

import re
from pathlib import Path

import click
import pandas as pd

from benchmarks.deploy import deployment
from benchmarks.device import device_name, file_name
from benchmarks.plan import last_bench, makespans, plan
from benchmarks.scale import bench_scale
from benchmarks.speed import bench, chosen
from benchmarks.theirs import beside_theirs
from sdd_utils.cli.commands import (
    FOLDER,
    device_option,
    experiments_of,
    main,
    only_option,
    present,
    profile_option,
    results_option,
)
from sdd_utils.errors import ConfigError
from sdd_utils.files import ROOT, read_csv, write_csv
from sdd_utils.metrics.energy import check_country
from sdd_utils.runner.sweep import check_device, with_teachers
from sdd_utils.tables import REFERENCE

BENCH = REFERENCE / "bench"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def benchmarks() -> None:
    """Speed beside the conventional way, scaling, what a profile would take, and what sparsity buys at inference."""


@benchmarks.command("speed")
@profile_option
@click.option("--arch", multiple=True, help="One of the profile's, whose rows alone are made anew. May be repeated.")
@device_option
@click.option("--side-by-side", type=click.IntRange(min=1), help="Experiments at a time; one a core, two on a GPU.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Measurements of every row.")
def speed_command(profile: str, arch: tuple[str, ...], device: str, side_by_side: int, rounds: int) -> None:
    """Measure how fast we train beside the conventional way, and what each ingredient is worth."""
    check_country()
    check_device(device)
    path = BENCH / file_name(device_name(device))
    before = [read_csv(path, ["arch", "dataset"])] if arch and path.exists() else []
    table = bench(chosen(experiments_of(profile), arch), device, side_by_side, rounds)
    others = [rows[~rows["arch"].isin(arch) & rows["dataset"].isin(table["dataset"])] for rows in before]
    write_csv(path, pd.concat([*others, table]))
    shown = ["arch", "method", "level", "path", "seconds_per_epoch", "images_per_second", "tflops"]
    shown += ["share_of_matrix_rate", "hours_per_curve", "times_conventional"]
    click.echo(table[shown].to_string(index=False, float_format="%.3g"))
    click.echo(f"\n{table['device'].iat[0]}: written to {path.relative_to(ROOT)}")


@benchmarks.command("scale")
@profile_option
@click.option("--arch", help="One of the profile's architectures; its first by default.")
@device_option
def scale_command(profile: str, arch: str | None, device: str) -> None:
    """Measure throughput with 1, 2 and more workers, here and on Ray, and what the runner itself costs."""
    check_device(device)
    table = bench_scale(chosen(experiments_of(profile), (arch,) if arch else ())[0], device)
    path = BENCH / f"scale-{file_name(table['device'].iat[0])}"
    write_csv(path, table)
    click.echo(table.drop(columns="device").to_string(index=False, na_rep="", float_format="%.3g"))
    click.echo(f"\n{table['device'].iat[0]}: written to {path.relative_to(ROOT)}")


@benchmarks.command("plan")
@profile_option
@only_option
@device_option
@click.option("--devices", default="", help="How long it would take on so many devices like this: 1,8,64,512.")
def plan_command(profile: str, only: str, device: str, devices: str) -> None:
    """Say what a profile would take on this machine: runs, FLOPs, hours, kWh, kg of CO2eq. Trains nothing."""
    name, table = last_bench(device)
    experiments = with_teachers(experiments_of(profile, only))
    if devices:
        if not re.fullmatch(r"[1-9]\d{0,5}(,[1-9]\d{0,5})*", devices):
            raise ConfigError(f"devices: {devices!r} are not numbers such as 1,8,64")
        spread = makespans(experiments, table, [int(number) for number in devices.split(",")])
        path = BENCH / f"makespan-{profile}-{file_name(name)}"
        write_csv(path, spread)
        click.echo(spread.to_string(index=False, float_format="%.3g"))
        click.echo(f"\n{name}: written to {path.relative_to(ROOT)}")
        return
    planned = plan(experiments, table)
    click.echo(planned.to_string(index=False, na_rep="", float_format="%.3g"))
    speed = "make bench tells its speed"
    if table is not None:
        number = table.loc[table["path"] == "ours", "at_a_time"].max()
        speed = f"at the speed of the last make bench, {number} experiments at a time"
        speed += f" (--gpu-share {1 / number:g})" if number > 1 and device.startswith("cuda") else ""
    click.echo(f"\n{name}: {speed}")


@benchmarks.command("theirs")
@click.option("--code", required=True, type=FOLDER, help="A clone of github.com/he-zh/sparse-double-descent.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Measurements of each.")
def theirs_command(code: Path, rounds: int) -> None:
    """Measure He et al.'s own script beside ours on LeNet-300-100 and MNIST. Needs make data DATASET=mnist."""
    table = beside_theirs(experiments_of("mnist")[0], code, rounds)
    path = BENCH / f"he-{file_name(table['device'].iat[0])}"
    write_csv(path, table)
    click.echo(table.drop(columns="device").to_string(index=False, float_format="%.3g"))
    click.echo(f"\n{table['device'].iat[0]}: written to {path.relative_to(ROOT)}")


@benchmarks.command("deploy")
@profile_option
@results_option
def deploy_command(profile: str, results: Path) -> None:
    """Export a finished curve of each architecture with students; measure files and speed at some sparsities."""
    path = results / profile / "deployment.csv"
    write_csv(path, deployment(experiments_of(profile), present(results) / profile))
    click.echo(f"{path}: networks as ONNX files, weighed and timed")


if __name__ == "__main__":
    main(benchmarks)
