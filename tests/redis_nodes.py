"""Several redis-servers that belong together, as processes on loopback."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis

from mead.cli.local_redis import LISTENING, find_redis, free_port

if TYPE_CHECKING:
    from typing_extensions import Self

SECONDS = 60
BUS = 10_000  # above the port of a node of a cluster is that of its bus
SENTINEL_RIGHTS = ("+sentinel|masters", "+ping", "+client", "+hello")
"""Of the service's user at the Sentinels, as docs/operating.md gives them."""


class Node:
    """A redis-server with a folder of its own.

    Args:
        options: its configuration.
        sentinel: whether it is a Sentinel.
    """

    def __init__(self, folder: Path, options: Sequence[str], port: int = 0, sentinel: bool = False) -> None:
        self.port = port or free_port()
        self.folder = folder / str(self.port)
        self.folder.mkdir()
        file = self.folder / "redis.conf"
        file.write_text(
            "\n".join([f"port {self.port}", "bind 127.0.0.1", f"dir {self.folder}", *options]) + "\n"
        )
        self.command = [str(find_redis()), str(file), *(["--sentinel"] if sentinel else [])]
        self.start()

    def start(self) -> None:
        """Start it; it may take a moment to answer."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)

    def client(self) -> Any:
        """A client of this node alone, whose answers are as they came."""
        client = redis.Redis(port=self.port, decode_responses=True, socket_timeout=5, protocol=2)
        client.response_callbacks.clear()
        return client

    def ask(self, *command: Any) -> Any:
        """What it answers to a command, once it answers; fail with its log if it has ended."""

        def answered() -> list[Any] | None:
            assert self.process.poll() is None, (self.folder / "log").read_text()
            return _answer(client, command)

        with self.client() as client:
            return until(answered)[0]

    def kill(self) -> None:
        """As a machine that loses its power."""
        self.process.kill()
        self.process.wait(30)


def _answer(client: Any, command: Sequence[Any]) -> list[Any] | None:
    try:
        return [client.execute_command(*command)]
    except (redis.ConnectionError, redis.TimeoutError):
        return None


def _says(node: Node, text: str, *command: Any) -> bool:
    """Whether a node's answer contains a text."""
    return text in node.ask(*command)


def until(condition: Callable[[], Any]) -> Any:
    """Wait until something true is returned; returns that."""
    deadline = time.monotonic() + SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


class Group:
    """Nodes that run together in a `with` block."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes: list[Node] = []

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start what the group has from the start."""

    def add(self, *options: str, port: int = 0, sentinel: bool = False) -> Node:
        """Start a node."""
        node = Node(self.folder, options, port, sentinel)
        self.nodes.append(node)
        return node

    def node(self, port: int) -> Node:
        """The node on a port."""
        return next(node for node in self.nodes if node.port == port)

    def stop(self) -> None:
        """Kill all that still run."""
        for node in self.nodes:
            node.kill()


class SentinelGroup(Group):
    """A primary with two replicas, and three Sentinels that watch it under the name "studio".

    Args:
        rights: of the user of `url`.
    """

    def __init__(self, folder: Path, rights: Sequence[str]) -> None:
        super().__init__(folder)
        self.rights = rights

    def start(self) -> None:
        """Start all, and wait until they know each other."""
        kept = (
            f"user mead {' '.join(self.rights)} +wait",
            "appendonly yes",
            "repl-diskless-sync-delay 0",
            "min-replicas-to-write 1",
        )
        self.primary = self.add(*kept)
        self.primary.ask("PING")
        self.replicas = [self.add(*kept, f"replicaof 127.0.0.1 {self.primary.port}") for _ in range(2)]
        until(lambda: self.primary.ask("INFO", "replication").count("state=online") == 2)
        watch = (
            f"sentinel monitor studio 127.0.0.1 {self.primary.port} 2",
            "sentinel down-after-milliseconds studio 500",
            "sentinel failover-timeout studio 5000",
            f"user finder on >hidden -@all {' '.join(SENTINEL_RIGHTS)}",
        )
        self.sentinels = [self.add(*watch, sentinel=True) for _ in range(3)]
        for sentinel in self.sentinels:
            until(partial(self._knows_all, sentinel))
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        self.url = (
            f"redis+sentinel://mead:secret@{hosts}/studio?sentinel_username=finder&sentinel_password=hidden"
        )

    def _knows_all(self, sentinel: Node) -> bool:
        state = dict(zip(*[iter(sentinel.ask("SENTINEL", "MASTER", "studio"))] * 2, strict=True))
        return state["num-slaves"] == "2" and state["num-other-sentinels"] == "2"


def cluster_ports(number: int) -> list[int]:
    """Ports for nodes of a cluster, free as those of its bus are; all of them of LISTENING."""
    found: list[int] = []
    while len(found) < number:
        port = free_port()
        bus = port + BUS
        taken = {*found, *(one + BUS for one in found)}
        if bus in LISTENING and free_port(bus) == bus and not {port, bus} & taken:
            found.append(port)
    return sorted(found)


class ClusterGroup(Group):
    """Three primaries with a replica each.

    Args:
        rights: of the user of `url`.
    """

    def __init__(self, folder: Path, rights: Sequence[str]) -> None:
        super().__init__(folder)
        self.rights = rights

    def start(self) -> None:
        """Start all, and wait until each slot has its primary and that its replica."""
        user = f"user mead {' '.join(self.rights)} +wait +cluster|slots"
        common = (user, "cluster-enabled yes", "cluster-node-timeout 1000", "appendonly yes")
        more = ("repl-diskless-sync-delay 0", "min-replicas-to-write 1")
        for port in cluster_ports(6):
            self.add(*common, *more, port=port)
        first, *others = self.nodes
        for node in others:
            node.ask("PING")
            first.ask("CLUSTER", "MEET", "127.0.0.1", node.port)
        primaries, replicas = self.nodes[:3], self.nodes[3:]
        bounds = [0, 5461, 10923, 16384]
        for node, start, end in zip(primaries, bounds, bounds[1:], strict=False):
            node.ask("CLUSTER", "ADDSLOTS", *range(start, end))  # ADDSLOTSRANGE is of Redis 7
        ids = [node.ask("CLUSTER", "MYID") for node in primaries]
        for replica, its_primary in zip(replicas, ids, strict=True):
            until(partial(_says, replica, its_primary, "CLUSTER", "NODES"))
            replica.ask("CLUSTER", "REPLICATE", its_primary)
        for node in self.nodes:
            until(partial(_says, node, "cluster_state:ok", "CLUSTER", "INFO"))
        for node in primaries:
            until(partial(_says, node, "state=online", "INFO", "replication"))
        self.url = "redis+cluster://mead:secret@" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def primary_of(self, key: str) -> Node:
        """The node that has a key now."""
        asked = next(node for node in self.nodes if node.process.poll() is None)
        slot = asked.ask("CLUSTER", "KEYSLOT", key)
        for first, last, (_, port, *_), *_ in asked.ask("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return self.node(port)
        raise AssertionError(f"nobody has slot {slot}")
