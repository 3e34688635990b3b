"""The same sweep with its workers on a Ray cluster: machines may join it, leave it and die.

The driver, which is the sweep's process, hands over one experiment a slot. A worker writes into the results folder if
its machine shares it. If not, it trains in a scratch folder and sends home what it saves, while the driver holds the
run's lock. Both talk through a mailbox on the head node, which a driver outside of the cluster (``ray://``) reaches
too.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import SoftFileLease

from sdd_utils.config import Experiment
from sdd_utils.errors import Busy, ConfigError, NoSpace, Stopped, SweepStopped, WorkerLost
from sdd_utils.files import repair
from sdd_utils.locks import hold, lease, try_acquire
from sdd_utils.parcels import Packer, Parcel
from sdd_utils.ray_address import connect
from sdd_utils.remote import GRACE_SECONDS, Mailbox, NotShared, Order, slots_of, versions, work
from sdd_utils.stopping import Until
from sdd_utils.workers import experiments_a_gpu

POLL_SECONDS = 0.2

COUNT_SECONDS = 2.0
"""How long a count of the cluster's slots is good for."""

log = logging.getLogger("sdd_utils")


@dataclass
class Attempt:
    """One experiment at one worker, as the driver sees it."""

    function: Callable
    exp: Experiment
    folder: Path
    device: str
    until: Until
    future: Future
    ref: object = None  # Ray's reference to the result
    lock: SoftFileLease | None = None  # held where results are sent home
    node: str = ""  # where it is, once it has begun

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.folder / self.exp.run_id


