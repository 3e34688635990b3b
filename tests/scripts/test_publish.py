"""What becomes of finished runs when they are published: the same reference, whether at once or in parts."""

import json
import re
import subprocess

import pandas as pd
import pytest
import yaml
from conftest import SMALL

from scripts.publish import publish
from sdd_utils.errors import ConfigError, ResultsMissing
from sdd_utils.runner import provenance
from sdd_utils.runner.integrity import finalise
from sdd_utils.study import Study

SETTINGS = {k: v for k, v in SMALL.items() if k not in ("arch", "noise_rate", "milestones")} | {"milestones": [0.5]}
STUDENTS = {"noise_rates": [0.3], "teachers": ["dense"], "temperatures": [2], "alphas": [0.8]}
MLP = {"settings": SETTINGS, "seeds": 2, "noise_rates": [0.3], "distillation": STUDENTS}
PROFILE = {
    "profile": "mine",
    "about": "two seeds and their students",
    "tour": {"arch": "mlp", "noise_rate": 0.3},
    "base": {},
    "architectures": {"mlp": MLP},
}


@pytest.fixture
def home(home, monkeypatch):
    """That place with the finished runs of ``mine``, trained by a commit; its reference is in ``reference``."""
    monkeypatch.setattr("benchmarks.deploy.SECONDS", 0.01)
    monkeypatch.setattr("scripts.publish.save_figures", lambda *_: None)
    monkeypatch.setattr("scripts.publish.REFERENCE", home / "reference")
    trained_by(monkeypatch, "a" * 40)
    (home / "profiles" / "mine.yaml").write_text(yaml.safe_dump(PROFILE))
    Study("mine", home).run()
    return home


def trained_by(monkeypatch, commit):
    for module in ("provenance", "run"):
        monkeypatch.setattr(f"sdd_utils.runner.{module}.commit", lambda: commit)


def reference(home):
    """All that was published, but for what the clock measured."""
    folder = home / "reference" / "mine"
    deployed = pd.read_csv(folder / "deployment.csv")
    timeless = deployed.drop(columns=[c for c in deployed if c.startswith("ms_")]).to_csv()
    return {path.name: path.read_text() for path in folder.iterdir()} | {"deployment.csv": timeless}


@pytest.mark.parametrize("parts", [["seed=0", "seed=1"], ["seed=1", "seed=0"], ["method=vanilla", "method=kd"]])
def test_runs_that_are_added_give_what_publishing_all_at_once_does(home, parts):
    publish("mine", home)
    at_once = reference(home)
    assert set(at_once) == {"levels.csv", "weights.csv", "claims.csv", "deployment.csv", "provenance.json"}
    assert json.loads(at_once["provenance.json"])["runs_by_commit"] == {"a" * 40: 4}
    for path in (home / "reference" / "mine").iterdir():
        path.unlink()
    (home / "reference" / "mine").rmdir()
    for part in parts:
        publish("mine", home, part)
        (home / "reference" / "mine" / "notes.csv").write_text('not a table of ours, "nor of anybody\n')
    (home / "reference" / "mine" / "notes.csv").unlink()
    in_parts = reference(home)
    if parts[0] == "seed=1":  # whose network is exported then, being the first
        assert in_parts.pop("deployment.csv") != at_once.pop("deployment.csv")
    assert in_parts == at_once


def test_what_the_reference_holds_is_not_added_again(home):
    publish("mine", home, "seed=0")
    before = reference(home)
    with pytest.raises(ConfigError, match=r"only: 1 of these runs are in the reference already \(digits-mlp16-.*-s0"):
        publish("mine", home, "method=vanilla")
    assert reference(home) == before


def test_students_alone_make_no_reference(home):
    with pytest.raises(ConfigError, match="only: a reference without a vanilla curve"):
        publish("mine", home, "method=kd")
    assert not (home / "reference").exists()


@pytest.mark.parametrize(("field", "other"), [("cpu", "an older one"), ("gpu", "NVIDIA H200"), ("threads", 8)])
def test_runs_of_another_machine_are_not_mixed_in(home, field, other):
    publish("mine", home, "seed=0")
    path = home / "reference" / "mine" / "provenance.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: other}))
    with pytest.raises(ConfigError, match=f"{field}: a reference comes from one kind of machine: {other} or "):
        publish("mine", home, "seed=1")


def test_a_run_that_went_on_under_another_commit_names_both(home):
    run, both = next(home.glob("mine/*-vanilla-*-s0-*")), f"{'a' * 40}, {'b' * 40}"
    path = run / "provenance.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"commit": both}))
    finalise(run)
    publish("mine", home)
    assert json.loads(reference(home)["provenance.json"])["runs_by_commit"] == {"a" * 40: 3, both: 1}


def test_a_commit_says_whether_files_were_changed_since(tmp_path, monkeypatch):
    def git(*words):
        who = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    git("init")
    (tmp_path / "code.py").write_text("1")
    git("add", ".")
    git("commit", "-m", "first")
    git("tag", "-a", "v1", "-m", "a release")
    clean = provenance.commit.__wrapped__()
    (tmp_path / "code.py").write_text("2")
    assert re.fullmatch("[0-9a-f]{40}", clean)
    assert provenance.commit.__wrapped__() == f"{clean}-dirty"


@pytest.mark.parametrize("commit", ["unknown: no git", "b" * 40 + "-dirty", "b" * 40 + ", unknown"])
def test_code_that_is_in_no_commit_makes_no_reference(home, monkeypatch, commit):
    trained_by(monkeypatch, commit)
    larger = PROFILE | {"architectures": {"mlp": MLP | {"seeds": 3}}}
    (home / "profiles" / "mine.yaml").write_text(yaml.safe_dump(larger))
    with pytest.raises(ResultsMissing, match="2 of 6 runs of mine are not finished"):
        publish("mine", home)
    Study("mine", home).run()
    with pytest.raises(ConfigError, match="commit: a reference comes from committed code"):
        publish("mine", home)
    publish("mine", home, "seed=0")  # those of before
