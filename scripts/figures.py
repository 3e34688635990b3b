"""The figures of all committed references, and the verdicts on their claims, made again; trains nothing.

python -m scripts.figures
"""

from pathlib import Path

import click
import matplotlib.pyplot as plt

from sdd_utils import profiles
from sdd_utils.analysis.claims import claims_table
from sdd_utils.cli.commands import main
from sdd_utils.files import write_csv
from sdd_utils.study import Study
from sdd_utils.tables import FIGURES, REFERENCE, load_levels


def save_figures(profile: str, folder: Path) -> list[str]:
    """Write every figure of a committed reference into ``folder``, in a folder a dataset where there are several, and
    return their names."""
    studies = [Study(profile, dataset=dataset) for dataset in profiles.load_profile(profile).datasets or [""]]
    drawn, written = [(study, study.figures()) for study in studies], []
    for study, figures in drawn:
        for name, figure in figures.items():
            study.save(figure, name, folder)
            written += [name] if figure.axes else []
            plt.close(figure)
    return written


@click.command()
def figures_command() -> None:
    """Draw the figures of all committed reference results again, and judge their claims again; trains nothing."""
    known = [path.parent.name for path in sorted(REFERENCE.glob("*/levels.csv"))]
    known = [name for name in known if (profiles.PROFILES / f"{name}.yaml").exists()]
    judged = [name for name in known if (REFERENCE / name / "claims.csv").exists()]
    claims = {name: claims_table(load_levels(name)) for name in judged}  # written last: all is read and drawn first
    for name in known:
        click.echo(f"figures/{name}: {', '.join(save_figures(name, FIGURES / name))}")
    for name, table in claims.items():
        write_csv(REFERENCE / name / "claims.csv", table)


if __name__ == "__main__":
    main(figures_command)