class RayWorkers:
    """The slots of a Ray cluster, each for one experiment; see ``workers.Workers``.

    ``address`` is as for ``ray_address.connect``; ``most`` limits how many experiments train at a time, and is the
    number of slots of a cluster that is started here; ``device`` is ``cpu`` or ``cuda``; ``gpu_share`` is as for
    ``workers.local_workers``. Whether its machines share the results folder is found out, by looking for the sweep's
    flag. Raises ConfigError when Ray is not installed, nothing answers at the address, or no machine has a GPU.
    """

    def __init__(
        self,
        address: str,
        most: int | None = None,
        device: str = "cpu",
        gpu_share: float | None = None,
    ):
        if device not in ("cpu", "cuda"):
            raise ConfigError(f"device: on a cluster it is cpu or cuda, and Ray chooses which GPU (got {device!r})")
        if device == "cpu" and gpu_share is not None:
            raise ConfigError(f"gpu-share: {gpu_share:g} was given, but the device is cpu")
        self.needs = {"CPU": 1.0} | ({"GPU": 1 / experiments_a_gpu(gpu_share)} if device == "cuda" else {})
        self.address, self.most, self.shared = address, most, True
        self.ray = connect(address, most)
        self.room, self.counted = 0, -COUNT_SECONDS
        if device == "cuda" and not any(slots_of(node, {"GPU": 1.0}) for node in self.ray.nodes()):
            self.ray.shutdown()
            raise ConfigError(f"device: no machine of the cluster at {address} has a GPU (got 'cuda')")
        on_head = self.ray.remote(num_cpus=0, resources={"node:__internal_head__": 0.001})
        self.mailbox = on_head(Mailbox).remote()
        # After an experiment on a GPU Ray ends the process, since CUDA could not move to another card.
        a_slot = self.ray.remote(num_cpus=self.needs["CPU"], num_gpus=self.needs.get("GPU", 0), max_retries=0)
        self.work = a_slot(work)
        self.attempts: dict[str, Attempt] = {}  # by a token that the worker signs with
        self.until = Until()
        self.received = 0  # letters
        self.heard = time.monotonic()  # of the mailbox
        self.gone: SweepStopped | None = None
        self.closed = threading.Event()
        self.thread = threading.Thread(target=self._attend, daemon=True)
        self.thread.start()

    def slots(self) -> int:
        """What fits on the machines that are there, and one more, so that Ray always knows of more to do."""
        if time.monotonic() - self.counted > COUNT_SECONDS:
            self.room = sum(slots_of(node, self.needs) for node in self.ray.nodes())
            self.counted = time.monotonic()
        return min(self.room + 1, self.most or self.room + 1)

    def submit(self, function: Callable, exp: Experiment, folder: Path, device: str, until: Until) -> Future:
        """Have ``function(exp, folder, device, until)`` called; the future raises what it raises, or WorkerLost."""
        self.until = until
        attempt = Attempt(function, exp, folder, device, until, Future())
        if self.gone:
            attempt.future.set_exception(self.gone)
        else:
            self._launch(attempt)
        return attempt.future

    def stop(self) -> None:
        """Leave the cluster, whose workers for this sweep end at once; end it if it was started here."""
        self.closed.set()
        self.thread.join()
        for attempt in self.attempts.values():
            _release(attempt)
        self.attempts.clear()
        self.ray.shutdown()

    def _launch(self, attempt: Attempt) -> None:
        parcels = None
        if not self.shared:
            attempt.lock = lease(attempt.run)
            if not try_acquire(attempt.lock):
                attempt.future.set_exception(Busy(f"{attempt.exp.run_id} is being trained by somebody else"))
                return
            repair(attempt.run)
            teacher = attempt.exp.teacher
            runs = [attempt.exp.run_id] + ([teacher.experiment.run_id] if teacher else [])
            parcels = self.ray.put({run: Packer(attempt.folder / run).pack() for run in runs})
        token = secrets.token_hex(8)
        call = (attempt.function, attempt.exp, attempt.folder, attempt.device, attempt.until)
        settings = {key: value for key, value in os.environ.items() if key.startswith("SDD_")}
        sweep = str(attempt.until.flag)
        order = Order(token, sweep, self.mailbox, self.ray.cloudpickle.dumps(call), versions(), settings, self.needs)
        self.attempts[token] = attempt  # before its first letter can come
        attempt.ref = self.work.remote(order, parcels)

    def _attend(self) -> None:
        """A thread's work: receive letters and notice ends, until ``stop``."""
        try:
            while not self.closed.is_set():
                done = self._done()
                until = self.until  # of the sweep that runs now; the next has another
                stopping = until.reached()
                letters = self._letters(str(until.flag) if stopping else None)
                if letters is None:
                    continue  # an end counts when all that came before it is here
                for letter in letters:
                    self._receive(*letter)
                for token, attempt in self._open():
                    if attempt.ref in done:
                        del self.attempts[token]
                        self._end(attempt)
                    elif stopping and not attempt.node:  # it may never get a slot
                        self.ray.cancel(attempt.ref)
        except Exception as error:
            self.gone = SweepStopped(
                f"cluster: the one at {self.address} is gone ({_line(error)}); what was saved is safe, and the same "
                "command goes on once there is one"
            )
            for attempt in [*self.attempts.values()]:
                attempt.future.set_exception(self.gone)

    def _open(self) -> list[tuple[str, Attempt]]:
        """The attempts that Ray knows of, as of now: the sweep's thread adds to them meanwhile."""
        return [(token, attempt) for token, attempt in [*self.attempts.items()] if attempt.ref is not None]

    def _letters(self, stop: str | None) -> list[tuple] | None:
        """What has come in; None when the mailbox does not answer for once."""
        try:
            letters = self.ray.get(self.mailbox.take.remote(self.received, stop))
        except self.ray.exceptions.ActorUnavailableError:
            if time.monotonic() - self.heard > GRACE_SECONDS:
                raise
            return None
        self.received += len(letters)
        self.heard = time.monotonic()
        return letters

    def _done(self) -> set:
        """The references of what has ended; waits a moment for the first."""
        refs = [attempt.ref for _, attempt in self._open()]
        if not refs:
            self.closed.wait(POLL_SECONDS)
            return set()
        self.ray.wait(refs, timeout=POLL_SECONDS)
        return set(self.ray.wait(refs, num_returns=len(refs), timeout=0)[0])

    def _receive(self, token: str, node: str, parcel: Parcel | None) -> None:
        attempt = self.attempts.get(token)
        if attempt is None:  # from a worker that was given up
            return
        attempt.node = node
        try:
            if parcel:
                hold(attempt.lock)
                parcel.unpack(attempt.run)
        except (Busy, NoSpace) as error:
            self.ray.cancel(attempt.ref, force=True)
            del self.attempts[token]
            _release(attempt)
            attempt.future.set_exception(error)

    def _end(self, attempt: Attempt) -> None:
        error = self._error(attempt)
        _release(attempt)
        if isinstance(error, NotShared) and self.shared:
            log.warning(f"warning: {error}; from now on results are sent here")
            self.shared = False
        if isinstance(error, NotShared):
            self._launch(replace(attempt, ref=None, lock=None, node=""))
        elif error:
            attempt.future.set_exception(error)
        else:
            attempt.future.set_result(None)

    def _error(self, attempt: Attempt) -> BaseException | None:
        ray_says = self.ray.exceptions
        try:
            self.ray.get(attempt.ref)
        except ray_says.RayTaskError as error:
            if "No module named 'sdd_utils'" in str(error):
                return SweepStopped("cluster: a machine has no sdd_utils; install the same commit there as here")
            return error.cause if isinstance(error.cause, Exception) else error
        except ray_says.TaskCancelledError:
            return Stopped()
        except ray_says.RayError as error:
            node = attempt.node or "the cluster"
            whys = {
                ray_says.NodeDiedError: f"its machine {node} died or cannot be reached",
                ray_says.OutOfMemoryError: f"its worker on {node} was ended for want of memory",
                ray_says.WorkerCrashedError: f"its worker on {node} died",
            }
            return WorkerLost(whys.get(type(error), f"its worker on {node} was lost ({_line(error)})"))
        return None


def _release(attempt: Attempt) -> None:
    if attempt.lock is not None:
        attempt.lock.release()


def _line(error: BaseException) -> str:
    """The first sentence of what can be pages long."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:200]
