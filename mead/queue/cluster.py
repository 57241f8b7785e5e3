"""Redis Cluster: connections to the primary of one hash slot.

All keys of the service have one hash tag, that of REDIS_PREFIX, so one node has them all. To the service it
is a single Redis: scripts, transactions and blocking commands work as usual. Here it is found, and found
again after a failover or when the slot has moved.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import redis
from redis.connection import Connection, SSLConnection
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MasterDownError, MovedError, TryAgainError

from mead.queue.redis_errors import RefusedError

log = logging.getLogger(__name__)

Address: TypeAlias = "tuple[str, int]"


class SlotPrimary:
    """Finds the primary of the hash slot of a key.

    Args:
        nodes: some nodes of the cluster; it tells the others.
        options: for connections to a node, as for redis.Redis.
    """

    def __init__(self, nodes: Iterable[Address], key: str, options: Mapping[str, Any]) -> None:
        self.slot = key_slot(key.encode())
        self._nodes = deque(nodes)
        self._options = options
        self._lock = threading.Lock()

    def find(self) -> Address:
        """Ask the nodes in turn (CLUSTER SLOTS); another one first each time, since any may be cut off.

        Raises:
            redis.ConnectionError: no node knows a primary.
        """
        with self._lock:
            self._nodes.rotate(-1)
            nodes = list(self._nodes)
        why = "no node has the slot"
        for host, port in nodes:
            try:
                with redis.Redis(host=host, port=port, **self._options) as node:
                    ranges = node.execute_command("CLUSTER SLOTS")
            except (redis.ConnectionError, redis.TimeoutError) as error:
                why = str(error)
                continue
            for first, last, *found in ranges:
                addresses = [(name or host, int(port)) for name, port, *_ in found]
                self._learn(addresses)
                if first <= self.slot <= last:
                    return addresses[0]  # the primary; its replicas follow
        raise redis.ConnectionError(f"the primary is not found in the cluster: {why}")

    def _learn(self, addresses: Iterable[Address]) -> None:
        with self._lock:
            self._nodes.extend(address for address in addresses if address not in self._nodes)


class ClusterConnection(Connection):
    """A connection to the primary of a slot."""

    def __init__(self, primary: SlotPrimary, **options: Any) -> None:
        self.primary = primary
        super().__init__(**options)

    def _connect(self) -> Any:
        self.host, self.port = self.primary.find()
        return super()._connect()

    def read_response(self, *args: Any, **options: Any) -> Any:
        """Read an answer; see redis.connection.Connection.

        Raises:
            RefusedError: the node no longer serves the slot. The next connection leads to one that does.
        """
        try:
            return super().read_response(*args, **options)
        except (MovedError, AskError, TryAgainError, ClusterDownError, MasterDownError) as error:
            self.disconnect()
            code = "CLUSTERDOWN" if isinstance(error, ClusterDownError) else "MOVED"
            raise RefusedError(f"{code}: {error}") from error


class SSLClusterConnection(ClusterConnection, SSLConnection):
    """The same over TLS."""
