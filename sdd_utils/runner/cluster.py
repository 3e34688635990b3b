"""The same sweep with its workers on a Ray cluster: machines may join it, leave it and die.

The sweep's process, the driver, holds the runs' locks, sends their files to workers, each of which trains in a scratch
folder, and writes what comes back.
"""

import hashlib
import importlib.metadata
import logging
import os
import pickle
import re
import signal
import socket
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

from loky import cpu_count

import sdd_utils
from sdd_utils.config import Experiment
from sdd_utils.errors import Busy, ConfigError, Stopped, SweepStopped, WorkerLost
from sdd_utils.files import write_bytes
from sdd_utils.metrics.energy import AT_A_TIME, ON_ONE_GPU
from sdd_utils.runner.checkpoints import states, unsound
from sdd_utils.runner.integrity import SUMS, own_files, repair
from sdd_utils.runner.locks import claimed, hold
from sdd_utils.runner.stopping import note_signal, unasked
from sdd_utils.runner.workers import experiments_a_gpu

LOCAL = "ray"  # the address that starts a cluster here, unless RAY_ADDRESS names one to join
CONNECT_SECONDS = 5.0  # in which an address must answer
POLL_SECONDS = 0.5  # between two looks of a worker for changed files, and of the driver for the end of the sweep
STORE_BYTES = 512 * 2**20  # shared memory of a cluster that is started here; Ray spills to the disk what is beyond it
HTTP2_SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # what a server of gRPC, which Ray's are, begins with
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HTTP2_SETTINGS  # and a client
THREADS = 10_000  # at most: one for each experiment that is handed over, and it waits nearly all the time

Files = dict[str, bytes]
log = logging.getLogger("sdd_utils")


class RayWorkers:
    """The slots of a Ray cluster, each for one experiment; see ``workers.Executor``.

    ``address`` is as for ``connect``, ``gpu_share`` as for ``workers.local_workers``; ``most`` limits how many
    experiments train at a time, and is the number of slots of a cluster that is started here. Raises ConfigError.
    """

    def __init__(self, address: str, most: int | None = None, device: str = "cpu", gpu_share: float | None = None):
        if device not in ("cpu", "cuda"):
            raise ConfigError(f"device: on a cluster it is cpu or cuda, and Ray chooses which GPU (got {device!r})")
        each = experiments_a_gpu(gpu_share, device)
        gpus = 1 / each if device == "cuda" else 0
        self.needs = {"CPU": 1.0} | ({"GPU": gpus} if gpus else {})
        self.most = most
        self.ray, self.folder = connect(address, most)
        if gpus and not any(slots_of(node, {"GPU": 1.0}) for node in self.ray.nodes()):
            self.ray.shutdown()
            raise ConfigError(f"device: no machine of the cluster at {address} has a GPU (got 'cuda')")
        # An event that is never set: a worker's call of its ``wait`` ends when it is killed, for the sweep is to stop.
        # It is on this machine, since any other may die.
        on = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        here = on(self.ray.get_runtime_context().get_node_id(), soft=False)
        self.go_on = self.ray.remote(num_cpus=0, scheduling_strategy=here)(threading.Event).remote()
        # After an experiment on a GPU Ray ends the process, since CUDA could not move to another card.
        self.work = self.ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0, num_returns="streaming")(work)
        self.threads = ThreadPoolExecutor(THREADS)
        self.asked, self.closed = threading.Event(), threading.Event()

    def slots(self) -> int:
        """What fits on the machines that are there, and one more, so that Ray knows of more to do."""
        room = 1 + sum(slots_of(node, self.needs) for node in self.ray.nodes())
        return min(room, self.most or room)

    def submit(self, function: Callable, exp: Experiment, folder: Path, device: str, deadline: float) -> Future:
        """Have a worker call ``function(exp, <scratch folder>, device, deadline)``, and bring what it writes into
        ``folder``. The future raises what the call raises, Busy, NoSpace, SweepStopped, or WorkerLost."""
        handed_over = threading.Event()
        future = self.threads.submit(self._attempt, handed_over, function, exp, folder, device, deadline)
        future.add_done_callback(lambda _: handed_over.set())
        handed_over.wait()  # Ray starts tasks in the order in which it gets them, and the sweep's is the best
        return future

    def ask_to_stop(self) -> None:
        """By the end of an actor, which every worker waits for."""
        self.asked.set()
        self.ray.kill(self.go_on)

    def stop(self) -> None:
        """Leave the cluster, whose workers for this sweep end at once; end it if it was started here."""
        self.closed.set()
        self.threads.shutdown()
        self.ray.shutdown()
        if self.folder:
            self.folder.cleanup()

    def _attempt(self, handed_over: threading.Event, function: Callable, exp: Experiment, folder: Path, *args) -> None:
        """A thread's work: hand one experiment over, and write what its worker yields into the run's folder."""
        run, node, says = folder / exp.run_id, "the cluster", self.ray.exceptions
        with claimed(run) as lock:
            repair(run, unsound(run, exp))
            needed = [exp.run_id, *([exp.teacher.experiment.run_id] if exp.teacher else [])]
            runs = {run_id: changed_files(folder / run_id)[0] for run_id in needed}
            call = self.ray.cloudpickle.dumps((function, exp, folder, *args))
            settings = {key: value for key, value in os.environ.items() if key.startswith("SDD_")}
            stream = self.work.remote(call, versions(), settings, self.needs, self.go_on, runs)
            handed_over.set()
            try:
                for node, files, names in self._items(stream):  # noqa: B007
                    hold(lock)
                    write_files(run, files, names)
            except says.RayTaskError as error:
                if "No module named 'sdd_utils'" in str(error):
                    raise SweepStopped("cluster: a machine has no sdd_utils; install the same commit there") from None
                raise (error.cause if isinstance(error.cause, Exception) else error) from None
            except says.RayError as error:
                raise WorkerLost(f"its worker on {node} died or cannot be reached ({type(error).__name__})") from None
            except (Busy, OSError):
                self.ray.cancel(stream, force=True)
                raise

    def _items(self, stream: Iterator) -> Iterator[tuple[str, Files, set[str]]]:
        """What a worker yields, as it comes. When the sweep is to stop, a task that has not begun is cancelled; of one
        that has, Ray would not deliver what it yields then. Raises Stopped."""
        begun = False
        while not self.closed.is_set():
            if self.asked.is_set() and not begun:
                self.ray.cancel(stream)
                break
            if self.ray.wait([stream], timeout=POLL_SECONDS)[0]:
                if (item := next(stream, None)) is None:
                    return
                yield self.ray.get(item)
                begun = True
        raise Stopped


