"""The ways to a pruned network, one entry each in METHODS: how each is called and drawn, and which rows are its own."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pandas as pd

from sdd_utils.analysis.curves import at_weight_decay, of_method, optimal_weight_decay, student, vanilla, weight_decays

BLUE, ORANGE, GREEN, RED, PURPLE = "#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc"
SKY, BROWN = "#56b4e9", "#ca9161"
"""seaborn's ``colorblind`` palette, which colour-blind readers can tell apart."""


@dataclass(frozen=True)
class Method:
    """One way to prune. ``rows`` takes levels, an architecture and a noise rate, and may find none."""

    label: str
    colour: str
    rows: Callable[[pd.DataFrame, str, float], pd.DataFrame]
    teacher: str | None = None  # the rule that picks its teacher
    beside_vanilla: bool = True  # whether the figures of vanilla beside its students show it
    compared: bool = True  # whether its cost is counted, and it is among what can be chosen


def optimal(levels: pd.DataFrame, arch: str, noise_rate: float) -> pd.DataFrame:
    """The curve of the λ that validation prefers; empty where only the regular λ was tried."""
    if len(weight_decays(levels, arch, noise_rate)) < 2:
        return levels[:0]
    return at_weight_decay(levels, arch, noise_rate, optimal_weight_decay(levels, arch, noise_rate))


def distilled(rule: str, colour: str, **shown: bool) -> Method:
    """The students of the teachers that a rule picks."""
    return Method(f"{rule.replace('_', '-')} teacher", colour, partial(student, teacher=rule), rule, **shown)


STUDIED_ALONE = {"beside_vanilla": False, "compared": False}

METHODS = {
    "vanilla": Method("vanilla", "0.25", vanilla),
    "l2": Method("optimal λ", GREEN, optimal, beside_vanilla=False),
    "sparse": distilled("sparse", BLUE),
    "dense": distilled("dense", ORANGE),
    "early_stopped": distilled("early_stopped", SKY),
    "early": Method("early stopping", BROWN, partial(of_method, method="early")),
    "critical": distilled("critical", PURPLE, **STUDIED_ALONE),
}

COMPARED = {name: method for name, method in METHODS.items() if method.compared}
