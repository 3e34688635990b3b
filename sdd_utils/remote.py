"""A worker's side of the cluster: do one experiment, and keep the driver informed.

What is here travels by name, so a worker has it from its own copy of this package.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import pickle
import socket
import threading
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from sdd_utils.energy import AT_A_TIME, ON_ONE_GPU
from sdd_utils.errors import SweepStopped, WorkerLost
from sdd_utils.parcels import Packer, Parcel
from sdd_utils.stopping import Until

BEAT_SECONDS = 2.0
"""How often a worker asks whether to go on, and sends home what is new."""

GRACE_SECONDS = 30.0
"""How long driver and workers go on without the mailbox, before they take the head node for dead."""


class NotShared(Exception):
    """The worker's machine does not see the results folder."""


def slots_of(node: dict, needs: dict[str, float]) -> int:
    """How many experiments fit on one of ``ray.nodes()`` at a time."""
    there = node["Resources"] if node["Alive"] else {}
    return min(int(there.get(name, 0) / share + 1e-9) for name, share in needs.items())


class Mailbox:
    """An actor on the head node: letters from workers to the driver, and which of its sweeps are to stop.

    A letter is kept until the driver says that it has it, so nothing is lost with an answer that is.
    """

    def __init__(self):
        self.letters: list[tuple] = []
        self.dropped = 0
        self.stopped: set[str] = set()

    def put(self, token: str, sweep: str, node: str, parcel: Parcel | None) -> bool:
        """Leave a letter; says whether its sweep goes on."""
        self.letters.append((token, node, parcel))
        return sweep not in self.stopped

    def take(self, received: int, stop: str | None) -> list[tuple]:
        """All letters but the first ``received``, which are dropped; ``stop`` names a sweep that is to stop."""
        self.stopped.add(stop)
        del self.letters[: received - self.dropped]
        self.dropped = received
        return self.letters


@dataclass(frozen=True)
class Order:
    """What a worker gets to know; ``call`` is pickled because it may be unpickled with the right versions alone."""

    token: str
    sweep: str  # the flag of the sweep, by which it is known
    mailbox: object
    call: bytes
    versions: dict[str, str]
    settings: dict[str, str]
    needs: dict[str, float]


def work(order: Order, parcels: dict[str, Parcel] | None) -> None:
    """A worker's side. Raises SweepStopped when its results would not be those of the sweep's machine, NotShared when
    nothing was sent along and the results folder is not there."""
    node = socket.gethostname()
    for name, here in versions().items():
        if here != order.versions[name]:
            raise SweepStopped(
                f"cluster: {node} has another version of {name} than this machine, and results would not be the same; "
                "install the same commit and requirements.lock there"
            )
    for key, value in order.settings.items():
        os.environ.setdefault(key, value)
    os.environ |= _sharing(**order.needs)
    function, exp, folder, device, until = pickle.loads(order.call)
    if parcels is None and not (until.flag and until.flag.exists()):
        raise NotShared(f"{node} does not see {folder}")
    with TemporaryDirectory(prefix="sdd-", ignore_cleanup_errors=True) as scratch:
        flag, packer = Path(scratch) / "go-on", None
        flag.touch()
        if parcels is not None:
            folder = Path(scratch) / folder.name
            for run, parcel in parcels.items():
                parcel.unpack(folder / run)
            packer = Packer(folder / exp.run_id)
            packer.pack()  # what came from home is there
        line = Line(order, node, flag, packer)
        try:
            function(exp, folder, device, Until(until.deadline, flag))
        finally:
            line.hang_up()


class Line(threading.Thread):
    """A worker's line to the driver, on which it says every BEAT_SECONDS that it is there, sends what is new, and hears
    whether to go on. If not, or if nobody answers any more, ``flag`` is removed, which the training takes for the
    sweep's own."""

    def __init__(self, order: Order, node: str, flag: Path, packer: Packer | None):
        super().__init__(daemon=True)
        self.order, self.node, self.flag, self.packer = order, node, flag, packer
        self.over = threading.Event()
        self.heard, self.is_dead = time.monotonic(), False
        self.start()

    def run(self) -> None:
        """As a thread does."""
        self.send()
        while not self.over.wait(BEAT_SECONDS):
            self.send()

    def send(self) -> bool:
        """One letter, and the answer to it; says whether it was received."""
        try:
            parcel = self.packer.pack() if self.packer else None
            answer = self.order.mailbox.put.remote(self.order.token, self.order.sweep, self.node, parcel)
            go_on = answer.future().result()  # ray.get would lend this slot to another experiment meanwhile
        except Exception:  # of whatever kind: there is nobody to tell
            if self.packer:
                self.packer.packed.clear()
            self.is_dead = time.monotonic() - self.heard > GRACE_SECONDS
            if self.is_dead:
                self.flag.unlink(missing_ok=True)
            return False
        self.heard = time.monotonic()
        if not go_on:
            self.flag.unlink(missing_ok=True)
        return True

    def hang_up(self) -> None:
        """Send what came last, where anything is sent. Raises WorkerLost when nobody has answered for too long."""
        self.over.set()
        self.join()
        while self.packer and not self.is_dead and not self.send():
            time.sleep(BEAT_SECONDS)
        if self.is_dead:
            raise WorkerLost(f"its worker on {self.node} could not reach the head node")


@cache
def _sharing(**needs: float) -> dict[str, str]:
    """With how many experiments this one shares the power counters of its machine and of its GPU."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    at_a_time = next((slots_of(node, needs) for node in ray.nodes() if node["NodeID"] == here), 1)
    return {AT_A_TIME: str(at_a_time), ON_ONE_GPU: str(round(1 / needs.get("GPU", 1.0)))}


@cache
def versions() -> dict[str, str]:
    """What has to be the same on all machines for results to be: this package's source, and torch."""
    sources = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        sources.update(path.read_bytes())
    return {"sdd_utils": sources.hexdigest(), "torch": importlib.metadata.version("torch")}
