"""``python -m sdd_utils``: what the Makefile calls."""

import sys

import click

from sdd_utils import figures, reproduce
from sdd_utils.config import ConfigError
from sdd_utils.results import FIGURES, REFERENCE, ResultsMissing, SweepStopped, write_csv

STOPPED = 130  # the shell's status for Ctrl-C

profile_option = click.option("--profile", default="digits", show_default=True, help="A file of notebooks/profiles.")
workers_option = click.option("--workers", type=click.IntRange(min=1), help="Processes; one for each core by default.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Sparse double descent, and what prevents it."""


@cli.command("run")
@profile_option
@workers_option
def run_command(profile: str, workers: int | None) -> None:
    """Train every experiment of a profile that is not finished, and go on with those that were interrupted."""
    if reproduce.train(profile, workers):
        raise SystemExit(1)


@cli.command("reproduce")
@profile_option
@workers_option
def reproduce_command(profile: str, workers: int | None) -> None:
    """Train, draw, execute the notebooks, and end with the table of claims."""
    if not reproduce.reproduce(profile, workers):
        raise SystemExit(1)


@cli.command("figures")
def figures_command() -> None:
    """Draw the figures of all committed reference results again; trains nothing."""
    for folder in sorted(path.parent for path in REFERENCE.glob("*/levels.csv")):
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
    REFERENCE.joinpath(profile).mkdir(parents=True, exist_ok=True)
    write_csv(REFERENCE / profile / "validation.csv", table)
    click.echo(table.to_string(index=False))


@cli.command("publish")
@profile_option
def publish_command(profile: str) -> None:
    """Make this machine's finished runs the committed reference of their profile."""
    reproduce.publish_reference(profile)


def main() -> None:
    """Run the command line; an error that a person can act on is one line, not a traceback."""
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (ConfigError, ResultsMissing, SweepStopped) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        click.echo("\nStopped. Every finished level is saved; the same command goes on from there.", err=True)
        sys.exit(STOPPED)


if __name__ == "__main__":
    main()
