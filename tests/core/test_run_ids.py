"""The names of all runs of all profiles, frozen: committed results and what is trained already are found by them."""

import hashlib

import pytest

from sdd_utils.profiles import PROFILES, load_profile
from sdd_utils.tables import REFERENCE

FROZEN = {
    "cifar10-short": (42, "af3e84be055cb44c"),
    "cifar10-subset": (35, "03517c64ab9d92c7"),
    "cifar10-subset-float32": (5, "4b8bafcc2500519f"),
    "cifar10-subset-spared": (15, "72424888692e54a7"),
    "cifar10-subset-timm": (75, "c1de39b7c2a6ce21"),
    "cifar10-subset-vgg": (40, "b8617a348a77b3c5"),
    "cifar10-subset-vit": (35, "41336443faa0148b"),
    "cifar100-subset-vit": (35, "1f0af9e4c85613f1"),
    "cifar100n-subset": (35, "f114ddfe338e0368"),
    "digits": (164, "acf4d954cbdac78b"),
    "digits-asymmetric": (48, "e2e0fe4f7ae48610"),
    "digits-extreme": (108, "cafdc0e76f8380e6"),
    "digits-full": (620, "cd8f9b4f1a66ccac"),
    "digits-gradient": (48, "5b6db0b1e5547f52"),
    "digits-init": (48, "9d830855c1d532f3"),
    "digits-l2-map": (319, "3c22a0c8f78c8bbf"),
    "digits-one-shot": (108, "d8b588a5e232944c"),
    "digits-pair-flip": (48, "6e5dbf4b76fb5a93"),
    "digits-random": (48, "4a6a1bee4fb12468"),
    "digits-redraw": (48, "c4e2d372fd7b26ba"),
    "digits-remedies": (242, "557bb4bcc3a31eb6"),
    "digits-selection": (40, "dcac5ccadd6b4c46"),
    "digits-small-student": (64, "c4a57ed8837abf30"),
    "digits-tau-alpha": (279, "663b269bf5587367"),
    "digits-units": (108, "ed5022644a0b8915"),
    "digits-vgg": (56, "e0a5a1416215a93d"),
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