def work(call: bytes, expected: dict[str, str], settings: dict[str, str], needs: dict[str, float], go_on, runs: dict):
    """A worker's task: train in a scratch folder, into which it first writes ``runs`` ({run_id: files}). Yields this
    machine's name, the files of the run that changed, and the names of all that it has.

    ``call`` is unpickled with the right versions alone. Raises SweepStopped where they are others.
    """
    import ray

    node, own = socket.gethostname(), versions()
    if differing := [name for name in own if own[name] != expected[name]]:
        why = "results would not be the same; install the same commit and requirements.lock there"
        raise SweepStopped(f"cluster: {node} has another version of {differing[0]} than this machine, and {why}")
    at_a_time = {node["NodeID"]: slots_of(node, needs) for node in ray.nodes()}[ray.get_runtime_context().get_node_id()]
    os.environ |= settings | os.environ  # what this machine says itself comes first
    os.environ |= {AT_A_TIME: str(at_a_time), ON_ONE_GPU: str(round(1 / needs.get("GPU", 1)))}
    function, exp, folder, device, deadline = pickle.loads(call)
    temporary = TemporaryDirectory(prefix="sdd-", ignore_cleanup_errors=True)
    with unasked(), temporary as scratch, ThreadPoolExecutor(1) as thread:
        folder = Path(scratch) / folder.name
        for run_id, files in runs.items():
            write_files(folder / run_id, files, files)
        _, known = changed_files(folder / exp.run_id)
        yield node, {}, set(known)
        stop = go_on.wait.remote().future()  # ray.wait would lend this slot to another task meanwhile
        training, ended = thread.submit(function, exp, folder, device, deadline), False
        try:
            while not ended:
                ended = bool(wait([training], POLL_SECONDS).done)
                if stop.done():
                    note_signal(signal.SIGUSR1)
                before = known
                files, known = changed_files(folder / exp.run_id, known)
                if files or known.keys() != before.keys():
                    yield node, files, set(known)
        finally:
            note_signal(signal.SIGUSR1)  # a cancelled task waits for its thread
        training.result()


def changed_files(run: Path, known: dict[str, tuple] | None = None) -> tuple[Files, dict[str, tuple]]:
    """Read what of a run is not as it was when this returned ``known`` for it.

    A run writes its state, then its tables, and SUMS last, each at once; they are read the other way round, so that no
    table is ahead of the state.
    """

    def in_order() -> Iterator[Path]:  # each part is listed when the one before it has been read
        yield run / SUMS
        yield from (path for path in own_files(run) if path.suffix != ".safetensors")
        yield from states(run)

    files, stamps = {}, {}
    for path in in_order():
        with suppress(FileNotFoundError):  # the network of a level that is not kept
            stat = path.stat()
            stamp = stamps[path.name] = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if (known or {}).get(path.name) != stamp:
                files[path.name] = path.read_bytes()
    return files, stamps


