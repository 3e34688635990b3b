"""The commands: what ``python -m sdd_utils`` and the Makefile call."""

import logging
import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path

import click
import pandas as pd

from sdd_utils import errors
from sdd_utils.analysis.claims import claims_table
from sdd_utils.analysis.compare import compare, compare_claims
from sdd_utils.files import as_csv, write_csv
from sdd_utils.profiles import load_profile, select
from sdd_utils.runner.inventory import collect, survey
from sdd_utils.runner.stopping import parse_duration, silence
from sdd_utils.tables import RUNS, load_levels


class Place(click.Path):
    """A file or folder; ``~`` is the user's home also where a shell leaves it as it is."""

    def convert(self, value: str | Path, *how: click.Parameter | click.Context | None) -> Path:
        """Refuses an empty one, such as of a variable that is not set, which would mean the working directory."""
        return super().convert(os.path.expanduser(value), *how) if str(value) else self.fail("it is empty", *how)


FOLDER = Place(path_type=Path, resolve_path=True)

profile_option = click.option("--profile", default="digits", show_default=True, help="A file of notebooks/profiles.")
results_option = click.option("--results", type=FOLDER, default=RUNS, help="Instead of results/runs.")
only_option = click.option("--only", default="", help="Some of the runs, such as method=kd,arch=vit.")
workers_option = click.option("--workers", type=click.IntRange(1, 1000), help="Runs at a time; else one a core or GPU.")
device_option = click.option("--device", default="cpu", show_default=True, help="Such as cuda or cuda:1.")
share_option = click.option("--gpu-share", type=float, help="Of a GPU, for each experiment: two train on it with 0.5.")
cluster_help = "Train on a Ray cluster: host:port joins it, ray starts one here (or joins RAY_ADDRESS)."
cluster_option = click.option("--cluster", metavar="ADDRESS", help=cluster_help)
budget_help = "Train for so long at most: 90s, 9m, 1h30m, 2d."
budget_option = click.option("--time-budget", callback=lambda _, __, text: parse_duration(text), help=budget_help)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Sparse double descent, and what prevents it.

    Exit status: 0 done; 1 verify found a difference; 2 refused or failed, with the reason; 75 stopped by the time
    budget or a signal, the same command goes on; 130 stopped by Ctrl-C, likewise; 141 who read the output has gone.

    \b
    Examples:
      python -m sdd_utils run --profile digits --time-budget 1h30m
      python -m sdd_utils run --profile paper --device cuda --gpu-share 0.5 --cluster 10.0.0.1:6379
      python -m sdd_utils status --profile digits
      python -m sdd_utils verify --profile digits
      python -m sdd_utils export --profile digits --only method=kd > kd.csv
    """


@cli.command("run", epilog="\b\nExample: python -m sdd_utils run --profile digits --only method=kd --time-budget 9m")
@profile_option
@only_option
@workers_option
@device_option
@share_option
@cluster_option
@budget_option
@results_option
def run_command(profile: str, only: str, time_budget: float | None, results: Path, **how: str | float | None) -> None:
    """Train what is not finished, and go on with what was interrupted."""
    from sdd_utils.runner.sweep import train  # torch takes seconds, and figures and tables need none of it

    outcome = train(experiments_of(profile, only), results / profile, seconds=time_budget, **how)
    for run, error in outcome.failed.items():
        say(f"error: {run}: {error}", err=True)
    if outcome.stopped:
        say(outcome.stopped, err=True)
        raise SystemExit(errors.INTERRUPTED if outcome.interrupted else errors.REQUEUE)
    if outcome.failed:
        raise SystemExit(errors.REFUSED)


@cli.command("status")
@profile_option
@only_option
@results_option
def status_command(profile: str, only: str, results: Path) -> None:
    """Say of every run whether it is done, running, stopped, waiting or damaged."""
    table = survey(experiments_of(profile, only), present(results) / profile)
    say(table.to_string(index=False, justify="left"))
    say(f"\n{len(table)} runs: " + ", ".join(f"{n} {state}" for state, n in table["state"].value_counts().items()))


@cli.command("verify")
@profile_option
@only_option
@results_option
def verify_command(profile: str, only: str, results: Path) -> None:
    """Check the files of the finished runs, and compare their curves with the committed reference: identical (in every
    column but the clock's), within (where another seed would be), different, or (beside a single seed) neither."""
    experiments = experiments_of(profile, only)
    states = survey(experiments, present(results) / profile)
    damaged = states[states["state"] == "damaged"]
    for run, note in zip(damaged["run_id"], damaged["note"], strict=True):
        say(f"damaged: {run}: {note}")
    done = set(states.loc[states["state"] == "done", "run_id"])
    if not done and damaged.empty:
        raise errors.ResultsMissing(f"no run of {profile} is finished in {results / profile}; run the profile first")
    local = collect([exp for exp in experiments if exp.run_id in done], results / profile, checked=True)
    counts = {}
    try:
        reference = load_levels(profile)
    except errors.ResultsMissing:
        say(f"{len(done)} finished runs are sound; there is no committed reference of {profile} to compare with")
    else:
        beside = compare(local, reference) if done else pd.DataFrame(columns=["verdict"])
        say(beside.to_string(index=False, justify="left", float_format="%.2f"))
        counts = beside["verdict"].value_counts()
        say(f"\n{len(done)} finished runs: " + ", ".join(f"{n} {verdict}" for verdict, n in counts.items()))
    if len(damaged) or "different" in counts:
        raise SystemExit(errors.DIFFERENT)


@cli.command("export")
@profile_option
@only_option
@click.option("--out", type=Place(path_type=Path), help="A CSV file; standard output by default.")
@results_option
def export_command(profile: str, only: str, out: Path, results: Path) -> None:
    """Write all levels there are, of unfinished runs as well, as one tidy table."""
    if out and not (out.is_file() or (out.parent.is_dir() and not out.exists())):
        raise errors.ConfigError(f"out: {out} is not a file that can be written; is its folder there?")
    table = collect(experiments_of(profile, only), present(results) / profile)
    if table.empty:
        raise errors.ResultsMissing(f"no level of {profile} is trained in {results / profile}; run the profile first")
    if out:
        write_csv(out, table)
        say(f"{out}: {len(table)} levels of {table['run_id'].nunique()} runs")
    else:
        say(as_csv(table), nl=False)


@cli.command("data")
@click.option("--dataset", required=True, help="Such as cifar10.")
@click.option("--root", type=FOLDER, help="A folder in torchvision's layout; SDD_DATA by default.")
def data_command(dataset: str, root: Path | None) -> None:
    """Download a dataset if it is not there, and check every file of it."""
    from sdd_utils.datasets import DATASETS, FOLDER, download

    if dataset not in DATASETS and not dataset.startswith(FOLDER):
        raise errors.ConfigError(f"dataset: there is no {dataset!r}; known are {', '.join(DATASETS)}")
    say(download(dataset, root))


@cli.command("claims")
@profile_option
@results_option
def claims_command(profile: str, results: Path) -> None:
    """Judge the claims on this machine's runs, and show them beside the committed verdicts."""
    from sdd_utils.study import ALL, Study

    if load_profile(profile).tunes:
        say(f"{profile} compares several τ and α, which the claims do not speak of.")
        return
    table = claims_table(Study(profile, results, ALL).levels())
    say(compare_claims(table, profile))
    write_csv(results / profile / "claims.csv", table)


def say(text: object, err: bool = False, nl: bool = True) -> None:
    """Print for a person, and leave with NO_READER where nobody reads: click's status for it says that verify found
    something."""
    try:
        click.echo(errors.printable(str(text)), err=err, nl=nl)
    except BrokenPipeError:
        silence((sys.stderr if err else sys.stdout).fileno())  # what is left would be written again at the end
        raise SystemExit(errors.NO_READER) from None


def experiments_of(profile: str, only: str = "") -> list:
    """The profile's experiments that ``only`` selects (all by default). Raises ConfigError."""
    return select(load_profile(profile).experiments(), only)


def present(results: Path) -> Path:
    """The folder of results, which must be there to be looked at; results/runs need not, before the first run."""
    if not results.is_dir() and results != RUNS:
        raise errors.ConfigError(f"results: there is no folder {results}")
    return results


def main(group: click.Group = cli) -> None:
    """Run a command of the group; an error that a person can act on is one line, not a traceback."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # there may be none
            stream.reconfigure(errors="replace")  # «?» in a terminal that lacks the letter ε, rather than an end
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        group(standalone_mode=False)
        return
    except click.exceptions.NoArgsIsHelpError as error:
        say(error.ctx.get_help())
    except click.ClickException as error:
        say(f"error: {error.format_message()} (--help shows how)", err=True)
    except errors.SddError as error:
        say(f"error: {error}", err=True)
    except OSError as error:
        say(f"error: {error.filename or 'system'}: {error.strerror or str(error) or type(error).__name__}", err=True)
    except click.Abort:  # click's word for Ctrl-C
        raise KeyboardInterrupt from None
    except Exception as error:
        if said := errors.too_little_memory(error):
            say(f"error: {said}", err=True)
        else:  # a defect of ours, whose status of 1 would mean that verify found something
            traceback.print_exc()
    sys.exit(errors.REFUSED)
