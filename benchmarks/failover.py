"""A Redis and its replica behind one address, which leads to whichever of them is the primary."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable

import redis

SECONDS = 30  # that a failover may take


class Name:
    """An address that leads on to a port, and may be pointed at another, as a name is after a failover.

    Open connections stay where they lead.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept no further connections."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=[client], daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self.target), SECONDS)
        except OSError:
            client.close()
            return
        server.settimeout(None)
        for source, target in ((client, server), (server, client)):
            threading.Thread(target=_carry, args=[source, target], daemon=True).start()


def _carry(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def follow(replica: int, primary: int) -> None:
    """Make the Redis on port `replica` a copy of the one on port `primary`, and wait until it is one.

    Raises:
        TimeoutError: it does not become one.
    """
    with redis.Redis(port=replica, decode_responses=True) as client:
        client.execute_command("REPLICAOF", "127.0.0.1", primary)
        _wait(lambda: client.info("replication").get("master_link_status") == "up")
    with redis.Redis(port=primary, decode_responses=True) as client:  # it notices a little later
        _wait(lambda: client.info("replication").get("slave0", {}).get("state") == "online")


def fail_over(old: int, new: int, name: Name) -> None:
    """Make the replica on port `new` the primary, as an operator does before an update. No write is lost.

    Raises:
        redis.RedisError, TimeoutError: it does not succeed; then nothing has changed.
    """
    with redis.Redis(port=old, decode_responses=True, socket_timeout=SECONDS) as client:
        client.execute_command("FAILOVER", "TO", "127.0.0.1", new, "TIMEOUT", 1000 * SECONDS // 3)
        _wait(lambda: client.info("replication")["master_failover_state"] == "no-failover")
        if client.info("replication")["role"] != "slave":
            raise TimeoutError("the replica was not ready")
    name.target = new


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("Redis does not follow")
        time.sleep(0.05)
