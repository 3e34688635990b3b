"""The command line: what ``python -m sdd_utils`` and the Makefile call."""

import logging
import re
import sys
import traceback
from pathlib import Path

import click
import pandas as pd

from sdd_utils import reproduce
from sdd_utils.claims import claims_table
from sdd_utils.config import ConfigError
from sdd_utils.energy import check_country
from sdd_utils.errors import DIFFERENT, INTERRUPTED, REFUSED, REQUEUE, ResultsMissing, SddError
from sdd_utils.files import as_csv, read_csv, write_csv
from sdd_utils.inventory import STATES, collect, compare, survey
from sdd_utils.options import FOLDER, device_option, only_option, profile_option, results_option, training_options
from sdd_utils.results import FIGURES, REFERENCE, ROOT, file_name, load_levels
from sdd_utils.stopping import Outcome


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Sparse double descent, and what prevents it.

    \b
    Exit status: 0 done; 1 verify found a difference; 2 refused or failed, with
    the reason; 75 stopped by the time budget or a signal, the same command goes
    on; 130 stopped by Ctrl-C, likewise.

    \b
    Examples:
      python -m sdd_utils run --profile digits --only arch=mlp --time-budget 9m
      python -m sdd_utils status --profile digits
      python -m sdd_utils verify --profile digits
      python -m sdd_utils export --profile digits --only method=kd > kd.csv
    """


@cli.command("run")
@profile_option
@only_option
@training_options
def run_command(profile: str, only: str, time_budget: float | None, results: Path, **hands: str | float | None) -> None:
    """Train what is not finished, and go on with what was interrupted.

    \b
    Examples:
      python -m sdd_utils run --profile smoke
      python -m sdd_utils run --profile digits --only method=kd,arch=vit --workers 1
      python -m sdd_utils run --profile digits --time-budget 1h30m --results scratch/runs
      python -m sdd_utils run --profile paper --device cuda --gpu-share 0.5
      python -m sdd_utils run --profile paper --device cuda --cluster 10.0.0.1:6379
    """
    leave(reproduce.train(profile, only=only, runs=results, seconds=time_budget, **hands))


@cli.command("reproduce")
@profile_option
@training_options
def reproduce_command(profile: str, time_budget: float | None, results: Path, **hands: str | float | None) -> None:
    """Train, draw, execute the notebooks, and end with the table of claims."""
    leave(reproduce.reproduce(profile, runs=results, seconds=time_budget, **hands))


@cli.command("status")
@profile_option
@only_option
@results_option
def status_command(profile: str, only: str, results: Path) -> None:
    """Say of every run whether it is done, running, stopped, waiting or damaged."""
    table = survey(reproduce.experiments_of(profile, only), present(results) / profile)
    click.echo(table.to_string(index=False, justify="left"))
    counts = table["state"].value_counts()
    click.echo(f"\n{len(table)} runs: " + ", ".join(f"{counts[s]} {s}" for s in STATES if s in counts))


@cli.command("verify")
@profile_option
@only_option
@results_option
def verify_command(profile: str, only: str, results: Path) -> None:
    """Check the files of the finished runs, and compare their curves with the committed reference.

    \b
    identical   equal in every column but the clock's
    within      where another seed of the reference would be
    different   neither
    """
    experiments = reproduce.experiments_of(profile, only)
    states = survey(experiments, present(results) / profile)
    damaged = states[states["state"] == "damaged"]
    for run, note in zip(damaged["run_id"], damaged["note"], strict=True):
        click.echo(f"damaged: {run}: {note}")
    done = set(states.loc[states["state"] == "done", "run_id"])
    if not done and damaged.empty:
        raise ResultsMissing(f"no run of {profile} is finished in {results / profile}; run the profile first")
    local = collect([exp for exp in experiments if exp.run_id in done], results / profile, checked=True)
    counts = {}
    try:
        reference = load_levels("reference", profile)
    except ResultsMissing:
        click.echo(f"{len(done)} finished runs are sound; there is no committed reference of {profile} to compare with")
    else:
        beside = compare(local, reference) if done else pd.DataFrame(columns=["verdict"])
        click.echo(beside.to_string(index=False, justify="left", float_format="%.2f"))
        counts = beside["verdict"].value_counts()
        click.echo(f"\n{len(done)} finished runs: " + ", ".join(f"{n} {verdict}" for verdict, n in counts.items()))
    if len(damaged) or "different" in counts:
        raise SystemExit(DIFFERENT)


@cli.command("export")
@profile_option
@only_option
@click.option("--out", type=click.Path(path_type=Path), help="A CSV file; standard output by default.")
@results_option
def export_command(profile: str, only: str, out: Path, results: Path) -> None:
    """Write all levels there are, of unfinished runs as well, as one tidy table."""
    table = collect(reproduce.experiments_of(profile, only), present(results) / profile)
    if table.empty:
        raise ResultsMissing(f"no level of {profile} is trained in {results / profile}; run the profile first")
    if out and out.exists() and not out.is_file():
        raise ConfigError(f"out: {out} is not a file that can be replaced")
    if out:
        write_csv(out, table)
        click.echo(f"{out}: {len(table)} levels of {table['run_id'].nunique()} runs")
    else:
        click.echo(as_csv(table), nl=False)


@cli.command("data")
@click.option("--dataset", required=True, help="digits, cifar10, cifar100, cifar10n or cifar100n.")
@click.option("--root", type=FOLDER, help="A folder in torchvision's layout; SDD_DATA by default.")
def data_command(dataset: str, root: Path | None) -> None:
    """Download a dataset if it is not there, and check every file of it."""
    from sdd_utils import cifar, datasets

    if dataset not in cifar.NAMES:
        raise ConfigError(f"dataset: there is no {dataset!r}; known are {', '.join(cifar.NAMES)}")
    click.echo(cifar.fetch(dataset, root or datasets.DATA))


@cli.command("bench")
@profile_option
@click.option("--arch", multiple=True, help="One of the profile's, whose rows alone are made anew. May be repeated.")
@device_option
@click.option("--side-by-side", type=click.IntRange(min=1), help="Experiments at a time; one a core, two on a GPU.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Measurements of every row.")
def bench_command(profile: str, arch: tuple[str, ...], device: str, side_by_side: int, rounds: int) -> None:
    """Measure how fast we train beside the conventional way, and what each ingredient is worth."""
    from sdd_utils.bench import bench, chosen
    from sdd_utils.sweep import check_device

    check_country()
    check_device(device)
    table = bench(chosen(reproduce.experiments_of(profile), arch), device, side_by_side, rounds)
    path = REFERENCE / "bench" / file_name(table["device"].iat[0])
    others = []
    if arch and path.exists():
        before = read_csv(path)
        others = [before[~before["arch"].isin(arch) & before["dataset"].isin(table["dataset"])]]
    write_csv(path, pd.concat([*others, table]))
    shown = ["arch", "method", "level", "path", "seconds_per_epoch", "images_per_second", "tflops"]
    shown += ["share_of_matrix_rate", "hours_per_curve", "times_conventional"]
    click.echo(table[shown].to_string(index=False, float_format="%.3g"))
    click.echo(f"\n{table['device'].iat[0]}: written to {path.relative_to(ROOT)}")


@cli.command("bench-scale")
@profile_option
@click.option("--arch", multiple=True, help="One of the profile's architectures; its first by default.")
@device_option
def bench_scale_command(profile: str, arch: tuple[str, ...], device: str) -> None:
    """Measure throughput with 1, 2 and more workers, here and on Ray, and what the runner itself costs."""
    from sdd_utils.bench import chosen
    from sdd_utils.scale import bench_scale
    from sdd_utils.sweep import check_device

    check_device(device)
    table = bench_scale(chosen(reproduce.experiments_of(profile), arch)[0], device)
    path = REFERENCE / "bench" / f"scale-{file_name(table['device'].iat[0])}"
    write_csv(path, table)
    click.echo(table.drop(columns="device").to_string(index=False, na_rep="", float_format="%.3g"))
    click.echo(f"\n{table['device'].iat[0]}: written to {path.relative_to(ROOT)}")


@cli.command("plan")
@profile_option
@only_option
@device_option
@click.option("--devices", default="", help="How long it would take on so many devices like this: 1,8,64,512.")
def plan_command(profile: str, only: str, device: str, devices: str) -> None:
    """Say what a profile would take on this machine: runs, FLOPs, hours, kWh, kg of CO2eq. Trains nothing."""
    from sdd_utils.plan import last_bench, plan
    from sdd_utils.schedule import makespans
    from sdd_utils.sweep import with_teachers

    name, table = last_bench(device)
    experiments = with_teachers(reproduce.experiments_of(profile, only))
    if devices:
        if not re.fullmatch(r"[1-9]\d{0,5}(,[1-9]\d{0,5})*", devices):
            raise ConfigError(f"devices: {devices!r} are not numbers such as 1,8,64")
        spread = makespans(experiments, table, [int(number) for number in devices.split(",")])
        path = REFERENCE / "bench" / f"makespan-{profile}-{file_name(name)}"
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


@cli.command("figures")
def figures_command() -> None:
    """Draw the figures of all committed reference results again, and judge their claims again; trains nothing."""
    from sdd_utils import figures

    for folder in sorted(path.parent for path in REFERENCE.glob("*/levels.csv")):
        if (folder / "claims.csv").exists():
            write_csv(folder / "claims.csv", claims_table(load_levels("reference", folder.name)))
        for path in figures.save_all("reference", folder.name, FIGURES / folder.name):
            click.echo(path.relative_to(FIGURES.parent))


@cli.command("choose")
@profile_option
def choose_command(profile: str) -> None:
    """Rank τ and α of a profile's students by validation accuracy (mean over seeds and levels)."""
    students = reproduce.gather(profile)[1].query("method == 'kd'")
    keys = ["arch", "noise_rate", "temperature", "alpha"]
    ranked = students.groupby(keys)["val_acc"].mean().unstack("arch")
    table = ranked.assign(mean=ranked.mean(axis=1)).sort_values("mean", ascending=False).reset_index()
    write_csv(REFERENCE / profile / "validation.csv", table)
    click.echo(table.to_string(index=False))


