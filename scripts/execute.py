"""Execute one notebook, as make does: a notebook that fails is named, with the reason, in one line.

python -m scripts.execute notebooks/01_baseline.ipynb results/runs/digits/notebooks/01_baseline.ipynb -p profile digits
"""

import logging
import sys
from pathlib import Path

import click
import papermill
from papermill.exceptions import PapermillExecutionError

from sdd_utils.cli.commands import main
from sdd_utils.errors import INTERRUPTED, SddError

QUIET = "--IPKernelApp.log_level=40"  # the kernel would warn of its transport, each time


@click.command()
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@click.argument("target", type=click.Path(path_type=Path))
@click.option("-p", "parameters", type=(str, str), multiple=True, help="A parameter's name and value.")
def execute_command(source: Path, target: Path, parameters: tuple[tuple[str, str], ...]) -> None:
    """Execute SOURCE with other parameters and write it to TARGET, or to .TARGET as far as it came."""
    values = {name: int(value) if name == "workers" and value.isdecimal() else value for name, value in parameters}
    partial = target.with_name(f".{target.name}")
    target.parent.mkdir(parents=True, exist_ok=True)
    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of parameters that a notebook does not have
    how = {"cwd": source.parent, "progress_bar": False, "extra_arguments": [QUIET]}
    try:
        papermill.execute_notebook(source, partial, values, stderr_file=sys.stderr, **how)
    except PapermillExecutionError as error:
        said = f"{error.ename}: {error.evalue}" if error.evalue else error.ename
        raise SddError(f"{source}: {' '.join(said.split())} (cell {error.exec_count} of {partial})") from None
    except (ValueError, AttributeError, KeyError) as error:  # nbformat's
        raise SddError(f"{source}: is no notebook ({' '.join(str(error).split())[:200]})") from None
    except RuntimeError as error:  # nbclient's and jupyter_client's, of a kernel alone
        why = f"its kernel is gone ({error}), perhaps for want of memory; the same command goes on"
        raise SddError(f"{source}: {why}, and WORKERS=1 needs the least") from None
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    partial.replace(target)


if __name__ == "__main__":
    main(execute_command)
