"""Their script is run as it is, in a place of its own, and its epochs are read from what it prints."""

import pytest

from benchmarks.theirs import beside_theirs, their_epochs
from sdd_utils.errors import ConfigError
from sdd_utils.profiles import load_profile

MAIN = """
import os, sys
from foundations.local import Platform

def main():
    platform = Platform()
    assert platform.root.endswith("/result") and os.path.islink(platform.dataset_root + "/mnist")
    assert sys.argv[1] == "rewindLR" and "--training_steps=2ep" in sys.argv and "--gpu=" in sys.argv
    for epoch, seconds in enumerate((0.0, 9.5, 8.25)):
        print(f"train\\tep {epoch:03d}\\tit 000\\tloss 1.0\\tacc 77.81%\\tex 60000\\ttime {seconds:.2f}s")
        print(f"test\\tep {epoch:03d}\\tit 000\\tloss 1.0\\tacc 94.29%\\tex 10000\\ttime 99.00s")
"""


@pytest.fixture
def code(tmp_path):
    """What looks like their code and trains nothing."""
    (tmp_path / "foundations").mkdir()
    (tmp_path / "foundations" / "local.py").write_text("class Platform:\n    root = dataset_root = '/of/theirs'\n")
    (tmp_path / "main.py").write_text(MAIN)
    return tmp_path


def test_the_epochs_after_the_first_evaluation_are_read(code):
    before = sorted(path.name for path in code.iterdir())
    assert their_epochs(code, 2) == [9.5, 8.25]
    assert [name for name in before if not (code / name).exists()] == []


def test_a_script_that_fails_is_named_with_what_it_said_last(code):
    (code / "main.py").write_text("raise RuntimeError('no such dataset')")
    with pytest.raises(ConfigError, match=r"code: .* ended with 1: .*no such dataset"):
        their_epochs(code, 2)


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"is not a clone of https://github\.com/he-zh/sparse-double-descent"):
        beside_theirs(load_profile("mnist").experiments()[0], tmp_path, 1)