@cli.command("publish")
@profile_option
@only_option
@results_option
def publish_command(profile: str, only: str, results: Path) -> None:
    """Make this machine's finished runs the committed reference of their profile; with --only, add some to it."""
    from sdd_utils.publish import publish

    publish(profile, results, only)


def present(results: Path) -> Path:
    """The folder of results, which must be there to be looked at."""
    if not results.is_dir():
        raise ConfigError(f"results: there is no folder {results}")
    return results


def leave(outcome: Outcome) -> None:
    """Say what failed or is left, and exit with the status that says the same."""
    for run, error in outcome.failed.items():
        click.echo(f"error: {run}: {error}", err=True)
    if outcome.stopped:
        click.echo(outcome.stopped, err=True)
        raise SystemExit(INTERRUPTED if outcome.interrupted else REQUEUE)
    if outcome.failed:
        raise SystemExit(REFUSED)


def main() -> None:
    """Run the command line; an error that a person can act on is one line, not a traceback."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        cli(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help())
        sys.exit(REFUSED)
    except click.ClickException as error:
        click.echo(f"error: {error.format_message()} (--help shows how)", err=True)
        sys.exit(REFUSED)
    except SddError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(REFUSED)
    except OSError as error:
        click.echo(f"error: {error.filename or 'system'}: {error.strerror or error}", err=True)
        sys.exit(REFUSED)
    except click.Abort:  # click's word for Ctrl-C
        raise KeyboardInterrupt from None
    except Exception:  # a defect of ours: 1, which Python would say, means something else
        traceback.print_exc()
        sys.exit(REFUSED)
