"""Scheduling of requests by client address, so that one busy client leaves threads for the others."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable

from mead.http.connection import Connection
from mead.http.incoming import IncomingRequest

SLOTS_PER_ADDRESS = 4  # requests of one address that are served at a time
RELEASE_SECONDS = 0.025  # between two slots that are freed because their requests only wait


class Scheduler:
    """Starts requests as their address has free slots. For the loop only, except `start_waiting`.

    Args:
        queue_limit: requests of one address that may be queued.
        start: starts serving a request in a thread.
    """

    def __init__(self, queue_limit: int, start: Callable[[Connection], None]) -> None:
        self.queue_limit = queue_limit
        self._start = start
        self._running: Counter[str] = Counter()
        self._queues: dict[str, deque[Connection]] = defaultdict(deque)
        self._waiting: deque[tuple[Connection, IncomingRequest]] = deque()
        self._next_release = 0.0

    def submit(self, conn: Connection) -> bool:
        """Start a connection's request, or queue it; False if the queue of its address is full."""
        if self._running[conn.host] < SLOTS_PER_ADDRESS:
            self._run(conn)
        elif len(self._queues[conn.host]) < self.queue_limit:
            self._queues[conn.host].append(conn)
        else:
            return False
        return True

    def start_waiting(self, conn: Connection) -> None:
        """The request only waits from now on, and its slot will be freed. May be called in any thread."""
        self._waiting.append((conn, conn.incoming))

    def release_waiting(self) -> None:
        """Free the slot of one request that only waits, at most every RELEASE_SECONDS: hundreds of streams
        that are opened at once start one after the other.
        """
        now = time.monotonic()
        while self._waiting and now >= self._next_release:
            conn, request = self._waiting.popleft()
            if conn.incoming is request:  # otherwise it has ended, and the slot belongs to the next request
                self.release(conn)
                self._next_release = now + RELEASE_SECONDS

    @property
    def seconds_to_release(self) -> float:
        """Seconds until `release_waiting` has something to do; infinite if there is nothing."""
        return max(0.0, self._next_release - time.monotonic()) if self._waiting else math.inf

    def release(self, conn: Connection) -> None:
        """Free a connection's slot, if it has one, and start the next request of its address."""
        if not conn.has_slot:
            return
        conn.has_slot = False
        self._running[conn.host] -= 1
        if queue := self._queues.get(conn.host):
            self._run(queue.popleft())
        else:
            self._queues.pop(conn.host, None)
            if not self._running[conn.host]:
                del self._running[conn.host]

    def _run(self, conn: Connection) -> None:
        self._running[conn.host] += 1
        conn.has_slot = True
        self._start(conn)
