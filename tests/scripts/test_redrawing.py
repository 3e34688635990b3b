"""The figures and verdicts of references are made again only where all of them can be read and drawn."""

import shutil
import sys

import pandas as pd
import pytest

from scripts.figures import figures_command
from sdd_utils.cli.commands import main
from sdd_utils.tables import REFERENCE

SOUND, SPOILT = "digits-random", "cifar10-subset"


@pytest.fixture
def copies(tmp_path, monkeypatch):
    """Copies of two references, and a folder for their figures, in place of the committed ones."""
    for name in (SOUND, SPOILT):
        shutil.copytree(REFERENCE / name, tmp_path / "reference" / name)
    for place in ("sdd_utils.tables", "scripts.figures"):
        monkeypatch.setattr(f"{place}.REFERENCE", tmp_path / "reference")
    monkeypatch.setattr("scripts.figures.FIGURES", tmp_path / "figures")
    monkeypatch.setattr(sys, "argv", ["figures"])
    return tmp_path


@pytest.mark.parametrize(
    ("table", "change", "said"),
    [
        ("levels", lambda t: t[:0], "has no row"),
        ("levels", lambda t: t.drop(columns="val_acc"), "column val_acc is missing"),
        ("weights", lambda t: t.drop(columns="bin"), "column bin is missing"),
    ],
)
def test_a_damaged_table_is_named_and_no_verdict_is_written_after_it(copies, capsys, table, change, said):
    path = copies / "reference" / SPOILT / f"{table}.csv"
    change(pd.read_csv(path, dtype=str, keep_default_na=False)).to_csv(path, index=False)
    for name in (SOUND, SPOILT):
        (copies / "reference" / name / "claims.csv").write_text("the verdicts of before")
    with pytest.raises(SystemExit):
        main(figures_command)
    assert capsys.readouterr().err == f"error: {path}: {said}\n"
    for name in (SOUND, SPOILT):
        assert (copies / "reference" / name / "claims.csv").read_text() == "the verdicts of before"
    assert not (copies / "figures" / SPOILT).exists()


def test_a_folder_of_no_profile_is_nobodys_reference(copies):
    (copies / "reference" / SPOILT).rename(copies / "reference" / f"{SPOILT} copy")
    (copies / "reference" / f"{SPOILT} copy" / "levels.csv").write_text("notes")
    main(figures_command)
    assert [path.name for path in (copies / "figures").iterdir()] == [SOUND]
