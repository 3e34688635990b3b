"""The parts of the cluster that need none: addresses, slots, files on their way, and a worker's task."""

import os
import pickle
import socket
import sys
import threading
import time
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
from conftest import HANG, add_foreign_entries

from sdd_utils.cli.commands import main
from sdd_utils.errors import Stopped, SweepStopped
from sdd_utils.files import write_bytes
from sdd_utils.metrics.energy import AT_A_TIME, ON_ONE_GPU, country
from sdd_utils.runner import cluster
from sdd_utils.runner.cluster import changed_files, slots_of, versions, work, write_files
from sdd_utils.runner.integrity import SUMS, finalise, is_final, verify
from sdd_utils.runner.stopping import must_stop

RUN = ["sdd_utils", "run", "--profile", "smoke"]
NODE = {"NodeID": "a", "Alive": True, "Resources": {"CPU": 16.0, "GPU": 2.0}}


@pytest.fixture
def refused(monkeypatch, capsys, tmp_path):
    """What ``run`` says of a cluster or an option, in one line."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_ADDRESS", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_NUM_REDIS_GET_RETRIES", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)

    def run(*options):
        monkeypatch.setattr(sys, "argv", [*RUN, "--results", str(tmp_path), *options])
        with pytest.raises(SystemExit) as left:
            main()
        said = capsys.readouterr().err
        assert left.value.code == 2
        assert said.count("\n") == 1
        return said

    return run


@pytest.fixture
def run(tmp_path):
    """A run after its first level, with a file that was being written when its process was killed."""
    folder = tmp_path / "there" / "run"
    folder.mkdir(parents=True)
    (folder / "checkpoint.safetensors").write_bytes(b"weights" * 100_000)
    (folder / "level-00.safetensors").write_bytes(b"network" * 100_000)
    (folder / "levels.csv").write_text("level\n0\n")
    (folder / ".levels.csv.123").write_text("half a fi")
    add_foreign_entries(folder)
    return folder


@pytest.fixture
def task(small, monkeypatch, tmp_path):
    """Start a worker's task that calls ``function``, as Ray does; ``over`` tells it that the sweep is to stop."""
    context = SimpleNamespace(get_node_id=lambda: "a")
    ray = SimpleNamespace(nodes=lambda: [NODE], get_runtime_context=lambda: context)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(cluster, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(pickle, "loads", lambda call: call)
    for name in (AT_A_TIME, ON_ONE_GPU, "SDD_DATA", "SDD_COUNTRY"):
        monkeypatch.setenv(name, "")
    monkeypatch.delenv("SDD_COUNTRY")
    over, exp = Future(), small()
    go_on = SimpleNamespace(wait=SimpleNamespace(remote=lambda: SimpleNamespace(future=lambda: over)))

    def start(function, files=None, expected=None):
        call = (function, exp, tmp_path / "smoke", "cpu", time.time() + HANG)
        settings = {"SDD_DATA": "/of/the/driver", "SDD_COUNTRY": "DEU"}
        needs = {"CPU": 1.0, "GPU": 0.5}
        return work(call, expected or versions(), settings, needs, go_on, {exp.run_id: files or {}})

    return SimpleNamespace(start=start, over=over, run_id=exp.run_id)


def test_without_ray_one_line_says_how_to_install_it(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert refused("--cluster", "ray") == "error: cluster: Ray is not installed; pip install -e '.[cluster]' does it\n"


ADDRESSES = ["10.0.0.1", "http://10.0.0.1:6379", "ray://host:10001", "host:port", "local", "", "münchen:80"]
ADDRESSES += [f"{'a' * 300}:80"]


@pytest.mark.parametrize("address", ADDRESSES)
def test_what_is_no_address_is_refused(refused, address):
    said = refused("--cluster", address)
    assert said.startswith(f"error: cluster: '{address}' is not ray or host:port; run the command on a machine of")


def test_an_address_in_the_environment_is_joined(refused, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "nowhere")
    assert "cluster: 'nowhere' is not ray or host:port" in refused("--cluster", "ray")


def test_an_address_where_nothing_listens_is_refused(refused):
    free = socket.create_server(("127.0.0.1", 0)).getsockname()[1]  # closed at once, for want of a name
    said = refused("--cluster", f"127.0.0.1:{free}")
    assert said.startswith(f"error: cluster: nothing answers at 127.0.0.1:{free} (")
    assert "Connection refused); is Ray running there?" in said


@pytest.mark.parametrize("address", ["nowhere.invalid:6379", "127.0.0.1:99999", "a..b:80"])
def test_a_host_or_a_port_that_does_not_exist_is_refused(refused, address):
    assert f"cluster: nothing answers at {address} (" in refused("--cluster", address)


@contextmanager
def a_server_that_says(answer):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            connection, _ = server.accept()
            connection.sendall(answer)
            connection.recv(100)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_what_answers_and_is_not_ray_is_refused_and_not_waited_for(refused, monkeypatch, answer):
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=lambda *_, **__: pytest.fail("waits for it")))
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.2)
    with a_server_that_says(answer) as port:
        said = refused("--cluster", f"127.0.0.1:{port}")
    assert said == f"error: cluster: what answers at 127.0.0.1:{port} is not Ray\n"


