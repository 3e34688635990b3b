"""Which notebooks make executes, and in which order."""

import pytest
import yaml
from conftest import SMALL

from scripts.notebooks import notebooks_command, notebooks_of
from sdd_utils.cli.commands import main
from sdd_utils.profiles import load_profile

MLP = {key: list(v) if isinstance(v, tuple) else v for key, v in SMALL.items() if key not in ("arch", "noise_rate")}
PROFILE = {
    "profile": "mine",
    "about": "one curve",
    "tour": {"arch": "mlp", "noise_rate": 0.3},
    "base": {},
    "architectures": {"mlp": {"settings": MLP, "seeds": 1, "noise_rates": [0.3]}},
}


@pytest.mark.parametrize(
    ("datasets", "folders"),
    [(None, ["out/"]), ({"cifar10": {}, "digits": {}}, ["out/cifar10/", "out/digits/"])],
)
def test_the_notebooks_that_have_something_to_say_of_a_profile_are_listed(home, monkeypatch, capsys, datasets, folders):
    (home / "profiles" / "mine.yaml").write_text(yaml.safe_dump(PROFILE | {"datasets": datasets}))
    monkeypatch.setattr("sys.argv", ["notebooks", "--profile", "mine", "--under", "out"])
    main(notebooks_command)
    names = ["01_baseline", "02_l2_sweep", "00_tour", "05_choose"]
    expected = [f"{folder}{name}.ipynb" for name in names for folder in folders]
    assert capsys.readouterr().out.split() == [*expected, "out/09_claims.ipynb"]  # which speaks of all datasets at once


def test_a_profile_without_students_is_spared_the_notebooks_about_them():
    profile = load_profile("digits")
    plain = {name: plan.model_copy(update={"distillation": []}) for name, plan in profile.architectures.items()}
    missing = {*notebooks_of(profile)} - {*notebooks_of(profile.model_copy(update={"architectures": plain}))}
    assert missing == {"03_distillation", "04_cost"}
    assert notebooks_of(load_profile("digits-tau-alpha")) == ["06_tau_alpha"]
