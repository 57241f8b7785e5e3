"""Starting, asking and ending a fleet from outside: what `mead ray up`, `status` and `down` do."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray
from ray.exceptions import GetTimeoutError, RayError

from mead.fleet.autoscaler import NAME, Autoscaler, FleetStatus
from mead.fleet.fleet import Fleet
from mead.fleet.scaling import ScalingPolicy
from mead.fleet.server import ServerSpec
from mead.queue.redis_url import parse_redis_url
from mead.settings import Settings

CONNECT_SECONDS = 15.0
START_SECONDS = 60.0  # for which the autoscaler may take to start
NOT_FOR_SERVERS = {"API_KEYS", "HOST", "PORT", "DEVICE"}
"""Settings of other servers, and the device, which Ray chooses."""


class FleetError(Exception):
    """The fleet cannot be started, asked or ended; the message says why."""


class NoFleetError(FleetError):
    """There is no Ray cluster, or no fleet in it."""


@contextmanager
def connected(address: str, namespace: str, timeout: float = CONNECT_SECONDS) -> Iterator[Fleet]:
    """Connect to a Ray cluster for as long as the block runs.

    Args:
        address: of its head, as in "10.0.0.5:6379", or "auto" for the one that this machine belongs to.
        timeout: seconds that the cluster may take to answer.

    Raises:
        NoFleetError: no cluster is there.
    """
    until = time.monotonic() + timeout
    try:
        host, colon, port = address.removeprefix("ray://").rpartition(":")
        if colon:
            socket.create_connection((host, int(port)), timeout).close()
        _init(address, namespace, until - time.monotonic())
    except TimeoutError:
        raise NoFleetError(f"no Ray cluster at {address}: it does not answer within {timeout:g} s") from None
    except (OSError, RuntimeError, ValueError) as error:
        raise NoFleetError(f"no Ray cluster at {address}: {str(error).splitlines()[0]}") from error
    try:
        yield Fleet(namespace)
    finally:
        ray.shutdown()


def _init(address: str, namespace: str, seconds: float) -> None:
    """Connect this process to a cluster. Ray itself would try for minutes, and cannot be interrupted.

    Raises:
        TimeoutError: it takes longer. Then a thread goes on trying, until the process ends.
    """
    failures: list[Exception] = []

    def init() -> None:
        try:
            ray.init(address, namespace=namespace, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:
            failures.append(error)

    connecting = threading.Thread(target=init, name="Ray", daemon=True)
    connecting.start()
    connecting.join(max(0.0, seconds))
    if connecting.is_alive():
        raise TimeoutError
    if failures:
        raise failures[0]


def server_environment(settings: Settings, given: Mapping[str, str], gpus: float) -> dict[str, str]:
    """The settings that inference servers on other machines need, as environment variables.

    Args:
        given: the environment in which `settings` were read.
        gpus: how many GPUs a server has.
    """
    names = {name.upper() for name in Settings.model_fields} - NOT_FOR_SERVERS
    environment = {name: value for name, value in given.items() if name in names or name.startswith("AWS_")}
    environment |= {"REDIS_URL": settings.redis_url, "DATA_DIR": str(Path(settings.data_dir).absolute())}
    return environment if gpus else {**environment, "DEVICE": "cpu"}


def up(fleet: Fleet, spec: ServerSpec, policy: ScalingPolicy) -> FleetStatus:
    """Start the autoscaler, which starts servers; one that runs already gets the new policy.

    Raises:
        FleetError: servers of another spec run, Redis cannot be reached from other machines, or the
            autoscaler does not start.
    """
    _check_redis_url(spec.environment["REDIS_URL"])
    if any(server.fingerprint != spec.fingerprint for server in fleet.servers()):
        raise FleetError("servers run with other settings or resources: run `mead ray down` first")
    _end_autoscaler(fleet)
    options: dict[str, Any] = {"lifetime": "detached", "max_restarts": -1, "num_cpus": 0}
    actor_class: Any = ray.remote(Autoscaler)
    actor = actor_class.options(name=NAME, namespace=fleet.namespace, **options).remote(
        fleet.namespace, spec, policy
    )
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        status = _ask(actor, deadline - time.monotonic())
        if status is not None:
            return status
        time.sleep(0.2)
    raise FleetError(f"the autoscaler did not start within {START_SECONDS:.0f} s: see its log in Ray")


def status(fleet: Fleet) -> FleetStatus:
    """The fleet as its autoscaler found it last.

    Raises:
        NoFleetError: there is none.
        FleetError: the autoscaler does not answer.
    """
    try:
        actor = ray.get_actor(NAME, namespace=fleet.namespace)
    except ValueError as error:
        raise NoFleetError("no fleet runs: start one with `mead ray up`") from error
    found = _ask(actor, 10.0)
    if found is None:
        raise FleetError("the autoscaler has just started: ask again")
    return found


def down(fleet: Fleet) -> int:
    """End the autoscaler and all servers, which hand their jobs back; returns the number of servers."""
    _end_autoscaler(fleet)
    servers = fleet.servers()
    fleet.stop(servers)
    return len(servers)


def _ask(actor: Any, seconds: float) -> FleetStatus | None:
    try:
        found: FleetStatus | None = ray.get(actor.status.remote(), timeout=seconds)
    except (RayError, GetTimeoutError) as error:
        raise FleetError(f"the autoscaler does not answer: {str(error).splitlines()[0]}") from error
    return found


def _end_autoscaler(fleet: Fleet) -> None:
    """End the autoscaler if there is one, and wait until its name is free."""
    try:
        ray.kill(ray.get_actor(NAME, namespace=fleet.namespace), no_restart=True)
    except ValueError:
        return
    deadline = time.monotonic() + START_SECONDS
    while NAME in fleet.names():
        if time.monotonic() > deadline:
            raise FleetError("the autoscaler that runs cannot be ended")
        time.sleep(0.1)


def _check_redis_url(url: str) -> None:
    """Check that a Redis on loopback, or at a Unix socket, is not meant for several machines."""
    machines = {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    hosts = [host for host, _ in parse_redis_url(url).hosts] or [urlsplit(url).hostname or "localhost"]
    if len(machines) > 1 and any(map(_is_loopback, hosts)):
        raise FleetError(
            f"REDIS_URL leads each of the {len(machines)} machines to itself: name the host of Redis in it"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