def test_what_ray_says_of_a_cluster_that_it_cannot_join_is_one_line(refused, monkeypatch):
    def init(*_, **__):
        raise RuntimeError("Version mismatch:\n  the cluster was started with another Ray\n")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init))
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", HANG)
    with a_server_that_says(cluster.HTTP2_SETTINGS) as port:
        said = refused("--cluster", f"127.0.0.1:{port}")
    why = "Version mismatch: the cluster was started with another Ray"
    assert said == f"error: cluster: cannot join 127.0.0.1:{port}: {why}\n"


@pytest.fixture
def token(monkeypatch, tmp_path):
    """Where Ray has its token, and a Ray that leaves that and its folder as open as the real one does."""
    path = tmp_path / ".ray" / "auth_token"
    path.parent.mkdir()

    def init(_, _temp_dir=None, **__):
        if not path.exists():
            path.write_text("made by Ray")
        if _temp_dir:
            (Path(_temp_dir) / "session").mkdir(parents=True)
            Path(_temp_dir).chmod(0o777)

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init))
    with patch.dict(os.environ, {"HOME": str(tmp_path), "RAY_TMPDIR": str(tmp_path)}):
        os.environ.pop("RAY_ADDRESS", None)
        yield path


def access(path):
    return oct(path.stat().st_mode & 0o777)


@pytest.mark.parametrize("before", [None, 0o644, 0o666])
def test_no_other_user_reads_the_token_or_reaches_the_folder_of_a_cluster_that_is_started_here(token, before):
    if before:
        token.write_text("of another day")
        token.chmod(before)
    umask = os.umask(0o022)
    _, folder = cluster.connect("ray")
    assert os.umask(umask) == 0o022  # what the sweep writes is as open as ever
    assert (access(token), access(Path(folder.name))) == ("0o600", "0o700")
    assert [path.name for path in Path(folder.name).glob("*/*")] == ["session"]


def test_a_token_that_lies_open_is_closed_before_a_cluster_is_joined(token):
    token.write_text("made by `ray get-auth-token`")
    token.chmod(0o644)
    with a_server_that_says(cluster.HTTP2_SETTINGS) as port:
        assert cluster.connect(f"127.0.0.1:{port}")[1] is None
    assert access(token) == "0o600"


def test_what_a_token_links_to_is_left_as_open_as_it_is(token, tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("a token for several machines")
    mine.chmod(0o644)
    token.symlink_to(mine)
    cluster.connect("ray")
    assert access(mine) == "0o644"


def test_why_ray_cannot_be_started_is_one_line(refused, monkeypatch):
    def init(*_, **__):
        raise OSError("The current node timed out\nduring startup.")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init))
    why = "which takes a machine that has time: The current node timed out during startup."
    assert refused("--cluster", "ray") == f"error: cluster: cannot start Ray here, {why}\n"


def test_a_place_that_takes_no_folder_of_ray_is_named(refused, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=lambda *_, **__: pytest.fail("starts")))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "nowhere"))
    where = f"no folder for Ray in {tmp_path}/nowhere (No such file or directory); see RAY_TMPDIR"
    assert refused("--cluster", "ray") == f"error: cluster: {where}\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--device", "cuda:1"), "device: on a cluster it is cpu or cuda, and Ray chooses which GPU (got 'cuda:1')"),
        (("--gpu-share", "0.5"), "gpu-share: 0.5 was given, but the device is cpu"),
        (("--gpu-share", "2", "--device", "cuda"), "gpu-share: should be from 0.01 to 1 (got 2)"),
    ],
)
def test_options_that_make_no_sense_on_a_cluster_are_refused(refused, options, said):
    assert refused("--cluster", "ray", *options) == f"error: {said}\n"


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


