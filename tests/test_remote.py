"""A worker's side of the cluster, without a cluster: the test is the mailbox's wire."""

from concurrent.futures import Future
from types import SimpleNamespace

import pytest

from sdd_utils import remote
from sdd_utils.errors import WorkerLost
from sdd_utils.parcels import Packer
from sdd_utils.remote import Line, Mailbox, Order, slots_of


class Wire:
    """Calls as to an actor; fails as long as it is cut."""

    def __init__(self):
        self.box, self.is_cut = Mailbox(), False
        self.put = SimpleNamespace(remote=self.call)

    def call(self, *letter):
        answer = Future()
        if self.is_cut:
            answer.set_exception(ConnectionError("no route to host"))
        else:
            answer.set_result(self.box.put(*letter))
        return SimpleNamespace(future=lambda: answer)


@pytest.fixture
def wire(monkeypatch):
    monkeypatch.setattr(remote, "BEAT_SECONDS", 0.01)
    return Wire()


@pytest.fixture
def line(wire, tmp_path):
    """A line for a run that is sent home, with one file."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "levels.csv").write_text("level\n0\n")
    flag = tmp_path / "go-on"
    flag.touch()
    order = Order("token", "sweep-1", wire, b"", {}, {}, {})
    return Line(order, "node7", flag, Packer(run))


def arrived(wire):
    return {name for _, _, parcel in wire.box.letters for name in parcel.files}


def test_a_letter_is_kept_until_the_driver_has_it():
    box = Mailbox()
    box.put("a", "sweep", "node7", None)
    box.put("b", "sweep", "node7", None)
    assert [letter[0] for letter in box.take(0, None)] == ["a", "b"]
    box.put("c", "sweep", "node7", None)
    assert [letter[0] for letter in box.take(0, None)] == ["a", "b", "c"]  # the first answer was lost
    assert [letter[0] for letter in box.take(2, None)] == ["c"]
    assert box.take(3, None) == []


def test_workers_hear_that_their_own_sweep_stops(wire, line):
    assert line.send()
    wire.box.take(0, "another-sweep")
    assert line.send()
    assert line.flag.exists()
    wire.box.take(0, "sweep-1")
    assert line.send()
    assert not line.flag.exists()
    line.hang_up()


def test_a_cut_wire_is_waited_for_and_what_was_on_the_way_is_sent_again(wire, line):
    line.hang_up()
    wire.box.letters.clear()
    wire.is_cut = True
    line.packer.packed.clear()
    assert not line.send()
    assert line.flag.exists()
    wire.is_cut = False
    line.hang_up()
    assert arrived(wire) == {"levels.csv"}


def test_a_wire_that_stays_cut_ends_the_run_here_for_it_to_go_on_elsewhere(wire, line, monkeypatch):
    monkeypatch.setattr(remote, "GRACE_SECONDS", 0.0)
    wire.is_cut = True
    with pytest.raises(WorkerLost, match="its worker on node7 could not reach the head node"):
        line.hang_up()
    assert not line.flag.exists()


NODE = {"Alive": True, "Resources": {"CPU": 16.0, "GPU": 2.0}}


@pytest.mark.parametrize(
    ("node", "needs", "slots"),
    [
        (NODE, {"CPU": 1.0}, 16),
        (NODE, {"CPU": 1.0, "GPU": 1.0}, 2),
        (NODE, {"CPU": 1.0, "GPU": 1 / 3}, 6),
        ({"Alive": True, "Resources": {"CPU": 1.0, "GPU": 2.0}}, {"CPU": 1.0, "GPU": 0.5}, 1),
        ({"Alive": True, "Resources": {"CPU": 64.0}}, {"CPU": 1.0, "GPU": 1.0}, 0),
        (NODE | {"Alive": False}, {"CPU": 1.0}, 0),
    ],
)
def test_a_slot_has_a_core_and_its_share_of_a_gpu(node, needs, slots):
    assert slots_of(node, needs) == slots
