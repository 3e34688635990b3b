"""The names of all runs of all profiles, frozen: committed results and what is trained already are found by them."""

import hashlib

import pytest

from sdd_utils.profiles import PROFILES, load_profile
from sdd_utils.tables import REFERENCE

FROZEN = {
    "cifar10-short": (36, "2911239cdad4d651"),
    "cifar10-subset": (35, "03517c64ab9d92c7"),
    "cifar10-subset-vit": (35, "41336443faa0148b"),
    "cifar100n-subset": (35, "f114ddfe338e0368"),
    "digits": (164, "acf4d954cbdac78b"),
    "digits-asymmetric": (40, "4ae7e7619f59ab65"),
    "digits-extreme": (90, "a4f8e9b3b58fba71"),
    "digits-full": (620, "cd8f9b4f1a66ccac"),
    "digits-gradient": (40, "4d2cbbe093302f29"),
    "digits-init": (40, "486f948ac6a19460"),
    "digits-l2-map": (319, "3c22a0c8f78c8bbf"),
    "digits-one-shot": (90, "1d44082a30452169"),
    "digits-pair-flip": (40, "a0c60a41cb1fbc3b"),
    "digits-random": (40, "dd8653a965e4611d"),
    "digits-redraw": (40, "ab769cca98eafb38"),
    "digits-remedies": (224, "271a9b3482cec766"),
    "digits-selection": (40, "dcac5ccadd6b4c46"),
    "digits-small-student": (56, "2e2f88c446bf1660"),
    "digits-tau-alpha": (279, "663b269bf5587367"),
    "digits-units": (90, "54c9391c079165ff"),
    "digits-vgg": (49, "b502477bcd9fc366"),
    "mnist": (21, "c1fd2d439e9d7819"),
    "mnist-l2-map": (90, "d071a1fc454b85db"),
    "paper": (315, "16ff23a7613a4453"),
    "smoke": (27, "42fc75bb28615d89"),
}
"""How many runs each profile has, and the first digits of the SHA-256 sum of their run_ids, one a line, in order."""


def test_every_profile_with_a_reference_is_frozen():
    referenced = {path.parent.name for path in REFERENCE.glob("*/levels.csv")}
    assert referenced <= set(FROZEN)
    assert set(FROZEN) <= {path.stem for path in PROFILES.glob("*.yaml")}


@pytest.mark.parametrize("name", FROZEN)
def test_no_change_of_the_code_renames_a_run(name):
    run_ids = [exp.run_id for exp in load_profile(name).experiments()]
    digest = hashlib.sha256("\n".join(run_ids).encode()).hexdigest()
    assert (len(run_ids), digest[:16]) == FROZEN[name]
