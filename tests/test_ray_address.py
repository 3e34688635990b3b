import socket
import sys
import threading

import pytest

from sdd_utils.cli import main

RUN = ["sdd_utils", "run", "--profile", "smoke"]


@pytest.fixture
def refused(monkeypatch, capsys, tmp_path):
    """What ``run`` says of a cluster or an option, in one line."""
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
def port():
    """Of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_take, args=(server,), daemon=True).start()
        yield server.getsockname()[1]


def _take(server):
    taken = []
    while True:
        try:
            taken.append(server.accept())
        except OSError:
            return


def test_without_ray_one_line_says_how_to_install_it(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert refused("--cluster", "ray") == "error: cluster: Ray is not installed; pip install -e '.[cluster]' does it\n"


@pytest.mark.parametrize("address", ["ray://", "10.0.0.1", "http://10.0.0.1:6379", "ray://host:port", "local"])
def test_what_is_no_address_is_refused(refused, address):
    said = f"error: cluster: '{address}' is not ray, ray://host:port or host:port\n"
    assert refused("--cluster", address) == said


def test_an_address_in_the_environment_is_joined(refused, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "nowhere")
    assert "cluster: 'nowhere' is not ray," in refused("--cluster", "ray")


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nothing_listens_is_refused(refused, port, scheme):
    free = socket.create_server(("127.0.0.1", 0)).getsockname()[1]  # closed at once, for want of a name
    said = refused("--cluster", f"{scheme}127.0.0.1:{free}")
    assert said.startswith(f"error: cluster: nothing answers at {scheme}127.0.0.1:{free} (")
    assert "Connection refused); is Ray running there, and the port right" in said


def test_a_host_that_does_not_exist_is_refused(refused):
    assert "cluster: nothing answers at nowhere.invalid:6379 (" in refused("--cluster", "nowhere.invalid:6379")


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_server_that_is_not_ray_is_refused_and_not_waited_for(refused, port, scheme):
    said = refused("--cluster", f"{scheme}127.0.0.1:{port}")
    assert said == f"error: cluster: what answers at {scheme}127.0.0.1:{port} is not Ray\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--device", "cuda:1"), "device: on a cluster it is cpu or cuda, and Ray chooses which GPU (got 'cuda:1')"),
        (("--gpu-share", "0.5"), "gpu-share: 0.5 was given, but the device is cpu"),
        (("--gpu-share", "2", "--device", "cuda"), "gpu-share: should be more than 0 and at most 1 (got 2)"),
    ],
)
def test_options_that_make_no_sense_on_a_cluster_are_refused(refused, options, said):
    assert refused("--cluster", "ray", *options) == f"error: {said}\n"
