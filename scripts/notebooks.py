"""Which notebooks make executes for a profile, and in which order.

python -m scripts.notebooks --profile digits [--under results/runs/digits/notebooks]
"""

import click

from sdd_utils.analysis.methods import REMEDIES
from sdd_utils.cli.commands import main, profile_option
from sdd_utils.profiles import Profile, load_profile

NOTEBOOKS = {
    "01_baseline": "always",
    "02_l2_sweep": "always",
    "03_distillation": "distils",
    "06_tau_alpha": "tunes",
    "07_cifar": "several",
    "08_mnist": "mnist",
    "10_remedies": "remedies",
    "12_when_l2": "several",
    "00_tour": "always",
    "04_cost": "distils",
    "05_choose": "always",
    "09_claims": "always",
    "11_variations": "several",
    "13_explore": "several",
    "14_redense": "several",
    "15_noise_rates": "digits-full",
    "16_networks": "several",
}
"""Our notebooks (the folder may hold others) in the order in which they are executed, those that train first, and of
which profiles each speaks: of all, of a kind, of several that it names itself, or of the one that is named here."""


def notebooks_of(profile: Profile) -> list[str]:
    """The names of those that have something to say of a profile: of one that tunes τ and α, 06 alone."""
    kinds = {"tunes"} if profile.tunes else {"always", "distils"} if profile.distils else {"always"}
    kinds.add(profile.profile)
    if REMEDIES.keys() & {exp.method.removeprefix("kd-") for exp in profile.experiments()}:
        kinds.add("remedies")
    return [name for name, kind in NOTEBOOKS.items() if kind in kinds]


@click.command()
@profile_option
@click.option("--under", default="", help="The folder that executed notebooks are in, to be put before each.")
@click.option("--committed", is_flag=True, help="Instead, all that are committed.")
def notebooks_command(profile: str, under: str, committed: bool) -> None:
    """List the notebooks that have something to say of a profile, in the order in which make executes them."""
    if committed:
        click.echo("\n".join(f"notebooks/{name}.ipynb" for name in sorted(NOTEBOOKS)))
        return
    plan = load_profile(profile)
    for name in notebooks_of(plan):
        for dataset in [""] if name == "09_claims" else plan.datasets or [""]:
            click.echo("/".join(filter(None, [under, dataset, f"{name}.ipynb"])))


if __name__ == "__main__":
    main(notebooks_command)