def write_files(run: Path, files: Files, names: Collection[str]) -> None:
    """Write what ``changed_files`` has read, SUMS last, and remove the states that are not among ``names``."""
    for name in reversed(files):
        write_bytes(run / name, files[name])
    for path in states(run):
        if path.name not in names:
            path.unlink()


def slots_of(node: dict, needs: dict[str, float]) -> int:
    """How many experiments fit on one of ``ray.nodes()`` at a time."""
    there = node["Resources"] if node["Alive"] else {}
    return min(int(there.get(name, 0) / share + 1e-9) for name, share in needs.items())


@cache
def versions() -> dict[str, str]:
    """What has to be the same on all machines for results to be: this package's source, and torch."""
    sources, package = hashlib.sha256(), Path(sdd_utils.__file__).parent
    for path in sorted(package.rglob("*.py")):
        sources.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return {"sdd_utils": sources.hexdigest(), "torch": importlib.metadata.version("torch")}


def connect(address: str, slots: int | None = None) -> tuple[ModuleType, TemporaryDirectory | None]:
    """Ray, connected: ``ray`` starts a cluster with ``slots`` cores (all by default) that no other machine and no other
    user can reach, and whose folder is returned too, to be removed after it; ``host:port`` joins one, as ``ray`` does
    where RAY_ADDRESS names it. Raises ConfigError."""
    joins = os.environ.get("RAY_ADDRESS", "") if address == LOCAL else address
    host, _, port = joins.rpartition(":")
    if (joins or address != LOCAL) and not re.fullmatch(r"[\w.-]{1,253}:\d{1,5}", joins, re.ASCII):
        raise ConfigError(f"cluster: {joins!r} is not ray or host:port; run the command on a machine of the cluster")
    if host in ("", "localhost", "127.0.0.1"):
        # Without it Ray takes this machine's public address instead of the loopback, and listens on all.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    if joins:
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "8")  # seconds until a cluster that refuses us is given up
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # pages for each death; the sweep has a line for it
    named, token = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys(), Path.home() / ".ray" / "auth_token"
    with suppress(OSError):
        if not token.is_symlink():  # what it leads to is not Ray's
            token.chmod(0o600)  # with it one can run anything as we, and `ray get-auth-token` lets all users read it
    if joins and (named or token.exists()):
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray looks for its token only where it starts a cluster
    try:
        import ray
    except ModuleNotFoundError:
        raise ConfigError("cluster: Ray is not installed; pip install -e '.[cluster]' does it") from None
    how, folder = {"log_to_driver": False, "logging_level": logging.ERROR}, None
    if joins:
        expect_ray(host, int(port))
    else:
        # Ray opens its folders to all users, so they lie in one that is ours alone. Its path is short, as the name of a
        # socket has to be, which TMPDIR may not be.
        under = os.environ.get("RAY_TMPDIR", "/tmp")
        try:
            folder = TemporaryDirectory(prefix="sdd-", dir=under, ignore_cleanup_errors=True)
        except OSError as error:
            raise ConfigError(f"cluster: no folder for Ray in {under} ({error.strerror}); see RAY_TMPDIR") from None
        how |= {"num_cpus": slots or cpu_count(), "object_store_memory": STORE_BYTES, "include_dashboard": False}
        how |= {"_temp_dir": f"{folder.name}/ray"}
        log.warning("starting Ray here, which takes up to a minute")
    before = os.umask(0o077)  # of the token, which Ray may write, too
    try:
        ray.init(joins or "local", **how)
    except Exception as error:  # Ray has a dozen for this, and passes on those of gRPC
        what = f"cannot join {joins}" if joins else "cannot start Ray here, which takes a machine that has time"
        raise ConfigError(f"cluster: {what}: {' '.join(str(error).split())[:200]}") from None
    finally:
        os.umask(before)
    return ray, folder


def expect_ray(host: str, port: int) -> None:
    """Raise ConfigError unless what answers there may be Ray: ``ray.init`` would try for minutes."""
    try:
        with socket.create_connection((host, port), timeout=CONNECT_SECONDS) as server:
            server.sendall(HTTP2)
            answer = server.recv(len(HTTP2)) if not os.environ.get("RAY_USE_TLS") else HTTP2_SETTINGS
    except TimeoutError:
        answer = b""
    except (OSError, OverflowError, UnicodeError) as error:
        raise ConfigError(f"cluster: nothing answers at {host}:{port} ({error}); is Ray running there?") from None
    if answer[3:4] != HTTP2_SETTINGS[3:4]:
        raise ConfigError(f"cluster: what answers at {host}:{port} is not Ray")