def test_a_version_is_of_all_sources_wherever_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr("sdd_utils.__file__", str(tmp_path / "__init__.py"))
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "module.py").write_text("a = 1\n")
    found = set()
    for change in ("a = 1\n", "a = 2\n"):
        (tmp_path / "part" / "module.py").write_text(change)
        found.add(versions.__wrapped__()["sdd_utils"])
    (tmp_path / "part" / "module.py").rename(tmp_path / "module.py")
    found.add(versions.__wrapped__()["sdd_utils"])
    assert len(found) == 3


def test_what_was_sent_before_is_not_sent_again(run, tmp_path):
    home = tmp_path / "here" / "run"
    files, known = changed_files(run)
    assert set(files) == {"checkpoint.safetensors", "level-00.safetensors", "levels.csv"}
    write_files(home, files, known)
    assert changed_files(run, known) == ({}, known)
    (run / "levels.csv").write_text("level\n0\n1\n")
    files, known = changed_files(run, known)
    assert set(files) == {"levels.csv"}
    write_files(home, files, known)
    assert (home / "levels.csv").read_text() == "level\n0\n1\n"


def test_states_that_a_run_keeps_no_longer_are_removed_at_home_and_nothing_else(run, tmp_path):
    home = tmp_path / "here" / "run"
    write_files(home, *changed_files(run))
    (home / "levels.csv.damaged").write_text("set aside at home")
    (run / "checkpoint.safetensors").unlink()
    write_files(home, {}, changed_files(run)[1])
    assert {path.name for path in home.iterdir()} == {"level-00.safetensors", "levels.csv", "levels.csv.damaged"}


def test_what_is_read_first_is_written_last(run, tmp_path, monkeypatch):
    """The list of checksums, then tables, then states, so no table at home is ahead of the state."""
    (run / ".levels.csv.123").unlink()
    finalise(run)
    home, written = tmp_path / "here" / "run", []
    files, known = changed_files(run)
    assert [*files][:2] == [SUMS, "levels.csv"]
    assert {*files} - {SUMS, "levels.csv"} == {"level-00.safetensors", "checkpoint.safetensors"}
    with monkeypatch.context() as patch:
        patch.setattr("sdd_utils.runner.cluster.write_bytes", lambda path, data: written.append(path.name))
        write_files(home, files, known)
    assert written == [*files][::-1]
    write_files(home, files, known)
    assert is_final(home)
    assert verify(home) == {}


def test_a_worker_trains_in_a_scratch_folder_and_yields_what_is_new(task, tmp_path):
    def function(exp, folder, device, deadline):
        assert (folder / exp.run_id / "weights.csv").read_bytes() == b"from home"
        assert (folder.name, device, must_stop(deadline)) == ("smoke", "cpu", False)
        write_bytes(folder / exp.run_id / "emissions.csv", b"new")

    items = list(task.start(function, {"weights.csv": b"from home"}))
    assert items == [
        (socket.gethostname(), {}, {"weights.csv"}),
        (socket.gethostname(), {"emissions.csv": b"new"}, {"weights.csv", "emissions.csv"}),
    ]
    assert not (tmp_path / "smoke").exists()
    assert (os.environ[AT_A_TIME], os.environ[ON_ONE_GPU]) == ("4", "2")
    assert (os.environ["SDD_DATA"], country()) == ("", "DEU")  # its own settings come first


def test_a_worker_that_is_told_to_stop_yields_its_last_files_before_the_error(task):
    def function(exp, folder, device, deadline):
        while not must_stop(deadline):
            time.sleep(0.01)
        write_bytes(folder / exp.run_id / "levels.csv", b"saved")
        raise Stopped

    items = task.start(function)
    next(items)
    task.over.set_exception(RuntimeError("the actor was killed"))
    assert next(items)[1] == {"levels.csv": b"saved"}
    with pytest.raises(Stopped):
        next(items)


def test_a_worker_that_is_cancelled_waits_for_its_training_to_stop(task):
    ended = []

    def function(exp, folder, device, deadline):
        write_bytes(folder / exp.run_id / "levels.csv", b"begun")
        while not must_stop(deadline):
            time.sleep(0.01)
        ended.append(True)

    items = task.start(function)
    assert next(items)[1] == {}
    assert next(items)[1] == {"levels.csv": b"begun"}
    items.close()
    assert ended == [True]


def test_another_version_is_refused_before_anything_is_unpickled(task, monkeypatch):
    monkeypatch.setattr(pickle, "loads", None)
    with pytest.raises(SweepStopped, match="has another version of torch than this machine, and results would not"):
        next(task.start(None, expected=versions() | {"torch": "1.0"}))
