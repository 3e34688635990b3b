import pickle

import pytest

from sdd_utils.files import SUMS, is_sealed, seal, unsound
from sdd_utils.parcels import Packer


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "there" / "run"
    folder.mkdir(parents=True)
    (folder / "checkpoint.safetensors").write_bytes(b"weights" * 100_000)
    (folder / "level-00.safetensors").hardlink_to(folder / "checkpoint.safetensors")
    (folder / "levels.csv").write_text("level\n0\n")
    (folder / ".levels.csv.123").write_text("half a fi")
    return folder


def test_what_was_sent_before_is_not_sent_again(run, tmp_path):
    packer, home = Packer(run), tmp_path / "here" / "run"
    first = packer.pack()
    assert set(first.files) == {"checkpoint.safetensors", "level-00.safetensors", "levels.csv"}
    first.unpack(home)
    assert not packer.pack().files
    (run / "levels.csv").write_text("level\n0\n1\n")
    changed = packer.pack()
    assert set(changed.files) == {"levels.csv"}
    changed.unpack(home)
    assert (home / "levels.csv").read_text() == "level\n0\n1\n"


def test_a_network_with_two_names_travels_once(run):
    assert len(pickle.dumps(Packer(run).pack())) < 1.1 * 700_000


def test_networks_that_a_run_keeps_no_longer_are_removed_at_home_and_nothing_else(run, tmp_path):
    packer, home = Packer(run), tmp_path / "here" / "run"
    packer.pack().unpack(home)
    (home / "levels.csv.damaged").write_text("set aside at home")
    (run / "level-00.safetensors").unlink()
    packer.pack().unpack(home)
    assert {path.name for path in home.iterdir()} == {"checkpoint.safetensors", "levels.csv", "levels.csv.damaged"}


def test_a_sealed_run_is_sealed_at_home_even_if_the_sweep_dies_while_it_is_unpacked(run, tmp_path, monkeypatch):
    (run / ".levels.csv.123").unlink()
    seal(run)
    home, written = tmp_path / "here" / "run", []
    parcel = Packer(run).pack()
    with monkeypatch.context() as patch:
        patch.setattr("sdd_utils.parcels.write_bytes", lambda path, data: written.append(path.name))
        parcel.unpack(home)
    assert written[-1] == SUMS
    parcel.unpack(home)
    assert is_sealed(home)
    assert unsound(home) == {}
