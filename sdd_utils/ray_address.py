"""From what a person calls a Ray cluster to a connection with it, or to one line that says why there is none."""

import logging
import os
import re
import socket
from pathlib import Path
from types import ModuleType

from loky import cpu_count

from sdd_utils.errors import ConfigError

LOCAL = "ray"
"""The address that starts a cluster of this machine alone, unless RAY_ADDRESS names one to join."""

PATIENCE = 5.0
"""Seconds in which an address must answer."""

STORE_BYTES = 128 * 2**20
"""Shared memory of a cluster that is started here; what is large stays out of it, as all see the results folder."""

TRIES = 3
"""Ray's server for ``ray://`` forks in the middle of its threads, and fails at it now and then."""


def connect(address: str, slots: int | None = None) -> ModuleType:
    """Ray, connected: ``ray`` starts a cluster on this machine, with ``slots`` cores (all by default), that no other
    machine can reach; ``ray://host:port`` and ``host:port`` join one, as ``ray`` does where RAY_ADDRESS names it.

    Raises ConfigError when Ray is not installed, or the cluster cannot be joined.
    """
    joins = os.environ.get("RAY_ADDRESS", "") if address == LOCAL else address
    if joins:
        host, port = parse(joins)
    if not joins or host in ("localhost", "127.0.0.1"):
        # Without it Ray takes this machine's public address instead of the loopback, and listens on all.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "8")  # seconds until a cluster that refuses us is given up
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # pages for each death; the sweep has a line for it
    if joins and "RAY_AUTH_MODE" not in os.environ and _has_token():
        os.environ["RAY_AUTH_MODE"] = "token"  # Ray itself looks for its token only where it starts a cluster
    try:
        import ray
    except ModuleNotFoundError:
        raise ConfigError("cluster: Ray is not installed; pip install -e '.[cluster]' does it") from None
    logging.getLogger("ray").setLevel(logging.ERROR)
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if not joins:
        cores = slots or cpu_count()
        ray.init("local", num_cpus=cores, include_dashboard=False, object_store_memory=STORE_BYTES, **quiet)
        return ray
    _knock(joins, host, port)
    for turn in range(TRIES):
        try:
            ray.init(joins, **quiet)
            return ray
        except Exception as error:  # Ray has a dozen for this, and passes on those of gRPC
            if turn + 1 < TRIES and isinstance(error, ConnectionAbortedError):
                continue
            said = str(error.__cause__ or error).strip().splitlines()
            raise ConfigError(f"cluster: cannot join {joins}: {said[-1] if said else type(error).__name__}") from None
    raise AssertionError  # the last turn returns or raises


def parse(address: str) -> tuple[str, int]:
    """Host and port. Raises ConfigError."""
    matched = re.fullmatch(r"(?:ray://)?([^:/]+):(\d{1,5})", address)
    if not matched:
        raise ConfigError(f"cluster: {address!r} is not ray, ray://host:port or host:port")
    return matched[1], int(matched[2])


def _knock(address: str, host: str, port: int) -> None:
    """Raise ConfigError unless a server of gRPC, which Ray's are, answers within 2 × PATIENCE."""
    try:
        socket.create_connection((host, port), timeout=PATIENCE).close()
    except (OSError, OverflowError) as error:
        hint = "is Ray running there, and the port right (6379, or 10001 for ray://)?"
        raise ConfigError(f"cluster: nothing answers at {address} ({error}); {hint}") from None
    if os.environ.get("RAY_USE_TLS"):
        return
    import grpc

    with grpc.insecure_channel(f"{host}:{port}") as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=PATIENCE)
        except grpc.FutureTimeoutError:
            raise ConfigError(f"cluster: what answers at {address} is not Ray") from None


def _has_token() -> bool:
    in_environment = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(in_environment) or (Path.home() / ".ray" / "auth_token").exists()
