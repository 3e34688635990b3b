"""The ways to a pruned network, one entry each in METHODS: how each is called and drawn, and which rows are its own."""

from dataclasses import dataclass, replace

import pandas as pd

from sdd_utils.analysis.curves import at_weight_decay, of_method, optimal_weight_decay, setting_name
from sdd_utils.errors import ConfigError

BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#56b4e9"
"""seaborn's ``colorblind`` palette, which colour-blind readers can tell apart."""

REMEDIES = {
    "smoothing": ("label smoothing", "#44aa99"),
    "mixup": ("mixup", "#999933"),
    "dropout": ("dropout", "#882255"),
    "gce": ("generalised cross-entropy", "#332288"),
    "sce": ("symmetric cross-entropy", "#ca9161"),
    "l1": ("ℓ1 penalty", "#ddcc77"),
}
"""What is done to loss, images or network against the dip, by the column ``method``: its name and colour."""


@dataclass(frozen=True)
class Method:
    """One way to prune: a value of the column ``method``, and the rule that picks the teacher."""

    label: str
    colour: str
    method: str
    teacher: str = "none"
    subject: str = ""  # how claims call it, if it is more than pruning at some λ
    in_the_paper: bool = True

    def rows(self, levels: pd.DataFrame, arch: str, noise_rate: float) -> pd.DataFrame:
        """Its rows of one setting, of several λ those that validation prefers; may be none. Raises ConfigError."""
        rows = of_method(levels, arch, noise_rate, self.method, self.teacher)
        if self.method == "l2" and len(rows):
            return at_weight_decay(levels, arch, noise_rate, optimal_weight_decay(levels, arch, noise_rate))
        if len(rows[["temperature", "alpha"]].drop_duplicates()) > 1:
            raise ConfigError(f"temperature, alpha: {self.label}: one setting has several; 06_tau_alpha compares them")
        return rows


def distilled(rule: str, colour: str, method: str = "kd", remedy: str = "", **facts: bool) -> Method:
    """The students of the teachers that a rule picks, with another ``remedy`` or none."""
    name = rule.replace("_", "-")
    label, subject = f"{name} teacher", f"a student of the {name} teacher"
    if remedy:
        label, subject = f"{label} with {remedy}", f"{subject} with {remedy}"
    return Method(label, colour, method, rule, subject, **facts)


METHODS = {
    "vanilla": Method("vanilla", "0.25", "vanilla"),
    "l2": Method("larger λ", GREEN, "l2"),
    "sparse": distilled("sparse", BLUE),
    "dense": distilled("dense", ORANGE),
    "early_stopped": distilled("early_stopped", SKY, in_the_paper=False),
    "early": Method("early stopping", PURPLE, "early", subject="early stopping", in_the_paper=False),
    "kd-early": replace(
        distilled("early_stopped", RED, "kd-early", in_the_paper=False),
        label="early-stopped teacher and student",
        subject="an early-stopped student of the early-stopped teacher",
    ),
    "sparse-early": distilled("sparse", PURPLE, "kd-early", "early stopping", in_the_paper=False),
}
for _name, (_label, _colour) in REMEDIES.items():
    METHODS[_name] = Method(_label, _colour, _name, subject=_label, in_the_paper=False)
    METHODS[f"kd-{_name}"] = distilled("sparse", _colour, f"kd-{_name}", _label, in_the_paper=False)


def pipelines(levels: pd.DataFrame, arch: str, noise_rate: float) -> dict[str, pd.DataFrame]:
    """The rows of each of the METHODS that has some in a setting, by its name."""
    return {name: rows for name, method in METHODS.items() if len(rows := method.rows(levels, arch, noise_rate))}


def paired(levels: pd.DataFrame, arch: str, noise_rate: float) -> dict[str, pd.DataFrame]:
    """``pipelines``, to be compared seed by seed. Raises ConfigError where not all have vanilla's seeds."""
    found = pipelines(levels, arch, noise_rate)
    seeds = {name: sorted({*map(int, rows["seed"])}) for name, rows in found.items()}
    for name, own in seeds.items():
        if own != (plain := seeds["vanilla"]):
            has = f"{setting_name(arch, noise_rate)}, {METHODS[name].label} has {own}, vanilla {plain}"
            raise ConfigError(f"seed: ways are compared seed by seed; {has}")
    return found
