"""The figures of all committed references, and the verdicts on their claims, made again; trains nothing.

python -m scripts.figures
"""

from pathlib import Path

import click
import matplotlib.pyplot as plt

from sdd_utils.analysis.claims import claims_table
from sdd_utils.cli.commands import main
from sdd_utils.files import write_csv
from sdd_utils.profiles import load_profile
from sdd_utils.study import Study
from sdd_utils.tables import FIGURES, REFERENCE, load_levels


def save_figures(profile: str, folder: Path) -> list[Path]:
    """Write every figure of a committed reference into ``folder``, in a folder a dataset where there are several."""
    written = []
    for dataset in load_profile(profile).datasets or [""]:
        study = Study(profile, dataset=dataset)
        for name, figure in study.figures().items():
            written += study.save(figure, name, folder)
            plt.close(figure)
    return written


@click.command()
def figures_command() -> None:
    """Draw the figures of all committed reference results again, and judge their claims again; trains nothing."""
    for folder in sorted(path.parent for path in REFERENCE.glob("*/levels.csv")):
        if (folder / "claims.csv").exists():
            write_csv(folder / "claims.csv", claims_table(load_levels(folder.name)))
        for path in save_figures(folder.name, FIGURES / folder.name):
            click.echo(path.relative_to(FIGURES.parent))


if __name__ == "__main__":
    main(figures_command)
